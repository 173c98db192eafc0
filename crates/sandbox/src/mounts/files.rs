//! Files that the engine gives a sandbox: in memory, read-only.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, chmodat, mkdirat, openat};
use rustix::io::Errno;

use super::image::{Image, attach_at};
use crate::SandboxSpec;
use crate::failure::{During, Failure};
use crate::sys::{self, attribute};
use crate::tiny_root::{FILES, attach, clone_tree, memory_filesystem};

/// Where the files of a sandbox appear.
const DIRECTORY: &str = "lamina";

/// Puts all files of `spec` in place.
pub(super) fn inject(image: &mut Image, spec: &SandboxSpec) -> Result<(), Failure> {
    let settings = [("resolv.conf", &spec.resolv_conf), ("hosts", &spec.hosts)];
    if spec.files.is_empty() && settings.iter().all(|(_, contents)| contents.is_none()) {
        return Ok(());
    }
    let memory = memory_filesystem(&[("mode", "755")])?;
    attach(&memory, FILES)?;
    for (name, contents) in settings {
        if let Some(contents) = contents {
            write_file(&memory, name, contents, 0o644)?;
            let place = image.ensure_file(&format!("/etc/{name}"))?;
            bind(name, &place)?;
        }
    }
    if !spec.files.is_empty() {
        mkdirat(&memory, DIRECTORY, Mode::from_raw_mode(0o755)).during("make in memory", DIRECTORY)?;
        for file in &spec.files {
            if file.name.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(Failure::setup("name a file", &file.name, Errno::INVAL));
            }
            let path = format!("{DIRECTORY}/{}", file.name);
            make_parents(&memory, &path)?;
            write_file(&memory, &path, &file.contents, file.mode)?;
        }
        let place = image.ensure_directory(&format!("/dev/{DIRECTORY}"), 0o755)?;
        bind(DIRECTORY, &place)?;
    }
    Ok(())
}

/// Makes the directories above a file, below the first one.
fn make_parents(memory: &OwnedFd, path: &str) -> Result<(), Failure> {
    for (end, _) in path.match_indices('/').skip(1) {
        let directory = &path[..end];
        match mkdirat(memory, directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).during("make in memory", directory),
        }
    }
    Ok(())
}

/// Binds one of the files, or the directory, read-only.
fn bind(name: &str, place: &OwnedFd) -> Result<(), Failure> {
    let tree = clone_tree(&format!("{FILES}/{name}"), false)?;
    let attributes = attribute::READ_ONLY | attribute::NO_SUID | attribute::NO_DEVICES;
    sys::set_mount_attributes(&tree, attributes, false).during("make read-only", name)?;
    attach_at(&tree, place, name)
}

fn write_file(directory: &OwnedFd, path: &str, contents: &[u8], mode: u32) -> Result<(), Failure> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(directory, path, flags, Mode::from_raw_mode(0o600)).during("make in memory", path)?;
    let mut rest = contents;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest).during("write in memory", path)?;
        rest = &rest[count..];
    }
    chmodat(directory, path, Mode::from_raw_mode(mode), AtFlags::empty()).during("set the mode of", path)
}
