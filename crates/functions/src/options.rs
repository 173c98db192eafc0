//! How a pool treats its service.

use std::sync::Arc;
use std::time::Duration;

use crate::retries::Retries;
use crate::runner::{ContainerVolume, Module, ServiceKind};
use crate::terminal::Terminal;

/// Time to import a module, however short the service's own timeout is.
const SHORTEST_STARTUP: Duration = Duration::from_mins(5);

/// How a pool treats its service.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// The function or class.
    pub kind: ServiceKind,
    /// Where the runner finds it.
    pub module: Module,
    /// How many inputs a container runs at a time.
    pub capacity: usize,
    /// How long an input may take.
    pub timeout: Duration,
    /// How long a container may take to import the service's module.
    pub startup: Duration,
    /// The program and arguments that runs the runner, for messages; none where that is started as it is.
    pub entrypoint: Vec<String>,
    /// The memory limit in bytes, for messages.
    pub memory_limit: Option<u64>,
    /// The volumes of its containers.
    pub volumes: Vec<ContainerVolume>,
    /// How often a failed input runs again.
    pub retries: Retries,
    /// Most containers at a time.
    pub maximum: usize,
    /// How long a container waits for its next input before it goes.
    pub idle: Duration,
    /// How long a container that was told to leave may take.
    pub grace: Duration,
    /// The user's terminal, if containers may ask for it.
    pub terminal: Option<Arc<dyn Terminal>>,
}

impl PoolOptions {
    /// The options of a service with the usual limits: as many containers as keep all processors busy, which go after
    /// a minute without work.
    #[must_use]
    pub fn new(kind: ServiceKind, module: Module, timeout: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            kind,
            module,
            capacity: 1,
            timeout,
            startup: timeout.max(SHORTEST_STARTUP),
            entrypoint: Vec::new(),
            memory_limit: None,
            volumes: Vec::new(),
            retries: Retries::default(),
            maximum: (2 * cores).max(4),
            idle: Duration::from_mins(1),
            grace: Duration::from_secs(2),
            terminal: None,
        }
    }

    /// The service's name, for messages.
    pub(crate) fn name(&self) -> String {
        self.kind.name().to_owned()
    }
}
