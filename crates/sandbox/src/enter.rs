//! Starting the two helper processes: their own side, up to where the launcher and the store worker part.
//!
//! The first run of the binary, or a fork of the command, makes the namespaces. While it still has the caller's host
//! identity it takes hold of the store, of the binary and of the host's resources, since root inside may not be able to
//! reach either. Then it becomes root inside and executes the binary again from a read-only mount, so that
//! `/proc/<pid>/exe` of every process of ours leads to a file that nobody can write (CVE-2019-5736). The second run builds
//! the tiny root and forks.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;

use lamina_ground::{Subject, null_device};
use lamina_system::{self as system, Disposition, attribute};
use lamina_wire::{Receiver, Sender};
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, fchmod, fchown, open};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::failure::{During, Failure, Kind};
use crate::features::Feature;
use crate::namespaces::Outer;
use crate::protocol::{Configuration, Errand, StartUp, receive, send};
use crate::{Resource, SandboxError, launcher, resources, rlimits, tiny_root};

/// First argument of the helper processes.
pub(crate) const ARGUMENT: &str = "__helpers";
/// Second argument of the second run.
const INSIDE: &str = "inside";

/// The body of the helper processes: `main` calls it first thing when the first argument is `__helpers`. The store worker is
/// `worker`, called with its socket; it may use threads.
pub fn helpers_main(worker: fn(UnixStream)) -> ! {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let result = match arguments.split_first() {
        Some((word, arguments)) if word == INSIDE => run_inside(arguments, worker),
        // The engine's socket is standard input.
        _ => match rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) {
            Ok(socket) => run_outside(&socket.into(), std::env::vars_os().collect()),
            Err(errno) => Err(errno.into()),
        },
    };
    // Whoever started this process has been told; the status is for a curious user who ran it by hand.
    system::exit_now(i32::from(result.is_err()))
}

/// The first run, or the fork that stands for it. The second run has this environment.
pub(crate) fn run_outside(socket: &UnixStream, environment: Vec<(OsString, OsString)>) -> Result<(), SandboxError> {
    let _ = rustix::process::setsid();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        system::set_disposition(signal, Disposition::Ignore);
    }
    system::place_descriptor(null_device()?.as_fd(), 0)?;
    rlimits::reserve_for_the_user();
    // Before it is known what this is for.
    let outer = Outer::enter();
    let sender = Sender::new(socket.try_clone()?);
    let mut receiver = Receiver::new(socket.try_clone()?);
    let Some((configuration, fds)) = receive::<Configuration>(&mut receiver)? else {
        return Err(SandboxError::Lost);
    };
    let outer = outer.and_then(|outer| await_map(&sender, &mut receiver).map(|()| outer));
    if let Some(errand) = configuration.errand {
        let done = outer.and_then(|_| become_root()).and_then(|()| run_errand(errand, &configuration.content));
        report_failure(&sender, done)?;
        return send(&sender, &StartUp::Ready, &[]);
    }
    let inner = outer.and_then(|outer| outer.enter_inner(&configuration.ids));
    let result = inner.and_then(|()| hold(&configuration)).and_then(|Held { content, binary, resources }| {
        become_root()?;
        let parts = [socket.as_fd(), content.as_fd()].into_iter().chain(fds.iter().map(AsFd::as_fd));
        let parts = parts.map(|fd| (None, fd));
        let resources = resources.iter().map(|(name, tree)| (Some(name.as_str()), tree.as_fd()));
        Err(execute_again(&binary, environment, parts.chain(resources)))
    });
    report_failure(&sender, result)
}

/// Has the engine map ids.
fn await_map(sender: &Sender, receiver: &mut Receiver) -> Result<(), Failure> {
    send(sender, &StartUp::Unshared, &[]).map_err(|_| gone())?;
    match receive::<StartUp>(receiver) {
        Ok(Some((StartUp::Mapped, _))) => Ok(()),
        _ => Err(gone()),
    }
}

fn run_errand(errand: Errand, content: &str) -> Result<(), Failure> {
    let done = match errand {
        // The engine must be able to enter it; the directory above it keeps everybody else out.
        Errand::Claim => {
            let what = "give to container root";
            let directory = open(content, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during(what, content)?;
            fchmod(&directory, Mode::from_raw_mode(0o755)).during(what, content)?;
            fchown(&directory, Some(Uid::from_raw(1)), Some(Gid::from_raw(1))).during(what, content)
        }
        Errand::Remove => fs_err::remove_dir_all(content).during("remove", content),
    };
    done.map_err(|failure| failure.on(Subject::Store))
}

/// Tells the engine why the start-up failed.
fn report_failure(sender: &Sender, result: Result<(), Failure>) -> Result<(), SandboxError> {
    if let Err(failure) = result {
        send(sender, &StartUp::Failed(failure.clone()), &[])?;
        return Err(failure.into());
    }
    Ok(())
}

/// The engine has closed the connection: there is nobody to tell.
fn gone() -> Failure {
    Failure::setup("hear from", "the engine", Errno::PIPE)
}

/// What the helpers take hold of while they have the caller's identity.
struct Held {
    content: OwnedFd,
    binary: OwnedFd,
    resources: Vec<(String, OwnedFd)>,
}

/// Takes hold of the store, of the binary and of the host's resources, in the mount namespace of the helpers.
fn hold(configuration: &Configuration) -> Result<Held, Failure> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .during("make mounts private", "/")
        .map_err(|failure| failure.of_kind(Kind::UserNamespace))?;
    let content = clone_mount(&configuration.content, "reach the store")?;
    let named = |resource: &Resource| Ok((resource.name.clone(), resources::hold(resource)?));
    let resources = configuration.resources.iter().map(named).collect::<Result<_, _>>()?;
    Ok(Held { content, binary: hold_binary()?, resources })
}

/// A detached copy of the mount at `path`.
fn clone_mount(path: &str, what: &str) -> Result<OwnedFd, Failure> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).during(what, path)
}

/// This program's binary, unwritable: through a read-only mount, or where that is not possible as a sealed copy.
fn hold_binary() -> Result<OwnedFd, Failure> {
    const SELF: &str = "/proc/self/exe";
    let path = rustix::fs::readlink(SELF, Vec::new()).during("find", SELF)?;
    let path = path.to_str().unwrap_or(SELF);
    let running = rustix::fs::stat(SELF).during("look at", SELF)?;
    if Feature::BinaryMount.is_allowed()
        && let Ok(mount) = clone_mount(path, "hold the program")
        && let Ok(mounted) = rustix::fs::statat(&mount, "", AtFlags::EMPTY_PATH)
        // Another file may have taken the name since; and root inside may not be allowed to execute root's file.
        && (mounted.st_dev, mounted.st_ino) == (running.st_dev, running.st_ino)
        && mounted.st_mode & 0o001 != 0
    {
        let attributes = attribute::READ_ONLY | attribute::NO_SUID | attribute::NO_DEVICES;
        system::set_mount_attributes(&mount, attributes, false).during("make read-only", path)?;
        return Ok(mount);
    }
    copy_binary(SELF)
}

fn copy_binary(path: &str) -> Result<OwnedFd, Failure> {
    let mut source = fs_err::File::open(path).during("read", path)?;
    let copy = rustix::fs::memfd_create("modal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .during("copy the program", path)?;
    fchmod(&copy, Mode::from_raw_mode(0o755)).during("copy the program", path)?;
    let mut file = std::fs::File::from(copy);
    std::io::copy(&mut source, &mut file).during("copy the program", path)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).during("seal the program", path)?;
    Ok(file.into())
}

/// Becomes user and group 0 of the new user namespace.
fn become_root() -> Result<(), Failure> {
    match set_thread_groups(&[]) {
        // Refused where only one id is mapped.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(Failure::setup("drop the groups", "setgroups", errno)),
    }
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).during("become the root group of", "the namespace")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).during("become root of", "the namespace")
}

/// Executes the binary a second time; the descriptors stay open and their numbers become arguments, behind the names of those
/// that have one.
fn execute_again<'held>(
    binary: &OwnedFd,
    environment: Vec<(OsString, OsString)>,
    fds: impl Iterator<Item = (Option<&'held str>, BorrowedFd<'held>)>,
) -> Failure {
    let mut arguments: Vec<OsString> = ["modal", ARGUMENT, INSIDE].map(OsString::from).into();
    for (name, fd) in fds {
        if let Err(errno) = rustix::io::fcntl_setfd(fd, FdFlags::empty()) {
            return Failure::setup("hand over", "a descriptor", errno);
        }
        let number = fd.as_raw_fd();
        arguments.push(name.map_or_else(|| number.to_string(), |name| format!("{name}={number}")).into());
    }
    let assigned = |(name, value): (OsString, OsString)| [name, value].join(OsStr::new("="));
    let strings = |list: Vec<OsString>| -> Vec<CString> {
        list.into_iter().flat_map(|string| CString::new(string.into_vec())).collect()
    };
    let environment = environment.into_iter().map(assigned).collect();
    let errno = system::execute_file(binary.as_fd(), &strings(arguments), &strings(environment));
    Failure::setup("execute", "the program again", errno)
}

/// The second run.
fn run_inside(arguments: &[String], worker: fn(UnixStream)) -> Result<(), SandboxError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let take = |number: &str| number.parse().map_err(|_| Errno::BADF).and_then(system::inherited);
    let (mut fds, mut resources) = (Vec::new(), Vec::new());
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, number)) => resources.push((name.to_owned(), take(number)?)),
            None => fds.push(take(argument)?),
        }
    }
    let Ok([socket, content, launcher_socket, worker_socket]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err(SandboxError::Invalid("wrong number of descriptors".into()));
    };
    let sender = Sender::new(socket.into());
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let files = rlimits::raise_files()?;
    report_failure(&sender, tiny_root::enter(&content, &resources))?;
    drop((content, resources));
    if system::fork()?.is_none() {
        drop((sender, launcher_socket));
        system::set_disposition(libc::SIGCHLD, Disposition::Default);
        tracing::info!(pid = std::process::id(), "store worker");
        worker(worker_socket.into());
        return Ok(());
    }
    drop(worker_socket);
    send(&sender, &StartUp::Ready, &[])?;
    drop(sender);
    tracing::info!(pid = std::process::id(), "launcher");
    launcher::serve(launcher_socket.into(), files)
}
