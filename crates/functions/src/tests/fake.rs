//! Containers made of a thread and a socket pair. What the runner does with an input is written in its payload.

use std::io::{IoSlice, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use lamina_events::{Event, Sink};
use lamina_ground::ErrorClass;
use lamina_sandbox::SandboxError;
use lamina_wire::{Payload, Receiver, Sender, WireError, socket_pair};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::elsewhere::Callee;
use crate::*;

/// How a fake container starts.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Start {
    Ready,
    FailingImport,
    NeverReady,
    /// Ready, but it reads no input.
    Deaf,
    Impossible,
    Dying,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) start: Start,
    pub(crate) started: Arc<AtomicUsize>,
    pub(crate) alive: Arc<AtomicUsize>,
    pub(crate) left: Arc<AtomicUsize>,
    /// How often an input of the verb `until` ran.
    pub(crate) attempts: Arc<AtomicUsize>,
    /// Whether containers have a terminal; a socket stands for it.
    pub(crate) has_terminal: bool,
}

impl Fake {
    pub(crate) fn new(start: Start) -> Self {
        let count = || Arc::new(AtomicUsize::new(0));
        Self { start, started: count(), alive: count(), left: count(), attempts: count(), has_terminal: false }
    }
}

struct Process {
    socket: UnixStream,
    end: Mutex<Option<ContainerEnd>>,
    ended: Condvar,
    alive: Arc<AtomicUsize>,
}

impl Process {
    fn end(&self, end: ContainerEnd) {
        let mut state = self.end.lock().unwrap();
        if state.is_none() {
            *state = Some(end);
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.ended.notify_all();
    }
}

impl ContainerProcess for Process {
    fn kill(&self) {
        self.end(ContainerEnd::Signaled(9));
    }

    fn wait(&self, patience: Duration) -> Option<ContainerEnd> {
        let state = self.end.lock().unwrap();
        self.ended.wait_timeout_while(state, patience, |end| end.is_none()).unwrap().0.clone()
    }
}

impl ContainerStarter for Fake {
    fn start(&self, _task: &str) -> Result<StartedContainer, StartError> {
        self.started.fetch_add(1, Ordering::SeqCst);
        if self.start == Start::Impossible {
            return Err(SandboxError::CommandNotFound { command: "python".into(), path: "/bin".into() }.into());
        }
        let (ours, theirs) = socket_pair().unwrap();
        let (stdout, stdout_writer) = std::io::pipe().unwrap();
        let (stderr, stderr_writer) = std::io::pipe().unwrap();
        self.alive.fetch_add(1, Ordering::SeqCst);
        let process = Arc::new(Process {
            socket: theirs.try_clone().unwrap(),
            end: Mutex::new(None),
            ended: Condvar::new(),
            alive: Arc::clone(&self.alive),
        });
        let (terminal, console) = UnixStream::pair().unwrap();
        let runner = Runner {
            console,
            sender: Sender::new(theirs.try_clone().unwrap()),
            receiver: Receiver::new(theirs),
            stdout: stdout_writer,
            stderr: stderr_writer,
            process: Arc::clone(&process),
            attempts: Arc::clone(&self.attempts),
            hanging: None,
        };
        let (start, left) = (self.start, Arc::clone(&self.left));
        std::thread::spawn(move || runner.run(start, &left));
        Ok(StartedContainer {
            socket: ours,
            stdout: OwnedFd::from(stdout),
            stderr: OwnedFd::from(stderr),
            terminal: self.has_terminal.then(|| terminal.into()),
            process,
        })
    }
}

struct Runner {
    sender: Sender,
    receiver: Receiver,
    stdout: PipeWriter,
    stderr: PipeWriter,
    console: UnixStream,
    process: Arc<Process>,
    attempts: Arc<AtomicUsize>,
    /// The input that runs until it is cancelled.
    hanging: Option<String>,
}

impl Runner {
    fn run(mut self, start: Start, left: &AtomicUsize) {
        let first = self.receive().unwrap();
        assert!(first.0.starts_with(r#"{"type":"start","module":{"kind":"script""#), "{}", first.0);
        match start {
            Start::Ready => self.tell(r#"{"type":"ready"}"#, b""),
            Start::FailingImport => self.tell(r#"{"type":"failed"}"#, b"ImportError"),
            Start::Dying => {
                self.stderr.write_all(b"Fatal Python error\n").unwrap();
                self.process.end(ContainerEnd::Exited(1));
            }
            Start::Deaf => {
                self.tell(r#"{"type":"ready"}"#, b"");
                let ended = self.process.end.lock().unwrap();
                drop(self.process.ended.wait_while(ended, |end| end.is_none()).unwrap());
            }
            Start::NeverReady | Start::Impossible => {}
        }
        while let Some((control, payload)) = self.receive() {
            if control == r#"{"type":"stop"}"# {
                left.fetch_add(1, Ordering::SeqCst);
                self.process.end(ContainerEnd::Exited(0));
                return;
            }
            if let Some(call) = cancelled(&control).filter(|call| self.hanging.as_deref() == Some(*call)) {
                self.tell(&format!(r#"{{"type":"result","call":{call},"status":"exception"}}"#), b"cancelled");
            }
            let Some(rest) = control.strip_prefix(r#"{"type":"call","call":"#) else {
                // An answer to a call that its input has not waited for.
                continue;
            };
            let call = rest.split(',').next().unwrap().to_owned();
            self.perform(&call, &String::from_utf8(payload).unwrap());
        }
    }

    fn perform(&mut self, call: &str, input: &str) {
        let (verb, rest) = input.split_once(' ').unwrap_or((input, ""));
        let ok = format!(r#"{{"type":"result","call":{call},"status":"ok"}}"#);
        let item = format!(r#"{{"type":"item","call":{call}}}"#);
        match verb {
            "echo" => self.tell(&ok, rest.as_bytes()),
            "large" => self.tell(&ok, &vec![b'x'; 2 << 20]),
            "sleep" => {
                std::thread::sleep(Duration::from_millis(rest.parse().unwrap()));
                self.tell(&ok, b"slept");
            }
            "raise" => {
                let control = format!(r#"{{"type":"result","call":{call},"status":"exception"}}"#);
                self.tell(&control, rest.as_bytes());
            }
            "print" => {
                self.stdout.write_all(rest.as_bytes()).unwrap();
                self.tell(&ok, b"");
            }
            "exit" => {
                self.stderr.write_all(b"last words\n").unwrap();
                self.process.end(ContainerEnd::Exited(rest.parse().unwrap()));
            }
            "signal" => self.process.end(ContainerEnd::Signaled(rest.parse().unwrap())),
            "memory" => self.process.end(ContainerEnd::OutOfMemory),
            "close" => self.process.socket.shutdown(std::net::Shutdown::Both).unwrap(),
            "rubbish" => self.tell(r#"{"type":"exec"}"#, b""),
            "shout" => {
                let kind = "\\u001b[31mfake\\n".repeat(100_000);
                self.tell(&format!(r#"{{"type":"{kind}"}}"#), b"");
            }
            "fail" => self.tell(r#"{"type":"failed"}"#, b"ImportError"),
            "wrong" => self.tell(r#"{"type":"result","call":4242,"status":"ok"}"#, b""),
            "unsealed" => {
                let memory = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
                self.sender.forward(ok.as_bytes(), &Payload::Memory(memory, 5)).unwrap();
            }
            "torn" => (&self.process.socket).write_all(&[1, 0, 0, 0, 9, 0, 0, 0]).unwrap(),
            "dripping" => {
                let mut socket = &self.process.socket;
                socket.write_all(&[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
                while socket.write_all(b" ").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            "lingering" => {
                let mut frame = vec![1, 0, 1, 0, u8::try_from(ok.len()).unwrap(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                frame.extend_from_slice(ok.as_bytes());
                self.hand_over(lingering(), frame[0]);
                (&self.process.socket).write_all(&frame[1..]).unwrap();
            }
            "hang" => self.hanging = Some(call.to_owned()),
            "until" => {
                let (limit, input) = rest.split_once(' ').unwrap();
                if self.attempts.fetch_add(1, Ordering::SeqCst) < limit.parse().unwrap() {
                    self.perform(call, input);
                } else {
                    self.tell(&ok, b"done");
                }
            }
            "count" => {
                for number in 0..rest.parse::<u64>().unwrap() {
                    self.tell(&item, number.to_string().as_bytes());
                }
                self.tell(&ok, b"");
            }
            "listen" => {
                self.tell(&item, b"only");
                let heard = self.receive().map_or_else(String::new, |(control, _)| control);
                self.tell(&ok, heard.as_bytes());
            }
            "interact" => {
                self.tell(r#"{"type":"interact"}"#, b"");
                self.console.write_all(rest.as_bytes()).unwrap();
                let mut answer = [0; 2];
                self.console.read_exact(&mut answer).unwrap();
                self.tell(&ok, &answer);
            }
            "interrupted" => {
                self.attempts.fetch_add(1, Ordering::SeqCst);
                let control = format!(r#"{{"type":"result","call":{call},"status":"interrupted"}}"#);
                self.tell(&control, b"KeyboardInterrupt");
            }
            "late" => {
                self.tell(&ok, b"");
                self.tell(r#"{"type":"interact"}"#, b"");
            }
            "foreign" => self.tell(r#"{"type":"item","call":4242}"#, b""),
            _ => self.perform_call(call, verb, rest),
        }
    }

    /// Runs an input that calls another function.
    fn perform_call(&mut self, call: &str, verb: &str, rest: &str) {
        let ok = format!(r#"{{"type":"result","call":{call},"status":"ok"}}"#);
        match verb {
            "call" => {
                let (function, input) = rest.split_once(' ').unwrap();
                self.make_call(1, call, function, input, "");
                self.relay(call, 1);
            }
            "twice" => {
                self.make_call(1, call, "g", "hang", "");
                self.make_call(1, call, "g", "hang", "");
            }
            "leave" => {
                let (function, input) = rest.split_once(' ').unwrap();
                self.make_call(1, call, function, input, "");
                let control = format!(r#"{{"type":"result","call":{call},"status":"exception"}}"#);
                self.tell(&control, b"left");
            }
            "spawn" => {
                let (function, input) = rest.split_once(' ').unwrap();
                self.make_call(1, call, function, input, r#","identify":true,"spawned":true"#);
                let accepted = self.receive().map_or_else(String::new, |(control, _)| control);
                self.tell(&ok, accepted.as_bytes());
            }
            "flood" => {
                let large = format!("echo {}", "x".repeat(2 << 20));
                for label in 0..rest.parse().unwrap() {
                    self.make_call(label, call, "f", &large, r#","spawned":true"#);
                }
                self.tell(&ok, b"spawned");
            }
            "deaf" => {
                let (function, input) = rest.split_once(' ').unwrap();
                for label in 0..100 {
                    self.make_call(label, call, function, input, "");
                }
                let ended = self.process.end.lock().unwrap();
                drop(self.process.ended.wait_while(ended, |end| end.is_none()).unwrap());
            }
            other => panic!("unknown input {other}"),
        }
    }

    /// Calls another function, for the input `input_of`.
    fn make_call(&self, label: u64, input_of: &str, function: &str, input: &str, more: &str) {
        let control = format!(r#"{{"type":"call","call":{label},"function":"{function}","input":{input_of}{more}}}"#);
        self.tell(&control, input.as_bytes());
    }

    /// Passes the answers to a call of its own on, as those of the input `call`.
    fn relay(&mut self, call: &str, label: u64) {
        while let Some((control, payload)) = self.receive() {
            if control == format!(r#"{{"type":"item","call":{label}}}"#) {
                self.tell(&format!(r#"{{"type":"more","call":{label},"count":1}}"#), b"");
                self.tell(&format!(r#"{{"type":"item","call":{call}}}"#), &payload);
                continue;
            }
            if cancelled(&control) == Some(call) {
                return self.tell(&format!(r#"{{"type":"result","call":{call},"status":"exception"}}"#), b"cancelled");
            }
            let Some(status) = control.strip_prefix(&format!(r#"{{"type":"result","call":{label},"status":""#)) else {
                continue;
            };
            let (status, payload) = match status {
                r#"ok"}"# => ("ok", payload),
                r#"exception"}"# => ("exception", payload),
                error => ("exception", error.as_bytes().to_vec()),
            };
            return self.tell(&format!(r#"{{"type":"result","call":{call},"status":"{status}"}}"#), &payload);
        }
    }

    /// Sends a byte with a descriptor, and keeps none of it: whoever receives it has the last one.
    fn hand_over(&self, descriptor: impl AsFd, byte: u8) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [descriptor.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [IoSlice::new(std::slice::from_ref(&byte))];
        rustix::net::sendmsg(&self.process.socket, &bytes, &mut ancillary, SendFlags::empty()).unwrap();
    }

    fn receive(&mut self) -> Option<(String, Vec<u8>)> {
        let frame = self.receiver.receive().ok().flatten()?;
        Some((String::from_utf8(frame.control).unwrap(), frame.payload.into_bytes().unwrap()))
    }

    fn tell(&self, control: &str, payload: &[u8]) {
        let _ = self.sender.send(control.as_bytes(), payload, &[]);
    }
}

/// Which input a message cancels, if it does.
fn cancelled(control: &str) -> Option<&str> {
    control.strip_prefix(r#"{"type":"cancel","call":"#)?.strip_suffix('}')
}

/// A socket whose closing waits: its peer reads nothing of what is on the way.
fn lingering() -> TcpStream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // Never accepted and never closed.
    std::mem::forget(listener);
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 4096]).is_ok() {}
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_mins(10))).unwrap();
    socket
}

/// The services of an app on fake containers, with what they report.
pub(crate) struct Bench {
    pub(crate) fake: Fake,
    pub(crate) services: Arc<Services>,
    /// The pool of the function `f`.
    pub(crate) pool: Arc<Pool>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    /// An app with the function `f`.
    pub(crate) fn new(start: Start, adjust: impl FnOnce(&mut PoolOptions)) -> Self {
        let mut options = options("f", 2);
        adjust(&mut options);
        Self::with(start, vec![options])
    }

    /// An app with these functions, each with a maximum of containers.
    pub(crate) fn several(functions: &[(&str, usize)]) -> Self {
        Self::with(Start::Ready, functions.iter().map(|(name, maximum)| options(name, *maximum)).collect())
    }

    fn with(start: Start, all: Vec<PoolOptions>) -> Self {
        let has_terminal = all.iter().any(|options| options.terminal.is_some());
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink::new({
            let events = Arc::clone(&events);
            move |event| events.lock().unwrap().push(event)
        });
        let fake = Fake { has_terminal, ..Fake::new(start) };
        let starter = || Box::new(fake.clone()) as Box<dyn ContainerStarter>;
        let (known, variants) = (all[0].clone(), fake.clone());
        let make: MakeVariant = Box::new(move |variant| {
            if variant.function != "f" {
                return Err(CallStatus::error(ErrorClass::InvalidError, "only `f` has variants".to_owned()));
            }
            Ok((known.clone(), Box::new(variants.clone()) as Box<dyn ContainerStarter>))
        });
        let services = Services::new(all.into_iter().map(|options| (options, starter())), make, &sink);
        let pool = Arc::clone(services.get("f").unwrap());
        Self { fake, services, pool, events }
    }

    pub(crate) fn cancel(&self, call: u64) -> bool {
        self.pool.cancel(CallId::from_number(call))
    }

    pub(crate) fn more(&self, call: u64, count: u64) -> bool {
        self.pool.more(CallId::from_number(call), count)
    }

    /// Submits an input; its outcome arrives in the channel.
    pub(crate) fn submit(&self, call: u64, input: &str) -> mpsc::Receiver<Outcome> {
        self.generate(call, input).1
    }

    /// Submits an input; its items and its outcome arrive in the channels.
    pub(crate) fn generate(&self, call: u64, input: &str) -> (mpsc::Receiver<String>, mpsc::Receiver<Outcome>) {
        let ((items, received), (outcomes, ended)) = (mpsc::channel(), mpsc::channel());
        self.submit_to("f", call, input, Listener { items, outcomes });
        (received, ended)
    }

    /// Submits an input of any function; its outcome arrives in the channel.
    pub(crate) fn submit_another(&self, function: &str, call: u64, input: &str) -> mpsc::Receiver<Outcome> {
        let ((items, _), (outcomes, ended)) = (mpsc::channel(), mpsc::channel());
        self.submit_to(function, call, input, Listener { items, outcomes });
        ended
    }

    fn submit_to(&self, function: &str, call: u64, input: &str, listener: Listener) {
        let payload = Payload::Inline(input.as_bytes().to_vec());
        let part_of = Calls::default().function_call(call, None);
        self.services.get(function).unwrap().submit(
            CallId::from_number(call),
            part_of,
            None,
            payload,
            Arc::new(listener),
        );
    }

    /// The circles that were reported.
    pub(crate) fn circles(&self) -> Vec<(Vec<String>, usize)> {
        let events = self.events.lock().unwrap();
        let circle = |event: &Event| match event {
            Event::CallStuck { path, max_containers } => Some((path.clone(), *max_containers)),
            _ => None,
        };
        events.iter().filter_map(circle).collect()
    }

    /// Runs an input to its end.
    pub(crate) fn run(&self, call: u64, input: &str) -> Outcome {
        outcome(&self.submit(call, input))
    }

    pub(crate) fn started(&self) -> usize {
        self.fake.started.load(Ordering::SeqCst)
    }

    pub(crate) fn alive(&self) -> usize {
        self.fake.alive.load(Ordering::SeqCst)
    }

    pub(crate) fn stdout(&self) -> Vec<Vec<u8>> {
        let events = self.events.lock().unwrap();
        let data = |event: &Event| match event {
            Event::ContainerOutput { data, .. } => Some(data.clone()),
            _ => None,
        };
        events.iter().filter_map(data).collect()
    }
}

fn options(function: &str, maximum: usize) -> PoolOptions {
    let module = Module::Script { name: "app".into(), path: "/root/app.py".into(), qualname: None };
    let kind = ServiceKind::Function { name: function.into() };
    PoolOptions { maximum, ..PoolOptions::new(kind, module, Duration::from_secs(30)) }
}

/// A caller that passes on what it is told.
struct Listener {
    items: mpsc::Sender<String>,
    outcomes: mpsc::Sender<Outcome>,
}

impl Caller for Listener {
    fn item(&self, payload: Payload) -> Result<(), WireError> {
        // A test need not look at the items.
        let _ = self.items.send(String::from_utf8(payload.into_bytes()?).unwrap());
        Ok(())
    }

    fn end(&self, outcome: Outcome) {
        self.outcomes.send(outcome).unwrap();
    }
}

pub(crate) fn outcome(receiver: &mpsc::Receiver<Outcome>) -> Outcome {
    receiver.recv_timeout(Duration::from_secs(20)).expect("every input gets an outcome")
}

pub(crate) fn value(outcome: Outcome) -> String {
    match outcome {
        Outcome::Value(payload) => String::from_utf8(payload.into_bytes().unwrap()).unwrap(),
        other => panic!("not a value: {other:?}"),
    }
}

pub(crate) fn error(outcome: Outcome) -> CallError {
    match outcome {
        Outcome::Error(error) => error,
        other => panic!("not an error: {other:?}"),
    }
}
