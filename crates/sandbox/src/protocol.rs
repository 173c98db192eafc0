//! What the engine, the launcher and a sandbox's pid 1 say to each other, as JSON in `lamina-wire` frames.

use lamina_wire::{Receiver, Sender};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::failure::Failure;
use crate::idmap::InnerIds;
use crate::rlimits::Fallback;
use crate::{Resource, SandboxError, SandboxSpec};

/// Engine to the helper process that is being started, with the launcher's and the worker's socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Configuration {
    /// The store's content directory, an absolute path.
    pub(crate) content: String,
    /// Parts of the host that sandboxes may be given.
    pub(crate) resources: Vec<Resource>,
    /// The ids that sandboxes have.
    pub(crate) ids: InnerIds,
    /// All there is to do, if it is not to serve.
    pub(crate) errand: Option<Errand>,
}

/// What takes root of a user namespace with both the calling user, as root, and container root, as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Errand {
    /// Give the content directory to container root.
    Claim,
    /// Remove it with all that is in it.
    Remove,
}

/// The steps of the start-up, said by the helper, and the engine's one answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StartUp {
    /// The helper is in a new user namespace and waits for its id map.
    Unshared,
    /// The engine has written the id map.
    Mapped,
    /// The helpers are at work.
    Ready,
    /// The start-up failed.
    Failed(Failure),
}

/// Engine to launcher: make a process. First descriptor: its end of the connection with the engine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProcessRequest {
    /// Pid 1 of a sandbox.
    Init,
}

/// Launcher to engine; on success with the pidfd of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProcessReply {
    /// It exists.
    Made {
        /// Its id as the launcher sees it.
        pid: u32,
    },
    /// It could not be made.
    Failed(Failure),
}

/// Engine to pid 1, first: what to become. Descriptors: standard input, output, error, and the socket if there is one.
/// The payload holds the injected files, one after the other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// The sandbox; its byte contents are emptied, they travel in the payload.
    pub(crate) spec: SandboxSpec,
    /// Lengths of the injected files, then of `resolv_conf` and `hosts` where there are such.
    pub(crate) lengths: Vec<usize>,
}

impl Begin {
    /// Takes the byte contents out of `spec`, so that they do not travel as JSON.
    pub(crate) fn pack(spec: &SandboxSpec) -> (Self, Vec<u8>) {
        let mut spec = spec.clone();
        let mut payload = Vec::new();
        let lengths = blobs(&mut spec)
            .map(|blob| {
                let length = blob.len();
                payload.append(blob);
                length
            })
            .collect();
        (Self { spec, lengths }, payload)
    }

    /// The sandbox with its byte contents.
    pub(crate) fn unpack(mut self, mut payload: &[u8]) -> Option<SandboxSpec> {
        let mut lengths = self.lengths.iter();
        for blob in blobs(&mut self.spec) {
            let (head, tail) = payload.split_at_checked(*lengths.next()?)?;
            *blob = head.to_vec();
            payload = tail;
        }
        Some(self.spec)
    }
}

/// The byte contents of a sandbox's description, in a fixed order.
fn blobs(spec: &mut SandboxSpec) -> impl Iterator<Item = &mut Vec<u8>> {
    spec.files.iter_mut().map(|file| &mut file.contents).chain(&mut spec.resolv_conf).chain(&mut spec.hosts)
}

/// Engine to pid 1, then: the command may start, its control group is in place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go {
    /// Limits that no control group enforces.
    pub(crate) fallback: Fallback,
}

/// Engine to pid 1, while its command runs: start a further one. Descriptors: pid 1's end of the connection about it, and those
/// of [`Begin`], whose payload this has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Enter {
    /// The command.
    pub(crate) begin: Begin,
    /// Limits that no control group enforces.
    pub(crate) fallback: Fallback,
}

/// Engine to pid 1, over the connection about a further command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandOn {
    /// The number of a signal for the command's process group.
    pub(crate) signal: i32,
}

/// Pid 1 to engine, about its command or a further one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The command runs; with the terminal's descriptor if it has one.
    Started,
    /// The command could not be started.
    Failed(Failure),
    /// The command has ended and nothing is left inside.
    Exited {
        /// The exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Resident set of the largest process, in KiB.
        max_rss_kib: u64,
        /// Mount points that were made in the upper.
        created_mountpoints: Vec<String>,
    },
}

/// Sends one message.
pub(crate) fn send<M: Serialize>(sender: &Sender, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
    sender.send(&serde_json::to_vec(message)?, &[], fds)?;
    Ok(())
}

/// Waits for one message; `None` when the peer has closed.
pub(crate) fn receive<M: DeserializeOwned>(receiver: &mut Receiver) -> Result<Option<(M, Vec<OwnedFd>)>, SandboxError> {
    let Some(frame) = receiver.receive()? else {
        return Ok(None);
    };
    Ok(Some((serde_json::from_slice(&frame.control)?, frame.fds)))
}
