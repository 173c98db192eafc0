//! The conversation with one Python process.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use lamina_events::{CancelGuard, CancelToken, Event, Sink};
use lamina_functions::{Caller, ContainerSpec, Outcome, Pool};
use lamina_wire::{Payload, Receiver, Sender, WireError};

use crate::failure;
use crate::protocol::{Answer, AppRequest, Failure, Hello, PROTOCOL, Request, ResultStatus};
use crate::{Engine, EngineError};

/// What the conversation needs done. A trait, so that the protocol is tested without a store.
pub(crate) trait Backend: Sync {
    /// Builds an app's images and makes its functions' pools.
    fn start(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<App, Failure>;

    /// Builds the image of one function.
    fn describe(
        &self,
        hello: &Hello,
        app: &AppRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Described, Failure>;
}

/// A running app.
pub(crate) struct App {
    /// Its id, `ap-…`.
    pub(crate) id: String,
    /// Image ids by node.
    pub(crate) images: BTreeMap<String, String>,
    /// Its functions by name.
    pub(crate) functions: HashMap<String, Function>,
}

/// A function of a running app.
pub(crate) struct Function {
    /// Its id, `fu-…`.
    pub(crate) id: String,
    /// Its containers.
    pub(crate) pool: Arc<Pool>,
}

/// A function whose image was built for a shell.
#[derive(Debug, Clone)]
pub struct Described {
    /// The function's name.
    pub function: String,
    /// Its containers.
    pub container: ContainerSpec,
}

/// Serves one Python process until it closes the connection or the connection fails; then nothing of its app is left.
/// Answers the function that it asked to have described, if it did.
///
/// Cancelling `engine`'s token stops builds and calls, but Python hears of it as answers and ends the conversation itself.
///
/// # Errors
/// When Python breaks the protocol.
pub fn serve(engine: &Engine, socket: UnixStream, sink: &Sink) -> Result<Option<Described>, EngineError> {
    converse(engine, socket, sink, &engine.cancel)
}

/// As [`serve`], with any backend.
pub(crate) fn converse(
    backend: &dyn Backend,
    socket: UnixStream,
    sink: &Sink,
    cancel: &CancelToken,
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
        hello,
        sender,
        sink,
        ending,
        app: Mutex::default(),
        starts: AtomicU64::new(0),
        described: Mutex::default(),
    };
    let outcome = std::thread::scope(|scope| {
        let outcome = session.read(scope, &mut receiver);
        session.ending.cancel();
        outcome
    });
    session.stop();
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
            "VersionError",
            format!(
                "the `modal` package {} speaks protocol `{}`, the engine {} speaks `{PROTOCOL}`: install both from \
                 the same release",
                hello.package,
                hello.protocol,
                env!("CARGO_PKG_VERSION"),
            ),
        ),
        Ok(_) => refuse("ExecutionError", "the first message must be `hello`".to_owned()),
        Err(error) => refuse("ExecutionError", format!("the first message is not understood: {error}")),
    }
}

/// The next frame; a broken one is answered before it ends the conversation.
fn receive(receiver: &mut Receiver, sender: &Sender) -> Result<Option<lamina_wire::Frame>, EngineError> {
    match receiver.receive() {
        // A process that dies while it sends tears its last frame.
        Err(WireError::Truncated) => Ok(None),
        Err(error) => {
            send_error(sender, None, &Failure::new("ExecutionError", error.to_string()));
            Err(error.into())
        }
        Ok(frame) => Ok(frame),
    }
}

/// What becomes of the one app of a conversation.
#[derive(Default)]
enum AppState {
    /// There is none.
    #[default]
    Absent,
    /// Its images are being built by the start with this number, until the token is cancelled.
    Starting(u64, CancelToken),
    /// It runs. The guard stops its calls when the user cancels.
    Running(Arc<App>, #[expect(dead_code, reason = "kept for its effect")] CancelGuard),
}

/// A start of an app. One that was stopped may still be ending when the next one runs, so they have numbers.
struct Starting {
    number: u64,
    cancel: CancelToken,
    _guard: CancelGuard,
}

struct Session<'a> {
    backend: &'a dyn Backend,
    hello: Hello,
    sender: Sender,
    sink: Sink,
    /// Cancelled by the user, and at the end of the connection.
    ending: CancelToken,
    app: Mutex<AppState>,
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
            match serde_json::from_slice(&frame.control) {
                Ok(Request::Call { call, function }) => self.call(call, &function, frame.payload),
                Ok(Request::Cancel { call }) => self.cancel(call),
                Ok(Request::More { call, count }) => self.more(call, count),
                Ok(Request::Start(app)) => match self.begin() {
                    Ok(starting) => {
                        scope.spawn(move || self.start(&app, &starting));
                    }
                    Err(failure) => self.fail(Some(app.request), &failure),
                },
                Ok(Request::Describe(app)) => {
                    scope.spawn(move || self.describe(&app));
                }
                Ok(Request::Stop { request }) => {
                    self.stop();
                    self.answer(&Answer::Stopped { request });
                }
                Ok(Request::Hello(_)) => self.fail(None, &Failure::new("ExecutionError", "`hello` was sent twice")),
                Err(error) => self.reject(&frame.control, &error),
            }
        }
        Ok(())
    }

    fn call(&self, call: u64, function: &str, payload: Payload) {
        let app = match &*self.lock() {
            AppState::Running(app, _) => Some(Arc::clone(app)),
            AppState::Absent | AppState::Starting(..) => None,
        };
        let Some(app) = app else {
            return self.refuse(call, format!("function `{function}` was called, but no app runs"));
        };
        let Some(function) = app.functions.get(function) else {
            return self.refuse(call, format!("the app has no function `{function}`"));
        };
        function.pool.submit(call, payload, Arc::new(PythonCall { sender: self.sender.clone(), call }));
    }

    fn refuse(&self, call: u64, message: String) {
        let status = ResultStatus::Error { error: "NotFoundError", message, hint: None };
        self.answer(&Answer::Result { call, status });
    }

    /// Gives up a call. One that has ended meanwhile was answered already.
    fn cancel(&self, call: u64) {
        if let AppState::Running(app, _) = &*self.lock() {
            let app = Arc::clone(app);
            // The first pool that knows the call takes it.
            let _ = app.functions.values().any(|function| function.pool.cancel(call));
        }
    }

    /// Passes on that items were consumed; those of a call that has ended matter to nobody.
    fn more(&self, call: u64, count: u64) {
        if let AppState::Running(app, _) = &*self.lock() {
            let _ = app.functions.values().any(|function| function.pool.more(call, count));
        }
    }

    /// Notes that an app starts, in the order of the messages: a stop that follows finds it.
    fn begin(&self) -> Result<Starting, Failure> {
        let mut state = self.lock();
        if !matches!(*state, AppState::Absent) {
            let message = "this connection has an app already: stop it first";
            return Err(Failure::new("ConflictError", message));
        }
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let (cancel, guard) = self.child_token();
        *state = AppState::Starting(number, cancel.clone());
        Ok(Starting { number, cancel, _guard: guard })
    }

    fn start(&self, app: &AppRequest, starting: &Starting) {
        let started = self.backend.start(&self.hello, app, &self.sink, &starting.cancel);
        match started.and_then(|started| self.adopt(starting.number, started)) {
            Ok(started) => self.answer(&Answer::Started {
                request: app.request,
                app_id: &started.id,
                images: &started.images,
                functions: started.functions.iter().map(|(name, function)| (&**name, &*function.id)).collect(),
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
        if matches!(&*state, AppState::Starting(current, _) if *current == number) {
            *state = AppState::Absent;
        }
    }

    /// Makes an app the running one, unless it was stopped meanwhile.
    fn adopt(&self, number: u64, app: App) -> Result<Arc<App>, Failure> {
        let mut state = self.lock();
        match &*state {
            AppState::Starting(current, building) if *current == number && !building.is_cancelled() => {}
            _ => {
                return Err(Failure::new("KeyboardInterrupt", "the app was stopped while it started"));
            }
        }
        let app = Arc::new(app);
        let pools: Vec<_> = app.functions.values().map(|function| Arc::clone(&function.pool)).collect();
        let guard = self.ending.on_cancel(move || pools.iter().for_each(|pool| pool.begin_stop()));
        *state = AppState::Running(Arc::clone(&app), guard);
        Ok(app)
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

    /// Stops the app; returns when no container is left.
    fn stop(&self) {
        let state = std::mem::take(&mut *self.lock());
        match state {
            AppState::Absent => {}
            AppState::Starting(_, building) => building.cancel(),
            AppState::Running(app, _) => {
                app.functions.values().for_each(|function| function.pool.begin_stop());
                app.functions.values().for_each(|function| function.pool.stop());
            }
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
            let status = ResultStatus::Error { error: "ExecutionError", message, hint: None };
            return self.answer(&Answer::Result { call, status });
        }
        self.fail(numbers.request, &Failure::new("ExecutionError", message));
    }

    fn answer(&self, answer: &Answer<'_>) {
        // A Python that is gone needs no answer; its end is noticed by the reading side.
        let _ = self.sender.send(&answer.encode(), &[], &[]);
    }

    fn fail(&self, request: Option<u64>, failure: &Failure) {
        send_error(&self.sender, request, failure);
    }

    fn lock(&self) -> MutexGuard<'_, AppState> {
        self.app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send_error(sender: &Sender, request: Option<u64>, failure: &Failure) {
    // As in `answer`.
    let _ = sender.send(&Answer::Error { request, failure }.encode(), &[], &[]);
}

/// A call that Python waits for.
struct PythonCall {
    sender: Sender,
    call: u64,
}

impl Caller for PythonCall {
    fn item(&self, payload: Payload) -> Result<(), WireError> {
        self.sender.forward(&Answer::Item { call: self.call }.encode(), &payload)
    }

    fn end(&self, outcome: Outcome) {
        let Self { sender, call } = self;
        let (status, payload) = match outcome {
            Outcome::Value(payload) => (ResultStatus::Ok, payload),
            Outcome::Exception(payload) => (ResultStatus::Exception, payload),
            Outcome::Error(error) => (failure::of_call(&error), Payload::default()),
        };
        let Err(error) = sender.forward(&Answer::Result { call: *call, status }.encode(), &payload) else {
            return;
        };
        // If only the payload was the trouble, the caller still learns of it; if Python is gone, this fails too.
        let message = format!("the result could not be handed over: {error}");
        let status = ResultStatus::Error { error: "ExecutionError", message, hint: None };
        let _ = sender.send(&Answer::Result { call: *call, status }.encode(), &[], &[]);
    }
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
                | Event::Warning { .. }
        );
        if kept {
            sink.emit(event);
        }
    })
}

#[cfg(test)]
mod tests;
