//! How long helpers and sandboxes take from the request to their end: `cargo bench -p lamina-sandbox`.
//!
//! Every line is the median, the 95th percentile and the maximum of 200 runs in milliseconds, after 20 that do not count.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/sandboxes/support.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod support;

use std::time::Instant;

use lamina_sandbox::{Limits, Network, SandboxSpec, Upper};
use support::{Store, null_stdio, spec};

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == "__helpers") {
        lamina_sandbox::helpers_main(support::idle_worker);
    }
    let store = Store::new();
    measure("helpers: start", || drop(store.start()));

    let helpers = store.start();
    let run = |spec: &SandboxSpec| {
        let exit = helpers.launcher.spawn(spec, null_stdio()).unwrap().wait().unwrap();
        assert_eq!(exit.status, lamina_sandbox::ExitStatus::Exited(0));
    };
    let plain = spec(&["/bin/true"]);
    let limits = Limits { memory_bytes: Some(512 << 20), cpus: Some(1.0), pids: Some(100), ..Limits::default() };
    measure("memory upper", || run(&plain));
    measure("memory upper, isolated network", || {
        run(&SandboxSpec { network: Network::Isolated, ..plain.clone() });
    });
    measure("memory upper, limits", || {
        run(&SandboxSpec { limits, ..plain.clone() });
    });
    let mut uppers: Vec<Upper> = (0..WARM_UP + RUNS).map(|index| store.upper_unowned(&index.to_string())).collect();
    store.own();
    measure("store upper, limits", || {
        run(&SandboxSpec { upper: uppers.pop().unwrap(), limits, ..plain.clone() });
    });
}

const WARM_UP: usize = 20;
const RUNS: usize = 200;

fn measure(name: &str, mut run: impl FnMut()) {
    let mut times = Vec::with_capacity(RUNS);
    for round in 0..WARM_UP + RUNS {
        let start = Instant::now();
        run();
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    println!("{name:32} {:6.2} {:6.2} {:6.2}", times[RUNS / 2], times[RUNS * 95 / 100], times[RUNS - 1]);
}
