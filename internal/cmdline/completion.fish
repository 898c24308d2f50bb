# fish completion for spillway; made by: spillway completion fish
# It asks the program itself, so it need not be made anew with a new version.
function __spillway_complete
    set -l line (commandline -cp)
    set -l reply (spillway complete-words -- "$line" 2>/dev/null)
    set -l word (commandline -ct | string replace -r '^(--[^=]+=)?.*$' '$1')
    set -l value (commandline -ct | string replace -r '^--[^=]+=' '')
    switch "$reply[1]"
        case words
            printf '%s\n' $reply[2..-1]
        case dirs
            printf "$word%s\n" (__fish_complete_directories "$value")
        case '*'
            printf "$word%s\n" (__fish_complete_path "$value")
    end
end
complete -c spillway -f -a '(__spillway_complete)'
