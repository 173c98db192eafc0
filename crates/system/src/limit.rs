//! Resource limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lowers both the soft and the hard limit to at most `value`.
///
/// # Errors
/// What the kernel says.
pub fn lower(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let old = getrlimit(resource);
    let at_most = |limit: Option<u64>| Some(limit.map_or(value, |limit| limit.min(value)));
    setrlimit(resource, Rlimit { current: at_most(old.current), maximum: at_most(old.maximum) })
}
