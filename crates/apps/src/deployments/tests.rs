//! Deployed apps in a store of their own.

use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_store::Layout;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::changes::{KEPT_STOPPED, KEPT_VERSIONS};
use super::*;
use crate::{LogEntry, LogWriter, Source};

struct Fixture {
    directory: TempDir,
    deployments: Deployments,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        Self { directory, deployments: Deployments::new(layout) }
    }

    fn deploy(&self, app: &str, content: &Value) -> Deployed {
        let is_same: &dyn Fn(&Value) -> bool = &|present| present == content;
        let new = NewVersion { content, is_same, client: "1.0", by: "ada", commit: None, tag: "", tags: None };
        self.deployments.deploy(&name(app), &new, &CancelToken::new(), || ()).unwrap()
    }

    fn repeat(&self, app: &str, number: u32) -> Result<Deployed, AppsError> {
        self.deployments.repeat(&name(app), number, "ada", &CancelToken::new())
    }
}

fn name(app: &str) -> DeploymentName {
    DeploymentName::new("main", app).unwrap()
}

#[test]
fn what_has_not_changed_is_no_new_version() {
    let fixture = Fixture::new();
    let (one, two) = (json!({"functions": [1]}), json!({"functions": [2]}));
    let first = fixture.deploy("demo", &one);
    assert_eq!((first.is_new, first.deployment.current), (true, 1));
    let again = fixture.deploy("demo", &one);
    assert_eq!((again.is_new, again.deployment.current), (false, 1));
    let second = fixture.deploy("demo", &two);
    assert_eq!((second.is_new, second.deployment.current), (true, 2));
    assert_eq!(second.deployment.id, first.deployment.id);
    let deployment = fixture.deployments.get(&name("demo")).unwrap();
    assert_eq!(deployment, second.deployment);
    assert_eq!(fixture.deployments.content(&deployment, None).unwrap(), two);
    assert_eq!(fixture.deployments.content(&deployment, Some(1)).unwrap(), one);
}

#[test]
fn going_back_makes_a_version_and_takes_no_further_space() {
    let fixture = Fixture::new();
    let (one, two) = (json!({"functions": [1]}), json!({"functions": [2]}));
    fixture.deploy("demo", &one);
    fixture.deploy("demo", &two);
    let back = fixture.repeat("demo", 1).unwrap().deployment;
    assert_eq!((back.current, back.versions[2].rollback_of), (3, Some(1)));
    assert_eq!(fixture.deployments.content(&back, None).unwrap(), one);
    let error = fixture.repeat("demo", 9).unwrap_err().to_string();
    assert!(error.starts_with("the app `demo` has no version `9`"), "{error}");
    for round in 0..200 {
        if round % 2 == 0 {
            fixture.deploy("demo", &json!(round))
        } else {
            fixture.repeat("demo", back.current + round).unwrap()
        };
    }
    let files = names_in(&fixture.deployments.versions(&name("demo"))).unwrap();
    let last = fixture.deployments.get(&name("demo")).unwrap();
    assert_eq!((files.len(), last.versions.len(), last.current), (KEPT_VERSIONS, KEPT_VERSIONS, 203));
}

#[test]
fn an_app_that_was_stopped_is_gone_and_its_name_free() {
    let fixture = Fixture::new();
    let content = json!({});
    let first = fixture.deploy("demo", &content).deployment;
    assert!(fixture.deployments.end(&first, &CancelToken::new()).unwrap());
    assert!(!fixture.deployments.end(&first, &CancelToken::new()).unwrap());
    assert!(matches!(fixture.deployments.get(&name("demo")), Err(AppsError::NotDeployed { .. })));
    let stopped = fixture.deployments.find("main", "demo").unwrap().unwrap();
    assert_eq!((stopped.id == first.id, stopped.stopped.is_some()), (true, true));
    let next = fixture.deploy("demo", &content);
    assert_eq!((next.is_new, next.deployment.current), (true, 1));
    assert_ne!(next.deployment.id, first.id);
    // Somebody who asked for the former one does not end this.
    assert!(!fixture.deployments.end(&first, &CancelToken::new()).unwrap());
}

#[test]
fn the_newest_of_those_that_were_stopped_are_remembered() {
    let fixture = Fixture::new();
    for number in 0..=KEPT_STOPPED {
        let app = fixture.deploy(&format!("app-{number}"), &json!({})).deployment;
        fixture.deployments.end(&app, &CancelToken::new()).unwrap();
    }
    fixture.deploy("demo", &json!({}));
    assert_eq!(fixture.deployments.list().unwrap().len(), KEPT_STOPPED + 1);
}

#[test]
fn a_damaged_record_hides_no_other_app() {
    let fixture = Fixture::new();
    for app in ["spoiled", "sound", "later"] {
        fixture.deploy(app, &json!({}));
    }
    let deployments = &fixture.deployments;
    for (id, app) in [("fc-1", "spoiled"), ("fc-2", "sound")] {
        let kept = deployments.kept_calls(&name(app)).unwrap();
        kept.begin(id, &spawned_call(), b"input").unwrap();
    }
    fs_err::write(deployments.record_file(&name("spoiled")), b"{").unwrap();
    fs_err::write(deployments.record_file(&name("later")), br#"{"version": 99}"#).unwrap();
    let all = deployments.survey().unwrap();
    assert_eq!(all.sound.iter().map(|app| &*app.name).collect::<Vec<_>>(), ["sound"]);
    let told: Vec<_> = all.damaged.iter().map(|(_, error)| error.to_string()).collect();
    assert!(told[0].starts_with("the record of the app `later`, `") && told[0].contains("version `99`"), "{told:?}");
    assert!(told[1].starts_with("the record of the app `spoiled`, `") && told[1].contains("is damaged: "), "{told:?}");
    // Others are found, by name, id and call, and the damaged one is named to who asks for it.
    let sound = deployments.get(&name("sound")).unwrap();
    assert_eq!(deployments.find("main", &sound.id).unwrap(), Some(sound));
    assert_eq!(deployments.app_of_call("fc-2").unwrap(), name("sound"));
    assert!(matches!(deployments.app_of_call("fc-1"), Err(AppsError::DamagedRecord { .. })));
    assert!(matches!(deployments.app_of_call("fc-3"), Err(AppsError::UnknownCall(_))));
    assert!(matches!(deployments.find("main", "spoiled"), Err(AppsError::DamagedRecord { .. })));
    let again = NewVersion {
        content: &json!({}),
        is_same: &|_| false,
        client: "1.0",
        by: "ada",
        commit: None,
        tag: "",
        tags: None,
    };
    let refused = deployments.deploy(&name("spoiled"), &again, &CancelToken::new(), || ());
    assert!(matches!(refused, Err(AppsError::DamagedRecord { .. })));
    // As the error says.
    fs_err::remove_file(deployments.record_file(&name("spoiled"))).unwrap();
    assert_eq!(fixture.deploy("spoiled", &json!({})).deployment.current, 1);
}

#[test]
fn a_version_that_is_damaged_is_named_and_replaced() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!(1));
    let present = fixture.deploy("demo", &json!(2)).deployment;
    fs_err::write(fixture.deployments.version_file(&name("demo"), 2), b"{").unwrap();
    let error = fixture.deployments.content(&present, None).unwrap_err().to_string();
    assert!(error.starts_with("version 2 of the app `demo`, `") && error.contains("is damaged: "), "{error}");
    let next = fixture.deploy("demo", &json!(2));
    assert_eq!((next.is_new, next.deployment.current), (true, 3));
    assert_eq!(fixture.deployments.content(&next.deployment, None).unwrap(), json!(2));
}

#[test]
fn an_app_that_is_not_there_is_explained() {
    let fixture = Fixture::new();
    fixture.deploy("trainer", &json!({}));
    let said = |environment: &str, app: &str| {
        let name = DeploymentName::new(environment, app).unwrap();
        fixture.deployments.get(&name).unwrap_err().to_string()
    };
    assert_eq!(
        said("main", "trainr"),
        "there is no deployed app `trainr` (did you mean `trainer`?): `modal app list` shows what there is"
    );
    assert_eq!(
        said("test", "trainer"),
        "there is no deployed app `trainer` in the environment `test`, but one in the environment `main`: \
         `modal app list` shows what there is"
    );
    for wrong in ["", "a b", "..", "ap-0123456789abcdefghijkl", &"x".repeat(65)] {
        assert!(matches!(DeploymentName::new("main", wrong), Err(AppsError::DeploymentName(_))), "{wrong}");
    }
}

#[test]
fn two_who_deploy_at_once_make_two_versions() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || fixture.deploy("demo", &json!({ "functions": [number] })));
        }
    });
    let deployment = fixture.deployments.get(&name("demo")).unwrap();
    let numbers: Vec<u32> = deployment.versions.iter().map(|version| version.number).collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
}

#[test]
fn only_the_owner_can_read_what_is_deployed() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({"functions": [{"secrets": "hunter2"}]}));
    let base = fixture.directory.path().join("store/deployments");
    for (path, mode) in [
        ("", 0o700),
        ("main", 0o700),
        ("main/demo", 0o700),
        ("main/demo/app.json", 0o600),
        ("main/demo/versions", 0o700),
        ("main/demo/versions/1.json", 0o600),
    ] {
        let found = fs_err::metadata(base.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
}

#[test]
fn the_process_of_an_app_is_one() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({}));
    let cancel = CancelToken::new();
    let held = fixture.deployments.acquire(&name("demo"), &cancel).unwrap().unwrap();
    assert!(fixture.deployments.acquire(&name("demo"), &cancel).unwrap().is_none());
    let app = fixture.deployments.adopt(&name("demo"), held.into()).unwrap();
    assert!(fixture.deployments.host_state(&name("demo")).unwrap().is_running());
    assert!(fixture.deployments.connect_if_running(&name("demo")).unwrap().is_none());
    let listener = app.listen().unwrap();
    listener.serve_during(drop, || {
        let (deployment, _socket) = fixture.deployments.connect(&name("demo"), &cancel).unwrap();
        assert_eq!(deployment.name, "demo");
    });
    drop((listener, app));
    assert!(fixture.deployments.acquire(&name("demo"), &cancel).unwrap().is_some());
}

#[test]
fn what_a_killed_process_has_half_printed_does_not_spoil_what_the_next_one_prints() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({}));
    let cancel = CancelToken::new();
    let start = || {
        let held = fixture.deployments.acquire(&name("demo"), &cancel).unwrap().unwrap();
        fixture.deployments.adopt(&name("demo"), held.into()).unwrap()
    };
    let printed = || {
        let mut text = Vec::new();
        let mut reader = fixture.deployments.log(&name("demo")).unwrap();
        let _ = reader.read(&mut |entry| {
            if !entry.data.starts_with(b"the process of the app was killed") {
                text.extend_from_slice(&entry.data);
            }
            std::ops::ControlFlow::Continue(())
        });
        String::from_utf8(text).unwrap()
    };
    let print = |text: &str| {
        let app = start();
        app.log().unwrap().write(&LogEntry::new(None, Source::Stdout, text));
        app
    };
    let app = print("first\n");
    let path = fixture.deployments.directory(&name("demo")).join("host/log/0000000001");
    let whole = fs_err::read(&path).unwrap();
    let mut half = whole.clone();
    half.extend_from_slice(&whole[b"LAMINA-LOG.".len()..whole.len() - 1]);
    fs_err::write(&path, half).unwrap();
    drop(app);
    let app = print("second\n");
    assert_eq!(printed(), "first\nsecond\n");
    let sound = fs_err::read(&path).unwrap();
    fs_err::write(&path, [&*sound, b"nonsense, and more than that"].concat()).unwrap();
    drop(app);
    drop(print("third\n"));
    let printed = printed();
    assert!(printed.starts_with("first\nsecond\nwarning: from byte ") && printed.ends_with("third\n"), "{printed}");
}

/// Says when it is dropped.
struct Tell(std::sync::mpsc::Sender<()>);
impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn a_listener_closes_only_while_nobody_is_connected() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({}));
    let cancel = CancelToken::new();
    let held = fixture.deployments.acquire(&name("demo"), &cancel).unwrap().unwrap();
    let app = fixture.deployments.adopt(&name("demo"), held.into()).unwrap();
    let listener = app.listen().unwrap();
    let (served, when_served) = std::sync::mpsc::channel();
    let (forgotten, when_forgotten) = std::sync::mpsc::channel();
    let serve = |mut socket: std::os::unix::net::UnixStream| {
        served.send(()).unwrap();
        let _ = std::io::Read::read(&mut socket, &mut [0]);
        Tell(forgotten.clone())
    };
    let serve = std::sync::Mutex::new(serve);
    listener.serve_during(
        |socket| serve.lock().unwrap()(socket),
        || {
            let client = fixture.deployments.connect(&name("demo"), &cancel).unwrap();
            when_served.recv().unwrap();
            assert!(!listener.close_if_unused());
            drop(client);
            when_forgotten.recv().unwrap();
            assert!(listener.close_if_unused());
            assert!(fixture.deployments.connect_if_running(&name("demo")).unwrap().is_none());
        },
    );
}

fn spawned_call() -> PendingCall {
    PendingCall {
        function: "f".to_owned(),
        method: None,
        variant: Value::Null,
        spawned: 1,
        runs: 1,
        input: "in-1".to_owned(),
        module: "app".to_owned(),
    }
}

#[test]
fn calls_are_kept_until_they_have_ended_and_their_results_for_a_week() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({}));
    let calls = fixture.deployments.kept_calls(&name("demo")).unwrap();
    let call = |spawned| PendingCall { spawned, ..spawned_call() };
    calls.begin("fc-2", &call(2), b"two\n2").unwrap();
    calls.begin("fc-1", &call(1), b"").unwrap();
    let pending = calls.pending().unwrap();
    assert_eq!(pending, [("fc-1".to_owned(), call(1), vec![]), ("fc-2".to_owned(), call(2), b"two\n2".to_vec())]);
    assert_eq!(fixture.deployments.app_of_call("fc-2").unwrap(), name("demo"));
    calls.end("fc-2", &json!("ok"), b"\nresult").unwrap();
    assert_eq!(calls.result::<Value>("fc-2").unwrap(), Some((json!("ok"), b"\nresult".to_vec())));
    assert_eq!(calls.result::<Value>("fc-1").unwrap(), None);
    assert_eq!(calls.pending().unwrap().len(), 1);
    assert_eq!(fixture.deployments.app_of_call("fc-2").unwrap(), name("demo"));
    for unknown in ["fc-3", "../demo/app", "fc-../x"] {
        assert!(matches!(fixture.deployments.app_of_call(unknown), Err(AppsError::UnknownCall(_))), "{unknown}");
    }
    let days = |days: u64| std::time::SystemTime::now() + std::time::Duration::from_hours(24 * days);
    calls.forget_old(days(6)).unwrap();
    assert!(calls.result::<Value>("fc-2").unwrap().is_some());
    calls.forget_old(days(8)).unwrap();
    assert!(calls.result::<Value>("fc-2").unwrap().is_none());
    assert_eq!(calls.pending().unwrap().len(), 1, "what has not ended is not forgotten");
    // Further inputs of a call of many.
    calls.begin("fc-1-1", &call(2), b"second").unwrap();
    calls.begin("fc-11", &call(3), b"other").unwrap();
    calls.begin("fc-1-2", &call(3), b"third").unwrap();
    calls.end("fc-1-1", &json!("ok"), b"").unwrap();
    assert_eq!(calls.inputs("fc-1").unwrap(), ["fc-1", "fc-1-1", "fc-1-2"]);
    assert!(calls.inputs("fc-2").unwrap().is_empty());
    calls.begin("fc-1-10", &call(4), b"last").unwrap();
    assert_eq!(calls.inputs("fc-1").unwrap().last().map(String::as_str), Some("fc-1-10"));
    calls.end("fc-1-10", &json!("ok"), b"").unwrap();
    // One that was not on the disk when the machine stopped.
    let file = fixture.directory.path().join("store/deployments/main/demo/calls/fc-1-2.call");
    fs_err::write(&file, "").unwrap();
    assert_eq!(calls.pending().unwrap().len(), 2);
    assert!(!file.exists());
}

#[test]
fn what_a_call_has_called_is_kept_as_long_as_its_result() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({}));
    let calls = fixture.deployments.kept_calls(&name("demo")).unwrap();
    assert_eq!(calls.graph("fc-1").unwrap(), None);
    let graph = json!({ "inputs": [{ "status": "SUCCESS" }], "omitted": 0 });
    calls.keep_graph("fc-1", &graph).unwrap();
    assert_eq!(calls.graph("fc-1").unwrap(), Some(graph));
    assert!(calls.inputs("fc-1").unwrap().is_empty(), "it is no input");
    let in_days = |days: u64| std::time::SystemTime::now() + std::time::Duration::from_hours(24 * days);
    calls.forget_old(in_days(6)).unwrap();
    assert!(calls.graph("fc-1").unwrap().is_some());
    calls.forget_old(in_days(8)).unwrap();
    assert_eq!(calls.graph("fc-1").unwrap(), None);
    // One that was not on the disk when the machine stopped.
    fs_err::write(fixture.directory.path().join("store/deployments/main/demo/calls/fc-1.graph"), "").unwrap();
    assert_eq!(calls.graph("fc-1").unwrap(), None);
}

#[test]
fn a_result_that_cannot_be_kept_leaves_the_input() {
    let fixture = Fixture::new();
    fixture.deploy("demo", &json!({}));
    let calls = fixture.deployments.kept_calls(&name("demo")).unwrap();
    let call = spawned_call();
    calls.begin("fc-1", &call, b"input").unwrap();
    // As long as something stands in its way, no result gets its name.
    let result = fixture.directory.path().join("store/deployments/main/demo/calls/fc-1.result");
    fs_err::create_dir(&result).unwrap();
    assert!(calls.end("fc-1", &json!("ok"), b"result").is_err());
    fs_err::remove_dir(&result).unwrap();
    assert_eq!(calls.pending().unwrap(), [("fc-1".to_owned(), call, b"input".to_vec())]);
    let left = names_in(result.parent().unwrap()).unwrap();
    assert_eq!(left, ["fc-1.call"]);
}

#[test]
fn output_is_followed_from_before_it_begins_until_the_app_is_stopped() {
    let fixture = Fixture::new();
    let deployment = fixture.deploy("demo", &json!({})).deployment;
    let (deployments, app) = (&fixture.deployments, name("demo"));
    let print = |text: &str| {
        let log = deployments.host_directory(&app).join("log");
        let mut writer = LogWriter::open(&log, &log).unwrap();
        writer.write(&LogEntry::new(None, Source::Stdout, text));
    };
    let (shown, heard) = mpsc::channel();
    let follow = |from, shown: mpsc::Sender<String>| {
        let mut show = |entry: &LogEntry| {
            shown.send(String::from_utf8_lossy(&entry.data).into_owned()).unwrap();
            ControlFlow::Continue(())
        };
        let mut log = deployments.log_from(&deployment, Some(from)).unwrap();
        deployments.follow(&deployment, &mut log, &mut show).unwrap()
    };
    let hear = || heard.recv_timeout(Duration::from_mins(1)).unwrap();
    let end = deployments.end_of_log(&app);
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| follow(end, shown.clone()));
        // The process of the app starts, and prints.
        drop(deployments.acquire(&app, &CancelToken::new()).unwrap().unwrap());
        print("one");
        assert_eq!(hear(), "one");
        print("two");
        assert_eq!(hear(), "two");
        // A later one goes on. The former one did not say how it ended.
        drop(deployments.acquire(&app, &CancelToken::new()).unwrap().unwrap());
        assert!(hear().starts_with("the process of the app was killed"));
        print("three");
        assert_eq!(hear(), "three");
        deployments.end(&deployment, &CancelToken::new()).unwrap();
        assert!(follower.join().unwrap().is_continue());
    });
    // What was printed before is passed over.
    let end = deployments.end_of_log(&app);
    print("four");
    assert!(follow(end, shown.clone()).is_continue());
    assert_eq!(hear(), "four");
}
