//! The JSON form, which `docs/protocol.md` describes and other programs read.

use super::*;

/// One event of each kind, two of those with parts of several forms.
fn events() -> Vec<Event> {
    let (step, container) = (1, "ta-1".to_owned());
    let started = |miss| Event::StepStarted { step, miss };
    vec![
        Event::StepQueued { step, title: "apt_install(\"git\")".into() },
        Event::StepCached { step, bytes: 5 },
        Event::StepWaiting { step },
        started(Miss::New),
        started(Miss::Changed { parts: vec!["packages".into(), "parent".into()] }),
        started(Miss::Lost),
        started(Miss::Forced),
        started(Miss::CheckedAgain),
        Event::StepLog { step, line: "a line".into() },
        Event::StepProgress { step, what: "downloading".into(), done: 1, total: 0 },
        Event::StepFinished { step, seconds: 1.5, bytes_new: 2, bytes_shared: 3 },
        Event::StepFailed {
            step,
            message: "it failed".into(),
            tail: vec!["last".into()],
            log: Some("/logs/1".into()),
            shell: None,
            hint: None,
        },
        Event::StepStopped { step, cause: Stop::Cancelled },
        Event::StepStopped { step, cause: Stop::Damaged },
        Event::ImageBuilt { image: "im-1".into(), seconds: 2.0, cached: false, remaining: 0 },
        Event::ContainerStarted { container: container.clone(), function: "f".into() },
        Event::ContainerOutput {
            container: container.clone(),
            stream: Stream::Stdout,
            data: b"out\n".to_vec(),
            printer: Printer {
                function: Some("f".into()),
                function_call: Some("fc-1".into()),
                input: Some("in-1".into()),
            },
        },
        Event::ContainerOutput {
            container: container.clone(),
            stream: Stream::Stderr,
            data: b"\xff".to_vec(),
            printer: Printer::default(),
        },
        Event::CallRetried { function: "f".into(), attempt: 1, of: 3, seconds: 0.5, cause: "it raised".into() },
        Event::CallFailed { function: "f".into(), container: Some(container.clone()), cause: "it was late".into() },
        Event::ContainerFinished { container, function: "f".into(), cause: String::new() },
        Event::CallStuck { path: vec!["f".into(), "g".into(), "f".into()], max_containers: 1 },
        Event::Warning { message: "careful".into() },
    ]
}

/// Fails to compile when a kind is added that [`events`] has no example of: add it there.
fn is_listed(event: &Event) -> bool {
    match event {
        Event::StepQueued { .. }
        | Event::StepCached { .. }
        | Event::StepWaiting { .. }
        | Event::StepStarted { .. }
        | Event::StepLog { .. }
        | Event::StepProgress { .. }
        | Event::StepFinished { .. }
        | Event::StepFailed { .. }
        | Event::StepStopped { .. }
        | Event::ImageBuilt { .. }
        | Event::ContainerStarted { .. }
        | Event::ContainerOutput { .. }
        | Event::CallRetried { .. }
        | Event::CallFailed { .. }
        | Event::ContainerFinished { .. }
        | Event::CallStuck { .. }
        | Event::Warning { .. } => true,
    }
}

#[test]
fn the_json_form_is_pinned() {
    assert!(events().iter().all(is_listed));
    let lines: Vec<String> = events().iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    // A change that programs would misread raises `SCHEMA_VERSION`.
    insta::assert_snapshot!(format!("version {SCHEMA_VERSION}\n{}", lines.join("\n")), @r#"
    version 1
    {"event":"step_queued","step":1,"title":"apt_install(\"git\")"}
    {"event":"step_cached","step":1,"bytes":5}
    {"event":"step_waiting","step":1}
    {"event":"step_started","step":1,"miss":{"reason":"new"}}
    {"event":"step_started","step":1,"miss":{"reason":"changed","parts":["packages","parent"]}}
    {"event":"step_started","step":1,"miss":{"reason":"lost"}}
    {"event":"step_started","step":1,"miss":{"reason":"forced"}}
    {"event":"step_started","step":1,"miss":{"reason":"checked_again"}}
    {"event":"step_log","step":1,"line":"a line"}
    {"event":"step_progress","step":1,"what":"downloading","done":1,"total":0}
    {"event":"step_finished","step":1,"seconds":1.5,"bytes_new":2,"bytes_shared":3}
    {"event":"step_failed","step":1,"message":"it failed","tail":["last"],"log":"/logs/1","shell":null,"hint":null}
    {"event":"step_stopped","step":1,"cause":"cancelled"}
    {"event":"step_stopped","step":1,"cause":"damaged"}
    {"event":"image_built","image":"im-1","seconds":2.0,"cached":false,"remaining":0}
    {"event":"container_started","container":"ta-1","function":"f"}
    {"event":"container_output","container":"ta-1","stream":"stdout","data":"out\n","function":"f","function_call":"fc-1","input":"in-1"}
    {"event":"container_output","container":"ta-1","stream":"stderr","data":"�"}
    {"event":"call_retried","function":"f","attempt":1,"of":3,"seconds":0.5,"cause":"it raised"}
    {"event":"call_failed","function":"f","container":"ta-1","cause":"it was late"}
    {"event":"container_finished","container":"ta-1","function":"f","cause":""}
    {"event":"call_stuck","path":["f","g","f"],"max_containers":1}
    {"event":"warning","message":"careful"}
    "#);
}

#[test]
fn events_are_read_back() {
    for event in events() {
        let text = serde_json::to_string(&event).unwrap();
        let again: Event = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
    // What a later version adds to an event does no harm.
    let event: Event = serde_json::from_str(r#"{"event":"step_waiting","step":1,"later":true}"#).unwrap();
    assert_eq!(event, Event::StepWaiting { step: 1 });
}

#[test]
fn every_kind_is_in_the_documentation() {
    let page = include_str!("../../../docs/protocol.md");
    for event in events() {
        let value = serde_json::to_value(&event).unwrap();
        let kind = value["event"].as_str().unwrap();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{kind}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/protocol.md has no row of `{kind}`"));
        for key in value.as_object().unwrap().keys().filter(|key| *key != "event") {
            assert!(row.contains(&format!("`{key}`")), "docs/protocol.md: `{kind}` lacks `{key}`");
        }
    }
}
