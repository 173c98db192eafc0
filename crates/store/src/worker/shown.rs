//! What an overlay would show of a path of a layer, without one.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use lamina_image::Digest;
use rustix::fs::FileType;

use super::disk::{self, Result};
use super::whiteouts;
use super::xattrs::{self, Depth};
use crate::placing::Placing;

/// Opens the bytes of a regular file of a view, or of an upper, wherever they are.
///
/// # Errors
/// When it is no regular file, or cannot be read.
pub fn open_in_layer(path: &Path) -> Result<File> {
    let Some(content) = content_of(path).or_else(|| content_of_upper(path)) else { return disk::open(path) };
    match xattrs::redirect(path)? {
        Some(object) => disk::open(&content.join("objects").join(object.trim_start_matches('/'))),
        None => disk::open(path),
    }
}

/// Whether a directory of a view hides what layers below have.
///
/// # Errors
/// When its attributes cannot be read.
pub fn is_opaque_in_view(path: &Path) -> Result<bool> {
    Ok(xattrs::read(disk::open_directory(path)?, depth(path), path)?.opaque)
}

/// Whether a layer says that those below it have nothing at this path of it.
///
/// # Errors
/// When that cannot be read.
pub fn is_deleted(path: &Path) -> Result<bool> {
    whiteouts::is_deletion(&deletion_of(path))
}

/// The names of which a directory of a layer says that those below it do not have them.
///
/// # Errors
/// When that cannot be read.
pub fn deleted_in(directory: &Path) -> Result<Vec<OsString>> {
    let directory = deletion_of(directory);
    if disk::try_stat(&directory)?.is_none_or(|stat| disk::file_type(&stat) != FileType::Directory) {
        return Ok(Vec::new());
    }
    let mut deleted = Vec::new();
    for (name, kind) in disk::list(&directory)? {
        if kind == FileType::CharacterDevice && whiteouts::is_deletion(&disk::join(&directory, &name))? {
            deleted.push(OsString::from_vec(name));
        }
    }
    Ok(deleted)
}

/// Where a path of a layer is, if it is a deletion.
fn deletion_of(path: &Path) -> PathBuf {
    let relative = content_of(path).and_then(|content| {
        let below = path.strip_prefix(content.join(Placing::Redirects.directory())).ok()?.to_owned();
        Some(content.join(whiteouts::DIRECTORY).join(below))
    });
    relative.unwrap_or_else(|| path.to_owned())
}

fn depth(path: &Path) -> Depth {
    if content_of(path).is_some() { Depth::Two } else { Depth::One }
}

/// The content directory above a path in a view whose files lead to objects.
fn content_of(path: &Path) -> Option<PathBuf> {
    let is_view = |directory: &&Path| {
        let name = directory.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.parse::<Digest>().is_ok())
            && directory.parent().is_some_and(|parent| parent.ends_with(Placing::Redirects.directory()))
    };
    Some(path.ancestors().find(is_view)?.parent()?.parent()?.to_owned())
}

/// The content directory above a path in an upper. Marks there are the store's own: overlays escape those of processes inside.
fn content_of_upper(path: &Path) -> Option<PathBuf> {
    let is_upper = |directory: &&Path| {
        directory.ends_with("upper") && directory.ancestors().nth(2).is_some_and(|works| works.ends_with("work"))
    };
    Some(path.ancestors().filter(is_upper).last()?.ancestors().nth(3)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_know_where_the_objects_are() {
        let digest = Digest::of(b"");
        let content = content_of(Path::new(&format!("/store/views/{digest}/usr/lib")));
        assert_eq!(content, Some(PathBuf::from("/store")));
        for path in [format!("/store/copies/{digest}/usr"), "/home/views/x".to_owned(), format!("/x/{digest}/views/y")]
        {
            assert_eq!(content_of(Path::new(&path)), None, "{path}");
        }
        let content = Path::new("/store");
        let upper = content_of_upper(&content.join("work/1-2/upper/etc/work/x/upper/y"));
        assert_eq!(upper.as_deref(), Some(content));
        assert_eq!(content_of_upper(Path::new("/store/caches/apt/upper")), None);
    }
}
