//! When functions of deployed apps run by themselves.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use serde::Deserialize;

/// Days that are looked through for the next run: one of a 29th of February comes within eight years.
const HORIZON: i64 = 366 * 9;

/// When a function runs, as a program declares it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Schedule {
    /// Again and again after the same time.
    Period(Period),
    /// At certain times.
    Cron {
        /// Five fields: minute, hour, day of the month, month, day of the week.
        cron_string: String,
        /// The time zone, by its name.
        timezone: String,
    },
}

/// The time between two runs. Days and what is longer end at the same clock time.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(crate) struct Period {
    years: i64,
    months: i64,
    weeks: i64,
    days: i64,
    hours: i64,
    minutes: i64,
    seconds: f64,
}

/// A schedule that makes sense.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    /// A period: the part by the calendar, and nanoseconds.
    Period(Span, i128),
    /// Times of a zone.
    Cron(Box<Cron>, TimeZone),
}

/// Which minutes are meant, by bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether any hour is meant: such runs follow the time that passes, not the clock.
    any_hour: bool,
    /// Whether days of the month and of the week are both named: then either will do.
    either_day: bool,
}

impl Schedule {
    /// The plan, or a sentence about what is wrong.
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        match self {
            Self::Period(period) => period.plan(),
            Self::Cron { cron_string, timezone } => {
                let zone = TimeZone::get(timezone).map_err(|_| format!("`{timezone}` is no time zone"))?;
                Ok(Plan::Cron(Box::new(Cron::parse(cron_string)?), zone))
            }
        }
    }
}

impl Period {
    /// As a program writes it.
    fn shown(&self) -> String {
        let whole = [
            ("years", self.years),
            ("months", self.months),
            ("weeks", self.weeks),
            ("days", self.days),
            ("hours", self.hours),
            ("minutes", self.minutes),
        ];
        let given = whole.iter().filter(|(_, number)| *number != 0).map(|(name, number)| format!("{name}={number}"));
        let seconds = (self.seconds != 0.0).then(|| format!("seconds={}", self.seconds));
        format!("modal.Period({})", given.chain(seconds).collect::<Vec<_>>().join(", "))
    }

    fn plan(&self) -> Result<Plan, String> {
        let wrong = || format!("`{}` is not of a positive length that can be counted", self.shown());
        let calendar = Span::new()
            .try_years(self.years)
            .and_then(|span| span.try_months(self.months))
            .and_then(|span| span.try_weeks(self.weeks))
            .and_then(|span| span.try_days(self.days))
            .map_err(|_| wrong())?;
        if !self.seconds.is_finite() || self.seconds.abs() > 1e12 {
            return Err(wrong());
        }
        #[expect(clippy::cast_possible_truncation, reason = "it was checked to be small")]
        let seconds = (self.seconds * 1e9) as i128;
        let nanoseconds = (i128::from(self.hours) * 3600 + i128::from(self.minutes) * 60) * 1_000_000_000 + seconds;
        let plan = Plan::Period(calendar, nanoseconds);
        let begin = Timestamp::UNIX_EPOCH;
        match plan.after_period(begin, &TimeZone::UTC) {
            Some(next) if next > begin => Ok(plan),
            _ => Err(wrong()),
        }
    }
}

impl Plan {
    /// The first run after `now` of what was deployed at `begin`.
    pub(crate) fn next(&self, begin: Timestamp, now: Timestamp, local: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Cron(cron, zone) => cron.next(now, zone),
            Self::Period(calendar, nanoseconds) if calendar.is_zero() => {
                let passed = now.as_nanosecond() - begin.as_nanosecond();
                let runs = passed.div_euclid(*nanoseconds).max(0) + 1;
                Timestamp::from_nanosecond(begin.as_nanosecond() + runs * nanoseconds).ok()
            }
            Self::Period(..) => {
                let mut next = begin;
                while next <= now {
                    next = self.after_period(next, local).filter(|after| *after > next)?;
                }
                (next > begin).then_some(next).or_else(|| self.after_period(begin, local))
            }
        }
    }

    fn after_period(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let Self::Period(calendar, nanoseconds) = self else { return None };
        let then = from.to_zoned(zone.clone()).checked_add(*calendar).ok()?.timestamp();
        Timestamp::from_nanosecond(then.as_nanosecond() + nanoseconds).ok()
    }
}

impl Cron {
    /// Reads five fields.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!(
                "`{text}` has {} fields and not five: minute, hour, day of the month, month, day of the week",
                fields.len()
            ));
        };
        let wrong = |field: &str, what: &str| format!("`{field}` in `{text}` is no {what}");
        let weekday = field(weekdays, 0, 7, &DAYS, 0).ok_or_else(|| wrong(weekdays, "day of the week (0 to 7)"))?;
        let cron = Self {
            minutes: field(minutes, 0, 59, &[], 0).ok_or_else(|| wrong(minutes, "minute (0 to 59)"))?,
            hours: field(hours, 0, 23, &[], 0).ok_or_else(|| wrong(hours, "hour (0 to 23)"))?,
            days: field(days, 1, 31, &[], 0).ok_or_else(|| wrong(days, "day of the month (1 to 31)"))?,
            months: field(months, 1, 12, &MONTHS, 1).ok_or_else(|| wrong(months, "month (1 to 12)"))?,
            // Sunday is 0 and 7.
            weekdays: (weekday | weekday >> 7) & 0x7f,
            any_hour: hours.starts_with('*'),
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        if !cron.has_any_day() {
            return Err(format!("`{text}` never comes: day `{days}` is in none of the months `{months}`"));
        }
        Ok(cron)
    }

    /// Whether any of its months has any of its days, where days of the week are of no help.
    fn has_any_day(&self) -> bool {
        const LENGTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let has_day = |length: &u32| self.days.trailing_zeros() <= *length;
        self.either_day || (1..).zip(&LENGTHS).any(|(month, length)| self.months >> month & 1 == 1 && has_day(length))
    }

    /// The first run after `now`. A fixed hour that the clock leaves out is taken to be as much later as was left out, and one
    /// that comes twice counts once; `*` follows the time that passes.
    fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = now.to_zoned(zone.clone()).date();
        for _ in 0..HORIZON {
            if self.has_day(date)
                && let Some(next) = self.next_of_day(date, now, zone)
            {
                return Some(next);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn next_of_day(&self, date: Date, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.any_hour {
            let begin = date.to_zoned(zone.clone()).ok()?.timestamp();
            let end = date.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp();
            let minute = (now.as_second().div_euclid(60) + 1) * 60;
            let mut at = begin.max(Timestamp::from_second(minute).ok()?);
            while at < end {
                let time = at.to_zoned(zone.clone());
                if self.has_time(time.hour(), time.minute()) {
                    return Some(at);
                }
                at = at.checked_add(1.minute()).ok()?;
            }
            return None;
        }
        let times = (0..24).flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
        let found = times.filter(|(hour, minute)| self.has_time(*hour, *minute)).filter_map(|(hour, minute)| {
            let time = DateTime::from_parts(date, jiff::civil::Time::new(hour, minute, 0, 0).ok()?);
            zone.to_ambiguous_timestamp(time).compatible().ok()
        });
        found.filter(|time| *time > now).min()
    }

    fn has_time(&self, hour: i8, minute: i8) -> bool {
        self.hours >> hour & 1 == 1 && self.minutes >> minute & 1 == 1
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 == 1;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        let is_right = if self.either_day { day || weekday } else { day && weekday };
        is_right && self.months >> date.month() & 1 == 1
    }
}

/// The numbers of a field, as bits: lists of numbers, names, ranges and steps.
fn field(text: &str, least: u32, most: u32, names: &[&str], first: u32) -> Option<u64> {
    let number = |word: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(word));
        let named = named.and_then(|index| u32::try_from(index).ok()).map(|index| index + first);
        named.or_else(|| word.parse().ok()).filter(|number| (least..=most).contains(number))
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(range)?, if step.is_some() { most } else { number(range)? }),
        };
        if from > to {
            return None;
        }
        bits = (from..=to).step_by(step.unwrap_or(1) as usize).fold(bits, |bits, number| bits | 1 << number);
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str, zone: &str) -> Plan {
        Schedule::Cron { cron_string: text.to_owned(), timezone: zone.to_owned() }.plan().unwrap()
    }

    /// The runs after a time.
    fn runs(plan: &Plan, begin: &str, count: usize) -> Vec<String> {
        let begin: Timestamp = begin.parse().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut now = begin;
        let mut found = Vec::new();
        for _ in 0..count {
            now = plan.next(begin, now, &zone).unwrap();
            found.push(now.to_string());
        }
        found
    }

    #[test]
    fn a_period_that_leads_nowhere_is_shown_as_it_was_written() {
        let wrong = |period: Period| Schedule::Period(period).plan().unwrap_err();
        let backwards = Period { days: -1, seconds: 0.5, ..Period::default() };
        let said = "is not of a positive length that can be counted";
        assert_eq!(wrong(backwards), format!("`modal.Period(days=-1, seconds=0.5)` {said}"));
        assert_eq!(wrong(Period::default()), format!("`modal.Period()` {said}"));
    }

    #[test]
    fn times_are_those_of_cron() {
        let at = |text: &str, begin: &str| runs(&cron(text, "UTC"), begin, 3);
        let begin = "2026-11-29T23:58:30Z";
        assert_eq!(at("* * * * *", begin), ["2026-11-29T23:59:00Z", "2026-11-30T00:00:00Z", "2026-11-30T00:01:00Z"]);
        assert_eq!(at("5 4 * * *", begin), ["2026-11-30T04:05:00Z", "2026-12-01T04:05:00Z", "2026-12-02T04:05:00Z"]);
        assert_eq!(
            at("*/20 9-10 * * mon-fri", begin),
            ["2026-11-30T09:00:00Z", "2026-11-30T09:20:00Z", "2026-11-30T09:40:00Z"]
        );
        assert_eq!(at("0 0 29 2 *", begin), ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z", "2036-02-29T00:00:00Z"]);
        // Either day will do where both are named; Sunday is 7 as well.
        assert_eq!(at("0 0 2 * 7", begin), ["2026-12-02T00:00:00Z", "2026-12-06T00:00:00Z", "2026-12-13T00:00:00Z"]);
        assert_eq!(at("0 0 1 jan,JUL *", begin)[..2], ["2027-01-01T00:00:00Z", "2027-07-01T00:00:00Z"]);
    }

    #[test]
    fn clocks_that_are_changed_neither_skip_nor_double_a_run() {
        let at = |text: &str, begin: &str, count| runs(&cron(text, "Europe/Berlin"), begin, count);
        // On the 29th of March 2026 there is no 02:30, on the 25th of October there are two.
        assert_eq!(
            at("30 2 * * *", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(at("30 2 * * *", "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        assert_eq!(
            at("30 * * * *", "2026-10-24T23:45:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
        );
    }

    #[test]
    fn periods_count_from_the_deployment() {
        let plan = |text: &str| serde_json::from_str::<Period>(text).unwrap().plan();
        assert_eq!(
            runs(&plan(r#"{"hours":5,"seconds":0.5}"#).unwrap(), "2026-11-29T00:00:00Z", 2),
            ["2026-11-29T05:00:00.5Z", "2026-11-29T10:00:01Z"]
        );
        // A day ends at the same clock time, in the machine's zone, also when a clock is changed.
        assert_eq!(
            runs(&plan(r#"{"days":1}"#).unwrap(), "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T11:00:00Z", "2026-03-30T11:00:00Z"]
        );
        let begin = "2026-01-01T00:00:00Z".parse().unwrap();
        let late =
            plan(r#"{"minutes":7}"#).unwrap().next(begin, "2026-11-29T00:00:01Z".parse().unwrap(), &TimeZone::UTC);
        assert_eq!(late.unwrap().to_string(), "2026-11-29T00:06:00Z");
        for wrong in ["{}", r#"{"days":-1}"#, r#"{"seconds":1e300}"#, r#"{"days":1,"hours":-24}"#] {
            assert!(plan(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_explained() {
        for (text, said) in [
            ("0 0 30 2 *", "`0 0 30 2 *` never comes: day `30` is in none of the months `2`"),
            ("* * * *", "`* * * *` has 4 fields and not five: minute, hour, day of the month, month, day of the week"),
            ("60 * * * *", "`60` in `60 * * * *` is no minute (0 to 59)"),
            ("* 5-3 * * *", "`5-3` in `* 5-3 * * *` is no hour (0 to 23)"),
            ("*/0 * * * *", "`*/0` in `*/0 * * * *` is no minute (0 to 59)"),
            ("* * * foo *", "`foo` in `* * * foo *` is no month (1 to 12)"),
        ] {
            assert_eq!(Cron::parse(text).unwrap_err(), said);
        }
        let elsewhere = Schedule::Cron { cron_string: "* * * * *".to_owned(), timezone: "Mars/Olympus".to_owned() };
        assert_eq!(elsewhere.plan().unwrap_err(), "`Mars/Olympus` is no time zone");
    }
}
