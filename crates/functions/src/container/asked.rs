//! What code in a container asks for: calls of services, and questions about them.

use std::sync::{Arc, Weak};

use lamina_ground::ErrorClass;
use lamina_wire::Payload;
use serde_json::{Map, Value};

use super::Container;
use crate::answer::{CallAnswer, CallStatus};
use crate::call::Caller;
use crate::calls::OpenCall;
use crate::elsewhere::{AppReference, Callee, ElsewhereAnswer, KeptQuestion, OtherApp, Service};
use crate::graph::{CallGraph, NewCall};
use crate::ids::CallId;
use crate::link::RunnerCall;
use crate::pool::Pool;
use crate::question::PoolQuestion;
use crate::runner::RunnerRequest;
use crate::services::Services;
use crate::spawned::SpawnedCall;

impl Container {
    /// The runner calls a service of its app.
    pub(super) fn call(&self, request: RunnerRequest, payload: Payload) -> Result<(), String> {
        let services = self.seat.services();
        let refuse = |status| {
            self.link.answer(&CallAnswer::Result { call: request.call, status }, Payload::default());
            Ok(())
        };
        let refuse_as = |message: &str| refuse(CallStatus::error(ErrorClass::ExecutionError, message.to_owned()));
        let Some(services) = services else { return refuse_as("the app has ended") };
        let RunnerRequest { function, method, variant, .. } = &request;
        let callee = match &request.app {
            Some(app) => match services.other_app(app) {
                Some(other) => Callees::Other(other),
                None => return refuse_as("other apps cannot be reached from here"),
            },
            None => match services.find(&self.link.calls, function, *variant, method.as_deref()) {
                Ok(pool) => Callees::Pool(pool),
                Err(status) => return refuse(status),
            },
        };
        let Some(held) = services.holdings().take(&payload) else {
            let message = format!(
                "the call of `{}` was refused: the inputs that containers of this app have made and that have not ended \
                 take up {}: make fewer or smaller ones at a time",
                request.function,
                services.holdings()
            );
            return refuse(CallStatus::error(ErrorClass::ExecutionError, message));
        };
        let id = CallId::new();
        let open = OpenCall {
            id,
            callee: callee.downgrade(),
            input: request.input.map(CallId::from_number),
            is_spawned: request.spawned,
        };
        if !self.link.calls.open(request.call, open) {
            return Err(format!("it gave two calls the number `{}`", request.call));
        }
        let part_of = self.link.calls.function_call(request.call, request.map);
        // A spawned call outlives this container, so there is no use in having the container wait for it.
        let weight = if request.spawned { 0 } else { lamina_wire::weight(&payload) };
        let mut caller: Arc<dyn Caller> = Arc::new(RunnerCall::new(&self.link, request.call, weight, held));
        if let Callees::Pool(pool) = &callee {
            match self.keep(&services, pool, &request, id, &payload, caller) {
                Ok(keeping) => caller = keeping,
                Err(status) => {
                    self.link.calls.close(request.call);
                    return refuse(status);
                }
            }
            // Other apps know their calls under ids of their own.
            if request.identify {
                let accepted = CallAnswer::Accepted { call: request.call, id: part_of.to_string() };
                self.link.answer(&accepted, Payload::default());
            }
        }
        let new = NewCall {
            id,
            part_of,
            parent: request.input.map(CallId::from_number),
            is_spawned: request.spawned,
            function: &request.function,
            method: request.method.as_deref(),
            module: callee.module(),
        };
        let caller = CallGraph::of_process().record(&new, caller);
        match callee {
            Callees::Other(other) => {
                let variant = request.variant.and_then(|label| self.link.calls.variant_request(label));
                let service = Service { name: &request.function, method: request.method.as_deref(), variant };
                other.submit(service, id, request.purpose(), payload, caller);
            }
            Callees::Pool(pool) => {
                let method = request.method.map(Arc::from);
                if !pool.submit(id, part_of, method, payload, caller) && !request.spawned {
                    services.report_deadlock(&pool, id);
                }
            }
        }
        Ok(())
    }

    /// Keeps a call of the app's own, if it was spawned and such calls are kept; gives who is to hear how it ends.
    fn keep(
        &self,
        services: &Services,
        pool: &Arc<Pool>,
        request: &RunnerRequest,
        id: CallId,
        payload: &Payload,
        caller: Arc<dyn Caller>,
    ) -> Result<Arc<dyn Caller>, CallStatus> {
        let RunnerRequest { call, map, index, variant, .. } = *request;
        let part_of = self.link.calls.function_call(call, map);
        let name = request.spawned.then(|| SpawnedCall::name(part_of, map.is_some(), index)).flatten();
        let Some(name) = name else { return Ok(caller) };
        let spawned = SpawnedCall::new(id, name, pool, request.method.as_deref(), &self.link.calls, variant);
        services.keep(&spawned, Arc::downgrade(pool) as Weak<dyn Callee>, payload, caller)
    }

    /// The runner asks for the result of a call that somebody has spawned on a deployed app.
    pub(super) fn await_kept(&self, label: u64, name: &str) -> Result<(), String> {
        let refuse = |status| {
            self.link.answer(&CallAnswer::Result { call: label, status }, Payload::default());
            Ok(())
        };
        let refuse_as = |message: &str| refuse(CallStatus::error(ErrorClass::ExecutionError, message.to_owned()));
        let Some(services) = self.seat.services() else { return refuse_as("the app has ended") };
        let other = match self.app_of_call(name).unwrap_or_else(|| Err(no_way())) {
            Ok(other) => other,
            Err(status) => return refuse(status),
        };
        let Some(held) = services.holdings().take(&Payload::default()) else {
            return refuse_as("containers of this app wait for too many calls: wait for fewer at a time");
        };
        let callee = Arc::downgrade(&other) as Weak<dyn Callee>;
        let id = CallId::new();
        // It goes on when whoever asks has ended: others have spawned it.
        if !self.link.calls.open(label, OpenCall { id, callee, input: None, is_spawned: true }) {
            return Err(format!("it gave two calls the number `{label}`"));
        }
        other.await_kept(name, id, Arc::new(RunnerCall::new(&self.link, label, 0, held)));
        Ok(())
    }

    /// The runner asks how many inputs a call has that somebody has spawned on a deployed app.
    pub(super) fn tell_of_inputs(&self, call: u64, name: &str) {
        match self.app_of_call(name).unwrap_or_else(|| Err(no_way())) {
            Ok(other) => other.about_kept(KeptQuestion::Inputs, name, self.answer_later(call)),
            Err(status) => self.answer_with(call, Err(status)),
        }
    }

    /// The runner asks what a call has called: this process knows, or that of the app that keeps it.
    pub(super) fn tell_of_graph(&self, call: u64, name: &str) {
        let here = CallGraph::of_process().of(name);
        match self.app_of_call(name) {
            Some(Ok(other)) if here.is_err() => {
                other.about_kept(KeptQuestion::Graph, name, self.answer_later(call));
            }
            _ => self.answer_with(call, here),
        }
    }

    fn app_of_call(&self, name: &str) -> Option<Result<Arc<dyn OtherApp>, CallStatus>> {
        self.seat.services().and_then(|services| services.app_of_call(name))
    }

    /// The runner asks for the functions of a deployed app.
    pub(super) fn tell_of_functions(&self, call: u64, app: &AppReference) {
        match self.other_app(app) {
            Ok(other) => other.functions(self.answer_later(call)),
            Err(status) => self.answer_with(call, Err(status)),
        }
    }

    fn other_app(&self, app: &AppReference) -> Result<Arc<dyn OtherApp>, CallStatus> {
        let other = self.seat.services().and_then(|services| services.other_app(app));
        other.ok_or_else(no_way)
    }

    /// The runner asks for the containers of a service.
    pub(super) fn tell_of_pool(&self, call: u64, app: Option<&AppReference>, question: PoolQuestion) {
        if let Some(app) = app {
            let variant = question.variant().and_then(|label| self.link.calls.variant_request(label));
            return match self.other_app(app) {
                Ok(other) => other.pool(question, variant, self.answer_later(call)),
                Err(status) => self.answer_with(call, Err(status)),
            };
        }
        let gone = || CallStatus::error(ErrorClass::ExecutionError, "the app has ended".to_owned());
        let services = self.seat.services().ok_or_else(gone);
        self.answer_with(call, services.and_then(|services| question.ask(&services, &self.link.calls)));
    }

    /// Answers a question of the runner.
    pub(super) fn answer_with(&self, call: u64, outcome: Result<Value, CallStatus>) {
        self.answer_later(call)(outcome);
    }

    /// What answers a question of the runner, in whichever thread.
    fn answer_later(&self, call: u64) -> ElsewhereAnswer {
        let link = Arc::clone(&self.link);
        Box::new(move |outcome| {
            let answer = match outcome {
                Ok(value) => CallAnswer::done(call, value),
                Err(status) => CallAnswer::Result { call, status },
            };
            link.answer(&answer, Payload::default());
        })
    }

    /// The runner asks for something that is no call.
    pub(super) fn errand(&self, call: u64, errand: Map<String, Value>, payload: Payload) {
        let link = Arc::clone(&self.link);
        let answer = move |answer: CallAnswer, payload| link.answer(&answer, payload);
        let Some(errands) = self.seat.services().and_then(|services| services.errands()) else {
            let status = CallStatus::error(ErrorClass::ExecutionError, "the app is stopping".to_owned());
            return answer(CallAnswer::Result { call, status }, Payload::default());
        };
        self.link.errands.begin(errands, call, errand, payload, answer);
    }
}

/// That there are no other apps here, or that this one has ended.
fn no_way() -> CallStatus {
    CallStatus::error(ErrorClass::ExecutionError, "other apps cannot be reached from here".to_owned())
}

/// Who runs what a container calls.
enum Callees {
    Pool(Arc<Pool>),
    Other(Arc<dyn OtherApp>),
}

impl Callees {
    fn downgrade(&self) -> Weak<dyn Callee> {
        match self {
            Self::Pool(pool) => Arc::downgrade(pool) as Weak<dyn Callee>,
            Self::Other(other) => Arc::downgrade(other) as Weak<dyn Callee>,
        }
    }

    /// The module of the service, where that is known.
    fn module(&self) -> Option<&str> {
        match self {
            Self::Pool(pool) => Some(pool.module()),
            Self::Other(_) => None,
        }
    }
}
