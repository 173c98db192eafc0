//! What to do about failures that many people meet, recognised in the output of a step.

use crate::debian_names;

/// A hint for a step that failed with these last lines, while the store's disk had space or not.
pub(crate) fn for_output(tail: &[String], has_space: bool) -> Option<String> {
    tail.iter().rev().find_map(|line| for_line(line, has_space))
}

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

/// What programs say about that were refused an owner, or to become one.
const OWNERS: [&str; 8] =
    ["ownership", "chown", "changing group", "setresuid", "setuid", "set user id", "set groups", "setresgid"];

fn for_line(line: &str, has_space: bool) -> Option<String> {
    let missing = between(line, "Unable to locate package ", None)
        .or_else(|| between(line, "Package '", Some("' has no installation candidate")));
    if let Some(package) = missing {
        return Some(debian_names::hint(&package));
    }
    if line.contains("Temporary failure resolving") || line.contains("Temporary failure in name resolution") {
        return Some("a host name could not be resolved: check the network connection and try again".to_owned());
    }
    if line.contains("No space left on device") {
        let hint = if has_space {
            "the disk of the store has space: something else is full that was written to, for example `/dev/full`, or a \
             file system in memory such as `/dev/shm`"
        } else {
            "the disk of the store is full, or has no room for more files (`df -h` and `df -i` tell): free some space, or \
             set MODAL_STORE to a larger disk"
        };
        return Some(hint.to_owned());
    }
    // What the kernel says to an owner that the user namespace does not have.
    if line.contains("Invalid argument") && OWNERS.iter().any(|part| line.contains(part)) {
        return Some(format!(
            "the image has no such user or group id; containers have as many as you have subordinate ids. {}; it counts \
             from the next run on",
            lamina_sandbox::more_ids_remedy()
        ));
    }
    if line.contains("Hash mismatch for") || line.contains("DO NOT MATCH THE HASHES") {
        return Some(
            "the index has another file than the one whose digest was given: find out which is meant before you change the \
             digest"
                .to_owned(),
        );
    }
    if line.contains("pg_config") && line.contains("not found") {
        return Some(
            "the client library of PostgreSQL is needed: add `.apt_install(\"libpq-dev\")` before this step".to_owned(),
        );
    }
    for compiler in COMPILERS {
        let missing = [
            format!("command '{compiler}' failed: No such file or directory"),
            format!("error: [Errno 2] No such file or directory: '{compiler}'"),
            format!("{compiler}: not found"),
            format!("{compiler}: command not found"),
        ];
        if missing.iter().any(|text| line.contains(text.as_str())) {
            return Some(
                "a compiler is needed and the base has none: add `.apt_install(\"build-essential\", \"python3-dev\")` before \
                 this step"
                    .to_owned(),
            );
        }
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
    if line.contains("Invalid cross-device link") {
        return Some(
            "a directory of an earlier layer cannot be renamed in one go: copy it and delete the original".to_owned(),
        );
    }
    None
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
    fn common_failures_are_explained() {
        for (line, part) in [
            ("E: Unable to locate package gti", "`gti`"),
            ("E: Package 'libtiff5' has no installation candidate", "`libtiff6`"),
            ("error: command 'gcc' failed: No such file or directory", "build-essential"),
            ("error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-g++'", "python3-dev"),
            ("Error: pg_config executable not found.", "libpq-dev"),
            ("foo.c:1:10: fatal error: Python.h: No such file or directory", "`python3-dev`"),
            ("/bin/sh: 1: git: not found", "`git`"),
            ("cp: error writing 'x': No space left on device", "MODAL_STORE"),
            ("chown: changing ownership of 'x': Invalid argument", "usermod --add-subuids"),
            ("tar: x: Cannot change ownership to uid 197609, gid 197121: Invalid argument", "--add-subgids"),
            ("  cause: Hash mismatch for `six==1.16.0`", "digest was given"),
        ] {
            let hint = for_output(&[line.to_owned(), "other".to_owned()], false);
            assert!(hint.as_deref().is_some_and(|hint| hint.contains(part)), "{line}: {hint:?}");
        }
        assert_eq!(for_output(&["all went well".to_owned()], true), None);
        let elsewhere = for_output(&["cat: write error: No space left on device".to_owned()], true);
        assert!(elsewhere.is_some_and(|hint| hint.contains("/dev/full")));
    }
}
