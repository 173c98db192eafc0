//! `add_local_*(copy=True)`: local files as a layer.

use lamina_image::{FileSet, KeyMaterial};
use lamina_store::Committed;

use super::Made;
use crate::BuildError;
use crate::schedule::Tools;

pub(crate) struct FilesPlan {
    layer: Committed,
}

/// Top-level directories that are links into `/usr` on every Debian base.
const MERGED: [&str; 4] = ["/bin", "/sbin", "/lib", "/lib64"];

/// The files with targets like `/bin/tool` moved to where they lead to, `/usr/bin/tool`: a directory `/bin` in a later
/// layer would hide the image's link, and with it all of its programs.
pub(crate) fn behind_links(files: &FileSet) -> FileSet {
    let mut files = files.clone();
    for entry in &mut files.entries {
        let is_below = |directory: &&str| {
            entry.target.strip_prefix(*directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if MERGED.iter().any(is_below) {
            entry.target.insert_str(0, "/usr");
        }
    }
    files
}

/// Takes the files into the store: their content is the key, and the layer is ready with it.
pub(crate) fn plan(tools: &Tools, files: &FileSet, material: &mut KeyMaterial) -> Result<FilesPlan, BuildError> {
    let layer = tools.store.file_set_layer(&behind_links(files))?;
    material.add("kind", "copy_files");
    material.add("files", layer.content.hex());
    Ok(FilesPlan { layer })
}

impl FilesPlan {
    pub(crate) fn into_made(self) -> Made {
        Made::Layer(self.layer)
    }
}

#[cfg(test)]
mod tests {
    use lamina_image::{FileEntry, FileKind};

    use super::*;

    #[test]
    fn targets_follow_the_links_of_a_merged_usr() {
        let targets = ["/bin/tool", "/lib", "/library/x", "/usr/bin/y", "/sbin/a/b"];
        let entry = |target: &str| FileEntry {
            source: "/x".to_owned(),
            target: target.to_owned(),
            kind: FileKind::File,
            ignore: None,
        };
        let moved = behind_links(&FileSet { entries: targets.map(entry).to_vec() });
        let moved: Vec<_> = moved.entries.iter().map(|entry| entry.target.as_str()).collect();
        assert_eq!(moved, ["/usr/bin/tool", "/usr/lib", "/library/x", "/usr/bin/y", "/usr/sbin/a/b"]);
    }
}
