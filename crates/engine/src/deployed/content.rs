//! What a version of a deployed app consists of, as it is stored: nothing of the user's directory is needed beside it.

use std::collections::BTreeMap;

use lamina_builder::BuiltImage;
use lamina_ground::{ErrorClass, Stack};
use lamina_image::{Definition, Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::{AppName, AppRequest, Failure, OptionsRequest, PROTOCOL};

/// What a function's containers stand on: what was built, and the files that were taken along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ground {
    /// Id of the image.
    pub(crate) image_id: String,
    /// The image's layers, and over them the package, attached files and the source; bottom first.
    layers: Vec<Digest>,
    /// Environment variables of the image.
    pub(crate) environment: BTreeMap<String, String>,
    /// Working directory of the image.
    pub(crate) working_directory: Option<String>,
    /// The program and arguments that the runner is given to.
    pub(crate) entrypoint: Vec<String>,
    /// The interpreter that the image's base brought.
    pub(crate) python: Option<String>,
}

impl Ground {
    /// An image with these layers over it.
    pub(crate) fn new(image: &BuiltImage, layers: &Stack<Digest>) -> Self {
        Self {
            image_id: image.id.clone(),
            layers: layers.bottom_up().to_vec(),
            environment: image.config.environment.clone(),
            working_directory: image.config.working_directory.clone(),
            entrypoint: image.config.entrypoint.clone(),
            python: image.python.clone(),
        }
    }

    /// Its layers.
    pub(crate) fn layers(&self) -> Stack<Digest> {
        Stack::from_bottom_up(self.layers.clone())
    }
}

/// What a version consists of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Content {
    /// Version of the protocol that the runner in its containers speaks.
    protocol: u32,
    /// The version of the `modal` package in its containers.
    package: String,
    /// The app, as `app.start` has it.
    app: Value,
    /// Its functions, as `app.start` has them.
    functions: Vec<Value>,
    /// What the containers of each stand on, by name.
    containers: BTreeMap<String, Ground>,
}

/// The parts of a request that are stored as they came.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    app: Value,
    functions: Vec<Value>,
}

impl Content {
    /// What a request asks for, once it was built.
    ///
    /// # Errors
    /// When the request is none.
    pub(crate) fn new(request: &[u8], package: &str, containers: BTreeMap<String, Ground>) -> serde_json::Result<Self> {
        let Parts { app, mut functions } = serde_json::from_slice(request)?;
        for function in &mut functions {
            // Where the files came from does not matter any more.
            for files in ["source", "mounts"] {
                function.as_object_mut().map(|function| function.remove(files));
            }
        }
        Ok(Self { protocol: PROTOCOL, package: package.to_owned(), app, functions, containers })
    }

    /// Reads what was stored.
    ///
    /// # Errors
    /// When another version of this program has stored it, with which this one cannot speak.
    pub(crate) fn read(stored: Value) -> Result<Self, Failure> {
        let protocol = stored["protocol"].as_u64();
        if protocol != Some(u64::from(PROTOCOL)) {
            let message = format!(
                "the app was deployed with `modal` {}, and this program is {}: its containers would not understand it",
                stored["package"].as_str().unwrap_or("of another version"),
                env!("CARGO_PKG_VERSION"),
            );
            let hint = Some("deploy it again, with the present version".to_owned());
            return Err(Failure { hint, ..Failure::new(ErrorClass::VersionError, message) });
        }
        serde_json::from_value(stored).map_err(|error| unreadable(&error))
    }

    /// The request for its functions, without images, and what the containers of each stand on.
    ///
    /// # Errors
    /// When it is not understood.
    pub(crate) fn into_parts(self) -> Result<(AppRequest, BTreeMap<String, Ground>), Failure> {
        let app: AppName = if self.app.is_null() {
            AppName::default()
        } else {
            serde_json::from_value(self.app).map_err(|error| unreadable(&error))?
        };
        let functions = serde_json::from_value(self.functions.into()).map_err(|error| unreadable(&error))?;
        let request = AppRequest {
            request: 0,
            app,
            images: Definition::default(),
            functions,
            options: OptionsRequest::default(),
            select: None,
        };
        Ok((request, self.containers))
    }
}

fn unreadable(error: &serde_json::Error) -> Failure {
    let hint = Some("deploy the app again".to_owned());
    Failure {
        hint,
        ..Failure::new(ErrorClass::ExecutionError, format!("what was deployed is not understood: {error}"))
    }
}
