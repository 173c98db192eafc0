//! Control groups for an ordinary user: those of a login belong to root, but the user's own systemd has some to give.
//!
//! It moves only processes that have the user's id, and the kernel moves what such a process starts only among groups
//! that are the user's. So the helpers get a scope while they still have that id, and sandboxes are made in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lamina_ground::EnvVars;
use rustix::process::{Pid, geteuid};

use super::discovery::{Parents, membership};
use crate::features::Feature;
use crate::idmap::find_program;

/// How long systemd may take, in seconds, before limits are left to what there is without it.
const LONGEST: u64 = 5;
const PAUSE: Duration = Duration::from_millis(1);

/// A scope that the user's systemd makes for a process.
#[derive(Debug)]
pub(crate) struct Scope {
    process: Pid,
    /// The groups that the process was in.
    former: String,
    request: Child,
}

impl Scope {
    /// Asks for one, where this process can make no groups for all limits and systemd runs for the user.
    pub(crate) fn ask(process: Pid) -> Option<Self> {
        if geteuid().is_root() || !Feature::ControlGroups.is_allowed() {
            return None;
        }
        let runtime = PathBuf::from(format!("/run/user/{}", geteuid().as_raw()));
        if !runtime.join("systemd/private").exists() || Parents::discover(None).is_complete() {
            return None;
        }
        let request = request(&find_program("busctl")?, &runtime, process).spawn().ok()?;
        Some(Self { process, former: membership(Some(process)), request })
    }

    /// Waits until the process is there. Where it does not get there, limits are as without systemd.
    pub(crate) fn wait(mut self) {
        let deadline = Instant::now() + Duration::from_secs(LONGEST);
        // The answer comes before the process is moved.
        let is_granted = self.request.wait().is_ok_and(|status| status.success());
        while is_granted && membership(Some(self.process)) == self.former && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        tracing::info!(process = %self.process, is_granted, groups = membership(Some(self.process)), "scope");
    }
}

/// The call of systemd. With `Delegate`, the slice has all controllers for as long as the scope is there.
fn request(program: &Path, runtime: &Path, process: Pid) -> Command {
    let (timeout, process) = (format!("--timeout={LONGEST}"), process.to_string());
    let scope = format!("modal-{process}.scope");
    let manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    let mut command = Command::new(program);
    command.args(["--user", &timeout, "call"]).args(manager).args(["StartTransientUnit", "ssa(sv)a(sa(sv))"]);
    command.args([&scope, "fail", "4"]);
    command.args(["Description", "s", "Sandboxes of modal"]);
    command.args(["CollectMode", "s", "inactive-or-failed"]);
    command.args(["Delegate", "b", "true"]);
    command.args(["PIDs", "au", "1", &process]);
    // No further units.
    command.arg("0");
    command.env_clear().env(EnvVars::XDG_RUNTIME_DIR, runtime);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_systemd_is_asked_for_a_scope_with_all_controllers() {
        let process = Pid::from_raw(4711).unwrap();
        let command = request(Path::new("busctl"), Path::new("/run/user/1000"), process);
        let arguments: Vec<_> = command.get_args().filter_map(|argument| argument.to_str()).collect();
        let expected = [
            "--user --timeout=5 call org.freedesktop.systemd1 /org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager StartTransientUnit ssa(sv)a(sa(sv)) modal-4711.scope fail 4",
            "Description s Sandboxes of modal CollectMode s inactive-or-failed Delegate b true PIDs au 1 4711 0",
        ];
        assert_eq!(arguments.join(" "), expected.join(" "));
    }
}
