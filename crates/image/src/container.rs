//! Where things are in the containers of functions, and in those of steps that run one.

/// Where functions run and their source lies, unless the image says otherwise.
pub const HOME: &str = "/root";
/// The directory on the `PYTHONPATH` that holds the `modal` package, and nothing else that can be imported.
const PACKAGES: &str = "/__modal/python";
/// Where the `modal` package appears.
pub const PACKAGE: &str = "/__modal/python/modal";
/// The program that executes functions.
pub const RUNNER: &str = "/__modal/python/modal/_runner/__main__.py";
/// The program that serves one call from the command line.
pub const COMMAND: &str = "/__modal/python/modal/_runner/command.py";
/// Names of an interpreter, in the order they are looked for on the PATH.
pub const INTERPRETERS: [&str; 2] = ["python", "python3"];

/// The `PYTHONPATH` with the source and the `modal` package in it, for one that was given. The package comes last: programs
/// that a function starts can import it, and find all else as they would without it.
#[must_use]
pub fn python_path(given: Option<&str>) -> String {
    let given = given.filter(|path| !path.is_empty());
    let has = |wanted: &str| given.is_some_and(|path| path.split(':').any(|directory| directory == wanted));
    let parts = [(!has(HOME)).then_some(HOME), given, (!has(PACKAGES)).then_some(PACKAGES)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(":")
}
