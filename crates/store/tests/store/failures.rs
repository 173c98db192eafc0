//! Full and read-only disks, workers that are gone.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_ground::{EnvVars, Stack};
use lamina_store::{CommitRules, Layout, Policy, Store, StoreError};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::support::*;

/// A store whose content is on a small filesystem of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &std::ffi::CStr) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        Layout::prepare(&disk.root()).unwrap();
        mount("tmpfs", disk.content(), "tmpfs", MountFlags::empty(), size).unwrap();
        disk
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn content(&self) -> PathBuf {
        self.root().join("content")
    }

    fn make_read_only(&self, is_read_only: bool) {
        let flags = if is_read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(self.content(), flags, "").unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.content(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_an_error_that_publishes_nothing() {
    let disk = SmallDisk::new(c"size=4m");
    let store = TestStore::open(&disk.root());
    let local = tempfile::tempdir().unwrap();
    std::fs::write(local.path().join("large"), vec![7; 8 << 20]).unwrap();
    let error = store.file_set(&directory_set(local.path(), "/root"), &Stack::new()).unwrap_err().to_string();
    assert!(error.contains("No space left on device") && error.contains('`'), "{error}");
    let work = store.new_work().unwrap();
    write(store.upper(&work).join("file"), "x");
    // What a commit has to write are few small files: nothing is left for them.
    let filler = store.content("work/filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    let error = store.commit(&work, CommitRules::default()).unwrap_err().to_string();
    assert!(error.contains("No space left on device") && error.contains('`'), "{error}");
    assert_eq!((store.names("views").len(), store.names("trees").len()), (0, 0));
    drop(file);
    std::fs::remove_file(filler).unwrap();
    store.discard(work).unwrap();
    store.layer(CommitRules::default(), |upper| write(upper.join("small"), "fits again"));
}

/// A file system for a whole store, hardly larger than a full one.
struct FullDisk(tempfile::TempDir);

impl FullDisk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        mount("tmpfs", disk.0.path(), "tmpfs", MountFlags::empty(), c"size=80m,nr_inodes=1000").unwrap();
        disk
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// Takes every inode, or every byte.
    fn fill(&self, with_bytes: bool) {
        let filler = self.0.path().join("filler");
        std::fs::create_dir(&filler).unwrap();
        if with_bytes {
            let mut file = std::fs::File::create(filler.join("file")).unwrap();
            while std::io::Write::write(&mut file, &[7; 4096]).is_ok() {}
        } else {
            for number in 0.. {
                if std::fs::File::create(filler.join(number.to_string())).is_err() {
                    break;
                }
            }
        }
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn on_a_full_disk_the_reserve_lets_one_clear_away() {
    for with_bytes in [true, false] {
        let disk = FullDisk::new();
        let layout = Layout::prepare(&disk.root()).unwrap();
        layout.keep_reserve();
        let last = disk.root().join("reserve/31");
        std::fs::remove_file(&last).unwrap();
        layout.keep_reserve();
        assert!(last.is_file(), "a part of it is completed");
        assert!(layout.spend_reserve().is_none(), "there is space");
        let store = TestStore::open(&disk.root());
        store.layer(CommitRules::default(), |upper| write(upper.join("file"), "x".repeat(5000)));
        drop(store);
        disk.fill(with_bytes);
        let probe = disk.root().join("probe");
        assert!(std::fs::write(&probe, [7; 4096]).is_err());
        {
            let _reserve = layout.spend_reserve().unwrap();
            let store = TestStore::open(&disk.root());
            let everything = Policy { unused_for: Some(Duration::ZERO), ..Policy::default() };
            store.collect(&everything, &CancelToken::new(), &|| ()).unwrap();
            assert_eq!(store.names("trees").len(), 0);
        }
        assert!(disk.root().join("reserve/0").is_file(), "kept again");
    }
}

#[test]
fn what_is_no_store_has_no_reserve_to_spend() {
    let disk = FullDisk::new();
    write(disk.root().join("reserve/thesis.txt"), "years of work");
    disk.fill(false);
    assert!(Layout::of_no_store(disk.root()).spend_reserve().is_none());
    assert!(disk.root().join("reserve/thesis.txt").is_file());
}

#[test]
fn a_read_only_disk_is_an_error_that_names_the_path() {
    let disk = SmallDisk::new(c"size=16m");
    let store = TestStore::open(&disk.root());
    let work = store.new_work().unwrap();
    write(store.upper(&work).join("file"), "x");
    disk.make_read_only(true);
    let error = store.commit(&work, CommitRules::default()).unwrap_err().to_string();
    disk.make_read_only(false);
    assert!(error.contains("Read-only file system") && error.contains("/content/"), "{error}");
    assert_eq!(store.names("views").len(), 0);
    assert_eq!(store.commit(&work, CommitRules::default()).unwrap().files, 1);
}

fn open(root: &Path, worker: UnixStream) -> Result<Store, StoreError> {
    Store::open(Layout::prepare(root).unwrap(), worker)
}

#[test]
fn a_dead_worker_is_an_error_and_never_a_hang() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let (engine, worker) = UnixStream::pair().unwrap();
    drop(worker);
    assert!(matches!(open(&root, engine), Err(StoreError::WorkerGone(_))));
    let (engine, worker) = UnixStream::pair().unwrap();
    let handle = worker.try_clone().unwrap();
    let content = root.join("content");
    let thread = std::thread::spawn(move || {
        lamina_store::worker_main(worker, &content, lamina_store::JobTable::new(), || ());
    });
    let store = open(&root, engine).unwrap();
    store.new_work().unwrap();
    handle.shutdown(std::net::Shutdown::Both).unwrap();
    thread.join().unwrap();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.new_work().map(drop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(results.iter().all(|result| matches!(result, Err(StoreError::WorkerGone(_)))), "{results:?}");
}

#[test]
fn a_directory_with_other_files_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path().join("thesis.txt"), "years of work");
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let error = Layout::prepare(directory.path()).unwrap_err().to_string();
    assert!(error.contains("`thesis.txt`") && error.contains(EnvVars::MODAL_STORE), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
