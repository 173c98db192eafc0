//! What a container with a device gets, in the form in which a sandbox is given it.

use std::path::Path;

use crate::cdi::{ContainerEdits, is_plain};

/// What a container with a device gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// Variables; they replace the container's.
    pub(crate) environment: Vec<(String, String)>,
    /// Device nodes, files, directories and sockets of the host.
    pub(crate) mounts: Vec<HostMount>,
    /// Symbolic links: path and target.
    pub(crate) links: Vec<(String, String)>,
    /// Directories whose libraries the dynamic loader is to find.
    pub(crate) folders: Vec<String>,
    /// The driver's version, if libraries for a newer one that the image has shall come first.
    pub(crate) driver_version: Option<String>,
    /// Hooks that are not known here.
    pub(crate) unknown_hooks: Vec<String>,
}

/// A part of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostMount {
    /// Where it is on the host.
    pub(crate) source: String,
    /// Where it appears inside.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

impl HostMount {
    /// A file that is at the same place inside, unchangeable.
    pub(crate) fn same(path: &str) -> Self {
        Self { source: path.to_owned(), target: path.to_owned(), read_only: true }
    }
}

impl Edits {
    /// What a specification says.
    pub(crate) fn of_spec(spec: &ContainerEdits) -> Self {
        let mut edits = Self::default();
        for variable in &spec.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            edits.environment.push((name.to_owned(), value.to_owned()));
        }
        for node in &spec.device_nodes {
            let source = node.host_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(&node.path).to_owned();
            edits.mounts.push(HostMount { source, target: node.path.clone(), read_only: true });
        }
        for mount in &spec.mounts {
            let is_bind = mount.kind.as_deref().is_none_or(|kind| matches!(kind, "" | "bind" | "none"));
            if !is_bind || mount.host_path.is_empty() {
                edits.unknown_hooks.push(format!("mount of `{}`", mount.container_path));
                continue;
            }
            edits.mounts.push(HostMount {
                source: mount.host_path.clone(),
                target: mount.container_path.trim_end_matches('/').to_owned(),
                read_only: mount.options.iter().any(|option| option == "ro"),
            });
        }
        for hook in &spec.hooks {
            edits.add_hook(&hook.path, &hook.args);
        }
        edits
    }

    /// Takes what a hook would do into account, if it is one of the NVIDIA Container Toolkit's.
    fn add_hook(&mut self, path: &str, arguments: &[String]) {
        let program = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        let mut words = arguments.iter().skip(1).map(String::as_str).filter(|word| *word != "hook");
        let name = words.next().unwrap_or_default();
        if !program.starts_with("nvidia-c") {
            self.unknown_hooks.push(format!("hook `{path}`"));
            return;
        }
        match name {
            "create-symlinks" => {
                for link in options(words, "link") {
                    let parts = link.split_once("::");
                    match parts.filter(|(target, path)| !target.is_empty() && is_plain(path)) {
                        Some((target, path)) => self.links.push((path.to_owned(), target.to_owned())),
                        None => self.unknown_hooks.push(format!("link `{link}`")),
                    }
                }
            }
            "update-ldcache" => self.folders.extend(options(words, "folder").map(str::to_owned)),
            "enable-cuda-compat" => {
                let version = options(words, "host-driver-version").next();
                self.driver_version = version.map(str::to_owned).or(self.driver_version.take());
            }
            // Device nodes cannot be changed here, directories of `/dev` can be entered by all users, and links are named
            // after the libraries that are there.
            "chmod" | "create-soname-symlinks" | "disable-device-node-modification" => {}
            other => self.unknown_hooks.push(format!("hook `{program} {other}`")),
        }
    }

    /// Adds others, but for what is there.
    pub(crate) fn merge(&mut self, others: &Self) {
        fn add<T: PartialEq + Clone>(to: &mut Vec<T>, from: &[T]) {
            for one in from {
                if !to.contains(one) {
                    to.push(one.clone());
                }
            }
        }
        add(&mut self.environment, &others.environment);
        add(&mut self.mounts, &others.mounts);
        add(&mut self.links, &others.links);
        add(&mut self.folders, &others.folders);
        add(&mut self.unknown_hooks, &others.unknown_hooks);
        self.driver_version = self.driver_version.take().or_else(|| others.driver_version.clone());
    }
}

/// The values of an option, written as `--name value` or `--name=value`.
fn options<'a>(words: impl Iterator<Item = &'a str>, name: &str) -> impl Iterator<Item = &'a str> {
    let mut is_next = false;
    let plain = format!("--{name}");
    words.filter_map(move |word| {
        if std::mem::replace(&mut is_next, word == plain) {
            return Some(word);
        }
        word.strip_prefix(&plain)?.strip_prefix('=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(text: &str) -> Edits {
        Edits::of_spec(&serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn a_specification_says_what_a_container_gets() {
        let edits = edits(
            "env: [NVIDIA_VISIBLE_DEVICES=void, EMPTY]
deviceNodes:
- {path: /dev/nvidia0, hostPath: /run/dev/nvidia0}
- {path: /dev/nvidiactl}
mounts:
- {hostPath: /usr/lib/libcuda.so.1.1, containerPath: /usr/lib64/libcuda.so.1.1, options: [ro, nosuid, bind]}
- {hostPath: /run/socket, containerPath: /run/socket, options: [rw]}
- {containerPath: /scratch, type: tmpfs}
hooks:
- {hookName: createContainer, path: /usr/bin/nvidia-ctk, args: [nvidia-ctk, hook, create-symlinks, --link, 'libcuda.so.1::/usr/lib64/libcuda.so', --link=a::/b, --link, 'a::/../c']}
- {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib64, --folder, /opt/lib]}
- {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, enable-cuda-compat, --host-driver-version=550.54.15]}
- {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, new-thing]}
- {hookName: createContainer, path: /opt/vendor/prepare, args: [prepare]}
",
        );
        let node = |source: &str, target: &str, read_only| HostMount {
            source: source.to_owned(),
            target: target.to_owned(),
            read_only,
        };
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let expected = Edits {
            environment: vec![pair("NVIDIA_VISIBLE_DEVICES", "void"), pair("EMPTY", "")],
            mounts: vec![
                node("/run/dev/nvidia0", "/dev/nvidia0", true),
                node("/dev/nvidiactl", "/dev/nvidiactl", true),
                node("/usr/lib/libcuda.so.1.1", "/usr/lib64/libcuda.so.1.1", true),
                node("/run/socket", "/run/socket", false),
            ],
            links: vec![pair("/usr/lib64/libcuda.so", "libcuda.so.1"), pair("/b", "a")],
            folders: vec!["/usr/lib64".to_owned(), "/opt/lib".to_owned()],
            driver_version: Some("550.54.15".to_owned()),
            unknown_hooks: vec![
                "mount of `/scratch`".to_owned(),
                "link `a::/../c`".to_owned(),
                "hook `nvidia-cdi-hook new-thing`".to_owned(),
                "hook `/opt/vendor/prepare`".to_owned(),
            ],
        };
        assert_eq!(edits, expected);
        let mut merged = edits.clone();
        merged.merge(&edits);
        assert_eq!(merged, edits);
    }
}
