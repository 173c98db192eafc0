//! `modal store verify`: whether everything is as it was stored.

use std::cell::Cell;
use std::fmt::Write;
use std::io;
use std::time::{Duration, Instant};

use lamina_engine::{Checked, Damage, Engine, Options, Outcome};
use lamina_events::CancelToken;

use super::ask::say;
use super::print;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::text;

/// Problems of one layer that are shown.
const SHOWN: usize = 10;
/// How often the progress is written.
const INTERVAL: Duration = Duration::from_millis(100);

/// Checks and, if wanted, repairs; the exit code is 1 if damage stays.
pub(crate) fn verify(image: Option<&str>, repair: bool) -> Result<u8, Failure> {
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    let engine = Engine::open(&Options { cancel, works_on_full_disk: true, ..Options::default() })?;
    let progress = Progress::new();
    let checked = engine.check(image, &|done, total| progress.show(done, total));
    progress.clear();
    if let Some(code) = interruption.exit_code() {
        return Ok(code);
    }
    let mut checked = checked?;
    if repair && checked.is_damaged() {
        let waiting = || say("Waiting for another `modal` that is storing something ...\n");
        let repaired = engine.repair(&mut checked, &waiting);
        if let Some(code) = interruption.exit_code() {
            return Ok(code);
        }
        repaired?;
    }
    print(report(&checked, repair).as_bytes())?;
    Ok(u8::from(checked.is_damaged()))
}

/// A line on the terminal that says how far the check is.
struct Progress {
    is_shown: bool,
    last: Cell<Option<Instant>>,
}

impl Progress {
    fn new() -> Self {
        Self { is_shown: rustix::termios::isatty(io::stderr()), last: Cell::new(None) }
    }

    fn show(&self, done: usize, total: usize) {
        if self.is_shown && self.last.get().is_none_or(|last| last.elapsed() > INTERVAL) {
            self.last.set(Some(Instant::now()));
            say(&format!("\r\x1b[KChecking the store: {} %", done * 100 / total.max(1)));
        }
    }

    fn clear(&self) {
        if self.last.get().is_some() {
            say("\r\x1b[K");
        }
    }
}

fn report(checked: &Checked, repair: bool) -> String {
    let mut report = String::new();
    for damage in &checked.damages {
        describe(damage, &mut report);
    }
    for object in &checked.damaged_objects {
        let _ = writeln!(report, "The file `{}` holds other bytes than its name says.", object.display());
    }
    let objects = &checked.damaged_objects;
    if !objects.is_empty() && checked.objects_are_aside {
        report.push_str("  → put aside\n");
    } else if !objects.is_empty() && repair {
        report.push_str("  → stays, as a running `modal` may use it: try again when that has ended\n");
    }
    for description in &checked.damaged_descriptions {
        let (path, problem) = (description.path.display(), text::clean(&description.problem));
        let _ = writeln!(report, "The description `{path}` of a kept package {problem}.");
    }
    let descriptions = &checked.damaged_descriptions;
    if !descriptions.is_empty() && checked.descriptions_are_aside {
        report.push_str("  → put aside: whoever needs the package unpacks it again\n");
    }
    let layers = count(checked.layers, "layer", "layers");
    let what = match checked.objects {
        0 => layers,
        objects => {
            let packages = count(checked.packages, "package", "packages");
            format!("{layers}, {} and {packages}", count(objects, "file", "files"))
        }
    };
    let verdict = match (checked.damages.len(), objects.len(), descriptions.len()) {
        (0, 0, 0) => "everything is as it was stored".to_owned(),
        (0, 0, packages) => format!("{} damaged", counted(packages, "description is", "descriptions are")),
        (0, objects, _) => format!("{} damaged", counted(objects, "file is", "files are")),
        (layers, ..) => format!("{} damaged", counted(layers, "layer is", "layers are")),
    };
    let _ = writeln!(report, "Checked {what}: {verdict}.");
    if checked.is_damaged() && !repair {
        report.push_str("`modal store verify --repair` makes again what it can, and the next build the rest.\n");
    }
    report
}

fn describe(damage: &Damage, report: &mut String) {
    let title = damage.title.as_ref().map(|title| format!(" of `{}`", text::clean(title))).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = writeln!(report, "The layer `{}`{title} is damaged:", damage.digest.short());
    for problem in damage.problems.iter().take(SHOWN) {
        let _ = writeln!(report, "  {}", text::clean(problem));
    }
    if let Some(more) = damage.problems.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(report, "  and {more} more");
    }
    report.push_str(match damage.outcome {
        Outcome::Stays => "",
        Outcome::InUse => "  → stays, as a running `modal` uses it: try again when that has ended\n",
        Outcome::Restored => "  → made again\n",
        Outcome::Forgotten => "  → forgotten: the next build makes it again\n",
    });
}

fn count(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

fn counted(number: usize, one: &str, several: &str) -> String {
    count(number as u64, one, several)
}

#[cfg(test)]
mod tests {
    use lamina_engine::{DamagedDescription, Digest};

    use super::*;

    fn damage(outcome: Outcome, problems: usize) -> Damage {
        let problem = |number| format!("`/usr/bin/{number}` is missing from the view");
        Damage {
            digest: Digest::of(b"layer"),
            title: Some("run_commands(\"make\")".to_owned()),
            problems: (0..problems).map(problem).collect(),
            outcome,
        }
    }

    #[test]
    fn what_is_damaged_is_said_with_what_became_of_it() {
        let sound = Checked { layers: 3, objects: 1, packages: 2, ..Checked::default() };
        insta::assert_snapshot!(report(&sound, false), @"Checked 3 layers, 1 file and 2 packages: everything is as it was stored.");
        let found = Checked {
            layers: 1,
            damages: vec![damage(Outcome::Stays, 12)],
            damaged_objects: vec!["objects/A/bcd".into()],
            ..Checked::default()
        };
        insta::assert_snapshot!(report(&found, false), @r#"
        The layer `8f2d6d0f1719` of `run_commands("make")` is damaged:
          `/usr/bin/0` is missing from the view
          `/usr/bin/1` is missing from the view
          `/usr/bin/2` is missing from the view
          `/usr/bin/3` is missing from the view
          `/usr/bin/4` is missing from the view
          `/usr/bin/5` is missing from the view
          `/usr/bin/6` is missing from the view
          `/usr/bin/7` is missing from the view
          `/usr/bin/8` is missing from the view
          `/usr/bin/9` is missing from the view
          and 2 more
        The file `objects/A/bcd` holds other bytes than its name says.
        Checked 1 layer: 1 layer is damaged.
        `modal store verify --repair` makes again what it can, and the next build the rest.
        "#);
        let outcomes = [Outcome::Restored, Outcome::Forgotten, Outcome::InUse];
        let damages = outcomes.map(|outcome| damage(outcome, 1)).to_vec();
        let repaired = Checked { layers: 4, objects: 20, damages, ..found };
        insta::assert_snapshot!(report(&repaired, true), @r#"
        The layer `8f2d6d0f1719` of `run_commands("make")` is damaged:
          `/usr/bin/0` is missing from the view
          → made again
        The layer `8f2d6d0f1719` of `run_commands("make")` is damaged:
          `/usr/bin/0` is missing from the view
          → forgotten: the next build makes it again
        The layer `8f2d6d0f1719` of `run_commands("make")` is damaged:
          `/usr/bin/0` is missing from the view
          → stays, as a running `modal` uses it: try again when that has ended
        The file `objects/A/bcd` holds other bytes than its name says.
          → stays, as a running `modal` may use it: try again when that has ended
        Checked 4 layers, 20 files and 0 packages: 3 layers are damaged.
        "#);
        assert!(repaired.is_damaged());
        let damages = vec![damage(Outcome::Restored, 1)];
        let mended = Checked { damages, objects_are_aside: true, ..repaired };
        insta::assert_snapshot!(report(&mended, true), @r#"
        The layer `8f2d6d0f1719` of `run_commands("make")` is damaged:
          `/usr/bin/0` is missing from the view
          → made again
        The file `objects/A/bcd` holds other bytes than its name says.
          → put aside
        Checked 4 layers, 20 files and 0 packages: 1 layer is damaged.
        "#);
        assert!(!mended.is_damaged());
    }

    #[test]
    fn damaged_descriptions_are_named() {
        let problem = "holds other bytes than were written".to_owned();
        let damaged_descriptions = vec![DamagedDescription { path: "wheels/ab.json".into(), problem }];
        let found = Checked { layers: 1, objects: 1, packages: 1, damaged_descriptions, ..Checked::default() };
        insta::assert_snapshot!(report(&found, false), @r"
        The description `wheels/ab.json` of a kept package holds other bytes than were written.
        Checked 1 layer, 1 file and 1 package: 1 description is damaged.
        `modal store verify --repair` makes again what it can, and the next build the rest.
        ");
        let mended = Checked { descriptions_are_aside: true, ..found.clone() };
        assert!(report(&mended, true).contains("→ put aside: whoever needs the package unpacks it again"));
        assert_eq!((found.is_damaged(), mended.is_damaged()), (true, false));
    }
}
