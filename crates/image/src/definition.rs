//! Image definitions as the Python package sends them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{FileSet, redact};

/// Name of a node within one definition, chosen by the sender.
pub type NodeId = String;

/// A definition does not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Two nodes have the same id.
    #[error("the definition names node `{0}` twice")]
    Duplicate(NodeId),
    /// A node's parent is missing or comes after it.
    #[error("node `{node}` names the parent `{parent}`, which does not stand before it")]
    UnknownParent {
        /// The node.
        node: NodeId,
        /// The missing parent.
        parent: NodeId,
    },
    /// A node without a parent is not a base, or a base has a parent.
    #[error("step `{0}` stands in the wrong place: a base starts a chain, every other step follows one")]
    Misplaced(String),
    /// A build step follows `add_local_*` without `copy=True`.
    #[error(
        "`{step}` follows `{attached}`, whose files are attached only when a container starts; \
         pass `copy=True` to `{attached}`, or move it to the end of the chain"
    )]
    StepAfterAttachment {
        /// The step that cannot see the files.
        step: String,
        /// The call that attached them.
        attached: String,
    },
}

/// Images of one app: a forest of steps, parents first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Definition {
    /// The nodes, parents before children.
    pub nodes: Vec<Node>,
}

/// One step in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's name.
    pub id: NodeId,
    /// The step it follows; `None` for a base.
    #[serde(default)]
    pub parent: Option<NodeId>,
    /// What is done.
    pub step: Step,
    /// Rebuild this step even if its layer is in the store.
    #[serde(default)]
    pub force_build: bool,
    /// The method call as the user wrote it, for people; without credentials.
    #[serde(deserialize_with = "redacted")]
    pub title: String,
    /// Variables in the step's environment while it runs: settings, which enter its key; they win over its secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Secrets present in the step's environment while it runs; later ones win.
    #[serde(default)]
    pub secrets: Vec<SecretValues>,
}

/// A secret with its values. Only names enter keys; values never leave the process that needs them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretValues {
    /// The secret's name, or a description for an anonymous one.
    #[serde(default)]
    pub name: String,
    /// Environment variables.
    pub values: BTreeMap<String, String>,
    /// Names of those whose values may be shown and stay in layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

/// Reads a text and takes credentials off.
fn redacted<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| redact(&text).into_owned())
}

impl std::fmt::Debug for SecretValues {
    /// Names only: values must not reach a log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.values.keys().collect();
        formatter
            .debug_struct("SecretValues")
            .field("name", &self.name)
            .field("variables", &names)
            .field("allowed", &self.allowed)
            .finish()
    }
}

/// Options of the package index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexOptions {
    /// `--find-links`.
    #[serde(default)]
    pub find_links: Option<String>,
    /// `--index-url`.
    #[serde(default)]
    pub index_url: Option<String>,
    /// `--extra-index-url`.
    #[serde(default)]
    pub extra_index_url: Option<String>,
    /// Whether pre-releases are allowed.
    #[serde(default)]
    pub pre: bool,
    /// Further options, handed to the installer as they are.
    #[serde(default)]
    pub extra_options: String,
}

/// What one method call of the chain does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Step {
    /// Debian with Python.
    DebianSlim {
        /// The wanted version; `None` is the caller's own series.
        python_version: Option<String>,
        /// The caller's own series, for example `3.11`.
        local_python: String,
    },
    /// Debian packages.
    AptInstall {
        /// Package names, in the user's order.
        packages: Vec<String>,
    },
    /// Python packages with pip's semantics.
    PipInstall {
        /// Requirements, sorted.
        packages: Vec<String>,
        /// Index options.
        #[serde(flatten)]
        index: IndexOptions,
    },
    /// Python packages with uv's semantics.
    UvPipInstall {
        /// Requirements, sorted.
        packages: Vec<String>,
        /// Absolute local paths of requirements files.
        #[serde(default)]
        requirements: Vec<String>,
        /// Index options.
        #[serde(flatten)]
        index: IndexOptions,
        /// The wanted uv version; `None` is the one that came with Lamina.
        #[serde(default)]
        uv_version: Option<String>,
    },
    /// Shell commands, one after the other.
    RunCommands {
        /// The commands.
        commands: Vec<String>,
    },
    /// Environment variables of the image.
    Env {
        /// The variables.
        variables: BTreeMap<String, String>,
    },
    /// Working directory of later steps and of containers.
    Workdir {
        /// The path.
        path: String,
    },
    /// Local files as a layer (`copy=True`).
    CopyFiles {
        /// The files.
        files: FileSet,
    },
    /// Local files attached to each container at its start.
    AttachFiles {
        /// The files.
        files: FileSet,
    },
}

impl Step {
    /// Whether this step starts a chain.
    #[must_use]
    pub fn is_base(&self) -> bool {
        matches!(self, Self::DebianSlim { .. })
    }

    /// Whether this step only changes how things are run and makes no layer.
    #[must_use]
    pub fn is_metadata(&self) -> bool {
        matches!(self, Self::Env { .. } | Self::Workdir { .. } | Self::AttachFiles { .. })
    }
}

impl Node {
    /// Whether two nodes do the same, whatever follows.
    fn does_the_same(&self, other: &Self) -> bool {
        (&self.step, self.force_build, &self.environment, &self.secrets)
            == (&other.step, other.force_build, &other.environment, &other.secrets)
    }

    /// Names and values of the variables that the step's process sees beside the image's; later ones win.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let secrets = self.secrets.iter().flat_map(|secret| &secret.values);
        secrets.chain(&self.environment).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Definition {
    /// For every node, the first one whose chain does the same: equal chains are one image, however often they were
    /// written down.
    #[must_use]
    pub fn first_equals(&self) -> HashMap<&str, &str> {
        let mut firsts: HashMap<&str, &str> = HashMap::new();
        let mut distinct: Vec<(Option<&str>, &Node)> = Vec::new();
        for node in &self.nodes {
            let parent = node.parent.as_deref().map(|parent| firsts.get(parent).copied().unwrap_or(parent));
            let known = distinct.iter().find(|(above, other)| *above == parent && node.does_the_same(other));
            let first = known.map_or(node.id.as_str(), |(_, known)| known.id.as_str());
            if first == node.id {
                distinct.push((parent, node));
            }
            firsts.insert(&node.id, first);
        }
        firsts
    }

    /// Checks that parents stand before children, bases start chains and nothing is built on attached files.
    ///
    /// # Errors
    /// What does not hold, naming the step as the user wrote it.
    pub fn validate(&self) -> Result<(), DefinitionError> {
        let mut known: HashSet<&str> = HashSet::new();
        let mut attached: BTreeMap<&str, &str> = BTreeMap::new();
        for node in &self.nodes {
            if node.step.is_base() != node.parent.is_none() {
                return Err(DefinitionError::Misplaced(node.title.clone()));
            }
            if let Some(parent) = &node.parent
                && !known.contains(parent.as_str())
            {
                return Err(DefinitionError::UnknownParent { node: node.id.clone(), parent: parent.clone() });
            }
            let inherited = node.parent.as_deref().and_then(|parent| attached.get(parent).copied());
            match (&node.step, inherited) {
                (Step::AttachFiles { .. }, _) => {
                    attached.insert(&node.id, &node.title);
                }
                (_, Some(title)) => {
                    return Err(DefinitionError::StepAfterAttachment {
                        step: node.title.clone(),
                        attached: title.to_owned(),
                    });
                }
                _ => {}
            }
            if !known.insert(&node.id) {
                return Err(DefinitionError::Duplicate(node.id.clone()));
            }
        }
        Ok(())
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The chain that ends at `id`, base first; empty when there is no such node.
    #[must_use]
    pub fn chain(&self, id: &str) -> Vec<&Node> {
        let mut chain = Vec::new();
        let mut next = self.node(id);
        while let Some(node) = next {
            chain.push(node);
            next = node.parent.as_deref().and_then(|parent| self.node(parent));
        }
        chain.reverse();
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, parent: Option<&str>, step: Step) -> Node {
        Node {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            step,
            force_build: false,
            title: format!("step {id}"),
            environment: BTreeMap::new(),
            secrets: Vec::new(),
        }
    }

    fn base() -> Step {
        Step::DebianSlim { python_version: None, local_python: "3.11".to_owned() }
    }

    fn attach() -> Step {
        Step::AttachFiles { files: FileSet::default() }
    }

    fn run() -> Step {
        Step::RunCommands { commands: vec!["true".to_owned()] }
    }

    #[test]
    fn the_wire_form_is_read() {
        let text = r#"[{"id":"0","step":{"kind":"debian_slim","python_version":"3.11","local_python":"3.12"},"title":"debian_slim()"},
            {"id":"1","parent":"0","step":{"kind":"uv_pip_install","packages":["pandas"],"pre":true,"uv_version":null},"force_build":true,
             "title":"uv_pip_install(\"https://me:hunter3@x\")","environment":{"A":"1","TOKEN":"public"},
             "secrets":[{"name":"s","values":{"TOKEN":"hunter2"},"allowed":["A"]}]}]"#;
        let definition: Definition = serde_json::from_str(text).unwrap();
        definition.validate().unwrap();
        assert_eq!(definition.chain("1").len(), 2);
        let Step::UvPipInstall { index, .. } = &definition.nodes[1].step else { panic!() };
        assert!(index.pre);
        assert!(!format!("{definition:?}").contains("hunter"));
        let variables: BTreeMap<_, _> = definition.nodes[1].variables().collect();
        assert_eq!(variables["TOKEN"], "public");
        assert_eq!(definition.nodes[1].title, "uv_pip_install(\"https://***@x\")");
    }

    #[test]
    fn broken_definitions_are_refused() {
        let definition = |nodes| Definition { nodes };
        assert_eq!(
            definition(vec![node("1", Some("0"), run())]).validate(),
            Err(DefinitionError::UnknownParent { node: "1".into(), parent: "0".into() })
        );
        assert_eq!(
            definition(vec![node("0", None, run())]).validate(),
            Err(DefinitionError::Misplaced("step 0".into()))
        );
        assert_eq!(
            definition(vec![node("0", None, base()), node("0", None, base())]).validate(),
            Err(DefinitionError::Duplicate("0".into()))
        );
    }

    #[test]
    fn chains_that_do_the_same_are_known_by_their_first_node() {
        let forced = Node { force_build: true, ..node("5", Some("1"), run()) };
        let set = |id: &str, value: &str| Node {
            environment: [("V".to_owned(), value.to_owned())].into(),
            ..node(id, Some("0"), run())
        };
        let nodes = vec![
            node("0", None, base()),
            node("1", None, base()),
            node("2", Some("0"), run()),
            node("3", Some("1"), run()),
            node("4", Some("3"), run()),
            forced,
            set("6", "one"),
            set("7", "two"),
        ];
        let definition = Definition { nodes };
        let firsts = definition.first_equals();
        let ids = ["0", "1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(ids.map(|id| firsts[id]), ["0", "0", "2", "2", "4", "5", "6", "7"]);
    }

    #[test]
    fn nothing_is_built_on_attached_files_but_they_may_be_chained() {
        let mut nodes = vec![node("0", None, base()), node("1", Some("0"), attach()), node("2", Some("1"), attach())];
        assert_eq!(Definition { nodes: nodes.clone() }.validate(), Ok(()));
        nodes.push(node("3", Some("2"), run()));
        let error = Definition { nodes }.validate().unwrap_err();
        assert!(error.to_string().contains("`step 3` follows `step 2`") && error.to_string().contains("copy=True"));
    }
}
