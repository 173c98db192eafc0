//! The protocol as Python speaks it, against a backend without store or sandboxes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lamina_events::{Printer, Stream};
use lamina_functions::{
    ContainerEnd, ContainerProcess, ContainerSpec, ContainerStarter, Errands, PoolOptions, ServiceKind, StartError,
    StartedContainer,
};
use lamina_ground::{ErrorClass, Stack, random_id};
use lamina_wire::Payload;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Map, Value, json};

use super::*;
use crate::host::{Host, Hosts, Running, no_variants};
use crate::protocol::{DeployRequest, DeploymentErrand, ImageErrand, SecretErrand, VolumeErrand};

mod attached;

/// A container whose runner gives its input back, or never answers the input `hang`.
struct Echo {
    alive: Arc<AtomicUsize>,
}

struct Process {
    socket: UnixStream,
    ended: Mutex<bool>,
    changed: Condvar,
    alive: Arc<AtomicUsize>,
}

impl ContainerProcess for Process {
    fn kill(&self) {
        if !std::mem::replace(&mut *self.ended.lock().unwrap(), true) {
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.changed.notify_all();
    }

    fn wait(&self, patience: Duration) -> Option<ContainerEnd> {
        let ended = self.ended.lock().unwrap();
        let ended = self.changed.wait_timeout_while(ended, patience, |ended| !*ended).unwrap().0;
        ended.then_some(ContainerEnd::Exited(0))
    }
}

impl ContainerStarter for Echo {
    fn start(&self, _task: &str) -> Result<StartedContainer, StartError> {
        let (ours, theirs) = lamina_wire::socket_pair().unwrap();
        let (stdout, _) = std::io::pipe().unwrap();
        let (stderr, _) = std::io::pipe().unwrap();
        self.alive.fetch_add(1, Ordering::SeqCst);
        let process = Arc::new(Process {
            socket: theirs.try_clone().unwrap(),
            ended: Mutex::new(false),
            changed: Condvar::new(),
            alive: Arc::clone(&self.alive),
        });
        let runner = Arc::clone(&process);
        std::thread::spawn(move || {
            let sender = Sender::new(theirs.try_clone().unwrap());
            let mut receiver = Receiver::new(theirs);
            while let Ok(Some(frame)) = receiver.receive() {
                let control: Value = serde_json::from_slice(&frame.control).unwrap();
                let payload = frame.payload.into_bytes().unwrap();
                let answer = match control["type"].as_str().unwrap() {
                    "start" => json!({"type": "ready"}),
                    "call" if payload == b"hang" => continue,
                    "call" if payload == b"generate" => {
                        for payload in [b"one".to_vec(), vec![2; 2 << 20]] {
                            let item = json!({"type": "item", "call": control["call"]});
                            let _ = sender.send(item.to_string().as_bytes(), &payload, &[]);
                        }
                        continue;
                    }
                    "more" | "call" => json!({"type": "result", "call": control["call"], "status": "ok"}),
                    _ => break,
                };
                let _ = sender.send(answer.to_string().as_bytes(), &payload, &[]);
            }
            runner.kill();
        });
        Ok(StartedContainer { socket: ours, stdout: stdout.into(), stderr: stderr.into(), terminal: None, process })
    }
}

/// A backend whose builds wait for their cancellation if the app has an image named `slow`, and fail if `broken`. A build
/// named `stubborn` ends only when the next one has begun.
#[derive(Default)]
struct Fake {
    alive: Arc<AtomicUsize>,
    cancelled: AtomicUsize,
    begun: AtomicUsize,
    hosts: Hosts,
}

impl Fake {
    fn build(&self, app: &AppRequest, cancel: &CancelToken) -> Result<(), Failure> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let named = |name: &str| app.functions.iter().any(|function| function.image == name);
        if named("slow") {
            while !cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.cancelled.fetch_add(1, Ordering::SeqCst);
            return Err(Failure::new(ErrorClass::KeyboardInterrupt, "the build was cancelled"));
        }
        if named("stubborn") {
            while self.begun.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Err(Failure::new(ErrorClass::KeyboardInterrupt, "the build was cancelled"));
        }
        if named("broken") {
            let (hint, image_id) = (Some("fix it".to_owned()), Some("im-0".to_owned()));
            return Err(Failure { hint, image_id, ..Failure::new(ErrorClass::ImageBuildError, "no") });
        }
        Ok(())
    }
}

/// Errands that end when they are cancelled, but for those that are not to wait.
struct Waiting;

impl Errands for Waiting {
    fn waits(&self, errand: &Map<String, Value>) -> bool {
        errand["do"] == "wait"
    }

    fn run(
        &self,
        errand: Map<String, Value>,
        payload: Payload,
        cancel: &CancelToken,
    ) -> Result<(Value, Payload), CallStatus> {
        let (told, cancelled) = std::sync::mpsc::channel();
        let _guard = cancel.on_cancel(move || told.send(()).unwrap());
        if errand["do"] == "wait" {
            cancelled.recv().unwrap();
        }
        Ok((Value::Object(errand), payload))
    }
}

impl Backend for Fake {
    fn start(&self, _: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Started, Failure> {
        self.build(app, cancel)?;
        sink.emit(Event::ImageBuilt { image: "im-1".into(), seconds: 0.0, cached: true, remaining: 0 });
        sink.emit(Event::Warning { message: "careful".into() });
        let service = |function: &crate::protocol::FunctionRequest| {
            let kind = ServiceKind::Function { name: function.name.clone() };
            let options = PoolOptions::new(kind, function.module.clone(), Duration::from_secs(20));
            let starter = Box::new(Echo { alive: Arc::clone(&self.alive) }) as Box<dyn ContainerStarter>;
            (options, starter)
        };
        let images = app.functions.iter().map(|function| (function.image.clone(), "im-1".to_owned())).collect();
        let services = lamina_functions::Services::new(app.functions.iter().map(service), no_variants(), sink);
        let running = Running::new(services, &app.functions);
        Ok(Started { host: Host::new(random_id("ap"), app.app.name.clone(), running), images })
    }

    fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    fn build(&self, _: &Hello, app: &AppRequest, _: &Sink, _: &CancelToken) -> Result<serde_json::Value, Failure> {
        Ok(serde_json::json!({ "image_id": app.select }))
    }

    fn image(&self, errand: ImageErrand) -> Result<serde_json::Value, Failure> {
        Err(Failure::new(ErrorClass::NotFoundError, format!("{errand:?}")))
    }

    fn secret(&self, errand: SecretErrand) -> Result<serde_json::Value, Failure> {
        match errand {
            SecretErrand::List { environment } => Ok(serde_json::json!([{ "name": environment }])),
            _ => Err(Failure::new(ErrorClass::NotFoundError, "no such secret")),
        }
    }

    fn errands(&self) -> Arc<dyn Errands> {
        Arc::new(Waiting)
    }

    fn volume(&self, errand: VolumeErrand, fds: Vec<OwnedFd>) -> Result<serde_json::Value, Failure> {
        Ok(json!({ "errand": format!("{errand:?}"), "descriptors": fds.len() }))
    }

    fn connect(&self, app: &str) -> Result<(String, UnixStream), Failure> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, app.as_bytes()).unwrap();
        if app == "ap-elsewhere" {
            Ok((app.to_owned(), ours))
        } else {
            Err(Failure::new(ErrorClass::NotFoundError, "no such app"))
        }
    }

    fn deploy(
        &self,
        _: &Hello,
        request: &[u8],
        wanted: &DeployRequest,
        _: &Sink,
        cancel: &CancelToken,
    ) -> Result<Value, Failure> {
        self.build(&wanted.app, cancel)?;
        Ok(json!({ "tag": wanted.tag, "strategy": wanted.strategy, "bytes": request.len() }))
    }

    fn connect_deployed(&self, environment: &str, app: &str) -> Result<(String, UnixStream), Failure> {
        self.connect(if environment == "test" { app } else { "" })
    }

    fn deployment(&self, errand: DeploymentErrand) -> Result<Value, Failure> {
        Ok(json!(format!("{errand:?}")))
    }

    fn describe(&self, _: &Hello, app: &AppRequest, _: &Sink, cancel: &CancelToken) -> Result<Described, Failure> {
        self.build(app, cancel)?;
        let container = ContainerSpec {
            image_id: "im-1".into(),
            layers: Stack::new(),
            image_environment: BTreeMap::new(),
            working_directory: None,
            user: None,
            entrypoint: Vec::new(),
            python: None,
            environment: Vec::new(),
            cpus: None,
            memory_bytes: None,
            gpu: Vec::new(),
            environment_name: "main".into(),
            block_network: false,
            volumes: Vec::new(),
        };
        Ok(Described { function: "f".into(), container })
    }
}

/// A conversation with a fake backend, seen from the Python side.
struct Python {
    sender: Sender,
    receiver: Receiver,
    socket: UnixStream,
}

type Serving<'scope> = std::thread::ScopedJoinHandle<'scope, Result<Option<Described>, EngineError>>;

impl Python {
    fn connect<'scope>(
        scope: &'scope Scope<'scope, '_>,
        backend: &'scope Fake,
        sink: &'scope Sink,
        cancel: &'scope CancelToken,
        role: Role<'scope>,
    ) -> (Self, Serving<'scope>) {
        let (ours, theirs) = lamina_wire::socket_pair().unwrap();
        let serving = scope.spawn(move || converse(backend, theirs, sink, cancel, role));
        let socket = ours.try_clone().unwrap();
        (Self { sender: Sender::new(ours.try_clone().unwrap()), receiver: Receiver::new(ours), socket }, serving)
    }

    /// Closes the connection, as the end of its process does.
    fn die(self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn tell(&self, message: &Value, payload: &[u8]) {
        self.sender.send(message.to_string().as_bytes(), payload, &[]).unwrap();
    }

    fn hear(&mut self) -> (Value, Vec<u8>) {
        let frame = self.receiver.receive().unwrap().expect("an answer");
        (serde_json::from_slice(&frame.control).unwrap(), frame.payload.into_bytes().unwrap())
    }

    fn greet(&mut self, output: bool) {
        self.tell(&hello(PROTOCOL, output), b"");
        assert_eq!(self.hear().0, json!({"type": "welcome", "protocol": 3, "engine": env!("CARGO_PKG_VERSION")}));
    }

    fn call(&mut self, call: u64, payload: &[u8]) -> (Value, Vec<u8>) {
        self.tell(&json!({"type": "call", "call": call, "function": "f"}), payload);
        self.hear()
    }
}

fn hello(protocol: u32, output: bool) -> Value {
    json!({
        "type": "hello", "protocol": protocol, "package": "0.1.0", "python": "3.11.7", "uv": null, "cwd": "/",
        "output": output, "package_directory": "/p/modal",
    })
}

fn start(request: u64, image: &str) -> Value {
    json!({
        "type": "app.start", "request": request, "app": {"name": "demo"},
        "images": [],
        "functions": [{
            "name": "f", "image": image, "module": {"kind": "script", "name": "app", "path": "/root/app.py"},
            "source": {"entries": []}, "mounts": {"entries": []}, "environment": {}, "secrets": [],
            "timeout": 300, "cpu": null, "memory": null, "is_generator": false,
        }],
        "options": {"force_build": false, "ignore_cache": false},
    })
}

/// Runs `python` against a session and returns what the session ended with, its backend and its events.
fn session(
    cancel: &CancelToken,
    python: impl FnOnce(&mut Python),
) -> (Result<Option<Described>, EngineError>, Fake, Vec<Event>) {
    let (backend, events) = (Fake::default(), Arc::new(Mutex::new(Vec::new())));
    let sink = Sink::new({
        let events = Arc::clone(&events);
        move |event| events.lock().unwrap().push(event)
    });
    let outcome = std::thread::scope(|scope| {
        let (mut side, serving) = Python::connect(scope, &backend, &sink, cancel, Role::Owner);
        python(&mut side);
        let _ = side.socket.shutdown(std::net::Shutdown::Both);
        serving.join().unwrap()
    });
    assert_eq!(backend.alive.load(Ordering::SeqCst), 0, "no container may be left");
    let events = events.lock().unwrap().clone();
    (outcome, backend, events)
}

#[test]
fn an_app_is_started_called_and_stopped() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "3"), b"");
        let (started, _) = python.hear();
        let function = &started["functions"]["f"];
        assert!(function.as_str().unwrap().starts_with("fu-"), "{function}");
        let id = started["app_id"].as_str().unwrap();
        assert!(id.starts_with("ap-") && id.len() == 25, "{id}");
        let rest = json!({"type": "app.started", "request": 1, "app_id": id, "images": {"3": "im-1"}, "functions": {"f": function}});
        assert_eq!(started, rest);
        let result = json!({"type": "result", "call": 7, "status": "ok"});
        assert_eq!(python.call(7, b"payload"), (result, b"payload".to_vec()));
        let large = vec![7; 3 << 20];
        assert_eq!(python.call(8, &large).1, large);
        python.tell(&json!({"type": "app.stop", "request": 2}), b"");
        assert_eq!(python.hear().0, json!({"type": "app.stopped", "request": 2}));
        let refused = python.call(9, b"").0;
        assert_eq!(refused["error"], "NotFoundError");
        python.tell(&start(3, "3"), b"");
        assert_eq!(python.hear().0["type"], "app.started", "a second app may follow the first");
    });
    assert!(outcome.unwrap().is_none());
}

#[test]
fn errands_are_answered_with_what_was_asked_for() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&json!({"type": "secret", "request": 1, "do": "list", "environment": "main"}), b"");
        let listed = json!({"type": "done", "request": 1, "value": [{"name": "main"}]});
        assert_eq!(python.hear().0, listed);
        python.tell(&json!({"type": "secret", "request": 2, "do": "delete", "environment": "main", "name": "x"}), b"");
        let refused = python.hear().0;
        assert_eq!((&refused["request"], &refused["error"]), (&json!(2), &json!("NotFoundError")));
        let read = json!({"type": "volume", "request": 3, "do": "read", "volume": {"id": "vo-1"}, "path": "a"});
        python.sender.send(read.to_string().as_bytes(), b"", &[python.socket.as_fd()]).unwrap();
        let done = python.hear().0;
        assert_eq!((&done["request"], &done["value"]["descriptors"]), (&json!(3), &json!(1)));
    });
    outcome.unwrap();
}

#[test]
fn requests_of_collections_are_answered_and_given_up_like_calls() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&json!({"type": "collection", "call": 1, "do": "wait"}), b"x");
        python.tell(&json!({"type": "collection", "call": 2, "do": "get"}), b"key");
        let (answer, payload) = python.hear();
        assert_eq!(answer, json!({"type": "result", "call": 2, "status": "ok", "value": {"do": "get"}}));
        assert_eq!(payload, b"key");
        python.tell(&json!({"type": "cancel", "call": 1}), b"");
        assert_eq!(python.hear().0["call"], 1);
        // The end of the connection ends what waits, or this would not end.
        python.tell(&json!({"type": "collection", "call": 3, "do": "wait"}), b"");
    });
    outcome.unwrap();
}

#[test]
fn a_client_that_leaves_answers_unread_has_only_gone() {
    let (backend, cancel, sink) = (Fake::default(), CancelToken::new(), Sink::new(|_| {}));
    let outcome = std::thread::scope(|scope| {
        let (side, serving) = Python::connect(scope, &backend, &sink, &cancel, Role::Owner);
        side.tell(&hello(PROTOCOL, true), b"");
        let mut readable = [PollFd::new(&side.socket, PollFlags::IN)];
        poll(&mut readable, None).unwrap();
        drop(side);
        serving.join().unwrap()
    });
    assert!(outcome.unwrap().is_none());
}

#[test]
fn items_of_a_generator_come_before_its_result_and_are_acknowledged() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "3"), b"");
        python.hear();
        python.tell(&json!({"type": "more", "call": 7, "count": 1}), b"");
        let item = json!({"type": "item", "call": 7});
        assert_eq!(python.call(7, b"generate"), (item.clone(), b"one".to_vec()));
        assert_eq!(python.hear(), (item, vec![2; 2 << 20]));
        python.tell(&json!({"type": "more", "call": 7, "count": 2}), b"");
        assert_eq!(python.hear().0, json!({"type": "result", "call": 7, "status": "ok"}));
    });
    outcome.unwrap();
}

#[test]
fn the_end_of_the_connection_ends_running_inputs() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "3"), b"");
        python.hear();
        assert_eq!(python.call(1, b"x").1, b"x");
        python.tell(&json!({"type": "call", "call": 2, "function": "f"}), b"hang");
    });
    outcome.unwrap();
}

#[test]
fn the_end_of_the_connection_cancels_a_build() {
    let (outcome, backend, _) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "slow"), b"");
    });
    outcome.unwrap();
    assert_eq!(backend.cancelled.load(Ordering::SeqCst), 1);
}

#[test]
fn interruption_by_the_user_reaches_builds_and_calls_as_answers() {
    let cancel = CancelToken::new();
    let interrupt = cancel.clone();
    session(&cancel, |python| {
        python.greet(true);
        python.tell(&start(1, "slow"), b"");
        interrupt.cancel();
        let failed = json!({
            "type": "error", "request": 1, "error": "KeyboardInterrupt", "message": "the build was cancelled",
            "hint": null, "image_id": null,
        });
        assert_eq!(python.hear().0, failed);
    })
    .0
    .unwrap();

    let cancel = CancelToken::new();
    let interrupt = cancel.clone();
    session(&cancel, |python| {
        python.greet(true);
        python.tell(&start(1, "3"), b"");
        python.hear();
        python.call(1, b"x");
        python.tell(&json!({"type": "call", "call": 2, "function": "f"}), b"hang");
        interrupt.cancel();
        let stopped = python.hear().0;
        assert_eq!((&stopped["call"], &stopped["status"]), (&json!(2), &json!("error")));
    })
    .0
    .unwrap();
}

#[test]
fn a_cancelled_call_gets_its_one_answer() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "3"), b"");
        python.hear();
        python.tell(&json!({"type": "call", "call": 5, "function": "f"}), b"hang");
        python.tell(&json!({"type": "cancel", "call": 5}), b"");
        let expected = json!({
            "type": "result", "call": 5, "status": "error", "error": "RemoteError",
            "message": "the call of function `f` was cancelled", "hint": null,
        });
        assert_eq!(python.hear().0, expected);
        python.tell(&json!({"type": "cancel", "call": 5}), b"");
        assert_eq!(python.call(6, b"again").1, b"again");
    });
    outcome.unwrap();
}

#[test]
fn a_failed_build_is_an_answer_and_another_app_may_follow() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "broken"), b"");
        let failed = json!({
            "type": "error", "request": 1, "error": "ImageBuildError", "message": "no", "hint": "fix it", "image_id": "im-0",
        });
        assert_eq!(python.hear().0, failed);
        python.tell(&start(2, "3"), b"");
        assert_eq!(python.hear().0["type"], "app.started");
        python.tell(&start(3, "3"), b"");
        assert_eq!(python.hear().0["error"], "ConflictError");
    });
    outcome.unwrap();
}

#[test]
fn a_start_that_was_stopped_does_not_disturb_the_next_one() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&start(1, "stubborn"), b"");
        python.tell(&json!({"type": "app.stop", "request": 2}), b"");
        assert_eq!(python.hear().0, json!({"type": "app.stopped", "request": 2}));
        python.tell(&start(3, "slow"), b"");
        let ended = python.hear().0;
        assert_eq!((&ended["request"], &ended["error"]), (&json!(1), &json!("KeyboardInterrupt")));
        python.tell(&start(4, "3"), b"");
        let refused = python.hear().0;
        assert_eq!((&refused["request"], &refused["error"]), (&json!(4), &json!("ConflictError")), "3 still starts");
        python.tell(&json!({"type": "app.stop", "request": 5}), b"");
        let answers = [python.hear().0["request"].clone(), python.hear().0["request"].clone()];
        assert!(answers.contains(&json!(3)) && answers.contains(&json!(5)), "{answers:?}");
    });
    outcome.unwrap();
}

#[test]
fn a_described_function_is_answered_and_handed_to_the_command_line() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        let mut describe = start(1, "3");
        describe["type"] = "app.describe".into();
        describe["select"] = "f".into();
        python.tell(&describe, b"");
        let answer = json!({"type": "app.described", "request": 1, "function": "f", "image_id": "im-1"});
        assert_eq!(python.hear().0, answer);
    });
    assert_eq!(outcome.unwrap().unwrap().function, "f");
}

#[test]
fn another_protocol_version_is_refused() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.tell(&hello(PROTOCOL + 1, true), b"");
        let refused = python.hear().0;
        assert_eq!((&refused["type"], &refused["error"]), (&json!("error"), &json!("VersionError")));
        assert!(refused.get("request").is_none());
    });
    assert!(matches!(outcome, Err(EngineError::Protocol(_))));
}

#[test]
fn messages_that_are_not_understood_are_answered() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&json!({"type": "app.fly", "request": 4}), b"");
        let answer = python.hear().0;
        assert_eq!((&answer["request"], &answer["error"]), (&json!(4), &json!("ExecutionError")));
        python.tell(&json!({"type": "call", "call": 4}), b"");
        let answer = python.hear().0;
        assert_eq!((&answer["call"], &answer["status"]), (&json!(4), &json!("error")));
        python.sender.send(b"\xff{", b"", &[]).unwrap();
        assert_eq!(python.hear().0["type"], "error");
        python.tell(&start(5, "3"), b"");
        assert_eq!(python.hear().0["type"], "app.started", "the conversation goes on");
    });
    outcome.unwrap();

    let (outcome, ..) = session(&CancelToken::new(), |python| {
        use std::io::Write;
        (&python.socket).write_all(&[9; 64]).unwrap();
        assert!(python.hear().0["message"].as_str().unwrap().contains("frame version `9`"));
    });
    assert!(matches!(outcome, Err(EngineError::Connection(_))));

    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.tell(&start(1, "3"), b"");
        assert!(python.hear().0["message"].as_str().unwrap().contains("`hello`"));
    });
    assert!(matches!(outcome, Err(EngineError::Protocol(_))));
}

#[test]
fn scripts_that_do_not_ask_for_output_get_no_build_events() {
    let watch = |output: bool| {
        let (_, _, events) = session(&CancelToken::new(), |python| {
            python.greet(output);
            python.tell(&start(1, "3"), b"");
            python.hear();
        });
        events
    };
    let built = |events: &[Event]| events.iter().any(|event| matches!(event, Event::ImageBuilt { .. }));
    let warned = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Warning { .. }));
    let (loud, quiet) = (watch(true), watch(false));
    assert!(built(&loud) && warned(&loud));
    assert!(!built(&quiet) && warned(&quiet));
    let output = Event::ContainerOutput {
        container: "ta-1".into(),
        stream: Stream::Stdout,
        data: b"x".to_vec(),
        printer: Printer::default(),
    };
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink::new({
        let kept = Arc::clone(&kept);
        move |event| kept.lock().unwrap().push(event)
    });
    without_builds(&sink).emit(output.clone());
    assert_eq!(*kept.lock().unwrap(), [output]);
}
