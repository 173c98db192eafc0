//! System calls that are refused for some arguments.

use rustix::io::Errno;

use super::program::{Condition, Decision, Test};

/// Flags of `clone` and `unshare` that make a namespace.
const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;
/// One more of `unshare`; for `clone` it is a part of the signal.
const NEW_TIME: u32 = 0x80;

/// Families of sockets that there are inside: the internet and local ones. Everything else reaches parts of the kernel
/// that have no namespaces, such as sockets between virtual machine and host, or that few people have looked at.
const SOCKET_FAMILIES: &[u32] = &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
/// The one protocol of netlink sockets, which shows addresses and routes.
const NETLINK_ROUTE: &[u32] = &[0];
/// An obsolete way to ask for packet sockets, which must not get past the family.
const SOCK_PACKET: u32 = 10;
/// The part of a socket's type that is no flag.
const SOCKET_TYPE: u32 = 0xf;

/// Ways of executing that Docker lets a process have: the usual one, a machine of 32 bits, a kernel numbered 2.6, and asking
/// for the present one; and addresses that are not randomised, which debuggers and sanitizers want of their own processes.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0x4_0008, 0x6_0000, 0x6_0008, 0xffff_ffff];

/// Typing into a terminal that is shared with somebody else.
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];

/// What is done about a call whose arguments matter.
pub(super) fn of(name: &str) -> Option<Decision> {
    let namespaces = |more| refuse(Test::AnyBit { argument: 0, bits: NAMESPACES.cast_unsigned() | more });
    let other_family = Condition {
        tests: vec![Test::NoneOf { argument: 0, values: SOCKET_FAMILIES }],
        // What a kernel without them would say: programs go on without.
        answer: Errno::AFNOSUPPORT,
    };
    Some(Decision::Conditions(match name {
        "clone" => vec![namespaces(0)],
        "unshare" => vec![namespaces(NEW_TIME)],
        "ioctl" => TERMINAL_INPUT.map(|value| refuse(equal(1, value))).to_vec(),
        "personality" => vec![refuse(Test::NoneOf { argument: 0, values: PERSONALITIES })],
        "socketpair" => vec![other_family],
        "socket" => vec![
            other_family,
            Condition {
                tests: vec![equal(0, AF_INET), Test::Equal { argument: 1, mask: SOCKET_TYPE, value: SOCK_PACKET }],
                answer: Errno::AFNOSUPPORT,
            },
            Condition {
                tests: vec![equal(0, AF_NETLINK), Test::NoneOf { argument: 2, values: NETLINK_ROUTE }],
                answer: Errno::PROTONOSUPPORT,
            },
        ],
        _ => return None,
    }))
}

fn refuse(test: Test) -> Condition {
    Condition { tests: vec![test], answer: Errno::PERM }
}

fn equal(argument: u32, value: u32) -> Test {
    Test::Equal { argument, mask: u32::MAX, value }
}
