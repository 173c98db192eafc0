//! Pools on fake containers.

mod fake;
mod generators;
mod golden;
mod nested;
mod retries;
mod terminal;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lamina_events::Event;
use lamina_ground::{ErrorClass, Hint};
use lamina_sandbox::SandboxError;

use crate::*;
use fake::{Bench, Start, error, outcome, value};

/// Waits until `condition` holds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn nothing_starts_before_the_first_input_and_one_container_is_reused() {
    let bench = Bench::new(Start::Ready, |_| ());
    assert_eq!(bench.started(), 0);
    for call in 0..50 {
        assert_eq!(value(bench.run(call, &format!("echo {call}"))), call.to_string());
    }
    assert_eq!(bench.started(), 1);
}

#[test]
fn many_inputs_share_at_most_the_maximum_of_containers() {
    let bench = Bench::new(Start::Ready, |_| ());
    let receivers: Vec<_> = (0..200).map(|call| bench.submit(call, &format!("echo {call}"))).collect();
    for (call, receiver) in receivers.iter().enumerate() {
        assert_eq!(value(outcome(receiver)), call.to_string());
    }
    assert!((1..=2).contains(&bench.started()));
    let sleepers: Vec<_> = (0..4).map(|call| bench.submit(call, "sleep 100")).collect();
    eventually("both containers work", || bench.alive() == 2);
    for sleeper in &sleepers {
        assert_eq!(value(outcome(sleeper)), "slept");
    }
    assert_eq!(bench.started(), 2);
}

#[test]
fn exceptions_and_large_results_pass_through() {
    let bench = Bench::new(Start::Ready, |_| ());
    match bench.run(1, "raise boom") {
        Outcome::Exception(payload) => assert_eq!(payload.into_bytes().unwrap(), b"boom"),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(bench.run(2, "large")).len(), 2 << 20);
    assert_eq!(bench.started(), 1);
}

#[test]
fn a_dead_container_is_an_error_that_says_how_and_the_others_go_on() {
    let bench = Bench::new(Start::Ready, |options| {
        options.maximum = 1;
        options.memory_limit = Some(64 << 20);
    });
    let (function, tail) = ("f".to_owned(), String::new());
    let cases = [
        ("exit 3", CallError::Exited { function: function.clone(), code: 3, tail: "last words".into() }),
        ("signal 11", CallError::Signaled { function: function.clone(), signal: 11, tail: tail.clone() }),
        ("memory", CallError::OutOfMemory { function, limit: Some(64 << 20), tail }),
    ];
    for (call, (input, expected)) in (0..).step_by(2).zip(cases) {
        let dying = bench.submit(call, input);
        let waiting = bench.submit(call + 1, "echo next");
        assert_eq!(format!("{:?}", error(outcome(&dying))), format!("{expected:?}"));
        assert_eq!(value(outcome(&waiting)), "next");
    }
    assert_eq!(bench.started(), 4);
    let causes = bench
        .events
        .lock()
        .unwrap()
        .iter()
        .filter(|event| matches!(event, Event::ContainerFinished { cause, .. } if !cause.is_empty()))
        .count();
    assert_eq!(causes, 3);
}

#[test]
fn a_runner_that_breaks_the_protocol_is_killed() {
    let bench = Bench::new(Start::Ready, |options| options.timeout = Duration::from_secs(2));
    for (call, input) in ["rubbish", "wrong", "unsealed", "close", "torn"].into_iter().enumerate() {
        let broken = error(bench.run(call as u64, input));
        // The rest of a torn message may still come.
        let expected = if input == "torn" { "TimedOut" } else { "Broken" };
        assert!(format!("{broken:?}").starts_with(expected), "{input}: {broken:?}");
        eventually("it is killed", || bench.alive() == 0);
    }
    assert_eq!(value(bench.run(9, "echo fine")), "fine");
}

#[test]
fn what_a_container_writes_is_not_shown_as_it_is_in_the_engines_words() {
    let bench = Bench::new(Start::Ready, |_| ());
    let broken = error(bench.run(1, "shout")).to_string();
    assert!(broken.contains(r"\u{1b}[31mfake\n") && !broken.contains(char::is_control), "{broken:?}");
    assert!(broken.len() < 2_000, "{}", broken.len());
}

#[test]
fn a_message_that_comes_byte_by_byte_gets_no_more_time_than_others() {
    let bench = Bench::new(Start::Ready, |options| options.timeout = Duration::from_millis(300));
    let late = error(bench.run(1, "dripping"));
    assert!(matches!(late, CallError::TimedOut { seconds: 0.3, .. }), "{late}");
    assert_eq!(value(bench.run(2, "echo fine")), "fine");
}

#[test]
fn nobody_waits_until_a_descriptor_of_a_container_is_closed() {
    let bench = Bench::new(Start::Ready, |_| ());
    let broken = error(bench.run(1, "lingering"));
    assert!(broken.to_string().contains("it sent file descriptors"), "{broken}");
    assert_eq!(value(bench.run(2, "echo fine")), "fine");
}

#[test]
fn an_input_that_takes_too_long_ends_with_a_timeout_and_others_are_served() {
    let bench = Bench::new(Start::Ready, |options| options.timeout = Duration::from_millis(200));
    assert_eq!(value(bench.run(1, "echo warm")), "warm");
    let begun = Instant::now();
    let late = error(bench.run(2, "hang"));
    assert!(matches!(late, CallError::TimedOut { seconds: 0.2, .. }), "{late}");
    assert_eq!(late.class(), ErrorClass::FunctionTimeoutError);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(value(bench.run(3, "echo again")), "again");
    // It may come before the late one has ended, and has a container of its own then.
    assert!(bench.started() <= 2);
}

#[test]
fn cancelling_takes_a_waiting_input_back_and_ends_a_running_one() {
    let bench = Bench::new(Start::Ready, |options| options.maximum = 1);
    let running = bench.submit(1, "hang");
    eventually("it starts", || bench.alive() == 1);
    let waiting = bench.submit(2, "echo never");
    let next = bench.submit(3, "echo next");
    assert!(bench.cancel(2));
    assert!(matches!(error(outcome(&waiting)), CallError::Cancelled { .. }));
    assert!(bench.cancel(1));
    assert!(matches!(error(outcome(&running)), CallError::Cancelled { .. }));
    assert_eq!(value(outcome(&next)), "next");
    assert!(!bench.cancel(1));
    assert!(!bench.cancel(77));
}

#[test]
fn a_failing_import_fails_the_waiting_inputs_with_its_exception_and_is_not_repeated() {
    let bench = Bench::new(Start::FailingImport, |_| ());
    let receivers: Vec<_> = (0..20).map(|call| bench.submit(call, "echo x")).collect();
    for receiver in &receivers {
        match outcome(receiver) {
            Outcome::Exception(payload) => assert_eq!(payload.into_bytes().unwrap(), b"ImportError"),
            other => panic!("{other:?}"),
        }
    }
    assert!(bench.started() <= 20, "{} starts", bench.started());
    eventually("they are gone", || bench.alive() == 0);
    let before = bench.started();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.started(), before, "nothing is restarted without an input");
}

#[test]
fn a_container_that_cannot_start_is_an_error_of_the_inputs() {
    let bench = Bench::new(Start::Impossible, |_| ());
    let failed = error(bench.run(1, "echo x"));
    let CallError::NotStarted { source: StartError::Sandbox(cause), .. } = &failed else { panic!("{failed}") };
    assert!(matches!(**cause, SandboxError::CommandNotFound { .. }), "the error is still of its kind");
    let text = failed.to_string();
    assert!(text.starts_with("the container of function `f` did not start: the command `python`"), "{text}");
    assert!(failed.hint().is_some_and(|hint| hint.contains("Python interpreter") && hint.contains("add_python")));
    let missing = SandboxError::CommandNotFound { command: "/entry".to_owned(), path: String::new() };
    assert!(StartError::from(missing).hint().is_some_and(|hint| hint.contains("`.entrypoint([])`")));

    let bench = Bench::new(Start::Dying, |_| ());
    let failed = error(bench.run(1, "echo x"));
    assert!(matches!(failed, CallError::Exited { code: 1, tail, .. } if tail == "Fatal Python error"));

    let bench = Bench::new(Start::NeverReady, |options| {
        options.startup = Duration::from_millis(100);
    });
    let failed = error(bench.run(1, "echo x"));
    assert!(matches!(failed, CallError::StartTimedOut { .. }), "{failed:?}");
}

#[test]
fn output_comes_before_the_result_in_whole_lines() {
    let bench = Bench::new(Start::Ready, |_| ());
    bench.run(1, "print one\ntwo\n");
    assert_eq!(bench.stdout(), [b"one\ntwo\n".to_vec()]);
    bench.run(2, "print half");
    eventually("half a line is passed on after a while", || bench.stdout().len() == 2);
    bench.run(3, "print a\nb");
    assert_eq!(bench.stdout()[2], b"a\n");
    bench.pool.stop();
    assert_eq!(bench.stdout()[3], b"b");
}

#[test]
fn idle_containers_go_after_a_while_and_come_back() {
    let bench = Bench::new(Start::Ready, |options| options.idle = Duration::from_millis(100));
    bench.run(1, "echo x");
    eventually("it leaves", || bench.alive() == 0);
    assert_eq!(bench.fake.left.load(Ordering::SeqCst), 1, "it was told to leave, not killed");
    assert_eq!(value(bench.run(2, "echo y")), "y");
    assert_eq!(bench.started(), 2);
}

#[test]
fn stopping_answers_everybody_and_leaves_no_container() {
    let bench = Bench::new(Start::Ready, |options| options.maximum = 2);
    assert_eq!(value(bench.run(1, "echo x")), "x");
    let inputs = [bench.submit(2, "hang"), bench.submit(3, "hang"), bench.submit(4, "echo never")];
    eventually("two run", || bench.alive() == 2);
    bench.pool.stop();
    for input in &inputs {
        assert!(matches!(error(outcome(input)), CallError::Stopped { .. }));
    }
    assert_eq!(bench.alive(), 0);
    assert!(matches!(error(bench.run(5, "echo x")), CallError::Stopped { .. }));
}

#[test]
fn idle_containers_leave_by_themselves_when_the_pool_stops() {
    let bench = Bench::new(Start::Ready, |_| ());
    bench.run(1, "echo x");
    bench.pool.stop();
    assert_eq!(bench.fake.left.load(Ordering::SeqCst), 1);
}
