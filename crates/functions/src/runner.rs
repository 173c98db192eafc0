//! The conversation with the runner inside a container. `docs/protocol.md` describes it.

use std::fmt;

use lamina_ground::StorePath;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::elsewhere::{AppReference, Purpose};
use crate::ids::{CallId, FunctionCallId};
use crate::question::PoolQuestion;

/// What a service runs, by the names that the runner finds it under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ServiceKind {
    /// One function.
    Function {
        /// Its name.
        name: String,
    },
    /// A class, whose instance answers the calls of all its methods.
    Class {
        /// Its name.
        name: String,
        /// Its methods.
        methods: Vec<String>,
    },
}

impl ServiceKind {
    /// The name of the function or class.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Function { name } | Self::Class { name, .. } => name,
        }
    }
}

/// What an instance of a class was made with: one of its parameters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// The type that the class declares.
    #[serde(rename = "type")]
    pub kind: ParameterKind,
    /// Its value as text: a number in decimal digits, `true` or `false`, bytes in base64.
    pub value: String,
}

/// The types that parameters of classes have, by Python's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// A whole number.
    Int,
    /// A text.
    Str,
    /// Bytes.
    Bytes,
    /// Yes or no.
    Bool,
}

/// A service with other parameters or options than it was declared with, which get a pool of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantRequest {
    /// The label that calls name it by, on the connection that it comes from.
    pub variant: u64,
    /// The service.
    pub function: String,
    /// The parameters of the class, if it has any.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    /// The options, as the app's start has those of the service; the others stay as they are.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// The deployed app that the service is of, if it is none of the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppReference>,
}

impl VariantRequest {
    /// What tells variants apart: equal ones share a pool, whoever asks for them and in whatever order.
    #[must_use]
    pub fn key(&self) -> String {
        let mut parameters = self.parameters.clone();
        parameters.sort();
        // Strings and numbers always serialise; the keys of a map are sorted.
        serde_json::to_string(&(&self.function, parameters, &self.options)).unwrap_or_default()
    }
}

/// A volume of a container. Serialised as the runner is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerVolume {
    /// Where it is, an absolute path.
    pub path: String,
    /// Its id.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The environment of its name.
    pub environment: Option<String>,
    /// The directory of it that is there; none is all of it.
    pub sub_path: Option<String>,
    /// Whether writing is refused.
    pub read_only: bool,
    /// What is mounted.
    #[serde(skip)]
    pub source: StorePath,
}

/// How the runner finds a function's module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Module {
    /// A file, executed under a module name.
    Script {
        /// The module's name.
        name: String,
        /// The file's path inside the container.
        path: String,
        /// What the module calls the function, where that is not the function's name in the app.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        qualname: Option<String>,
    },
    /// A module that the container's interpreter imports by name.
    Module {
        /// The dotted name.
        name: String,
        /// What the module calls the function, where that is not the function's name in the app.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        qualname: Option<String>,
    },
    /// No module: the function itself, pickled.
    Serialized {
        /// The name of the module that it comes from.
        name: String,
        /// The series of Python that pickled it.
        python: String,
        /// The pickle.
        pickle: Pickle,
    },
}

/// A pickled function in base64: passed through, never looked into, and never shown, because it may hold anything that
/// the function refers to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pickle(String);

impl fmt::Debug for Pickle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pickle({} bytes)", self.0.len())
    }
}

/// What the engine tells a runner.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRunner<'a> {
    /// The first message: import the module that holds the service.
    Start {
        /// Where it is.
        module: &'a Module,
        /// What it is.
        service: &'a ServiceKind,
        /// What the instance of a class is made with.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        parameters: &'a [Parameter],
        /// How many inputs come at a time.
        capacity: usize,
        /// Whether inputs that come together run together.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        batches: bool,
        /// Whether it may ask for the user's terminal.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        terminal: bool,
        /// Whether the calls that it spawns are kept.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        keeps: bool,
        /// The volumes that are there.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        volumes: &'a [ContainerVolume],
        /// The token of marks that say which input prints, if it is to make them.
        #[serde(skip_serializing_if = "Option::is_none")]
        mark: Option<&'a str>,
    },
    /// Run an input; the payload holds the pickled arguments.
    Call {
        /// The input's number, given back with the result.
        call: u64,
        /// The name of the function or method.
        function: &'a str,
        /// The input's id.
        input_id: CallId,
        /// The id of the function call that it is a part of.
        function_call_id: FunctionCallId,
        /// How many inputs run together, of which this is the first one and the others follow.
        #[serde(skip_serializing_if = "Option::is_none")]
        batch: Option<usize>,
    },
    /// Nobody waits for an input any more: end it.
    Cancel {
        /// The input's number.
        call: u64,
    },
    /// The caller has consumed items of a generator: as many further ones may come.
    More {
        /// The input's number.
        call: u64,
        /// How many were consumed.
        count: u64,
    },
    /// No further inputs come: leave.
    Stop,
}

impl ToRunner<'_> {
    /// The control part of the message's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Module {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Script { name, .. } | Self::Module { name, .. } | Self::Serialized { name, .. } => name,
        }
    }
}

/// What a runner tells the engine.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRunner {
    /// The module is imported; inputs may come.
    Ready,
    /// The module cannot be imported; the payload holds the exception.
    Failed,
    /// The user's terminal is wanted, until the input that runs, or the import, has ended.
    Interact,
    /// The next value of a generator; the payload holds it.
    Item {
        /// The input's number.
        call: u64,
    },
    /// Call a service of the app; the payload holds the pickled arguments.
    Call(RunnerRequest),
    /// Some calls that follow are of a variant of a service.
    Variant(VariantRequest),
    /// Items of a generator that the runner has called were consumed.
    More {
        /// The runner's label of the call.
        call: u64,
        /// How many.
        count: u64,
    },
    /// Give up a call of the runner.
    Cancel {
        /// The runner's label of the call.
        call: u64,
        /// Whether its container is killed.
        #[serde(default)]
        terminate: bool,
    },
    /// Tell of the functions of a deployed app.
    #[serde(rename = "app.functions")]
    Functions {
        /// The runner's label, as of a call.
        call: u64,
        /// Which app.
        app: AppReference,
    },
    /// Tell how a call ends, or has ended, that somebody has spawned on a deployed app.
    Await {
        /// The runner's label, as of a call.
        call: u64,
        /// The function call's id.
        id: String,
    },
    /// Tell how many inputs a call has that somebody has spawned on a deployed app.
    #[serde(rename = "call.inputs")]
    Inputs {
        /// The runner's label, as of a call.
        call: u64,
        /// The function call's id.
        id: String,
    },
    /// Tell what a function call has called.
    #[serde(rename = "call.graph")]
    Graph {
        /// The runner's label, as of a call.
        call: u64,
        /// The function call's id.
        id: String,
    },
    /// Tell of the containers of a service.
    Pool {
        /// The runner's label, as of a call.
        call: u64,
        /// The deployed app that has the service, if that is another one.
        #[serde(default)]
        app: Option<AppReference>,
        /// What.
        #[serde(flatten)]
        question: PoolQuestion,
    },
    /// An input's result; the payload holds the value or the exception.
    Result(RunnerResult),
    /// Do something with dictionaries and queues.
    Collection {
        /// The runner's label, as of a call.
        call: u64,
        /// What.
        #[serde(flatten)]
        errand: Map<String, Value>,
    },
}

impl FromRunner {
    /// Reads the control part of a message's frame. Results, of which there are most, are read without the detour that a
    /// message of any kind takes.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(control: &[u8]) -> serde_json::Result<Self> {
        if control.starts_with(br#"{"type":"result","#) {
            return serde_json::from_slice(control).map(Self::Result);
        }
        serde_json::from_slice(control)
    }
}

/// How an input of a runner has ended.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct RunnerResult {
    /// The input's number.
    pub call: u64,
    /// Whether with a value or an exception.
    pub status: ResultStatus,
}

/// A call that a runner makes.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct RunnerRequest {
    /// The runner's label for it, given back with the answers.
    pub call: u64,
    /// The name of the function or class.
    pub function: String,
    /// The method of the class.
    #[serde(default)]
    pub method: Option<String>,
    /// The label of the variant of the service, if it is one.
    #[serde(default)]
    pub variant: Option<u64>,
    /// The number of the input that makes it.
    #[serde(default)]
    pub input: Option<u64>,
    /// The label of the first call of a `.map` that it is a part of.
    #[serde(default)]
    pub map: Option<u64>,
    /// Which input of that it is, if it is spawned.
    #[serde(default)]
    pub index: Option<u64>,
    /// The id of that call in the process of the app that has it, where that is another app.
    #[serde(default)]
    pub part_of: Option<String>,
    /// Whether the function call's id is wanted.
    #[serde(default)]
    pub identify: bool,
    /// Whether it goes on when whoever made it has ended.
    #[serde(default)]
    pub spawned: bool,
    /// The deployed app that has the function, if it is not that of the container.
    #[serde(default)]
    pub app: Option<AppReference>,
}

impl RunnerRequest {
    /// What another app is told of it.
    #[must_use]
    pub fn purpose(&self) -> Purpose<'_> {
        match (&self.part_of, self.index) {
            _ if !self.spawned => Purpose::Awaited,
            (Some(of), Some(index)) => Purpose::Further { of, index },
            _ => Purpose::Spawned,
        }
    }
}

/// How an input ended inside the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultStatus {
    /// With a value.
    Ok,
    /// With an exception.
    Exception,
    /// With the exception for which the user pressed Ctrl-C in it: it is not run again.
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;

    #[test]
    fn messages_to_the_runner_are_pinned() {
        let f = ServiceKind::Function { name: "f".into() };
        let volumes = [ContainerVolume {
            path: "/data".into(),
            id: "vo-1".into(),
            name: Some("data".into()),
            environment: Some("main".into()),
            sub_path: None,
            read_only: true,
            source: "volumes/vo-1/files".into(),
        }];
        let class = ServiceKind::Class { name: "C".into(), methods: vec!["m".into()] };
        let parameters = [Parameter { name: "x".into(), kind: ParameterKind::Int, value: "1".into() }];
        let script = Module::Script { name: "app".into(), path: "/root/app.py".into(), qualname: None };
        let module = Module::Module { name: "pkg.mod".into(), qualname: Some("work".into()) };
        let cases = [
            (
                ToRunner::Start {
                    module: &script,
                    service: &f,
                    parameters: &[],
                    capacity: 1,
                    batches: false,
                    terminal: false,
                    keeps: false,
                    volumes: &[],
                    mark: None,
                },
                r#"{"type":"start","module":{"kind":"script","name":"app","path":"/root/app.py"},"service":{"kind":"function","name":"f"},"capacity":1}"#,
            ),
            (
                ToRunner::Start {
                    module: &module,
                    service: &class,
                    parameters: &parameters,
                    capacity: 8,
                    batches: false,
                    terminal: true,
                    keeps: true,
                    volumes: &volumes,
                    mark: Some("mk-1"),
                },
                r#"{"type":"start","module":{"kind":"module","name":"pkg.mod","qualname":"work"},"service":{"kind":"class","name":"C","methods":["m"]},"parameters":[{"name":"x","type":"int","value":"1"}],"capacity":8,"terminal":true,"keeps":true,"volumes":[{"path":"/data","id":"vo-1","name":"data","environment":"main","sub_path":null,"read_only":true}],"mark":"mk-1"}"#,
            ),
            (ToRunner::More { call: 7, count: 8 }, r#"{"type":"more","call":7,"count":8}"#),
            (ToRunner::Cancel { call: 7 }, r#"{"type":"cancel","call":7}"#),
            (ToRunner::Stop, r#"{"type":"stop"}"#),
        ];
        for (message, text) in cases {
            assert_eq!(String::from_utf8(message.encode()).unwrap(), text);
        }
        let (input_id, function_call_id) = (CallId::new(), ConnectionId::new().function_call(1));
        let text = format!(
            r#"{{"type":"call","call":7,"function":"f","input_id":"{input_id}","function_call_id":"{function_call_id}"}}"#
        );
        let call = ToRunner::Call { call: 7, function: "f", input_id, function_call_id, batch: None };
        assert_eq!(String::from_utf8(call.encode()).unwrap(), text);
    }

    #[test]
    fn equal_variants_have_one_key() {
        let read = |text: &str| match FromRunner::decode(text.as_bytes()).unwrap() {
            FromRunner::Variant(variant) => variant,
            other => panic!("{other:?}"),
        };
        let one = read(
            r#"{"type":"variant","variant":1,"function":"C","parameters":[{"name":"a","type":"int","value":"1"},
                {"name":"b","type":"str","value":"x"}],"options":{"timeout":5,"cpu":1}}"#,
        );
        let same = read(
            r#"{"type":"variant","variant":9,"function":"C","parameters":[{"name":"b","type":"str","value":"x"},
                {"name":"a","type":"int","value":"1"}],"options":{"cpu":1,"timeout":5}}"#,
        );
        assert_eq!(one.key(), same.key());
        let of = |function: &str, kind: &str| {
            let parameter = format!(r#"{{"name":"a","type":"{kind}","value":"1"}}"#);
            read(&format!(r#"{{"type":"variant","variant":1,"function":"{function}","parameters":[{parameter}]}}"#))
                .key()
        };
        assert_ne!(of("C", "int"), of("C", "str"), "values of other types are others");
        assert_ne!(of("C", "int"), of("D", "int"));
    }

    #[test]
    fn a_serialized_function_is_passed_on_as_it_came_and_never_shown() {
        let text = r#"{"kind":"serialized","name":"app","python":"3.11","pickle":"gASVAAAA"}"#;
        let module: Module = serde_json::from_str(text).unwrap();
        let f = ServiceKind::Function { name: "f".into() };
        let start = ToRunner::Start {
            module: &module,
            service: &f,
            parameters: &[],
            capacity: 1,
            batches: false,
            terminal: false,
            keeps: false,
            volumes: &[],
            mark: None,
        };
        let expected =
            format!(r#"{{"type":"start","module":{text},"service":{{"kind":"function","name":"f"}},"capacity":1}}"#);
        assert_eq!(String::from_utf8(start.encode()).unwrap(), expected);
        assert!(!format!("{module:?}").contains("gASV"));
    }

    #[test]
    fn messages_from_the_runner_are_pinned() {
        let cases = [
            (r#"{"type":"ready"}"#, FromRunner::Ready),
            (r#"{"type":"failed"}"#, FromRunner::Failed),
            (
                r#"{"type":"result","call":7,"status":"interrupted"}"#,
                FromRunner::Result(RunnerResult { call: 7, status: ResultStatus::Interrupted }),
            ),
            (r#"{"type":"interact"}"#, FromRunner::Interact),
            (r#"{"type":"item","call":7}"#, FromRunner::Item { call: 7 }),
            (
                r#"{"type":"result","call":7,"status":"ok"}"#,
                FromRunner::Result(RunnerResult { call: 7, status: ResultStatus::Ok }),
            ),
            (
                r#"{"type":"result","call":7,"status":"exception"}"#,
                FromRunner::Result(RunnerResult { call: 7, status: ResultStatus::Exception }),
            ),
        ];
        let request = RunnerRequest {
            call: 1,
            function: "g".into(),
            method: None,
            variant: None,
            input: None,
            map: None,
            index: None,
            part_of: None,
            identify: false,
            spawned: false,
            app: None,
        };
        let spawned = RunnerRequest {
            call: 2,
            function: "C".into(),
            method: Some("m".into()),
            variant: Some(3),
            input: Some(7),
            map: Some(1),
            index: Some(4),
            part_of: Some("fc-1".into()),
            identify: true,
            spawned: true,
            app: Some(AppReference { name: "demo".into(), environment: "main".into(), version: None }),
        };
        assert_eq!(request.purpose(), Purpose::Awaited);
        assert_eq!(spawned.purpose(), Purpose::Further { of: "fc-1", index: 4 });
        let calls = [
            (r#"{"type":"call","call":1,"function":"g"}"#, FromRunner::Call(request)),
            (
                r#"{"type":"call","call":2,"function":"C","method":"m","variant":3,"map":1,"index":4,"part_of":"fc-1","input":7,"identify":true,"spawned":true,"app":{"name":"demo","environment":"main"}}"#,
                FromRunner::Call(spawned),
            ),
            (r#"{"type":"more","call":1,"count":8}"#, FromRunner::More { call: 1, count: 8 }),
            (r#"{"type":"cancel","call":1}"#, FromRunner::Cancel { call: 1, terminate: false }),
        ];
        for (text, message) in cases.into_iter().chain(calls) {
            assert_eq!(serde_json::from_str::<FromRunner>(text).unwrap(), message);
            assert_eq!(FromRunner::decode(text.as_bytes()).unwrap(), message);
        }
        for rubbish in ["", "{}", r#"{"type":"exec"}"#, r#"{"type":"result","call":-1,"status":"ok"}"#] {
            assert!(serde_json::from_str::<FromRunner>(rubbish).is_err(), "{rubbish}");
            assert!(FromRunner::decode(rubbish.as_bytes()).is_err(), "{rubbish}");
        }
    }
}
