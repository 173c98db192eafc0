//! A store in a temporary directory.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lamina_image::{Digest, FileEntry, FileKind, FileSet};
use lamina_store::tree::{Entry, Tree};
use lamina_store::{CommitRules, Committed, JobTable, Layout, Store, Work, worker_main};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

/// A store that is removed with the test.
pub(crate) struct TestStore {
    /// `None` after [`TestStore::close`].
    store: Option<Store>,
    worker: Option<JoinHandle<()>>,
    pub(crate) root: PathBuf,
    /// Removed with the store.
    directory: Option<tempfile::TempDir>,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let mut store = Self::open(&root);
        store.directory = Some(directory);
        store
    }

    /// Opens the store at `root`, which somebody else removes.
    pub(crate) fn open(root: &Path) -> Self {
        Self::open_with(root, JobTable::new())
    }

    pub(crate) fn open_with(root: &Path, jobs: JobTable) -> Self {
        let layout = Layout::prepare(root).unwrap();
        let content = layout.content();
        let (engine, socket) = UnixStream::pair().unwrap();
        let worker = std::thread::spawn(move || worker_main(socket, &content, jobs, || ()));
        let store = Store::open(layout, engine).unwrap();
        Self { store: Some(store), worker: Some(worker), root: root.to_owned(), directory: None }
    }

    pub(crate) fn content(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("content").join(path)
    }

    pub(crate) fn view(&self, digest: &Digest, path: &str) -> PathBuf {
        self.content(self.view_path(digest)).join(path)
    }

    /// Where the bytes of a file of a view are.
    pub(crate) fn bytes(&self, digest: &Digest, path: &str) -> PathBuf {
        let view = self.view(digest, path);
        match xattr(&view, "user.overlay.redirect") {
            Some(object) => self.content(format!("objects{}", String::from_utf8(object).unwrap())),
            None => view,
        }
    }

    pub(crate) fn read(&self, digest: &Digest, path: &str) -> Vec<u8> {
        std::fs::read(self.bytes(digest, path)).unwrap()
    }

    /// Whether the files of a view lead to objects.
    pub(crate) fn redirects(&self, digest: &Digest) -> bool {
        self.view_path(digest).below("views").is_some()
            && xattr(self.view(digest, ""), "user.overlay.lamina.copies").is_none()
    }

    /// Whether files of views are objects themselves, where they can be.
    pub(crate) fn links_objects(&self) -> bool {
        std::fs::read_to_string(self.content("placing.json")).unwrap().contains("\"links\"")
    }

    pub(crate) fn upper(&self, work: &Work) -> PathBuf {
        self.content(work.upper())
    }

    /// Commits what `fill` puts into an upper.
    pub(crate) fn layer(&self, rules: CommitRules, fill: impl FnOnce(&Path)) -> Committed {
        let work = self.new_work().unwrap();
        fill(&self.upper(&work));
        let committed = self.commit(&work, rules).unwrap();
        assert_eq!(self.verify(&committed.digest).unwrap(), Vec::<String>::new());
        committed
    }

    pub(crate) fn tree(&self, digest: &Digest) -> Tree {
        Tree::decode(&std::fs::read(self.content(format!("trees/{digest}"))).unwrap()).unwrap()
    }

    pub(crate) fn entry(&self, digest: &Digest, path: &str) -> Option<Entry> {
        self.tree(digest).entries().iter().find(|entry| entry.path == path.as_bytes()).cloned()
    }

    /// Names in a directory of the content.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.content(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Ends the session and begins another one.
    pub(crate) fn reopen(&mut self) {
        self.close();
        let mut fresh = Self::open(&self.root);
        fresh.directory = self.directory.take();
        *self = fresh;
    }

    /// Ends the session and waits for the worker.
    pub(crate) fn close(&mut self) {
        drop(self.store.take());
        if let Some(worker) = self.worker.take() {
            worker.join().unwrap();
        }
    }
}

impl std::ops::Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.close();
        drop(self.directory.take());
    }
}

pub(crate) fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap();
}

pub(crate) fn whiteout(path: impl AsRef<Path>) {
    device(path, 0, 0);
}

pub(crate) fn device(path: impl AsRef<Path>, major: u32, minor: u32) {
    let number = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path.as_ref(), FileType::CharacterDevice, Mode::RUSR, number).unwrap();
}

pub(crate) fn fifo(path: impl AsRef<Path>) {
    rustix::fs::mknodat(CWD, path.as_ref(), FileType::Fifo, Mode::RUSR, 0).unwrap();
}

pub(crate) fn set_xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path.as_ref(), name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub(crate) fn xattr(path: impl AsRef<Path>, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = rustix::fs::getxattr(path.as_ref(), name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

pub(crate) fn inode(path: impl AsRef<Path>) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::symlink_metadata(path).unwrap())
}

/// Sets the modification time.
pub(crate) fn set_time(path: impl AsRef<Path>, time: SystemTime) {
    let time = Timespec { tv_sec: time.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed(), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn directory_set(source: &Path, target: &str) -> FileSet {
    FileSet { entries: vec![directory_entry(source, target)] }
}

pub(crate) fn directory_entry(source: &Path, target: &str) -> FileEntry {
    FileEntry {
        source: source.to_str().unwrap().to_owned(),
        target: target.to_owned(),
        kind: FileKind::Directory,
        ignore: None,
    }
}

/// Waits until the clock has moved on far enough for the status of files to be relied on.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(60));
}
