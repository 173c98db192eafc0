//! The services of an app, which may call each other.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use lamina_events::{Event, Sink};
use lamina_ground::{ErrorClass, nearest};
use lamina_wire::Payload;

use crate::answer::CallStatus;
use crate::call::{Caller, Outcome};
use crate::calls::{Calls, NamedVariant};
use crate::deadlock;
use crate::elsewhere::{AppReference, Callee, Elsewhere, OtherApp};
use crate::errands::Errands;
use crate::holdings::Holdings;
use crate::ids::CallId;
use crate::options::PoolOptions;
use crate::pool::Pool;
use crate::runner::VariantRequest;
use crate::spawned::{KeepsCalls, SpawnedCall};
use crate::starter::ContainerStarter;

/// Makes what the pool of a variant needs, or says why there cannot be such a one.
pub type MakeVariant =
    Box<dyn Fn(&VariantRequest) -> Result<(PoolOptions, Box<dyn ContainerStarter>), CallStatus> + Send + Sync>;

/// The pools of an app's services, by their names.
pub struct Services {
    pools: HashMap<String, Arc<Pool>>,
    make_variant: MakeVariant,
    variants: Mutex<Variants>,
    /// For the pools that are made later.
    me: Weak<Services>,
    sink: Sink,
    /// Services whose deadlock was reported.
    reported: Mutex<BTreeSet<String>>,
    /// What the inputs that containers have made take up.
    holdings: Arc<Holdings>,
    /// Called when the last container of a service has gone.
    when_empty: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// What reaches other apps.
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    /// What does the errands of containers.
    errands: OnceLock<Arc<dyn Errands>>,
    /// What keeps the calls that are spawned.
    keeper: OnceLock<Arc<dyn KeepsCalls>>,
}

/// The pools of variants, by what tells these apart.
#[derive(Default)]
struct Variants {
    pools: HashMap<String, (VariantRequest, Arc<Pool>)>,
    /// The app stops: there are no further ones.
    stopping: bool,
}

impl Services {
    /// Pools without containers, one for each service; what is called first starts one. `make_variant` makes what
    /// variants of them need.
    pub fn new(
        services: impl IntoIterator<Item = (PoolOptions, Box<dyn ContainerStarter>)>,
        make_variant: MakeVariant,
        sink: &Sink,
    ) -> Arc<Self> {
        let services = Arc::new_cyclic(|all: &Weak<Self>| {
            let pool = |(options, starter): (PoolOptions, _)| {
                (options.name(), Arc::new(Pool::new(options, starter, sink.clone(), all.clone())))
            };
            let pools = services.into_iter().map(pool).collect();
            Self {
                pools,
                make_variant,
                variants: Mutex::default(),
                me: all.clone(),
                sink: sink.clone(),
                reported: Mutex::default(),
                holdings: Arc::default(),
                when_empty: OnceLock::new(),
                elsewhere: OnceLock::new(),
                errands: OnceLock::new(),
                keeper: OnceLock::new(),
            }
        });
        services.pools.values().for_each(|pool| pool.warm());
        services
    }

    /// The pool of a service.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// The pool for a call that came over the connection of `calls`, of a service or of what that connection knows as the
    /// variant `variant`.
    ///
    /// # Errors
    /// When there is no such service, variant or method.
    pub fn find(
        &self,
        calls: &Calls,
        function: &str,
        variant: Option<u64>,
        method: Option<&str>,
    ) -> Result<Arc<Pool>, CallStatus> {
        let pool = self.pool(calls, function, variant)?;
        match pool.refuse(method) {
            None => Ok(pool),
            Some(message) => Err(CallStatus::error(ErrorClass::NotFoundError, message)),
        }
    }

    /// As [`Self::find`], whichever method is called.
    ///
    /// # Errors
    /// When there is no such service or variant.
    pub fn pool(&self, calls: &Calls, function: &str, variant: Option<u64>) -> Result<Arc<Pool>, CallStatus> {
        let missing = |message| CallStatus::error(ErrorClass::NotFoundError, message);
        let pool = match variant {
            None => self.get(function).map(Arc::clone),
            Some(label) => match calls.variant(label) {
                Some(named) => Some(self.named(calls, label, named)?),
                None => return Err(missing(format!("`{function}` has no variant `{label}`"))),
            },
        };
        pool.ok_or_else(|| {
            let known = nearest(function, self.names());
            let meant = known.first().map(|name| format!(": did you mean `{name}`?")).unwrap_or_default();
            missing(format!("the app has no function `{function}`{meant}"))
        })
    }

    /// Lets the connection of `calls` call a variant of a service. What is wrong with it is said to the calls.
    pub fn name_variant(&self, calls: &Calls, request: &VariantRequest) {
        let (services, pool) = (self.me.clone(), self.variant(request).map(|pool| Arc::downgrade(&pool)));
        calls.name_variant(request.variant, NamedVariant { request: Arc::new(request.clone()), services, pool });
    }

    /// The pool of a variant that the connection has named, maybe when another version of the app ran.
    fn named(&self, calls: &Calls, label: u64, named: NamedVariant) -> Result<Arc<Pool>, CallStatus> {
        if Weak::ptr_eq(&named.services, &self.me)
            && let Some(pool) = named.pool?.upgrade()
        {
            return Ok(pool);
        }
        let request = named.request;
        let pool = self.variant(&request);
        let known = pool.as_ref().map(Arc::downgrade).map_err(Clone::clone);
        calls.name_variant(label, NamedVariant { request, services: self.me.clone(), pool: known });
        pool
    }

    /// The pool of a variant.
    ///
    /// # Errors
    /// When there cannot be such a one.
    pub fn variant(&self, request: &VariantRequest) -> Result<Arc<Pool>, CallStatus> {
        let key = request.key();
        let mut variants = self.variants();
        if let Some((_, pool)) = variants.pools.get(&key) {
            return Ok(Arc::clone(pool));
        }
        let (options, starter) = (self.make_variant)(request)?;
        let pool = Arc::new(Pool::new(options, starter, self.sink.clone(), self.me.clone()));
        if variants.stopping {
            pool.begin_stop();
        }
        variants.pools.insert(key, (request.clone(), Arc::clone(&pool)));
        Ok(pool)
    }

    /// All pools, those of variants included.
    fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.values().chain(self.variants().pools.values().map(|(_, pool)| pool)).map(Arc::clone).collect()
    }

    fn variants(&self) -> MutexGuard<'_, Variants> {
        self.variants.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The app that keeps a call, if there is a way to any.
    pub(crate) fn app_of_call(&self, name: &str) -> Option<Result<Arc<dyn OtherApp>, CallStatus>> {
        self.elsewhere.get().map(|elsewhere| elsewhere.app_of_call(name))
    }

    /// Has errands of containers done; without it they are refused.
    pub fn do_errands_by(&self, errands: Arc<dyn Errands>) {
        // Said once, by whoever has made them.
        let _ = self.errands.set(errands);
    }

    pub(crate) fn errands(&self) -> Option<Arc<dyn Errands>> {
        self.errands.get().cloned()
    }

    /// Has the calls kept that are spawned; without it they end with the app.
    pub fn keep_spawned_by(&self, keeper: Arc<dyn KeepsCalls>) {
        // Said once, by whoever has made them.
        let _ = self.keeper.set(keeper);
    }

    /// Whether the calls that are spawned are kept.
    pub(crate) fn keeps_spawned(&self) -> bool {
        self.keeper.get().is_some()
    }

    /// Keeps a call that was spawned, before it runs, if such calls are kept; gives who is to hear how it ends in the place
    /// of `caller`.
    ///
    /// # Errors
    /// When it cannot be kept: it must not run then.
    pub fn keep(
        &self,
        call: &SpawnedCall<'_>,
        callee: Weak<dyn Callee>,
        input: &Payload,
        caller: Arc<dyn Caller>,
    ) -> Result<Arc<dyn Caller>, CallStatus> {
        match self.keeper.get() {
            Some(keeper) => Arc::clone(keeper).keep(call, callee, input, caller),
            None => Ok(caller),
        }
    }

    pub(crate) fn tell_of_empty_pool(&self) {
        if let Some(action) = self.when_empty.get() {
            action();
        }
    }

    /// Whether any service has inputs that have not ended.
    #[must_use]
    pub fn has_inputs(&self) -> bool {
        self.all().iter().any(|pool| pool.has_inputs())
    }

    /// Whether there are neither containers nor inputs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.all().iter().all(|pool| pool.is_idle())
    }

    /// Has `others` run all inputs that can run again, and ends the containers.
    pub fn hand_over_to(&self, others: &Self) {
        let variants: Vec<_> =
            std::mem::replace(&mut *self.variants(), Variants { stopping: true, ..Variants::default() })
                .pools
                .into_values()
                .collect();
        let missing = |name: &str| {
            CallStatus::error(ErrorClass::NotFoundError, format!("the app has no function `{name}` any more"))
        };
        let declared =
            self.pools.iter().map(|(name, pool)| (pool, others.get(name).map(Arc::clone).ok_or_else(|| missing(name))));
        let varied = variants.iter().map(|(request, pool)| (pool, others.variant(request)));
        for (pool, other) in declared.chain(varied) {
            for input in pool.evacuate() {
                match &other {
                    Ok(other) => other.take_over(input),
                    Err(status) => input.caller.end(Outcome::Error(status.clone().into())),
                }
            }
        }
        for (_, pool) in variants {
            pool.stop();
        }
    }

    /// Begins to stop all of them, as [`Pool::begin_stop`].
    pub fn begin_stop(&self) {
        self.variants().stopping = true;
        self.all().iter().for_each(|pool| pool.begin_stop());
    }

    /// Stops all of them, and returns when no container is left.
    pub fn stop(&self) {
        self.begin_stop();
        self.all().iter().for_each(|pool| pool.stop());
    }

    /// A call from a container waits for one of `service`: says so, once for each service, if it waits for itself.
    pub(crate) fn report_deadlock(&self, service: &Pool, call: CallId) {
        // In most cases this is all that is looked at; it has to be little, as a container may make calls without end.
        if self.is_reported(service.name()) || !service.may_be_stuck() {
            return;
        }
        let views: Vec<_> = self.all().iter().map(|pool| pool.view()).collect();
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
