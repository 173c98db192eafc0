# Shells find the environment's programs, and can activate environments where it has micromamba or conda.
case ":$PATH:" in
    *:/opt/conda/bin:*) ;;
    *) PATH=/opt/conda/bin:$PATH ;;
esac
if [ -x /opt/conda/bin/micromamba ]; then
    # What its own `shell init` has shells set. Those that begin without the image's variables have none of them.
    export MAMBA_EXE=/opt/conda/bin/micromamba
    export MAMBA_ROOT_PREFIX="${MAMBA_ROOT_PREFIX:-/opt/conda}"
    if [ -n "${BASH_VERSION:-}" ]; then
        eval "$("$MAMBA_EXE" shell hook --shell bash)"
    else
        eval "$("$MAMBA_EXE" shell hook --shell posix)"
    fi
fi
if [ -f /opt/conda/etc/profile.d/conda.sh ]; then
    . /opt/conda/etc/profile.d/conda.sh
elif [ -x /opt/conda/bin/micromamba ]; then
    conda() {
        case "${1-}" in
            activate | deactivate | install | update | upgrade | remove | uninstall) micromamba "$@" ;;
            *) command conda "$@" ;;
        esac
    }
fi
