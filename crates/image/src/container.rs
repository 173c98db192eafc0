//! Where things are in the containers of functions, and in those of steps that run one.

/// Where functions run and their source lies, unless the image says otherwise.
pub const HOME: &str = "/root";
/// Where the `modal` package appears.
pub const PACKAGE: &str = "/__modal/python/modal";
/// The program that executes functions.
pub const RUNNER: &str = "/__modal/python/modal/_runner/__main__.py";
/// The program that serves one call from the command line.
pub const COMMAND: &str = "/__modal/python/modal/_runner/command.py";
/// Names of an interpreter, in the order they are looked for on the PATH.
pub const INTERPRETERS: [&str; 2] = ["python", "python3"];

/// The `PYTHONPATH` with the source in it, for one that was given.
#[must_use]
pub fn python_path(given: Option<&str>) -> String {
    match given {
        Some(path) if path.split(':').any(|directory| directory == HOME) => path.to_owned(),
        Some(path) if !path.is_empty() => format!("{HOME}:{path}"),
        _ => HOME.to_owned(),
    }
}
