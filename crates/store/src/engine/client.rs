//! Requests to the worker.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use lamina_events::CancelToken;
use lamina_wire::{Receiver, Sender};
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::protocol::{Answer, Envelope, Request};

/// A connection to the worker. Any number of requests can be in flight.
#[derive(Debug)]
pub(super) struct Client {
    sender: Sender,
    next: AtomicU64,
    waiting: Arc<Mutex<Waiting>>,
    /// Held while local files are handed over: each hand-over has hundreds of descriptors open.
    pub(super) ingesting: Mutex<()>,
}

/// Who waits for an answer.
#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, mpsc::Sender<Answer>>,
    /// Why there will be no more answers.
    ended: Option<String>,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Pending {
    id: u64,
    answer: mpsc::Receiver<Answer>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Client {
    pub(super) fn new(socket: UnixStream) -> Result<Self, StoreError> {
        let receiver = Receiver::new(socket.try_clone()?);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let shared = Arc::clone(&waiting);
        std::thread::Builder::new().name("store answers".to_owned()).spawn(move || distribute(receiver, &shared))?;
        Ok(Self { sender: Sender::new(socket), next: AtomicU64::new(0), waiting, ingesting: Mutex::default() })
    }

    /// Sends a request.
    pub(super) fn begin(&self, body: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Pending, StoreError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = mpsc::channel();
        {
            let mut waiting = lock(&self.waiting);
            if let Some(reason) = &waiting.ended {
                return Err(StoreError::WorkerGone(reason.clone()));
            }
            waiting.answers.insert(id, sender);
        }
        let control = serde_json::to_vec(&Envelope { id, body })
            .map_err(|error| StoreError::WorkerGone(format!("a request could not be encoded: {error}")))?;
        if let Err(error) = self.sender.send(&control, payload, fds) {
            lock(&self.waiting).answers.remove(&id);
            return Err(StoreError::WorkerGone(error.to_string()));
        }
        Ok(Pending { id, answer, waiting: Arc::clone(&self.waiting) })
    }

    /// Whether the worker has ended: there will be no more answers.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.waiting).ended.is_some()
    }

    /// Sends a request and waits for its answer, but no longer than until `cancel` says so.
    pub(super) fn call_until<T: DeserializeOwned>(&self, body: Request, cancel: &CancelToken) -> Result<T, StoreError> {
        self.begin(body, &[], &[])?.wait_until(cancel)
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call<T: DeserializeOwned>(&self, body: Request) -> Result<T, StoreError> {
        self.begin(body, &[], &[])?.wait()
    }
}

impl Drop for Client {
    /// The worker finishes what it was asked for, and ends.
    fn drop(&mut self) {
        self.sender.shutdown();
    }
}

impl Pending {
    /// Waits for the answer until `cancel` says so.
    pub(super) fn wait_until<T: DeserializeOwned>(self, cancel: &CancelToken) -> Result<T, StoreError> {
        cancel.check()?;
        let (waiting, id) = (Arc::clone(&self.waiting), self.id);
        // Once nobody can send the answer any more, waiting for it ends.
        let guard = cancel.on_cancel(move || drop(lock(&waiting).answers.remove(&id)));
        let answer = self.answer.recv().ok();
        drop(guard);
        if answer.is_none() {
            cancel.check()?;
        }
        self.read(answer)
    }

    /// Waits for the answer.
    pub(super) fn wait<T: DeserializeOwned>(self) -> Result<T, StoreError> {
        let answer = self.answer.recv().ok();
        self.read(answer)
    }

    /// What an answer holds; none means that the connection has ended.
    fn read<T: DeserializeOwned>(&self, answer: Option<Answer>) -> Result<T, StoreError> {
        let Some(answer) = answer else {
            let reason = lock(&self.waiting).ended.clone();
            return Err(StoreError::WorkerGone(reason.unwrap_or_else(|| "it closed the connection".to_owned())));
        };
        serde_json::from_value(answer?)
            .map_err(|error| StoreError::WorkerGone(format!("its answer makes no sense: {error}")))
    }
}

/// Hands answers to those who wait, until the connection ends; then nobody waits any longer.
fn distribute(mut receiver: Receiver, waiting: &Mutex<Waiting>) {
    let reason = loop {
        match receiver.receive() {
            Ok(Some(frame)) => match serde_json::from_slice::<Envelope<Answer>>(&frame.control) {
                Ok(Envelope { id, body }) => {
                    if let Some(sender) = lock(waiting).answers.remove(&id) {
                        // Nobody listens to the answers of requests that were only to be sent.
                        let _ = sender.send(body);
                    }
                }
                Err(error) => break format!("it sent something that is no answer: {error}"),
            },
            Ok(None) => break "it closed the connection".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    let mut waiting = lock(waiting);
    waiting.ended = Some(reason);
    waiting.answers.clear();
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a request to a worker that never answers, when `end` happens meanwhile.
    fn unanswered(end: impl FnOnce(UnixStream, &CancelToken) + Send) -> StoreError {
        let (socket, worker) = UnixStream::pair().unwrap();
        let (client, cancel) = (Client::new(socket).unwrap(), CancelToken::new());
        std::thread::scope(|scope| {
            let request = scope.spawn(|| client.call_until::<()>(Request::Measure, &cancel));
            let mut receiver = Receiver::new(worker.try_clone().unwrap());
            assert!(receiver.receive().unwrap().is_some());
            end(worker, &cancel);
            request.join().unwrap().unwrap_err()
        })
    }

    #[test]
    fn a_wait_ends_when_it_is_cancelled_and_when_the_worker_is_gone() {
        let mut kept = None;
        let cancelled = unanswered(|worker, cancel| {
            kept = Some(worker);
            cancel.cancel();
        });
        assert!(matches!(cancelled, StoreError::Cancelled(_)), "{cancelled}");
        let gone = unanswered(|worker, _| worker.shutdown(std::net::Shutdown::Both).unwrap());
        assert!(matches!(gone, StoreError::WorkerGone(_)), "{gone}");
    }
}
