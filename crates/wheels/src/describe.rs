//! Interpreters that images have from elsewhere, as they describe themselves.
//!
//! One is run once, where its image is made, in a sandbox without network and without anything that it could change but what
//! its own step makes. What is unusual about it, or cannot be told, leaves it to the installers themselves.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lamina_ground::{Stack, StorePath, causes, null_device};
use lamina_image::{ForeignPython, Libc, Python};
use lamina_sandbox::{ExitStatus, InjectedFile, Limits, Network, SandboxSpec, Stdio, Upper};
use lamina_workshop::Workshop;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;

use crate::error::WheelError;

/// The program that it runs.
const PROGRAM: &str = include_str!("describe.py");
/// How long it may take; on a loaded machine it is a second.
const TIME: Duration = Duration::from_secs(30);
/// Most bytes that are read of a description, which is about one thousand long. Nobody reads before it has ended, so one that
/// the pipe does not take, usually of 64 KiB, does not end in its time.
const LENGTH: u64 = 32 << 10;
/// Its name in the sandbox.
const NAME: &str = "describe.py";

/// A step's directories that lie over the layers, where these are not all yet.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished<'a>(pub &'a lamina_store::Work);

/// What is learnt of an interpreter.
#[derive(Debug, Default)]
pub struct Description {
    /// It, if it is as installers expect it.
    pub python: Option<Python>,
    /// Files and directories that were made in unfinished directories only to be mounted over.
    pub created_mountpoints: Vec<String>,
}

/// Runs the interpreter at `path`, in an image with these views and perhaps what a step is making over them.
///
/// # Errors
/// When cancelled, or when files of the engine's own cannot be used. That it does not run is no error.
pub fn describe(
    path: &str,
    views: &Stack<StorePath>,
    unfinished: Option<Unfinished<'_>>,
    workshop: &Workshop<'_>,
) -> Result<Description, WheelError> {
    let (output, stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let stdio = Stdio { stdin: null_device()?, stdout, stderr: null_device()?, socket: None };
    let sandbox = match workshop.launcher.spawn(&spec(path, views, unfinished), stdio) {
        Ok(sandbox) => Arc::new(sandbox),
        Err(error) => {
            tracing::info!(path, "an interpreter does not run: {}", causes(&error));
            return Ok(Description::default());
        }
    };
    let killed = Arc::clone(&sandbox);
    let _guard = workshop.cancel.on_cancel(move || killed.kill());
    let exit = match sandbox.wait_timeout(TIME) {
        Ok(Some(exit)) => Ok(exit),
        Ok(None) => {
            sandbox.kill();
            sandbox.wait()
        }
        Err(error) => Err(error),
    };
    workshop.cancel.check()?;
    let Ok(exit) = exit else { return Ok(Description::default()) };
    let mut text = String::new();
    let is_text = File::from(output).take(LENGTH).read_to_string(&mut text).is_ok();
    let has_ended = exit.status == ExitStatus::Exited(0);
    let layers = views.len() + usize::from(unfinished.is_some());
    let said = (is_text && has_ended).then(|| serde_json::from_str::<Said>(&text).ok()).flatten();
    if let Some(said) = &said {
        let unusual = said.unusual.join(" ");
        tracing::info!(path, version = said.version, unusual, "an interpreter described itself");
    } else {
        tracing::info!(path, ended = ?exit.status, "an interpreter did not describe itself");
    }
    let python = said.and_then(|said| said.python(path, layers));
    Ok(Description { python, created_mountpoints: exit.created_mountpoints })
}

/// As when it compiles: neither variables of the image nor network, so that it runs there as well.
fn spec(path: &str, views: &Stack<StorePath>, unfinished: Option<Unfinished<'_>>) -> SandboxSpec {
    let program = format!("/dev/lamina/{NAME}");
    SandboxSpec {
        layers: views.clone(),
        upper: match unfinished {
            Some(Unfinished(work)) => Upper::Store { upper: work.upper(), work: work.work_directory() },
            None => Upper::Memory { limit_bytes: 16 << 20 },
        },
        files: vec![InjectedFile { name: NAME.to_owned(), contents: PROGRAM.into(), mode: 0o444 }],
        argv: [path, "-IBW", "ignore", &program].map(str::to_owned).to_vec(),
        env: vec![("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
        limits: Limits { pids: Some(16), ..Limits::default() },
        network: Network::Isolated,
        ..SandboxSpec::default()
    }
}

/// What an interpreter says about itself.
#[derive(Debug, Clone, Deserialize)]
struct Said {
    version: String,
    machine: String,
    executable: String,
    base_executable: String,
    prefix: String,
    base_prefix: String,
    site_packages: String,
    scripts: String,
    data: String,
    search: Vec<String>,
    libc: Option<Libc>,
    unusual: Vec<String>,
}

impl Said {
    /// The interpreter that was run as `path`, if all about it is as usual.
    fn python(self, path: &str, layers: usize) -> Option<Python> {
        let is_environment = self.prefix != self.base_prefix;
        let base_interpreter = self.base_executable;
        let is_in_prefix =
            Path::new(&base_interpreter).parent().and_then(Path::parent) == Some(Path::new(&self.base_prefix));
        let is_usual = self.unusual.is_empty()
            && self.machine == std::env::consts::ARCH
            && self.executable == path
            && is_in_prefix
            && self.search.contains(&self.site_packages)
            && self.search.iter().all(|directory| directory.starts_with('/'));
        let foreign = ForeignPython { layers, libc: self.libc?, base_interpreter, is_environment };
        is_usual.then_some(Python {
            version: self.version,
            interpreter: self.executable,
            prefix: self.data,
            site_packages: self.site_packages,
            scripts: self.scripts,
            search: self.search,
            foreign: Some(foreign),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Python 3.12 in `/usr/local` says.
    fn said() -> Said {
        let text = |text: &str| text.to_owned();
        Said {
            version: text("3.12.4"),
            machine: std::env::consts::ARCH.to_owned(),
            executable: text("/usr/local/bin/python"),
            base_executable: text("/usr/local/bin/python3.12"),
            prefix: text("/usr/local"),
            base_prefix: text("/usr/local"),
            site_packages: text("/usr/local/lib/python3.12/site-packages"),
            scripts: text("/usr/local/bin"),
            data: text("/usr/local"),
            search: vec![text("/usr/local/lib/python3.12/site-packages")],
            libc: Some(Libc::Glibc(2, 36)),
            unusual: Vec::new(),
        }
    }

    #[test]
    fn usual_interpreters_are_taken() {
        let python = said().python("/usr/local/bin/python", 3).unwrap();
        assert_eq!((python.prefix.as_str(), python.scripts.as_str()), ("/usr/local", "/usr/local/bin"));
        let foreign = python.foreign.unwrap();
        assert_eq!((foreign.layers, foreign.libc, foreign.is_environment), (3, Libc::Glibc(2, 36), false));
        let environment = Said {
            executable: "/venv/bin/python".to_owned(),
            prefix: "/venv".to_owned(),
            site_packages: "/venv/x".to_owned(),
            search: vec!["/venv/x".to_owned()],
            ..said()
        };
        let foreign = environment.python("/venv/bin/python", 1).unwrap().foreign.unwrap();
        assert_eq!((foreign.is_environment, &*foreign.base_interpreter), (true, "/usr/local/bin/python3.12"));
    }

    #[test]
    fn others_are_for_the_installers() {
        let path = "/usr/local/bin/python";
        let is_taken = |said: Said| said.python(path, 1).is_some();
        assert!(!is_taken(Said { unusual: vec!["abi".to_owned()], ..said() }));
        assert!(!is_taken(Said { machine: "riscv64".to_owned(), ..said() }));
        assert!(!is_taken(Said { executable: "/opt/real/python".to_owned(), ..said() }), "a program that starts it");
        assert!(!is_taken(Said { base_prefix: "/usr".to_owned(), prefix: "/usr".to_owned(), ..said() }));
        assert!(!is_taken(Said { search: Vec::new(), ..said() }));
        assert!(!is_taken(Said { libc: None, ..said() }));
    }

    /// The program itself, on this machine's interpreter.
    #[test]
    fn an_interpreter_describes_itself() {
        let output = std::process::Command::new("python3").args(["-IBc", PROGRAM]).output().unwrap();
        let said: Said = serde_json::from_slice(&output.stdout).unwrap();
        assert!(said.version.starts_with("3."), "{said:?}");
        assert!(matches!(said.libc, Some(Libc::Glibc(2, _) | Libc::Musl(1, _))), "{said:?}");
    }
}
