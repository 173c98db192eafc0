//! Features of the kernel that are used where they exist and can be switched off, so that the other way is tested too.

use std::sync::OnceLock;

use lamina_ground::EnvVars;
use rustix::fs::{MemfdFlags, XattrFlags, fsetxattr, memfd_create};

/// A feature with another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Overlays by `fsopen` with one `lowerdir+` per layer; otherwise `mount` with one option string.
    LowerDirectories,
    /// Landlock's scope for abstract unix sockets; otherwise nothing.
    SocketScope,
    /// Control groups; otherwise resource limits.
    ControlGroups,
    /// What containers change in memory; otherwise on the store's disk.
    MemoryAttributes,
    /// Executing the helper from a read-only mount of the binary; otherwise from a sealed copy in memory.
    BinaryMount,
}

impl Feature {
    /// Whether it may be used.
    pub(crate) fn is_allowed(self) -> bool {
        let name = match self {
            Self::LowerDirectories => "lowerdir",
            Self::SocketScope => "landlock",
            Self::ControlGroups => "cgroups",
            Self::MemoryAttributes => "memory-attributes",
            Self::BinaryMount => "binary-mount",
        };
        std::env::var(EnvVars::MODAL_SANDBOX_WITHOUT).map_or(true, |list| !list.split(',').any(|entry| entry == name))
    }
}

/// Whether an overlay can have its changes in memory: it marks a directory that takes the place of another one by an
/// attribute, which files in memory have since Linux 6.6.
#[must_use]
pub fn memory_has_attributes() -> bool {
    static HAS_THEM: OnceLock<bool> = OnceLock::new();
    Feature::MemoryAttributes.is_allowed()
        && *HAS_THEM.get_or_init(|| {
            let file = memfd_create("attributes", MemfdFlags::CLOEXEC);
            file.and_then(|file| fsetxattr(file, "user.overlay.opaque", b"y", XattrFlags::empty())).is_ok()
        })
}
