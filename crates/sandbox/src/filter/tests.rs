use super::*;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::Arm64];

fn error(errno: Errno) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.raw_os_error().cast_unsigned()
}

/// The answer to a call by its name.
fn answer(architecture: Architecture, name: &str, arguments: [u64; 3]) -> u32 {
    let call = calls(architecture).unwrap().into_iter().find(|call| call.name == name).unwrap();
    let [a, b, c] = arguments;
    program::run(&filter(architecture, false).unwrap(), architecture.audit_number(), call.number, [a, b, c, 0, 0, 0]).0
}

#[test]
fn every_call_gets_what_the_table_says() {
    for architecture in BOTH {
        let calls = calls(architecture).unwrap();
        for ignore_sync in [false, true] {
            let filter = filter(architecture, ignore_sync).unwrap();
            assert!(filter.len() < 1024, "the kernel takes 4096 instructions at most, but they cost time");
            for number in (0..1200).chain([0x4000_0000, 0x4000_00a5, u32::MAX]) {
                let expected = match calls.iter().find(|call| call.number == number).map(|call| call.rule) {
                    Some(Rule::Synchronise) if ignore_sync => libc::SECCOMP_RET_ERRNO,
                    Some(Rule::Allow | Rule::Synchronise) => ALLOW,
                    Some(Rule::Refuse) => error(Errno::PERM),
                    Some(Rule::Argument) => continue,
                    Some(Rule::Absent) | None => error(Errno::NOSYS),
                };
                let (answer, steps) = program::run(&filter, architecture.audit_number(), number, [0; 6]);
                assert_eq!(answer, expected, "{architecture:?} {number}");
                assert!(steps < 20, "{number} takes {steps} instructions");
            }
        }
    }
}

#[test]
fn calls_of_another_architecture_end_the_process() {
    const I386: u32 = 0x4000_0003;
    for architecture in BOTH {
        let filter = filter(architecture, false).unwrap();
        assert_eq!(program::run(&filter, I386, 1, [0; 6]).0, libc::SECCOMP_RET_KILL_PROCESS);
    }
}

#[test]
fn no_call_is_listed_twice() {
    for architecture in BOTH {
        let calls = calls(architecture).unwrap();
        for (index, call) in calls.iter().enumerate() {
            let twice = calls[index + 1..].iter().find(|other| other.name == call.name || other.number == call.number);
            assert!(twice.is_none(), "{call:?} {twice:?}");
        }
    }
}

#[test]
fn numbers_are_those_of_the_kernel() {
    let number = |name: &str| {
        let call = calls(Architecture::OWN).unwrap().into_iter().find(|call| call.name == name);
        i64::from(call.unwrap_or_else(|| panic!("{name}")).number)
    };
    for (name, expected) in [
        ("read", libc::SYS_read),
        ("openat", libc::SYS_openat),
        ("execve", libc::SYS_execve),
        ("clone", libc::SYS_clone),
        ("ioctl", libc::SYS_ioctl),
        ("socket", libc::SYS_socket),
        ("ptrace", libc::SYS_ptrace),
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("bpf", libc::SYS_bpf),
        ("keyctl", libc::SYS_keyctl),
        ("setns", libc::SYS_setns),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("clone3", libc::SYS_clone3),
        ("mseal", libc::SYS_mseal),
    ] {
        assert_eq!(number(name), expected, "{name}");
    }
}

/// What a sandbox must never get, whatever becomes of the table.
#[test]
fn what_reaches_the_host_is_refused() {
    let everywhere = [
        "acct",
        "add_key",
        "bpf",
        "clock_settime",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "lookup_dcookie",
        "mount",
        "mount_setattr",
        "move_mount",
        "nfsservctl",
        "open_by_handle_at",
        "open_tree",
        "open_tree_attr",
        "perf_event_open",
        "pivot_root",
        "quotactl",
        "quotactl_fd",
        "reboot",
        "request_key",
        "setdomainname",
        "sethostname",
        "setns",
        "settimeofday",
        "swapoff",
        "swapon",
        "syslog",
        "umount2",
        "userfaultfd",
        "vhangup",
    ];
    let on_x86 = ["_sysctl", "ioperm", "iopl", "sysfs", "uselib", "ustat"];
    for architecture in BOTH {
        let here = if architecture == Architecture::X86_64 { &on_x86[..] } else { &[] };
        for name in everywhere.iter().chain(here) {
            assert_eq!(answer(architecture, name, [0; 3]), error(Errno::PERM), "{name}");
        }
        for name in ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"] {
            assert_eq!(answer(architecture, name, [0; 3]), error(Errno::NOSYS), "{name}");
        }
    }
}

#[test]
fn arguments_decide() {
    const NEW_USER: u64 = 0x1000_0000;
    const CHILD: u64 = 17;
    const HIGH: u64 = 1 << 32;
    let (refused, no_family, no_protocol) =
        (error(Errno::PERM), error(Errno::AFNOSUPPORT), error(Errno::PROTONOSUPPORT));
    let cases: &[(&str, [u64; 3], u32)] = &[
        ("clone", [0x3d_0f00 | CHILD, 0, 0], ALLOW),
        ("clone", [0x80, 0, 0], ALLOW),
        ("clone", [NEW_USER | CHILD, 0, 0], refused),
        ("clone", [0x2_0000, 0, 0], refused),
        ("clone", [0x200_0000, 0, 0], refused),
        ("unshare", [0x200, 0, 0], ALLOW),
        ("unshare", [NEW_USER, 0, 0], refused),
        ("unshare", [0x80, 0, 0], refused),
        ("ioctl", [0, 0x5401, 0], ALLOW),
        ("ioctl", [0, 0x5412, 0], refused),
        ("ioctl", [0, HIGH | 0x5412, 0], refused),
        ("ioctl", [0, 0x541c, 0], refused),
        ("personality", [0xffff_ffff, 0, 0], ALLOW),
        ("personality", [u64::MAX, 0, 0], ALLOW),
        ("personality", [0x4_0000, 0, 0], ALLOW),
        ("personality", [0x40_0000, 0, 0], refused),
        ("personality", [6, 0, 0], refused),
        ("socket", [1, 1, 0], ALLOW),
        ("socket", [2, 1, 6], ALLOW),
        ("socket", [2, 3, 1], ALLOW),
        ("socket", [10, 0x8_0002, 17], ALLOW),
        ("socket", [16, 3, 0], ALLOW),
        ("socket", [16, 3, 9], no_protocol),
        ("socket", [2, 0x8_000a, 0], no_family),
        ("socket", [HIGH + 40, 1, 0], no_family),
        ("socket", [38, 5, 0], no_family),
        ("socketpair", [1, 1, 0], ALLOW),
        ("socketpair", [30, 1, 0], no_family),
    ];
    for architecture in BOTH {
        for (name, arguments, expected) in cases {
            assert_eq!(answer(architecture, name, *arguments), *expected, "{name} {arguments:x?}");
        }
    }
}
