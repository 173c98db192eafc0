//! A running app, apart from who has started it and who attends to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use lamina_events::{CancelGuard, CancelToken};
use lamina_functions::Services;
use lamina_ground::{ErrorClass, random_id};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::deployed::Schedule;
use crate::protocol::{ClassRequest, Failure, FunctionRequest};

/// Most clients that are attached to an app at a time: each has a thread and a connection.
pub(crate) const MOST_GUESTS: usize = 256;

/// A running app: the pools of its services. It ends when it is stopped, which is up to whoever has started it.
pub(crate) struct Host {
    id: String,
    name: Option<String>,
    /// What calls get; another version may take its place.
    current: RwLock<Arc<Running>>,
    /// How many clients are attached to it.
    guests: AtomicUsize,
    /// Cancelled when it has ended.
    ended: CancelToken,
}

/// A version of an app that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its pools.
    pub(crate) services: Arc<Services>,
    /// Function ids by name.
    pub(crate) functions: BTreeMap<String, String>,
    /// Those that yield values instead of returning one.
    pub(crate) generators: BTreeSet<String>,
    /// Those that run by themselves, where the app is deployed.
    pub(crate) schedules: BTreeMap<String, Schedule>,
    /// What makes classes of those that are.
    pub(crate) classes: BTreeMap<String, ClassRequest>,
    /// How often a failed input of each runs again.
    pub(crate) retries: BTreeMap<String, u32>,
}

impl Running {
    /// These services, of these functions.
    pub(crate) fn new(services: Arc<Services>, all: &[FunctionRequest]) -> Arc<Self> {
        let generators = all.iter().filter(|one| one.is_generator).map(|one| one.name.clone()).collect();
        let schedules = all.iter().filter_map(|one| Some((one.name.clone(), one.schedule.clone()?))).collect();
        let classes = all.iter().filter_map(|one| Some((one.name.clone(), one.class.clone()?))).collect();
        let retries = all.iter().filter_map(|one| Some((one.name.clone(), one.retries?.max_retries))).collect();
        let functions = services.names().map(|name| (name.to_owned(), random_id("fu"))).collect();
        Arc::new(Self { services, functions, generators, schedules, classes, retries })
    }
}

/// One client's attachment, which counts as long as this is kept.
pub(crate) struct Guest(Arc<Host>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Host {
    /// An app with these services, without containers.
    pub(crate) fn new(id: String, name: Option<String>, running: Arc<Running>) -> Arc<Self> {
        raise_descriptors();
        let current = RwLock::new(running);
        Arc::new(Self { id, name, current, guests: AtomicUsize::new(0), ended: CancelToken::new() })
    }

    /// Its id, `ap-…`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Does something with the version that calls get, which stays so meanwhile.
    pub(crate) fn with_current<T>(&self, action: impl FnOnce(&Running) -> T) -> T {
        action(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The version that calls get at present.
    pub(crate) fn current(&self) -> Arc<Running> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets calls get another version; the former one is left to whoever asks. No call is on its way to that any more.
    pub(crate) fn replace(&self, running: Arc<Running>) -> Arc<Running> {
        std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), running)
    }

    /// Lets a further client attach to it, unless there are too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Guest, Failure> {
        if self.guests.fetch_add(1, Ordering::Relaxed) < MOST_GUESTS {
            return Ok(Guest(Arc::clone(self)));
        }
        self.guests.fetch_sub(1, Ordering::Relaxed);
        let message = format!("the app `{}` has {MOST_GUESTS} attached clients, and takes no more", self.id);
        let hint = Some("try again when one of them has left, or make several calls over one connection".to_owned());
        Err(Failure { hint, ..Failure::new(ErrorClass::ConflictError, message) })
    }

    /// Stops it; returns when no container is left and those who are attached were told.
    pub(crate) fn stop(&self) {
        self.current().services.stop();
        self.ended.cancel();
    }

    /// Has `action` run when it has ended, as long as the guard is there.
    pub(crate) fn on_end(&self, action: impl FnOnce() + Send + 'static) -> CancelGuard {
        self.ended.on_cancel(action)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Host").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The apps that an engine hosts.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    running: Mutex<Vec<Weak<Host>>>,
}

impl Hosts {
    /// Notes an app; it is forgotten when it has ended.
    pub(crate) fn add(&self, host: &Arc<Host>) {
        let mut running = self.lock();
        running.retain(|host| host.strong_count() > 0);
        running.push(Arc::downgrade(host));
    }

    /// The app that a client means: by its id, or by its name if only one has that.
    pub(crate) fn find(&self, app: &str) -> Result<Option<Arc<Host>>, Failure> {
        let running: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let running = || running.iter().filter(|host| !host.ended.is_cancelled());
        if let Some(host) = running().find(|host| host.id == app) {
            return Ok(Some(Arc::clone(host)));
        }
        let named: Vec<_> = running().filter(|host| host.name.as_deref() == Some(app)).collect();
        match named[..] {
            [] => Ok(None),
            [host] => Ok(Some(Arc::clone(host))),
            _ => {
                let ids: Vec<_> = named.iter().map(|host| format!("`{}`", host.id)).collect();
                let message = format!("several apps named `{app}` run: give the id of one, {}", ids.join(" or "));
                Err(Failure::new(ErrorClass::InvalidError, message))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Host>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets this process have as many descriptors as it may: every container takes some, and every large input or result that is
/// under way one. Not earlier, because whatever is started until now should have the usual limit.
fn raise_descriptors() {
    let present = getrlimit(Resource::Nofile);
    // Where it cannot be, there are fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: present.maximum, maximum: present.maximum });
}

/// What makes no variants, for apps of tests.
#[cfg(test)]
pub(crate) fn no_variants() -> lamina_functions::MakeVariant {
    use lamina_functions::CallStatus;
    Box::new(|_| Err(CallStatus::error(ErrorClass::InvalidError, "there are no variants".to_owned())))
}

#[cfg(test)]
mod tests {
    use lamina_events::Sink;

    use super::*;

    fn host(id: &str, name: Option<&str>) -> Arc<Host> {
        let running = Running::new(Services::new([], no_variants(), &Sink::none()), &[]);
        Host::new(id.to_owned(), name.map(str::to_owned), running)
    }

    #[test]
    fn attached_clients_are_bounded_and_make_room_when_they_leave() {
        let app = host("ap-1", None);
        let mut guests: Vec<_> = (0..MOST_GUESTS).map(|_| app.admit().ok().unwrap()).collect();
        for _ in 0..2 {
            let refused = app.admit().err().unwrap();
            assert_eq!(refused.message, "the app `ap-1` has 256 attached clients, and takes no more");
        }
        guests.pop();
        assert!(app.admit().is_ok());
    }

    #[test]
    fn an_app_is_found_by_its_id_or_its_name_until_it_has_ended() {
        let hosts = Hosts::default();
        let (one, two, three) = (host("ap-1", Some("web")), host("ap-2", Some("twin")), host("ap-3", Some("twin")));
        for host in [&one, &two, &three] {
            hosts.add(host);
        }
        let id = |app: &str| hosts.find(app).unwrap().map(|host| host.id().to_owned());
        assert_eq!(id("ap-1").as_deref(), Some("ap-1"));
        assert_eq!(id("web").as_deref(), Some("ap-1"));
        assert_eq!(id("ap-9"), None);
        let ambiguous = hosts.find("twin").unwrap_err().message;
        assert_eq!(ambiguous, "several apps named `twin` run: give the id of one, `ap-2` or `ap-3`");
        two.stop();
        assert_eq!(id("twin").as_deref(), Some("ap-3"));
        drop(one);
        assert_eq!(id("web"), None);
    }
}
