//! Image definitions as the Python package sends them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use serde::{Deserialize, Serialize};

use crate::{Action, DockerfilePlace, DockerfileStep, GpuRequest, Place, Step, redact};

/// Name of a node within one definition, chosen by the sender.
pub type NodeId = String;

/// A definition does not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Two nodes have the same id.
    #[error("the definition names node `{0}` twice")]
    Duplicate(NodeId),
    /// A node's input is missing or comes after it.
    #[error("node `{node}` names the input `{input}`, which does not stand before it")]
    UnknownInput {
        /// The node.
        node: NodeId,
        /// The missing input.
        input: NodeId,
    },
    /// A step that is no base has no input, or a base has one.
    #[error("step `{0}` stands in the wrong place: a base starts a chain, every other step follows one")]
    Misplaced(String),
    /// A step has more inputs than it takes.
    #[error("step `{step}` builds on one image; {given} were given")]
    TooManyInputs {
        /// The step.
        step: String,
        /// How many inputs it has.
        given: usize,
    },
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

/// Images of one app: a graph of steps, each after those that it builds on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Definition {
    /// The nodes, inputs before what builds on them.
    pub nodes: Vec<Node>,
}

/// One step in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's name.
    pub id: NodeId,
    /// What the step uses: first the image that it builds on. None for a base.
    #[serde(default)]
    pub inputs: Vec<NodeId>,
    /// The step.
    pub step: Step,
    /// Rebuild this step even if its layer is in the store.
    #[serde(default)]
    pub force_build: bool,
    /// The method call as the user wrote it, for people; without credentials.
    #[serde(deserialize_with = "redacted")]
    pub title: String,
    /// The instruction of a Dockerfile that names the image, of a base that one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<DockerfilePlace>,
    /// Variables in the step's environment while it runs: settings, which enter its key; they win over its secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Secrets present in the step's environment while it runs; later ones win.
    #[serde(default)]
    pub secrets: Vec<SecretValues>,
    /// GPUs that the step is run with: the first of these that the machine has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu: Vec<GpuRequest>,
}

/// A secret with its values. Only names enter keys; values never leave the process that needs them.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecretValues {
    /// The secret's name, or a description for an anonymous one.
    #[serde(default)]
    pub name: String,
    /// Environment variables.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Where the values are, if they are not here yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptSecret>,
    /// Names of those whose values may be shown and stay in layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// Whether it is the login for the registry of a Dockerfile's images, and not in the environment of its commands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_login: bool,
}

/// A secret that this machine keeps under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeptSecret {
    /// The name.
    pub name: String,
    /// The environment that it belongs to.
    pub environment: String,
    /// Variables that it has to have.
    #[serde(default)]
    pub required_keys: Vec<String>,
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
            .field("kept", &self.kept)
            .field("is_login", &self.is_login)
            .finish()
    }
}

impl Node {
    /// Everything that decides what a node does, beside its inputs.
    fn identity(&self) -> impl PartialEq + Hash + '_ {
        (&self.step, self.force_build, &self.environment, &self.secrets, &self.gpu)
    }

    /// What is said of the step's layers where the image goes: the words of an instruction without the place that they have
    /// in their file, as Docker has it, because the same words elsewhere make the same image.
    #[must_use]
    pub fn words(&self) -> Cow<'_, str> {
        match &self.step {
            Step::Instruction(DockerfileStep { action, place, .. })
                if !matches!(action, Action::Stage | Action::Inherit) =>
            {
                redact(&place.text)
            }
            _ => self.place.as_ref().map_or(Cow::Borrowed(&self.title), |place| redact(&place.text)),
        }
    }

    /// Names and values of the variables that the step's process sees beside the image's; later ones win.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let secrets = self.secrets.iter().flat_map(|secret| &secret.values);
        secrets.chain(&self.environment).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Definition {
    /// The definition with the plain nodes that each declared one stands for, as `expand` gives them: the last of them has
    /// the declared one's id, and the others come before it.
    ///
    /// # Errors
    /// What `expand` returns.
    pub fn lowered<E>(&self, mut expand: impl FnMut(&Node) -> Result<Vec<Node>, E>) -> Result<Self, E> {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            nodes.append(&mut expand(node)?);
        }
        Ok(Self { nodes })
    }
}

/// The distinct steps of a definition, in canonical form: steps that do the same to the same inputs are one, however often
/// they were written down. Steps are known by their place in the list, and inputs stand before what builds on them.
#[derive(Debug)]
pub struct Graph {
    steps: Vec<(Node, Vec<usize>)>,
    places: HashMap<NodeId, usize>,
}

impl Graph {
    /// Checks that a definition holds together, and finds its distinct steps.
    ///
    /// # Errors
    /// What does not hold, naming the step as the user wrote it.
    pub fn new(definition: Definition) -> Result<Self, DefinitionError> {
        let mut graph = Self { steps: Vec::new(), places: HashMap::new() };
        let mut alike: HashMap<u64, Vec<usize>> = HashMap::new();
        for mut node in definition.nodes {
            node.step = node.step.canonical();
            let inputs = graph.inputs_of(&node)?;
            if graph.places.contains_key(&node.id) {
                return Err(DefinitionError::Duplicate(node.id));
            }
            let mut hasher = DefaultHasher::new();
            (&inputs, node.identity()).hash(&mut hasher);
            let candidates = alike.entry(hasher.finish()).or_default();
            let is_same = |place: &&usize| {
                let (other, other_inputs) = &graph.steps[**place];
                *other_inputs == inputs && other.identity() == node.identity()
            };
            let place = if let Some(place) = candidates.iter().find(is_same) {
                *place
            } else {
                candidates.push(graph.steps.len());
                graph.steps.len()
            };
            graph.places.insert(node.id.clone(), place);
            if place == graph.steps.len() {
                graph.steps.push((node, inputs));
            }
        }
        Ok(graph)
    }

    /// The places of a node's inputs, if it may stand on them.
    fn inputs_of(&self, node: &Node) -> Result<Vec<usize>, DefinitionError> {
        let is_base = node.step.place() == Place::Base;
        if is_base != node.inputs.is_empty() {
            return Err(DefinitionError::Misplaced(node.title.clone()));
        }
        if node.inputs.len() > 1 && !node.step.takes_others() {
            return Err(DefinitionError::TooManyInputs { step: node.title.clone(), given: node.inputs.len() });
        }
        let place = |input: &NodeId| {
            let unknown = || DefinitionError::UnknownInput { node: node.id.clone(), input: input.clone() };
            let place = self.places.get(input).copied().ok_or_else(unknown)?;
            let below = &self.steps[place].0;
            if below.step.place() == Place::End && node.step.place() != Place::End {
                let (step, attached) = (node.title.clone(), below.title.clone());
                return Err(DefinitionError::StepAfterAttachment { step, attached });
            }
            Ok(place)
        };
        node.inputs.iter().map(place).collect()
    }

    /// How many distinct steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are no steps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The place of the step that a node of the definition stands for.
    #[must_use]
    pub fn place(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// The first node of those that are the step at `place`, and the places of its inputs.
    ///
    /// # Panics
    /// When `place` is not one of this graph.
    #[must_use]
    pub fn step(&self, place: usize) -> (&Node, &[usize]) {
        let (node, inputs) = &self.steps[place];
        (node, inputs)
    }

    /// The step at `place` and all that it builds on, inputs first.
    #[must_use]
    pub fn with_inputs(&self, place: usize) -> Vec<usize> {
        let mut needed = vec![false; place + 1];
        needed[place] = true;
        for below in (0..=place).rev().filter(|below| *below < self.steps.len()) {
            if needed[below] {
                self.steps[below].1.iter().for_each(|input| needed[*input] = true);
            }
        }
        (0..=place).filter(|below| needed[*below]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_the_same_words_wherever_they_stand() {
        let words = |step: serde_json::Value, title: &str| {
            let node = serde_json::json!({ "id": "0", "step": step, "title": title });
            serde_json::from_value::<Node>(node).unwrap().words().into_owned()
        };
        let instruction = |file: &str, line: u32| {
            let place = serde_json::json!({ "file": file, "line": line, "text": "COPY https://me:word@host/x /" });
            let action = serde_json::json!({ "workdir": "/" });
            let step = serde_json::json!({ "kind": "instruction", "place": place, "escape": "\\", "action": action });
            words(step, &format!("{file}:{line} COPY"))
        };
        assert_eq!(instruction("Dockerfile", 1), instruction("other/Dockerfile", 20));
        assert!(!instruction("Dockerfile", 1).contains("word"), "{}", instruction("Dockerfile", 1));
        let step = serde_json::json!({ "kind": "run_commands", "commands": ["true"] });
        assert_eq!(words(step, "run_commands(\"true\")"), "run_commands(\"true\")");
    }
    use crate::{AttachFiles, DebianSlim, FileSet, RunCommands, UvPipInstall};

    fn node(id: &str, parent: Option<&str>, step: Step) -> Node {
        Node {
            id: id.to_owned(),
            inputs: parent.map(str::to_owned).into_iter().collect(),
            step,
            force_build: false,
            title: format!("step {id}"),
            place: None,
            environment: BTreeMap::new(),
            secrets: Vec::new(),
            gpu: Vec::new(),
        }
    }

    fn base() -> Step {
        Step::DebianSlim(DebianSlim { python_version: None, local_python: "3.11".to_owned(), release: None })
    }

    fn attach() -> Step {
        Step::AttachFiles(AttachFiles { files: FileSet::default() })
    }

    fn run() -> Step {
        Step::RunCommands(RunCommands { commands: vec!["true".to_owned()], volumes: Vec::new() })
    }

    fn graph(nodes: Vec<Node>) -> Result<Graph, DefinitionError> {
        Graph::new(Definition { nodes })
    }

    #[test]
    fn the_wire_form_is_read() {
        let text = r#"[{"id":"0","step":{"kind":"debian_slim","python_version":"3.11","local_python":"3.12"},"title":"debian_slim()"},
            {"id":"1","inputs":["0"],"step":{"kind":"uv_pip_install","packages":["pandas"],"pre":true,"uv_version":null},"force_build":true,
             "title":"uv_pip_install(\"https://me:hunter3@x\")","environment":{"A":"1","TOKEN":"public"},
             "secrets":[{"name":"s","values":{"TOKEN":"hunter2"},"allowed":["A"]},
                        {"name":"from_name(hf)","kept":{"name":"hf","environment":"main","required_keys":["B"]}}]}]"#;
        let definition: Definition = serde_json::from_str(text).unwrap();
        let Step::UvPipInstall(UvPipInstall { index, .. }) = &definition.nodes[1].step else { panic!() };
        assert!(index.pre);
        assert!(!format!("{definition:?}").contains("hunter"));
        let kept = KeptSecret { name: "hf".into(), environment: "main".into(), required_keys: vec!["B".into()] };
        assert_eq!(definition.nodes[1].secrets[1].kept, Some(kept));
        let variables: BTreeMap<_, _> = definition.nodes[1].variables().collect();
        assert_eq!(variables["TOKEN"], "public");
        assert_eq!(definition.nodes[1].title, "uv_pip_install(\"https://***@x\")");
        let graph = Graph::new(definition).unwrap();
        assert_eq!(graph.with_inputs(graph.place("1").unwrap()), [0, 1]);
    }

    #[test]
    fn broken_definitions_are_refused() {
        let unknown = DefinitionError::UnknownInput { node: "1".into(), input: "0".into() };
        assert_eq!(graph(vec![node("1", Some("0"), run())]).unwrap_err(), unknown);
        assert_eq!(graph(vec![node("0", None, run())]).unwrap_err(), DefinitionError::Misplaced("step 0".into()));
        let twice = graph(vec![node("0", None, base()), node("0", None, base())]);
        assert_eq!(twice.unwrap_err(), DefinitionError::Duplicate("0".into()));
        let mut two = node("1", Some("0"), run());
        two.inputs.push("0".to_owned());
        let error = graph(vec![node("0", None, base()), two]).unwrap_err();
        assert_eq!(error, DefinitionError::TooManyInputs { step: "step 1".into(), given: 2 });
    }

    #[test]
    fn steps_that_do_the_same_to_the_same_are_one() {
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
        let graph = graph(nodes).unwrap();
        let ids = ["0", "1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(ids.map(|id| graph.place(id).unwrap()), [0, 0, 1, 1, 2, 3, 4, 5]);
        assert_eq!(graph.step(1).0.id, "2");
        assert_eq!(graph.with_inputs(3), [0, 3]);
        assert_eq!(graph.place("8"), None);
    }

    #[test]
    fn nothing_is_built_on_attached_files_but_they_may_be_chained() {
        let mut nodes = vec![node("0", None, base()), node("1", Some("0"), attach()), node("2", Some("1"), attach())];
        assert!(graph(nodes.clone()).is_ok());
        nodes.push(node("3", Some("2"), run()));
        let error = graph(nodes).unwrap_err();
        assert!(error.to_string().contains("`step 3` follows `step") && error.to_string().contains("copy=True"));
    }

    #[test]
    fn a_declared_step_may_stand_for_several() {
        let two = |node: &Node| -> Result<Vec<Node>, DefinitionError> {
            let Step::RunCommands(RunCommands { commands, .. }) = &node.step else { return Ok(vec![node.clone()]) };
            let mut nodes: Vec<Node> = Vec::new();
            for (index, command) in commands.iter().enumerate() {
                let id = if index + 1 == commands.len() { node.id.clone() } else { format!("{}/{index}", node.id) };
                let inputs = nodes.last().map_or_else(|| node.inputs.clone(), |before| vec![before.id.clone()]);
                let step = Step::RunCommands(RunCommands { commands: vec![command.clone()], volumes: Vec::new() });
                nodes.push(Node { id, inputs, step, ..node.clone() });
            }
            Ok(nodes)
        };
        let commands = ["one", "two"].map(str::to_owned).to_vec();
        let nodes = vec![
            node("0", None, base()),
            node("1", Some("0"), Step::RunCommands(RunCommands { commands, volumes: Vec::new() })),
            node("2", Some("1"), run()),
        ];
        let graph = Graph::new(Definition { nodes }.lowered(two).unwrap()).unwrap();
        assert_eq!(graph.with_inputs(graph.place("2").unwrap()).len(), 4);
        let (last, inputs) = graph.step(graph.place("1").unwrap());
        assert_eq!(last.step, Step::RunCommands(RunCommands { commands: vec!["two".to_owned()], volumes: Vec::new() }));
        assert_eq!(graph.step(inputs[0]).0.id, "1/0");
    }
}
