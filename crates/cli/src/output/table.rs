//! The closing table: one row per step, and one line for all of them.

use std::ops::Range;

use unicode_width::UnicodeWidthStr;

use super::state::{Closing, Status, Step};
use super::style::{Palette, Tone};
use super::text;

/// Least and most columns of the steps' titles.
const TITLE: Range<usize> = 20..60;
const CACHE: usize = 18;
const TIME: usize = 7;
const SIZE: usize = 10;
const FIXED: usize = 2 + 2 + CACHE + 2 + TIME + 2 + SIZE + 2 + SIZE;

/// How the table is laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    palette: Palette,
    title: usize,
}

impl Table {
    /// A table for a terminal of `width` columns, whatever steps will come.
    pub(crate) fn for_terminal(width: usize, palette: Palette) -> Self {
        Self { palette, title: width.saturating_sub(FIXED + 1).clamp(TITLE.start, TITLE.end) }
    }

    /// A table as wide as the titles of these steps need.
    pub(crate) fn for_steps(steps: &[Step], palette: Palette) -> Self {
        let longest = steps.iter().map(|step| step.title.width()).max().unwrap_or(0);
        Self { palette, title: longest.clamp(TITLE.start, TITLE.end) }
    }

    /// The line above the rows.
    pub(crate) fn header(&self) -> String {
        let line = format!(
            "  {}  {}  {:>TIME$}  {:>SIZE$}  {:>SIZE$}",
            text::fit("step", self.title),
            text::fit("cache", CACHE),
            "time",
            "new",
            "shared"
        );
        self.palette.paint(Tone::Dim, line).to_string()
    }

    /// The row of a settled step.
    pub(crate) fn row(&self, step: &Step) -> String {
        let title = text::fit(&step.title, self.title);
        let cells = |cache: &str, time: String, new: String, shared: String| {
            format!("{}  {time:>TIME$}  {new:>SIZE$}  {shared:>SIZE$}", text::fit(cache, CACHE))
        };
        match &step.status {
            Status::Finished { miss, seconds, bytes_new, bytes_shared } => {
                let rest = cells(
                    &miss.to_string(),
                    text::seconds(*seconds),
                    text::bytes(*bytes_new),
                    text::bytes(*bytes_shared),
                );
                format!("{} {title}  {rest}", self.palette.paint(Tone::Green, "✓"))
            }
            Status::Failed { miss, seconds } => {
                let rest = cells(&miss.to_string(), text::seconds(*seconds), "failed".to_owned(), String::new());
                format!("{} {title}  {}", self.palette.paint(Tone::Red, "✗"), rest.trim_end())
            }
            Status::Stopped { cause } => {
                let mark = self.palette.paint(Tone::Yellow, "–");
                format!("{mark} {title}  {}", self.palette.paint(Tone::Dim, cause))
            }
            Status::Cached { bytes } => {
                let rest = cells("cached", String::new(), String::new(), text::bytes(*bytes));
                format!("{} {title}  {}", self.palette.paint(Tone::Green, "✓"), self.palette.paint(Tone::Dim, rest))
            }
            Status::Queued | Status::Waiting { .. } | Status::Running { .. } => format!("  {}", title.trim_end()),
        }
    }

    /// The line below the rows.
    pub(crate) fn closing(palette: Palette, closing: &Closing) -> String {
        let Closing { images, seconds, rows, ran, bytes_new } = closing;
        let built = if images.len() > 3 { format!("{} images", images.len()) } else { images.join(", ") };
        format!(
            "{} {built} in {}: {ran} of {} steps ran, {} new in the store",
            palette.paint(Tone::Bold, "Built"),
            text::seconds(*seconds),
            rows.len(),
            text::bytes(*bytes_new)
        )
    }
}
