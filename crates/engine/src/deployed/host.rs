//! The process of a deployed app: its versions, its clients, and when it ends.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lamina_apps::{AppListener, AppsError, Deployment, PendingCall, RunningHost};
use lamina_events::{Event, Sink};
use lamina_functions::{CallId, Callee, Caller, Calls, KeepsCalls, VariantRequest};
use lamina_ground::ErrorClass;
use lamina_wire::Payload;
use serde_json::Value;

use crate::Engine;

use super::calls::SpawnedCalls;
use super::timers::Timers;
use crate::host::{Host, Running};
use crate::protocol::Failure;
use crate::session::{GUEST_PATIENCE, Keeper, Role, converse};

/// How often versions that end are looked at while there are some.
const WHILE_DRAINING: Duration = Duration::from_millis(100);

/// How long a process waits for its first client.
const FIRST_CLIENT: Duration = Duration::from_secs(10);

/// Serves a deployed app in this process, until nobody is connected with it and its last container has gone, or the
/// engine's token is cancelled.
///
/// # Errors
/// When calls cannot be kept.
pub fn serve_deployed(
    engine: &Engine,
    app: &RunningHost,
    listener: &AppListener,
    sink: &Sink,
) -> Result<(), AppsError> {
    let keeper = DeployedApp {
        engine,
        app,
        sink,
        state: Mutex::default(),
        changed: Arc::default(),
        calls: SpawnedCalls::new(app.deployments().kept_calls(app.name())?),
        was_used: AtomicBool::new(false),
    };
    let changed = Arc::clone(&keeper.changed);
    let _cancelled = engine.cancel.on_cancel(move || changed.tell());
    let serve = |socket: UnixStream| {
        keeper.serve(socket);
        Told(&keeper.changed)
    };
    listener.serve_during(serve, || keeper.wait_until_unneeded(listener));
    keeper.stop();
    keeper.calls.keep_held();
    keeper.calls.keep_unfinished();
    Ok(())
}

/// Something that others wait for a change of.
#[derive(Default)]
struct Changed {
    is_due: Mutex<bool>,
    told: Condvar,
}

impl Changed {
    fn tell(&self) {
        *self.is_due.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    /// Waits for the next change, at most so long.
    fn wait(&self, at_most: Option<Duration>) {
        let due = self.is_due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = match at_most {
            None => self.told.wait_while(due, |due| !*due).unwrap_or_else(PoisonError::into_inner),
            Some(at_most) => {
                self.told.wait_timeout_while(due, at_most, |due| !*due).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *due = false;
    }
}

/// Tells of a change when it is dropped.
struct Told<'a>(&'a Changed);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.tell();
    }
}

/// A deployed app in its process.
struct DeployedApp<'a> {
    engine: &'a Engine,
    app: &'a RunningHost,
    sink: &'a Sink,
    state: Mutex<State>,
    changed: Arc<Changed>,
    /// The calls that were spawned.
    calls: Arc<SpawnedCalls>,
    /// Whether there was a client.
    was_used: AtomicBool,
}

/// What runs.
#[derive(Default)]
struct State {
    /// The app, once somebody has attached to it, and the number of the version that calls get.
    current: Option<(u32, Arc<Host>)>,
    /// Versions that clients have asked for by their numbers.
    pinned: HashMap<u32, Arc<Host>>,
    /// What runs by itself.
    timers: Timers,
    /// Former versions whose inputs have not ended.
    draining: Vec<Arc<Running>>,
}

impl DeployedApp<'_> {
    fn serve(&self, socket: UnixStream) {
        self.was_used.store(true, Ordering::Relaxed);
        // Without a limit a client that does not read would keep containers waiting.
        if socket.set_write_timeout(Some(GUEST_PATIENCE)).is_ok() {
            // A client that breaks the protocol was told.
            let _ = converse(self.engine, socket, self.sink, &self.engine.cancel, Role::Guest(self));
        }
    }

    /// Returns when the process may end: nobody can connect any more then.
    fn wait_until_unneeded(&self, listener: &AppListener) {
        let begun = Instant::now();
        loop {
            if self.engine.cancel.is_cancelled() {
                return;
            }
            let is_draining = self.drain();
            let due = self.run_due();
            // Whoever has started this process is about to connect.
            let is_expecting = !self.was_used.load(Ordering::Relaxed) && begun.elapsed() < FIRST_CLIENT;
            let is_idle = self.is_idle();
            if !is_draining && !is_expecting && due.is_none() && is_idle && listener.close_if_unused() {
                return;
            }
            if is_idle && !is_expecting {
                // A client or a schedule keeps it, perhaps for days.
                lamina_system::release_code();
            }
            let draining = is_draining.then_some(WHILE_DRAINING);
            let expecting = is_expecting.then_some(FIRST_CLIENT);
            self.changed.wait([draining, expecting, due].into_iter().flatten().min());
        }
    }

    /// Begins the runs that are due; how long to wait for the next, if there is one.
    fn run_due(&self) -> Option<Duration> {
        let mut state = self.lock();
        let State { current, timers, .. } = &mut *state;
        let (_, host) = current.as_ref().filter(|_| !timers.is_empty())?;
        host.with_current(|running| timers.run_due(running, Timestamp::now(), self.sink))
    }

    /// Ends former versions whose inputs have ended; whether there are others.
    fn drain(&self) -> bool {
        let ended: Vec<_> = {
            let mut state = self.lock();
            let (draining, ended) = state.draining.drain(..).partition(|running| running.services.has_inputs());
            state.draining = draining;
            ended
        };
        // Their containers leave in order, which may take a while.
        for running in ended {
            running.services.stop();
        }
        !self.lock().draining.is_empty()
    }

    /// Whether there are no containers and no inputs.
    fn is_idle(&self) -> bool {
        let state = self.lock();
        let mut hosts = state.current.iter().map(|(_, host)| host).chain(state.pinned.values());
        hosts.all(|host| host.current().services.is_idle())
    }

    fn stop(&self) {
        let State { current, pinned, draining, .. } = std::mem::take(&mut *self.lock());
        for running in &draining {
            running.services.begin_stop();
        }
        if let Some((_, host)) = current {
            host.stop();
        }
        for host in pinned.into_values() {
            host.stop();
        }
        for running in draining {
            running.services.stop();
        }
    }

    /// Makes a version ready.
    fn load(&self, deployment: &Deployment, number: u32) -> Result<Arc<Running>, Failure> {
        let loaded = self.engine.load_version(self.app.deployments(), deployment, Some(number), self.sink);
        if loaded.is_err() && self.engine.store.is_over() {
            // What runs would go on, but nobody could come any more: the next process opens the store anew.
            let message = "the store worker has ended, and with it this process ends: the next call starts it again";
            self.sink.emit(Event::Warning { message: message.to_owned() });
            self.engine.cancel.cancel();
        }
        let running = loaded?;
        let changed = Arc::clone(&self.changed);
        running.services.when_empty(move || changed.tell());
        running.services.keep_spawned_by(Arc::clone(&self.calls) as Arc<dyn KeepsCalls>);
        Ok(running)
    }

    fn host_of(&self, deployment: &Deployment, number: u32) -> Result<Arc<Host>, Failure> {
        Ok(Host::new(deployment.id.clone(), Some(deployment.name.clone()), self.load(deployment, number)?))
    }

    /// Takes over the version that is the current one now.
    fn take_over(&self, state: &mut State, deployment: &Deployment) -> Result<Arc<Host>, Failure> {
        let number = deployment.current;
        if let Some((running, host)) = &mut state.current
            && host.id() == deployment.id
        {
            if *running != number {
                let former = host.replace(self.load(deployment, number)?);
                *running = number;
                state.draining.push(former);
                state.timers = Timers::new(&host.current(), deployed(deployment), Timestamp::now());
            }
            return Ok(Arc::clone(host));
        }
        let host = self.host_of(deployment, number)?;
        if let Some((_, former)) = state.current.replace((number, Arc::clone(&host))) {
            // It was stopped, and another app got its name.
            former.stop();
        }
        state.timers = Timers::new(&host.current(), deployed(deployment), Timestamp::now());
        self.take_up(&host.current(), false)?;
        Ok(host)
    }

    /// Runs calls again that nobody runs any more: those of functions with retries, or all; the others are lost.
    fn take_up(&self, running: &Running, all: bool) -> Result<(), Failure> {
        for (name, call, input) in self.calls.left()? {
            if self.calls.callee(&name).is_some() {
                continue;
            }
            let retries = running.retries.get(&call.function).copied().unwrap_or(0);
            let pool = match serde_json::from_value::<VariantRequest>(call.variant.clone()) {
                Ok(request) => running.services.variant(&request).ok(),
                // A former version did not write down what a variant is.
                Err(_) if call.variant == Value::Bool(true) => None,
                Err(_) => running.services.get(&call.function).map(Arc::clone),
            };
            let Some(pool) = pool.filter(|_| all || call.runs <= retries) else {
                self.calls.give_up(&name, &call);
                continue;
            };
            let (id, callee) = (CallId::new(), Arc::downgrade(&pool) as Weak<dyn Callee>);
            let again = PendingCall { runs: call.runs.saturating_add(1), input: id.to_string(), ..call };
            let part_of = Calls::default().function_call(1, None);
            let caller = self.calls.begin_again(name, &again, &input, (id, callee));
            let caller = pool.record_spawned(id, part_of, again.method.as_deref(), caller);
            let method = again.method.as_deref().map(Arc::from);
            pool.submit(id, part_of, method, Payload::Inline(input), caller);
        }
        Ok(())
    }

    fn deployment(&self) -> Result<Deployment, Failure> {
        Ok(self.app.deployments().get(self.app.name())?)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the present version was deployed, in seconds since 1970.
fn deployed(deployment: &Deployment) -> u64 {
    deployment.versions.last().map_or(deployment.created, |version| version.deployed)
}

impl Keeper for DeployedApp<'_> {
    fn host(&self, app: &str, version: Option<u32>) -> Result<Option<Arc<Host>>, Failure> {
        let deployment = self.deployment()?;
        if deployment.id != app {
            let message = format!("the app `{app}` was stopped, and `{}` has its name", deployment.id);
            return Err(Failure::new(ErrorClass::NotFoundError, message));
        }
        let mut state = self.lock();
        let current = self.take_over(&mut state, &deployment);
        let Some(number) = version.filter(|number| *number != deployment.current) else { return current.map(Some) };
        if let Some(host) = state.pinned.get(&number) {
            return Ok(Some(Arc::clone(host)));
        }
        let host = self.host_of(&deployment, number)?;
        state.pinned.insert(number, Arc::clone(&host));
        Ok(Some(host))
    }

    fn update(&self, recreate: bool) -> Result<(), Failure> {
        let deployment = self.deployment()?;
        let mut state = self.lock();
        let mut ending = Vec::new();
        self.take_over(&mut state, &deployment)?;
        if recreate {
            ending = std::mem::take(&mut state.draining);
        }
        let current = state.current.as_ref().map(|(_, host)| host.current());
        drop(state);
        for former in ending {
            if let Some(current) = &current {
                former.services.hand_over_to(&current.services);
            }
            former.services.stop();
        }
        if recreate && let Some((_, host)) = &self.lock().current {
            self.take_up(&host.current(), true)?;
        }
        self.changed.tell();
        Ok(())
    }

    fn kept_callee(&self, name: &str) -> Option<(CallId, Weak<dyn Callee>)> {
        self.calls.callee(name)
    }

    fn wait_for(&self, name: &str, caller: Arc<dyn Caller>) -> Result<bool, Failure> {
        Ok(self.calls.wait_for(name, caller)?)
    }

    fn inputs_of(&self, name: &str) -> Result<usize, Failure> {
        Ok(self.calls.inputs_of(name)?)
    }

    fn graph_of(&self, name: &str) -> Result<Value, Failure> {
        Ok(self.calls.graph_of(name)??)
    }

    fn refuse_stop(&self) -> Result<(), Failure> {
        let message = "a deployed app is stopped by `modal app stop`, not by those who call it";
        Err(Failure::new(ErrorClass::ConflictError, message))
    }

    fn stopped(&self) {}
}
