//! The interpreters that compile: one sandbox per processor, fed with wheels as they are unpacked.

use std::collections::BinaryHeap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lamina_sandbox::{InjectedFile, Launcher, Limits, Network, Sandbox, SandboxError, SandboxSpec, Stdio, Upper};
use lamina_store::{JobError, Store};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::bytecode::{CompileWheel, DRIVER};
use crate::error::WheelError;
use crate::request::Target;

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
    pub(crate) store: &'a Store,
    pub(crate) launcher: &'a Launcher,
    pub(crate) layers: &'a [String],
    pub(crate) target: &'a Target,
    pub(crate) bytecode_key: &'a str,
    pub(crate) cancel: &'a lamina_events::CancelToken,
}

/// A running interpreter and its pipes. Dropping it ends it.
struct Interpreter {
    _sandbox: Sandbox,
    requests: OwnedFd,
    answers: OwnedFd,
}

impl Compilers<'_> {
    /// Compiles wheels from the queue until it is closed. A wheel that cannot be compiled is reported to `failed` and
    /// goes without bytecode, as it would with the installers.
    pub(crate) fn work(
        &self,
        queue: &Queue,
        wheel: impl Fn(usize) -> (String, String),
        failed: impl Fn(usize, String),
    ) {
        let mut interpreter = None;
        while let Some(position) = queue.take() {
            if self.cancel.is_cancelled() {
                continue;
            }
            let (name, sha256) = wheel(position);
            if let Err(error) = self.compile(&mut interpreter, name, sha256) {
                // The next wheel gets a fresh interpreter: this one's pipes hold half a conversation.
                interpreter = None;
                failed(position, error.to_string());
            }
        }
    }

    fn compile(&self, interpreter: &mut Option<Interpreter>, name: String, sha256: String) -> Result<(), WheelError> {
        let running = match interpreter {
            Some(running) => running,
            None => interpreter.insert(self.start()?),
        };
        let job = CompileWheel {
            name,
            sha256,
            bytecode_key: self.bytecode_key.to_owned(),
            target: self.target.clone(),
        };
        let compiled: Result<(), JobError> = self
            .store
            .job(&job, &[running.requests.as_fd(), running.answers.as_fd()]);
        Ok(compiled?)
    }

    fn start(&self) -> Result<Interpreter, WheelError> {
        let (stdin, requests) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let (answers, stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let stderr = OwnedFd::from(fs_err::OpenOptions::new().write(true).open("/dev/null")?.into_parts().0);
        let stdio = Stdio {
            stdin,
            stdout,
            stderr,
            socket: None,
        };
        let sandbox = self
            .launcher
            .spawn(&self.spec(), stdio)
            .map_err(|error: SandboxError| WheelError::Compiler {
                interpreter: self.target.interpreter.clone(),
                reason: error.to_string(),
            })?;
        Ok(Interpreter {
            _sandbox: sandbox,
            requests,
            answers,
        })
    }

    /// No network, no site packages, no `.pth` files, nothing of the store but the layers, nothing writable that lasts.
    fn spec(&self) -> SandboxSpec {
        let (major, minor) = self.target.python_minor().unwrap_or_default();
        let argv = [
            self.target.interpreter.as_str(),
            "-sSBW",
            "ignore",
            "/dev/lamina/compile.py",
            &format!("cpython-{major}{minor}"),
        ]
        .map(str::to_owned)
        .to_vec();
        SandboxSpec {
            layers: self.layers.to_vec(),
            upper: Upper::Memory { limit_bytes: 16 << 20 },
            files: vec![InjectedFile {
                name: "compile.py".to_owned(),
                contents: DRIVER.as_bytes().to_vec(),
                mode: 0o444,
            }],
            argv,
            // A fixed seed: the order of set literals must not differ from run to run.
            env: vec![
                ("PYTHONHASHSEED".to_owned(), "0".to_owned()),
                ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ],
            limits: Limits {
                pids: Some(16),
                ..Limits::default()
            },
            network: Network::Isolated,
            ..SandboxSpec::default()
        }
    }
}
