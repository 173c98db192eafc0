//! What a program or a runner asks of the engine beside calls, in the form of calls: answered once, and given up like them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamina_events::CancelToken;
use lamina_ground::ErrorClass;
use lamina_wire::Payload;
use serde_json::{Map, Value};

use crate::STACK_SIZE;
use crate::answer::{CallAnswer, CallStatus};

/// Errands of one connection that wait for others, at most: each has a thread.
const MOST_WAITING: usize = 1024;
/// Threads for errands of one connection that do not wait.
const MOST_AT_ONCE: usize = 16;
/// Errands that wait for one of these threads, at most.
const MOST_QUEUED: usize = 10_000;
/// Descriptors that these hold, at most.
const MOST_DESCRIPTORS: usize = 240;
/// Bytes that these hold in memory, at most.
const MOST_BYTES: usize = 256 << 20;

/// Does errands. It may take as long as it likes, until it is cancelled.
pub trait Errands: Send + Sync {
    /// Whether one may have to wait for what others do.
    fn waits(&self, errand: &Map<String, Value>) -> bool;

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
pub struct OpenErrands(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    cancels: HashMap<u64, CancelToken>,
    /// How many of them have a thread because they wait.
    waiting: usize,
    /// How many threads do others.
    busy: usize,
    queued: VecDeque<Job>,
    queued_descriptors: usize,
    queued_bytes: usize,
}

type Answer = Box<dyn FnOnce(CallAnswer, Payload) + Send>;

/// An errand, and who hears how it ended.
struct Job {
    errands: Arc<dyn Errands>,
    call: u64,
    errand: Map<String, Value>,
    payload: Payload,
    cancel: CancelToken,
    answer: Answer,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("call", &self.call).finish_non_exhaustive()
    }
}

impl Job {
    /// The descriptors and bytes that it holds.
    fn weight(&self) -> (usize, usize) {
        match &self.payload {
            Payload::Inline(bytes) => (0, bytes.len()),
            Payload::Memory(..) => (1, 0),
        }
    }
}

impl Open {
    /// Takes one in; says what speaks against it.
    fn admit(&mut self, job: &Job, waits: bool) -> Result<(), String> {
        if self.cancels.contains_key(&job.call) {
            return Err(format!("two requests have the number `{}`", job.call));
        }
        let (descriptors, bytes) = job.weight();
        let is_full = self.queued.len() >= MOST_QUEUED
            || self.queued_descriptors + descriptors > MOST_DESCRIPTORS
            || self.queued_bytes + bytes > MOST_BYTES;
        if waits && self.waiting >= MOST_WAITING {
            return Err(format!("{MOST_WAITING} requests wait for queues: have fewer of them wait at once"));
        }
        if !waits && is_full {
            return Err("too many requests to dictionaries and queues are under way: wait for some of them".to_owned());
        }
        self.cancels.insert(job.call, job.cancel.clone());
        self.waiting += usize::from(waits);
        Ok(())
    }

    fn queue(&mut self, job: Job) {
        let (descriptors, bytes) = job.weight();
        self.queued_descriptors += descriptors;
        self.queued_bytes += bytes;
        self.queued.push_back(job);
    }

    fn next(&mut self) -> Option<Job> {
        let job = self.queued.pop_front()?;
        let (descriptors, bytes) = job.weight();
        self.queued_descriptors -= descriptors;
        self.queued_bytes -= bytes;
        Some(job)
    }
}

impl OpenErrands {
    /// Begins one in a thread, or has it wait for one; `answer` hears how it ended.
    pub fn begin(
        self: &Arc<Self>,
        errands: Arc<dyn Errands>,
        call: u64,
        errand: Map<String, Value>,
        payload: Payload,
        answer: impl FnOnce(CallAnswer, Payload) + Send + 'static,
    ) {
        let waits = errands.waits(&errand);
        let job = Job { errands, call, errand, payload, cancel: CancelToken::new(), answer: Box::new(answer) };
        let mut open = self.lock();
        if let Err(message) = open.admit(&job, waits) {
            drop(open);
            return refuse(job.call, job.answer, message);
        }
        if waits {
            drop(open);
            return self.start(job, true);
        }
        if open.busy >= MOST_AT_ONCE {
            return open.queue(job);
        }
        open.busy += 1;
        drop(open);
        self.start(job, false);
    }

    /// Starts a thread with one; one for those that do not wait goes on with what is queued.
    fn start(self: &Arc<Self>, job: Job, waits: bool) {
        // A thread that cannot be started takes with it what was moved into it.
        let job = Arc::new(Mutex::new(Some(job)));
        let take = |job: &Mutex<Option<Job>>| job.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (open, kept) = (Arc::clone(self), Arc::clone(&job));
        let run = move || {
            let mut next = take(&kept);
            while let Some(job) = next {
                open.execute(job, waits);
                next = open.after(waits);
            }
        };
        let thread = std::thread::Builder::new().name("errand".to_owned()).stack_size(STACK_SIZE);
        if let Err(error) = thread.spawn(run) {
            let message = format!("there is no thread for what was asked for: {error}");
            let mut next = take(&job);
            // Without a thread nobody would come to what is queued.
            while let Some(job) = next {
                self.lock().cancels.remove(&job.call);
                refuse(job.call, job.answer, message.clone());
                next = self.after(waits);
            }
        }
    }

    /// What a thread goes on with.
    fn after(&self, waits: bool) -> Option<Job> {
        let mut open = self.lock();
        if waits {
            open.waiting -= 1;
            return None;
        }
        let next = open.next();
        open.busy -= usize::from(next.is_none());
        next
    }

    fn execute(&self, job: Job, waits: bool) {
        let Job { errands, call, errand, payload, cancel, answer } = job;
        let outcome = if !waits && cancel.is_cancelled() {
            Err(CallStatus::error(ErrorClass::ExecutionError, "the request was given up".to_owned()))
        } else {
            errands.run(errand, payload, &cancel)
        };
        self.lock().cancels.remove(&call);
        match outcome {
            Ok((value, payload)) => answer(CallAnswer::done(call, value), payload),
            Err(status) => answer(CallAnswer::Result { call, status }, Payload::default()),
        }
    }

    /// Gives one up. One that has ended was answered already.
    pub fn cancel(&self, call: u64) {
        let cancel = self.lock().cancels.get(&call).cloned();
        if let Some(cancel) = cancel {
            cancel.cancel();
        }
    }

    /// Gives up all of them.
    pub fn cancel_all(&self) {
        let all: Vec<CancelToken> = self.lock().cancels.values().cloned().collect();
        all.iter().for_each(CancelToken::cancel);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(call: u64, answer: Answer, message: String) {
    let status = CallStatus::error(ErrorClass::ExecutionError, message);
    answer(CallAnswer::Result { call, status }, Payload::default());
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Answers at once, or when it is cancelled.
    struct Echo;

    impl Errands for Echo {
        fn waits(&self, errand: &Map<String, Value>) -> bool {
            errand.contains_key("wait")
        }

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

    /// Waits until it may go on.
    struct Gate(Mutex<()>);

    impl Errands for Gate {
        fn waits(&self, _: &Map<String, Value>) -> bool {
            false
        }

        fn run(&self, _: Map<String, Value>, _: Payload, _: &CancelToken) -> Result<(Value, Payload), CallStatus> {
            drop(self.0.lock());
            Ok((Value::Null, Payload::default()))
        }
    }

    #[test]
    fn more_than_have_a_thread_wait_for_one_and_hold_nobody_up_who_waits_for_them() {
        let open = Arc::new(OpenErrands::default());
        let (answers, answered) = mpsc::channel();
        let answer = |call: u64| {
            let answers = answers.clone();
            move |answer: CallAnswer, _| answers.send((call, String::from_utf8(answer.encode()).unwrap())).unwrap()
        };
        let wait = || serde_json::from_str(r#"{"word":"w","wait":true}"#).unwrap();
        for call in 0..300 {
            open.begin(Arc::new(Echo), call, wait(), Payload::default(), answer(call));
        }
        let gate = Arc::new(Gate(Mutex::new(())));
        let closed = gate.0.lock().unwrap();
        for call in 1000..2000 {
            open.begin(Arc::clone(&gate) as Arc<dyn Errands>, call, Map::new(), Payload::default(), answer(call));
        }
        open.cancel(1999);
        drop(closed);
        let mut done: Vec<(u64, String)> = (0..1000).map(|_| answered.recv().unwrap()).collect();
        done.sort();
        let (given_up, done) = done.split_last().unwrap();
        assert!(given_up.1.contains("the request was given up"), "{given_up:?}");
        assert!(done.iter().zip(1000..).all(|((call, answer), it)| *call == it && answer.contains(r#""status":"ok""#)));
        open.cancel_all();
        assert_eq!((0..300).map(|_| answered.recv().unwrap().0).sum::<u64>(), (0..300).sum::<u64>());
    }

    #[test]
    fn what_is_more_than_can_be_kept_is_refused() {
        let open = Arc::new(OpenErrands::default());
        let gate = Arc::new(Gate(Mutex::new(())));
        let closed = gate.0.lock().unwrap();
        let (answers, answered) = mpsc::channel();
        for call in 0..=(MOST_QUEUED + MOST_AT_ONCE) as u64 {
            let answers = answers.clone();
            let answer = move |answer: CallAnswer, _| answers.send(answer.encode()).unwrap();
            open.begin(Arc::clone(&gate) as Arc<dyn Errands>, call, Map::new(), Payload::default(), answer);
        }
        let refused = String::from_utf8(answered.recv().unwrap()).unwrap();
        assert!(refused.contains("too many requests to dictionaries and queues are under way"), "{refused}");
        drop((closed, answers));
        assert_eq!(answered.iter().count(), MOST_QUEUED + MOST_AT_ONCE);
    }
}
