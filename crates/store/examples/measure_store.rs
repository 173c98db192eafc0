//! Measures the store's own part of the budgets: `measure_store DIRECTORY [FILES]` makes a temporary store below
//! DIRECTORY and prints how long the calls take that the goals for local files and commits rest on.

#![allow(clippy::print_stdout, reason = "the numbers are its output")]

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use lamina_ground::Stack;
use lamina_image::{FileEntry, FileKind, FileSet};
use lamina_store::{CommitRules, JobTable, Layout, Store, worker_main};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().unwrap_or_else(|| ".".to_owned());
    let count: usize = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    let directory = tempfile::tempdir_in(parent)?;
    let local = directory.path().join("local");
    fill(&local, count)?;
    std::thread::sleep(Duration::from_millis(100));
    let store = timed("open a new store", || open(&directory.path().join("store")))?;
    drop(store);
    let store = timed("open the store", || open(&directory.path().join("store")))?;
    let entry = FileEntry {
        source: local.display().to_string(),
        target: "/root/local".to_owned(),
        kind: FileKind::Directory,
        ignore: None,
    };
    let set = FileSet { entries: vec![entry] };
    timed(&format!("{count} new local files"), || Ok(store.file_set(&set, &Stack::new())?))?;
    for _ in 0..5 {
        timed(&format!("{count} unchanged local files"), || Ok(store.file_set(&set, &Stack::new())?))?;
    }
    for round in 0..5 {
        fs_err::write(local.join("d1/1.py"), format!("changed = {round}\n"))?;
        timed("one of them changed", || Ok(store.file_set(&set, &Stack::new())?))?;
    }
    let layer = timed("the same as one layer", || Ok(store.file_set_layer(&set, &Stack::new())?))?;
    timed("verify it", || Ok(store.verify(&layer.digest)?))?;
    for what in ["new", "known"] {
        let work = timed("new work", || Ok(store.new_work()?))?;
        fill(&store.layout().content().join(work.upper()).join(what), count)?;
        timed(&format!("commit {count} files, all {what}"), || Ok(store.commit(&work, CommitRules::default())?))?;
    }
    let layout = store.layout().clone();
    drop(store);
    timed("remove the store", || Ok(Store::remove(&layout, worker(&layout)?)?))
}

fn open(root: &Path) -> Outcome<Store> {
    let layout = Layout::prepare(root)?;
    let worker = worker(&layout)?;
    Ok(Store::open(layout, worker)?)
}

fn worker(layout: &Layout) -> Outcome<UnixStream> {
    let content = layout.content();
    let (engine, worker) = UnixStream::pair()?;
    std::thread::spawn(move || worker_main(worker, &content, JobTable::new(), || ()));
    Ok(engine)
}

fn fill(directory: &Path, count: usize) -> Outcome<()> {
    for index in 0..count {
        let below = directory.join(format!("d{}", index % 100));
        if index < 100 {
            fs_err::create_dir_all(&below)?;
        }
        fs_err::write(below.join(format!("{index}.py")), format!("# module {index}\n").repeat(40))?;
    }
    Ok(())
}

fn timed<T>(what: &str, call: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let started = Instant::now();
    let result = call();
    println!("{:9.2} ms  {what}", started.elapsed().as_secs_f64() * 1000.0);
    result
}
