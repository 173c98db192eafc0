//! Deployed apps as containers reach them: this process hands their calls on to the apps' own processes.

use std::collections::{HashMap, HashSet};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lamina_apps::{DeploymentName, Deployments};
use lamina_events::CancelToken;
use lamina_functions::{
    AppReference, CallError, CallId, CallStatus, Callee, Caller, Elsewhere, ElsewhereAnswer, KeptQuestion, OtherApp,
    Outcome, PoolQuestion, Purpose, Service, VariantRequest,
};
use lamina_ground::ErrorClass;
use lamina_wire::{Frame, Payload, Receiver, Sender, WireError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::protocol::{Failure, PROTOCOL};

/// The deployed apps that containers of this process have called.
pub(crate) struct Remotes {
    deployments: Deployments,
    cancel: CancelToken,
    apps: Mutex<HashMap<AppReference, Arc<Remote>>>,
}

impl Remotes {
    /// Those of a store; nobody is waited for any more once `cancel` has come.
    pub(crate) fn new(deployments: Deployments, cancel: CancelToken) -> Self {
        Self { deployments, cancel, apps: Mutex::default() }
    }
}

impl Elsewhere for Remotes {
    fn app(&self, app: &AppReference) -> Arc<dyn OtherApp> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let remote = apps.entry(app.clone()).or_insert_with(|| {
            Remote::start(Target {
                app: app.clone(),
                deployments: self.deployments.clone(),
                cancel: self.cancel.clone(),
            })
        });
        Arc::clone(remote) as Arc<dyn OtherApp>
    }

    fn app_of_call(&self, name: &str) -> Result<Arc<dyn OtherApp>, CallStatus> {
        let app = self.deployments.app_of_call(name).map_err(Failure::from)?;
        let (name, environment) = (app.name().to_owned(), app.environment().to_owned());
        Ok(self.app(&AppReference { name, environment, version: None }))
    }
}

/// What an app's process is to be told.
enum Message {
    Call(Box<Outgoing>),
    About(Vec<u8>),
    Functions(ElsewhereAnswer),
    Question(Box<Question>),
}

/// A question on its way.
struct Question {
    /// What is sent, but for its number.
    wanted: Value,
    variant: Option<(u64, Vec<u8>)>,
    answer: ElsewhereAnswer,
}

/// A call on its way.
struct Outgoing {
    call: u64,
    control: Vec<u8>,
    payload: Payload,
    /// The label of the variant that it is of, and what names that.
    variant: Option<(u64, Vec<u8>)>,
}

/// A deployed app: one thread sends to its process, and one for each connection hears what it answers.
struct Remote {
    queue: mpsc::Sender<Message>,
    open: Arc<Open>,
    /// Labels of variants, by what makes these.
    variants: Mutex<HashMap<String, u64>>,
}

/// Calls that have not ended, by their numbers.
#[derive(Default)]
struct Open {
    calls: Mutex<HashMap<u64, OpenCall>>,
    /// Who hears the answers to questions, and the connections over which these were sent.
    questions: Mutex<HashMap<u64, (u64, ElsewhereAnswer)>>,
}

struct OpenCall {
    caller: Arc<dyn Caller>,
    /// The number of the connection that it was sent over, once it was.
    connection: Option<u64>,
    /// What the app keeps it as, once it does: it goes on when the app's process ends.
    kept_as: Option<String>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, OpenCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, call: u64, outcome: Outcome) {
        let ended = self.lock().remove(&call);
        if let Some(ended) = ended {
            ended.caller.end(outcome);
        }
    }

    /// Whether nobody waits for anything.
    fn is_empty(&self) -> bool {
        self.lock().is_empty() && self.questions().is_empty()
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<u64, (u64, ElsewhereAnswer)>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, question: u64, answer: Result<Value, CallStatus>) {
        let asked = self.questions().remove(&question);
        if let Some((_, tell)) = asked {
            tell(answer);
        }
    }

    /// Ends all calls that were sent over a connection, but for those that the app keeps, and all questions.
    fn end_all(&self, connection: u64, error: &CallError) {
        let lost: Vec<_> = {
            let mut calls = self.lock();
            let is_lost = |call: &OpenCall| call.connection == Some(connection) && call.kept_as.is_none();
            calls.extract_if(|_, call| is_lost(call)).collect()
        };
        for (_, call) in lost {
            call.caller.end(Outcome::Error(error.clone()));
        }
        let unanswered: Vec<_> = self.questions().extract_if(|_, (over, _)| *over == connection).collect();
        for (_, (_, tell)) in unanswered {
            tell(Err(CallStatus::from(error)));
        }
    }

    /// The calls that were sent over a connection which has ended and that the app keeps, with what they are kept as.
    fn kept_of(&self, connection: u64) -> Vec<(u64, String)> {
        let mut calls = self.lock();
        let sent = calls.iter_mut().filter(|(_, call)| call.connection == Some(connection));
        sent.filter_map(|(number, call)| {
            call.connection = None;
            Some((*number, call.kept_as.clone()?))
        })
        .collect()
    }
}

impl Remote {
    fn start(target: Target) -> Arc<Self> {
        let (queue, messages) = mpsc::channel();
        let open = Arc::<Open>::default();
        let remote = Arc::new(Self { queue, open: Arc::clone(&open), variants: Mutex::default() });
        let weak = Arc::downgrade(&remote);
        let forward = move || forward(&target, &messages, &open, &weak);
        // It ends with the queue. Without a thread, calls are refused as soon as they cannot be queued.
        let _ = std::thread::Builder::new().name("other-app".to_owned()).spawn(forward);
        remote
    }
}

impl OtherApp for Remote {
    fn submit(
        &self,
        service: Service<'_>,
        call: CallId,
        purpose: Purpose<'_>,
        payload: Payload,
        caller: Arc<dyn Caller>,
    ) {
        let number = call.number();
        // Calls are told from other requests by how they begin.
        let method = service.method.map(|method| format!(r#","method":{}"#, json!(method))).unwrap_or_default();
        let variant = service.variant.map(|request| self.named(&request));
        let label = variant.as_ref().map(|(label, _)| format!(r#","variant":{label}"#)).unwrap_or_default();
        let rest = match purpose {
            Purpose::Awaited => String::new(),
            Purpose::Spawned => r#","identify":true,"spawned":true"#.to_owned(),
            Purpose::Further { of, index } => {
                format!(r#","identify":true,"spawned":true,"part_of":{},"index":{index}"#, json!(of))
            }
        };
        let function = json!(service.name);
        let control = format!(r#"{{"type":"call","call":{number},"function":{function}{method}{label}{rest}}}"#);
        self.send(Outgoing { call: number, control: control.into_bytes(), payload, variant }, caller, service.name);
    }

    fn await_kept(&self, name: &str, call: CallId, caller: Arc<dyn Caller>) {
        let kept_as = Some(name.to_owned());
        self.open.lock().insert(call.number(), OpenCall { caller, connection: None, kept_as });
        self.ask_for(call.number(), name);
    }

    fn about_kept(&self, question: KeptQuestion, name: &str, answer: ElsewhereAnswer) {
        self.ask(Question { wanted: json!({ "type": question.message(), "id": name }), variant: None, answer });
    }

    fn functions(&self, answer: ElsewhereAnswer) {
        if let Err(mpsc::SendError(Message::Functions(answer))) = self.queue.send(Message::Functions(answer)) {
            answer(Err(no_thread()));
        }
    }

    fn pool(&self, question: PoolQuestion, variant: Option<Arc<VariantRequest>>, answer: ElsewhereAnswer) {
        let variant = variant.map(|request| self.named(&request));
        let mut wanted = json!(question.about(variant.as_ref().map(|(label, _)| *label)));
        wanted["type"] = json!("pool");
        self.ask(Question { wanted, variant, answer });
    }
}

fn no_thread() -> CallStatus {
    let message = "the app cannot be asked: there are no further threads".to_owned();
    CallStatus::error(ErrorClass::ExecutionError, message)
}

impl Callee for Remote {
    fn cancel(&self, call: CallId) -> bool {
        let is_open = self.open.lock().contains_key(&call.number());
        is_open && self.tell(&json!({ "type": "cancel", "call": call.number() }))
    }

    fn terminate(&self, call: CallId) -> bool {
        let is_open = self.open.lock().contains_key(&call.number());
        is_open && self.tell(&json!({ "type": "cancel", "call": call.number(), "terminate": true }))
    }

    fn more(&self, call: CallId, count: u64) -> bool {
        self.tell(&json!({ "type": "more", "call": call.number(), "count": count }))
    }
}

impl Remote {
    /// Has a call sent, of which `caller` hears.
    fn send(&self, outgoing: Outgoing, caller: Arc<dyn Caller>, name: &str) {
        self.open.lock().insert(outgoing.call, OpenCall { caller, connection: None, kept_as: None });
        self.queue(outgoing, name);
    }

    /// Asks for the result of an open call, by what the app keeps it as.
    fn ask_for(&self, call: u64, name: &str) {
        let control = json!({ "type": "await", "call": call, "id": name }).to_string().into_bytes();
        self.queue(Outgoing { call, control, payload: Payload::default(), variant: None }, name);
    }

    fn queue(&self, outgoing: Outgoing, name: &str) {
        let number = outgoing.call;
        if self.queue.send(Message::Call(Box::new(outgoing))).is_err() {
            let message = format!("the call of `{name}` cannot be handed on: there are no further threads");
            self.open.end(number, Outcome::Error(error(ErrorClass::ExecutionError, message)));
        }
    }

    /// Has a question sent.
    fn ask(&self, question: Question) {
        let message = Message::Question(Box::new(question));
        if let Err(mpsc::SendError(Message::Question(question))) = self.queue.send(message) {
            (question.answer)(Err(no_thread()));
        }
    }

    /// A connection has ended: asks over another one for the calls that the app keeps.
    fn ask_again(&self, connection: u64) {
        for (call, name) in self.open.kept_of(connection) {
            self.ask_for(call, &name);
        }
    }

    /// The label of a variant, and the message that names it.
    fn named(&self, request: &VariantRequest) -> (u64, Vec<u8>) {
        let mut variants = self.variants.lock().unwrap_or_else(PoisonError::into_inner);
        let next = variants.len() as u64 + 1;
        let label = *variants.entry(request.key()).or_insert(next);
        let VariantRequest { function, parameters, options, .. } = request;
        let control = json!({
            "type": "variant", "variant": label, "function": function, "parameters": parameters, "options": options,
        });
        (label, control.to_string().into_bytes())
    }

    fn tell(&self, control: &Value) -> bool {
        self.queue.send(Message::About(control.to_string().into_bytes())).is_ok()
    }
}

/// Which app is meant, and how it is reached.
struct Target {
    app: AppReference,
    deployments: Deployments,
    cancel: CancelToken,
}

/// How often a process that ends just when somebody comes is followed by another attempt.
const ATTEMPTS: usize = 10;

impl Target {
    /// Connects with the app's process and attaches to the app.
    fn connect(&self) -> Result<Attached, Failure> {
        let name = DeploymentName::new(&self.app.environment, &self.app.name)?;
        for _ in 0..ATTEMPTS {
            let (deployment, socket) = self.deployments.connect(&name, &self.cancel)?;
            if let Some(connected) = self.attach(&deployment.id, socket)? {
                return Ok(connected);
            }
        }
        Err(Failure::new(ErrorClass::ExecutionError, format!("the process of the app {name} ends again and again")))
    }

    /// Attaches to the app; nothing if its process was about to end.
    fn attach(&self, id: &str, socket: UnixStream) -> Result<Option<Attached>, Failure> {
        let broken = |error: &dyn std::fmt::Display| {
            let message = format!("the process of the app `{}` cannot be spoken with: {error}", self.app.name);
            Failure::new(ErrorClass::ExecutionError, message)
        };
        let clone = || socket.try_clone().map_err(|error| broken(&error));
        let (sender, mut receiver) = (Sender::new(clone()?), Receiver::new(clone()?));
        let hello = json!({
            "type": "hello", "protocol": PROTOCOL, "package": env!("CARGO_PKG_VERSION"), "package_directory": "",
        });
        let attach = json!({ "type": "app.attach", "request": ATTACH, "app": id, "version": self.app.version });
        for message in [hello, attach] {
            // One that is gone is noticed by reading.
            let _ = sender.send(message.to_string().as_bytes(), &[], &[]);
        }
        loop {
            let Ok(Some(frame)) = receiver.receive() else { return Ok(None) };
            let answer: Heard = serde_json::from_slice(&frame.control).map_err(|error| broken(&error))?;
            match &*answer.kind {
                "app.attached" => return Ok(Some(Attached { socket, sender, receiver, functions: answer.functions })),
                "error" => {
                    let class = answer.error.unwrap_or(ErrorClass::ExecutionError);
                    return Err(Failure { hint: answer.hint, ..Failure::new(class, answer.message) });
                }
                _ => {}
            }
        }
    }
}

/// A message of an app's process, as far as it matters here.
#[derive(Deserialize)]
struct Heard {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    call: u64,
    #[serde(default)]
    id: String,
    #[serde(default)]
    request: u64,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    status: String,
    #[serde(default)]
    error: Option<ErrorClass>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    functions: Value,
}

/// A new connection, and the functions that the app has.
struct Attached {
    socket: UnixStream,
    sender: Sender,
    receiver: Receiver,
    functions: Value,
}

/// The present connection with an app's process.
struct Connected {
    number: u64,
    socket: UnixStream,
    sender: Sender,
    functions: Value,
    /// The variants that it knows.
    named: HashSet<u64>,
}

impl Connected {
    /// Names a variant that the app's process does not know yet.
    fn name(&mut self, variant: Option<&(u64, Vec<u8>)>) -> Result<(), WireError> {
        match variant {
            Some((label, name)) if self.named.insert(*label) => self.sender.send(name, &[], &[]),
            _ => Ok(()),
        }
    }
}

/// Sends what is queued, over a new connection where there is none any more.
fn forward(target: &Target, messages: &mpsc::Receiver<Message>, open: &Arc<Open>, remote: &Weak<Remote>) {
    let mut line = Line { target, open, remote, connected: None, connections: 0, questions: 0 };
    while let Some(message) = line.next(messages) {
        match message {
            Message::Call(outgoing) => line.call(&outgoing),
            // Of a connection that has ended all calls have.
            Message::About(control) => {
                drop(line.connected.as_ref().map(|connected| connected.sender.send(&control, &[], &[])));
            }
            Message::Functions(answer) => {
                let functions = line.connection().map(|connected| connected.functions.clone());
                answer(functions.map_err(CallStatus::from));
            }
            Message::Question(question) => line.ask(*question),
        }
    }
}

/// The way to an app's process.
struct Line<'a> {
    target: &'a Target,
    open: &'a Arc<Open>,
    remote: &'a Weak<Remote>,
    connected: Option<Connected>,
    connections: u64,
    /// How many questions were asked.
    questions: u64,
}

/// The number of the request that attaches to the app; those of questions follow.
const ATTACH: u64 = 1;

/// After this without any use, a connection ends.
const UNUSED: Duration = Duration::from_secs(5);

impl Line<'_> {
    /// The next message. A connection over which nothing is under way ends after a while: an app's process stays as long as
    /// anybody is connected with it, also this very process, or one that it is connected with itself.
    fn next(&mut self, messages: &mpsc::Receiver<Message>) -> Option<Message> {
        loop {
            if self.connected.is_none() {
                return messages.recv().ok();
            }
            match messages.recv_timeout(UNUSED) {
                Ok(message) => return Some(message),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) if self.open.is_empty() => self.disconnect(),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Ends the connection; whoever listens to it hears so.
    fn disconnect(&mut self) {
        if let Some(connected) = self.connected.take() {
            let _ = connected.socket.shutdown(Shutdown::Both);
        }
    }

    /// The present connection, or a new one.
    fn connection(&mut self) -> Result<&mut Connected, Failure> {
        if let Some(connected) = self.connected.take() {
            return Ok(self.connected.insert(connected));
        }
        let Attached { socket, sender, receiver, functions } = self.target.connect()?;
        self.connections += 1;
        let number = self.connections;
        self.listen(receiver, number);
        Ok(self.connected.insert(Connected { number, socket, sender, functions, named: HashSet::new() }))
    }

    /// Hears what the app's process answers, until the connection ends.
    fn listen(&self, mut receiver: Receiver, connection: u64) {
        let (app, open, remote) = (self.target.app.name.clone(), Arc::clone(self.open), Weak::clone(self.remote));
        let listener = std::thread::Builder::new().name("other-app".to_owned()).spawn(move || {
            while let Ok(Some(frame)) = receiver.receive() {
                take(frame, &open);
            }
            open.end_all(connection, &lost(&app));
            if let Some(remote) = remote.upgrade() {
                remote.ask_again(connection);
            }
        });
        if let Err(failed) = listener {
            self.open.end_all(connection, &error(ErrorClass::ExecutionError, failed.to_string()));
        }
    }

    /// Sends a question. The second attempt is for a connection that has ended since the last one.
    fn ask(&mut self, asked: Question) {
        let Question { wanted: mut control, variant, mut answer } = asked;
        self.questions += 1;
        let number = ATTACH + self.questions;
        control["request"] = json!(number);
        let (control, open) = (control.to_string(), Arc::clone(self.open));
        for _ in 0..2 {
            let connected = match self.connection() {
                Ok(connected) => connected,
                Err(failure) => return answer(Err(CallStatus::from(failure))),
            };
            open.questions().insert(number, (connected.number, answer));
            if connected
                .name(variant.as_ref())
                .and_then(|()| connected.sender.send(control.as_bytes(), &[], &[]))
                .is_ok()
            {
                return;
            }
            self.connected = None;
            // Whoever heard the connection end has answered already.
            let Some((_, unanswered)) = open.questions().remove(&number) else { return };
            answer = unanswered;
        }
        answer(Err(CallStatus::from(&lost(&self.target.app.name))));
    }

    /// Sends a call. The second attempt is for a connection that has ended since the last one.
    fn call(&mut self, outgoing: &Outgoing) {
        let Outgoing { call, control, payload, variant } = outgoing;
        let open = Arc::clone(self.open);
        for attempt in 0..2 {
            let connected = match self.connection() {
                Ok(connected) => connected,
                Err(Failure { error: class, message, hint, .. }) => {
                    return open.end(*call, Outcome::Error(CallError::Elsewhere { class, message, hint }));
                }
            };
            match open.lock().get_mut(call) {
                Some(open) if open.connection != Some(connected.number) => open.connection = Some(connected.number),
                // It has ended, or was asked for again already.
                _ => return,
            }
            if connected.name(variant.as_ref()).and_then(|()| connected.sender.forward(control, payload)).is_ok() {
                return;
            }
            self.connected = None;
            if attempt == 1 {
                open.end(*call, Outcome::Error(lost(&self.target.app.name)));
            } else if let Some(call) = open.lock().get_mut(call) {
                call.connection = None;
            }
        }
    }
}

fn take(frame: Frame, open: &Open) {
    let Ok(heard) = serde_json::from_slice::<Heard>(&frame.control) else { return };
    match (&*heard.kind, &*heard.status) {
        ("item", _) => {
            let caller = open.lock().get(&heard.call).map(|call| Arc::clone(&call.caller));
            // A caller that is gone has cancelled.
            let _ = caller.map(|caller| caller.item(frame.payload));
        }
        ("call.accepted", _) => {
            let caller = open.lock().get_mut(&heard.call).map(|call| {
                call.kept_as = Some(heard.id.clone());
                Arc::clone(&call.caller)
            });
            if let Some(caller) = caller {
                caller.identified(&heard.id);
            }
        }
        ("call.pending", _) => {
            let caller = open.lock().get(&heard.call).map(|call| Arc::clone(&call.caller));
            if let Some(caller) = caller {
                caller.pending();
            }
        }
        ("result", "ok") => open.end(heard.call, Outcome::Value(frame.payload)),
        ("result", "exception") => open.end(heard.call, Outcome::Exception(frame.payload)),
        ("result", _) => {
            let class = heard.error.unwrap_or(ErrorClass::ExecutionError);
            let Heard { message, hint, .. } = heard;
            open.end(heard.call, Outcome::Error(CallError::Elsewhere { class, message, hint }));
        }
        ("done", _) => open.answer(heard.request, Ok(heard.value)),
        ("error", _) => {
            let error = heard.error.unwrap_or(ErrorClass::ExecutionError);
            let Heard { message, hint, .. } = heard;
            open.answer(heard.request, Err(CallStatus::Error { error, message, hint }));
        }
        _ => {}
    }
}

fn lost(app: &str) -> CallError {
    CallError::Elsewhere {
        class: ErrorClass::RemoteError,
        message: format!("the process of the deployed app `{app}` ended while it was needed"),
        hint: Some("the next call starts it again; `modal app logs` may say more".to_owned()),
    }
}

fn error(class: ErrorClass, message: String) -> CallError {
    CallError::Elsewhere { class, message, hint: None }
}
