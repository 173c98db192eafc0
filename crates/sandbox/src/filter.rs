//! System calls that commands in a sandbox do not get.
//!
//! The list follows what container engines deny by default, less what a user namespace and missing capabilities refuse
//! anyway and somebody might probe harmlessly. Unknown interfaces answer "not implemented", so that programs fall back.

use std::collections::BTreeMap;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::failure::{During, Failure};

/// Refused with "operation not permitted".
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Newer than the C library's list.
const SYS_OPEN_TREE_ATTR: i64 = 467;

/// Refused in the same way, where the architecture has them at all.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] =
    &[libc::SYS__sysctl, libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_sysfs, libc::SYS_uselib, libc::SYS_ustat];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

/// Answered with "not implemented". The flags of `clone3` lie in memory, where a filter cannot look; the C library falls
/// back to `clone`. The kernel's asynchronous I/O rings bypass filters altogether.
const MISSING: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Answered with success, without being done, for build steps.
const SYNC: &[i64] =
    &[libc::SYS_fdatasync, libc::SYS_fsync, libc::SYS_msync, libc::SYS_sync, SYS_SYNC_FILE_RANGE, libc::SYS_syncfs];

#[cfg(target_arch = "x86_64")]
const SYS_SYNC_FILE_RANGE: i64 = libc::SYS_sync_file_range;
/// Left out of the C library's list for this architecture.
#[cfg(target_arch = "aarch64")]
const SYS_SYNC_FILE_RANGE: i64 = 84;

/// Flags of `clone` and `unshare` that make a namespace.
const NAMESPACE_FLAGS: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// On x86-64 the kernel may know every call under a second number as well (the x32 interface).
#[cfg(target_arch = "x86_64")]
const ALIASES: &[i64] = &[0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const ALIASES: &[i64] = &[0];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// Families of sockets that there are inside: the internet and local ones. Everything else reaches parts of the kernel
/// that have no namespaces, such as sockets between virtual machine and host, or that few people have looked at.
const SOCKET_FAMILIES: [libc::c_int; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
/// The one protocol of netlink sockets, which shows addresses and routes.
const NETLINK_PROTOCOL: libc::c_int = libc::NETLINK_ROUTE;
/// An obsolete way to ask for packet sockets, which must not get past the family.
const SOCK_PACKET: u64 = 10;
/// The part of a socket's type that is no flag.
const SOCKET_TYPE: u64 = 0xf;

/// The compiled filters: made once, used for every sandbox.
#[derive(Debug)]
pub(crate) struct Filters {
    denied: BpfProgram,
    missing: BpfProgram,
    sync: BpfProgram,
    families: BpfProgram,
    protocols: BpfProgram,
}

impl Filters {
    /// Compiles the filters.
    pub(crate) fn compile() -> Result<Self, Failure> {
        let whole = |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
        let mut denied = whole(DENIED);
        denied.extend(whole(DENIED_HERE));
        denied.extend(conditional().map_err(|_| invalid())?);
        Ok(Self {
            denied: compile(denied, Errno::PERM.raw_os_error())?,
            missing: compile(whole(MISSING), Errno::NOSYS.raw_os_error())?,
            sync: compile(whole(SYNC), 0)?,
            // What a kernel without them would say: programs go on without.
            families: compile(other_families().map_err(|_| invalid())?, Errno::AFNOSUPPORT.raw_os_error())?,
            protocols: compile(other_protocols().map_err(|_| invalid())?, Errno::PROTONOSUPPORT.raw_os_error())?,
        })
    }

    /// Installs them on the calling process, for good.
    pub(crate) fn install(&self, ignore_sync: bool) -> Result<(), Failure> {
        install(&self.missing).during("install the system call filter", "missing")?;
        install(&self.families).during("install the system call filter", "families")?;
        install(&self.protocols).during("install the system call filter", "protocols")?;
        if ignore_sync {
            install(&self.sync).during("install the system call filter", "sync")?;
        }
        // The last: it refuses nothing that the others need, but nothing more is to be installed before the command.
        install(&self.denied).during("install the system call filter", "denied")
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are refused for some arguments only.
fn conditional() -> Result<Rules, seccompiler::BackendError> {
    let mut namespaces = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let flag = u64::from(flag.cast_unsigned());
        namespaces.push(rule(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    let equal = |argument, value: u64| rule(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    Ok(Rules::from([
        (libc::SYS_clone, namespaces.clone()),
        (libc::SYS_unshare, namespaces),
        // Typing into a terminal that is shared with somebody else.
        (libc::SYS_ioctl, vec![equal(1, libc::TIOCSTI)?, equal(1, libc::TIOCLINUX)?]),
    ]))
}

/// Sockets of other families than [`SOCKET_FAMILIES`].
fn other_families() -> Result<Rules, seccompiler::BackendError> {
    let different = |family: &libc::c_int| condition(0, SeccompCmpOp::Ne, *family);
    let other = SeccompRule::new(SOCKET_FAMILIES.iter().map(different).collect::<Result<_, _>>()?)?;
    let packet = SeccompCmpOp::MaskedEq(SOCKET_TYPE);
    let disguised = SeccompRule::new(vec![
        condition(0, SeccompCmpOp::Eq, libc::AF_INET)?,
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, packet, SOCK_PACKET)?,
    ])?;
    Ok(Rules::from([(libc::SYS_socket, vec![other.clone(), disguised]), (libc::SYS_socketpair, vec![other])]))
}

/// Netlink sockets of other protocols than [`NETLINK_PROTOCOL`].
fn other_protocols() -> Result<Rules, seccompiler::BackendError> {
    let netlink = condition(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?;
    let other = SeccompRule::new(vec![netlink, condition(2, SeccompCmpOp::Ne, NETLINK_PROTOCOL)?])?;
    Ok(Rules::from([(libc::SYS_socket, vec![other])]))
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value.cast_unsigned()))
}

fn rule(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}

/// Compiles one filter that answers its calls with `errno` and lets everything else through.
fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, Failure> {
    let rules = rules
        .into_iter()
        .flat_map(|(call, rules)| ALIASES.iter().map(move |alias| (call | alias, rules.clone())))
        .collect();
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, ARCHITECTURE).map_err(|_| invalid())?;
    filter.try_into().map_err(|_| invalid())
}

fn install(program: &BpfProgram) -> Result<(), Errno> {
    let instructions: Vec<_> = program
        .iter()
        .map(|instruction| {
            let seccompiler::sock_filter { code, jt, jf, k } = *instruction;
            libc::sock_filter { code, jt, jf, k }
        })
        .collect();
    lamina_system::install_filter(&instructions)
}

fn invalid() -> Failure {
    Failure::setup("compile the system call filter", "seccomp", Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile_and_fit() {
        let filters = Filters::compile().unwrap();
        for program in [&filters.denied, &filters.missing, &filters.sync, &filters.families, &filters.protocols] {
            assert!(program.len() < 4096, "the kernel takes at most 4096 instructions");
        }
    }
}
