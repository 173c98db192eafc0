//! What Python asks for beside apps: secrets that are kept under names, images, and volumes.

use std::collections::BTreeMap;

use lamina_image::VolumeReference;
use lamina_store::Origin;
use lamina_volumes::{Staged, Upload};
use serde::Deserialize;

/// What to do with deployed apps.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum DeploymentErrand {
    /// Tell about one.
    Find {
        /// Its environment.
        environment: String,
        /// Its name or id.
        app: String,
    },
    /// Tell what a function of one was declared with.
    Function {
        /// Its environment.
        environment: String,
        /// Its name.
        app: String,
        /// The number of a version; the current one without.
        version: Option<u32>,
        /// The function's or class's name.
        function: String,
    },
    /// Stop one for good.
    Stop {
        /// Its environment.
        environment: String,
        /// Its name.
        app: String,
    },
    /// Replace all of its tags.
    SetTags {
        /// Its environment.
        environment: String,
        /// Its name.
        app: String,
        /// The tags.
        tags: BTreeMap<String, String>,
    },
}

/// What to do with secrets that are kept under names.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum SecretErrand {
    /// Make one.
    Create {
        /// Its environment.
        environment: String,
        /// Its name.
        name: String,
        /// Its variables.
        values: BTreeMap<String, String>,
        /// Whether one that is there is fine, and stays as it is.
        #[serde(default)]
        allow_existing: bool,
    },
    /// Add variables to one.
    Update {
        /// Its environment.
        environment: String,
        /// Its name.
        name: String,
        /// The variables.
        values: BTreeMap<String, String>,
    },
    /// Remove one.
    Delete {
        /// Its environment.
        environment: String,
        /// Its name.
        name: String,
    },
    /// Tell about one, without its values.
    Find {
        /// Its environment.
        environment: String,
        /// Its name.
        name: String,
        /// Variables that it has to have.
        #[serde(default)]
        required_keys: Vec<String>,
    },
    /// Tell which there are, without their values.
    List {
        /// The environment.
        environment: String,
    },
}

impl std::fmt::Debug for SecretErrand {
    /// Leaves the values out.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SecretErrand")
    }
}

/// What to do with images that were built.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum ImageErrand {
    /// Give one a name.
    Publish {
        /// The image.
        image: String,
        /// Its environment.
        environment: String,
        /// Its name.
        name: String,
        /// Its tag.
        tag: String,
        /// What gives it.
        #[serde(default)]
        origin: Origin,
    },
    /// Tell what its steps have printed, base first.
    Logs {
        /// The image.
        image: String,
    },
}

/// What to do with volumes.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum VolumeErrand {
    /// Make one; without a name, it ends with this process.
    Create {
        /// Its name.
        #[serde(default)]
        name: Option<String>,
        /// Its environment.
        #[serde(default)]
        environment: Option<String>,
    },
    /// Tell which one is meant, and make it if need be.
    Find {
        /// The volume.
        volume: VolumeReference,
    },
    /// Tell which there are.
    List {
        /// The environment.
        environment: String,
    },
    /// Give one another name.
    Rename {
        /// The volume.
        volume: VolumeReference,
        /// Its new name.
        name: String,
    },
    /// Remove one with all that it holds.
    Delete {
        /// The volume.
        volume: VolumeReference,
    },
    /// Tell what is at a path.
    Files {
        /// The volume.
        volume: VolumeReference,
        /// A directory, or a file.
        path: String,
        /// Whether directories below it are listed, too.
        recursive: bool,
    },
    /// Write a file's contents to the descriptor that comes along.
    Read {
        /// The volume.
        volume: VolumeReference,
        /// The file.
        path: String,
    },
    /// Remove a file, or a directory with all that it holds.
    Remove {
        /// The volume.
        volume: VolumeReference,
        /// The file or directory.
        path: String,
        /// Whether it may be a directory.
        recursive: bool,
    },
    /// Copy within the volume.
    Copy {
        /// The volume.
        volume: VolumeReference,
        /// What is copied.
        sources: Vec<String>,
        /// Where to.
        destination: String,
        /// Whether directories may be copied.
        recursive: bool,
    },
    /// Take in what the descriptor that comes along gives.
    Stage {},
    /// Put what was taken in in its places.
    Publish {
        /// The volume.
        volume: VolumeReference,
        /// What goes where.
        uploads: Vec<Upload>,
        /// Whether files that are there are replaced.
        force: bool,
    },
    /// Forget what was taken in.
    Forget {
        /// What.
        staged: Vec<Staged>,
    },
}
