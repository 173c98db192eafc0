//! Which files an installed package consists of, and what conda writes down about it.

use std::fmt::Write as _;

use lamina_packages::{Content, File, Package};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::PREFIX;
use crate::archive::check_path;
use crate::installed::RECORDS;
use crate::manifest::{EntryKind, EntryPoint, Manifest};
use crate::preparing::{Prepared, UNPACKED};
use crate::solve::series;

/// A package to install.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LinkedPackage {
    pub(crate) name: String,
    pub(crate) file_name: String,
    pub(crate) sha256: String,
    /// What the channel says about it, as JSON.
    pub(crate) record: String,
    /// The specifications that asked for it.
    pub(crate) requested: Vec<String>,
}

/// The environment's Python.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Python {
    /// Its version.
    pub(crate) version: String,
    /// Where its modules are, below the prefix.
    pub(crate) site_packages: String,
}

/// All that installing a package leaves.
pub(crate) struct Placed {
    /// Its files.
    pub(crate) package: Package,
    /// Python sources that are to be compiled, as absolute paths.
    pub(crate) sources: Vec<String>,
}

/// Name of the record of a package.
pub(crate) fn record_name(file_name: &str) -> String {
    format!("{}.json", stem(file_name))
}

/// The name of a package's file without what says its form.
fn stem(file_name: &str) -> &str {
    file_name.strip_suffix(".conda").or_else(|| file_name.strip_suffix(".tar.bz2")).unwrap_or(file_name)
}

/// Where conda would have unpacked a package, as an absolute path.
pub(crate) fn unpacked(file_name: &str) -> String {
    format!("{UNPACKED}/{}", stem(file_name))
}

/// All that installing a package leaves, with what its own script has made of it before; `None` if it needs a Python and
/// there is none.
pub(crate) fn place(
    package: &LinkedPackage,
    manifest: &Manifest,
    python: Option<&Python>,
    prepared: &Prepared,
) -> Option<Placed> {
    let python = if manifest.is_python {
        let python = python.filter(|python| check_path(&python.site_packages).is_some())?;
        Some((python, series(&python.version)?))
    } else {
        None
    };
    let mut placing = Placing::default();
    for entry in &manifest.entries {
        let path = match &python {
            Some((python, _)) => of_python(&entry.path, python),
            None => entry.path.clone(),
        };
        let mut described = json!({ "_path": path, "path_type": "hardlink" });
        let content = match prepared.changed(&package.name, &entry.path).unwrap_or(&entry.kind) {
            EntryKind::Directory => {
                placing.empty_directories.push(format!("{PREFIX}/{path}"));
                continue;
            }
            EntryKind::Link(target) => {
                described["path_type"] = "softlink".into();
                Content::Link(target.clone())
            }
            EntryKind::File { digest, mode, size } => {
                described["size_in_bytes"] = (*size).into();
                Content::Object { digest: *digest, mode: *mode, size: *size }
            }
        };
        if let Some(sha256) = &entry.sha256 {
            described["sha256"] = sha256.as_str().into();
            let installed = entry.replaced.as_ref().map_or(sha256, |replaced| &replaced.sha256);
            described["sha256_in_prefix"] = installed.as_str().into();
        }
        if let Some(replaced) = &entry.replaced {
            described["prefix_placeholder"] = replaced.placeholder.as_str().into();
            described["file_mode"] = if replaced.is_text { "text" } else { "binary" }.into();
        }
        if let Some((_, series)) = python.as_ref().filter(|_| has_extension(&path, ".py")) {
            placing.sources.push(format!("{PREFIX}/{path}"));
            placing.described.push(json!({ "_path": bytecode(&path, series), "path_type": "pyc_file" }));
        }
        placing.add(&path, content, described);
    }
    if let Some((_, series)) = &python {
        for point in &manifest.entry_points {
            let bytes = program(point, series).into_bytes();
            let path = format!("bin/{}", point.name);
            let described = json!({ "_path": path, "path_type": "unix_python_entry_point" });
            placing.add(&path, Content::Text { bytes, mode: 0o755 }, described);
        }
    }
    let record = placing.record(package);
    let path = format!("{PREFIX}/{RECORDS}/{}", record_name(&package.file_name));
    placing.files.push(File { path, content: Content::Text { bytes: record.into_bytes(), mode: 0o644 } });
    let Placing { files, empty_directories, sources, .. } = placing;
    Some(Placed { package: Package { name: package.name.clone(), files, empty_directories }, sources })
}

#[derive(Default)]
struct Placing {
    files: Vec<File>,
    empty_directories: Vec<String>,
    sources: Vec<String>,
    /// What is written down about each path.
    described: Vec<Value>,
}

impl Placing {
    fn add(&mut self, path: &str, content: Content, described: Value) {
        self.described.push(described);
        self.files.push(File { path: format!("{PREFIX}/{path}"), content });
    }

    /// The record of a package, as conda keeps it.
    fn record(&mut self, package: &LinkedPackage) -> String {
        self.described.sort_by(|one, other| one["_path"].as_str().cmp(&other["_path"].as_str()));
        let mut record: Value = serde_json::from_str(&package.record).unwrap_or_else(|_| json!({}));
        record["files"] = self.described.iter().map(|path| path["_path"].clone()).collect();
        record["paths_data"] = json!({ "paths_version": 1, "paths": std::mem::take(&mut self.described) });
        // Where conda would look for what it can use again.
        let unpacked = unpacked(&package.file_name);
        record["link"] = json!({ "source": unpacked, "type": 1 });
        record["extracted_package_dir"] = unpacked.into();
        record["package_tarball_full_path"] = format!("{UNPACKED}/{}", package.file_name).into();
        record["requested_spec"] = package.requested.first().map_or("", String::as_str).into();
        record["requested_specs"] = package.requested.clone().into();
        format!("{record:#}\n")
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    path.strip_suffix(extension).is_some_and(|stem| !stem.is_empty() && !stem.ends_with('/'))
}

/// Where a path of a package for any Python goes.
fn of_python(path: &str, python: &Python) -> String {
    if let Some(rest) = path.strip_prefix("site-packages/") {
        return format!("{}/{rest}", python.site_packages);
    }
    path.strip_prefix("python-scripts/").map_or_else(|| path.to_owned(), |rest| format!("bin/{rest}"))
}

/// Where Python looks for the bytecode of a source.
fn bytecode(path: &str, series: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut bytecode = String::from(directory);
    let stem = name.strip_suffix(".py").unwrap_or(name);
    // Writing to a text does not fail.
    let _ = write!(bytecode, "/__pycache__/{stem}.cpython-{}.pyc", series.replace('.', ""));
    bytecode.trim_start_matches('/').to_owned()
}

/// The program that calls an entry point.
fn program(point: &EntryPoint, series: &str) -> String {
    let EntryPoint { module, function, .. } = point;
    let import = function.split('.').next().unwrap_or_default();
    format!(
        "#!{PREFIX}/bin/python{series}\nimport sys\n\nfrom {module} import {import}\n\nif __name__ == \"__main__\":\n    \
         sys.exit({function}())\n"
    )
}

#[cfg(test)]
mod tests {
    use lamina_image::Digest;

    use super::*;
    use crate::manifest::{Entry, Replaced};

    fn entry(path: &str, kind: EntryKind, replaced: Option<Replaced>) -> Entry {
        Entry { path: path.to_owned(), kind, sha256: Some("aa".to_owned()), replaced }
    }

    fn file(path: &str, replaced: Option<Replaced>) -> Entry {
        entry(path, EntryKind::File { digest: Digest::of(b"x"), mode: 0o644, size: 1 }, replaced)
    }

    fn package() -> LinkedPackage {
        LinkedPackage {
            name: "demo".to_owned(),
            file_name: "demo-1.0-py_0.conda".to_owned(),
            sha256: "00".to_owned(),
            record: r#"{"name":"demo","version":"1.0","fn":"demo-1.0-py_0.conda"}"#.to_owned(),
            requested: vec!["demo>=1".to_owned()],
        }
    }

    #[test]
    fn modules_for_any_python_go_to_that_of_the_environment() {
        let manifest = Manifest {
            is_python: true,
            entries: vec![
                file("site-packages/demo/__init__.py", None),
                file("python-scripts/tool", None),
                file("share/x", None),
            ],
            entry_points: vec![EntryPoint {
                name: "demo".into(),
                module: "demo.main".into(),
                function: "App.run".into(),
            }],
            packed: Vec::new(),
        };
        assert!(place(&package(), &manifest, None, &Prepared::default()).is_none());
        let python = Python { version: "3.11.4".into(), site_packages: "lib/python3.11/site-packages".into() };
        let placed = place(&package(), &manifest, Some(&python), &Prepared::default()).unwrap();
        let paths: Vec<_> = placed.package.files.iter().map(|file| file.path.as_str()).collect();
        insta::assert_snapshot!(paths.join("\n"), @"
        /opt/conda/lib/python3.11/site-packages/demo/__init__.py
        /opt/conda/bin/tool
        /opt/conda/share/x
        /opt/conda/bin/demo
        /opt/conda/conda-meta/demo-1.0-py_0.json
        ");
        assert_eq!(placed.sources, ["/opt/conda/lib/python3.11/site-packages/demo/__init__.py"]);
        let text = |path: &str| {
            let file = placed.package.files.iter().find(|file| file.path.ends_with(path)).unwrap();
            let Content::Text { bytes, .. } = &file.content else { panic!("`{path}` is no text") };
            String::from_utf8(bytes.clone()).unwrap()
        };
        insta::assert_snapshot!(text("bin/demo"), @r#"
        #!/opt/conda/bin/python3.11
        import sys

        from demo.main import App

        if __name__ == "__main__":
            sys.exit(App.run())
        "#);
        let record: Value = serde_json::from_str(&text("conda-meta/demo-1.0-py_0.json")).unwrap();
        let files: Vec<_> = record["files"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        insta::assert_snapshot!(files.join("\n"), @"
        bin/demo
        bin/tool
        lib/python3.11/site-packages/demo/__init__.py
        lib/python3.11/site-packages/demo/__pycache__/__init__.cpython-311.pyc
        share/x
        ");
    }

    #[test]
    fn what_a_script_has_made_of_a_file_is_linked_in_its_place() {
        let entries = vec![file("share/one", None), file("share/two", None)];
        let manifest = Manifest { is_python: false, entries, entry_points: Vec::new(), packed: Vec::new() };
        let made = EntryKind::Link("elsewhere".to_owned());
        let prepared = Prepared([("demo".to_owned(), [("share/one".to_owned(), made)].into())].into());
        let placed = place(&package(), &manifest, None, &prepared).unwrap();
        let content = |path| &placed.package.files.iter().find(|file| file.path == path).unwrap().content;
        assert_eq!(content("/opt/conda/share/one"), &Content::Link("elsewhere".to_owned()));
        assert!(matches!(content("/opt/conda/share/two"), Content::Object { .. }));
    }

    #[test]
    fn records_say_what_was_replaced() {
        let replaced = Replaced { placeholder: "/p".into(), is_text: false, sha256: "bb".into() };
        let link = entry("lib/x.so", EntryKind::Link("x.so.1".into()), None);
        let empty = Entry { path: "var/empty".into(), kind: EntryKind::Directory, sha256: None, replaced: None };
        let entries = vec![file("lib/x.so.1", Some(replaced)), link, empty];
        let manifest = Manifest { is_python: false, entries, entry_points: Vec::new(), packed: Vec::new() };
        let placed = place(&package(), &manifest, None, &Prepared::default()).unwrap();
        assert_eq!(placed.package.empty_directories, ["/opt/conda/var/empty"]);
        let Content::Text { bytes, .. } = &placed.package.files.last().unwrap().content else { panic!() };
        insta::assert_snapshot!(String::from_utf8(bytes.clone()).unwrap(), @r#"
        {
          "extracted_package_dir": "/opt/conda/pkgs/demo-1.0-py_0",
          "files": [
            "lib/x.so",
            "lib/x.so.1"
          ],
          "fn": "demo-1.0-py_0.conda",
          "link": {
            "source": "/opt/conda/pkgs/demo-1.0-py_0",
            "type": 1
          },
          "name": "demo",
          "package_tarball_full_path": "/opt/conda/pkgs/demo-1.0-py_0.conda",
          "paths_data": {
            "paths": [
              {
                "_path": "lib/x.so",
                "path_type": "softlink",
                "sha256": "aa",
                "sha256_in_prefix": "aa"
              },
              {
                "_path": "lib/x.so.1",
                "file_mode": "binary",
                "path_type": "hardlink",
                "prefix_placeholder": "/p",
                "sha256": "aa",
                "sha256_in_prefix": "bb",
                "size_in_bytes": 1
              }
            ],
            "paths_version": 1
          },
          "requested_spec": "demo>=1",
          "requested_specs": [
            "demo>=1"
          ],
          "version": "1.0"
        }
        "#);
    }
}
