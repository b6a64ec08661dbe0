//! Which snapshots of a volume a retention policy keeps, and why: a function of their times and tags, in UTC.
//!
//! The rules are those of restic's `forget`: `hourly: n` keeps the newest snapshot of each of the last n hours that have one, and
//! likewise for days, ISO weeks (from Monday), months and years; `last: n` keeps the newest n. A snapshot that any rule keeps is
//! kept, and so is the newest one.

use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::Tags;
use crate::units::SnapshotId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to keep of each volume's snapshots. 0 or none: the rule keeps nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The newest ones, so many.
    #[serde(default)]
    pub last: u32,
    /// The newest of each of so many hours.
    #[serde(default)]
    pub hourly: u32,
    /// The newest of each of so many days.
    #[serde(default)]
    pub daily: u32,
    /// The newest of each of so many weeks.
    #[serde(default)]
    pub weekly: u32,
    /// The newest of each of so many months.
    #[serde(default)]
    pub monthly: u32,
    /// The newest of each of so many years.
    #[serde(default)]
    pub yearly: u32,
    /// All with one of these tags, with this value or with any.
    #[serde(default)]
    pub tags: BTreeMap<String, Option<String>>,
}

impl Keep {
    /// Refuses a policy that keeps nothing.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub(super) fn must_keep_something(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::new(Kind::Usage, "no rule says what to keep")
                .hint("use --keep-last, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly, --keep-yearly or --keep-tag"));
        }
        Ok(())
    }
}

/// What the rules look at.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a> {
    pub(super) id: SnapshotId,
    pub(super) time: Timestamp,
    pub(super) tags: &'a Tags,
}

/// A period that gets one snapshot: its name, its rule's number, and its number at a time.
type Period = (&'static str, fn(&Keep) -> u32, fn(Timestamp) -> i64);

const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;

const PERIODS: [Period; 5] = [
    ("hourly", |k| k.hourly, |t| t.0.div_euclid(HOUR)),
    ("daily", |k| k.daily, |t| t.0.div_euclid(DAY)),
    // 1970-01-01 was a Thursday.
    ("weekly", |k| k.weekly, |t| (t.0.div_euclid(DAY) + 3).div_euclid(7)),
    (
        "monthly",
        |k| k.monthly,
        |t| {
            let (year, month) = year_and_month(t);
            year * 12 + month
        },
    ),
    ("yearly", |k| k.yearly, |t| year_and_month(t).0),
];

/// Returns year and month in UTC. Times that the calendar does not have are each the end nearest to them.
fn year_and_month(time: Timestamp) -> (i64, i64) {
    let (least, most) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    let inside = time.0.clamp(least.as_millisecond(), most.as_millisecond());
    let at = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::from_millisecond(inside).unwrap_or(most));
    (i64::from(at.year()), i64::from(at.month()))
}

/// Returns why each of one volume's snapshots is kept, in the order given; none: it is not.
pub(super) fn reasons(all: &[Candidate<'_>], keep: &Keep) -> Vec<Vec<String>> {
    let mut newest_first: Vec<usize> = (0..all.len()).collect();
    newest_first.sort_by_key(|i| std::cmp::Reverse((all[*i].time, all[*i].id)));
    let mut why = vec![Vec::new(); all.len()];
    for (n, i) in newest_first.iter().enumerate().take(keep.last as usize) {
        why[*i].push(format!("last {}", n + 1));
    }
    for (name, count, number) in PERIODS {
        let (mut left, mut before) = (count(keep), None);
        for i in &newest_first {
            let now = number(all[*i].time);
            if left > 0 && before != Some(now) {
                why[*i].push(name.to_owned());
                left -= 1;
            }
            before = Some(now);
        }
    }
    for (one, why) in all.iter().zip(&mut why) {
        let has = |(name, value): &(&String, &Option<String>)| {
            one.tags.get(*name).is_some_and(|found| value.as_ref().is_none_or(|v| v == found))
        };
        why.extend(keep.tags.iter().filter(has).map(|(name, _)| format!("tag {name}")));
    }
    if let Some(newest) = newest_first.first().filter(|i| why[**i].is_empty()) {
        why[*newest].push("newest".to_owned());
    }
    why
}

#[cfg(test)]
#[path = "retain_tests.rs"]
mod tests;
