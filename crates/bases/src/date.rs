//! Dates of release files, as in `Sat, 21 Nov 2026 09:15:44 UTC`.

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY: u64 = 24 * 60 * 60;

/// Seconds since 1970 of a date in a release file; `None` if it is not one.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.split_once(", ").map_or(text, |(_, date)| date);
    let mut words = text.split_ascii_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)?;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let (hours, minutes, seconds) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if clock.next().is_some() || !matches!(words.next()?, "UTC" | "GMT" | "Z" | "+0000") || words.next().is_some() {
        return None;
    }
    if !(1970..=9999).contains(&year)
        || !(1..=days_in_month(year, month)).contains(&day)
        || hours > 23
        || minutes > 59
        || seconds > 60
    {
        return None;
    }
    let days = (1970..year).map(days_in_year).sum::<u64>()
        + (0..month).map(|month| days_in_month(year, month)).sum::<u64>()
        + day
        - 1;
    Some(days * DAY + hours * 3600 + minutes * 60 + seconds)
}

/// The date as people read it, for messages: `2026-11-21 09:15 UTC`.
pub(crate) fn show(seconds: u64) -> String {
    let mut days = seconds / DAY;
    let mut year = 1970;
    while days >= days_in_year(year) {
        days -= days_in_year(year);
        year += 1;
    }
    let mut month = 0;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    let clock = seconds % DAY;
    format!("{year}-{:02}-{:02} {:02}:{:02} UTC", month + 1, days + 1, clock / 3600, clock / 60 % 60)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// `month` counts from 0.
fn days_in_month(year: u64, month: usize) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0, "1970-01-01 00:00 UTC"),
            ("Sat, 21 Nov 2026 09:15:44 UTC", 1_795_252_544, "2026-11-21 09:15 UTC"),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199, "2024-02-29 23:59 UTC"),
        ] {
            assert_eq!(parse(text), Some(seconds));
            assert_eq!(show(seconds), shown);
        }
    }

    #[test]
    fn other_texts_are_no_dates() {
        for text in ["", "Sat, 21 Nov 2026", "Sat, 31 Nov 2026 09:15:44 UTC", "Sat, 21 Nov 2026 09:15:44 CET", "x, y z"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
