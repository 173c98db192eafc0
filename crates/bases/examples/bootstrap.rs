//! Bootstraps a base into a store, says how long each part took, and runs a shell command in the result:
//! `cargo run --release -p lamina-bases --example bootstrap -- STORE PYTHON_VERSION [COMMAND]`. `remove` in place of the
//! version removes the store.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to whoever runs it")]

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use lamina_devices::Lender;
use lamina_events::CancelToken;
use lamina_ground::{Stack, StorePath};
use lamina_image::Facts;
use lamina_sandbox::{ExitStatus, Helpers, IdMap, Launcher, SandboxError, SandboxSpec, Stdio, Upper};
use lamina_store::{JobTable, Layout, Store};
use lamina_workshop::{HostPrograms, Workshop};

/// The store worker: serves the jobs of this crate.
fn worker(socket: UnixStream) {
    lamina_store::worker_main(socket, Path::new("/store"), lamina_bases::jobs(JobTable::new()), || ());
}

/// A log whose every piece says when it came.
struct TimedLog {
    started: Instant,
    file: fs_err::File,
}

impl Write for TimedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write!(self.file, "{:6.2} ", self.started.elapsed().as_secs_f64())?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "__helpers") {
        lamina_sandbox::helpers_main(worker);
    }
    let [directory, python, command @ ..] = &arguments[..] else {
        return Err("the arguments are STORE PYTHON_VERSION [COMMAND]".into());
    };
    let layout = Layout::prepare(Path::new(directory))?;
    let id_map = IdMap::for_current_user()?;
    let helpers = Helpers::start(&layout.content(), &id_map, &[])?;
    if python == "remove" {
        return Ok(Store::remove(&layout, helpers.worker)?);
    }
    let store = Store::open(layout, helpers.worker)?;
    let plan = lamina_bases::debian_slim_plan(Some(python), python, None)?;

    let started = Instant::now();
    let last = Mutex::new(String::new());
    let progress = |what: &str, _, _| {
        let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last != what {
            what.clone_into(&mut last);
            eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
        }
    };
    let cancel = CancelToken::new();
    let uv = std::env::var_os("UV").map(std::path::PathBuf::from);
    let workshop = Workshop {
        store: &store,
        launcher: &helpers.launcher,
        devices: &Lender::new(|_| Err(SandboxError::Lost)),
        fetch: &lamina_fetch::Client::new(cancel.clone()),
        id_map: &id_map,
        programs: &HostPrograms { uv, ..HostPrograms::default() },
        progress: &progress,
        cancel: &cancel,
    };
    let mut log = TimedLog { started, file: fs_err::File::create(Path::new(directory).join("bootstrap.log"))? };
    let (work, facts) = lamina_bases::bootstrap(&plan, &workshop, &mut log).map_err(|error| error.to_string())?;
    eprintln!("{:6.2} s  committing", started.elapsed().as_secs_f64());
    let committed = store.commit(&work, lamina_bases::dpkg::commit_rules(Vec::new()))?;
    eprintln!("{:6.2} s  finished", started.elapsed().as_secs_f64());
    println!("{facts:#?}\n{committed:#?}");
    match command.first() {
        Some(command) => run(&helpers.launcher, store.view_path(&committed.digest), &facts, command),
        None => Ok(()),
    }
}

/// Runs a shell command in the base, with a network.
fn run(launcher: &Launcher, view: StorePath, facts: &Facts, command: &str) -> Result<(), Box<dyn std::error::Error>> {
    let spec = SandboxSpec {
        layers: Stack::from_bottom_up([view]),
        upper: Upper::Memory { limit_bytes: 1 << 30 },
        resolv_conf: fs_err::read("/etc/resolv.conf").ok(),
        hosts: fs_err::read("/etc/hosts").ok(),
        argv: vec!["/bin/sh".into(), "-c".into(), command.into()],
        env: facts.config.environment.clone().into_iter().collect(),
        ..SandboxSpec::default()
    };
    let stdio = Stdio {
        stdin: std::io::stdin().as_fd().try_clone_to_owned()?,
        stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
        stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
        socket: None,
    };
    match launcher.spawn(&spec, stdio)?.wait()?.status {
        ExitStatus::Exited(0) => Ok(()),
        other => Err(format!("the command ended with {other:?}").into()),
    }
}
