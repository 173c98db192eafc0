//! The two user namespaces of the helpers, one inside the other.
//!
//! The kernel counts inotify instances for each id of a namespace, and all of a namespace for the user who made it. A
//! single namespace bounds only what each id takes, and a container has many. So there is an outer one, with the user's
//! half as its bound and nobody in it, and the helpers and all sandboxes are in one that it has inside: whatever ids they
//! take, together they count as one there.

use std::os::fd::OwnedFd;

use lamina_system::{self as system, Side};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use rustix::thread::UnshareFlags;

use crate::failure::{During, Failure, Kind};
use crate::idmap::InnerIds;
use crate::rlimits;

/// Puts the calling process, which keeps its identity, into both user namespaces and a mount namespace. `await_map` has the
/// engine map the ids of the outer one.
pub(crate) fn enter(ids: &InnerIds, await_map: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    unshare(UnshareFlags::NEWUSER)?;
    rlimits::reserve_watches();
    await_map()?;
    let mapper = Mapper::start(ids)?;
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
    mapper.finish()
}

/// Makes namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Failure> {
    system::unshare(flags)
        .during("make a user namespace", "unshare")
        .map_err(|failure| failure.of_kind(Kind::UserNamespace))
}

/// A process that stays in the outer namespace, since only there it is allowed to map the ids of the inner one.
struct Mapper {
    pid: u32,
    go: OwnedFd,
}

impl Mapper {
    fn start(ids: &InnerIds) -> Result<Self, Failure> {
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC).during("make", "a pipe")?;
        let parent = getpid();
        match system::split(0).during("make", "a process that maps ids")? {
            Side::Parent { pid, .. } => Ok(Self { pid, go }),
            Side::Child => {
                drop(go);
                let told = rustix::io::read(&wait, &mut [0]);
                let done = matches!(told, Ok(1)) && map(parent, ids).is_ok();
                system::exit_now(i32::from(!done))
            }
        }
    }

    /// Has it map the ids, now that the inner namespace is there.
    fn finish(self) -> Result<(), Failure> {
        let what = "map ids of";
        rustix::io::write(&self.go, &[0]).during(what, "the inner user namespace")?;
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let ended = waitpid(pid, WaitOptions::empty()).during(what, "the inner user namespace")?;
        match ended {
            Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
            _ => Err(Failure::setup(what, "the inner user namespace", Errno::PERM).of_kind(Kind::UserNamespace)),
        }
    }
}

/// Gives the inner namespace of a process the ids of the outer one, but for the user who made both.
fn map(process: Pid, ids: &InnerIds) -> std::io::Result<()> {
    let process = process.as_raw_nonzero();
    fs_err::write(format!("/proc/{process}/uid_map"), &ids.uids)?;
    fs_err::write(format!("/proc/{process}/gid_map"), &ids.gids)
}
