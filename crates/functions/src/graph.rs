//! Which calls the inputs of spawned calls have made: what `FunctionCall.get_call_graph` shows.
//!
//! Only spawned calls can be asked about, so only they are recorded, and what their inputs call in turn. All other calls
//! pay no more for it than looking whether anything is recorded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use lamina_ground::ErrorClass;
use lamina_wire::{Payload, WireError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::CallStatus;
use crate::call::{Caller, Outcome};
use crate::elsewhere::Callee;
use crate::error::CallError;
use crate::ids::{CallId, FunctionCallId};

/// Most calls that are recorded at a time. Beyond that those are forgotten that ended first, and none is added while all
/// of them go on.
const MOST_RECORDED: usize = 20_000;
/// Bytes of the longest names that are recorded: a container chooses those of other apps.
const LONGEST_NAMES: usize = 1024;

/// The inputs of a function call of this process, and all that they have called, parents first.
///
/// # Errors
/// When nothing is recorded of it.
pub fn call_graph(function_call: &str) -> Result<Value, CallStatus> {
    CallGraph::of_process().of(function_call)
}

/// An input that was spawned and all that it has called, as [`call_graph`] has them; nothing if it is not recorded.
#[must_use]
pub fn input_graph(input: CallId) -> Option<Value> {
    CallGraph::of_process().of_input(input)
}

/// Says of inputs in a graph of another process what became of those that had not ended: they went with it.
pub fn end_with_their_process(graph: &mut Value) {
    let own = CallId::of_this_process();
    for input in graph["inputs"].as_array_mut().into_iter().flatten() {
        let is_own = input["input_id"].as_str().is_some_and(|id| id.starts_with(&own));
        if !is_own && input["status"] == json!(InputStatus::Pending) {
            input["status"] = json!(InputStatus::Terminated);
        }
    }
}

/// An input of which nothing else is known but that it went with its process.
#[must_use]
pub fn lost_input(id: &str, function: &str, method: Option<&str>, module: &str) -> Value {
    json!({
        "parent": null,
        "input_id": id,
        "task_id": null,
        "status": InputStatus::Terminated,
        "function_name": full_name(function, method),
        "module_name": module,
    })
}

/// A method has its class before it.
fn full_name(function: &str, method: Option<&str>) -> String {
    method.map_or_else(|| function.to_owned(), |method| format!("{function}.{method}"))
}

/// How far an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum InputStatus {
    Pending,
    Success,
    Failure,
    InitFailure,
    Terminated,
    Timeout,
}

/// A call that begins.
pub(crate) struct NewCall<'a> {
    pub(crate) id: CallId,
    pub(crate) part_of: FunctionCallId,
    /// The input that makes it.
    pub(crate) parent: Option<CallId>,
    pub(crate) is_spawned: bool,
    /// The function, or the class and its method.
    pub(crate) function: &'a str,
    pub(crate) method: Option<&'a str>,
    /// None of a function of another app, whose process knows the rest.
    pub(crate) module: Option<&'a str>,
}

/// What is known of a call.
struct Recorded {
    part_of: FunctionCallId,
    /// The id of its function call in the process of another app.
    known_as: Option<String>,
    parent: Option<CallId>,
    function: String,
    module: Option<String>,
    /// The container that got it last.
    task: Option<String>,
    status: InputStatus,
    /// How many calls of it are not recorded, or not any more.
    omitted: u64,
}

impl Recorded {
    /// The id of its function call, as its caller knows it.
    fn function_call(&self) -> String {
        self.known_as.clone().unwrap_or_else(|| self.part_of.to_string())
    }
}

/// The calls of a process that are recorded.
pub(crate) struct CallGraph {
    /// How many there are, for those who only want to know whether there are any.
    count: AtomicUsize,
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<CallId, Recorded>,
    /// Those that have ended, in this order.
    ended: VecDeque<CallId>,
}

impl CallGraph {
    /// That of this process: ids are those of a process, too, and a call may move to another version of its app.
    pub(crate) fn of_process() -> &'static Arc<Self> {
        static GRAPH: OnceLock<Arc<CallGraph>> = OnceLock::new();
        GRAPH.get_or_init(|| Arc::new(Self::new(MOST_RECORDED)))
    }

    fn new(most: usize) -> Self {
        Self { count: AtomicUsize::new(0), most, state: Mutex::default() }
    }

    /// Records a call, if it was spawned or if the one is recorded that makes it; gives who is to hear how it goes in the
    /// place of `caller`.
    pub(crate) fn record(self: &Arc<Self>, call: &NewCall<'_>, caller: Arc<dyn Caller>) -> Arc<dyn Caller> {
        if !call.is_spawned && (call.parent.is_none() || self.count.load(Ordering::Relaxed) == 0) {
            return caller;
        }
        let mut state = self.lock();
        let is_recorded = state.add(call, self.most);
        self.count.store(state.calls.len(), Ordering::Relaxed);
        drop(state);
        if !is_recorded {
            return caller;
        }
        Arc::new(Recording { graph: Arc::clone(self), call: call.id, caller })
    }

    /// The inputs of a function call, and all that they have called.
    pub(crate) fn of(&self, function_call: &str) -> Result<Value, CallStatus> {
        let is_root = |_: CallId, recorded: &Recorded| recorded.function_call() == function_call;
        self.below(CallId::from_number(0), is_root).ok_or_else(|| CallStatus::Error {
            error: ErrorClass::NotFoundError,
            message: format!("nothing is recorded of the call `{function_call}`"),
            hint: Some(format!(
                "the process that runs an app's containers records what spawned calls do: the last `{}` calls, for as \
                 long as it lives",
                self.most
            )),
        })
    }

    fn of_input(&self, input: CallId) -> Option<Value> {
        self.below(input, |id, _| id == input)
    }

    /// The inputs that are roots, and what they have called; none is older than `oldest`.
    fn below(&self, oldest: CallId, is_root: impl Fn(CallId, &Recorded) -> bool) -> Option<Value> {
        let state = self.lock();
        let mut places: HashMap<CallId, usize> = HashMap::new();
        let (mut inputs, mut omitted) = (Vec::new(), 0);
        // Who calls is older than what it calls.
        for (id, recorded) in state.calls.range(oldest..) {
            let parent = recorded.parent.and_then(|parent| places.get(&parent)).copied();
            if parent.is_none() && !is_root(*id, recorded) {
                continue;
            }
            places.insert(*id, inputs.len());
            omitted += recorded.omitted;
            inputs.push(json!({
                "parent": parent,
                "input_id": id,
                "function_call_id": recorded.function_call(),
                "task_id": recorded.task,
                "status": recorded.status,
                "function_name": recorded.function,
                "module_name": recorded.module,
            }));
        }
        (!inputs.is_empty()).then(|| json!({ "inputs": inputs, "omitted": omitted }))
    }

    fn change(&self, call: CallId, change: impl FnOnce(&mut Recorded)) {
        if let Some(recorded) = self.lock().calls.get_mut(&call) {
            change(recorded);
        }
    }

    fn end(&self, call: CallId, outcome: &Outcome) {
        let mut state = self.lock();
        if let Some(recorded) = state.calls.get_mut(&call) {
            recorded.status = InputStatus::of(outcome, recorded.task.is_some() || recorded.module.is_none());
            state.ended.push_back(call);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds a call, and forgets another one if there are too many; false if it is not to be recorded.
    fn add(&mut self, call: &NewCall<'_>, most: usize) -> bool {
        let has_parent = call.parent.is_some_and(|parent| self.calls.contains_key(&parent));
        if !call.is_spawned && !has_parent {
            return false;
        }
        let function = full_name(call.function, call.method);
        let fits = function.len() + call.module.map_or(0, str::len) <= LONGEST_NAMES && self.make_room(most);
        if !fits {
            self.omit(call.parent);
            return false;
        }
        let recorded = Recorded {
            part_of: call.part_of,
            known_as: None,
            parent: call.parent,
            function,
            module: call.module.map(str::to_owned),
            task: None,
            status: InputStatus::Pending,
            omitted: 0,
        };
        self.calls.insert(call.id, recorded);
        true
    }

    fn make_room(&mut self, most: usize) -> bool {
        if self.calls.len() < most {
            return true;
        }
        let forgotten = self.ended.pop_front().and_then(|oldest| self.calls.remove(&oldest));
        let Some(Recorded { parent, omitted, .. }) = forgotten else { return false };
        self.omit(parent);
        if let Some(parent) = parent.and_then(|parent| self.calls.get_mut(&parent)) {
            parent.omitted += omitted;
        }
        true
    }

    fn omit(&mut self, parent: Option<CallId>) {
        if let Some(parent) = parent.and_then(|parent| self.calls.get_mut(&parent)) {
            parent.omitted += 1;
        }
    }
}

impl InputStatus {
    fn of(outcome: &Outcome, had_container: bool) -> Self {
        match outcome {
            Outcome::Value(_) => Self::Success,
            // Its module could not be imported, or a hook of its class failed.
            Outcome::Exception(_) | Outcome::Error(_) if !had_container && !is_end(outcome) => Self::InitFailure,
            Outcome::Error(error) if error.class() == ErrorClass::FunctionTimeoutError => Self::Timeout,
            Outcome::Error(_) if is_end(outcome) => Self::Terminated,
            Outcome::Exception(_) | Outcome::Error(_) => Self::Failure,
        }
    }
}

/// Whether somebody ended the call.
fn is_end(outcome: &Outcome) -> bool {
    use CallError::{Cancelled, Stopped, Withdrawn};
    matches!(outcome, Outcome::Error(Cancelled { .. } | Stopped { .. } | Withdrawn { .. }))
}

/// Records how a call goes, and tells its caller.
struct Recording {
    graph: Arc<CallGraph>,
    call: CallId,
    caller: Arc<dyn Caller>,
}

impl Caller for Recording {
    fn given_to(&self, task: &str) {
        self.graph.change(self.call, |recorded| recorded.task = Some(task.to_owned()));
        self.caller.given_to(task);
    }

    fn identified(&self, id: &str) {
        // That of a further input has its number behind it.
        let call = id.match_indices('-').nth(1).map_or(id, |(end, _)| &id[..end]);
        self.graph.change(self.call, |recorded| recorded.known_as = Some(call.to_owned()));
        self.caller.identified(id);
    }

    fn item(&self, payload: Payload) -> Result<(), WireError> {
        self.caller.item(payload)
    }

    fn moved(&self, callee: &Weak<dyn Callee>) {
        self.caller.moved(callee);
    }

    fn end(&self, outcome: Outcome) {
        // Before the caller hears of it, who may ask at once.
        self.graph.end(self.call, &outcome);
        self.caller.end(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;

    struct Nobody;

    impl Caller for Nobody {
        fn item(&self, _: Payload) -> Result<(), WireError> {
            Ok(())
        }

        fn end(&self, _: Outcome) {}
    }

    /// A call's function, the place of its parent, and its status.
    type Row = (String, Value, String);

    /// Calls by their numbers, each of a function call of its own, which the number names, too.
    struct Bench {
        graph: Arc<CallGraph>,
        connection: ConnectionId,
    }

    impl Bench {
        fn new(most: usize) -> Self {
            Self { graph: Arc::new(CallGraph::new(most)), connection: ConnectionId::new() }
        }

        fn call(&self, number: u64, parent: Option<u64>, is_spawned: bool, method: Option<&str>) -> Arc<dyn Caller> {
            let call = NewCall {
                id: CallId::from_number(number),
                part_of: self.connection.function_call(number),
                parent: parent.map(CallId::from_number),
                is_spawned,
                function: "f",
                method,
                module: Some("app"),
            };
            self.graph.record(&call, Arc::new(Nobody))
        }

        /// The calls of a graph, and how many are omitted.
        fn of(&self, number: u64) -> Option<(Vec<Row>, u64)> {
            let graph = self.graph.of(&self.connection.function_call(number).to_string()).ok()?;
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let input =
                |input: &Value| (text(&input["function_name"]), input["parent"].clone(), text(&input["status"]));
            Some((graph["inputs"].as_array().unwrap().iter().map(input).collect(), graph["omitted"].as_u64().unwrap()))
        }
    }

    fn value() -> Outcome {
        Outcome::Value(Payload::default())
    }

    #[test]
    fn what_a_spawned_call_calls_is_recorded_and_nothing_else() {
        let bench = Bench::new(10);
        bench.call(1, None, false, None);
        bench.call(2, Some(1), false, None);
        assert_eq!(bench.graph.lock().calls.len(), 0);
        let root = bench.call(3, None, true, None);
        root.given_to("ta-1");
        bench.call(4, Some(3), false, Some("run")).end(value());
        bench.call(5, Some(1), false, None);
        let leaf = bench.call(6, Some(4), false, None);
        leaf.given_to("ta-2");
        leaf.end(Outcome::Error(CallError::TimedOut { function: "f".into(), seconds: 1.0 }));
        let row = |name: &str, parent: Value, status: &str| (name.to_owned(), parent, status.to_owned());
        let expected =
            [row("f", Value::Null, "PENDING"), row("f.run", json!(0), "SUCCESS"), row("f", json!(1), "TIMEOUT")];
        assert_eq!(bench.of(3), Some((expected.to_vec(), 0)));
        assert_eq!(bench.of(4).unwrap().0[1].1, json!(0), "it has a graph of its own");
        assert_eq!(bench.of(5), None);
        let whole = bench.graph.of(&bench.connection.function_call(3).to_string()).unwrap();
        assert_eq!(whole["inputs"][0]["task_id"], "ta-1");
        assert_eq!(whole["inputs"][1]["task_id"], Value::Null);
    }

    #[test]
    fn a_call_of_another_app_is_found_under_its_id_there() {
        let bench = Bench::new(10);
        bench.call(1, None, true, None).identified("fc-there");
        assert_eq!(bench.of(1), None);
        assert_eq!(bench.graph.of("fc-there").unwrap()["inputs"][0]["function_call_id"], "fc-there");
    }

    #[test]
    fn what_ended_first_is_forgotten_first_and_counted() {
        let bench = Bench::new(3);
        let root = bench.call(1, None, true, None);
        for number in 2..=9 {
            bench.call(number, Some(1), false, None).end(value());
        }
        let (inputs, omitted) = bench.of(1).unwrap();
        assert_eq!((inputs.len(), omitted), (3, 6));
        let (_one, _two) = (bench.call(10, Some(1), false, None), bench.call(11, Some(1), false, None));
        bench.call(12, Some(1), false, None);
        assert_eq!(bench.of(1).map(|(inputs, omitted)| (inputs.len(), omitted)), Some((3, 9)), "nothing has ended");
        root.end(value());
        bench.call(13, None, true, None);
        assert_eq!(bench.of(1), None);
        assert!(bench.of(13).is_some());
    }

    #[test]
    fn names_that_a_container_made_up_take_no_memory() {
        let bench = Bench::new(3);
        bench.call(1, None, true, None);
        bench.call(2, Some(1), false, Some(&"x".repeat(LONGEST_NAMES)));
        assert_eq!(bench.of(1).map(|(inputs, omitted)| (inputs.len(), omitted)), Some((1, 1)));
    }

    #[test]
    fn a_status_says_how_an_input_ended() {
        use InputStatus::{Failure, InitFailure, Success, Terminated};
        let exception = || Outcome::Exception(Payload::default());
        let cancelled = || Outcome::Error(CallError::Cancelled { function: "f".into() });
        let exited = || Outcome::Error(CallError::Exited { function: "f".into(), code: 1, tail: String::new() });
        let cases = [
            (value(), true, Success),
            (exception(), true, Failure),
            (exception(), false, InitFailure),
            (cancelled(), true, Terminated),
            (cancelled(), false, Terminated),
            (exited(), true, Failure),
            (exited(), false, InitFailure),
        ];
        for (outcome, had_container, status) in cases {
            assert_eq!(InputStatus::of(&outcome, had_container), status, "{outcome:?}");
        }
    }
}
