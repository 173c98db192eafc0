//! The local files that an app's containers see.

use lamina_builder::BuiltImage;
use lamina_events::{Event, Sink};
use lamina_ground::Stack;
use lamina_image::container::PACKAGE;
use lamina_image::{Digest, FileEntry, FileKind, FileSet, Ignore};
use lamina_store::{FileSetView, LocalFiles, Store};

use crate::protocol::{Failure, FunctionRequest, Hello};

/// Local files that were collected: each set is shown over the image of every function that it belongs to.
pub(crate) struct AppFiles {
    package: LocalFiles,
    sets: Vec<(FileSet, LocalFiles)>,
}

impl AppFiles {
    /// Collects the package and the functions' files, equal sets once.
    pub(crate) fn collect(
        store: &Store,
        hello: &Hello,
        functions: &[&FunctionRequest],
        sink: &Sink,
    ) -> Result<Self, Failure> {
        let collect = |set: &FileSet| -> Result<LocalFiles, Failure> {
            let mut files = store.collect_files(set).map_err(|error| Failure::of_store(&error))?;
            for message in files.take_warnings() {
                sink.emit(Event::Warning { message });
            }
            Ok(files)
        };
        let mut files = Self { package: collect(&package(hello))?, sets: Vec::new() };
        for set in functions.iter().flat_map(|function| [&function.source, &function.mounts]) {
            if !set.is_empty() && files.sets.iter().all(|(known, _)| known != set) {
                let collected = collect(set)?;
                files.sets.push((set.clone(), collected));
            }
        }
        Ok(files)
    }

    /// The package over an image.
    pub(crate) fn show_package(&mut self, store: &Store, image: &BuiltImage) -> Result<FileSetView, Failure> {
        store.show_files(&mut self.package, &image.layers).map_err(|error| Failure::of_store(&error))
    }

    /// A function's mounts and source over its image and the files that are attached to that.
    pub(crate) fn show(
        &mut self,
        store: &Store,
        function: &FunctionRequest,
        image: &BuiltImage,
    ) -> Result<Stack<Digest>, Failure> {
        let below = image.layers.under(&image.attachments);
        let mut shown = Stack::new();
        for set in [&function.mounts, &function.source] {
            if let Some((_, files)) = self.sets.iter_mut().find(|(known, _)| known == set) {
                let view = store.show_files(files, &below.under(&shown)).map_err(|error| Failure::of_store(&error))?;
                shown.put_all(&view.views);
            }
        }
        Ok(shown)
    }
}

/// The files of the `modal` package, with `cloudpickle` as a part of it: one that the image has is not in the way.
pub(crate) fn package(hello: &Hello) -> FileSet {
    let patterns = ["**/__pycache__", "**/*.pyc"].map(str::to_owned).to_vec();
    let ignore = Some(Ignore::Patterns { patterns, invert: false });
    let entry = |source: &String, target: String| FileEntry {
        source: source.clone(),
        target,
        kind: FileKind::Directory,
        ignore: ignore.clone(),
    };
    let package = entry(&hello.package_directory, PACKAGE.to_owned());
    let cloudpickle = hello.cloudpickle_directory.iter().map(|source| entry(source, format!("{PACKAGE}/_cloudpickle")));
    FileSet { entries: std::iter::once(package).chain(cloudpickle).collect() }
}
