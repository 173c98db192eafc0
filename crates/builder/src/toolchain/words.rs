//! Which shell commands are likely to compile something.

/// Compilers, and programs that call them.
const PROGRAMS: [&str; 34] = [
    "CC",
    "CXX",
    "FC",
    "autoreconf",
    "bazel",
    "c++",
    "c89",
    "c99",
    "cargo",
    "cc",
    "ccache",
    "cmake",
    "configure",
    "cpp",
    "cython",
    "cythonize",
    "f2py",
    "f77",
    "f95",
    "g++",
    "gcc",
    "gfortran",
    "gmake",
    "ld",
    "make",
    "maturin",
    "meson",
    "ninja",
    "numpy.f2py",
    "nvcc",
    "pkg-config",
    "pkgconf",
    "scons",
    "setup.py",
];
/// Those of them that sources bring along.
const SCRIPTS: [&str; 2] = ["configure", "setup.py"];
/// Installers of Python packages, which compile what has no wheel.
const INSTALLERS: [&str; 7] = ["pdm", "pip", "pip3", "pipenv", "pipx", "poetry", "uv"];
/// What they are told when they do.
const INSTALL: [&str; 7] = ["add", "build", "develop", "install", "run", "sync", "wheel"];
/// Programs that install compilers into the image. They shall not find others there: what a package's script sees, it does
/// not do once more.
const PACKAGE_MANAGERS: [&str; 5] = ["apt", "apt-get", "aptitude", "dpkg", "ldconfig"];

/// Whether a command needs compilers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It names some, or what calls them.
    Likely,
    /// It installs Python packages, of which some may have no wheel.
    Perhaps,
    Unlikely,
    /// It may bring some into the image.
    Own,
}

impl Need {
    /// Tells it by the words of a command, wherever they stand: `sh -c "make"`, `CC=gcc ./configure`.
    pub(crate) fn of(command: &str) -> Self {
        let words: Vec<&str> = words(command).collect();
        let has = |names: &[&str]| words.iter().any(|word| names.contains(word));
        let has_version_of =
            |names: &[&str]| words.iter().any(|word| names.iter().any(|name| is_version_of(word, name)));
        if has(&PACKAGE_MANAGERS) {
            return Self::Own;
        }
        if has(&PROGRAMS) || has_version_of(&PROGRAMS) {
            return Self::Likely;
        }
        let builds = words.windows(2).any(|pair| pair == ["-m", "build"]);
        let installs = builds || (has(&INSTALLERS) || has_version_of(&["pip"])) && has(&INSTALL);
        if installs { Self::Perhaps } else { Self::Unlikely }
    }
}

/// The names in a command, without the directories before them. Of paths those count that lead to programs.
fn words(command: &str) -> impl Iterator<Item = &str> {
    let is_part = |character: char| character.is_alphanumeric() || "_+-./".contains(character);
    let name = |word| match str::rsplit_once(word, '/') {
        None => Some(word),
        Some((directory, name)) if directory.ends_with("bin") || SCRIPTS.contains(&name) => Some(name),
        Some(_) => None,
    };
    command.split(move |character| !is_part(character)).filter_map(name).filter(|word| !word.is_empty())
}

/// Whether a word is a name with a version or a machine: `gcc-12`, `pip3.11`, `x86_64-linux-gnu-gcc`.
fn is_version_of(word: &str, name: &str) -> bool {
    let version =
        |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte));
    word.strip_prefix(name).is_some_and(version)
        || word.strip_suffix(name).is_some_and(|rest| rest.ends_with("-linux-gnu-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_and_what_calls_them_are_known_by_their_words() {
        for command in [
            "gcc -O2 x.c -o x",
            "cd /src && ./configure --prefix=/usr && make -j2 install",
            "CC=clang CFLAGS='-O3' sh build.sh",
            "sh -c \"cmake -B build\"",
            "/usr/bin/g++-12 x.cpp",
            "x86_64-linux-gnu-gcc x.c",
            "python setup.py develop",
            "cargo build",
            "python -m numpy.f2py -c x.f -m x",
            "f2py -c y.f -m y",
        ] {
            assert_eq!(Need::of(command), Need::Likely, "{command}");
        }
        for command in [
            "pip install git+https://example.invalid/x",
            "python -m pip install .",
            "python -m build --wheel",
            "pip3.11 install --no-binary :all: x",
            "uv pip install --system x",
            "uv sync --frozen",
        ] {
            assert_eq!(Need::of(command), Need::Perhaps, "{command}");
        }
    }

    #[test]
    fn others_are_not() {
        for command in [
            "echo hello",
            "mkdir -p /usr/lib/gcc",
            "git clone https://example.invalid/gcc-docs.git",
            "pip --version",
            "uv --version",
            "python -c 'import x'",
            "python -m json.tool build",
            "curl -fsSL https://example.invalid/install.sh | sh",
            "",
        ] {
            assert_eq!(Need::of(command), Need::Unlikely, "{command}");
        }
        for command in ["apt-get update && apt-get install -y gcc && gcc x.c", "dpkg -i x.deb && make"] {
            assert_eq!(Need::of(command), Need::Own, "{command}");
        }
    }
}
