//! Which capabilities a sandbox keeps, all of them relative to its user namespace.

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::failure::{During, Failure};

/// What the processes of an image get: what package managers need, and nothing that reaches the kernel's configuration.
/// `NET_RAW` means nothing on the host's network; without it programs that have it in their file could not be executed.
const COMMAND: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Takes everything else out of the bounding set: no later `execve` can bring it back.
pub(crate) fn bound_command() -> Result<(), Failure> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !COMMAND.contains(capability) {
            match remove_capability_from_bounding_set(capability) {
                // The first number that the kernel does not know.
                Err(rustix::io::Errno::INVAL) => break,
                result => result.during("drop a capability", &number.to_string())?,
            }
        }
    }
    Ok(())
}

/// Keeps what the bounding set allows. For a command that is not root, `execve` drops that too.
pub(crate) fn limit_command() -> Result<(), Failure> {
    clear_ambient_capability_set().during("clear capabilities", "ambient")?;
    limit(COMMAND)
}

/// Keeps for pid 1 what commands have, which it starts further ones of, and nothing else.
pub(crate) fn limit_init() -> Result<(), Failure> {
    limit(COMMAND)
}

fn limit(set: CapabilitySet) -> Result<(), Failure> {
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).during("limit capabilities", "effective")
}
