//! What is known about the steps of the builds in progress.

use std::collections::BTreeMap;
use std::time::Duration;

use lamina_events::{Event, Miss, Stop};

use super::text;

/// A step as far as it has come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status {
    /// Its parent is not there yet.
    Queued,
    /// Another process makes the layer.
    Waiting { since: Duration },
    /// It runs.
    Running { since: Duration, miss: Miss },
    /// The store had its layer.
    Cached { bytes: u64 },
    /// Its layer was made.
    Finished { miss: Miss, seconds: f64, bytes_new: u64, bytes_shared: u64 },
    /// It failed.
    Failed { miss: Miss, seconds: f64 },
    /// It was ended without a result.
    Stopped { cause: Stop },
}

/// A step and what it said last.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) status: Status,
    pub(crate) last_line: String,
    /// What it was busy with when it last reported progress.
    pub(crate) phase: String,
}

impl Step {
    /// Since when the step has been active; nothing when it is not.
    pub(crate) fn active_since(&self) -> Option<Duration> {
        match self.status {
            Status::Waiting { since } | Status::Running { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Whether nothing more will happen to the step.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.status, Status::Queued | Status::Waiting { .. } | Status::Running { .. })
    }

    fn miss(&self) -> Miss {
        match &self.status {
            Status::Running { miss, .. } => miss.clone(),
            _ => Miss::New,
        }
    }
}

/// All steps since the last closing table.
#[derive(Debug, Default)]
pub(crate) struct Build {
    steps: BTreeMap<u64, Step>,
    /// Settled steps in the order in which they settled.
    settled: Vec<u64>,
    /// How many of them were shown.
    shown: usize,
    /// Whether a step was active: a build that takes everything from the cache is not worth a word.
    noteworthy: bool,
    images: Vec<String>,
    /// Images that are not complete yet.
    images_remaining: usize,
    seconds: f64,
}

impl Build {
    /// Takes note of an event that happened `now` after the start.
    pub(crate) fn apply(&mut self, event: &Event, now: Duration) {
        match event {
            Event::StepQueued { step, title } => {
                if self.has_failed() && self.active().next().is_none() {
                    *self = Self::default();
                }
                let title = text::clean(&title.replace('\n', " "));
                self.steps.insert(
                    *step,
                    Step { title, status: Status::Queued, last_line: String::new(), phase: String::new() },
                );
            }
            Event::StepCached { step, bytes } => self.settle(*step, Status::Cached { bytes: *bytes }),
            Event::StepWaiting { step } => self.activate(*step, Status::Waiting { since: now }),
            Event::StepStarted { step, miss } => {
                self.activate(*step, Status::Running { since: now, miss: miss.clone() });
            }
            Event::StepLog { step, line } => self.say(*step, text::clean(line)),
            Event::StepProgress { step, what, done, total } => {
                self.say(*step, progress(&text::clean(what), *done, *total));
                if let Some(step) = self.steps.get_mut(step) {
                    step.phase.clone_from(what);
                }
            }
            Event::StepFinished { step, seconds, bytes_new, bytes_shared } => {
                let miss = self.steps.get(step).map_or(Miss::New, Step::miss);
                let (seconds, bytes_new, bytes_shared) = (*seconds, *bytes_new, *bytes_shared);
                self.settle(*step, Status::Finished { miss, seconds, bytes_new, bytes_shared });
            }
            Event::StepFailed { step, .. } => {
                let known = self.steps.get(step);
                let miss = known.map_or(Miss::New, Step::miss);
                let since = known.and_then(Step::active_since).unwrap_or(now);
                self.noteworthy = true;
                self.settle(*step, Status::Failed { miss, seconds: now.saturating_sub(since).as_secs_f64() });
            }
            Event::StepStopped { step, cause } => self.settle(*step, Status::Stopped { cause: *cause }),
            Event::ImageBuilt { image, seconds, cached, remaining } => {
                if !cached {
                    self.images.push(image.clone());
                    self.seconds = self.seconds.max(*seconds);
                }
                self.images_remaining = *remaining;
            }
            _ => {}
        }
    }

    /// A step by its number.
    pub(crate) fn step(&self, number: u64) -> Option<&Step> {
        self.steps.get(&number)
    }

    /// The steps that are active.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Step> {
        self.steps.values().filter(|step| step.active_since().is_some())
    }

    /// The next settled step that was not handed out yet, with its number.
    pub(crate) fn next_unshown(&mut self) -> Option<(u64, &Step)> {
        if !self.noteworthy {
            return None;
        }
        let number = *self.settled.get(self.shown)?;
        self.shown += 1;
        self.steps.get(&number).map(|step| (number, step))
    }

    /// When images were built and nothing more will happen: what was built, once.
    pub(crate) fn take_closing(&mut self) -> Option<Closing> {
        let failed = self.has_failed();
        let is_open = |step: &Step| !(step.is_settled() || (failed && step.status == Status::Queued));
        let awaited = self.images_remaining > 0 && !failed;
        if self.images.is_empty() || awaited || self.steps.values().any(is_open) {
            return None;
        }
        let done = std::mem::take(self);
        let rows: Vec<Step> = done.settled.iter().filter_map(|number| done.steps.get(number).cloned()).collect();
        let mut closing = Closing { images: done.images, seconds: done.seconds, rows, ran: 0, bytes_new: 0 };
        for step in &closing.rows {
            if let Status::Finished { bytes_new, .. } = step.status {
                closing.ran += 1;
                closing.bytes_new += bytes_new;
            }
        }
        Some(closing)
    }

    fn has_failed(&self) -> bool {
        self.steps.values().any(|step| matches!(step.status, Status::Failed { .. }))
    }

    fn activate(&mut self, number: u64, status: Status) {
        if let Some(step) = self.steps.get_mut(&number) {
            step.status = status;
            self.noteworthy = true;
        }
    }

    fn settle(&mut self, number: u64, status: Status) {
        if let Some(step) = self.steps.get_mut(&number) {
            step.status = status;
            self.settled.push(number);
        }
    }

    fn say(&mut self, number: u64, line: String) {
        if let Some(step) = self.steps.get_mut(&number)
            && !line.trim().is_empty()
        {
            step.last_line = line;
        }
    }
}

/// How far a step is: downloads are measured in bytes, everything else is counted.
fn progress(what: &str, done: u64, total: u64) -> String {
    let amount = |units: u64| {
        if what == "downloading" { text::bytes(units) } else { units.to_string() }
    };
    match (done, total) {
        (0, 0) => what.to_owned(),
        (done, 0) => format!("{what} {}", amount(done)),
        (done, total) => format!("{what} {} of {}", amount(done), amount(total)),
    }
}

/// The result of a build in which something ran.
#[derive(Debug)]
pub(crate) struct Closing {
    /// Ids of the images that are not entirely from the cache.
    pub(crate) images: Vec<String>,
    /// How long the slowest of them took.
    pub(crate) seconds: f64,
    /// All steps, in the order in which they settled.
    pub(crate) rows: Vec<Step>,
    /// Steps that ran.
    pub(crate) ran: usize,
    /// Bytes that the store grew by.
    pub(crate) bytes_new: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_units() {
        for (what, done, total, shown) in [
            ("resolving", 0, 0, "resolving"),
            ("reading", 7, 0, "reading 7"),
            ("installing", 3, 158, "installing 3 of 158"),
            ("downloading", 1 << 20, 1 << 21, "downloading 1.0 MiB of 2.0 MiB"),
        ] {
            assert_eq!(progress(what, done, total), shown);
        }
    }
}
