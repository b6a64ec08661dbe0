//! A user or a role that is deleted and created again under its name is another one: it has nothing of what named the first.

use super::testing::*;
use crate::iam::PrincipalRef;
use crate::kms::Caller;
use serde_json::{Value, json};

/// Deletes a user or a role with all that is its own.
fn delete(on: &Lab, name: &PrincipalRef) {
    let (iam, owner) = (on.service.kms.iam(), on.owner());
    for key in iam.access_keys(name).unwrap_or_default() {
        iam.delete_access_key(&key.id, &owner).unwrap();
    }
    for policy in iam.policies(name).unwrap().into_keys() {
        iam.delete_policy(name, &policy, &owner).unwrap();
    }
    on.service.kms.delete_principal(name, &owner).unwrap();
}

fn put_policy(on: &Lab, caller: &Caller, key: &str, policy: &str) {
    on.ok(caller, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy, "BypassPolicyLockoutSafetyCheck": true}));
}

fn policy_of(on: &Lab, caller: &Caller, key: &str) -> String {
    text(&on.ok(caller, "GetKeyPolicy", json!({"KeyId": key}))["Policy"])
}

fn encrypts(on: &Lab, caller: &Caller, key: &str) -> Result<Value, &'static str> {
    on.call(caller, "Encrypt", json!({"KeyId": key, "Plaintext": b64(b"m")})).map_err(|e| e.aws())
}

fn allow(principals: &[&str]) -> Value {
    joined(&principals.iter().map(|p| key_policy("Allow", "kms:*", p)).collect::<Vec<_>>())
}

#[test]
fn a_user_of_the_same_name_has_nothing_of_a_deleted_one() {
    let on = Lab::new();
    let everything = || Some(identity("Allow", "kms:*", "*"));
    let alice = on.user(A, "alice", EAST, None);
    let (arn, id) = (alice.principal.clone(), text(&on.ok(&alice, "sts:GetCallerIdentity", json!({}))["UserId"]));
    let keys: Vec<(Caller, String, &str)> = [(A, EAST), (A, WEST), (B, EAST)]
        .into_iter()
        .map(|(account, region)| {
            let root = on.root(account, region);
            let key = on.key(&root, json!({}));
            let policy = allow(&[&root_of(account), &arn]).to_string();
            // JSON may write an ARN in more than one way.
            put_policy(&on, &root, &key, &policy.replace("user/", "user\\u002F"));
            (root, key, region)
        })
        .collect();
    let root = on.root(A, EAST);
    let untouched = on.key(&root, json!({}));
    let other = allow(&[&root_of(A), &format!("{arn}-2")]).to_string();
    put_policy(&on, &root, &untouched, &other);
    let granted = on.key(&root, json!({}));
    let grant = json!({"KeyId": granted, "GranteePrincipal": arn, "RetiringPrincipal": arn, "Operations": ["Encrypt", "RetireGrant"]});
    let grant = text(&on.ok(&root, "CreateGrant", grant)["GrantId"]);
    encrypts(&on, &alice, &granted).unwrap();
    for (_, key, region) in &keys {
        encrypts(&on, &on.user(A, "alice", region, everything()), key).unwrap();
    }

    delete(&on, &PrincipalRef::user(A, "alice"));
    let again = on.user(A, "alice", EAST, None);
    assert_eq!(again.principal, arn);
    assert_eq!(encrypts(&on, &again, &granted).unwrap_err(), "AccessDeniedException");
    let retire = json!({"KeyId": granted, "GrantId": grant});
    assert_eq!(on.err(&again, "RetireGrant", retire), "AccessDeniedException");
    let listed = on.ok(&root, "ListGrants", json!({"KeyId": granted}))["Grants"][0].clone();
    assert_eq!((&listed["GranteePrincipal"], &listed["RetiringPrincipal"]), (&json!(id), &json!(id)));
    for (root, key, region) in &keys {
        assert_eq!(encrypts(&on, &on.user(A, "alice", region, None), key).unwrap_err(), "AccessDeniedException");
        let shown = policy_of(&on, root, key);
        assert!(shown.contains(&id) && !shown.contains("alice"), "{shown}");
    }
    assert_eq!(policy_of(&on, &root, &untouched), other, "it names another user");
}

#[test]
fn a_role_of_the_same_name_has_nothing_of_a_deleted_one() {
    let on = Lab::new();
    let user = on.user(A, "assumer", EAST, Some(identity("Allow", "sts:AssumeRole", "*")));
    let root = on.root(A, EAST);
    let none = identity("Deny", "s3:*", "*");
    let ops = on.role(A, "ops", A, none.clone());
    let session_of = |role: &str| on.session(&user, role, None, EAST);
    let session = session_of(&ops);
    let (by_role, by_session, granted) = (on.key(&root, json!({})), on.key(&root, json!({})), on.key(&root, json!({})));
    put_policy(&on, &root, &by_role, &allow(&[&root_of(A), &ops]).to_string());
    put_policy(&on, &root, &by_session, &allow(&[&root_of(A), &session.principal]).to_string());
    on.ok(&root, "CreateGrant", json!({"KeyId": granted, "GranteePrincipal": ops, "Operations": ["Encrypt"]}));
    // A role that only sessions of the first one may assume.
    let next = on.role(A, "next", A, none.clone());
    let trust =
        joined(&[json!({"Statement": [{"Effect": "Allow", "Principal": {"AWS": ops}, "Action": "sts:AssumeRole"}]})]);
    let of_next = PrincipalRef::role(A, "next");
    let (iam, owner) = (on.service.kms.iam(), on.owner());
    iam.update_trust_policy(&of_next, &trust.to_string(), &|_, _| Ok(()), &owner).unwrap();
    // One that may assume itself.
    let user_too = json!({"Statement": [{"Effect": "Allow", "Principal": {"AWS": A}, "Action": "sts:AssumeRole"}]});
    let itself = joined(&[trust, user_too]).to_string();
    iam.update_trust_policy(&PrincipalRef::role(A, "ops"), &itself, &|_, _| Ok(()), &owner).unwrap();
    for key in [&by_role, &by_session, &granted] {
        encrypts(&on, &session, key).unwrap();
    }
    session_of(&ops);
    on.session(&session, &next, None, EAST);

    delete(&on, &PrincipalRef::role(A, "ops"));
    let again = on.role(A, "ops", A, none);
    assert_eq!(again, ops);
    let session = session_of(&again);
    for key in [&by_role, &by_session, &granted] {
        assert_eq!(encrypts(&on, &session, key).unwrap_err(), "AccessDeniedException");
    }
    let asked = json!({"RoleArn": next, "RoleSessionName": "session"});
    assert_eq!(on.err(&session, "sts:AssumeRole", asked), "AccessDeniedException");
    assert!(policy_of(&on, &root, &by_session).contains(":session\""), "{}", policy_of(&on, &root, &by_session));
}

#[test]
fn a_deny_of_a_deleted_user_is_not_of_the_next_one() {
    let on = Lab::new();
    let (root, alice) = (on.root(A, EAST), on.user(A, "alice", EAST, Some(identity("Allow", "kms:*", "*"))));
    let key = on.key(&root, json!({}));
    let deny = key_policy("Deny", "kms:Encrypt", &alice.principal);
    put_policy(&on, &root, &key, &joined(&[allow(&[&root_of(A)]), deny]).to_string());
    let except = on.key(&root, json!({}));
    let mut all_but = key_policy("Deny", "kms:Encrypt", "*");
    let statement = all_but["Statement"][0].as_object_mut().unwrap();
    statement.remove("Principal");
    statement.insert("NotPrincipal".into(), json!({"AWS": [alice.principal, root_of(A)]}));
    put_policy(&on, &root, &except, &joined(&[allow(&[&root_of(A)]), all_but]).to_string());
    assert!(encrypts(&on, &alice, &key).is_err() && encrypts(&on, &alice, &except).is_ok());
    delete(&on, &PrincipalRef::user(A, "alice"));
    let again = on.user(A, "alice", EAST, Some(identity("Allow", "kms:*", "*")));
    assert!(encrypts(&on, &again, &key).is_ok() && encrypts(&on, &again, &except).is_err());
}

#[test]
fn an_id_can_be_kept_in_a_policy_and_not_put_into_one() {
    let on = Lab::new();
    let (root, alice) = (on.root(A, EAST), on.user(A, "alice", EAST, None));
    let (key, other) = (on.key(&root, json!({})), on.key(&root, json!({})));
    put_policy(&on, &root, &key, &allow(&[&root_of(A), &alice.principal]).to_string());
    delete(&on, &PrincipalRef::user(A, "alice"));
    let kept = policy_of(&on, &root, &key);
    put_policy(&on, &root, &key, &kept.replace("2012-10-17", "2008-10-17"));
    for refused in [
        on.err(&root, "PutKeyPolicy", json!({"KeyId": other, "Policy": kept})),
        on.err(&root, "CreateKey", json!({"Policy": kept})),
    ] {
        assert_eq!(refused, "MalformedPolicyDocumentException");
    }
    put_policy(&on, &root, &key, &allow(&[&root_of(A)]).to_string());
    assert_eq!(
        on.err(&root, "PutKeyPolicy", json!({"KeyId": key, "Policy": kept})),
        "MalformedPolicyDocumentException"
    );
}

/// One record of the audit has room for a limited number of changes.
#[test]
fn a_user_with_more_grants_than_one_transaction_changes_is_deleted_too() {
    let on = Lab::new();
    let (root, alice) = (on.root(A, EAST), on.user(A, "alice", EAST, None));
    let key = on.key(&root, json!({}));
    for _ in 0..30 {
        let asked = json!({"KeyId": key, "GranteePrincipal": alice.principal, "Operations": ["Encrypt"]});
        on.ok(&root, "CreateGrant", asked);
    }
    delete(&on, &PrincipalRef::user(A, "alice"));
    let all = on.ok(&root, "ListGrants", json!({"KeyId": key, "Limit": 100}));
    let all = all["Grants"].as_array().unwrap();
    assert_eq!(all.iter().filter(|g| text(&g["GranteePrincipal"]).starts_with("AIDA")).count(), 30);
    assert_eq!(encrypts(&on, &on.user(A, "alice", EAST, None), &key).unwrap_err(), "AccessDeniedException");
}
