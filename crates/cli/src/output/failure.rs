//! How a failed step is shown, and an input that will run again.

use lamina_events::Event;

use super::style::{Palette, Tone};
use super::text;

/// Lines of the step's log that are repeated.
const TAIL: usize = 40;

/// The lines that report a failed step: what went wrong, its last lines, where the whole log is and how to look inside.
pub(crate) fn report(title: &str, event: &Event, palette: Palette) -> Vec<String> {
    let Event::StepFailed { message, tail, log, shell, .. } = event else {
        return Vec::new();
    };
    let mut lines = vec![format!("{} {title}: {message}", palette.paint(Tone::Red, "failed:"))];
    for line in &tail[tail.len().saturating_sub(TAIL)..] {
        lines.push(format!("  {} {}", palette.paint(Tone::Dim, "│"), text::clean(line)).trim_end().to_owned());
    }
    if let Some(log) = log {
        lines.push(format!("  the whole log: {log}"));
    }
    if let Some(shell) = shell {
        lines.push(format!("  a shell in the state before this step: {}", palette.paint(Tone::Green, shell)));
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
