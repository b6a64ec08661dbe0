//! Who is allowed by which policies together, and what nothing added ever allows.

use super::super::{Facts, PrincipalFacts};
use super::*;
use crate::env::Timestamp;
use proptest::prelude::*;
use serde_json::json;

const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/Ops/shift";
const ROLE: &str = "arn:aws:iam::111122223333:role/Ops";
const ROOT: &str = "arn:aws:iam::111122223333:root";
const MALLORY: &str = "arn:aws:iam::444455556666:user/mallory";
const STRANGERS: &str = "arn:aws:sts::444455556666:assumed-role/Ops/shift";

fn statement(effect: &str, principal: Option<&str>, action: &str) -> serde_json::Value {
    let mut statement = json!({"Effect": effect, "Action": action, "Resource": "*"});
    if let Some(principal) = principal {
        statement["Principal"] = if principal == "*" { json!("*") } else { json!({"AWS": principal}) };
    }
    statement
}

fn key_policy(statements: &[(&str, &str)]) -> Policy {
    let all: Vec<_> = statements.iter().map(|(effect, who)| statement(effect, Some(who), "kms:Decrypt")).collect();
    Policy::parse(&json!({"Version": "2012-10-17", "Statement": all}).to_string()).unwrap()
}

/// An identity or session policy on Decrypt, or on another action.
fn own(effect: &str, action: &str) -> Policy {
    let document = json!({"Version": "2012-10-17", "Statement": statement(effect, None, action)});
    Policy::parse_identity(&document.to_string()).unwrap()
}

fn ask(who: &str, key: &Policy, identity: &[Policy], session: Option<&[Policy]>, grants_allow: bool) -> Ruling {
    let principal = PrincipalFacts::of_arn(who);
    let question = Question {
        action: "kms:Decrypt",
        resource: KEY,
        principal: &principal,
        facts: &Facts::new(),
        now: Timestamp(1_800_000_000_000),
    };
    decide(&Decision {
        resource_policy: Some(key),
        own: Own::Policies(identity),
        session,
        grants_allow,
        question: &question,
        same_account: principal.account == "111122223333",
    })
}

const POLICY: Ruling = Ruling::Allowed(By::Policy);
const GRANT: Ruling = Ruling::Allowed(By::Grant);
const NO_IDENTITY: Ruling = Ruling::Denied(Why::NoAllow(Source::Identity));
const NO_SESSION: Ruling = Ruling::Denied(Why::NoAllow(Source::Session));
const NO_RESOURCE: Ruling = Ruling::Denied(Why::NoAllow(Source::Resource));
const DENY_IDENTITY: Ruling = Ruling::Denied(Why::Explicit(Source::Identity));
const DENY_SESSION: Ruling = Ruling::Denied(Why::Explicit(Source::Session));
const DENY_RESOURCE: Ruling = Ruling::Denied(Why::Explicit(Source::Resource));

/// The cases of the IAM User Guide's evaluation logic. Of the policies: `+` allows, `-` denies, `o` allows something else, and
/// a session without a policy has none.
#[test]
fn policies_together_decide_as_in_aws() {
    let of = |signs: &str| -> Vec<Policy> {
        let one = |sign: char| match sign {
            '+' => own("Allow", "kms:Decrypt"),
            '-' => own("Deny", "kms:*"),
            _ => own("Allow", "kms:Encrypt"),
        };
        signs.chars().map(one).collect()
    };
    type Case =
        (&'static str, &'static [(&'static str, &'static str)], &'static str, Option<&'static str>, bool, Ruling);
    let cases: &[Case] = &[
        // A key policy that names the user is enough.
        (ALICE, &[("Allow", ALICE)], "", None, false, POLICY),
        (ALICE, &[("Allow", "*")], "", None, false, POLICY),
        (ALICE, &[("Allow", MALLORY)], "+", None, false, NO_RESOURCE),
        // One that names the account leaves it to the identity policies.
        (ALICE, &[("Allow", ROOT)], "", None, false, NO_IDENTITY),
        (ALICE, &[("Allow", ROOT)], "o", None, false, NO_IDENTITY),
        (ALICE, &[("Allow", ROOT)], "o+", None, false, POLICY),
        (ALICE, &[("Allow", ROOT)], "", None, true, GRANT),
        (ROOT, &[("Allow", ROOT)], "", None, false, POLICY),
        (ROOT, &[("Allow", ALICE)], "", None, false, NO_RESOURCE),
        // A Deny wins, wherever it stands.
        (ALICE, &[("Allow", ALICE), ("Deny", "*")], "+", None, true, DENY_RESOURCE),
        (ALICE, &[("Allow", ALICE)], "-", None, true, DENY_IDENTITY),
        (ALICE, &[("Allow", ROOT)], "+-", None, true, DENY_IDENTITY),
        (SESSION, &[("Allow", SESSION)], "", Some("+-"), true, DENY_SESSION),
        (SESSION, &[("Allow", SESSION), ("Deny", ROLE)], "+", None, true, DENY_RESOURCE),
        (SESSION, &[("Allow", SESSION), ("Deny", ROOT)], "+", None, true, DENY_RESOURCE),
        // A session of a role: by its role, limited by its own policies; by its own ARN, not.
        (SESSION, &[("Allow", ROLE)], "", None, false, POLICY),
        (SESSION, &[("Allow", ROLE)], "", Some("+"), false, POLICY),
        (SESSION, &[("Allow", ROLE)], "", Some("o"), false, NO_SESSION),
        (SESSION, &[("Allow", ROLE)], "+", Some("o"), false, NO_SESSION),
        (SESSION, &[("Allow", SESSION)], "", Some("o"), false, POLICY),
        (SESSION, &[("Allow", "*")], "", Some("o"), false, NO_SESSION),
        (SESSION, &[("Allow", ROOT)], "+", Some("+"), false, POLICY),
        (SESSION, &[("Allow", ROOT)], "+", Some("o"), false, NO_SESSION),
        (SESSION, &[("Allow", ROOT)], "", Some("+"), false, NO_IDENTITY),
        (SESSION, &[("Allow", ALICE)], "", None, false, NO_RESOURCE),
        // Grants: not beyond what the session has.
        (SESSION, &[("Allow", ALICE)], "", Some("+"), true, GRANT),
        (SESSION, &[("Allow", ALICE)], "", Some("o"), true, NO_SESSION),
        (ALICE, &[("Allow", MALLORY)], "", None, true, GRANT),
        // Another account: both sides.
        (MALLORY, &[("Allow", MALLORY)], "", None, false, NO_IDENTITY),
        (MALLORY, &[("Allow", MALLORY)], "+", None, false, POLICY),
        (MALLORY, &[("Allow", "444455556666")], "+", None, false, POLICY),
        (MALLORY, &[("Allow", "*")], "", None, true, NO_IDENTITY),
        (MALLORY, &[("Allow", ROOT)], "+", None, false, NO_RESOURCE),
        (MALLORY, &[("Allow", ALICE)], "+", None, true, GRANT),
        (STRANGERS, &[("Allow", STRANGERS)], "+", Some("o"), false, NO_SESSION),
        (STRANGERS, &[("Allow", STRANGERS)], "+", Some("+"), false, POLICY),
        (STRANGERS, &[("Allow", ROLE)], "+", None, false, NO_RESOURCE),
    ];
    for (who, key, identity, session, grants, ruling) in cases {
        let session = session.map(of);
        let found = ask(who, &key_policy(key), &of(identity), session.as_deref(), *grants);
        assert_eq!(found, *ruling, "{who} {key:?} identity {identity:?} session {session:?} grants {grants}");
    }
}

#[test]
fn an_action_without_a_resource_policy_is_the_principals_own_affair() {
    let ask = |who: &str, identity: &[Policy]| {
        let principal = PrincipalFacts::of_arn(who);
        let question = Question {
            action: "kms:CreateKey",
            resource: "*",
            principal: &principal,
            facts: &Facts::new(),
            now: Timestamp(1_800_000_000_000),
        };
        let own = Own::Policies(identity);
        decide(&Decision {
            resource_policy: None,
            own,
            session: None,
            grants_allow: false,
            question: &question,
            same_account: true,
        })
    };
    assert_eq!(ask(ALICE, &[own("Allow", "kms:Create*")]), POLICY);
    assert_eq!(ask(ALICE, &[own("Allow", "kms:Decrypt")]), NO_IDENTITY);
    assert_eq!(ask(ALICE, &[own("Allow", "*"), own("Deny", "kms:CreateKey")]), DENY_IDENTITY);
    assert_eq!(ask(ROOT, &[]), POLICY);
}

/// A role's trust policy is its resource's.
#[test]
fn a_trust_policy_says_who_may_assume_its_role() {
    let trust = |principal: &str| {
        let statement = json!({"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"});
        Policy::parse_trust(&json!({"Version": "2012-10-17", "Statement": statement}).to_string()).unwrap()
    };
    let ask = |who: &str, trust: &Policy, identity: &[Policy]| {
        let principal = PrincipalFacts::of_arn(who);
        let question = Question {
            action: "sts:AssumeRole",
            resource: ROLE,
            principal: &principal,
            facts: &Facts::new(),
            now: Timestamp(1_800_000_000_000),
        };
        let same_account = principal.account == "111122223333";
        let own = Own::Policies(identity);
        decide(&Decision {
            resource_policy: Some(trust),
            own,
            session: None,
            grants_allow: false,
            question: &question,
            same_account,
        })
    };
    let may = [own("Allow", "sts:AssumeRole")];
    assert_eq!(ask(ALICE, &trust(ALICE), &[]), POLICY);
    assert_eq!(ask(ALICE, &trust(ROOT), &[]), NO_IDENTITY);
    assert_eq!(ask(ALICE, &trust(ROOT), &may), POLICY);
    assert_eq!(ask(MALLORY, &trust(MALLORY), &[]), NO_IDENTITY);
    assert_eq!(ask(MALLORY, &trust(MALLORY), &may), POLICY);
    let refused = ask(ALICE, &trust(MALLORY), &may);
    assert_eq!(refused, Ruling::Denied(Why::NoAllow(Source::Trust)));
}

#[test]
fn refusals_are_said_in_awss_words() {
    for (ruling, words) in [
        (NO_IDENTITY, "because no identity-based policy allows the kms:Decrypt action"),
        (NO_SESSION, "because no session policy allows the kms:Decrypt action"),
        (NO_RESOURCE, "because no resource-based policy allows the kms:Decrypt action"),
        (DENY_IDENTITY, "with an explicit deny in an identity-based policy"),
        (DENY_SESSION, "with an explicit deny in a session policy"),
        (DENY_RESOURCE, "with an explicit deny in a resource-based policy"),
    ] {
        let Ruling::Denied(why) = ruling else { panic!("{words}") };
        assert_eq!(why.words("kms:Decrypt"), words);
        assert_eq!(why.is_explicit(), words.contains("explicit"));
    }
}

/// The effect, the principal and the action of a statement.
type Parts = (bool, usize, usize);

const WHO: [&str; 7] = ["*", ALICE, SESSION, ROLE, ROOT, MALLORY, "444455556666"];
const WHAT: [&str; 4] = ["kms:Decrypt", "kms:*", "kms:Encrypt", "kms:De*"];

fn built(parts: &[Parts], with_principal: bool) -> Policy {
    let one = |(allow, who, what): &Parts| {
        let effect = if *allow { "Allow" } else { "Deny" };
        statement(effect, with_principal.then_some(WHO[*who]), WHAT[*what])
    };
    let document = json!({"Statement": parts.iter().map(one).collect::<Vec<_>>()}).to_string();
    if with_principal { Policy::parse(&document).unwrap() } else { Policy::parse_identity(&document).unwrap() }
}

fn parts() -> impl Strategy<Value = Vec<Parts>> {
    // Mostly Allow: with many a Deny, nothing is left to refuse.
    let one = (proptest::bool::weighted(0.85), 0..WHO.len(), 0..WHAT.len());
    proptest::collection::vec(one, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A Deny more, wherever it is put, allows nothing that was refused; nor does the policy of a session.
    #[test]
    fn what_only_takes_away_never_gives(
        key in parts(), identity in parts(), session in proptest::option::of(parts()), grants in any::<bool>(),
        more in (0..WHO.len(), 0..WHAT.len()), place in 0..3usize,
    ) {
        for who in [ALICE, SESSION, ROOT, MALLORY, STRANGERS] {
            let policies = |all: &Option<Vec<Parts>>| all.as_ref().map(|parts| vec![built(parts, false)]);
            let ruling = |key: &[Parts], identity: &[Parts], session: &Option<Vec<Parts>>| {
                ask(who, &built(key, true), &[built(identity, false)], policies(session).as_deref(), grants)
            };
            let before = ruling(&key, &identity, &session);
            let (mut key, mut identity, mut session) = (key.clone(), identity.clone(), session.clone());
            let deny = (false, more.0, more.1);
            match place {
                0 => key.push(deny),
                1 => identity.push(deny),
                _ => session = session.map(|s| s.into_iter().chain([deny]).collect()),
            }
            if let Ruling::Denied(_) = before {
                prop_assert!(matches!(ruling(&key, &identity, &session), Ruling::Denied(_)));
            }
            if let Ruling::Denied(_) = ruling(&key, &identity, &None) {
                prop_assert!(matches!(ruling(&key, &identity, &session), Ruling::Denied(_)));
            }
        }
    }

    /// Without an Allow in any policy, and without a grant, only the root user has anything, where its account is named.
    #[test]
    fn nothing_is_allowed_by_itself(key in parts(), identity in parts()) {
        let denies = |parts: &[Parts]| parts.iter().map(|p| (false, p.1, p.2)).collect::<Vec<_>>();
        for who in [ALICE, SESSION, ROOT, MALLORY] {
            let ruling = ask(who, &built(&denies(&key), true), &[built(&identity, false)], None, false);
            prop_assert!(matches!(ruling, Ruling::Denied(_)), "{who}");
        }
    }
}
