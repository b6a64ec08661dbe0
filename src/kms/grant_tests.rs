//! Policies and grants as the KMS keeps them: what they let whom do with real keys.

use super::*;
use crate::kms::testing::{ACCOUNT, Place, caller, service, user};
use crate::kms::{aws_code, policy::VOLUME_SERVICE};

fn code<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(e) => aws_code(&e),
    }
}

const DENIED: &str = "AccessDeniedException";

fn arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

/// Alice manages the key; who else may use it is what a test adds.
fn managed(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(
        r#"{{"Version": "2012-10-17", "Statement": [
            {{"Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Resource": "*",
              "Action": ["kms:*KeyPolicy", "kms:*Grant*", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey"]}}{comma}{more}]}}"#,
        arn("alice"),
    )
}

fn key_under(kms: &Kms, policy: &str) -> KeyRef {
    kms.create_key_with("", Some(policy), false, &caller()).unwrap().key_id.into()
}

fn for_user(name: &str, operations: &[Operation]) -> GrantSpec {
    let operations = operations.iter().copied().collect();
    GrantSpec { grantee: arn(name), retiring: None, operations, constraint: None, name: None }
}

#[test]
fn what_a_policy_does_not_allow_is_refused_in_awss_words_and_audited() {
    let place = Place::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let none = EncryptionContext::new();
    // An administrator of the account has no say where the policy does not leave it to the account.
    let err = kms.encrypt(&key, &none, b"x", &caller()).unwrap_err();
    assert_eq!((err.kind(), err.kind().row().exit), (Kind::AccessDenied, 6));
    let words = format!("User: {} is not authorized to perform: kms:Encrypt on resource: arn:aws:kms:", arn("alice"));
    assert!(err.what().starts_with(&words), "{}", err.line());
    assert!(err.what().ends_with("because no resource-based policy allows the kms:Encrypt action"), "{}", err.line());
    assert_eq!(code(kms.rotate_key_on_demand(&key, &caller())), DENIED);
    assert_eq!(code(kms.schedule_key_deletion(&key, 7, &caller())), DENIED);
    assert_eq!(code(kms.create_alias("alias/a", &key, &caller())), DENIED);
    assert_eq!(code(kms.new_volume_key(&key, &none, &service())), DENIED);
    assert_eq!(code(kms.disable_key(&key, &caller())), "ok");
    assert_eq!(code(kms.ask(&key, "ListKeyRotations", &caller())), DENIED);
    let last = kms.audit_records().unwrap().last().unwrap().unwrap().body;
    assert_eq!(last.key, Some(kms.describe_key(&key).unwrap().arn), "the record names the key");
    let refused: Vec<String> = kms
        .audit_records()
        .unwrap()
        .map(|r| r.unwrap())
        .filter(|r| r.body.result == "refused")
        .map(|r| r.body.act)
        .collect();
    let acts =
        ["Encrypt", "RotateKeyOnDemand", "ScheduleKeyDeletion", "CreateAlias", "GenerateVolumeKey", "ListKeyRotations"];
    assert_eq!(refused, acts.map(|a| format!("kms:{a}")));
}

#[test]
fn the_default_policy_asks_what_a_principal_may_by_itself() {
    let place = Place::new();
    let kms = place.init();
    let key = KeyRef::from(kms.create_key("", &caller()).unwrap().key_id);
    let arn_of = kms.describe_key(&key).unwrap().arn;
    let none = EncryptionContext::new();
    let (blob, data_key) = kms.new_volume_key(&key, &none, &service()).unwrap();
    let id = data_key.get().id();
    let bob = user("bob", Authority::Volumes(vec![arn_of]));
    let through = Caller { via_service: Some(VOLUME_SERVICE.into()), ..bob.clone() };
    assert_eq!(code(kms.unwrap_volume_key(&blob, &none, id, &through)), "ok");
    assert_eq!(code(kms.ask_for_volume(&key, &none, &through)), "ok");
    assert_eq!(code(kms.ask_for_volume(&key, &none, &bob)), DENIED, "not without the service");
    assert_eq!(code(kms.new_volume_key(&key, &none, &through)), DENIED);
    assert_eq!(code(kms.disable_key(&key, &through)), DENIED);
    let elsewhere = Caller { authority: Authority::Volumes(vec!["arn:other".into()]), ..through.clone() };
    let err = kms.unwrap_volume_key(&blob, &none, id, &elsewhere).unwrap_err();
    assert!(err.what().ends_with("because no identity-based policy allows the kms:Decrypt action"), "{}", err.line());
    let nothing = Caller { authority: Authority::Nothing, ..through };
    assert_eq!(code(kms.unwrap_volume_key(&blob, &none, id, &nothing)), DENIED);
    assert_eq!(code(kms.ask_for_volume(&key, &none, &user("root", Authority::Settled))), "ok", "coffer itself");
}

#[test]
fn a_policy_is_kept_as_it_was_put_and_no_author_locks_himself_out_by_accident() {
    let place = Place::new();
    let kms = place.init();
    let key = KeyRef::from(kms.create_key("", &caller()).unwrap().key_id);
    let shown = kms.get_key_policy(&key, &caller()).unwrap();
    assert!(shown.contains(&format!("arn:aws:iam::{ACCOUNT}:root")), "{shown}");
    let out = managed("").replace("alice", "carol");
    let err = kms.put_key_policy(&key, &out, false, &caller()).unwrap_err();
    assert_eq!(aws_code(&err), "MalformedPolicyDocumentException");
    assert!(err.what().contains("could not put another one"), "{}", err.line());
    assert_eq!(code(kms.create_key_with("", Some(&out), false, &caller())), "MalformedPolicyDocumentException");
    kms.put_key_policy(&key, &managed(""), false, &caller()).unwrap();
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(kms.get_key_policy(&key, &caller()).unwrap(), managed(""));
    kms.put_key_policy(&key, &out, true, &caller()).unwrap();
    assert_eq!(code(kms.get_key_policy(&key, &caller())), DENIED);
    assert_eq!(code(kms.put_key_policy(&key, &managed(""), true, &caller())), DENIED);
    // The way back is the account's root alone.
    assert_eq!(code(kms.reset_key_policy(&key, &caller())), DENIED);
    let root = Caller { principal: format!("arn:aws:iam::{ACCOUNT}:root"), ..caller() };
    assert_eq!(code(kms.get_key_policy(&key, &root)), DENIED, "the root is bound by the policy as well");
    let named_root = Caller { authority: Authority::Nothing, ..root.clone() };
    assert_eq!(code(kms.reset_key_policy(&key, &named_root)), DENIED);
    kms.reset_key_policy(&key, &root).unwrap();
    assert_eq!(kms.get_key_policy(&key, &caller()).unwrap(), shown);
    let ebs = KeyRef::ebs_default();
    kms.new_volume_key(&ebs, &EncryptionContext::new(), &service()).unwrap();
    assert_eq!(code(kms.put_key_policy(&ebs, &managed(""), true, &caller())), DENIED);
    assert_eq!(code(kms.reset_key_policy(&ebs, &root)), DENIED);
    assert_eq!(code(kms.get_key_policy(&ebs, &caller())), "ok");
    assert_eq!(code(kms.ask(&ebs, "Decrypt", &caller())), DENIED);
}

#[test]
fn a_policy_that_this_build_does_not_understand_lets_nobody_in_and_can_be_reset() {
    let place = Place::new();
    let kms = place.init();
    let key = KeyRef::from(kms.create_key("", &caller()).unwrap().key_id);
    let id = kms.describe_key(&key).unwrap().key_id;
    let newer = managed("").replace("\"Effect\"", "\"Mood\": \"fair\", \"Effect\"");
    kms.audited(&caller(), Act::new("test:Newer"), |tx| {
        let mut found = kms.load(id)?;
        found.record.policy = Some(newer.clone());
        tx.update(&found.record, found.version)
    })
    .unwrap();
    let err = kms.encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap_err();
    assert_eq!(err.kind(), Kind::AccessDenied);
    assert!(err.line().contains("Statement[0].Mood") && err.line().contains("policy reset"), "{}", err.line());
    let root = Caller { principal: format!("arn:aws:iam::{ACCOUNT}:root"), ..caller() };
    assert_eq!(code(kms.get_key_policy(&key, &root)), DENIED);
    kms.reset_key_policy(&key, &root).unwrap();
    assert_eq!(code(kms.encrypt(&key, &EncryptionContext::new(), b"x", &caller())), "ok");
}

#[test]
fn a_grant_allows_what_the_policy_is_silent_about_and_a_deny_wins() {
    let place = Place::new();
    let kms = place.init();
    let policy = managed(&format!(
        r#"{{"Effect": "Deny", "Principal": {{"AWS": "{}"}}, "Action": "kms:Decrypt", "Resource": "*"}}"#,
        arn("carol")
    ));
    let key = key_under(&kms, &policy);
    let none = EncryptionContext::new();
    let (bob, carol) = (user("bob", Authority::Nothing), user("carol", Authority::Nothing));
    assert_eq!(code(kms.encrypt(&key, &none, b"x", &bob)), DENIED);
    let both = [Operation::Encrypt, Operation::Decrypt];
    let (of_bob, _) = kms.create_grant(&key, for_user("bob", &both), &caller()).unwrap();
    kms.create_grant(&key, for_user("carol", &both), &caller()).unwrap();
    let blob = kms.encrypt(&key, &none, b"x", &bob).unwrap().blob;
    assert_eq!(code(kms.decrypt(&blob, &none, None, &bob)), "ok");
    assert_eq!(code(kms.generate_data_key(&key, crate::kms::DataKeySpec::Aes256, &none, &bob)), DENIED);
    assert_eq!(code(kms.encrypt(&key, &none, b"x", &carol)), "ok");
    let err = kms.decrypt(&blob, &none, None, &carol).unwrap_err();
    assert!(err.what().ends_with("with an explicit deny in a resource-based policy"), "{}", err.line());
    assert_eq!(code(kms.revoke_grant(&key, &of_bob.id, &bob)), DENIED);
    kms.revoke_grant(&key, &of_bob.id, &caller()).unwrap();
    assert_eq!(code(kms.encrypt(&key, &none, b"x", &bob)), DENIED);
    assert_eq!(code(kms.revoke_grant(&key, &of_bob.id, &caller())), "NotFoundException");
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(kms.list_grants(&key, &GrantFilter::default(), &caller()).unwrap().len(), 1, "carol's is kept");
}

#[test]
fn a_constraint_is_held_against_the_encryption_context() {
    let place = Place::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let of = |pairs: &[(&str, &str)]| {
        let mut context = EncryptionContext::new();
        pairs.iter().for_each(|(k, v)| context.insert(*k, *v).unwrap());
        context
    };
    let one = of(&[("Department", "IT")]);
    let two = of(&[("Department", "IT"), ("Purpose", "Test")]);
    for (name, constraint, exact, more) in
        [("dave", Constraint::Equals(one.clone()), "ok", DENIED), ("erin", Constraint::Subset(one.clone()), "ok", "ok")]
    {
        let spec =
            GrantSpec { constraint: Some(constraint), ..for_user(name, &[Operation::Encrypt, Operation::DescribeKey]) };
        kms.create_grant(&key, spec, &caller()).unwrap();
        let who = user(name, Authority::Nothing);
        assert_eq!(code(kms.encrypt(&key, &one, b"x", &who)), exact, "{name}");
        assert_eq!(code(kms.encrypt(&key, &two, b"x", &who)), more, "{name}");
        assert_eq!(
            code(kms.encrypt(&key, &of(&[("DEPARTMENT", "IT")]), b"x", &who)),
            exact,
            "{name}: names have no case"
        );
        assert_eq!(code(kms.encrypt(&key, &of(&[("Department", "it")]), b"x", &who)), DENIED, "{name}: values have");
        assert_eq!(code(kms.encrypt(&key, &of(&[]), b"x", &who)), DENIED, "{name}");
        assert_eq!(code(kms.ask(&key, "DescribeKey", &who)), "ok", "{name}: no context goes with that");
    }
}

#[test]
fn a_name_makes_a_grant_the_same_one_again() {
    let place = Place::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let named = GrantSpec { name: Some("backup".into()), ..for_user("bob", &[Operation::Decrypt]) };
    let (first, token) = kms.create_grant(&key, named.clone(), &caller()).unwrap();
    assert!(first.id.len() == 64 && first.id.bytes().all(|b| b.is_ascii_hexdigit()));
    let (again, same) = kms.create_grant(&key, named.clone(), &caller()).unwrap();
    assert_eq!((&again.id, &same), (&first.id, &token));
    let other = GrantSpec { operations: BTreeSet::from([Operation::Encrypt]), ..named };
    assert_ne!(kms.create_grant(&key, other, &caller()).unwrap().0.id, first.id);
    let unnamed = || kms.create_grant(&key, for_user("bob", &[Operation::Decrypt]), &caller()).unwrap().0.id;
    assert_ne!(unnamed(), unnamed());
    let bob = GrantFilter { grantee: Some(arn("bob")), ..GrantFilter::default() };
    assert_eq!(kms.list_grants(&key, &bob, &caller()).unwrap().len(), 4);
    let one = GrantFilter { id: Some(first.id.clone()), ..GrantFilter::default() };
    assert_eq!(kms.list_grants(&key, &one, &caller()).unwrap(), [first]);
    for (bad, words) in [
        (for_user("bob", &[]), "allows nothing"),
        (GrantSpec { grantee: "bob".into(), ..for_user("bob", &[Operation::Decrypt]) }, "\"bob\""),
        (GrantSpec { name: Some("a b".into()), ..for_user("bob", &[Operation::Decrypt]) }, "name"),
    ] {
        let err = kms.create_grant(&key, bad, &caller()).unwrap_err();
        assert!(err.kind() == Kind::Usage && err.what().contains(words), "{}", err.line());
    }
    assert!("Sign".parse::<Operation>().unwrap_err().line().contains("GenerateDataKeyWithoutPlaintext"));
    kms.disable_key(&key, &caller()).unwrap();
    assert_eq!(code(kms.create_grant(&key, for_user("bob", &[Operation::Decrypt]), &caller())), "DisabledException");
}

#[test]
fn a_grant_is_given_back_by_those_whom_it_names() {
    let place = Place::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let give = |retire_itself: bool| {
        let mut spec = GrantSpec { retiring: Some(arn("dave")), ..for_user("bob", &[Operation::Decrypt]) };
        spec.operations.extend(retire_itself.then_some(Operation::RetireGrant));
        kms.create_grant(&key, spec, &caller()).unwrap()
    };
    let who = |name: &str| user(name, Authority::Nothing);
    let retire = |(grant, _): &(Grant, String), by: &Caller| kms.retire_grant(Some(&key), Some(&grant.id), None, by);
    let (a, b, c) = (give(false), give(true), give(false));
    assert_eq!(code(retire(&a, &who("bob"))), DENIED, "its operations do not say so");
    assert_eq!(code(retire(&a, &who("carol"))), DENIED);
    let retirable = |by: &Caller| kms.list_retirable_grants(&arn("dave"), by).map(|g| g.len());
    assert_eq!(retirable(&who("dave")).unwrap(), 3);
    assert_eq!(code(retirable(&who("bob"))), DENIED);
    assert_eq!(code(retire(&b, &who("bob"))), "ok");
    assert_eq!(code(kms.retire_grant(None, None, Some(&a.1), &who("dave"))), "ok");
    assert_eq!(code(kms.retire_grant(None, None, Some(&a.1), &who("dave"))), "NotFoundException");
    assert_eq!(code(kms.retire_grant(None, None, None, &who("dave"))), "ValidationException");
    let stranger = Caller { principal: "arn:aws:iam::444455556666:root".into(), ..caller() };
    assert_eq!(code(retire(&c, &stranger)), DENIED);
    assert_eq!(code(retire(&c, &caller())), "ok", "the account's administrator");
}

#[test]
fn who_may_give_by_a_grant_gives_no_more_than_it_has() {
    let place = Place::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let context = EncryptionContext::of("a", "1");
    let own = GrantSpec {
        constraint: Some(Constraint::Subset(context.clone())),
        ..for_user("bob", &[Operation::Decrypt, Operation::CreateGrant])
    };
    kms.create_grant(&key, own, &caller()).unwrap();
    let bob = user("bob", Authority::Nothing);
    let give = |operations: &[Operation], constraint: Option<Constraint>| {
        code(kms.create_grant(&key, GrantSpec { constraint, ..for_user("erin", operations) }, &bob))
    };
    let mut wider = context.clone();
    wider.insert("b", "2").unwrap();
    assert_eq!(give(&[Operation::Decrypt], Some(Constraint::Equals(context.clone()))), "ok");
    assert_eq!(give(&[Operation::Decrypt], Some(Constraint::Subset(wider))), "ok");
    assert_eq!(give(&[Operation::Decrypt], None), DENIED);
    assert_eq!(give(&[Operation::Decrypt], Some(Constraint::Subset(EncryptionContext::of("b", "1")))), DENIED);
    assert_eq!(give(&[Operation::Encrypt], Some(Constraint::Equals(context))), DENIED);
}

#[test]
fn a_lease_lives_by_its_grant_alone() {
    let place = Place::new();
    let kms = place.init();
    let key = KeyRef::from(kms.create_key("", &caller()).unwrap().key_id);
    let id = kms.describe_key(&key).unwrap().key_id;
    let context = EncryptionContext::of("aws:ebs:id", "vol-1");
    let (blob, data_key) = kms.new_volume_key(&key, &context, &service()).unwrap();
    let data_key = data_key.get().id();
    let grant = kms.lease_grant(id, &context, &caller());
    kms.audited(&caller(), Act::new("test:Lease"), |tx| grant.put(tx)).unwrap();
    kms.put_key_policy(&key, &managed(""), false, &caller()).unwrap();
    let held = Caller { authority: Authority::Grants(vec![grant.id.clone()]), ..service() };
    assert_eq!(code(kms.unwrap_volume_key(&blob, &context, data_key, &service())), DENIED, "a first attach");
    assert_eq!(code(kms.unwrap_volume_key(&blob, &context, data_key, &held)), "ok");
    assert_eq!(code(kms.ask_for_volume(&key, &context, &held)), "ok");
    assert_eq!(code(kms.ask_for_volume(&key, &EncryptionContext::of("aws:ebs:id", "vol-2"), &held)), DENIED);
    assert_eq!(code(kms.encrypt(&key, &context, b"x", &held)), DENIED, "for nothing else");
    let last = kms.audit_records().unwrap().map(|r| r.unwrap()).filter(|r| r.body.act == "kms:UnwrapVolumeKey").last();
    assert_eq!(last.unwrap().body.detail["grant"], grant.id);
    kms.put_key_policy(
        &key,
        &managed(r#"{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}"#),
        false,
        &caller(),
    )
    .unwrap();
    assert_eq!(
        code(kms.unwrap_volume_key(&blob, &context, data_key, &held)),
        DENIED,
        "a Deny for all is for leases too"
    );
    kms.put_key_policy(&key, &managed(""), false, &caller()).unwrap();
    kms.revoke_grant(&key, &grant.id, &caller()).unwrap();
    let err = kms.unwrap_volume_key(&blob, &context, data_key, &held).unwrap_err();
    assert!(err.line().contains("was revoked") && err.line().contains("attach it again"), "{}", err.line());
}

#[test]
fn grants_go_with_their_key() {
    let place = Place::new();
    let kms = place.init();
    let key = KeyRef::from(kms.create_key("", &caller()).unwrap().key_id);
    let (grant, _) = kms.create_grant(&key, for_user("bob", &[Operation::Decrypt]), &caller()).unwrap();
    kms.schedule_key_deletion(&key, 7, &caller()).unwrap();
    assert_eq!(code(kms.revoke_grant(&key, &"0".repeat(64), &caller())), "NotFoundException");
    place.pass_days(8);
    assert_eq!(kms.purge_due().unwrap().len(), 1);
    assert!(kms.grant(&grant.id).unwrap().is_none());
}
