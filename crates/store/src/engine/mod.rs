//! The engine's side: index, locks, local files, and requests to the worker.

mod client;
mod collection;
mod copy;
mod files;
mod health;
mod image_tree;
mod index;
mod lease;
mod lock;
mod looks;
mod placed;
mod records;
mod upgrade;
mod work;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lamina_events::{CancelToken, Event, Sink};
use lamina_ground::{Stack, StorePath};
use lamina_image::{Digest, FileSet, LayerKey};

use crate::layout::{BEGINNING, SEEDED};
use crate::names::check_name;
use crate::placing::Placing;
use crate::protocol::{Published, Request};
use crate::tree::Tree;
use crate::{CacheFilter, CommitRules, Committed, Harvest, Job, JobError, Layout, StoreError, layout};

use client::Client;
use index::Index;
use lease::{Leftovers, Session, Use};
use looks::Looks;

pub use collection::{Collected, ImageUsage, Policy, Usage};
pub use copy::{Copy, CopyMode, Named, Onto};
pub use files::{Collection as LocalFiles, Context, FileSetView};
pub use health::{Checked, Damage, Outcome};
pub use lock::Lock;
pub use placed::Placed;
pub use records::{ArchiveRecord, ImageName, ImageRecord, LayerPart, LayerRecord, NamedImage, Origin};
pub use work::Work;

/// What became of a tree that was to be a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// The layer, which stays as long as this process lives.
    Layer(Committed),
    /// The store lacks objects with these digests.
    Missing(Vec<Digest>),
}

/// Dead sessions swept at one start: their locks travel as descriptors, of which a frame carries about 250.
const MAXIMUM_LEFTOVERS: usize = 200;

/// What is said of a wait for a collection.
const WAITING: &str = "waiting for another `modal` that removes images";

/// An opened store. Clones share the connection to the worker and the index.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// Ends waits for a collection.
    cancel: CancelToken,
    /// Hears of the first wait for a collection.
    sink: Sink,
    has_waited: Arc<AtomicBool>,
}

/// What clones and works share.
#[derive(Debug)]
struct Shared {
    layout: Layout,
    client: Client,
    index: Index,
    session: Session,
    works: AtomicU64,
    /// How files get into views.
    placing: Placing,
    looks: Looks,
}

impl Shared {
    fn next_work_id(&self) -> String {
        format!("{}-{}", self.session.name, self.works.fetch_add(1, Ordering::Relaxed))
    }
}

impl Store {
    /// Whether its worker has ended: little can be done with it then, and another process has to open it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.client.is_over()
    }

    /// Opens a store: checks the index and sweeps what dead processes left.
    ///
    /// # Errors
    /// When the index is of a newer format or cannot be opened, or the worker does not answer.
    pub fn open(layout: Layout, worker: UnixStream) -> Result<Self, StoreError> {
        let client = Client::new(worker)?;
        let index = {
            let _opening = Lock::take(&layout.locks().join("index"), &CancelToken::new(), || ())?;
            Index::open(&layout.index_file())?
        };
        let session = Session::begin(&layout)?;
        let leftovers = lease::find_leftovers(&layout, MAXIMUM_LEFTOVERS)?;
        let placing = start(&client, &session, &leftovers)?;
        drop(leftovers);
        let shared =
            Shared { layout, client, index, session, works: AtomicU64::new(0), placing, looks: Looks::default() };
        tracing::info!(path = %shared.layout.root().display(), placing = ?shared.placing, session = shared.session.name, "store");
        upgrade::upgrade(&shared)?;
        let shared = Arc::new(shared);
        Ok(Self { shared, cancel: CancelToken::new(), sink: Sink::none(), has_waited: Arc::default() })
    }

    /// The same store for a caller whose waits for a collection `cancel` ends, and who hears of the first one through
    /// `sink`.
    #[must_use]
    pub fn on_behalf_of(&self, cancel: &CancelToken, sink: &Sink) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared, cancel: cancel.clone(), sink: sink.clone(), has_waited: Arc::default() }
    }

    /// Where the store is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// The record with this key, if the views of its layers are still there; they stay as long as this process lives.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find_layer(&self, key: &LayerKey) -> Result<Option<LayerRecord>, StoreError> {
        match self.shared.index.layer(key)? {
            Some(record) if self.hold(record.digests().bottom_up())? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// As [`Store::find_layer`], without waiting for the look at its view: [`Store::confirm`] must be called before anything
    /// uses that.
    ///
    /// # Errors
    /// As [`Store::find_layer`].
    pub fn expect_layer(&self, key: &LayerKey) -> Result<Option<LayerRecord>, StoreError> {
        match self.shared.index.layer(key)? {
            Some(record) if self.begin_hold(record.digests().bottom_up())? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// What is known of the layer with this key, whether it is still there or not.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn layer_record(&self, key: &LayerKey) -> Result<Option<LayerRecord>, StoreError> {
        self.shared.index.layer(key)
    }

    /// Keeps layers from being collected as long as this process lives; false when one of them is gone already.
    ///
    /// # Errors
    /// When it cannot be noted down.
    pub fn hold(&self, layers: &[Digest]) -> Result<bool, StoreError> {
        Ok(self.begin_hold(layers)? && (self.confirm()? || !self.any_damaged(layers)))
    }

    /// As [`Store::hold`], without waiting for the looks at their views: [`Store::confirm`] or [`Store::is_intact`] must be
    /// asked before anything uses these.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub fn begin_hold(&self, layers: &[Digest]) -> Result<bool, StoreError> {
        let _paused = self.hold_off_collection()?;
        for layer in layers {
            self.shared.session.note(Use::Layer(*layer))?;
        }
        for layer in layers {
            if !self.is_usable(layer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a view again that is not there in the way that this machine needs; false when that is impossible.
    fn restore_view(&self, digest: &Digest) -> Result<bool, StoreError> {
        let has_tree = self.layout().content().join(format!("trees/{digest}")).is_file();
        Ok(has_tree && self.shared.client.call(Request::MakeView { digest: *digest })?)
    }

    /// Holds off collection until the lock is dropped: for as long as something is on its way into the store that nothing
    /// refers to yet. Waits for a collection that is at work.
    ///
    /// # Errors
    /// When cancelled while waiting, or the lock file cannot be made.
    pub fn hold_off_collection(&self) -> Result<Lock, StoreError> {
        let waiting = || {
            if !self.has_waited.swap(true, Ordering::Relaxed) {
                self.sink.emit(Event::Warning { message: WAITING.to_owned() });
            }
        };
        Lock::share(&collection::lock_file(self.layout()), &self.cancel, waiting)
    }

    /// The newest layers whose key material has this `kind`: what a step that is not cached can be compared with.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn recent_layers(&self, kind: &str, count: u32) -> Result<Vec<LayerRecord>, StoreError> {
        self.shared.index.recent_layers(kind, count)
    }

    /// Records a layer, replacing an older record with the same key.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn record_layer(&self, record: &LayerRecord) -> Result<(), StoreError> {
        self.shared.index.put_layer(record)
    }

    /// Records an image, replacing an older record with the same id but keeping its creation time.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn record_image(&self, record: &ImageRecord) -> Result<(), StoreError> {
        self.shared.index.put_image(record)
    }

    /// All images, last used first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list_images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.shared.index.images()
    }

    /// The image with exactly this id, whose layers stay as long as this process lives: nothing where one of them is gone.
    /// They are usable once [`Store::confirm`] says so.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn expect_image(&self, id: &str) -> Result<Option<ImageRecord>, StoreError> {
        match self.shared.index.image(id)? {
            Some(record) if self.begin_hold(record.layers.bottom_up())? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// Gives an image a name, which another one may have had.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn name_image(&self, named: &NamedImage) -> Result<(), StoreError> {
        self.shared.index.put_name(named)
    }

    /// All names of images, in their order.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn image_names(&self) -> Result<Vec<NamedImage>, StoreError> {
        self.shared.index.names()
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn named_image(&self, name: &ImageName) -> Result<Option<NamedImage>, StoreError> {
        self.shared.index.name(name)
    }

    /// Takes a name away from its image.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn unname_image(&self, name: &ImageName) -> Result<(), StoreError> {
        self.shared.index.remove_name(name)
    }

    /// Notes an archive of a layer, in the place of an earlier one of this form.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn record_archive(&self, record: &ArchiveRecord) -> Result<(), StoreError> {
        self.shared.index.put_archive(record)
    }

    /// What is known of a layer's archive of this form.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn archive(&self, layer: &Digest, form: &str) -> Result<Option<ArchiveRecord>, StoreError> {
        self.shared.index.archive(layer, form)
    }

    /// The image whose id starts with `prefix`.
    ///
    /// # Errors
    /// When several match or the index cannot be read.
    pub fn find_image(&self, prefix: &str) -> Result<Option<ImageRecord>, StoreError> {
        let mut images = self.shared.index.images_starting_with(prefix)?;
        if images.len() > 1 {
            let ids: Vec<String> = images.iter().map(|image| format!("`{}`", image.id)).collect();
            return Err(StoreError::Ambiguous { prefix: prefix.to_owned(), matches: ids.join(", ") });
        }
        Ok(images.pop())
    }

    /// Takes the lock `name`, waiting for other processes and threads; `waiting` is called once if it has to.
    ///
    /// # Errors
    /// When cancelled, or the lock file cannot be made.
    pub fn lock(&self, name: &str, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Lock, StoreError> {
        check_name(name)?;
        Lock::take(&self.layout().locks().join(format!("{}{name}", lease::NAMED)), cancel, waiting)
    }

    /// Makes directories for a step to write into.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new_work(&self) -> Result<Work, StoreError> {
        Work::new(&self.shared)
    }

    /// Removes what a step wrote.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard(&self, work: Work) -> Result<(), StoreError> {
        work.discard()
    }

    /// Turns a step's upper into a layer. The upper is gone afterwards; no process may have it mounted.
    ///
    /// # Errors
    /// When a file cannot be read or the disk is full; nothing is published then.
    pub fn commit(&self, work: &Work, rules: CommitRules) -> Result<Committed, StoreError> {
        self.commit_until(work, rules, &CancelToken::new())
    }

    /// As [`Store::commit`], but gives up when `cancel` says so; the work is to be dropped then.
    ///
    /// # Errors
    /// As [`Store::commit`], and when cancelled.
    pub fn commit_until(&self, work: &Work, rules: CommitRules, cancel: &CancelToken) -> Result<Committed, StoreError> {
        let id = work.id().to_owned();
        let paused = self.hold_off_collection()?;
        // The worker holds the lock as well: it finishes the commit even if this process dies.
        let pending = self.shared.client.begin(Request::Commit { id, rules }, &[], &[paused.handle()])?;
        let committed: Committed = pending.wait_until(cancel)?;
        self.shared.session.note(Use::Layer(committed.digest))?;
        Ok(committed)
    }

    /// Makes a layer of a tree in its canonical encoding whose objects are there, or says which are not; nothing is published
    /// then. The caller holds off collection from the first of the objects on.
    ///
    /// # Errors
    /// When it is no tree, its view cannot be made, or `cancel` says so.
    pub fn adopt_tree(&self, encoded: &[u8], cancel: &CancelToken) -> Result<Adopted, StoreError> {
        let tree = Tree::decode(encoded).map_err(|error| StoreError::InvalidFileSet(error.to_string()))?;
        let digest = Digest::of(encoded);
        if !self.is_usable(&digest)? {
            let pending = self.shared.client.begin(Request::Publish, encoded, &[])?;
            if let Published::Missing(missing) = pending.wait_until(cancel)? {
                return Ok(Adopted::Missing(missing));
            }
        }
        self.shared.session.note(Use::Layer(digest))?;
        let (files, bytes) = tree.totals();
        Ok(Adopted::Layer(Committed { digest, content: tree.content(), files, bytes, bytes_new: 0 }))
    }

    /// The view of a layer.
    #[must_use]
    pub fn view_path(&self, layer: &Digest) -> StorePath {
        format!("{}/{layer}", self.shared.placing.directory()).into()
    }

    /// The views of layers.
    #[must_use]
    pub fn view_paths(&self, layers: &Stack<Digest>) -> Stack<StorePath> {
        layers.map(|layer| self.view_path(layer))
    }

    /// Whether the view of a layer and its tree exist.
    #[must_use]
    pub fn has_view(&self, digest: &Digest) -> bool {
        let content = self.layout().content();
        content.join(self.view_path(digest)).is_dir() && content.join(format!("trees/{digest}")).is_file()
    }

    /// Collects local files: looks for them, and reads what is not known.
    ///
    /// # Errors
    /// When a source is missing, is no directory or file as declared, cannot be read or does not hold still.
    pub fn collect_files(&self, set: &FileSet) -> Result<LocalFiles, StoreError> {
        let _paused = self.hold_off_collection()?;
        LocalFiles::collect(self, set)
    }

    /// Makes collected files mountable over an image with these layers. Fast when little changed: the
    /// result may be a delta over an older view.
    ///
    /// # Errors
    /// When the files cannot be where they should in this image, or do not hold still.
    pub fn show_files(&self, files: &mut LocalFiles, image: &Stack<Digest>) -> Result<FileSetView, StoreError> {
        let _paused = self.hold_off_collection()?;
        let view = files.view(self, image)?;
        view.views.bottom_up().iter().try_for_each(|digest| self.shared.session.note(Use::Layer(*digest)))?;
        Ok(view)
    }

    /// Collects local files and makes them mountable over an image.
    ///
    /// # Errors
    /// As [`Store::collect_files`] and [`Store::show_files`].
    pub fn file_set(&self, set: &FileSet, image: &Stack<Digest>) -> Result<FileSetView, StoreError> {
        self.show_files(&mut self.collect_files(set)?, image)
    }

    /// As [`Store::file_set`], always as one layer with a diff tree of its own.
    ///
    /// # Errors
    /// As [`Store::file_set`].
    pub fn file_set_layer(&self, set: &FileSet, image: &Stack<Digest>) -> Result<Committed, StoreError> {
        let _paused = self.hold_off_collection()?;
        let layer = LocalFiles::collect(self, set)?.layer(self, image)?;
        self.shared.session.note(Use::Layer(layer.digest))?;
        Ok(layer)
    }

    /// What of a local directory is asked for, as a layer over nothing.
    ///
    /// # Errors
    /// When it is missing, is no directory, cannot be read or does not hold still.
    pub fn context_layer(&self, context: &Context<'_>) -> Result<Committed, StoreError> {
        let _paused = self.hold_off_collection()?;
        let layer = context.layer(self)?;
        self.shared.session.note(Use::Layer(layer.digest))?;
        Ok(layer)
    }

    /// Copies files of one image into another, as a layer over that. No byte is copied.
    ///
    /// # Errors
    /// When a source is missing, or the files cannot be where they should.
    pub fn copy(&self, copy: &Copy<'_>, from: &Stack<Digest>, onto: &Stack<Digest>) -> Result<Committed, StoreError> {
        let _paused = self.hold_off_collection()?;
        let layer = copy.layer(self, from, onto)?;
        self.shared.session.note(Use::Layer(layer.digest))?;
        Ok(layer)
    }

    /// What the sources of a copy name.
    ///
    /// # Errors
    /// When links lead in a circle.
    pub fn named(&self, copy: &Copy<'_>, from: &Stack<Digest>) -> Result<Vec<Named>, StoreError> {
        copy.named(self, from)
    }

    /// Directories and links at absolute paths, as a layer over an image.
    ///
    /// # Errors
    /// When they cannot be where they should.
    pub fn placed_layer(&self, placed: &[(String, Placed)], onto: &Stack<Digest>) -> Result<Committed, StoreError> {
        let _paused = self.hold_off_collection()?;
        let layer = placed::layer(self, placed, onto)?;
        self.shared.session.note(Use::Layer(layer.digest))?;
        Ok(layer)
    }

    /// The package cache `name`; made if missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn cache_directory(&self, name: &str) -> Result<StorePath, StoreError> {
        let _paused = self.hold_off_collection()?;
        self.shared.session.note(Use::Cache(name.to_owned()))?;
        self.shared.client.call::<()>(Request::Cache { cache: name.to_owned() })?;
        Ok(format!("caches/{name}").into())
    }

    /// A cache that begins as a copy of what a pattern names in an image: the copy, which is made once and may be changed then.
    ///
    /// # Errors
    /// When nothing is there, or it cannot be copied.
    pub fn seeded_cache(&self, name: &str, source: &str, from: &Stack<Digest>) -> Result<StorePath, StoreError> {
        let cache = format!("{SEEDED}{name}");
        let path = self.cache_directory(&cache)?;
        let begin = |layer| self.shared.client.call::<bool>(Request::BeginCache { cache: cache.clone(), layer });
        if !begin(None)? {
            let copy = Copy {
                sources: &[source.to_owned()],
                target: &format!("/{BEGINNING}"),
                owner: None,
                mode: None,
                parents: false,
                exclude: &[],
                onto: Onto::Hidden,
            };
            let _paused = self.hold_off_collection()?;
            begin(Some(copy.layer(self, from, &Stack::new())?.digest))?;
        }
        Ok(format!("{path}/{BEGINNING}").into())
    }

    /// Makes an upper and a work directory over a cache for one step.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new_cache_upper(&self, work: &Work, name: &str) -> Result<(StorePath, StorePath), StoreError> {
        let request = Request::NewCacheUpper { id: work.id().to_owned(), cache: name.to_owned() };
        self.shared.client.call::<()>(request)?;
        Ok(layout::cache_upper_paths(work.id(), name))
    }

    /// Moves new files of a step's cache upper into the shared cache. Call it when the step's sandbox is gone.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn harvest_cache(&self, work: &Work, name: &str, filter: &CacheFilter) -> Result<Harvest, StoreError> {
        let (id, cache) = (work.id().to_owned(), name.to_owned());
        self.shared.client.call_until(Request::Harvest { id, cache, filter: filter.clone() }, &self.cancel)
    }

    /// Runs a job in the worker. When cancelled nobody waits for it any longer; the worker finishes what it has begun.
    ///
    /// # Errors
    /// What the job answers, or kind `store` when the worker is gone or the wait was cancelled.
    pub fn job<J: Job>(&self, job: &J, fds: &[BorrowedFd<'_>]) -> Result<J::Output, JobError> {
        let job = serde_json::to_value(job).map_err(|error| {
            JobError::new(JobError::STORE, format!("the job `{}` could not be encoded: {error}", J::NAME))
        })?;
        let request = Request::Job { name: J::NAME.to_owned(), job };
        Ok(self.shared.client.begin(request, &[], fds)?.wait_until(&self.cancel)?)
    }

    /// Checks a layer's files against its tree; answers one sentence per problem.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn verify(&self, digest: &Digest) -> Result<Vec<String>, StoreError> {
        self.shared.client.call(Request::Verify { digest: *digest })
    }

    /// The digest of what a layer holds, whenever it was made; none if the layer is not there, or damaged.
    #[must_use]
    pub fn content_of(&self, digest: &Digest) -> Option<Digest> {
        Some(self.tree(digest)?.content())
    }

    /// The diff tree of a layer, if it is there and sound.
    fn tree(&self, digest: &Digest) -> Option<Tree> {
        Tree::decode(&self.encoded_tree(digest)?).ok()
    }

    /// The canonical encoding of a layer's diff tree, if it is there and sound.
    #[must_use]
    pub fn encoded_tree(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.layout().content().join("trees").join(digest.hex());
        let encoded = fs_err::read(path).ok()?;
        Some(encoded).filter(|encoded| Digest::of(encoded) == *digest)
    }

    /// Deletes the whole store, whatever state its index is in.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(layout: &Layout, worker: UnixStream) -> Result<(), StoreError> {
        let client = Client::new(worker)?;
        let session = Session::begin(layout)?;
        start(&client, &session, &Leftovers::default())?;
        client.call::<()>(Request::Remove)?;
        Ok(fs_err::remove_dir_all(layout.root())?)
    }
}

/// Begins the conversation with the worker, which holds the locks as well and removes what dead sessions left.
fn start(client: &Client, session: &Session, leftovers: &Leftovers) -> Result<Placing, StoreError> {
    let start = Request::Start { session: session.name.clone(), leftovers: leftovers.directories.clone() };
    let fds: Vec<_> = std::iter::once(&session.lock).chain(&leftovers.locks).map(Lock::handle).collect();
    client.begin(start, &[], &fds)?.wait()
}
