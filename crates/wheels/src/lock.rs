//! The resolver's answer: which wheels make up an environment, read from a `pylock.toml` (PEP 751).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use lamina_fetch::is_sha256;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::error::WheelError;
use crate::markers;
use crate::request::{Target, normalize_name};
use crate::tags::Tags;

/// A set of wheels that fit together and into the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// What has to be installed, by name.
    pub wheels: Vec<Wheel>,
    /// What the image already has in the right version, as `name==version`.
    pub kept: Vec<String>,
}

/// One wheel to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wheel {
    /// The distribution's normalised name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The wheel's file name.
    pub filename: String,
    /// Where it is.
    pub source: Source,
    /// SHA-256 of the wheel in lower-case hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes, if the index says so.
    pub size: Option<u64>,
    /// Whether it was asked for by name, not only needed by another.
    pub requested: bool,
    /// Whether it was asked for by its address (`direct_url.json` records that).
    pub direct: bool,
}

/// Where a wheel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An address to download.
    Url(String),
    /// A file of this machine.
    Path(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Lock {
    lock_version: String,
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    /// Where it applies; not read where the lock is made for one environment.
    marker: Option<String>,
    #[serde(default)]
    wheels: Vec<File>,
    archive: Option<File>,
    vcs: Option<toml::Value>,
    directory: Option<toml::Value>,
}

#[derive(Deserialize)]
struct File {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

/// Reads a lock; relative paths in it are relative to `directory`. The best wheel per package is chosen by `tags`.
pub(crate) fn parse(text: &str, directory: &Path, tags: &Tags) -> Result<Vec<Wheel>, WheelError> {
    wheels(packages(text)?, directory, tags)
}

/// As [`parse`], of a lock for all environments, of which `target` is one.
pub(crate) fn parse_for(target: &Target, text: &str, directory: &Path) -> Result<Vec<Wheel>, WheelError> {
    let mut wanted = Vec::new();
    for package in packages(text)? {
        let marker = package.marker.as_deref();
        match marker.map_or(Some(true), |marker| markers::holds(marker, target)) {
            Some(true) => wanted.push(package),
            Some(false) => {}
            None => {
                let reason = format!("whether `{}` is wanted is for the installer to say", package.name);
                return Err(WheelError::needs_sandbox(reason));
            }
        }
    }
    let wheels = wheels(wanted, directory, &Tags::of(target))?;
    if let Some(pair) = wheels.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(WheelError::needs_sandbox(format!("the lock has several versions of `{}`", pair[0].name)));
    }
    Ok(wheels)
}

fn packages(text: &str) -> Result<Vec<Package>, WheelError> {
    let lock: Lock = toml::from_str(text).map_err(|error| WheelError::Lock { detail: error.message().to_owned() })?;
    if lock.lock_version.split('.').next() != Some("1") {
        return Err(WheelError::Lock { detail: format!("lock version `{}` is not known", lock.lock_version) });
    }
    Ok(lock.packages)
}

/// The best wheel of each package, by name.
fn wheels(packages: Vec<Package>, directory: &Path, tags: &Tags) -> Result<Vec<Wheel>, WheelError> {
    let mut wheels =
        packages.into_iter().map(|package| choose(package, directory, tags)).collect::<Result<Vec<_>, _>>()?;
    wheels.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(wheels)
}

fn choose(package: Package, directory: &Path, tags: &Tags) -> Result<Wheel, WheelError> {
    let name = normalize_name(&package.name);
    if package.vcs.is_some() || package.directory.is_some() {
        return Err(WheelError::needs_building(format!("`{name}` is installed from source")));
    }
    let direct = package.archive.is_some();
    let (filename, file) = match package.archive {
        Some(archive) => Some((filename(&archive), archive)).filter(|(filename, _)| tags.rank(filename).is_some()),
        None => package
            .wheels
            .into_iter()
            .filter_map(|file| {
                let filename = filename(&file);
                Some((tags.rank(&filename)?, filename, file))
            })
            .min_by(|one, other| one.0.cmp(&other.0))
            .map(|(_, filename, file)| (filename, file)),
    }
    .ok_or_else(|| WheelError::needs_building(format!("`{name}` has no wheel for this Python and platform")))?;
    let sha256 = file.hashes.get("sha256").map(|hash| hash.to_ascii_lowercase()).filter(|hash| is_sha256(hash));
    let Some(sha256) = sha256 else {
        return Err(WheelError::needs_sandbox(format!("the index gives no SHA-256 digest for `{filename}`")));
    };
    let source = match (file.url, file.path) {
        (Some(url), _) => match url.strip_prefix("file://") {
            Some(path) => Source::Path(OsString::from_vec(percent_decode_str(path).collect()).into()),
            None => Source::Url(url),
        },
        (None, Some(path)) => Source::Path(directory.join(path)),
        (None, None) => {
            return Err(WheelError::Lock { detail: format!("`{filename}` has no address") });
        }
    };
    let version = match package.version {
        Some(version) => version,
        None => filename.split('-').nth(1).unwrap_or_default().to_owned(),
    };
    Ok(Wheel { name, version, filename, source, sha256, size: file.size, requested: false, direct })
}

/// The file name of an entry: its own, or the last part of its address.
fn filename(file: &File) -> String {
    if let Some(name) = &file.name {
        return name.clone();
    }
    let address = file.url.as_deref().or(file.path.as_deref()).unwrap_or_default();
    let address = address.split(['?', '#']).next().unwrap_or_default();
    percent_decode_str(address.rsplit('/').next().unwrap_or_default()).decode_utf8_lossy().into_owned()
}

/// A lock that only names versions: given to the resolver as the environment's present state, it prefers them.
pub(crate) fn preferences<'a>(installed: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("lock-version = \"1.0\"\ncreated-by = \"lamina\"\n");
    for (name, version) in installed {
        // Writing into a string cannot fail.
        let _ = write!(text, "\n[[packages]]\nname = {}\nversion = {}\n", quoted(name), quoted(version));
    }
    text
}

/// A string as TOML writes it; JSON's form is one of them.
pub(crate) fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::target;

    const HASH: &str = "b4ec55f4195e3eb5d7abd1bf7e061763e864dd4954231fb8539a0ef8bb8260e5";

    fn read(packages: &str) -> Result<Vec<Wheel>, WheelError> {
        let text = format!("lock-version = \"1.0\"\ncreated-by = \"uv\"\n{packages}");
        parse(&text.replace("HASH", HASH), Path::new("/links"), &Tags::of(&target()))
    }

    #[test]
    fn the_best_wheel_of_each_package_is_taken() {
        let wheels = read(
            r#"
[[packages]]
name = "Fast_http"
version = "3.14.5"
marker = "platform_python_implementation != 'PyPy'"
wheels = [
    { url = "https://files.invalid/42/fast_http-3.14.5-py3-none-any.whl", size = 279517, hashes = { sha256 = "HASH" } },
    { url = "https://files.invalid/42/fast_http-3.14.5%2Blocal-cp311-cp311-manylinux_2_17_x86_64.whl", upload-time = 2024-06-24T11:02:01Z, hashes = { sha256 = "HASH" } },
]

[[packages]]
name = "alpha"
version = "1"
wheels = [{ path = "alpha-1-py3-none-any.whl", hashes = { sha256 = "HASH" } }]

[[packages]]
name = "direct"
archive = { url = "https://files.invalid/direct-2-py3-none-any.whl", hashes = { sha256 = "HASH" } }
"#,
        )
        .unwrap();
        assert_eq!(wheels[0].source, Source::Path("/links/alpha-1-py3-none-any.whl".into()));
        assert_eq!((wheels[1].version.as_str(), wheels[1].direct), ("2", true));
        assert_eq!(wheels[2].name, "fast-http");
        assert_eq!(wheels[2].filename, "fast_http-3.14.5+local-cp311-cp311-manylinux_2_17_x86_64.whl");
    }

    #[test]
    fn a_lock_for_all_environments_has_what_this_one_needs() {
        let file = |name: &str| {
            format!(
                "wheels = [{{ url = \"https://files.invalid/{name}-py3-none-any.whl\", hashes = {{ sha256 = \"{HASH}\" }} }}]"
            )
        };
        let read = |marker: &str| {
            let (old, new, none) = (file("a-1"), file("a-2"), "sdist = { name = \"w-1.tar.gz\" }");
            let text = format!(
                "lock-version = \"1.0\"\n[[packages]]\nname = \"a\"\nversion = \"1\"\nmarker = \"{marker}\"\n{old}\n\
                 [[packages]]\nname = \"a\"\nversion = \"2\"\nmarker = \"python_version >= '3.10'\"\n{new}\n\
                 [[packages]]\nname = \"w\"\nversion = \"1\"\nmarker = \"sys_platform == 'win32'\"\n{none}\n"
            );
            parse_for(&target(), &text, Path::new("/"))
        };
        let wheels = read("python_version < '3.10'").unwrap();
        assert_eq!(wheels.iter().map(|wheel| wheel.version.as_str()).collect::<Vec<_>>(), ["2"]);
        let said = |marker: &str| read(marker).unwrap_err().to_string();
        insta::assert_snapshot!(said("platform_release == '6'"), @"whether `a` is wanted is for the installer to say");
        insta::assert_snapshot!(said("os_name == 'posix'"), @"the lock has several versions of `a`");
    }

    #[test]
    fn what_is_no_wheel_goes_to_the_sandbox() {
        for package in [
            "vcs = { type = \"git\", url = \"https://git.invalid/x\" }",
            "directory = { path = \"x\" }",
            "archive = { url = \"https://files.invalid/x-1.tar.gz\", hashes = { sha256 = \"HASH\" } }",
            "wheels = [{ url = \"https://files.invalid/x-1-py3-none-any.whl\", hashes = {} }]",
            "wheels = []",
        ] {
            let result = read(&format!("[[packages]]\nname = \"x\"\nversion = \"1\"\n{package}\n"));
            assert!(matches!(result, Err(WheelError::NeedsSandbox { .. })), "{package}: {result:?}");
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let result = parse("lock-version = \"2.0\"\n", Path::new("/"), &Tags::of(&target()));
        assert!(matches!(result, Err(WheelError::Lock { .. })));
    }

    #[test]
    fn preferences_are_a_lock() {
        let text = preferences([("a", "1.0")].into_iter());
        assert_eq!(
            text,
            "lock-version = \"1.0\"\ncreated-by = \"lamina\"\n\n[[packages]]\nname = \"a\"\nversion = \"1.0\"\n"
        );
    }
}
