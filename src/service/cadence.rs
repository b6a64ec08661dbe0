//! When a schedule is due: a function of its cadence and the time, in UTC.

use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const MINUTE: i64 = 60 * 1000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Shortest and longest period of `every`, in minutes.
const PERIOD: (u32, u32) = (5, 366 * 24 * 60);

/// How often a schedule takes a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Cadence {
    /// Each time so many minutes have passed since the schedule was added.
    Every {
        /// Minutes, from 5 to a year's.
        minutes: u32,
    },
    /// Each day.
    Daily {
        /// When.
        at: TimeOfDay,
    },
    /// Each week.
    Weekly {
        /// Days since Monday, 0 to 6.
        day: u8,
        /// When.
        at: TimeOfDay,
    },
}

/// A time of the day in UTC, as `02:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    minutes: u32,
}

impl FromStr for TimeOfDay {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let is_number = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        let digits = |part: &str| is_number(part).then(|| part.parse::<u32>().ok()).flatten();
        let parts = text.split_once(':').and_then(|(h, m)| Some((digits(h)?, digits(m)?)));
        match parts {
            Some((h, m)) if h < 24 && m < 60 => Ok(Self { minutes: h * 60 + m }),
            _ => Err(Error::new(Kind::Usage, format!("{text:?} is not a time of the day")).hint("use HH:MM, as 02:30")),
        }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(at: TimeOfDay) -> Self {
        at.to_string()
    }
}

/// The days of the week, from Monday.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl fmt::Display for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every { minutes } if minutes % (24 * 60) == 0 => write!(f, "every {}d", minutes / (24 * 60)),
            Self::Every { minutes } if minutes % 60 == 0 => write!(f, "every {}h", minutes / 60),
            Self::Every { minutes } => write!(f, "every {minutes}m"),
            Self::Daily { at } => write!(f, "daily {at}"),
            Self::Weekly { day, at } => write!(f, "weekly {} {at}", DAYS.get(usize::from(*day)).unwrap_or(&"?")),
        }
    }
}

impl Cadence {
    /// Refuses a period or a day out of range.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Every { minutes } if !(PERIOD.0..=PERIOD.1).contains(&minutes) => {
                let what = format!("a period has {} minutes to 366 days, not {minutes} minutes", PERIOD.0);
                Err(Error::new(Kind::Usage, what))
            }
            Self::Weekly { day, .. } if day > 6 => {
                Err(Error::new(Kind::Usage, format!("day {day} is not a day of the week, 0 to 6")))
            }
            _ => Ok(()),
        }
    }

    /// Returns the first time after `now` at which a schedule that was added at `added` is due.
    pub(super) fn next(self, added: Timestamp, now: Timestamp) -> Timestamp {
        let (period, first) = match self {
            Self::Every { minutes } => (i64::from(minutes.max(1)) * MINUTE, added.0),
            Self::Daily { at } => (DAY, i64::from(at.minutes) * MINUTE),
            // 1970-01-05 was a Monday.
            Self::Weekly { day, at } => (7 * DAY, (4 + i64::from(day)) * DAY + i64::from(at.minutes) * MINUTE),
        };
        let since = now.0.saturating_sub(first).rem_euclid(period);
        Timestamp(now.0.saturating_add(period - since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn time(text: &str) -> TimeOfDay {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_time_is_after_now_and_on_the_grid() {
        let added = "2026-03-01T10:07:00Z";
        for (cadence, now, next) in [
            (Cadence::Every { minutes: 60 }, added, "2026-03-01T11:07:00Z"),
            (Cadence::Every { minutes: 60 }, "2026-03-01T11:06:59Z", "2026-03-01T11:07:00Z"),
            (Cadence::Every { minutes: 60 }, "2026-03-01T11:07:00Z", "2026-03-01T12:07:00Z"),
            // After a downtime only the next time counts; with a clock that was set back, too.
            (Cadence::Every { minutes: 60 }, "2026-05-09T00:00:00Z", "2026-05-09T00:07:00Z"),
            (Cadence::Every { minutes: 60 }, "2025-01-01T00:30:00Z", "2025-01-01T01:07:00Z"),
            (Cadence::Daily { at: time("02:30") }, "2026-03-01T02:29:59Z", "2026-03-01T02:30:00Z"),
            (Cadence::Daily { at: time("02:30") }, "2026-03-01T02:30:00Z", "2026-03-02T02:30:00Z"),
            (Cadence::Daily { at: time("00:00") }, "2024-02-28T12:00:00Z", "2024-02-29T00:00:00Z"),
            // The first of March 2026 is a Sunday.
            (Cadence::Weekly { day: 6, at: time("23:59") }, "2026-03-01T12:00:00Z", "2026-03-01T23:59:00Z"),
            (Cadence::Weekly { day: 0, at: time("00:00") }, "2026-03-01T12:00:00Z", "2026-03-02T00:00:00Z"),
            (Cadence::Weekly { day: 5, at: time("01:00") }, "2026-03-01T12:00:00Z", "2026-03-07T01:00:00Z"),
        ] {
            let found = cadence.next(at(added), at(now));
            assert_eq!(found, at(next), "{cadence} after {now}: {found}");
        }
        for cadence in [Cadence::Every { minutes: 60 }, Cadence::Daily { at: time("02:30") }] {
            cadence.next(Timestamp(i64::MIN), Timestamp(i64::MAX));
            cadence.next(Timestamp(i64::MAX), Timestamp(i64::MIN));
        }
    }

    #[test]
    fn cadences_are_shown_as_they_are_given_and_have_bounds() {
        for (cadence, shown, good) in [
            (Cadence::Every { minutes: 5 }, "every 5m", true),
            (Cadence::Every { minutes: 90 }, "every 90m", true),
            (Cadence::Every { minutes: 240 }, "every 4h", true),
            (Cadence::Every { minutes: 2880 }, "every 2d", true),
            (Cadence::Every { minutes: 4 }, "every 4m", false),
            (Cadence::Every { minutes: 367 * 24 * 60 }, "every 367d", false),
            (Cadence::Daily { at: time("07:05") }, "daily 07:05", true),
            (Cadence::Weekly { day: 6, at: time("23:59") }, "weekly sun 23:59", true),
            (Cadence::Weekly { day: 7, at: time("23:59") }, "weekly ? 23:59", false),
        ] {
            assert_eq!((cadence.to_string(), cadence.check().is_ok()), (shown.to_owned(), good));
        }
        for bad in ["", "7:05", "24:00", "12:60", "12:5", "12.05", "-1:00", "+1:00"] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad}");
        }
        let weekly = Cadence::Weekly { day: 1, at: time("04:00") };
        let json = serde_json::to_value(weekly).unwrap();
        assert_eq!(json, serde_json::json!({"weekly": {"day": 1, "at": "04:00"}}));
        assert_eq!(serde_json::from_value::<Cadence>(json).unwrap(), weekly);
    }
}
