//! Inputs that fail and run again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lamina_events::Event;

use super::eventually;
use super::fake::{Bench, Start, error, outcome, value};
use crate::*;

/// A pool whose inputs run up to three times.
fn bench(start: Start, delay: Duration, adjust: impl FnOnce(&mut PoolOptions)) -> Bench {
    Bench::new(start, |options| {
        options.retries = Retries { maximum: 2, backoff: 1.0, initial_delay: delay, maximum_delay: delay };
        adjust(options);
    })
}

fn attempts(bench: &Bench) -> usize {
    bench.fake.attempts.load(Ordering::SeqCst)
}

/// The retries that were reported: attempts, and causes.
fn reported(bench: &Bench) -> Vec<(u32, u32, String)> {
    let events = bench.events.lock().unwrap();
    let retried = events.iter().filter_map(|event| match event {
        Event::CallRetried { attempt, of, cause, .. } => Some((*attempt, *of, cause.clone())),
        _ => None,
    });
    retried.collect()
}

#[test]
fn whatever_fails_runs_again_with_the_same_arguments() {
    let cases = [
        ("raise boom", "raised an exception"),
        ("exit 3", "the container of function `f` exited with code `3` before it returned a result"),
        ("signal 11", "the container of function `f` was killed by `SIGSEGV`"),
        ("memory", "the container of function `f` ran out of memory"),
        ("hang", "function `f` did not finish within its timeout of `0.2` seconds"),
    ];
    for (input, cause) in cases {
        let bench = bench(Start::Ready, Duration::ZERO, |options| options.timeout = Duration::from_millis(200));
        assert_eq!(value(bench.run(1, &format!("until 2 {input}"))), "done", "{input}");
        assert_eq!(attempts(&bench), 3);
        assert_eq!(reported(&bench), [(1, 3, cause.to_owned()), (2, 3, cause.to_owned())]);
    }
}

#[test]
fn a_container_that_lives_serves_the_next_attempt() {
    let bench = bench(Start::Ready, Duration::ZERO, |_| ());
    assert_eq!(value(bench.run(1, "until 1 raise boom")), "done");
    assert_eq!(bench.started(), 1);
}

#[test]
fn the_last_failure_is_the_outcome() {
    let bench = bench(Start::Ready, Duration::ZERO, |_| ());
    match bench.run(1, "until 9 raise boom") {
        Outcome::Exception(payload) => assert_eq!(payload.into_bytes().unwrap(), b"boom"),
        other => panic!("{other:?}"),
    }
    assert_eq!(attempts(&bench), 3);
    let exited = error(bench.run(2, "exit 4"));
    assert!(matches!(&exited, CallError::Exited { code: 4, tail, .. } if tail == "last words"), "{exited}");
}

#[test]
fn other_inputs_do_not_wait_for_an_attempt_that_is_not_due() {
    let delay = Duration::from_millis(150);
    let bench = bench(Start::Ready, delay, |options| options.maximum = 1);
    let begun = Instant::now();
    let flaky = bench.submit(1, "until 1 raise boom");
    let second = bench.submit(2, "echo meanwhile");
    assert_eq!(value(outcome(&second)), "meanwhile");
    assert_eq!(attempts(&bench), 1);
    assert_eq!(value(outcome(&flaky)), "done");
    assert!(begun.elapsed() >= delay);
}

#[test]
fn many_inputs_may_wait_for_their_attempts() {
    let bench = bench(Start::Ready, Duration::from_millis(20), |_| ());
    let inputs: Vec<_> = (0..500).map(|call| bench.submit(call, "raise boom")).collect();
    for input in &inputs {
        assert!(matches!(outcome(input), Outcome::Exception(_)));
    }
    assert_eq!(reported(&bench).len(), 1000);
}

#[test]
fn an_input_that_waits_for_its_attempt_can_be_cancelled_and_is_answered_at_the_stop() {
    let bench = bench(Start::Ready, Duration::from_hours(1), |_| ());
    let inputs = [bench.submit(1, "raise boom"), bench.submit(2, "raise boom")];
    eventually("both wait", || reported(&bench).len() == 2);
    assert!(bench.cancel(1));
    assert!(matches!(error(outcome(&inputs[0])), CallError::Cancelled { .. }));
    bench.pool.stop();
    assert!(matches!(error(outcome(&inputs[1])), CallError::Stopped { .. }));
}

#[test]
fn cancelled_and_stopped_inputs_do_not_run_again() {
    let bench = bench(Start::Ready, Duration::ZERO, |_| ());
    let running = bench.submit(1, "until 9 hang");
    eventually("it runs", || attempts(&bench) == 1);
    assert!(bench.cancel(1));
    assert!(matches!(error(outcome(&running)), CallError::Cancelled { .. }));
    let running = bench.submit(2, "until 9 hang");
    eventually("it runs", || attempts(&bench) == 2);
    bench.pool.stop();
    assert!(matches!(error(outcome(&running)), CallError::Stopped { .. }));
    assert_eq!((attempts(&bench), reported(&bench).len()), (2, 0));
}

#[test]
fn a_container_that_dies_while_it_starts_is_tried_again_but_not_one_that_cannot_start() {
    let dying = bench(Start::Dying, Duration::ZERO, |_| ());
    assert!(matches!(error(dying.run(1, "echo x")), CallError::Exited { .. }));
    assert_eq!(dying.started(), 3);

    let failing = bench(Start::FailingImport, Duration::ZERO, |_| ());
    assert!(matches!(failing.run(1, "echo x"), Outcome::Exception(_)));
    assert_eq!((failing.started(), reported(&failing).len()), (1, 0));

    let impossible = bench(Start::Impossible, Duration::ZERO, |_| ());
    assert!(matches!(error(impossible.run(1, "echo x")), CallError::NotStarted { .. }));
    assert_eq!((impossible.started(), reported(&impossible).len()), (1, 0));
}
