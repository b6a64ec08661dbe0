//! Documents that are taken, documents that are refused, and what they answer.

use super::*;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use crate::error;
use proptest::prelude::*;

const ACCOUNT: &str = "111122223333";
const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn user(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

/// A request: who, what, and what goes with it.
struct Request {
    principal: String,
    action: &'static str,
    via: Option<&'static str>,
    context: EncryptionContext,
    grant: Option<GrantFacts>,
}

fn by(name: &str, action: &'static str) -> Request {
    Request { principal: user(name), action, via: None, context: EncryptionContext::new(), grant: None }
}

impl Request {
    fn via_volumes(self) -> Self {
        Self { via: Some(VOLUME_SERVICE), ..self }
    }
    fn with(mut self, key: &str, value: &str) -> Self {
        self.context.insert(key, value).unwrap();
        self
    }
    fn to(self, policy: &Policy) -> Verdict {
        let facts = Facts::new().context(&self.context);
        policy.verdict(&Question {
            action: &format!("kms:{}", self.action),
            resource: KEY,
            principal: &PrincipalFacts::of_arn(&self.principal).through(self.via),
            facts: &self.grant.iter().fold(facts, |facts, grant| facts.grant(grant)),
            now: Timestamp(1_800_000_000_000), // 2027-01-15T08:00:00Z
        })
    }
}

/// A policy of one statement with these fields beside `"Resource": "*"`.
fn statement(fields: &str) -> Policy {
    let text = format!(r#"{{"Version": "2012-10-17", "Statement": {{{fields}, "Resource": "*"}}}}"#);
    Policy::parse(&text).unwrap_or_else(|e| panic!("{text}: {}", e.line()))
}

/// Allows everybody Decrypt on a condition.
fn on(condition: &str) -> Policy {
    statement(&format!(r#""Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Condition": {{{condition}}}"#))
}

use Verdict::{Allowed, Delegated, Denied, Silent};

#[test]
fn the_default_policy_leaves_all_to_the_account() {
    let policy = Policy::of_account(ACCOUNT);
    assert_eq!(by("alice", "Decrypt").to(&policy), Delegated);
    assert_eq!(by("alice", "PutKeyPolicy").to(&policy), Delegated);
    let root = Request { principal: format!("arn:aws:iam::{ACCOUNT}:root"), ..by("", "PutKeyPolicy") };
    assert_eq!(root.to(&policy), Allowed);
    let stranger = Request { principal: "arn:aws:iam::444455556666:user/alice".into(), ..by("", "Decrypt") };
    assert_eq!(stranger.to(&policy), Silent);
    let service =
        Request { principal: format!("arn:aws:iam::{ACCOUNT}:service/{VOLUME_SERVICE}"), ..by("", "Decrypt") };
    assert_eq!(service.to(&policy), Silent, "a service is of no account");
}

#[test]
fn the_volume_services_own_key_is_used_through_the_service_and_looked_at_directly() {
    let policy = Policy::of_volume_service(ACCOUNT);
    for action in ["Decrypt", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "CreateGrant"] {
        assert_eq!(by("alice", action).via_volumes().to(&policy), Allowed, "{action}");
        assert_eq!(by("alice", action).to(&policy), Silent, "{action}");
    }
    assert_eq!(by("alice", "DescribeKey").to(&policy), Delegated);
    assert_eq!(by("alice", "GetKeyPolicy").to(&policy), Delegated);
    assert_eq!(by("alice", "RevokeGrant").to(&policy), Delegated);
    assert_eq!(by("alice", "PutKeyPolicy").via_volumes().to(&policy), Silent);
    let stranger = Request { principal: "arn:aws:iam::444455556666:user/alice".into(), ..by("", "Decrypt") };
    assert_eq!(stranger.via_volumes().to(&policy), Silent);
}

/// Administrators manage, users use, and neither does the other's work.
#[test]
fn administrators_and_users_are_told_apart() {
    let policy = Policy::parse(&format!(
        r#"{{"Version": "2012-10-17", "Id": "two roles", "Statement": [
            {{"Sid": "admins", "Effect": "Allow", "Principal": {{"AWS": "{admin}"}}, "Resource": "*",
              "Action": ["kms:Describe*", "kms:put*", "kms:ScheduleKeyDeletion", "kms:*Grant"]}},
            {{"Sid": "users", "Effect": "Allow", "Principal": {{"AWS": ["{a}", "{b}"]}}, "Resource": "{KEY}",
              "Action": ["kms:Encrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:?ecrypt"]}}]}}"#,
        admin = user("admin"),
        a = user("alice"),
        b = user("bob"),
    ))
    .unwrap();
    for (name, action, answer) in [
        ("admin", "DescribeKey", Allowed),
        ("admin", "PutKeyPolicy", Allowed),
        ("admin", "RevokeGrant", Allowed),
        ("admin", "Decrypt", Silent),
        ("alice", "Decrypt", Allowed),
        ("bob", "GenerateDataKeyWithoutPlaintext", Allowed),
        ("bob", "ReEncryptTo", Allowed),
        ("alice", "PutKeyPolicy", Silent),
        ("carol", "Decrypt", Silent),
    ] {
        assert_eq!(by(name, action).to(&policy), answer, "{name} {action}");
    }
}

#[test]
fn a_deny_wins_wherever_it_stands() {
    let deny =
        r#"{"Effect": "Deny", "Principal": {"AWS": "111122223333"}, "NotAction": "kms:Describe*", "Resource": "*"}"#;
    let allow = r#"{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}"#;
    for order in [[deny, allow], [allow, deny]] {
        let policy = Policy::parse(&format!(r#"{{"Statement": [{}]}}"#, order.join(", "))).unwrap();
        assert_eq!(by("alice", "Decrypt").to(&policy), Denied);
        assert_eq!(by("alice", "DescribeKey").to(&policy), Allowed);
        let service = Request { principal: format!("arn:aws:iam::{ACCOUNT}:service/x"), ..by("", "Decrypt") };
        assert_eq!(service.to(&policy), Allowed, "an account's Deny is not for services");
    }
    let but_one = r#"{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*",
        "NotResource": "arn:aws:kms:*:111122223333:key/1234*"}}"#;
    assert_eq!(by("alice", "Decrypt").to(&Policy::parse(but_one).unwrap()), Silent);
}

#[test]
fn a_condition_on_the_service_or_the_context_is_held_against_the_request() {
    let via = on(r#""StringEquals": {"kms:ViaService": "ec2.coffer"}"#);
    assert_eq!(by("alice", "Decrypt").via_volumes().to(&via), Allowed);
    assert_eq!(by("alice", "Decrypt").to(&via), Silent);

    let context = on(r#""StringLike": {"kms:EncryptionContext:aws:ebs:id": ["vol-1*", "vol-2"]}"#);
    for (volume, answer) in [("vol-17", Allowed), ("vol-2", Allowed), ("vol-22", Silent), ("VOL-1", Silent)] {
        assert_eq!(by("alice", "Decrypt").with("aws:ebs:id", volume).to(&context), answer, "{volume}");
    }
    assert_eq!(by("alice", "Decrypt").with("AWS:EBS:ID", "vol-1").to(&context), Allowed, "a pair's name has no case");
    assert_eq!(by("alice", "Decrypt").to(&context), Silent);

    let only = on(
        r#""ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a", "b"]}, "Null": {"kms:EncryptionContextKeys": "false"}"#,
    );
    assert_eq!(by("alice", "Decrypt").with("a", "1").to(&only), Allowed);
    assert_eq!(by("alice", "Decrypt").with("a", "1").with("c", "1").to(&only), Silent);
    assert_eq!(by("alice", "Decrypt").with("A", "1").to(&only), Silent, "their list has case");
    assert_eq!(by("alice", "Decrypt").to(&only), Silent);
    let any = on(r#""ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "a"}"#);
    assert_eq!(by("alice", "Decrypt").with("a", "1").with("c", "1").to(&any), Allowed);
    assert_eq!(by("alice", "Decrypt").to(&any), Silent);
}

#[test]
fn a_key_that_a_request_has_not_fails_comparisons_and_passes_their_negation() {
    for (condition, answer) in [
        (r#""StringEquals": {"kms:ViaService": "ec2.coffer"}"#, Silent),
        (r#""StringEqualsIfExists": {"kms:ViaService": "ec2.coffer"}"#, Allowed),
        (r#""StringNotEquals": {"kms:ViaService": "ec2.coffer"}"#, Allowed),
        (r#""ArnNotLike": {"kms:EncryptionContext:aws:s3:arn": "arn:aws:s3:*:*:*"}"#, Allowed),
        (r#""Bool": {"kms:GrantIsForAWSResource": "false"}"#, Silent),
        (r#""BoolIfExists": {"kms:GrantIsForAWSResource": false}"#, Allowed),
        (r#""Null": {"kms:ViaService": true}"#, Allowed),
        (r#""Null": {"aws:PrincipalArn": "true"}"#, Silent),
    ] {
        assert_eq!(by("alice", "Decrypt").to(&on(condition)), answer, "{condition}");
    }
}

#[test]
fn each_kind_of_operator_compares_as_its_name_says() {
    for (condition, answer) in [
        (r#""StringEquals": {"AWS:UserName": "alice"}"#, Allowed),
        (r#""StringEquals": {"aws:username": "Alice"}"#, Silent),
        (r#""StringEqualsIgnoreCase": {"aws:username": "ALICE"}"#, Allowed),
        (r#""StringNotEqualsIgnoreCase": {"aws:username": ["bob", "ALICE"]}"#, Silent),
        (r#""StringNotLike": {"aws:username": ["b*", "c?"]}"#, Allowed),
        (r#""ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*:user/al*"}"#, Allowed),
        (r#""ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:alice"}"#, Silent),
        (r#""ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::111122223333:user/bob"}"#, Allowed),
        (r#""StringEquals": {"aws:PrincipalType": "User", "aws:PrincipalAccount": "111122223333"}"#, Allowed),
        (r#""StringEquals": {"aws:PrincipalType": "User", "kms:CallerAccount": "444455556666"}"#, Silent),
        (r#""DateLessThan": {"aws:CurrentTime": "2027-01-15T08:00:01Z"}"#, Allowed),
        (r#""DateLessThan": {"aws:CurrentTime": "2027-01-15T08:00:00Z"}"#, Silent),
        (r#""DateGreaterThanEquals": {"aws:CurrentTime": "2027-01-15"}"#, Allowed),
        (r#""DateEquals": {"aws:CurrentTime": 1800000000}"#, Allowed),
        (r#""NumericGreaterThan": {"aws:EpochTime": 1799999999.5}"#, Allowed),
        (r#""NumericLessThanEquals": {"aws:EpochTime": "1799999999"}"#, Silent),
    ] {
        let policy = Policy::parse(&format!(
            r#"{{"Statement": {{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": {{{condition}}}}}}}"#
        ))
        .unwrap();
        assert_eq!(by("alice", "Decrypt").to(&policy), answer, "{condition}");
    }
}

#[test]
fn conditions_on_grants_know_whom_they_are_for() {
    let policy = statement(
        r#""Effect": "Allow", "Principal": "*", "Action": "kms:CreateGrant", "Condition": {
            "Bool": {"kms:GrantIsForAWSResource": true},
            "ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt", "Encrypt"]}}"#,
    );
    let ask = |for_aws_resource, operations: &[&str]| {
        let operations = operations.iter().map(|o| (*o).to_owned()).collect();
        Request {
            grant: Some(GrantFacts { for_aws_resource, operations, ..GrantFacts::default() }),
            ..by("alice", "CreateGrant")
        }
        .to(&policy)
    };
    assert_eq!(ask(true, &["Decrypt"]), Allowed);
    assert_eq!(ask(false, &["Decrypt"]), Silent);
    assert_eq!(ask(true, &["Decrypt", "CreateGrant"]), Silent);
}

/// A second pair whose name differs in case alone is no way around a Deny, nor a way into an Allow.
#[test]
fn pairs_that_differ_in_case_alone_never_count_by_the_friendlier_one() {
    let deny = |condition: &str| {
        let text = format!(
            r#"{{"Version": "2012-10-17", "Statement": [
                {{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}},
                {{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": {{{condition}}}}}]}}"#
        );
        Policy::parse(&text).unwrap()
    };
    let one = |value| by("alice", "Decrypt").with("Project", value);
    let both = |a, b| by("alice", "Decrypt").with("Project", a).with("project", b);
    for operator in ["", "ForAnyValue:", "ForAllValues:"] {
        let but_red = format!(r#""{operator}StringNotEquals": {{"kms:EncryptionContext:Project": "red"}}"#);
        assert_eq!(one("red").to(&deny(&but_red)), Allowed, "{operator}");
        assert_eq!(one("blue").to(&deny(&but_red)), Denied, "{operator}");
        assert_eq!(both("blue", "red").to(&deny(&but_red)), Denied, "{operator}");
        assert_eq!(both("red", "blue").to(&deny(&but_red)), Denied, "{operator}");
        assert_eq!(both("red", "red").to(&deny(&but_red)), Allowed, "{operator}");
        let red = format!(r#""{operator}StringEquals": {{"kms:encryptioncontext:PROJECT": "red"}}"#);
        assert_eq!(one("blue").to(&deny(&red)), Allowed, "{operator}");
        assert_eq!(both("blue", "red").to(&deny(&red)), Denied, "{operator}");
        assert_eq!(both("red", "blue").to(&deny(&red)), Denied, "{operator}");
        assert_eq!(one("red").to(&on(&red)), Allowed, "{operator}");
        assert_eq!(both("blue", "red").to(&on(&red)), Silent, "{operator}");
        assert_eq!(both("red", "blue").to(&on(&red)), Silent, "{operator}");
        assert_eq!(one("blue").to(&on(&but_red)), Allowed, "{operator}");
        assert_eq!(both("red", "blue").to(&on(&but_red)), Silent, "{operator}");
        assert_eq!(both("blue", "red").to(&on(&but_red)), Silent, "{operator}");
    }
}

/// AWS's names for its volume service mean coffer's, of this Region.
#[test]
fn awss_volume_service_is_coffers() {
    const HERE: &str = "ec2.us-east-1.amazonaws.com";
    const ELSEWHERE: &str = "ec2.eu-west-1.amazonaws.com";
    let deny = |fields: &str| {
        let text = format!(
            r#"{{"Statement": [{{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}},
                {{"Effect": "Deny", {fields}, "Action": "kms:*", "Resource": "*"}}]}}"#
        );
        Policy::parse(&text).unwrap()
    };
    let via = |operator: &str, name: &str| format!(r#""{operator}": {{"kms:ViaService": "{name}"}}"#);
    let ask = |policy: &Policy| [by("alice", "Decrypt").via_volumes().to(policy), by("alice", "Decrypt").to(policy)];
    for (operator, name, allow, denied) in [
        ("StringEquals", HERE, [Allowed, Silent], [Denied, Allowed]),
        ("StringEquals", VOLUME_SERVICE, [Allowed, Silent], [Denied, Allowed]),
        ("StringEquals", ELSEWHERE, [Silent, Silent], [Allowed, Allowed]),
        ("StringEquals", "s3.us-east-1.amazonaws.com", [Silent, Silent], [Allowed, Allowed]),
        ("StringEqualsIgnoreCase", "EC2.us-east-1.amazonaws.com", [Allowed, Silent], [Denied, Allowed]),
        ("StringLike", "ec2.*.amazonaws.com", [Allowed, Silent], [Denied, Allowed]),
        ("StringNotEquals", HERE, [Silent, Allowed], [Allowed, Denied]),
        ("StringNotEquals", VOLUME_SERVICE, [Silent, Allowed], [Allowed, Denied]),
        ("StringNotEquals", ELSEWHERE, [Allowed, Allowed], [Denied, Denied]),
        ("StringNotLike", "*.amazonaws.com", [Silent, Allowed], [Allowed, Denied]),
    ] {
        let condition = via(operator, name);
        assert_eq!(ask(&on(&condition)), allow, "Allow {condition}");
        let policy = deny(&format!(r#""Principal": "*", "Condition": {{{condition}}}"#));
        assert_eq!(ask(&policy), denied, "Deny {condition}");
    }
    let service =
        || Request { principal: format!("arn:aws:iam::{ACCOUNT}:service/{VOLUME_SERVICE}"), ..by("", "Decrypt") };
    for (name, is) in [(VOLUME_SERVICE, true), ("ec2.amazonaws.com", true), (HERE, true), (ELSEWHERE, false)] {
        let named = format!(r#""Principal": {{"Service": "{name}"}}"#);
        let allow = statement(&format!(r#""Effect": "Allow", {named}, "Action": "kms:Decrypt""#));
        assert_eq!(service().to(&allow), if is { Allowed } else { Silent }, "{name}");
        assert_eq!(by("alice", "Decrypt").to(&allow), Silent, "{name}: people are no service");
        assert_eq!(service().to(&deny(&named)), if is { Denied } else { Allowed }, "{name}");
    }
}

#[test]
fn what_is_not_understood_is_refused_and_its_place_named() {
    let fields = r#""Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*""#;
    let one = |fields: &str| format!(r#"{{"Version": "2012-10-17", "Statement": [{{{fields}}}]}}"#);
    let with = |field: &str| one(&format!("{fields}, {field}"));
    let instead = |of: &str, by: &str| one(&fields.replace(of, by));
    let star = r#""Principal": "*""#;
    for (document, words) in [
        ("nonsense".to_owned(), "not valid JSON"),
        ("[]".to_owned(), "must be an object, not a list"),
        (r#"{"Version": "2012-10-17"}"#.to_owned(), "it has no Statement"),
        (r#"{"Statement": []}"#.to_owned(), "Statement: the list is empty"),
        (r#"{"Version": "2020-01-01", "Statement": []}"#.to_owned(), "Version: \"2020-01-01\""),
        (r#"{"version": "2012-10-17", "Statement": []}"#.to_owned(), "version: is not a field of a policy"),
        (with(r#""Sid": 5"#), "Statement[0].Sid: must be a string, not a number"),
        (with(r#""Effect": "Deny""#), "\"Effect\" is repeated"),
        (with(r#""Extra": 1"#), "Statement[0].Extra: is not a field of a statement"),
        (with(r#""NotAction": "kms:*""#), "Statement[0].NotAction: cannot be used together with Action"),
        (with(r#""NotPrincipal": "*""#), "NotPrincipal: cannot be used together with Principal"),
        (
            instead(star, r#""NotPrincipal": {"AWS": "111122223333"}"#),
            "Statement[0].NotPrincipal: cannot be in an Allow",
        ),
        (instead("\"Allow\"", "\"allow\""), "Statement[0].Effect: \"allow\""),
        (instead(r#", "Resource": "*""#, ""), "Statement[0]: it has no Resource"),
        (instead(r#""Resource": "*""#, r#""Resource": "key/1""#), "Statement[0].Resource: \"key/1\""),
        (instead("kms:*", "ec2:Run*"), "Statement[0].Action: \"ec2:Run*\""),
        (instead("kms:*", "kms:"), "\"kms:\" is neither * nor an action"),
        (instead(r#""Action": "kms:*""#, r#""Action": []"#), "Statement[0].Action: the list is empty"),
        (instead(star, r#""Principal": "alice""#), "Statement[0].Principal: \"alice\""),
        (instead(star, r#""Principal": {}"#), "it has no principal"),
        (instead(star, r#""Principal": {"AWS": ["*", "alice"]}"#), "Principal.AWS: \"alice\" is not a principal"),
        (instead(star, r#""Principal": {"AWS": "arn:aws:iam::111122223333:user/*"}"#), "has a wildcard"),
        (instead(star, r#""Principal": {"AWS": "arn:aws:iam::1:root"}"#), "no account id of 12 digits"),
        (
            instead(star, r#""Principal": {"AWS": "arn:aws:iam::111122223333:group/x"}"#),
            "not the ARN of root, a user or a role",
        ),
        (
            instead(star, r#""Principal": {"Federated": "x"}"#),
            "Principal.Federated: the type of a principal must be AWS or Service",
        ),
        (
            with(r#""Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}}"#),
            "\"10.0.0.0/33\" is neither an IP address nor a network",
        ),
        (with(r#""Condition": {"IpAddress": {"aws:username": "10.0.0.0/8"}}"#), "cannot compare aws:username"),
        (with(r#""Condition": {"StringEquals": {"aws:SourceIp": "10.0.0.1"}}"#), "cannot compare aws:SourceIp"),
        (with(r#""Condition": {"BinaryEquals": {"aws:username": "QUJD"}}"#), "cannot compare aws:username"),
        (with(r#""Condition": {"IPAddress": {"aws:SourceIp": "10.0.0.0/8"}}"#), "is not a known operator"),
        (with(r#""Condition": {"stringequals": {"kms:ViaService": "x"}}"#), "\"stringequals\" is not a known operator"),
        (with(r#""Condition": {"NullIfExists": {"kms:ViaService": "true"}}"#), "is not a known operator"),
        (with(r#""Condition": {"Bool": {"kms:GrantIsForAWSResource": "yes"}}"#), "neither true nor false"),
        (with(r#""Condition": {"NumericEquals": {"aws:EpochTime": "many"}}"#), "is not a number"),
        (with(r#""Condition": {"DateEquals": {"aws:CurrentTime": "soon"}}"#), "is not a date"),
        (with(r#""Condition": {"DateLessThan": {"aws:CurrentTime": "2027"}}"#), "is not a date"),
        (with(r#""Condition": {"DateLessThan": {"aws:CurrentTime": "20270131"}}"#), "is not a date"),
        (with(r#""Condition": {"DateLessThan": {"aws:CurrentTime": "-5"}}"#), "is not a date"),
        (with(r#""Condition": {"StringEquals": {"aws:PrincipalArn": "uid-0"}}"#), "is not an ARN"),
        (
            with(r#""Condition": {"StringEquals": {"kms:CallerAccount": "111122223333", "KMS:CallerAccount": "1"}}"#),
            "this condition key is repeated",
        ),
        (
            instead(
                r#""Resource": "*""#,
                r#""Resource": "arn:aws:kms:us-east-1:111122223333:key/0AE16C6F-11C2-4A22-8D4E-000000000001""#,
            ),
            "Statement[0].Resource",
        ),
        (instead(r#""Resource": "*""#, r#""Resource": "arn:aws:kms:us-east-1:111122223333:key/zz*""#), ".Resource"),
        (with(r#""Condition": {"ArnLike": {"aws:PrincipalArn": "alice"}}"#), "is not an ARN"),
        (with(r#""Condition": {"StringEquals": {"ViaService": "x"}}"#), "not a known condition key"),
        (
            with(r#""Condition": {"StringEquals": {"kms:ViaServcie": "x"}}"#),
            "\"kms:ViaServcie\" is not a known condition key",
        ),
        (with(r#""Condition": {"StringEquals": {"kms:EncryptionContext:": "x"}}"#), "not a known condition key"),
        (
            with(r#""Condition": {"StringEquals": {"kms:RecipientAttestation:ImageSha384": "00"}}"#),
            "an AWS condition key that coffer does not support",
        ),
        (
            with(r#""Condition": {"StringEquals": {"aws:PrincipalOrgID": "x"}}"#),
            "an AWS condition key that coffer does not support",
        ),
        (
            with(r#""Condition": {"StringNotEquals": {"aws:sourcevpce": "x"}}"#),
            "supported keys: kms:ViaService, kms:CallerAccount",
        ),
        (with(r#""Condition": {"Null": {"aws:PrincipalOrgID": "true"}}"#), "coffer does not support"),
        (
            with(r#""Condition": {"NumericEquals": {"kms:ViaService": "5"}}"#),
            "NumericEquals cannot compare kms:ViaService",
        ),
        (with(r#""Condition": {"StringEquals": {"aws:CurrentTime": "2027-01-01"}}"#), "cannot compare aws:CurrentTime"),
        (with(r#""Condition": {"Bool": {"aws:username": "true"}}"#), "cannot compare aws:username"),
        (with(r#""Condition": {"ArnLike": {"kms:ViaService": "arn:aws:ec2:*:*:*"}}"#), "cannot compare kms:ViaService"),
        (
            with(r#""Condition": {"ForAnyValue:StringEquals": {"kms:GrantOperations": "Decrpyt"}}"#),
            "not an operation that a grant can allow",
        ),
        (
            with(r#""Condition": {"ForAnyValue:StringLike": {"kms:GrantOperations": "decrypt"}}"#),
            "not an operation that a grant can allow",
        ),
        (
            with(r#""Condition": {"StringEquals": {"kms:CallerAccount": "11112222333"}}"#),
            "is not an account id of 12 digits",
        ),
        (with(r#""Condition": {"StringEquals": {"aws:PrincipalType": "user"}}"#), "not a type of principal"),
        (
            with(r#""Condition": {"StringEquals": {"kms:ViaService": "ec2.us-east-1.amazonaws.co"}}"#),
            "is not a service name",
        ),
        (instead("kms:*", "kms:Decrpyt"), "\"kms:Decrpyt\" is not an action of AWS KMS or coffer"),
        (instead("kms:*", "kms:ReEncrypt"), "\"kms:ReEncrypt\" is not an action of"),
        (instead("kms:*", "kms:*Garnt").replace("Allow", "Deny"), "\"kms:*Garnt\" is not an action of"),
        (instead(r#""Action": "kms:*""#, r#""NotAction": "kms:*Garnt""#), "NotAction: \"kms:*Garnt\""),
        (instead("kms:*", "kms:Decript*"), "\"kms:Decript*\" is not an action of"),
        (instead(r#""Action""#, r#""NotAction""#).replace("kms:*", "kms:Descrbe*"), "NotAction: \"kms:Descrbe*\""),
        (
            instead(r#""Resource": "*""#, r#""Resource": "arn:aws:kms:us-east-1:111122223333:kye/*""#),
            "is not the ARN of a key",
        ),
        (
            instead(r#""Resource": "*""#, r#""Resource": "arn:aws:kms:us-east-1:111122223333:alias/x""#),
            "not the ARN of a key",
        ),
        (
            instead(r#""Resource": "*""#, r#""Resource": "arn:aws:kms:us-east-1:11112222333:key/*""#),
            "not the ARN of a key",
        ),
        (
            instead(r#""Resource": "*""#, r#""NotResource": "arn:aws:ec2:us-east-1:111122223333:key/*""#),
            "not the ARN of a key",
        ),
        (
            instead(r#""Resource": "*""#, r#""Resource": "arn:aws:kms:us-east-1:111122223333:key/1234""#),
            "not the ARN of a key",
        ),
        (
            instead(star, r#""Principal": {"AWS": "arn:aws:iam::111122223333:usr/x"}"#),
            "not the ARN of root, a user or a role",
        ),
        (
            instead(star, r#""Principal": {"AWS": "arn:aws:iam::111122223333:assumed-role/x"}"#),
            "not the ARN of root, a user or a role",
        ),
        (
            instead(star, r#""Principal": {"AWS": "arn:aws:sts::111122223333:root"}"#),
            "not the ARN of root, a user or a role",
        ),
        (
            instead(star, r#""Principal": {"AWS": "arn:aws:iam::111122223333:user/a b"}"#),
            "not a valid name of a principal",
        ),
        (
            instead(star, r#""Principal": {"Service": "ec2.amazonaw.com"}"#),
            "\"ec2.amazonaw.com\" is not a supported service",
        ),
        (instead(star, r#""Principal": {"service": "ec2.coffer"}"#), "the type of a principal must be AWS or Service"),
        (with(r#""Condition": {"StringEquals": {"kms:EncryptionContextKeys": "a"}}"#), "ForAnyValue:StringEquals"),
        (with(r#""Condition": {"StringEquals": {}}"#), "Condition.StringEquals: it has no condition key"),
        (with(r#""Condition": {"StringEquals": {"kms:ViaService": null}}"#), "must be a string, not null"),
        (with(r#""Condition": {"StringEquals": {"aws:username": "${aws:usernam}"}}"#), "policy variable"),
        (with(r#""Condition": {"StringEquals": {"aws:username": "${aws:username"}}"#), "no closing brace"),
        (with(r#""Condition": {"StringEquals": {"aws:username": "${aws:TagKeys}"}}"#), "can have several values"),
        (with(r#""Condition": {"StringEquals": {"aws:username": "${aws:userid, x}"}}"#), "not in single quotes"),
        (
            instead(r#""Resource": "*""#, r#""Resource": "arn:aws:kms:*:${aws:account}:key/*""#),
            "\"aws:account\" is not a known condition key",
        ),
    ] {
        let err = Policy::parse(&document).unwrap_err();
        assert_eq!((err.kind(), err.aws()), (error::Kind::Usage, "MalformedPolicyDocumentException"), "{document}");
        assert!(err.what().contains(words), "{document}: {}", err.line());
    }
    let long = format!("{}{}", one(fields), " ".repeat(MAX_POLICY));
    assert!(Policy::parse(&long).unwrap_err().what().contains("32768"));
    let deep = "[".repeat(MAX_POLICY);
    assert_eq!(Policy::parse(&deep).unwrap_err().kind(), error::Kind::Usage);
    // Under the older version a variable is plain text.
    let old = with(r#""Condition": {"StringEquals": {"aws:username": "${aws:username}"}}"#).replace("2012", "2008");
    assert_eq!(by("alice", "Decrypt").to(&Policy::parse(&old).unwrap()), Silent);
}

#[test]
fn wildcards_stand_for_any_characters_and_for_one() {
    for (pattern, text, fits) in [
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("a*c", "abbc", true),
        ("a*c*", "acb", true),
        ("*b?c", "aabxbxc", true),
        ("a?", "a", false),
        ("**a", "ba", true),
        ("a*b", "ab c", false),
    ] {
        assert_eq!(wild(pattern, text, false), fits, "{pattern} {text}");
    }
    assert!(wild("KMS:dec*", "kms:Decrypt", true) && !wild("KMS:dec*", "kms:Decrypt", false));
    // A star for each character is no reason to take for ever.
    assert!(!wild(&"*a".repeat(8000), &"a".repeat(7999), false));
}

/// Policies of all shapes.
fn policies() -> impl Strategy<Value = Policy> {
    let principal = prop_oneof![
        Just(Principal::Everyone),
        "[0-9]{12}".prop_map(Principal::Account),
        "[0-9]{12}:user/[a-z]{1,8}".prop_map(|rest| Principal::Arn(format!("arn:aws:iam::{rest}"))),
    ];
    let service = prop_oneof![Just("ec2.coffer"), Just("ec2.amazonaws.com"), Just("ec2.eu-west-1.amazonaws.com")];
    let services = proptest::collection::vec(service.prop_map(|s| Principal::Service(s.to_owned())), 0..2);
    let principals = (proptest::collection::vec(principal, 1..4), services)
        .prop_map(|(named, services)| named.into_iter().chain(services).collect::<Vec<_>>());
    let principals = (principals, any::<bool>());
    let names = |pattern: &'static str| {
        (any::<bool>(), proptest::collection::vec(pattern, 1..4)).prop_map(|(not, patterns)| Names { not, patterns })
    };
    let condition = prop_oneof![
        (
            "(ForAnyValue:)?String(Not)?(Equals|Like)(IfExists)?",
            "aws:username|kms:EncryptionContext:[A-Za-z:]{1,9}|KMS:encryptionCONTEXT:[a-z]{1,9}",
            "[^$]{0,9}"
        ),
        ("Bool(IfExists)?|Null", "kms:GrantIsForAWSResource", "true|false"),
        ("Date(Not)?Equals", "aws:CurrentTime", "[0-9]{1,10}"),
    ];
    let conditions = proptest::collection::btree_map(condition.clone().prop_map(|c| (c.0, c.1)), condition, 0..3);
    let conditions = conditions.prop_map(|all| {
        let mut made: Vec<_> = all
            .into_values()
            .filter_map(|(o, k, v)| Condition::new(Kind::Key, Version::V2012, &o, &k, vec![v]).ok())
            .collect();
        made.sort_by_key(|c| (c.operator(), c.key().to_owned()));
        made.dedup_by_key(|c| (c.operator(), c.key().to_owned()));
        made
    });
    let statement = (
        proptest::option::of(".{0,12}"),
        any::<bool>(),
        principals,
        names(r"\*|kms:(Decrypt|[CDEGLRSU]?\*|(get|List)\*|\?ecrypt|ExportVolumeKey)"),
        names(r"\*|arn:(aws|\*):kms:[a-z*]{1,5}:([0-9]{12}|\*):key/[a-f0-9*?]{0,9}\*"),
        conditions,
    )
        .prop_map(|(sid, allow, (named, except), actions, resources, conditions)| Statement {
            sid,
            allow,
            principals: if except && !allow { Whom::Except(named) } else { Whom::These(named) },
            actions,
            resources,
            conditions,
        });
    let version = prop_oneof![Just(Version::V2008), Just(Version::V2012)];
    (version, proptest::option::of(".{0,12}"), proptest::collection::vec(statement, 1..4))
        .prop_map(|(version, id, statements)| Policy { kind: Kind::Key, version, id, statements })
}

proptest! {
    #[test]
    fn a_policy_that_is_printed_is_read_as_the_same(policy in policies()) {
        let text = policy.pretty();
        let again = Policy::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {}", e.line())))?;
        prop_assert_eq!(&again, &policy);
        prop_assert_eq!(again.pretty(), text);
    }

    /// A document with bytes taken out, put in and doubled is read or refused, and asking what was read ends.
    #[test]
    fn no_damaged_document_is_a_panic(policy in policies(), cuts in proptest::collection::vec((any::<u16>(), ".{0,3}"), 1..6)) {
        let mut text = policy.pretty();
        for (at, put) in cuts {
            let at = text.floor_char_boundary(usize::from(at) % (text.len() + 1));
            let end = text.floor_char_boundary((at + 3).min(text.len()));
            text.replace_range(at..end, &put);
        }
        if let Ok(policy) = Policy::parse(&text) {
            let _ = by("alice", "Decrypt").with("a", "b").to(&policy);
        }
    }

    #[test]
    fn no_text_is_a_panic(text in ".{0,200}") {
        let _ = Policy::parse(&text);
    }
}
