//! How a pool treats its service.

use std::sync::Arc;
use std::time::Duration;

use crate::retries::Retries;
use crate::roster::Listing;
use crate::runner::{ContainerVolume, Module, Parameter, ServiceKind};
use crate::state::{Batching, Scaling};
use crate::terminal::Terminal;

/// Time to import a module, however short the service's own timeout is.
const SHORTEST_STARTUP: Duration = Duration::from_mins(5);

/// How long containers of a class may take to leave: its hooks may have something to save.
const GRACE_OF_CLASSES: Duration = Duration::from_secs(30);
const GRACE_OF_FUNCTIONS: Duration = Duration::from_secs(2);

/// How a pool treats its service.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// The function or class.
    pub kind: ServiceKind,
    /// What the instance of a class is made with.
    pub parameters: Vec<Parameter>,
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
    /// How many inputs a container is to run if there can be more containers; none is all that it can.
    pub target: Option<usize>,
    /// Inputs that run together, if they do.
    pub batching: Option<Batching>,
    /// Whether containers run one input only.
    pub single_use: bool,
    /// Least containers, also without any input.
    pub minimum: usize,
    /// Most containers at a time.
    pub maximum: usize,
    /// Containers more than the inputs need, as long as there are inputs.
    pub buffer: usize,
    /// How long a container waits for its next input before it goes.
    pub idle: Duration,
    /// How long a container that was told to leave may take.
    pub grace: Duration,
    /// The user's terminal, if containers may ask for it.
    pub terminal: Option<Arc<dyn Terminal>>,
    /// Where its containers are listed.
    pub listing: Option<Listing>,
}

impl PoolOptions {
    /// The options of a service with the usual limits: as many containers as keep all processors busy, which go after
    /// a minute without work.
    #[must_use]
    pub fn new(kind: ServiceKind, module: Module, timeout: Duration) -> Self {
        // Functions have nothing to do at their end, but for what their modules have left to Python.
        let grace = if matches!(kind, ServiceKind::Class { .. }) { GRACE_OF_CLASSES } else { GRACE_OF_FUNCTIONS };
        Self {
            kind,
            parameters: Vec::new(),
            module,
            capacity: 1,
            timeout,
            startup: timeout.max(SHORTEST_STARTUP),
            entrypoint: Vec::new(),
            memory_limit: None,
            volumes: Vec::new(),
            retries: Retries::default(),
            target: None,
            batching: None,
            single_use: false,
            minimum: 0,
            maximum: Self::default_maximum(),
            buffer: 0,
            idle: Duration::from_mins(1),
            grace,
            terminal: None,
            listing: None,
        }
    }

    /// Most containers where nothing else is said: as many as keep all processors busy.
    #[must_use]
    pub fn default_maximum() -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (2 * cores).max(4)
    }

    /// How many containers there are.
    pub(crate) fn scaling(&self) -> Scaling {
        Scaling { minimum: self.minimum, maximum: self.maximum, buffer: self.buffer, idle: self.idle }
    }

    /// The service's name, for messages.
    pub(crate) fn name(&self) -> String {
        self.kind.name().to_owned()
    }
}
