//! The conversation with one Python process.

mod attachment;
mod backend;
mod call;
mod keeper;

use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use lamina_events::{CancelGuard, CancelToken, Event, Sink};
use lamina_functions::{CallStatus, Calls, OpenErrands, call_graph};
use lamina_ground::ErrorClass;
use lamina_wire::{Receiver, Sender, WireError};
use serde_json::Value;

use attachment::Attachment;

pub use backend::Described;
pub(crate) use backend::{Backend, Started};
pub(crate) use keeper::{Keeper, OnStop, Role};

use crate::protocol::{Answer, AppRequest, AttachRequest, Failure, Hello, PROTOCOL, Request};
use crate::{Engine, EngineError};

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
    let Some(hello) = greet(&mut receiver, &sender, role)? else {
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
fn greet(receiver: &mut Receiver, sender: &Sender, role: Role<'_>) -> Result<Option<Hello>, EngineError> {
    let Some(frame) = receive(receiver, sender)? else {
        return Ok(None);
    };
    let refuse = |failure: Failure| {
        send_error(sender, None, &failure);
        Err(EngineError::Protocol(failure.message))
    };
    match serde_json::from_slice(&frame.control) {
        Ok(Request::Hello(hello)) if hello.protocol == PROTOCOL => {
            let welcome = Answer::Welcome { protocol: PROTOCOL, engine: env!("CARGO_PKG_VERSION") };
            // Whether Python is still there shows with the next message.
            let _ = sender.send(&welcome.encode(), &[], &[]);
            Ok(Some(hello))
        }
        Ok(Request::Hello(hello)) => refuse(role.other_version(&hello)),
        Ok(_) => refuse(Failure::new(ErrorClass::ExecutionError, "the first message must be `hello`".to_owned())),
        Err(error) => {
            refuse(Failure::new(ErrorClass::ExecutionError, format!("the first message is not understood: {error}")))
        }
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
                Ok(Request::Cancel { call, terminate }) => {
                    self.calls.cancel(call, terminate);
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
                Ok(Request::Attach(attach)) => self.begin_attach(scope, attach),
                Ok(Request::Await { call, id }) => self.await_kept(call, &id),
                Ok(Request::Inputs { request, id }) => self.done(request, self.inputs_of(&id)),
                Ok(Request::Graph { request, id }) => self.done(request, self.graph_of(&id)),
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

    /// Attaches to an app; a deployed one's process may have to be started, which takes a thread.
    fn begin_attach<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, attach: AttachRequest) {
        let is_deployed = attach.environment.is_some();
        let attach_to = move || {
            if let Err(failure) = self.attach(&attach) {
                self.fail(Some(attach.request), &failure);
            }
        };
        if is_deployed {
            scope.spawn(attach_to);
        } else {
            attach_to();
        }
    }

    /// Has the deployed app that runs here take over its current version.
    fn update(&self, recreate: bool) -> Result<Value, Failure> {
        match self.role {
            Role::Guest(keeper) => keeper.update(recreate).map(|()| Value::Null),
            Role::Owner => Err(Failure::new(ErrorClass::ConflictError, "no deployed app runs here")),
        }
    }

    /// What a call has called.
    fn graph_of(&self, id: &str) -> Result<Value, Failure> {
        match self.role {
            Role::Guest(keeper) => keeper.graph_of(id),
            Role::Owner => Ok(call_graph(id)?),
        }
    }

    /// Makes sure that the client may have images built.
    fn may_build(&self) -> Result<(), Failure> {
        if matches!(self.role, Role::Owner) {
            return Ok(());
        }
        let message = "this connection is for those who attach to an app that runs: start apps on one of your own";
        Err(Failure::new(ErrorClass::ConflictError, message))
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
                | Event::CallFailed { .. }
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
