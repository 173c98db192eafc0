//! What a sandbox is made of.

use lamina_ground::{Stack, StorePath};
use serde::{Deserialize, Serialize};

/// Everything about a sandbox except its standard streams.
///
/// Paths inside the image are absolute and are resolved with the image as root: no symbolic link leads out of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The host name inside.
    pub hostname: String,
    /// Views of the image's layers. None is a valid image: it starts empty.
    pub layers: Stack<StorePath>,
    /// Where changes go.
    pub upper: Upper,
    /// Further mounts, made in this order.
    pub mounts: Vec<Mount>,
    /// Files that appear read-only under `/dev/lamina`.
    pub files: Vec<InjectedFile>,
    /// What `/etc/resolv.conf` holds at first. It can be changed inside, which is gone with the sandbox.
    pub resolv_conf: Option<Vec<u8>>,
    /// What `/etc/hosts` holds at first, beside a line for the host name if need be. As changeable as the other.
    pub hosts: Option<Vec<u8>>,
    /// The command; a first word without a slash is looked for in the `PATH` of `env`, inside the image.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory; made if it is missing.
    pub cwd: String,
    /// The user of the command, as `/etc/passwd` and `/etc/group` of the image say: a name or number, and a group behind a
    /// colon. Unless `env` has a `HOME`, it gets that of the user. `None` is root, and adds nothing.
    pub user: Option<String>,
    /// Limits of all processes of the sandbox together.
    pub limits: Limits,
    /// Which network the sandbox sees.
    pub network: Network,
    /// Whether the `fsync` family only pretends: for build steps, whose result is synchronised as a whole.
    pub ignore_sync: bool,
    /// The terminal that the command gets, if it gets one.
    pub terminal: Option<TerminalSpec>,
    /// Whether descriptor 3 of the command is the socket of [`crate::Stdio`].
    pub socket_as_fd3: bool,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            hostname: "lamina".into(),
            layers: Stack::new(),
            upper: Upper::Memory { limit_bytes: 64 << 20 },
            mounts: Vec::new(),
            files: Vec::new(),
            resolv_conf: None,
            hosts: None,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            user: None,
            limits: Limits::default(),
            network: Network::Host,
            ignore_sync: false,
            terminal: None,
            socket_as_fd3: false,
        }
    }
}

/// Where the changes of a sandbox go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upper {
    /// Into directories of the store; what is there after the exit is the layer.
    Store {
        /// The directory of the changes.
        upper: StorePath,
        /// The directory that overlayfs needs beside it, on the same filesystem.
        work: StorePath,
    },
    /// Into memory; gone with the sandbox.
    Memory {
        /// Most bytes that the changes may take.
        limit_bytes: u64,
    },
}

/// A mount beside the image itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// A shared cache seen through an overlay, so that a step never writes the shared directory.
    Cache {
        /// The shared directory.
        lower: StorePath,
        /// The directory of the step's own changes.
        upper: StorePath,
        /// The directory that overlayfs needs beside it.
        work: StorePath,
        /// Where it appears inside.
        target: String,
    },
    /// A directory or file of the store.
    Bind {
        /// The directory or file.
        source: StorePath,
        /// Where it appears inside.
        target: String,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// A part of the host outside the store.
    Host {
        /// The name of the [`crate::Resource`].
        resource: String,
        /// The part of it: a relative path without symbolic links.
        path: Option<String>,
        /// Where it appears inside.
        target: String,
        /// Whether writing is refused. Nodes of devices are always read-only; the devices are not.
        read_only: bool,
    },
    /// A part of the image itself, which cannot be written to. What was mounted in it before stays as it is.
    ReadOnly {
        /// Where it is.
        target: String,
    },
    /// A file in memory, which cannot be written to.
    File(MountedFile),
    /// An empty directory in memory.
    Tmpfs {
        /// Where it appears inside.
        target: String,
        /// The permission bits of its root, for example `0o1777`.
        mode: u32,
        /// Most bytes that it may take.
        limit_bytes: u64,
    },
}

/// A read-only file in memory, at its place in the image.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedFile {
    /// Where it appears inside.
    pub target: String,
    /// What it holds.
    pub contents: Vec<u8>,
    /// The permission bits, for example `0o400`.
    pub mode: u32,
    /// The owner, one of the ids that the sandbox has.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl std::fmt::Debug for MountedFile {
    /// Leaves the contents out: they may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MountedFile").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A read-only file under `/dev/lamina`, in memory only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedFile {
    /// The file's name, or its path below that directory.
    pub name: String,
    /// What it holds; of a link, where it leads.
    pub contents: Vec<u8>,
    /// The permission bits, for example `0o400`; `0o120777` is a symbolic link.
    pub mode: u32,
}

impl std::fmt::Debug for InjectedFile {
    /// Leaves the contents out: they may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("InjectedFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Limits of all processes of a sandbox together; what is not given is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Most bytes of memory without such a limit, where a control group can see to it: what protects the machine.
    pub memory_guard_bytes: Option<u64>,
    /// Most processors, fractions included.
    pub cpus: Option<f64>,
    /// Most processes and threads; a control group leaves some to others of what is allowed altogether.
    pub pids: Option<u64>,
}

/// Which network a sandbox sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's; abstract unix sockets are kept apart where the kernel can.
    #[default]
    Host,
    /// None but a loopback interface of its own.
    Isolated,
}

/// A terminal of the command: its controlling one, and `/dev/console`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSpec {
    /// Its size at first.
    pub size: TerminalSize,
    /// Whether it, instead of the streams of [`crate::Stdio`], is descriptors 0 to 2.
    pub is_stdio: bool,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}
