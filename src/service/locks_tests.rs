use super::*;
use crate::volume::testing::Seeded;

const START: i64 = 1_700_000_000_000;

/// So many hours after the start by the wall clock, and by the count.
fn at(wall: i64, counted: i64) -> Now {
    Now { wall: Timestamp(START + wall * HOUR), counted: 1000 + counted * HOUR }
}

fn days(mode: LockMode, days: u32, cool_off: Option<u32>) -> Asked {
    Asked { mode, expiry: Expiry::Days(days), cool_off }
}

fn until(mode: LockMode, wall: i64) -> Asked {
    Asked { mode, expiry: Expiry::At(at(wall, 0).wall), cool_off: None }
}

use LockMode::{Compliance, Governance};

#[test]
fn a_lock_expires_by_both_clocks_and_cooling_off_is_over_by_either() {
    let lock = Lock::asked(None, &days(Compliance, 2, Some(10)), at(0, 0)).unwrap();
    for (wall, counted, state) in [
        (0, 0, LockState::ComplianceCooloff),
        (9, 9, LockState::ComplianceCooloff),
        (10, 9, LockState::Compliance),
        // The wall clock was set back.
        (-500, 10, LockState::Compliance),
        (0, 10, LockState::Compliance),
        // The count was lost.
        (1, -1, LockState::Compliance),
        // The wall clock was set to a date far ahead, or the machine was off.
        (100_000, 47, LockState::Compliance),
        (47, 100_000, LockState::Compliance),
        (48, 48, LockState::Expired),
    ] {
        assert_eq!(lock.state(at(wall, counted)), state, "{wall} {counted}");
        let removable = lock.must_be_removable(at(wall, counted)).is_ok();
        assert_eq!(removable, state != LockState::Compliance, "{wall} {counted}");
    }
    let lock = Lock::asked(None, &days(Governance, 2, None), at(0, 0)).unwrap();
    assert_eq!(lock.state(at(100_000, 47)), LockState::Governance);
    assert!(lock.must_be_removable(at(1, 1)).is_ok());
    assert_eq!(lock.state(at(48, 48)), LockState::Expired);
    let lock = Lock::asked(None, &days(Compliance, 2, None), at(0, 0)).unwrap();
    assert_eq!(lock.state(at(0, 0)), LockState::Compliance, "at once, without a cooling-off period");
}

#[test]
fn durations_and_cooling_off_periods_have_bounds() {
    for (asked, good) in [
        (days(Governance, 1, None), true),
        (days(Governance, 36_500, None), true),
        (days(Governance, 0, None), false),
        (days(Governance, 36_501, None), false),
        (days(Compliance, 1, Some(1)), true),
        (days(Compliance, 1, Some(72)), true),
        (days(Compliance, 1, Some(0)), false),
        (days(Compliance, 1, Some(73)), false),
        (days(Governance, 1, Some(1)), false),
        (until(Governance, 24), true),
        (until(Governance, 23), false),
        (until(Governance, -1), false),
        (until(Governance, 36_500 * 24), true),
        (until(Governance, 36_500 * 24 + 1), false),
    ] {
        let made = Lock::asked(None, &asked, at(0, 0));
        assert_eq!(made.is_ok(), good, "{asked:?}");
        assert!(made.err().is_none_or(|e| e.kind() == Kind::Usage));
    }
}

#[test]
fn a_compliance_lock_can_only_be_extended_once_it_has_cooled_off() {
    let cooling = Lock::asked(None, &days(Compliance, 10, Some(5)), at(0, 0)).unwrap();
    // While it cools off, and in governance mode, anything goes.
    for old in [cooling.clone(), Lock::asked(None, &days(Governance, 10, None), at(0, 0)).unwrap()] {
        for asked in [days(Governance, 1, None), days(Compliance, 1, None), days(Compliance, 1, Some(72))] {
            let new = Lock::asked(Some(&old), &asked, at(1, 1)).unwrap();
            assert_eq!((new.mode, new.until), (asked.mode, at(25, 0).wall));
        }
    }
    let refused = |asked: Asked| Lock::asked(Some(&cooling), &asked, at(6, 6)).unwrap_err();
    for (asked, words) in [
        (days(Governance, 100, None), "the mode cannot be changed"),
        (days(Compliance, 100, Some(1)), "cooling-off period is over"),
        (days(Compliance, 9, None), "cannot expire earlier"),
        (until(Compliance, 239), "cannot expire earlier"),
    ] {
        let err = refused(asked);
        assert!(err.kind() == Kind::InvalidState && err.line().contains(words), "{}", err.line());
    }
    assert_eq!(Lock::asked(Some(&cooling), &until(Compliance, 240), at(6, 6)).unwrap().until, cooling.until);
    let longer = Lock::asked(Some(&cooling), &until(Compliance, 300), at(6, 6)).unwrap();
    assert_eq!((longer.until, longer.created), (at(300, 0).wall, cooling.created));
    assert_eq!(longer.state(at(300, 299)), LockState::Compliance);
    assert_eq!(longer.state(at(300, 300)), LockState::Expired);
    // An expired lock is as none.
    assert!(Lock::asked(Some(&longer), &days(Governance, 1, None), at(300, 300)).is_ok());
}

/// By seeds: once a compliance lock has cooled off, no request, and no wall clock, makes it expire before the count says so.
#[test]
fn nothing_shortens_a_compliance_lock() {
    for seed in 1..=200 {
        let mut random = Seeded(seed);
        let mut lock = Lock::asked(None, &days(Compliance, 30, None), at(0, 0)).unwrap();
        let mut end = 30 * 24;
        let mut counted = 0;
        for _ in 0..40 {
            counted += random.below(30) as i64;
            let wall = random.below(200_000) as i64 - 100_000;
            let now = at(wall, counted);
            if counted >= end {
                break;
            }
            assert_eq!(lock.state(now), LockState::Compliance, "seed {seed}, count {counted}, wall {wall}");
            assert!(lock.must_be_removable(now).is_err());
            let mode = if random.below(3) == 0 { Governance } else { Compliance };
            let asked = days(mode, random.below(50) as u32 + 1, (random.below(3) == 0).then_some(1));
            let was = lock.until;
            if let Ok(next) = Lock::asked(Some(&lock), &asked, now) {
                end += (next.until.0 - was.0) / HOUR;
                assert!(next.until >= was && next.mode == Compliance, "seed {seed}");
                lock = next;
            }
        }
    }
}
