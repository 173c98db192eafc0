//! The caches that `MODAL_CACHE` names, as a process uses them.

use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use lamina_events::{CancelToken, Cancelled, Event, Sink};
use lamina_ground::{EnvVars, causes};
use lamina_image::LayerKey;
use lamina_store::{LayerRecord, Store};
use lamina_system::spawn_apart;

use crate::CacheError;
use crate::address::{Address, AddressError};
use crate::fetch::Fetch;
use crate::outbox::{Item, Outbox};
use crate::place::{self, Place};
use crate::pulse::{BUDGET, Pulse, Watch};
use crate::taking::Taking;

/// How often a cache that is waited for is looked at.
const TICK: Duration = Duration::from_millis(50);

/// The caches of a process.
#[derive(Debug, Default)]
pub struct Caches {
    all: Vec<Arc<Cache>>,
    /// Whether layers of local files and secrets go there as well.
    with_local: bool,
    /// The process that uploads.
    helper: Mutex<Option<Child>>,
}

/// A cache.
#[derive(Debug)]
struct Cache {
    address: Address,
    place: Arc<dyn Place>,
    /// Whether it takes what is brought.
    taking: Taking,
    /// Ends all requests.
    stop: CancelToken,
    /// Seconds that it has cost, beyond what it has spared.
    spent: Mutex<f64>,
    /// Whether it is left aside.
    is_off: AtomicBool,
    has_warned: AtomicBool,
    /// Keys of which it has something that is of no use.
    damaged: Mutex<HashSet<LayerKey>>,
    /// Keys that it is known to have.
    known: OnceLock<Mutex<HashSet<LayerKey>>>,
}

/// Whoever waits for a cache.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    /// Whether what is wanted may hold local files, or what a secret led to: it is not looked for then, unless such layers are shared
    /// as well.
    pub is_private: bool,
    /// Ends the wait.
    pub cancel: &'a CancelToken,
    /// Told of what goes wrong.
    pub sink: &'a Sink,
    /// Told how many bytes came, and how many are to come.
    pub progress: &'a dyn Fn(u64, u64),
}

/// What was made, for others.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Whether it may hold local files, or what a secret led to.
    pub is_private: bool,
    /// Whether it takes the place of what a cache has under its key.
    pub replaces: bool,
}

impl Caches {
    /// Those that the environment of this process names.
    ///
    /// # Errors
    /// When `MODAL_CACHE` names something that is none.
    pub fn of_process() -> Result<&'static Self, AddressError> {
        static CACHES: OnceLock<Result<Caches, AddressError>> = OnceLock::new();
        let read = || {
            let value = std::env::var_os(EnvVars::MODAL_CACHE).unwrap_or_default();
            let with_local = std::env::var_os(EnvVars::MODAL_CACHE_LOCAL).is_some_and(|value| value == "1");
            Address::list(&value.to_string_lossy()).map(|addresses| Self::new(addresses, with_local))
        };
        CACHES.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    fn new(addresses: Vec<Address>, with_local: bool) -> Self {
        let caches = addresses.into_iter().map(|address| Arc::new(Cache::new(address)));
        Self { all: caches.collect(), with_local, helper: Mutex::default() }
    }

    /// Brings the layers of a key into the store from the first cache that has them; answers their record, which is still to be put
    /// down. What goes wrong is a warning.
    ///
    /// # Errors
    /// When cancelled.
    pub fn fetch(&self, store: &Store, key: &LayerKey, waiting: Waiting<'_>) -> Result<Option<LayerRecord>, Cancelled> {
        if waiting.is_private && !self.with_local {
            return Ok(None);
        }
        for cache in &self.all {
            if let Some(record) = cache.fetch(store, key, waiting)? {
                return Ok(Some(record));
            }
        }
        // What is made now is brought there.
        self.taking().for_each(|cache| cache.taking.ask(&cache.place));
        Ok(None)
    }

    /// Those that something may be brought to.
    fn taking(&self) -> impl Iterator<Item = &Arc<Cache>> {
        self.all.iter().filter(|cache| !cache.address.is_read_only && !cache.taking.is_closed())
    }

    /// Notes layers for being uploaded to where they are not known to be, and sees to it that somebody does that.
    pub fn offer(&self, store: &Store, key: &LayerKey, offer: Offer) {
        if offer.is_private && !self.with_local {
            return;
        }
        let lacking = |cache: &&Arc<Cache>| offer.replaces || !lock(cache.known(store)).contains(key);
        let caches: Vec<_> = self.taking().filter(lacking).collect();
        if caches.is_empty() {
            return;
        }
        let replaces = offer.replaces || caches.iter().any(|cache| lock(&cache.damaged).contains(key));
        let item = Item::new(caches.iter().map(|cache| cache.address.to_string()).collect(), replaces);
        match Outbox::of(store).put(key, &item) {
            Ok(()) => {
                // Once for each process is enough, whatever becomes of it.
                for cache in &caches {
                    lock(cache.known(store)).insert(*key);
                    cache.taking.ask(&cache.place);
                }
                // Whoever may take nothing is waited for at the end.
                if caches.iter().all(|cache| cache.taking.is_open()) {
                    self.start_helper(store);
                }
            }
            Err(error) => tracing::warn!(%error, "nothing can be noted for being uploaded"),
        }
    }

    /// Says what could not be uploaded, and leaves what is still to be to a process that goes on.
    pub fn settle(&self, store: &Store, sink: &Sink) {
        if self.all.is_empty() {
            return;
        }
        let outbox = Outbox::of(store);
        for cache in &self.all {
            if let Some(refusal) = cache.taking.refusal() {
                cache.refuse(&outbox, sink, &refusal);
            }
        }
        outbox.take_words().into_iter().for_each(|message| sink.emit(Event::Warning { message }));
        if outbox.items().is_ok_and(|items| !items.is_empty()) {
            self.start_helper(store);
        }
    }

    /// Starts the process that uploads, unless the one that was started is still at it.
    fn start_helper(&self, store: &Store) {
        let mut helper = lock(&self.helper);
        if helper.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            return;
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg0("modal").args(["cache", "upload", "--quiet"]);
        command.env(EnvVars::MODAL_STORE, store.layout().root()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match spawn_apart(&mut command) {
            Ok(child) => *helper = Some(child),
            // The next command tries again.
            Err(error) => tracing::warn!(%error, "the process that uploads cannot be started"),
        }
    }
}

impl Cache {
    fn new(address: Address) -> Self {
        let stop = CancelToken::new();
        Self {
            place: place::open(&address, &stop).into(),
            taking: Taking::default(),
            address,
            stop,
            spent: Mutex::default(),
            is_off: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            damaged: Mutex::default(),
            known: OnceLock::new(),
        }
    }

    fn known(&self, store: &Store) -> &Mutex<HashSet<LayerKey>> {
        self.known.get_or_init(|| Mutex::new(Outbox::of(store).known(&self.address.to_string())))
    }

    fn fetch(
        self: &Arc<Self>,
        store: &Store,
        key: &LayerKey,
        waiting: Waiting<'_>,
    ) -> Result<Option<LayerRecord>, Cancelled> {
        if self.is_off.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let begin = Instant::now();
        let (pulse, stop) = (Arc::new(Pulse::default()), CancelToken::new());
        let outcome = self.watched(store, key, waiting, &pulse, &stop);
        // Whoever is left to itself ends soon.
        stop.cancel();
        match outcome {
            Ok(Some(record)) => {
                self.spend(waiting.sink, begin.elapsed().as_secs_f64() - pulse.worth().as_secs_f64());
                tracing::info!(cache = %self.address, %key, bytes = pulse.progress().0, "fetched");
                lock(self.known(store)).insert(*key);
                if let Err(error) = Outbox::of(store).note_known(&self.address.to_string(), key) {
                    tracing::warn!(%error, "what a cache has cannot be noted");
                }
                return Ok(Some(LayerRecord { fetched_from: Some(self.address.to_string()), ..record }));
            }
            Ok(None) => {}
            Err(CacheError::Cancelled(_)) => waiting.cancel.check()?,
            Err(CacheError::Damaged(reason)) => {
                lock(&self.damaged).insert(*key);
                self.warn(
                    waiting.sink,
                    format!("the cache `{}` has something that is of no use: {reason}", self.address),
                );
            }
            // The store cannot take it, which says nothing about others.
            Err(error @ CacheError::Store(_)) => {
                let reason = causes(&error);
                self.warn(waiting.sink, format!("something of the cache `{}` cannot be taken: {reason}", self.address));
            }
            Err(error) => self.leave_aside(waiting.sink, &causes(&error)),
        }
        self.spend(waiting.sink, begin.elapsed().as_secs_f64());
        Ok(None)
    }

    /// Counts what a look has cost beyond making the layers, or spared, and does without a cache that costs too much.
    fn spend(&self, sink: &Sink, seconds: f64) {
        let spent = {
            let mut spent = lock(&self.spent);
            *spent += seconds;
            *spent
        };
        if spent >= BUDGET.as_secs_f64() && !self.is_off.load(Ordering::Relaxed) {
            self.leave_aside(sink, "it has cost two seconds more than it has spared");
        }
    }

    /// Looks for the layers in a thread of its own, which is left to itself when it takes too long: nothing else ends a wait for a
    /// file system of the network.
    fn watched(
        self: &Arc<Self>,
        store: &Store,
        key: &LayerKey,
        waiting: Waiting<'_>,
        pulse: &Arc<Pulse>,
        stop: &CancelToken,
    ) -> Result<Option<LayerRecord>, CacheError> {
        let (sender, outcome) = mpsc::channel();
        let (cache, store, key) = (Arc::clone(self), store.clone(), *key);
        let (shared, stopped) = (Arc::clone(pulse), stop.clone());
        std::thread::Builder::new().name("cache".to_owned()).spawn(move || {
            let (place, pulse, stop) = (&*cache.place, &*shared, &stopped);
            let fetched = Fetch { store: &store, place, key: &key, pulse, stop }.run();
            // Nobody may be waiting for it any longer.
            let _ = sender.send(fetched);
        })?;
        let spent = Duration::try_from_secs_f64(*lock(&self.spent)).unwrap_or_default();
        let mut watch = Watch::new(pulse, BUDGET.saturating_sub(spent));
        loop {
            match outcome.recv_timeout(TICK) {
                Ok(fetched) => return fetched,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(CacheError::Away("a thread that reads it ended".to_owned()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            waiting.cancel.check()?;
            let (bytes, expected) = pulse.progress();
            (waiting.progress)(bytes, expected);
            if let Some(reason) = watch.look(Instant::now()) {
                return Err(CacheError::Away(reason));
            }
        }
    }

    /// Brings nothing there any more, and says why.
    fn refuse(&self, outbox: &Outbox, sink: &Sink, refusal: &CacheError) {
        let address = self.address.to_string();
        if let Err(error) = outbox.forget(&address) {
            tracing::warn!(%error, "what was to be uploaded stays noted");
        }
        let reason = causes(refusal);
        let advice = format!("`{address}:ro` in `MODAL_CACHE` says that it is only to be read");
        sink.emit(Event::Warning {
            message: format!("layers are not uploaded to the cache `{address}`: {reason}; {advice}"),
        });
    }

    /// Does without it for as long as this process lives.
    fn leave_aside(&self, sink: &Sink, reason: &str) {
        self.is_off.store(true, Ordering::Relaxed);
        self.stop.cancel();
        self.warn(sink, format!("the cache `{}` is left aside: {reason}", self.address));
    }

    fn warn(&self, sink: &Sink, message: String) {
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("{message}");
        } else {
            sink.emit(Event::Warning { message });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
