//! Real sandboxes on this machine's kernel, as root and as ordinary users.
//!
//! The helper processes execute this very binary, so it has a `main` of its own; the tests are listed and run in the
//! manner of the standard harness, one process per test under nextest.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod basics;
mod entries;
mod escapes;
mod harness;
mod hostile;
mod limits;
mod probe;
mod resources;
mod support;
mod users;
mod warm;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("__helpers") => lamina_sandbox::helpers_main(support::idle_worker),
        Some("__probe") => probe::main(&arguments[1..]),
        Some("__as_user") => users::main(&arguments[1..]),
        _ => harness::main(
            &arguments,
            &[
                basics::TESTS,
                entries::TESTS,
                escapes::TESTS,
                hostile::TESTS,
                limits::TESTS,
                resources::TESTS,
                users::TESTS,
                warm::TESTS,
            ],
        ),
    }
}
