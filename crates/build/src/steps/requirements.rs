//! Requirements files, with those that they include.

use std::path::{Path, PathBuf};

use lamina_wheels::RequirementsFile;

use crate::BuildError;
use crate::error::causes;

/// Reads a requirements file. Files that it includes (`-r other.txt`, relative to it) take the place of the line that
/// includes them, so that the text stands for itself: in the key of the step and inside the sandbox.
pub(crate) fn read(path: &str) -> Result<RequirementsFile, BuildError> {
    let path = Path::new(path);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(RequirementsFile { name, contents: flatten(path, &mut Vec::new())? })
}

/// The text of a file; `including` are the files on the way to it.
fn flatten(path: &Path, including: &mut Vec<PathBuf>) -> Result<String, BuildError> {
    let contents = read_file(path, including.last())?;
    if including.iter().any(|file| file == path) {
        return Err(invalid(format!("requirements file `{}` includes itself", path.display())));
    }
    including.push(path.to_owned());
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut text = String::with_capacity(contents.len());
    for line in contents.lines() {
        match option(line) {
            Some(("-r" | "--requirement", file)) => text += &flatten(&directory.join(file), including)?,
            Some(("-c" | "--constraint", _)) => {
                return Err(BuildError::Invalid {
                    message: format!("requirements file `{}` has the line `{}`", path.display(), line.trim()),
                    hint: Some(
                        "constraints are not read from there: list the versions you want as requirements".to_owned(),
                    ),
                });
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

fn read_file(path: &Path, included_by: Option<&PathBuf>) -> Result<String, BuildError> {
    fs_err::read_to_string(path).map_err(|error| match (error.kind(), included_by) {
        (std::io::ErrorKind::NotFound, None) => {
            BuildError::FileNotFound(format!("requirements file `{}` does not exist", path.display()))
        }
        (std::io::ErrorKind::NotFound, Some(file)) => BuildError::FileNotFound(format!(
            "requirements file `{}`, which `{}` includes, does not exist",
            path.display(),
            file.display()
        )),
        _ => invalid(causes(&error)),
    })
}

fn invalid(message: String) -> BuildError {
    BuildError::Invalid { message, hint: None }
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
        read(directory.join(name).to_str().unwrap()).map(|file| file.contents).map_err(|error| error.to_string())
    }

    #[test]
    fn included_files_take_the_place_of_their_lines() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        fs_err::create_dir(directory.path().join("more")).unwrap();
        write("all.txt", "first\n-r more/some.txt # why\n--requirement=last.txt\n--pre\nlast");
        write("more/some.txt", "second\n-rothers.txt\n");
        write("more/others.txt", "third");
        write("last.txt", "fourth\n");
        assert_eq!(read_in(directory.path(), "all.txt").unwrap(), "first\nsecond\nthird\nfourth\n--pre\nlast\n");
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
        insta::assert_snapshot!(message("constrained.txt"), @"requirements file `constrained.txt` has the line `-c versions.txt`");
        insta::assert_snapshot!(message("none.txt"), @"requirements file `none.txt` does not exist");
    }
}
