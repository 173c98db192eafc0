//! Unpacking a package into objects; runs in the store worker.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;

use data_encoding::HEXLOWER;
use lamina_store::{Job, JobError, JobErrorKind, WorkerContext};
use rattler_conda_types::package::{
    FileMode, Files, HasPrefix, LinkJson, NoArchLinks, PackageFile, PathType, PathsJson,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::PREFIX;
use crate::archive::{Archive, Content, Problem, check_path};
use crate::installed::RECORDS;
use crate::manifest::{Entry, EntryKind, EntryPoint, Manifest, Replaced, descriptions, manifest_name};
use crate::prefix::{replace_in_binary, replace_in_text};
use crate::preparing::early_script;

/// Kind of a [`JobError`]: the package is not what it should be.
pub(crate) const INVALID: JobErrorKind = JobErrorKind::new("conda-package-invalid");
/// Larger files are streamed instead of held in memory, unless they name the prefix.
const MEMORY_LIMIT: u64 = 16 << 20;
/// Largest file in which the prefix is replaced.
const REPLACEMENT_LIMIT: u64 = 2 << 30;

/// Unpacks the package given as a descriptor.
#[derive(Serialize, Deserialize)]
pub(crate) struct UnpackPackage {
    pub(crate) file_name: String,
    pub(crate) sha256: String,
}

impl Job for UnpackPackage {
    const NAME: &'static str = "conda.unpack";
    type Output = ();

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let file = fds.into_iter().next().ok_or_else(|| invalid("its file was not handed over".to_owned()))?;
        let mut archive = Archive::open(File::from(file), &self.file_name).map_err(invalid)?;
        let manifest = unpack(&mut archive, context)?;
        descriptions(context).save(&manifest_name(&self.sha256), &manifest)
    }
}

fn invalid(problem: Problem) -> JobError {
    JobError::new(INVALID, problem)
}

/// What a package says about one of its paths.
struct Listed {
    sha256: Option<String>,
    /// The prefix in it, and whether it is text.
    prefix: Option<(String, bool)>,
}

/// What a package says about itself.
struct Description {
    name: String,
    is_python: bool,
    listed: HashMap<String, Listed>,
    empty_directories: Vec<String>,
    entry_points: Vec<EntryPoint>,
}

fn unpack(archive: &mut Archive, context: &WorkerContext) -> Result<Manifest, JobError> {
    let metadata = archive.metadata().map_err(invalid)?;
    let mut description = describe(&metadata).map_err(invalid)?;
    let listed = &description.listed;
    let mut entries = read_entries(context, listed, &mut |take| archive.contents(take))?;
    let packed = if entries.contains_key(&early_script(&description.name)) {
        read_entries(context, &HashMap::new(), &mut |take| archive.everything(take))?
    } else {
        BTreeMap::new()
    };
    // What is not listed is not installed.
    entries.retain(|path, _| listed.contains_key(path));
    if let Some(path) = listed.keys().filter(|path| !entries.contains_key(*path)).min() {
        return Err(invalid(format!("it lists `{path}`, which it does not have")));
    }
    for path in std::mem::take(&mut description.empty_directories) {
        entries.insert(path.clone(), Entry { path, kind: EntryKind::Directory, sha256: None, replaced: None });
    }
    let Description { is_python, entry_points, .. } = description;
    let [entries, packed] = [entries, packed].map(|entries| entries.into_values().collect());
    Ok(Manifest { is_python, entries, entry_points, packed })
}

/// Hands over the entries of an archive.
type Entries<'a> = dyn FnMut(&mut dyn FnMut(&str, Content<'_>) -> Result<(), Problem>) -> Result<(), Problem> + 'a;

/// Makes objects of the entries of an archive.
fn read_entries(
    context: &WorkerContext,
    listed: &HashMap<String, Listed>,
    read: &mut Entries<'_>,
) -> Result<BTreeMap<String, Entry>, JobError> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut failure = None;
    let outcome = read(&mut |path, content| {
        let (kind, replaced) = match content {
            Content::Same(other) => {
                let same = entries.get(&other).map(|entry| (entry.kind.clone(), entry.replaced.clone()));
                same.ok_or_else(|| format!("`{path}` is a link to `{other}`, which is not before it"))?
            }
            Content::Link(target) => (EntryKind::Link(target), None),
            Content::File(size, mode, reader) => {
                let prefix = listed.get(path).and_then(|listed| listed.prefix.as_ref());
                match put(path, size, reader, prefix, context) {
                    Ok((digest, size, replaced)) => (EntryKind::File { digest, mode: mode & 0o7777, size }, replaced),
                    Err(error) => {
                        failure = Some(error);
                        return Err(String::new());
                    }
                }
            }
        };
        let sha256 = listed.get(path).and_then(|listed| listed.sha256.clone());
        entries.insert(path.to_owned(), Entry { path: path.to_owned(), kind, sha256, replaced });
        Ok(())
    });
    if let Some(error) = failure {
        return Err(error);
    }
    outcome.map_err(invalid)?;
    Ok(entries)
}

/// The parts of `info/index.json` that matter.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    name: String,
    #[serde(default)]
    noarch: serde_json::Value,
}

fn describe(metadata: &HashMap<String, Vec<u8>>) -> Result<Description, Problem> {
    let wrong = |name: &str, error: &dyn std::fmt::Display| format!("its `info/{name}` cannot be understood: {error}");
    let index = metadata.get("index.json").ok_or_else(|| "it has no `info/index.json`".to_owned())?;
    let index: Index = serde_json::from_slice(index).map_err(|error| wrong("index.json", &error))?;
    let mut description = Description {
        name: index.name,
        is_python: index.noarch == "python",
        listed: HashMap::new(),
        empty_directories: Vec::new(),
        entry_points: Vec::new(),
    };
    if let Some(link) = metadata.get("link.json") {
        let link = LinkJson::from_slice(link).map_err(|error| wrong("link.json", &error))?;
        if let NoArchLinks::Python(python) = link.noarch {
            let point = |point: rattler_conda_types::package::EntryPoint| EntryPoint {
                name: point.command,
                module: point.module,
                function: point.function,
            };
            description.entry_points = python.entry_points.into_iter().map(point).collect();
        }
    }
    let paths = paths(metadata).map_err(|(name, error)| wrong(name, &error))?;
    for path in paths.paths {
        let name = path.relative_path.to_str().map(str::to_owned).filter(|name| check_path(name).is_some());
        let name =
            name.ok_or_else(|| format!("the path `{}` leads out of the package", path.relative_path.display()))?;
        if is_record(&name) {
            return Err(format!("it brings `{name}`, which only who installs packages writes"));
        }
        if path.path_type == PathType::Directory {
            description.empty_directories.push(name);
            continue;
        }
        let prefix = path.prefix_placeholder.map(|prefix| (prefix.placeholder, prefix.file_mode == FileMode::Text));
        let sha256 = path.sha256.map(|digest| HEXLOWER.encode(&digest));
        description.listed.insert(name, Listed { sha256, prefix });
    }
    Ok(description)
}

/// Whether something is written down there about an environment. Other files beside it, such as `pinned`, may be packages'.
fn is_record(path: &str) -> bool {
    path == RECORDS
        || path.strip_prefix(RECORDS).and_then(|path| path.strip_prefix('/')).is_some_and(|name| {
            name == "history" || std::path::Path::new(name).extension().is_some_and(|extension| extension == "json")
        })
}

/// The list of a package's files, which older packages have in several parts.
fn paths(metadata: &HashMap<String, Vec<u8>>) -> Result<PathsJson, (&'static str, std::io::Error)> {
    if let Some(paths) = metadata.get("paths.json") {
        return PathsJson::from_slice(paths).map_err(|error| ("paths.json", error));
    }
    let text = |name: &'static str| {
        let bytes = metadata.get(name).cloned().unwrap_or_default();
        String::from_utf8(bytes).map_err(|error| (name, std::io::Error::other(error)))
    };
    let files = Files::from_str(&text("files")?).map_err(|error| ("files", error))?;
    let has_prefix = HasPrefix::from_str(&text("has_prefix")?).map_err(|error| ("has_prefix", error))?;
    // What the archive has at a path is seen when it is read.
    let outcome = PathsJson::from_deprecated(files, Some(has_prefix), None, None, |_| {
        Ok::<_, std::convert::Infallible>(PathType::HardLink)
    });
    Ok(outcome.unwrap_or_else(|never| match never {}))
}

/// Makes an object of a file, with our prefix in the place of the one that it was built for.
fn put(
    path: &str,
    size: u64,
    reader: &mut dyn std::io::Read,
    prefix: Option<&(String, bool)>,
    context: &WorkerContext,
) -> Result<(lamina_image::Digest, u64, Option<Replaced>), JobError> {
    let Some((placeholder, is_text)) = prefix.filter(|(placeholder, _)| !placeholder.is_empty()) else {
        if size > MEMORY_LIMIT {
            let (digest, length) = context
                .put_reader(reader)
                .map_err(|error| invalid(format!("`{path}` cannot be read: {}", error.message)))?;
            return Ok((digest, length, None));
        }
        let bytes = read(path, reader)?;
        return Ok((context.put_bytes(&bytes)?, bytes.len() as u64, None));
    };
    if size > REPLACEMENT_LIMIT {
        return Err(invalid(format!("`{path}` is too large to replace its prefix")));
    }
    let bytes = read(path, reader)?;
    let (from, to) = (placeholder.as_bytes(), PREFIX.as_bytes());
    let bytes = if *is_text {
        replace_in_text(&bytes, from, to)
    } else {
        replace_in_binary(&bytes, from, to)
            .ok_or_else(|| invalid(format!("its prefix `{placeholder}` in `{path}` is shorter than `{PREFIX}`")))?
    };
    let sha256 = HEXLOWER.encode(&Sha256::digest(&bytes));
    let replaced = Replaced { placeholder: placeholder.clone(), is_text: *is_text, sha256 };
    Ok((context.put_bytes(&bytes)?, bytes.len() as u64, Some(replaced)))
}

fn read(path: &str, reader: &mut dyn std::io::Read) -> Result<Vec<u8>, JobError> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|error| invalid(format!("`{path}` cannot be read: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(files: &[(&str, &str)]) -> HashMap<String, Vec<u8>> {
        files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn packages_describe_themselves() {
        let described = describe(&metadata(&[
            ("index.json", r#"{"name":"x","noarch":"python"}"#),
            ("link.json", r#"{"noarch":{"type":"python","entry_points":["x = x.main:run"]},"package_metadata_version":1}"#),
            ("paths.json", r#"{"paths_version":1,"paths":[
                {"_path":"bin/x","path_type":"hardlink","prefix_placeholder":"/p","file_mode":"binary","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size_in_bytes":0},
                {"_path":"var/empty","path_type":"directory"}]}"#),
        ])).unwrap();
        assert!(described.is_python);
        assert_eq!(described.entry_points[0].module, "x.main");
        assert_eq!(described.listed["bin/x"].prefix, Some(("/p".to_owned(), false)));
        assert_eq!(described.empty_directories, ["var/empty"]);
    }

    #[test]
    fn older_packages_have_lists() {
        let described = describe(&metadata(&[
            ("index.json", "{}"),
            ("files", "bin/x\nbin/y\n"),
            ("has_prefix", "/build/prefix binary bin/x\n"),
        ]))
        .unwrap();
        assert_eq!(described.listed["bin/x"].prefix, Some(("/build/prefix".to_owned(), false)));
        assert!(described.listed["bin/y"].prefix.is_none() && !described.is_python);
    }

    #[test]
    fn records_are_no_files_of_packages() {
        let brings = |path: &str| describe(&metadata(&[("index.json", "{}"), ("files", path)])).err();
        for path in ["conda-meta/python-3.11.2-0.json", "conda-meta/history", "conda-meta"] {
            assert!(brings(path).is_some_and(|error| error.contains("only who installs")), "{path}");
        }
        for path in ["conda-meta/pinned", "share/conda-meta/a.json", "conda-metadata/a.json"] {
            assert_eq!(brings(path), None, "{path}");
        }
    }

    #[test]
    fn lists_do_not_lead_out() {
        let described = describe(&metadata(&[
            ("index.json", "{}"),
            ("paths.json", r#"{"paths_version":1,"paths":[{"_path":"../x","path_type":"hardlink"}]}"#),
        ]));
        assert!(described.err().unwrap().contains("leads out of the package"));
        assert_eq!(describe(&metadata(&[])).err().unwrap(), "it has no `info/index.json`");
    }
}
