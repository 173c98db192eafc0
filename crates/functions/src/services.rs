//! The services of an app, which may call each other.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lamina_events::{Event, Sink};

use crate::deadlock;
use crate::elsewhere::{AppReference, Elsewhere, OtherApp};
use crate::holdings::Holdings;
use crate::ids::CallId;
use crate::options::PoolOptions;
use crate::pool::Pool;
use crate::starter::ContainerStarter;

/// The pools of an app's services, by their names.
pub struct Services {
    pools: HashMap<String, Arc<Pool>>,
    sink: Sink,
    /// Services whose deadlock was reported.
    reported: Mutex<BTreeSet<String>>,
    /// What the inputs that containers have made take up.
    holdings: Arc<Holdings>,
    /// Called when the last container of a service has gone.
    when_empty: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// What reaches other apps.
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
}

impl Services {
    /// Pools without containers, one for each service; what is called first starts one.
    pub fn new(services: impl IntoIterator<Item = (PoolOptions, Box<dyn ContainerStarter>)>, sink: &Sink) -> Arc<Self> {
        Arc::new_cyclic(|all| {
            let pool = |(options, starter): (PoolOptions, _)| {
                (options.name(), Arc::new(Pool::new(options, starter, sink.clone(), all.clone())))
            };
            let pools = services.into_iter().map(pool).collect();
            Self {
                pools,
                sink: sink.clone(),
                reported: Mutex::default(),
                holdings: Arc::default(),
                when_empty: OnceLock::new(),
                elsewhere: OnceLock::new(),
            }
        })
    }

    /// The pool of a service.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// The names of all services.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pools.keys().map(String::as_str)
    }

    /// Has `action` called whenever the last container of a service has gone. It must not wait for anything.
    pub fn when_empty(&self, action: impl Fn() + Send + Sync + 'static) {
        // Said once, by whoever has made them.
        let _ = self.when_empty.set(Box::new(action));
    }

    /// Lets containers call other apps.
    pub fn reach_others_by(&self, elsewhere: Arc<dyn Elsewhere>) {
        // Said once, by whoever has made them.
        let _ = self.elsewhere.set(elsewhere);
    }

    /// Another app, if there is a way to any.
    pub(crate) fn other_app(&self, app: &AppReference) -> Option<Arc<dyn OtherApp>> {
        self.elsewhere.get().map(|elsewhere| elsewhere.app(app))
    }

    pub(crate) fn tell_of_empty_pool(&self) {
        if let Some(action) = self.when_empty.get() {
            action();
        }
    }

    /// Whether any service has inputs that have not ended.
    #[must_use]
    pub fn has_inputs(&self) -> bool {
        self.pools.values().any(|pool| pool.has_inputs())
    }

    /// Whether there are neither containers nor inputs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pools.values().all(|pool| pool.is_idle())
    }

    /// Begins to stop all of them, as [`Pool::begin_stop`].
    pub fn begin_stop(&self) {
        self.pools.values().for_each(|pool| pool.begin_stop());
    }

    /// Stops all of them, and returns when no container is left.
    pub fn stop(&self) {
        self.begin_stop();
        self.pools.values().for_each(|pool| pool.stop());
    }

    /// A call from a container waits for one of `service`: says so, once for each service, if it waits for itself.
    pub(crate) fn report_deadlock(&self, service: &Pool, call: CallId) {
        // In most cases this is all that is looked at; it has to be little, as a container may make calls without end.
        if self.is_reported(service.name()) || !service.may_be_stuck() {
            return;
        }
        let views: Vec<_> = self.pools.values().map(|pool| pool.view()).collect();
        let Some(path) = deadlock::find(&views, call) else { return };
        if self.reported().insert(service.name().to_owned()) {
            self.sink.emit(Event::CallStuck { path, max_containers: service.maximum() });
        }
    }

    /// What the inputs that containers have made take up.
    pub(crate) fn holdings(&self) -> &Arc<Holdings> {
        &self.holdings
    }

    fn is_reported(&self, service: &str) -> bool {
        self.reported().contains(service)
    }

    fn reported(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Services").field("pools", &self.pools).finish_non_exhaustive()
    }
}
