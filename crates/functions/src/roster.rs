//! The containers that run in this process, as their user sees them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lamina_events::{Printer, Stream};
use lamina_ground::{causes, microseconds_since_1970, seconds_since_1970};
use lamina_sandbox::{Entered, Entry, Sandbox, SandboxError, Signal, Stdio};

use crate::starter::{ContainerEnd, ContainerProcess};

/// Most bytes of what a container has printed last that are kept while it runs.
const MOST_KEPT: usize = 256 << 10;

/// The containers of this process.
#[derive(Default)]
pub struct Roster {
    containers: Mutex<BTreeMap<String, Arc<RunningContainer>>>,
    /// Called with the first container.
    on_first: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// The app that containers belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppLabel {
    /// `ap-…`.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// Where the containers of a pool are listed, and as whose.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The list.
    pub roster: Arc<Roster>,
    /// The app.
    pub app: Arc<AppLabel>,
}

/// A container that runs.
pub struct RunningContainer {
    /// `ta-…`.
    pub id: String,
    /// The app that it belongs to.
    pub app: Arc<AppLabel>,
    /// The function or class that it serves; nothing where it runs a shell.
    pub service: String,
    /// When it started, in seconds since 1970.
    pub started: u64,
    pub(crate) process: Arc<dyn ContainerProcess>,
    pub(crate) output: Arc<Backlog>,
    pub(crate) stop: Box<dyn Fn(bool) + Send + Sync>,
}

impl RunningContainer {
    /// Starts a further command in it.
    ///
    /// # Errors
    /// When it has ended, or the command cannot be executed.
    pub fn enter(&self, entry: &Entry, stdio: &Stdio) -> Result<Entered, SandboxError> {
        self.process.enter(entry, stdio)
    }

    /// Has it leave, and its inputs run in others: at once, or when `gracefully` after they have ended.
    pub fn stop(&self, gracefully: bool) {
        (self.stop)(gracefully);
    }

    /// What it prints.
    #[must_use]
    pub fn output(&self) -> &Arc<Backlog> {
        &self.output
    }
}

impl Roster {
    /// Lists a container that a shell runs in, and no function, until the answer is dropped. What it prints is on its own
    /// terminal.
    #[must_use]
    pub fn enter_shell(self: &Arc<Self>, id: &str, app: AppLabel, sandbox: &Arc<Sandbox>) -> ListedShell {
        let listing = Listing { roster: Arc::clone(self), app: Arc::new(app) };
        let (process, output): (Arc<dyn ContainerProcess>, _) = (Arc::new(Shell(Arc::clone(sandbox))), Arc::default());
        let stopped = Arc::clone(sandbox);
        // Interactive shells end when they are hung up, and not when they are interrupted.
        let stop = move |gracefully| if gracefully { stopped.signal(Signal::Hangup) } else { stopped.kill() };
        let listed = listing.enter(id, String::new(), &process, &output, stop);
        ListedShell { output, _listed: listed }
    }

    /// Has `action` called whenever a container is listed.
    pub fn when_used(&self, action: impl Fn() + Send + Sync + 'static) {
        // Said once, by whoever has made it.
        let _ = self.on_first.set(Box::new(action));
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<RunningContainer>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|container| container.started);
        all
    }

    /// The one with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<RunningContainer>> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<RunningContainer>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listing {
    /// Lists a container of `service` until the answer is dropped.
    pub(crate) fn enter(
        &self,
        id: &str,
        service: String,
        process: &Arc<dyn ContainerProcess>,
        output: &Arc<Backlog>,
        stop: impl Fn(bool) + Send + Sync + 'static,
    ) -> Listed {
        let container = RunningContainer {
            id: id.to_owned(),
            app: Arc::clone(&self.app),
            service,
            started: seconds_since_1970(),
            process: Arc::clone(process),
            output: Arc::clone(output),
            stop: Box::new(stop),
        };
        self.roster.lock().insert(id.to_owned(), Arc::new(container));
        if let Some(action) = self.roster.on_first.get() {
            action();
        }
        Listed { roster: Arc::clone(&self.roster), id: id.to_owned() }
    }
}

/// The processes of a shell.
struct Shell(Arc<Sandbox>);

impl ContainerProcess for Shell {
    fn kill(&self) {
        self.0.kill();
    }

    fn enter(&self, entry: &Entry, stdio: &Stdio) -> Result<Entered, SandboxError> {
        self.0.enter(entry, stdio)
    }

    fn wait(&self, patience: Duration) -> Option<ContainerEnd> {
        match self.0.wait_timeout(patience) {
            Ok(exit) => exit.map(|exit| ContainerEnd::from(&exit)),
            Err(error) => Some(ContainerEnd::Lost(causes(&error))),
        }
    }
}

/// Takes a shell from the list when it is dropped.
#[derive(Debug)]
pub struct ListedShell {
    output: Arc<Backlog>,
    _listed: Listed,
}

impl Drop for ListedShell {
    fn drop(&mut self) {
        // Who stops it waits for this.
        self.output.end();
    }
}

/// Takes a container from the list when it is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    roster: Arc<Roster>,
    id: String,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.roster.lock().remove(&self.id);
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Roster").field("containers", &self.lock().keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RunningContainer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RunningContainer").field("id", &self.id).field("app", &self.app).finish_non_exhaustive()
    }
}

/// What a container has printed last, and what it goes on to print.
#[derive(Debug, Default)]
pub struct Backlog {
    kept: Mutex<Kept>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// The number of the first piece that is there.
    first: usize,
    has_ended: bool,
}

/// A piece of what a container has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// When, in microseconds since 1970.
    pub time: u64,
    /// To which stream.
    pub stream: Stream,
    /// What of it has printed it.
    pub printer: Printer,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What a [`Backlog`] has from a place on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// Where to go on.
    pub next: usize,
    /// Whether there will be no more.
    pub has_ended: bool,
}

impl Backlog {
    /// What was printed from the piece number `from` on, as far as it is kept. If there is nothing new, it is waited for.
    #[must_use]
    pub fn read(&self, from: usize, patience: Duration) -> Printed {
        let kept = self.lock();
        let is_read = |kept: &mut Kept| kept.first + kept.pieces.len() <= from && !kept.has_ended;
        let (kept, _) =
            self.changed.wait_timeout_while(kept, patience, is_read).unwrap_or_else(PoisonError::into_inner);
        let pieces: Vec<_> = kept.pieces.iter().skip(from.saturating_sub(kept.first)).cloned().collect();
        Printed { pieces, next: kept.first + kept.pieces.len(), has_ended: kept.has_ended }
    }

    /// Waits for the end of the container; false if it does not come in time.
    #[must_use]
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        let waiting = self.changed.wait_timeout_while(self.lock(), patience, |kept| !kept.has_ended);
        waiting.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    pub(crate) fn push(&self, stream: Stream, data: &[u8], printer: &Printer) {
        let (time, printer, data) = (microseconds_since_1970(), printer.clone(), data.to_owned());
        let mut kept = self.lock();
        kept.bytes += data.len();
        kept.pieces.push_back(Piece { time, stream, printer, data });
        while kept.bytes > MOST_KEPT && kept.pieces.len() > 1 {
            let dropped = kept.pieces.pop_front().map_or(0, |piece| piece.data.len());
            kept.bytes -= dropped;
            kept.first += 1;
        }
        drop(kept);
        self.changed.notify_all();
    }

    pub(crate) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(backlog: &Backlog, stream: Stream, data: &[u8]) {
        backlog.push(stream, data, &Printer { function: Some("f".to_owned()), ..Printer::default() });
    }

    fn texts(printed: &Printed) -> Vec<(Stream, Vec<u8>)> {
        printed.pieces.iter().map(|piece| (piece.stream, piece.data.clone())).collect()
    }

    #[test]
    fn the_last_output_is_kept_and_the_next_waited_for() {
        let backlog = Backlog::default();
        let nothing = Duration::ZERO;
        assert_eq!(backlog.read(0, nothing), Printed::default());
        push(&backlog, Stream::Stdout, b"one");
        push(&backlog, Stream::Stderr, b"two");
        let pieces = vec![(Stream::Stdout, b"one".to_vec()), (Stream::Stderr, b"two".to_vec())];
        let read = backlog.read(0, nothing);
        assert_eq!((texts(&read), read.next, read.has_ended), (pieces.clone(), 2, false));
        assert!(read.pieces[0].time > 0 && read.pieces[0].printer.function.as_deref() == Some("f"));
        assert_eq!(texts(&backlog.read(1, nothing)), pieces[1..]);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| backlog.read(2, Duration::from_mins(1)));
            push(&backlog, Stream::Stdout, b"three");
            assert_eq!(texts(&reader.join().unwrap()), [(Stream::Stdout, b"three".to_vec())]);
        });
        push(&backlog, Stream::Stdout, &vec![0; MOST_KEPT]);
        let Printed { pieces, next, .. } = backlog.read(0, nothing);
        assert_eq!((pieces.len(), next), (1, 4), "what is too old is not kept");
        assert!(!backlog.wait_for_end(nothing));
        backlog.end();
        assert!(backlog.wait_for_end(Duration::from_mins(1)) && backlog.read(4, Duration::from_mins(1)).has_ended);
    }
}
