//! The pool of one function's containers.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lamina_events::Sink;
use lamina_wire::{Payload, WireError};

use crate::container;
use crate::error::CallError;
use crate::retries::Retries;
use crate::runner::{Module, ToRunner};
use crate::spec::ServiceKind;
use crate::starter::{ContainerStarter, StartError};
use crate::state::{Ending, Handover, Input, SlotId, State, TakenBack, Verdict};
use crate::terminal::Terminal;

/// Stack of a container's thread, which only forwards.
pub(crate) const STACK_SIZE: usize = 256 << 10;
/// Time to import a module, however short the function's own timeout is.
const SHORTEST_STARTUP: Duration = Duration::from_mins(5);
/// How long a stop waits for containers that were killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a call ended.
#[derive(Debug)]
pub enum Outcome {
    /// With a value: the payload holds it, pickled.
    Value(Payload),
    /// With an exception of the function: the payload describes it.
    Exception(Payload),
    /// Without either.
    Error(CallError),
}

/// Whoever waits for a call. Told in whichever thread has something to tell.
pub trait Caller: Send + Sync {
    /// Takes the next value of a generator: in order, and before the outcome.
    ///
    /// # Errors
    /// When it cannot be handed on; the call then fails.
    fn item(&self, payload: Payload) -> Result<(), WireError>;

    /// Takes the outcome. Called exactly once.
    fn end(&self, outcome: Outcome);
}

/// How a pool treats its function.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// The function or class.
    pub kind: ServiceKind,
    /// Where the runner finds it.
    pub module: Module,
    /// How many inputs a container runs at a time.
    pub capacity: u32,
    /// How long an input may take.
    pub timeout: Duration,
    /// How long a container may take to import the function's module.
    pub startup: Duration,
    /// The memory limit in bytes, for messages.
    pub memory_limit: Option<u64>,
    /// How often a failed input runs again.
    pub retries: Retries,
    /// Most containers at a time.
    pub maximum: usize,
    /// How long a container waits for its next input before it goes.
    pub idle: Duration,
    /// How long a container that was told to leave may take.
    pub grace: Duration,
    /// The user's terminal, if containers may ask for it.
    pub terminal: Option<Arc<dyn Terminal>>,
}

impl PoolOptions {
    /// The options of a function with the usual limits: as many containers as keep all processors busy, which go after
    /// a minute without work.
    #[must_use]
    pub fn new(kind: ServiceKind, module: Module, timeout: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            kind,
            module,
            capacity: 1,
            timeout,
            startup: timeout.max(SHORTEST_STARTUP),
            memory_limit: None,
            retries: Retries::default(),
            maximum: (2 * cores).max(4),
            idle: Duration::from_mins(1),
            grace: Duration::from_secs(2),
            terminal: None,
        }
    }

    /// The service's name, for messages.
    pub(crate) fn name(&self) -> String {
        self.kind.name().to_owned()
    }
}

/// Runs the inputs of one function. Clones are not needed: share it in an `Arc`.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool without containers; the first input starts one.
    pub fn new(options: PoolOptions, starter: impl ContainerStarter + 'static, sink: Sink) -> Self {
        let shared = Shared {
            state: Mutex::new(State::new(options.retries)),
            options,
            starter: Box::new(starter),
            sink,
            emptied: Condvar::new(),
            delayed: Condvar::new(),
            threads: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs an input: hands it to an idle container at once, else lets it wait for one. `caller` hears how it ends.
    pub fn submit(&self, call: u64, payload: Payload, caller: Arc<dyn Caller>) {
        let mut state = self.shared.lock();
        if state.is_stopping() {
            drop(state);
            return caller.end(Outcome::Error(self.shared.stopped()));
        }
        let handover = state.place(Input { call, payload: Arc::new(payload), caller, failed: 0 });
        drop(state);
        match handover {
            Some(handover) => self.shared.hand_over(&handover),
            None => self.shared.replenish(),
        }
    }

    /// Cancels a call: its caller gets [`CallError::Cancelled`], a container that runs it is killed and replaced. False
    /// when there is no such call (any more).
    #[must_use]
    pub fn cancel(&self, call: u64) -> bool {
        let taken = self.shared.lock().cancel(call);
        let Some(TakenBack { caller, process }) = taken else { return false };
        if let Some(process) = process {
            process.kill();
        }
        caller.end(Outcome::Error(CallError::Cancelled { function: self.shared.options.name() }));
        true
    }

    /// The caller has consumed `count` items of a generator's call: lets its container send as many more. False when no
    /// container runs the call (any more).
    #[must_use]
    pub fn more(&self, call: u64, count: u64) -> bool {
        let Some(wake) = self.shared.lock().more(call, count) else { return false };
        container::wake_up(&wake);
        true
    }

    /// Begins to stop: inputs that wait or run end with [`CallError::Stopped`], idle containers are told to leave. Does
    /// not wait for anything, so that several pools can stop together.
    pub fn begin_stop(&self) {
        let (waiting, leave, kill) = self.shared.lock().stop();
        for process in kill {
            process.kill();
        }
        self.shared.delayed.notify_all();
        for sender in leave {
            // One that is already gone need not be told.
            let _ = sender.send(&ToRunner::Stop.encode(), &[], &[]);
        }
        for input in waiting {
            input.caller.end(Outcome::Error(self.shared.stopped()));
        }
    }

    /// Stops, and returns when no container is left.
    pub fn stop(&self) {
        self.begin_stop();
        if !self.shared.wait_until_empty(self.shared.options.grace) {
            for process in self.shared.lock().processes() {
                process.kill();
            }
            if !self.shared.wait_until_empty(KILL_PATIENCE) {
                return;
            }
        }
        // The threads still hold the starter, and with it what the sandboxes leave to be cleared away.
        let threads = std::mem::take(&mut *self.shared.threads());
        for thread in threads {
            // One that panicked has printed why.
            let _ = thread.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// What the pool and its containers' threads share.
pub(crate) struct Shared {
    pub(crate) options: PoolOptions,
    pub(crate) starter: Box<dyn ContainerStarter>,
    pub(crate) sink: Sink,
    state: Mutex<State>,
    /// Signalled when the last container is gone.
    emptied: Condvar,
    /// Signalled when the inputs that wait for another attempt have changed.
    pub(crate) delayed: Condvar,
    /// The containers' threads, and the one that keeps time for inputs that wait for another attempt.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a thread to be waited for.
    pub(crate) fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Sends an input to its container.
    pub(crate) fn hand_over(&self, handover: &Handover) {
        let control = ToRunner::Call { call: handover.call, function: self.options.kind.name() }.encode();
        let Err(error) = handover.sender.forward(&control, &handover.payload) else {
            return;
        };
        if is_disconnected(&error) {
            // The container's thread sees the same, and knows how it ended.
            return;
        }
        let process = self.lock().end(handover.slot, Ending::NotSent(error.to_string()));
        if let Some(process) = process {
            process.kill();
        }
    }

    /// Starts containers for inputs that wait.
    pub(crate) fn replenish(self: &Arc<Self>) {
        loop {
            let Some(slot) = self.lock().reserve(self.options.maximum) else {
                return;
            };
            let shared = Arc::clone(self);
            let builder = std::thread::Builder::new().name("container".to_owned()).stack_size(STACK_SIZE);
            match builder.spawn(move || container::run(&shared, slot)) {
                Ok(thread) => self.keep(thread),
                Err(error) => {
                    let reason = format!("a thread for it cannot be started: {error}");
                    self.not_started(slot, &StartError { message: reason, hint: None });
                }
            }
        }
    }

    /// A container was never made.
    pub(crate) fn not_started(self: &Arc<Self>, slot: SlotId, error: &StartError) {
        let remains = self.lock().remove(slot);
        let error = CallError::NotStarted {
            function: self.options.name(),
            reason: error.message.clone(),
            hint: error.hint.clone(),
        };
        self.conclude(remains.verdicts, &error);
        self.settle();
    }

    /// Answers inputs that failed, or has them run again.
    pub(crate) fn conclude(self: &Arc<Self>, verdicts: Vec<Verdict>, error: &CallError) {
        for verdict in verdicts {
            match verdict {
                Verdict::Answer(caller) => caller.end(Outcome::Error(error.clone())),
                Verdict::Retry(retry) => self.try_again(&retry, &error.to_string()),
            }
        }
    }

    /// After a container's end: starts another one if inputs wait, tells a stop that waits.
    pub(crate) fn settle(self: &Arc<Self>) {
        self.replenish();
        if self.lock().is_empty() {
            self.emptied.notify_all();
        }
    }

    pub(crate) fn stopped(&self) -> CallError {
        CallError::Stopped { function: self.options.name() }
    }

    fn wait_until_empty(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while !state.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Whether a send failed because the peer is gone.
pub(crate) fn is_disconnected(error: &WireError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error, WireError::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected))
}
