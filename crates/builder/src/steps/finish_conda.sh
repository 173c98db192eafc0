# What is to be done in an environment of conda packages once their files are there. Lists are in /dev/lamina.
set -e
umask 022
prefix=/opt/conda
lists=/dev/lamina

if [ -s "$lists/conda-remove" ]; then
    xargs -0 rm -f -- < "$lists/conda-remove"
    # Directories in which nothing is left; the others stay.
    xargs -0 dirname -z -- < "$lists/conda-remove" | sort -zru | xargs -0 rmdir -p -- 2> /dev/null || true
fi

if [ -s "$lists/conda-sources" ]; then
    # As with conda, modules that this Python cannot compile are none the worse for it.
    "$prefix/bin/python" -Wi -m compileall -q -l -j 0 -i "$lists/conda-sources" || true
fi

tab=$(printf '\t')
while IFS=$tab read -r script name version number; do
    echo "running the post-link script of $name"
    # In its directory and with these variables, as conda does it.
    (
        cd "$prefix/bin" &&
            ROOT_PREFIX=$prefix PREFIX=$prefix PKG_NAME=$name PKG_VERSION=$version PKG_BUILDNUM=$number bash "$script"
    ) < /dev/null || {
        echo "the post-link script of $name failed" >&2
        exit 1
    }
    if [ -f "$prefix/.messages.txt" ]; then
        cat "$prefix/.messages.txt"
        rm "$prefix/.messages.txt"
    fi
done < "$lists/conda-scripts"

if [ -e "$lists/conda-is-new" ] && [ -f /etc/bash.bashrc ]; then
    # Login shells read it anyhow.
    printf '\n. /etc/profile.d/conda.sh\n' >> /etc/bash.bashrc
fi

if [ -s "$lists/conda-requirements.txt" ]; then
    python -m pip install -r "$lists/conda-requirements.txt"
fi

if [ -e "$lists/conda-activates" ]; then
    bash -c '
        env -0 > "$1"
        for script in "$3"/etc/conda/activate.d/*.sh; do
            if [ -e "$script" ]; then . "$script"; fi
        done
        env -0 > "$2"
    ' bash "$1" "$2" "$prefix"
fi
