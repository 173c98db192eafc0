//! The pool of one service's containers. It owns their state: a container reaches it by its [`Seat`] only.

mod attempts;
mod seat;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lamina_events::{Event, Sink};
use lamina_ground::ErrorClass;
use lamina_wire::{Payload, WireError};

use crate::STACK_SIZE;
use crate::call::{Caller, Outcome};
use crate::container;
use crate::deadlock::PoolView;
use crate::elsewhere::Callee;
use crate::error::CallError;
use crate::graph::{CallGraph, NewCall};
use crate::ids::{CallId, FunctionCallId};
use crate::options::PoolOptions;
use crate::runner::{ServiceKind, ToRunner};
use crate::services::Services;
use crate::starter::{ContainerStarter, StartError};
use crate::state::{Cancelled, Dispatch, Disposition, EndReason, Input, Scaling, SlotId, State, Stats, Stopped};

pub(crate) use seat::Seat;

/// How long a stop waits for containers that were killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the inputs of one service. Clones are not needed: share it in an `Arc`.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool without containers; the first input starts one. Its containers may call all of `services`.
    pub(crate) fn new(
        options: PoolOptions,
        starter: Box<dyn ContainerStarter>,
        sink: Sink,
        services: Weak<Services>,
    ) -> Self {
        let shared = Shared {
            state: Mutex::new(State::new(&options)),
            options,
            starter,
            sink,
            services,
            emptied: Condvar::new(),
            delayed: Condvar::new(),
            threads: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs an input: hands it to a container that has room at once, else lets it wait for one. `caller` hears how it
    /// ends. Says whether it was handed over, or refused.
    pub fn submit(
        &self,
        call: CallId,
        part_of: FunctionCallId,
        method: Option<Arc<str>>,
        payload: Payload,
        caller: Arc<dyn Caller>,
    ) -> bool {
        let payload = Arc::new(payload);
        self.place(Input { call, part_of, method, payload, caller, failed: 0, queued: Instant::now() })
    }

    /// Hands an input to a container, or lets it wait for one. Says whether it was handed over, or refused.
    fn place(&self, input: Input) -> bool {
        let mut state = self.shared.lock();
        if state.is_stopping() {
            drop(state);
            input.caller.end(Outcome::Error(self.shared.stopped()));
            return true;
        }
        let dispatches = state.place(input);
        let (wants_spare, wants_timer) = (state.wants_spare(), state.start_timer());
        drop(state);
        self.shared.dispatch_all(&dispatches);
        if wants_timer {
            self.shared.start_timer();
        }
        if dispatches.is_empty() || wants_spare {
            self.shared.replenish();
        }
        !dispatches.is_empty()
    }

    /// Starts the containers that there are to be without any input.
    pub(crate) fn warm(&self) {
        self.shared.replenish();
    }

    /// How many containers there are to be.
    #[must_use]
    pub fn scaling(&self) -> Scaling {
        self.shared.lock().scaling()
    }

    /// Has the pool keep other numbers of containers.
    pub fn scale(&self, scaling: Scaling) {
        self.shared.lock().scale(scaling);
        self.shared.replenish();
    }

    /// What the pool does at the moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats()
    }

    /// The service's name.
    pub(crate) fn name(&self) -> &str {
        self.shared.options.kind.name()
    }

    /// The module that it is in.
    #[must_use]
    pub fn module(&self) -> &str {
        self.shared.options.module.name()
    }

    /// Has what becomes of a spawned call be seen by those who ask for its graph; gives who is to hear of it in the place
    /// of `caller`.
    #[must_use]
    pub fn record_spawned(
        &self,
        id: CallId,
        part_of: FunctionCallId,
        method: Option<&str>,
        caller: Arc<dyn Caller>,
    ) -> Arc<dyn Caller> {
        let (function, module) = (self.name(), Some(self.module()));
        let call = NewCall { id, part_of, parent: None, is_spawned: true, function, method, module };
        CallGraph::of_process().record(&call, caller)
    }

    /// What is wrong with a call of `method`, or of none, if anything is.
    pub(crate) fn refuse(&self, method: Option<&str>) -> Option<String> {
        match (&self.shared.options.kind, method) {
            (ServiceKind::Function { .. }, None) => None,
            (ServiceKind::Function { name }, Some(_)) => Some(format!("`{name}` is a function, which has no methods")),
            (ServiceKind::Class { name, .. }, None) => Some(format!("`{name}` is a class: call one of its methods")),
            (ServiceKind::Class { name, methods }, Some(method)) => {
                let is_known = methods.iter().any(|known| known == method);
                (!is_known).then(|| format!("the class `{name}` has no method `{method}`"))
            }
        }
    }

    /// Most containers at a time.
    pub(crate) fn maximum(&self) -> usize {
        self.scaling().maximum
    }

    /// Whether every container runs an input that has called something: only then can its inputs wait for each other.
    pub(crate) fn may_be_stuck(&self) -> bool {
        self.shared.lock().may_be_stuck()
    }

    /// Whether it has inputs that have not ended.
    pub(crate) fn has_inputs(&self) -> bool {
        self.shared.lock().has_inputs()
    }

    /// Whether it has neither containers nor inputs.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.shared.lock();
        state.is_empty() && !state.has_inputs()
    }

    /// Who waits for what.
    pub(crate) fn view(&self) -> PoolView {
        self.shared.lock().view(self.name())
    }

    /// Gives up all inputs that can run elsewhere; its containers end.
    pub(crate) fn evacuate(&self) -> Vec<Input> {
        let (inputs, stopped) = self.shared.lock().evacuate();
        self.shared.end_containers(stopped);
        inputs
    }

    /// Takes over an input of another pool.
    pub(crate) fn take_over(self: &Arc<Self>, input: Input) {
        if let Some(message) = self.refuse(input.method.as_deref()) {
            let class = ErrorClass::NotFoundError;
            return input.caller.end(Outcome::Error(CallError::Elsewhere { class, message, hint: None }));
        }
        input.caller.moved(&(Arc::downgrade(self) as Weak<dyn Callee>));
        self.place(input);
    }

    /// Begins to stop: inputs that wait or run end with [`CallError::Stopped`], idle containers are told to leave. Does
    /// not wait for anything, so that several pools can stop together.
    pub fn begin_stop(&self) {
        let stopped = self.shared.lock().stop();
        self.shared.end_containers(stopped);
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

impl Callee for Pool {
    /// Its caller gets [`CallError::Cancelled`]; a container that runs it is told to end it, or killed and replaced.
    fn cancel(&self, call: CallId) -> bool {
        self.give_up(call, false)
    }

    fn terminate(&self, call: CallId) -> bool {
        self.give_up(call, true)
    }

    /// Lets the container send as many more items.
    fn more(&self, call: CallId, count: u64) -> bool {
        let Some(link) = self.shared.lock().more(call, count) else { return false };
        link.wake_up();
        true
    }
}

impl Pool {
    /// Takes an input back; what runs it is told to end it, or killed where that is not possible or is to `terminate`.
    fn give_up(&self, call: CallId, terminate: bool) -> bool {
        let cancelled = self.shared.lock().cancel(call, terminate);
        let Some(Cancelled { caller, process, link }) = cancelled else { return false };
        match (process, link) {
            (Some(process), Some(link)) => {
                // One that is gone is noticed by the reading side.
                let _ = link.tell(&ToRunner::Cancel { call: call.number() }.encode());
                link.wake_up();
                process.nudge();
            }
            (Some(process), None) => process.kill(),
            (None, _) => {}
        }
        caller.end(Outcome::Error(CallError::Cancelled { function: self.shared.options.name() }));
        true
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
struct Shared {
    options: PoolOptions,
    starter: Box<dyn ContainerStarter>,
    sink: Sink,
    /// What its containers may call.
    services: Weak<Services>,
    state: Mutex<State>,
    /// Signalled when the last container is gone.
    emptied: Condvar,
    /// Signalled when the inputs that wait for another attempt have changed.
    delayed: Condvar,
    /// The containers' threads, and the one that keeps time for inputs that wait for another attempt.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a thread to be waited for.
    fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Ends containers, and inputs that none will take.
    fn end_containers(&self, stopped: Stopped) {
        let Stopped { waiting, leave, interrupt, kill } = stopped;
        for process in kill {
            process.kill();
        }
        self.delayed.notify_all();
        for link in leave {
            // One that is already gone need not be told.
            let _ = link.tell(&ToRunner::Stop.encode());
            link.wake_up();
        }
        for process in interrupt {
            process.nudge();
        }
        for input in waiting {
            input.caller.end(Outcome::Error(self.stopped()));
        }
    }

    /// Sends inputs to their containers.
    fn dispatch_all(&self, dispatches: &[Dispatch]) {
        for dispatch in dispatches {
            self.dispatch(dispatch);
        }
    }

    /// Sends an input to its container.
    fn dispatch(&self, dispatch: &Dispatch) {
        let control = ToRunner::Call {
            call: dispatch.call.number(),
            function: dispatch.method.as_deref().unwrap_or(self.options.kind.name()),
            input_id: dispatch.call,
            function_call_id: dispatch.part_of,
            batch: dispatch.batch,
        };
        let control = control.encode();
        let Err(error) = dispatch.link.send(&control, &dispatch.payload) else {
            return;
        };
        if is_disconnected(&error) {
            // The container's thread sees the same, and knows how it ended.
            return;
        }
        let process = self.lock().end(dispatch.slot, EndReason::NotSent(Arc::new(error)));
        if let Some(process) = process {
            process.kill();
        }
    }

    /// Starts containers for inputs that wait.
    fn replenish(self: &Arc<Self>) {
        loop {
            let Some(slot) = self.lock().reserve() else {
                return;
            };
            let seat = Seat::new(self, slot);
            let builder = std::thread::Builder::new().name("container".to_owned()).stack_size(STACK_SIZE);
            match builder.spawn(move || container::run(&seat)) {
                Ok(thread) => self.keep(thread),
                Err(error) => self.not_started(slot, StartError::engine("a thread for it cannot be started")(error)),
            }
        }
    }

    /// A container was never made.
    fn not_started(self: &Arc<Self>, slot: SlotId, source: StartError) {
        let removed = self.lock().remove(slot);
        let error = CallError::NotStarted { function: self.options.name(), source };
        let (function, cause) = (self.options.name(), error.to_string());
        self.sink.emit(Event::CallFailed { function, container: None, cause });
        self.conclude(removed.dispositions, &error);
        self.settle();
    }

    /// Answers inputs that failed, or has them run again.
    fn conclude(self: &Arc<Self>, dispositions: Vec<Disposition>, error: &CallError) {
        for disposition in dispositions {
            match disposition {
                Disposition::Answer(caller) => caller.end(Outcome::Error(error.clone())),
                Disposition::Retry(retry) => self.try_again(&retry, &error.to_string()),
            }
        }
    }

    /// After a container's end: starts another one if inputs wait, tells a stop that waits.
    fn settle(self: &Arc<Self>) {
        self.replenish();
        if self.lock().is_empty() {
            self.emptied.notify_all();
            if let Some(services) = self.services.upgrade() {
                services.tell_of_empty_pool();
            }
        }
    }

    fn stopped(&self) -> CallError {
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
