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

/// The spawned calls of the app that runs in this process.
pub(super) struct SpawnedCalls {
    kept: KeptCalls,
    running: Mutex<HashMap<String, RunningCall>>,
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
#[derive(Serialize, Deserialize)]
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
        Arc::new(Self { kept, running: Mutex::default(), ended: Mutex::default() })
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
        let (id, callee) = callee;
        self.lock().insert(name.clone(), RunningCall { id, callee, waiting: caller.into_iter().collect() });
        Ok(Arc::new(Spawned { calls: Arc::clone(self), name }))
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
        let Some((ending, bytes)) = self.kept.result::<Ending>(name)? else { return Ok(false) };
        caller.end(ending.outcome(bytes));
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, RunningCall>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
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
        let kept = bytes.map_err(|error| error.to_string());
        let kept = kept.and_then(|bytes| self.kept.end(name, &ending, &bytes).map_err(|error| causes(&error)));
        if let Err(reason) = kept {
            tracing::warn!(call = name, reason, "the result could not be kept");
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
