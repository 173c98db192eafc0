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
        Some("sockets") => sockets(),
        Some("fill-sockets") => fill_sockets(),
        Some("watch") => watch(),
        Some("touch-descriptors") => touch_descriptors(),
        Some("descriptors") => descriptors(),
        Some("executables") => executables(),
        Some("memory") => memory(),
        Some("processes") => processes(),
        Some("sync") => sync(),
        Some("abstract-connect") => abstract_connect(&arguments[1]),
        Some("look-into") => look_into(),
        Some("look-for-long") => look_for_long(),
        Some("ask") => ask(&arguments[1]),
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

/// How many inotify instances all ids together get.
fn watch() {
    let mut made = 0;
    for id in 0..1000 {
        // SAFETY: plain system calls; the descriptors stay open until the end.
        while unsafe { libc::seteuid(id) == 0 && libc::inotify_init() >= 0 } {
            made += 1;
            assert_eq!(unsafe { libc::seteuid(0) }, 0);
        }
        // SAFETY: a plain system call.
        assert_eq!(unsafe { libc::seteuid(0) }, 0);
    }
    println!("{made}");
}

fn system_calls() {
    let tmpfs = CString::new("tmpfs").unwrap();
    let target = CString::new("/tmp").unwrap();
    let (tmpfs, target) = (tmpfs.as_ptr() as u64, target.as_ptr() as u64);
    let new_user = libc::CLONE_NEWUSER as u64;
    let calls: [(&str, i64, [u64; 4]); 24] = [
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
        ("personality", libc::SYS_personality, [6, 0, 0, 0]),
        ("unknown-soon", 480, [0, 0, 0, 0]),
        ("unknown-later", 5000, [0, 0, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        println!("{name} {}", answer(number, arguments));
        #[cfg(target_arch = "x86_64")]
        assert_ne!(answer(number | 0x4000_0000, arguments), "ok", "{name} by its x32 number");
    }
}

/// Asks for sockets of all kinds.
fn sockets() {
    let number = |value: i32| u64::from(value.cast_unsigned());
    let (stream, datagram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
    let cloexec = libc::SOCK_CLOEXEC;
    for (name, family, kind, protocol) in [
        ("good-inet", libc::AF_INET, stream, 0),
        ("good-inet6", libc::AF_INET6, datagram | cloexec, 0),
        ("good-unix", libc::AF_UNIX, stream, 0),
        ("good-route", libc::AF_NETLINK, raw | cloexec, libc::NETLINK_ROUTE),
        ("family-vsock", libc::AF_VSOCK, stream, 0),
        ("family-alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("family-packet", libc::AF_PACKET, raw, 0),
        ("family-disguised", libc::AF_INET, 0xa | cloexec, 0),
        ("family-tipc", libc::AF_TIPC, datagram, 0),
        ("family-can", libc::AF_CAN, raw, 1),
        ("protocol-audit", libc::AF_NETLINK, raw, libc::NETLINK_AUDIT),
        ("protocol-netfilter", libc::AF_NETLINK, raw | cloexec, libc::NETLINK_NETFILTER),
    ] {
        println!("{name} {}", answer(libc::SYS_socket, [family, kind, protocol, 0].map(number)));
    }
    let mut pair = [0_i32; 2];
    for (name, family) in [("good-pair", libc::AF_UNIX), ("family-pair", libc::AF_TIPC)] {
        let arguments = [number(family), number(stream), 0, pair.as_mut_ptr() as u64];
        println!("{name} {}", answer(libc::SYS_socketpair, arguments));
    }
}

/// Sends descriptors that nobody receives until the kernel refuses, then waits.
fn fill_sockets() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = [file.as_fd(); 253];
    let mut pairs = Vec::new();
    loop {
        let pair = UnixStream::pair().unwrap();
        pair.0.set_nonblocking(true).unwrap();
        let refused = loop {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            let slices = [std::io::IoSlice::new(b"x")];
            if let Err(errno) = sendmsg(&pair.0, &slices, &mut ancillary, SendFlags::NOSIGNAL) {
                break errno;
            }
        };
        pairs.push(pair);
        if refused == rustix::io::Errno::TOOMANYREFS {
            break;
        }
        assert_eq!(refused, rustix::io::Errno::AGAIN);
    }
    println!("full");
    std::thread::sleep(std::time::Duration::from_mins(1));
}

/// Sets the times of what the standard streams lead to.
fn touch_descriptors() {
    for number in 0..3 {
        // SAFETY: the pointer is null, which means now.
        unsafe { libc::futimens(number, std::ptr::null()) };
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

/// Has a socket repeat a word.
fn ask(path: &str) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    println!("{}", String::from_utf8_lossy(&answer));
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

/// Tries everything that looks into each other process, as debuggers do; says into which it could, by any of it.
fn look_into() {
    let own = std::process::id();
    let numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    for number in numbers.filter(|number: &u32| *number != own) {
        let file = |name: &str| std::fs::File::open(format!("/proc/{number}/{name}")).is_ok();
        let has_files = std::fs::read_link(format!("/proc/{number}/fd/0")).is_ok();
        let leads = std::fs::read_link(format!("/proc/{number}/exe")).is_ok();
        let (pid, null) = (u64::from(number), 0);
        let attached = answer(libc::SYS_ptrace, [u64::from(libc::PTRACE_SEIZE), pid, null, null]) == "ok";
        // SAFETY: plain system calls; the descriptor stays open until the end.
        let stolen = unsafe {
            let pidfd = libc::syscall(libc::SYS_pidfd_open, number, 0);
            pidfd >= 0 && libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) >= 0
        };
        let open = [file("environ") || file("mem"), has_files, leads, attached, stolen];
        println!("{number} {}", open.map(|each| if each { "open" } else { "closed" }).join(" "));
    }
}

/// The same again and again, until something was found open.
fn look_for_long() {
    loop {
        let own = std::process::id();
        let seen =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        for number in seen.filter(|number: &u32| *number != own) {
            if std::fs::File::open(format!("/proc/{number}/environ")).is_ok() {
                println!("{number} could be looked into");
                return;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
