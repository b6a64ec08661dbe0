use super::super::OPERATIONS;
use super::*;
use serde_json::json;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Asked {
    #[expect(dead_code, reason = "only whether it is there counts")]
    key_id: String,
    #[expect(dead_code, reason = "only whether it is there counts")]
    tags: Option<Vec<Tag>>,
}

fn fault(input: Value) -> String {
    parse::<Asked>(input).unwrap_err().what().to_owned()
}

fn must_not_be_null(at: &str) -> String {
    format!("1 validation error detected: Value at '{at}' failed to satisfy constraint: Member must not be null")
}

#[test]
fn what_is_missing_or_null_is_told_in_awss_words() {
    assert_eq!(fault(json!({})), must_not_be_null("keyId"));
    assert_eq!(fault(json!({"KeyId": null})), must_not_be_null("keyId"));
    let half = json!([{"TagKey": "a", "TagValue": "b"}, {"TagKey": "c"}]);
    assert_eq!(fault(json!({"KeyId": "k", "Tags": half})), must_not_be_null("tags.2.member.tagValue"));
    let valueless = json!([{"TagKey": "a", "TagValue": null}]);
    let unknown = fault(json!({"KeyId": "k", "Tags": null, "More": 1}));
    assert!(unknown.starts_with("1 validation error detected at 'More': unknown field"), "{unknown}");
    assert_eq!(fault(json!({"KeyId": "k", "Tags": valueless})), must_not_be_null("tags.1.member.tagValue"));
    assert_eq!(fault(json!(null)), "1 validation error detected: invalid type: expected struct Asked");
    // A wrong value is not quoted: it may be a secret.
    assert!(!fault(json!({"KeyId": ["secret"]})).contains("secret"));
}

#[test]
fn no_operation_answers_in_the_parsers_words() {
    let mut needy = 0;
    for entry in OPERATIONS {
        let Err(err) = entry.parses(json!({})) else { continue };
        assert!(err.what().ends_with("failed to satisfy constraint: Member must not be null"), "{}: {err}", entry.name);
        needy += 1;
    }
    assert!(needy > 30, "only {needy} operations need a member");
}
