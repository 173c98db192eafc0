# shellcheck shell=bash
# What the scripts of this folder share. Sourced, not run; the working directory is the repository's root.

export CARGO_NET_RETRY=10 PIP_RETRIES=10 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# Installs Debian packages as root; tells anybody else the command. Arguments: the reason, the packages.
debian_packages() {
    local reason=$1
    shift
    local command="apt-get install -y --no-install-recommends $*"
    command -v apt-get >/dev/null || fail "$reason" "install what Debian calls: $*"
    [ "$(id -u)" = 0 ] || fail "$reason" "sudo $command"
    say "Installing $* ($reason)"
    DEBIAN_FRONTEND=noninteractive sh -c "apt-get -o Acquire::Retries=5 update -qq && apt-get -o Acquire::Retries=5 ${command#apt-get }" </dev/null
}

# Rust of the version that Cargo.toml asks for, and a linker.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null || fail "cargo was not found" "install Rust $wanted or later, see rustup.rs"
    # Where rustup has another toolchain and cannot get that of rust-toolchain.toml, the other one may do.
    cargo --version >/dev/null 2>&1 || export RUSTUP_TOOLCHAIN=stable
    found=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "this is Rust $found, but $wanted or later is needed" "rustup update"
    command -v cc >/dev/null || debian_packages "there is no C compiler" gcc libc6-dev
}

# Makes a virtual environment of the first Python that is new enough. Argument: its folder.
need_environment() {
    local python
    [ -x "$1/bin/python" ] && "$1/bin/python" -m pip --version >/dev/null 2>&1 && return
    for python in ${PYTHON:+"$PYTHON"} python3 python; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || continue
        "$python" -c 'import ensurepip, venv' 2>/dev/null || debian_packages "$python cannot make virtual environments" python3-venv
        "$python" -m venv --clear "$1"
        return
    done
    fail "no Python 3.9 or later was found" "install one, or name it: PYTHON=/path/to/python $0"
}

# Builds the wheel and installs it. Arguments: the environment's folder, further options of maturin.
install_wheel() {
    local environment=$1
    shift
    rm -f target/wheels/lamina-*.whl
    "$environment/bin/maturin" build --locked --out target/wheels "$@"
    "$environment/bin/pip" uninstall -qq --yes lamina
    "$environment/bin/pip" install --quiet target/wheels/lamina-*.whl
}
