# bash completion for spillway; made by: spillway completion bash
# It asks the program itself, so it need not be made anew with a new version.
_spillway() {
    local line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]} reply kind word
    # bash takes words apart at "=": what is behind it is a word of its own.
    [[ $current == "=" ]] && current=""
    mapfile -t reply < <("${COMP_WORDS[0]}" complete-words -- "$line" 2>/dev/null)
    kind=${reply[0]:-files}
    COMPREPLY=()
    case $kind in
    words)
        for word in "${reply[@]:1}"; do
            word=${word%%$'\t'*}
            # A whole --flag=value, of which the line has up to the "=" already.
            [[ $word == --*=?* && $current != --*=* ]] && word=${word#*=}
            COMPREPLY+=("$word")
        done
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == --*= ]] && compopt -o nospace
        ;;
    dirs)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        ;;
    *)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        ;;
    esac
}
complete -F _spillway spillway
