#!/bin/sh
# In conda's stead, which is not installed: micromamba has the same commands. What it calls otherwise is said in its words.
export MAMBA_ROOT_PREFIX="${MAMBA_ROOT_PREFIX:-/opt/conda}"
micromamba=/opt/conda/bin/micromamba

# Tells a shell about the program, and about a function for what changes the shell itself.
hook() {
    "$micromamba" shell hook --shell "$1" || exit
    case $1 in
        bash | posix | zsh)
            cat << FUNCTION
export MAMBA_ROOT_PREFIX='$MAMBA_ROOT_PREFIX'
conda() {
    case "\${1-}" in
        activate | deactivate | install | update | upgrade | remove | uninstall) micromamba "\$@" ;;
        *) command conda "\$@" ;;
    esac
}
FUNCTION
            ;;
    esac
}

# Changes settings, each word for word, or shows them.
config() {
    while [ $# -gt 0 ]; do
        case $1 in
            --add | --prepend) verb=prepend ;;
            --append | --set | --remove) verb=${1#--} ;;
            --show) shift && exec "$micromamba" config list "$@" ;;
            --get) shift && exec "$micromamba" config get "$@" ;;
            --show-sources) exec "$micromamba" config sources ;;
            *) exec "$micromamba" config "$@" ;;
        esac
        [ $# -ge 3 ] || exec "$micromamba" config "$verb" "$@"
        "$micromamba" config "$verb" "$2" "$3" || exit
        shift 3
    done
}

# Runs a command. Output is never held back, so that the options about it go; the command's own words stay.
run() {
    left=$#
    next=option
    while [ "$left" -gt 0 ]; do
        word=$1
        shift
        left=$((left - 1))
        case $next:$word in
            option:--no-capture-output | option:--live-stream) continue ;;
            option:-n | option:-p | option:--name | option:--prefix | option:--cwd) next=value ;;
            option:-*) ;;
            option:*) next=word ;;
            value:*) next=option ;;
        esac
        set -- "$@" "$word"
    done
    exec "$micromamba" run "$@"
}

case "${1-}" in
    shell.*) hook "${1#shell.}" ;;
    init) echo "Shells know about conda already, by /etc/profile.d/conda.sh." ;;
    config) [ $# -gt 1 ] || exec "$micromamba" config; shift; config "$@" ;;
    run) shift; run "$@" ;;
    *) exec "$micromamba" "$@" ;;
esac
