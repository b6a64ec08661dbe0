//! Locks on snapshots, by the rules of EBS (EC2 API Reference, LockSnapshot, UnlockSnapshot): functions of a lock and the time.
//!
//! A date proves nothing, because the wall clock can be set. So a lock expires when its date has passed *and* its duration has
//! passed on the clock that cannot be set ([`crate::kms::Waited`]); a cooling-off period is over when *either* says so. If the count
//! is lost, a lock lasts longer, and cooling off is over.

use super::api::{LockInfo, LockMode, LockState};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;
/// Longest lock in days.
const LONGEST: u32 = 36_500;
/// Longest cooling-off period in hours.
const COOLEST: u32 = 72;

/// The time by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// By the wall clock.
    pub(super) wall: Timestamp,
    /// Milliseconds that were counted as passed.
    pub(super) counted: i64,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lock {
    mode: LockMode,
    created: Timestamp,
    until: Timestamp,
    /// The count at which its duration has passed.
    until_counted: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cool_off: Option<CoolOff>,
}

/// The time in which a compliance lock can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CoolOff {
    until: Timestamp,
    from_counted: i64,
    until_counted: i64,
}

/// When a lock is to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// So many days from now.
    Days(u32),
    /// At this time.
    At(Timestamp),
}

/// A lock that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) mode: LockMode,
    pub(super) expiry: Expiry,
    /// Cooling-off period in hours.
    pub(super) cool_off: Option<u32>,
}

fn usage(what: String) -> Error {
    Error::new(Kind::Usage, what)
}

impl Asked {
    /// Returns when it expires.
    fn until(&self, now: Now) -> Result<Timestamp> {
        let least = now.wall.0.saturating_add(DAY);
        let most = now.wall.0.saturating_add(i64::from(LONGEST) * DAY);
        match self.expiry {
            Expiry::Days(days) if (1..=LONGEST).contains(&days) => {
                Ok(Timestamp(now.wall.0.saturating_add(i64::from(days) * DAY)))
            }
            Expiry::Days(days) => Err(usage(format!("a lock lasts 1 to {LONGEST} days, not {days}"))),
            Expiry::At(at) if (least..=most).contains(&at.0) => Ok(at),
            Expiry::At(at) => {
                Err(usage(format!("a lock expires at least a day and at most {LONGEST} days from now, not at {at}")))
            }
        }
    }

    fn cool_off(&self, now: Now) -> Result<Option<CoolOff>> {
        let Some(hours) = self.cool_off else { return Ok(None) };
        if self.mode == LockMode::Governance {
            return Err(usage("only a compliance lock has a cooling-off period".to_owned())
                .hint("a governance lock can be taken back at any time: leave out --cool-off"));
        }
        if !(1..=COOLEST).contains(&hours) {
            return Err(usage(format!("a cooling-off period has 1 to {COOLEST} hours, not {hours}")));
        }
        let long = i64::from(hours) * HOUR;
        Ok(Some(CoolOff {
            until: Timestamp(now.wall.0.saturating_add(long)),
            from_counted: now.counted,
            until_counted: now.counted.saturating_add(long),
        }))
    }
}

impl Lock {
    /// Returns the lock that results from a request on a snapshot with this lock, if it has one.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a duration or cooling-off period out of range; [`Kind::InvalidState`] for what the old lock forbids.
    pub(super) fn asked(old: Option<&Self>, asked: &Asked, now: Now) -> Result<Self> {
        match old {
            Some(old) if old.state(now) == LockState::Compliance => old.extended(asked, now),
            _ => {
                let until = asked.until(now)?;
                let long = until.0.saturating_sub(now.wall.0);
                Ok(Self {
                    mode: asked.mode,
                    created: now.wall,
                    until,
                    until_counted: now.counted.saturating_add(long),
                    cool_off: asked.cool_off(now)?,
                })
            }
        }
    }

    /// Extends a compliance lock that can no longer be taken back.
    fn extended(&self, asked: &Asked, now: Now) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::new(Kind::InvalidState, format!("it is locked in compliance mode until {}: {why}", self.until))
                .hint("such a lock can only be extended: use --mode compliance with a later date and no --cool-off"))
        };
        if asked.mode != LockMode::Compliance {
            return refuse("the mode cannot be changed");
        }
        if asked.cool_off.is_some() {
            return refuse("its cooling-off period is over");
        }
        let until = asked.until(now)?;
        if until < self.until {
            return refuse("it cannot expire earlier");
        }
        // By what it is extended, whatever the wall clock shows now.
        let more = until.0.saturating_sub(self.until.0);
        Ok(Self { until, until_counted: self.until_counted.saturating_add(more), cool_off: None, ..self.clone() })
    }

    /// Refuses to take the lock back if that is no longer possible.
    ///
    /// # Errors
    /// [`Kind::InvalidState`], naming its end.
    pub(super) fn must_be_removable(&self, now: Now) -> Result<()> {
        if self.state(now) == LockState::Compliance {
            let what = format!("it is locked in compliance mode until {}, and cooling off is over", self.until);
            return Err(
                Error::new(Kind::InvalidState, what).hint("nobody can take this lock back: wait until it expires")
            );
        }
        Ok(())
    }

    /// Returns its state.
    pub(super) fn state(&self, now: Now) -> LockState {
        if now.wall >= self.until && now.counted >= self.until_counted {
            return LockState::Expired;
        }
        let cools = |c: &CoolOff| now.wall < c.until && (c.from_counted..c.until_counted).contains(&now.counted);
        match self.mode {
            LockMode::Governance => LockState::Governance,
            LockMode::Compliance if self.cool_off.as_ref().is_some_and(cools) => LockState::ComplianceCooloff,
            LockMode::Compliance => LockState::Compliance,
        }
    }

    /// Returns the answer about it.
    pub(super) fn info(&self, now: Now) -> LockInfo {
        LockInfo {
            mode: self.mode,
            state: self.state(now),
            created: self.created,
            until: self.until,
            cool_off_until: self.cool_off.as_ref().map(|c| c.until),
        }
    }
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;
