//! Parts of the host outside the store that sandboxes may be given: volumes, sockets, devices, driver files.
//!
//! The helpers take hold of them once, when they start, with the rights of the calling user; afterwards no other path of the
//! host can be reached, by whatever they are asked. A sandbox gets those that [`crate::Mount::Host`] names, and no others.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat, statat};
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use crate::SandboxError;
use crate::failure::{During, Failure, Kind};
use crate::tiny_root::{RESOURCES, attach, relative};

/// A directory, file, socket or device node of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// What sandboxes ask for it by: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where it is on the host; an absolute path.
    pub path: String,
}

/// Looks whether every resource has a name of its own that can be one, and an absolute path.
pub(crate) fn check(resources: &[Resource]) -> Result<(), SandboxError> {
    for (index, Resource { name, path }) in resources.iter().enumerate() {
        let is_plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
        if !name.chars().all(is_plain) || name.trim_matches('.').is_empty() {
            return Err(SandboxError::Invalid(format!(
                "the host resource `{name}` needs a name of letters, digits, `-`, `_` and `.`"
            )));
        }
        if resources[..index].iter().any(|other| other.name == *name) {
            return Err(SandboxError::Invalid(format!("there are two host resources `{name}`: rename one")));
        }
        if !path.starts_with('/') {
            return Err(SandboxError::Invalid(format!(
                "the host resource `{name}` needs an absolute path instead of `{path}`"
            )));
        }
    }
    Ok(())
}

/// Takes hold of a resource, with all that is mounted below it: the kernel does not reveal what lies under a mount.
pub(crate) fn hold(resource: &Resource) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, &*resource.path, flags)
        .during(&resource.name, &resource.path)
        .map_err(|failure| failure.of_kind(Kind::Resource))
}

/// Mounts the resources in the tiny root, which is the working directory still.
pub(crate) fn attach_all(resources: &[(String, OwnedFd)]) -> Result<(), Failure> {
    if resources.is_empty() {
        return Ok(());
    }
    mkdirat(CWD, relative(RESOURCES), Mode::from_raw_mode(0o755)).during("make", RESOURCES)?;
    for (name, tree) in resources {
        let place = format!("{}/{name}", relative(RESOURCES));
        let status = statat(tree, "", rustix::fs::AtFlags::EMPTY_PATH).during("look at", name)?;
        if FileType::from_raw_mode(status.st_mode).is_dir() {
            mkdirat(CWD, &place, Mode::from_raw_mode(0o755)).during("make", &place)?;
        } else {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(CWD, &place, flags, Mode::from_raw_mode(0o644)).during("make", &place)?;
        }
        attach(tree, &place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_checked() {
        let resource = |name: &str, path: &str| Resource { name: name.into(), path: path.into() };
        check(&[resource("volume-a.1", "/srv"), resource("b", "/srv")]).unwrap();
        for wrong in ["", "..", "a/b", "a b"] {
            assert!(check(&[resource(wrong, "/srv")]).unwrap_err().to_string().contains("needs a name"));
        }
        assert!(check(&[resource("a", "srv")]).unwrap_err().to_string().contains("absolute path instead of `srv`"));
        assert!(check(&[resource("a", "/x"), resource("a", "/y")]).unwrap_err().to_string().contains("two"));
    }
}
