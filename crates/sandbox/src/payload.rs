//! From pid 1 to the command: everything between `fork` and `execve`.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lamina_ground::DEFAULT_PATH;
use lamina_system::{self as system, Disposition};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fcntl_getfl, fstat, open, stat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, chdir, ioctl_tiocsctty, setsid};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::failure::{During, Failure, Kind};
use crate::features::Feature;
use crate::filter::Filters;
use crate::rlimits::{self, Fallback, Files};
use crate::terminal::Terminal;
use crate::tiny_root::DEVICES;
use crate::user::User;
use crate::{Network, SandboxSpec, Stdio, capabilities};

/// Landlock knows scopes from this version on.
const LANDLOCK_SCOPES: i64 = 6;
/// Highest signal number.
const LAST_SIGNAL: i32 = 64;

/// What the command is started with.
pub(crate) struct Payload<'init> {
    pub(crate) spec: &'init SandboxSpec,
    pub(crate) user: User,
    pub(crate) fallback: Fallback,
    pub(crate) files: Files,
    pub(crate) stdio: Stdio,
    pub(crate) terminal: Option<Terminal>,
    /// Whether it is the sandbox's own command, and not a further one.
    pub(crate) is_first: bool,
}

/// Takes upon pid 1 what all commands have: they inherit it, so that pid 1 can start further ones without more capabilities
/// than they have.
pub(crate) fn bound(spec: &SandboxSpec, filters: &Filters) -> Result<(), Failure> {
    // Before the capabilities go: without "no new privileges", which would take set-user-id programs such as `sudo` their
    // effect, these two need them.
    if spec.network == Network::Host {
        scope_sockets()?;
    }
    filters.install(spec.ignore_sync)?;
    capabilities::bound_command()
}

/// Starts the command; returns when it runs, with the engine's end of its terminal.
pub(crate) fn start(payload: Payload<'_>) -> Result<(Pid, Option<OwnedFd>), Failure> {
    let (read, low) = pipe_with(PipeFlags::CLOEXEC).during("make", "a pipe")?;
    // Above the descriptors that the command gets, which would replace it.
    let write = rustix::io::fcntl_dupfd_cloexec(&low, 4).during("make", "a pipe")?;
    drop(low);
    match system::fork().during("fork", "pid 1")? {
        None => {
            drop(read);
            let failure = match become_command(&payload) {
                Ok(never) => never,
                Err(failure) => failure,
            };
            // Pid 1 reads until the pipe closes; a broken message is reported there.
            let message = serde_json::to_vec(&failure).unwrap_or_default();
            let _ = rustix::io::write(&write, &message);
            system::exit_now(127)
        }
        Some(pid) => {
            drop(write);
            if let Some(failure) = read_failure(read)? {
                return Err(failure);
            }
            Ok((pid, payload.terminal.map(|terminal| terminal.master)))
        }
    }
}

/// What the new process says before it executes the command: nothing, if all went well.
fn read_failure(read: OwnedFd) -> Result<Option<Failure>, Failure> {
    let mut message = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(read), &mut message).during("hear from", "the command")?;
    if message.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&message).map(Some).map_err(|_| Failure::setup("hear from", "the command", Errno::PROTO))
}

/// Turns the process into the command; the order matters. Returns only a failure.
fn become_command(payload: &Payload<'_>) -> Result<Failure, Failure> {
    let spec = payload.spec;
    setsid().during("start a session for", "the command")?;
    if let Some(terminal) = &payload.terminal {
        ioctl_tiocsctty(&terminal.slave).during("take", "the terminal")?;
    }
    place_descriptors(payload)?;
    rlimits::apply(payload.fallback, payload.files)?;
    be_killed_first();
    take_groups(&payload.user)?;
    // Once more, before the capabilities go: neither pid 1 nor a further command can be looked into from a domain within.
    if spec.network == Network::Host && payload.is_first {
        scope_sockets()?;
    }
    let (uid, gid) = (Uid::from_raw(payload.user.uid), Gid::from_raw(payload.user.gid));
    set_thread_res_gid(gid, gid, gid).during("become the group", &payload.user.gid.to_string())?;
    set_thread_res_uid(uid, uid, uid).during("become the user", &payload.user.uid.to_string())?;
    if uid.is_root() {
        capabilities::limit_command()?;
    }
    enter_directory(&spec.cwd).during("enter", &spec.cwd).map_err(|failure| failure.of_kind(Kind::WorkingDirectory))?;
    reset_signals();
    Ok(execute(spec, payload.user.home.as_deref()))
}

/// Enters the working directory; a missing one is made, as a Dockerfile's WORKDIR would. The image is the root by now.
fn enter_directory(path: &str) -> Result<(), Errno> {
    match chdir(path) {
        Err(Errno::NOENT) => {
            let made = std::fs::DirBuilder::new().recursive(true).create(path);
            made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?;
            chdir(path)
        }
        outcome => outcome,
    }
}

/// When the machine runs out of memory, the sandbox shall end rather than anything else. Where the kernel does not let us
/// say so, it chooses by size.
fn be_killed_first() {
    let _ = fs_err::write("/proc/self/oom_score_adj", "1000");
}

/// Takes the user's supplementary groups in place of those that there are.
fn take_groups(user: &User) -> Result<(), Failure> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match set_thread_groups(&groups) {
        // Refused where only one id is mapped; then there is none to give up that the helpers did not have to keep.
        Err(Errno::PERM) if groups.is_empty() => Ok(()),
        outcome => outcome.during("set the groups of", "the command"),
    }
}

/// Keeps abstract unix sockets of the host and of other sandboxes out of reach, where the kernel can.
fn scope_sockets() -> Result<(), Failure> {
    if Feature::SocketScope.is_allowed() && system::landlock_version().is_ok_and(|version| version >= LANDLOCK_SCOPES) {
        system::landlock_scope_abstract_sockets().during("restrict", "abstract unix sockets")?;
    }
    Ok(())
}

/// Makes the command's descriptors 0 to 2, and 3 if it has a socket. Nothing else stays open.
fn place_descriptors(payload: &Payload<'_>) -> Result<(), Failure> {
    let Stdio { stdin, stdout, stderr, socket } = &payload.stdio;
    let mut sources: Vec<BorrowedFd<'_>> = match &payload.terminal {
        Some(terminal) if payload.spec.terminal.is_some_and(|terminal| terminal.is_stdio) => {
            vec![terminal.slave.as_fd(); 3]
        }
        _ => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
    };
    let own = sources.iter().map(|source| own_device(*source)).collect::<Result<Vec<_>, _>>()?;
    for (source, own) in sources.iter_mut().zip(&own) {
        *source = own.as_ref().map_or(*source, AsFd::as_fd);
    }
    if payload.spec.socket_as_fd3 {
        sources.push(socket.as_ref().ok_or(Errno::BADF).during("find", "the socket for descriptor 3")?.as_fd());
    }
    // Copies above the targets, so that placing one does not overwrite the source of another.
    let count = i32::try_from(sources.len()).unwrap_or(4);
    let copies: Vec<OwnedFd> = sources
        .iter()
        .map(|source| rustix::io::fcntl_dupfd_cloexec(source, count))
        .collect::<Result<_, _>>()
        .during("copy", "the descriptors")?;
    for (number, copy) in (0..).zip(&copies) {
        system::place_descriptor(copy.as_fd(), number).during("place", "the descriptors")?;
    }
    system::close_on_exec_from(count);
    Ok(())
}

/// The sandbox's own node of a device that a descriptor leads to: that of the host could be changed through it, in its
/// times for example. Nothing of the image runs yet, and `/dev` is not part of it. A directory is refused: all files of the
/// host can be reached from it.
fn own_device(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
    let status = fstat(fd).during("look at", "the descriptors")?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::CharacterDevice => {}
        FileType::Directory => return Err(Errno::ISDIR).during("pass on", "a directory as a standard stream"),
        _ => return Ok(None),
    }
    for name in DEVICES {
        let path = format!("/dev/{name}");
        if stat(&path).is_ok_and(|own| own.st_rdev == status.st_rdev) {
            let flags = fcntl_getfl(fd).during("look at", "the descriptors")? & (OFlags::ACCMODE | OFlags::APPEND);
            return open(&path, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                .during("open", &path)
                .map(Some);
        }
    }
    Ok(None)
}

/// Gives the command the signal handling of a fresh program.
fn reset_signals() {
    for signal in 1..=LAST_SIGNAL {
        system::set_disposition(signal, Disposition::Default);
    }
    system::block_signals(&[]);
}

/// Executes the command; returns only the failure.
fn execute(spec: &SandboxSpec, home: Option<&str>) -> Failure {
    let invalid = |what: &str| Failure::setup("pass on", what, Errno::INVAL);
    let Ok(arguments) = spec.argv.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>() else {
        return invalid("an argument that contains a null character");
    };
    let home = home.filter(|_| !spec.env.iter().any(|(name, value)| name == "HOME" && !value.is_empty()));
    let variables = spec.env.iter().filter(|(name, _)| home.is_none() || name != "HOME");
    let variables = variables.map(|(name, value)| CString::new(format!("{name}={value}")));
    let variables = variables.chain(home.map(|home| CString::new(format!("HOME={home}"))));
    let Ok(environment) = variables.collect::<Result<Vec<_>, _>>() else {
        return invalid("a variable that contains a null character");
    };
    let Some(command) = spec.argv.first().filter(|command| !command.is_empty()) else {
        return invalid("an empty command");
    };
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let candidates: Vec<String> = if command.contains('/') {
        vec![command.clone()]
    } else {
        path.split(':').map(|directory| format!("{directory}/{command}")).collect()
    };
    let mut refused = None;
    for candidate in candidates {
        let Ok(program) = CString::new(candidate.as_str()) else {
            continue;
        };
        match system::execute(&program, &arguments, &environment) {
            // Looking in the next directory is what a shell does.
            Errno::NOENT | Errno::NOTDIR if !is_file(&candidate) => {}
            errno => {
                refused.get_or_insert(Failure::setup("execute", &candidate, errno).of_kind(Kind::NotExecutable));
            }
        }
    }
    refused.unwrap_or_else(|| Failure::setup(command, path, Errno::NOENT).of_kind(Kind::CommandNotFound))
}

/// Whether there is a file although it was "not found" when executed: its interpreter is missing.
fn is_file(path: &str) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::empty())
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
}
