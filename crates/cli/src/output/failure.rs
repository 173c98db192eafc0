//! How a failed step is shown, an input that will run again, and a call that waits for itself.

use lamina_events::Event;

use super::style::{Palette, Tone};
use super::text;

/// Lines of the step's log that are repeated.
const TAIL: usize = 40;

/// The lines that report a failed step: what went wrong, its last lines unless they were shown already, where the whole
/// log is, how to look inside and what to do. Nothing is said about it afterwards.
pub(crate) fn report(title: &str, event: &Event, palette: Palette, has_tail: bool) -> Vec<String> {
    let Event::StepFailed { message, tail, log, shell, hint, .. } = event else {
        return Vec::new();
    };
    let mut lines = vec![format!("{} {title}: {message}", palette.paint(Tone::Red, "failed:"))];
    for line in tail[tail.len().saturating_sub(TAIL)..].iter().filter(|_| has_tail) {
        lines.push(format!("  {} {}", palette.paint(Tone::Dim, "│"), text::clean(line)).trim_end().to_owned());
    }
    if let Some(log) = log {
        lines.push(format!("  the whole log: {log}"));
    }
    if let Some(shell) = shell {
        lines.push(format!("  a shell in the state before this step: {}", palette.paint(Tone::Green, shell)));
    }
    if let Some(hint) = hint {
        lines.push(format!("{} {hint}", palette.paint(Tone::Cyan, "hint:")));
    }
    lines
}

/// The line about an input that failed and will run again.
pub(crate) fn retry(event: &Event, palette: Palette) -> Vec<String> {
    let Event::CallRetried { function, attempt, of, seconds, cause } = event else {
        return Vec::new();
    };
    let line = format!(
        "`{function}` failed (attempt {attempt} of {of}): {}; trying again in {}",
        text::clean(&cause.replace('\n', " ")),
        text::seconds(*seconds)
    );
    vec![palette.paint(Tone::Dim, line).to_string()]
}

/// The lines about a call that waits for itself.
pub(crate) fn stuck(event: &Event, palette: Palette) -> Vec<String> {
    let Event::CallStuck { path, max_containers } = event else {
        return Vec::new();
    };
    let path: Vec<_> = path.iter().map(|name| format!("`{}`", text::clean(name))).collect();
    let called = path.first().map_or("", String::as_str);
    vec![
        format!(
            "{} a call of function {called} waits for itself ({}): all containers that {called} may have \
             (max_containers={max_containers}) run inputs that wait for it, so it can only time out",
            palette.paint(Tone::Yellow, "warning:"),
            path.join(" → "),
        ),
        format!(
            "{} raise `max_containers` of {called}, or do not wait for the result in the container",
            palette.paint(Tone::Cyan, "hint:")
        ),
    ]
}
