//! Further attempts of inputs that failed, made when their time has come.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use lamina_events::Event;

use super::Shared;
use crate::STACK_SIZE;
use crate::call::Outcome;
use crate::error::CallError;
use crate::starter::StartError;
use crate::state::Retry;

impl Shared {
    /// Reports that an input was put aside, and sees to it that it runs again.
    pub(super) fn try_again(self: &Arc<Self>, retry: &Retry, cause: &str) {
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
        self.start_timer();
    }

    /// Starts the thread that keeps time for inputs that were put aside and for batches.
    pub(super) fn start_timer(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let builder = std::thread::Builder::new().name("retries".to_owned()).stack_size(STACK_SIZE);
        match builder.spawn(move || shared.keep_time()) {
            Ok(thread) => self.keep(thread),
            Err(error) => self.give_up(error),
        }
    }

    /// Places the inputs that were put aside when their time has come; returns when there are none.
    fn keep_time(self: Arc<Self>) {
        let mut state = self.lock();
        while let Some(next) = state.next_due() {
            let left = next.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                state = self.delayed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let dispatches = state.place_due();
            drop(state);
            self.dispatch_all(&dispatches);
            if dispatches.is_empty() {
                self.replenish();
            }
            state = self.lock();
        }
        state.stop_timer();
    }

    /// Nobody can keep time: ends the calls that wait for it.
    fn give_up(&self, error: std::io::Error) {
        let error = StartError::engine("a thread cannot be started")(error);
        let inputs = {
            let mut state = self.lock();
            state.stop_timer();
            state.take_delayed()
        };
        for input in inputs {
            let (function, source) = (self.options.name(), error.clone());
            input.caller.end(Outcome::Error(CallError::NotStarted { function, source }));
        }
    }
}
