//! `modal image`: what the store holds.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use lamina_engine::{Engine, ImageRecord, Options};
use serde::Serialize;

use super::{print, print_json};
use crate::arguments::Image;
use crate::failure::Failure;
use crate::output::text;

/// Columns of the last step's title in the list.
const TITLE: usize = 60;

/// Answers the question.
pub(crate) fn image(image: &Image) -> Result<u8, Failure> {
    let engine = Engine::open(&Options::default())?;
    match image {
        Image::List { json: true } => {
            let images = engine.images()?;
            print_json(&images.iter().map(Listed::from).collect::<Vec<_>>())?;
        }
        Image::List { json: false } => print(table(&engine.images()?, now()).as_bytes())?,
        Image::Logs { id, layers, all } => {
            let logs = engine.image_logs(id)?;
            let wanted = if *all { logs.len() } else { logs.len().min(usize::try_from(*layers).unwrap_or(usize::MAX)) };
            for log in &logs[logs.len() - wanted..] {
                if wanted > 1 {
                    print(format!("==> {} <==\n", text::clean(&log.title)).as_bytes())?;
                }
                print(&log.read()?)?;
            }
        }
    }
    Ok(0)
}

/// An image as `--json` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    title: &'a str,
    layers: usize,
    bytes: u64,
    created: u64,
    last_used: u64,
}

impl<'a> From<&'a ImageRecord> for Listed<'a> {
    fn from(image: &'a ImageRecord) -> Self {
        let ImageRecord { id, title, layers, bytes, created, last_used, .. } = image;
        Self { id, title, layers: layers.len(), bytes: *bytes, created: *created, last_used: *last_used }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn table(images: &[ImageRecord], now: u64) -> String {
    let width = images.iter().map(|image| image.id.len()).max().unwrap_or(0).max(2);
    let mut table = String::new();
    if images.is_empty() {
        return table;
    }
    // Writing to a string does not fail.
    let _ = writeln!(table, "{:width$}  {:>6}  {:>10}  {:12}  last step", "id", "layers", "size", "used");
    for image in images {
        let title = text::clip(&text::clean(&image.title.replace('\n', " ")), TITLE);
        let (size, used) = (text::bytes(image.bytes), age(now.saturating_sub(image.last_used)));
        let _ = writeln!(table, "{:width$}  {:>6}  {size:>10}  {used:12}  {title}", image.id, image.layers.len());
    }
    table
}

/// A time in the past: `just now`, `5 min ago`, `3 h ago`, `12 days ago`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_readable() {
        for (seconds, shown) in
            [(0, "just now"), (59, "just now"), (60, "1 min ago"), (7_199, "1 h ago"), (172_800, "2 days ago")]
        {
            assert_eq!(age(seconds), shown);
        }
    }
}
