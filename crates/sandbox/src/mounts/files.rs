//! Files that the engine gives a sandbox: in memory, gone with it.

use std::os::fd::OwnedFd;

use lamina_ground::Subject;
use lamina_system::{self as system, attribute};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use super::image::{Image, attach_at};
use crate::failure::{During, Failure};
use crate::tiny_root::{FILES, attach, clone_tree, memory_filesystem};
use crate::{MountedFile, SandboxSpec};

/// Where the files of a sandbox appear.
const DIRECTORY: &str = "lamina";

/// How much may be written to the files that can be changed, beside what they hold at first.
const ROOM: usize = 1 << 20;
/// What a file is called in memory of its own.
const OWN_NAME: &str = "file";
/// The address of a host name that has none, as Debian has it.
const OWN_ADDRESS: &str = "127.0.1.1";

/// Puts all files of `spec` in place.
pub(super) fn inject(image: &mut Image, spec: &SandboxSpec) -> Result<(), Failure> {
    let hosts = spec.hosts.as_ref().map(|hosts| with_own_name(hosts, &spec.hostname));
    let settings = [("resolv.conf", &spec.resolv_conf), ("hosts", &hosts)];
    if spec.files.is_empty() && settings.iter().all(|(_, contents)| contents.is_none()) {
        return Ok(());
    }
    let contents = settings.iter().filter_map(|(_, contents)| contents.as_ref());
    let size: usize = contents.chain(spec.files.iter().map(|file| &file.contents)).map(|it| it.len() + 4096).sum();
    let memory = memory_filesystem(&[("mode", "755"), ("size", &(size + ROOM).to_string())])?;
    attach(&memory, FILES)?;
    for (name, contents) in settings {
        if let Some(contents) = contents {
            write_file(&memory, name, contents, 0o644)?;
            let place = image.ensure_file(&format!("/etc/{name}"))?;
            bind(name, &place, 0)?;
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
            if FileType::from_raw_mode(file.mode).is_symlink() {
                symlinkat(file.contents.as_slice(), &memory, path.as_str()).during("make in memory", &path)?;
            } else {
                write_file(&memory, &path, &file.contents, file.mode)?;
            }
        }
        let place = image.ensure_directory(&format!("/dev/{DIRECTORY}"), 0o755)?;
        bind(DIRECTORY, &place, attribute::READ_ONLY)?;
    }
    Ok(())
}

/// Shows a file at its place. It has memory of its own, which nothing else leads to.
pub(super) fn mount(image: &mut Image, file: &MountedFile) -> Result<(), Failure> {
    let MountedFile { target, contents, mode, uid, gid } = file;
    let memory = memory_filesystem(&[("mode", "700"), ("size", &(contents.len() + ROOM).to_string())])?;
    attach(&memory, FILES)?;
    write_file(&memory, OWN_NAME, contents, 0o600)?;
    let owner = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
    chownat(&memory, OWN_NAME, owner.0, owner.1, AtFlags::empty()).during("change the owner of", target)?;
    // A change of owner takes set-id bits away.
    chmodat(&memory, OWN_NAME, Mode::from_raw_mode(*mode), AtFlags::empty()).during("set the mode of", target)?;
    let place = image.ensure_file(target)?;
    let status = rustix::fs::statat(&place, "", AtFlags::EMPTY_PATH).during("look at", target)?;
    if FileType::from_raw_mode(status.st_mode).is_dir() {
        return Err(Failure::setup("mount a file over", target, Errno::ISDIR).on(Subject::Image));
    }
    bind(OWN_NAME, &place, attribute::READ_ONLY)
}

/// The known hosts with a line for the sandbox's own name, unless they have one.
fn with_own_name(hosts: &[u8], name: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(hosts);
    let names = text.lines().filter_map(|line| line.split('#').next()).flat_map(|line| line.split_whitespace().skip(1));
    let mut with = hosts.to_vec();
    if !names.into_iter().any(|known| known.eq_ignore_ascii_case(name)) {
        if !with.is_empty() && !with.ends_with(b"\n") {
            with.push(b'\n');
        }
        with.extend(format!("{OWN_ADDRESS}\t{name}\n").bytes());
    }
    with
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

/// Binds one of the files, or the directory.
fn bind(name: &str, place: &OwnedFd, restrictions: u64) -> Result<(), Failure> {
    let tree = clone_tree(&format!("{FILES}/{name}"), false)?;
    let attributes = restrictions | attribute::NO_SUID | attribute::NO_DEVICES;
    system::set_mount_attributes(&tree, attributes, false).during("restrict the mount", name)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_name_is_added_once() {
        let with = |hosts: &str| String::from_utf8(with_own_name(hosts.as_bytes(), "modal")).unwrap();
        assert_eq!(with("127.0.0.1 localhost"), "127.0.0.1 localhost\n127.0.1.1\tmodal\n");
        assert_eq!(with(""), "127.0.1.1\tmodal\n");
        assert_eq!(with("10.0.0.1 other modal # x\n"), "10.0.0.1 other modal # x\n");
        assert!(with("10.0.0.1 other # modal\n").ends_with("127.0.1.1\tmodal\n"));
    }
}
