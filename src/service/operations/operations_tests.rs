//! Authorization of operations, and parsing of requests.

use super::*;
use crate::service::testing::{Fixture, request};
use serde_json::json;

fn stranger() -> Caller {
    Caller::new("arn:aws:iam::123456789012:user/mallory", "test", Authority::Nothing)
}

#[test]
fn who_does_not_administer_the_installation_is_refused_and_recorded() {
    let on = Fixture::with_volume(1 << 20);
    let refusals = || {
        let all = on.service.ledger().newest_audit_records(1000).unwrap();
        all.into_iter().filter(|r| r.body.result == "refused").count()
    };
    for (asks, recorded) in [
        (json!({"action": "status"}), 0),
        (json!({"action": "volume-list"}), 0),
        (json!({"action": "volume-show", "volume": "v"}), 0),
        (json!({"action": "doctor"}), 0),
        (json!({"action": "volume-create", "name": "w", "size": 1 << 20}), 1),
        (json!({"action": "volume-delete", "volume": "v"}), 1),
        (json!({"action": "volume-export-key", "volume": "v", "out": "/nonexistent/key"}), 1),
        (json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true}), 1),
        (json!({"action": "attach-begin", "volume": "v", "device": "/dev/nbd0"}), 1),
        (json!({"action": "access-token", "name": "m", "volumes": ["v"], "all": false}), 1),
        (json!({"action": "key-create", "description": ""}), 1),
        (json!({"action": "key-policy-reset", "key": "alias/k"}), 1),
        (json!({"action": "audit-accept"}), 1),
        // The KMS refuses these because of the key policy.
        (json!({"action": "key-show", "key": "alias/k"}), 1),
        (json!({"action": "key-encrypt", "key": "alias/k", "plaintext": "00", "context": {}}), 1),
        (json!({"action": "key-disable", "key": "alias/k"}), 1),
        (json!({"action": "grant-list", "key": "alias/k"}), 1),
        (json!({"action": "alias-delete", "alias": "alias/k"}), 1),
    ] {
        let before = refusals();
        let err = on.service.handle(&stranger(), request(asks.clone()), &mut |_| true).unwrap_err();
        assert_eq!(err.kind(), Kind::AccessDenied, "{asks}: {}", err.line());
        assert_eq!(refusals(), before + recorded, "{asks}");
        if asks["action"] != "status" {
            continue;
        }
        on.ask(request(asks)).unwrap();
    }
}

#[test]
fn what_a_request_has_too_much_is_refused() {
    let read = |text: &str| serde_json::from_str::<Request>(text);
    assert!(read(r#"{"action": "volume-list"}"#).is_ok());
    for text in [
        r#"{"action": "volume-list", "volume": "v"}"#,
        r#"{"action": "volume-show", "volume": "v", "force": true}"#,
        r#"{"action": "volume-show"}"#,
        r#"{"action": "no-such"}"#,
        r#"{"volume": "v"}"#,
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn a_request_has_the_name_that_it_travels_under() {
    let sent = request(json!({"action": "snapshot-verify", "snapshots": ["snap-1"], "trust": null}));
    assert_eq!(sent.name(), "snapshot-verify");
    assert_eq!(serde_json::to_value(&sent).unwrap()["action"], "snapshot-verify");
}
