//! Jobs that other crates bring.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use lamina_image::Digest;
use lamina_store::tree::Node;
use lamina_store::{CommitRules, Job, JobError, JobErrorKind, JobTable, LayerPath, Metadata, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::support::*;

/// Stores the descriptor's contents and links them to paths of an upper.
#[derive(Serialize, Deserialize)]
struct Link {
    work: String,
    paths: Vec<PathBuf>,
}

impl Job for Link {
    const NAME: &'static str = "test.link";
    type Output = Digest;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Digest, JobError> {
        let meta = Metadata::root_owned(0o644);
        let mut bytes = Vec::new();
        for fd in fds {
            std::fs::File::from(fd).read_to_end(&mut bytes)?;
        }
        let (digest, length) = context.put_reader(&mut &bytes[..])?;
        assert_eq!((digest, length), (context.put_bytes(&bytes)?, bytes.len() as u64));
        assert!(context.has_object(&digest));
        for path in &self.paths {
            let mut directory = context.upper_directory(&self.work, path.parent().unwrap())?;
            directory.place_object(&digest, &meta, path.file_name().unwrap().to_str().unwrap())?;
        }
        context.sync()?;
        Ok(digest)
    }
}

#[derive(Serialize, Deserialize)]
struct Fail {
    panics: bool,
}

impl Job for Fail {
    const NAME: &'static str = "test.fail";
    type Output = ();

    fn run(self, _context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<(), JobError> {
        assert!(!self.panics, "out of luck");
        Err(JobError::new(JobErrorKind::new("test.kind"), "a sentence"))
    }
}

fn open(root: &Path) -> TestStore {
    TestStore::open_with(root, JobTable::new().register::<Link>().register::<Fail>())
}

fn contents(bytes: &[u8]) -> std::fs::File {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), bytes).unwrap();
    std::fs::File::open(path.path()).unwrap()
}

#[test]
fn placed_objects_are_files_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    let work = store.new_work().unwrap();
    let file = contents(b"shared bytes");
    let paths = ["/usr/lib/a", "/usr/lib/b", "/etc/c"].map(PathBuf::from).to_vec();
    let digest = store.job(&Link { work: work.id().to_owned(), paths: paths.clone() }, &[file.as_fd()]).unwrap();
    let empty = vec!["/usr/lib/empty".into()];
    store.job(&Link { work: work.id().to_owned(), paths: empty }, &[]).unwrap();
    let committed = store.commit(&work, CommitRules::default()).unwrap();
    assert_eq!((committed.files, committed.bytes, committed.bytes_new), (4, 36, 12));
    assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
    for path in ["usr/lib/a", "usr/lib/b", "etc/c"] {
        let Some(Node::File { digest: found, .. }) = store.entry(&committed.digest, path).map(|entry| entry.node)
        else {
            panic!("{path} is no file of its own");
        };
        assert_eq!(found, digest);
    }
    let inodes: std::collections::HashSet<_> =
        ["usr/lib/a", "usr/lib/b", "etc/c"].iter().map(|path| inode(store.view(&committed.digest, path))).collect();
    assert_eq!(inodes.len(), 3, "equal bytes are not one file");
    // The same layer written by a program has the same digest.
    let written = store.layer(CommitRules::default(), |upper| {
        for path in &paths {
            write(upper.join(path.strip_prefix("/").unwrap()), "shared bytes");
        }
        write(upper.join("usr/lib/empty"), "");
    });
    assert_eq!(written.content, committed.content);
}

#[test]
fn an_upper_whose_placed_files_were_written_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    let work = store.new_work().unwrap();
    let file = contents(b"shared bytes");
    store.job(&Link { work: work.id().to_owned(), paths: vec!["/a".into()] }, &[file.as_fd()]).unwrap();
    std::fs::write(store.upper(&work).join("a"), "forged bytes").unwrap();
    let error = store.commit(&work, CommitRules::default()).unwrap_err().to_string();
    assert!(error.contains("was written to"), "{error}");
    drop(work);
    store.layer(CommitRules::default(), |upper| write(upper.join("a"), "shared bytes"));
}

#[test]
fn links_in_an_upper_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    let work = store.new_work().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), store.upper(&work).join("usr")).unwrap();
    let file = contents(b"x");
    let job = Link { work: work.id().to_owned(), paths: vec!["/usr/lib/a".into()] };
    assert_eq!(store.job(&job, &[file.as_fd()]).unwrap_err().kind, JobError::STORE);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn failures_and_panics_come_back_as_errors() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    let error = store.job(&Fail { panics: false }, &[]).unwrap_err();
    assert_eq!(error, JobError::new(JobErrorKind::new("test.kind"), "a sentence"));
    let error = store.job(&Fail { panics: true }, &[]).unwrap_err();
    assert!(error.message.contains("out of luck"), "{error}");
    let unknown = TestStore::new().job(&Fail { panics: false }, &[]).unwrap_err();
    assert!(unknown.message.contains("`test.fail`"), "{unknown}");
}

/// Makes directories in the upper of a work for as long as somebody wants it.
#[derive(Serialize, Deserialize)]
struct Fill {
    work: String,
}

impl Job for Fill {
    const NAME: &'static str = "test.fill";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<(), JobError> {
        for count in 0.. {
            std::fs::create_dir_all(context.upper(&self.work).join(format!("{}/{count}", count % 10)))?;
            context.ensure_wanted(&self.work)?;
        }
        Ok(())
    }
}

#[test]
fn a_work_that_jobs_write_into_is_removed_whole() {
    let root = tempfile::tempdir().unwrap();
    let store = TestStore::open_with(&root.path().join("store"), JobTable::new().register::<Fill>());
    let work = store.new_work().unwrap();
    let fill = Fill { work: work.id().into() };
    let upper = store.upper(&work);
    std::thread::scope(|scope| {
        let filling: Vec<_> = (0..4).map(|_| scope.spawn(|| store.job(&fill, &[]))).collect();
        while !upper.join("9").exists() {
            std::thread::yield_now();
        }
        store.discard(work).unwrap();
        assert!(store.names("work").iter().all(|name| name.ends_with("-temporary")));
        for job in filling {
            let error = job.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("abandoned"), "{error}");
        }
    });
}

#[test]
fn what_is_at_a_path_of_a_layer_is_told_as_an_overlay_shows_it() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        write(upper.join("usr/file"), "the bytes");
        set_xattr(upper.join("usr"), "user.overlay.opaque", b"y");
        whiteout(upper.join("gone"));
    });
    let view = LayerPath::view(&store.content(""), &store.view_path(&committed.digest));
    let mut text = String::new();
    view.join("usr/file").open().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "the bytes");
    assert_eq!((view.is_opaque().unwrap(), view.join("usr").is_opaque().unwrap()), (false, true));
    assert_eq!((view.join("gone").is_deleted().unwrap(), view.join("usr").is_deleted().unwrap()), (true, false));
    assert_eq!(view.deleted_names().unwrap(), ["gone"]);
    assert_eq!(view.join("usr").deleted_names().unwrap(), [""; 0]);
}
