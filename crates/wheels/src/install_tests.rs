//! Wheels made by the tests go through a real store and its worker, which runs in a thread of the test.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use lamina_ground::{Stack, StorePath};
use lamina_store::{Layout, Store};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::bytecode::DRIVER;
use crate::record;
use crate::tests::target;

const KEY: &str = "0123456789abcdef";

/// A store in a temporary directory.
struct Stand {
    store: Store,
    directory: tempfile::TempDir,
}

impl Stand {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        let (engine, worker) = UnixStream::pair().unwrap();
        let content = layout.content();
        std::thread::spawn(move || lamina_store::worker_main(worker, &content, jobs(JobTable::new()), || ()));
        Self { store: Store::open(layout, engine).unwrap(), directory }
    }

    fn content(&self, path: &str) -> PathBuf {
        self.store.layout().content().join(path)
    }

    fn unpack(&self, wheel: &TestWheel) -> Result<LinkedWheel, JobError> {
        let mut file = tempfile::tempfile_in(self.directory.path()).unwrap();
        file.write_all(&wheel.zip).unwrap();
        file.rewind().unwrap();
        let sha256 = Digest::of(&wheel.zip).hex();
        let job = UnpackWheel { filename: format!("{}-1.0-py3-none-any.whl", wheel.name), sha256: sha256.clone() };
        self.store.job(&job, &[file.as_fd()])?;
        self.store.job(&PublishWheels { names: vec![manifest_name(&sha256)], forget: false }, &[])?;
        Ok(LinkedWheel { name: wheel.name.clone(), sha256, requested: true, direct_url: None })
    }

    fn link(&self, work: &Work, wheels: Vec<LinkedWheel>) -> Result<lamina_packages::Linked, JobError> {
        let job = LinkWheels {
            work: work.id().to_owned(),
            layers: Stack::from_bottom_up(["views/base".into()]),
            target: target(),
            installer: Installer::Uv,
            programs: ProgramForm::Uv,
            bytecode_key: KEY.to_owned(),
            wheels,
            lock: None,
        };
        self.store.job(&job, &[])
    }

    /// Paths, modes and contents of an upper's files.
    fn files(&self, work: &Work) -> BTreeMap<String, (u32, Vec<u8>)> {
        let root = self.content(work.upper().as_str());
        let mut files = BTreeMap::new();
        let mut waiting = vec![root.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                    continue;
                }
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, (mode, fs::read(self.bytes(path)).unwrap()));
            }
        }
        files
    }

    /// Where the bytes of a file are: in an object, where the file says so.
    fn bytes(&self, path: PathBuf) -> PathBuf {
        let mut object = [0; 64];
        match rustix::fs::getxattr(&path, "user.overlay.redirect", &mut object[..]) {
            Ok(length) => self.content(&format!("objects{}", String::from_utf8_lossy(&object[..length]))),
            Err(_) => path,
        }
    }
}

struct TestWheel {
    name: String,
    zip: Vec<u8>,
}

/// A wheel of these files, with correct metadata; `edit` may spoil its `RECORD`.
fn wheel_with(name: &str, files: &[(&str, &str)], edit: impl Fn(String) -> String) -> TestWheel {
    let metadata = format!("{name}-1.0.dist-info");
    let mut all: Vec<(String, String)> =
        files.iter().map(|(path, contents)| ((*path).to_owned(), (*contents).to_owned())).collect();
    all.push((format!("{metadata}/METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")));
    all.push((
        format!("{metadata}/WHEEL"),
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
    ));
    let mut lines = String::new();
    for (path, contents) in &all {
        let digest = record::digest(contents.as_bytes());
        lines += &[path, ",", &digest, ",", &contents.len().to_string(), "\n"].concat();
    }
    all.push((format!("{metadata}/RECORD"), edit(lines)));
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, contents) in &all {
        writer.start_file(path.as_str(), SimpleFileOptions::default()).unwrap();
        writer.write_all(contents.as_bytes()).unwrap();
    }
    TestWheel { name: name.to_owned(), zip: writer.finish().unwrap().into_inner() }
}

fn wheel(name: &str, files: &[(&str, &str)]) -> TestWheel {
    wheel_with(name, files, |record| record)
}

const SITE: &str = "usr/local/lib/python3.11/dist-packages";

#[test]
fn a_wheel_is_installed_with_scripts_and_metadata() {
    let stand = Stand::new();
    let base = stand.content("views/base/usr/local/lib");
    fs::create_dir_all(&base).unwrap();
    fs::set_permissions(&base, std::fs::Permissions::from_mode(0o2775)).unwrap();
    let demo = wheel(
        "demo",
        &[
            ("demo/__init__.py", "def main(): pass\n"),
            ("demo-1.0.dist-info/entry_points.txt", "[console_scripts]\ndemo = demo:main\n"),
            ("demo-1.0.data/scripts/tool", "#!python\nprint()\n"),
            ("demo-1.0.data/data/share/demo/readme", "hello\n"),
        ],
    );
    let linked = stand.unpack(&demo).unwrap();
    let work = stand.store.new_work().unwrap();
    let outcome = stand.link(&work, vec![linked]).unwrap();
    assert_eq!(outcome.warnings, Vec::<String>::new());
    let files = stand.files(&work);
    assert_eq!(outcome.files, files.len() as u64);
    assert_eq!(files[&format!("{SITE}/demo/__init__.py")], (0o644, b"def main(): pass\n".to_vec()));
    assert_eq!(files["usr/local/bin/tool"], (0o755, b"#!/usr/bin/python3\nprint()\n".to_vec()));
    assert_eq!(files["usr/local/bin/demo"].0, 0o755);
    assert_eq!(files["usr/local/share/demo/readme"].1, b"hello\n");
    assert_eq!(files[&format!("{SITE}/demo-1.0.dist-info/REQUESTED")].1, b"");
    let mode = |path: &str| {
        let path = stand.content(work.upper().as_str()).join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode("usr/local/lib"), mode(SITE)), (0o2775, 0o755));

    let again = stand.store.new_work().unwrap();
    stand.link(&again, vec![stand.unpack(&demo).unwrap()]).unwrap();
    assert_eq!(stand.files(&again), files);
}

/// Why linking this wheel into an upper is left to the installer.
fn left(prepare: impl Fn(&Path), wheel: &TestWheel) -> String {
    let stand = Stand::new();
    let work = stand.store.new_work().unwrap();
    prepare(&stand.content(work.upper().as_str()));
    let error = stand.link(&work, vec![stand.unpack(wheel).unwrap()]).unwrap_err();
    assert_eq!(error.kind, NOT_LINKABLE, "{}", error.message);
    error.message
}

#[test]
fn links_in_the_upper_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    for script in ["#!python\nprint()\n", "#!/bin/sh\n"] {
        let stand = Stand::new();
        let work = stand.store.new_work().unwrap();
        let programs = stand.content(work.upper().as_str()).join("usr/local/bin");
        fs::create_dir_all(&programs).unwrap();
        std::os::unix::fs::symlink(&target, programs.join("tool")).unwrap();
        let demo = wheel("demo", &[("demo-1.0.data/scripts/tool", script)]);
        stand.link(&work, vec![stand.unpack(&demo).unwrap()]).unwrap();
        assert!(!target.exists() && fs::symlink_metadata(programs.join("tool")).unwrap().is_file());
        assert!(stand.files(&work)["usr/local/bin/tool"].1.ends_with(&script.as_bytes()[8..]));
    }
    let elsewhere = |upper: &Path| {
        fs::create_dir_all(upper.join("usr/local")).unwrap();
        std::os::unix::fs::symlink(outside.path(), upper.join("usr/local/bin")).unwrap();
    };
    let message = left(elsewhere, &wheel("demo", &[("demo-1.0.data/scripts/tool", "#!python\n")]));
    assert_eq!(message, "`/usr/local/bin` of the image is not a plain directory");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn wheels_that_the_installer_treats_in_its_own_way_are_left_to_it() {
    assert_eq!(left(|_| (), &wheel("pip", &[])), "`pip` gets programs that its wheel does not name");
    let entry_points = ("demo-1.0.dist-info/entry_points.txt", "[console_scripts]\npython3 = demo:main\n");
    let message = left(|_| (), &wheel("demo", &[entry_points]));
    assert_eq!(message, "`demo` has a script `python3`, a name with a meaning of its own");
    let message = left(|_| (), &wheel("demo", &[("demo-1.0.data/scripts/activate", "#!python\n")]));
    assert_eq!(message, "`demo` has a script `activate`, a name with a meaning of its own");
}

#[test]
fn of_two_wheels_with_the_same_path_the_last_wins() {
    let stand = Stand::new();
    let one =
        wheel("alpha", &[("shared/__init__.py", ""), ("shared/same.py", "same = 1\n"), ("shared/x.py", "x = 1\n")]);
    let two =
        wheel("beta", &[("shared/__init__.py", ""), ("shared/same.py", "same = 1\n"), ("shared/x.py", "x = 2\n")]);
    let wheels = vec![stand.unpack(&one).unwrap(), stand.unpack(&two).unwrap()];
    let work = stand.store.new_work().unwrap();
    let outcome = stand.link(&work, wheels).unwrap();
    assert_eq!(
        outcome.warnings,
        [format!("`alpha` and `beta` both install `/{SITE}/shared/x.py`; the files of `beta` stay")]
    );
    assert_eq!(stand.files(&work)[&format!("{SITE}/shared/x.py")].1, b"x = 2\n");
}

#[test]
fn a_wheel_that_lies_is_for_the_installer() {
    let stand = Stand::new();
    let module = [("demo/__init__.py", "a = 1\n")];
    let spoiled = wheel_with("demo", &module, |record| record.replacen("sha256=", "sha256=x", 1));
    let outside = wheel_with("demo", &module, |record| record + "../../../etc/passwd,sha256=x,1\n");
    let unknown = wheel("demo", &[("demo-1.0.data/etc/passwd", "x")]);
    let mut renamed = wheel("demo", &module);
    "other".clone_into(&mut renamed.name);
    for (wheel, reason) in [
        (spoiled, "`demo/__init__.py` does not have the digest"),
        (outside, "../../../etc/passwd"),
        (unknown, "`demo-1.0.data/etc/passwd` is in no part"),
        (renamed, "it holds the distribution `demo`"),
    ] {
        let error = stand.unpack(&wheel).err().unwrap();
        assert_eq!(error.kind, UNUSUAL);
        assert!(error.message.contains(reason), "{}", error.message);
    }
}

#[test]
fn a_wheel_that_leads_elsewhere_is_refused() {
    let stand = Stand::new();
    let points = [("demo-1.0.dist-info/entry_points.txt", "[console_scripts]\n../x = demo:main\n")];
    for wheel in [wheel("demo", &points), wheel("demo", &[("../../x", "")])] {
        assert_eq!(stand.unpack(&wheel).err().unwrap().kind, DANGEROUS);
    }
}

#[test]
fn an_image_that_redirects_a_directory_needs_the_installer() {
    let stand = Stand::new();
    fs::create_dir_all(stand.content("views/base/usr")).unwrap();
    fs::os::unix::fs::symlink("/tmp", stand.content("views/base/usr/local")).unwrap();
    let wheels = vec![stand.unpack(&wheel("demo", &[("demo.py", "")])).unwrap()];
    let work = stand.store.new_work().unwrap();
    assert_eq!(stand.link(&work, wheels).unwrap_err().kind, NOT_LINKABLE);
}

#[test]
fn what_the_store_has_lost_is_noticed() {
    let stand = Stand::new();
    let linked = stand.unpack(&wheel("demo", &[("demo.py", "lost = 1\n")])).unwrap();
    let sha256 = linked.sha256.clone();
    fs::remove_dir_all(stand.content("objects")).unwrap();
    let work = stand.store.new_work().unwrap();
    assert_eq!(stand.link(&work, vec![linked]).unwrap_err().kind, MISSING);
    let query = || QueryWheels { wheels: vec![sha256.clone()], bytecode_key: KEY.to_owned() };
    let unpacked = State::Unpacked { source_bytes: 9 };
    assert_eq!(stand.store.job(&query(), &[]).unwrap(), [unpacked]);
    stand.store.job(&PublishWheels { names: vec![manifest_name(&sha256)], forget: true }, &[]).unwrap();
    assert_eq!(stand.store.job(&query(), &[]).unwrap(), [State::Missing]);
}

#[test]
fn damaged_descriptions_are_found_and_their_wheels_unpacked_again() {
    let stand = Stand::new();
    let names = ["flipped", "cut", "sound"];
    let wheels = names.map(|name| wheel(name, &[("demo.py", &format!("# {name}\n"))]));
    let linked: Vec<LinkedWheel> = wheels.iter().map(|wheel| stand.unpack(wheel).unwrap()).collect();
    let description = |wheel: &LinkedWheel| format!("wheels/{}", manifest_name(&wheel.sha256));
    let check = || stand.store.check(None, &CancelToken::new(), &|_, _| ()).unwrap();
    let checked = check();
    assert_eq!((checked.packages, checked.is_damaged()), (3, false));

    let flipped = stand.content(&description(&linked[0]));
    let text = fs::read_to_string(&flipped).unwrap();
    fs::write(&flipped, text.replacen("demo.py", "dema.py", 1)).unwrap();
    fs::File::options().write(true).open(stand.content(&description(&linked[1]))).unwrap().set_len(100).unwrap();
    // What a dead process left is no damage.
    fs::write(stand.content("wheels/00.json.new"), "{").unwrap();
    let mut checked = check();
    let mut found: Vec<String> =
        checked.damaged_descriptions.iter().map(|damaged| damaged.path.display().to_string()).collect();
    found.sort();
    let mut expected = [description(&linked[0]), description(&linked[1])];
    expected.sort();
    assert_eq!(found, expected);
    assert!(checked.is_damaged());
    let hashes = linked.iter().map(|wheel| wheel.sha256.clone()).collect::<Vec<_>>();
    let query = QueryWheels { wheels: hashes, bytecode_key: KEY.to_owned() };
    let unpacked = State::Unpacked { source_bytes: 8 };
    assert_eq!(
        stand.store.job(&query, &[]).unwrap(),
        [State::Missing, State::Missing, unpacked],
        "nobody believes them"
    );

    stand.store.repair(&mut checked, &CancelToken::new(), &|| ()).unwrap();
    assert!(!checked.is_damaged());
    assert!(!flipped.exists() && stand.content(&description(&linked[2])).exists());
    assert!(!check().is_damaged());
    let again = stand.unpack(&wheels[0]).unwrap();
    assert_eq!(fs::read_to_string(&flipped).unwrap(), text);
    let work = stand.store.new_work().unwrap();
    stand.link(&work, vec![again]).unwrap();
}

#[test]
fn a_description_that_names_what_is_gone_is_damaged() {
    let stand = Stand::new();
    let linked = stand.unpack(&wheel("demo", &[("demo.py", "lost = 1\n")])).unwrap();
    let object = lamina_store::ObjectName::new(&Digest::of(b"lost = 1\n")).path();
    fs::remove_file(stand.store.layout().content().join(&object)).unwrap();
    let mut checked = stand.store.check(None, &CancelToken::new(), &|_, _| ()).unwrap();
    let problem = &checked.damaged_descriptions[0].problem;
    assert_eq!(*problem, format!("names the object `{}`, which is not there", object.display()));
    stand.store.repair(&mut checked, &CancelToken::new(), &|| ()).unwrap();
    assert!(!stand.content(&format!("wheels/{}", manifest_name(&linked.sha256))).exists());
}

#[test]
fn modules_are_compiled_once_with_their_final_path() {
    let stand = Stand::new();
    let demo = wheel(
        "demo",
        &[("demo/__init__.py", ""), ("demo/good.py", "def where(): pass\n"), ("demo/bad.py", "def (:\n")],
    );
    let linked = stand.unpack(&demo).unwrap();
    let probe = "import sys; print(sys.implementation.cache_tag, '%d.%d' % sys.version_info[:2])";
    let answer = Command::new("python3").args(["-c", probe]).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    let (tag, python) = answer.trim().split_once(' ').unwrap();
    let mut interpreter = Command::new("python3")
        .args(["-sSBW", "ignore", "-c", DRIVER, tag])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stdout) = (interpreter.stdin.take().unwrap(), interpreter.stdout.take().unwrap());
    let target = Target { python: python.to_owned(), ..target() };
    let job = CompileWheel {
        name: "demo".to_owned(),
        sha256: linked.sha256.clone(),
        bytecode_key: KEY.to_owned(),
        target: target.clone(),
    };
    stand.store.job(&job, &[stdin.as_fd(), stdout.as_fd()]).unwrap();
    drop(stdin);
    assert!(interpreter.wait().unwrap().success());

    let work = stand.store.new_work().unwrap();
    let link = LinkWheels {
        work: work.id().to_owned(),
        layers: Stack::new(),
        target,
        installer: Installer::Pip,
        programs: ProgramForm::Pip,
        bytecode_key: KEY.to_owned(),
        wheels: vec![linked],
        lock: None,
    };
    stand.store.job(&link, &[]).unwrap();
    let files = stand.files(&work);
    let (mode, bytecode) = &files[&format!("{SITE}/demo/__pycache__/good.{tag}.pyc")];
    let path = format!("/{SITE}/demo/good.py");
    let source = u32::try_from(files[&path[1..]].1.len()).unwrap();
    let time = u32::try_from(lamina_store::Timestamp::PACKAGE.seconds).unwrap();
    let expected = [0, time, source].map(u32::to_le_bytes).concat();
    assert_eq!((*mode, &bytecode[4..16]), (0o644, &expected[..]), "it names the time and the size of its source");
    assert!(bytecode.windows(path.len()).any(|window| window == path.as_bytes()));
    assert_eq!(files.keys().filter(|path| path.contains("__pycache__")).count(), 2);
}

#[test]
fn installed_distributions_are_found_through_layers() {
    let stand = Stand::new();
    for path in [
        "views/low/site/alpha-1.0.dist-info",
        "views/low/site/beta-2.0.dist-info",
        "views/top/site/alpha-1.1.dist-info",
    ] {
        fs::create_dir_all(stand.content(path)).unwrap();
    }
    let layers = Stack::from_top_down(["views/top".into(), "views/low".into()]);
    let found = survey(&stand, Installer::Uv, &layers).installed;
    let found: Vec<_> = found.iter().map(|one| format!("{}=={}", one.name, one.version)).collect();
    assert_eq!(found, ["alpha==1.1", "beta==2.0"]);
}

/// Looks into `/site` of an image.
fn survey(stand: &Stand, installer: Installer, layers: &Stack<StorePath>) -> crate::Survey {
    let (environment, sites) = (BTreeMap::new(), ["/site".to_owned(), "/nowhere".to_owned()]);
    let target = target();
    let inside = crate::Inside {
        installer,
        target: &target,
        environment: &environment,
        working_directory: "/",
        sites: &sites,
        unwanted: &[],
        trusted: 1,
    };
    crate::survey(&stand.store, layers, &inside).unwrap()
}

#[test]
fn path_files_count_as_they_do_for_python() {
    let stand = Stand::new();
    fs::create_dir_all(stand.content("views/base/site")).unwrap();
    fs::create_dir_all(stand.content("views/top/site/owner-1.0.dist-info")).unwrap();
    fs::create_dir_all(stand.content("views/top/elsewhere/alpha-1.0.dist-info")).unwrap();
    let layers = Stack::from_top_down(["views/top".into(), "views/base".into()]);
    fs::write(stand.content("views/base/site/base.pth"), "import base\n").unwrap();
    fs::write(stand.content("views/top/site/more.pth"), "# why\n/elsewhere\n").unwrap();
    let names = |installer| survey(&stand, installer, &layers).installed.into_iter().map(|one| one.name);
    assert_eq!(names(Installer::Pip).collect::<Vec<_>>(), ["alpha", "owner"]);
    assert_eq!(names(Installer::Uv).collect::<Vec<_>>(), ["owner"]);

    fs::write(stand.content("views/top/site/code.pth"), "import os; os.x = 1\n").unwrap();
    let obeyed = survey(&stand, Installer::Uv, &layers).obeyed;
    assert_eq!(obeyed.as_deref(), Some("`/site/code.pth` of the image changes its interpreter"));
    fs::write(stand.content("views/top/site/owner-1.0.dist-info/RECORD"), "a,,\ncode.pth,sha256=x,1\n").unwrap();
    assert_eq!(survey(&stand, Installer::Uv, &layers).obeyed, None);
}

#[test]
fn empty_directories_are_made_for_uv() {
    let stand = Stand::new();
    let mut demo = wheel("demo", &[("demo/__init__.py", "")]);
    let mut writer = ZipWriter::new_append(std::io::Cursor::new(demo.zip)).unwrap();
    writer.add_directory("demo/empty/", SimpleFileOptions::default()).unwrap();
    demo.zip = writer.finish().unwrap().into_inner();
    let wheels = vec![stand.unpack(&demo).unwrap()];
    let work = stand.store.new_work().unwrap();
    stand.link(&work, wheels).unwrap();
    assert!(stand.content(work.upper().as_str()).join(SITE).join("demo/empty").is_dir());
}

#[test]
fn what_an_earlier_program_unpacked_is_unpacked_again() {
    let stand = Stand::new();
    let demo = wheel("demo", &[("demo-1.0.data/scripts/tool", "print()\n")]);
    let linked = stand.unpack(&demo).unwrap();
    let (name, earlier) = (manifest_name(&linked.sha256), file_name(&linked.sha256, None));
    let text = fs::read_to_string(stand.content(&format!("wheels/{name}"))).unwrap();
    let (_, fields) = text.split_once(',').unwrap();
    fs::write(
        stand.content(&format!("wheels/{earlier}")),
        format!("{{{}", fields.replace("\"mode\":420", "\"mode\":493")),
    )
    .unwrap();
    stand.store.job(&PublishWheels { names: vec![name], forget: true }, &[]).unwrap();
    let query = QueryWheels { wheels: vec![linked.sha256.clone()], bytecode_key: KEY.to_owned() };
    assert_eq!(stand.store.job(&query, &[]).unwrap(), [State::Missing]);
    stand.unpack(&demo).unwrap();
    let work = stand.store.new_work().unwrap();
    let job = LinkWheels {
        work: work.id().to_owned(),
        layers: Stack::new(),
        target: target(),
        installer: Installer::Pip,
        programs: ProgramForm::Pip,
        bytecode_key: KEY.to_owned(),
        wheels: vec![linked],
        lock: None,
    };
    stand.store.job(&job, &[]).unwrap();
    assert_eq!(stand.files(&work)["usr/local/bin/tool"].0, 0o644);
    let checked = stand.store.check(None, &CancelToken::new(), &|_, _| ()).unwrap();
    assert_eq!((checked.packages, checked.is_damaged()), (1, false), "both describe one package");
}
