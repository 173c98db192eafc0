# What is to be done in an environment of conda packages before others are there and afterwards. Lists of it are in /dev/lamina;
# what no list names is not done.
set -e
umask 022
prefix=/opt/conda
lists=/dev/lamina
tab=$(printf '\t')
# For bash, with the environment as the first argument.
activate='for script in "$1"/etc/conda/activate.d/*.sh; do if [ -e "$script" ]; then . "$script"; fi; done;'

# Shows what a script has left for the user.
show_messages() {
    if [ -f "$prefix/.messages.txt" ]; then
        cat "$prefix/.messages.txt"
        rm "$prefix/.messages.txt"
    fi
}

# Runs scripts of packages in their directory and with the variables of conda; those of packages that are there in the activated
# environment. A package goes although its own script fails.
run_scripts() {
    [ -e "$lists/conda-$1" ] || return 0
    while IFS=$tab read -r script name version number; do
        echo "running the $1 script of $name"
        (
            directory=${script%/*}
            cd "$directory" || exit 1
            if [ "$1" = pre-link ]; then export SOURCE_DIR="${directory%/bin}"; fi
            export PATH="$directory:$PATH" ROOT_PREFIX="$prefix" PREFIX="$prefix"
            export PKG_NAME="$name" PKG_VERSION="$version" PKG_BUILDNUM="$number"
            if [ "$1" != post-link ]; then exec bash "$script"; fi
            exec bash -c "$activate"' . "$2"' bash "$prefix" "$script"
        ) < /dev/null || {
            show_messages
            echo "the $1 script of $name failed" >&2
            if [ "$1" != pre-unlink ]; then exit 1; fi
        }
        show_messages
    done < "$lists/conda-$1"
}

run_scripts pre-unlink

if [ -s "$lists/conda-remove" ]; then
    xargs -0 rm -f -- < "$lists/conda-remove"
    # Directories in which nothing is left; the others stay.
    xargs -0 dirname -z -- < "$lists/conda-remove" | sort -zru | xargs -0 rmdir -p -- 2> /dev/null || true
fi

run_scripts pre-link

if [ -s "$lists/conda-sources" ]; then
    # As with conda, modules that this Python cannot compile are none the worse for it.
    "$prefix/bin/python" -Wi -m compileall -q -l -j 0 -i "$lists/conda-sources" || true
fi

run_scripts post-link

if [ -e "$lists/conda-is-new" ] && [ -f /etc/bash.bashrc ]; then
    # Login shells read it anyhow.
    printf '\n. /etc/profile.d/conda.sh\n' >> /etc/bash.bashrc
fi

if [ -s "$lists/conda-requirements.txt" ]; then
    python -m pip install -r "$lists/conda-requirements.txt"
fi

if [ -e "$lists/conda-activates" ]; then
    bash -c 'env -0 > "$2"; '"$activate"' env -0 > "$3"' bash "$prefix" "$1" "$2"
fi
