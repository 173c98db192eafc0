//! What an overlay would show of a path of a layer, without one.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_ground::StorePath;
use rustix::fs::FileType;

use super::disk::{self, Result};
use super::xattrs::{self, Depth};
use super::{WorkerContext, whiteouts};
use crate::placing::Placing;

/// A path of a view or an upper. It knows where the bytes, the marks and the deletions of what is there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPath {
    layer: Arc<Layer>,
    path: PathBuf,
}

/// A view or an upper.
#[derive(Debug, PartialEq, Eq)]
struct Layer {
    content: PathBuf,
    root: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A view whose files lead to objects, and whose deletions are beside it.
    Redirects,
    /// An upper. Marks that lead to objects are the store's own there: overlays escape those of processes inside.
    Upper,
    /// A view that has everything itself.
    Whole,
}

impl LayerPath {
    /// The root of a view of the store with this content directory.
    #[must_use]
    pub fn view(content: &Path, view: &StorePath) -> Self {
        let root = content.join(view);
        let may_redirect = view.below(Placing::Redirects.directory()).is_some();
        let kind = if may_redirect && !xattrs::has_copies(&root) { Kind::Redirects } else { Kind::Whole };
        Self { path: root.clone(), layer: Arc::new(Layer { content: content.to_owned(), root, kind }) }
    }

    /// The upper of a step.
    #[must_use]
    pub fn upper(context: &WorkerContext, work_id: &str) -> Self {
        let (content, root) = (context.content().to_owned(), context.upper(work_id));
        Self { path: root.clone(), layer: Arc::new(Layer { content, root, kind: Kind::Upper }) }
    }

    /// Where it is on the disk: what is there has its name, type, owner and mode, but perhaps not its bytes.
    #[must_use]
    pub fn on_disk(&self) -> &Path {
        &self.path
    }

    /// A path below this one.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> Self {
        Self { layer: Arc::clone(&self.layer), path: self.path.join(path) }
    }

    /// Whether both are of the same layer.
    #[must_use]
    pub fn is_of_layer(&self, other: &Self) -> bool {
        self.layer.root == other.layer.root
    }

    /// Opens the bytes of a regular file, wherever they are.
    ///
    /// # Errors
    /// When it is no regular file, or cannot be read.
    pub fn open(&self) -> Result<File> {
        let redirect = if self.layer.kind == Kind::Whole { None } else { xattrs::redirect(&self.path)? };
        match redirect {
            Some(object) => disk::open(&self.layer.content.join("objects").join(object.trim_start_matches('/'))),
            None => disk::open(&self.path),
        }
    }

    /// Whether a directory hides what layers below have.
    ///
    /// # Errors
    /// When its attributes cannot be read.
    pub fn is_opaque(&self) -> Result<bool> {
        let depth = if self.layer.kind == Kind::Redirects { Depth::Two } else { Depth::One };
        Ok(xattrs::read(disk::open_directory(&self.path)?, depth, &self.path)?.opaque)
    }

    /// Whether the layer says that those below it have nothing here.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn is_deleted(&self) -> Result<bool> {
        whiteouts::is_deletion(&self.deletion())
    }

    /// The names in a directory of which the layer says that those below it do not have them.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn deleted_names(&self) -> Result<Vec<OsString>> {
        let directory = self.deletion();
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

    /// Where it is, if it is a deletion.
    fn deletion(&self) -> PathBuf {
        match self.layer.kind {
            Kind::Redirects => deletion_of(&self.layer.content, &self.path),
            Kind::Upper | Kind::Whole => self.path.clone(),
        }
    }
}

/// Where a path of a view is, if it is a deletion and the view's files lead to objects.
pub(super) fn deletion_of(content: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(content.join(Placing::Redirects.directory())) {
        Ok(below) => content.join(whiteouts::DIRECTORY).join(below),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_what_its_path_in_the_store_says() {
        let content = Path::new("/home/views/store");
        for (layer, kind) in [("views/0a", Kind::Redirects), ("copies/0a", Kind::Whole)] {
            assert_eq!(LayerPath::view(content, &layer.into()).layer.kind, kind, "{layer}");
        }
        let deletion = |layer: &str| deletion_of(content, LayerPath::view(content, &layer.into()).join("x").on_disk());
        assert_eq!(deletion("views/0a"), content.join("whiteouts/0a/x"));
        assert_eq!(deletion("copies/0a"), content.join("copies/0a/x"));
    }
}
