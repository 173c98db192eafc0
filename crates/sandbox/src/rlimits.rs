//! Resource limits of the command: lowered where needed, never raised.

use lamina_system::lower;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure};
use crate::idmap;

/// Limits that fall back to resource limits because no control group enforces them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fallback {
    /// Most bytes of private memory, per process.
    pub(crate) memory_bytes: Option<u64>,
    /// Most processes of the user, over all sandboxes of the store.
    pub(crate) pids: Option<u64>,
}

/// What the kernel counts for a user over all processes, and half of what it usually allows where it allows anything.
/// The helper processes give up half of each before they make the user namespace, which then never gets more of it
/// together, whichever ids its processes take: the user's other programs keep the rest.
const COUNTED: [(Resource, u64); 4] = [
    (Resource::Nproc, 64 << 10),
    (Resource::Sigpending, 16 << 10),
    (Resource::Msgqueue, 400 << 10),
    (Resource::Memlock, 4 << 20),
];

/// The same for inotify, which has settings instead: what the user has, and what the outer user namespace gets.
const WATCHES: [(&str, &str); 2] = [
    ("/proc/sys/fs/inotify/max_user_instances", "/proc/sys/user/max_inotify_instances"),
    ("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"),
];

/// How many descriptors a command may have open, and how many it may ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files(Rlimit);

/// Gives up half of what is counted for the calling user, for everything that follows.
pub(crate) fn reserve_for_the_user() {
    for (resource, otherwise) in COUNTED {
        let half = getrlimit(resource).maximum.map_or(otherwise, |maximum| maximum / 2);
        // Lowering never fails; and what has more is no less able to work.
        let _ = lower(resource, half);
    }
}

/// Leaves half of the watches to the user. Called in the outer user namespace, where a surrounding container may still
/// have made the settings read-only.
pub(crate) fn reserve_watches() {
    for (present, own) in WATCHES {
        let most = fs_err::read_to_string(present).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(most) = most {
            let _ = fs_err::write(own, (most / 2).to_string());
        }
    }
}

/// Raises the calling helper's own limit as far as it may, and says what commands get: half. The kernel counts the
/// descriptors that are under way in sockets for each user and compares with the sender's limit, so whatever commands do,
/// the helpers, which have the same id, can still hand over theirs.
pub(crate) fn raise_files() -> Result<Files, Failure> {
    let present = getrlimit(Resource::Nofile);
    let unlimited = 1 << 20;
    let (soft, hard) = (present.current.unwrap_or(unlimited), present.maximum.unwrap_or(unlimited));
    // Without subordinate ids commands are the user, whose other programs have the usual limit.
    let most = if idmap::is_single_here() { soft.min(hard) / 2 } else { hard / 2 };
    setrlimit(Resource::Nofile, Rlimit { current: present.maximum, maximum: present.maximum })
        .during("raise the limit", "RLIMIT_NOFILE")?;
    Ok(Files(Rlimit { current: Some(soft.min(most)), maximum: Some(most) }))
}

/// Applies the limits to the calling process, and switches core dumps off: they would hold secrets.
pub(crate) fn apply(fallback: Fallback, files: Files) -> Result<(), Failure> {
    lower(Resource::Core, 0).during("switch off core dumps", "RLIMIT_CORE")?;
    setrlimit(Resource::Nofile, files.0).during("limit descriptors", "RLIMIT_NOFILE")?;
    if let Some(bytes) = fallback.memory_bytes {
        lower(Resource::Data, bytes).during("limit memory", "RLIMIT_DATA")?;
    }
    if let Some(pids) = fallback.pids {
        lower(Resource::Nproc, pids).during("limit processes", "RLIMIT_NPROC")?;
    }
    Ok(())
}
