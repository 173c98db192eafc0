//! How what is kept under names is listed.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use crate::output::text;

/// A time in seconds since 1970, for programs.
pub(super) fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// Names and when what they stand for was made, one a line.
pub(super) fn table(rows: &[(String, u64)], now: u64) -> String {
    let mut table = String::new();
    if rows.is_empty() {
        return table;
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("name".len());
    // Writing to a string does not fail.
    let _ = writeln!(table, "{:width$}  created", "name");
    for (name, created) in rows {
        let _ = writeln!(table, "{name:width$}  {}", text::age(now.saturating_sub(*created)));
    }
    table
}
