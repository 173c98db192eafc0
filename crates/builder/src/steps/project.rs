//! Python projects: what `pyproject.toml` and lock files say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lamina_ground::{ErrorClass, Refusal, Subject, causes};
use lamina_image::{KeyMaterial, Pyproject};
use lamina_wheels::normalize_name;
use toml::{Table, Value};

use super::bounds::{self, Difference};
use crate::BuildError;
use crate::toolchain::{COMPILING, compiling};

/// A file of a project.
pub(super) struct ProjectFile {
    path: PathBuf,
    /// Its text.
    pub(super) text: String,
    /// What it says.
    table: Table,
}

/// Adds to a key which packages of a project compile something in functions, if any does.
pub(super) fn add_compiling(pyproject: &ProjectFile, lock: Option<&ProjectFile>, material: &mut KeyMaterial) {
    let locked = lock.map(ProjectFile::locked).unwrap_or_default();
    let names = compiling(&pyproject.asked(), &locked);
    if !names.is_empty() {
        material.add(COMPILING, Vec::from_iter(names));
    }
}

/// An error of a project's file.
pub(super) fn mistake(class: ErrorClass, message: String, hint: impl Into<Option<&'static str>>) -> BuildError {
    BuildError::Refused { class, message, hint: hint.into().map(str::to_owned) }
}

/// Reads a text file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, BuildError> {
    match fs_err::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let hint = Refusal::of(Subject::Local, &error).and_then(Refusal::hint);
            Err(mistake(ErrorClass::InvalidError, causes(&error), hint))
        }
    }
}

/// That a file which was named is not there.
pub(super) fn missing(path: &Path) -> BuildError {
    BuildError::FileNotFound(format!("project file `{}` does not exist", path.display()))
}

impl ProjectFile {
    /// Reads a file; `None` if there is none.
    pub(super) fn read(path: PathBuf) -> Result<Option<Self>, BuildError> {
        let Some(text) = read(&path)? else { return Ok(None) };
        let table = toml::from_str(&text).map_err(|error: toml::de::Error| {
            let message = format!("`{}` is no valid TOML: {}", path.display(), error.to_string().trim_end());
            mistake(ErrorClass::InvalidError, message, None)
        })?;
        Ok(Some(Self { path, text, table }))
    }

    /// What stands in nested tables.
    fn at(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.table.get(*first)?, |value, key| value.get(key))
    }

    fn table_at(&self, keys: &[&str]) -> Option<&Table> {
        self.at(keys)?.as_table()
    }

    /// The packages that the project asks for, wherever it does: itself, for extras and for groups, in the forms of all
    /// tools that are known here.
    pub(super) fn asked(&self) -> BTreeSet<String> {
        let poetry = self.at(&["tool", "poetry"]);
        let groups = poetry.and_then(|poetry| poetry.get("group")?.as_table());
        let owners = poetry.into_iter().chain(groups.into_iter().flat_map(Table::values));
        let of_poetry = owners
            .flat_map(|owner| ["dependencies", "dev-dependencies"].into_iter().filter_map(|key| owner.get(key)))
            .filter_map(Value::as_table)
            .flat_map(Table::keys)
            .map(|name| normalize_name(name));
        requirement_names(self.dependency_lists().chain(self.group_lists())).into_iter().chain(of_poetry).collect()
    }

    /// The packages in a lock, whether they are installed or not.
    pub(super) fn locked(&self) -> BTreeSet<String> {
        let packages = self.at(&["package"]).and_then(Value::as_array).into_iter().flatten();
        packages.filter_map(|package| package.get("name")?.as_str().map(normalize_name)).collect()
    }

    /// Whether a lock, of `uv` or poetry, has a package that can only be built.
    pub(super) fn has_sources_only(&self) -> bool {
        let packages = self.at(&["package"]).and_then(Value::as_array).into_iter().flatten();
        packages.into_iter().any(|package| {
            let list = |key: &str| package.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let files = list("files").iter().filter_map(|file| file.get("file")?.as_str());
            let is_wheel = |file: &str| Path::new(file).extension().is_some_and(|extension| extension == "whl");
            let has_wheel = !list("wheels").is_empty() || files.clone().any(is_wheel);
            let source = package.get("source").and_then(Value::as_table);
            let is_tree = source.is_some_and(|source| {
                let kind = source.get("type").and_then(Value::as_str).unwrap_or_default();
                ["directory", "git"].iter().any(|tree| source.contains_key(*tree) || kind == *tree)
            });
            !has_wheel && (is_tree || package.get("sdist").is_some() || files.count() > 0)
        })
    }

    /// The lists of the project's dependencies, also those of extras.
    fn dependency_lists(&self) -> impl Iterator<Item = &Value> {
        let optional = self.table_at(&["project", "optional-dependencies"]);
        self.at(&["project", "dependencies"]).into_iter().chain(values_of(optional))
    }

    /// The lists of dependencies of groups.
    fn group_lists(&self) -> impl Iterator<Item = &Value> {
        let former = self.at(&["tool", "uv", "dev-dependencies"]);
        former.into_iter().chain(values_of(self.table_at(&["dependency-groups"])))
    }

    /// The packages that `[tool.uv.sources]` has at paths, each with its path; a member of a workspace has none.
    pub(super) fn local_sources(&self) -> Vec<(&str, Option<&str>)> {
        let sources = self.table_at(&["tool", "uv", "sources"]).into_iter().flatten();
        let each = sources.flat_map(|(name, source)| {
            let several = source.as_array().map(Vec::as_slice);
            several.unwrap_or(std::slice::from_ref(source)).iter().map(move |source| (name, source))
        });
        let is_member = |source: &Value| source.get("workspace").and_then(Value::as_bool) == Some(true);
        each.map(|(name, source)| (name.as_str(), source.get("path").and_then(Value::as_str), is_member(source)))
            .filter(|(_, path, is_member)| path.is_some() || *is_member)
            .map(|(name, path, _)| (name, path))
            .collect()
    }

    /// The requirements in a value that has to be a list of them.
    fn requirements(&self, value: &Value, name: &str) -> Result<Vec<String>, BuildError> {
        let items = value.as_array().map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        items.flatten().ok_or_else(|| {
            let message = format!("`{name}` in `{}` is no list of strings", self.path.display());
            mistake(ErrorClass::InvalidError, message, None)
        })
    }
}

/// The values of a table that may be absent.
fn values_of(table: Option<&Table>) -> impl Iterator<Item = &Value> {
    table.into_iter().flat_map(Table::values)
}

/// The names in lists of requirements. What is no requirement, as `include-group`, has none.
fn requirement_names<'a>(lists: impl Iterator<Item = &'a Value>) -> BTreeSet<String> {
    let items = lists.filter_map(Value::as_array).flatten();
    items.filter_map(|item| lamina_wheels::requirement_name(item.as_str()?)).collect()
}

/// The names in lists of what a lock says of requirements.
fn locked_names<'a>(lists: impl Iterator<Item = &'a Value>) -> BTreeSet<String> {
    let items = lists.filter_map(Value::as_array).flatten();
    items.filter_map(|item| item.get("name")?.as_str().map(normalize_name)).collect()
}

/// The dependencies of a project with those of the wanted groups that it has.
pub(super) fn dependencies(pyproject: &Pyproject) -> Result<Vec<String>, BuildError> {
    let path = PathBuf::from(&pyproject.path);
    let file = ProjectFile::read(path.clone())?.ok_or_else(|| missing(&path))?;
    let Some(dependencies) = file.at(&["project", "dependencies"]) else {
        let message = format!("`{}` has no `dependencies` in a table `[project]`", path.display());
        return Err(mistake(ErrorClass::ValueError, message, "declare them there; an empty list does"));
    };
    let mut all = file.requirements(dependencies, "project.dependencies")?;
    if !pyproject.optional_dependencies.is_empty() {
        let Some(groups) = file.table_at(&["project", "optional-dependencies"]) else {
            let message = format!("`{}` has no table `[project.optional-dependencies]`", path.display());
            return Err(mistake(ErrorClass::KeyError, message, "leave `optional_dependencies` away"));
        };
        for group in &pyproject.optional_dependencies {
            if let Some(group) = groups.get(group) {
                all.extend(file.requirements(group, "project.optional-dependencies")?);
            }
        }
    }
    Ok(all)
}

/// A project of uv's with its lock file.
pub(super) struct UvProject {
    /// `pyproject.toml`.
    pub(super) pyproject: ProjectFile,
    /// `uv.lock`, if there is one.
    pub(super) lock: Option<ProjectFile>,
}

/// Settings of uv's with which `uv sync --frozen` still makes what the lock says: they were heard when it was made, say how
/// something is built, or how it is fetched.
const USUAL: [&str; 39] = [
    "add-bounds",
    "build-backend",
    "build-constraint-dependencies",
    "cache-keys",
    "check-url",
    "compile-bytecode",
    "concurrent-builds",
    "concurrent-downloads",
    "concurrent-installs",
    "conflicts",
    "constraint-dependencies",
    "default-groups",
    "dependency-metadata",
    "dev-dependencies",
    "environments",
    "exclude-dependencies",
    "exclude-newer",
    "exclude-newer-package",
    "extra-build-dependencies",
    "extra-build-variables",
    "extra-index-url",
    "find-links",
    "fork-strategy",
    "index",
    "index-strategy",
    "index-url",
    "link-mode",
    "no-build",
    "no-build-isolation",
    "no-build-isolation-package",
    "no-build-package",
    "override-dependencies",
    "package",
    "prerelease",
    "publish-url",
    "required-environments",
    "required-version",
    "resolution",
    "sources",
];

/// What makes a lock fit its project.
const RENEW: &str = "run `uv lock` in the project";

impl UvProject {
    /// Reads a project.
    pub(super) fn read(directory: &Path) -> Result<Self, BuildError> {
        let path = directory.join("pyproject.toml");
        let pyproject = ProjectFile::read(path.clone())?.ok_or_else(|| {
            let message = format!("the project has no `pyproject.toml`: `{}` does not exist", path.display());
            mistake(ErrorClass::InvalidError, message, "name the directory that has it as `uv_project_dir`")
        })?;
        if pyproject.at(&["tool", "uv", "workspace"]).is_some() {
            let message = format!("`{}` is a workspace, which `uv_sync` does not take", path.display());
            let hint = "name the directory of a project without `[tool.uv.workspace]`";
            return Err(mistake(ErrorClass::InvalidError, message, hint));
        }
        Ok(Self { pyproject, lock: ProjectFile::read(directory.join("uv.lock"))? })
    }

    /// Looks whether the project has what is asked for, and whether the lock knows what the project needs if it is taken
    /// as it is.
    pub(super) fn check(&self, extras: &[String], groups: &[String], frozen: bool) -> Result<(), BuildError> {
        let known = self.names(&["project", "optional-dependencies"]);
        self.check_names("extra", extras, &known)?;
        let mut known = self.names(&["dependency-groups"]);
        if self.pyproject.at(&["tool", "uv", "dev-dependencies"]).is_some() {
            known.insert("dev".to_owned());
        }
        self.check_names("dependency group", groups, &known)?;
        if frozen { self.check_lock() } else { Ok(()) }
    }

    fn names(&self, keys: &[&str]) -> BTreeSet<String> {
        self.pyproject.table_at(keys).into_iter().flat_map(Table::keys).map(|name| normalize_name(name)).collect()
    }

    fn check_names(&self, what: &str, wanted: &[String], known: &BTreeSet<String>) -> Result<(), BuildError> {
        let Some(unknown) = wanted.iter().find(|name| !known.contains(&normalize_name(name))) else { return Ok(()) };
        let path = self.pyproject.path.display();
        let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("`{path}` has no {what} `{unknown}`; it has {has}");
        Err(mistake(ErrorClass::InvalidError, message, "declare it, and run `uv lock` in the project"))
    }

    /// Looks whether a lock was made for the names that the project depends on.
    fn check_lock(&self) -> Result<(), BuildError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let Some(metadata) = self.locked_metadata(lock) else { return Ok(()) };
        let dynamic = self.pyproject.at(&["project", "dynamic"]).and_then(Value::as_array);
        let found_by_building = |name: &Value| matches!(name.as_str(), Some("dependencies" | "optional-dependencies"));
        if dynamic.is_some_and(|names| names.iter().any(found_by_building)) {
            return Ok(());
        }
        let of_metadata = |key: &str| metadata.and_then(|metadata| metadata.get(key));
        let dependencies: Vec<&Value> = of_metadata("requires-dist").into_iter().collect();
        let groups: Vec<&Value> = values_of(of_metadata("requires-dev").and_then(Value::as_table)).collect();
        self.compare(lock, &self.pyproject.dependency_lists().collect::<Vec<_>>(), &dependencies)?;
        self.compare(lock, &self.pyproject.group_lists().collect::<Vec<_>>(), &groups)
    }

    /// Refuses a lock that was made for other names or versions than the project declares.
    fn compare(&self, lock: &ProjectFile, declared: &[&Value], locked: &[&Value]) -> Result<(), BuildError> {
        let names = (requirement_names(declared.iter().copied()), locked_names(locked.iter().copied()));
        // An extra may name others of the project itself, which the lock has by what they stand for.
        let own = self.own_name();
        let differs = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
            one.difference(other).find(|name| Some(*name) != own.as_ref()).cloned()
        };
        let (path, place) = (self.pyproject.path.display(), lock.path.display());
        let versions = bounds::difference(declared.iter().copied(), locked.iter().copied());
        let message = match (differs(&names.0, &names.1), differs(&names.1, &names.0)) {
            (Some(name), _) => {
                format!("`{place}` does not match its project: `{path}` asks for `{name}`, which it lacks")
            }
            (None, Some(name)) => {
                format!(
                    "`{place}` does not match its project: it was made for `{name}`, which `{path}` does not ask for"
                )
            }
            (None, None) => {
                let Some(Difference { declared, locked }) = versions else { return Ok(()) };
                format!(
                    "`{place}` does not match its project: it was made for `{locked}`, and `{path}` asks for `{declared}`"
                )
            }
        };
        Err(mistake(ErrorClass::InvalidError, message, RENEW))
    }

    /// A setting of uv's with which more counts than the lock.
    pub(super) fn unusual_setting(&self) -> Option<String> {
        let settings = self.pyproject.table_at(&["tool", "uv"]).into_iter().flat_map(Table::keys);
        settings.into_iter().find(|name| !USUAL.contains(&name.as_str())).map(|name| format!("tool.uv.{name}"))
    }

    /// The Pythons that the project says it is for.
    pub(super) fn requires_python(&self) -> Option<String> {
        self.pyproject.at(&["project", "requires-python"]).and_then(Value::as_str).map(str::to_owned)
    }

    fn own_name(&self) -> Option<String> {
        self.pyproject.at(&["project", "name"]).and_then(Value::as_str).map(normalize_name)
    }

    /// What a lock says about the project itself: the outer `None` if it does not name it, the inner if it needs nothing.
    #[allow(clippy::option_option)]
    fn locked_metadata<'a>(&self, lock: &'a ProjectFile) -> Option<Option<&'a Value>> {
        let own = self.own_name()?;
        let packages = lock.at(&["package"])?.as_array()?;
        let is_own = |package: &&Value| {
            let name = package.get("name").and_then(Value::as_str).map(normalize_name);
            let source = package.get("source").and_then(Value::as_table);
            name.as_ref() == Some(&own)
                && source.is_some_and(|source| {
                    ["virtual", "editable", "directory"].iter().any(|kind| source.contains_key(*kind))
                })
        };
        packages.iter().find(is_own).map(|package| package.get("metadata"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs_err::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn locks_say_what_has_to_be_built() {
        for (package, expected) in [
            ("source = { registry = 'x' }\nsdist = { url = 'y' }\nwheels = [{ url = 'z' }]", false),
            ("source = { registry = 'x' }\nsdist = { url = 'y' }", true),
            ("source = { git = 'x' }", true),
            ("source = { directory = 'x' }", true),
            ("source = { editable = '.' }\n[package.metadata]\nrequires-dist = []", false),
            ("source = { virtual = '.' }", false),
            ("files = [{ file = 'a-1.tar.gz' }, { file = 'a-1-py3-none-any.whl' }]", false),
            ("files = [{ file = 'a-1.tar.gz' }]", true),
            ("files = []\n[package.source]\ntype = 'git'", true),
            ("files = []\n[package.source]\ntype = 'legacy'", false),
        ] {
            let directory = written(&[("lock", &format!("[[package]]\nname = 'a'\n{package}\n"))]);
            let lock = ProjectFile::read(directory.path().join("lock")).unwrap().unwrap();
            assert_eq!(lock.has_sources_only(), expected, "{package}");
        }
    }

    /// Class and message without the directory.
    fn refusal<T>(result: Result<T, BuildError>, directory: &Path) -> String {
        let error = result.err().unwrap();
        let class =
            if let BuildError::Refused { class, .. } = &error { format!("{class:?}") } else { "other".to_owned() };
        format!("{class}: {}", error.to_string().replace(&format!("{}/", directory.display()), ""))
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let directory = written(&[]);
        let said = refusal(read(directory.path()), Path::new("/nowhere"));
        assert!(said.starts_with("InvalidError: ") && said.contains("Is a directory"), "{said}");
        assert_eq!(read(&directory.path().join("none")).unwrap(), None);
    }

    #[test]
    fn dependencies_come_with_the_wanted_groups() {
        let text = "[project]\ndependencies = ['a>=1', 'b']\n[project.optional-dependencies]\nx = ['c']\ny = ['d']\n";
        let directory = written(&[
            ("all.toml", text),
            ("plain.toml", "[project]\ndependencies = []\n"),
            ("none.toml", "[tool.x]\n"),
            ("bad.toml", "[project\n"),
            ("odd.toml", "[project]\ndependencies = [1]\n"),
        ]);
        let ask = |name: &str, groups: &[&str]| {
            dependencies(&Pyproject {
                path: directory.path().join(name).display().to_string(),
                optional_dependencies: groups.iter().map(|group| (*group).to_owned()).collect(),
            })
        };
        assert_eq!(ask("all.toml", &[]).unwrap(), ["a>=1", "b"]);
        assert_eq!(ask("all.toml", &["y", "unknown"]).unwrap(), ["a>=1", "b", "d"]);
        let said = |name: &str, groups: &[&str]| refusal(ask(name, groups), directory.path());
        insta::assert_snapshot!(said("none.toml", &[]), @"ValueError: `none.toml` has no `dependencies` in a table `[project]`");
        insta::assert_snapshot!(said("plain.toml", &["x"]), @"KeyError: `plain.toml` has no table `[project.optional-dependencies]`");
        insta::assert_snapshot!(said("odd.toml", &[]), @"InvalidError: `project.dependencies` in `odd.toml` is no list of strings");
        insta::assert_snapshot!(said("gone.toml", &[]), @"other: project file `gone.toml` does not exist");
        assert!(said("bad.toml", &[]).starts_with("InvalidError: `bad.toml` is no valid TOML: "));
    }

    const PROJECT: &str = "[project]\nname = 'My_App'\nversion = '1'\ndependencies = ['Idna']\n[project.optional-dependencies]\nmore = ['six']\n[dependency-groups]\ntest = []\n";

    fn lock(names: &str) -> String {
        format!(
            "version = 1\n[[package]]\nname = 'my-app'\nsource = {{ virtual = '.' }}\n[package.metadata]\nrequires-dist = [{names}]\n"
        )
    }

    #[test]
    fn projects_have_what_is_asked_for() {
        let directory =
            written(&[("pyproject.toml", PROJECT), ("uv.lock", &lock("{ name = 'idna' }, { name = 'six' }"))]);
        let check = |extras: &[&str], groups: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            UvProject::read(directory.path())?.check(&owned(extras), &owned(groups), true)
        };
        assert!(check(&["MORE"], &["test"]).is_ok());
        let said = |extras: &[&str], groups: &[&str]| refusal(check(extras, groups), directory.path());
        insta::assert_snapshot!(said(&["less"], &[]), @"InvalidError: `pyproject.toml` has no extra `less`; it has `more`");
        insta::assert_snapshot!(said(&[], &["dev"]), @"InvalidError: `pyproject.toml` has no dependency group `dev`; it has `test`");
    }

    #[test]
    fn locks_belong_to_their_project() {
        let said = |names: &str, frozen: bool| {
            let directory = written(&[("pyproject.toml", PROJECT), ("uv.lock", &lock(names))]);
            let result = UvProject::read(directory.path()).unwrap().check(&[], &[], frozen);
            if result.is_ok() { "fits".to_owned() } else { refusal(result, directory.path()) }
        };
        insta::assert_snapshot!(said("{ name = 'idna' }", true), @"InvalidError: `uv.lock` does not match its project: `pyproject.toml` asks for `six`, which it lacks");
        insta::assert_snapshot!(said("{ name = 'idna' }, { name = 'six' }, { name = 'x' }", true), @"InvalidError: `uv.lock` does not match its project: it was made for `x`, which `pyproject.toml` does not ask for");
        insta::assert_snapshot!(said("{ name = 'idna', specifier = '<3' }, { name = 'six' }", true), @"InvalidError: `uv.lock` does not match its project: it was made for `idna<3`, and `pyproject.toml` asks for `idna`");
        // uv renews it then.
        assert_eq!(said("", false), "fits");
        let dynamic = PROJECT.replace("dependencies = ['Idna']", "dynamic = ['dependencies']");
        let directory = written(&[("pyproject.toml", &dynamic), ("uv.lock", &lock("{ name = 'x' }"))]);
        assert!(UvProject::read(directory.path()).unwrap().check(&[], &[], true).is_ok());
    }

    #[test]
    fn locks_belong_to_the_groups_of_their_project() {
        let said = |locked: &str, project: &str| {
            let metadata =
                format!("{}[package.metadata.requires-dev]\n{locked}", lock("{ name = 'idna' }, { name = 'six' }"));
            let directory = written(&[("pyproject.toml", project), ("uv.lock", &metadata)]);
            let result = UvProject::read(directory.path()).unwrap().check(&[], &[], true);
            if result.is_ok() { "fits".to_owned() } else { refusal(result, directory.path()) }
        };
        let project = PROJECT.replace("test = []", "test = ['Pytest', { include-group = 'lint' }]\nlint = ['ruff']");
        let whole = "test = [{ name = 'pytest' }, { name = 'ruff' }]\nlint = [{ name = 'ruff' }]\n";
        assert_eq!(said(whole, &project), "fits");
        insta::assert_snapshot!(said("test = [{ name = 'pytest' }]\n", &project), @"InvalidError: `uv.lock` does not match its project: `pyproject.toml` asks for `ruff`, which it lacks");
        insta::assert_snapshot!(said("test = [{ name = 'pytest' }]\n", PROJECT), @"InvalidError: `uv.lock` does not match its project: it was made for `pytest`, which `pyproject.toml` does not ask for");
        let former = format!("{PROJECT}[tool.uv]\ndev-dependencies = ['pytest']\n");
        assert_eq!(said("dev = [{ name = 'pytest' }]\n", &former), "fits");
    }

    #[test]
    fn packages_are_asked_for_in_many_places() {
        let text = "[project]\ndependencies = ['A_1>=1']\n[project.optional-dependencies]\nx = ['b[c]']\n\
                    [dependency-groups]\ny = ['d', { include-group = 'z' }]\n[tool.uv]\ndev-dependencies = ['e']\n\
                    [tool.poetry.dependencies]\npython = '^3.11'\nF = '*'\n[tool.poetry.dev-dependencies]\ng = '*'\n\
                    [tool.poetry.group.i.dependencies]\nh = { version = '1' }\n";
        let lock = "[[package]]\nname = 'J.k'\n[[package]]\nversion = '1'\n";
        let directory = written(&[("pyproject.toml", text), ("lock", lock), ("odd.toml", "package = 1\ntool = []\n")]);
        let file = |name: &str| ProjectFile::read(directory.path().join(name)).unwrap().unwrap();
        let names = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(names(file("pyproject.toml").asked()), "a-1 b d e f g h python");
        assert_eq!(names(file("lock").locked()), "j-k");
        assert_eq!(names(file("odd.toml").asked()) + &names(file("odd.toml").locked()), "");
    }

    #[test]
    fn settings_that_a_lock_has_heard_are_told_from_others() {
        let unusual = |settings: &str| {
            let directory = written(&[("pyproject.toml", &format!("{PROJECT}[tool.uv]\n{settings}\n"))]);
            UvProject::read(directory.path()).unwrap().unusual_setting()
        };
        assert_eq!(unusual("default-groups = ['test']\nsources = { six = { index = 'x' } }"), None);
        assert_eq!(unusual("package = true\nno-binary-package = ['six']").unwrap(), "tool.uv.no-binary-package");
    }

    #[test]
    fn local_sources_are_told_from_others() {
        let sources = "[tool.uv.sources]\na = { path = '../a', editable = true }\nb = { git = 'https://x.invalid/b' }\n\
                       c = { workspace = true }\nd = [{ path = 'd', marker = 'x' }, { index = 'y' }]\ne = { workspace = false }\n";
        let directory = written(&[("pyproject.toml", sources)]);
        let project = UvProject::read(directory.path()).unwrap();
        assert_eq!(project.pyproject.local_sources(), [("a", Some("../a")), ("c", None), ("d", Some("d"))]);
    }

    #[test]
    fn workspaces_and_other_directories_are_refused() {
        let directory = written(&[("pyproject.toml", "[tool.uv.workspace]\nmembers = ['x']\n")]);
        insta::assert_snapshot!(refusal(UvProject::read(directory.path()), directory.path()), @"InvalidError: `pyproject.toml` is a workspace, which `uv_sync` does not take");
        let empty = written(&[]);
        insta::assert_snapshot!(refusal(UvProject::read(empty.path()), empty.path()), @"InvalidError: the project has no `pyproject.toml`: `pyproject.toml` does not exist");
    }
}
