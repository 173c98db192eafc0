//! The conversation with one Python process.

mod call;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Scope;
use std::time::Duration;

use lamina_events::{CancelGuard, CancelToken, Event, Sink};
use lamina_functions::{
    CallAnswer, CallId, CallStatus, Callee, Caller, Calls, ContainerSpec, Errands, FunctionCallId, OpenCall,
    OpenErrands, Pool, PoolOptions, Scaling,
};
use lamina_ground::ErrorClass;
use lamina_wire::{Payload, Receiver, Sender, WireError};
use serde_json::{Map, Value, json};

use call::PythonCall;

use crate::host::{Guest, Host, Hosts, Running};
use crate::protocol::{
    Answer, AppRequest, AttachRequest, AttachedFunction, CallRequest, DeployRequest, DeploymentErrand, Failure, Hello,
    ImageErrand, PROTOCOL, PoolRequest, Request, SecretErrand, VolumeErrand,
};
use crate::{Engine, EngineError};

/// What the conversation needs done. A trait, so that the protocol is tested without a store.
pub(crate) trait Backend: Sync {
    /// Builds an app's images and makes its functions' pools.
    fn start(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Started, Failure>;

    /// Builds the image of one function.
    fn describe(
        &self,
        hello: &Hello,
        app: &AppRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Described, Failure>;

    /// Does something with secrets that are kept under names; gives what was asked for.
    fn secret(&self, errand: SecretErrand) -> Result<Value, Failure>;

    /// What does errands with dictionaries and queues.
    fn errands(&self) -> Arc<dyn Errands>;

    /// Does something with volumes, with the descriptors that came along; gives what was asked for.
    fn volume(&self, errand: VolumeErrand, fds: Vec<OwnedFd>) -> Result<Value, Failure>;

    /// Builds one image; gives its id.
    fn build(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Value, Failure>;

    /// Does something with images that were built.
    fn image(&self, errand: ImageErrand) -> Result<Value, Failure>;

    /// The apps that run in this process.
    fn hosts(&self) -> &Hosts;

    /// Connects with the process in which another app runs; gives that app's id.
    fn connect(&self, app: &str) -> Result<(String, UnixStream), Failure>;

    /// Builds an app's images and records it as a version of a deployed app; `request` is the message as it came.
    fn deploy(
        &self,
        hello: &Hello,
        request: &[u8],
        wanted: &DeployRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Value, Failure>;

    /// Connects with the process of a deployed app; gives the app's id.
    fn connect_deployed(&self, environment: &str, app: &str) -> Result<(String, UnixStream), Failure>;

    /// Does something with deployed apps.
    fn deployment(&self, errand: DeploymentErrand) -> Result<Value, Failure>;
}

/// An app that was started.
pub(crate) struct Started {
    /// The app.
    pub(crate) host: Arc<Host>,
    /// Image ids by node.
    pub(crate) images: BTreeMap<String, String>,
}

/// A function whose image was built for a shell.
#[derive(Debug, Clone)]
pub struct Described {
    /// The function's name.
    pub function: String,
    /// Its containers.
    pub container: ContainerSpec,
}

/// How long a client that is attached may leave an answer unread before it is given up: a container waits meanwhile.
pub(crate) const GUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Serves one Python process until it closes the connection or the connection fails; then nothing of its app is left.
/// Answers the function that it asked to have described, if it did.
///
/// Cancelling `engine`'s token stops builds and calls, but Python hears of it as answers and ends the conversation itself.
///
/// # Errors
/// When Python breaks the protocol.
pub fn serve(engine: &Engine, socket: UnixStream, sink: &Sink) -> Result<Option<Described>, EngineError> {
    converse(engine, socket, sink, &engine.cancel, Role::Owner)
}

/// Serves a client that has come to the socket of an app that runs in this process, until it closes the connection or the
/// connection fails. It attaches to apps and starts none. `stopped` is called when it has stopped the app.
///
/// # Errors
/// When the client breaks the protocol.
pub fn serve_attached(
    engine: &Engine,
    socket: UnixStream,
    sink: &Sink,
    stopped: &(dyn Fn() + Sync),
) -> Result<(), EngineError> {
    socket.set_write_timeout(Some(GUEST_PATIENCE))?;
    converse(engine, socket, sink, &engine.cancel, Role::Guest(&OnStop(stopped))).map(|_| ())
}

/// The process that a guest has come to.
pub(crate) trait Keeper: Sync {
    /// The app with this id, in this version or else the current one; nothing if the engine knows which it runs.
    fn host(&self, app: &str, version: Option<u32>) -> Result<Option<Arc<Host>>, Failure>;

    /// Takes over the version that is the current one now, at once or when the inputs of the former one have ended.
    fn update(&self, recreate: bool) -> Result<(), Failure>;

    /// Keeps a call that was spawned, before it runs; gives who is to hear how it ends in the place of `caller`.
    fn keep(
        &self,
        _call: &Kept<'_>,
        _callee: (CallId, Weak<dyn Callee>),
        _input: &Payload,
        caller: Arc<dyn Caller>,
    ) -> Result<Arc<dyn Caller>, Failure> {
        Ok(caller)
    }

    /// What runs a call that is kept, if something does.
    fn kept_callee(&self, _name: &str) -> Option<(CallId, Weak<dyn Callee>)> {
        None
    }

    /// Has `caller` hear how a call ends, or has ended, that is kept; false if nothing is known of it.
    fn wait_for(&self, _name: &str, _caller: Arc<dyn Caller>) -> Result<bool, Failure> {
        Ok(false)
    }

    /// Whether guests may stop the app.
    fn refuse_stop(&self) -> Result<(), Failure>;

    /// A guest has stopped the app: the process ends.
    fn stopped(&self);
}

/// A call that was spawned.
pub(crate) struct Kept<'a> {
    /// The id of its function call.
    pub(crate) name: &'a FunctionCallId,
    /// The function or class.
    pub(crate) function: &'a str,
    /// The method of a class.
    pub(crate) method: Option<&'a str>,
    /// Whether it is of a variant, which only its connection knows.
    pub(crate) variant: bool,
}

/// The process of a detached app.
pub(crate) struct OnStop<'a>(pub(crate) &'a (dyn Fn() + Sync));

impl Keeper for OnStop<'_> {
    fn host(&self, _app: &str, _version: Option<u32>) -> Result<Option<Arc<Host>>, Failure> {
        Ok(None)
    }

    fn update(&self, _recreate: bool) -> Result<(), Failure> {
        Err(Failure::new(ErrorClass::ConflictError, "the app is not deployed: it has no versions"))
    }

    fn refuse_stop(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn stopped(&self) {
        (self.0)();
    }
}

/// What a client may do.
#[derive(Clone, Copy)]
pub(crate) enum Role<'a> {
    /// Anything.
    Owner,
    /// Attach to apps of the process that it has come to.
    Guest(&'a dyn Keeper),
}

/// As [`serve`] and [`serve_attached`], with any backend.
pub(crate) fn converse(
    backend: &dyn Backend,
    socket: UnixStream,
    sink: &Sink,
    cancel: &CancelToken,
    role: Role<'_>,
) -> Result<Option<Described>, EngineError> {
    let sender = Sender::new(socket.try_clone()?);
    let mut receiver = Receiver::new(socket);
    let Some(hello) = greet(&mut receiver, &sender)? else {
        return Ok(None);
    };
    let sink = if hello.output { sink.clone() } else { without_builds(sink) };
    let ending = CancelToken::new();
    let guard = cancel.on_cancel({
        let ending = ending.clone();
        move || ending.cancel()
    });
    let session = Session {
        backend,
        role,
        hello,
        sender,
        sink,
        ending,
        app: Mutex::default(),
        calls: Arc::default(),
        errands: Arc::default(),
        starts: AtomicU64::new(0),
        described: Mutex::default(),
    };
    let outcome = std::thread::scope(|scope| {
        let outcome = session.read(scope, &mut receiver);
        session.ending.cancel();
        session.errands.cancel_all();
        outcome
    });
    session.leave();
    drop(guard);
    outcome?;
    let described = session.described.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(described)
}

/// Waits for the first message and answers it; nothing when the connection was closed without one.
fn greet(receiver: &mut Receiver, sender: &Sender) -> Result<Option<Hello>, EngineError> {
    let Some(frame) = receive(receiver, sender)? else {
        return Ok(None);
    };
    let refuse = |error, message: String| {
        send_error(sender, None, &Failure::new(error, message.clone()));
        Err(EngineError::Protocol(message))
    };
    match serde_json::from_slice(&frame.control) {
        Ok(Request::Hello(hello)) if hello.protocol == PROTOCOL => {
            let welcome = Answer::Welcome { protocol: PROTOCOL, engine: env!("CARGO_PKG_VERSION") };
            // Whether Python is still there shows with the next message.
            let _ = sender.send(&welcome.encode(), &[], &[]);
            Ok(Some(hello))
        }
        Ok(Request::Hello(hello)) => refuse(
            ErrorClass::VersionError,
            format!(
                "the `modal` package {} speaks protocol `{}`, the engine {} speaks `{PROTOCOL}`: install both from \
                 the same release",
                hello.package,
                hello.protocol,
                env!("CARGO_PKG_VERSION"),
            ),
        ),
        Ok(_) => refuse(ErrorClass::ExecutionError, "the first message must be `hello`".to_owned()),
        Err(error) => refuse(ErrorClass::ExecutionError, format!("the first message is not understood: {error}")),
    }
}

/// The next frame; a broken one is answered before it ends the conversation.
fn receive(receiver: &mut Receiver, sender: &Sender) -> Result<Option<lamina_wire::Frame>, EngineError> {
    match receiver.receive() {
        // A process that dies while it sends tears its last frame; one that leaves answers unread resets the connection.
        Err(WireError::Truncated) => Ok(None),
        Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => {
            send_error(sender, None, &Failure::new(ErrorClass::ExecutionError, error.to_string()));
            Err(error.into())
        }
        Ok(frame) => Ok(frame),
    }
}

/// What a session has to do with an app.
#[derive(Default)]
enum Attachment {
    /// Nothing.
    #[default]
    None,
    /// It starts one: the images are being built by the start with this number, until the token is cancelled.
    Starting(u64, CancelToken),
    /// It has started the app, which ends with it.
    Owner(Arc<Host>, OwnerGuards),
    /// It is attached to an app that goes on without it. The guard tells the client of its end.
    Guest(Arc<Host>, #[expect(dead_code, reason = "kept for their effects")] (CancelGuard, Guest)),
}

/// What is arranged for the client that has started an app, as long as these are kept.
struct OwnerGuards {
    /// Calls are stopped when the user cancels.
    _stop: CancelGuard,
    /// The client is told of an end that it has not asked for.
    told: CancelGuard,
}

impl Attachment {
    fn host(&self) -> Option<&Arc<Host>> {
        match self {
            Self::Owner(host, _) | Self::Guest(host, _) => Some(host),
            Self::None | Self::Starting(..) => None,
        }
    }
}

/// A start of an app. One that was stopped may still be ending when the next one runs, so they have numbers.
struct Starting {
    number: u64,
    cancel: CancelToken,
    _guard: CancelGuard,
}

struct Session<'a> {
    backend: &'a dyn Backend,
    role: Role<'a>,
    hello: Hello,
    sender: Sender,
    sink: Sink,
    /// Cancelled by the user, and at the end of the connection.
    ending: CancelToken,
    app: Mutex<Attachment>,
    /// The calls that the client has made.
    calls: Arc<Calls>,
    /// What else it has asked for in the form of calls.
    errands: Arc<OpenErrands>,
    /// How many starts there were.
    starts: AtomicU64,
    described: Mutex<Option<Described>>,
}

impl Session<'_> {
    /// Reads messages until the connection is closed. Calls are handed on in this thread; building gets its own, so
    /// that the end of the connection is noticed meanwhile.
    fn read<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        receiver: &mut Receiver,
    ) -> Result<(), EngineError> {
        while let Some(frame) = receive(receiver, &self.sender)? {
            match Request::decode(&frame.control) {
                Ok(Request::Call(call)) => self.call(call, frame.payload),
                Ok(Request::Variant(variant)) => {
                    if let Some(host) = self.host() {
                        host.with_current(|running| running.services.name_variant(&self.calls, &variant));
                    }
                }
                Ok(Request::Pool(pool)) => self.done(pool.request, self.pool(&pool)),
                Ok(Request::Cancel { call }) => {
                    self.calls.cancel(call);
                    self.errands.cancel(call);
                }
                Ok(Request::Collection { call, errand }) => self.errand(call, errand, frame.payload),
                Ok(Request::More { call, count }) => self.calls.more(call, count),
                Ok(Request::Start(app)) => match self.begin() {
                    Ok(starting) => {
                        scope.spawn(move || self.start(&app, &starting));
                    }
                    Err(failure) => self.fail(Some(app.request), &failure),
                },
                Ok(Request::Describe(app)) => match self.may_build() {
                    Ok(()) => {
                        scope.spawn(move || self.describe(&app));
                    }
                    Err(failure) => self.fail(Some(app.request), &failure),
                },
                Ok(Request::Attach(attach)) => {
                    let is_deployed = attach.environment.is_some();
                    let attach_to = move || {
                        if let Err(failure) = self.attach(&attach) {
                            self.fail(Some(attach.request), &failure);
                        }
                    };
                    if is_deployed {
                        // A deployed app's process may have to be started.
                        scope.spawn(attach_to);
                    } else {
                        attach_to();
                    }
                }
                Ok(Request::Await { call, id }) => self.await_kept(call, &id),
                Ok(Request::Update { request, recreate }) => {
                    scope.spawn(move || self.done(request, self.update(recreate)));
                }
                Ok(Request::Deploy(wanted)) => match self.may_build() {
                    Ok(()) => {
                        let control = frame.control;
                        scope.spawn(move || {
                            let building = self.child_token();
                            let deployed = self.backend.deploy(&self.hello, &control, &wanted, &self.sink, &building.0);
                            self.done(wanted.app.request, deployed);
                        });
                    }
                    Err(failure) => self.fail(Some(wanted.app.request), &failure),
                },
                Ok(Request::Deployment { request, errand }) => match self.may_build() {
                    Ok(()) => {
                        scope.spawn(move || self.done(request, self.backend.deployment(errand)));
                    }
                    Err(failure) => self.fail(Some(request), &failure),
                },
                Ok(Request::Leave { request }) => match self.detach() {
                    Ok(()) => self.answer(&Answer::Left { request }),
                    Err(failure) => self.fail(Some(request), &failure),
                },
                Ok(Request::Stop { request, app }) => match self.stop(app.as_deref()) {
                    Ok(()) => {
                        self.answer(&Answer::Stopped { request });
                        if let (Role::Guest(keeper), Some(_)) = (self.role, app) {
                            keeper.stopped();
                        }
                    }
                    Err(failure) => self.fail(Some(request), &failure),
                },
                Ok(Request::Secret { request, errand }) => {
                    scope.spawn(move || self.done(request, self.backend.secret(errand)));
                }
                Ok(Request::Build(app)) => match self.may_build() {
                    Ok(()) => {
                        scope.spawn(move || {
                            let building = self.child_token();
                            self.done(app.request, self.backend.build(&self.hello, &app, &self.sink, &building.0));
                        });
                    }
                    Err(failure) => self.fail(Some(app.request), &failure),
                },
                Ok(Request::Image { request, errand }) => {
                    scope.spawn(move || self.done(request, self.backend.image(errand)));
                }
                Ok(Request::Volume { request, errand }) => {
                    scope.spawn(move || self.done(request, self.backend.volume(errand, frame.fds)));
                }
                Ok(Request::Hello(_)) => {
                    self.fail(None, &Failure::new(ErrorClass::ExecutionError, "`hello` was sent twice"));
                }
                Err(error) => self.reject(&frame.control, &error),
            }
        }
        Ok(())
    }

    /// Tells of the containers of a service, once it keeps as many as are wanted.
    fn pool(&self, request: &PoolRequest) -> Result<Value, Failure> {
        let host = self.host().ok_or_else(|| Failure::new(ErrorClass::NotFoundError, "no app runs"))?;
        let find = |running: &Running| running.services.pool(&self.calls, &request.function, request.variant);
        let pool = host.with_current(find).map_err(Failure::from)?;
        let scaling = request.applied_to(pool.scaling(), PoolOptions::default_maximum());
        if scaling != pool.scaling() {
            pool.scale(scaling);
        }
        let Scaling { minimum, maximum, buffer, idle } = scaling;
        Ok(json!({
            "settings": {
                "min_containers": minimum,
                "max_containers": maximum,
                "buffer_containers": buffer,
                "scaledown_window": idle.as_secs(),
            },
            "stats": pool.stats(),
        }))
    }

    fn host(&self) -> Option<Arc<Host>> {
        self.lock().host().map(Arc::clone)
    }

    fn call(&self, request: CallRequest, payload: Payload) {
        let Some(host) = self.host() else {
            let message = format!("function `{}` was called, but no app runs", request.function);
            return self.refuse(request.call, CallStatus::error(ErrorClass::NotFoundError, message));
        };
        host.with_current(|running| self.call_on(running, request, payload));
    }

    /// Hands a call to the version of the app that runs.
    fn call_on(&self, running: &Running, request: CallRequest, payload: Payload) {
        let CallRequest { call, function, method, variant, map, identify, spawned } = request;
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
        let part_of = self.calls.function_call(call, map);
        let (sender, calls) = (self.sender.clone(), Arc::clone(&self.calls));
        let mut caller: Arc<dyn Caller> = Arc::new(PythonCall { sender, calls, call });
        // Of a call of several inputs, the first one has its id: the others are for the process that has spawned them.
        if spawned
            && map.is_none()
            && let Role::Guest(keeper) = self.role
        {
            let callee = (id, Arc::downgrade(&pool) as Weak<dyn Callee>);
            let kept =
                Kept { name: &part_of, function: &function, method: method.as_deref(), variant: variant.is_some() };
            match keeper.keep(&kept, callee, &payload, caller) {
                Ok(keeping) => caller = keeping,
                Err(failure) => {
                    self.calls.close(call);
                    return self.refuse(call, CallStatus::error(failure.error, failure.message));
                }
            }
        }
        if identify {
            let accepted = CallAnswer::Accepted { call, id: part_of };
            // As in `answer`.
            let _ = self.sender.send(&accepted.encode(), &[], &[]);
        }
        pool.submit(id, part_of, method.map(Arc::from), payload, caller);
    }

    /// Has the deployed app that runs here take over its current version.
    fn update(&self, recreate: bool) -> Result<Value, Failure> {
        match self.role {
            Role::Guest(keeper) => keeper.update(recreate).map(|()| Value::Null),
            Role::Owner => Err(Failure::new(ErrorClass::ConflictError, "no deployed app runs here")),
        }
    }

    /// Has the client hear how a call ends that was spawned before, perhaps by somebody else.
    fn await_kept(&self, call: u64, name: &str) {
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
            Ok(true) => return,
            Ok(false) => Failure::new(
                ErrorClass::NotFoundError,
                format!(
                    "there is no call `{name}`: results are kept for seven days, and at most a gibibyte for an app"
                ),
            ),
            Err(failure) => failure,
        };
        self.calls.close(call);
        self.refuse(call, CallStatus::error(failure.error, failure.message));
    }

    /// Something that is no call, and is answered like one.
    fn errand(&self, call: u64, errand: Map<String, Value>, payload: Payload) {
        let sender = self.sender.clone();
        let answer = move |answer: CallAnswer, payload: Payload| {
            // As in `answer`.
            let _ = sender.forward(&answer.encode(), &payload);
        };
        self.errands.begin(self.backend.errands(), call, errand, payload, answer);
    }

    fn refuse(&self, call: u64, status: CallStatus) {
        let answer = CallAnswer::Result { call, status };
        // As in `answer`.
        let _ = self.sender.send(&answer.encode(), &[], &[]);
    }

    /// Makes sure that the client may have images built.
    fn may_build(&self) -> Result<(), Failure> {
        if matches!(self.role, Role::Owner) {
            return Ok(());
        }
        let message = "this connection is for those who attach to an app that runs: start apps on one of your own";
        Err(Failure::new(ErrorClass::ConflictError, message))
    }

    /// Notes that an app starts, in the order of the messages: a stop that follows finds it.
    fn begin(&self) -> Result<Starting, Failure> {
        self.may_build()?;
        let mut state = self.lock();
        if !matches!(*state, Attachment::None) {
            let message = "this connection has an app already: stop it first";
            return Err(Failure::new(ErrorClass::ConflictError, message));
        }
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let (cancel, guard) = self.child_token();
        *state = Attachment::Starting(number, cancel.clone());
        Ok(Starting { number, cancel, _guard: guard })
    }

    fn start(&self, app: &AppRequest, starting: &Starting) {
        let started = self.backend.start(&self.hello, app, &self.sink, &starting.cancel);
        match started.and_then(|started| self.adopt(starting.number, started)) {
            Ok(Started { host, images }) => self.answer(&Answer::Started {
                request: app.request,
                app_id: host.id(),
                images: &images,
                functions: &host.current().functions,
            }),
            Err(failure) => {
                self.abandon(starting.number);
                self.fail(Some(app.request), &failure);
            }
        }
    }

    /// Forgets a start that failed, unless it was stopped before.
    fn abandon(&self, number: u64) {
        let mut state = self.lock();
        if matches!(&*state, Attachment::Starting(current, _) if *current == number) {
            *state = Attachment::None;
        }
    }

    /// Makes an app the session's own, unless it was stopped meanwhile.
    fn adopt(&self, number: u64, started: Started) -> Result<Started, Failure> {
        let mut state = self.lock();
        match &*state {
            Attachment::Starting(current, building) if *current == number && !building.is_cancelled() => {}
            _ => {
                return Err(Failure::new(ErrorClass::KeyboardInterrupt, "the app was stopped while it started"));
            }
        }
        let host = &started.host;
        let services = Arc::clone(&host.current().services);
        let stop = self.ending.on_cancel(move || services.begin_stop());
        *state = Attachment::Owner(Arc::clone(host), OwnerGuards { _stop: stop, told: self.tell_of_end(host) });
        self.backend.hosts().add(host);
        Ok(started)
    }

    /// Attaches to an app that runs; for one of another process, the client gets a connection with that.
    fn attach(&self, attach: &AttachRequest) -> Result<(), Failure> {
        let AttachRequest { request, app, environment, version } = attach;
        if let Some(environment) = environment {
            let (app_id, socket) = self.backend.connect_deployed(environment, app)?;
            self.lead_elsewhere(*request, &app_id, &socket);
            return Ok(());
        }
        if !matches!(*self.lock(), Attachment::None) {
            return Err(Failure::new(
                ErrorClass::ConflictError,
                "this connection has an app already: stop or leave it first",
            ));
        }
        let kept = match self.role {
            Role::Guest(keeper) => keeper.host(app, *version)?,
            Role::Owner => None,
        };
        let Some(host) = kept.map_or_else(|| self.backend.hosts().find(app), |host| Ok(Some(host)))? else {
            let (app_id, socket) = self.backend.connect(app)?;
            self.lead_elsewhere(*request, &app_id, &socket);
            return Ok(());
        };
        let guest = host.admit()?;
        let running = host.current();
        let about = |(name, id): (&'_ String, &'_ String)| AttachedFunction {
            generator: running.generators.contains(name),
            class: running.classes.get(name).cloned(),
            id: id.clone(),
        };
        let functions = running.functions.iter().map(|it| (&**it.0, about(it))).collect();
        self.answer(&Answer::Attached { request: *request, app_id: host.id(), functions, elsewhere: false });
        let told = self.tell_of_end(&host);
        *self.lock() = Attachment::Guest(host, (told, guest));
        Ok(())
    }

    /// Gives the client a connection with the process in which an app runs.
    fn lead_elsewhere(&self, request: u64, app_id: &str, socket: &UnixStream) {
        let answer = Answer::Attached { request, app_id, functions: BTreeMap::new(), elsewhere: true };
        // As in `answer`.
        let _ = self.sender.send(&answer.encode(), &[], &[socket.as_fd()]);
    }

    /// Has the client told when the app has ended, as long as the guard is there.
    fn tell_of_end(&self, host: &Host) -> CancelGuard {
        let (sender, id) = (self.sender.clone(), host.id().to_owned());
        host.on_end(move || {
            // As in `answer`.
            let _ = sender.send(&Answer::Ended { app_id: &id }.encode(), &[], &[]);
        })
    }

    /// Ends the attachment to an app, which goes on.
    fn detach(&self) -> Result<(), Failure> {
        match &*self.lock() {
            Attachment::Guest(..) => {}
            Attachment::Owner(..) | Attachment::Starting(..) => {
                return Err(Failure::new(
                    ErrorClass::ConflictError,
                    "this connection has started the app: stop it instead",
                ));
            }
            Attachment::None => {
                return Err(Failure::new(ErrorClass::NotFoundError, "this connection is attached to no app"));
            }
        }
        self.leave();
        Ok(())
    }

    fn describe(&self, app: &AppRequest) {
        let building = self.child_token();
        match self.backend.describe(&self.hello, app, &self.sink, &building.0) {
            Ok(described) => {
                let (function, image_id) = (described.function.clone(), described.container.image_id.clone());
                *self.described.lock().unwrap_or_else(PoisonError::into_inner) = Some(described);
                self.answer(&Answer::Described { request: app.request, function: &function, image_id: &image_id });
            }
            Err(failure) => self.fail(Some(app.request), &failure),
        }
    }

    /// Stops the app, one that is only attached if the client names it; returns when no container is left.
    fn stop(&self, app: Option<&str>) -> Result<(), Failure> {
        let attached = match &*self.lock() {
            Attachment::Guest(host, _) => Some(Arc::clone(host)),
            _ => None,
        };
        if let Some(host) = &attached
            && app != Some(host.id())
        {
            let message =
                format!("the app is not this connection's own: name it, `{}`, to stop it all the same", host.id());
            return Err(Failure::new(ErrorClass::ConflictError, message));
        }
        if let (Some(_), Role::Guest(keeper)) = (&attached, self.role) {
            keeper.refuse_stop()?;
        }
        self.leave();
        if let Some(host) = attached {
            host.stop();
        }
        Ok(())
    }

    /// Ends what the session has to do with an app: its own one is stopped, and no container is left then; one that it is
    /// attached to loses the calls that the client waits for.
    fn leave(&self) {
        let attachment = std::mem::take(&mut *self.lock());
        match attachment {
            Attachment::None => {}
            Attachment::Starting(_, building) => building.cancel(),
            Attachment::Owner(host, guards) => {
                // It asks for the end itself.
                drop(guards.told);
                host.stop();
            }
            Attachment::Guest(..) => self.calls.cancel_awaited(),
        }
    }

    /// A token of its own for one build, because a build cancels its token when it fails.
    fn child_token(&self) -> (CancelToken, CancelGuard) {
        let child = CancelToken::new();
        let guard = self.ending.on_cancel({
            let child = child.clone();
            move || child.cancel()
        });
        (child, guard)
    }

    /// Answers a message that is not understood, with its own number where that can be read.
    fn reject(&self, control: &[u8], error: &serde_json::Error) {
        #[derive(Default, serde::Deserialize)]
        struct Numbers {
            request: Option<u64>,
            call: Option<u64>,
        }
        let numbers: Numbers = serde_json::from_slice(control).unwrap_or_default();
        let message = format!("a message of the `modal` package is not understood: {error}");
        if let Some(call) = numbers.call {
            return self.refuse(call, CallStatus::error(ErrorClass::ExecutionError, message));
        }
        self.fail(numbers.request, &Failure::new(ErrorClass::ExecutionError, message));
    }

    fn done(&self, request: u64, outcome: Result<Value, Failure>) {
        match outcome {
            Ok(value) => self.answer(&Answer::Done { request, value }),
            Err(failure) => self.fail(Some(request), &failure),
        }
    }

    fn answer(&self, answer: &Answer<'_>) {
        // A Python that is gone needs no answer; its end is noticed by the reading side.
        let _ = self.sender.send(&answer.encode(), &[], &[]);
    }

    fn fail(&self, request: Option<u64>, failure: &Failure) {
        send_error(&self.sender, request, failure);
    }

    fn lock(&self) -> MutexGuard<'_, Attachment> {
        self.app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send_error(sender: &Sender, request: Option<u64>, failure: &Failure) {
    let failure = &failure.with_record();
    // As in `answer`.
    let _ = sender.send(&Answer::Error { request, failure }.encode(), &[], &[]);
}

/// A sink that leaves out how images are built.
fn without_builds(sink: &Sink) -> Sink {
    let sink = sink.clone();
    Sink::new(move |event| {
        let kept = matches!(
            event,
            Event::ContainerStarted { .. }
                | Event::ContainerOutput { .. }
                | Event::ContainerFinished { .. }
                | Event::CallRetried { .. }
                | Event::CallStuck { .. }
                | Event::Warning { .. }
        );
        if kept {
            sink.emit(event);
        }
    })
}

#[cfg(test)]
mod tests;
