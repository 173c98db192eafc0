//! Resource limits of the command: lowered where needed, never raised.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure};

/// Limits that fall back to resource limits because no control group enforces them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fallback {
    /// Most bytes of private memory, per process.
    pub(crate) memory_bytes: Option<u64>,
    /// Most processes of the user, over all sandboxes of the store.
    pub(crate) pids: Option<u64>,
}

/// Applies the fallbacks to the calling process, and switches core dumps off: they would hold secrets.
pub(crate) fn apply(fallback: Fallback) -> Result<(), Failure> {
    lower(Resource::Core, 0).during("switch off core dumps", "RLIMIT_CORE")?;
    if let Some(bytes) = fallback.memory_bytes {
        lower(Resource::Data, bytes).during("limit memory", "RLIMIT_DATA")?;
    }
    if let Some(pids) = fallback.pids {
        lower(Resource::Nproc, pids).during("limit processes", "RLIMIT_NPROC")?;
    }
    Ok(())
}

/// Lowers both the soft and the hard limit to at most `value`.
pub(crate) fn lower(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let old = getrlimit(resource);
    let at_most = |limit: Option<u64>| Some(limit.map_or(value, |limit| limit.min(value)));
    setrlimit(resource, Rlimit { current: at_most(old.current), maximum: at_most(old.maximum) })
}
