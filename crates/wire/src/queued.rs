//! Sending without ever waiting.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::frame::Header;
use crate::{HEADER_LENGTH, MEMORY_THRESHOLD, Payload, WireError, write_memory};

/// What a kept frame counts at least, and one whose payload is a memfd.
const LEAST_WEIGHT: usize = 1 << 10;
const MEMORY_WEIGHT: usize = 1 << 20;

/// Sends frames without ever waiting: what the peer has no room for is kept, in order, until [`QueuedSender::flush`]
/// finds room.
#[derive(Debug)]
pub struct QueuedSender {
    queue: Mutex<Queue>,
    /// The weight of the kept frames.
    kept: AtomicUsize,
}

#[derive(Debug)]
struct Queue {
    /// Nothing once the sender is closed.
    socket: Option<UnixStream>,
    frames: VecDeque<KeptFrame>,
}

/// A frame, or the rest of one.
#[derive(Debug)]
struct KeptFrame {
    head: Vec<u8>,
    payload: Arc<Payload>,
    sent: usize,
}

impl QueuedSender {
    /// Sends on `socket`.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { queue: Mutex::new(Queue { socket: Some(socket), frames: VecDeque::new() }), kept: AtomicUsize::new(0) }
    }

    /// Sends a frame, or keeps what of it there is no room for. Says whether anything is kept: it is to be flushed when
    /// the socket has room.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn send(&self, control: &[u8], payload: &Arc<Payload>) -> Result<bool, WireError> {
        let payload = match &**payload {
            Payload::Inline(bytes) if bytes.len() > MEMORY_THRESHOLD => {
                &Arc::new(Payload::Memory(write_memory(bytes)?, bytes.len() as u64))
            }
            _ => payload,
        };
        let header = header(control, payload)?;
        let mut queue = self.lock();
        let Some(socket) = &queue.socket else { return Ok(false) };
        let sent = if queue.frames.is_empty() { transmit(socket, [&header, control], payload, 0)? } else { 0 };
        if sent == HEADER_LENGTH + control.len() + inline(payload).len() {
            return Ok(false);
        }
        let head = [&header, control].concat();
        queue.frames.push_back(KeptFrame { head, payload: Arc::clone(payload), sent });
        self.kept.fetch_add(weight(payload), Ordering::Relaxed);
        Ok(true)
    }

    /// Sends what is kept, as far as there is room. Says whether anything is left.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn flush(&self) -> Result<bool, WireError> {
        let mut queue = self.lock();
        let Queue { socket: Some(socket), frames } = &mut *queue else { return Ok(false) };
        while let Some(frame) = frames.front_mut() {
            frame.sent += transmit(socket, [&frame.head, &[]], &frame.payload, frame.sent)?;
            if frame.sent < frame.head.len() + inline(&frame.payload).len() {
                return Ok(true);
            }
            self.kept.fetch_sub(weight(&frame.payload), Ordering::Relaxed);
            frames.pop_front();
        }
        Ok(false)
    }

    /// How much is kept: bytes, but a kibibyte for each frame at least, and a mebibyte for one with a memfd.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// Forgets what is kept and sends nothing more; gives the socket to whoever closes it.
    pub fn close(&self) -> Option<UnixStream> {
        let mut queue = self.lock();
        queue.frames.clear();
        self.kept.store(0, Ordering::Relaxed);
        queue.socket.take()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much a kept payload counts: an inline one its bytes, one in a memfd a mebibyte, any at least a kibibyte.
#[must_use]
pub fn weight(payload: &Payload) -> usize {
    match payload {
        Payload::Inline(bytes) => bytes.len().max(LEAST_WEIGHT),
        Payload::Memory(..) => MEMORY_WEIGHT,
    }
}

fn header(control: &[u8], payload: &Payload) -> Result<[u8; HEADER_LENGTH], WireError> {
    let control_length = u32::try_from(control.len()).map_err(|_| WireError::TooLong(control.len() as u64))?;
    let memory = matches!(payload, Payload::Memory(..));
    Ok(Header { memory, fd_count: u8::from(memory), control_length, payload_length: payload.len() }.encode())
}

/// The bytes of a payload that travel in the stream.
fn inline(payload: &Payload) -> &[u8] {
    match payload {
        Payload::Inline(bytes) => bytes,
        Payload::Memory(..) => &[],
    }
}

/// Writes what there is room for of a frame after its first `sent` bytes; says how many bytes those were.
fn transmit(socket: &UnixStream, head: [&[u8]; 2], payload: &Payload, sent: usize) -> Result<usize, WireError> {
    let mut parts = [head[0], head[1], inline(payload)];
    let memory: Option<[BorrowedFd<'_>; 1]> = match payload {
        Payload::Memory(fd, _) if sent == 0 => Some([fd.as_fd()]),
        _ => None,
    };
    let mut fds = memory.as_ref().map_or(&[][..], |fds| &fds[..]);
    crate::sender::advance(&mut parts, sent);
    let mut written = 0;
    while parts.iter().any(|part| !part.is_empty()) {
        let slices = parts.map(IoSlice::new);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        match rustix::net::sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => {
                fds = &[];
                written += count;
                crate::sender::advance(&mut parts, count);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Receiver;

    #[test]
    fn what_there_is_no_room_for_is_kept_in_order_and_arrives_whole() {
        let (ours, theirs) = crate::socket_pair().unwrap();
        let (sender, mut receiver) = (QueuedSender::new(ours), Receiver::new(theirs));
        let sent: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; 10_000 + 60_000 * usize::from(number)]).collect();
        let mut is_kept = false;
        for (number, payload) in sent.iter().enumerate() {
            is_kept = sender.send(number.to_string().as_bytes(), &Arc::new(Payload::Inline(payload.clone()))).unwrap();
        }
        assert!(is_kept && sender.kept() > 0, "a socket does not hold so much");
        for (number, payload) in sent.iter().enumerate() {
            let frame = loop {
                match receiver.receive_available().unwrap() {
                    crate::Received::Frame(frame) => break frame,
                    crate::Received::Incomplete => assert!(sender.flush().is_ok()),
                    crate::Received::Closed => panic!("nobody closed it"),
                }
            };
            assert_eq!(frame.control, number.to_string().as_bytes());
            assert!(matches!(&frame.payload, Payload::Memory(..)) == (payload.len() > MEMORY_THRESHOLD));
            assert!(frame.payload.into_bytes().unwrap() == *payload, "{number}");
        }
        assert!(!sender.flush().unwrap() && sender.kept() == 0);
    }

    #[test]
    fn a_closed_sender_keeps_nothing() {
        let (ours, _theirs) = crate::socket_pair().unwrap();
        let sender = QueuedSender::new(ours);
        let large = Arc::new(Payload::Inline(vec![0; 1 << 20]));
        assert!(sender.send(b"{}", &large).unwrap());
        assert!(sender.close().is_some() && sender.close().is_none());
        assert!(!sender.send(b"{}", &large).unwrap());
        assert_eq!(sender.kept(), 0);
    }
}
