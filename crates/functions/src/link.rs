//! The engine's end of a container's connection, for whoever has something to tell its runner.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use lamina_ground::ErrorClass;
use lamina_wire::{Payload, QueuedSender, WireError};
use rustix::event::{EventfdFlags, eventfd};

use crate::answer::{CallAnswer, CallStatus};
use crate::call::{Caller, Outcome};
use crate::calls::Calls;
use crate::elsewhere::Callee;
use crate::errands::OpenErrands;
use crate::holdings::Held;

/// With more than this under way or unread, nothing is read from a container.
const MOST_UNDER_WAY: usize = 256 << 20;
/// A container that leaves more than this unread is killed.
const MOST_UNREAD: usize = 512 << 20;

/// The sending half of a container's connection. Nobody waits for a container to read: what it has no room for is kept,
/// and sent by the container's own thread.
#[derive(Debug)]
pub(crate) struct Link {
    /// The container.
    pub(crate) task: String,
    sender: QueuedSender,
    /// Readable when there is something for the container's thread to do.
    wake: OwnedFd,
    /// The calls that the runner has made.
    pub(crate) calls: Calls,
    /// What else it has asked for.
    pub(crate) errands: Arc<OpenErrands>,
    /// The weight of their inputs, but for those that were spawned.
    inputs: AtomicUsize,
}

impl Link {
    pub(crate) fn new(task: &str, socket: UnixStream) -> std::io::Result<Self> {
        Ok(Self {
            task: task.to_owned(),
            sender: QueuedSender::new(socket),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            calls: Calls::default(),
            errands: Arc::default(),
            inputs: AtomicUsize::new(0),
        })
    }

    /// Sends a frame, now or when the container reads.
    pub(crate) fn send(&self, control: &[u8], payload: &Arc<Payload>) -> Result<(), WireError> {
        if self.sender.send(control, payload)? {
            self.wake_up();
        }
        Ok(())
    }

    /// Sends a frame without a payload.
    pub(crate) fn tell(&self, control: &[u8]) -> Result<(), WireError> {
        self.send(control, &Arc::default())
    }

    /// Answers one of the runner's calls. One that is gone needs no answer; its end is noticed by the reading side.
    pub(crate) fn answer(&self, answer: &CallAnswer, payload: Payload) {
        let Err(error) = self.send(&answer.encode(), &Arc::new(payload)) else { return };
        if let CallAnswer::Result { call, .. } | CallAnswer::Done { call, .. } = answer {
            // If only the payload was the trouble, the runner still learns of it; if it is gone, this fails too.
            let message = format!("the result could not be handed over: {error}");
            let status = CallStatus::error(ErrorClass::ExecutionError, message);
            let _ = self.tell(&CallAnswer::Result { call: *call, status }.encode());
        }
    }

    /// Sends what is kept, as far as there is room; says whether all of it is gone.
    pub(crate) fn flush(&self) -> bool {
        // One that is gone is noticed by the reading side.
        !self.sender.flush().unwrap_or(false)
    }

    pub(crate) fn has_kept(&self) -> bool {
        self.sender.kept() > 0
    }

    /// Whether the runner has so much under way that nothing more is read from it.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.inputs.load(Ordering::Relaxed).saturating_add(self.sender.kept()) >= MOST_UNDER_WAY
    }

    /// Whether the runner leaves more unread than can be kept for it.
    pub(crate) fn is_flooded(&self) -> bool {
        self.sender.kept() >= MOST_UNREAD
    }

    /// Has the container's thread look at the state.
    pub(crate) fn wake_up(&self) {
        // A counter that is full has woken it already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// What the container's thread polls.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The container is gone: nothing is sent any more. Gives the socket to whoever closes it.
    pub(crate) fn close(&self) -> Option<UnixStream> {
        self.sender.close()
    }

    fn add_input(&self, weight: usize) {
        self.inputs.fetch_add(weight, Ordering::Relaxed);
    }

    fn remove_input(&self, weight: usize) {
        let was_overloaded = self.is_overloaded();
        self.inputs.fetch_sub(weight, Ordering::Relaxed);
        if was_overloaded {
            self.wake_up();
        }
    }
}

/// A call that a runner has made.
pub(crate) struct RunnerCall {
    link: Arc<Link>,
    label: u64,
    /// How much its input counts for its container.
    weight: usize,
    /// What its input takes up.
    _held: Held,
}

impl RunnerCall {
    /// The call with this label.
    pub(crate) fn new(link: &Arc<Link>, label: u64, weight: usize, held: Held) -> Self {
        link.add_input(weight);
        Self { link: Arc::clone(link), label, weight, _held: held }
    }
}

impl Caller for RunnerCall {
    fn identified(&self, id: &str) {
        self.link.answer(&CallAnswer::Accepted { call: self.label, id: id.to_owned() }, Payload::default());
    }

    fn pending(&self) {
        self.link.answer(&CallAnswer::Pending { call: self.label }, Payload::default());
    }

    fn moved(&self, callee: &Weak<dyn Callee>) {
        self.link.calls.redirect(self.label, callee);
    }

    fn item(&self, payload: Payload) -> Result<(), WireError> {
        // That the caller is gone is no fault of whoever made the item.
        let _ = self.link.send(&CallAnswer::Item { call: self.label }.encode(), &Arc::new(payload));
        Ok(())
    }

    fn end(&self, outcome: Outcome) {
        self.link.calls.close(self.label);
        self.link.remove_input(self.weight);
        let (status, payload) = match outcome {
            Outcome::Value(payload) => (CallStatus::Ok, payload),
            Outcome::Exception(payload) => (CallStatus::Exception, payload),
            Outcome::Error(error) => ((&error).into(), Payload::default()),
        };
        self.link.answer(&CallAnswer::Result { call: self.label, status }, payload);
    }
}
