# Completion of `initconf` in bash. Load it with: source <(initconf completion bash)

_initconf() {
    local line=${COMP_LINE:0:COMP_POINT} words=() n=0 i rest word text
    # bash takes words apart at = and : as well; what no blank stands between is one word.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${line#"${line%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$rest
        if ((i == 0)) || [[ $rest != "$line" ]]; then
            words[n++]=$word
        else
            words[n - 1]+=$word
        fi
        line=${rest#"$word"}
    done

    # What stands before the last = or : is not replaced.
    local current=${words[n - 1]} quote= kept= open=
    [[ $current =~ ^[^\'\"]*([\'\"])[^\'\"]*$ ]] && quote=${BASH_REMATCH[1]}
    if [[ $quote ]]; then
        kept=${current%%"$quote"*}
    else
        kept=${current%"${current##*[$COMP_WORDBREAKS]}"}
    fi

    COMPREPLY=()
    while IFS=$'\t' read -r word text; do
        [[ $word == *[=./:,] || $word == *\[*[!]] ]] && open=yes
        word=${word#"$kept"}
        [[ $quote ]] || printf -v word %q "$word"
        COMPREPLY+=("$word")
    done < <("${words[0]/#\~/$HOME}" __complete -- "${words[@]:1}" 2>/dev/null)

    if [[ $open ]]; then
        compopt -o nospace 2>/dev/null
        # A second candidate keeps bash from closing the quote.
        [[ $quote && ${#COMPREPLY[@]} == 1 ]] && COMPREPLY+=("${COMPREPLY[0]}...")
    fi
}

complete -F _initconf initconf
