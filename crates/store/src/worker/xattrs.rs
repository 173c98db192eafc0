//! Extended attributes between their form on disk and their form as seen inside.
//!
//! Overlay mounts keep their own marks in `user.overlay.*` and, since Linux 6.7, store an attribute of that name that a
//! process sets *inside* as `user.overlay.overlay.*`, so that nobody can plant marks. Trees hold attributes as seen
//! inside; what is on disk holds the escaped form, which the kernel shows unescaped again. A view of redirects is shown by
//! an overlay of its own below the one of the image, so that its marks and attributes are escaped once more.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::disk::Result;
use crate::JobError;

/// Prefix of the overlay's own marks on disk.
const MARK: &[u8] = b"user.overlay.";
/// The part that an overlay adds to the name of an attribute inside that looks like a mark.
const ESCAPE: &[u8] = b"overlay.";
/// The mark of a directory that hides its lower ones.
const OPAQUE: &[u8] = b"opaque";
/// The mark of a view's root that there are deletions in the view. Overlays pass over it; who mounts the view looks at it.
const HAS_WHITEOUTS: &[u8] = b"user.overlay.lamina.whiteouts";
/// The mark of a view's root that its files have their bytes themselves although those of other views do not.
const HAS_COPIES: &[u8] = b"user.overlay.lamina.copies";
/// The mark of a file that has no bytes of its own.
pub(super) const METACOPY: &str = "user.overlay.metacopy";
/// The mark that says where they are.
pub(super) const REDIRECT: &str = "user.overlay.redirect";
/// Attributes outside `user.` that belong to a file rather than to the host's policy.
const KEPT: [&[u8]; 3] = [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
/// Largest list or value that Linux allows.
const LIMIT: usize = 64 << 10;

/// How many overlays stand between what is on disk and the processes inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Uppers, and views that the image's overlay has as lower directories.
    One,
    /// Views that an overlay of their own shows to that of the image.
    Two,
}

impl Depth {
    /// The name on disk of a mark that the image's overlay is to see.
    fn mark(self, name: &[u8]) -> Vec<u8> {
        let escapes = if self == Self::Two { ESCAPE } else { b"" };
        [MARK, escapes, name].concat()
    }

    /// The name on disk of an attribute inside.
    pub(super) fn name(self, inside: Vec<u8>) -> Vec<u8> {
        inside.strip_prefix(MARK).map(|rest| self.escaped(rest)).unwrap_or(inside)
    }

    /// The name on disk of an attribute inside that looks like a mark without its prefix `user.overlay.`.
    fn escaped(self, name: &[u8]) -> Vec<u8> {
        self.mark(&[ESCAPE, name].concat())
    }
}

/// What a file has.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Attributes as seen inside.
    pub(super) inside: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether the directory hides its lower ones.
    pub(super) opaque: bool,
    /// Marks of the overlay that mean nothing in a view: where something was copied from, for example.
    pub(super) stale_marks: Vec<Vec<u8>>,
}

impl Attributes {
    /// Whether the file says that its bytes are elsewhere.
    pub(super) fn is_redirected(&self) -> bool {
        self.stale_marks.iter().any(|name| name == METACOPY.as_bytes() || name == REDIRECT.as_bytes())
    }

    /// Whether something is on disk under another name at another depth.
    pub(super) fn depends_on_depth(&self) -> bool {
        self.opaque || self.inside.keys().any(|name| name.starts_with(MARK))
    }
}

/// Reads the attributes of an open file or directory.
pub(super) fn read(file: impl AsFd, depth: Depth, path: &Path) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    for name in list(&file, path)? {
        if let Some(rest) = name.strip_prefix(&depth.escaped(b"")[..]) {
            let value = get(&file, &name, path)?;
            attributes.inside.insert([MARK, rest].concat(), value);
        } else if name == depth.mark(OPAQUE) && get(&file, &name, path)? == b"y" {
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

/// Where a file says that its bytes are, if it does: a path in the data-only layer.
pub(super) fn redirect(path: &Path) -> Result<Option<String>> {
    let mut value = [0; 64];
    match rustix::fs::lgetxattr(path, REDIRECT, &mut value[..]) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&value[..length]).into_owned())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(JobError::file("reading an attribute of", path)(errno)),
    }
}

/// Removes attributes, named as on disk.
pub(super) fn remove(file: impl AsFd, names: &[Vec<u8>], path: &Path) -> Result<()> {
    for name in names {
        rustix::fs::fremovexattr(&file, &name[..]).map_err(JobError::file("removing an attribute of", path))?;
    }
    Ok(())
}

/// Sets attributes, given as seen inside.
pub(super) fn write(file: impl AsFd, depth: Depth, inside: &BTreeMap<Vec<u8>, Vec<u8>>, path: &Path) -> Result<()> {
    for (name, value) in inside {
        set(&file, &depth.name(name.clone()), value, path)?;
    }
    Ok(())
}

/// Removes what a file has at one depth and sets the same for another one.
pub(super) fn move_to_depth(file: impl AsFd, from: Depth, to: Depth, had: &Attributes, path: &Path) -> Result<()> {
    let (moved, mut names): (BTreeMap<_, _>, Vec<_>) = (
        had.inside.iter().filter(|(name, _)| name.starts_with(MARK)).map(|(a, b)| (a.clone(), b.clone())).collect(),
        had.inside.keys().filter_map(|name| Some(from.escaped(name.strip_prefix(MARK)?))).collect(),
    );
    if had.opaque {
        names.push(from.mark(OPAQUE));
    }
    remove(&file, &names, path)?;
    if had.opaque {
        set_opaque(&file, to, path)?;
    }
    write(file, to, &moved, path)
}

/// Marks a directory opaque.
pub(super) fn set_opaque(directory: impl AsFd, depth: Depth, path: &Path) -> Result<()> {
    set(directory, &depth.mark(OPAQUE), b"y", path)
}

/// Says of a view, by its root, that there are deletions in it.
pub(super) fn set_has_whiteouts(root: impl AsFd, path: &Path) -> Result<()> {
    set(root, HAS_WHITEOUTS, b"", path)
}

/// Says of a view, by its root, that its files have their bytes themselves.
pub(super) fn set_has_copies(root: impl AsFd, path: &Path) -> Result<()> {
    set(root, HAS_COPIES, b"", path)
}

/// Whether the root of a view says that its files have their bytes themselves.
pub(super) fn has_copies(root: &Path) -> bool {
    rustix::fs::lgetxattr(root, HAS_COPIES, &mut [0_u8; 1]).is_ok()
}

/// Whether the root of a view says that there are deletions in it.
pub(super) fn has_whiteouts(root: &Path) -> bool {
    rustix::fs::lgetxattr(root, HAS_WHITEOUTS, &mut [0_u8; 1]).is_ok()
}

fn set(file: impl AsFd, name: &[u8], value: &[u8], path: &Path) -> Result<()> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
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
