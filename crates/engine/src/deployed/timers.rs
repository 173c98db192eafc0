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

#[cfg(test)]
mod tests {
    use lamina_functions::Services;

    use super::*;
    use crate::host::no_variants;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// An app with a function that runs at every full hour, deployed at midnight.
    fn hourly(now: Timestamp) -> (Running, Timers) {
        let services = Services::new([], no_variants(), &Sink::none());
        let mut running = Arc::into_inner(Running::new(services, &[])).unwrap();
        let schedule = r#"{"cron":{"cron_string":"0 * * * *","timezone":"UTC"}}"#;
        running.schedules.insert("tick".to_owned(), serde_json::from_str(schedule).unwrap());
        let timers = Timers::new(&running, time("2026-11-30T00:00:00Z").as_second().cast_unsigned(), now);
        (running, timers)
    }

    #[test]
    fn the_clock_is_looked_at_anew_however_far_the_next_run_is() {
        let now = time("2026-11-30T09:30:00Z");
        let (running, mut timers) = hourly(now);
        assert_eq!(timers.run_due(&running, now, &Sink::none()), Some(LONGEST_WAIT));
        let soon = time("2026-11-30T09:59:50Z");
        assert_eq!(timers.run_due(&running, soon, &Sink::none()), Some(Duration::from_secs(10)));
    }

    #[test]
    fn what_a_machine_has_slept_over_is_made_up_for_once() {
        let (running, mut timers) = hourly(time("2026-11-30T09:30:00Z"));
        let awake = time("2026-11-30T15:20:00Z");
        timers.run_due(&running, awake, &Sink::none());
        assert_eq!(timers.all[0].due, time("2026-11-30T16:00:00Z"));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_runs_waiting() {
        let (running, mut timers) = hourly(time("2026-11-30T09:30:00Z"));
        let back = time("2026-11-28T07:10:00Z");
        assert_eq!(timers.run_due(&running, back, &Sink::none()), Some(LONGEST_WAIT));
        assert_eq!(timers.all[0].due, time("2026-11-28T08:00:00Z"));
        // And forward again.
        timers.run_due(&running, time("2026-11-30T09:31:00Z"), &Sink::none());
        assert_eq!(timers.all[0].due, time("2026-11-30T10:00:00Z"));
    }
}
