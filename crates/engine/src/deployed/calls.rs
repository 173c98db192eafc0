//! Calls of a deployed app that were spawned: whoever knows their ids gets their results, also from another process of the app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use lamina_apps::{AppsError, KeptCalls, PendingCall};
use lamina_functions::{CallError, CallId, CallStatus, Callee, Caller, Outcome};
use lamina_ground::{ErrorClass, causes, seconds_since_1970};
use lamina_wire::{Payload, WireError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::session::Kept;

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
}

impl SpawnedCalls {
    /// Those of an app, without any that runs.
    pub(super) fn new(kept: KeptCalls) -> Arc<Self> {
        // What cannot be removed now stays.
        let _ = kept.forget_old(SystemTime::now());
        Arc::new(Self { kept, running: Mutex::default(), held: Mutex::default(), ended: Mutex::default() })
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

    /// How many inputs a call has.
    pub(super) fn inputs_of(&self, name: &str) -> Result<usize, AppsError> {
        self.kept.inputs(name)
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
        self.keep(name, Outcome::Error(CallError::Elsewhere { class: ErrorClass::RemoteError, message, hint }));
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
    fn keep(&self, name: &str, outcome: Outcome) {
        if let Outcome::Error(CallError::Stopped { .. }) = outcome {
            // The process ends, or the version that it ran on: whoever comes next decides what becomes of the call.
            let waiting = self.lock().remove(name).map(|call| call.waiting).unwrap_or_default();
            for caller in waiting {
                caller.end(copy(&outcome));
            }
            return;
        }
        let (ending, payload) = Ending::of(&outcome);
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
        }
    }
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
        self.calls.keep(&self.name, outcome);
    }
}

impl Ending {
    /// That of a call whose result is nowhere.
    fn lost(reason: &str) -> Self {
        let message = format!("the result of the call could not be kept, and is lost: {reason}");
        Self { status: "error".to_owned(), error: Some(ErrorClass::RemoteError), message, hint: None }
    }

    fn of(outcome: &Outcome) -> (Self, Option<&Payload>) {
        let plain = |status: &str| Self { status: status.to_owned(), error: None, message: String::new(), hint: None };
        match outcome {
            Outcome::Value(payload) => (plain("ok"), Some(payload)),
            Outcome::Exception(payload) => (plain("exception"), Some(payload)),
            Outcome::Error(error) => match CallStatus::from(error) {
                CallStatus::Error { error, message, hint } => {
                    (Self { status: "error".to_owned(), error: Some(error), message, hint }, None)
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
pub(super) fn pending(call: &Kept<'_>) -> PendingCall {
    PendingCall {
        function: call.function.to_owned(),
        method: call.method.map(str::to_owned),
        variant: call.variant.as_ref().map_or(Value::Null, |request| json!(request)),
        spawned: seconds_since_1970(),
        runs: 1,
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_result_that_the_disk_does_not_take_is_held_until_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        let kept = layout.deployments().join("main/demo/calls");
        let name = DeploymentName::new("main", "demo").unwrap();
        fs_err::create_dir_all(kept.parent().unwrap()).unwrap();
        let calls = SpawnedCalls::new(Deployments::new(layout).kept_calls(&name).unwrap());
        let call = PendingCall {
            function: "f".to_owned(),
            method: None,
            variant: serde_json::Value::Null,
            spawned: 1,
            runs: 1,
        };
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
