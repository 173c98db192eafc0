//! Requirements files, with those that they include.

use std::path::{Path, PathBuf};

use lamina_wheels::RequirementsFile;

use crate::BuildError;
use crate::error::Mistake;

/// Requirements files that stand for themselves: in the key of the step and inside the sandbox.
#[derive(Debug, Default)]
pub(crate) struct Requirements {
    /// The files, with those that they include (`-r other.txt`, relative to them) in the place of the lines that do.
    pub(crate) files: Vec<RequirementsFile>,
    /// The files that they name as constraints (`-c versions.txt`), in one text.
    pub(crate) constraints: String,
}

/// Reads requirements files, with all that they name. Addresses are left for the installer to read.
pub(crate) fn read(paths: &[String]) -> Result<Requirements, BuildError> {
    let mut read = Requirements::default();
    for path in paths.iter().map(Path::new) {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let contents = flatten(path, &mut Vec::new(), &mut read.constraints)?;
        read.files.push(RequirementsFile { name, contents });
    }
    Ok(read)
}

/// The text of a file; `including` are the files on the way to it. Files that it names as constraints are added to
/// `constraints`.
fn flatten(path: &Path, including: &mut Vec<PathBuf>, constraints: &mut String) -> Result<String, BuildError> {
    let contents = read_file(path, including.last())?;
    if including.iter().any(|file| file == path) {
        return Err(BuildError::invalid(Mistake::IncludesItself(path.to_owned())));
    }
    including.push(path.to_owned());
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut text = String::with_capacity(contents.len());
    for line in contents.lines() {
        match option(line) {
            Some(("-r" | "--requirement", file)) if !file.contains("://") => {
                text += &flatten(&directory.join(file), including, constraints)?;
            }
            Some(("-c" | "--constraint", file)) if !file.contains("://") => {
                let mut nested = String::new();
                let contents = flatten(&directory.join(file), including, &mut nested)?;
                *constraints += &contents;
                *constraints += &nested;
            }
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    including.pop();
    Ok(text)
}

/// The text of a file, without the mark that some editors begin one with.
fn read_file(path: &Path, included_by: Option<&PathBuf>) -> Result<String, BuildError> {
    let text = fs_err::read_to_string(path).map(|text| text.trim_start_matches('\u{feff}').to_owned());
    text.map_err(|error| match (error.kind(), included_by) {
        (std::io::ErrorKind::NotFound, None) => {
            BuildError::FileNotFound(format!("requirements file `{}` does not exist", path.display()))
        }
        (std::io::ErrorKind::NotFound, Some(file)) => BuildError::FileNotFound(format!(
            "requirements file `{}`, which `{}` includes, does not exist",
            path.display(),
            file.display()
        )),
        _ => BuildError::invalid(Mistake::Requirements(error)),
    })
}

/// The option that a line is, and its value: `-r file`, `-rfile`, `--requirement file`, `--requirement=file`.
fn option(line: &str) -> Option<(&str, &str)> {
    let line = line.split(" #").next().unwrap_or_default().trim();
    let (name, value) = if line.starts_with("--") {
        line.split_once(|character: char| character == '=' || character.is_whitespace())?
    } else {
        line.starts_with('-').then(|| line.split_at_checked(2)).flatten()?
    };
    let value = value.trim_start_matches(['=', ' ', '\t']);
    (!value.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in(directory: &Path, name: &str) -> Result<String, String> {
        let read = read(&[directory.join(name).to_str().unwrap().to_owned()]).map_err(|error| error.to_string())?;
        assert_eq!(read.constraints, "");
        Ok(read.files[0].contents.clone())
    }

    #[test]
    fn included_files_take_the_place_of_their_lines() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        fs_err::create_dir(directory.path().join("more")).unwrap();
        write("all.txt", "\u{feff}first\n-r more/some.txt # why\n--requirement=last.txt\n--pre\nlast");
        write("more/some.txt", "second\n-rothers.txt\n");
        write("more/others.txt", "third");
        write("last.txt", "fourth\n");
        assert_eq!(read_in(directory.path(), "all.txt").unwrap(), "first\nsecond\nthird\nfourth\n--pre\nlast\n");
    }

    #[test]
    fn constraints_are_kept_apart() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        fs_err::create_dir(directory.path().join("more")).unwrap();
        write("all.txt", "first\n-c more/versions.txt\n-c https://x.invalid/versions.txt\nsecond\n");
        write("more/versions.txt", "first<2 # why\n-r others.txt\n--constraint last.txt\n");
        write("more/others.txt", "second<2");
        write("more/last.txt", "third<2\n");
        let read = read(&[directory.path().join("all.txt").to_str().unwrap().to_owned()]).unwrap();
        assert_eq!(read.files[0].contents, "first\n-c https://x.invalid/versions.txt\nsecond\n");
        assert_eq!(read.constraints, "first<2 # why\nsecond<2\nthird<2\n");
    }

    #[test]
    fn what_cannot_be_included_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        write("missing.txt", "-r nowhere.txt\n");
        write("loop.txt", "-r loop.txt\n");
        write("constrained.txt", "a\n-c versions.txt\n");
        let message = |name: &str| {
            let message = read_in(directory.path(), name).unwrap_err();
            message.replace(&format!("{}/", directory.path().display()), "")
        };
        insta::assert_snapshot!(message("missing.txt"), @"requirements file `nowhere.txt`, which `missing.txt` includes, does not exist");
        insta::assert_snapshot!(message("loop.txt"), @"requirements file `loop.txt` includes itself");
        insta::assert_snapshot!(message("constrained.txt"), @"requirements file `versions.txt`, which `constrained.txt` includes, does not exist");
        insta::assert_snapshot!(message("none.txt"), @"requirements file `none.txt` does not exist");
    }
}
