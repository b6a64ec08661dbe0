use super::testing::*;
use super::*;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

#[track_caller]
fn refused<T>(result: Result<T>, kind: Kind, aws: &str) -> Error {
    let err = result.err().expect("it was not refused");
    assert_eq!((err.kind(), err.aws()), (kind, aws), "{}", err.line());
    err
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// Accounts

#[test]
fn the_first_account_exists_without_a_record() {
    let place = Place::new();
    assert_eq!(place.iam.account(FIRST).unwrap().name, "coffer");
    refused(place.iam.create_account("again", Some(FIRST), by()), Kind::Exists, "AlreadyExistsException");
    let drawn = place.iam.create_account("team", None, by()).unwrap();
    assert!(drawn.id.len() == 12 && drawn.id.bytes().all(|b| b.is_ascii_digit()) && !drawn.id.starts_with('0'));
    let chosen = place.iam.create_account("other team", Some("000000000001"), by()).unwrap();
    let ids: Vec<String> = place.iam.accounts().unwrap().into_iter().map(|a| a.id).collect();
    assert_eq!(ids, [FIRST, &*chosen.id, &*drawn.id]);
    refused(place.iam.create_account("twice", Some("000000000001"), by()), Kind::Exists, "AlreadyExistsException");
    for bad in ["1", "11112222333x", "1111222233334"] {
        refused(place.iam.create_account("x", Some(bad), by()), Kind::Usage, "ValidationException");
    }
    for bad in ["", &"x".repeat(51), "a\nb", "é"] {
        refused(place.iam.create_account(bad, None, by()), Kind::Usage, "ValidationException");
    }
    refused(place.iam.account("999999999999"), Kind::NotFound, "NotFoundException");
    assert!(place.acts().contains(&("organizations:CreateAccount".into(), "refused".into())));
}

// ---------------------------------------------------------------------------------------------------------------------
// Users and roles

#[test]
fn a_name_is_taken_in_any_case_in_its_account_alone() {
    let place = Place::new();
    let other = place.iam.create_account("team", None, by()).unwrap().id;
    let create = |account: &str, name: &str, path: Option<&str>| {
        let new = NewUser { account: account.into(), name: name.into(), path: path.map(Into::into), tags: Tags::new() };
        place.iam.create_user(new, by())
    };
    let alice = create(FIRST, "Alice", Some("/dev/ops/")).unwrap();
    assert_eq!(alice.arn(), format!("arn:aws:iam::{FIRST}:user/dev/ops/Alice"));
    assert_eq!(create(&other, "alice", None).unwrap().arn(), format!("arn:aws:iam::{other}:user/alice"));
    refused(create(FIRST, "ALICE", None), Kind::Exists, "AlreadyExistsException");
    refused(create("999999999999", "x", None), Kind::NotFound, "NotFoundException");
    for (name, path) in [("", None), ("a b", None), ("x", Some("dev")), ("uid-0", None)] {
        refused(create(FIRST, name, path), Kind::Usage, "ValidationException");
    }
    // A role of the same name is another principal.
    place.role("alice");
    let (users, roles) = place.iam.principals(FIRST).unwrap();
    assert_eq!((users.len(), roles.len(), &*users[0].id), (1, 1, &*alice.id));
    assert_eq!(place.iam.principals(&other).unwrap().0.len(), 1);
    let found = place.iam.principal(&PrincipalRef::parse(&alice.arn(), FIRST).unwrap()).unwrap();
    assert_eq!(found, UserOrRole::User(alice));
    let elsewhere = format!("arn:aws:iam::{FIRST}:user/Alice");
    refused(place.iam.principal(&PrincipalRef::parse(&elsewhere, FIRST).unwrap()), Kind::NotFound, "NotFoundException");
    refused(place.iam.principal(&PrincipalRef::root(FIRST)), Kind::Usage, "ValidationException");
}

#[test]
fn a_role_has_a_trust_policy_and_a_longest_session() {
    let place = Place::new();
    let new = |seconds, trust: &str| NewRole {
        account: FIRST.into(),
        name: "deploy".into(),
        trust: trust.into(),
        max_session_seconds: seconds,
        ..NewRole::default()
    };
    for seconds in [3599, 43_201] {
        refused(place.iam.create_role(new(Some(seconds), POLICY), &any, by()), Kind::Usage, "ValidationException");
    }
    refused(place.iam.create_role(new(None, POLICY), &none, by()), Kind::Usage, "ValidationException");
    let long = format!("{}{}", "x".repeat(MAX_TRUST + 1), " ".repeat(10));
    let refusal = place.iam.create_role(new(None, &long), &any, by());
    refused(refusal, Kind::InvalidState, "LimitExceededException");
    let most = format!("{}{}", "x".repeat(MAX_TRUST), " ".repeat(10));
    let role = place.iam.create_role(new(None, &most), &any, by()).unwrap();
    assert_eq!((role.max_session_seconds, &role.id[..4]), (3600, "AROA"));
    let role = place.iam.update_trust_policy(&deploy(), POLICY, &|new, _| any(new), by()).unwrap();
    assert_eq!(role.trust, POLICY);
    refused(
        place.iam.update_trust_policy(&deploy(), POLICY, &|new, _| none(new), by()),
        Kind::Usage,
        "ValidationException",
    );
    place.user("alice");
    refused(
        place.iam.update_trust_policy(&alice(), POLICY, &|new, _| any(new), by()),
        Kind::Usage,
        "ValidationException",
    );
}

#[test]
fn inline_policies_are_put_shown_and_deleted() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    for of in [alice(), deploy()] {
        place.iam.put_policy(&of, "b", POLICY, &any, by()).unwrap();
        place.iam.put_policy(&of, "a", "{}", &any, by()).unwrap();
        place.iam.put_policy(&of, "b", "{ }", &any, by()).unwrap();
        assert_eq!(place.iam.policy(&of, "b").unwrap(), "{ }");
        let names: Vec<String> = place.iam.policies(&of).unwrap().into_keys().collect();
        assert_eq!(names, ["a", "b"]);
        refused(place.iam.put_policy(&of, "c", POLICY, &none, by()), Kind::Usage, "ValidationException");
        refused(place.iam.put_policy(&of, "c d", POLICY, &any, by()), Kind::Usage, "ValidationException");
        // White space does not count.
        let most = format!("{}{}", "x".repeat(MAX_POLICIES - 4), " ".repeat(100));
        place.iam.put_policy(&of, "c", &most, &any, by()).unwrap();
        let more = place.iam.put_policy(&of, "d", "x", &any, by());
        refused(more, Kind::InvalidState, "LimitExceededException");
        place.iam.delete_policy(&of, "c", by()).unwrap();
        refused(place.iam.delete_policy(&of, "c", by()), Kind::NotFound, "NotFoundException");
        refused(place.iam.policy(&of, "c"), Kind::NotFound, "NotFoundException");
    }
    let root = PrincipalRef::root(FIRST);
    refused(place.iam.put_policy(&root, "a", POLICY, &any, by()), Kind::Usage, "ValidationException");
    let acts: BTreeSet<String> = place.acts().into_iter().map(|(act, _)| act).collect();
    for act in ["CreateUser", "CreateRole", "PutUserPolicy", "PutRolePolicy", "DeleteUserPolicy", "DeleteRolePolicy"] {
        assert!(acts.contains(&format!("iam:{act}")), "{act} is not among {acts:?}");
    }
}

#[test]
fn what_still_has_something_is_not_deleted() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let (id, _) = place.key(&alice());
    let delete = |of: &PrincipalRef| place.iam.delete_principal(of, &NOWHERE, by());
    refused(delete(&alice()), Kind::InvalidState, "DeleteConflict");
    place.iam.delete_access_key(&id, by()).unwrap();
    for of in [alice(), deploy()] {
        place.iam.put_policy(&of, "a", POLICY, &any, by()).unwrap();
        refused(delete(&of), Kind::InvalidState, "DeleteConflict");
        place.iam.delete_policy(&of, "a", by()).unwrap();
        delete(&of).unwrap();
        refused(delete(&of), Kind::NotFound, "NotFoundException");
    }
    refused(delete(&PrincipalRef::root(FIRST)), Kind::Usage, "ValidationException");
    assert!(place.iam.principals(FIRST).unwrap().0.is_empty());
}

// ---------------------------------------------------------------------------------------------------------------------
// Access keys

#[test]
fn an_access_key_leads_to_its_secret_and_user() {
    let place = Place::new();
    let user = place
        .iam
        .create_user(
            NewUser {
                account: FIRST.into(),
                name: "alice".into(),
                path: Some("/a/".into()),
                tags: tags(&[("t", "v")]),
            },
            by(),
        )
        .unwrap();
    place.iam.put_policy(&alice(), "p", POLICY, &any, by()).unwrap();
    let (id, secret) = place.key(&alice());
    assert_eq!((&id[..4], id.len(), secret.len()), ("AKIA", 20, 40));
    let found = place.iam.credential(&id, None).unwrap();
    assert_eq!(*found.secret, secret);
    let who = found.principal;
    assert_eq!((&*who.arn, &*who.user_id, who.user_name.as_deref()), (&*user.arn(), &*user.id, Some("alice")));
    assert_eq!((who.kind, &*who.account, who.issued, who.mfa), (PrincipalKind::User, FIRST, None, false));
    assert_eq!((who.tags, &*who.policies[0], who.session_policies.len()), (tags(&[("t", "v")]), POLICY, 0));
    let identity = place.iam.get_caller_identity(&place.signer(&alice()));
    assert_eq!(identity, CallerIdentity { arn: user.arn(), user_id: user.id, account: FIRST.into() });
    // The same document is the same Arc until something changes, and a change is seen at once.
    let policy = || place.iam.credential(&id, None).unwrap().principal.policies[0].clone();
    assert!(Arc::ptr_eq(&policy(), &policy()));
    place.iam.put_policy(&alice(), "p", "{}", &any, by()).unwrap();
    assert_eq!(&*policy(), "{}");
}

#[test]
fn known_credentials_are_found_without_the_store() {
    let place = Place::new();
    place.user("alice");
    let (id, _) = place.key(&alice());
    place.iam.credential(&id, None).unwrap();
    let before = place.ledger.catalog().rows_read();
    place.iam.credential(&id, None).unwrap();
    assert_eq!(place.ledger.catalog().rows_read(), before);
}

#[test]
fn the_key_of_root_is_that_of_the_account() {
    let place = Place::new();
    let other = place.iam.create_account("team", None, by()).unwrap().id;
    for account in [FIRST, &*other] {
        let who = place.signer(&PrincipalRef::root(account));
        assert_eq!((who.arn, who.kind), (format!("arn:aws:iam::{account}:root"), PrincipalKind::Root));
        assert_eq!((&*who.user_id, who.user_name, who.policies.len()), (account, None, 0));
    }
    let missing = PrincipalRef::root("999999999999");
    refused(place.iam.create_access_key(&missing, by()), Kind::NotFound, "NotFoundException");
}

#[test]
fn a_user_has_at_most_two_access_keys_and_a_role_none() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let (first, second) = (place.key(&alice()).0, place.key(&alice()).0);
    refused(place.iam.create_access_key(&alice(), by()), Kind::InvalidState, "LimitExceededException");
    refused(place.iam.create_access_key(&deploy(), by()), Kind::Usage, "ValidationException");
    let mut ids: Vec<String> = place.iam.access_keys(&alice()).unwrap().into_iter().map(|k| k.id).collect();
    ids.sort();
    let mut wanted = [first.clone(), second];
    wanted.sort();
    assert_eq!(ids, wanted);
    place.iam.delete_access_key(&first, by()).unwrap();
    place.key(&alice());
    refused(place.iam.delete_access_key(&first, by()), Kind::NotFound, "NotFoundException");
}

#[test]
fn an_inactive_or_deleted_access_key_is_refused_at_once() {
    let place = Place::new();
    place.user("alice");
    let (id, secret) = place.key(&alice());
    let look = || place.iam.credential(&id, None);
    look().unwrap();
    assert!(!place.iam.set_access_key_active(&id, false, by()).unwrap().active);
    refused(look(), Kind::AccessDenied, "UnrecognizedClientException");
    assert_eq!(place.iam.set_access_key_active(&id, true, by()).unwrap().user.as_deref(), Some("alice"));
    assert_eq!(*look().unwrap().secret, secret);
    place.iam.delete_access_key(&id, by()).unwrap();
    refused(look(), Kind::AccessDenied, "UnrecognizedClientException");
    for bad in ["", "AKIA", "é", "ASIAIOSFODNN7EXAMPLE"] {
        refused(place.iam.credential(bad, None), Kind::AccessDenied, "UnrecognizedClientException");
    }
    refused(place.iam.set_access_key_active(&id, true, by()), Kind::NotFound, "NotFoundException");
}

#[test]
fn chosen_access_keys_replace_one_another() {
    let place = Place::new();
    let root = PrincipalRef::root(FIRST);
    // The example of AWS's documentation.
    let (id, secret) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    place.iam.put_access_key(id, secret, &root, by()).unwrap();
    assert_eq!(*place.iam.credential(id, None).unwrap().secret, secret);
    place.user("alice");
    let longest = "~".repeat(128);
    place.iam.put_access_key(id, &longest, &alice(), by()).unwrap();
    let found = place.iam.credential(id, None).unwrap();
    assert_eq!((&*found.secret, found.principal.kind), (&longest, PrincipalKind::User));
    place.iam.put_access_key("test", "test", &root, by()).unwrap();
    for (bad, secret) in [("", "x"), ("a b", "x"), ("ASIAX", "x"), ("x", ""), ("x", "a b"), ("x", &"y".repeat(129))] {
        refused(place.iam.put_access_key(bad, secret, &root, by()), Kind::Usage, "ValidationException");
    }
}

#[test]
fn no_record_has_a_secret_in_clear() {
    let place = Place::new();
    place.user("alice");
    let (id, secret) = place.key(&alice());
    let record = place.ledger.catalog().get::<records::AccessKeyRecord>(&id).unwrap().unwrap().record;
    let text = serde_json::to_string(&record).unwrap();
    assert!(!text.contains(&secret) && !text.contains(&hex::encode(&secret)));
    // The length of a secret does not show either.
    place.iam.put_access_key("short", "x", &alice(), by()).unwrap();
    let short = place.ledger.catalog().get::<records::AccessKeyRecord>("short").unwrap().unwrap().record;
    assert_eq!(short.sealed.len(), record.sealed.len());
    // A sealed secret opens under its own id alone.
    assert!(place.iam.open_secret("short", &record.sealed, 1).is_err());
    assert!(place.iam.open_secret(&id, &record.sealed, 2).is_err());
    let made = place.iam.create_access_key(&PrincipalRef::root(FIRST), by()).unwrap();
    assert!(!format!("{made:?}").contains(&**made.secret));
}

// ---------------------------------------------------------------------------------------------------------------------
// Sessions

/// The credential of a session.
fn of(place: &Place, session: &SessionCredentials) -> Result<Credential> {
    place.iam.credential(&session.access_key_id, Some(&session.token))
}

#[test]
fn the_session_of_a_role_is_the_role_with_a_name() {
    let place = Place::new();
    let account = place.iam.create_account("team", None, by()).unwrap().id;
    let new = NewRole {
        account: account.clone(),
        path: Some("/ci/".into()),
        name: "deploy".into(),
        trust: POLICY.into(),
        tags: tags(&[("Team", "core"), ("env", "test")]),
        ..NewRole::default()
    };
    let role = place.iam.create_role(new, &any, by()).unwrap();
    place.user("alice");
    let caller = place.signer(&alice());
    let request = AssumeRole {
        role_arn: role.arn(),
        policy: Some("{}".into()),
        tags: tags(&[("team", "web")]),
        external_id: Some("a:b/c".into()),
        ..request()
    };
    let seen = std::cell::RefCell::new(None);
    let allow = |role: &Role| {
        *seen.borrow_mut() = Some(role.id.clone());
        Ok(())
    };
    let made = place.iam.assume_role(&request, &caller, &any, &allow, by()).unwrap();
    assert_eq!(seen.into_inner().as_deref(), Some(&*role.id));
    assert_eq!(made.arn, format!("arn:aws:sts::{account}:assumed-role/deploy/build-7"));
    assert_eq!(made.id, format!("{}:build-7", role.id));
    assert_eq!(made.credentials.expires, Timestamp(START + 3_600_000));
    let found = of(&place, &made.credentials).unwrap();
    assert_eq!(*found.secret, *made.credentials.secret);
    let who = found.principal;
    assert_eq!((who.arn, who.user_id, who.account), (made.arn, made.id, account));
    assert_eq!((who.kind, who.user_name), (PrincipalKind::Session, None));
    assert_eq!((who.role_arn, who.session_name.as_deref()), (Some(role.arn()), Some("build-7")));
    assert_eq!(who.tags, tags(&[("env", "test"), ("team", "web")]), "the session's tags take precedence, in any case");
    assert_eq!((who.issued, who.session_policies), (Some(Timestamp(START)), vec![Arc::from("{}")]));
    assert!(place.acts().contains(&("sts:AssumeRole".into(), "ok".into())));
}

#[test]
fn a_refused_session_says_the_same_for_a_role_that_does_not_exist() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let caller = place.signer(&alice());
    let with = |role_arn: &str| AssumeRole { role_arn: role_arn.into(), ..request() };
    let missing = refused(
        place.assume(&with(&format!("arn:aws:iam::{FIRST}:role/x")), &caller),
        Kind::AccessDenied,
        "AccessDeniedException",
    );
    assert!(missing.line().starts_with(&format!("User: {} is not authorized to perform: sts:AssumeRole", caller.arn)));
    for arn in ["role/DEPLOY", "role/a/deploy", "user/alice", "root"] {
        let request = with(&format!("arn:aws:iam::{FIRST}:{arn}"));
        refused(place.assume(&request, &caller), Kind::AccessDenied, "AccessDeniedException");
    }
    let root = place.signer(&PrincipalRef::root(FIRST));
    refused(place.assume(&request(), &root), Kind::AccessDenied, "AccessDeniedException");
    let deny = |_: &Role| Err(Error::new(Kind::AccessDenied, "not you"));
    let err = refused(
        place.iam.assume_role(&request(), &caller, &any, &deny, by()),
        Kind::AccessDenied,
        "AccessDeniedException",
    );
    assert_eq!(err.what(), "not you");
    for arn in ["deploy", "role/deploy", "arn:aws:sts::1:x"] {
        refused(place.assume(&with(arn), &caller), Kind::Usage, "InvalidArnException");
    }
    assert!(place.acts().contains(&("sts:AssumeRole".into(), "refused".into())));
    assert!(!place.acts().contains(&("sts:AssumeRole".into(), "ok".into())));
}

#[test]
fn the_parameters_of_a_session_are_checked() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let caller = place.signer(&alice());
    for bad in [
        AssumeRole { session_name: "x".into(), ..request() },
        AssumeRole { session_name: "x".repeat(65), ..request() },
        AssumeRole { session_name: "a b".into(), ..request() },
        AssumeRole { duration_seconds: Some(899), ..request() },
        AssumeRole { duration_seconds: Some(3601), ..request() },
        AssumeRole { policy: Some("x".repeat(MAX_SESSION_POLICY + 1)), ..request() },
        AssumeRole { tags: tags(&[("aws:x", "")]), ..request() },
        AssumeRole { transitive: BTreeSet::from(["t".into()]), ..request() },
        AssumeRole { external_id: Some("x".into()), ..request() },
        AssumeRole { external_id: Some("a b".into()), ..request() },
    ] {
        refused(place.assume(&bad, &caller), Kind::Usage, "ValidationException");
    }
    let malformed = AssumeRole { policy: Some("{}".into()), ..request() };
    let made = place.iam.assume_role(&malformed, &caller, &none, &|_| Ok(()), by());
    refused(made, Kind::Usage, "ValidationException");
    let many = (0..50).map(|i| (format!("k{i:0127}"), "v".repeat(256))).collect();
    let large = AssumeRole { tags: many, ..request() };
    refused(place.assume(&large, &caller), Kind::Usage, "PackedPolicyTooLarge");
    let longest = AssumeRole { policy: Some("\"".repeat(MAX_SESSION_POLICY)), ..request() };
    let made = place.assume(&longest, &caller).unwrap();
    assert!(made.packed_percent > 30 && made.packed_percent < 100, "{}", made.packed_percent);
}

#[test]
fn a_session_ends_at_its_time() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let made = place.assume(&AssumeRole { duration_seconds: Some(900), ..request() }, &place.signer(&alice())).unwrap();
    place.pass(899);
    of(&place, &made.credentials).unwrap();
    place.pass(1);
    let err = refused(of(&place, &made.credentials), Kind::AccessDenied, "ExpiredTokenException");
    assert_eq!(err.why(), Some(Reason::ExpiredToken));
}

#[test]
fn a_token_is_good_for_its_own_access_key_alone() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let caller = place.signer(&alice());
    let [a, b] = [(); 2].map(|()| place.assume(&request(), &caller).unwrap().credentials);
    refused(place.iam.credential(&a.access_key_id, Some(&b.token)), Kind::AccessDenied, "UnrecognizedClientException");
    refused(place.iam.credential(&a.access_key_id, None), Kind::AccessDenied, "UnrecognizedClientException");
    let long_lived = place.iam.access_keys(&alice()).unwrap()[0].id.clone();
    refused(place.iam.credential(&long_lived, Some(&a.token)), Kind::AccessDenied, "UnrecognizedClientException");
    assert!(!format!("{a:?}").contains(&*a.token) && !format!("{a:?}").contains(&**a.secret));
}

#[test]
fn revoking_ends_sessions_so_far_and_no_later_ones() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let caller = place.signer(&alice());
    let role = || place.assume(&request(), &caller).unwrap().credentials;
    let user = || place.iam.get_session_token(&caller, None, by()).unwrap();
    let (of_role, of_user) = (role(), user());
    // At the same millisecond: what was issued before ends, what is issued after does not.
    place.iam.revoke_sessions(&deploy(), by()).unwrap();
    refused(of(&place, &of_role), Kind::AccessDenied, "UnrecognizedClientException");
    of(&place, &of_user).unwrap();
    let later = role();
    of(&place, &later).unwrap();
    // A clock that is set back revokes nothing less.
    place.pass(-60);
    place.iam.revoke_sessions(&deploy(), by()).unwrap();
    refused(of(&place, &of_role), Kind::AccessDenied, "UnrecognizedClientException");
    of(&place, &role()).unwrap();
    place.pass(120);
    place.iam.revoke_sessions(&alice(), by()).unwrap();
    refused(of(&place, &of_user), Kind::AccessDenied, "UnrecognizedClientException");
    of(&place, &user()).unwrap();
    // Access keys are not sessions.
    place.iam.credential(&place.iam.access_keys(&alice()).unwrap()[0].id, None).unwrap();
    refused(place.iam.revoke_sessions(&PrincipalRef::root(FIRST), by()), Kind::Usage, "ValidationException");
}

#[test]
fn deleting_the_role_ends_its_sessions_even_if_it_is_made_again() {
    let place = Place::new();
    drop((place.user("alice"), place.role("deploy")));
    let caller = place.signer(&alice());
    let made = place.assume(&request(), &caller).unwrap().credentials;
    of(&place, &made).unwrap();
    place.iam.delete_principal(&deploy(), &NOWHERE, by()).unwrap();
    refused(of(&place, &made), Kind::AccessDenied, "UnrecognizedClientException");
    place.role("deploy");
    refused(of(&place, &made), Kind::AccessDenied, "UnrecognizedClientException");
}

#[test]
fn a_session_of_a_user_has_the_users_policies_as_they_are_now() {
    let place = Place::new();
    let user = place.user("alice");
    let caller = place.signer(&alice());
    let made = place.iam.get_session_token(&caller, None, by()).unwrap();
    assert_eq!(made.expires, Timestamp(START + 43_200_000));
    place.iam.put_policy(&alice(), "p", POLICY, &any, by()).unwrap();
    let who = of(&place, &made).unwrap().principal;
    assert_eq!((&*who.arn, &*who.user_id, who.kind), (&*user.arn(), &*user.id, PrincipalKind::User));
    assert_eq!(
        (who.user_name.as_deref(), who.issued, &*who.policies[0]),
        (Some("alice"), Some(Timestamp(START)), POLICY)
    );
    for seconds in [899, 129_601] {
        let refusal = place.iam.get_session_token(&caller, Some(seconds), by());
        refused(refusal, Kind::Usage, "ValidationException");
    }
    place.iam.get_session_token(&caller, Some(129_600), by()).unwrap();
    for caller in [who, place.signer(&PrincipalRef::root(FIRST))] {
        refused(place.iam.get_session_token(&caller, None, by()), Kind::AccessDenied, "AccessDeniedException");
    }
}

#[test]
fn a_chained_session_is_short_and_inherits_transitive_tags() {
    let place = Place::new();
    place.user("alice");
    for name in ["first", "deploy"] {
        let new = NewRole {
            account: FIRST.into(),
            name: name.into(),
            trust: POLICY.into(),
            max_session_seconds: Some(43_200),
            ..NewRole::default()
        };
        place.iam.create_role(new, &any, by()).unwrap();
    }
    let first = AssumeRole {
        role_arn: format!("arn:aws:iam::{FIRST}:role/first"),
        duration_seconds: Some(43_200),
        policy: Some(POLICY.into()),
        tags: tags(&[("project", "x"), ("other", "y")]),
        transitive: BTreeSet::from(["project".into()]),
        ..request()
    };
    let session = place.assume(&first, &place.signer(&alice())).unwrap().credentials;
    let caller = of(&place, &session).unwrap().principal;
    let long = AssumeRole { duration_seconds: Some(3601), ..request() };
    refused(place.assume(&long, &caller), Kind::Usage, "ValidationException");
    let again = AssumeRole { tags: tags(&[("PROJECT", "z")]), ..request() };
    refused(place.assume(&again, &caller), Kind::Usage, "ValidationException");
    let second = place.assume(&AssumeRole { tags: tags(&[("own", "z")]), ..request() }, &caller).unwrap().credentials;
    let who = of(&place, &second).unwrap().principal;
    assert_eq!(who.tags, tags(&[("own", "z"), ("project", "x")]));
    assert_eq!(who.transitive, BTreeSet::from(["project".into()]));
    assert!(who.session_policies.is_empty(), "a session policy limits its own session only");
}
