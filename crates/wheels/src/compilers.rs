//! The interpreters that compile: one sandbox per processor, fed with wheels as they are unpacked.

use std::collections::BinaryHeap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lamina_events::CancelGuard;
use lamina_ground::{Stack, StorePath, causes, null_device};
use lamina_sandbox::{InjectedFile, Limits, Network, Sandbox, SandboxSpec, Stdio, Upper};
use lamina_store::JobError;
use lamina_workshop::Workshop;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::bytecode::{CompileWheel, DRIVER};
use crate::error::WheelError;
use crate::lock::Wheel;
use crate::request::Target;

/// After so many failures in one lane the rest goes without bytecode: the interpreter is at fault, not the wheels.
const FAILURE_LIMIT: usize = 4;

/// Wheels waiting to be compiled, the largest first.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: BinaryHeap<(u64, usize)>,
    closed: bool,
}

impl Queue {
    /// Adds the wheel at `position`, with the bytes of source that it has.
    pub(crate) fn add(&self, position: usize, source_bytes: u64) {
        if source_bytes > 0 {
            self.lock().waiting.push((source_bytes, position));
            self.changed.notify_one();
        }
    }

    /// Says that nothing more will be added.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for the next wheel; `None` when all are taken.
    fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if let Some((_, position)) = state.waiting.pop() {
                return Some(position);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What compiling needs.
pub(crate) struct Compilers<'a> {
    pub(crate) workshop: &'a Workshop<'a>,
    pub(crate) layers: &'a Stack<StorePath>,
    pub(crate) target: &'a Target,
    pub(crate) bytecode_key: &'a str,
}

/// A running interpreter and its pipes. Dropping it ends it.
struct Interpreter {
    /// Taken back before the sandbox itself is dropped.
    _guard: CancelGuard,
    _sandbox: Arc<Sandbox>,
    requests: OwnedFd,
    answers: OwnedFd,
}

impl Compilers<'_> {
    /// Compiles wheels from the queue until it is closed. What cannot be compiled goes without bytecode, as it would
    /// with the installers; the answer says so in sentences.
    pub(crate) fn work(&self, queue: &Queue, wheels: &[&Wheel]) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut interpreter = None;
        while let Some(position) = queue.take() {
            if self.workshop.cancel.is_cancelled() || warnings.len() >= FAILURE_LIMIT {
                continue;
            }
            let wheel = wheels[position];
            match self.compile(&mut interpreter, wheel) {
                Ok(()) => {}
                Err(error @ WheelError::Compiler { .. }) => {
                    warnings =
                        vec![format!("packages are installed without bytecode: {}", causes(&error)); FAILURE_LIMIT];
                }
                Err(error) => {
                    // The next wheel gets a fresh interpreter: this one's pipes hold half a conversation.
                    interpreter = None;
                    warnings.push(format!("`{}` is installed without bytecode: {}", wheel.name, causes(&error)));
                }
            }
        }
        warnings.dedup();
        warnings
    }

    fn compile(&self, interpreter: &mut Option<Interpreter>, wheel: &Wheel) -> Result<(), WheelError> {
        let running = match interpreter {
            Some(running) => running,
            None => interpreter.insert(self.start()?),
        };
        let job = CompileWheel {
            name: wheel.name.clone(),
            sha256: wheel.sha256.clone(),
            bytecode_key: self.bytecode_key.to_owned(),
            target: self.target.clone(),
        };
        let compiled: Result<(), JobError> =
            self.workshop.store.job(&job, &[running.requests.as_fd(), running.answers.as_fd()]);
        Ok(compiled?)
    }

    fn start(&self) -> Result<Interpreter, WheelError> {
        let (stdin, requests) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let (answers, stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let stdio = Stdio { stdin, stdout, stderr: null_device()?, socket: None };
        let sandbox = self
            .workshop
            .launcher
            .spawn(&self.spec(), stdio)
            .map_err(|source| WheelError::Compiler { interpreter: self.target.base_interpreter.clone(), source })?;
        let sandbox = Arc::new(sandbox);
        let cancelled = Arc::clone(&sandbox);
        Ok(Interpreter {
            _guard: self.workshop.cancel.on_cancel(move || cancelled.kill()),
            _sandbox: sandbox,
            requests,
            answers,
        })
    }

    /// No network, no site packages, no `.pth` files, nothing of the store but the layers, nothing writable that lasts.
    fn spec(&self) -> SandboxSpec {
        let (major, minor) = self.target.python_minor().unwrap_or_default();
        let argv = [
            self.target.base_interpreter.as_str(),
            "-sSBW",
            "ignore",
            "/dev/lamina/compile.py",
            &format!("cpython-{major}{minor}"),
        ]
        .map(str::to_owned)
        .to_vec();
        SandboxSpec {
            layers: self.layers.clone(),
            upper: Upper::Memory { limit_bytes: 16 << 20 },
            files: vec![InjectedFile {
                name: "compile.py".to_owned(),
                contents: DRIVER.as_bytes().to_vec(),
                mode: 0o444,
            }],
            argv,
            // A fixed seed: the order of set literals must not differ from run to run.
            env: vec![("PYTHONHASHSEED".to_owned(), "0".to_owned()), ("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
            limits: Limits { pids: Some(16), ..Limits::default() },
            network: Network::Isolated,
            ..SandboxSpec::default()
        }
    }
}
