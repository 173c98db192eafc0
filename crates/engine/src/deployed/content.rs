//! What a version of a deployed app consists of, as it is stored: nothing of the user's directory is needed beside it.

use std::collections::BTreeMap;

use lamina_builder::BuiltImage;
use lamina_ground::{ErrorClass, Stack};
use lamina_image::{Definition, Digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// What a function of it was declared with, and its image; no values of secrets.
    pub(crate) fn described(&self, name: &str) -> Option<Value> {
        let mut function = self.functions.iter().find(|function| function["name"] == name)?.clone();
        let fields = function.as_object_mut()?;
        fields.remove("environment");
        let secrets = fields.remove("secrets");
        let secrets = secrets.iter().filter_map(Value::as_array).flatten();
        let names: Vec<Value> = secrets.filter_map(|secret| Some(secret["kept"]["name"].as_str()?.into())).collect();
        fields.insert("secrets".to_owned(), names.into());
        let image = self.containers.get(name).map(|ground| &ground.image_id);
        Some(json!({ "function": function, "image_id": image }))
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

/// Whether two versions come to the same: they are equal but for the times of files, which another layer has.
/// `content_of` says what a layer holds.
pub(super) fn is_same(one: &Value, other: &Value, content_of: impl Fn(&Digest) -> Option<Digest>) -> bool {
    if one == other {
        return true;
    }
    let read = |stored: &Value| serde_json::from_value::<Content>(stored.clone()).ok();
    let (Some(mut one), Some(other)) = (read(one), read(other)) else { return false };
    let is_same_layer = |(one, other): (&Digest, &Digest)| {
        one == other || content_of(one).is_some_and(|content| Some(content) == content_of(other))
    };
    for (name, ground) in &mut one.containers {
        let Some(other) = other.containers.get(name) else { return false };
        if ground.layers.len() != other.layers.len() || !ground.layers.iter().zip(&other.layers).all(is_same_layer) {
            return false;
        }
        ground.layers.clone_from(&other.layers);
    }
    one == other
}

fn unreadable(error: &serde_json::Error) -> Failure {
    let hint = Some("deploy the app again".to_owned());
    Failure {
        hint,
        ..Failure::new(ErrorClass::ExecutionError, format!("what was deployed is not understood: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_function_was_declared_with_is_told_without_values() {
        let request = r#"{"functions":[{
            "name":"f","timeout":5,"environment":{"A":"hidden"},
            "secrets":[{"name":"from_name(a)","kept":{"name":"a"}},{"name":"from_dict","values":{"B":"hidden"}}]
        }]}"#;
        let content = Content::new(request.as_bytes(), "1.0", BTreeMap::new()).unwrap();
        let expected = json!({ "function": { "name": "f", "timeout": 5, "secrets": ["a"] }, "image_id": null });
        assert_eq!(content.described("f"), Some(expected));
        assert_eq!(content.described("g"), None);
    }

    #[test]
    fn versions_are_the_same_but_for_the_times_of_files() {
        let digest = |number: u8| Digest::from_bytes([number; 32]);
        let content = |layers: &[u8], timeout: u32| {
            let ground = Ground {
                image_id: "im-1".to_owned(),
                layers: layers.iter().map(|number| digest(*number)).collect(),
                environment: BTreeMap::new(),
                working_directory: None,
                entrypoint: Vec::new(),
                python: None,
            };
            let request = format!(r#"{{"functions":[{{"name":"f","timeout":{timeout}}}]}}"#);
            let content = Content::new(request.as_bytes(), "1.0", [("f".to_owned(), ground)].into()).unwrap();
            serde_json::to_value(content).unwrap()
        };
        // The layers 2 and 12 have the same files, of other times; the layer 9 is not there any more.
        let content_of = |layer: &Digest| match layer.as_bytes()[0] {
            9 => None,
            number => Some(digest(number % 10)),
        };
        let present = content(&[1, 2], 1);
        let is_same = |other: &Value| is_same(&present, other, content_of);
        assert!(is_same(&present) && is_same(&content(&[1, 12], 1)));
        for other in [content(&[1, 3], 1), content(&[1], 1), content(&[1, 9], 1), content(&[1, 12], 2), Value::Null] {
            assert!(!is_same(&other), "{other}");
        }
    }
}
