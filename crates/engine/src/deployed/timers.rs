//! Runs of functions that are due, in the process of their app.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lamina_events::{Event, Sink};
use lamina_functions::{CallId, Caller, Calls, Outcome};
use lamina_wire::{Payload, WireError};

use super::schedule::Plan;
use crate::host::Running;

/// The inputs of such a run: a pickle of `((), {})`.
const NO_INPUTS: &[u8] = b"\x80\x02)}\x86.";

/// The longest wait for a run: after that the clock is looked at anew. It may have been set, and the time in which a machine
/// sleeps is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The functions of a version that run by themselves, and when each does next.
#[derive(Default)]
pub(super) struct Timers {
    all: Vec<Timer>,
}

struct Timer {
    function: String,
    plan: Plan,
    begin: Timestamp,
    due: Timestamp,
    /// When that was settled.
    settled: Timestamp,
}

impl Timers {
    /// Those of a version that was deployed at `deployed`, in seconds since 1970. What was due before `now` is past.
    pub(super) fn new(running: &Running, deployed: u64, now: Timestamp) -> Self {
        let begin = Timestamp::from_second(deployed.cast_signed()).unwrap_or(now);
        let timer = |(function, schedule): (&String, &super::Schedule)| {
            let plan = schedule.plan().ok()?;
            let due = plan.next(begin, now, &TimeZone::system())?;
            Some(Timer { function: function.clone(), plan, begin, due, settled: now })
        };
        Self { all: running.schedules.iter().filter_map(timer).collect() }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Begins the runs that are due, each once however often it was due; how long to wait for the next.
    pub(super) fn run_due(&mut self, running: &Running, now: Timestamp, sink: &Sink) -> Option<Duration> {
        for timer in &mut self.all {
            if timer.due <= now {
                run(running, &timer.function, sink);
            } else if now >= timer.settled {
                continue;
            }
            // It has run, or the clock was set back.
            timer.settled = now;
            timer.due = timer.plan.next(timer.begin, now, &TimeZone::system()).unwrap_or(Timestamp::MAX);
        }
        let due = self.all.iter().map(|timer| timer.due).min()?;
        let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
        Some(left.min(LONGEST_WAIT))
    }
}

/// Has a function run that nobody waits for.
fn run(running: &Running, function: &str, sink: &Sink) {
    let Some(pool) = running.services.get(function) else { return };
    let caller = Scheduled { function: function.to_owned(), sink: sink.clone() };
    let part_of = Calls::default().function_call(1, None);
    pool.submit(CallId::new(), part_of, None, Payload::Inline(NO_INPUTS.to_vec()), Arc::new(caller));
}

/// Nobody: how a run ended is only told.
struct Scheduled {
    function: String,
    sink: Sink,
}

impl Caller for Scheduled {
    fn item(&self, _: Payload) -> Result<(), WireError> {
        Ok(())
    }

    fn end(&self, outcome: Outcome) {
        let why = match outcome {
            Outcome::Value(_) => return,
            Outcome::Exception(_) => "it raised an exception".to_owned(),
            Outcome::Error(error) => error.to_string(),
        };
        self.sink.emit(Event::Warning { message: format!("the scheduled run of `{}` failed: {why}", self.function) });
    }
}
