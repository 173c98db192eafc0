//! Images that replace mount points by links to the host: nothing of the host is written or mounted over.

use std::os::unix::fs::symlink;
use std::path::Path;

use lamina_sandbox::{ExitStatus, Mount, SandboxSpec};

use crate::support::{Store, run, script, try_run};

crate::tests!(
    links_in_place_of_pseudo_filesystems_are_refused,
    links_in_place_of_settings_stay_in_the_image,
    links_in_place_of_targets_stay_in_the_image,
    magic_links_lead_nowhere,
    planted_overlay_attributes_of_memory_uppers_are_only_bytes,
);

/// A directory of the host that nothing may change, and a check that nothing has.
struct Canary {
    directory: tempfile::TempDir,
}

impl Canary {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("file"), "untouched").unwrap();
        // Whatever reaches it could also write it.
        fs_err::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        fs_err::set_permissions(directory.path().join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn check(&self) {
        let names: Vec<_> = fs_err::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(fs_err::read_to_string(self.path().join("file")).unwrap(), "untouched");
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path().to_str().unwrap()));
    }
}

/// Puts a link in place of an entry of the image.
fn plant(store: &Store, name: &str, target: &Path) {
    let path = store.content().join("copies/base").join(name);
    if path.is_dir() && !path.is_symlink() {
        fs_err::remove_dir_all(&path).unwrap();
    } else if path.is_symlink() || path.exists() {
        fs_err::remove_file(&path).unwrap();
    }
    symlink(target, path).unwrap();
    store.own();
}

fn links_in_place_of_pseudo_filesystems_are_refused() {
    let canary = Canary::new();
    for name in ["proc", "dev", "sys"] {
        let store = Store::new();
        plant(&store, name, canary.path());
        let error = try_run(&store.start(), &script("true")).unwrap_err().to_string();
        assert!(error.contains(&format!("`/{name}`")), "{error}");
        canary.check();
    }
}

fn links_in_place_of_settings_stay_in_the_image() {
    let canary = Canary::new();
    let climbing = Path::new("../../../../../../../..").join(canary.path().strip_prefix("/").unwrap());
    for target in
        [canary.path().join("file"), canary.path().join("new"), climbing.join("file"), climbing.join("new/deep")]
    {
        let store = Store::new();
        plant(&store, "etc/resolv.conf", &target);
        let helpers = store.start();
        let spec = SandboxSpec {
            upper: store.upper("step"),
            resolv_conf: Some(b"nameserver 192.0.2.1\n".to_vec()),
            ..script("cat /etc/resolv.conf; readlink /etc/resolv.conf")
        };
        let output = run(&helpers, &spec);
        assert_eq!(output.stdout, format!("nameserver 192.0.2.1\n{}\n", target.display()), "{}", output.stderr);
        let made = output.exit.created_mountpoints.last().unwrap();
        assert!(made.starts_with(canary.path().to_str().unwrap()), "inside the image: {made}");
        canary.check();
    }
}

fn links_in_place_of_targets_stay_in_the_image() {
    let canary = Canary::new();
    let store = Store::new();
    store.path("caches/pip");
    plant(&store, "cache", canary.path());
    plant(&store, "loop", Path::new("loop"));
    let helpers = store.start();
    let bind = |target: &str| Mount::Bind { source: "caches/pip".into(), target: target.into(), read_only: false };
    let mounts = vec![
        bind("/cache"),
        bind("/cache/deeper"),
        Mount::Tmpfs { target: "/cache/m".into(), mode: 0o777, limit_bytes: 4096 },
    ];
    let output = run(&helpers, &SandboxSpec { mounts, ..script("echo x > /cache/written; echo y > /cache/m/z") });
    output.success();
    assert!(store.content().join("caches/pip/written").exists());
    canary.check();
    let error = try_run(&helpers, &SandboxSpec { mounts: vec![bind("/loop/x")], ..script("true") }).unwrap_err();
    assert!(error.to_string().contains("/loop/x"), "{error}");
    let error =
        try_run(&helpers, &SandboxSpec { mounts: vec![bind("/../../bin/sh/x")], ..script("true") }).unwrap_err();
    assert!(error.to_string().contains("/bin/sh/x"), "{error}");
}

fn magic_links_lead_nowhere() {
    let canary = Canary::new();
    for target in ["/proc/self/root", "/proc/self/cwd", "/proc/1/root", "/proc/self/fd/3"] {
        let store = Store::new();
        plant(&store, "cache", Path::new(target));
        store.path("caches/pip");
        store.own();
        let mounts = vec![Mount::Bind { source: "caches/pip".into(), target: "/cache".into(), read_only: false }];
        let result = try_run(&store.start(), &SandboxSpec { mounts, ..script("true") });
        assert!(result.is_err(), "{target}: {result:?}");
        canary.check();
    }
    let store = Store::new();
    let spec = SandboxSpec { cwd: "/proc/self/fd/7".into(), ..script("true") };
    assert!(try_run(&store.start(), &spec).is_err());
}

fn planted_overlay_attributes_of_memory_uppers_are_only_bytes() {
    let store = Store::new();
    let helpers = store.start();
    let limit = SandboxSpec {
        upper: lamina_sandbox::Upper::Memory { limit_bytes: 1 << 20 },
        ..script("cat /bin/probe > /root/copy 2>/dev/null")
    };
    assert_ne!(run(&helpers, &limit).exit.status, ExitStatus::Exited(0), "the upper has a size limit");
}
