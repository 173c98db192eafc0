//! The calls of a Python process and what else it asks for in their form, and the answers.

use std::sync::{Arc, Weak};

use lamina_functions::{
    CallAnswer, CallId, CallStatus, Callee, Caller, Calls, FunctionCallId, OpenCall, Outcome, Pool, SpawnedCall,
};
use lamina_ground::ErrorClass;
use lamina_wire::{Payload, Sender, WireError};
use serde_json::{Map, Value};

use super::{Role, Session};
use crate::failure::{naming_record, of_call};
use crate::host::{Host, Running};
use crate::protocol::{CallRequest, Failure, PoolRequest};

/// A call that Python waits for.
pub(super) struct PythonCall {
    pub(super) sender: Sender,
    pub(super) calls: Arc<Calls>,
    pub(super) call: u64,
}

impl PythonCall {
    /// Hands an answer on. A client that is attached and does not read is given up: the container has others to serve.
    fn forward(&self, answer: &CallAnswer, payload: &Payload) -> Result<(), WireError> {
        let sent = self.sender.forward(&answer.encode(), payload);
        if matches!(&sent, Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock) {
            self.sender.shutdown();
            return Ok(());
        }
        sent
    }
}

impl Caller for PythonCall {
    fn item(&self, payload: Payload) -> Result<(), WireError> {
        self.forward(&CallAnswer::Item { call: self.call }, &payload)
    }

    fn moved(&self, callee: &Weak<dyn Callee>) {
        self.calls.redirect(self.call, callee);
    }

    fn end(&self, outcome: Outcome) {
        self.calls.close(self.call);
        let (status, payload) = match outcome {
            Outcome::Value(payload) => (CallStatus::Ok, payload),
            Outcome::Exception(payload) => (CallStatus::Exception, payload),
            Outcome::Error(error) => {
                // Not the message, which may have what the container printed last.
                tracing::info!(call = self.call, error = ?error.class(), "call");
                (of_call(&error), Payload::default())
            }
        };
        let Err(error) = self.forward(&CallAnswer::Result { call: self.call, status }, &payload) else {
            return;
        };
        // If only the payload was the trouble, the caller still learns of it; if Python is gone, this fails too.
        let message = naming_record(&format!("the result could not be handed over: {error}"));
        let status = CallStatus::error(ErrorClass::ExecutionError, message);
        let _ = self.forward(&CallAnswer::Result { call: self.call, status }, &Payload::default());
    }
}

impl Session<'_> {
    /// Tells of the containers of a service, once it keeps as many as are wanted.
    pub(super) fn pool(&self, request: &PoolRequest) -> Result<Value, Failure> {
        let host = self.host().ok_or_else(|| Failure::new(ErrorClass::NotFoundError, "no app runs"))?;
        let ask = |running: &Running| request.question.ask(&running.services, &self.calls);
        host.with_current(ask).map_err(Failure::from)
    }

    pub(super) fn host(&self) -> Option<Arc<Host>> {
        self.lock().host().map(Arc::clone)
    }

    pub(super) fn call(&self, request: CallRequest, payload: Payload) {
        let Some(host) = self.host() else {
            let message = format!("function `{}` was called, but no app runs", request.function);
            return self.refuse(request.call, CallStatus::error(ErrorClass::NotFoundError, message));
        };
        host.with_current(|running| self.call_on(running, request, payload));
    }

    /// Hands a call to the version of the app that runs.
    pub(super) fn call_on(&self, running: &Running, request: CallRequest, payload: Payload) {
        let (part_of, name) = match self.names_of(&request) {
            Ok(names) => names,
            Err(status) => return self.refuse(request.call, status),
        };
        let CallRequest { call, function, method, variant, identify, spawned, .. } = request;
        let pool = match running.services.find(&self.calls, &function, variant, method.as_deref()) {
            Ok(pool) => pool,
            Err(status) => return self.refuse(call, status),
        };
        let id = CallId::new();
        let callee = Arc::downgrade(&pool) as Weak<dyn Callee>;
        let open = OpenCall { id, callee, input: None, is_spawned: spawned };
        if !self.calls.open(call, open) {
            let message = format!("two calls have the number `{call}`");
            return self.refuse(call, CallStatus::error(ErrorClass::ExecutionError, message));
        }
        let accepted = name.clone().unwrap_or_else(|| part_of.to_string());
        let (sender, calls) = (self.sender.clone(), Arc::clone(&self.calls));
        let mut caller: Arc<dyn Caller> = Arc::new(PythonCall { sender, calls, call });
        if let Some(name) = name {
            let kept = SpawnedCall::new(id, name, &pool, method.as_deref(), &self.calls, variant);
            match running.services.keep(&kept, Arc::downgrade(&pool) as Weak<dyn Callee>, &payload, caller) {
                Ok(keeping) => caller = keeping,
                Err(status) => {
                    self.calls.close(call);
                    return self.refuse(call, status);
                }
            }
        }
        if spawned {
            caller = pool.record_spawned(id, part_of, method.as_deref(), caller);
        }
        if identify {
            let accepted = CallAnswer::Accepted { call, id: accepted };
            // As in `answer`.
            let _ = self.sender.send(&accepted.encode(), &[], &[]);
        }
        pool.submit(id, part_of, method.map(Arc::from), payload, caller);
    }

    /// The function call that a call belongs to, and the name that it is kept under if it was spawned: of a call of several
    /// inputs, the first one has its id.
    fn names_of(&self, request: &CallRequest) -> Result<(FunctionCallId, Option<String>), CallStatus> {
        let CallRequest { call, map, index, part_of, spawned, .. } = request;
        let Some(of) = part_of else {
            let id = self.calls.function_call(*call, *map);
            return Ok((id, spawned.then(|| SpawnedCall::name(id, map.is_some(), *index)).flatten()));
        };
        let (true, Some(index)) = (*spawned && FunctionCallId::is_text(of), *index) else {
            let message = format!("there is no call `{of}` that could have further inputs");
            return Err(CallStatus::error(ErrorClass::ExecutionError, message));
        };
        // Another process of the app may have got the first one.
        let id = FunctionCallId::of_text(of).unwrap_or_else(|| self.calls.function_call(*call, None));
        Ok((id, Some(SpawnedCall::further(of, index))))
    }

    /// Has the client hear how a call ends that was spawned before, perhaps by somebody else.
    pub(super) fn await_kept(&self, call: u64, name: &str) {
        let Role::Guest(keeper) = self.role else {
            let status = CallStatus::error(ErrorClass::NotFoundError, format!("there is no call `{name}` here"));
            return self.refuse(call, status);
        };
        let (id, callee) = keeper.kept_callee(name).unwrap_or_else(|| (CallId::new(), Weak::<Pool>::new()));
        let open = OpenCall { id, callee, input: None, is_spawned: true };
        if !self.calls.open(call, open) {
            let message = format!("two calls have the number `{call}`");
            return self.refuse(call, CallStatus::error(ErrorClass::ExecutionError, message));
        }
        let (sender, calls) = (self.sender.clone(), Arc::clone(&self.calls));
        let failure = match keeper.wait_for(name, Arc::new(PythonCall { sender, calls, call })) {
            // Who has its result by now takes no notice.
            Ok(true) => {
                let _ = self.sender.forward(&CallAnswer::Pending { call }.encode(), &Payload::default());
                return;
            }
            Ok(false) => Failure::new(
                ErrorClass::NotFoundError,
                format!(
                    "there is no call `{name}`: results are kept for seven days, and at most a gibibyte for an app"
                ),
            ),
            Err(failure) => failure,
        };
        self.calls.close(call);
        self.refuse(call, failure.into());
    }

    /// How many inputs a call has that is kept.
    pub(super) fn inputs_of(&self, name: &str) -> Result<Value, Failure> {
        match self.role {
            Role::Guest(keeper) => Ok(keeper.inputs_of(name)?.into()),
            Role::Owner => Err(Failure::new(ErrorClass::NotFoundError, format!("there is no call `{name}` here"))),
        }
    }

    /// Something that is no call, and is answered like one.
    pub(super) fn errand(&self, call: u64, errand: Map<String, Value>, payload: Payload) {
        let sender = self.sender.clone();
        let answer = move |answer: CallAnswer, payload: Payload| {
            // As in `answer`.
            let _ = sender.forward(&answer.encode(), &payload);
        };
        self.errands.begin(self.backend.errands(), call, errand, payload, answer);
    }

    pub(super) fn refuse(&self, call: u64, status: CallStatus) {
        let answer = CallAnswer::Result { call, status };
        // As in `answer`.
        let _ = self.sender.send(&answer.encode(), &[], &[]);
    }
}
