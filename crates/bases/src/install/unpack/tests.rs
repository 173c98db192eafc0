//! Tests of unpacking, with packages made here: proper ones and hostile ones.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// Makes a tar archive. Names are written as they are: the crate would refuse to write hostile ones.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn add(mut self, kind: EntryType, name: &str, mode: u32, link: &str, contents: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, contents: &str) -> Self {
        self.add(EntryType::Regular, name, 0o644, "", contents.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, 0o755, "", b"")
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.add(kind, name, 0o777, target, b"")
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn ar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, contents) in members {
        writeln!(archive, "{name:<16}0           0     0     100644  {:<10}`", contents.len()).unwrap();
        archive.extend_from_slice(contents);
        if contents.len() % 2 == 1 {
            archive.push(b'\n');
        }
    }
    archive
}

fn control() -> Tar {
    let text = "Package: demo\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\n y\n";
    Tar::default().directory("./").file("./control", text)
}

fn deb(control: Tar, data: Tar) -> Vec<u8> {
    let xz = {
        let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
        writer.write_all(&control.finish()).unwrap();
        writer.finish().unwrap()
    };
    let zst = zstd::stream::encode_all(&data.finish()[..], 1).unwrap();
    ar(&[("debian-binary", b"2.0\n".to_vec()), ("control.tar.xz", xz), ("data.tar.zst", zst)])
}

/// A root with a neighbour that nothing may write to.
fn root() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(directory.path().join("root/usr/bin")).unwrap();
    fs_err::os::unix::fs::symlink("usr/bin", directory.path().join("root/bin")).unwrap();
    fs_err::create_dir(directory.path().join("canary")).unwrap();
    directory
}

fn unpack_into(root: &tempfile::TempDir, deb: &[u8]) -> Result<Unpacked, JobError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(deb).unwrap();
    unpack("demo", "1", file, Tree::open(&root.path().join("root")).unwrap(), &|| Ok(()))
}

fn canary_is_untouched(root: &tempfile::TempDir) {
    assert_eq!(fs_err::read_dir(root.path().join("canary")).unwrap().count(), 0);
    assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 2);
}

#[test]
fn a_proper_package() {
    let root = root();
    let control = control()
        .file("./conffiles", "/etc/demo.conf\nremove-on-upgrade /etc/old.conf\n")
        .file("./triggers", "# x\ninterest-noawait /usr/lib/demo\nactivate-noawait ldconfig\ninterest demo\n")
        .add(EntryType::Regular, "./postinst", 0o755, "", b"#!/bin/sh\n");
    let long = format!("./usr/lib/demo/{}", "l".repeat(60));
    let data = Tar::default()
        .directory("./")
        .directory("./bin/")
        .add(EntryType::Regular, "./bin/demo", 0o4755, "", b"run")
        .directory("./usr/share/doc/demo/")
        .file("./usr/share/doc/demo/README", "no")
        .file("./usr/share/doc/demo/copyright", "yes")
        .file(&long, "long")
        .file("./etc/demo.conf", "setting")
        .link(EntryType::Link, "./etc/demo.link", "./etc/demo.conf")
        .link(EntryType::Symlink, "./usr/bin/absolute", "/etc/passwd")
        .add(EntryType::Directory, "./var/spool/", 0o1777, "", b"");
    let unpacked = unpack_into(&root, &deb(control, data)).unwrap();
    let path = |name: &str| root.path().join("root").join(name);
    let binary = fs_err::metadata(path("usr/bin/demo")).unwrap();
    assert_eq!(
        (binary.permissions().mode() & 0o7777, binary.mtime()),
        (0o4755, lamina_store::Timestamp::PACKAGE.seconds)
    );
    assert!(path("bin").is_symlink());
    assert!(!path("usr/share/doc/demo/README").exists() && path("usr/share/doc/demo/copyright").exists());
    assert_eq!(fs_err::read_to_string(path("etc/demo.conf.dpkg-new")).unwrap(), "setting");
    assert_eq!(fs_err::metadata(path("etc/demo.link")).unwrap().nlink(), 2);
    assert_eq!(fs_err::read_link(path("usr/bin/absolute")).unwrap(), Path::new("/etc/passwd"));
    let info = path("var/lib/dpkg/info");
    assert_eq!(fs_err::metadata(info.join("demo:amd64.postinst")).unwrap().permissions().mode() & 0o777, 0o755);
    let list = fs_err::read_to_string(info.join("demo:amd64.list")).unwrap();
    assert!(list.starts_with("/.\n/bin\n/bin/demo\n") && list.contains("/usr/share/doc/demo/README\n"), "{list}");
    insta::assert_snapshot!(unpacked.status, @r"
    Package: demo
    Status: install ok unpacked
    Version: 1
    Architecture: amd64
    Multi-Arch: same
    Description: x
     y
    Conffiles:
     /etc/demo.conf newconffile
    ");
    let spool: Vec<_> =
        unpacked.directories.iter().map(|(path, attributes)| (path.as_str(), attributes.mode)).collect();
    assert!(spool.contains(&("var/spool", 0o1777)), "{spool:?}");
    assert_eq!(
        unpacked.interests,
        [("/usr/lib/demo".into(), "demo:amd64/noawait".into()), ("demo".into(), "demo:amd64".into())]
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    for name in ["../x", "/x", "a/../../x", "./usr/../../canary/x"] {
        for kind in [EntryType::Regular, EntryType::Directory, EntryType::Symlink] {
            let root = root();
            let error = unpack_into(&root, &deb(control(), Tar::default().link(kind, name, "t"))).unwrap_err();
            assert!(error.kind == super::super::MALFORMED && error.message.contains(name), "{error}");
            canary_is_untouched(&root);
        }
    }
    let root = root();
    let error = unpack_into(&root, &deb(control().file("../x", "x"), Tar::default())).unwrap_err();
    assert!(error.message.contains("../x"), "{error}");
}

#[test]
fn links_cannot_be_used_to_leave() {
    for target in ["../canary", "../../../../../../../../canary", "/canary"] {
        let root = root();
        let absolute = root.path().join("canary").display().to_string();
        for target in [target, &absolute] {
            let data = Tar::default().link(EntryType::Symlink, "./etc", target).file("./etc/x", "x");
            // Whether it fails or lands inside does not matter.
            let _ = unpack_into(&root, &deb(control(), data));
            canary_is_untouched(&root);
            let _ = fs_err::remove_file(root.path().join("root/etc"));
        }
    }
    let root = root();
    fs_err::write(root.path().join("canary.txt"), "x").unwrap();
    for target in ["../canary.txt", "./bin", "./nothing"] {
        let data = Tar::default().link(EntryType::Link, "./x", target);
        assert!(unpack_into(&root, &deb(control(), data)).is_err(), "{target}");
        let _ = fs_err::remove_dir_all(root.path().join("root/var"));
    }
}

#[test]
fn a_link_is_not_written_through() {
    let root = root();
    let data = Tar::default().link(EntryType::Symlink, "./etc/x", "../usr/bin/y").file("./etc/x", "through");
    assert!(unpack_into(&root, &deb(control(), data)).is_err());
    assert!(!root.path().join("root/usr/bin/y").exists());
}

#[test]
fn devices_pipes_and_odd_names_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let root = root();
        let error = unpack_into(&root, &deb(control(), Tar::default().link(kind, "./null", ""))).unwrap_err();
        assert!(error.message.contains("null"), "{error}");
    }
    let root = root();
    assert!(unpack_into(&root, &deb(control().file("./post inst", "x"), Tar::default())).is_err());
}

#[test]
fn damaged_and_exchanged_packages_are_refused() {
    let root = root();
    let whole = deb(control(), Tar::default().file("./usr/bin/x", "x"));
    for length in [0, 4, 8, 30, 68, 100, whole.len() - 40] {
        assert!(unpack_into(&root, &whole[..length]).is_err(), "{length}");
        let _ = fs_err::remove_dir_all(root.path().join("root/var"));
    }
    let other = Tar::default().file("./control", "Package: other\nVersion: 1\n");
    let error = unpack_into(&root, &deb(other, Tar::default())).unwrap_err();
    assert!(error.message.contains("`demo`"), "{error}");
    let unknown = ar(&[("debian-binary", b"2.0\n".to_vec()), ("control.tar.rar", vec![1])]);
    assert!(unpack_into(&root, &unknown).unwrap_err().message.contains(".rar"));
}
