//! Generators: items on their way, and who waits for whom.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::fake::{Bench, Start, error, outcome, value};
use crate::*;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn items_come_in_order_and_before_the_result() {
    let bench = Bench::new(Start::Ready, |_| ());
    let (items, end) = bench.generate(1, "count 50");
    assert_eq!(value(outcome(&end)), "");
    let items: Vec<String> = items.try_iter().collect();
    assert_eq!(items, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(value(bench.run(2, "echo next")), "next", "the container serves the next input");
    assert_eq!(bench.started(), 1);
}

#[test]
fn a_runner_that_does_not_wait_for_its_caller_is_not_read_any_further() {
    let bench = Bench::new(Start::Ready, |_| ());
    let (items, end) = bench.generate(1, "count 100000");
    for number in 0..64 {
        assert_eq!(items.recv_timeout(PATIENCE).unwrap(), number.to_string());
    }
    assert_eq!(items.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
    for number in 64..200 {
        assert!(bench.more(1, 1));
        assert_eq!(items.recv_timeout(PATIENCE).unwrap(), number.to_string());
    }
    assert!(bench.cancel(1), "one that is not read can be cancelled");
    assert!(matches!(error(outcome(&end)), CallError::Cancelled { .. }));
    assert!(!bench.more(1, 1));
}

#[test]
fn the_runner_learns_what_was_consumed() {
    let bench = Bench::new(Start::Ready, |_| ());
    let (items, end) = bench.generate(1, "listen");
    assert_eq!(items.recv_timeout(PATIENCE).unwrap(), "only");
    assert!(!bench.more(2, 1), "another call");
    assert!(bench.more(1, 8));
    assert_eq!(value(outcome(&end)), r#"{"type":"more","call":1,"count":8}"#);
    assert!(!bench.more(1, 8), "it has ended");
    assert_eq!(value(bench.run(2, "echo next")), "next", "nothing is left over for the next call");
}

#[test]
fn an_item_of_a_call_that_the_container_does_not_run_breaks_the_protocol() {
    let bench = Bench::new(Start::Ready, |_| ());
    let broken = error(bench.run(1, "foreign"));
    assert!(matches!(&broken, CallError::Broken { reason, .. } if reason.contains("4242")), "{broken:?}");
}

#[test]
fn a_generator_that_dies_ends_with_the_error_after_its_items() {
    let bench = Bench::new(Start::Ready, |options| options.timeout = Duration::from_millis(300));
    let (items, end) = bench.generate(1, "count 100000");
    assert!(matches!(error(outcome(&end)), CallError::TimedOut { .. }), "nobody consumes");
    assert!(items.try_iter().count() >= 64);
}
