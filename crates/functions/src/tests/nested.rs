//! Calls that come from containers.

use std::time::Duration;

use super::eventually;
use super::fake::{Bench, Start, error, outcome, value};
use crate::*;

/// Numbers of calls here, which the engine gives to no call from a container.
const CALL: u64 = 1 << 40;

fn exception(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exception(payload) => String::from_utf8(payload.into_bytes().unwrap()).unwrap(),
        other => panic!("no exception: {other:?}"),
    }
}

#[test]
fn a_container_calls_another_function_and_itself() {
    let bench = Bench::several(&[("f", 2), ("g", 1)]);
    assert_eq!(value(bench.run(CALL, "call g echo hello")), "hello");
    assert_eq!(value(bench.run(CALL + 1, "call f echo again")), "again");
    assert_eq!(value(bench.run(CALL + 2, "call g call f echo three")), "three");
    assert_eq!(value(bench.run(CALL + 3, "call g large")).len(), 2 << 20);
    assert_eq!(bench.circles(), []);
}

#[test]
fn generators_exceptions_and_errors_come_back_as_they_are() {
    let bench = Bench::several(&[("f", 1), ("g", 1)]);
    let (items, end) = bench.generate(CALL, "call g count 500");
    let acknowledge = |number: u64| {
        assert_eq!(items.recv_timeout(Duration::from_secs(20)).unwrap(), number.to_string());
        bench.more(CALL, 1);
    };
    (0..500).for_each(acknowledge);
    assert_eq!(value(outcome(&end)), "");
    assert_eq!(exception(bench.run(CALL + 1, "call g raise boom")), "boom");
    let died = exception(bench.run(CALL + 2, "call g exit 3"));
    assert!(died.contains(r#""error":"InternalFailure""#) && died.contains("exited with code `3`"), "{died}");
    let unknown = exception(bench.run(CALL + 3, "call h echo x"));
    assert!(unknown.contains(r#""error":"NotFoundError""#) && unknown.contains("no function `h`"), "{unknown}");
}

#[test]
fn cancellation_follows_over_three_levels() {
    let bench = Bench::several(&[("f", 1), ("g", 1), ("h", 1)]);
    let end = bench.submit(CALL, "call g call h hang");
    eventually("all three run", || bench.alive() == 3);
    assert!(bench.cancel(CALL));
    assert!(matches!(error(outcome(&end)), CallError::Cancelled { .. }));
    let next = value(bench.run(CALL + 1, "call g call h echo next"));
    assert_eq!(next, "next", "nothing hangs in the only container of each");
}

#[test]
fn what_a_failed_input_waits_for_is_cancelled_and_what_it_spawned_goes_on() {
    let bench = Bench::several(&[("f", 1), ("g", 1), ("h", 1)]);
    assert_eq!(exception(bench.run(CALL, "leave g hang")), "left");
    assert_eq!(
        value(outcome(&bench.submit_another("g", CALL, "echo free"))),
        "free",
        "nothing hangs in the only container"
    );
    let others = bench.started();
    let accepted = value(bench.run(CALL + 1, "spawn h sleep 300"));
    assert!(accepted.starts_with(r#"{"type":"call.accepted","call":1,"id":"fc-"#), "{accepted}");
    eventually("`h` has a container", || bench.started() == others + 1);
    let end = bench.submit(CALL + 2, "exit 1");
    assert!(matches!(error(outcome(&end)), CallError::Exited { .. }));
    assert_eq!(value(outcome(&bench.submit_another("h", CALL + 3, "echo behind"))), "behind");
    assert_eq!(bench.started(), others + 1, "the container of `h` was not killed");
}

#[test]
fn what_a_spawned_call_calls_has_a_graph() {
    let bench = Bench::several(&[("f", 1), ("g", 1), ("h", 1)]);
    let accepted = value(bench.run(CALL, "spawn g call h raise boom"));
    let accepted: serde_json::Value = serde_json::from_str(&accepted).unwrap();
    let id = accepted["id"].as_str().unwrap();
    let statuses = || -> Vec<String> {
        let graph = call_graph(id).unwrap();
        graph["inputs"].as_array().unwrap().iter().map(|input| input["status"].to_string()).collect()
    };
    eventually("both have failed", || statuses() == [r#""FAILURE""#, r#""FAILURE""#]);
    let graph = call_graph(id).unwrap();
    let (root, child) = (&graph["inputs"][0], &graph["inputs"][1]);
    assert_eq!((&root["function_name"], &root["parent"]), (&"g".into(), &serde_json::Value::Null));
    assert_eq!(
        (&child["function_name"], &child["parent"], &child["module_name"]),
        (&"h".into(), &0.into(), &"app".into())
    );
    assert!(root["task_id"].as_str().unwrap().starts_with("ta-") && root["task_id"] != child["task_id"]);
}

#[test]
fn a_label_of_a_call_is_used_once_at_a_time() {
    let bench = Bench::several(&[("f", 1), ("g", 1)]);
    let broken = error(bench.run(CALL, "twice"));
    assert!(
        matches!(&broken, CallError::Broken { reason, .. } if reason.contains("two calls the number `1`")),
        "{broken}"
    );
}

#[test]
fn calls_that_wait_for_themselves_are_reported_once() {
    let bench = Bench::several(&[("f", 1), ("g", 1)]);
    let end = bench.submit(CALL, "call g call f echo x");
    eventually("it is reported", || !bench.circles().is_empty());
    assert_eq!(bench.circles(), [(["f", "g", "f"].map(str::to_owned).to_vec(), 1)]);
    assert!(bench.cancel(CALL));
    assert!(matches!(error(outcome(&end)), CallError::Cancelled { .. }));
    assert_eq!(value(bench.run(CALL + 1, "call g echo y")), "y");
    assert_eq!(bench.circles().len(), 1);
}

#[test]
fn a_container_that_has_spawned_more_than_it_may_wait_for_still_ends() {
    let bench = Bench::several(&[("f", 1)]);
    let spawned = bench.submit(CALL, "flood 300");
    assert_eq!(value(outcome(&spawned)), "spawned", "what it spawned waits for its own container");
    assert_eq!(value(bench.run(CALL + 1, "echo behind")), "behind");
}

#[test]
fn an_import_that_fails_after_all_is_a_broken_promise() {
    let bench = Bench::several(&[("f", 1)]);
    let broken = error(bench.run(CALL, "fail"));
    assert!(matches!(&broken, CallError::Broken { reason, .. } if reason.contains("after it was ready")), "{broken}");
    assert_eq!(value(bench.run(CALL + 1, "echo next")), "next");
}

#[test]
fn a_container_that_reads_no_answers_holds_nobody_up() {
    let bench = Bench::several(&[("f", 1), ("g", 1)]);
    let words = "x".repeat(100_000);
    let deaf = bench.submit(CALL, &format!("deaf g echo {words}"));
    eventually("it runs", || bench.alive() == 2);
    assert_eq!(value(outcome(&bench.submit_another("g", CALL + 1, "echo others"))), "others");
    assert!(bench.cancel(CALL));
    assert!(matches!(error(outcome(&deaf)), CallError::Cancelled { .. }));
}

#[test]
fn a_container_that_does_not_read_its_input_holds_up_nobody_who_calls_it() {
    let bench = Bench::new(Start::Deaf, |options| {
        options.maximum = 1;
        options.timeout = Duration::from_millis(500);
    });
    let end = bench.submit(CALL, &format!("echo {}", "x".repeat(900_000)));
    assert!(matches!(error(outcome(&end)), CallError::TimedOut { .. }));
}

#[test]
fn a_large_input_arrives_whole_where_there_is_no_room_for_it_at_once() {
    let bench = Bench::new(Start::Ready, |_| ());
    let words = "0123456789".repeat(90_000);
    assert_eq!(value(bench.run(CALL, &format!("echo {words}"))), words);
}
