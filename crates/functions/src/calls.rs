//! The calls that somebody has made and that have not ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lamina_ground::ErrorClass;

use crate::answer::CallStatus;
use crate::elsewhere::Callee;
use crate::ids::{CallId, ConnectionId, FunctionCallId};
use crate::pool::Pool;
use crate::runner::VariantRequest;
use crate::services::Services;

/// The open calls of one connection, by its own labels: those of a session, or of the runner in a container. It knows
/// which service has each of them, so that nobody has to ask all.
#[derive(Debug)]
pub struct Calls {
    connection: ConnectionId,
    open: Mutex<HashMap<u64, OpenCall>>,
    /// The variants of services that it has named, and which it was refused.
    variants: Mutex<HashMap<u64, NamedVariant>>,
}

/// A variant of a service that a connection knows by a label.
#[derive(Debug, Clone)]
pub(crate) struct NamedVariant {
    pub(crate) request: Arc<VariantRequest>,
    /// The version of the app that `pool` is of.
    pub(crate) services: Weak<Services>,
    /// Its pool, or why there is none.
    pub(crate) pool: Result<Weak<Pool>, CallStatus>,
}

/// A call that has not ended.
#[derive(Clone)]
pub struct OpenCall {
    /// Its id.
    pub id: CallId,
    /// Who has it: a pool, or another app.
    pub callee: Weak<dyn Callee>,
    /// The input that made it, if it was one.
    pub input: Option<CallId>,
    /// Whether it goes on when whoever made it has ended.
    pub is_spawned: bool,
}

impl std::fmt::Debug for OpenCall {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenCall").field("id", &self.id).finish_non_exhaustive()
    }
}

impl OpenCall {
    fn is_awaited_by(&self, input: CallId) -> bool {
        !self.is_spawned && self.input == Some(input)
    }

    fn cancel(&self, terminate: bool) {
        if let Some(callee) = self.callee.upgrade() {
            // One that has ended meanwhile was answered.
            let _ = if terminate { callee.terminate(self.id) } else { callee.cancel(self.id) };
        }
    }
}

impl Default for Calls {
    /// Those of a new connection.
    fn default() -> Self {
        Self { connection: ConnectionId::new(), open: Mutex::default(), variants: Mutex::default() }
    }
}

impl Calls {
    /// The function call that a call belongs to: that of the first call of a `.map`, else its own.
    #[must_use]
    pub fn function_call(&self, label: u64, first: Option<u64>) -> FunctionCallId {
        self.connection.function_call(first.unwrap_or(label))
    }

    /// Notes a call before it is submitted; false when another one has its label.
    #[must_use]
    pub fn open(&self, label: u64, call: OpenCall) -> bool {
        let mut open = self.lock();
        let is_new = !open.contains_key(&label);
        if is_new {
            open.insert(label, call);
        }
        is_new
    }

    /// Notes under which label the connection knows a variant of a service.
    pub(crate) fn name_variant(&self, label: u64, variant: NamedVariant) {
        self.variants.lock().unwrap_or_else(PoisonError::into_inner).insert(label, variant);
    }

    /// Notes what a variant of another app's service is.
    pub(crate) fn note_variant(&self, request: VariantRequest) {
        let label = request.variant;
        let elsewhere = CallStatus::error(ErrorClass::NotFoundError, "it is of another app".to_owned());
        let request = Arc::new(request);
        self.name_variant(label, NamedVariant { request, services: Weak::new(), pool: Err(elsewhere) });
    }

    /// The variant that the connection knows under a label, if there is one.
    pub(crate) fn variant(&self, label: u64) -> Option<NamedVariant> {
        self.variants.lock().unwrap_or_else(PoisonError::into_inner).get(&label).cloned()
    }

    /// Notes that another callee has a call from now on.
    pub fn redirect(&self, label: u64, callee: &Weak<dyn Callee>) {
        if let Some(call) = self.lock().get_mut(&label) {
            call.callee = Weak::clone(callee);
        }
    }

    /// What a variant that the connection has named is.
    #[must_use]
    pub fn variant_request(&self, label: u64) -> Option<Arc<VariantRequest>> {
        self.variant(label).map(|named| named.request)
    }

    /// Forgets a call that has ended.
    pub fn close(&self, label: u64) {
        self.lock().remove(&label);
    }

    /// Cancels a call, and has the container that runs it killed if it is to `terminate`. One that has ended was answered
    /// already.
    pub fn cancel(&self, label: u64, terminate: bool) {
        let call = self.lock().get(&label).cloned();
        if let Some(call) = call {
            call.cancel(terminate);
        }
    }

    /// Items of a generator's call were consumed; those of a call that has ended matter to nobody.
    pub fn more(&self, label: u64, count: u64) {
        let call = self.lock().get(&label).cloned();
        if let Some((id, callee)) = call.and_then(|call| Some((call.id, call.callee.upgrade()?))) {
            let _ = callee.more(id, count);
        }
    }

    /// Whoever made the calls is gone: cancels those that were not spawned.
    pub fn cancel_awaited(&self) {
        self.cancel_all(|call| !call.is_spawned);
    }

    /// An input has failed: cancels what it has called, but for what it has spawned.
    pub(crate) fn cancel_awaited_by(&self, input: CallId) {
        self.cancel_all(|call| call.is_awaited_by(input));
    }

    /// The calls whose results an input waits for, or will.
    pub(crate) fn awaited_by(&self, input: CallId) -> Vec<CallId> {
        self.lock().values().filter(|call| call.is_awaited_by(input)).map(|call| call.id).collect()
    }

    /// Whether an input waits for any call.
    pub(crate) fn is_any_awaited_by(&self, input: CallId) -> bool {
        self.lock().values().any(|call| call.is_awaited_by(input))
    }

    fn cancel_all(&self, is_concerned: impl Fn(&OpenCall) -> bool) {
        let concerned: Vec<OpenCall> = self.lock().values().filter(|call| is_concerned(call)).cloned().collect();
        // Not under the lock: their ends come back here.
        for call in &concerned {
            call.cancel(false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, OpenCall>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
