#compdef spillway
# zsh completion for spillway; made by: spillway completion zsh
# It asks the program itself, so it need not be made anew with a new version.
_spillway() {
    local -a reply shown
    local kind entry word help
    reply=("${(@f)$("${words[1]}" complete-words -- "$LBUFFER" 2>/dev/null)}")
    kind=$reply[1]
    shift reply
    case $kind in
    words)
        for entry in $reply; do
            word=${entry%%$'\t'*} help=${entry#*$'\t'}
            if [[ $word == --*= ]]; then
                compadd -S '' -- $word
            else
                shown+=("${word//:/\\:}:$help")
            fi
        done
        (( $#shown )) && _describe -t spillway spillway shown
        ;;
    dirs)
        compset -P '*='
        _files -/
        ;;
    *)
        compset -P '*='
        _files
        ;;
    esac
}
if [[ $funcstack[1] == _spillway ]]; then
    _spillway "$@"
else
    compdef _spillway spillway
fi
