//! How containers and their inputs end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Attempt, Cancelled, Deadline, Dispatch, Disposition, EndReason, Input, Phase, Removed, Retry, Running, Slot,
    SlotId, State, Stopped, Withdrawn,
};
use crate::ids::CallId;
use crate::options::PoolOptions;
use crate::starter::ContainerProcess;

/// How long an input that was cancelled may take to end before its container is killed.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

impl State {
    /// Notes why a container is being ended, if nothing ended it before, and gives what kills it.
    pub(crate) fn end(&mut self, id: SlotId, reason: EndReason) -> Option<Arc<dyn ContainerProcess>> {
        let slot = self.slots.get_mut(&id)?;
        slot.end.get_or_insert(reason);
        slot.process.clone()
    }

    /// Takes back an input that waits or runs; its container ends with it if that is to `terminate`.
    pub(crate) fn cancel(&mut self, call: CallId, terminate: bool) -> Option<Cancelled> {
        if let Some(index) = self.waiting.iter().position(|input| input.call == call) {
            return self.waiting.remove(index).map(|input| Cancelled::waiting(input.caller));
        }
        let delayed = self.delayed.iter().find(|(_, input)| input.call == call).map(|(key, _)| *key);
        if let Some(input) = delayed.and_then(|key| self.delayed.remove(&key)) {
            return Some(Cancelled::waiting(input.caller));
        }
        let slot = self.slots.values_mut().find(|slot| slot.runs(call))?;
        let running = slot.take(call)?;
        let (caller, process) = (running.attempt.caller, slot.process.clone());
        // One that is leaving already has its grace: what it does at its end is not cut off.
        if !terminate {
            slot.cancelled.push((call, Instant::now()));
            return Some(Cancelled { caller, process, link: slot.link.clone() });
        }
        slot.enter(Phase::Leaving);
        slot.end.get_or_insert(EndReason::Cancelled);
        Some(Cancelled { caller, process, link: None })
    }

    /// What a container's time demands now. Whatever it is given later is due later than the time named here, because
    /// no phase is shorter than `options` say.
    pub(crate) fn due(&mut self, id: SlotId, options: &PoolOptions) -> Deadline {
        let (idle, may_shrink, has_batches) = (self.scaling.idle, self.may_shrink(), self.batching.is_some());
        let Some(slot) = self.slots.get_mut(&id) else {
            return Deadline::Later(idle);
        };
        // What runs together cannot end alone, and one that leaves has a time of its own.
        let is_alone = !has_batches && slot.phase == Phase::Serving;
        let oldest_cancelled = slot.cancelled.iter().map(|(_, since)| *since).min().filter(|_| is_alone);
        if oldest_cancelled.is_some_and(|since| since.elapsed() >= CANCEL_PATIENCE) {
            slot.end.get_or_insert(EndReason::Cancelled);
            return Deadline::Kill;
        }
        let is_idle = slot.phase == Phase::Serving && slot.load() == 0;
        let (limit, begun, reason) = match slot.phase {
            Phase::Starting => (options.startup, slot.since, EndReason::StartTimedOut),
            Phase::Leaving => (options.grace, slot.since, EndReason::Unneeded),
            Phase::Serving if is_idle => (idle, slot.since, EndReason::Unneeded),
            Phase::Serving => {
                let oldest = slot.running.iter().map(|running| running.since).min();
                (options.timeout, oldest.unwrap_or_else(Instant::now), EndReason::TimedOut)
            }
        };
        let is_with_user = slot.interacts && !is_idle && slot.phase != Phase::Leaving;
        let left = if is_with_user { limit } else { limit.saturating_sub(begun.elapsed()) };
        let left = if slot.cancelled.is_empty() { left } else { left.min(CANCEL_PATIENCE) };
        if !left.is_zero() {
            return Deadline::Later(left.min(options.timeout).min(idle));
        }
        if is_idle && !may_shrink {
            return Deadline::Later(idle.min(options.timeout));
        }
        if matches!(reason, EndReason::TimedOut) && !has_batches {
            return Deadline::End(self.end_late(id, limit));
        }
        if matches!(reason, EndReason::TimedOut) {
            for running in slot.running.iter_mut().filter(|running| running.since.elapsed() >= limit) {
                running.timed_out = true;
            }
        }
        slot.end.get_or_insert(reason);
        if is_idle {
            slot.enter(Phase::Leaving);
            return Deadline::Leave;
        }
        Deadline::Kill
    }

    /// Gives up the inputs of a container that have run for `limit`: nobody waits for them there any more.
    fn end_late(&mut self, id: SlotId, limit: Duration) -> Vec<(CallId, Disposition)> {
        let Some(slot) = self.slots.get_mut(&id) else { return Vec::new() };
        let is_late = |running: &mut Running| running.since.elapsed() >= limit;
        let late: Vec<Attempt> = slot.running.extract_if(.., is_late).map(|running| running.attempt).collect();
        slot.cancelled.extend(late.iter().map(|attempt| (attempt.call, Instant::now())));
        late.into_iter().map(|attempt| (attempt.call, self.fail(attempt))).collect()
    }

    /// Takes a failed start's waiting inputs, unless other containers may still run them.
    pub(crate) fn abandon(&mut self, failed: SlotId) -> Vec<Input> {
        self.starts_fail = true;
        let others = self.slots.iter().any(|(id, slot)| *id != failed && (slot.is_serving() || slot.is_starting()));
        if others { Vec::new() } else { self.waiting.drain(..).collect() }
    }

    /// A container is gone.
    pub(crate) fn remove(&mut self, id: SlotId) -> Removed {
        let Some(slot) = self.slots.remove(&id) else {
            return Removed { end: None, dispositions: Vec::new() };
        };
        let Slot { phase, process, running, cancelled, end, interacts, .. } = slot;
        // One that cannot end a single input ends as a whole.
        let end = end.or_else(|| (!cancelled.is_empty()).then_some(EndReason::Cancelled));
        let failed =
            phase == Phase::Starting && matches!(end, None | Some(EndReason::StartTimedOut | EndReason::Broken(_)));
        let abandoned = if failed { self.abandon(id) } else { Vec::new() };
        // What cannot be made at all would not be made at the next attempt either, and the user has seen how it ended.
        let retried = process.is_some() && !interacts && is_retried(end.as_ref());
        let (bystanders, concerned): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|running| self.is_bystander(running, end.as_ref()));
        self.put_back(bystanders);
        let concerned = concerned.into_iter().map(|running| running.attempt);
        let ended = concerned.chain(abandoned.into_iter().map(Attempt::from));
        let judge = |attempt| if retried { self.fail(attempt) } else { Disposition::Answer(attempt.caller) };
        let dispositions = ended.map(judge).collect();
        Removed { end, dispositions }
    }

    /// Whether an input only ran beside the one for which its container was ended: it runs again elsewhere.
    fn is_bystander(&self, running: &Running, end: Option<&EndReason>) -> bool {
        let ended_for_another = match end {
            Some(EndReason::TimedOut) => !running.timed_out,
            Some(EndReason::Cancelled) => true,
            _ => false,
        };
        let attempt = &running.attempt;
        ended_for_another && !self.stopping && !attempt.has_yielded
    }

    /// Inputs wait again, before all others and in the order in which they came.
    fn put_back(&mut self, mut inputs: Vec<Running>) {
        inputs.sort_by_key(|running| running.attempt.call);
        for Running { attempt, .. } in inputs.into_iter().rev() {
            let Attempt { call, part_of, method, caller, failed, payload, .. } = attempt;
            let queued = Instant::now();
            self.waiting.push_front(Input { call, part_of, method, payload, caller, failed, queued });
        }
    }

    /// An attempt has failed: puts the input aside for another one, if there is one to come.
    pub(super) fn fail(&mut self, attempt: Attempt) -> Disposition {
        let failed = attempt.failed + 1;
        let may_run_again = failed <= self.retries.maximum && !self.stopping && !attempt.has_yielded;
        if !may_run_again {
            return Disposition::Answer(attempt.caller);
        }
        let delay = self.retries.delay(failed);
        self.delays += 1;
        let Attempt { call, part_of, method, payload, caller, .. } = attempt;
        let due = Instant::now() + delay;
        let input = Input { call, part_of, method, payload, caller, failed, queued: due };
        self.delayed.insert((due, self.delays), input);
        Disposition::Retry(Retry { attempt: failed, delay })
    }

    /// The user stops a container: it leaves, and its inputs run in others, or end in it first when it is stopped
    /// `gracefully`.
    pub(crate) fn withdraw(&mut self, id: SlotId, gracefully: bool) -> Withdrawn {
        let is_kept = |slot: &&mut Slot| slot.end.is_none() && slot.phase != Phase::Leaving;
        let Some(slot) = self.slots.get_mut(&id).filter(is_kept) else { return Withdrawn::default() };
        let (runs, serves) = (slot.load() > 0, slot.is_serving());
        if gracefully && runs {
            slot.is_last = true;
            return Withdrawn::default();
        }
        slot.end = Some(EndReason::Withdrawn);
        slot.enter(Phase::Leaving);
        slot.cancelled.clear();
        let leave = slot.link.clone().filter(|_| serves);
        let process = slot.process.clone().filter(|_| runs || !serves);
        let running = std::mem::take(&mut slot.running);
        let (lost, again): (Vec<_>, Vec<_>) = running.into_iter().partition(|running| running.attempt.has_yielded);
        self.put_back(again);
        let lost = lost.into_iter().map(|running| running.attempt.caller).collect();
        Withdrawn { leave, process, lost, next: self.place_waiting() }
    }

    /// Gives up all inputs, as far as they can run elsewhere, and ends the containers; no further ones are started.
    pub(crate) fn evacuate(&mut self) -> (Vec<Input>, Stopped) {
        let mut stopped = Stopped { waiting: Vec::new(), leave: Vec::new(), interrupt: Vec::new(), kill: Vec::new() };
        let slots: Vec<SlotId> = self.slots.keys().copied().collect();
        for id in slots {
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.end.is_none()) else { continue };
            let (runs, serves) = (slot.load() > 0, slot.is_serving());
            let (stay, again) = std::mem::take(&mut slot.running).into_iter().partition(|it| it.attempt.has_yielded);
            slot.running = stay;
            slot.cancelled.clear();
            slot.end = Some(EndReason::Withdrawn);
            slot.enter(Phase::Leaving);
            if serves {
                stopped.leave.extend(slot.link.clone());
                stopped.interrupt.extend(slot.process.clone().filter(|_| runs));
            } else {
                stopped.kill.extend(slot.process.clone());
            }
            self.put_back(again);
        }
        self.stopping = true;
        let mut inputs: Vec<Input> = self.waiting.drain(..).collect();
        inputs.extend(self.take_delayed());
        (inputs, stopped)
    }

    /// Gives inputs that wait to containers that have room.
    fn place_waiting(&mut self) -> Vec<Dispatch> {
        if let Some(batching) = self.batching {
            return self.place_batches(batching);
        }
        let mut dispatches = Vec::new();
        while let Some(id) = self.best_slot()
            && let Some(input) = self.waiting.pop_front()
        {
            dispatches.extend(self.give(id, input));
        }
        dispatches
    }

    /// Ends the pool.
    pub(crate) fn stop(&mut self) -> Stopped {
        self.stopping = true;
        let (mut leave, mut interrupt, mut kill) = (Vec::new(), Vec::new(), Vec::new());
        for slot in self.slots.values_mut() {
            slot.end.get_or_insert(EndReason::Unneeded);
            if slot.phase == Phase::Serving {
                if slot.load() > 0 {
                    interrupt.extend(slot.process.clone());
                }
                slot.enter(Phase::Leaving);
                leave.extend(slot.link.clone());
            } else if slot.phase != Phase::Leaving {
                kill.extend(slot.process.clone());
            }
        }
        let mut waiting = self.take_delayed();
        waiting.extend(self.waiting.drain(..));
        Stopped { waiting, leave, interrupt, kill }
    }
}

/// Whether inputs are tried again after such an end of their container: not if somebody wanted it, or if the next attempt
/// would end in the same way.
fn is_retried(end: Option<&EndReason>) -> bool {
    matches!(end, None | Some(EndReason::TimedOut | EndReason::StartTimedOut | EndReason::Broken(_)))
}
