//! What is tried from inside a sandbox: this very program, run as `/bin/probe`.
#![expect(unsafe_code, reason = "system calls that no library offers, because nobody should make them")]
#![expect(clippy::disallowed_methods, reason = "paths are in the output already")]

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;

/// Runs the named probe; its output is its result.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match arguments.first().map(String::as_str) {
        Some("system-calls") => system_calls(),
        Some("descriptors") => descriptors(),
        Some("executables") => executables(),
        Some("memory") => memory(),
        Some("processes") => processes(),
        Some("sync") => sync(),
        Some("abstract-connect") => abstract_connect(&arguments[1]),
        Some("abstract-own") => abstract_own(),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// The error of a system call with the given arguments, or `ok`.
fn answer(number: i64, arguments: [u64; 4]) -> String {
    let [a, b, c, d] = arguments;
    // SAFETY: all pointers among the arguments are null or to live terminated strings; the calls are expected to fail.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0, 0) };
    if result >= 0 {
        return "ok".into();
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::ENOSYS) => "ENOSYS".into(),
        Some(number) => format!("errno {number}"),
        None => "unknown".into(),
    }
}

fn system_calls() {
    let tmpfs = CString::new("tmpfs").unwrap();
    let target = CString::new("/tmp").unwrap();
    let (tmpfs, target) = (tmpfs.as_ptr() as u64, target.as_ptr() as u64);
    let new_user = libc::CLONE_NEWUSER as u64;
    let calls: [(&str, i64, [u64; 4]); 22] = [
        ("mount", libc::SYS_mount, [tmpfs, target, tmpfs, 0]),
        ("umount2", libc::SYS_umount2, [target, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [tmpfs, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [u64::MAX, target, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [0, 0, 0, 0]),
        ("mount_setattr", libc::SYS_mount_setattr, [0, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [target, target, 0, 0]),
        ("unshare", libc::SYS_unshare, [new_user, 0, 0, 0]),
        ("clone", libc::SYS_clone, [new_user | libc::SIGCHLD as u64, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [0, 0, 0, 0]),
        ("vsock", libc::SYS_socket, [libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        println!("{name} {}", answer(number, arguments));
        #[cfg(target_arch = "x86_64")]
        assert_ne!(answer(number | 0x4000_0000, arguments), "ok", "{name} by its x32 number");
    }
}

/// Tries to reach the helpers' binary through every process that can be seen.
fn executables() {
    for pid in ["1", "self"] {
        let path = format!("/proc/{pid}/exe");
        println!("{pid} read {}", std::fs::File::open(&path).is_ok());
        println!("{pid} write {}", std::fs::File::options().write(true).open(&path).is_ok());
    }
    for name in ["fd/0", "fd/3", "root", "cwd", "environ", "mem", "maps"] {
        let path = format!("/proc/1/{name}");
        let reached =
            std::fs::read_link(&path).is_ok() || std::fs::read_dir(&path).is_ok() || std::fs::read(&path).is_ok();
        println!("1 {name} {reached}");
    }
}

/// Lists the open descriptors.
fn descriptors() {
    // SAFETY: takes integers only.
    let is_open = |number: &i32| unsafe { libc::fcntl(*number, libc::F_GETFD) } != -1;
    println!("{:?}", (0..20_000).filter(is_open).collect::<Vec<_>>());
}

/// Takes memory until something stops it.
fn memory() {
    let mut taken = Vec::new();
    for _ in 0..2048 {
        taken.push(vec![1_u8; 1 << 20]);
    }
    println!("took {} MiB", taken.len());
}

/// Forks until something stops it, at 500 at most, then prints how many there were.
fn processes() {
    let mut children = Vec::new();
    for _ in 0..500 {
        // SAFETY: this program has one thread.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: always sound.
                unsafe { libc::sleep(30) };
                std::process::exit(0)
            }
            -1 => break,
            pid => children.push(pid),
        }
    }
    println!("{}", children.len());
}

/// Calls everything that synchronises on descriptors for which it would fail.
fn sync() {
    let bad = u64::from(u32::MAX);
    for (name, number) in [("fsync", libc::SYS_fsync), ("fdatasync", libc::SYS_fdatasync), ("syncfs", libc::SYS_syncfs)]
    {
        println!("{name} {}", answer(number, [bad, 0, 0, 0]));
    }
}

/// Connects to an abstract socket of the host.
fn abstract_connect(name: &str) {
    let address = SocketAddr::from_abstract_name(name).unwrap();
    println!(
        "{}",
        UnixStream::connect_addr(&address).map_or_else(|error| error.kind().to_string(), |_| "connected".into())
    );
}

/// Connects to an abstract socket of its own.
fn abstract_own() {
    let address = SocketAddr::from_abstract_name("lamina-own").unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let mut client = UnixStream::connect_addr(&address).unwrap();
    client.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut buffer).unwrap();
    println!("{}", String::from_utf8_lossy(&buffer));
}
