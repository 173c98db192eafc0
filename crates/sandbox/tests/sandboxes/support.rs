//! A store with a small image made of the host's programs, and a way to run commands in it.

use std::fs::{File, Permissions};
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use lamina_ground::Stack;
use lamina_sandbox::{Exit, ExitStatus, Helpers, IdMap, Resource, Sandbox, SandboxError, SandboxSpec, Stdio, Upper};

/// Programs of the host that the image has.
const PROGRAMS: [&str; 16] = [
    "sh", "cat", "chmod", "head", "id", "ln", "ls", "mkdir", "mount", "readlink", "rm", "sleep", "stat", "touch",
    "true", "tty",
];

/// A worker that does nothing until the engine is gone.
pub(crate) fn idle_worker(mut socket: UnixStream) {
    let _ = socket.read(&mut [0]);
}

/// A store's content directory with the layer `copies/base`.
pub(crate) struct Store {
    directory: tempfile::TempDir,
    pub(crate) map: IdMap,
}

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.exit.status, ExitStatus::Exited(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        Self::with_map(IdMap::for_current_user().unwrap())
    }

    pub(crate) fn with_map(map: IdMap) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Self { directory, map };
        build_image(&store.path("copies/base"));
        store.own();
        store
    }

    /// Gives everything to root inside, which is who makes it in a real store.
    pub(crate) fn own(&self) {
        if rustix::process::geteuid().is_root() {
            own_tree(&self.content(), self.map.root_uid(), self.map.root_gid());
        }
    }

    pub(crate) fn content(&self) -> PathBuf {
        self.directory.path().join("content")
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        let path = self.content().join(relative);
        fs_err::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn start(&self) -> Helpers {
        self.start_with(&[]).unwrap()
    }

    /// Starts helpers that take hold of parts of the host.
    pub(crate) fn start_with(&self, resources: &[Resource]) -> Result<Helpers, SandboxError> {
        if !rustix::process::geteuid().is_root() && !self.map.is_single() {
            // What an ordinary user cannot do; nor can they add anything afterwards.
            let arguments = ["--user", "--map-root-user", "--map-auto", "chown", "-R", "1:1"];
            let status = Command::new("unshare").args(arguments).arg(self.content()).status().unwrap();
            assert!(status.success());
        }
        Helpers::start(&self.content(), &self.map, resources)
    }

    /// A fresh upper in the store.
    pub(crate) fn upper(&self, name: &str) -> Upper {
        let upper = self.upper_unowned(name);
        self.own();
        upper
    }

    /// The same, for many: [`Store::own`] is left to the caller.
    pub(crate) fn upper_unowned(&self, name: &str) -> Upper {
        let (upper, work) = (format!("work/{name}/upper"), format!("work/{name}/work"));
        self.path(&upper);
        self.path(&work);
        Upper::Store { upper: upper.into(), work: work.into() }
    }
}

/// A sandbox on the image that runs `argv`.
pub(crate) fn spec(argv: &[&str]) -> SandboxSpec {
    SandboxSpec {
        layers: Stack::from_bottom_up(["copies/base".into()]),
        argv: argv.iter().map(ToString::to_string).collect(),
        env: vec![("PATH".into(), "/bin".into())],
        ..SandboxSpec::default()
    }
}

/// A sandbox on the image that runs a shell script.
pub(crate) fn script(text: &str) -> SandboxSpec {
    spec(&["sh", "-c", text])
}

/// A sandbox on the image in which this test program runs a probe.
pub(crate) fn probe(name: &str) -> SandboxSpec {
    spec(&["/bin/probe", "__probe", name])
}

/// Starts a sandbox whose output is collected.
pub(crate) fn start(helpers: &Helpers, spec: &SandboxSpec) -> Result<(Sandbox, File, File), SandboxError> {
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let stdio = Stdio {
        stdin: null(),
        stdout: stdout.try_clone().unwrap().into(),
        stderr: stderr.try_clone().unwrap().into(),
        socket: None,
    };
    Ok((helpers.launcher.spawn(spec, stdio)?, stdout, stderr))
}

/// Runs a sandbox to its end.
pub(crate) fn run(helpers: &Helpers, spec: &SandboxSpec) -> Output {
    try_run(helpers, spec).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn try_run(helpers: &Helpers, spec: &SandboxSpec) -> Result<Output, SandboxError> {
    let (sandbox, stdout, stderr) = start(helpers, spec)?;
    let exit = sandbox.wait()?;
    Ok(Output { exit, stdout: text(stdout), stderr: text(stderr) })
}

/// What was written to a file.
pub(crate) fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

/// Three descriptors that lead nowhere.
pub(crate) fn null_stdio() -> Stdio {
    Stdio { stdin: null(), stdout: null(), stderr: null(), socket: None }
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within ten seconds: {what}");
}

/// Copies programs with their libraries, and this program as `/bin/probe`.
fn build_image(root: &Path) {
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp", "root"] {
        fs_err::create_dir_all(root.join(directory)).unwrap();
    }
    symlink("bin", root.join("sbin")).unwrap();
    fs_err::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    for (name, contents) in [("passwd", "root:x:0:0::/root:/bin/sh\n"), ("group", "root:x:0:\n"), ("hosts", "image\n")]
    {
        fs_err::write(root.join("etc").join(name), contents).unwrap();
    }
    for program in PROGRAMS {
        let source =
            ["/bin", "/usr/bin"].map(|bin| Path::new(bin).join(program)).into_iter().find(|path| path.exists());
        install(root, &source.unwrap(), program);
    }
    install(root, &std::env::current_exe().unwrap(), "probe");
}

fn install(root: &Path, source: &Path, name: &str) {
    fs_err::copy(source, root.join("bin").join(name)).unwrap();
    let output = Command::new("ldd").arg(source).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    for library in listing.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        if !target.exists() {
            fs_err::create_dir_all(target.parent().unwrap()).unwrap();
            fs_err::copy(library, &target).unwrap();
        }
    }
}

fn own_tree(path: &Path, uid: u32, gid: u32) {
    lchown(path, Some(uid), Some(gid)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs_err::read_dir(path).unwrap() {
            own_tree(&entry.unwrap().path(), uid, gid);
        }
    }
}
