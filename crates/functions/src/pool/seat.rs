//! A container's place in its pool: all that a container tells and asks.

use std::sync::Arc;

use lamina_events::Sink;
use lamina_wire::{Payload, WireError};

use super::Shared;
use crate::call::Outcome;
use crate::error::CallError;
use crate::ids::CallId;
use crate::link::Link;
use crate::options::PoolOptions;
use crate::runner::{ResultStatus, ToRunner};
use crate::services::Services;
use crate::starter::{ContainerProcess, ContainerStarter, StartError};
use crate::state::{Deadline, Disposition, EndReason, Finished, InputLabel, Removed, SlotId, Withdrawn};

/// The place of one container in its pool.
#[derive(Clone)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
    slot: SlotId,
}

/// A runner spoke of a call that it was not given.
pub(crate) struct NotGiven;

impl Seat {
    pub(super) fn new(shared: &Arc<Shared>, slot: SlotId) -> Self {
        Self { shared: Arc::clone(shared), slot }
    }

    pub(crate) fn options(&self) -> &PoolOptions {
        &self.shared.options
    }

    pub(crate) fn starter(&self) -> &dyn ContainerStarter {
        &*self.shared.starter
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.shared.sink
    }

    /// What the container may call, while the app runs.
    pub(crate) fn services(&self) -> Option<Arc<Services>> {
        self.shared.services.upgrade()
    }

    /// The container was never made.
    pub(crate) fn not_started(&self, error: StartError) {
        self.shared.not_started(self.slot, error);
    }

    /// The container has a connection; false when it is not wanted any more.
    pub(crate) fn connect(&self, link: &Arc<Link>, process: &Arc<dyn ContainerProcess>) -> bool {
        self.shared.lock().connect(self.slot, link, process)
    }

    /// The container is ready for inputs, and is sent those that it takes. False when that makes no sense.
    pub(crate) fn ready(&self) -> bool {
        let mut state = self.shared.lock();
        let Ok(inputs) = state.ready(self.slot) else { return false };
        let wants_timer = state.start_timer();
        drop(state);
        self.shared.dispatch_all(&inputs);
        if wants_timer {
            self.shared.start_timer();
        }
        true
    }

    /// Whether the container is not ready yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.shared.lock().is_starting(self.slot)
    }

    /// The container's module cannot be imported: the inputs that waited for it end with that exception.
    pub(crate) fn import_failed(&self, exception: &Payload) -> Result<(), WireError> {
        let (process, abandoned) = {
            let mut state = self.shared.lock();
            (state.end(self.slot, EndReason::ImportFailed), state.abandon(self.slot))
        };
        if let Some(process) = process {
            process.kill();
        }
        for input in abandoned {
            input.caller.end(Outcome::Exception(exception.try_clone()?));
        }
        Ok(())
    }

    /// Hands a value of a generator to the caller, unless that has given the call up.
    pub(crate) fn item(&self, call: CallId, payload: Payload) -> Result<Result<(), WireError>, NotGiven> {
        let caller = self.shared.lock().item(self.slot, call).map_err(|()| NotGiven)?;
        Ok(caller.map_or(Ok(()), |caller| caller.item(payload)))
    }

    /// An input has ended. The container is sent the next one before the caller hears of it, so that it works while the
    /// caller reads.
    pub(crate) fn finish(&self, call: CallId, status: ResultStatus, payload: Payload) -> Result<(), NotGiven> {
        let failed = status == ResultStatus::Exception;
        let mut state = self.shared.lock();
        let Finished { disposition, next, leave } = state.finish(self.slot, call, failed).map_err(|()| NotGiven)?;
        let wants_timer = state.start_timer();
        drop(state);
        self.shared.dispatch_all(&next);
        if let Some(link) = leave {
            // One that is gone is noticed by the reading side.
            let _ = link.tell(&ToRunner::Stop.encode());
            link.wake_up();
            self.shared.replenish();
        }
        if wants_timer {
            self.shared.start_timer();
        }
        match disposition {
            Some(Disposition::Answer(caller)) => caller.end(match status {
                ResultStatus::Ok => Outcome::Value(payload),
                ResultStatus::Exception | ResultStatus::Interrupted => Outcome::Exception(payload),
            }),
            Some(Disposition::Retry(retry)) => self.shared.try_again(&retry, "raised an exception"),
            None => {}
        }
        Ok(())
    }

    /// The input that the container runs; the first one where several run together.
    pub(crate) fn input_that_runs(&self) -> Option<InputLabel> {
        self.shared.lock().input_that_runs(self.slot)
    }

    /// One of the inputs that the container runs.
    pub(crate) fn input(&self, call: CallId) -> Option<InputLabel> {
        self.shared.lock().input(self.slot, call)
    }

    /// The user's terminal comes into the container; false if there is nothing that could want it.
    pub(crate) fn interact(&self, has_user: bool) -> bool {
        self.shared.lock().interact(self.slot, has_user)
    }

    /// Whether the container is so far ahead of a caller that nothing more is read from it.
    pub(crate) fn is_far_ahead(&self) -> bool {
        self.shared.lock().is_far_ahead(self.slot)
    }

    /// A call of which the container is to be told how many items were consumed.
    pub(crate) fn take_consumed(&self) -> Option<(CallId, u64)> {
        self.shared.lock().take_consumed(self.slot)
    }

    /// What the container's time demands now.
    pub(crate) fn due(&self) -> Deadline {
        self.shared.lock().due(self.slot, &self.shared.options)
    }

    /// The user stops the container, see [`State::withdraw`](crate::state::State::withdraw).
    pub(crate) fn stop(&self, gracefully: bool) {
        let Withdrawn { leave, process, lost, next } = self.shared.lock().withdraw(self.slot, gracefully);
        self.shared.dispatch_all(&next);
        match (leave, process) {
            (Some(link), process) => {
                // One that is gone is noticed by the reading side.
                let _ = link.tell(&ToRunner::Stop.encode());
                link.wake_up();
                if let Some(process) = process {
                    process.nudge();
                }
            }
            (None, Some(process)) => process.kill(),
            (None, None) => {}
        }
        for caller in lost {
            caller.end(Outcome::Error(CallError::Withdrawn { function: self.shared.options.name() }));
        }
        self.shared.replenish();
    }

    /// Notes why the container is being ended, if nothing ended it before.
    pub(crate) fn end(&self, reason: EndReason) {
        let _ = self.shared.lock().end(self.slot, reason);
    }

    /// The container is gone: gives what it leaves behind, for [`Self::conclude`].
    pub(crate) fn leave(&self) -> Removed {
        self.shared.lock().remove(self.slot)
    }

    /// Ends inputs with `error`, or has them run again, while their container goes on.
    pub(crate) fn conclude_inputs(&self, dispositions: Vec<Disposition>, error: &CallError) {
        self.shared.conclude(dispositions, error);
    }

    /// Ends what a container has left behind with `error`, or has it run again, and sees to whoever waits.
    pub(crate) fn conclude(&self, left: Removed, error: &CallError) {
        self.shared.conclude(left.dispositions, error);
        self.shared.settle();
    }
}
