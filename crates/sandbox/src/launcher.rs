//! The launcher process: one `clone3` per request, nothing else. It has one thread, so a copy of it is always sound.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lamina_wire::{Frame, Receiver, Sender};
use rustix::process::PidfdFlags;

use crate::failure::Failure;
use crate::filter::Filters;
use crate::init::{self, Init};
use crate::protocol::{SpawnReply, SpawnRequest, send};
use crate::sys::{self, Disposition, Side};
use crate::{Network, SandboxError, SandboxSpec, Stdio};

/// Serves requests until the engine closes the connection. Every sandbox dies with this process.
pub(crate) fn serve(socket: UnixStream) -> Result<(), SandboxError> {
    // The kernel reaps pid 1 of a sandbox for us; the engine watches its pidfd.
    sys::set_disposition(libc::SIGCHLD, Disposition::Ignore);
    let launcher = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let sender = Sender::new(socket.try_clone()?);
    let mut receiver = Receiver::new(socket);
    let mut filters = None;
    while let Some(frame) = receiver.receive()? {
        let filters = match &mut filters {
            Some(filters) => filters,
            slot => slot.insert(Filters::compile().map_err(SandboxError::from)?),
        };
        let (spec, control, stdio) = match read_request(frame) {
            Ok(request) => request,
            Err(error) => {
                reply_failure(&sender, Failure::setup("understand", &error.to_string(), rustix::io::Errno::INVAL))?;
                continue;
            }
        };
        match sys::split(namespaces(&spec)) {
            Ok(Side::Parent { pid, pidfd }) => send(&sender, &SpawnReply::Cloned { pid }, &[pidfd.as_fd()])?,
            Ok(Side::Child) => {
                // Descriptors of the launcher do not reach further: pid 1 must see the engine's end of its own
                // connection close, and nothing of anybody else's.
                drop((sender, receiver));
                init::run(Init { spec, control, stdio, launcher, filters })
            }
            Err(errno) => reply_failure(&sender, Failure::setup("make the namespaces of", "the sandbox", errno))?,
        }
    }
    Ok(())
}

fn reply_failure(sender: &Sender, failure: Failure) -> Result<(), SandboxError> {
    send(sender, &SpawnReply::Failed(failure), &[])
}

/// The namespaces of a sandbox, beside the user namespace that all share.
fn namespaces(spec: &SandboxSpec) -> libc::c_int {
    let network = if spec.network == Network::Isolated { libc::CLONE_NEWNET } else { 0 };
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network
}

/// Reads a request and gives its descriptors their meaning.
fn read_request(frame: Frame) -> Result<(SandboxSpec, UnixStream, Stdio), SandboxError> {
    let request: SpawnRequest = serde_json::from_slice(&frame.control)?;
    let payload = frame.payload.into_bytes()?;
    let invalid = || SandboxError::Invalid("the request is incomplete".into());
    let spec = request.unpack(&payload).ok_or_else(invalid)?;
    let mut fds = frame.fds.into_iter();
    let mut next = || -> Result<OwnedFd, SandboxError> { fds.next().ok_or_else(invalid) };
    let control = UnixStream::from(next()?);
    let stdio = Stdio { stdin: next()?, stdout: next()?, stderr: next()?, socket: fds.next() };
    Ok((spec, control, stdio))
}
