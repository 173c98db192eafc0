//! Waiting until any process has written to the database.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::io::Errno;

/// How often is looked where the kernel does not tell: the user may have no watches left.
const PATIENCE: Duration = Duration::from_millis(50);
/// Stack of the thread that listens.
const STACK_SIZE: usize = 256 << 10;
/// The name of the file that every commit writes to ends in this.
const LOG: &[u8] = b"-wal";

/// Counts what is written to the database.
#[derive(Debug)]
pub(crate) struct Changes {
    seen: Arc<Seen>,
    is_told: bool,
}

#[derive(Debug, Default)]
struct Seen {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Seen {
    fn count(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        *self.count() += 1;
        self.changed.notify_all();
    }
}

impl Changes {
    /// Listens from now on, in a thread that ends with the process: only those that wait for queues have it.
    pub(crate) fn watch(directory: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let is_told = match listen(directory, &seen) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "changes of queues are looked for instead of listened to");
                false
            }
        };
        Self { seen, is_told }
    }

    /// What has been seen so far.
    pub(crate) fn count(&self) -> u64 {
        *self.seen.count()
    }

    /// Waits until there is more than `count`, or until that time.
    pub(crate) fn wait(&self, count: u64, until: Option<Instant>) {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let patience = if self.is_told { left } else { Some(left.unwrap_or(PATIENCE).min(PATIENCE)) };
        let seen = self.seen.count();
        let same = |now: &mut u64| *now == count;
        match patience {
            Some(patience) => drop(self.seen.changed.wait_timeout_while(seen, patience, same)),
            None => drop(self.seen.changed.wait_while(seen, same)),
        }
    }

    /// Has those who wait look once more.
    pub(crate) fn notifier(&self) -> impl Fn() + Send + 'static {
        let seen = Arc::clone(&self.seen);
        move || seen.notify()
    }
}

fn listen(directory: &Path, seen: &Arc<Seen>) -> std::io::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE)?;
    let seen = Arc::clone(seen);
    let thread = std::thread::Builder::new().name("collections".to_owned()).stack_size(STACK_SIZE);
    thread.spawn(move || tell(&watch, &seen)).map(drop)
}

fn tell(watch: &OwnedFd, seen: &Seen) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
                let is_lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                if is_lost || OsStr::from_bytes(name).as_bytes().ends_with(LOG) {
                    seen.notify();
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
