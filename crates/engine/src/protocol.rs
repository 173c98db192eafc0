//! The messages between Python and the engine. `docs/protocol.md` describes them; the tests here pin them.

mod errands;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) use errands::{DeploymentErrand, ImageErrand, SecretErrand, VolumeErrand};
use lamina_functions::{Module, PoolQuestion, VariantRequest};
use lamina_ground::ErrorClass;
use lamina_image::{Definition, FileSet, GpuRequest, SecretValues, VolumeMount};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::deployed::Schedule;

/// Version of the protocol.
pub const PROTOCOL: u32 = 3;

/// What Python tells the engine.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum Request {
    /// The first message.
    #[serde(rename = "hello")]
    Hello(Hello),
    /// Build an app's images and get its functions ready.
    #[serde(rename = "app.start")]
    Start(AppRequest),
    /// Build the image of one function, for a shell.
    #[serde(rename = "app.describe")]
    Describe(AppRequest),
    /// Run an input; the payload holds the arguments.
    #[serde(rename = "call")]
    Call(CallRequest),
    /// Tell of the containers of a service, after keeping other numbers of them if that is wanted.
    #[serde(rename = "pool")]
    Pool(PoolRequest),
    /// Some calls that follow are of a variant of a service.
    #[serde(rename = "variant")]
    Variant(VariantRequest),
    /// Give up a call.
    #[serde(rename = "cancel")]
    Cancel {
        /// The call's number.
        call: u64,
        /// Whether its container is killed.
        #[serde(default)]
        terminate: bool,
    },
    /// Items of a generator's call were consumed.
    #[serde(rename = "more")]
    More {
        /// The call's number.
        call: u64,
        /// How many.
        count: u64,
    },
    /// Say how a call ends that was spawned before.
    #[serde(rename = "await")]
    Await {
        /// The client's number for it, given back with the result.
        call: u64,
        /// The function call's id.
        id: String,
    },
    /// Tell how many inputs a call has that is kept.
    #[serde(rename = "call.inputs")]
    Inputs {
        /// The request's number.
        request: u64,
        /// The function call's id.
        id: String,
    },
    /// Tell what a function call has called.
    #[serde(rename = "call.graph")]
    Graph {
        /// The request's number.
        request: u64,
        /// The function call's id.
        id: String,
    },
    /// Stop the app.
    #[serde(rename = "app.stop")]
    Stop {
        /// The request's number.
        request: u64,
        /// The app's id, for whoever has not started it.
        #[serde(default)]
        app: Option<String>,
    },
    /// Attach to an app that runs.
    #[serde(rename = "app.attach")]
    Attach(AttachRequest),
    /// Take over the current version of the deployed app that runs here.
    #[serde(rename = "app.update")]
    Update {
        /// The request's number.
        request: u64,
        /// Whether inputs of the former version are ended.
        #[serde(default)]
        recreate: bool,
    },
    /// Build an app's images and deploy it.
    #[serde(rename = "app.deploy")]
    Deploy(DeployRequest),
    /// Something to do with deployed apps.
    #[serde(rename = "deployment")]
    Deployment {
        /// The request's number.
        request: u64,
        /// What to do.
        #[serde(flatten)]
        errand: DeploymentErrand,
    },
    /// Leave the app that the connection is attached to.
    #[serde(rename = "app.leave")]
    Leave {
        /// The request's number.
        request: u64,
    },
    /// Something to do with secrets that are kept under names.
    #[serde(rename = "secret")]
    Secret {
        /// The request's number.
        request: u64,
        /// What to do.
        #[serde(flatten)]
        errand: SecretErrand,
    },
    /// Build one image, `select` of the definition.
    #[serde(rename = "image.build")]
    Build(AppRequest),
    /// Something to do with images that were built.
    #[serde(rename = "image")]
    Image {
        /// The request's number.
        request: u64,
        /// What to do.
        #[serde(flatten)]
        errand: ImageErrand,
    },
    /// Something to do with dictionaries and queues; in the form of a call.
    #[serde(rename = "collection")]
    Collection {
        /// The client's number, as of a call.
        call: u64,
        /// What to do.
        #[serde(flatten)]
        errand: Map<String, Value>,
    },
    /// Something to do with volumes.
    #[serde(rename = "volume")]
    Volume {
        /// The request's number.
        request: u64,
        /// What to do.
        #[serde(flatten)]
        errand: VolumeErrand,
    },
}

impl Request {
    /// Reads the control part of a frame. Calls, of which there are most, are read without the detour that a request of any
    /// kind takes.
    pub(crate) fn decode(control: &[u8]) -> serde_json::Result<Self> {
        if control.starts_with(br#"{"type":"call","#) {
            return serde_json::from_slice(control).map(Self::Call);
        }
        serde_json::from_slice(control)
    }
}

/// A call.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct CallRequest {
    /// The client's number for it, given back with the result.
    pub(crate) call: u64,
    /// The name of the function or class.
    pub(crate) function: String,
    /// The method of the class.
    #[serde(default)]
    pub(crate) method: Option<String>,
    /// The label of the variant of the service, if it is one.
    #[serde(default)]
    pub(crate) variant: Option<u64>,
    /// The number of the first call of a `.map` that it is a part of.
    #[serde(default)]
    pub(crate) map: Option<u64>,
    /// Which of the inputs of that it is, where they are spawned.
    #[serde(default)]
    pub(crate) index: Option<u64>,
    /// The id of the call that was spawned, for whoever has not made that over this connection.
    #[serde(default)]
    pub(crate) part_of: Option<String>,
    /// Whether the function call's id is wanted.
    #[serde(default)]
    pub(crate) identify: bool,
    /// Whether it goes on when the client has left the app.
    #[serde(default)]
    pub(crate) spawned: bool,
}

/// An app that a client wants to call.
#[derive(Debug, Deserialize)]
pub(crate) struct AttachRequest {
    /// The request's number.
    pub(crate) request: u64,
    /// The app's id or name.
    pub(crate) app: String,
    /// The environment of a deployed app.
    #[serde(default)]
    pub(crate) environment: Option<String>,
    /// The version of a deployed app, at the socket of its process.
    #[serde(default)]
    pub(crate) version: Option<u32>,
}

/// An app that is to be deployed.
#[derive(Debug, Deserialize)]
pub(crate) struct DeployRequest {
    /// The app, as `app.start` has it.
    #[serde(flatten)]
    pub(crate) app: AppRequest,
    /// What the deployer calls the version.
    #[serde(default)]
    pub(crate) tag: String,
    /// Who the deployer is.
    #[serde(default)]
    pub(crate) by: String,
    /// The commit of the source.
    #[serde(default)]
    pub(crate) commit: Option<String>,
    /// Tags of the app.
    #[serde(default)]
    pub(crate) tags: Option<BTreeMap<String, String>>,
    /// `recreate` ends inputs of the former version.
    #[serde(default)]
    pub(crate) strategy: Option<String>,
}

/// Who Python is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Hello {
    /// The version of the protocol that it speaks.
    pub(crate) protocol: u32,
    /// The version of the `modal` package.
    pub(crate) package: String,
    /// The host's `uv` program.
    #[serde(default)]
    pub(crate) uv: Option<PathBuf>,
    /// The interpreter that it runs in, if that is `CPython`.
    #[serde(default)]
    pub(crate) python_program: Option<PathBuf>,
    /// Whether the user wants to see builds.
    #[serde(default)]
    pub(crate) output: bool,
    /// Where the `modal` package is.
    pub(crate) package_directory: String,
    /// Where `cloudpickle` is.
    #[serde(default)]
    pub(crate) cloudpickle_directory: Option<String>,
}

/// An app.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct AppRequest {
    /// The request's number.
    pub(crate) request: u64,
    /// What it is called, and where it runs.
    #[serde(default)]
    pub(crate) app: AppName,
    /// The images of its functions.
    pub(crate) images: Definition,
    /// Its functions.
    #[serde(default)]
    pub(crate) functions: Vec<FunctionRequest>,
    /// How to build.
    #[serde(default)]
    pub(crate) options: OptionsRequest,
    /// The function whose image is wanted, in `app.describe`, or the image itself, in `image.build`.
    #[serde(default)]
    pub(crate) select: Option<String>,
}

/// Name of the environment where none is given.
pub(crate) const DEFAULT_ENVIRONMENT: &str = "main";

/// What an app is called, and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct AppName {
    /// Its name, if it has one.
    pub(crate) name: Option<String>,
    /// Name of the environment, which its functions see.
    pub(crate) environment: String,
}

impl Default for AppName {
    fn default() -> Self {
        Self { name: None, environment: DEFAULT_ENVIRONMENT.to_owned() }
    }
}

/// How to build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct OptionsRequest {
    /// Rebuild every layer.
    #[serde(default)]
    pub(crate) force_build: bool,
    /// Rebuild every layer, but leave the cache as it was.
    #[serde(default)]
    pub(crate) ignore_cache: bool,
}

/// A function.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FunctionRequest {
    /// Its name.
    pub(crate) name: String,
    /// What makes it a class.
    #[serde(default)]
    pub(crate) class: Option<ClassRequest>,
    /// The node of the definition that is its image.
    pub(crate) image: String,
    /// Where the runner finds it.
    pub(crate) module: Module,
    /// Its source.
    #[serde(default)]
    pub(crate) source: FileSet,
    /// Further files.
    #[serde(default)]
    pub(crate) mounts: FileSet,
    /// Volumes of its containers, each in another place.
    #[serde(default)]
    pub(crate) volumes: Vec<VolumeMount>,
    /// Its own environment variables.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Secrets of the app, then of the function; later ones win.
    #[serde(default)]
    pub(crate) secrets: Vec<SecretValues>,
    /// Seconds that an input may take.
    pub(crate) timeout: f64,
    /// Most processors.
    #[serde(default)]
    pub(crate) cpu: Option<Amount>,
    /// Most memory in MiB.
    #[serde(default)]
    pub(crate) memory: Option<Amount>,
    /// GPUs: the first of these that the machine has.
    #[serde(default)]
    pub(crate) gpu: Vec<GpuRequest>,
    /// Whether it yields values instead of returning one.
    #[serde(default)]
    pub(crate) is_generator: bool,
    /// When it runs by itself, once it is deployed.
    #[serde(default)]
    pub(crate) schedule: Option<Schedule>,
    /// How often a failed input runs again.
    #[serde(default)]
    pub(crate) retries: Option<RetriesRequest>,
    /// Least containers, also without any input.
    #[serde(default)]
    pub(crate) min_containers: u32,
    /// Most containers at a time.
    #[serde(default)]
    pub(crate) max_containers: Option<u32>,
    /// Containers more than the inputs need, as long as there are inputs.
    #[serde(default)]
    pub(crate) buffer_containers: u32,
    /// Seconds that a container waits for its next input.
    #[serde(default)]
    pub(crate) scaledown_window: Option<u32>,
    /// Seconds that a container may take to be ready.
    #[serde(default)]
    pub(crate) startup_timeout: Option<u32>,
    /// Whether a container runs one input only.
    #[serde(default)]
    pub(crate) single_use_containers: bool,
    /// Whether containers have no network.
    #[serde(default)]
    pub(crate) block_network: bool,
    /// How many inputs a container runs at a time.
    #[serde(default)]
    pub(crate) concurrency: Option<ConcurrencyRequest>,
    /// How many inputs run together.
    #[serde(default)]
    pub(crate) batching: Option<BatchingRequest>,
}

/// How many inputs a container runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct ConcurrencyRequest {
    /// Most of them.
    pub(crate) max_inputs: std::num::NonZeroU32,
    /// How many it is to run if there can be more containers.
    #[serde(default)]
    pub(crate) target_inputs: Option<std::num::NonZeroU32>,
}

/// How many inputs run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct BatchingRequest {
    /// Most of them.
    pub(crate) max_batch_size: std::num::NonZeroU32,
    /// Milliseconds that the first one waits for others.
    pub(crate) wait_ms: u32,
}

/// `pool`.
#[derive(Debug, Deserialize)]
pub(crate) struct PoolRequest {
    /// The request's number.
    pub(crate) request: u64,
    /// Of which service, and what is to be changed.
    #[serde(flatten)]
    pub(crate) question: PoolQuestion,
}

/// A class, whose instance answers the calls of all its methods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClassRequest {
    /// The methods that can be called.
    pub(crate) methods: Vec<String>,
    /// Those that yield values instead of returning one.
    #[serde(default)]
    pub(crate) generators: Vec<String>,
    /// The parameters of an instance, for those who know the class by name only.
    #[serde(default)]
    pub(crate) parameters: Vec<ParameterRequest>,
}

/// A parameter of a class's instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ParameterRequest {
    /// Its name.
    name: String,
    /// Its type, by name.
    #[serde(rename = "type")]
    kind: String,
    /// Its value where none is given, as a text; without one it has to be given.
    #[serde(default)]
    default: Option<String>,
}

/// How often, and after which pauses in seconds, a failed input runs again.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct RetriesRequest {
    /// Most attempts after the first one.
    pub(crate) max_retries: u32,
    /// By what each pause is longer than the one before it.
    pub(crate) backoff_coefficient: f64,
    /// The first pause.
    pub(crate) initial_delay: f64,
    /// The longest pause.
    pub(crate) max_delay: f64,
}

/// An amount of processors or memory: as a request, which is the limit here too, or as a request and a limit.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    /// The request alone.
    Request(f64),
    /// A request and a limit.
    Range(f64, f64),
}

impl Amount {
    /// The limit.
    pub(crate) fn limit(self) -> f64 {
        match self {
            Self::Request(limit) | Self::Range(_, limit) => limit,
        }
    }
}

/// What the engine tells Python.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub(crate) enum Answer<'a> {
    /// To `hello`.
    #[serde(rename = "welcome")]
    Welcome {
        /// The version of the protocol that is spoken.
        protocol: u32,
        /// The engine's version.
        engine: &'a str,
    },
    /// To `app.start`.
    #[serde(rename = "app.started")]
    Started {
        /// The request's number.
        request: u64,
        /// The app's id.
        app_id: &'a str,
        /// Image ids by node.
        images: &'a BTreeMap<String, String>,
        /// Function ids by name.
        functions: &'a BTreeMap<String, String>,
    },
    /// To `app.describe`.
    #[serde(rename = "app.described")]
    Described {
        /// The request's number.
        request: u64,
        /// The chosen function.
        function: &'a str,
        /// Its image's id.
        image_id: &'a str,
    },
    /// To `app.stop`.
    #[serde(rename = "app.stopped")]
    Stopped {
        /// The request's number.
        request: u64,
    },
    /// To anything that failed, except calls.
    #[serde(rename = "error")]
    Error {
        /// The request's number; none when the conversation as a whole failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        request: Option<u64>,
        /// What failed.
        #[serde(flatten)]
        failure: &'a Failure,
    },
    /// To `app.attach`; if the app runs elsewhere, with a connection to it.
    #[serde(rename = "app.attached")]
    Attached {
        /// The request's number.
        request: u64,
        /// The app's id.
        app_id: &'a str,
        /// Its functions by name.
        functions: BTreeMap<&'a str, AttachedFunction>,
        /// Whether another process is its host.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        elsewhere: bool,
    },
    /// To an errand that was done.
    #[serde(rename = "done")]
    Done {
        /// The request's number.
        request: u64,
        /// What was asked for.
        value: serde_json::Value,
    },
    /// To `app.leave`.
    #[serde(rename = "app.left")]
    Left {
        /// The request's number.
        request: u64,
    },
    /// The app has ended without this connection having asked for it.
    #[serde(rename = "app.ended")]
    Ended {
        /// The app's id.
        app_id: &'a str,
    },
}

/// A function of an app, for who attaches to it.
#[derive(Debug, Serialize)]
pub(crate) struct AttachedFunction {
    /// Its id, `fu-…`.
    pub(crate) id: String,
    /// Whether it yields values instead of returning one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) generator: bool,
    /// What makes it a class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<ClassRequest>,
}

/// An error as Python will raise it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The class: of `modal.exception`, or a built-in one.
    pub(crate) error: ErrorClass,
    /// A sentence.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The image that could not be built.
    pub(crate) image_id: Option<String>,
    /// The full log of the step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<String>,
    /// Whether events have told the user all of this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shown: bool,
}

impl Answer<'_> {
    /// The control part of the message's frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests;
