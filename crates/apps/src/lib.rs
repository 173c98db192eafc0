//! Detached apps: apps that go on without the command that started them.
//!
//! Everything of them is here: the record of each in `apps/<id>/` of the store (who it is, whether it runs, how it ended,
//! what it printed), the start of its process, and how it is found and stopped. There is no daemon that could be asked: an
//! app runs as long as somebody holds the lock on its `state` file, which its process (the *background*) inherits from the
//! command that starts it (the *foreground*). The lock is there before the record can be seen, and it ends with the
//! process, in whatever way that ends.

mod background;
mod containers;
mod deployments;
mod error;
mod files;
mod find;
mod log;
mod recording;
mod records;
mod socket;
mod state;
mod stop;
#[cfg(test)]
mod tests;

pub use background::{BACKGROUND, start_background, take_standard_input};
pub use containers::ContainerSockets;
pub use deployments::{
    Deployed, Deployment, DeploymentName, DeploymentWatch, Deployments, HOST, HostProcess, KeptCalls, NewVersion,
    PendingCall, RunningHost, Survey, Version,
};
pub use error::AppsError;
pub use log::{LineFeed, LogEntry, LogLine, LogPosition, LogReader, LogWriter, Selection, Show, Source};
pub use recording::{Recorder, Recording};
pub use records::{AppRecord, DetachedApp, DetachedApps, RunningApp};
pub use socket::AppListener;
pub use state::AppState;
