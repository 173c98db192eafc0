//! The start of an app's process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use lamina_ground::null_device;
use lamina_system::spawn_apart;
use rustix::process::Pid;

/// The first word of the background's command line; the app's id and the words of the foreground follow.
pub const BACKGROUND: &str = "__detached";

/// Starts this program once more as the background of an app, with the words that this process was started with. `held`,
/// which makes it the running app, becomes its standard input.
///
/// # Errors
/// When it cannot be started.
pub fn start_background(id: &str, held: OwnedFd, words: impl IntoIterator<Item = OsString>) -> io::Result<Child> {
    let mut words = words.into_iter();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(words.next().unwrap_or_else(|| "modal".into()));
    command.arg(BACKGROUND).arg(id).args(words);
    command.stdin(Stdio::from(held)).stdout(Stdio::null()).stderr(Stdio::null());
    spawn_apart(&mut command)
}

/// What standard input is, for the background to adopt; from then on there is none.
///
/// # Errors
/// When there is no standard input.
pub fn take_standard_input() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(null_device()?)?;
    Ok(taken)
}

/// Whether a process was started with these words. Where processes have other numbers, it may be anything.
pub(crate) fn has_words(pid: Pid, words: &[&str]) -> bool {
    let found = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut found = found.split(|byte| *byte == 0).skip(1);
    words.iter().all(|word| found.next() == Some(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_is_no_background() {
        assert!(!has_words(rustix::process::getpid(), &[BACKGROUND, "ap-0a1b2c"]));
    }
}
