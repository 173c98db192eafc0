//! Running failed inputs again.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lamina_events::Event;

use crate::call::Outcome;
use crate::error::CallError;
use crate::pool::{STACK_SIZE, Shared};
use crate::state::Retry;

/// How often, and after which pauses, a failed input runs again.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Retries {
    /// Most attempts after the first one.
    pub maximum: u32,
    /// By what each pause is longer than the one before it.
    pub backoff: f64,
    /// The first pause.
    pub initial_delay: Duration,
    /// The longest pause.
    pub maximum_delay: Duration,
}

impl Retries {
    /// The pause after `failed` attempts, of which there is at least one.
    pub(crate) fn delay(&self, failed: u32) -> Duration {
        let factor = self.backoff.powf(f64::from(failed.saturating_sub(1)));
        let seconds = (self.initial_delay.as_secs_f64() * factor).min(self.maximum_delay.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(self.maximum_delay)
    }
}

impl Shared {
    /// Reports that an input was put aside, and sees to it that it runs again.
    pub(crate) fn try_again(self: &Arc<Self>, retry: &Retry, cause: &str) {
        self.sink.emit(Event::CallRetried {
            function: self.options.name(),
            attempt: retry.attempt,
            of: self.options.retries.maximum.saturating_add(1),
            seconds: retry.delay.as_secs_f64(),
            cause: cause.to_owned(),
        });
        if !self.lock().start_timer() {
            return self.delayed.notify_one();
        }
        let shared = Arc::clone(self);
        let builder = std::thread::Builder::new().name("retries".to_owned()).stack_size(STACK_SIZE);
        match builder.spawn(move || shared.keep_time()) {
            Ok(thread) => self.keep(thread),
            Err(error) => self.give_up(&error),
        }
    }

    /// Places the inputs that were put aside when their time has come; returns when there are none.
    fn keep_time(self: Arc<Self>) {
        let mut state = self.lock();
        while let Some(next) = state.next_attempt() {
            let left = next.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                state = self.delayed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let dispatch = state.place_delayed();
            drop(state);
            match dispatch {
                Some(dispatch) => self.dispatch(&dispatch),
                None => self.replenish(),
            }
            state = self.lock();
        }
        state.stop_timer();
    }

    /// Nobody can keep time: ends the calls that wait for it.
    fn give_up(&self, error: &std::io::Error) {
        let inputs = {
            let mut state = self.lock();
            state.stop_timer();
            state.take_delayed()
        };
        for input in inputs {
            let (function, reason) = (self.options.name(), format!("a thread cannot be started: {error}"));
            input.caller.end(Outcome::Error(CallError::NotStarted { function, reason, hint: None }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retries = Retries {
            maximum: 5,
            backoff: 2.0,
            initial_delay: Duration::from_secs(1),
            maximum_delay: Duration::from_secs(5),
        };
        assert_eq!([1, 2, 3, 4, 2000].map(|failed| retries.delay(failed).as_secs()), [1, 2, 4, 5, 5]);
        let fixed = Retries { backoff: 1.0, ..retries };
        assert_eq!([1, 2, 9].map(|failed| fixed.delay(failed).as_secs()), [1, 1, 1]);
        let none = Retries { initial_delay: Duration::ZERO, ..retries };
        assert_eq!(none.delay(3), Duration::ZERO);
    }
}
