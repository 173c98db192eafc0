//! What to do about failures of apt, and about what the base lacks, recognised in the output of a step.

use lamina_ground::EnvVars;

use super::install::{NO_SOURCES, PINNED, VERSIONS};
use super::names;

/// Names under which compilers are called.
const COMPILERS: [&str; 9] = [
    "gcc",
    "cc",
    "g++",
    "c++",
    "gfortran",
    "x86_64-linux-gnu-gcc",
    "x86_64-linux-gnu-g++",
    "aarch64-linux-gnu-gcc",
    "aarch64-linux-gnu-g++",
];

/// What builds say that find no Rust.
const RUST: [&str; 4] = [
    "Cargo, the Rust package manager, is not installed",
    "can't find Rust compiler",
    "cargo: not found",
    "No such file or directory: 'cargo'",
];

/// What apt says of files of a mirror that is being updated.
const AMID_UPDATE: [&str; 3] = ["File has unexpected size", "Hash Sum mismatch", "404  Not Found"];

/// A hint for a step on a Debian base that failed with this line.
#[must_use]
pub fn hint(line: &str) -> Option<String> {
    if line == NO_SOURCES {
        return Some(
            "a step before this one has removed the sources of apt: let it keep `/etc/apt/sources.list`, or write others"
                .to_owned(),
        );
    }
    if let Some(package) = line.strip_prefix(PINNED) {
        return Some(format!(
            "a pin in `/etc/apt/preferences` or `/etc/apt/preferences.d` of the image, which `apt-cache policy {package}` shows, \
             has a negative priority: change it, or leave `{package}` out"
        ));
    }
    if let Some((package, versions)) = line.strip_prefix(VERSIONS).and_then(|found| found.split_once(": ")) {
        return Some(format!(
            "the sources of the image have `{package}` as {versions}: ask for one of these, or for none"
        ));
    }
    if line.starts_with("E: Failed to fetch ") && AMID_UPDATE.iter().any(|part| line.contains(part)) {
        return Some(format!(
            "the server does not have what its own lists name, as mirrors do that are being updated: try again later; another \
             mirror of Debian's archive is named with `{}`",
            EnvVars::MODAL_DEBIAN_MIRROR
        ));
    }
    let missing = between(line, "Unable to locate package ", None)
        .or_else(|| between(line, "Package '", Some("' has no installation candidate")));
    if let Some(package) = missing {
        return Some(names::hint(&package));
    }
    if line.contains("pg_config") && line.contains("not found") {
        return Some(
            "the client library of PostgreSQL is needed: add `.apt_install(\"libpq-dev\")` before this step".to_owned(),
        );
    }
    if line.contains("MYSQLCLIENT_CFLAGS") {
        return Some(
            "the client library of MySQL is needed: add `.apt_install(\"default-libmysqlclient-dev\")` before this step"
                .to_owned(),
        );
    }
    if RUST.iter().any(|text| line.contains(text)) {
        return Some(
            "a package has to be compiled from Rust, which is not in the image, nor among the compilers that it is lent: \
             choose a version that has a wheel for the image's Python, or add `.apt_install(\"cargo\")` before this step, or \
             `rustup` with `run_commands(...)` where Debian's Rust is too old"
                .to_owned(),
        );
    }
    if let Some(library) = missing_library(line) {
        return Some(format!(
            "the library `{library}` is not in the image: add the Debian package with its headers (`…-dev`) with \
             `.apt_install(...)` before this step"
        ));
    }
    if COMPILERS.iter().any(|compiler| is_missing(compiler, line)) {
        return Some(format!(
            "a compiler is needed and the image has none: add `.apt_install(\"build-essential\", \"python3-dev\")` before this \
             step; commands that run no apt have one with `{}=always`",
            EnvVars::MODAL_TOOLCHAIN
        ));
    }
    if let Some(header) = between(line, "fatal error: ", Some(": No such file or directory")) {
        let package =
            if header == "Python.h" { "`python3-dev`" } else { "the Debian package that holds it (`…-dev`)" };
        return Some(format!(
            "the header `{header}` is missing: add {package} with `.apt_install(...)` before this step"
        ));
    }
    if let Some(command) = between(line, "sh: 1: ", Some(": not found")).or_else(|| missing_command(line)) {
        return Some(format!(
            "the program `{command}` is not in the image: add its package with `.apt_install(...)` before this step"
        ));
    }
    None
}

/// Whether a program says that it was to call `compiler`, which is not there.
fn is_missing(compiler: &str, line: &str) -> bool {
    let said = [
        format!("command '{compiler}' failed: No such file or directory"),
        format!("error: [Errno 2] No such file or directory: '{compiler}'"),
        format!("{compiler}: not found"),
        format!("{compiler}: command not found"),
    ];
    said.iter().any(|text| line.contains(text.as_str()))
}

/// What builds say that find no compiler, or no headers of Python.
const LACKING: [&str; 5] = [
    "Unknown compiler(s): ",
    "No CMAKE_C_COMPILER could be found",
    "No CMAKE_CXX_COMPILER could be found",
    "linker `cc` not found",
    "Python.h: No such file or directory",
];

/// Whether a line of an installer's output says that a compiler or what belongs to one is missing.
#[must_use]
pub fn lacks_compiler(line: &str) -> bool {
    LACKING.iter().any(|text| line.contains(text))
        || COMPILERS.iter().chain(&["make"]).any(|program| is_missing(program, line))
}

/// `cairo` in what pkg-config and meson say of a library that they do not find.
fn missing_library(line: &str) -> Option<String> {
    between(line, "No package '", Some("' found"))
        .or_else(|| between(line, "ERROR: Dependency \"", Some("\" not found")))
        .map(|library| library.split(' ').next().unwrap_or_default().to_owned())
}

/// `git` in `/bin/sh: 1: git: not found` and in `sh: line 1: git: command not found`.
fn missing_command(line: &str) -> Option<String> {
    let rest = line.strip_suffix(": not found").or_else(|| line.strip_suffix(": command not found"))?;
    let command = rest.rsplit(": ").next()?;
    (!command.contains(' ')).then(|| command.to_owned())
}

fn between(line: &str, before: &str, after: Option<&str>) -> Option<String> {
    let rest = &line[line.find(before)? + before.len()..];
    let end = after.map_or(Some(rest.len()), |after| rest.find(after))?;
    Some(rest[..end].trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        for (line, part) in [
            ("E: Unable to locate package gti", "`gti`"),
            ("E: Package 'libtiff5' has no installation candidate", "`libtiff6`"),
            (NO_SOURCES, "`/etc/apt/sources.list`"),
            (&format!("{PINNED}git"), "`apt-cache policy git`"),
            (&format!("{VERSIONS}figlet: 2.2 (bookworm/main), 3.0 (sid/main)"), "`figlet` as 2.2 (bookworm/main), 3.0"),
            ("E: Failed to fetch http://x.invalid/x  File has unexpected size", "MODAL_DEBIAN_MIRROR"),
            ("error: command 'gcc' failed: No such file or directory", "build-essential"),
            ("error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-g++'", "python3-dev"),
            ("Error: pg_config executable not found.", "libpq-dev"),
            ("foo.c:1:10: fatal error: Python.h: No such file or directory", "`python3-dev`"),
            ("/bin/sh: 1: git: not found", "`git`"),
            ("/bin/sh: 1: cargo: not found", "a wheel for the image's Python"),
            ("      error: can't find Rust compiler", "rustup"),
            ("No package 'libffi' found", "library `libffi`"),
            (
                "../meson.build:31:12: ERROR: Dependency \"cairo\" not found, tried pkgconfig and cmake",
                "library `cairo`",
            ),
            (
                "      Exception: Can not find valid pkg-config name. Specify MYSQLCLIENT_CFLAGS and MYSQLCLIENT_LDFLAGS env vars manually",
                "default-libmysqlclient-dev",
            ),
        ] {
            let hint = hint(line);
            assert!(hint.as_deref().is_some_and(|hint| hint.contains(part)), "{line}: {hint:?}");
        }
        assert_eq!(hint("all went well"), None);
    }

    #[test]
    fn builds_that_lack_a_compiler_say_so() {
        for line in [
            "error: command 'gcc' failed: No such file or directory",
            "../meson.build:1:0: ERROR: Unknown compiler(s): [['cc'], ['gcc'], ['clang']]",
            "src/x.c:1:10: fatal error: Python.h: No such file or directory",
            "/bin/sh: 1: make: not found",
        ] {
            assert!(lacks_compiler(line), "{line}");
        }
        assert!(!lacks_compiler("Error: pg_config executable not found."));
    }
}
