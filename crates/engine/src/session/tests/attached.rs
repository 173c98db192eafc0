//! Clients that attach to an app that another one has started.

use super::*;

/// Runs `clients` with the connection that has started an app, one that is attached to it, and the app's id. The first
/// ends last.
fn attached(clients: impl FnOnce(&mut Python, Python, &str)) {
    let (backend, sink, cancel) = (Fake::default(), Sink::none(), CancelToken::new());
    std::thread::scope(|scope| {
        let (mut owner, serving) = Python::connect(scope, &backend, &sink, &cancel, Role::Owner);
        owner.greet(true);
        owner.tell(&start(1, "3"), b"");
        let started = owner.hear().0;
        let id = started["app_id"].as_str().unwrap().to_owned();
        let (mut guest, guest_serving) = Python::connect(scope, &backend, &sink, &cancel, Role::Guest(&OnStop(&|| ())));
        guest.greet(true);
        guest.tell(&json!({"type": "app.attach", "request": 1, "app": "demo"}), b"");
        let functions = json!({"f": {"id": started["functions"]["f"]}});
        let answer = json!({"type": "app.attached", "request": 1, "app_id": id, "functions": functions});
        assert_eq!(guest.hear().0, answer);
        clients(&mut owner, guest, &id);
        guest_serving.join().unwrap().unwrap();
        owner.die();
        serving.join().unwrap().unwrap();
    });
    assert_eq!(backend.alive.load(Ordering::SeqCst), 0, "no container may be left");
}

fn call(number: u64) -> Value {
    json!({"type": "call", "call": number, "function": "f"})
}

#[test]
fn a_client_of_another_version_is_told_which_one_the_app_runs_with() {
    let (backend, sink, cancel) = (Fake::default(), Sink::none(), CancelToken::new());
    std::thread::scope(|scope| {
        let (mut guest, serving) = Python::connect(scope, &backend, &sink, &cancel, Role::Guest(&OnStop(&|| ())));
        guest.tell(&hello(PROTOCOL + 1, true), b"");
        let refused = guest.hear().0;
        assert_eq!(refused["error"], "VersionError");
        let said =
            concat!("the app's process runs with `modal` ", env!("CARGO_PKG_VERSION"), ", which speaks protocol `3`");
        assert!(refused["message"].as_str().unwrap().starts_with(said), "{refused}");
        assert!(refused["hint"].as_str().unwrap().contains("or deploy the app again"));
        assert!(matches!(serving.join().unwrap(), Err(EngineError::Protocol(_))));
    });
}

#[test]
fn two_clients_call_one_app_with_equal_numbers() {
    attached(|owner, mut guest, _| {
        owner.tell(&call(7), b"hang");
        guest.tell(&call(7), b"hang");
        guest.tell(&json!({"type": "cancel", "call": 7}), b"");
        assert_eq!(guest.hear().0["message"], "the call of function `f` was cancelled");
        for round in 8..20 {
            let (mine, yours) = (format!("owner {round}"), format!("guest {round}"));
            owner.tell(&call(round), mine.as_bytes());
            guest.tell(&call(round), yours.as_bytes());
            let result = json!({"type": "result", "call": round, "status": "ok"});
            assert_eq!(owner.hear(), (result.clone(), mine.into_bytes()), "its own call 7 still hangs");
            assert_eq!(guest.hear(), (result, yours.into_bytes()));
        }
        guest.die();
    });
}

#[test]
fn the_end_of_a_client_that_is_attached_cancels_what_it_waits_for_and_leaves_the_app_alone() {
    attached(|owner, mut guest, _| {
        guest.tell(&call(1), b"hang");
        let mut spawned = call(2);
        spawned["identify"] = true.into();
        spawned["spawned"] = true.into();
        guest.tell(&spawned, b"hang");
        let accepted = guest.hear().0;
        assert_eq!((&accepted["type"], &accepted["call"]), (&json!("call.accepted"), &json!(2)));
        assert!(accepted["id"].as_str().unwrap().starts_with("fc-"), "{accepted}");
        guest.tell(&json!({"type": "app.leave", "request": 3}), b"");
        let cancelled = guest.hear().0;
        assert_eq!((&cancelled["call"], &cancelled["error"]), (&json!(1), &json!("RemoteError")));
        assert_eq!(guest.hear().0, json!({"type": "app.left", "request": 3}), "2 goes on");
        guest.tell(&json!({"type": "app.attach", "request": 4, "app": "demo"}), b"");
        assert_eq!(guest.hear().0["request"], 4);
        guest.tell(&call(5), b"hang");
        guest.die();
        assert_eq!(owner.call(1, b"still there").1, b"still there");
    });
}

#[test]
fn the_end_of_an_app_is_told_to_those_who_are_attached() {
    attached(|owner, mut guest, id| {
        guest.tell(&call(1), b"hang");
        guest.tell(&json!({"type": "app.stop", "request": 2}), b"");
        let refused = guest.hear().0;
        assert_eq!((&refused["request"], &refused["error"]), (&json!(2), &json!("ConflictError")));
        owner.tell(&json!({"type": "app.stop", "request": 2}), b"");
        assert_eq!(guest.hear().0["message"], "the app was stopped before function `f` returned a result");
        assert_eq!(guest.hear().0, json!({"type": "app.ended", "app_id": id}));
        assert_eq!(owner.hear().0, json!({"type": "app.stopped", "request": 2}));
        guest.die();
    });
}

#[test]
fn a_client_that_is_attached_stops_the_app_if_it_names_it_and_starts_none() {
    attached(|owner, mut guest, id| {
        guest.tell(&start(1, "3"), b"");
        assert_eq!(guest.hear().0["error"], "ConflictError");
        owner.tell(&call(1), b"hang");
        // Its messages are taken in their order: with this answer the call is under way.
        owner.tell(&json!({"type": "call", "call": 2, "function": "none"}), b"");
        assert_eq!(owner.hear().0["error"], "NotFoundError");
        guest.tell(&json!({"type": "app.stop", "request": 2, "app": id}), b"");
        assert_eq!(guest.hear().0, json!({"type": "app.stopped", "request": 2}));
        assert_eq!(owner.hear().0["message"], "the app was stopped before function `f` returned a result");
        assert_eq!(owner.hear().0, json!({"type": "app.ended", "app_id": id}), "it has not asked for that");
        owner.tell(&json!({"type": "app.stop", "request": 2}), b"");
        assert_eq!(owner.hear().0, json!({"type": "app.stopped", "request": 2}));
        guest.tell(&json!({"type": "app.attach", "request": 3, "app": id}), b"");
        assert_eq!(guest.hear().0["error"], "NotFoundError", "it has ended");
        guest.die();
    });
}

#[test]
fn an_app_of_another_process_is_answered_with_a_connection_to_it() {
    let (outcome, ..) = session(&CancelToken::new(), |python| {
        python.greet(true);
        python.tell(&json!({"type": "app.attach", "request": 1, "app": "ap-elsewhere"}), b"");
        let mut frame = python.receiver.receive().unwrap().unwrap();
        let answer: Value = serde_json::from_slice(&frame.control).unwrap();
        let expected = json!({
            "type": "app.attached", "request": 1, "app_id": "ap-elsewhere", "functions": {}, "elsewhere": true,
        });
        assert_eq!(answer, expected);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut UnixStream::from(frame.fds.pop().unwrap()), &mut text).unwrap();
        assert_eq!(text, "ap-elsewhere");
        python.tell(&json!({"type": "app.attach", "request": 2, "app": "ap-nowhere"}), b"");
        assert_eq!(python.hear().0["error"], "NotFoundError");
    });
    outcome.unwrap();
}
