//! Clocks that are set, machines that are switched off, and keys that wait for their deletion meanwhile.

use super::super::testing::{Site, caller};
use super::super::{KeyRef, KeyState, Kms};
use super::*;

/// An installation with a key that is deleted in 7 days.
fn scheduled(place: &Site) -> (Kms, KeyRef) {
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    kms.keys().schedule_deletion(&key, 7, &caller()).unwrap();
    (kms, key)
}

fn is_there(kms: &Kms, key: &KeyRef) -> bool {
    kms.keys().describe(key).is_ok()
}

fn days_left(kms: &Kms) -> i64 {
    kms.deletions().pending().unwrap()[0].days_left()
}

#[test]
fn what_others_wait_for_is_counted_on_the_same_clock() {
    let place = Site::new();
    let kms = place.init();
    let began = kms.waited().count().unwrap();
    let days = |kms: &Kms| (kms.waited().count().unwrap() - began) / DAY;
    place.set_clock_by_days(31);
    assert_eq!(days(&kms), 0);
    place.pass_days(3);
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(days(&kms), 3, "whether coffer ran or not");
    place.set_clock_by_days(-300);
    place.pass_days(1);
    assert_eq!(days(&kms), 4);
}

#[test]
fn a_clock_that_is_set_forward_deletes_no_key() {
    let place = Site::new();
    let (kms, key) = scheduled(&place);
    place.set_clock_by_days(31);
    assert_eq!(kms.deletions().purge_due().unwrap(), []);
    assert_eq!(days_left(&kms), 7);
    assert!(kms.deletions().pending().unwrap()[0].is_held(place.env().now()));
    drop(kms);
    for _ in 0..40 {
        place.set_clock_by_days(1);
        assert!(is_there(&place.open().unwrap(), &key), "nor does setting it often, or a restart of coffer");
    }
    let kms = place.open().unwrap();
    place.pass_days(6);
    assert_eq!(kms.deletions().purge_due().unwrap(), []);
    assert_eq!(days_left(&kms), 1);
    place.pass_days(1);
    assert_eq!(
        kms.deletions().purge_due().unwrap().len(),
        1,
        "real time does, and no more of it than was to be waited"
    );
    assert!(!is_there(&kms, &key));
}

#[test]
fn a_clock_that_was_set_leaves_the_key_to_who_wants_to_keep_it() {
    let place = Site::new();
    let (kms, key) = scheduled(&place);
    place.set_clock_by_days(31);
    assert_eq!(kms.keys().cancel_deletion(&key, &caller()).unwrap().key_state, KeyState::Disabled);
    assert!(kms.deletions().pending().unwrap().is_empty());
    // Scheduled anew, it waits anew: what it had waited before counts for nothing.
    kms.keys().schedule_deletion(&key, 7, &caller()).unwrap();
    place.pass_days(6);
    kms.keys().cancel_deletion(&key, &caller()).unwrap();
    kms.keys().schedule_deletion(&key, 7, &caller()).unwrap();
    place.pass_days(6);
    assert_eq!(kms.deletions().purge_due().unwrap(), []);
    place.pass_days(1);
    assert!(kms.keys().cancel_deletion(&key, &caller()).is_err(), "it is due");
    assert_eq!(kms.deletions().purge_due().unwrap().len(), 1);
}

#[test]
fn a_clock_that_is_set_back_makes_a_key_wait_for_its_date() {
    let place = Site::new();
    let (kms, key) = scheduled(&place);
    place.set_clock_by_days(-10);
    place.pass_days(8);
    assert_eq!(kms.deletions().purge_due().unwrap(), []);
    assert_eq!(days_left(&kms), 0);
    drop(kms);
    place.pass_days(8);
    assert!(is_there(&place.open().unwrap(), &key), "one day is missing");
    place.pass_days(1);
    assert!(!is_there(&place.open().unwrap(), &key));
}

#[test]
fn a_machine_that_was_off_counts_a_day_and_the_time_since_its_start() {
    let place = Site::new();
    let (kms, key) = scheduled(&place);
    drop(kms);
    place.off_for_days(31); // or its clock came up wrong: nobody can tell
    let kms = place.open().unwrap();
    assert!(is_there(&kms, &key));
    assert_eq!(days_left(&kms), 6);
    drop(kms);
    place.pass_days(5);
    assert!(is_there(&place.open().unwrap(), &key), "coffer did not run, the machine did");
    place.pass_days(1);
    assert!(!is_there(&place.open().unwrap(), &key));
}

#[test]
fn the_count_is_written_once_an_hour_and_for_nobody_who_does_not_wait() {
    let place = Site::new();
    let kms = place.init();
    kms.keys().create("", &caller()).unwrap();
    assert_eq!(kms.deletions().purge_due().unwrap(), []);
    assert!(kms.deletions().kept_count().unwrap().is_none());
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    kms.keys().schedule_deletion(&key, 30, &caller()).unwrap();
    let before = kms.deletions().kept_count().unwrap().unwrap();
    kms.deletions().purge_due().unwrap();
    assert_eq!(kms.deletions().kept_count().unwrap().unwrap(), before);
    place.pass_days(1);
    kms.deletions().purge_due().unwrap();
    assert_eq!(kms.deletions().kept_count().unwrap().unwrap().waited, before.waited + DAY);
    kms.keys().cancel_deletion(&key, &caller()).unwrap();
    kms.deletions().purge_due().unwrap();
    assert!(kms.deletions().kept_count().unwrap().unwrap().due.is_empty());
}

/// Keys that an earlier coffer scheduled, a count that is gone, an older one put back: they wait longer, not less.
#[test]
fn a_key_that_nobody_counted_for_waits_a_whole_period() {
    let place = Site::new();
    let (kms, key) = scheduled(&place);
    place.pass_days(6);
    drop(kms);
    place.tamper("UPDATE record SET body = x'00' WHERE kind = 'kms-clock'".into());
    place.set_clock_by_days(31);
    let kms = place.open().unwrap();
    assert!(is_there(&kms, &key));
    assert_eq!(days_left(&kms), 7);
    drop(kms);
    place.tamper("DELETE FROM record WHERE kind = 'kms-clock'".into());
    assert!(is_there(&place.open().unwrap(), &key));
    place.pass_days(7);
    assert!(!is_there(&place.open().unwrap(), &key));
}
