//! Landlock: what a process gives up for good without any privilege.

use std::ffi::{c_ulong, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::Errno;

use crate::check;

/// Since this version files can be moved between directories that both may be changed; before, they never can.
const WITH_MOVES: i64 = 2;
/// Since this version it has a say in shortening files.
const WITH_TRUNCATION: i64 = 3;

/// Rights over files themselves.
const WRITE_FILE: u64 = 1 << 1;
const TRUNCATE: u64 = 1 << 14;
/// Rights over what is in directories: to remove and to make everything that there is.
const CHANGE_DIRECTORY: u64 = 0x1ff0;
/// The right to move and link from one directory to another.
const REFER: u64 = 1 << 13;

/// Asks the kernel which version of Landlock it has.
///
/// # Errors
/// What the kernel says.
pub fn landlock_version() -> Result<i64, Errno> {
    const CREATE_RULESET_VERSION: c_ulong = 1;
    // SAFETY: with this flag the kernel takes no structure.
    check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0, CREATE_RULESET_VERSION) })
}

/// Keeps the calling process from connecting to abstract unix sockets of processes outside.
///
/// # Errors
/// What the kernel says.
pub fn landlock_scope_abstract_sockets() -> Result<(), Errno> {
    const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    let attributes = RulesetAttributes { handled_files: 0, handled_network: 0, scoped: SCOPE_ABSTRACT_UNIX_SOCKET };
    restrict(&make_ruleset(&attributes, size_of::<RulesetAttributes>())?)
}

/// Lets the process that `command` will start, and those that it starts, change no files but these and those below these
/// directories. False where the kernel has no way to do so. Set-user-id programs have no effect in it.
///
/// # Errors
/// When one of the paths cannot be opened.
pub fn limit_writing(command: &mut Command, writable: &[&Path]) -> io::Result<bool> {
    let Ok(version @ WITH_MOVES..) = landlock_version() else { return Ok(false) };
    let on_files = if version < WITH_TRUNCATION { WRITE_FILE } else { WRITE_FILE | TRUNCATE };
    let everything = on_files | CHANGE_DIRECTORY | REFER;
    let attributes = RulesetAttributes { handled_files: everything, handled_network: 0, scoped: 0 };
    let ruleset = make_ruleset(&attributes, size_of_val(&attributes.handled_files))?;
    for path in writable {
        let place = open(*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let is_directory = rustix::fs::FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir();
        add_rule(&ruleset, &place, if is_directory { everything } else { on_files })?;
    }
    let give_up = move || {
        rustix::thread::set_no_new_privs(true)?;
        restrict(&ruleset).map_err(io::Error::from)
    };
    // SAFETY: between fork and exec it makes system calls only, allocates nothing and takes no lock.
    unsafe { command.pre_exec(give_up) };
    Ok(true)
}

/// The kernel's `struct landlock_ruleset_attr`, up to the version that knows scopes.
#[repr(C)]
struct RulesetAttributes {
    handled_files: u64,
    handled_network: u64,
    scoped: u64,
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Makes a set of rules; older kernels know only the first `size` bytes of the attributes.
fn make_ruleset(attributes: &RulesetAttributes, size: usize) -> Result<OwnedFd, Errno> {
    // SAFETY: the structure has at least the size that is given.
    let ruleset =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(attributes), size, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(ruleset).map_err(|_| Errno::BADF)?) })
}

fn add_rule(ruleset: &OwnedFd, place: &OwnedFd, allowed: u64) -> Result<(), Errno> {
    const PATH_BENEATH: libc::c_int = 1;
    let rule = PathBeneath { allowed, parent: place.as_raw_fd() };
    // SAFETY: the structure is the one of this kind of rule, its descriptor is open.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, ptr::from_ref(&rule), 0)
    })?;
    Ok(())
}

fn restrict(ruleset: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_can_be_changed() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["inside", "inside/deep", "also", "outside"] {
            std::fs::DirBuilder::new().create(directory.path().join(name)).unwrap();
        }
        let script =
            "echo x > inside/deep/file && mv inside/deep/file also/ && ln also/file inside/link && rm also/file
            echo y > inside/link && mkdir inside/new && rmdir inside/new && echo changed; cat inside/link
            echo x > outside/file || echo refused
            mv inside/link outside/ || echo refused
            mkdir outside/new || echo refused
            rmdir outside || echo refused
            : > /dev/null && echo nothing";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(directory.path());
        let writable = ["inside", "also"].map(|name| directory.path().join(name));
        let writable = [writable[0].as_path(), writable[1].as_path(), Path::new("/dev/null")];
        if !limit_writing(&mut command, &writable).unwrap() {
            assert!(!landlock_version().is_ok_and(|version| version >= WITH_MOVES));
            return;
        }
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(said, "changed\ny\nrefused\nrefused\nrefused\nrefused\nnothing\n");
        assert_eq!(directory.path().join("outside").read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_missing_place_is_said() {
        let mut command = Command::new("/bin/true");
        if landlock_version().is_ok_and(|version| version >= WITH_MOVES) {
            let error = limit_writing(&mut command, &[Path::new("/nowhere/at/all")]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
