//! The part of the standard test harness that cargo and nextest use.

use std::panic::catch_unwind;
use std::process::ExitCode;

/// A test with its name.
pub(crate) type Test = (&'static str, fn());

/// Names functions as tests of a module.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::Test] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}

/// Lists or runs the tests that the arguments select.
pub(crate) fn main(arguments: &[String], modules: &[&[Test]]) -> ExitCode {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let mut filters = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--format" | "--test-threads" | "--color" | "--skip" => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let is_selected = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if has("--exact") { name == *filter } else { name.contains(filter) })
    };
    let selected: Vec<Test> =
        modules.iter().flat_map(|tests| tests.iter()).copied().filter(|(name, _)| is_selected(name)).collect();
    if has("--list") {
        // No test is ever ignored.
        for (name, _) in selected.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let failed = selected.iter().filter(|(name, test)| {
        println!("test {name} ...");
        let failed = catch_unwind(test).is_err();
        println!("test {name} ... {}", if failed { "FAILED" } else { "ok" });
        failed
    });
    let failed = failed.count();
    println!("\n{} tests, {failed} failed", selected.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
