//! Extended attributes between their form on disk and their form as seen inside.
//!
//! Overlay mounts keep their own marks in `user.overlay.*` and, since Linux 6.7, store an attribute of that name that a
//! process sets *inside* as `user.overlay.overlay.*`, so that nobody can plant marks. Trees hold attributes as seen
//! inside; views hold the escaped form, which the kernel shows unescaped again.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::disk::{self, Result};
use crate::JobError;

/// Prefix of the overlay's own marks on disk.
const MARK: &[u8] = b"user.overlay.";
/// Prefix on disk of attributes that look like marks to the processes inside.
const ESCAPED: &[u8] = b"user.overlay.overlay.";
/// The mark of a directory that hides its lower ones.
const OPAQUE: &str = "user.overlay.opaque";
/// Attributes outside `user.` that belong to a file rather than to the host's policy.
const KEPT: [&[u8]; 3] = [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
/// Largest list or value that Linux allows.
const LIMIT: usize = 64 << 10;

/// What a file has.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Attributes as seen inside.
    pub(super) inside: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether the overlay marked the directory opaque.
    pub(super) opaque: bool,
    /// Marks of the overlay that mean nothing in a view: where something was copied from, for example.
    pub(super) stale_marks: Vec<Vec<u8>>,
}

/// Reads the attributes of an open file or directory.
pub(super) fn read(file: impl AsFd, path: &Path) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    for name in list(&file, path)? {
        if let Some(rest) = name.strip_prefix(ESCAPED) {
            let value = get(&file, &name, path)?;
            attributes.inside.insert([MARK, rest].concat(), value);
        } else if name == OPAQUE.as_bytes() && get(&file, &name, path)? == b"y" {
            attributes.opaque = true;
        } else if name.starts_with(MARK) {
            attributes.stale_marks.push(name);
        } else if name.starts_with(b"user.") || KEPT.contains(&&name[..]) {
            let value = get(&file, &name, path)?;
            attributes.inside.insert(name, value);
        }
    }
    Ok(attributes)
}

/// Reads the attributes of a file by its path. Most have none, which one system call tells.
pub(super) fn read_at(path: &Path) -> Result<Attributes> {
    let mut first = [0_u8; 1];
    match rustix::fs::llistxattr(path, &mut first) {
        Ok(0) => Ok(Attributes::default()),
        _ => read(disk::open(path)?, path),
    }
}

/// Removes marks.
pub(super) fn remove(file: impl AsFd, names: &[Vec<u8>], path: &Path) -> Result<()> {
    for name in names {
        rustix::fs::fremovexattr(&file, &name[..]).map_err(JobError::file("removing an attribute of", path))?;
    }
    Ok(())
}

/// Sets attributes, given as seen inside.
pub(super) fn write(file: impl AsFd, inside: &BTreeMap<Vec<u8>, Vec<u8>>, path: &Path) -> Result<()> {
    for (name, value) in inside {
        let escaped = name.strip_prefix(MARK).map(|rest| [ESCAPED, rest].concat());
        let name = escaped.as_ref().unwrap_or(name);
        rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty())
            .map_err(JobError::file("setting an attribute of", path))?;
    }
    Ok(())
}

/// Marks a directory opaque.
pub(super) fn set_opaque(directory: impl AsFd, path: &Path) -> Result<()> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
        .map_err(JobError::file("setting an attribute of", path))
}

fn list(file: impl AsFd, path: &Path) -> Result<Vec<Vec<u8>>> {
    // Most files have no attribute; those that have fit.
    let mut small = [0_u8; 512];
    let mut large = Vec::new();
    let listed = match rustix::fs::flistxattr(&file, &mut small) {
        Ok(length) => &small[..length],
        Err(Errno::RANGE) => {
            large.resize(LIMIT, 0);
            let length =
                rustix::fs::flistxattr(&file, &mut large).map_err(JobError::file("listing attributes of", path))?;
            &large[..length]
        }
        Err(Errno::OPNOTSUPP) => &[],
        Err(errno) => return Err(JobError::file("listing attributes of", path)(errno)),
    };
    Ok(listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

fn get(file: impl AsFd, name: &[u8], path: &Path) -> Result<Vec<u8>> {
    let mut value = vec![0; LIMIT];
    let length =
        rustix::fs::fgetxattr(file, name, &mut value).map_err(JobError::file("reading an attribute of", path))?;
    value.truncate(length);
    Ok(value)
}
