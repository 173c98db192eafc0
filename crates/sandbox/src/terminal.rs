//! The command's terminal, from the sandbox's own `devpts`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fchown, openat};
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::Uid;

use crate::TerminalSize;
use crate::failure::{During, Failure};
use crate::tiny_root::clone_tree_at;

/// Both ends of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// For the engine.
    pub(crate) master: OwnedFd,
    /// For the command.
    pub(crate) slave: OwnedFd,
}

/// Opens a terminal of the given size for the given user.
pub(crate) fn open(size: TerminalSize, user: u32) -> Result<Terminal, Failure> {
    const MULTIPLEXER: &str = "/dev/pts/ptmx";
    let what = "open a terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(CWD, MULTIPLEXER, flags, Mode::empty()).during(what, MULTIPLEXER)?;
    unlockpt(&master).during(what, MULTIPLEXER)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).during(what, MULTIPLEXER)?;
    let window = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, window).during(what, MULTIPLEXER)?;
    fchown(&slave, Some(Uid::from_raw(user)), None).during(what, MULTIPLEXER)?;
    Ok(Terminal { master, slave })
}

/// As [`open`], and makes it `/dev/console`.
pub(crate) fn open_console(size: TerminalSize, user: u32) -> Result<Terminal, Failure> {
    let terminal = open(size, user)?;
    bind_console(&terminal.slave)?;
    Ok(terminal)
}

/// Binds the terminal over `/dev/console`. Both are on filesystems that the sandbox has just made: no path of the image.
fn bind_console(slave: &OwnedFd) -> Result<(), Failure> {
    const CONSOLE: &str = "/dev/console";
    let what = "make the console";
    let tree = clone_tree_at(slave.as_fd(), "", false).during(what, CONSOLE)?;
    move_mount(&tree, "", CWD, CONSOLE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during(what, CONSOLE)
}
