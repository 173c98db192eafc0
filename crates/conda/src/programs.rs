//! What lets the programs `micromamba` and `conda`, where the environment has them, work in an image as they do elsewhere.

use lamina_packages::{Content, File};

use crate::place::LinkedPackage;

/// The program that manages the environment from inside, which is a package like any other.
pub const PROGRAM: &str = "micromamba";
/// Channels for those who use the program: the one that we use where none is named.
const SETTINGS: &str = "channels:\n  - conda-forge\n";
/// What stands in for conda, behind the environment's programs in the PATH, so that the real one comes first.
const STAND_IN: &str = include_str!("stand_in.sh");

/// The files beside those of packages: what shells and programs read, with the first packages, and what stands in for conda,
/// with the program.
pub(crate) fn files(is_new: bool, packages: &[LinkedPackage]) -> Vec<File> {
    let text = |path: &str, text: &str, mode| File {
        path: path.to_owned(),
        content: Content::Text { bytes: text.into(), mode },
    };
    let mut files = Vec::new();
    if is_new {
        files.push(text("/etc/profile.d/conda.sh", include_str!("profile.sh"), 0o644));
        files.push(text("/etc/conda/.condarc", SETTINGS, 0o644));
    }
    if packages.iter().any(|package| package.name == PROGRAM) {
        files.push(text("/usr/local/bin/conda", STAND_IN, 0o755));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PREFIX;

    #[test]
    fn a_new_environment_has_what_shells_read_and_the_program_its_stand_in() {
        let package = |name: &str| LinkedPackage {
            name: name.to_owned(),
            file_name: format!("{name}-1-0.conda"),
            sha256: String::new(),
            record: "{}".to_owned(),
            requested: Vec::new(),
        };
        let paths = |is_new, name| -> Vec<String> {
            files(is_new, &[package(name)]).into_iter().map(|file| file.path).collect()
        };
        assert_eq!(paths(true, "python"), ["/etc/profile.d/conda.sh", "/etc/conda/.condarc"]);
        assert_eq!(paths(false, PROGRAM), ["/usr/local/bin/conda"]);
        // Their texts name it as they are.
        for text in [STAND_IN, include_str!("profile.sh")] {
            assert!(text.contains(&format!("{PREFIX}/bin/{PROGRAM}")), "{text}");
        }
    }
}
