# Completion of `initconf` in fish. Load it with: initconf completion fish | source

function __initconf_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete -- $words[2..-1] 2>/dev/null
end

complete -c initconf -f -a '(__initconf_complete)'
