//! The messages between Python and the engine. `docs/protocol.md` describes them; the tests here pin them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lamina_functions::Module;
use lamina_image::{Definition, FileSet, SecretValues};
use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub const PROTOCOL: u32 = 1;

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
    Call {
        /// The call's number, given back with the result.
        call: u64,
        /// The function's name.
        function: String,
    },
    /// Give up a call.
    #[serde(rename = "cancel")]
    Cancel {
        /// The call's number.
        call: u64,
    },
    /// Stop the app.
    #[serde(rename = "app.stop")]
    Stop {
        /// The request's number.
        request: u64,
    },
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
    /// Whether the user wants to see builds.
    #[serde(default)]
    pub(crate) output: bool,
    /// Where the `modal` package is.
    pub(crate) package_directory: String,
}

/// An app.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct AppRequest {
    /// The request's number.
    pub(crate) request: u64,
    /// The images of its functions.
    pub(crate) images: Definition,
    /// Its functions.
    pub(crate) functions: Vec<FunctionRequest>,
    /// How to build.
    #[serde(default)]
    pub(crate) options: OptionsRequest,
    /// The function whose image is wanted; only in `app.describe`.
    #[serde(default)]
    pub(crate) select: Option<String>,
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
        functions: BTreeMap<&'a str, &'a str>,
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
    /// To `call`; the payload holds the value or the exception.
    #[serde(rename = "result")]
    Result {
        /// The call's number.
        call: u64,
        /// How it ended.
        #[serde(flatten)]
        status: ResultStatus<'a>,
    },
}

/// How a call ended.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub(crate) enum ResultStatus<'a> {
    /// With a value.
    Ok,
    /// With an exception of the function.
    Exception,
    /// Without either.
    Error {
        /// The exception's class, by name.
        error: &'a str,
        /// A sentence.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// An error as Python will raise it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The class: of `modal.exception`, or a built-in one.
    pub(crate) error: &'static str,
    /// A sentence.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The image that could not be built.
    pub(crate) image_id: Option<String>,
}

impl Answer<'_> {
    /// The control part of the message's frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
