//! Which files an installed wheel consists of, metadata included.

use lamina_packages::{Content, File, Package};
use serde::{Deserialize, Serialize};

use crate::manifest::{Bytecode, Manifest, ManifestFile, Place};
use crate::record::{self, Record};
use crate::request::{Installer, Target};
use crate::scripts::{self, ProgramForm};

/// A wheel to install.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkedWheel {
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) requested: bool,
    /// The text of its `direct_url.json`, if it was asked for by its address.
    pub(crate) direct_url: Option<String>,
}

/// All that installing `wheel` leaves on `target`, bytecode aside, of which pip's `RECORD` tells.
pub(crate) fn place(
    wheel: &LinkedWheel,
    manifest: &Manifest,
    bytecode: &Bytecode,
    target: &Target,
    (installer, form): (Installer, ProgramForm),
) -> Package {
    let mut placing =
        Placing { target, files: Vec::with_capacity(manifest.files.len() + 8), record: Record::default() };
    let path_on = |path: &str| manifest.path_on(path, target, &wheel.name);
    for file in &manifest.files {
        if let Some(path) = path_on(&file.path) {
            // `uv` makes every script executable, pip leaves them as they are in the wheel.
            let is_script = matches!(manifest.place(&file.path), Some((Place::Scripts, _)));
            let mode = if is_script && installer == Installer::Uv { 0o755 } else { file.mode };
            placing.add_file(path, file, mode);
        }
    }
    if installer == Installer::Pip {
        for (_, file) in place_bytecode(wheel, manifest, bytecode, target) {
            placing.record.add_path(relative(&file.path, &target.site_packages));
        }
    }
    for point in &manifest.entry_points {
        let program = scripts::program(point, &target.interpreter, form);
        let path = format!("{}/{}", Place::Scripts.directory(target, &wheel.name), point.name);
        placing.add_text(path, program.into_bytes(), 0o755);
    }
    let metadata = format!("{}/{}", target.site_packages, manifest.dist_info);
    placing.add_text(format!("{metadata}/INSTALLER"), installer.signature().into(), 0o644);
    if wheel.requested {
        placing.add_text(format!("{metadata}/REQUESTED"), Vec::new(), 0o644);
    }
    if let Some(text) = &wheel.direct_url {
        placing.add_text(format!("{metadata}/direct_url.json"), text.clone().into_bytes(), 0o644);
    }
    let record = placing.record.finish(format!("{}/RECORD", manifest.dist_info), installer);
    let content = Content::Text { bytes: record, mode: 0o644 };
    placing.files.push(File { path: format!("{metadata}/RECORD"), content });
    let empty = manifest.empty_directories.iter().filter(|_| installer == Installer::Uv);
    let empty_directories = empty.filter_map(|path| path_on(path)).collect();
    Package { name: wheel.name.clone(), files: placing.files, empty_directories }
}

/// The bytecode of a wheel's modules, each with the path of its source.
pub(crate) fn place_bytecode(
    wheel: &LinkedWheel,
    manifest: &Manifest,
    bytecode: &Bytecode,
    target: &Target,
) -> Vec<(String, File)> {
    let Some((major, minor)) = target.python_minor() else {
        return Vec::new();
    };
    let files = bytecode.files.iter().filter_map(|(path, digest)| {
        let source = manifest.path_on(path, target, &wheel.name)?;
        let (directory, name) = source.rsplit_once('/')?;
        let stem = name.strip_suffix(".py").unwrap_or(name);
        let path = format!("{directory}/__pycache__/{stem}.cpython-{major}{minor}.pyc");
        // Nobody asked for it, so it does not count in what is reported.
        let content = Content::Object { digest: *digest, mode: 0o644, size: 0 };
        Some((source, File { path, content }))
    });
    files.collect()
}

struct Placing<'a> {
    target: &'a Target,
    files: Vec<File>,
    record: Record,
}

impl Placing<'_> {
    fn add_file(&mut self, path: String, file: &ManifestFile, mode: u32) {
        if let Some(script) = &file.script {
            return self.add_text(path, scripts::with_interpreter(script, &self.target.interpreter), mode);
        }
        self.record.add(relative(&path, &self.target.site_packages), &file.record, file.size);
        let content = Content::Object { digest: file.digest, mode, size: file.size };
        self.files.push(File { path, content });
    }

    fn add_text(&mut self, path: String, bytes: Vec<u8>, mode: u32) {
        self.record.add(relative(&path, &self.target.site_packages), &record::digest(&bytes), bytes.len() as u64);
        self.files.push(File { path, content: Content::Text { bytes, mode } });
    }
}

/// An absolute path, as seen from a directory.
fn relative(path: &str, directory: &str) -> String {
    if let Some(rest) = path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')) {
        return rest.to_owned();
    }
    let shared = path.split('/').zip(directory.split('/')).take_while(|(one, other)| one == other).count();
    let up = directory.split('/').skip(shared).map(|_| "..");
    up.chain(path.split('/').skip(shared)).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use lamina_image::Digest;

    use super::*;
    use crate::scripts::EntryPoint;
    use crate::tests::target;

    fn file(path: &str, script: Option<&str>) -> ManifestFile {
        ManifestFile {
            path: path.to_owned(),
            digest: Digest::of(path.as_bytes()),
            mode: 0o644,
            size: 3,
            record: "sha256=abc".to_owned(),
            script: script.map(|script| script.as_bytes().to_vec()),
        }
    }

    #[test]
    fn an_installed_wheel_has_its_metadata() {
        let manifest = Manifest {
            dist_info: "demo-1.0.dist-info".to_owned(),
            files: vec![
                file("demo/__init__.py", None),
                file("demo-1.0.data/scripts/tool", Some("#!python\npass\n")),
                file("demo-1.0.data/data/share/demo.txt", None),
            ],
            empty_directories: Vec::new(),
            entry_points: vec![EntryPoint { name: "demo".into(), module: "demo".into(), function: "main".into() }],
        };
        let wheel = LinkedWheel {
            name: "demo".to_owned(),
            sha256: "00".to_owned(),
            requested: true,
            direct_url: Some(r#"{"url":"https://files.invalid/demo-1.0-py3-none-any.whl"}"#.to_owned()),
        };
        let bytecode = Bytecode { files: [("demo/__init__.py".to_owned(), Digest::of(b"bytecode"))].into() };
        let place = |installer| {
            let form = ProgramForm::of(installer, Some("23.0.1")).unwrap();
            place(&wheel, &manifest, &bytecode, &target(), (installer, form)).files
        };
        let placed = place(Installer::Uv);
        assert_eq!(placed, place(Installer::Uv));
        let text = |path: &str| match &placed.iter().find(|file| file.path.ends_with(path)).unwrap().content {
            Content::Text { bytes, mode } => (String::from_utf8(bytes.clone()).unwrap(), *mode),
            _ => panic!("`{path}` is no text"),
        };
        assert_eq!(text("/bin/tool"), ("#!/usr/bin/python3\npass\n".to_owned(), 0o755));
        assert_eq!(text("/bin/demo").1, 0o755);
        assert_eq!(text("/INSTALLER").0, "uv");
        assert_eq!(Some(&text("/direct_url.json").0), wheel.direct_url.as_ref());
        insta::assert_snapshot!(text("/RECORD").0, @"
        ../../../bin/demo,sha256=PMZz4CtJDiHtQQMyK1TX8ACI3hCsQT5foH_7qOC8JSY,286
        ../../../bin/tool,sha256=4vtVx5c8L8HQwv2lwzbULBcR69rvfBdaIC7StC6uPK0,24
        ../../../share/demo.txt,sha256=abc,3
        demo-1.0.dist-info/INSTALLER,sha256=5hhM4Q4mYTT9z6QB6PGpUAW81PGNFrYrdXMj4oM_6ak,2
        demo-1.0.dist-info/RECORD,,
        demo-1.0.dist-info/REQUESTED,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0
        demo-1.0.dist-info/direct_url.json,sha256=7Xo3jXHrvaddxtxYCYJ2MRJQLXjuVQQsDcdgKpODDnE,57
        demo/__init__.py,sha256=abc,3
        ");
        let of_pip = place(Installer::Pip);
        let file = |path: &str| of_pip.iter().find(|file| file.path.ends_with(path)).map(|file| &file.content);
        let Some(Content::Text { bytes, .. }) = file("/RECORD") else { panic!("there is no RECORD") };
        let record = String::from_utf8_lossy(bytes);
        assert!(record.contains("\r\ndemo/__pycache__/__init__.cpython-311.pyc,,\r\n"), "{record}");
        assert!(matches!(file("/bin/tool"), Some(Content::Text { mode: 0o644, .. })));
    }

    #[test]
    fn paths_are_relative_to_the_site() {
        assert_eq!(relative("/usr/local/bin/x", "/usr/local/lib/python3.11/dist-packages"), "../../../bin/x");
        assert_eq!(relative("/a/b/c", "/a/b"), "c");
        assert_eq!(relative("/a/bc", "/a/b"), "../bc");
    }
}
