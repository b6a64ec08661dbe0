//! Policies and grants as the KMS keeps them: what they let whom do with real keys.

use super::*;
use crate::kms::testing::{ACCOUNT, Site, caller, service, user};
use crate::kms::{Authority, Kms, NewKey};

fn code<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(e) => e.aws(),
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
    kms.keys().create_with(&NewKey { policy: Some(policy), ..NewKey::default() }, &caller()).unwrap().key_id.into()
}

/// Gives a key a policy as an earlier build may have taken it.
fn keep_policy(kms: &Kms, key: &KeyRef, policy: &str) {
    let id = kms.keys().describe(key).unwrap().key_id;
    kms.ledger()
        .audited(&caller(), Act::new("test:Older"), |tx| {
            let mut found = kms.here.store.load(&id.into())?;
            found.record.policy = Some(policy.to_owned());
            tx.update(&found.record, found.version)
        })
        .unwrap();
}

fn for_user(name: &str, operations: &[Operation]) -> GrantSpec {
    let operations = operations.iter().copied().collect();
    GrantSpec { grantee: arn(name), retiring: None, operations, constraint: None, name: None }
}

#[test]
fn what_a_policy_does_not_allow_is_refused_in_awss_words_and_audited() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let none = EncryptionContext::new();
    // An administrator of the account has no say where the policy does not leave it to the account.
    let err = kms.crypto().encrypt(&key, &none, b"x", &caller()).unwrap_err();
    assert_eq!((err.kind(), err.kind().exit_code()), (Kind::AccessDenied, 6));
    let words = format!("User: {} is not authorized to perform: kms:Encrypt on resource: arn:aws:kms:", arn("alice"));
    assert!(err.what().starts_with(&words), "{}", err.line());
    assert!(err.what().ends_with("because no resource-based policy allows the kms:Encrypt action"), "{}", err.line());
    assert_eq!(code(kms.rotations().on_demand(&key, &caller())), DENIED);
    assert_eq!(code(kms.keys().schedule_deletion(&key, 7, &caller())), DENIED);
    assert_eq!(code(kms.aliases().create("alias/a", &key, &caller())), DENIED);
    assert_eq!(code(kms.crypto().new_volume_key(&key, &none, &service())), DENIED);
    assert_eq!(code(kms.keys().disable(&key, &caller())), "ok");
    assert_eq!(code(kms.authorizer().ask(&key, "ListKeyRotations", &caller())), DENIED);
    let last = kms.ledger().audit_records().unwrap().last().unwrap().unwrap().body;
    assert_eq!(last.key, Some(kms.keys().describe(&key).unwrap().arn), "the record names the key");
    let refused: Vec<String> = kms
        .ledger()
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
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let arn_of = kms.keys().describe(&key).unwrap().arn;
    let none = EncryptionContext::new();
    let (blob, data_key) = kms.crypto().new_volume_key(&key, &none, &service()).unwrap();
    let id = data_key.get().id();
    let bob = user("bob", Authority::Volumes(vec![arn_of]));
    let through = Caller { via_service: Some(VOLUME_SERVICE.into()), ..bob.clone() };
    assert_eq!(code(kms.crypto().unwrap_volume_key(&blob, &none, id, &through)), "ok");
    assert_eq!(code(kms.authorizer().ask_for_volume(&key, &none, &through)), "ok");
    assert_eq!(code(kms.authorizer().ask_for_volume(&key, &none, &bob)), DENIED, "not without the service");
    assert_eq!(code(kms.crypto().new_volume_key(&key, &none, &through)), DENIED);
    assert_eq!(code(kms.keys().disable(&key, &through)), DENIED);
    let elsewhere = Caller { authority: Authority::Volumes(vec!["arn:other".into()]), ..through.clone() };
    let err = kms.crypto().unwrap_volume_key(&blob, &none, id, &elsewhere).unwrap_err();
    assert!(err.what().ends_with("because no identity-based policy allows the kms:Decrypt action"), "{}", err.line());
    let nothing = Caller { authority: Authority::Nothing, ..through };
    assert_eq!(code(kms.crypto().unwrap_volume_key(&blob, &none, id, &nothing)), DENIED);
    assert_eq!(
        code(kms.authorizer().ask_for_volume(&key, &none, &user("root", Authority::Settled))),
        "ok",
        "coffer itself"
    );
}

#[test]
fn a_policy_is_kept_as_it_was_put_and_no_author_locks_himself_out_by_accident() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let shown = kms.policies().get(&key, &caller()).unwrap();
    assert!(shown.contains(&format!("arn:aws:iam::{ACCOUNT}:root")), "{shown}");
    let out = managed("").replace("alice", "carol");
    let err = kms.policies().put(&key, &out, false, &caller()).unwrap_err();
    assert_eq!(err.aws(), "MalformedPolicyDocumentException");
    assert!(err.what().contains("could no longer change the key's policy"), "{}", err.line());
    assert_eq!(
        code(kms.keys().create_with(&NewKey { policy: Some(&out), ..NewKey::default() }, &caller())),
        "MalformedPolicyDocumentException"
    );
    kms.policies().put(&key, &managed(""), false, &caller()).unwrap();
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(kms.policies().get(&key, &caller()).unwrap(), managed(""));
    kms.policies().put(&key, &out, true, &caller()).unwrap();
    assert_eq!(code(kms.policies().get(&key, &caller())), DENIED);
    assert_eq!(code(kms.policies().put(&key, &managed(""), true, &caller())), DENIED);
    // The way back is the account's root alone.
    assert_eq!(code(kms.policies().reset(&key, &caller())), DENIED);
    let root = Caller { principal: format!("arn:aws:iam::{ACCOUNT}:root"), ..caller() };
    assert_eq!(code(kms.policies().get(&key, &root)), DENIED, "the root is bound by the policy as well");
    let named_root = Caller { authority: Authority::Nothing, ..root.clone() };
    assert_eq!(code(kms.policies().reset(&key, &named_root)), DENIED);
    kms.policies().reset(&key, &root).unwrap();
    assert_eq!(kms.policies().get(&key, &caller()).unwrap(), shown);
    let ebs = KeyRef::ebs_default();
    kms.crypto().new_volume_key(&ebs, &EncryptionContext::new(), &service()).unwrap();
    assert_eq!(code(kms.policies().put(&ebs, &managed(""), true, &caller())), DENIED);
    assert_eq!(code(kms.policies().reset(&ebs, &root)), DENIED);
    assert_eq!(code(kms.policies().get(&ebs, &caller())), "ok");
    assert_eq!(code(kms.authorizer().ask(&ebs, "Decrypt", &caller())), DENIED);
}

#[test]
fn a_policy_that_this_build_does_not_understand_lets_nobody_in_and_can_be_reset() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let id = kms.keys().describe(&key).unwrap().key_id;
    let newer = managed("").replace("\"Effect\"", "\"Mood\": \"fair\", \"Effect\"");
    kms.ledger()
        .audited(&caller(), Act::new("test:Newer"), |tx| {
            let mut found = kms.here.store.load(&id.into())?;
            found.record.policy = Some(newer.clone());
            tx.update(&found.record, found.version)
        })
        .unwrap();
    let err = kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap_err();
    assert_eq!(err.kind(), Kind::AccessDenied);
    assert!(err.line().contains("Statement[0].Mood") && err.line().contains("policy reset"), "{}", err.line());
    let root = Caller { principal: format!("arn:aws:iam::{ACCOUNT}:root"), ..caller() };
    assert_eq!(code(kms.policies().get(&key, &root)), DENIED);
    kms.policies().reset(&key, &root).unwrap();
    assert_eq!(code(kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller())), "ok");
}

#[test]
fn a_grant_allows_what_the_policy_is_silent_about_and_a_deny_wins() {
    let place = Site::new();
    let kms = place.init();
    let policy = managed(&format!(
        r#"{{"Effect": "Deny", "Principal": {{"AWS": "{}"}}, "Action": "kms:Decrypt", "Resource": "*"}}"#,
        arn("carol")
    ));
    let key = key_under(&kms, &policy);
    let none = EncryptionContext::new();
    let (bob, carol) = (user("bob", Authority::Nothing), user("carol", Authority::Nothing));
    assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &bob)), DENIED);
    let both = [Operation::Encrypt, Operation::Decrypt];
    let (of_bob, _) = kms.grants().create(&key, for_user("bob", &both), &caller()).unwrap();
    kms.grants().create(&key, for_user("carol", &both), &caller()).unwrap();
    let blob = kms.crypto().encrypt(&key, &none, b"x", &bob).unwrap().blob;
    assert_eq!(code(kms.crypto().decrypt(&blob, &none, None, &bob)), "ok");
    assert_eq!(code(kms.crypto().generate_data_key(&key, crate::kms::DataKeySpec::Aes256, &none, &bob)), DENIED);
    assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &carol)), "ok");
    let err = kms.crypto().decrypt(&blob, &none, None, &carol).unwrap_err();
    assert!(err.what().ends_with("with an explicit deny in a resource-based policy"), "{}", err.line());
    assert_eq!(code(kms.grants().revoke(&key, &of_bob.id, &bob)), DENIED);
    kms.grants().revoke(&key, &of_bob.id, &caller()).unwrap();
    assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &bob)), DENIED);
    assert_eq!(code(kms.grants().revoke(&key, &of_bob.id, &caller())), "NotFoundException");
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(kms.grants().list(&key, &GrantFilter::default(), &caller()).unwrap().len(), 1, "carol's is kept");
}

#[test]
fn a_constraint_is_held_against_the_encryption_context() {
    let place = Site::new();
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
        kms.grants().create(&key, spec, &caller()).unwrap();
        let who = user(name, Authority::Nothing);
        assert_eq!(code(kms.crypto().encrypt(&key, &one, b"x", &who)), exact, "{name}");
        assert_eq!(code(kms.crypto().encrypt(&key, &two, b"x", &who)), more, "{name}");
        assert_eq!(
            code(kms.crypto().encrypt(&key, &of(&[("DEPARTMENT", "IT")]), b"x", &who)),
            exact,
            "{name}: names have no case"
        );
        assert_eq!(
            code(kms.crypto().encrypt(&key, &of(&[("Department", "it")]), b"x", &who)),
            DENIED,
            "{name}: values have"
        );
        assert_eq!(code(kms.crypto().encrypt(&key, &of(&[]), b"x", &who)), DENIED, "{name}");
        assert_eq!(code(kms.authorizer().ask(&key, "DescribeKey", &who)), "ok", "{name}: no context goes with that");
    }
}

#[test]
fn a_name_makes_a_grant_the_same_one_again() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let named = GrantSpec { name: Some("backup".into()), ..for_user("bob", &[Operation::Decrypt]) };
    let (first, token) = kms.grants().create(&key, named.clone(), &caller()).unwrap();
    assert!(first.id.len() == 64 && first.id.bytes().all(|b| b.is_ascii_hexdigit()));
    let (again, same) = kms.grants().create(&key, named.clone(), &caller()).unwrap();
    assert_eq!((&again.id, &same), (&first.id, &token));
    let other = GrantSpec { operations: BTreeSet::from([Operation::Encrypt]), ..named };
    assert_ne!(kms.grants().create(&key, other, &caller()).unwrap().0.id, first.id);
    let unnamed = || kms.grants().create(&key, for_user("bob", &[Operation::Decrypt]), &caller()).unwrap().0.id;
    assert_ne!(unnamed(), unnamed());
    let bob = GrantFilter { grantee: Some(arn("bob")), ..GrantFilter::default() };
    assert_eq!(kms.grants().list(&key, &bob, &caller()).unwrap().len(), 4);
    let one = GrantFilter { id: Some(first.id.clone()), ..GrantFilter::default() };
    assert_eq!(kms.grants().list(&key, &one, &caller()).unwrap(), [first]);
    for (bad, words) in [
        (for_user("bob", &[]), "no operation is given"),
        (GrantSpec { grantee: "bob".into(), ..for_user("bob", &[Operation::Decrypt]) }, "\"bob\""),
        (GrantSpec { name: Some("a b".into()), ..for_user("bob", &[Operation::Decrypt]) }, "name"),
    ] {
        let err = kms.grants().create(&key, bad, &caller()).unwrap_err();
        assert!(err.kind() == Kind::Usage && err.what().contains(words), "{}", err.line());
    }
    assert!("EnableKey".parse::<Operation>().unwrap_err().line().contains("GenerateDataKeyWithoutPlaintext"));
    kms.keys().disable(&key, &caller()).unwrap();
    assert_eq!(code(kms.grants().create(&key, for_user("bob", &[Operation::Decrypt]), &caller())), "DisabledException");
}

#[test]
fn a_token_of_an_earlier_version_still_names_its_grant() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let made = kms.grants().create(&key, for_user("bob", &[Operation::Decrypt]), &caller()).unwrap().0;
    drop(kms);
    let kms = place.open().unwrap();
    let old = kms.grants().old_token(&made.id);
    assert_eq!(code(kms.grants().retire(None, None, Some(&"0".repeat(64)), &caller())), "InvalidGrantTokenException");
    assert_eq!(kms.grants().retire(None, None, Some(&old), &caller()).unwrap(), made);
    assert_eq!(code(kms.grants().retire(None, None, Some(&old), &caller())), "InvalidGrantTokenException");
    let before = kms.ledger().catalog().rows_read();
    assert_eq!(code(kms.grants().retire(None, None, Some(&"1".repeat(64)), &caller())), "InvalidGrantTokenException");
    assert_eq!(kms.ledger().catalog().rows_read(), before, "the grants are read once");
}

#[test]
fn a_grant_is_given_back_by_those_whom_it_names() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let give = |retire_itself: bool| {
        let mut spec = GrantSpec { retiring: Some(arn("dave")), ..for_user("bob", &[Operation::Decrypt]) };
        spec.operations.extend(retire_itself.then_some(Operation::RetireGrant));
        kms.grants().create(&key, spec, &caller()).unwrap()
    };
    let who = |name: &str| user(name, Authority::Nothing);
    let retire = |(grant, _): &(Grant, String), by: &Caller| kms.grants().retire(Some(&key), Some(&grant.id), None, by);
    let (a, b, c) = (give(false), give(true), give(false));
    assert_eq!(code(retire(&a, &who("bob"))), DENIED, "its operations do not say so");
    assert_eq!(code(retire(&a, &who("carol"))), DENIED);
    let retirable = |by: &Caller| kms.grants().list_retirable(&arn("dave"), by).map(|g| g.len());
    assert_eq!(retirable(&who("dave")).unwrap(), 3);
    assert_eq!(code(retirable(&who("bob"))), DENIED);
    assert_eq!(code(retire(&b, &who("bob"))), "ok");
    assert_eq!(code(kms.grants().retire(None, None, Some(&a.1), &who("dave"))), "ok");
    assert_eq!(code(kms.grants().retire(None, None, Some(&a.1), &who("dave"))), "InvalidGrantTokenException");
    assert_eq!(code(kms.grants().retire(None, None, None, &who("dave"))), "ValidationException");
    let stranger = Caller { principal: "arn:aws:iam::444455556666:root".into(), ..caller() };
    assert_eq!(code(retire(&c, &stranger)), DENIED);
    assert_eq!(code(retire(&c, &caller())), "ok", "the account's administrator");
}

#[test]
fn who_may_give_by_a_grant_gives_no_more_than_it_has() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let context = EncryptionContext::of("a", "1");
    let own = GrantSpec {
        constraint: Some(Constraint::Subset(context.clone())),
        ..for_user("bob", &[Operation::Decrypt, Operation::CreateGrant])
    };
    kms.grants().create(&key, own, &caller()).unwrap();
    let bob = user("bob", Authority::Nothing);
    let give = |operations: &[Operation], constraint: Option<Constraint>| {
        code(kms.grants().create(&key, GrantSpec { constraint, ..for_user("erin", operations) }, &bob))
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
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let id = kms.keys().describe(&key).unwrap().key_id;
    let context = EncryptionContext::of("aws:ebs:id", "vol-1");
    let (blob, data_key) = kms.crypto().new_volume_key(&key, &context, &service()).unwrap();
    let data_key = data_key.get().id();
    let grant = kms.grants().for_lease(&id.into(), &context, &caller());
    kms.ledger().audited(&caller(), Act::new("test:Lease"), |tx| grant.put(tx)).unwrap();
    kms.policies().put(&key, &managed(""), false, &caller()).unwrap();
    let held = Caller { authority: Authority::Grants(vec![grant.id.clone()]), ..service() };
    assert_eq!(code(kms.crypto().unwrap_volume_key(&blob, &context, data_key, &service())), DENIED, "a first attach");
    assert_eq!(code(kms.crypto().unwrap_volume_key(&blob, &context, data_key, &held)), "ok");
    assert_eq!(code(kms.authorizer().ask_for_volume(&key, &context, &held)), "ok");
    assert_eq!(
        code(kms.authorizer().ask_for_volume(&key, &EncryptionContext::of("aws:ebs:id", "vol-2"), &held)),
        DENIED
    );
    assert_eq!(code(kms.crypto().encrypt(&key, &context, b"x", &held)), DENIED, "for nothing else");
    let last = kms
        .ledger()
        .audit_records()
        .unwrap()
        .map(|r| r.unwrap())
        .filter(|r| r.body.act == "kms:UnwrapVolumeKey")
        .last();
    assert_eq!(last.unwrap().body.detail["grant"], grant.id);
    kms.policies()
        .put(
            &key,
            &managed(r#"{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}"#),
            false,
            &caller(),
        )
        .unwrap();
    assert_eq!(
        code(kms.crypto().unwrap_volume_key(&blob, &context, data_key, &held)),
        DENIED,
        "a Deny for all is for leases too"
    );
    kms.policies().put(&key, &managed(""), false, &caller()).unwrap();
    kms.grants().revoke(&key, &grant.id, &caller()).unwrap();
    let err = kms.crypto().unwrap_volume_key(&blob, &context, data_key, &held).unwrap_err();
    assert!(err.line().contains("was revoked") && err.line().contains("attach it again"), "{}", err.line());
}

#[test]
fn grants_go_with_their_key() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let (grant, _) = kms.grants().create(&key, for_user("bob", &[Operation::Decrypt]), &caller()).unwrap();
    kms.keys().schedule_deletion(&key, 7, &caller()).unwrap();
    assert_eq!(code(kms.grants().revoke(&key, &"0".repeat(64), &caller())), "NotFoundException");
    place.pass_days(8);
    assert_eq!(kms.deletions().purge_due().unwrap().len(), 1);
    assert!(kms.grants().granted.get(&grant.id).unwrap().is_none());
}

/// What a key's side allows a principal of another account is half of it: its own account's side is the other.
#[test]
fn a_principal_of_another_account_needs_its_own_permission_as_well() {
    let place = Site::new();
    let kms = place.init();
    let foreign = |name: &str, authority| Caller {
        principal: format!("arn:aws:iam::444455556666:{name}"),
        authority,
        ..caller()
    };
    let eve = foreign("user/eve", Authority::Nothing);
    let allow = |who: &str| {
        managed(&format!(
            r#"{{"Effect": "Allow", "Principal": {{"AWS": "{who}"}}, "Resource": "*", "Action": ["kms:Encrypt", "kms:RetireGrant"]}}"#
        ))
    };
    let none = EncryptionContext::new();
    for who in [eve.principal.as_str(), "arn:aws:iam::444455556666:root", "444455556666", "*"] {
        let key = key_under(&kms, &allow(who));
        let err = kms.crypto().encrypt(&key, &none, b"x", &eve).unwrap_err();
        assert!(
            err.what().ends_with("because no identity-based policy allows the kms:Encrypt action"),
            "{}",
            err.line()
        );
        assert_eq!(
            code(kms.crypto().encrypt(&key, &none, b"x", &foreign("root", Authority::Nothing))),
            DENIED,
            "{who}"
        );
        let permitted = foreign("user/eve", Authority::Administrator);
        assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &permitted)), "ok", "{who}: both sides allow it");
    }
    let own = key_under(&kms, &allow(&arn("bob")));
    assert_eq!(
        code(kms.crypto().encrypt(&own, &none, b"x", &user("bob", Authority::Nothing))),
        "ok",
        "within the account one is enough"
    );
    // A grant is the key's side, too; and an administrator elsewhere administers nothing here.
    let spec = GrantSpec { grantee: eve.principal.clone(), ..for_user("bob", &[Operation::Encrypt]) };
    let (grant, _) = kms.grants().create(&own, spec, &caller()).unwrap();
    assert_eq!(code(kms.crypto().encrypt(&own, &none, b"x", &eve)), DENIED);
    let elsewhere = foreign("root", Authority::Administrator);
    assert_eq!(code(kms.grants().retire(Some(&own), Some(&grant.id), None, &elsewhere)), DENIED);
    assert_eq!(code(kms.grants().list_retirable(&arn("bob"), &elsewhere)), DENIED);
    assert_eq!(code(kms.aliases().create("alias/a", &own, &elsewhere)), DENIED);
}

/// A second pair that differs from the first in case alone is no way around a constraint.
#[test]
fn pairs_that_differ_in_case_alone_meet_a_constraint_as_they_are_or_not_at_all() {
    let of = |pairs: &[(&str, &str)]| {
        let mut context = EncryptionContext::new();
        pairs.iter().for_each(|(k, v)| context.insert(*k, *v).unwrap());
        context
    };
    let one = of(&[("Project", "a")]);
    let two = of(&[("Project", "a"), ("project", "b")]);
    for (constraint, context, admits) in [
        (Constraint::Subset(one.clone()), of(&[("PROJECT", "a"), ("x", "y")]), true),
        (Constraint::Subset(one.clone()), of(&[("Project", "b"), ("project", "a")]), false),
        (Constraint::Subset(one.clone()), two.clone(), false),
        (Constraint::Equals(one.clone()), of(&[("Project", "a"), ("project", "a")]), false),
        (Constraint::Equals(one.clone()), of(&[("project", "a")]), true),
        (Constraint::Subset(two.clone()), two.clone(), true),
        (Constraint::Equals(two.clone()), two.clone(), true),
        (Constraint::Equals(two.clone()), of(&[("project", "a"), ("Project", "b")]), false),
        (Constraint::Subset(two.clone()), one.clone(), false),
        (Constraint::Equals(of(&[("ΟΔΟΣ", "a")])), of(&[("οδοσ", "a")]), true),
        (Constraint::Equals(of(&[("ΟΔΟΣ", "a")])), of(&[("οδος", "a")]), true),
        (Constraint::Subset(of(&[("οδος", "a")])), of(&[("οδος", "a"), ("οδοσ", "b")]), false),
    ] {
        assert_eq!(constraint.admits(&context), admits, "{constraint:?} {context:?}");
    }
    assert!(!Constraint::Subset(one).is_as_wide_as(&Constraint::Subset(two.clone())));
    assert!(Constraint::Subset(two.clone()).is_as_wide_as(&Constraint::Equals(two)));
}

#[test]
fn a_grant_is_for_a_principal_that_there_can_be() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    for bad in ["usr/bob", "user/", "user/b b", "service/ec2.cofer", "rot", "group/x", "user"] {
        let grantee = format!("arn:aws:iam::{ACCOUNT}:{bad}");
        let spec = GrantSpec { grantee, ..for_user("bob", &[Operation::Decrypt]) };
        let err = kms.grants().create(&key, spec, &caller()).unwrap_err();
        assert_eq!((err.kind(), err.aws()), (Kind::Usage, "InvalidArnException"), "{bad}");
    }
}

/// What a check costs does not depend on other keys' grants, nor on those of others on the same key.
#[test]
fn a_check_reads_the_grants_of_its_key_and_grantee_alone() {
    let place = Site::new();
    let kms = place.init();
    let (key, busy) = (key_under(&kms, &managed("")), key_under(&kms, &managed("")));
    let id = kms.keys().describe(&busy).unwrap().key_id;
    kms.ledger()
        .audited(&caller(), Act::new("test:Many"), |tx| {
            (0..200).try_for_each(|n| {
                let mut grant =
                    kms.grants().new_grant(&id.into(), for_user(&format!("u{n}"), &[Operation::Encrypt]), &caller());
                grant.retiring = (n == 7).then(|| arn("dave"));
                grant.put(tx)
            })
        })
        .unwrap();
    kms.grants().create(&key, for_user("bob", &[Operation::Encrypt]), &caller()).unwrap();
    let none = EncryptionContext::new();
    let bob = user("bob", Authority::Nothing);
    let cost = |act: &dyn Fn()| {
        let before = kms.ledger().catalog().rows_read();
        act();
        kms.ledger().catalog().rows_read() - before
    };
    // The key's record and the audit's head may be read as well.
    assert!(cost(&|| assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &bob)), "ok")) <= 3);
    assert!(cost(&|| assert_eq!(code(kms.crypto().encrypt(&busy, &none, b"x", &bob)), DENIED)) <= 3);
    let last = user("u199", Authority::Nothing);
    assert!(cost(&|| assert_eq!(code(kms.crypto().encrypt(&busy, &none, b"x", &last)), "ok")) <= 3);
    let dave = user("dave", Authority::Nothing);
    assert!(cost(&|| assert_eq!(kms.grants().list_retirable(&arn("dave"), &dave).unwrap().len(), 1)) <= 1);
    assert!(
        cost(&|| drop(kms.grants().create(&busy, for_user("bob", &[Operation::Encrypt]), &caller()).unwrap())) <= 5
    );
    assert_eq!(kms.grants().list(&busy, &GrantFilter::default(), &caller()).unwrap().len(), 201);
}

/// An installation from before the index was there, and a body that is no JSON: one damaged row costs itself alone.
#[test]
fn grants_are_found_without_their_index_and_beside_damaged_ones() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    kms.grants().create(&key, for_user("bob", &[Operation::Encrypt]), &caller()).unwrap();
    let (bad, _) = kms.grants().create(&key, for_user("carol", &[Operation::Encrypt]), &caller()).unwrap();
    drop(kms);
    place.tamper("DROP INDEX \"kms-grant_of_key_grantee\"".into());
    place.tamper(format!("UPDATE record SET body = x'7b' WHERE id = '{}'", bad.id));
    let kms = place.open().unwrap();
    let none = EncryptionContext::new();
    assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &user("bob", Authority::Nothing))), "ok");
    assert_eq!(code(kms.crypto().encrypt(&key, &none, b"x", &user("carol", Authority::Nothing))), DENIED);
}

/// Whatever is wrong with a request, its refusal is recorded, once.
#[test]
fn a_verb_that_is_refused_is_recorded_once_wherever_that_was_found() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let none = EncryptionContext::new();
    let refused = |kms: &Kms| {
        let all = kms.ledger().audit_records().unwrap().map(|r| r.unwrap().body);
        all.filter(|b| b.result == "refused").map(|b| (b.act, b.error.unwrap_or_default())).collect::<Vec<_>>()
    };
    let spec = GrantSpec { grantee: "bob".into(), ..for_user("bob", &[Operation::Decrypt]) };
    let verbs: [(&str, &dyn Fn() -> Result<()>); 6] = [
        ("PutKeyPolicy", &|| kms.policies().put(&key, "nonsense", false, &caller()).map(drop)),
        ("CreateKey", &|| kms.keys().create(&"d".repeat(9000), &caller()).map(drop)),
        ("CreateGrant", &|| kms.grants().create(&key, spec.clone(), &caller()).map(drop)),
        ("Encrypt", &|| kms.crypto().encrypt(&key, &none, b"", &user("bob", Authority::Nothing)).map(drop)),
        ("CreateAlias", &|| kms.aliases().create("alias/aws/x", &key, &caller()).map(drop)),
        ("DescribeKey", &|| "what".parse::<KeyRef>().map(drop)),
    ];
    for (name, verb) in verbs {
        let before = refused(&kms).len();
        let err = kms.ledger().verb(Act::new(format!("kms:{name}")), &caller(), verb).unwrap_err();
        let after = refused(&kms);
        assert_eq!(after.len(), before + 1, "{name}: {after:?}");
        assert_eq!(after[before], (format!("kms:{name}"), err.line()));
    }
    kms.ledger().verb(Act::new("kms:DescribeKey"), &caller(), || kms.keys().describe(&key)).unwrap();
    assert_eq!(refused(&kms).len(), verbs.len());
}

/// Who may be refused as often as he likes fills no log: a bounded number is recorded, and the rest is counted.
#[test]
fn refusals_of_a_listed_principal_are_recorded_at_a_bounded_rate() {
    let place = Site::new();
    let kms = place.init();
    let key = key_under(&kms, &managed(""));
    let bob = Caller { authority: Authority::Volumes(Vec::new()), ..user("bob", Authority::Nothing) };
    for _ in 0..100 {
        assert_eq!(code(kms.authorizer().ask_for_volume(&key, &EncryptionContext::new(), &bob)), DENIED);
    }
    let of = |name: &str| {
        let all = kms.ledger().audit_records().unwrap().map(|r| r.unwrap().body);
        all.filter(|b| b.caller.as_ref().is_some_and(|c| c.principal == arn(name)) && b.result == "refused").count()
    };
    let recorded = of("bob");
    assert!((20..100).contains(&recorded), "{recorded}");
    assert_eq!(
        code(kms.authorizer().ask_for_volume(&key, &EncryptionContext::new(), &user("carol", Authority::Nothing))),
        DENIED
    );
    assert_eq!(of("carol"), 1, "nobody's refusals push out another's");
}

#[test]
fn a_volumes_key_goes_out_in_clear_to_whom_the_policy_allows_just_that() {
    let place = Site::new();
    let kms = place.init();
    let none = EncryptionContext::new();
    let uses = |more: &str| {
        managed(&format!(
            r#"{{"Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Resource": "*", "Action": ["kms:Decrypt", "kms:CreateGrant"{more}]}}"#,
            arn("alice")
        ))
    };
    let key = key_under(&kms, &uses(""));
    assert_eq!(code(kms.authorizer().ask_for_volume(&key, &none, &service())), "ok");
    let err = kms.authorizer().ask_for_export(&key, &none, &service()).unwrap_err();
    assert!(err.what().contains("kms:ExportVolumeKey"), "{}", err.line());
    let last = kms.ledger().audit_records().unwrap().last().unwrap().unwrap().body;
    assert_eq!((last.act.as_str(), last.result.as_str()), ("kms:ExportVolumeKey", "refused"));
    kms.policies().put(&key, &uses(r#", "kms:ExportVolumeKey""#), false, &caller()).unwrap();
    assert_eq!(code(kms.authorizer().ask_for_export(&key, &none, &service())), "ok");
    // By the default policies the account's administrators may, and who only uses volumes may not.
    kms.crypto().new_volume_key(&KeyRef::ebs_default(), &none, &service()).unwrap();
    let own = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    for key in [KeyRef::ebs_default(), own] {
        let listed = Authority::Volumes(vec![kms.keys().describe(&key).unwrap().arn]);
        assert_eq!(code(kms.authorizer().ask_for_export(&key, &none, &service())), "ok", "{key}");
        assert_eq!(
            code(kms.authorizer().ask_for_volume(&key, &none, &Caller { authority: listed.clone(), ..service() })),
            "ok"
        );
        assert_eq!(
            code(kms.authorizer().ask_for_export(&key, &none, &Caller { authority: listed, ..service() })),
            DENIED,
            "{key}"
        );
    }
}

/// A policy that names AWS's volume service means coffer's, also under a lease's grant.
#[test]
fn a_deny_for_awss_volume_service_stops_what_lives_by_a_lease() {
    let place = Site::new();
    let kms = place.init();
    let context = EncryptionContext::of("aws:ebs:id", "vol-1");
    for (deny, denied) in [
        (r#""Principal": {"Service": "ec2.amazonaws.com"}"#, true),
        (r#""Principal": {"Service": "ec2.us-east-1.amazonaws.com"}"#, true),
        (r#""Principal": {"Service": "ec2.eu-west-1.amazonaws.com"}"#, false),
    ] {
        let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
        let (blob, data_key) = kms.crypto().new_volume_key(&key, &context, &service()).unwrap();
        let grant = kms.grants().for_lease(&kms.keys().describe(&key).unwrap().key, &context, &caller());
        kms.ledger().audited(&caller(), Act::new("test:Lease"), |tx| grant.put(tx)).unwrap();
        let more = format!(r#"{{"Effect": "Deny", {deny}, "Action": "kms:Decrypt", "Resource": "*"}}"#);
        // Of another Region it would never fire, and is refused; one that is kept from before means what it meant.
        let put = kms.policies().put(&key, &managed(&more), false, &caller());
        assert_eq!(code(put), if denied { "ok" } else { "MalformedPolicyDocumentException" }, "{deny}");
        keep_policy(&kms, &key, &managed(&more));
        let held = Caller { authority: Authority::Grants(vec![grant.id]), ..service() };
        let opened = kms.crypto().unwrap_volume_key(&blob, &context, data_key.get().id(), &held);
        assert_eq!(code(opened), if denied { DENIED } else { "ok" }, "{deny}");
    }
}

/// A policy with a key that an earlier build passed over: it is not passed over now.
#[test]
fn a_kept_policy_with_an_unknown_condition_key_lets_nobody_in() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let id = kms.keys().describe(&key).unwrap().key_id;
    let old = managed(
        r#"{"Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Resource": "*",
            "Condition": {"StringEquals": {"kms:ViaServcie": "ec2.coffer"}}}"#,
    );
    assert!(kms.policies().put(&key, &old, false, &caller()).unwrap_err().what().contains("kms:ViaServcie"));
    kms.ledger()
        .audited(&caller(), Act::new("test:Older"), |tx| {
            let mut found = kms.here.store.load(&id.into())?;
            found.record.policy = Some(old.clone());
            tx.update(&found.record, found.version)
        })
        .unwrap();
    let err = kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap_err();
    assert_eq!(err.kind(), Kind::AccessDenied);
    assert!(err.line().contains("kms:ViaServcie") && err.line().contains("policy reset"), "{}", err.line());
}

/// A key policy is about its own key alone, and the id of a key that is made is not known before.
#[test]
fn a_policy_that_can_never_match_is_refused_when_it_is_put_and_read_when_it_was_kept() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let other = kms.keys().create("", &caller()).unwrap().arn;
    let own = kms.keys().describe(&key).unwrap().arn;
    let deny = |resource: &str, more: &str| {
        managed(&format!(
            r#"{{"Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Resource": "{resource}"{more}}}"#
        ))
    };
    let never = r#", "Condition": {"StringLike": {"aws:PrincipalArn": "alice*"}}"#;
    let create =
        |policy: &str| kms.keys().create_with(&NewKey { policy: Some(policy), ..NewKey::default() }, &caller());
    let put = |policy: &str| kms.policies().put(&key, policy, false, &caller());
    let pattern = format!("{}/*", own.split_once('/').unwrap().0);
    for (policy, at_put, at_create) in [
        (deny("*", ""), true, true),
        (deny(&pattern, ""), true, true),
        (deny(&own, ""), true, false),
        (deny(&other, ""), false, false),
        (deny("*", never), false, false),
    ] {
        let words = |ok: bool| if ok { "ok" } else { "MalformedPolicyDocumentException" };
        assert_eq!((code(put(&policy)), code(create(&policy))), (words(at_put), words(at_create)), "{policy}");
    }
    let kept = kms.policies().get(&key, &caller()).unwrap();
    assert_eq!(kept, deny(&own, ""), "what was refused changed nothing");
    let err = put(&deny("*", never)).unwrap_err();
    assert!(err.what().contains("Statement[1].Condition.StringLike.aws:PrincipalArn: the value \"alice*\" can never"));

    let context = EncryptionContext::new();
    let uses = format!(
        r#"{{"Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Action": "kms:Encrypt", "Resource": "*"}}, "#,
        arn("alice")
    );
    keep_policy(
        &kms,
        &key,
        &deny(&other, "").replacen(r#"{"Effect": "Deny""#, &format!(r#"{uses}{{"Effect": "Deny""#), 1),
    );
    assert_eq!(code(kms.crypto().encrypt(&key, &context, b"x", &caller())), "ok");
}
