//! Calls of a deployed app that were spawned: whoever knows their ids gets their results, also from another process of the app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use lamina_apps::{AppsError, KeptCalls, PendingCall};
use lamina_functions::{
    CallError, CallId, CallStatus, Callee, Caller, KeepsCalls, Outcome, SpawnedCall, call_graph,
    end_with_their_process, input_graph, lost_input,
};
use lamina_ground::{ErrorClass, causes, seconds_since_1970};
use lamina_wire::{Payload, WireError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::protocol::Failure;

/// Results after which old ones are looked for.
const BETWEEN_SWEEPS: u64 = 100;

/// Bytes of results that the disk does not take, and that are held until it does.
const HELD_BYTES: usize = 64 << 20;

/// Bytes that a held result counts for beside its own.
const HELD_EXTRA: usize = 512;

/// The spawned calls of the app that runs in this process.
pub(super) struct SpawnedCalls {
    kept: KeptCalls,
    running: Mutex<HashMap<String, RunningCall>>,
    /// Those that have ended, and whose results the disk did not take.
    held: Mutex<HashMap<String, (Ending, Vec<u8>)>>,
    ended: Mutex<u64>,
    /// Those that have ended before all that they have called.
    unfinished: Mutex<Vec<(String, CallId)>>,
}

/// A call that this process runs.
struct RunningCall {
    id: CallId,
    callee: Weak<dyn Callee>,
    /// Who hears how it ends, beside whoever has spawned it.
    waiting: Vec<Arc<dyn Caller>>,
}

/// How a call ended, as it is kept; the payload follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ending {
    status: String,
    #[serde(default)]
    error: Option<ErrorClass>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    hint: Option<String>,
    /// Its input, as graphs of calls have it, without what it has called.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    input: Value,
}

impl SpawnedCalls {
    /// Those of an app, without any that runs.
    pub(super) fn new(kept: KeptCalls) -> Arc<Self> {
        // What cannot be removed now stays.
        let _ = kept.forget_old(SystemTime::now());
        Arc::new(Self {
            kept,
            running: Mutex::default(),
            held: Mutex::default(),
            ended: Mutex::default(),
            unfinished: Mutex::default(),
        })
    }

    /// Notes a call that was spawned before it runs; gives who is to hear how it ends in the place of `caller`.
    pub(super) fn begin(
        self: &Arc<Self>,
        name: String,
        call: &PendingCall,
        input: &[u8],
        callee: (CallId, Weak<dyn Callee>),
        caller: Option<Arc<dyn Caller>>,
    ) -> Result<Arc<dyn Caller>, AppsError> {
        self.kept.begin(&name, call, input)?;
        Ok(self.note(name, callee, caller))
    }

    /// As [`SpawnedCalls::begin`], for a call that runs again: it is kept already. A disk that does not take how often it
    /// has run is no reason to leave it.
    pub(super) fn begin_again(
        self: &Arc<Self>,
        name: String,
        call: &PendingCall,
        input: &[u8],
        callee: (CallId, Weak<dyn Callee>),
    ) -> Arc<dyn Caller> {
        if let Err(error) = self.kept.begin(&name, call, input) {
            tracing::warn!(call = name, reason = causes(&error), "that the call runs again could not be noted");
        }
        self.note(name, callee, None)
    }

    fn note(
        self: &Arc<Self>,
        name: String,
        (id, callee): (CallId, Weak<dyn Callee>),
        caller: Option<Arc<dyn Caller>>,
    ) -> Arc<dyn Caller> {
        self.lock().insert(name.clone(), RunningCall { id, callee, waiting: caller.into_iter().collect() });
        Arc::new(Spawned { calls: Arc::clone(self), name })
    }

    /// Whether there is such a call, whether it has ended or not.
    fn is_known(&self, name: &str) -> bool {
        self.lock().contains_key(name) || self.kept.has(name)
    }

    /// How many inputs a call has.
    pub(super) fn inputs_of(&self, name: &str) -> Result<usize, AppsError> {
        Ok(self.kept.inputs(name)?.len())
    }

    /// What a call has called, as far as that is recorded here, or was by the process that its inputs have ended in.
    pub(super) fn graph_of(&self, name: &str) -> Result<Result<Value, CallStatus>, AppsError> {
        let here = call_graph(name);
        let names = self.kept.inputs(name)?;
        let is_root = |input: &&Value| input["parent"].is_null();
        let known =
            |graph: &Value| graph["inputs"].as_array().map_or(0, |inputs| inputs.iter().filter(is_root).count());
        if here.as_ref().is_ok_and(|graph| known(graph) >= names.len()) {
            return Ok(here);
        }
        let (mut inputs, mut omitted) = (Vec::new(), 0);
        for each in names {
            let graph = self.callee(&each).and_then(|(id, _)| input_graph(id));
            let graph = graph.map_or_else(|| self.kept_graph(&each), |graph| Ok(Some(graph)))?;
            let Some(mut graph) = graph else { continue };
            omitted += graph["omitted"].as_u64().unwrap_or(0);
            let before = inputs.len();
            for mut input in graph["inputs"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                match input["parent"].as_u64() {
                    Some(parent) => input["parent"] = json!(parent + before as u64),
                    // One that has run again, has another id in the process that does it.
                    None => input["function_call_id"] = json!(name),
                }
                inputs.push(input);
            }
        }
        Ok(if inputs.is_empty() { here } else { Ok(json!({ "inputs": inputs, "omitted": omitted })) })
    }

    /// What an input that has ended has called.
    fn kept_graph(&self, name: &str) -> Result<Option<Value>, AppsError> {
        let graph = match self.kept.graph(name)? {
            Some(graph) => Some(graph),
            None => self
                .kept
                .result::<Ending>(name)?
                .map(|(ending, _)| ending.input)
                .filter(|input| !input.is_null())
                .map(|input| json!({ "inputs": [input], "omitted": 0 })),
        };
        Ok(graph.map(|mut graph| {
            end_with_their_process(&mut graph);
            graph
        }))
    }

    /// Keeps what an input has called that has ended; gives the input alone.
    fn keep_graph(&self, name: &str, id: CallId) -> Value {
        let Some(graph) = input_graph(id) else { return Value::Null };
        let inputs = graph["inputs"].as_array().map_or(&[][..], Vec::as_slice);
        if inputs.len() > 1 || graph["omitted"] != 0 {
            if let Err(error) = self.kept.keep_graph(name, &graph) {
                tracing::warn!(call = name, reason = causes(&error), "what the call has called could not be kept");
            }
            if is_unfinished(&graph) {
                self.unfinished().push((name.to_owned(), id));
            }
        }
        inputs.first().cloned().unwrap_or_default()
    }

    /// Keeps what has become of calls that their callers did not wait for.
    pub(super) fn keep_unfinished(&self) {
        self.unfinished().retain(|(name, id)| {
            let Some(graph) = input_graph(*id).filter(|graph| graph["omitted"] == 0) else { return false };
            // A result that somebody has removed meanwhile needs no graph.
            let is_kept = self.kept.graph(name).is_ok_and(|graph| graph.is_some());
            is_kept && (self.kept.keep_graph(name, &graph).is_err() || is_unfinished(&graph))
        });
    }

    fn unfinished(&self) -> MutexGuard<'_, Vec<(String, CallId)>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls that a former process of the app has left.
    pub(super) fn left(&self) -> Result<Vec<(String, PendingCall, Vec<u8>)>, AppsError> {
        self.kept.pending()
    }

    /// Notes that a call was lost.
    pub(super) fn give_up(&self, name: &str, call: &PendingCall) {
        let message = format!(
            "the call of function `{}` was running when the app's process or the machine stopped, and is lost",
            call.function
        );
        let hint = Some("give the function `retries`: such calls are run again then".to_owned());
        let input = lost_input(&call.input, &call.function, call.method.as_deref(), &call.module);
        self.keep_outcome(
            name,
            Outcome::Error(CallError::Elsewhere { class: ErrorClass::InternalFailure, message, hint }),
            input,
        );
    }

    /// What runs a call, if it runs here.
    pub(super) fn callee(&self, name: &str) -> Option<(CallId, Weak<dyn Callee>)> {
        self.lock().get(name).map(|call| (call.id, Weak::clone(&call.callee)))
    }

    /// Has `caller` hear how a call ends, or has ended; false if nothing is known of it.
    pub(super) fn wait_for(&self, name: &str, caller: Arc<dyn Caller>) -> Result<bool, AppsError> {
        if let Some(call) = self.lock().get_mut(name) {
            call.waiting.push(caller);
            return Ok(true);
        }
        self.keep_held();
        let held = self.held().get(name).cloned();
        let ended = held.map_or_else(|| self.kept.result::<Ending>(name), |held| Ok(Some(held)))?;
        let Some((ending, bytes)) = ended else { return Ok(false) };
        caller.end(ending.outcome(bytes));
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, RunningCall>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, (Ending, Vec<u8>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries once more to keep what the disk did not take.
    pub(super) fn keep_held(&self) {
        self.held().retain(|name, (ending, bytes)| self.kept.end(name, ending, bytes).is_err());
    }

    /// Holds a result that cannot be kept. Where those are too many, it is lost, which is what is held then.
    fn hold(&self, name: &str, ending: Ending, bytes: Vec<u8>, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(call = name, reason = causes(error), "the result could not be kept");
        let mut held = self.held();
        let size: usize = held.values().map(|(_, bytes)| bytes.len() + HELD_EXTRA).sum();
        let call = if size + bytes.len() + HELD_EXTRA <= HELD_BYTES {
            (ending, bytes)
        } else {
            (Ending::lost(&causes(error)), Vec::new())
        };
        held.insert(name.to_owned(), call);
    }

    /// Keeps how a call ended, and tells those who wait.
    fn keep_outcome(&self, name: &str, outcome: Outcome, input: Value) {
        if let Outcome::Error(CallError::Stopped { .. }) = outcome {
            // The process ends, or the version that it ran on: whoever comes next decides what becomes of the call.
            let waiting = self.lock().remove(name).map(|call| call.waiting).unwrap_or_default();
            for caller in waiting {
                caller.end(copy(&outcome));
            }
            return;
        }
        let (ending, payload) = Ending::of(&outcome);
        let ending = Ending { input, ..ending };
        let bytes = payload.map_or_else(|| Ok(Vec::new()), |payload| payload.try_clone().and_then(Payload::into_bytes));
        match bytes.map(|bytes| (self.kept.end(name, &ending, &bytes), bytes)) {
            Ok((Ok(()), _)) if self.held().is_empty() => {}
            Ok((Ok(()), _)) => self.keep_held(),
            Ok((Err(error), bytes)) => self.hold(name, ending, bytes, &error),
            Err(error) => self.hold(name, Ending::lost(&error.to_string()), Vec::new(), &error),
        }
        // Not before it is kept: whoever comes meanwhile waits here.
        let waiting = self.lock().remove(name).map(|call| call.waiting).unwrap_or_default();
        let Some((last, others)) = waiting.split_last() else { return self.sweep() };
        for caller in others {
            caller.end(copy(&outcome));
        }
        last.end(outcome);
        self.sweep();
    }

    fn sweep(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended += 1;
        if ended.is_multiple_of(BETWEEN_SWEEPS) {
            // What cannot be removed now is the next time.
            let _ = self.kept.forget_old(SystemTime::now());
            self.keep_unfinished();
        }
    }
}

impl KeepsCalls for SpawnedCalls {
    fn keep(
        self: Arc<Self>,
        call: &SpawnedCall<'_>,
        callee: Weak<dyn Callee>,
        input: &Payload,
        caller: Arc<dyn Caller>,
    ) -> Result<Arc<dyn Caller>, CallStatus> {
        let unreadable = |error: WireError| CallStatus::error(ErrorClass::ExecutionError, error.to_string());
        if self.is_known(&call.name) {
            let message = format!("the call `{}` has been spawned already", call.name);
            return Err(CallStatus::error(ErrorClass::ConflictError, message));
        }
        let input = input.try_clone().and_then(Payload::into_bytes).map_err(unreadable)?;
        let begun = self.begin(call.name.clone(), &pending(call), &input, (call.id, callee), Some(caller));
        begun.map_err(|error| Failure::from(error).into())
    }
}

/// Whether something in a graph goes on.
fn is_unfinished(graph: &Value) -> bool {
    graph["inputs"].as_array().is_some_and(|inputs| inputs.iter().any(|input| input["status"] == "PENDING"))
}

/// What hears how a spawned call ends.
struct Spawned {
    calls: Arc<SpawnedCalls>,
    name: String,
}

impl Caller for Spawned {
    fn item(&self, _: Payload) -> Result<(), WireError> {
        // Generators are not spawned; one that is has nobody to consume its items.
        Ok(())
    }

    fn moved(&self, callee: &Weak<dyn Callee>) {
        if let Some(call) = self.calls.lock().get_mut(&self.name) {
            call.callee = Weak::clone(callee);
            for caller in &call.waiting {
                caller.moved(callee);
            }
        }
    }

    fn end(&self, outcome: Outcome) {
        let id = self.calls.callee(&self.name).map(|(id, _)| id);
        let input = id.map(|id| self.calls.keep_graph(&self.name, id)).unwrap_or_default();
        self.calls.keep_outcome(&self.name, outcome, input);
    }
}

impl Ending {
    /// That of a call whose result is nowhere.
    fn lost(reason: &str) -> Self {
        let message = format!("the result of the call could not be kept, and is lost: {reason}");
        Self {
            status: "error".to_owned(),
            error: Some(ErrorClass::RemoteError),
            message,
            hint: None,
            input: Value::Null,
        }
    }

    fn of(outcome: &Outcome) -> (Self, Option<&Payload>) {
        let input = Value::Null;
        let plain = |status: &str| Self {
            status: status.to_owned(),
            error: None,
            message: String::new(),
            hint: None,
            input: Value::Null,
        };
        match outcome {
            Outcome::Value(payload) => (plain("ok"), Some(payload)),
            Outcome::Exception(payload) => (plain("exception"), Some(payload)),
            Outcome::Error(error) => match CallStatus::from(error) {
                CallStatus::Error { error, message, hint } => {
                    (Self { status: "error".to_owned(), error: Some(error), message, hint, input }, None)
                }
                CallStatus::Ok | CallStatus::Exception => (plain("error"), None),
            },
        }
    }

    fn outcome(self, bytes: Vec<u8>) -> Outcome {
        match &*self.status {
            "ok" => Outcome::Value(Payload::Inline(bytes)),
            "exception" => Outcome::Exception(Payload::Inline(bytes)),
            _ => Outcome::Error(CallError::Elsewhere {
                class: self.error.unwrap_or(ErrorClass::ExecutionError),
                message: self.message,
                hint: self.hint,
            }),
        }
    }
}

/// The same outcome for somebody else.
fn copy(outcome: &Outcome) -> Outcome {
    let failed = |error: WireError| {
        let message = format!("the result could not be handed over: {error}");
        Outcome::Error(CallError::Elsewhere { class: ErrorClass::ExecutionError, message, hint: None })
    };
    match outcome {
        Outcome::Value(payload) => payload.try_clone().map_or_else(failed, Outcome::Value),
        Outcome::Exception(payload) => payload.try_clone().map_or_else(failed, Outcome::Exception),
        Outcome::Error(error) => Outcome::Error(error.clone()),
    }
}

/// A call that is spawned now.
fn pending(call: &SpawnedCall<'_>) -> PendingCall {
    PendingCall {
        function: call.function.to_owned(),
        method: call.method.map(str::to_owned),
        variant: call.variant.as_ref().map_or(Value::Null, |request| json!(request)),
        spawned: seconds_since_1970(),
        runs: 1,
        input: call.id.to_string(),
        module: call.module.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lamina_apps::{DeploymentName, Deployments};
    use lamina_store::Layout;

    use super::*;

    /// Keeps what it hears.
    #[derive(Default)]
    struct Heard(Mutex<Vec<Result<Vec<u8>, String>>>);

    impl Caller for Heard {
        fn item(&self, _: Payload) -> Result<(), WireError> {
            Ok(())
        }

        fn end(&self, outcome: Outcome) {
            self.0.lock().unwrap().push(match outcome {
                Outcome::Value(payload) => Ok(payload.into_bytes().unwrap()),
                Outcome::Exception(_) => Err("an exception".to_owned()),
                Outcome::Error(error) => Err(error.to_string()),
            });
        }
    }

    /// The calls of an app, and where they are kept.
    fn fixture() -> (tempfile::TempDir, PathBuf, KeptCalls) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        let kept = layout.deployments().join("main/demo/calls");
        let name = DeploymentName::new("main", "demo").unwrap();
        fs_err::create_dir_all(kept.parent().unwrap()).unwrap();
        let calls = Deployments::new(layout).kept_calls(&name).unwrap();
        (directory, kept, calls)
    }

    fn pending_call() -> PendingCall {
        PendingCall {
            function: "f".to_owned(),
            method: Some("run".to_owned()),
            variant: Value::Null,
            spawned: 1,
            runs: 1,
            input: "in-former".to_owned(),
            module: "app".to_owned(),
        }
    }

    fn input(id: &str, parent: Option<u64>, status: &str) -> Value {
        json!({ "parent": parent, "input_id": id, "function_call_id": "fc-0", "status": status })
    }

    #[test]
    fn graphs_outlive_the_process_and_what_had_not_ended_went_with_it() {
        let (_directory, _, kept) = fixture();
        for name in ["fc-1", "fc-1-1", "fc-1-2"] {
            kept.begin(name, &pending_call(), b"").unwrap();
        }
        let ending = |input| Ending { input, ..Ending::of(&Outcome::Value(Payload::default())).0 };
        for (name, root, called, status, omitted) in
            [("fc-1", "in-a", "in-b", "PENDING", 2), ("fc-1-1", "in-c", "in-d", "FAILURE", 1)]
        {
            let root = input(root, None, "SUCCESS");
            let inputs = [root.clone(), input(called, Some(0), status)];
            kept.keep_graph(name, &json!({ "inputs": inputs, "omitted": omitted })).unwrap();
            kept.end(name, &ending(root), b"").unwrap();
        }
        let calls = SpawnedCalls::new(kept);
        calls.give_up("fc-1-2", &pending_call());
        let graph = calls.graph_of("fc-1").unwrap().unwrap();
        let row = |input: &Value| json!([input["input_id"], input["parent"], input["status"]]);
        let expected = [
            json!(["in-a", null, "SUCCESS"]),
            json!(["in-b", 0, "TERMINATED"]),
            json!(["in-c", null, "SUCCESS"]),
            json!(["in-d", 2, "FAILURE"]),
            json!(["in-former", null, "TERMINATED"]),
        ];
        assert_eq!(graph["inputs"].as_array().unwrap().iter().map(row).collect::<Vec<_>>(), expected);
        assert_eq!((&graph["omitted"], &graph["inputs"][2]["function_call_id"]), (&json!(3), &json!("fc-1")));
        assert_eq!(graph["inputs"][4]["function_name"], "f.run");
        assert!(calls.graph_of("fc-2").unwrap().is_err());
    }

    #[test]
    fn a_result_that_the_disk_does_not_take_is_held_until_it_does() {
        let (_directory, kept, calls) = fixture();
        let (calls, call) = (SpawnedCalls::new(calls), pending_call());
        let begin = |id: &str| {
            let callee: (CallId, Weak<dyn Callee>) = (CallId::new(), Weak::<lamina_functions::Pool>::new());
            calls.begin(id.to_owned(), &call, b"input", callee, None).unwrap()
        };
        let (first, large) = (begin("fc-1"), begin("fc-2"));
        // As a disk that is full, and has room again.
        let away = kept.with_extension("away");
        fs_err::rename(&kept, &away).unwrap();
        first.end(Outcome::Value(Payload::Inline(b"value".to_vec())));
        large.end(Outcome::Value(Payload::Inline(vec![0; HELD_BYTES])));
        let heard = Arc::new(Heard::default());
        let wait = |id: &str| calls.wait_for(id, Arc::clone(&heard) as Arc<dyn Caller>).unwrap();
        assert!(wait("fc-1") && wait("fc-2"));
        fs_err::rename(&away, &kept).unwrap();
        assert!(wait("fc-1"));
        assert!(calls.held().is_empty() && kept.join("fc-1.result").is_file() && !kept.join("fc-1.call").exists());
        assert!(!wait("fc-3"));
        let heard = heard.0.lock().unwrap();
        assert_eq!((&heard[0], &heard[2]), (&Ok(b"value".to_vec()), &Ok(b"value".to_vec())));
        assert!(heard[1].as_ref().unwrap_err().starts_with("the result of the call could not be kept, and is lost: "));
    }
}
