//! What the language has beside key policies of one account: principals that are left out, variables, addresses, the facts of
//! a request, policies of identities and trust policies.

use super::*;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use crate::error;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ACCOUNT: &str = "111122223333";
const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const NOW: Timestamp = Timestamp(1_800_000_000_000); // 2027-01-15T08:00:00Z

fn principal(end: &str) -> PrincipalFacts {
    let service = if end.starts_with("assumed-role") { "sts" } else { "iam" };
    PrincipalFacts::of_arn(&format!("arn:aws:{service}::{ACCOUNT}:{end}"))
}

fn verdict(policy: &Policy, who: &PrincipalFacts, action: &str, facts: &Facts) -> Verdict {
    policy.verdict(&Question { action, resource: KEY, principal: who, facts, now: NOW })
}

/// A document of one statement; `fields` are put into one that allows kms:* on everything.
fn document(fields: Value) -> String {
    let mut statement = json!({"Effect": "Allow", "Action": "kms:*", "Resource": "*"}).as_object().unwrap().clone();
    for (field, of) in [("NotAction", "Action"), ("NotResource", "Resource")] {
        if fields.get(field).is_some() {
            statement.remove(of);
        }
    }
    statement.extend(fields.as_object().unwrap().clone());
    json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
}

fn identity(fields: Value) -> Policy {
    let text = document(fields);
    Policy::parse_identity(&text).unwrap_or_else(|e| panic!("{text}: {}", e.line()))
}

/// Whether an identity policy on this condition allows a request.
fn holds(condition: Value, who: &PrincipalFacts, action: &str, facts: &Facts) -> bool {
    let policy = identity(json!({"Condition": condition}));
    policy.check_identity("us-east-1").unwrap_or_else(|e| panic!("{condition}: {}", e.line()));
    verdict(&policy, who, action, facts) == Verdict::Allowed
}

fn deny_all_except(principals: Value) -> Policy {
    let text = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"},
        {"Effect": "Deny", "NotPrincipal": principals, "Action": "kms:*", "Resource": "*"}]});
    Policy::parse(&text.to_string()).unwrap()
}

/// IAM User Guide, "AWS JSON policy elements: NotPrincipal": all ARNs of the principal must be listed.
#[test]
fn a_principal_is_left_out_if_all_its_arns_are() {
    let arn = |end: &str| format!("arn:aws:iam::{ACCOUNT}:{end}");
    let session = format!("arn:aws:sts::{ACCOUNT}:assumed-role/Ops/shift");
    for (listed, who, denied) in [
        (json!([arn("user/bob"), arn("root")]), "user/bob", false),
        (json!([arn("user/bob"), ACCOUNT]), "user/bob", false),
        (json!([arn("user/bob"), arn("root")]), "user/alice", true),
        (json!([arn("user/bob"), arn("root")]), "root", false),
        (json!(arn("user/bob")), "user/bob", true),
        (json!(arn("root")), "user/bob", true),
        (json!(arn("root")), "root", false),
        (json!([session, arn("role/Ops"), arn("root")]), "assumed-role/Ops/shift", false),
        (json!([session, arn("role/Ops"), arn("root")]), "assumed-role/Ops/other", true),
        (json!([arn("role/Ops"), arn("root")]), "assumed-role/Ops/shift", true),
        (json!([session, arn("root")]), "assumed-role/Ops/shift", true),
        (json!([session, arn("role/Ops")]), "assumed-role/Ops/shift", true),
        (json!(arn("root")), "service/ec2.coffer", true),
    ] {
        let policy = deny_all_except(json!({"AWS": listed}));
        let found = verdict(&policy, &principal(who), "kms:Decrypt", &Facts::new()) == Verdict::Denied;
        assert_eq!(found, denied, "{listed} {who}");
    }
    let but_service = deny_all_except(json!({"Service": "ec2.amazonaws.com"}));
    assert_eq!(verdict(&but_service, &principal("user/a"), "kms:Decrypt", &Facts::new()), Verdict::Denied);
    assert_eq!(verdict(&but_service, &principal("service/ec2.coffer"), "kms:Decrypt", &Facts::new()), Verdict::Allowed);
    // What leaves out nobody, or everybody, is refused when it is put.
    for (listed, words) in [
        (json!("*"), "leaves out everyone"),
        (
            json!({"AWS": arn("user/bob")}),
            "is left out only if its account is, too: add arn:aws:iam::111122223333:root",
        ),
        (json!({"AWS": [session, arn("root")]}), "only if its role is, too: add arn:aws:iam::111122223333:role/Ops"),
    ] {
        let refused = deny_all_except(listed.clone()).check(KEY).unwrap_err();
        assert!(refused.what().contains(words), "{listed}: {}", refused.what());
        assert!(refused.what().contains("Statement[1].NotPrincipal"), "{}", refused.what());
    }
    deny_all_except(json!({"AWS": [session, arn("role/team/Ops"), arn("root")]})).check(KEY).unwrap();
}

#[test]
fn a_variable_stands_for_what_the_request_has() {
    let alice = principal("user/alice");
    let tagged =
        |value: &str| PrincipalFacts { tags: BTreeMap::from([("Team".to_owned(), value.to_owned())]), ..alice.clone() };
    let session = principal("assumed-role/Ops/shift");
    let context = |value: &str| Facts::new().context(&EncryptionContext::of("Owner", value));
    let owner = |want: &str| json!({"StringEquals": {"kms:EncryptionContext:Owner": want}});
    let like = |want: &str| json!({"StringLike": {"kms:EncryptionContext:Owner": want}});
    for (condition, who, facts, held) in [
        (owner("${aws:username}"), &alice, context("alice"), true),
        (owner("${AWS:UserName}"), &alice, context("alice"), true),
        (owner("x-${aws:username}-${aws:PrincipalAccount}"), &alice, context("x-alice-111122223333"), true),
        (owner("${aws:username}"), &alice, context("bob"), false),
        (owner("${aws:username}"), &alice, context("${aws:username}"), false),
        // A session has no user name: absent, so that nothing matches.
        (owner("${aws:username}"), &session, context(""), false),
        (owner("${aws:username}"), &session, context("${aws:username}"), false),
        // With a default value.
        (owner("${aws:PrincipalTag/team, 'none'}"), &alice, context("none"), true),
        (owner("${aws:PrincipalTag/team,'none'}"), &tagged("red"), context("none"), false),
        (owner("${aws:PrincipalTag/team, 'none'}"), &tagged("red"), context("red"), true),
        // Wildcards and what is put in are told apart.
        (like("${aws:PrincipalTag/team}-*"), &tagged("red"), context("red-7"), true),
        (like("${aws:PrincipalTag/team}"), &tagged("*"), context("red"), false),
        (like("${aws:PrincipalTag/team}"), &tagged("*"), context("*"), true),
        (like("a${*}b*"), &alice, context("a*bc"), true),
        (like("a${*}b*"), &alice, context("axbc"), false),
        (like("${?}${$}"), &alice, context("?$"), true),
        (like("${?}${$}"), &alice, context("a$"), false),
        (owner("${*}"), &alice, context("*"), true),
        // Without its case, both ways.
        (
            json!({"StringEqualsIgnoreCase": {"kms:EncryptionContext:Owner": "${aws:PrincipalTag/team}"}}),
            &tagged("Straße"),
            context("STRASSE"),
            true,
        ),
        // Under a negation, an absent variable makes an Allow fail.
        (json!({"StringNotEquals": {"kms:EncryptionContext:Owner": "${aws:username}"}}), &alice, context("bob"), true),
        (
            json!({"StringNotEquals": {"kms:EncryptionContext:Owner": "${aws:username}"}}),
            &session,
            context("bob"),
            false,
        ),
        (
            json!({"ArnLike": {"kms:EncryptionContext:Owner": "arn:aws:iam::${aws:PrincipalAccount}:user/${aws:username}"}}),
            &alice,
            context("arn:aws:iam::111122223333:user/alice"),
            true,
        ),
        (
            json!({"ArnEquals": {"kms:EncryptionContext:Owner": "${aws:PrincipalArn}"}}),
            &alice,
            context(&alice.arn),
            true,
        ),
    ] {
        assert_eq!(holds(condition.clone(), who, "kms:Decrypt", &facts), held, "{condition} {} {facts:?}", who.arn);
    }
    // A Deny under a negation denies what it cannot compare.
    let deny = identity(json!({"Effect": "Deny",
        "Condition": {"StringNotEquals": {"kms:EncryptionContext:Owner": "${aws:username}"}}}));
    assert_eq!(verdict(&deny, &session, "kms:Decrypt", &context("shift")), Verdict::Denied);
    assert_eq!(verdict(&deny, &alice, "kms:Decrypt", &context("alice")), Verdict::Silent);
}

#[test]
fn a_variable_in_a_resource_stands_for_what_the_request_has() {
    let alice = principal("user/alice");
    let (own, none) = ("arn:aws:kms:*:${aws:PrincipalAccount}:key/*", "arn:aws:kms:*:${aws:PrincipalTag/home}:key/*");
    let ask = |fields: Value| verdict(&identity(fields), &alice, "kms:Decrypt", &Facts::new());
    assert_eq!(ask(json!({"Resource": own})), Verdict::Allowed);
    assert_eq!(ask(json!({"Resource": none})), Verdict::Silent);
    assert_eq!(ask(json!({"Resource": [none, own]})), Verdict::Allowed);
    assert_eq!(ask(json!({"NotResource": none})), Verdict::Silent, "an exception that is unknown allows nothing");
    assert_eq!(ask(json!({"Effect": "Deny", "NotResource": none})), Verdict::Denied);
    assert_eq!(ask(json!({"Effect": "Deny", "NotResource": own})), Verdict::Silent);
    let stranger = PrincipalFacts::of_arn("arn:aws:iam::444455556666:user/alice");
    assert_eq!(verdict(&identity(json!({"Resource": own})), &stranger, "kms:Decrypt", &Facts::new()), Verdict::Silent);
    // In a document of the older version it is text.
    let old = document(json!({"Resource": "arn:aws:kms:*:*:key/*", "Condition": {"StringEquals": {
        "kms:EncryptionContext:Owner": "${aws:username}"}}}))
    .replace("2012-10-17", "2008-10-17");
    let facts = |value: &str| Facts::new().context(&EncryptionContext::of("Owner", value));
    let old = Policy::parse_identity(&old).unwrap();
    assert_eq!(verdict(&old, &alice, "kms:Decrypt", &facts("alice")), Verdict::Silent);
    assert_eq!(verdict(&old, &alice, "kms:Decrypt", &facts("${aws:username}")), Verdict::Allowed);
}

/// Networks of RFC 5737 and RFC 3849.
#[test]
fn addresses_are_compared_with_networks() {
    let from = |address: &str| Facts::new().text(Key::SourceIp, address);
    let alice = principal("user/alice");
    for (operator, networks, facts, held) in [
        ("IpAddress", json!("203.0.113.0/24"), from("203.0.113.255"), true),
        ("IpAddress", json!("203.0.113.0/24"), from("203.0.114.0"), false),
        ("IpAddress", json!("203.0.113.7/24"), from("203.0.113.1"), true),
        ("IpAddress", json!(["198.51.100.7", "2001:db8::/32"]), from("198.51.100.7"), true),
        ("IpAddress", json!(["198.51.100.7", "2001:db8::/32"]), from("198.51.100.8"), false),
        ("IpAddress", json!(["198.51.100.7", "2001:db8::/32"]), from("2001:db8:ffff::1"), true),
        ("IpAddress", json!("2001:db8::/32"), from("2001:db9::1"), false),
        ("IpAddress", json!("0.0.0.0/0"), from("2001:db8::1"), false),
        ("IpAddress", json!("203.0.113.0/24"), from("::ffff:203.0.113.9"), true),
        ("IpAddress", json!("203.0.113.0/24"), from("not an address"), false),
        ("IpAddress", json!("203.0.113.0/24"), Facts::new(), false),
        ("IpAddressIfExists", json!("203.0.113.0/24"), Facts::new(), true),
        ("NotIpAddress", json!("203.0.113.0/24"), from("203.0.113.9"), false),
        ("NotIpAddress", json!("203.0.113.0/24"), from("198.51.100.1"), true),
        ("NotIpAddress", json!("203.0.113.0/24"), Facts::new(), true),
    ] {
        let condition = json!({operator: {"aws:SourceIp": networks}});
        assert_eq!(holds(condition.clone(), &alice, "kms:Decrypt", &facts), held, "{condition} {facts:?}");
    }
}

/// Each key of a principal, and that it is absent for others.
#[test]
fn the_facts_of_a_principal_are_condition_keys() {
    let user = PrincipalFacts {
        user_id: Some("AIDAEXAMPLE".into()),
        tags: BTreeMap::from([("team".to_owned(), "red".to_owned()), ("Stage".to_owned(), "a".to_owned())]),
        ..principal("user/alice")
    };
    let session = PrincipalFacts {
        user_id: Some("AROAEXAMPLE:shift".into()),
        role_arn: Some(format!("arn:aws:iam::{ACCOUNT}:role/team/Ops")),
        session: Some(SessionFacts { issued: Timestamp(NOW.0 - 600_000), mfa: Some(Timestamp(NOW.0 - 300_000)) }),
        ..principal("assumed-role/Ops/shift")
    };
    let without_mfa = PrincipalFacts { session: Some(SessionFacts { issued: NOW, mfa: None }), ..session.clone() };
    let root = principal("root");
    let service = principal("service/ec2.coffer");
    let rivals = PrincipalFacts {
        tags: BTreeMap::from([("team".to_owned(), "red".to_owned()), ("TEAM".to_owned(), "blue".to_owned())]),
        ..user.clone()
    };
    let through = user.clone().through(Some(VOLUME_SERVICE));
    let is = |operator: &str, key: &str, value: &str| json!({operator: {key: value}});
    for (condition, who, held) in [
        (is("StringEquals", "aws:userid", "AIDAEXAMPLE"), &user, true),
        (is("StringLike", "aws:userid", "AROAEXAMPLE:*"), &session, true),
        (is("StringEquals", "aws:userid", ACCOUNT), &root, true),
        (is("Null", "aws:username", "false"), &user, true),
        (is("Null", "aws:username", "true"), &session, true),
        (is("StringEquals", "aws:PrincipalType", "User"), &user, true),
        (is("StringEquals", "aws:PrincipalType", "AssumedRole"), &session, true),
        (is("StringEquals", "aws:PrincipalType", "Account"), &root, true),
        (is("ArnEquals", "aws:PrincipalArn", "arn:aws:iam::111122223333:role/team/Ops"), &session, true),
        (is("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:role/*"), &user, false),
        (is("StringEquals", "aws:PrincipalTag/Team", "red"), &user, true),
        (is("StringEquals", "aws:principaltag/TEAM", "red"), &user, true),
        (is("StringEquals", "aws:PrincipalTag/Team", "red"), &session, false),
        (is("StringEquals", "aws:PrincipalTag/Team", "red"), &rivals, false),
        (is("StringNotEquals", "aws:PrincipalTag/Team", "red"), &rivals, false),
        (is("DateGreaterThan", "aws:TokenIssueTime", "2027-01-15T07:49:59Z"), &session, true),
        (is("DateGreaterThan", "aws:TokenIssueTime", "2027-01-15T07:50:00Z"), &session, false),
        (is("Null", "aws:TokenIssueTime", "true"), &user, true),
        (is("Bool", "aws:MultiFactorAuthPresent", "true"), &session, true),
        (is("Bool", "aws:MultiFactorAuthPresent", "false"), &without_mfa, true),
        (is("Bool", "aws:MultiFactorAuthPresent", "false"), &user, false),
        (is("BoolIfExists", "aws:MultiFactorAuthPresent", "false"), &user, true),
        (is("NumericLessThanEquals", "aws:MultiFactorAuthAge", "300"), &session, true),
        (is("NumericLessThan", "aws:MultiFactorAuthAge", "300"), &session, false),
        (is("Null", "aws:MultiFactorAuthAge", "true"), &without_mfa, true),
        (is("Bool", "aws:PrincipalIsAWSService", "true"), &service, true),
        (is("Bool", "aws:PrincipalIsAWSService", "true"), &user, false),
        (is("Bool", "aws:ViaAWSService", "true"), &through, true),
        (is("Bool", "aws:ViaAWSService", "true"), &user, false),
        (is("ForAnyValue:StringEquals", "aws:CalledVia", "ec2.amazonaws.com"), &through, true),
        (is("ForAnyValue:StringEquals", "aws:CalledVia", "ec2.coffer"), &through, true),
        (is("ForAnyValue:StringEquals", "aws:CalledVia", "ec2.coffer"), &user, false),
        (is("StringEquals", "aws:ResourceAccount", ACCOUNT), &user, true),
        (is("StringEquals", "aws:RequestedRegion", "us-east-1"), &user, true),
        (is("StringEquals", "aws:RequestedRegion", "eu-west-1"), &user, false),
    ] {
        assert_eq!(holds(condition.clone(), who, "kms:Decrypt", &Facts::new()), held, "{condition} {}", who.arn);
    }
}

/// Each key of an operation, with a value that holds and one that does not.
#[test]
fn the_facts_of_a_request_are_condition_keys() {
    let grant = GrantFacts {
        for_aws_resource: false,
        operations: vec!["Decrypt".into()],
        grantee: Some("arn:aws:iam::111122223333:role/Ops".into()),
        retiring: Some("arn:aws:iam::111122223333:user/bob".into()),
        constraint: Some("EncryptionContextSubset"),
    };
    let granted = Facts::new().grant(&grant);
    let text = |key: Key, value: &str| Facts::new().text(key, value);
    let tags = Facts::new().request_tags([("Team", "red"), ("Stage", "a")]).resource_tags([("Team", "blue")]);
    let aliases = Facts::new().texts(Key::ResourceAliases, ["alias/a", "alias/b"]);
    for (action, facts, operator, key, yes, no) in [
        ("kms:CreateKey", text(Key::KeySpec, "RSA_2048"), "StringEquals", "kms:KeySpec", "RSA_2048", "RSA_4096"),
        ("kms:Sign", text(Key::KeySpec, "RSA_2048"), "StringLike", "kms:CustomerMasterKeySpec", "RSA_*", "ECC_*"),
        (
            "kms:CreateKey",
            text(Key::KeyUsage, "SIGN_VERIFY"),
            "StringEquals",
            "kms:KeyUsage",
            "SIGN_VERIFY",
            "KEY_AGREEMENT",
        ),
        (
            "kms:Sign",
            text(Key::KeyUsage, "SIGN_VERIFY"),
            "StringNotEquals",
            "kms:CustomerMasterKeyUsage",
            "KEY_AGREEMENT",
            "SIGN_VERIFY",
        ),
        ("kms:CreateKey", text(Key::KeyOrigin, "EXTERNAL"), "StringEquals", "kms:KeyOrigin", "EXTERNAL", "AWS_KMS"),
        ("kms:CreateKey", Facts::new().flag(Key::MultiRegion, true), "Bool", "kms:MultiRegion", "true", "false"),
        (
            "kms:Decrypt",
            text(Key::MultiRegionKeyType, "REPLICA"),
            "StringEquals",
            "kms:MultiRegionKeyType",
            "REPLICA",
            "PRIMARY",
        ),
        (
            "kms:UpdatePrimaryRegion",
            text(Key::PrimaryRegion, "eu-west-1"),
            "StringLike",
            "kms:PrimaryRegion",
            "eu-*",
            "us-*",
        ),
        (
            "kms:ReplicateKey",
            text(Key::ReplicaRegion, "eu-west-1"),
            "StringEquals",
            "kms:ReplicaRegion",
            "eu-west-1",
            "eu-west-2",
        ),
        (
            "kms:Encrypt",
            text(Key::EncryptionAlgorithm, "RSAES_OAEP_SHA_256"),
            "StringEquals",
            "kms:EncryptionAlgorithm",
            "RSAES_OAEP_SHA_256",
            "SYMMETRIC_DEFAULT",
        ),
        (
            "kms:Sign",
            text(Key::SigningAlgorithm, "ECDSA_SHA_256"),
            "StringLike",
            "kms:SigningAlgorithm",
            "ECDSA_*",
            "RSASSA_*",
        ),
        ("kms:Verify", text(Key::MessageType, "DIGEST"), "StringEquals", "kms:MessageType", "DIGEST", "RAW"),
        (
            "kms:VerifyMac",
            text(Key::MacAlgorithm, "HMAC_SHA_256"),
            "StringEquals",
            "kms:MacAlgorithm",
            "HMAC_SHA_256",
            "HMAC_SHA_512",
        ),
        (
            "kms:DeriveSharedSecret",
            text(Key::KeyAgreementAlgorithm, "ECDH"),
            "StringEqualsIgnoreCase",
            "kms:KeyAgreementAlgorithm",
            "ecdh",
            "",
        ),
        (
            "kms:GenerateDataKeyPair",
            text(Key::DataKeyPairSpec, "ECC_NIST_P256"),
            "StringLike",
            "kms:DataKeyPairSpec",
            "ECC_*",
            "RSA_*",
        ),
        (
            "kms:Decrypt",
            text(Key::RequestAlias, "alias/prod"),
            "StringLike",
            "kms:RequestAlias",
            "alias/p*",
            "alias/test*",
        ),
        ("kms:Decrypt", aliases.clone(), "ForAnyValue:StringEquals", "kms:ResourceAliases", "alias/b", "alias/c"),
        ("kms:Decrypt", aliases, "ForAllValues:StringLike", "kms:ResourceAliases", "alias/*", "alias/a"),
        (
            "kms:CreateGrant",
            granted.clone(),
            "ArnEquals",
            "kms:GranteePrincipal",
            "arn:aws:iam::111122223333:role/Ops",
            "arn:aws:iam::111122223333:role/Dev",
        ),
        ("kms:CreateGrant", granted.clone(), "StringLike", "kms:RetiringPrincipal", "*:user/bob", "*:user/eve"),
        (
            "kms:CreateGrant",
            granted.clone(),
            "StringEquals",
            "kms:GrantConstraintType",
            "EncryptionContextSubset",
            "EncryptionContextEquals",
        ),
        ("kms:CreateGrant", granted, "Bool", "kms:GrantIsForAWSResource", "false", "true"),
        (
            "kms:PutKeyPolicy",
            Facts::new().flag(Key::BypassPolicyLockoutSafetyCheck, true),
            "Bool",
            "kms:BypassPolicyLockoutSafetyCheck",
            "true",
            "false",
        ),
        (
            "kms:ScheduleKeyDeletion",
            Facts::new().number(Key::ScheduleKeyDeletionPendingWindowInDays, 7),
            "NumericLessThanEquals",
            "kms:ScheduleKeyDeletionPendingWindowInDays",
            "7",
            "",
        ),
        (
            "kms:ScheduleKeyDeletion",
            Facts::new().number(Key::ScheduleKeyDeletionPendingWindowInDays, 7),
            "NumericGreaterThan",
            "kms:ScheduleKeyDeletionPendingWindowInDays",
            "",
            "21",
        ),
        (
            "kms:EnableKeyRotation",
            Facts::new().number(Key::RotationPeriodInDays, 180),
            "NumericEquals",
            "kms:RotationPeriodInDays",
            "180",
            "365",
        ),
        (
            "kms:ImportKeyMaterial",
            Facts::new().moment(Key::ValidTo, NOW),
            "NumericLessThanEquals",
            "kms:ValidTo",
            "1800000000",
            "1799999999",
        ),
        (
            "kms:ImportKeyMaterial",
            Facts::new().moment(Key::ValidTo, NOW),
            "DateGreaterThan",
            "kms:ValidTo",
            "2027-01-15T07:59:59Z",
            "2027-01-15T08:00:00Z",
        ),
        (
            "kms:ImportKeyMaterial",
            text(Key::ExpirationModel, "KEY_MATERIAL_EXPIRES"),
            "StringEquals",
            "kms:ExpirationModel",
            "KEY_MATERIAL_EXPIRES",
            "KEY_MATERIAL_DOES_NOT_EXPIRE",
        ),
        (
            "kms:GetParametersForImport",
            text(Key::WrappingAlgorithm, "RSAES_OAEP_SHA_256"),
            "StringEquals",
            "kms:WrappingAlgorithm",
            "RSAES_OAEP_SHA_256",
            "RSAES_OAEP_SHA_1",
        ),
        (
            "kms:GetParametersForImport",
            text(Key::WrappingKeySpec, "RSA_4096"),
            "StringEquals",
            "kms:WrappingKeySpec",
            "RSA_4096",
            "RSA_2048",
        ),
        (
            "kms:ReEncryptFrom",
            Facts::new().flag(Key::ReEncryptOnSameKey, true),
            "Bool",
            "kms:ReEncryptOnSameKey",
            "true",
            "false",
        ),
        ("kms:CreateKey", tags.clone(), "StringEquals", "aws:RequestTag/team", "red", "blue"),
        ("kms:TagResource", tags.clone(), "StringEquals", "aws:ResourceTag/TEAM", "blue", "red"),
        ("kms:TagResource", tags.clone(), "ForAnyValue:StringEquals", "aws:TagKeys", "Stage", "stage"),
        ("kms:TagResource", tags, "ForAllValues:StringLike", "aws:TagKeys", "*a*", "T*"),
        ("kms:Decrypt", Facts::new().flag(Key::SecureTransport, true), "Bool", "aws:SecureTransport", "true", "false"),
        ("kms:Decrypt", text(Key::UserAgent, "aws-cli/2.1"), "StringLike", "aws:UserAgent", "aws-cli/*", "Boto3/*"),
        (
            "kms:Decrypt",
            text(Key::SourceAccount, "444455556666"),
            "StringEquals",
            "aws:SourceAccount",
            "444455556666",
            "111122223333",
        ),
        (
            "kms:Decrypt",
            text(Key::SourceArn, "arn:aws:ec2:us-east-1:111122223333:volume/vol-1"),
            "ArnLike",
            "aws:SourceArn",
            "arn:aws:ec2:*:*:volume/*",
            "arn:aws:s3:*:*:*",
        ),
    ] {
        // An empty value stands for none to try.
        for (value, held) in [(yes, true), (no, false)].into_iter().filter(|(v, _)| !v.is_empty()) {
            let condition = json!({operator: {key: value}});
            assert_eq!(
                holds(condition.clone(), &principal("user/alice"), action, &facts),
                held,
                "{action} {condition}"
            );
        }
    }
}

/// A value that a key never has, and a key that no request for the action has, are refused when the policy is put.
#[test]
fn an_identity_policy_that_can_never_match_is_refused() {
    for (fields, words) in [
        (
            json!({"Condition": {"StringEquals": {"kms:KeySpec": "RSA2048"}}}),
            "can never match: kms:KeySpec is SYMMETRIC_DEFAULT or",
        ),
        (json!({"Condition": {"StringEquals": {"kms:KeySpec": "SM2"}}}), "exists only in AWS"),
        (json!({"Condition": {"StringEquals": {"kms:KeyOrigin": "AWS_CLOUDHSM"}}}), "exists only in AWS"),
        (json!({"Condition": {"StringEquals": {"kms:RequestAlias": "prod"}}}), "begins with alias/"),
        (json!({"Condition": {"StringEquals": {"kms:ReplicaRegion": "EU West"}}}), "a Region such as"),
        (
            json!({"Condition": {"NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "7"}}}),
            "a whole number from 7 to 30",
        ),
        (
            json!({"Condition": {"NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "31"}}}),
            "from 7 to 30",
        ),
        (json!({"Condition": {"NumericEquals": {"kms:RotationPeriodInDays": "30"}}}), "from 90 to 2560"),
        (json!({"Condition": {"StringEquals": {"aws:PrincipalTag/*": "x"}}}), "a wildcard in the name of a tag"),
        (
            json!({"Condition": {"StringEquals": {"aws:PrincipalTag/${aws:username}": "x"}}}),
            "the name has a policy variable",
        ),
        (
            json!({"Action": "kms:Decrypt", "Condition": {"StringEquals": {"kms:SigningAlgorithm": "ECDSA_SHA_256"}}}),
            "no request for the statement's actions",
        ),
        (
            json!({"Action": "kms:ListKeys", "Condition": {"StringEquals": {"kms:KeySpec": "RSA_2048"}}}),
            "no request for the statement's actions",
        ),
        (
            json!({"Action": "ec2:*", "Condition": {"StringEquals": {"kms:ViaService": "ec2.coffer"}}}),
            "no request for the statement's actions",
        ),
        (
            json!({"Action": "kms:CreateKey", "Condition": {"Null": {"kms:KeySpec": "true"}}}),
            "every request for the statement's actions",
        ),
        (json!({"NotAction": "*"}), "covers all actions"),
        (json!({"NotResource": "*"}), "covers everything"),
    ] {
        let text = document(fields);
        let refused = Policy::parse_identity(&text).and_then(|p| p.check_identity("us-east-1")).unwrap_err();
        assert_eq!((refused.kind(), refused.aws()), (error::Kind::Usage, "MalformedPolicyDocumentException"), "{text}");
        assert!(refused.what().contains(words), "{text}: {}", refused.what());
        assert!(refused.what().starts_with("identity policy: Statement[0]"), "{}", refused.what());
    }
}

#[test]
fn an_identity_policy_has_actions_of_all_services_and_no_principal() {
    for fields in [
        json!({"Action": "*"}),
        json!({"Action": ["kms:Decrypt", "KMS:list*", "sts:AssumeRole", "ec2:CreateVolume", "ebs:PutSnapshotBlock"]}),
        json!({"Action": ["cloudtrail:LookupEvents", "tag:GetResources", "s3:GetObject", "new-service:Do*"]}),
        json!({"NotAction": ["iam:*", "kms:*"]}),
        json!({"Resource": ["arn:aws:kms:us-east-1:111122223333:key/*", "arn:aws:kms:*:*:alias/prod-*"]}),
        json!({"Resource": "arn:aws:s3:::bucket/${aws:username}/*"}),
        json!({"Action": "s3:*", "Condition": {"StringLike": {"s3:prefix": "home/*"}}}),
        json!({"Action": "*", "Condition": {"IpAddress": {"s3:something": "10.0.0.0/8"}, "BinaryEquals": {"s3:other": "QUJD"}}}),
        json!({"Condition": {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}}),
        json!({"Action": "kms:*", "Resource": "arn:aws:kms:${aws:RequestedRegion}:111122223333:key/*"}),
    ] {
        let text = document(fields);
        let policy = Policy::parse_identity(&text).unwrap_or_else(|e| panic!("{text}: {}", e.line()));
        policy.check_identity("us-east-1").unwrap_or_else(|e| panic!("{text}: {}", e.line()));
        assert_eq!(Policy::parse_identity(&policy.pretty()).unwrap(), policy, "printed and read again");
    }
    for (fields, words) in [
        (json!({"Principal": "*"}), "Statement[0].Principal: an identity policy has none"),
        (json!({"NotPrincipal": "*"}), "Statement[0].NotPrincipal: an identity policy has none"),
        (json!({"Action": "kms:Decrpyt"}), "\"kms:Decrpyt\" is not an action of its service"),
        (json!({"Action": "ec2:CreateVolumes"}), "is not an action of its service"),
        (json!({"Action": "ec2:CraeteV*"}), "is not an action of its service"),
        (json!({"Effect": "Deny", "Action": "sts:Assume*Rolle"}), "is not an action of its service"),
        (json!({"Action": "Decrypt"}), "is neither * nor an action such as kms:Decrypt"),
        (json!({"Action": "k*:Decrypt"}), "is neither * nor an action"),
        (json!({"Resource": "arn:aws:kms:us-east-1:111122223333:kye/*"}), "is neither the ARN of a key"),
        (json!({"Resource": "arn:aws:kms:us-east-1:111122223333:key/${aws:usernam}"}), "is not a known condition key"),
        (json!({"Resource": "arn:aws-cn:s3:::bucket"}), "is not in the partition aws"),
        (json!({"Resource": "bucket"}), "is neither * nor an ARN with six parts"),
        (json!({"Condition": {"StringEquals": {"ec2:Vloume": "x"}}}), "is not a known condition key"),
        (json!({"Condition": {"StringEquals": {"aws:PrincipalTags/x": "x"}}}), "is not a known condition key"),
        (json!({"Condition": {"BinaryEquals": {"s3:other": "QUJ"}}}), "is not base64"),
    ] {
        let refused = Policy::parse_identity(&document(fields.clone())).unwrap_err();
        assert!(refused.what().contains(words), "{fields}: {}", refused.what());
    }
    let long = format!("{}{}", document(json!({})), " ".repeat(MAX_IDENTITY_POLICY));
    assert!(Policy::parse_identity(&long).unwrap_err().what().contains("exceed the limit of 10240"));
    // No request has the key of a service that coffer does not have.
    let absent = |operator: &str| json!({operator: {"s3:prefix": "a"}});
    let policy = |condition: Value| identity(json!({"Action": "*", "Condition": condition}));
    let ask = |condition: Value| verdict(&policy(condition), &principal("user/a"), "kms:Decrypt", &Facts::new());
    assert_eq!(ask(absent("StringEquals")), Verdict::Silent);
    assert_eq!(ask(absent("StringNotEquals")), Verdict::Allowed);
}

#[test]
fn a_trust_policy_has_principals_and_no_resource() {
    let trust = |fields: Value| {
        let principal = json!({"AWS": "arn:aws:iam::111122223333:root"});
        let mut statement =
            json!({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}).as_object().unwrap().clone();
        statement.extend(fields.as_object().unwrap().clone());
        json!({"Version": "2012-10-17", "Statement": statement}).to_string()
    };
    for fields in [
        json!({}),
        json!({"Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]}),
        json!({"Action": "sts:*"}),
        json!({"Principal": {"Service": ["ec2.amazonaws.com", "lambda.amazonaws.com"]}}),
        json!({"Condition": {"StringEquals": {"sts:ExternalId": "1234", "sts:RoleSessionName": "${aws:username}"}}}),
        json!({"Condition": {"Bool": {"aws:MultiFactorAuthPresent": "true"}}}),
    ] {
        let text = trust(fields);
        let policy = Policy::parse_trust(&text).unwrap_or_else(|e| panic!("{text}: {}", e.line()));
        policy.check_trust("us-east-1").unwrap_or_else(|e| panic!("{text}: {}", e.line()));
        assert_eq!(Policy::parse_trust(&policy.pretty()).unwrap(), policy, "printed and read again");
    }
    for (fields, words) in [
        (json!({"Resource": "*"}), "Statement.Resource: a trust policy has none"),
        (json!({"Action": "sts:AssumeRoleWithSAML"}), "is not an action that a trust policy can allow"),
        (json!({"Action": "kms:Decrypt"}), "is neither * nor an action such as sts:AssumeRole"),
        (json!({"Principal": {"Federated": "accounts.example.com"}}), "must be AWS or Service"),
        (json!({"Principal": {"Service": "ec2"}}), "is not a supported service"),
        (json!({"Condition": {"StringEquals": {"kms:KeySpec": "RSA_2048"}}}), "no request for the statement's actions"),
        (json!({"Action": "sts:TagSession", "Condition": {"StringEquals": {"sts:ExternalId": "1"}}}), "no request"),
    ] {
        let refused = Policy::parse_trust(&trust(fields.clone())).and_then(|p| p.check_trust("us-east-1")).unwrap_err();
        assert!(refused.what().contains(words), "{fields}: {}", refused.what());
        assert!(refused.what().starts_with("trust policy: "), "{}", refused.what());
    }
    let no_principal = r#"{"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole"}}"#;
    assert!(Policy::parse_trust(no_principal).unwrap_err().what().contains("it has no Principal"));
    // Who has the external id assumes the role.
    let policy =
        trust(json!({"Principal": {"AWS": "444455556666"}, "Condition": {"StringEquals": {"sts:ExternalId": "7"}}}));
    let policy = Policy::parse_trust(&policy).unwrap();
    let caller = PrincipalFacts::of_arn("arn:aws:iam::444455556666:user/eve");
    let ask = |facts: &Facts| verdict(&policy, &caller, "sts:AssumeRole", facts);
    assert_eq!(ask(&Facts::new().text(Key::ExternalId, "7")), Verdict::Delegated);
    assert_eq!(ask(&Facts::new().text(Key::ExternalId, "8")), Verdict::Silent);
    assert_eq!(ask(&Facts::new()), Verdict::Silent);
}

#[test]
fn facts_are_replaced_and_merged() {
    let key = Facts::new().text(Key::KeySpec, "RSA_2048").resource_tags([("a", "1")]);
    let request = Facts::new().text(Key::KeySpec, "SYMMETRIC_DEFAULT").text(Key::RequestAlias, "alias/a");
    let both = key.clone().and(&request);
    assert_eq!(both.get(&Key::KeySpec), ["SYMMETRIC_DEFAULT"]);
    assert_eq!(both.get(&Key::RequestAlias), ["alias/a"]);
    assert_eq!(both.get(&Key::ResourceTag("a".into())), ["1"]);
    assert_eq!(both.texts(Key::KeySpec, Vec::<String>::new()).get(&Key::KeySpec), [""; 0]);
    assert_eq!(key.get(&Key::RequestAlias), [""; 0]);
}
