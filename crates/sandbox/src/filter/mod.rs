//! System calls that commands in a sandbox may make: an allow list, as container engines have it.
//!
//! The list is `calls.txt`. What is known and not for sandboxes is refused with "operation not permitted"; every other number
//! is "not implemented", so that programs that try something new fall back as on an older kernel.

mod conditions;
mod program;
mod table;

use libc::sock_filter;
use rustix::io::Errno;

use self::program::{Decision, assemble};
use self::table::{Architecture, Rule, calls};
use crate::failure::{During, Failure};

/// The assembled filters: made once, used for every sandbox.
#[derive(Debug)]
pub(crate) struct Filters {
    usual: Vec<sock_filter>,
    /// The same, but that synchronising is only said to be done.
    ignoring_sync: Vec<sock_filter>,
}

impl Filters {
    /// Assembles the filters.
    pub(crate) fn assemble() -> Result<Self, Failure> {
        let assemble = |ignore_sync| {
            filter(Architecture::OWN, ignore_sync)
                .ok_or_else(|| Failure::setup("assemble", "the system call filter", Errno::INVAL))
        };
        Ok(Self { usual: assemble(false)?, ignoring_sync: assemble(true)? })
    }

    /// Installs one of them on the calling process, for good.
    pub(crate) fn install(&self, ignore_sync: bool) -> Result<(), Failure> {
        let program = if ignore_sync { &self.ignoring_sync } else { &self.usual };
        lamina_system::install_filter(program).during("install", "the system call filter")
    }
}

/// The program for an architecture; `None` if the table is not in its form.
fn filter(architecture: Architecture, ignore_sync: bool) -> Option<Vec<sock_filter>> {
    let decisions = calls(architecture)?.into_iter().map(|call| {
        let decision = match call.rule {
            Rule::Synchronise if ignore_sync => Decision::Answer(0),
            Rule::Allow | Rule::Synchronise => Decision::Allow,
            Rule::Refuse => Decision::Answer(Errno::PERM.raw_os_error()),
            Rule::Absent => Decision::Answer(Errno::NOSYS.raw_os_error()),
            Rule::Argument => conditions::of(call.name)?,
        };
        Some((call.number, decision))
    });
    assemble(architecture, &decisions.collect::<Option<Vec<_>>>()?)
}

#[cfg(test)]
mod tests;
