//! What is refused when it is put, what is not, and that what is not can fire.

use super::super::choice::GRANT_OPERATIONS;
use super::super::condition::Condition;
use super::super::forms::{Form, Reading, example};
use super::super::variables::{As, sketch};
use super::super::{Facts, GrantFacts, Key, PrincipalFacts, Question, SessionFacts, VOLUME_SERVICE, Verdict};
use super::*;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use crate::error;
use crate::kms::Operation;
use proptest::prelude::*;
use serde_json::json;

const REGION: &str = "us-east-1";
const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ac";

/// A statement that denies CreateGrant, which all condition keys go with; `fields` are further ones, or in place of its own.
fn deny(fields: serde_json::Value) -> String {
    let mut statement = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:CreateGrant", "Resource": "*"})
        .as_object()
        .unwrap()
        .clone();
    for (not, of) in [("NotAction", "Action"), ("NotResource", "Resource")] {
        if fields.get(not).is_some() {
            statement.remove(of);
        }
    }
    statement.extend(fields.as_object().unwrap().clone());
    json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
}

fn condition(operator: &str, key: &str, values: &[&str]) -> String {
    deny(json!({"Condition": {operator: {key: values}}}))
}

/// What is wrong, unless a policy is refused with these words when it is put; as a policy that is kept, it is read.
fn not_refused(document: &str, words: &str) -> Option<String> {
    let policy = match Policy::parse(document) {
        Ok(policy) => policy,
        Err(e) => return Some(format!("{document} is not read: {}", e.line())),
    };
    match policy.check(KEY) {
        Ok(()) => Some(format!("{document} is taken")),
        Err(e) if (e.kind(), e.aws()) != (error::Kind::Usage, "MalformedPolicyDocumentException") => Some(e.line()),
        Err(e) => (!e.what().contains(words)).then(|| format!("no {words:?} for {document}: {}", e.line())),
    }
}

#[track_caller]
fn refused(document: &str, words: &str) {
    assert_eq!(not_refused(document, words), None);
}

#[track_caller]
fn taken(document: &str) {
    let checked = Policy::parse(document).and_then(|p| p.check(KEY));
    checked.unwrap_or_else(|e| panic!("{document} is refused: {}", e.line()));
}

#[test]
fn a_value_that_its_key_can_never_have_is_refused_and_said_why() {
    let mut wrong = Vec::new();
    for (operator, key, values, words) in [
        // A wildcard where wildcards are text.
        (
            "StringEquals",
            "aws:PrincipalArn",
            "arn:aws:iam::111122223333:user/*",
            "never match: aws:PrincipalArn is arn:aws:iam::ACCOUNT:root",
        ),
        ("StringNotEquals", "aws:PrincipalArn", "arn:aws:iam::111122223333:user/al?ce", "never match"),
        ("StringEqualsIgnoreCase", "aws:username", "alice*", "1 to 64 letters"),
        ("StringNotEqualsIgnoreCase", "aws:username", "*", "never match"),
        // What a pattern says beside its wildcards.
        ("StringLike", "kms:CallerAccount", "111122223333?", "an account of 12 digits"),
        ("StringLike", "kms:CallerAccount", "1111-*", "an account of 12 digits"),
        ("StringLike", "aws:PrincipalAccount", "?????????????", "an account of 12 digits"),
        ("StringLike", "aws:PrincipalArn", "alice*", "never match"),
        ("StringLike", "aws:PrincipalArn", "arn:aws:iam::*:usr/*", "never match"),
        (
            "ArnLike",
            "aws:PrincipalArn",
            "arn:aws:iam::111122223333:rot*",
            "the value \"arn:aws:iam::111122223333:rot*\"",
        ),
        ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam:us-east-1:111122223333:user/alice", "never match"),
        ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::111122223333:group/*", "never match"),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam:*:user/alice:*", "never match"),
        ("ArnNotEquals", "aws:PrincipalArn", "arn:aws:sts::111122223333:assumed-role/x/y", "never match"),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::11112222333?4:root", "never match"),
        ("StringLike", "kms:GrantIsForAWSResource", "True*", "is true or false"),
        ("StringLike", "kms:ViaService", "ec3.*.amazonaws.com", "is ec2.coffer or ec2.us-east-1.amazonaws.com"),
        ("StringEquals", "kms:ViaService", "ec3.us-east-1.amazonaws.com", "never match: kms:ViaService is ec2.coffer"),
        ("StringNotEquals", "kms:ViaService", "ec3.us-east-1.amazonaws.com", "never match"),
        ("StringLike", "kms:ViaService", "EC2.*", "never match"),
        ("StringLike", "kms:ViaService", "?", "never match"),
        ("ForAnyValue:StringLike", "kms:GrantOperations", "Decrpy*", "is CreateGrant or Decrypt"),
        ("ForAllValues:StringNotLike", "kms:GrantOperations", "decrypt*", "never match"),
        ("StringLike", "aws:PrincipalType", "user*", "is Account or AssumedRole or User"),
        ("StringLike", "aws:username", "a b*", "1 to 64 letters"),
        ("StringEquals", "aws:username", "", "1 to 64 letters"),
        ("StringEquals", "aws:username", "team/alice", "1 to 64 letters"),
        ("StringEquals", "aws:username", " ", "1 to 64 letters"),
        ("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", "", "the name of a pair"),
        // What AWS has, and coffer never.
        (
            "StringEquals",
            "aws:PrincipalType",
            "FederatedUser",
            "exists only in AWS, and can never match here: aws:PrincipalType is Account or AssumedRole or User",
        ),
        ("StringNotEquals", "aws:PrincipalType", "Anonymous", "exists only in AWS"),
        ("StringEquals", "kms:ViaService", "s3.us-east-1.amazonaws.com", "exists only in AWS"),
        ("StringEquals", "kms:ViaService", "ec2.eu-west-1.amazonaws.com", "exists only in AWS"),
        ("StringLike", "kms:ViaService", "rds.*.amazonaws.com", "exists only in AWS"),
        ("StringNotEqualsIfExists", "kms:ViaService", "rds.us-east-1.amazonaws.com", "exists only in AWS"),
        // What leaves nothing over, or is always there.
        ("StringNotLike", "aws:PrincipalArn", "*", "its values cover all that aws:PrincipalArn can be"),
        ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::*:*", "cover all"),
        ("StringNotLike", "kms:CallerAccount", "????????????", "cover all"),
        ("ForAnyValue:StringNotLike", "kms:ViaService", "ec2.*", "cover all"),
        ("Null", "aws:PrincipalArn", "true", "every request has aws:PrincipalArn"),
        ("Null", "kms:CallerAccount", "true", "every request has"),
        // Moments.
        ("NumericEquals", "aws:EpochTime", "1800000000.5", "never match"),
        ("NumericGreaterThan", "aws:EpochTime", "1800000000000", "never match"),
        ("NumericLessThan", "aws:EpochTime", "5", "never match"),
        ("DateLessThan", "aws:CurrentTime", "1999-12-31", "never match"),
        ("DateGreaterThanEquals", "aws:CurrentTime", "5555-01-01", "never match"),
        // Names of pairs.
        ("StringEquals", "kms:EncryptionContext:*", "x", "wildcard in the name"),
        ("StringEquals", "kms:EncryptionContext: project", "x", "begins or ends with a blank"),
        ("StringEquals", "kms:EncryptionContext: ", "x", "begins or ends with a blank"),
        ("StringEquals", "kms:EncryptionContext:${aws:username}", "x", "the name has a policy variable"),
        ("Null", "kms:EncryptionContext:${x}", "false", "the name has a policy variable"),
    ] {
        let document = condition(operator, key, &[values]);
        wrong.extend(not_refused(&document, words));
        wrong.extend(not_refused(&document, &format!("Statement[0].Condition.{operator}.{key}: ")));
    }
    assert_eq!(wrong, [""; 0]);
    refused(&condition("StringEquals", "kms:EncryptionContext:a", &[&"x".repeat(8192)]), "never match");
    refused(
        &condition("Null", &format!("kms:EncryptionContext:{}", "a".repeat(8181)), &["false"]),
        "longer than an encryption context allows",
    );
    // One that is misspelt is refused beside others as well.
    refused(&condition("StringLike", "kms:ViaService", &["ec2.coffer", "ec3.*"]), "\"ec3.*\"");
    // Under the older version a variable is plain text, and no user has it for a name.
    let old = condition("StringEquals", "aws:username", &["x"])
        .replace("2012", "2008")
        .replace("\"x\"", "\"${aws:username}\"");
    refused(&old, "1 to 64 letters");
}

#[test]
fn what_is_commonly_written_and_can_match_is_taken() {
    for (operator, key, values) in [
        ("StringEquals", "kms:ViaService", &["ec2.us-east-1.amazonaws.com"][..]),
        ("StringEquals", "kms:ViaService", &["ec2.us-east-1.amazonaws.com", "rds.us-east-1.amazonaws.com"]),
        ("StringEquals", "kms:ViaService", &["ec2.eu-west-1.amazonaws.com", "ec2.us-east-1.amazonaws.com"]),
        ("StringLike", "kms:ViaService", &["s3.*.amazonaws.com", "ec2.*.amazonaws.com"]),
        ("StringLike", "kms:ViaService", &["*.amazonaws.com"]),
        ("StringNotEquals", "kms:ViaService", &["ec2.coffer"]),
        ("StringNotLike", "kms:ViaService", &["*"]),
        ("StringEqualsIgnoreCase", "kms:ViaService", &["EC2.US-EAST-1.amazonaws.com"]),
        ("StringEquals", "kms:CallerAccount", &["444455556666"]),
        ("StringLike", "kms:CallerAccount", &["1111*"]),
        ("StringNotLike", "kms:CallerAccount", &["1111*"]),
        ("ArnNotLike", "aws:PrincipalArn", &["arn:aws:iam::111122223333:role/Admin*"]),
        ("ArnLike", "aws:PrincipalArn", &["arn:aws:iam::*:user/team/*"]),
        ("ArnLike", "aws:PrincipalArn", &["arn:*:iam::*:ro*"]),
        ("StringLike", "aws:PrincipalArn", &["arn:aws:iam::111122223333:*"]),
        ("StringLike", "aws:PrincipalArn", &["*:root"]),
        ("ArnEquals", "aws:PrincipalArn", &["*"]),
        ("StringEquals", "aws:PrincipalType", &["User", "AssumedRole"]),
        ("StringNotEquals", "aws:PrincipalType", &["User", "Account"]),
        ("StringLike", "aws:username", &["uid-*"]),
        ("StringLike", "kms:GrantIsForAWSResource", &["t*"]),
        ("Bool", "kms:GrantIsForAWSResource", &["True"]),
        ("ForAllValues:StringEquals", "kms:GrantOperations", &["Decrypt", "GenerateDataKeyPair"]),
        ("StringEquals", "kms:EncryptionContext:aws:ebs:id", &["vol-*", ""]),
        ("ArnLike", "kms:EncryptionContext:aws:s3:arn", &["arn:aws:s3:::bucket/*"]),
        ("ForAnyValue:StringLike", "kms:EncryptionContextKeys", &["Größe*"]),
        ("Null", "kms:ViaService", &["true"]),
        ("Null", "aws:PrincipalArn", &["false"]),
        ("DateLessThan", "aws:CurrentTime", &["2027-01-31T00:00:00Z"]),
        ("NumericLessThanEquals", "aws:EpochTime", &["1799999999.5"]),
    ] {
        taken(&condition(operator, key, values));
    }
    // AWS's own examples: the default policy, and the console's for users of a key and of volumes.
    taken(&Policy::of_account("111122223333").pretty());
    taken(&Policy::of_volume_service("111122223333").pretty());
    let users = json!(["arn:aws:iam::111122223333:user/alice", "arn:aws:iam::111122223333:role/Ops"]);
    taken(&deny(json!({"Effect": "Allow", "Principal": {"AWS": users},
        "Action": ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"],
        "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}})));
    taken(&deny(
        json!({"Action": ["kms:Encrypt", "kms:ReEncrypt*", "kms:Sign"], "Resource": [KEY, "arn:aws:kms:*:111122223333:key/*"]}),
    ));
    taken(&deny(json!({"Principal": {"Service": ["ec2.coffer", "ec2.amazonaws.com", "ec2.us-east-1.amazonaws.com"]}})));
    // Another key may be left out: the statement is about this one, as it says.
    taken(&deny(json!({"NotResource": [OTHER, "arn:aws:kms:eu-west-1:*:key/*"]})));
    taken(&deny(json!({"NotAction": ["kms:Describe*", "kms:List*"]})));
    let old = condition("StringEquals", "kms:EncryptionContext:${x}", &["1"]).replace("2012", "2008");
    taken(&old);
}

#[test]
fn a_statement_that_is_about_no_request_is_refused() {
    let all = ["kms:*Key*", "kms:*Grant*", "kms:*crypt*", "kms:*Alias*", "kms:*"];
    for (fields, words) in [
        (json!({"NotAction": "*"}), "Statement[0].NotAction: * covers all actions"),
        (json!({"NotAction": "kms:*"}), "covers all actions"),
        (json!({"NotAction": ["KMS:*"]}), "covers all actions"),
        (json!({"NotAction": all}), "covers all actions"),
        (json!({"Effect": "Allow", "NotAction": "kms:*"}), "covers all actions"),
        (
            json!({"Effect": "Allow", "Action": "kms:Decrypt*Grant"}),
            "Statement[0].Action: kms:Decrypt*Grant matches no action",
        ),
        (json!({"NotResource": "*"}), "Statement[0].NotResource: \"*\" covers the key that has the policy"),
        (json!({"NotResource": [OTHER, KEY]}), "covers the key that has the policy"),
        (json!({"NotResource": "arn:aws:kms:*:*:key/1234*"}), "covers the key"),
        (
            json!({"Resource": OTHER}),
            "Statement[0].Resource: \"arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ac\" is not the key",
        ),
        (json!({"Resource": [KEY, OTHER]}), "1234567890ac\" is not the key that has the policy"),
        (json!({"Resource": "arn:aws:kms:eu-west-1:111122223333:key/*"}), "use \"*\""),
        (json!({"Resource": "arn:aws:kms:*:*:key/mrk-*"}), "is not the key"),
        (
            json!({"Principal": {"Service": "ec2.eu-west-1.amazonaws.com"}}),
            "Statement[0].Principal.Service: \"ec2.eu-west-1.amazonaws.com\" is the volume service of another Region than us-east-1",
        ),
        (
            json!({"Principal": {"AWS": "*", "Service": ["ec2.coffer", "ec2.eu-west-1.amazonaws.com"]}}),
            "another Region",
        ),
        // Keys that no request for the action has.
        (
            json!({"Action": "kms:Decrypt", "Condition": {"Bool": {"kms:GrantIsForAWSResource": true}}}),
            "no request for the statement's actions has this key",
        ),
        (
            json!({"Action": "kms:RevokeGrant", "Condition": {"ForAnyValue:StringEquals": {"kms:GrantOperations": "Decrypt"}}}),
            "no request",
        ),
        (
            json!({"NotAction": ["kms:*crypt*", "kms:CreateGrant", "kms:GenerateDataKey*", "kms:ExportVolumeKey"], "Condition": {"Null": {"kms:EncryptionContextKeys": false}}}),
            "no request",
        ),
        // Keys that each request for the action has.
        (json!({"Action": "kms:CreateGrant", "Condition": {"Null": {"kms:GrantOperations": true}}}), "can never hold"),
        (
            json!({"Action": "kms:CreateGrant", "Condition": {"Null": {"kms:GrantIsForAWSResource": true}}}),
            "every request for the statement's actions has this key",
        ),
        (
            json!({"Action": ["kms:CreateGrant", "kms:RevokeGrant"], "Condition": {"Null": {"kms:GrantIsForAWSResource": "true"}}}),
            "can never hold",
        ),
        (
            json!({"Action": "kms:CreateGrant", "Condition": {"StringNotEquals": {"kms:GrantIsForAWSResource": ["true", "false"]}}}),
            "can never hold",
        ),
    ] {
        refused(&deny(fields), words);
    }
    taken(&deny(
        json!({"Action": ["kms:CreateGrant", "kms:Decrypt"], "Condition": {"Null": {"kms:GrantOperations": true}}}),
    ));
    taken(&deny(json!({"Action": "kms:RevokeGrant", "Condition": {"Null": {"kms:GrantOperations": true}}})));
    taken(&deny(
        json!({"Action": "kms:CreateGrant", "Condition": {"StringNotEquals": {"kms:GrantIsForAWSResource": "true"}}}),
    ));
    // What is there without the key, though, is what they say.
    taken(&deny(json!({"Action": "kms:Decrypt", "Condition": {"Null": {"kms:GrantOperations": true}}})));
    taken(&deny(
        json!({"Action": "kms:DescribeKey", "Condition": {"StringNotEquals": {"kms:EncryptionContext:a": "b"}}}),
    ));
    taken(&deny(
        json!({"Action": "kms:ExportVolumeKey", "Condition": {"StringEquals": {"kms:EncryptionContext:a": "b"}}}),
    ));
}

/// A policy that is refused today, and was kept before, means what it meant.
#[test]
fn a_kept_policy_that_would_be_refused_is_read_and_asked_as_before() {
    let denies = |document: &str| {
        let requests = requests_of(&Key::PrincipalArn, "arn:aws:iam::111122223333:user/alice");
        refused(document, "");
        asks(&Policy::parse(document).unwrap(), &requests)
    };
    assert!(!denies(&deny(json!({"NotAction": "kms:*"}))));
    assert!(!denies(&deny(json!({"Resource": OTHER}))));
    assert!(!denies(&condition("StringEquals", "kms:ViaService", &["s3.us-east-1.amazonaws.com"])));
    assert!(denies(&condition("StringNotEquals", "aws:PrincipalArn", &["arn:aws:iam::111122223333:user/*"])));
    assert!(denies(&deny(json!({"Resource": [OTHER, KEY]}))));
    assert!(denies(&condition("StringNotEquals", "kms:EncryptionContext:${x}", &["y"])));
}

/// Case that has no one-to-one form, and the sigma that has two small ones.
#[test]
fn texts_that_differ_in_case_alone_are_the_same_in_every_script() {
    for (a, b) in [
        ("ΟΔΟΣ", "οδος"),
        ("ΟΔΟΣ", "οδοσ"),
        ("Straße", "STRASSE"),
        ("ﬁn", "FIN"),
        ("ſ", "S"),
        ("Ꭰ", "ꭰ"),
        ("\u{212a}", "k"),
    ] {
        assert_eq!(fold_case(a), fold_case(b), "{a} {b}");
        let pairs = condition("StringEquals", &format!("kms:EncryptionContext:{a}"), &["1"]);
        assert!(asks(&Policy::parse(&pairs).unwrap(), &requests_of(&Key::Pair(b.to_owned()), "1")), "{a} {b}");
        let values = condition("StringEqualsIgnoreCase", "kms:EncryptionContext:x", &[a]);
        taken(&values);
        assert!(asks(&Policy::parse(&values).unwrap(), &requests_of(&Key::Pair("x".to_owned()), b)), "{a} {b}");
        let twice = json!({format!("kms:EncryptionContext:{a}"): "1", format!("kms:EncryptionContext:{b}"): "2"});
        refused(&deny(json!({"Condition": {"StringEquals": twice}})), "this condition key is repeated");
    }
    assert_ne!(fold_case("ı"), fold_case("i"), "not in every language");
}

#[test]
fn the_operations_that_policies_know_are_those_of_grants() {
    let mut known: Vec<&str> = GRANT_OPERATIONS.split_whitespace().collect();
    let mut all: Vec<String> = Operation::ALL.iter().map(ToString::to_string).collect();
    known.sort_unstable();
    all.sort_unstable();
    assert_eq!(known, all);
}

/// A request: what differs between them.
#[derive(Debug)]
struct Asked {
    principal: String,
    via: Option<&'static str>,
    context: EncryptionContext,
    grant: Option<GrantFacts>,
    facts: Facts,
    session: Option<SessionFacts>,
    now: Timestamp,
}

fn asked() -> Asked {
    let now = Timestamp(1_800_000_000_000);
    let principal = "arn:aws:iam::111122223333:user/alice".to_owned();
    Asked {
        principal,
        via: None,
        context: EncryptionContext::new(),
        grant: None,
        facts: Facts::new(),
        session: None,
        now,
    }
}

/// The requests that have a condition key with that value.
fn requests_of(key: &Key, value: &str) -> Vec<Asked> {
    let pair = |name: &str, value: &str| {
        let mut context = EncryptionContext::new();
        context.insert(name, value).unwrap();
        context
    };
    let grant = |for_aws_resource, operations: &[&str]| {
        let operations = operations.iter().map(|o| (*o).to_owned()).collect();
        Some(GrantFacts { for_aws_resource, operations, ..GrantFacts::default() })
    };
    let principal = |principal: String| Asked { principal, ..asked() };
    vec![match key {
        Key::Account => principal(format!("arn:aws:iam::{value}:user/alice")),
        Key::PrincipalArn => principal(value.to_owned()),
        Key::UserName => principal(format!("arn:aws:iam::111122223333:user/{value}")),
        Key::PrincipalType if value == "User" => asked(),
        Key::PrincipalType if value == "AssumedRole" => principal("arn:aws:iam::111122223333:role/a".to_owned()),
        Key::PrincipalType => principal("arn:aws:iam::111122223333:root".to_owned()),
        Key::ViaService => Asked { via: Some(VOLUME_SERVICE), ..asked() },
        Key::Pair(name) => Asked { context: pair(name, value), ..asked() },
        Key::ContextKeys => Asked { context: pair(value, ""), ..asked() },
        Key::GrantIsForAwsResource => Asked { grant: grant(value == "true", &[]), ..asked() },
        Key::GrantOperations => Asked { grant: grant(false, &[value]), ..asked() },
        Key::CurrentTime | Key::EpochTime => Asked { now: Timestamp(value.parse().unwrap()), ..asked() },
        Key::MultiFactorAuthPresent => {
            let mfa = (value == "true").then_some(asked().now);
            Asked { session: Some(SessionFacts { issued: asked().now, mfa }), ..asked() }
        }
        key => Asked { facts: Facts::new().text(key.clone(), value), ..asked() },
    }]
}

/// Requests that have nothing that a request can be without.
fn requests_without() -> [Asked; 3] {
    let other = |end: &str| Asked { principal: format!("arn:aws:iam::111122223333:{end}"), ..asked() };
    [asked(), other("root"), other("service/ec2.coffer")]
}

/// Whether a policy denies one of these.
fn asks(policy: &Policy, requests: &[Asked]) -> bool {
    requests.iter().any(|r| {
        let facts = r.facts.clone().context(&r.context);
        let question = Question {
            action: "kms:CreateGrant",
            resource: KEY,
            principal: &PrincipalFacts { session: r.session, ..PrincipalFacts::of_arn(&r.principal).through(r.via) },
            facts: &r.grant.iter().fold(facts, |facts, grant| facts.grant(grant)),
            now: r.now,
        };
        policy.verdict(&question) == Verdict::Denied
    })
}

/// Requests that may make a condition hold: with what its values match, and with what they do not.
fn witnesses(operator: &str, name: &str, values: &[String]) -> Vec<Asked> {
    let key = Key::parse(name).unwrap();
    let mut requests = Vec::from(requests_without());
    if matches!(key, Key::CurrentTime | Key::EpochTime) {
        let moment = |v: &String| {
            let seconds = v.parse::<f64>().ok().map(|s| (s * 1000.0) as i64);
            seconds.or_else(|| v.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond))
        };
        let around = values.iter().filter_map(moment).flat_map(|m| [m - 1000, m, m + 1000]);
        requests.extend(around.flat_map(|m| requests_of(&key, &m.to_string())));
        return requests;
    }
    let readings = [("Like", Reading::Wild), ("Arn", Reading::Arn), ("IgnoreCase", Reading::AnyCase)];
    let reading = readings.into_iter().find(|(word, _)| operator.contains(word)).map_or(Reading::Exact, |(_, r)| r);
    let reading = if operator.contains("Arn") { Reading::Arn } else { reading };
    for value in values {
        let folded = if reading == Reading::AnyCase { fold_case(value) } else { value.clone() };
        let known = key.values(REGION, reading, &folded);
        let open = matches!(reading, Reading::Wild | Reading::Arn);
        let tokens = sketch(&folded, if open { As::Pattern } else { As::Literal }, Version::V2012);
        let matching = known.here.iter().filter_map(|form| example(&tokens, reading, form, known.longest));
        let others = known.here.iter().flat_map(Form::samples);
        requests.extend(matching.chain(others).flat_map(|text| requests_of(&key, &text)));
    }
    requests
}

/// A text with some of its characters exchanged for wildcards.
fn with_holes(text: String) -> impl Strategy<Value = String> {
    let cuts = proptest::collection::vec((any::<u16>(), 0..6usize, "[*?x]?"), 0..3);
    cuts.prop_map(move |cuts| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, put) in cuts {
            let at = usize::from(at) % (chars.len() + 1);
            let end = (at + length).min(chars.len());
            chars.splice(at..end, put.chars());
        }
        chars.into_iter().collect()
    })
}

/// A condition key, an operator that can compare it, and values near those that it can have.
fn conditions() -> impl Strategy<Value = (String, String, Vec<String>)> {
    const ARNS: &[&str] = &[
        "arn:aws:iam::111122223333:user/alice",
        "arn:aws:iam::111122223333:root",
        "arn:aws:iam::444455556666:role/a/b",
        "arn:aws:iam::111122223333:service/ec2.coffer",
        "arn:aws:sts::111122223333:assumed-role/a/b",
        "arn:aws:iam:us-east-1:111122223333:user/alice",
        "arn:aws:s3:::bucket/a",
    ];
    const STRINGS: &str = "(ForAnyValue:|ForAllValues:)?String(Not)?(Equals|EqualsIgnoreCase|Like)(IfExists)?";
    let keys: Vec<(&str, &str, &[&str])> = vec![
        ("aws:PrincipalArn", STRINGS, ARNS),
        ("aws:PrincipalArn", "Arn(Not)?(Equals|Like)(IfExists)?", ARNS),
        ("kms:EncryptionContext:aws:s3:arn", "Arn(Not)?(Equals|Like)", ARNS),
        ("kms:EncryptionContext:Größe", STRINGS, &["", "XL", "ΟΔΟΣ"]),
        (
            "kms:EncryptionContextKeys",
            "(ForAnyValue|ForAllValues):String(Not)?(Equals|EqualsIgnoreCase|Like)",
            &["", "a", "ΟΔΟΣ"],
        ),
        (
            "kms:GrantOperations",
            "(ForAnyValue|ForAllValues):String(Not)?(Equals|Like)",
            &["Decrypt", "Sign", "CreateGrant"],
        ),
        ("kms:GrantIsForAWSResource", STRINGS, &["true", "false"]),
        ("kms:GrantIsForAWSResource", "Bool(IfExists)?|Null", &["true", "false"]),
        ("aws:PrincipalType", STRINGS, &["User", "Account", "AssumedRole"]),
        ("aws:username", STRINGS, &["alice", "uid-1000"]),
        ("kms:CallerAccount", STRINGS, &["111122223333", "444455556666", "1"]),
        (
            "kms:ViaService",
            STRINGS,
            &[
                "ec2.coffer",
                "ec2.us-east-1.amazonaws.com",
                "ec2.eu-west-1.amazonaws.com",
                "rds.us-east-1.amazonaws.com",
            ],
        ),
        ("aws:PrincipalArn", "Null", &["true", "false"]),
        ("kms:KeySpec", STRINGS, &["RSA_2048", "SM2", "SYMMETRIC_DEFAULT"]),
        ("kms:KeyOrigin", STRINGS, &["AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM"]),
        ("kms:GrantConstraintType", STRINGS, &["EncryptionContextEquals", "EncryptionContextSubset"]),
        ("kms:MultiRegion", "Bool(IfExists)?|Null", &["true", "false"]),
        ("kms:GranteePrincipal", "(String|Arn)(Not)?(Equals|Like)(IfExists)?", ARNS),
        ("aws:SourceArn", "Arn(Not)?(Equals|Like)(IfExists)?", ARNS),
        ("aws:ResourceAccount", STRINGS, &["111122223333", "1"]),
        ("aws:RequestedRegion", STRINGS, &["us-east-1", "US"]),
        ("aws:MultiFactorAuthPresent", "Bool(IfExists)?|Null", &["true", "false"]),
        (
            "aws:EpochTime",
            "Numeric(Not)?Equals|Numeric(Less|Greater)Than(Equals)?",
            &["1800000000", "0", "1800000000.5", "1e11", "1000000000"],
        ),
        (
            "aws:EpochTime",
            "Date(Not)?Equals|Date(Less|Greater)Than(Equals)?",
            &["1800000000", "2027-01-15T08:00:00.5Z"],
        ),
        (
            "aws:CurrentTime",
            "Date(Not)?Equals|Date(Less|Greater)Than(Equals)?",
            &["1800000000", "1000000000", "2027-01-15T08:00:00.5Z", "1999-01-01T00:00:00Z"],
        ),
    ];
    proptest::sample::select(keys).prop_flat_map(|(key, operators, values)| {
        let value = proptest::sample::select(values.to_vec())
            .prop_flat_map(|v| prop_oneof![Just(v.to_owned()), with_holes(v.to_owned())]);
        (Just(key.to_owned()), operators, proptest::collection::vec(value, 1..4))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// A Deny on one condition that is taken fires for some request.
    #[test]
    fn what_is_taken_can_fire((name, operator, values) in conditions()) {
        let wanted: Vec<&str> = values.iter().map(String::as_str).collect();
        let document = condition(&operator, &name, &wanted);
        if let Ok(policy) = Policy::parse(&document)
            && policy.check(KEY).is_ok()
        {
            prop_assert!(asks(&policy, &witnesses(&operator, &name, &values)), "{document}");
        }
    }

    /// A pattern made from a value that the key can have matches it, and is never refused.
    #[test]
    fn what_matches_something_is_not_refused(name in "[a-z]{1,9}", holes in proptest::collection::vec((any::<u16>(), any::<bool>()), 0..4)) {
        for text in [format!("arn:aws:iam::111122223333:user/{name}"), "arn:aws:iam::111122223333:root".to_owned()] {
            let mut pattern: Vec<char> = text.chars().collect();
            for (at, star) in &holes {
                let at = usize::from(*at) % pattern.len();
                pattern[at] = if *star { '*' } else { '?' };
            }
            let pattern: String = pattern.into_iter().collect();
            prop_assert!(wild(&pattern, &text, false), "{pattern}");
            let like = Condition::new(Kind::Key, Version::V2012, "StringLike", "aws:PrincipalArn", vec![pattern.clone()]).unwrap();
            prop_assert_eq!(like.check(REGION, Version::V2012), Ok(()), "{}", pattern);
        }
    }
}
