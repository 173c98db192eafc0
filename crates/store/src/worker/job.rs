//! The extension point for work on layer content that other crates bring.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::WorkerContext;
use crate::{JobError, ObjectName};

/// Work on layer content that other crates register; it runs inside the store's user namespace.
pub trait Job: Serialize + DeserializeOwned {
    /// Name of the job, unique among the registered ones.
    const NAME: &'static str;
    /// What it answers.
    type Output: Serialize + DeserializeOwned;

    /// The work of a step that the job writes into: it stays until the job has ended.
    fn work(&self) -> Option<&str> {
        None
    }

    /// Does the work.
    ///
    /// # Errors
    /// Whatever went wrong, as data.
    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Self::Output, JobError>;
}

type Runner = Box<dyn Fn(Value, &WorkerContext, Vec<OwnedFd>) -> Result<Value, JobError> + Send + Sync>;

/// A package that the store keeps to save downloading and unpacking it again. Collection and checks ask for them, because
/// only the crate that keeps them knows which objects they are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPackage {
    /// What describes it; removing these files forgets it.
    pub descriptions: Vec<Description>,
    /// When a step last asked for it, in seconds since 1970.
    pub last_used: i64,
}

/// A file that says what a kept package, or a part of it, consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The file.
    pub path: PathBuf,
    /// Whether all that it names has to be there, which is not so before it is published.
    pub is_published: bool,
    /// The objects that it names, or what is wrong with it, to be said after its path.
    pub objects: Result<Vec<ObjectName>, String>,
}

impl KeptPackage {
    /// The objects that it consists of, as far as its descriptions can be believed.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.descriptions.iter().filter_map(|description| description.objects.as_ref().ok()).flatten()
    }
}

type ListPackages = fn(&WorkerContext) -> Result<Vec<KeptPackage>, JobError>;

/// The registered jobs.
#[derive(Default)]
pub struct JobTable {
    runners: HashMap<&'static str, Runner>,
    packages: Vec<ListPackages>,
}

impl JobTable {
    /// A table without jobs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job.
    #[must_use]
    pub fn register<J: Job>(mut self) -> Self {
        let run = |job: Value, context: &WorkerContext, fds: Vec<OwnedFd>| {
            let job: J = serde_json::from_value(job).map_err(|error| malformed(J::NAME, &error))?;
            let _writing = job.work().map(|work| context.enter(work)).transpose()?;
            let output = job.run(context, fds)?;
            serde_json::to_value(output).map_err(|error| malformed(J::NAME, &error))
        };
        self.runners.insert(J::NAME, Box::new(run));
        self
    }

    /// Adds packages that are kept.
    #[must_use]
    pub fn with_packages(mut self, list: ListPackages) -> Self {
        self.packages.push(list);
        self
    }

    /// All packages that are kept.
    pub(super) fn packages(&self, context: &WorkerContext) -> Result<Vec<KeptPackage>, JobError> {
        let mut packages = Vec::new();
        for list in &self.packages {
            packages.extend(list(context)?);
        }
        Ok(packages)
    }

    /// Runs the job with this name.
    pub(super) fn run(
        &self,
        name: &str,
        job: Value,
        context: &WorkerContext,
        fds: Vec<OwnedFd>,
    ) -> Result<Value, JobError> {
        let unknown = || JobError::new(JobError::STORE, format!("the store worker knows no job `{name}`"));
        self.runners.get(name).ok_or_else(unknown)?(job, context, fds)
    }
}

impl fmt::Debug for JobTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.runners.keys()).finish()
    }
}

fn malformed(name: &str, error: &serde_json::Error) -> JobError {
    JobError::new(JobError::STORE, format!("the job `{name}` could not be transferred: {error}"))
}
