//! What an image from elsewhere has of what steps and functions need, looked up in its layers without running anything.

use std::os::fd::OwnedFd;

use lamina_ground::{DEFAULT_PATH, Stack, StorePath};
use lamina_image::Digest;
use lamina_packages::{Directory, Entry, Layers};
use lamina_store::{Job, JobError, Store, StoreError, WorkerContext};
use serde::{Deserialize, Serialize};

/// Names of interpreters.
const PYTHONS: [&str; 2] = ["python3", "python"];
/// What runs commands of steps, unless the image has a shell of its own.
const SHELL: &str = "sh";

/// Looks at an image whose programs are in these directories.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LookAtImage {
    views: Stack<StorePath>,
    directories: Vec<String>,
}

/// What it has; `None` where only running something would tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traits {
    pub(crate) glibc: bool,
    pub(crate) musl: bool,
    pub(crate) python: Option<bool>,
    pub(crate) shell: Option<bool>,
}

impl Traits {
    /// What is to be said about it, in sentences.
    pub(crate) fn remarks(self) -> Vec<&'static str> {
        let mut remarks = Vec::new();
        if self.python == Some(false) {
            remarks.push(if self.glibc {
                "it has no Python on its PATH, which functions need: `add_python=\"3.12\"` adds one"
            } else {
                "it has no Python on its PATH, which functions need, and no GNU C library, which those of `add_python` need"
            });
        }
        if self.shell == Some(false) {
            remarks.push("it has no `/bin/sh`, which steps need that run commands or install packages");
        }
        remarks
    }
}

/// Looks at an image with these layers, whose PATH may be known.
pub(crate) fn look_at(store: &Store, layers: &Stack<Digest>, path: Option<&str>) -> Result<Traits, StoreError> {
    let directories = path.unwrap_or(DEFAULT_PATH).split(':').map(str::to_owned).collect();
    Ok(store.job(&LookAtImage { views: store.view_paths(layers), directories }, &[])?)
}

impl Job for LookAtImage {
    const NAME: &'static str = "builder.look-at-image";
    type Output = Traits;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Traits, JobError> {
        self.look(&mut Layers::new(context.content(), &self.views))
    }
}

impl LookAtImage {
    fn look(&self, layers: &mut Layers) -> Result<Traits, JobError> {
        let architecture = std::env::consts::ARCH;
        let (glibc, directory) = match architecture {
            "aarch64" => ("ld-linux-aarch64.so.1".to_owned(), "lib"),
            _ => (format!("ld-linux-{}.so.2", architecture.replace('_', "-")), "lib64"),
        };
        let usual = [directory.to_owned(), format!("usr/{directory}"), "lib".to_owned(), "usr/lib".to_owned()];
        let musl = format!("ld-musl-{architecture}.so.1");
        let shells = ["bin".to_owned(), "usr/bin".to_owned()];
        Ok(Traits {
            // Of a directory that is a link, the one that it leads to is among the others.
            glibc: has(layers, &usual, &[&glibc])? == Some(true),
            musl: has(layers, &usual, &[&musl])? == Some(true),
            python: has(layers, &self.directories, &PYTHONS)?,
            shell: has(layers, &shells, &[SHELL])?,
        })
    }
}

/// Whether one of these directories has one of these names; `None` if a link may lead to one that has.
fn has(layers: &mut Layers, directories: &[String], names: &[&str]) -> Result<Option<bool>, JobError> {
    let mut is_certain = true;
    for directory in directories {
        for name in names {
            match layers.entry(&format!("/{}/{name}", directory.trim_matches('/')))? {
                Entry::OfBase(_) | Entry::Above(_) => return Ok(Some(true)),
                Entry::Elsewhere => is_certain &= !matches!(layers.directory(directory)?, Directory::Other),
                Entry::Absent => {}
            }
        }
    }
    Ok(is_certain.then_some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(files: &[&str], link: Option<(&str, &str)>) -> Traits {
        let content = tempfile::tempdir().unwrap();
        let view = content.path().join("view");
        for file in files {
            let path = view.join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        if let Some((name, target)) = link {
            fs_err::create_dir_all(&view).unwrap();
            std::os::unix::fs::symlink(target, view.join(name)).unwrap();
        }
        let views = Stack::from_top_down([StorePath::from("view")]);
        let directories = ["/usr/bin", "/bin"].map(str::to_owned).to_vec();
        let look = LookAtImage { views: views.clone(), directories };
        look.look(&mut Layers::new(content.path(), &views)).unwrap()
    }

    #[test]
    fn what_an_image_lacks_is_said() {
        let loader =
            if cfg!(target_arch = "aarch64") { "lib/ld-linux-aarch64.so.1" } else { "lib64/ld-linux-x86-64.so.2" };
        let whole = traits(&[loader, "usr/bin/python3", "usr/bin/sh"], Some(("bin", "usr/bin")));
        assert_eq!(whole, Traits { glibc: true, musl: false, python: Some(true), shell: Some(true) });
        assert!(whole.remarks().is_empty());
        let plain = traits(&[loader, "bin/sh"], None);
        assert_eq!((plain.python, plain.shell), (Some(false), Some(true)));
        assert!(plain.remarks()[0].contains("add_python"));
        let bare = traits(&["etc/passwd"], None);
        assert_eq!(bare.remarks().len(), 2);
        assert!(bare.remarks()[0].contains("no GNU C library"));
        // Where links lead is not followed, and nothing is claimed.
        let linked = traits(&["opt/bin/python3"], Some(("bin", "opt/bin")));
        assert_eq!((linked.python, linked.shell), (None, None));
    }
}
