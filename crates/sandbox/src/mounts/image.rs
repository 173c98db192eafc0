//! Paths of the image, resolved with the image as root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lamina_ground::Subject;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, chmodat, fstat, mkdirat, open, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::failure::{During, Failure};
use crate::tiny_root::IMAGE;

/// Dangling links that are followed before giving up.
const MAXIMUM_LINKS: u32 = 40;
/// The kernel asks to try again when something was renamed or mounted anywhere while it resolved `..`.
const MAXIMUM_ATTEMPTS: u32 = 64;

/// The mounted image.
#[derive(Debug)]
pub(super) struct Image {
    root: OwnedFd,
    /// The overlay's device number.
    device: u64,
    created: Vec<String>,
}

/// What a missing mount point is made as.
#[derive(Clone, Copy)]
enum Leaf {
    Directory(u32),
    File,
}

impl Image {
    /// Opens the image at its mount point.
    pub(super) fn open() -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(IMAGE, flags, Mode::empty()).during("open", "the image")?;
        let device = fstat(&root).during("look at", "the image")?.st_dev;
        Ok(Self { root, device, created: Vec::new() })
    }

    /// The root directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Everything that was made to be mounted over.
    pub(super) fn into_created(self) -> Vec<String> {
        self.created
    }

    /// A directory right below the root, made if it is missing. It must not be a symbolic link.
    pub(super) fn plain_directory(&mut self, path: &str) -> Result<OwnedFd, Failure> {
        match self.resolve(path, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOENT) => self.ensure_directory(path, 0o755),
            result => result.during("mount over the image's directory, which must not be a link,", path),
        }
    }

    /// A directory, made with `mode` if it is missing.
    pub(super) fn ensure_directory(&mut self, path: &str, mode: u32) -> Result<OwnedFd, Failure> {
        self.ensure(path, Leaf::Directory(mode), 0).map_err(|errno| mount_point(path, errno))
    }

    /// A file, made empty if it is missing.
    pub(super) fn ensure_file(&mut self, path: &str) -> Result<OwnedFd, Failure> {
        self.ensure(path, Leaf::File, 0).map_err(|errno| mount_point(path, errno))
    }

    /// What is there, of any kind.
    pub(super) fn existing(&self, path: &str) -> Result<OwnedFd, Failure> {
        self.resolve(path, OFlags::empty(), ResolveFlags::empty()).map_err(|errno| mount_point(path, errno))
    }

    fn ensure(&mut self, path: &str, leaf: Leaf, links: u32) -> Result<OwnedFd, Errno> {
        let flags = match leaf {
            Leaf::Directory(_) => OFlags::DIRECTORY,
            Leaf::File => OFlags::empty(),
        };
        match self.resolve(path, flags, ResolveFlags::empty()) {
            Err(Errno::NOENT) if links < MAXIMUM_LINKS => {}
            result => return result,
        }
        let trimmed = path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if name.is_empty() {
            return Err(Errno::NOENT);
        }
        let parent = self.ensure(&format!("{parent}/"), Leaf::Directory(0o755), links + 1)?;
        let location = location(&parent)?;
        match make(&parent, name, leaf) {
            // What lies on a mount of the sandbox's own is not in the upper.
            Ok(()) if fstat(&parent)?.st_dev == self.device => self.created.push(format!("{location}/{name}")),
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // A link to something that does not exist: that is what has to be made.
                let target = readlinkat(&parent, name, Vec::new())?;
                let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                let target = if target.starts_with('/') { target.into() } else { format!("{location}/{target}") };
                return self.ensure(&target, leaf, links + 1);
            }
            Err(errno) => return Err(errno),
        }
        self.resolve(path, flags, ResolveFlags::empty())
    }

    /// Opens a path as a place to mount on.
    fn resolve(&self, path: &str, flags: OFlags, restrictions: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | restrictions;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..MAXIMUM_ATTEMPTS {
            result = openat2(&self.root, path, flags, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }
}

/// Makes a missing mount point.
fn make(parent: &OwnedFd, name: &str, leaf: Leaf) -> Result<(), Errno> {
    match leaf {
        Leaf::Directory(mode) => {
            mkdirat(parent, name, Mode::from_raw_mode(mode))?;
            // The umask does not apply to what the image should have had.
            chmodat(parent, name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
        }
        Leaf::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// Where a directory of the image is, as an absolute path without the closing slash.
fn location(directory: &OwnedFd) -> Result<String, Errno> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = readlinkat(CWD, link, Vec::new())?;
    let path = path.to_str().map_err(|_| Errno::ILSEQ)?;
    Ok(path.strip_prefix(IMAGE).unwrap_or(path).trim_end_matches('/').to_owned())
}

/// That a mount point cannot be made: the image decides, or the disk that its changes are on.
fn mount_point(path: &str, errno: Errno) -> Failure {
    Failure::setup("find or make the mount point", path, errno).on(Subject::Image)
}

/// Mounts a detached mount over a directory or file that was resolved before; `path` is for the message.
pub(super) fn attach_at(tree: &OwnedFd, place: &OwnedFd, path: &str) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", place, "", flags).during("mount over", path)
}

/// Mounts a detached mount over a name directly below a directory of our own making.
pub(super) fn attach_below(tree: &OwnedFd, directory: &OwnedFd, name: &str) -> Result<(), Failure> {
    move_mount(tree, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during("mount over", name)
}
