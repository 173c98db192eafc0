//! What to do about failures that many people meet, recognised in the output of a step.

use lamina_bases::{Suite, apt};
use lamina_image::Facts;

/// A hint for a step on an image that failed with these last lines, while the store's disk had space or not.
pub(crate) fn for_output(tail: &[String], facts: &Facts, has_space: bool) -> Option<String> {
    let of_system = |line: &str| Suite::of(facts).and_then(|_| apt::hint(line));
    let mut tail = tail.iter().rev().take_while(|line| *line != apt::ASKING_AGAIN);
    tail.find_map(|line| for_line(line, has_space).or_else(|| of_system(line)))
}

/// What programs say about that were refused an owner, or to become one.
const OWNERS: [&str; 8] =
    ["ownership", "chown", "changing group", "setresuid", "setuid", "set user id", "set groups", "setresgid"];

/// What installers say of a path that is not there.
const LOCAL_PATHS: [&str; 4] = [
    "does not appear to be a Python project",
    "It looks like a path. File",
    "Distribution not found at: file://",
    "due to an OSError: [Errno 2] No such file or directory: '/",
];

fn for_line(line: &str, has_space: bool) -> Option<String> {
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
            lamina_sandbox::more_ids_hint()
        ));
    }
    if line.contains("Hash mismatch for") || line.contains("DO NOT MATCH THE HASHES") {
        return Some(
            "the index has another file than the one whose digest was given: find out which is meant before you change the \
             digest"
                .to_owned(),
        );
    }
    if line.ends_with("No module named pip") {
        return Some(
            "the Python that the image's PATH names first has no pip, as `uv venv` and `uv sync` make them: use \
             `uv_pip_install`, or `uv venv --seed`"
                .to_owned(),
        );
    }
    if line.contains("Git executable not found") || line.contains("Cannot find command 'git'") {
        return Some("install git in a step before: `.apt_install(\"git\")` where the image has apt".to_owned());
    }
    if LOCAL_PATHS.iter().any(|part| line.contains(part)) {
        return Some(
            "paths of requirements are looked up in the image, where this machine's files are not: add the project with \
             `.add_local_dir(…, copy=True)` in a step before and name its path there, or leave it to \
             `.add_local_python_source(…)`"
                .to_owned(),
        );
    }
    if line.contains("Required uv version") {
        return Some(
            "the project's `required-version` is for another uv: name one that it takes as `uv_version`".to_owned(),
        );
    }
    if ["micromamba: not found", "mamba: not found", "conda: not found"].iter().any(|end| line.ends_with(end)) {
        return Some(
            "use `micromamba_install`, which needs no such program in the image; `modal.Image.micromamba()` has it where \
             its channel offers `micromamba`, or install it as `micromamba_install(\"micromamba\")`"
                .to_owned(),
        );
    }
    if line.contains("Invalid cross-device link") {
        return Some(
            "a directory of an earlier layer cannot be renamed in one go: copy it and delete the original".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use lamina_ground::EnvVars;

    use super::*;

    #[test]
    fn common_failures_are_explained() {
        for (line, part) in [
            ("cp: error writing 'x': No space left on device", EnvVars::MODAL_STORE),
            ("chown: changing ownership of 'x': Invalid argument", "usermod --add-subuids"),
            ("tar: x: Cannot change ownership to uid 197609, gid 197121: Invalid argument", "--add-subgids"),
            ("  cause: Hash mismatch for `six==1.16.0`", "digest was given"),
            ("/opt/venv/bin/python: No module named pip", "uv_pip_install"),
            ("/bin/sh: 1: micromamba: not found", "micromamba_install"),
            ("  cause: Git executable not found. Ensure that Git is installed and available.", "apt_install(\"git\")"),
            (
                "ERROR: Cannot find command 'git' - do you have 'git' installed and in your PATH?",
                "apt_install(\"git\")",
            ),
            (
                "ERROR: file:/// (from -r x (line 1)) does not appear to be a Python project: neither 'setup.py' nor",
                "add_local_dir",
            ),
            ("Hint: It looks like a path. File './local' does not exist.", "add_local_dir"),
            ("error: Distribution not found at: file:///local", "add_local_dir"),
            (
                "ERROR: Could not install packages due to an OSError: [Errno 2] No such file or directory: '/x'",
                "add_local_",
            ),
            ("error: Required uv version `<0.4` does not match the running version `0.13.9`", "`uv_version`"),
        ] {
            let hint = for_output(&[line.to_owned(), "other".to_owned()], &Facts::default(), false);
            assert!(hint.as_deref().is_some_and(|hint| hint.contains(part)), "{line}: {hint:?}");
        }
        let asked = ["cp: No space left on device", apt::ASKING_AGAIN, "E: other"].map(str::to_owned);
        assert_eq!(for_output(&asked, &Facts::default(), true), None);
        assert_eq!(for_output(&["all went well".to_owned()], &Facts::default(), true), None);
        let elsewhere = for_output(&["cat: write error: No space left on device".to_owned()], &Facts::default(), true);
        assert!(elsewhere.is_some_and(|hint| hint.contains("/dev/full")));
    }
}
