#!/bin/sh
# In conda's stead, which is not installed: micromamba has the same commands, but for those that are about shells.
export MAMBA_ROOT_PREFIX="${MAMBA_ROOT_PREFIX:-/opt/conda}"
case "$*" in
    shell.*" hook")
        shell=${1#shell.}
        /opt/conda/bin/micromamba shell hook --shell "$shell" || exit
        case $shell in
            bash | posix | zsh)
                echo "export MAMBA_ROOT_PREFIX='$MAMBA_ROOT_PREFIX'"
                echo 'conda() { case "${1-}" in init | shell.*) command conda "$@" ;; *) micromamba "$@" ;; esac; }'
                ;;
        esac
        ;;
    init | init\ *) echo "Shells know about conda already, by /etc/profile.d/conda.sh." ;;
    *) exec /opt/conda/bin/micromamba "$@" ;;
esac
