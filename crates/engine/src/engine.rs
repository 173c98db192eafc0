//! Opening the engine.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lamina_apps::{Deployments, RunningApp};
use lamina_collections::Collections;
use lamina_devices::Lender;
use lamina_events::CancelToken;
use lamina_functions::{Roster, Terminal};
use lamina_ground::RunRecord;
use lamina_sandbox::{Helpers, IdMap, Launcher, Resource};
use lamina_store::{JobTable, Layout, SpentReserve, Store, worker_main};

use lamina_volumes::Volumes;

use crate::containers::Reception;
use crate::deployed::{Recorded, Remotes};
use crate::host::Hosts;
use crate::{EngineError, idmap, store_directory};

/// Where the store's content is in the helper processes.
const CONTENT: &str = "/store";

/// How an engine is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The store directory; `None` is the user's own, see [`store_directory()`].
    pub store: Option<PathBuf>,
    /// The binary that the helper processes run; `None` is the running one. Its `main` must call [`helpers_entry`] when
    /// its first argument is `__helpers`.
    pub helpers: Option<PathBuf>,
    /// Stops whatever the engine does.
    pub cancel: CancelToken,
    /// The user's terminal, if containers may ask for it.
    pub terminal: Option<Arc<dyn Terminal>>,
    /// The record of the app that is run, if it is detached: it gets the app's name and gives its id.
    pub detached: Option<Arc<RunningApp>>,
    /// Parts of the host that sandboxes may be given: volumes, sockets, devices, driver files.
    pub resources: Vec<Resource>,
    /// Whether a container or a shell will be wanted soon: what can be done for it now is done in the background.
    pub expects_sandbox: bool,
    /// Whether this is for clearing away, or for looking what there is: it works on a full disk, too.
    pub works_on_full_disk: bool,
}

/// An open store with its helper processes. Everything ends with the last use of it.
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) launcher: Launcher,
    pub(crate) devices: Arc<Lender>,
    pub(crate) id_map: IdMap,
    pub(crate) cancel: CancelToken,
    pub(crate) terminal: Option<Arc<dyn Terminal>>,
    pub(crate) detached: Option<Arc<RunningApp>>,
    /// The apps that run in this process.
    pub(crate) hosts: Hosts,
    /// Dictionaries and queues.
    pub(crate) collections: Arc<Collections>,
    /// The deployed apps that containers of this process call.
    pub(crate) remotes: Arc<Remotes>,
    /// The app that was deployed last.
    pub(crate) recorded: Mutex<Option<Recorded>>,
    /// The containers that run in this process.
    pub(crate) roster: Arc<Roster>,
    /// Takes connections of those who ask about them, until the engine ends.
    reception: Option<Reception>,
    /// Dropped last.
    _reserve: Option<SpentReserve>,
}

impl Engine {
    /// Opens the store, making it if need be, and starts the helper processes.
    ///
    /// # Performance
    /// Nothing is read from the network or compiled, and no image is looked at: a run with nothing to build spends its
    /// time elsewhere.
    ///
    /// # Errors
    /// When the store cannot be used, or the machine does not allow sandboxes.
    pub fn open(options: &Options) -> Result<Self, EngineError> {
        let layout = layout(options)?;
        if let Some(record) = RunRecord::current() {
            record.keep_in(layout.logs());
        }
        layout.check_filesystem()?;
        let reserve = if options.works_on_full_disk { layout.spend_reserve() } else { None };
        layout.keep_reserve();
        let map = idmap::open(&layout)?;
        let helpers =
            helpers(options, &layout, &map).map_err(|error| idmap::explain(error, &layout.id_map_file(), &map))?;
        if options.expects_sandbox {
            helpers.launcher.prepare();
        }
        let devices = lender(options, &layout, &map, &helpers.launcher);
        let deployments = Deployments::new(layout.clone());
        let collections = Arc::new(Collections::new(layout.collections()));
        let roster = Arc::default();
        let reception = Reception::of(&roster, &layout);
        let store = Store::open(layout, helpers.worker)?;
        let Options { cancel, terminal, detached, .. } = options.clone();
        Ok(Self {
            store,
            launcher: helpers.launcher,
            devices: Arc::new(devices),
            id_map: map,
            remotes: Arc::new(Remotes::new(deployments, cancel.clone())),
            cancel,
            terminal,
            detached,
            hosts: Hosts::default(),
            recorded: Mutex::default(),
            collections,
            reception: Some(reception),
            roster,
            _reserve: reserve,
        })
    }

    /// Begins to look at what the image that was used last consists of, which most likely is wanted again.
    pub fn look_ahead(&self) {
        // Where that fails, whoever uses the layers is told.
        let _ = self.store.look_ahead();
    }

    /// The store directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.store.layout().root()
    }

    /// The volumes of the store.
    #[must_use]
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes::new(&self.store)
    }

    /// What stops whatever the engine does.
    #[must_use]
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    /// Clears away everything now. Some thread may still hold a part of the engine, such as one that tells thousands of
    /// calls that they were cancelled, and the process does not wait for it.
    fn drop(&mut self) {
        drop(self.reception.take());
        self.devices.close();
        self.launcher.close();
    }
}

/// A store that is about to be deleted as a whole, also the files that belong to other ids. What is damaged in it does
/// not matter.
#[derive(Debug)]
pub struct Removal {
    layout: Layout,
    helpers: Helpers,
    /// Dropped last.
    _reserve: Option<SpentReserve>,
}

impl Removal {
    /// Makes sure that the directory is a store, and gets ready to delete it.
    ///
    /// # Errors
    /// When it is no store, or the machine does not allow what deleting it takes.
    pub fn prepare(options: &Options) -> Result<Self, EngineError> {
        let layout = layout(options)?;
        let reserve = layout.spend_reserve();
        let map = match idmap::recorded(&layout) {
            Ok(Some(map)) if idmap::check_owner(&layout, &map).is_ok() => map,
            // It was this user's, and most likely is the same now.
            Ok(_) | Err(EngineError::IdMap { .. }) => IdMap::for_current_user()?,
            Err(error) => return Err(error),
        };
        let helpers = helpers(options, &layout, &map)?;
        Ok(Self { layout, helpers, _reserve: reserve })
    }

    /// Deletes it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<(), EngineError> {
        drop(self.helpers.launcher);
        Ok(Store::remove(&self.layout, self.helpers.worker)?)
    }
}

fn layout(options: &Options) -> Result<Layout, EngineError> {
    let root = options.store.clone().map_or_else(store_directory, Ok)?;
    Ok(Layout::prepare(&root)?)
}

fn helpers(options: &Options, layout: &Layout, map: &IdMap) -> Result<Helpers, EngineError> {
    Ok(match &options.helpers {
        Some(binary) => Helpers::start_with(binary, &layout.content(), map, &options.resources)?,
        None => Helpers::start(&layout.content(), map, &options.resources)?,
    })
}

/// Lends GPUs to sandboxes, which a launcher of their own starts: the helpers take hold of parts of the host once, and what
/// a program asks for is known later.
fn lender(options: &Options, layout: &Layout, map: &IdMap, launcher: &Launcher) -> Lender {
    let (content, map, launcher) = (layout.content(), map.clone(), launcher.clone());
    let (binary, others) = (options.helpers.clone(), options.resources.clone());
    Lender::new(move |devices| {
        let resources = [&others, devices].concat();
        Helpers::further_launcher(&launcher, binary.as_deref(), &content, &map, &resources)
    })
}

/// The body of the helper processes: `main` calls it before anything else when the first argument is `__helpers`.
pub fn helpers_entry() -> ! {
    lamina_sandbox::helpers_main(serve_store)
}

/// The store worker, with the jobs of all crates.
fn serve_store(socket: UnixStream) {
    let jobs = lamina_devices::jobs(lamina_volumes::jobs(JobTable::new()));
    let jobs = lamina_cache::jobs(lamina_registry::jobs(lamina_bases::jobs(jobs)));
    let jobs = lamina_builder::jobs(lamina_conda::jobs(lamina_wheels::jobs(jobs)));
    worker_main(socket, Path::new(CONTENT), jobs, let_go_of_output);
}

/// Whoever waits for the end of what the command prints does not have to wait for its helpers. Their standard input is the
/// null device; their standard output has never been the command's.
fn let_go_of_output() {
    let _ = rustix::stdio::dup2_stderr(std::io::stdin());
}
