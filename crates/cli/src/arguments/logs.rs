//! Which part of a log is shown, and how.

use clap::{Args, ValueEnum};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use lamina_apps::Source;

/// Options of all commands that show logs.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Go on with what comes
    #[arg(short, long, conflicts_with_all = ["since", "until", "tail"])]
    pub(crate) follow: bool,

    /// From this time on: 2h, 30m or 1d ago, or a time such as 2026-11-30T14:00
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<LogTime>,

    /// Before this time, given like that of --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<LogTime>,

    /// The last N lines
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) tail: Option<usize>,

    /// Lines that contain a text
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,

    /// What comes from one source
    #[arg(short, long, value_enum)]
    pub(crate) source: Option<LogSource>,

    /// Put the time in front of every line
    #[arg(long)]
    pub(crate) timestamps: bool,

    /// One JSON object for each line, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options that tell apart who prints.
#[derive(Debug, Default, Args)]
pub(crate) struct LogLabels {
    /// What a function has printed, or all methods of a class
    #[arg(long, value_name = "NAME", value_parser = function)]
    pub(crate) function: Option<String>,

    /// What was printed for a function call
    #[arg(long, value_name = "fc-ID", value_parser = function_call)]
    pub(crate) function_call: Option<String>,

    /// What a container has printed
    #[arg(long, value_name = "ta-ID", value_parser = container)]
    pub(crate) container: Option<String>,

    /// Put the name of the function in front of every line
    #[arg(long)]
    pub(crate) show_function_id: bool,

    /// Put the id of the function call in front of every line
    #[arg(long)]
    pub(crate) show_function_call_id: bool,

    /// Put the id of the container in front of every line
    #[arg(long)]
    pub(crate) show_container_id: bool,
}

/// Where something in a log comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogSource {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
    /// Lamina itself
    System,
}

impl From<LogSource> for Source {
    fn from(source: LogSource) -> Self {
        match source {
            LogSource::Stdout => Self::Stdout,
            LogSource::Stderr => Self::Stderr,
            LogSource::System => Self::System,
        }
    }
}

/// A time in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogTime(pub(crate) u64);

fn time(text: &str) -> Result<LogTime, String> {
    parse_time(text, Timestamp::now(), &TimeZone::system())
}

/// What a time means that is `now` given in this zone.
fn parse_time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<LogTime, String> {
    let unknown = || "give how long ago, such as 30m, 2h or 1d, or a time such as 2026-11-30T14:00".to_owned();
    let found = if text.ends_with(|last: char| last.is_ascii_alphabetic() && last != 'Z' && last != 'z') {
        let seconds = seconds_of(text).ok_or_else(unknown)?;
        now.checked_sub(seconds.seconds()).map_err(|_| "that is too long ago".to_owned())?
    } else if let Ok(timestamp) = text.parse() {
        timestamp
    } else {
        let local: DateTime = text.parse().map_err(|_| unknown())?;
        local.to_zoned(zone.clone()).map_err(|_| unknown())?.timestamp()
    };
    Ok(LogTime(u64::try_from(found.as_microsecond()).unwrap_or(0)))
}

/// The length of a time such as `1h30m`.
fn seconds_of(text: &str) -> Option<i64> {
    let mut seconds = 0_i64;
    for part in text.split_inclusive(|character: char| character.is_ascii_alphabetic()) {
        let (number, unit) = part.split_at_checked(part.len() - 1)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            "w" => 7 * 24 * 60 * 60,
            _ => return None,
        };
        let number: i64 = number.parse().ok().filter(|number| *number >= 0)?;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
    }
    // What the crate for times can hold; it is more than a thousand years.
    (seconds < 60 * 60 * 24 * 365 * 9_000).then_some(seconds)
}

fn function(text: &str) -> Result<String, String> {
    if text.starts_with("fu-") {
        return Err(
            "functions of an app are told apart by their names here: give one, such as train or Model.run".into()
        );
    }
    Ok(text.to_owned())
}

fn function_call(text: &str) -> Result<String, String> {
    with_prefix(text, "fc-", "a function call")
}

fn container(text: &str) -> Result<String, String> {
    with_prefix(text, "ta-", "a container")
}

fn with_prefix(text: &str, prefix: &str, what: &str) -> Result<String, String> {
    if text.starts_with(prefix) { Ok(text.to_owned()) } else { Err(format!("give the id of {what}, {prefix}…")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_in_many_ways() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let shown = |text: &str| {
            let time = parse_time(text, now, &zone)?;
            Ok(Timestamp::from_microsecond(i64::try_from(time.0).unwrap()).unwrap().to_string())
        };
        for (text, expected) in [
            ("2h", "2026-11-30T10:00:00Z"),
            ("1d", "2026-11-29T12:00:00Z"),
            ("1h30m", "2026-11-30T10:30:00Z"),
            ("0s", "2026-11-30T12:00:00Z"),
            ("2w", "2026-11-16T12:00:00Z"),
            ("2026-11-30T10:00:00Z", "2026-11-30T10:00:00Z"),
            ("2026-11-30t10:00:00z", "2026-11-30T10:00:00Z"),
            ("2026-11-30T10:00:00.5+02:00", "2026-11-30T08:00:00.5Z"),
            ("2026-11-30T10:00:00", "2026-11-30T09:00:00Z"),
            ("2026-11-30 10:00", "2026-11-30T09:00:00Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z"),
        ] {
            assert_eq!(shown(text), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "h", "2", "2y", "-2h", "2h ", "h2", "1.5h", "yesterday", "2026-13-01", "99999999999999d", "2é"]
        {
            let shown: Result<String, String> = shown(text);
            assert!(shown.is_err(), "{text}: {shown:?}");
        }
    }
}
