use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc;

use tempfile::TempDir;

use lamina_events::CancelToken;
use lamina_ground::Hint;
use lamina_store::Layout;

use crate::records::{KEPT_APPS, KEPT_BYTES};
use crate::*;

struct Fixture {
    directory: TempDir,
    apps: DetachedApps,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        Self { directory, apps: DetachedApps::new(layout) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("store/apps").join(name)
    }

    fn start(&self, id: &str, started: u64) -> OwnedFd {
        self.apps.create(&record(id, started), &CancelToken::new(), || ()).unwrap()
    }

    /// Runs an app that prints and ends.
    fn run(&self, id: &str, started: u64, prints: &[u8]) {
        let app = self.apps.adopt(id, self.start(id, started)).unwrap();
        print(&mut app.log().unwrap(), Source::Stdout, prints);
        app.end(0).unwrap();
    }

    fn state(&self, id: &str) -> AppState {
        self.apps.get(id).unwrap().unwrap().state
    }

    fn ids(&self) -> Vec<String> {
        self.apps.list().unwrap().into_iter().map(|app| app.record.id).collect()
    }
}

pub(crate) fn record(id: &str, started: u64) -> AppRecord {
    let arguments = vec!["--n".to_owned(), "5".to_owned()];
    AppRecord { arguments, ..AppRecord::new(id, "app.py::main", "/home/ada", started) }
}

/// What a reading shows, pieces of one stream joined.
fn shown(reading: impl FnOnce(&mut Show<'_>) -> ControlFlow<std::io::Error>) -> Vec<(Source, String)> {
    let mut pieces: Vec<(Source, String)> = Vec::new();
    let outcome = reading(&mut |entry| {
        let text = String::from_utf8_lossy(&entry.data);
        match pieces.last_mut() {
            Some((last, all)) if *last == entry.source => all.push_str(&text),
            _ => pieces.push((entry.source, text.into_owned())),
        }
        ControlFlow::Continue(())
    });
    assert!(outcome.is_continue());
    pieces
}

fn print(log: &mut LogWriter, source: Source, data: &[u8]) {
    log.write(&LogEntry::new(Some(1), source, data));
}

#[test]
fn the_format_is_what_is_documented() {
    let fixture = Fixture::new();
    let app = fixture.apps.adopt("ap-1", fixture.start("ap-1", 1_000)).unwrap();
    app.set_name("demo").unwrap();
    let line = |text: &str| format!("{text:<63}\n").into_bytes();
    let state = || fs_err::read(fixture.file("ap-1/state")).unwrap();
    assert_eq!(state(), line(&format!("running {}", std::process::id())));
    app.end(3).unwrap();
    let AppState::Ended { time, .. } = ({
        drop(app);
        fixture.state("ap-1")
    }) else {
        panic!("it has ended")
    };
    assert_eq!(state(), line(&format!("ended 3 {time}")));
    assert_eq!(
        fs_err::read_to_string(fixture.file("ap-1/record.json")).unwrap(),
        "{\"version\":1,\"id\":\"ap-1\",\"name\":\"demo\",\"reference\":\"app.py::main\",\
         \"arguments\":[\"--n\",\"5\"],\"directory\":\"/home/ada\",\"started\":1000,\"number\":1}\n"
    );
}

#[test]
fn records_of_earlier_versions_are_read() {
    let fixture = Fixture::new();
    let listing = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/tests/data/format-2/files.jsonl");
    for line in fs_err::read_to_string(listing).unwrap().lines() {
        let file: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(path) = file["path"].as_str().unwrap().strip_prefix("apps/") else { continue };
        match file["text"].as_str() {
            Some(text) => fs_err::write(fixture.file(path), text).unwrap(),
            None => fs_err::create_dir_all(fixture.file(path)).unwrap(),
        }
    }
    let app = fixture.apps.find("demo").unwrap();
    assert_eq!((&*app.record.id, app.record.number), ("ap-0123456789abcdefghijkl", 1));
    assert_eq!(app.state, AppState::Ended { code: 0, time: 1_795_889_440 });
    let mut reader = fixture.apps.log(&app.record.id).unwrap();
    assert_eq!(shown(|show| reader.read(show).unwrap()), [(Source::Stdout, "ok\n".to_owned())]);
}

#[test]
fn only_the_owner_can_read_records() {
    let fixture = Fixture::new();
    fixture.run("ap-1", 1, b"secret");
    for (name, mode) in
        [("", 0o700), ("ap-1", 0o700), ("ap-1/record.json", 0o600), ("ap-1/log", 0o700), ("ap-1/log/0000000001", 0o600)]
    {
        let found = fs_err::metadata(fixture.file(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn an_app_runs_while_its_lock_is_held() {
    let fixture = Fixture::new();
    let held = fixture.start("ap-1", 1);
    assert_eq!(fixture.state("ap-1"), AppState::Running { pid: None });
    let app = fixture.apps.adopt("ap-1", held).unwrap();
    assert_eq!(fixture.state("ap-1"), AppState::Running { pid: Some(std::process::id()) });
    app.end(7).unwrap();
    assert!(fixture.state("ap-1").is_running(), "its process is still there");
    drop(app);
    assert!(matches!(fixture.state("ap-1"), AppState::Ended { code: 7, .. }));
}

#[test]
fn one_that_was_killed_has_died_until_somebody_notes_how() {
    let fixture = Fixture::new();
    let app = fixture.apps.adopt("ap-1", fixture.start("ap-1", 1)).unwrap();
    fixture.apps.note_death("ap-1", 137).unwrap();
    assert!(fixture.state("ap-1").is_running());
    drop(app);
    assert_eq!(fixture.state("ap-1"), AppState::Died);
    fixture.apps.note_death("ap-1", 137).unwrap();
    assert!(matches!(fixture.state("ap-1"), AppState::Ended { code: 137, .. }));
    fixture.apps.note_death("ap-1", 1).unwrap();
    assert!(matches!(fixture.state("ap-1"), AppState::Ended { code: 137, .. }));
}

#[test]
fn whoever_waits_for_the_end_does_not_keep_a_death_from_being_noted() {
    let fixture = Fixture::new();
    drop(fixture.start("ap-1", 1));
    let waiting = fs_err::File::open(fixture.file("ap-1/state")).unwrap();
    rustix::fs::flock(waiting.file(), rustix::fs::FlockOperation::LockShared).unwrap();
    let (sender, receiver) = mpsc::channel();
    let apps = fixture.apps.clone();
    let noting = std::thread::spawn(move || {
        sender.send(()).unwrap();
        apps.note_death("ap-1", 137).unwrap();
    });
    receiver.recv().unwrap();
    // Long enough for an attempt that fails; one that waits may begin later as well.
    std::thread::sleep(std::time::Duration::from_millis(50));
    drop(waiting);
    noting.join().unwrap();
    assert!(matches!(fixture.state("ap-1"), AppState::Ended { code: 137, .. }));
}

#[test]
fn no_app_starts_while_somebody_forbids_it() {
    let fixture = Fixture::new();
    let forbidden = fixture.apps.forbid_starts(&CancelToken::new(), || ()).unwrap();
    let cancel = CancelToken::new();
    let create = || fixture.apps.create(&record("ap-1", 1), &cancel, || cancel.cancel());
    assert!(matches!(create(), Err(AppsError::Cancelled(_))));
    assert!(!fixture.file("ap-1").exists());
    drop(forbidden);
    fixture.run("ap-2", 1, b"");
}

#[test]
fn the_order_of_apps_does_not_depend_on_the_clock() {
    let fixture = Fixture::new();
    for (id, started) in [("ap-9", 1_000), ("ap-8", 1_000), ("ap-7", 10)] {
        fixture.run(id, started, b"");
    }
    assert_eq!(fixture.ids(), ["ap-7", "ap-8", "ap-9"]);
    fixture.apps.remove_old(1, KEPT_BYTES).unwrap();
    assert_eq!(fixture.ids(), ["ap-7"]);
}

#[test]
fn nobody_else_can_take_a_record_over() {
    let fixture = Fixture::new();
    let _held = fixture.start("ap-1", 1);
    let other = fixture.start("ap-2", 1);
    assert!(matches!(fixture.apps.adopt("ap-1", other), Err(AppsError::Damaged { .. })));
    assert!(matches!(fixture.apps.create(&record("../ap", 1), &CancelToken::new(), || ()), Err(AppsError::Name(_))));
}

#[test]
fn apps_are_listed_newest_first_and_strange_records_left_out() {
    let fixture = Fixture::new();
    assert!(fixture.ids().is_empty());
    for (id, started) in [("ap-1", 5), ("ap-2", 9), ("ap-3", 7)] {
        fixture.run(id, started, b"");
    }
    fs_err::write(fixture.file("ap-1/record.json"), "{\"version\":2}").unwrap();
    fs_err::write(fixture.file("stray"), "").unwrap();
    assert_eq!(fixture.ids(), ["ap-3", "ap-2"]);
}

#[test]
fn a_record_speaks_for_its_own_directory_only() {
    let fixture = Fixture::new();
    let outside = fixture.directory.path().join("outside");
    fs_err::create_dir(&outside).unwrap();
    let _running = fixture.start("ap-running", 5);
    fixture.run("ap-1", 1, b"");
    let copy = |from: &str, id: &str| {
        let text = fs_err::read_to_string(fixture.file("ap-1/record.json")).unwrap().replace("ap-1", id);
        fs_err::create_dir(fixture.file(from)).unwrap();
        fs_err::write(fixture.file(from).join("record.json"), text).unwrap();
    };
    copy("absolute", outside.to_str().unwrap());
    copy("parent", "..");
    copy("backup", "ap-running");
    assert_eq!(fixture.ids(), ["ap-1", "ap-running"]);
    fixture.apps.remove_old(0, 0).unwrap();
    assert_eq!(fixture.ids(), ["ap-running"]);
    assert!(outside.exists() && fixture.file("absolute").exists() && fixture.file("backup").exists());
    assert_eq!(fixture.apps.get("..").unwrap(), None);
}

#[test]
fn what_makes_no_sense_stands_in_nobodys_way() {
    let fixture = Fixture::new();
    fixture.run("ap-1", 1, b"printed");
    fixture.run("ap-2", 2, b"");
    fs_err::create_dir_all(fixture.file("strange/record.json")).unwrap();
    fs_err::write(fixture.file("file"), "").unwrap();
    std::os::unix::fs::symlink("loop", fixture.file("loop")).unwrap();
    fs_err::remove_file(fixture.file("ap-2/state")).unwrap();
    fs_err::create_dir(fixture.file("ap-2/state")).unwrap();
    assert_eq!(fixture.ids(), ["ap-2", "ap-1"]);
    assert_eq!(fixture.state("ap-2"), AppState::Died);
    fs_err::remove_dir_all(fixture.file("ap-2/log")).unwrap();
    let error = fixture.apps.log("ap-2").unwrap_err().to_string();
    assert!(error.ends_with("is damaged: it is missing, and with it what the app printed"), "{error}");
    fixture.apps.remove_old(1, KEPT_BYTES).unwrap();
    assert_eq!(fixture.ids(), ["ap-2"]);
    assert!(fixture.file("file").exists() && fixture.file("strange").exists());
}

#[test]
fn a_file_in_place_of_all_records_is_explained() {
    let fixture = Fixture::new();
    fs_err::write(fixture.apps.layout.apps(), "").unwrap();
    let created = fixture.apps.create(&record("ap-1", 1), &CancelToken::new(), || ());
    for outcome in [fixture.apps.list().map(drop), created.map(drop)] {
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("is no directory"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("move it away"));
    }
}

#[test]
fn numbers_of_no_process_are_not_believed() {
    let fixture = Fixture::new();
    let _app = fixture.apps.adopt("ap-1", fixture.start("ap-1", 1)).unwrap();
    for word in ["0", "-1", "4294967295", "many"] {
        fs_err::write(fixture.file("ap-1/state"), format!("running {word}")).unwrap();
        assert_eq!(fixture.state("ap-1"), AppState::Running { pid: None }, "{word}");
    }
}

#[test]
fn old_records_go_when_a_new_app_starts() {
    let fixture = Fixture::new();
    let _running = fixture.start("ap-running", 0);
    fixture.run("ap-oldest", 1, b"");
    for number in 0..KEPT_APPS {
        fixture.run(&format!("ap-{number:03}"), 10 + number as u64, b"");
    }
    fs_err::create_dir(fixture.file("ap-torn")).unwrap();
    let _new = fixture.start("ap-new", 1_000);
    let ids = fixture.ids();
    assert_eq!(ids.len(), KEPT_APPS + 2);
    assert!(ids.contains(&"ap-running".to_owned()) && !ids.contains(&"ap-oldest".to_owned()));
    assert!(!fixture.file("ap-torn").exists());
}

#[test]
fn records_that_are_too_large_together_go_but_for_the_newest() {
    let fixture = Fixture::new();
    let _running = fixture.start("ap-running", 1);
    for (id, started) in [("ap-1", 2), ("ap-2", 3), ("ap-3", 4)] {
        fixture.run(id, started, &vec![b'x'; 100_000]);
    }
    fixture.apps.remove_old(KEPT_APPS, 150_000).unwrap();
    assert_eq!(fixture.ids(), ["ap-3", "ap-2", "ap-running"]);
    fixture.apps.remove_old(KEPT_APPS, 50_000).unwrap();
    assert_eq!(fixture.ids(), ["ap-3", "ap-running"]);
}

#[test]
fn following_ends_with_the_app() {
    let fixture = Fixture::new();
    let app = fixture.apps.adopt("ap-1", fixture.start("ap-1", 1)).unwrap();
    let mut output = app.log().unwrap();
    let (sender, receiver) = mpsc::channel();
    let mut reader = fixture.apps.log("ap-1").unwrap();
    let follower = std::thread::spawn(move || {
        let mut show = |entry: &LogEntry| {
            sender.send(String::from_utf8_lossy(&entry.data).into_owned()).unwrap();
            ControlFlow::Continue(())
        };
        reader.follow(&mut show).unwrap()
    });
    for text in ["one", "two"] {
        print(&mut output, Source::Stdout, text.as_bytes());
        assert_eq!(receiver.recv().unwrap(), text);
    }
    print(&mut output, Source::Stdout, b"last");
    app.end(0).unwrap();
    drop(app);
    assert!(follower.join().unwrap().is_continue());
    assert_eq!(receiver.iter().collect::<Vec<_>>(), ["last"]);
}

/// What a program of format 2 recorded is in the fixture of the store's tests.
#[test]
fn records_of_earlier_programs_are_read() {
    let fixture = Fixture::new();
    let listing = include_str!("../../store/tests/data/format-2/files.jsonl");
    for line in listing.lines() {
        let file: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = fixture.directory.path().join("store").join(file["path"].as_str().unwrap());
        if let (true, Some(text)) = (path.starts_with(fixture.file("")), file["text"].as_str()) {
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
    }
    let app = fixture.apps.list().unwrap().pop().unwrap();
    assert_eq!((app.record.name.as_deref(), app.record.number), (Some("demo"), 1));
    assert_eq!(app.state, AppState::Ended { code: 0, time: 1_795_889_440 });
    let mut output = fixture.apps.log(&app.record.id).unwrap();
    assert_eq!(shown(|show| output.read(show).unwrap()), [(Source::Stdout, "ok\n".to_owned())]);
}
