use super::*;
use crate::service::aws::trail_testing::{ACCOUNT, World};
use serde_json::json;

#[test]
fn old_segments_go_once_a_day_and_what_is_young_enough_stays() {
    let world = World::new();
    let (admin, ledger) = (world.root(ACCOUNT), world.service.kms.ledger());
    ledger.set_segment(1);
    let (old, expire) = (world.key(&admin, &[]), || world.service.retention.expire_if_due().unwrap());
    let usage = || world.call(&admin, "kms:GetKeyLastUsage", json!({ "KeyId": old })).unwrap();
    world.call(&admin, "kms:Encrypt", json!({ "KeyId": old, "Plaintext": "AAAA" })).unwrap();
    world.pass(1000);
    assert_eq!(usage()["KeyLastUsage"]["Operation"], "Encrypt");
    assert_eq!(expire(), 0);
    world.pass(89 * DAY);
    world.key(&admin, &[]);
    assert_eq!(expire(), 0, "nothing is older than 90 days");
    world.pass(2 * DAY);
    world.service.keep_audit_for(120).unwrap();
    assert_eq!(expire(), 0, "nothing is older than 120 days");
    world.service.keep_audit_for(90).unwrap();
    assert_eq!(expire(), 0, "the last look was just now");
    world.pass(DAY);
    assert!(expire() > 1);
    let records: Vec<_> = ledger.audit_records().unwrap().map(Result::unwrap).collect();
    let recorded = records.iter().filter(|r| r.body.act == "coffer:ExpireAudit");
    assert_eq!(recorded.map(|r| r.body.detail["days"].as_str()).collect::<Vec<_>>(), ["90"]);
    assert!(records.iter().any(|r| r.body.act == "kms:CreateKey"), "three days old");
    assert_eq!(ledger.verify_audit().unwrap().trouble, None);
    // The use went with its record, and tracking began after it.
    let told = usage();
    assert_eq!(told["KeyLastUsage"], json!({}));
    assert!(told["TrackingStartDate"].as_f64() > told["KeyCreationDate"].as_f64());
}

#[test]
fn less_than_cloudtrails_ninety_days_is_refused() {
    let world = World::new();
    assert_eq!(world.service.keep_audit_for(89).unwrap_err().kind(), Kind::Usage);
}
