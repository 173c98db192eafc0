//! What a program or a runner asks of the engine beside calls, in the form of calls: answered once, and given up like them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamina_events::CancelToken;
use lamina_ground::ErrorClass;
use lamina_wire::Payload;
use serde_json::{Map, Value};

use crate::STACK_SIZE;
use crate::answer::{CallAnswer, CallStatus};

/// Errands that one connection has under way at most: each has a thread.
const MOST_ERRANDS: usize = 256;

/// Does errands. It may take as long as it likes, until it is cancelled.
pub trait Errands: Send + Sync {
    /// Does one; gives the value and payload of the answer.
    ///
    /// # Errors
    /// What is answered instead.
    fn run(
        &self,
        errand: Map<String, Value>,
        payload: Payload,
        cancel: &CancelToken,
    ) -> Result<(Value, Payload), CallStatus>;
}

/// The errands that a connection has under way, by the labels that it has given them.
#[derive(Debug, Default)]
pub struct OpenErrands(Mutex<HashMap<u64, CancelToken>>);

impl OpenErrands {
    /// Begins one in a thread of its own; `answer` hears how it ended.
    pub fn begin(
        self: &Arc<Self>,
        errands: Arc<dyn Errands>,
        call: u64,
        errand: Map<String, Value>,
        payload: Payload,
        answer: impl FnOnce(CallAnswer, Payload) + Send + 'static,
    ) {
        let refuse = |message| {
            let status = CallStatus::error(ErrorClass::ExecutionError, message);
            (CallAnswer::Result { call, status }, Payload::default())
        };
        let cancel = match self.open(call) {
            Ok(cancel) => cancel,
            Err(message) => {
                let (refusal, nothing) = refuse(message);
                return answer(refusal, nothing);
            }
        };
        // A thread that cannot be started takes with it what was moved into it.
        let answer = Arc::new(Mutex::new(Some(answer)));
        let take = |answer: &Mutex<Option<_>>| answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (open, kept) = (Arc::clone(self), Arc::clone(&answer));
        let run = move || {
            let outcome = errands.run(errand, payload, &cancel);
            open.lock().remove(&call);
            let (ended, payload) = match outcome {
                Ok((value, payload)) => (CallAnswer::done(call, value), payload),
                Err(status) => (CallAnswer::Result { call, status }, Payload::default()),
            };
            if let Some(answer) = take(&kept) {
                answer(ended, payload);
            }
        };
        let thread = std::thread::Builder::new().name("errand".to_owned()).stack_size(STACK_SIZE);
        if let Err(error) = thread.spawn(run) {
            self.lock().remove(&call);
            if let Some(answer) = take(&answer) {
                let (refusal, nothing) = refuse(format!("there is no thread for what was asked for: {error}"));
                answer(refusal, nothing);
            }
        }
    }

    fn open(&self, call: u64) -> Result<CancelToken, String> {
        let mut open = self.lock();
        if open.len() >= MOST_ERRANDS {
            return Err(format!(
                "{MOST_ERRANDS} requests to dictionaries and queues are under way: wait for some of them"
            ));
        }
        let cancel = CancelToken::new();
        match open.insert(call, cancel.clone()) {
            None => Ok(cancel),
            Some(earlier) => {
                open.insert(call, earlier);
                Err(format!("two requests have the number `{call}`"))
            }
        }
    }

    /// Gives one up. One that has ended was answered already.
    pub fn cancel(&self, call: u64) {
        let cancel = self.lock().get(&call).cloned();
        if let Some(cancel) = cancel {
            cancel.cancel();
        }
    }

    /// Gives up all of them.
    pub fn cancel_all(&self) {
        let all: Vec<CancelToken> = self.lock().values().cloned().collect();
        all.iter().for_each(CancelToken::cancel);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, CancelToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Answers at once, or when it is cancelled.
    struct Echo;

    impl Errands for Echo {
        fn run(
            &self,
            errand: Map<String, Value>,
            payload: Payload,
            cancel: &CancelToken,
        ) -> Result<(Value, Payload), CallStatus> {
            if errand.contains_key("wait") {
                let (told, cancelled) = mpsc::channel();
                let _guard = cancel.on_cancel(move || told.send(()).unwrap());
                cancelled.recv().unwrap();
            }
            Ok((errand["word"].clone(), payload))
        }
    }

    #[test]
    fn each_is_answered_once_and_those_given_up_end() {
        let open = Arc::new(OpenErrands::default());
        let (answers, answered) = mpsc::channel();
        let begin = |call, errand: &str| {
            let answers = answers.clone();
            let errand = serde_json::from_str(errand).unwrap();
            let answer = move |answer: CallAnswer, payload: Payload| {
                answers.send((String::from_utf8(answer.encode()).unwrap(), payload.len())).unwrap();
            };
            open.begin(Arc::new(Echo), call, errand, Payload::Inline(vec![1, 2]), answer);
        };
        begin(1, r#"{"word":"a"}"#);
        assert_eq!(answered.recv().unwrap(), (r#"{"type":"result","call":1,"status":"ok","value":"a"}"#.to_owned(), 2));
        begin(2, r#"{"word":"b","wait":true}"#);
        begin(2, r#"{"word":"c"}"#);
        let refused = answered.recv().unwrap().0;
        assert!(refused.contains("two requests have the number `2`"), "{refused}");
        open.cancel(2);
        assert!(answered.recv().unwrap().0.contains(r#""value":"b""#));
        begin(3, r#"{"word":"d","wait":true}"#);
        open.cancel_all();
        assert!(answered.recv().unwrap().0.contains(r#""value":"d""#));
    }
}
