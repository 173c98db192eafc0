//! Environment variables.

/// The environment variables that Lamina reads and sets, each with what it is for; `docs/environment.md` is made of this.
#[derive(Debug, Clone, Copy)]
pub struct EnvVars;

/// Makes a constant of each variable, and for the tests a list of all, in groups under a title.
macro_rules! variables {
    ($($title:literal { $($(#[doc = $doc:literal])+ $name:ident,)+ })+) => {
        impl EnvVars {
            $($(
                $(#[doc = $doc])+
                pub const $name: &'static str = stringify!($name);
            )+)+
        }

        /// Groups of variables: title, and name and lines of each.
        #[cfg(test)]
        const GROUPS: &[(&str, &[(&str, &[&str])])] = &[$(($title, &[$((stringify!($name), &[$($doc),+]),)+]),)+];
    };
}

variables! {
    "Settings" {
        /// Where images and detached apps are kept, an absolute path. Default: `modal` in `$XDG_DATA_HOME` or in
        /// `~/.local/share`.
        MODAL_STORE,
        /// How many MiB of the store's disk stay free: a step or container during which less is left is killed.
        /// Default: 1024, or 5 % of a smaller disk.
        MODAL_STORE_RESERVE,
        /// The Python interpreter that imports apps. Default: the one beside `modal`, then that of the active virtual
        /// environment, then the first on `PATH`.
        MODAL_PYTHON,
        /// The `modal` program that `app.run()` starts as its engine, instead of the one that came with the package.
        MODAL_COMMAND,
        /// The environment that an app runs in, where `--env` does not say. Default: `main`.
        MODAL_ENVIRONMENT,
        /// Modal's file of profiles. Default: `~/.modal.toml`. Of a profile count `environment`, `loglevel`, `traceback`,
        /// `force_build`, `ignore_cache` and `image_builder_version`, where the variable `MODAL_…` of that name is not set.
        MODAL_CONFIG_PATH,
        /// The profile of that file that counts. Default: the active one.
        MODAL_PROFILE,
        /// How progress is shown: `auto`, `tty`, `plain`, `json` or `quiet`, as `--progress`.
        MODAL_PROGRESS,
        /// What is recorded on standard error, as `-v` and `-vv`: a level (`error`, `warn`, `info`, `debug`, `trace`), or
        /// one for each part (`info,lamina_store=debug`).
        MODAL_LOG,
        /// The same for programs that come from Modal: `DEBUG` and `INFO` are `debug` and `info`; `WARNING`, `ERROR` and
        /// `CRITICAL` show nothing more than usual.
        MODAL_LOGLEVEL,
        /// `1`: failures of the user's program are shown with all of the package's own frames.
        MODAL_TRACEBACK,
        /// `1`: every step is run again, as if all had `force_build=True`, and the results are kept.
        MODAL_FORCE_BUILD,
        /// `1`: every step is run again, and what was kept before is left as it is.
        MODAL_IGNORE_CACHE,
        /// Caches that machines share, with commas between: `oci://registry.example/team/cache` or the absolute path of a
        /// directory, each with `:ro` behind it if it is only to be read. See `docs/cache.md`. Default: none.
        MODAL_CACHE,
        /// `1`: layers of local files, and of steps with secrets, are brought to these caches as well.
        MODAL_CACHE_LOCAL,
        /// The version of Modal's image builder, whose release of Debian `debian_slim` takes: up to `2025.06` bookworm,
        /// `2026.10` and `PREVIEW` trixie. Default: the release that has the wanted Python itself.
        MODAL_IMAGE_BUILDER_VERSION,
        /// When an image without compilers is lent some, while something is built or run in it: `auto` where something is likely to
        /// be compiled, `always` or `never`. Default: `auto`.
        MODAL_TOOLCHAIN,
        /// How `gpu=` is taken: `any` as a request for GPUs of any type, `ignore` as none. Default: as it is written.
        MODAL_GPU,
        /// The directories of CDI specifications, which say what GPUs there are, separated by colons; later ones come first.
        /// Default: `/etc/cdi`, `/var/run/cdi`, `~/.config/cdi`.
        MODAL_CDI_DIRS,
        /// What names of conda channels are below, an `https://`, `http://` or `file://` address. Default: what the host's own
        /// conda or mamba is configured to use, else the public server.
        MODAL_CONDA_CHANNEL_ALIAS,
        /// The mirror of Debian's archive. Default: what the host's own apt uses if it is a Debian, else Debian's.
        MODAL_DEBIAN_MIRROR,
        /// The mirror of Debian's security archive, or `none` to do without. Default: `$MODAL_DEBIAN_MIRROR-security`.
        MODAL_DEBIAN_SECURITY_MIRROR,
        /// The file of the keys that sign the archive, instead of the ones built in.
        MODAL_DEBIAN_KEYRING,
        /// `no`: also take package lists of a mirror that are older than they say they are valid.
        MODAL_DEBIAN_CHECK_VALID_UNTIL,
    }
    "Of Modal alone" {
        /// Half of the key to an account of Modal's: there is none here, and it is not used.
        MODAL_TOKEN_ID,
        /// The other half.
        MODAL_TOKEN_SECRET,
    }
    "In containers" {
        /// `1` in containers, not set elsewhere.
        MODAL_IS_REMOTE,
        /// The id of the container's image, `im-…`.
        MODAL_IMAGE_ID,
        /// The id of the container, `ta-…`.
        MODAL_TASK_ID,
        /// `local`.
        MODAL_REGION,
        /// `local`.
        MODAL_CLOUD_PROVIDER,
        /// Empty: there is nobody to prove an identity to.
        MODAL_IDENTITY_TOKEN,
    }
    "Between Lamina's own processes" {
        /// The number of the inherited descriptor of the socket between the user's Python process and the engine.
        MODAL_ENGINE_FD,
    }
    "To test Lamina" {
        /// Features of the kernel to do without in sandboxes: `lowerdir`, `landlock`, `cgroups`, `memory-attributes`,
        /// `binary-mount`, separated by commas.
        MODAL_SANDBOX_WITHOUT,
        /// Ways of making views to do without: `redirects`, `copies` (in small views), `clones`, separated by commas.
        MODAL_STORE_WITHOUT,
    }
    "Of other programs" {
        /// Not empty: no colours.
        NO_COLOR,
        /// The kind of terminal; `dumb` is one that shows neither colours nor progress.
        TERM,
        /// The user's directory.
        HOME,
        /// The directory of the user's data, which the store is in.
        XDG_DATA_HOME,
        /// The directory of the user's settings, in which podman keeps logins of registries.
        XDG_CONFIG_HOME,
        /// The directory of the user's session, in which podman keeps logins of registries; also given to `busctl`.
        XDG_RUNTIME_DIR,
        /// The directory in which Docker keeps its settings and logins of registries. Default: `~/.docker`.
        DOCKER_CONFIG,
        /// Where the Docker daemon is whose images `docker-daemon:` names.
        DOCKER_HOST,
        /// The context of Docker that says where its daemon is; without one, that of its settings.
        DOCKER_CONTEXT,
        /// Whether Docker's daemon is spoken to with encryption, where it is reached by TCP.
        DOCKER_TLS_VERIFY,
        /// The directory of the certificates for that: `ca.pem`, and `cert.pem` with `key.pem`. Default: that of `DOCKER_CONFIG`.
        DOCKER_CERT_PATH,
        /// The one file of settings of registries, as podman has it, instead of the host's `registries.conf` and the user's.
        CONTAINERS_REGISTRIES_CONF,
        /// The one file with logins of registries, as podman has it.
        REGISTRY_AUTH_FILE,
        /// Where Amazon's services are, instead of at their usual addresses, when a registry's login is asked for.
        AWS_ENDPOINT_URL,
        /// The same for its registry alone.
        AWS_ENDPOINT_URL_ECR,
        /// The same for the service that gives the keys of roles.
        AWS_ENDPOINT_URL_STS,
        /// The file of a token that shows Amazon who this machine is: for a secret with a role and without keys.
        AWS_WEB_IDENTITY_TOKEN_FILE,
        /// Where programs are looked for.
        PATH,
        /// The active virtual environment.
        VIRTUAL_ENV,
        /// The version of Python that pyenv was told to use.
        PYENV_VERSION,
        /// A file of the certificate authorities to trust; also given to build steps.
        SSL_CERT_FILE,
        /// The same, as the package `requests` has it.
        REQUESTS_CA_BUNDLE,
        /// The same, as curl has it.
        CURL_CA_BUNDLE,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};

    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    fn page() -> String {
        let mut text = String::from(
            "# Environment variables\n\n\
             Made of `crates/ground/src/variables.rs`; a test says how when it is not current.\n",
        );
        for (title, variables) in GROUPS {
            write!(text, "\n## {title}\n\n| variable | meaning |\n|---|---|\n").unwrap();
            for (name, lines) in *variables {
                let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
                writeln!(text, "| `{name}` | {} |", lines.join(" ")).unwrap();
            }
        }
        text + "\nProxies (`http_proxy` and its kin), and what pip (`PIP_*`) and uv (`UV_*`) read, mean here what they mean to \
                those, as far as\nthey say where packages are from and how that is reached: indexes, links, logins, \
                certificates, time limits. What else they\nand the files of pip and uv say (`no-build`, `only-binary`, \
                `prerelease`, constraints, …) is about this machine's own\nenvironments: an image has what its declaration \
                says.\n"
    }

    #[test]
    fn the_page_is_current() {
        let file = Path::new(ROOT).join("docs/environment.md");
        if std::env::var_os("MODAL_UPDATE_SNAPSHOTS").is_some() {
            fs_err::write(&file, page()).unwrap();
        }
        assert!(
            fs_err::read_to_string(&file).unwrap() == page(),
            "docs/environment.md is not current: run `MODAL_UPDATE_SNAPSHOTS=1 cargo test -p lamina-ground`"
        );
    }

    /// The names of ours in a text: a word of capitals that begins with `MODAL_`.
    fn names(text: &str) -> impl Iterator<Item = &str> {
        text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
            .filter(|word| word.strip_prefix("MODAL_").is_some_and(|rest| rest.starts_with(char::is_uppercase)))
    }

    fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs_err::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|ending| ending == "rs" || ending == "py") {
                into.push(path);
            }
        }
    }

    #[test]
    fn every_variable_of_ours_is_listed_and_used() {
        let mut files = Vec::new();
        for directory in ["crates", "python"] {
            sources(&Path::new(ROOT).join(directory), &mut files);
        }
        let listed: BTreeSet<&str> =
            GROUPS.iter().flat_map(|(_, variables)| *variables).map(|(name, _)| *name).collect();
        let mut used = BTreeSet::new();
        for file in files.iter().filter(|file| !file.ends_with("ground/src/variables.rs")) {
            let text = fs_err::read_to_string(file).unwrap();
            for name in names(&text) {
                assert!(listed.contains(name), "`{name}` of `{}` is not listed", file.display());
                used.insert(name.to_owned());
            }
        }
        for name in listed.iter().filter(|name| name.starts_with("MODAL_")) {
            assert!(used.contains(*name), "`{name}` is listed, but nothing uses it");
        }
    }
}
