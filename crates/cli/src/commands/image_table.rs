//! Images as a table, for the commands that list or remove them.

use std::fmt::Write;

use lamina_engine::ImageRecord;

use crate::output::text;

/// Columns of the last step's title in the list.
const TITLE: usize = 60;

/// The images, one a line.
pub(super) fn table(images: &[ImageRecord], now: u64) -> String {
    let width = images.iter().map(|image| image.id.len()).max().unwrap_or(0).max(2);
    let mut table = String::new();
    if images.is_empty() {
        return table;
    }
    // Writing to a string does not fail.
    let _ = writeln!(table, "{:width$}  {:>6}  {:>10}  {:12}  last step", "id", "layers", "size", "used");
    for image in images {
        let title = one_line(&image.title);
        let (size, used) = (text::bytes(image.bytes), text::age(now.saturating_sub(image.last_used)));
        let _ = writeln!(table, "{:width$}  {:>6}  {size:>10}  {used:12}  {title}", image.id, image.layers.len());
    }
    table
}

/// A step's title on one line of a table.
pub(super) fn one_line(title: &str) -> String {
    text::clip(&text::clean(&title.replace('\n', " ")), TITLE)
}
