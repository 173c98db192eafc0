//! Features of the kernel that are used where they exist and can be switched off, so that the other way is tested too.

use lamina_ground::EnvVars;

/// A feature with another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Overlays by `fsopen` with one `lowerdir+` per layer; otherwise `mount` with one option string.
    LowerDirectories,
    /// Landlock's scope for abstract unix sockets; otherwise nothing.
    SocketScope,
    /// Control groups; otherwise resource limits.
    ControlGroups,
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
            Self::BinaryMount => "binary-mount",
        };
        std::env::var(EnvVars::MODAL_SANDBOX_WITHOUT).map_or(true, |list| !list.split(',').any(|entry| entry == name))
    }
}
