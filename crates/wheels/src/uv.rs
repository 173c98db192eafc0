//! Running the host's `uv` with the index settings that apply.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use lamina_events::CancelToken;
use lamina_image::Digest;
use lamina_system::{Bounds, Outcome, limit_writing, run_bounded};

use crate::error::WheelError;
use crate::lock::quoted;
use crate::request::{Installer, Request};
use crate::settings::PipSettings;
use crate::uv_settings;

/// How long the answers of an index are used again: pages for ten minutes, files for ever, whatever headers it or a
/// mirror sends. It is what large indexes say themselves; without it every resolution fetches every page.
const CACHE_CONTROL: &str = r#"{ api = "max-age=600", files = "max-age=31536000, immutable" }"#;

/// The host's `uv`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    /// The program.
    pub(crate) uv: &'a Path,
    /// A directory for its cache, which is the engine's own.
    pub(crate) cache: &'a Path,
    /// Stops it.
    pub(crate) cancel: &'a CancelToken,
}

impl Program<'_> {
    /// Lets `uv`, which reads what strangers' indexes answer, change its cache and this directory, and nothing else of the
    /// user's but the lock beside its own credentials. Without effect where the kernel cannot do that.
    fn limit_writing(&self, directory: &Path, command: &mut Command) {
        // A program that starts `uv` in its own way, as snap does, may need its privileges.
        let is_itself = self.uv.canonicalize().is_ok_and(|path| path.file_name() == Some(OsStr::new("uv")));
        if !is_itself {
            return;
        }
        // What programs of version managers make in passing.
        command.env("TMPDIR", directory);
        let credentials = credentials_directory().filter(|path| path.is_dir());
        let terminal = Path::new("/dev/tty");
        let terminal = rustix::fs::access(terminal, rustix::fs::Access::WRITE_OK).is_ok().then_some(terminal);
        let places = [directory, self.cache, Path::new("/dev/null")];
        let places: Vec<&Path> = places.into_iter().chain(credentials.as_deref()).chain(terminal).collect();
        // What cannot be opened is missed by `uv` as well, which has the better message.
        let _ = limit_writing(command, &places);
    }

    /// Runs it to its end in a directory of its own. The outer error is its message, the inner one that it could not be run.
    pub(crate) fn run(&self, directory: &Path, command: &mut Command) -> Result<Result<String, WheelError>, String> {
        self.limit_writing(directory, command);
        let unstarted = |error| Ok(Err(WheelError::Resolver { path: self.uv.display().to_string(), error }));
        let outcome =
            run_bounded(command, &Bounds::PACKAGE_TOOL, |killer| self.cancel.on_cancel(move || killer.kill()));
        if let Err(cancelled) = self.cancel.check() {
            return Ok(Err(cancelled.into()));
        }
        match outcome {
            Err(error) => unstarted(error),
            Ok(Outcome { exceeded: Some(what), .. }) => {
                Ok(Err(WheelError::Bounds { path: self.uv.display().to_string(), what }))
            }
            Ok(outcome) if outcome.status.success() => Ok(Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())),
            Ok(outcome) => Err(String::from_utf8_lossy(&outcome.stderr).trim().to_owned()),
        }
    }
}

/// How the resolver is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver<'a> {
    /// The host's `uv`.
    pub(crate) program: Program<'a>,
    /// An interpreter that it need not look for. Any does: the image's is described to it.
    pub(crate) python: &'a Path,
    /// Whether to ask the index again for everything.
    pub(crate) refresh: bool,
}

/// The resolver program, set up for one request.
pub(crate) struct Uv<'a> {
    resolver: &'a Resolver<'a>,
    directory: &'a Path,
    /// An interpreter that builds nothing.
    python: PathBuf,
    /// Options from the request, and such of the host that have no other form.
    arguments: Vec<String>,
    /// Addresses, which may have credentials in them: every user can read the arguments of a program.
    addresses: Vec<(&'static str, String)>,
    /// The default index, if the request or pip's settings name one.
    default_index: Option<String>,
    /// Further indexes of pip's settings.
    extra_indexes: Vec<String>,
    certificates: Option<String>,
}

impl<'a> Uv<'a> {
    /// Collects the settings. `uv` will run in `directory`, so that no project's settings apply.
    pub(crate) fn new(resolver: &'a Resolver<'a>, request: &Request, directory: &'a Path) -> Result<Self, WheelError> {
        let python = describing_python(resolver)?;
        let pip = PipSettings::of_host();
        let configured = uv_settings::has_configuration();
        let unset = |names: [&str; 2]| !configured && names.iter().all(|name| std::env::var_os(name).is_none());
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: &str| arguments.extend([flag.to_owned(), value.to_owned()]);
        let mut addresses = Vec::new();
        if let Some(url) = &request.index_url {
            addresses.push(("UV_INDEX_URL", url.clone()));
        }
        if let Some(url) = &request.extra_index_url {
            addresses.push(("UV_EXTRA_INDEX_URL", url.clone()));
        }
        let links: Vec<&str> = request.find_links.as_deref().into_iter().chain(pip.usable_find_links()).collect();
        if !links.is_empty() {
            addresses.push(("UV_FIND_LINKS", links.join(",")));
        }
        pip.trusted_hosts.iter().for_each(|host| add("--allow-insecure-host", host));
        if request.installer == Installer::Pip {
            // pip takes the best version of all indexes; `uv` would stop at the first index that knows the name.
            add("--index-strategy", "unsafe-best-match");
        }
        if pip.no_index && request.index_url.is_none() {
            arguments.push("--no-index".to_owned());
        }
        let pip_index = pip.index_url.filter(|_| unset(["UV_DEFAULT_INDEX", "UV_INDEX_URL"]));
        let mut pip_extra = if unset(["UV_INDEX", "UV_EXTRA_INDEX_URL"]) { pip.extra_index_urls } else { Vec::new() };
        if request.installer == Installer::Pip {
            // Of a version that several have, pip takes the file of the last, and `uv` that of the first.
            pip_extra.reverse();
        }
        Ok(Self {
            resolver,
            directory,
            python,
            arguments,
            addresses,
            default_index: request.index_url.clone().or(pip_index),
            extra_indexes: pip_extra,
            certificates: pip.certificates,
        })
    }

    /// `uv pip compile` with what every call shares.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.resolver.program.uv);
        command.args(["pip", "compile", "--quiet", "--no-header", "--color", "never"]);
        command.arg("--cache-dir").arg(self.resolver.program.cache);
        // Settings that forbid builds would hide versions that have to be built.
        command.args(["--build", "--build-isolation"]);
        command.arg("--python").arg(&self.python);
        command.args(&self.arguments).current_dir(self.directory);
        for (name, _) in std::env::vars_os().filter(|(name, _)| uv_settings::is_policy(name)) {
            command.env_remove(name);
        }
        if self.addresses.iter().any(|(name, _)| *name == "UV_INDEX_URL") {
            // Would stand above the index that is asked for.
            command.env_remove("UV_DEFAULT_INDEX");
        }
        command.envs(self.addresses.iter().map(|(name, value)| (name, value)));
        command.env("UV_PYTHON_DOWNLOADS", "never");
        if std::env::var_os("UV_SYSTEM_CERTS").is_none() {
            command.env("UV_SYSTEM_CERTS", "1");
        }
        if let Some(certificates) = &self.certificates
            && std::env::var_os("SSL_CERT_FILE").is_none()
        {
            command.env("SSL_CERT_FILE", certificates);
        }
        command
    }

    /// Writes the only configuration that `uv` reads: what the user's own says of indexes, or else pip's indexes and
    /// [`CACHE_CONTROL`]. `None` if the user's makes no sense, which `uv` explains best.
    pub(crate) fn configuration(&self) -> Result<Option<PathBuf>, WheelError> {
        let file = self.directory.join("uv.toml");
        if uv_settings::has_configuration() {
            let Some(text) = uv_settings::about_indexes() else { return Ok(None) };
            fs::write(&file, text)?;
            return Ok(Some(file));
        }
        let entry = |url: &str, more: &str| {
            format!("[[index]]\nurl = {}\n{more}cache-control = {CACHE_CONTROL}\n\n", quoted(url))
        };
        let mut entries: Vec<String> = self.extra_indexes.iter().map(|url| entry(url, "")).collect();
        let default = self.default_index.clone().or_else(|| self.built_in_index());
        entries.extend(default.map(|url| entry(&url, "default = true\n")));
        fs::write(&file, entries.concat())?;
        Ok(Some(file))
    }

    /// The index that `uv` uses when nobody says otherwise; `None` if it does not tell. Kept in the cache, since asking
    /// takes as long as a small resolution.
    fn built_in_index(&self) -> Option<String> {
        let (file, key) = (self.resolver.program.cache.join("built-in-index"), self.identity()?);
        let kept = fs::read_to_string(&file).unwrap_or_default();
        if let Some((kept_key, index)) = kept.trim_end().split_once('\n')
            && kept_key == key
        {
            return Some(index.to_owned());
        }
        let index = self.ask_for_index()?;
        // Only for speed: without it, it is asked for again.
        let _ = tempfile::NamedTempFile::new_in(self.resolver.program.cache).and_then(|mut temporary| {
            writeln!(temporary, "{key}\n{index}")?;
            Ok(temporary.persist(&file)?)
        });
        Some(index)
    }

    /// What the built-in index depends on: the program, and the variables that it listens to.
    fn identity(&self) -> Option<String> {
        let metadata = fs::metadata(self.resolver.program.uv).ok()?;
        let mut variables: Vec<_> =
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"UV_")).collect();
        variables.sort_unstable();
        let program = (self.resolver.program.uv, metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        Some(
            Digest::of(format!("{program:?} {variables:?} {:?} {:?}", self.arguments, self.addresses).as_bytes()).hex(),
        )
    }

    /// Asks `uv` for it. An address with credentials is shown without them and so is of no use.
    fn ask_for_index(&self) -> Option<String> {
        let mut command = self.command();
        command.args(["--emit-index-url", "--offline", "--no-config", "-"]);
        // Only for speed: on failure the resolver itself has the better message.
        let text = self.run(&mut command).ok()?.ok()?;
        let url = text.lines().find_map(|line| line.strip_prefix("--index-url "))?;
        (!url.contains('@')).then(|| url.trim().to_owned())
    }

    /// Runs the resolver to its end. The outer error is its message, the inner one that it could not be run.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Result<String, WheelError>, String> {
        self.resolver.program.run(self.directory, command)
    }
}

/// A program that tells `uv` about an interpreter, and names one that does not run.
///
/// `uv` has to choose among all versions, also such as have a source distribution only: told to take wheels only, it
/// would pass over a newer version that the installer takes. What it cannot tell without a build fails here, and is built
/// inside the image.
fn describing_python(resolver: &Resolver<'_>) -> Result<PathBuf, WheelError> {
    let python = resolver.python.display().to_string().replace('\'', r"'\''");
    let text = format!(
        "#!/bin/sh\n\
         test \"$1 $2 $3\" = '-I -B -c' || exit 1\n\
         exec '{python}' -I -B -c 'import sys; sys.executable = sys._base_executable = \"/dev/null\"; exec(sys.argv[1])' \
         \"$4\"\n"
    );
    let path = resolver.program.cache.join("describing-python");
    if fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
        return Ok(path);
    }
    let mut file =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempfile_in(resolver.program.cache)?;
    file.write_all(text.as_bytes())?;
    file.persist(&path).map_err(std::io::Error::from)?;
    Ok(path)
}

/// Where `uv` keeps what `uv auth` was told.
fn credentials_directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = || set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    set("UV_CREDENTIALS_DIR").or_else(|| data().map(|data| data.join("uv/credentials")))
}
