//! A pool's bookkeeping: which inputs wait, what each container does. No I/O, so every transition is under one short
//! lock.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_wire::{Payload, Sender};

use crate::pool::{Caller, PoolOptions};
use crate::retries::Retries;
use crate::starter::ContainerProcess;

/// Items of a generator that may be on their way to a caller who has not consumed them. The runner keeps fewer; the
/// engine reads no more from one that does not.
const MOST_ITEMS_AHEAD: u64 = 64;

/// Names a container within its pool.
pub(crate) type SlotId = u64;

/// An input that no container has yet.
pub(crate) struct Input {
    pub(crate) call: u64,
    pub(crate) payload: Arc<Payload>,
    pub(crate) caller: Arc<dyn Caller>,
    /// How many attempts failed.
    pub(crate) failed: u32,
}

/// An input on its way into a container.
pub(crate) struct Handover {
    pub(crate) slot: SlotId,
    pub(crate) sender: Sender,
    pub(crate) call: u64,
    pub(crate) payload: Arc<Payload>,
}

/// What a container does.
enum Phase {
    /// It starts and imports the function's module.
    Starting,
    /// It waits for an input.
    Idle,
    /// It runs an input.
    Running(Running),
    /// It was told to leave, or is being killed.
    Leaving,
}

/// What remains of an input that a container was given.
struct Attempt {
    call: u64,
    caller: Arc<dyn Caller>,
    /// How many attempts failed before this one.
    failed: u32,
    /// The arguments, if there may be another attempt.
    payload: Option<Arc<Payload>>,
}

impl From<Input> for Attempt {
    fn from(Input { call, payload, caller, failed }: Input) -> Self {
        Self { call, caller, failed, payload: Some(payload) }
    }
}

/// An input that a container runs.
struct Running {
    attempt: Attempt,
    /// Items of a generator that the caller has not consumed.
    ahead: u64,
    /// Items that were consumed, which its container was not told yet.
    consumed: u64,
}

/// Why the engine ended a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its module cannot be imported.
    ImportFailed,
    /// It took too long to get ready.
    StartTimedOut,
    /// Its input took too long.
    TimedOut,
    /// Its input was cancelled.
    Cancelled,
    /// The app stops, or there was nothing to do for a while.
    Unneeded,
    /// It broke the protocol.
    Broken(String),
    /// Its input could not be sent to it.
    NotSent(String),
}

struct Slot {
    phase: Phase,
    since: Instant,
    sender: Option<Sender>,
    process: Option<Arc<dyn ContainerProcess>>,
    /// Wakes the container's thread.
    wake: Option<Arc<OwnedFd>>,
    ending: Option<Ending>,
    /// The user is in it, or about to be: their time does not count.
    interacts: bool,
}

impl Slot {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    fn is_working(&self) -> bool {
        self.ending.is_none() && matches!(self.phase, Phase::Idle | Phase::Running(_))
    }

    fn runs(&self, call: u64) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.attempt.call == call)
    }

    fn is_starting(&self) -> bool {
        self.ending.is_none() && matches!(self.phase, Phase::Starting)
    }
}

/// What to do about a container whose time is up.
pub(crate) enum Due {
    /// Nothing until this much later.
    Later(Duration),
    /// Tell it to leave.
    Leave,
    /// Kill it.
    Kill,
}

/// What becomes of an input that ended.
pub(crate) enum Verdict {
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

/// A call that was taken back.
pub(crate) struct TakenBack {
    pub(crate) caller: Arc<dyn Caller>,
    /// What kills the container that runs it.
    pub(crate) process: Option<Arc<dyn ContainerProcess>>,
}

/// What was left when a container ended.
pub(crate) struct Remains {
    /// Why the engine ended it, if it did.
    pub(crate) ending: Option<Ending>,
    /// What becomes of the input that it ran, and of those that no container will take, because this one never got ready
    /// and no other one works.
    pub(crate) verdicts: Vec<Verdict>,
}

/// The state of a pool.
#[derive(Default)]
pub(crate) struct State {
    retries: Retries,
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
    pub(crate) fn new(retries: Retries) -> Self {
        Self { retries, ..Self::default() }
    }

    /// Gives an input to the container that became idle last (its caches are the warmest), or lets it wait.
    pub(crate) fn place(&mut self, input: Input) -> Option<Handover> {
        let idle = self.slots.iter_mut().filter(|(_, slot)| slot.is_working() && matches!(slot.phase, Phase::Idle));
        let Some((id, slot)) = idle.max_by_key(|(_, slot)| slot.since) else {
            self.waiting.push_back(input);
            return None;
        };
        let Some(sender) = slot.sender.clone() else {
            self.waiting.push_back(input);
            return None;
        };
        Some(slot.give(*id, sender, input, self.retries.maximum))
    }

    /// Makes room for a further container if inputs wait that no starting one will take.
    pub(crate) fn reserve(&mut self, maximum: usize) -> Option<SlotId> {
        let starting = self.slots.values().filter(|slot| slot.is_starting()).count();
        let hopeless = self.starts_fail && self.slots.values().any(|slot| slot.is_working() || slot.is_starting());
        if self.stopping || hopeless || self.waiting.len() <= starting || self.slots.len() >= maximum {
            return None;
        }
        self.next += 1;
        let slot = Slot {
            phase: Phase::Starting,
            since: Instant::now(),
            sender: None,
            process: None,
            wake: None,
            ending: None,
            interacts: false,
        };
        self.slots.insert(self.next, slot);
        Some(self.next)
    }

    /// Notes a container's connection; false when it is not wanted any more.
    pub(crate) fn connect(
        &mut self,
        id: SlotId,
        sender: &Sender,
        process: &Arc<dyn ContainerProcess>,
        wake: &Arc<OwnedFd>,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        slot.sender = Some(sender.clone());
        slot.process = Some(Arc::clone(process));
        slot.wake = Some(Arc::clone(wake));
        slot.since = Instant::now();
        slot.ending.is_none()
    }

    /// A container is ready for inputs; false when that makes no sense.
    pub(crate) fn ready(&mut self, id: SlotId) -> Result<Option<Handover>, ()> {
        let slot = self.slots.get_mut(&id).filter(|slot| matches!(slot.phase, Phase::Starting)).ok_or(())?;
        self.starts_fail = false;
        slot.interacts = false;
        slot.enter(Phase::Idle);
        Ok(self.next_input(id))
    }

    /// A container finished input `call`, with an exception if it `failed`. An error when it was not running that.
    pub(crate) fn finish(
        &mut self,
        id: SlotId,
        call: u64,
        failed: bool,
    ) -> Result<(Option<Verdict>, Option<Handover>), ()> {
        let slot = self.slots.get_mut(&id).ok_or(())?;
        match std::mem::replace(&mut slot.phase, Phase::Idle) {
            Phase::Running(running) if running.attempt.call == call => {
                slot.since = Instant::now();
                slot.interacts = false;
                let verdict = if failed { self.fail(running.attempt) } else { Verdict::Answer(running.attempt.caller) };
                Ok((Some(verdict), self.next_input(id)))
            }
            // Its result crossed the cancellation.
            Phase::Leaving if slot.ending == Some(Ending::Cancelled) => {
                slot.phase = Phase::Leaving;
                Ok((None, None))
            }
            other => {
                slot.phase = other;
                Err(())
            }
        }
    }

    /// A container made an item of call `call`: gives who takes it. Fails when it was not running that.
    pub(crate) fn item(&mut self, id: SlotId, call: u64) -> Result<Option<Arc<dyn Caller>>, ()> {
        let slot = self.slots.get_mut(&id).ok_or(())?;
        match &mut slot.phase {
            Phase::Running(running) if running.attempt.call == call => {
                running.ahead += 1;
                Ok(Some(Arc::clone(&running.attempt.caller)))
            }
            // It crossed the cancellation.
            Phase::Leaving if slot.ending == Some(Ending::Cancelled) => Ok(None),
            _ => Err(()),
        }
    }

    /// The caller of call `call` has consumed items: gives what wakes the thread of the container that runs it.
    pub(crate) fn more(&mut self, call: u64, count: u64) -> Option<Arc<OwnedFd>> {
        let slot = self.slots.values_mut().find(|slot| slot.runs(call))?;
        let Phase::Running(running) = &mut slot.phase else { return None };
        running.ahead = running.ahead.saturating_sub(count);
        running.consumed = running.consumed.saturating_add(count);
        slot.wake.clone()
    }

    /// Whether a container is so far ahead of its caller that nothing more is read from it.
    pub(crate) fn is_far_ahead(&self, id: SlotId) -> bool {
        let phase = self.slots.get(&id).map(|slot| &slot.phase);
        matches!(phase, Some(Phase::Running(running)) if running.ahead >= MOST_ITEMS_AHEAD)
    }

    /// What a container is to be told of: the call it runs, and how many of its items were consumed.
    pub(crate) fn take_consumed(&mut self, id: SlotId) -> Option<(u64, u64)> {
        let Phase::Running(running) = &mut self.slots.get_mut(&id)?.phase else { return None };
        let count = std::mem::take(&mut running.consumed);
        (count > 0).then_some((running.attempt.call, count))
    }

    fn next_input(&mut self, id: SlotId) -> Option<Handover> {
        let slot = self.slots.get_mut(&id).filter(|slot| slot.ending.is_none())?;
        let sender = slot.sender.clone()?;
        Some(slot.give(id, sender, self.waiting.pop_front()?, self.retries.maximum))
    }

    /// Notes why a container is being ended, if nothing ended it before, and gives what kills it.
    pub(crate) fn end(&mut self, id: SlotId, ending: Ending) -> Option<Arc<dyn ContainerProcess>> {
        let slot = self.slots.get_mut(&id)?;
        slot.ending.get_or_insert(ending);
        slot.process.clone()
    }

    /// Takes back an input that waits or runs.
    pub(crate) fn cancel(&mut self, call: u64) -> Option<TakenBack> {
        if let Some(index) = self.waiting.iter().position(|input| input.call == call) {
            return self.waiting.remove(index).map(|input| TakenBack { caller: input.caller, process: None });
        }
        let delayed = self.delayed.iter().find(|(_, input)| input.call == call).map(|(key, _)| *key);
        if let Some(input) = delayed.and_then(|key| self.delayed.remove(&key)) {
            return Some(TakenBack { caller: input.caller, process: None });
        }
        let slot = self.slots.values_mut().find(|slot| slot.runs(call))?;
        let Phase::Running(running) = std::mem::replace(&mut slot.phase, Phase::Leaving) else {
            return None;
        };
        slot.ending.get_or_insert(Ending::Cancelled);
        Some(TakenBack { caller: running.attempt.caller, process: slot.process.clone() })
    }

    /// The terminal comes into a container, until the input that it runs, or its start, has ended; with somebody at it
    /// if there `is_user`. False if there is neither an input nor a start.
    pub(crate) fn interact(&mut self, id: SlotId, is_user: bool) -> bool {
        let slot = self.slots.get_mut(&id).filter(|slot| matches!(slot.phase, Phase::Starting | Phase::Running(_)));
        let Some(slot) = slot else { return false };
        slot.interacts = is_user;
        true
    }

    /// What a container's time demands now. Whatever it is given later is due later than the time named here, because
    /// no phase is shorter than `options` say.
    pub(crate) fn due(&mut self, id: SlotId, options: &PoolOptions) -> Due {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Due::Later(options.idle);
        };
        let (limit, ending) = match slot.phase {
            Phase::Starting => (options.startup, Ending::StartTimedOut),
            Phase::Running(_) => (options.timeout, Ending::TimedOut),
            Phase::Idle => (options.idle, Ending::Unneeded),
            Phase::Leaving => (options.grace, Ending::Unneeded),
        };
        let is_with_user = slot.interacts && matches!(slot.phase, Phase::Starting | Phase::Running(_));
        let left = if is_with_user { limit } else { limit.saturating_sub(slot.since.elapsed()) };
        if !left.is_zero() {
            return Due::Later(left.min(options.timeout).min(options.idle));
        }
        slot.ending.get_or_insert(ending);
        if matches!(slot.phase, Phase::Idle) {
            slot.enter(Phase::Leaving);
            return Due::Leave;
        }
        Due::Kill
    }

    /// Takes a failed start's waiting inputs, unless other containers may still run them.
    pub(crate) fn abandon(&mut self, failed: SlotId) -> Vec<Input> {
        self.starts_fail = true;
        let others = self.slots.iter().any(|(id, slot)| *id != failed && (slot.is_working() || slot.is_starting()));
        if others { Vec::new() } else { self.waiting.drain(..).collect() }
    }

    /// A container is gone.
    pub(crate) fn remove(&mut self, id: SlotId) -> Remains {
        let Some(slot) = self.slots.remove(&id) else {
            return Remains { ending: None, verdicts: Vec::new() };
        };
        let never_ready = matches!(slot.phase, Phase::Starting);
        let failed = never_ready && matches!(slot.ending, None | Some(Ending::StartTimedOut | Ending::Broken(_)));
        let abandoned = if failed { self.abandon(id) } else { Vec::new() };
        let running = if let Phase::Running(running) = slot.phase { Some(running.attempt) } else { None };
        // What cannot be made at all would not be made at the next attempt either, and the user has seen how it ended.
        let retried = slot.process.is_some() && !slot.interacts && is_retried(slot.ending.as_ref());
        let ended = running.into_iter().chain(abandoned.into_iter().map(Attempt::from));
        let judge = |attempt: Attempt| if retried { self.fail(attempt) } else { Verdict::Answer(attempt.caller) };
        Remains { ending: slot.ending, verdicts: ended.map(judge).collect() }
    }

    /// Puts an input that failed aside for another attempt, if it has one left.
    fn fail(&mut self, attempt: Attempt) -> Verdict {
        let failed = attempt.failed + 1;
        let Some(payload) = attempt.payload.filter(|_| failed <= self.retries.maximum && !self.stopping) else {
            return Verdict::Answer(attempt.caller);
        };
        let delay = self.retries.delay(failed);
        self.delays += 1;
        let input = Input { call: attempt.call, payload, caller: attempt.caller, failed };
        self.delayed.insert((Instant::now() + delay, self.delays), input);
        Verdict::Retry(Retry { attempt: failed, delay })
    }

    /// When the next input that was put aside is due.
    pub(crate) fn next_attempt(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }

    /// Places the input that was put aside and is due first, as [`State::place`].
    pub(crate) fn place_delayed(&mut self) -> Option<Handover> {
        let (_, input) = self.delayed.pop_first()?;
        self.place(input)
    }

    /// Takes all inputs that were put aside.
    pub(crate) fn take_delayed(&mut self) -> Vec<Input> {
        std::mem::take(&mut self.delayed).into_values().collect()
    }

    /// Notes that a thread keeps time; false when there is one already, or nothing to do.
    pub(crate) fn start_timer(&mut self) -> bool {
        !self.delayed.is_empty() && !std::mem::replace(&mut self.timer_runs, true)
    }

    /// Notes that no thread keeps time.
    pub(crate) fn stop_timer(&mut self) {
        self.timer_runs = false;
    }

    /// Ends the pool: gives the inputs that wait, the containers to tell, and those to kill.
    pub(crate) fn stop(&mut self) -> (Vec<Input>, Vec<Sender>, Vec<Arc<dyn ContainerProcess>>) {
        self.stopping = true;
        let (mut leave, mut kill) = (Vec::new(), Vec::new());
        for slot in self.slots.values_mut() {
            slot.ending.get_or_insert(Ending::Unneeded);
            if matches!(slot.phase, Phase::Idle) {
                slot.enter(Phase::Leaving);
                leave.extend(slot.sender.clone());
            } else if !matches!(slot.phase, Phase::Leaving) {
                kill.extend(slot.process.clone());
            }
        }
        let mut waiting = self.take_delayed();
        waiting.extend(self.waiting.drain(..));
        (waiting, leave, kill)
    }

    /// The containers that are still there.
    pub(crate) fn processes(&self) -> Vec<Arc<dyn ContainerProcess>> {
        self.slots.values().filter_map(|slot| slot.process.clone()).collect()
    }

    /// Whether no container is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the pool takes no inputs any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }
}

impl Slot {
    /// Gives an input to this container.
    fn give(&mut self, id: SlotId, sender: Sender, input: Input, retries: u32) -> Handover {
        let Input { call, payload, caller, failed } = input;
        let kept = (failed < retries).then(|| Arc::clone(&payload));
        let attempt = Attempt { call, caller, failed, payload: kept };
        self.enter(Phase::Running(Running { attempt, ahead: 0, consumed: 0 }));
        Handover { slot: id, sender, call, payload }
    }
}

/// Whether inputs are tried again after such an end of their container: not if somebody wanted it, or if the next attempt
/// would end in the same way.
fn is_retried(ending: Option<&Ending>) -> bool {
    matches!(ending, None | Some(Ending::TimedOut | Ending::StartTimedOut | Ending::Broken(_)))
}
