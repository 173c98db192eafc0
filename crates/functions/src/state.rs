//! A pool's bookkeeping: which inputs wait, what each container does. No I/O, so every transition is under one short
//! lock.

mod batches;
mod ends;
mod scaling;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_events::Printer;
use lamina_wire::{Payload, WireError};

use crate::call::Caller;
use crate::deadlock::PoolView;
use crate::error::Trouble;
use crate::ids::{CallId, FunctionCallId};
use crate::link::Link;
use crate::options::PoolOptions;
use crate::retries::Retries;
use crate::starter::ContainerProcess;

pub use batches::Batching;
pub use scaling::{Scaling, Stats};

/// Items of a generator that may be on their way to a caller who has not consumed them. The runner keeps fewer; the
/// engine reads no more from one that does not.
const MOST_ITEMS_AHEAD: u64 = 64;

/// Names a container within its pool.
pub(crate) type SlotId = u64;

/// An input that no container has yet.
pub(crate) struct Input {
    pub(crate) call: CallId,
    /// What the call is a part of.
    pub(crate) part_of: FunctionCallId,
    /// The method of a class.
    pub(crate) method: Option<Arc<str>>,
    pub(crate) payload: Arc<Payload>,
    pub(crate) caller: Arc<dyn Caller>,
    /// How many attempts failed.
    pub(crate) failed: u32,
    /// Since when it waits.
    pub(crate) queued: Instant,
}

/// An input on its way into a container.
pub(crate) struct Dispatch {
    pub(crate) slot: SlotId,
    pub(crate) link: Arc<Link>,
    pub(crate) call: CallId,
    pub(crate) part_of: FunctionCallId,
    pub(crate) method: Option<Arc<str>>,
    pub(crate) payload: Arc<Payload>,
    /// Of the first one of a batch: how many inputs run together.
    pub(crate) batch: Option<usize>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It starts, imports the service's module and enters what is to be entered before the first input.
    Starting,
    /// It runs inputs, or waits for some.
    Serving,
    /// It was told to leave, or is being killed.
    Leaving,
}

/// What remains of an input that a container was given.
struct Attempt {
    call: CallId,
    part_of: FunctionCallId,
    method: Option<Arc<str>>,
    caller: Arc<dyn Caller>,
    /// Whether values of a generator are out already, so that there is no other attempt.
    has_yielded: bool,
    /// How many attempts failed before this one.
    failed: u32,
    /// The arguments, for another attempt.
    payload: Arc<Payload>,
}

impl From<Input> for Attempt {
    fn from(Input { call, part_of, method, payload, caller, failed, .. }: Input) -> Self {
        Self { call, part_of, method, caller, has_yielded: false, failed, payload }
    }
}

/// An input that a container runs.
struct Running {
    attempt: Attempt,
    since: Instant,
    /// Its time is up, so its container ends.
    timed_out: bool,
    /// Items of a generator that the caller has not consumed.
    ahead: u64,
    /// Items that were consumed, which its container was not told yet.
    consumed: u64,
}

/// Why the engine ended a container.
#[derive(Debug, Clone)]
pub(crate) enum EndReason {
    /// Its module cannot be imported.
    ImportFailed,
    /// It took too long to get ready.
    StartTimedOut,
    /// An input of it took too long.
    TimedOut,
    /// An input of it was cancelled.
    Cancelled,
    /// The app stops, or there was nothing to do for a while.
    Unneeded,
    /// The user stopped it.
    Withdrawn,
    /// The conversation with it came to nothing.
    Broken(Trouble),
    /// Its input could not be sent to it.
    NotSent(Arc<WireError>),
}

struct Slot {
    phase: Phase,
    /// When it began what it does; of one that serves, when it had an input last.
    since: Instant,
    link: Option<Arc<Link>>,
    process: Option<Arc<dyn ContainerProcess>>,
    running: Vec<Running>,
    /// Inputs that it runs and that were cancelled: nobody waits for them any more.
    cancelled: Vec<(CallId, Instant)>,
    end: Option<EndReason>,
    /// The user is in it, or about to be: their time does not count.
    interacts: bool,
    /// It gets no further inputs, and leaves after those that it has.
    is_last: bool,
}

impl Slot {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    fn is_serving(&self) -> bool {
        self.end.is_none() && self.phase == Phase::Serving
    }

    fn is_starting(&self) -> bool {
        self.end.is_none() && self.phase == Phase::Starting
    }

    fn has_room(&self, capacity: usize) -> bool {
        self.is_serving() && !self.is_last && self.load() < capacity
    }

    /// Whether it may tell of inputs that were taken from it.
    fn was_interrupted(&self) -> bool {
        matches!(self.end, Some(EndReason::Cancelled | EndReason::Withdrawn))
    }

    /// How many inputs it runs, those included that were cancelled.
    fn load(&self) -> usize {
        self.running.len() + self.cancelled.len()
    }

    /// A cancelled input has ended; false if there is no such one.
    fn forget_cancelled(&mut self, call: CallId) -> bool {
        let before = self.cancelled.len();
        self.cancelled.retain(|(cancelled, _)| *cancelled != call);
        self.cancelled.len() < before
    }

    fn runs(&self, call: CallId) -> bool {
        self.running.iter().any(|running| running.attempt.call == call)
    }

    fn running(&mut self, call: CallId) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.attempt.call == call)
    }

    fn take(&mut self, call: CallId) -> Option<Running> {
        let index = self.running.iter().position(|running| running.attempt.call == call)?;
        Some(self.running.swap_remove(index))
    }
}

/// What a container's time limits demand.
pub(crate) enum Deadline {
    /// Nothing until this much later.
    Later(Duration),
    /// Tell it to leave.
    Leave,
    /// Tell it to end these inputs, whose time is up; what becomes of them.
    End(Vec<(CallId, Disposition)>),
    /// Kill it.
    Kill,
}

/// Which input something is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputLabel {
    call: CallId,
    part_of: FunctionCallId,
    method: Option<Arc<str>>,
}

impl InputLabel {
    fn of(running: &Running) -> Self {
        let Attempt { call, part_of, method, .. } = &running.attempt;
        Self { call: *call, part_of: *part_of, method: method.clone() }
    }

    /// What prints in a container of `service`, while this input runs or none.
    pub(crate) fn printer(input: Option<&Self>, service: &str) -> Printer {
        let Some(Self { call, part_of, method }) = input else {
            return Printer { function: Some(service.to_owned()), ..Printer::default() };
        };
        let function = method.as_ref().map_or_else(|| service.to_owned(), |method| format!("{service}.{method}"));
        Printer { function: Some(function), function_call: Some(part_of.to_string()), input: Some(call.to_string()) }
    }
}

/// What becomes of an input that ended.
pub(crate) enum Disposition {
    /// Its caller is told.
    Answer(Arc<dyn Caller>),
    /// It failed and was put aside for another attempt.
    Retry(Retry),
}

/// Another attempt to come.
pub(crate) struct Retry {
    /// The number of the attempt that failed, from 1.
    pub(crate) attempt: u32,
    /// How long the input waits.
    pub(crate) delay: Duration,
}

/// A call that was cancelled.
pub(crate) struct Cancelled {
    pub(crate) caller: Arc<dyn Caller>,
    /// The container that runs it.
    pub(crate) process: Option<Arc<dyn ContainerProcess>>,
    /// The container's connection, if it is told to end the input; else it is killed.
    pub(crate) link: Option<Arc<Link>>,
}

impl Cancelled {
    fn waiting(caller: Arc<dyn Caller>) -> Self {
        Self { caller, process: None, link: None }
    }
}

/// What an input's end leads to.
#[derive(Default)]
pub(crate) struct Finished {
    pub(crate) disposition: Option<Disposition>,
    /// What the container gets next.
    pub(crate) next: Vec<Dispatch>,
    /// The container's connection, if it is to leave.
    pub(crate) leave: Option<Arc<Link>>,
}

/// What is to be done when the user stops a container.
#[derive(Default)]
pub(crate) struct Withdrawn {
    /// Its connection, if it is told to leave.
    pub(crate) leave: Option<Arc<Link>>,
    /// Its processes, if it runs inputs that end now, or is killed.
    pub(crate) process: Option<Arc<dyn ContainerProcess>>,
    /// Those of its inputs that cannot run again.
    pub(crate) lost: Vec<Arc<dyn Caller>>,
    /// What other containers get.
    pub(crate) next: Vec<Dispatch>,
}

/// What was left when a container ended.
pub(crate) struct Removed {
    /// Why the engine ended it, if it did.
    pub(crate) end: Option<EndReason>,
    /// What becomes of the inputs that it ran, and of those that no container will take, because this one never got
    /// ready and no other one works.
    pub(crate) dispositions: Vec<Disposition>,
}

/// What is to be done when a pool ends.
pub(crate) struct Stopped {
    /// The inputs that no container has.
    pub(crate) waiting: Vec<Input>,
    /// The containers to tell that they leave.
    pub(crate) leave: Vec<Arc<Link>>,
    /// Those of them that run inputs, which end now.
    pub(crate) interrupt: Vec<Arc<dyn ContainerProcess>>,
    /// The containers to kill.
    pub(crate) kill: Vec<Arc<dyn ContainerProcess>>,
}

/// How many inputs a container runs before it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    OneInput,
    AnyInputs,
}

/// The state of a pool.
pub(crate) struct State {
    retries: Retries,
    /// Most inputs that a container runs at a time.
    capacity: usize,
    /// How many it is to run if there can be more containers.
    target: usize,
    scaling: Scaling,
    batching: Option<Batching>,
    lifetime: Lifetime,
    waiting: VecDeque<Input>,
    /// Inputs that wait for another attempt, by its time and a number that tells equal times apart.
    delayed: BTreeMap<(Instant, u64), Input>,
    /// How many inputs were ever put aside.
    delays: u64,
    /// Whether a thread keeps the time for them.
    timer_runs: bool,
    slots: BTreeMap<SlotId, Slot>,
    next: SlotId,
    stopping: bool,
    /// The last container that tried to start failed: while there are others, no further ones are tried.
    starts_fail: bool,
}

impl State {
    /// An empty pool.
    pub(crate) fn new(options: &PoolOptions) -> Self {
        Self {
            retries: options.retries,
            capacity: options.capacity.max(1),
            target: options.target.unwrap_or(options.capacity).clamp(1, options.capacity.max(1)),
            scaling: options.scaling(),
            batching: options.batching,
            lifetime: if options.single_use { Lifetime::OneInput } else { Lifetime::AnyInputs },
            waiting: VecDeque::new(),
            delayed: BTreeMap::new(),
            delays: 0,
            timer_runs: false,
            slots: BTreeMap::new(),
            next: 0,
            stopping: false,
            starts_fail: false,
        }
    }

    /// Gives an input to a container, or lets it wait.
    pub(crate) fn place(&mut self, input: Input) -> Vec<Dispatch> {
        if let Some(batching) = self.batching {
            self.waiting.push_back(input);
            return self.place_batches(batching);
        }
        let Some(id) = self.best_slot() else {
            self.waiting.push_back(input);
            return Vec::new();
        };
        self.give(id, input).into_iter().collect()
    }

    /// Makes room for a further container if inputs wait that no starting one will take.
    pub(crate) fn reserve(&mut self) -> Option<SlotId> {
        let starting = self.slots.values().filter(|slot| slot.is_starting()).count();
        let hopeless = self.starts_fail && self.slots.values().any(|slot| slot.is_serving() || slot.is_starting());
        let lacks = self.waiting.len() > starting.saturating_mul(self.target) || self.lacks_containers();
        if self.stopping || hopeless || !lacks || self.slots.len() >= self.scaling.maximum {
            return None;
        }
        self.next += 1;
        let slot = Slot {
            phase: Phase::Starting,
            since: Instant::now(),
            link: None,
            process: None,
            running: Vec::new(),
            cancelled: Vec::new(),
            end: None,
            interacts: false,
            is_last: false,
        };
        self.slots.insert(self.next, slot);
        Some(self.next)
    }

    /// Notes a container's connection; false when it is not wanted any more.
    pub(crate) fn connect(&mut self, id: SlotId, link: &Arc<Link>, process: &Arc<dyn ContainerProcess>) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        slot.link = Some(Arc::clone(link));
        slot.process = Some(Arc::clone(process));
        slot.since = Instant::now();
        slot.end.is_none()
    }

    /// A container is ready for inputs: gives those that it takes. Fails when that makes no sense.
    pub(crate) fn ready(&mut self, id: SlotId) -> Result<Vec<Dispatch>, ()> {
        let slot = self.slots.get_mut(&id).filter(|slot| slot.phase == Phase::Starting).ok_or(())?;
        self.starts_fail = false;
        slot.interacts = false;
        slot.enter(Phase::Serving);
        Ok(self.next_inputs(id))
    }

    /// The input that a container runs; the first one where several run together.
    pub(crate) fn input_that_runs(&self, id: SlotId) -> Option<InputLabel> {
        self.slots.get(&id)?.running.first().map(InputLabel::of)
    }

    /// Input `call`, if a container runs it.
    pub(crate) fn input(&self, id: SlotId, call: CallId) -> Option<InputLabel> {
        let mut running = self.slots.get(&id)?.running.iter();
        running.find(|running| running.attempt.call == call).map(InputLabel::of)
    }

    /// A container finished input `call`, with an exception if it `failed`. Fails when it was not running that.
    pub(crate) fn finish(&mut self, id: SlotId, call: CallId, failed: bool) -> Result<Finished, ()> {
        let slot = self.slots.get_mut(&id).ok_or(())?;
        let Some(running) = slot.take(call) else {
            if slot.forget_cancelled(call) {
                slot.since = Instant::now();
                return Ok(self.after_input(id, None));
            }
            // Its result crossed the cancellation.
            return if slot.was_interrupted() { Ok(Finished::default()) } else { Err(()) };
        };
        slot.since = Instant::now();
        slot.interacts = false;
        let attempt = running.attempt;
        let disposition = if failed { self.fail(attempt) } else { Disposition::Answer(attempt.caller) };
        Ok(self.after_input(id, Some(disposition)))
    }

    /// What a container does that has ended an input.
    fn after_input(&mut self, id: SlotId, disposition: Option<Disposition>) -> Finished {
        let is_over = self.lifetime == Lifetime::OneInput;
        let leaves = |slot: &&mut Slot| slot.is_serving() && (is_over || slot.is_last && slot.load() == 0);
        if let Some(slot) = self.slots.get_mut(&id).filter(leaves) {
            slot.end.get_or_insert(EndReason::Unneeded);
            slot.enter(Phase::Leaving);
            return Finished { disposition, next: Vec::new(), leave: slot.link.clone() };
        }
        Finished { disposition, next: self.next_inputs(id), leave: None }
    }

    /// A container made an item of call `call`: gives who takes it. Fails when it was not running that.
    pub(crate) fn item(&mut self, id: SlotId, call: CallId) -> Result<Option<Arc<dyn Caller>>, ()> {
        let slot = self.slots.get_mut(&id).ok_or(())?;
        if let Some(running) = slot.running(call) {
            running.ahead += 1;
            running.attempt.has_yielded = true;
            return Ok(Some(Arc::clone(&running.attempt.caller)));
        }
        // It crossed the cancellation.
        let is_cancelled = slot.cancelled.iter().any(|(cancelled, _)| *cancelled == call);
        if is_cancelled || slot.was_interrupted() { Ok(None) } else { Err(()) }
    }

    /// The caller of call `call` has consumed items: gives the link of the container that runs it, whose thread is to be
    /// woken.
    pub(crate) fn more(&mut self, call: CallId, count: u64) -> Option<Arc<Link>> {
        let slot = self.slots.values_mut().find(|slot| slot.runs(call))?;
        let running = slot.running(call)?;
        running.ahead = running.ahead.saturating_sub(count);
        running.consumed = running.consumed.saturating_add(count);
        slot.link.clone()
    }

    /// Whether a container is so far ahead of a caller that nothing more is read from it.
    pub(crate) fn is_far_ahead(&self, id: SlotId) -> bool {
        let slot = self.slots.get(&id);
        slot.is_some_and(|slot| slot.running.iter().any(|running| running.ahead >= MOST_ITEMS_AHEAD))
    }

    /// What a container is to be told of: a call that it runs, and how many of its items were consumed.
    pub(crate) fn take_consumed(&mut self, id: SlotId) -> Option<(CallId, u64)> {
        let running = self.slots.get_mut(&id)?.running.iter_mut().find(|running| running.consumed > 0)?;
        Some((running.attempt.call, std::mem::take(&mut running.consumed)))
    }

    /// What a container gets that has room.
    fn next_inputs(&mut self, id: SlotId) -> Vec<Dispatch> {
        match self.batching {
            Some(batching) => self.next_batch(id, batching),
            None => (0..self.capacity).map_while(|_| self.next_input(id)).collect(),
        }
    }

    fn next_input(&mut self, id: SlotId) -> Option<Dispatch> {
        let slot = self.slots.get(&id)?;
        if !slot.has_room(self.capacity) || slot.link.is_none() {
            return None;
        }
        let input = self.waiting.pop_front()?;
        self.give(id, input)
    }

    /// Gives an input to a container.
    fn give(&mut self, id: SlotId, input: Input) -> Option<Dispatch> {
        let slot = self.slots.get_mut(&id)?;
        let link = slot.link.clone()?;
        let Input { call, part_of, method, payload, caller, failed, .. } = input;
        caller.given_to(&link.task);
        // Any may have to run again through no fault of its own.
        let kept = Arc::clone(&payload);
        let attempt =
            Attempt { call, part_of, method: method.clone(), caller, has_yielded: false, failed, payload: kept };
        let since = Instant::now();
        slot.since = since;
        slot.running.push(Running { attempt, since, timed_out: false, ahead: 0, consumed: 0 });
        Some(Dispatch { slot: id, link, call, part_of, method, payload, batch: None })
    }

    /// The terminal comes into a container, until the input that it runs, or its start, has ended; with somebody at it
    /// if there `is_user`. False if there is neither an input nor a start.
    pub(crate) fn interact(&mut self, id: SlotId, is_user: bool) -> bool {
        let slot = self.slots.get_mut(&id);
        let Some(slot) = slot.filter(|slot| slot.phase == Phase::Starting || !slot.running.is_empty()) else {
            return false;
        };
        slot.interacts = is_user;
        true
    }

    /// Whether a container is not ready yet.
    pub(crate) fn is_starting(&self, id: SlotId) -> bool {
        self.slots.get(&id).is_some_and(|slot| slot.phase == Phase::Starting)
    }

    /// When the next input that was put aside, or the next batch, is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let delayed = self.delayed.first_key_value().map(|((at, _), _)| *at);
        delayed.into_iter().chain(self.next_batch_due()).min()
    }

    /// Places what is due first, as [`State::place`].
    pub(crate) fn place_due(&mut self) -> Vec<Dispatch> {
        let now = Instant::now();
        if self.delayed.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            return self.delayed.pop_first().map_or_else(Vec::new, |(_, input)| self.place(input));
        }
        self.batching.map_or_else(Vec::new, |batching| self.place_batches(batching))
    }

    /// Takes all inputs that were put aside.
    pub(crate) fn take_delayed(&mut self) -> Vec<Input> {
        std::mem::take(&mut self.delayed).into_values().collect()
    }

    /// Notes that a thread keeps time; false when there is one already, or nothing to do.
    pub(crate) fn start_timer(&mut self) -> bool {
        self.next_due().is_some() && !std::mem::replace(&mut self.timer_runs, true)
    }

    /// Notes that no thread keeps time.
    pub(crate) fn stop_timer(&mut self) {
        self.timer_runs = false;
    }

    /// The containers that are still there.
    pub(crate) fn processes(&self) -> Vec<Arc<dyn ContainerProcess>> {
        self.slots.values().filter_map(|slot| slot.process.clone()).collect()
    }

    /// Whether no container is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether it has inputs that have not ended.
    pub(crate) fn has_inputs(&self) -> bool {
        let runs = |slot: &Slot| !slot.running.is_empty();
        !self.waiting.is_empty() || !self.delayed.is_empty() || self.slots.values().any(runs)
    }

    /// Whether the pool takes no inputs any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether all containers that there may be run inputs that have called something.
    pub(crate) fn may_be_stuck(&self) -> bool {
        let awaits = |slot: &Slot| {
            let calls = slot.link.as_ref().map(|link| &link.calls);
            slot.running.iter().all(|running| calls.is_some_and(|calls| calls.is_any_awaited_by(running.attempt.call)))
        };
        self.is_full() && self.slots.values().all(awaits)
    }

    /// Whether there are all containers that there may be, and none of them can take an input before one that it runs has
    /// ended; those that were cancelled end by themselves.
    fn is_full(&self) -> bool {
        let is_busy = |slot: &Slot| slot.is_serving() && slot.running.len() >= self.capacity;
        self.slots.len() >= self.scaling.maximum && self.slots.values().all(is_busy)
    }

    /// Who waits for what.
    pub(crate) fn view(&self, service: &str) -> PoolView {
        let awaited = |slot: &Slot, call| slot.link.as_ref().map_or_else(Vec::new, |link| link.calls.awaited_by(call));
        let running = |slot| {
            let calls = |running: &Running| (running.attempt.call, awaited(slot, running.attempt.call));
            slot.running.iter().map(calls).collect::<Vec<_>>()
        };
        PoolView {
            service: service.to_owned(),
            is_full: self.is_full(),
            running: self.slots.values().flat_map(running).collect(),
            waiting: self.waiting.iter().map(|input| input.call).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
