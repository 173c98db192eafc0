//! What services are made of: containers, and what runs in them.

use std::collections::BTreeMap;
use std::time::Duration;

use lamina_ground::{DEFAULT_PATH, EnvVars, Stack};
use lamina_image::container::{HOME, python_path};
use lamina_image::{Digest, GpuRequest};

use crate::options::PoolOptions;
use crate::retries::Retries;
use crate::runner::{ContainerVolume, Module, Parameter, ServiceKind};
use crate::state::Batching;

/// What a container is, whatever runs in it.
#[derive(Clone)]
pub struct ContainerSpec {
    /// Id of the image it runs on.
    pub image_id: String,
    /// What makes up the container's files: the image's layers, and over them the `modal` package, files attached to the
    /// image, the source.
    pub layers: Stack<Digest>,
    /// Environment variables of the image.
    pub image_environment: BTreeMap<String, String>,
    /// Working directory of the image.
    pub working_directory: Option<String>,
    /// The user of what runs in it, as [`SandboxSpec::user`](lamina_sandbox::SandboxSpec) has it.
    pub user: Option<String>,
    /// The program and arguments that the runner is given to.
    pub entrypoint: Vec<String>,
    /// The interpreter that the image's base brought, if it did.
    pub python: Option<String>,
    /// Its own environment: secrets of the app, of the function, then its own variables. Later ones win.
    pub environment: Vec<(String, String)>,
    /// Most processors.
    pub cpus: Option<f64>,
    /// Most bytes of memory.
    pub memory_bytes: Option<u64>,
    /// GPUs: the first of these that the machine has.
    pub gpu: Vec<GpuRequest>,
    /// Name of the environment that the app runs in.
    pub environment_name: String,
    /// Whether it has no network.
    pub block_network: bool,
    /// The volumes that it has.
    pub volumes: Vec<ContainerVolume>,
}

/// What a pool serves: a function or a class, and the containers that it runs in.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// The function or class.
    pub kind: ServiceKind,
    /// What the instance of a class is made with.
    pub parameters: Vec<Parameter>,
    /// Where the runner finds it.
    pub module: Module,
    /// Its containers.
    pub container: ContainerSpec,
    /// How many inputs a container runs at a time.
    pub capacity: usize,
    /// How long an input may take.
    pub timeout: Duration,
    /// How often a failed input runs again.
    pub retries: Retries,
    /// How many it is to run if there can be more containers.
    pub target: Option<usize>,
    /// Inputs that run together, if they do.
    pub batching: Option<Batching>,
    /// How long a container may take to be ready, where the service says so.
    pub startup: Option<Duration>,
    /// Whether containers run one input only.
    pub single_use: bool,
    /// Least containers, also without any input.
    pub minimum_containers: usize,
    /// Most containers at a time, where the service says so.
    pub maximum_containers: Option<usize>,
    /// Containers more than the inputs need, as long as there are inputs.
    pub buffer_containers: usize,
    /// How long a container waits for its next input, where the service says so.
    pub idle: Option<Duration>,
}

impl ServiceSpec {
    /// The options of its pool.
    #[must_use]
    pub fn pool_options(&self) -> PoolOptions {
        let options = PoolOptions::new(self.kind.clone(), self.module.clone(), self.timeout);
        PoolOptions {
            parameters: self.parameters.clone(),
            capacity: self.capacity,
            entrypoint: self.container.entrypoint.clone(),
            memory_limit: self.container.memory_bytes,
            volumes: self.container.volumes.clone(),
            retries: self.retries,
            target: self.target,
            batching: self.batching,
            single_use: self.single_use,
            startup: self.startup.unwrap_or(options.startup),
            minimum: self.minimum_containers,
            // A number that there are to be is one that there may be.
            maximum: self.maximum_containers.unwrap_or(options.maximum.max(self.minimum_containers)),
            buffer: self.buffer_containers,
            idle: self.idle.unwrap_or(options.idle),
            ..options
        }
    }
}

impl ContainerSpec {
    /// The working directory of its containers.
    pub(crate) fn directory(&self) -> String {
        self.working_directory.clone().unwrap_or_else(|| HOME.to_owned())
    }

    /// The environment of the container `task`.
    pub(crate) fn environment(&self, task: &str) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = [("PATH".to_owned(), DEFAULT_PATH.to_owned())].into();
        // The home of others is looked up where they are.
        if self.user.is_none() {
            all.insert("HOME".to_owned(), HOME.to_owned());
        }
        all.extend(self.image_environment.clone());
        all.extend(self.environment.iter().cloned());
        let search = python_path(all.get("PYTHONPATH").map(String::as_str));
        let fixed = [
            ("PYTHONPATH", search.as_str()),
            (EnvVars::MODAL_IS_REMOTE, "1"),
            (EnvVars::MODAL_IMAGE_ID, &self.image_id),
            (EnvVars::MODAL_TASK_ID, task),
            (EnvVars::MODAL_ENVIRONMENT, &self.environment_name),
            (EnvVars::MODAL_REGION, "local"),
            (EnvVars::MODAL_CLOUD_PROVIDER, "local"),
            (EnvVars::MODAL_IDENTITY_TOKEN, ""),
        ];
        all.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        all
    }
}

impl std::fmt::Debug for ContainerSpec {
    /// Leaves the environment out: it holds secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("ContainerSpec");
        debug.field("image_id", &self.image_id).field("layers", &self.layers);
        debug.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            image_id: "im-1".into(),
            layers: Stack::new(),
            image_environment: BTreeMap::new(),
            working_directory: None,
            user: Some("1000:100".to_owned()),
            entrypoint: Vec::new(),
            python: None,
            environment: Vec::new(),
            cpus: None,
            memory_bytes: None,
            gpu: Vec::new(),
            environment_name: "main".into(),
            block_network: false,
            volumes: Vec::new(),
        }
    }

    #[test]
    fn later_variables_win_and_reserved_ones_cannot_be_replaced() {
        let mut spec = ContainerSpec { user: None, ..spec() };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        spec.image_environment = pairs(&[("PATH", "/opt/bin"), ("A", "image"), ("B", "image")]).into_iter().collect();
        spec.environment = pairs(&[("B", "secret"), ("C", "secret"), ("C", "own"), (EnvVars::MODAL_IS_REMOTE, "0")]);
        let environment = spec.environment("ta-1");
        let expected = [
            ("A", "image"),
            ("B", "secret"),
            ("C", "own"),
            ("PATH", "/opt/bin"),
            ("HOME", "/root"),
            ("PYTHONPATH", "/root:/__modal/python"),
            (EnvVars::MODAL_IS_REMOTE, "1"),
            (EnvVars::MODAL_IMAGE_ID, "im-1"),
            (EnvVars::MODAL_TASK_ID, "ta-1"),
            (EnvVars::MODAL_ENVIRONMENT, "main"),
        ];
        for (name, value) in expected {
            assert_eq!(environment[name], value, "{name}");
        }
    }

    #[test]
    fn the_source_and_the_package_are_always_importable() {
        let mut spec = spec();
        let cases = [
            ("", "/root:/__modal/python"),
            ("/lib", "/root:/lib:/__modal/python"),
            ("/lib:/root", "/lib:/root:/__modal/python"),
            ("/lib:", "/root:/lib::/__modal/python"),
            ("/__modal/python:/lib", "/root:/__modal/python:/lib"),
        ];
        for (given, expected) in cases {
            spec.environment = vec![("PYTHONPATH".to_owned(), given.to_owned())];
            assert_eq!(spec.environment("ta-1")["PYTHONPATH"], expected);
        }
    }

    #[test]
    fn a_container_has_its_user_and_the_home_of_that() {
        let sandbox = spec().sandbox_on(Stack::new(), "ta-1", None);
        assert_eq!(sandbox.user.as_deref(), Some("1000:100"));
        assert!(!sandbox.env.iter().any(|(name, _)| name == "HOME"));
        let sandbox = ContainerSpec { user: None, ..spec() }.sandbox_on(Stack::new(), "ta-1", None);
        assert!(sandbox.env.contains(&("HOME".to_owned(), "/root".to_owned())));
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let mut spec = spec();
        spec.environment.push(("TOKEN".into(), "hunter2".into()));
        assert!(!format!("{spec:?}").contains("hunter2"));
    }
}
