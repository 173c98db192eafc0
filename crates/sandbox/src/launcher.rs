//! The launcher process: one `clone3` per request, nothing else. It has one thread, so a copy of it is always sound.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lamina_system::{self as system, Disposition, Side};
use lamina_wire::{Receiver, Sender};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_send_signal};

use crate::SandboxError;
use crate::failure::Failure;
use crate::filter::Filters;
use crate::init::{self, Init};
use crate::protocol::{ProcessReply, ProcessRequest, receive, send};
use crate::rlimits::Files;

/// The namespaces of a sandbox, beside the user namespace that all share. One that is to have its own network gets it
/// when that is known.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Serves requests until the engine closes the connection. Every sandbox dies with this process.
pub(crate) fn serve(socket: UnixStream, files: Files) -> Result<(), SandboxError> {
    // The kernel reaps pid 1 of a sandbox for us; the engine watches its pidfd.
    system::set_disposition(libc::SIGCHLD, Disposition::Ignore);
    let launcher = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let sender = Sender::new(socket.try_clone()?);
    let mut receiver = Receiver::new(socket);
    let mut filters = None;
    while let Some((request, fds)) = receive(&mut receiver)? {
        let filters = match &mut filters {
            Some(filters) => filters,
            slot => slot.insert(Filters::assemble().map_err(SandboxError::from)?),
        };
        let ProcessRequest::Init = request;
        let Some(control) = fds.into_iter().next().map(UnixStream::from) else {
            reply_failure(&sender, Failure::setup("find", "the connection with the engine", Errno::BADF))?;
            continue;
        };
        match system::split(NAMESPACES) {
            Ok(Side::Parent { pid, pidfd }) => {
                tracing::debug!(pid, "process for a sandbox");
                hand_over(&sender, pid, &pidfd)?;
            }
            Ok(Side::Child) => {
                // Descriptors of the launcher do not reach further: pid 1 must see the engine's end of its own
                // connection close, and nothing of anybody else's.
                drop((sender, receiver));
                // Nor does the record of the run: pid 1 shares its namespaces with the command.
                let _ = rustix::stdio::dup2_stdout(std::io::stdin());
                init::run(Init { control, launcher, filters, files })
            }
            Err(errno) => reply_failure(&sender, Failure::setup("make the namespaces of", "the sandbox", errno))?,
        }
    }
    Ok(())
}

/// Gives a new pid 1 to the engine. The kernel may refuse to hand over a descriptor, for example when too many of the
/// same user are under way; that ends this one sandbox.
fn hand_over(sender: &Sender, pid: u32, pidfd: &OwnedFd) -> Result<(), SandboxError> {
    let Err(error) = send(sender, &ProcessReply::Made { pid }, &[pidfd.as_fd()]) else {
        return Ok(());
    };
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    reply_failure(sender, Failure::setup("hand over", "the sandbox", error.errno()))
}

fn reply_failure(sender: &Sender, failure: Failure) -> Result<(), SandboxError> {
    tracing::warn!(failure = ?failure, "no process for a sandbox");
    send(sender, &ProcessReply::Failed(failure), &[])
}
