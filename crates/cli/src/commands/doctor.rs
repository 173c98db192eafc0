//! `modal doctor`: whether this machine can build and run images.

use std::fmt::Write;
use std::io;

use lamina_engine::{Finding, Status, probe_store};
use lamina_events::CancelToken;
use serde::Serialize;

use super::{print, print_json};
use crate::arguments::Doctor;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::style::{Palette, Tone};

/// Prints the findings; the exit code is 1 if one of them is a problem.
pub(crate) fn doctor(doctor: &Doctor) -> Result<u8, Failure> {
    // The trial is soon over, and leaves nothing when it is.
    let interruption = Interruption::listen(interruption::catch()?, CancelToken::new(), None, || ());
    let findings = probe_store();
    if let Some(code) = interruption.exit_code() {
        return Ok(code);
    }
    if doctor.json {
        print_json(&Report { version: 2, findings: findings.iter().map(Item::from).collect() })?;
    } else {
        print(render(&findings, Palette::detect(io::stdout())).as_bytes())?;
    }
    Ok(u8::from(findings.iter().any(|finding| finding.status == Status::Problem)))
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    findings: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    status: &'static str,
    detail: &'a str,
    hint: Option<&'a str>,
}

impl<'a> From<&'a Finding> for Item<'a> {
    fn from(finding: &'a Finding) -> Self {
        let status = word(finding.status);
        Self { name: finding.name, status, detail: &finding.detail, hint: finding.hint.as_deref() }
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Problem => "problem",
    }
}

fn render(findings: &[Finding], palette: Palette) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (tone, mark) = match finding.status {
            Status::Ok => (Tone::Green, "✓"),
            Status::Warning => (Tone::Yellow, "!"),
            Status::Problem => (Tone::Red, "✗"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {:width$}  {}", palette.paint(tone, mark), finding.name, finding.detail);
        for line in finding.hint.iter().flat_map(|hint| hint.lines()) {
            let _ = writeln!(text, "  {:width$}  {} {line}", "", palette.paint(Tone::Cyan, "→"));
        }
    }
    let problems = findings.iter().filter(|finding| finding.status == Status::Problem).count();
    let verdict = match problems {
        0 => "This machine can build and run images.".to_owned(),
        1 => "One thing has to be mended first.".to_owned(),
        several => format!("{several} things have to be mended first."),
    };
    let _ = writeln!(text, "\n{}", palette.paint(Tone::Bold, verdict));
    // Files of subordinate ids cannot be deleted with `rm`; whoever looks for help should learn that here.
    text.push_str("`modal store remove` deletes everything that was ever built.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_with_their_hints() {
        let finding = |name, status, detail: &str, hint: Option<&str>| Finding {
            name,
            status,
            detail: detail.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let findings = [
            finding("kernel", Status::Ok, "6.18.0", None),
            finding("control groups", Status::Warning, "no memory controller", Some("enable it")),
            finding("subordinate ids", Status::Problem, "`ada` has none", Some("run this as root:\nusermod …")),
        ];
        insta::assert_snapshot!(render(&findings, Palette::PLAIN), @r"
        ✓ kernel           6.18.0
        ! control groups   no memory controller
                           → enable it
        ✗ subordinate ids  `ada` has none
                           → run this as root:
                           → usermod …

        One thing has to be mended first.
        `modal store remove` deletes everything that was ever built.
        ");
    }
}
