//! What the installers inside an image would obey beside the request: configuration files, variables, credentials and
//! changes of the interpreter. None of it is interpreted here: where there is any, the installer itself has to run.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use lamina_packages::{Entry, Layers, read_text};
use lamina_store::JobError;
use lamina_store::LayerPath;
use serde::{Deserialize, Serialize};

use crate::request::{Installer, Target};

/// Variables that lead either installer to other servers, credentials, settings or bytecode.
const VARIABLES: [&str; 26] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSL_CLIENT_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NETRC",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_HOME",
    "PYTHONHOME",
    "PYTHONNODEBUGRANGES",
    "PYTHONOPTIMIZE",
    "PYTHONPYCACHEPREFIX",
    "SOURCE_DATE_EPOCH",
    "PYTHONPLATLIBDIR",
    "PYTHONUSERBASE",
    "PYTHONNOUSERSITE",
    "PYTHONSAFEPATH",
];

/// Variables of the installers that say how they look and how they wait, not what they install; without their prefixes.
const HARMLESS: [&str; 16] = [
    "BREAK_SYSTEM_PACKAGES",
    "COMPILE_BYTECODE",
    "CONCURRENT_BUILDS",
    "CONCURRENT_DOWNLOADS",
    "CONCURRENT_INSTALLS",
    "DEFAULT_TIMEOUT",
    "DISABLE_PIP_VERSION_CHECK",
    "HTTP_TIMEOUT",
    "NO_CACHE",
    "NO_CACHE_DIR",
    "NO_COLOR",
    "NO_PROGRESS",
    "PROGRESS_BAR",
    "RETRIES",
    "ROOT_USER_ACTION",
    "SYSTEM_PYTHON",
];

/// The circumstances of a step that installs.
#[derive(Debug, Clone)]
pub struct Inside<'a> {
    /// The installer that the user asked for.
    pub installer: Installer,
    /// The interpreter.
    pub target: &'a Target,
    /// Variables of the image and of the step.
    pub environment: &'a BTreeMap<String, String>,
    /// The directory that the installer would run in.
    pub working_directory: &'a str,
    /// Directories of installed distributions, in the order in which Python looks at them.
    pub sites: &'a [String],
    /// Further paths that must not be there: the installer would make use of them.
    pub unwanted: &'a [&'a str],
    /// How many of the lowest layers are known to change no interpreter: none of an image from elsewhere.
    pub trusted: usize,
}

impl Inside<'_> {
    /// Why the installer has to see the environment itself, if it has to.
    #[must_use]
    pub fn decisive_variable(&self) -> Option<String> {
        let prefix = if self.installer == Installer::Pip { "PIP_" } else { "UV_" };
        let decides = |name: &str| match name.strip_prefix(prefix) {
            Some(rest) => !HARMLESS.contains(&rest),
            None => VARIABLES.contains(&name),
        };
        let name = self.environment.keys().find(|name| decides(name))?;
        Some(format!("`{name}` is set for it"))
    }

    /// Where to look in the image.
    pub(crate) fn places(&self) -> Places {
        let home = self.environment.get("HOME").map_or("/root", String::as_str).trim_end_matches('/');
        let series = self.target.python.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        let prefix = self.target.base_prefix();
        let mut settings = vec![format!("{home}/.netrc"), format!("{home}/_netrc")];
        let mut projects = Vec::new();
        let mut sites = Vec::new();
        if self.installer == Installer::Pip {
            settings.extend(["/etc/xdg/pip/pip.conf", "/etc/pip.conf"].map(str::to_owned));
            let own = [".pip/pip.conf", ".config/pip/pip.conf", ".pydistutils.cfg"];
            settings.extend(own.map(|file| format!("{home}/{file}")));
            settings.push(format!("{prefix}/pip.conf"));
            if self.target.is_environment {
                settings.push(format!("{}/pip.conf", self.target.prefix));
            }
            // It asks this program for credentials, wherever it finds it.
            settings.extend([&self.target.scripts, "/usr/local/bin", "/usr/bin"].map(|bin| format!("{bin}/keyring")));
            let path = self.environment.get("PYTHONPATH").map_or("", String::as_str);
            let absolute = |path: &str| Path::new(self.working_directory).join(path).to_string_lossy().into_owned();
            sites.extend(path.split(':').filter(|path| !path.is_empty()).map(absolute));
            sites.push(format!("{home}/.local/lib/python{series}/site-packages"));
        } else {
            settings.extend(["/etc/xdg/uv/uv.toml", "/etc/uv/uv.toml"].map(str::to_owned));
            settings.push(format!("{home}/.config/uv/uv.toml"));
            settings.push(format!("{home}/.local/share/uv/credentials"));
            for directory in Path::new(self.working_directory).ancestors() {
                let directory = directory.to_string_lossy();
                let directory = directory.trim_end_matches('/');
                settings.push(format!("{directory}/uv.toml"));
                projects.push(format!("{directory}/pyproject.toml"));
            }
        }
        sites.extend(self.sites.iter().cloned());
        let standard = [format!("{prefix}/lib/python{series}"), format!("/etc/python{series}")];
        let customized = sites
            .iter()
            .chain(&standard)
            .flat_map(|directory| ["sitecustomize", "usercustomize"].map(|module| format!("{directory}/{module}")));
        let customized = customized.flat_map(|module| [format!("{module}.py"), module]).collect();
        let unwanted = self.unwanted.iter().map(|path| (*path).to_owned()).collect();
        Places { unwanted, settings, projects, customized, sites }
    }
}

/// Paths of an image where something may be that the installer obeys.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Places {
    /// What the installer would make use of.
    unwanted: Vec<String>,
    /// Configuration and credentials: being there is enough.
    settings: Vec<String>,
    /// Projects, which may configure `uv`.
    projects: Vec<String>,
    /// Modules that every interpreter imports at its start: those above the base are somebody's.
    customized: Vec<String>,
    /// Directories of installed distributions.
    pub(crate) sites: Vec<String>,
}

impl Places {
    /// Names what is there, if anything is; runs in the store worker.
    pub(crate) fn find(&self, layers: &mut Layers) -> Result<Option<String>, JobError> {
        for path in &self.unwanted {
            if layers.entry(path)? != Entry::Absent {
                return Ok(Some(format!("the image has `{path}` already")));
            }
        }
        for path in &self.settings {
            if layers.entry(path)? != Entry::Absent {
                return Ok(Some(format!("the image has settings for it in `{path}`")));
            }
        }
        for path in &self.projects {
            let configures = match layers.entry(path)? {
                Entry::Absent => false,
                Entry::OfBase(place) | Entry::Above(place) => configures_uv(&place),
                Entry::Elsewhere => true,
            };
            if configures {
                return Ok(Some(format!("the image has settings for it in `{path}`")));
            }
        }
        for path in &self.customized {
            if let Entry::Above(place) = layers.entry(path)?
                && !self.is_harmless(&place)
            {
                return Ok(Some(format!("`{path}` of the image changes its interpreter")));
            }
        }
        Ok(None)
    }
}

/// What Debian and its descendants have interpreters do at their start.
const OF_DEBIAN: &str = "# install the apport exception handler if available
try:
    import apport_python_hook
except ImportError:
    pass
else:
    apport_python_hook.install()
";

impl Places {
    /// Whether a module for the start of every interpreter is that of Debian, or leads to one that is looked at as well.
    fn is_harmless(&self, place: &LayerPath) -> bool {
        let on_disk = place.on_disk();
        match fs::symlink_metadata(on_disk) {
            Ok(metadata) if metadata.is_symlink() => {
                fs::read_link(on_disk).is_ok_and(|target| self.customized.iter().any(|path| Path::new(path) == target))
            }
            Ok(metadata) if metadata.len() == OF_DEBIAN.len() as u64 => {
                read_text(place).is_ok_and(|text| text == OF_DEBIAN)
            }
            _ => false,
        }
    }
}

/// Longest project file that is read.
const PROJECT_LIMIT: u64 = 1 << 20;

/// Whether a `pyproject.toml` has settings of `uv`; one that cannot be read is for `uv` to complain about.
fn configures_uv(path: &LayerPath) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path.on_disk()) else { return true };
    if !metadata.is_file() || metadata.len() > PROJECT_LIMIT {
        return true;
    }
    let table = read_text(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    table.is_none_or(|table| table.get("tool").is_some_and(|tool| tool.get("uv").is_some()))
}

/// What the line of `setuptools` consists of that every version has: it puts its own `distutils` before that of Python.
const OF_SETUPTOOLS: (&str, &str) = (
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, '",
    "') == 'local'; enabled and __import__('_distutils_hack').add_shim();",
);

/// Whether a line is that of `setuptools`, which changes nothing of what wheels come to. Debian's has no record of its files.
pub(crate) fn is_of_setuptools(line: &str) -> bool {
    let default = line.trim_end().strip_prefix(OF_SETUPTOOLS.0).and_then(|rest| rest.strip_suffix(OF_SETUPTOOLS.1));
    default.is_some_and(|default| matches!(default, "local" | "stdlib"))
}

/// What a line of a `.pth` file in a site directory does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PathLine<'a> {
    /// Nothing.
    Nothing,
    /// It runs code.
    Code,
    /// It adds a directory to the path.
    Directory(&'a str),
}

/// Reads one line as Python's `site` does.
pub(crate) fn path_line(line: &str) -> PathLine<'_> {
    if line.starts_with('#') || line.trim().is_empty() {
        PathLine::Nothing
    } else if line.starts_with("import ") || line.starts_with("import\t") {
        PathLine::Code
    } else {
        PathLine::Directory(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use lamina_ground::Stack;

    use super::*;
    use crate::tests::target;

    fn inside<'a>(installer: Installer, target: &'a Target, environment: &'a BTreeMap<String, String>) -> Inside<'a> {
        let (working_directory, unwanted) = ("/srv/app", &["/srv/venv"][..]);
        Inside { installer, target, environment, working_directory, sites: &[], unwanted, trusted: 1 }
    }

    #[test]
    fn each_installer_has_its_own_variables() {
        for (name, pip, uv) in [
            ("PIP_INDEX_URL", true, false),
            ("PIP_CONSTRAINT", true, false),
            ("UV_CONSTRAINT", false, true),
            ("UV_REQUIRE_HASHES", false, true),
            ("PIP_NO_CACHE_DIR", false, false),
            ("UV_HTTP_TIMEOUT", false, false),
            ("https_proxy", true, true),
            ("PYTHONUNBUFFERED", false, false),
        ] {
            let environment = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            let decides = |installer| inside(installer, &target(), &environment).decisive_variable().is_some();
            assert_eq!((decides(Installer::Pip), decides(Installer::Uv)), (pip, uv), "{name}");
        }
    }

    /// What is found in an image that has nothing but `file`, above an empty base.
    fn found(installer: Installer, file: &str, text: &str, environment: &[(&str, &str)]) -> Option<String> {
        let content = tempfile::tempdir().unwrap();
        let path = content.path().join("top").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(content.path().join("base")).unwrap();
        fs::write(&path, text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut layers = Layers::new(content.path(), &Stack::from_top_down(["top".into(), "base".into()]));
        inside(installer, &target(), &environment).places().find(&mut layers).unwrap()
    }

    #[test]
    fn each_installer_has_its_own_files() {
        for (file, pip, uv) in [
            ("etc/pip.conf", true, false),
            ("root/.config/pip/pip.conf", true, false),
            ("usr/pip.conf", true, false),
            ("usr/local/bin/keyring", true, false),
            ("etc/uv/uv.toml", false, true),
            ("root/.config/uv/uv.toml", false, true),
            ("srv/uv.toml", false, true),
            ("root/.netrc", true, true),
            ("usr/lib/python3.11/sitecustomize.py", true, true),
            ("home/.netrc", false, false),
        ] {
            let is_found = |installer| found(installer, file, "", &[]).is_some();
            assert_eq!((is_found(Installer::Pip), is_found(Installer::Uv)), (pip, uv), "{file}");
        }
        assert!(found(Installer::Pip, "home/.netrc", "", &[("HOME", "/home")]).is_some());
        assert_eq!(found(Installer::Uv, "srv/venv/x", "", &[]).unwrap(), "the image has `/srv/venv` already");
        assert!(found(Installer::Pip, "x/sitecustomize.py", "", &[("PYTHONPATH", "/none:/x")]).is_some());
        assert_eq!(found(Installer::Pip, "etc/python3.11/sitecustomize.py", OF_DEBIAN, &[]), None);
    }

    #[test]
    fn projects_count_where_they_configure_uv() {
        let project = |text: &str| found(Installer::Uv, "srv/app/pyproject.toml", text, &[]).is_some();
        assert!(project("[tool.uv]\nindex-url = 'https://index.invalid'\n"));
        assert!(project("[[tool.uv.index]]\nurl = 'https://index.invalid'\n"));
        assert!(project("not toml"));
        assert!(!project("[project]\nname = 'x'\n[tool.other]\n"));
    }

    #[test]
    fn lines_of_path_files_are_told_apart() {
        assert_eq!(path_line("# x"), PathLine::Nothing);
        assert_eq!(path_line("  "), PathLine::Nothing);
        assert_eq!(path_line("import x; x.y()"), PathLine::Code);
        let own = OF_SETUPTOOLS.0.to_owned() + "local" + OF_SETUPTOOLS.1;
        assert!(is_of_setuptools(&own) && is_of_setuptools(&(own.replace("'local')", "'stdlib')") + "\n")));
        assert!(
            !is_of_setuptools(&(own.clone() + " import x"))
                && !is_of_setuptools(&own.replace("'local')", "'') or x('local')"))
        );
        assert_eq!(path_line("important \r"), PathLine::Directory("important"));
    }
}
