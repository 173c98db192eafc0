//! How layers get made: the planner that computes keys and finds hits, the schedule that builds independent images in
//! parallel, and one module per kind of step.
//!
//! A [`Builder`] walks each chain from its base. A step's key is computed from the *content* of its parent, so a step
//! that was rebuilt with the same result leaves everything after it cached. What is missing is made in a sandbox (or
//! without one, where files can simply be linked), committed to the store, and recorded under its key.

mod backend;
mod error;
mod hints;
mod host;
mod local;
mod log;
mod plan;
mod schedule;
mod secrets;
mod slots;
mod state;
mod steps;
mod toolchain;

pub use error::{BuildError, StepFailure};
pub use local::check_local;
pub use plan::{Outlook, PlannedStep};
pub use schedule::{BuildOptions, Builder};
pub use secrets::jobs;
pub use state::BuiltImage;
