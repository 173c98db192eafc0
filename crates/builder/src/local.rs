//! Local files that a build needs, looked for before anything is built.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use lamina_ground::Hint;
use lamina_image::{Definition, FileKind, FileSet};
use lamina_store::StoreError;

use crate::BuildError;
use crate::error::Mistake;
use crate::steps::{self, Declared, read_requirements};

/// Looks for everything local that the images ending at `targets` need, and for the `others`.
///
/// # Errors
/// What is missing, all of it at once.
pub fn check_local(definition: &Definition, targets: &[&str], others: &[&FileSet]) -> Result<(), BuildError> {
    // What does not hold together is said by the build.
    let Ok(graph) = steps::lower(definition) else { return Ok(()) };
    let (mut seen, mut paths, mut errors) = (HashSet::new(), HashSet::new(), Vec::new());
    let places = targets.iter().filter_map(|target| graph.place(target)).flat_map(|place| graph.with_inputs(place));
    for place in places.filter(|place| seen.insert(*place)) {
        let kind = Declared::of(&graph.step(place).0.step).kind();
        let local = kind.local();
        if let Some(files) = local.files {
            check_set(files, &mut paths, &mut errors);
        }
        let unseen = local.requirements.iter().filter(|path| paths.insert(PathBuf::from(path)));
        errors.extend(unseen.filter_map(|path| read_requirements(std::slice::from_ref(path)).err()));
        errors.extend(kind.check().err());
    }
    for files in others {
        check_set(files, &mut paths, &mut errors);
    }
    combined(errors).map_or(Ok(()), Err)
}

fn check_set(files: &FileSet, paths: &mut HashSet<PathBuf>, errors: &mut Vec<BuildError>) {
    for entry in &files.entries {
        let path = PathBuf::from(&entry.source);
        if let Err(error) = check(&path, entry.kind)
            && paths.insert(path)
        {
            errors.push(error);
        }
    }
}

/// That a path is what an entry says. What cannot be looked at is reported when it is read.
fn check(path: &Path, kind: FileKind) -> Result<(), BuildError> {
    let owned = || path.to_owned();
    match (fs_err::metadata(path), kind) {
        (Err(error), _) => match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Err(StoreError::NotFound(owned()).into())
            }
            _ => Ok(()),
        },
        (Ok(metadata), FileKind::Directory) if !metadata.is_dir() => Err(StoreError::NotADirectory(owned()).into()),
        (Ok(metadata), FileKind::File) if !metadata.is_file() => Err(StoreError::NotAFile(owned()).into()),
        _ => Ok(()),
    }
}

/// One error for all; its kind is that of the first.
fn combined(mut errors: Vec<BuildError>) -> Option<BuildError> {
    if errors.len() < 2 {
        return errors.pop();
    }
    let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
    let message = format!("{} local files or directories cannot be used:{}", errors.len(), lines.concat());
    let hint = errors.iter().find_map(Hint::hint).map(Cow::into_owned);
    Some(match errors.swap_remove(0) {
        BuildError::FileNotFound(_) => BuildError::FileNotFound(message),
        BuildError::NotADirectory(_) => BuildError::NotADirectory(message),
        BuildError::Refused { class, .. } => BuildError::Refused { class, message, hint },
        _ => BuildError::invalid(Mistake::Several { message, hint }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_reported_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        fs_err::write(at("file"), "").unwrap();
        fs_err::write(at("requirements.txt"), "-r gone.txt\n").unwrap();
        let files = |entries: &[(&str, &str)]| {
            let entry =
                |(source, kind): &(&str, &str)| serde_json::json!({"source": at(source), "target": "/x", "kind": kind});
            serde_json::json!({"entries": entries.iter().map(entry).collect::<Vec<_>>()})
        };
        let node = |id: &str, parent: Option<&str>, step: serde_json::Value| serde_json::json!({"id": id, "inputs": parent.into_iter().collect::<Vec<_>>(), "step": step, "title": id});
        let definition: Definition = serde_json::from_value(serde_json::json!([
            node("0", None, serde_json::json!({"kind": "debian_slim", "python_version": null, "local_python": "3.11"})),
            node("1", Some("0"), serde_json::json!({"kind": "uv_pip_install", "packages": [], "requirements": [at("requirements.txt"), at("none.txt")]})),
            node("2", Some("1"), serde_json::json!({"kind": "copy_files", "files": files(&[("file", "file"), ("file", "directory"), ("none", "file")])})),
            node("3", Some("2"), serde_json::json!({"kind": "attach_files", "files": files(&[("none", "file"), (".", "file")])})),
        ]))
        .unwrap();
        let others: FileSet = serde_json::from_value(files(&[("app.py", "file")])).unwrap();
        let message = |targets: &[&str], others: &[&FileSet]| {
            let error = check_local(&definition, targets, others).unwrap_err();
            format!("{error:?}").split('(').next().unwrap_or_default().to_owned()
                + ": "
                + &error.to_string().replace(&format!("{}/", directory.path().display()), "")
        };
        assert!(check_local(&definition, &["0"], &[]).is_ok());
        insta::assert_snapshot!(message(&["0"], &[&others]), @"FileNotFound: local path `app.py` does not exist");
        insta::assert_snapshot!(message(&["3", "2"], &[&others]), @r"
        FileNotFound: 6 local files or directories cannot be used:
          requirements file `gone.txt`, which `requirements.txt` includes, does not exist
          requirements file `none.txt` does not exist
          local path `file` is not a directory: use `add_local_file` for a single file
          local path `none` does not exist
          local path `.` is not a regular file: use `add_local_dir` for a directory
          local path `app.py` does not exist
        ");
    }
}
