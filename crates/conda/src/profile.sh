# Shells find the environment's programs, and can activate environments where it has micromamba or conda.
case ":$PATH:" in
    *:/opt/conda/bin:*) ;;
    *) PATH=/opt/conda/bin:$PATH ;;
esac
if [ -x /opt/conda/bin/micromamba ]; then
    if [ -n "${BASH_VERSION:-}" ]; then
        eval "$(/opt/conda/bin/micromamba shell hook --shell bash)"
    else
        eval "$(/opt/conda/bin/micromamba shell hook --shell posix)"
    fi
fi
if [ -f /opt/conda/etc/profile.d/conda.sh ]; then
    . /opt/conda/etc/profile.d/conda.sh
elif [ -x /opt/conda/bin/micromamba ]; then
    conda() {
        micromamba "$@"
    }
fi
