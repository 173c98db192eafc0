//! Which Python an image's search path names; runs in the store worker.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use lamina_ground::{Stack, StorePath};
use lamina_packages::{Directory, Entry, Layers};
use lamina_store::{Job, JobError, LayerPath, Store, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::error::WheelError;

/// The names under which an interpreter is looked for: the second only where the whole path lacks the first.
const INTERPRETERS: [&str; 2] = ["python", "python3"];

/// How many links may lead from a name on the search path to the interpreter.
const LINKS: usize = 8;

/// The path of the Python that `search_path` names in an image with these views, if the lowest `layers` brought it and all that
/// it is a link to. `None` as well where that cannot be told without running anything.
///
/// # Errors
/// When the layers cannot be read.
pub fn python_of_base(
    store: &Store,
    views: &Stack<StorePath>,
    search_path: &str,
    layers: usize,
) -> Result<Option<String>, WheelError> {
    let directories = search_path.split(':').map(str::to_owned).collect();
    Ok(store.job(&FindInterpreter { views: views.clone(), directories, layers }, &[])?)
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FindInterpreter {
    views: Stack<StorePath>,
    directories: Vec<String>,
    layers: usize,
}

impl Job for FindInterpreter {
    const NAME: &'static str = "wheels.interpreter";
    type Output = Option<String>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Option<String>, JobError> {
        let mut layers = Layers::new(context.content(), &self.views).with_base(self.layers);
        let Some((path, _)) = first(&mut layers, &self.directories)? else { return Ok(None) };
        Ok(leads_to_base(&mut layers, &path)?.then_some(path))
    }
}

/// Whether a file, and all that it is a link to, is of the base.
fn leads_to_base(layers: &mut Layers, path: &str) -> Result<bool, JobError> {
    let mut path = PathBuf::from(path);
    for _ in 0..LINKS {
        let Entry::OfBase(file) = layers.entry(&path)? else { return Ok(false) };
        if !fs::symlink_metadata(file.on_disk())?.is_symlink() {
            return Ok(true);
        }
        let target = fs::read_link(file.on_disk())?;
        path = path.parent().unwrap_or(Path::new("/")).join(target);
        // What leads out of a directory would have to be looked up where that really is.
        if path.components().any(|part| part == Component::ParentDir) {
            let Some(plain) = without_parents(&path, layers)? else { return Ok(false) };
            path = plain;
        }
    }
    Ok(false)
}

/// A path without `..`, if all that these leave are directories and no links.
fn without_parents(path: &Path, layers: &mut Layers) -> Result<Option<PathBuf>, JobError> {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                if !matches!(layers.directory(&plain)?, Directory::Present(_)) {
                    return Ok(None);
                }
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    Ok(Some(plain))
}

/// The path that the search path names first, and its file; none as well where a link on the way may lead to another one.
fn first(layers: &mut Layers, directories: &[String]) -> Result<Option<(String, LayerPath)>, JobError> {
    for name in INTERPRETERS {
        for directory in directories {
            match layers.directory(directory)? {
                Directory::Absent => {}
                Directory::Other => return Ok(None),
                Directory::Present(merged) => {
                    if let Some(file) = find(&merged, name)? {
                        return Ok(Some((format!("{}/{name}", directory.trim_end_matches('/')), file)));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// The uppermost file `name` in a directory that these make together.
fn find(directories: &Stack<LayerPath>, name: &str) -> Result<Option<LayerPath>, JobError> {
    for directory in directories.top_down() {
        let path = directory.join(name);
        if path.is_deleted()? {
            return Ok(None);
        }
        match fs::symlink_metadata(path.on_disk()) {
            Ok(_) => return Ok(Some(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_search_path_names_first_counts() {
        let content = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = content.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for path in ["base/usr/local/bin/python", "base/usr/bin/python3", "top/opt/venv/bin/python", "top/opt/x/tool"] {
            file(path);
        }
        fs::os::unix::fs::symlink("/opt/venv/bin", content.path().join("top/link")).unwrap();
        let find = |search: &str| {
            let mut layers = Layers::new(content.path(), &Stack::from_top_down(["top".into(), "base".into()]));
            let directories: Vec<String> = search.split(':').map(str::to_owned).collect();
            let (path, found) = first(&mut layers, &directories).unwrap()?;
            assert!(found.on_disk().ends_with(&path[1..]));
            Some(found.on_disk().strip_prefix(content.path()).unwrap().display().to_string())
        };
        let (own, venv) = (Some("base/usr/local/bin/python".to_owned()), Some("top/opt/venv/bin/python".to_owned()));
        assert_eq!(find("/usr/local/bin:/usr/bin"), own);
        assert_eq!(find("/opt/x:/nowhere:/usr/local/bin:/opt/venv/bin"), own);
        assert_eq!(find("/usr/bin"), Some("base/usr/bin/python3".to_owned()));
        assert_eq!(find("/opt/venv/bin:/usr/local/bin"), venv);
        assert_eq!(find("/usr/bin:/opt/venv/bin"), venv);
        assert_eq!(find("/link:/usr/local/bin"), None);
        assert_eq!(find("/nowhere"), None);
        let of_base = |path: &str, base| {
            let layers = Layers::new(content.path(), &Stack::from_top_down(["top".into(), "base".into()]));
            leads_to_base(&mut layers.with_base(base), path).unwrap()
        };
        let link = |target: &str, path: &str| {
            fs::os::unix::fs::symlink(target, content.path().join(path)).unwrap();
        };
        file("base/usr/bin/python3.11");
        link("../bin/./python3.11", "base/usr/bin/python");
        link("/link/python", "base/usr/bin/odd");
        link("/usr/bin/python", "top/opt/x/python");
        assert!(of_base("/usr/bin/python", 1) && of_base("/usr/local/bin/python", 1));
        assert!(!of_base("/usr/bin/odd", 2), "a directory on the way is a link");
        assert!(!of_base("/opt/x/python", 1) && of_base("/opt/x/python", 2));
        file("top/usr/bin/python3.11");
        assert!(!of_base("/usr/bin/python", 1), "what it leads to was replaced");
        file("top/usr/local/bin/python");
        assert_eq!(find("/usr/local/bin:/usr/bin"), Some("top/usr/local/bin/python".to_owned()));
    }
}
