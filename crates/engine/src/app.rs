//! Getting an app ready: images, files, pools.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use lamina_apps::{DeploymentName, DetachedApps};
use lamina_builder::{BuildError, BuildOptions, Builder, BuiltImage, check_local};
use lamina_events::{CancelToken, Event, Sink};
use lamina_fetch::Client;
use lamina_functions::{
    AppLabel, Batching, ContainerSpec, ContainerVolume, Elsewhere, Errands, Listing, Retries, ServiceKind, ServiceSpec,
    Services,
};
use lamina_ground::{ErrorClass, causes, random_id};
use lamina_image::FileSet;
use lamina_secrets::NamedSecrets;
use lamina_store::{ImageName, Store};
use lamina_volumes::Volumes;
use lamina_workshop::{HostPrograms, Workshop};
use serde_json::{Value, json};

use crate::collections::CollectionErrands;
use crate::deployed::{Ground, check_schedules};
use crate::host::{Host, Hosts, Running};
use crate::local_files::{AppFiles, package};
use crate::protocol::{
    Amount, AppRequest, DeployRequest, DeploymentErrand, Failure, FunctionRequest, Hello, ImageErrand, SecretErrand,
    VolumeErrand,
};
use crate::session::{Backend, Described, Started};
use crate::variants::{Declared, Starters};
use crate::{Engine, EngineError, ImageLog};
use crate::{gpus, secrets, volumes};

impl Backend for Engine {
    fn start(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Started, Failure> {
        let app = &*self.resolve(app, sink)?;
        let id = self.app_id(app.app.name.as_deref(), sink);
        let functions: Vec<&FunctionRequest> = app.functions.iter().collect();
        let prepared = self.prepare(&Wanted { hello, app, functions: &functions, sink, cancel })?;
        let images = functions
            .iter()
            .zip(&prepared)
            .map(|(function, it)| (function.image.clone(), it.spec.container.image_id.clone()))
            .collect();
        let services = self.services(&id, app, prepared.into_iter().map(|it| it.spec).collect(), sink);
        let running = Running::new(services, &app.functions);
        Ok(Started { host: Host::new(id, app.app.name.clone(), running), images })
    }

    fn describe(
        &self,
        hello: &Hello,
        app: &AppRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Described, Failure> {
        let app = &*self.resolve(app, sink)?;
        let function = select(app)?;
        let mut specs = self.prepare(&Wanted { hello, app, functions: &[function], sink, cancel })?;
        specs
            .pop()
            .map(|Prepared { spec: ServiceSpec { kind, container, .. }, .. }| Described {
                function: kind.name().to_owned(),
                container,
            })
            .ok_or_else(|| no_function(app))
    }

    fn build(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Value, Failure> {
        let app = &*self.resolve(app, sink)?;
        let target = app.select.as_deref().unwrap_or_default();
        let wanted = Wanted { hello, app, functions: &[], sink, cancel };
        check_local(&app.images, &[target], &[]).map_err(|error| wanted.failure(error))?;
        let built = self.until_intact(&wanted, |store| match self.build_images(store, &wanted, &[target]) {
            Err(BuildError::Damaged) => Ok(None),
            built => Ok(Some(built.map_err(|error| wanted.failure(error))?)),
        })?;
        let id = built.get(target).map(|image| image.id.clone());
        Ok(json!({ "image_id": id }))
    }

    fn image(&self, errand: ImageErrand) -> Result<Value, Failure> {
        match errand {
            ImageErrand::Publish { image, environment, name, tag, origin } => {
                self.publish(&image, ImageName { environment, name, tag }, origin)?;
                Ok(Value::Null)
            }
            ImageErrand::Logs { image } => {
                let logs = self.image_logs(&self.image(&image)?).into_iter();
                let read =
                    |log: ImageLog| Ok(json!({ "title": log.title, "text": String::from_utf8_lossy(&log.read()?) }));
                Ok(logs.map(read).collect::<Result<Vec<_>, EngineError>>()?.into())
            }
        }
    }

    fn secret(&self, errand: SecretErrand) -> Result<Value, Failure> {
        secrets::run(errand, &self.named_secrets())
    }

    fn errands(&self) -> Arc<dyn Errands> {
        Arc::new(CollectionErrands(Arc::clone(&self.collections)))
    }

    fn volume(&self, errand: VolumeErrand, fds: Vec<OwnedFd>) -> Result<Value, Failure> {
        volumes::run(errand, fds, Volumes::new(&self.store))
    }

    fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    fn connect(&self, app: &str) -> Result<(String, UnixStream), Failure> {
        Ok(DetachedApps::new(self.store.layout().clone()).connect(app)?)
    }

    fn deploy(
        &self,
        hello: &Hello,
        request: &[u8],
        wanted: &DeployRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Value, Failure> {
        // Before minutes pass with building.
        DeploymentName::new(&wanted.app.app.environment, wanted.app.app.name.as_deref().unwrap_or_default())?;
        check_schedules(&wanted.app)?;
        let app = &*self.resolve(&wanted.app, sink)?;
        let functions: Vec<&FunctionRequest> = app.functions.iter().collect();
        let prepared = self.prepare(&Wanted { hello, app, functions: &functions, sink, cancel })?;
        let grounds = prepared.into_iter().map(|it| (it.spec.kind.name().to_owned(), it.ground)).collect();
        self.record_version(hello, request, wanted, grounds, sink, cancel)
    }

    fn connect_deployed(&self, environment: &str, app: &str) -> Result<(String, UnixStream), Failure> {
        let (deployment, socket) = self.deployments().connect(&DeploymentName::new(environment, app)?, &self.cancel)?;
        Ok((deployment.id, socket))
    }

    fn deployment(&self, errand: DeploymentErrand) -> Result<Value, Failure> {
        self.run_deployment_errand(errand)
    }
}

/// A function that was made ready.
struct Prepared {
    spec: ServiceSpec,
    /// What its containers stand on.
    ground: Ground,
}

/// What a client wants to be made ready, and who hears of it.
pub(crate) struct Wanted<'a> {
    hello: &'a Hello,
    app: &'a AppRequest,
    /// Those of the app's functions that are wanted.
    functions: &'a [&'a FunctionRequest],
    pub(crate) sink: &'a Sink,
    pub(crate) cancel: &'a CancelToken,
}

impl Wanted<'_> {
    fn failure(&self, error: BuildError) -> Failure {
        Failure::of_build(error, self.hello.output)
    }
}

impl Engine {
    /// Pools of services of the app with this id, without containers.
    pub(crate) fn services(&self, id: &str, app: &AppRequest, specs: Vec<ServiceSpec>, sink: &Sink) -> Arc<Services> {
        let label = AppLabel { id: id.to_owned(), name: app.app.name.clone() };
        let starters = Starters {
            launcher: self.launcher.clone(),
            devices: Arc::clone(&self.devices),
            store: self.store.clone(),
            terminal: self.terminal.clone(),
            listing: Listing { roster: Arc::clone(&self.roster), app: Arc::new(label) },
        };
        let services: Vec<_> = specs.iter().map(|spec| starters.of(spec.clone())).collect();
        let declared = Declared {
            starters,
            named_secrets: self.named_secrets(),
            sink: sink.clone(),
            app: app.app.clone(),
            services: app.functions.iter().cloned().zip(specs).collect(),
        };
        let services = Services::new(services, declared.into_make_variant(), sink);
        services.reach_others_by(Arc::clone(&self.remotes) as Arc<dyn Elsewhere>);
        services.do_errands_by(self.errands());
        services
    }

    /// The app with what it knows by name only (values of secrets, ids of volumes), and with the GPUs that it gets here.
    pub(crate) fn resolve<'a>(&self, app: &'a AppRequest, sink: &Sink) -> Result<Cow<'a, AppRequest>, Failure> {
        let app = secrets::with_values(app, &self.named_secrets())?;
        let app = volumes::with_ids(app, Volumes::new(&self.store))?;
        gpus::for_this_machine(app, &self.devices, sink)
    }

    /// The secrets that are kept under names.
    pub(crate) fn named_secrets(&self) -> NamedSecrets {
        NamedSecrets::new(self.store.layout().secrets())
    }

    /// The id of an app that starts: that of the detached app, which learns its name.
    fn app_id(&self, name: Option<&str>, sink: &Sink) -> String {
        let Some(detached) = &self.detached else { return random_id("ap") };
        if let Some(Err(error)) = name.map(|name| detached.set_name(name)) {
            sink.emit(Event::Warning {
                message: format!("`modal app list` will not show the app's name: {}", causes(&error)),
            });
        }
        detached.id().to_owned()
    }

    /// Builds the images of the functions and takes in their files, at the same time.
    fn prepare(&self, wanted: &Wanted<'_>) -> Result<Vec<Prepared>, Failure> {
        check(wanted.app)?;
        check_files(wanted.app, wanted.functions).map_err(|error| wanted.failure(error))?;
        self.until_intact(wanted, |store| self.prepare_with(store, wanted))
    }

    /// What `prepare` gives once nothing that it has found turns out to be damaged.
    fn until_intact<T>(
        &self,
        wanted: &Wanted<'_>,
        prepare: impl Fn(&Store) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let store = self.store.on_behalf_of(wanted.cancel, wanted.sink);
        loop {
            let known_damage = store.found_damaged();
            let prepared = prepare(&store)?;
            store.confirm().map_err(|error| Failure::of_store(&error))?;
            // What was found damaged is not found again, but made.
            if let Some(prepared) = prepared.filter(|_| store.found_damaged() == known_damage) {
                return Ok(prepared);
            }
        }
    }

    /// As [`Self::prepare`], trusting the views that are there; `None` when one turned out to be damaged.
    fn prepare_with(&self, store: &Store, wanted: &Wanted<'_>) -> Result<Option<Vec<Prepared>>, Failure> {
        let Wanted { hello, app, functions, sink, .. } = *wanted;
        let (images, files) = std::thread::scope(|scope| {
            let files = scope.spawn(|| AppFiles::collect(store, hello, functions, sink));
            let mut seen = HashSet::new();
            let images = functions.iter().map(|function| &*function.image).filter(|image| seen.insert(*image));
            let images = self.build_images(store, wanted, &images.collect::<Vec<_>>());
            (images, files.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let images = match images {
            Err(BuildError::Damaged) => return Ok(None),
            images => images.map_err(|error| wanted.failure(error))?,
        };
        let mut files = files?;
        let grounds = self.show_package(store, &images, &mut files, wanted)?;
        let spec = |function: &&FunctionRequest| {
            let image = images.get(&function.image).ok_or_else(|| unknown_image(function))?;
            let files = files.show(store, function, image)?;
            let with_package = grounds.get(&image.id).ok_or_else(|| unknown_image(function))?;
            let volumes = volumes::of_containers(&function.volumes, Volumes::new(store))?;
            let layers = with_package.under(&image.attachments).under(&files);
            let ground = Ground::new(image, &layers);
            Ok(Prepared { spec: spec(app, function, &ground, volumes)?, ground })
        };
        functions.iter().map(spec).collect::<Result<_, _>>().map(Some)
    }

    fn build_images(
        &self,
        store: &Store,
        wanted: &Wanted<'_>,
        targets: &[&str],
    ) -> Result<HashMap<String, BuiltImage>, BuildError> {
        let Wanted { hello, app, sink, cancel, .. } = *wanted;
        let workshop = Workshop {
            store,
            launcher: &self.launcher,
            devices: &self.devices,
            fetch: &Client::new(cancel.clone()),
            id_map: &self.id_map,
            programs: &HostPrograms {
                uv: hello.uv.clone(),
                python: hello.python_program.clone(),
                package: package(hello),
            },
            // Each step has its own.
            progress: &|_, _, _| (),
            cancel,
        };
        let options = BuildOptions { force_build: app.options.force_build, ignore_cache: app.options.ignore_cache };
        Builder::new(workshop, &app.images, options, sink)?.build(targets)
    }
}

/// A function as a service.
pub(crate) fn spec(
    app: &AppRequest,
    function: &FunctionRequest,
    ground: &Ground,
    volumes: Vec<ContainerVolume>,
) -> Result<ServiceSpec, Failure> {
    let container = ContainerSpec {
        image_id: ground.image_id.clone(),
        layers: ground.layers(),
        image_environment: ground.environment.clone(),
        working_directory: ground.working_directory.clone(),
        // As in Modal: the source and the home of functions are in `/root`.
        user: None,
        entrypoint: ground.entrypoint.clone(),
        python: ground.python.clone(),
        environment: Vec::new(),
        cpus: None,
        memory_bytes: None,
        gpu: Vec::new(),
        environment_name: app.app.environment.clone(),
        block_network: function.block_network,
        volumes: Vec::new(),
    };
    let name = function.name.clone();
    let kind = match &function.class {
        None => ServiceKind::Function { name },
        Some(class) => ServiceKind::Class { name, methods: class.methods.clone() },
    };
    let service = ServiceSpec {
        kind,
        parameters: Vec::new(),
        module: function.module.clone(),
        container: container_of(function, volumes, container),
        capacity: 1,
        timeout: Duration::ZERO,
        retries: Retries::default(),
        target: None,
        batching: None,
        startup: None,
        single_use: false,
        minimum_containers: 0,
        maximum_containers: None,
        buffer_containers: 0,
        idle: None,
    };
    limits_of(function, service)
}

/// What the containers of a function have, in the place of what `container` has of it.
pub(crate) fn container_of(
    function: &FunctionRequest,
    volumes: Vec<ContainerVolume>,
    container: ContainerSpec,
) -> ContainerSpec {
    let secrets = function.secrets.iter().flat_map(|secret| &secret.values);
    ContainerSpec {
        environment: pairs(secrets.chain(&function.environment)),
        cpus: function.cpu.map(Amount::limit),
        memory_bytes: function.memory.map(|memory| mebibytes(memory.limit())),
        gpu: function.gpu.clone(),
        volumes,
        ..container
    }
}

/// How a function's containers are treated, in the place of how `service` says.
pub(crate) fn limits_of(function: &FunctionRequest, service: ServiceSpec) -> Result<ServiceSpec, Failure> {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let seconds = |number: u32| Duration::from_secs(number.into());
    let concurrency = function.concurrency;
    let batching = function.batching.map(|batching| Batching {
        size: count(batching.max_batch_size.get()),
        wait: Duration::from_millis(batching.wait_ms.into()),
    });
    let inputs = concurrency.map_or(1, |concurrency| count(concurrency.max_inputs.get()));
    let target = concurrency.and_then(|concurrency| concurrency.target_inputs);
    Ok(ServiceSpec {
        capacity: batching.map_or(inputs, |batching| batching.size),
        target: target.map(|target| count(target.get())),
        batching,
        startup: function.startup_timeout.map(seconds),
        single_use: function.single_use_containers,
        minimum_containers: count(function.min_containers),
        buffer_containers: count(function.buffer_containers),
        idle: function.scaledown_window.map(seconds),
        timeout: timeout(function)?,
        retries: retries(function)?,
        maximum_containers: maximum_containers(function)?,
        ..service
    })
}

/// Looks for all local files of the functions and their images, before minutes pass with building.
fn check_files(app: &AppRequest, functions: &[&FunctionRequest]) -> Result<(), BuildError> {
    let targets: Vec<&str> = functions.iter().map(|function| &*function.image).collect();
    let files: Vec<&FileSet> = functions.iter().flat_map(|function| [&function.source, &function.mounts]).collect();
    check_local(&app.images, &targets, &files)
}

/// Refuses an app that does not hold together.
fn check(app: &AppRequest) -> Result<(), Failure> {
    let mut names = HashSet::new();
    for function in &app.functions {
        if !names.insert(&function.name) {
            let message = format!("the app has two functions named `{}`: rename one of them", function.name);
            return Err(Failure::new(ErrorClass::InvalidError, message));
        }
        if !app.images.nodes.iter().any(|node| node.id == function.image) {
            return Err(unknown_image(function));
        }
        timeout(function)?;
        retries(function)?;
        maximum_containers(function)?;
        for (what, amount) in [("cpu", function.cpu), ("memory", function.memory)] {
            if let Some(amount) = amount.filter(|amount| !(amount.limit() > 0.0 && amount.limit().is_finite())) {
                let message = format!(
                    "`{what}={}` of function `{}` is no amount: give a positive number",
                    amount.limit(),
                    function.name
                );
                return Err(Failure::new(ErrorClass::InvalidError, message));
            }
        }
    }
    Ok(())
}

fn unknown_image(function: &FunctionRequest) -> Failure {
    let message = format!("function `{}` names the image `{}`, which is not defined", function.name, function.image);
    Failure::new(ErrorClass::ExecutionError, message)
}

fn timeout(function: &FunctionRequest) -> Result<Duration, Failure> {
    let valid = Duration::try_from_secs_f64(function.timeout).ok().filter(|timeout| !timeout.is_zero());
    valid.ok_or_else(|| {
        let (name, timeout) = (&function.name, function.timeout);
        let message =
            format!("`timeout={timeout}` of function `{name}` is no duration: give a positive number of seconds");
        Failure::new(ErrorClass::InvalidError, message)
    })
}

fn retries(function: &FunctionRequest) -> Result<Retries, Failure> {
    let Some(wanted) = function.retries.filter(|retries| retries.max_retries > 0) else {
        return Ok(Retries::default());
    };
    let name = &function.name;
    if function.is_generator {
        let message = format!("function `{name}` is a generator, which cannot run again: leave its `retries` out");
        return Err(Failure::new(ErrorClass::InvalidError, message));
    }
    let delay = |what: &str, seconds: f64| {
        Duration::try_from_secs_f64(seconds).map_err(|_| {
            let message = format!(
                "`{what}={seconds}` in the retries of function `{name}` is no duration: give a number of seconds"
            );
            Failure::new(ErrorClass::InvalidError, message)
        })
    };
    let backoff = wanted.backoff_coefficient;
    if !(backoff >= 0.0 && backoff.is_finite()) {
        let message = format!(
            "`backoff_coefficient={backoff}` in the retries of function `{name}` is no factor: give a number from 1"
        );
        return Err(Failure::new(ErrorClass::InvalidError, message));
    }
    Ok(Retries {
        maximum: wanted.max_retries,
        backoff,
        initial_delay: delay("initial_delay", wanted.initial_delay)?,
        maximum_delay: delay("max_delay", wanted.max_delay)?,
    })
}

fn maximum_containers(function: &FunctionRequest) -> Result<Option<usize>, Failure> {
    match function.max_containers {
        Some(0) => {
            let message =
                format!("`max_containers=0` of function `{}` lets nothing run: give a positive number", function.name);
            Err(Failure::new(ErrorClass::InvalidError, message))
        }
        maximum => Ok(maximum.and_then(|maximum| usize::try_from(maximum).ok())),
    }
}

/// The function that a shell is wanted for: the named one, or the only one.
fn select(app: &AppRequest) -> Result<&FunctionRequest, Failure> {
    match (&app.select, app.functions.as_slice()) {
        (Some(name), functions) => {
            functions.iter().find(|function| function.name == *name).ok_or_else(|| no_function(app))
        }
        (None, [only]) => Ok(only),
        (None, _) => Err(no_function(app)),
    }
}

fn no_function(app: &AppRequest) -> Failure {
    let names: Vec<_> = app.functions.iter().map(|function| format!("`{}`", function.name)).collect();
    let message = match (&app.select, names.is_empty()) {
        (_, true) => "the app has no functions".to_owned(),
        (Some(name), false) => format!("the app has no function `{name}`: it has {}", names.join(", ")),
        (None, false) => format!("the app has several functions: name one of {}", names.join(", ")),
    };
    Failure::new(ErrorClass::NotFoundError, message)
}

fn pairs<'a>(variables: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<(String, String)> {
    variables.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Bytes of so many MiB; whole ones, as in Modal.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive; huge saturates")]
fn mebibytes(count: f64) -> u64 {
    (count as u64).saturating_mul(1 << 20)
}

#[cfg(test)]
mod tests;
