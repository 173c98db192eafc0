//! The two user namespaces of the helpers, one inside the other.
//!
//! The kernel counts inotify instances for each id of a namespace, and all of a namespace for the user who made it. A
//! single namespace bounds only what each id takes, and a container has many. So there is an outer one, with the user's
//! half as its bound and nobody in it, and the helpers and all sandboxes are in one that it has inside: whatever ids they
//! take, together they count as one there.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use lamina_system::{self as system, Side};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use rustix::thread::UnshareFlags;

use crate::failure::{During, Failure, Kind};
use crate::idmap::InnerIds;
use crate::rlimits;

/// What a step of the way into the inner namespace is, in messages.
const MAPPING: (&str, &str) = ("map ids of", "the inner user namespace");

/// The calling process is in the outer user namespace, whose ids somebody outside maps.
pub(crate) struct Outer {
    mapper: Mapper,
}

impl Outer {
    /// Puts the calling process, which keeps its identity, into the outer namespace.
    pub(crate) fn enter() -> Result<Self, Failure> {
        unshare(UnshareFlags::NEWUSER)?;
        rlimits::reserve_watches();
        Ok(Self { mapper: Mapper::start()? })
    }

    /// Goes on into the inner one and a mount namespace, once the ids of the outer one are mapped.
    pub(crate) fn enter_inner(self, ids: &InnerIds) -> Result<(), Failure> {
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
        self.mapper.map(ids)
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), Failure> {
    system::unshare(flags)
        .during("make a user namespace", "unshare")
        .map_err(|failure| failure.of_kind(Kind::UserNamespace))
}

/// A process that stays in the outer namespace, since only there it is allowed to map the ids of the inner one. It ends
/// with the connection if there is nothing to map.
struct Mapper {
    pid: u32,
    connection: UnixStream,
}

impl Mapper {
    fn start() -> Result<Self, Failure> {
        let (ours, theirs) = UnixStream::pair().during("make", "a socket pair")?;
        let parent = getpid();
        match system::split(0).during("make", "a process that maps ids")? {
            Side::Parent { pid, .. } => Ok(Self { pid, connection: ours }),
            Side::Child => {
                drop(ours);
                system::exit_now(i32::from(map_for(parent, theirs).is_err()))
            }
        }
    }

    /// Has it map the ids, now that the inner namespace is there.
    fn map(mut self, ids: &InnerIds) -> Result<(), Failure> {
        let (what, whose) = MAPPING;
        let ids = serde_json::to_vec(ids).map_err(io::Error::from).during(what, whose)?;
        self.connection.write_all(&ids).during(what, whose)?;
        drop(self.connection);
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let ended = waitpid(pid, WaitOptions::empty()).during(what, whose)?;
        match ended {
            Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
            _ => Err(Failure::setup(what, whose, Errno::PERM).of_kind(Kind::UserNamespace)),
        }
    }
}

/// Gives the inner namespace of a process the ids of the outer one, but for the user who made both, when told which.
fn map_for(process: Pid, mut connection: UnixStream) -> io::Result<()> {
    let mut ids = Vec::new();
    connection.read_to_end(&mut ids)?;
    let ids: InnerIds = serde_json::from_slice(&ids)?;
    let process = process.as_raw_nonzero();
    fs_err::write(format!("/proc/{process}/uid_map"), &ids.uids)?;
    fs_err::write(format!("/proc/{process}/gid_map"), &ids.gids)
}
