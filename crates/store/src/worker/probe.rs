//! Which way of making views this machine allows; tried once for each kernel.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lamina_ground::EnvVars;
use lamina_image::Digest;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use serde::{Deserialize, Serialize};

use super::disk::{self, Result, join};
use super::place::mark_redirected;
use super::removal::remove_all;
use super::whiteouts;
use crate::placing::Placing;
use crate::{JobError, ObjectName};

/// Where the answer is kept, below the content directory.
const FILE: &str = "placing.json";

/// The answer, and the kernel that gave it: after a boot into another one it is asked again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    kernel: String,
    without: String,
    placing: Placing,
}

/// The best way for the file system of `content`; `scratch` is a directory on it for trying.
pub(super) fn placing(content: &Path, scratch: &Path) -> Result<Placing> {
    let file = content.join(FILE);
    let kernel = rustix::system::uname();
    let kernel = format!("{} {}", kernel.release().to_string_lossy(), kernel.version().to_string_lossy());
    let without = std::env::var(EnvVars::MODAL_STORE_WITHOUT).unwrap_or_default();
    if let Ok(bytes) = fs_err::read(&file)
        && let Ok(answer) = serde_json::from_slice::<Answer>(&bytes)
        && (&answer.kernel, &answer.without) == (&kernel, &without)
    {
        return Ok(answer.placing);
    }
    let directory = scratch.join("probe");
    disk::make_directory(&directory, 0o700)?;
    let placing = if may("redirects") && shows_redirected(&directory).unwrap_or(false) {
        Placing::Redirects
    } else if may("clones") && clones(&directory)? {
        Placing::Clones
    } else {
        Placing::Links
    };
    remove_all(&directory)?;
    let answer = Answer { kernel, without, placing };
    let bytes = serde_json::to_vec(&answer).map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
    let temporary = scratch.join(FILE);
    std::io::Write::write_all(&mut disk::create(&temporary)?, &bytes).map_err(JobError::file("writing", &temporary))?;
    disk::rename(&temporary, &file)?;
    Ok(placing)
}

/// Whether a way is to be tried at all.
pub(super) fn may(way: &str) -> bool {
    std::env::var(EnvVars::MODAL_STORE_WITHOUT).unwrap_or_default().split(',').all(|entry| entry != way)
}

/// Whether overlays without privileges show files with the bytes of others, in the way that images are shown: the lowest
/// layer at once, others by overlays of their own.
fn shows_redirected(directory: &Path) -> Result<bool> {
    const BYTES: &[u8] = b"the bytes of the object";
    let names = ["low", "high", "deletions", "data", "upper", "work"];
    let [low, high, deletions, data, upper, work] = names.map(|name| directory.join(name));
    for path in [&low, &high, &deletions, &data, &upper, &work] {
        disk::make_directory(path, 0o700)?;
    }
    let digest = Digest::of(BYTES);
    let object = data.join(ObjectName::new(&digest).relative());
    disk::make_directory(object.parent().unwrap_or(&data), 0o700)?;
    std::io::Write::write_all(&mut disk::create(&object)?, BYTES).map_err(JobError::file("writing", &object))?;
    for path in [low.join("low"), low.join("gone"), high.join("high")] {
        let file = disk::create(&path)?;
        rustix::fs::ftruncate(&file, BYTES.len() as u64).map_err(JobError::file("writing", &path))?;
        mark_redirected(&file, &digest, &path)?;
    }
    whiteouts::make_deletion(&deletions.join("gone"))?;
    let Ok(mount) = mount([&low, &deletions, &high], &data, &upper, &work) else { return Ok(false) };
    let holds = |name: &str| {
        let file = openat(&mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut shown = Vec::new();
        File::from(file).read_to_end(&mut shown)?;
        Ok::<_, std::io::Error>(shown == BYTES)
    };
    let is_gone = statat(&mount, "gone", AtFlags::empty()).err() == Some(Errno::NOENT);
    Ok(is_gone && holds("low").unwrap_or(false) && holds("high").unwrap_or(false))
}

/// Two overlays, one over the other, not attached anywhere; they go with the descriptor.
fn mount(
    [low, deletions, high]: [&PathBuf; 3],
    data: &Path,
    upper: &Path,
    work: &Path,
) -> std::result::Result<OwnedFd, Errno> {
    let inner = overlay(&[("lowerdir+", high), ("datadir+", data)])?;
    let shown = PathBuf::from(format!("/proc/self/fd/{}", inner.as_raw_fd()));
    let lowers = [&shown, deletions, low].map(|lower| ("lowerdir+", lower.as_path()));
    overlay(&[&lowers[..], &[("datadir+", data), ("upperdir", upper), ("workdir", work)]].concat())
}

fn overlay(options: &[(&str, &Path)]) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, path) in options {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
        fsconfig_set_string(&context, *name, &*path)?;
    }
    fsconfig_set_flag(&context, "userxattr")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Whether files can share their blocks.
fn clones(directory: &Path) -> Result<bool> {
    let [from, to] = [&b"from"[..], b"to"].map(|name| join(directory, name));
    let mut source = disk::create(&from)?;
    std::io::Write::write_all(&mut source, &[1; 8192]).map_err(JobError::file("writing", &from))?;
    Ok(rustix::fs::ioctl_ficlone(disk::create(&to)?, source).is_ok())
}
