//! The system calls that have no safe wrapper elsewhere. Nothing else in the crate is unsafe, save taking over inherited
//! descriptors at start-up.

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

/// What a process sees after it was split in two.
#[derive(Debug)]
pub(crate) enum Side {
    /// The new process.
    Child,
    /// The old one, with the new one's id and pidfd.
    Parent { pid: u32, pidfd: OwnedFd },
}

/// The answer of a raw system call.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 { Err(last_error()) } else { Ok(result) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Splits the process in two; `flags` are `CLONE_NEW*` flags. The parent is told of the child's end by `SIGCHLD`.
pub(crate) fn split(flags: c_int) -> Result<Side, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, for which zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM the child gets a copy of the address space, as after fork, and continues on the copied
    // stack; all processes that come here are single-threaded, so no lock can be left held in the child.
    let result = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size_of::<libc::clone_args>()) };
    match check(result)? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent {
            pid: u32::try_from(pid).map_err(|_| Errno::RANGE)?,
            // SAFETY: the kernel has just made this descriptor for us.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// `fork` of the C library, for a child that will use threads. True in the child.
pub(crate) fn fork() -> Result<bool, Errno> {
    // SAFETY: the callers are single-threaded.
    check(libc::c_long::from(unsafe { libc::fork() })).map(|pid| pid == 0)
}

/// Ends the process at once, without destructors or exit handlers.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// Pointers to `strings` with the closing null, as `execve` wants them.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Replaces the program by the one at `path`; returns only on failure.
pub(crate) fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all pointers are to live, terminated strings, the arrays end with null.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_error()
}

/// Replaces the program by the file behind `program`; returns only on failure.
pub(crate) fn execute_file(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> Errno {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: as in `execute`; the path is empty and AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_error()
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Attributes of a mount, as `mount_setattr` takes them.
pub(crate) mod attribute {
    /// No writing.
    pub(crate) const READ_ONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub(crate) const NO_SUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub(crate) const NO_DEVICES: u64 = 0x4;
    /// Programs cannot be executed.
    pub(crate) const NO_EXEC: u64 = 0x8;
}

/// Sets attributes of the mount at `mount`, and of those below it if `recursive`.
pub(crate) fn set_mount_attributes(mount: impl AsFd, set: u64, recursive: bool) -> Result<(), Errno> {
    let attributes = MountAttributes { set, ..MountAttributes::default() };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a live empty string, the structure has the size that is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(&attributes),
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// Installs a seccomp filter on the calling process.
pub(crate) fn install_filter(program: &[seccompiler::sock_filter]) -> Result<(), Errno> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the header points to `len` instructions, which the kernel only reads; seccompiler's instruction has the
    // kernel's layout.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&header)) })?;
    Ok(())
}

/// Asks the kernel which version of Landlock it has.
pub(crate) fn landlock_version() -> Result<i64, Errno> {
    const CREATE_RULESET_VERSION: c_ulong = 1;
    // SAFETY: with this flag the kernel takes no structure.
    check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0, CREATE_RULESET_VERSION) })
}

/// The kernel's `struct landlock_ruleset_attr`, up to the version that knows scopes.
#[repr(C)]
struct RulesetAttributes {
    handled_files: u64,
    handled_network: u64,
    scoped: u64,
}

/// Keeps the calling process from connecting to abstract unix sockets of processes outside.
pub(crate) fn landlock_scope_abstract_sockets() -> Result<(), Errno> {
    const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    let attributes = RulesetAttributes { handled_files: 0, handled_network: 0, scoped: SCOPE_ABSTRACT_UNIX_SOCKET };
    // SAFETY: the structure has the size that is given.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&attributes), size_of::<RulesetAttributes>(), 0)
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(ruleset).map_err(|_| Errno::BADF)?) };
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}

/// What a process does with a signal from now on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Disposition {
    Default,
    Ignore,
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct Action {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// Sets the disposition of `signal`.
pub(crate) fn set_disposition(signal: c_int, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    let action = Action { handler, flags: 0, restorer: 0, mask: 0 };
    // Not by the C library, which keeps two signals to itself; a parent may have ignored those as well.
    // SAFETY: both handlers are the kernel's own and need no restorer; the set of signals has the size that is given. It
    // fails only for signals that cannot be changed, which is fine.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            ptr::from_ref(&action),
            ptr::null_mut::<c_void>(),
            size_of::<u64>(),
        )
    };
}

/// A set of signals.
fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` fills the set; `sigaddset` changes a filled one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks exactly `signals`.
pub(crate) fn block_signals(signals: &[c_int]) {
    let set = signal_set(signals);
    // SAFETY: the set is filled; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// Runs `action` while the calling thread does not take `signals`: they wait, and processes that it starts begin with
/// them blocked.
pub(crate) fn while_blocked<T>(signals: &[c_int], action: impl FnOnce() -> T) -> T {
    let set = signal_set(signals);
    let mut before = signal_set(&[]);
    // SAFETY: both sets are filled.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
    let outcome = action();
    // SAFETY: the set is what the kernel has given.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    outcome
}

/// A descriptor that reads as `signals` arrive; they must be blocked.
pub(crate) fn signal_descriptor(signals: &[c_int]) -> Result<OwnedFd, Errno> {
    let set = signal_set(signals);
    // SAFETY: the set is filled.
    let fd = check(libc::c_long::from(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::BADF)?) })
}

/// The next signal that waits in a descriptor of [`signal_descriptor`].
pub(crate) fn next_signal(descriptor: &OwnedFd) -> Option<c_int> {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let count = rustix::io::read(descriptor, &mut buffer[..]).ok()?;
    let number = buffer.get(..4).filter(|_| count == buffer.len())?;
    number.try_into().ok().map(c_int::from_ne_bytes)
}

/// Resident set of the largest of all children that were waited for, in KiB.
pub(crate) fn children_max_rss_kib() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, for which zero is valid anyhow.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0)
}

/// Gives the process, and those that it starts from now on, a network namespace of its own.
pub(crate) fn unshare_network() -> Result<(), Errno> {
    // SAFETY: the flag leaves descriptors and memory shared as they are.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// Brings the loopback interface of the network namespace up.
pub(crate) fn raise_loopback() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all fields are integers or unions of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *target = byte.cast_signed() as c_char;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the request is a filled `ifreq`, which this call reads.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request)) }))?;
    Ok(())
}

/// Closes every descriptor from `first` on when the next program is executed.
pub(crate) fn close_on_exec_from(first: c_int) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: takes integers only. Kernels before 5.11 refuse; every descriptor is opened close-on-exec anyway.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Makes `fd` the descriptor `number`, open across the next `execve`.
pub(crate) fn place_descriptor(fd: BorrowedFd<'_>, number: c_int) -> Result<(), Errno> {
    // SAFETY: the source is open; whatever the target number was is given up on purpose.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) }))?;
    Ok(())
}

/// Takes over a descriptor that this process inherited under `number`.
pub(crate) fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only; the answer says whether the descriptor is open.
    check(libc::c_long::from(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }))?;
    // SAFETY: it is open, and the program that executed this one has handed it over by its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The name of a user, from whatever directory the host uses.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 << 10];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: the buffer has the length that is given; on success the entry is filled and points into it.
    unsafe {
        let result = libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        if result != 0 || found.is_null() {
            return None;
        }
        Some(CStr::from_ptr(entry.assume_init().pw_name).to_string_lossy().into_owned())
    }
}

/// Kills every process that the caller may kill, itself excepted. Only for pid 1 of a sandbox.
pub(crate) fn kill_all() -> Result<(), Errno> {
    // SAFETY: takes integers only.
    check(libc::c_long::from(unsafe { libc::kill(-1, libc::SIGKILL) }))?;
    Ok(())
}
