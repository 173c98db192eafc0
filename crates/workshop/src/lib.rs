//! What making a layer works with: one value, which everything between a build and its last helper hands on as it is.

use std::fmt;
use std::path::PathBuf;

use lamina_devices::Lender;
use lamina_events::CancelToken;
use lamina_fetch::Client;
use lamina_image::FileSet;
use lamina_sandbox::{IdMap, Launcher};
use lamina_store::Store;

/// Told what is being done, how many units are done, and how many there are: 0 where that is unknown. It is called from
/// several threads.
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);

/// What making a layer works with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// Where layers are kept.
    pub store: &'a Store,
    /// Starts sandboxes.
    pub launcher: &'a Launcher,
    /// Lends GPUs.
    pub devices: &'a Lender,
    /// Downloads.
    pub fetch: &'a Client,
    /// The ids that the store maps.
    pub id_map: &'a IdMap,
    /// Programs of the host.
    pub programs: &'a HostPrograms,
    /// Told how far the layer is.
    pub progress: Progress<'a>,
    /// Stops the work.
    pub cancel: &'a CancelToken,
}

/// Programs of the host, as far as there are such.
#[derive(Debug, Clone, Default)]
pub struct HostPrograms {
    /// `uv`.
    pub uv: Option<PathBuf>,
    /// The interpreter that runs the user's program.
    pub python: Option<PathBuf>,
    /// The `modal` package, where containers have it.
    pub package: FileSet,
}

impl fmt::Debug for Workshop<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Workshop").field("programs", self.programs).finish_non_exhaustive()
    }
}
