#compdef initconf
# Completion of `initconf` in zsh. Load it with: source <(initconf completion zsh), after compinit.

_initconf() {
    local word text
    local -a typed=("${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}") done=() said=() open=() told=()
    while IFS=$'\t' read -r word text; do
        if [[ $word == *[=./:,] || $word == *\[*[^\]] ]]; then
            open+=("$word") told+=("$word${text:+  -- $text}")
        else
            done+=("$word") said+=("$word${text:+  -- $text}")
        fi
    done < <("${words[1]/#\~/$HOME}" __complete -- "${typed[@]}" 2>/dev/null)
    compadd -U -l -d told -S '' -a open
    compadd -U -l -d said -a done
}

if [[ $funcstack[1] == _initconf ]]; then
    _initconf "$@"
else
    compdef _initconf initconf
fi
