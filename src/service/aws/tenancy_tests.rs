//! Accounts and Regions do not see each other, and what lets a caller of one use a key of another.

use super::testing::*;
use crate::iam::PrincipalRef;
use crate::kms::Caller;
use crate::service::records::EC2;
use serde_json::{Value, json};

fn encrypts(on: &Lab, caller: &Caller, key: &str) -> Result<Value, &'static str> {
    on.call(caller, "Encrypt", json!({"KeyId": key, "Plaintext": b64(b"m")})).map_err(|e| e.aws())
}

fn put_policy(on: &Lab, caller: &Caller, key: &str, policies: &[Value]) {
    let asked = json!({"KeyId": key, "Policy": joined(policies).to_string(), "BypassPolicyLockoutSafetyCheck": true});
    on.ok(caller, "PutKeyPolicy", asked);
}

/// Someone who may assume roles: root cannot (STS API Reference, AssumeRole).
fn assumer(on: &Lab) -> Caller {
    on.user(A, "assumer", EAST, Some(identity("Allow", "sts:AssumeRole", "*")))
}

#[test]
fn places_do_not_see_each_other() {
    let on = Lab::new();
    let places = [(A, EAST), (A, WEST), (B, EAST), (B, WEST)];
    let all: Vec<(Caller, String)> = places
        .iter()
        .map(|(account, region)| {
            let root = on.root(account, region);
            let k = on.key(&root, json!({}));
            assert!(k.starts_with(&format!("arn:aws:kms:{region}:{account}:key/")), "{k}");
            on.ok(&root, "CreateAlias", json!({"AliasName": "alias/same", "TargetKeyId": k}));
            let to = format!("arn:aws:iam::{account}:user/u");
            let asked = json!({"KeyId": k, "GranteePrincipal": to, "RetiringPrincipal": root_of(account), "Operations": ["Decrypt"]});
            on.ok(&root, "CreateGrant", asked);
            (root, k)
        })
        .collect();
    for (i, (root, k)) in all.iter().enumerate() {
        let keys = on.ok(root, "ListKeys", json!({}));
        assert_eq!(keys["Keys"].as_array().unwrap().len(), 1);
        assert_eq!(keys["Keys"][0]["KeyArn"], *k);
        let aliases = on.ok(root, "ListAliases", json!({}));
        assert_eq!(aliases["Aliases"].as_array().unwrap().len(), 1);
        let id = k.rsplit('/').next().unwrap();
        assert_eq!(aliases["Aliases"][0]["TargetKeyId"], id);
        assert_eq!(on.arn(root, "alias/same"), *k);
        let grants = on.ok(root, "ListRetirableGrants", json!({"RetiringPrincipal": root_of(places[i].0)}));
        assert_eq!(grants["Grants"].as_array().unwrap().len(), 1, "{grants}");
        assert_eq!(grants["Grants"][0]["KeyId"], *k);
        let blob = on.ok(root, "Encrypt", json!({"KeyId": "alias/same", "Plaintext": b64(b"m")}));
        for (j, (other, _)) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            // By id: as if there were none.
            assert_eq!(on.err(other, "DescribeKey", json!({"KeyId": id})), "NotFoundException");
            let same_region = places[i].1 == places[j].1;
            // By ARN: of another Region there is none, of another account it is not for them.
            let code = if same_region { "AccessDeniedException" } else { "NotFoundException" };
            for op in
                ["DescribeKey", "ListGrants", "GetKeyPolicy", "DisableKey", "ListResourceTags", "GetKeyRotationStatus"]
            {
                assert_eq!(on.err(other, op, json!({"KeyId": k})), code, "{op} by {}", other.principal);
            }
            let alias = format!("arn:aws:kms:{}:{}:alias/same", places[i].1, places[i].0);
            assert_eq!(encrypts(&on, other, &alias).unwrap_err(), code);
            let answer = on.err(other, "Decrypt", json!({"CiphertextBlob": blob["CiphertextBlob"]}));
            assert!(["AccessDeniedException", "InvalidCiphertextException"].contains(&answer), "{answer}");
            if same_region {
                assert_eq!(on.err(other, "ListAliases", json!({"KeyId": k})), "AccessDeniedException");
            }
        }
    }
}

#[test]
fn a_stranger_does_not_learn_which_keys_exist() {
    let on = Lab::new();
    let (root, other) = (on.root(A, EAST), on.root(B, EAST));
    let k = on.key(&root, json!({}));
    on.ok(&root, "CreateAlias", json!({"AliasName": "alias/there", "TargetKeyId": k}));
    let blob = |k: &str| on.ok(&root, "Encrypt", json!({"KeyId": k, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let (of_k, gone) = (blob(&k), on.key(&root, json!({})));
    let of_gone = blob(&gone);
    on.ok(&root, "ScheduleKeyDeletion", json!({"KeyId": gone, "PendingWindowInDays": 7}));
    on.pass_days(3);
    on.service.kms.deletions().purge_due().unwrap();
    on.pass_days(8);
    assert_eq!(on.service.kms.deletions().purge_due().unwrap().len(), 1);
    let line = |op: &str, input: Value, shown: &str| {
        let err = on.call(&other, op, input).unwrap_err();
        (err.aws(), err.line().replace(shown, "X"))
    };
    let alias = |name: &str| format!("arn:aws:kms:{EAST}:{A}:alias/{name}");
    for (there, missing) in [(k.clone(), gone), (alias("there"), alias("missing"))] {
        for op in ["DescribeKey", "EnableKey", "GetKeyPolicy", "GetPublicKey"] {
            let answers = [&there, &missing].map(|key| line(op, json!({"KeyId": key}), key));
            assert_eq!(answers[0], answers[1], "{op}");
            assert_eq!(answers[0].0, "AccessDeniedException", "{op}");
        }
        let answers = [&there, &missing].map(|key| line("Encrypt", json!({"KeyId": key, "Plaintext": b64(b"m")}), key));
        assert_eq!(answers[0], answers[1]);
    }
    let answers = [of_k, of_gone].map(|blob| line("Decrypt", json!({"CiphertextBlob": blob}), &k));
    assert_eq!(answers[0], answers[1]);
    assert!(!answers[0].1.contains(A), "{}", answers[0].1);
}

#[test]
fn another_account_needs_both_sides() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let own = key_policy("Allow", "kms:*", &root_of(A));
    let allowed = || on.user(B, "allowed", EAST, Some(identity("Allow", "kms:Encrypt", &k)));
    let without = || on.user(B, "without", EAST, None);
    // Neither side, then only that of the caller's account.
    assert_eq!(encrypts(&on, &allowed(), &k).unwrap_err(), "AccessDeniedException");
    let both = key_policy("Allow", "kms:Encrypt", &root_of(B));
    put_policy(&on, &root, &k, &[own.clone(), both.clone()]);
    encrypts(&on, &allowed(), &k).unwrap();
    // Only the key's side: also if it names the user.
    assert_eq!(encrypts(&on, &without(), &k).unwrap_err(), "AccessDeniedException");
    put_policy(&on, &root, &k, &[own.clone(), key_policy("Allow", "kms:Encrypt", &without().principal)]);
    assert_eq!(encrypts(&on, &without(), &k).unwrap_err(), "AccessDeniedException");
    assert_eq!(encrypts(&on, &allowed(), &k).unwrap_err(), "AccessDeniedException");
    // The other account's root may do everything there, so that the key's side decides.
    put_policy(&on, &root, &k, &[own.clone(), both.clone()]);
    encrypts(&on, &on.root(B, EAST), &k).unwrap();
    assert_eq!(
        on.err(&on.root(B, EAST), "Decrypt", json!({"CiphertextBlob": b64(b"x"), "KeyId": k})),
        "InvalidCiphertextException"
    );
    // A Deny of either side.
    put_policy(&on, &root, &k, &[own.clone(), both.clone(), key_policy("Deny", "kms:Encrypt", &allowed().principal)]);
    assert_eq!(encrypts(&on, &allowed(), &k).unwrap_err(), "AccessDeniedException");
    encrypts(&on, &on.root(B, EAST), &k).unwrap();
    put_policy(&on, &root, &k, &[own, both]);
    let torn = joined(&[identity("Allow", "kms:*", "*"), identity("Deny", "kms:Encrypt", &k)]);
    let torn = on.user(B, "torn", EAST, Some(torn));
    assert_eq!(encrypts(&on, &torn, &k).unwrap_err(), "AccessDeniedException");
}

/// KMS Developer Guide, "Allowing users in other accounts to use a KMS key": other permissions have no effect.
#[test]
fn another_account_never_administers_a_key() {
    let on = Lab::new();
    let (root, other) = (on.root(A, EAST), on.root(B, EAST));
    let k = on.key(&root, json!({}));
    let all = [key_policy("Allow", "kms:*", &root_of(A)), key_policy("Allow", "kms:*", &root_of(B))];
    put_policy(&on, &root, &k, &all);
    for (op, mut asked) in [
        ("DisableKey", json!({})),
        ("EnableKey", json!({})),
        ("ScheduleKeyDeletion", json!({})),
        ("GetKeyPolicy", json!({})),
        ("PutKeyPolicy", json!({"Policy": all[1].to_string(), "BypassPolicyLockoutSafetyCheck": true})),
        ("TagResource", json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]})),
        ("ListResourceTags", json!({})),
        ("UpdateKeyDescription", json!({"Description": "mine"})),
        ("RotateKeyOnDemand", json!({})),
        ("EnableKeyRotation", json!({})),
        ("ListKeyRotations", json!({})),
        ("ListKeyPolicies", json!({})),
    ] {
        asked["KeyId"] = json!(k);
        assert_eq!(on.err(&other, op, asked), "AccessDeniedException", "{op}");
    }
    for (op, mut asked) in [
        ("DescribeKey", json!({})),
        ("GetKeyRotationStatus", json!({})),
        ("ListGrants", json!({})),
        ("Encrypt", json!({"Plaintext": b64(b"m")})),
        ("GenerateDataKey", json!({"KeySpec": "AES_128"})),
        ("CreateGrant", json!({"GranteePrincipal": root_of(B), "Operations": ["Decrypt"]})),
    ] {
        asked["KeyId"] = json!(k);
        on.ok(&other, op, asked);
    }
    // An alias is of the key's account and Region.
    for target in [k.clone(), k.rsplit('/').next().unwrap().to_owned()] {
        let asked = json!({"AliasName": "alias/mine", "TargetKeyId": target});
        assert!(["NotFoundException", "AccessDeniedException"].contains(&on.err(&other, "CreateAlias", asked)));
    }
    let west = on.root(A, WEST);
    assert_eq!(on.err(&west, "CreateAlias", json!({"AliasName": "alias/mine", "TargetKeyId": k})), "NotFoundException");
    assert_eq!(on.ok(&other, "ListAliases", json!({}))["Aliases"], json!([]));
}

#[test]
fn a_blob_of_another_account_opens_without_its_key_id_if_both_sides_allow_it() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let theirs = ["kms:Decrypt", "kms:ReEncryptFrom"].map(|action| key_policy("Allow", action, &root_of(B)));
    put_policy(&on, &root, &k, &[key_policy("Allow", "kms:*", &root_of(A)), joined(&theirs)]);
    let blob = on.ok(&root, "Encrypt", json!({"KeyId": k, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let may = on.user(B, "may", EAST, Some(identity("Allow", "kms:Decrypt", &k)));
    let opened = on.ok(&may, "Decrypt", json!({"CiphertextBlob": blob}));
    assert_eq!((&opened["KeyId"], bytes(&opened["Plaintext"]).as_slice()), (&json!(k), &b"m"[..]));
    on.ok(&may, "Decrypt", json!({"CiphertextBlob": blob, "KeyId": k}));
    // Into a key of their own.
    let own = on.key(&on.root(B, EAST), json!({}));
    let again = on.ok(&on.root(B, EAST), "ReEncrypt", json!({"CiphertextBlob": blob, "DestinationKeyId": own}));
    assert_eq!((&again["SourceKeyId"], &again["KeyId"]), (&json!(k), &json!(own)));
    // A named key that is not the blob's.
    let wrong = json!({"CiphertextBlob": blob, "KeyId": own});
    assert_eq!(on.err(&on.root(B, EAST), "Decrypt", wrong), "IncorrectKeyException");
}

#[test]
fn a_grant_is_one_of_both_sides() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let mut asked = json!({"KeyId": k, "Operations": ["Encrypt", "Decrypt", "DescribeKey"]});
    asked["GranteePrincipal"] = on.user(B, "allowed", EAST, None).principal.into();
    on.ok(&root, "CreateGrant", asked.clone());
    let without = on.user(B, "allowed", EAST, None);
    assert_eq!(encrypts(&on, &without, &k).unwrap_err(), "AccessDeniedException");
    let allowed = on.user(B, "allowed", EAST, Some(identity("Allow", "kms:Encrypt", &k)));
    encrypts(&on, &allowed, &k).unwrap();
    assert_eq!(on.err(&allowed, "DescribeKey", json!({"KeyId": k})), "AccessDeniedException");
    // In one account a grant is enough, and a Deny overrides it.
    asked["GranteePrincipal"] = on.user(A, "u", EAST, None).principal.into();
    let made = on.ok(&root, "CreateGrant", asked.clone());
    encrypts(&on, &on.user(A, "u", EAST, None), &k).unwrap();
    let denied = on.user(A, "u", EAST, Some(identity("Deny", "kms:Encrypt", "*")));
    assert_eq!(encrypts(&on, &denied, &k).unwrap_err(), "AccessDeniedException");
    on.ok(&root, "RevokeGrant", json!({"KeyId": k, "GrantId": made["GrantId"]}));
    assert_eq!(on.err(&denied, "DescribeKey", json!({"KeyId": k})), "AccessDeniedException");
    // A role's grant is that of its sessions, which may retire it if it says so.
    let role = on.role(A, "r", A, identity("Allow", "kms:ListKeys", "*"));
    asked["GranteePrincipal"] = role.clone().into();
    asked["Operations"] = json!(["Encrypt", "CreateGrant", "RetireGrant"]);
    let made = on.ok(&root, "CreateGrant", asked);
    let session = on.session(&assumer(&on), &role, None, EAST);
    encrypts(&on, &session, &k).unwrap();
    let narrower = json!({"KeyId": k, "GranteePrincipal": root_of(A), "Operations": ["Encrypt"]});
    on.ok(&session, "CreateGrant", narrower);
    let wider = json!({"KeyId": k, "GranteePrincipal": root_of(A), "Operations": ["Decrypt"]});
    assert_eq!(on.err(&session, "CreateGrant", wider), "AccessDeniedException");
    on.ok(&session, "RetireGrant", json!({"KeyId": k, "GrantId": made["GrantId"]}));
    assert_eq!(encrypts(&on, &session, &k).unwrap_err(), "AccessDeniedException");
}

#[test]
fn a_session_has_at_most_what_its_policy_says() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let (k, l) = (on.key(&root, json!({})), on.key(&root, json!({})));
    let role = on.role(A, "r", A, identity("Allow", "kms:*", "*"));
    let free = on.session(&assumer(&on), &role, None, EAST);
    encrypts(&on, &free, &k).unwrap();
    encrypts(&on, &free, &l).unwrap();
    let bound = on.session(&assumer(&on), &role, Some(identity("Allow", "kms:Encrypt", &k)), EAST);
    encrypts(&on, &bound, &k).unwrap();
    assert_eq!(encrypts(&on, &bound, &l).unwrap_err(), "AccessDeniedException");
    assert_eq!(on.err(&bound, "DescribeKey", json!({"KeyId": k})), "AccessDeniedException");
    assert_eq!(on.err(&bound, "CreateKey", json!({})), "AccessDeniedException");
    // It bounds what a grant, and a key policy that names the role, give, too.
    let asked = json!({"KeyId": l, "GranteePrincipal": role, "Operations": ["Encrypt"]});
    on.ok(&root, "CreateGrant", asked);
    assert_eq!(encrypts(&on, &bound, &l).unwrap_err(), "AccessDeniedException");
    put_policy(&on, &root, &l, &[key_policy("Allow", "kms:*", &root_of(A)), key_policy("Allow", "kms:Encrypt", &role)]);
    assert_eq!(encrypts(&on, &bound, &l).unwrap_err(), "AccessDeniedException");
    // A role of another account is of that account.
    let foreign = on.role(B, "far", A, identity("Allow", "kms:*", "*"));
    let far = on.session(&assumer(&on), &foreign, None, EAST);
    assert_eq!(encrypts(&on, &far, &k).unwrap_err(), "AccessDeniedException");
    let made = on.key(&far, json!({}));
    assert!(made.contains(B), "{made}");
}

#[test]
fn a_service_that_acts_for_a_caller_is_a_condition() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let user = on.user(A, "u", EAST, None);
    let mut only = key_policy("Allow", "kms:Encrypt", &user.principal);
    only["Statement"][0]["Condition"] = json!({"StringEquals": {"kms:ViaService": EC2}});
    put_policy(&on, &root, &k, &[key_policy("Allow", "kms:*", &root_of(A)), only]);
    assert_eq!(encrypts(&on, &user, &k).unwrap_err(), "AccessDeniedException");
    let through = Caller { via_service: Some(EC2.to_owned()), ..user.clone() };
    encrypts(&on, &through, &k).unwrap();
    let other = Caller { via_service: Some("s3".to_owned()), ..user };
    assert_eq!(encrypts(&on, &other, &k).unwrap_err(), "AccessDeniedException");
}

#[test]
fn aliases_are_resources_of_the_callers_policies() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let alias = format!("arn:aws:kms:{EAST}:{A}:alias/one");
    let make = json!({"AliasName": "alias/one", "TargetKeyId": k});
    // CreateAlias needs the permission on both the key and the alias (KMS Developer Guide, "Controlling access to aliases").
    let only_key = on.user(A, "onlykey", EAST, Some(identity("Allow", "kms:*Alias", &k)));
    assert_eq!(on.err(&only_key, "CreateAlias", make.clone()), "AccessDeniedException");
    let only_alias = on.user(A, "onlyalias", EAST, Some(identity("Allow", "kms:*Alias", &alias)));
    assert_eq!(on.err(&only_alias, "CreateAlias", make.clone()), "AccessDeniedException");
    let both = joined(&[identity("Allow", "kms:*Alias", &k), identity("Allow", "kms:*Alias", &alias)]);
    let both = on.user(A, "both", EAST, Some(both));
    on.ok(&both, "CreateAlias", make.clone());
    assert_eq!(
        on.err(&both, "CreateAlias", json!({"AliasName": "alias/two", "TargetKeyId": k})),
        "AccessDeniedException"
    );
    for caller in [&only_key, &only_alias] {
        assert_eq!(on.err(caller, "UpdateAlias", make.clone()), "AccessDeniedException");
        assert_eq!(on.err(caller, "DeleteAlias", json!({"AliasName": "alias/one"})), "AccessDeniedException");
    }
    on.ok(&both, "UpdateAlias", make);
    on.ok(&both, "DeleteAlias", json!({"AliasName": "alias/one"}));
    // Whoever may not delete an alias does not learn whether it exists.
    let code = on.err(&only_key, "DeleteAlias", json!({"AliasName": "alias/one"}));
    assert_eq!(code, "AccessDeniedException");
    assert_eq!(on.err(&both, "DeleteAlias", json!({"AliasName": "alias/one"})), "NotFoundException");
}

#[test]
fn names_that_are_no_places_are_refused() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let id = on.key(&root, json!({})).rsplit('/').next().unwrap().to_owned();
    for account in ["", "1111", "11112222333x", "111122223333/us-east-1"] {
        let arn = format!("arn:aws:kms:{EAST}:{account}:key/{id}");
        assert!(
            ["InvalidArnException", "NotFoundException"].contains(&on.err(&root, "DescribeKey", json!({"KeyId": arn}))),
            "{account}"
        );
    }
    let principal = on.service.credential(&format!("AKIAROOT{A}"), None).unwrap().principal;
    for region in ["", "us-east-1/alias", "US-EAST-1", "us east"] {
        let info = crate::ledger::RequestInfo { region: region.into(), ..Default::default() };
        let signed = super::Signed { principal: std::sync::Arc::new(principal.clone()), info, secure_transport: true };
        assert!(on.service.signed_by(signed).is_err(), "{region:?}");
    }
    assert!(PrincipalRef::parse(&root_of(B), A).is_ok());
}

#[test]
fn retirable_grants_are_listed_by_who_may_ask_about_that_principal() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let (one, two) = (on.user(A, "one", EAST, None).principal, on.user(A, "two", EAST, None).principal);
    for retiring in [&one, &two] {
        let asked = json!({"KeyId": k, "GranteePrincipal": root_of(A), "RetiringPrincipal": retiring, "Operations": ["Decrypt"]});
        on.ok(&root, "CreateGrant", asked);
    }
    let asks = on.user(A, "asks", EAST, Some(identity("Allow", "kms:ListRetirableGrants", &one)));
    let of = |principal: &str| json!({"RetiringPrincipal": principal});
    assert_eq!(on.ok(&asks, "ListRetirableGrants", of(&one))["Grants"].as_array().unwrap().len(), 1);
    assert_eq!(on.err(&asks, "ListRetirableGrants", of(&two)), "AccessDeniedException");
}

#[test]
fn a_grant_token_is_found_at_once_and_tells_a_stranger_nothing() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let grant = |to: &str| {
        let asked = json!({"KeyId": k, "GranteePrincipal": to, "RetiringPrincipal": to, "Operations": ["Decrypt"]});
        let made = on.ok(&root, "CreateGrant", asked);
        (text(&made["GrantToken"]), text(&made["GrantId"]))
    };
    (0..40).for_each(|n| drop(grant(&format!("arn:aws:iam::{A}:user/u{n}"))));
    let user = on.user(B, "user", EAST, Some(identity("Allow", "kms:RetireGrant", "*")));
    let (token, id) = grant(&user.principal);
    assert!(!token.contains(&id) && !token.contains(&id[..16]), "{token}");
    let stranger = on.root(B, EAST);
    let answer = |token: &str| {
        let caller = on.again(&stranger);
        let refused = on.call(&caller, "RetireGrant", json!({"GrantToken": token})).unwrap_err();
        let request = json!([{"AttributeKey": "EventName", "AttributeValue": "RetireGrant"}]);
        let seen = on.call(&stranger, "cloudtrail:LookupEvents", json!({"LookupAttributes": request, "MaxResults": 1}));
        let mut seen = seen.unwrap()["Events"][0].clone();
        let told: Value = serde_json::from_str(seen["CloudTrailEvent"].as_str().unwrap()).unwrap();
        assert_eq!(told["requestID"], caller.request.as_ref().unwrap().id);
        let told = ["errorCode", "errorMessage", "resources", "additionalEventData", "requestParameters"]
            .map(|n| told[n].clone());
        seen.as_object_mut().unwrap().retain(|name, _| !["EventId", "CloudTrailEvent"].contains(&name.as_str()));
        (refused.aws(), refused.line(), seen, told)
    };
    let (there, none) = (answer(&token), answer(&"0".repeat(token.len())));
    assert_eq!(there, none);
    assert_eq!(there.0, "InvalidGrantTokenException");
    // In the key's account it is a refusal; its grantee retires it, and that reads no other grant.
    let own = on.user(A, "own", EAST, None);
    assert_eq!(on.err(&own, "RetireGrant", json!({"GrantToken": token})), "AccessDeniedException");
    let before = on.service.ledger().catalog().rows_read();
    on.ok(&user, "RetireGrant", json!({"GrantToken": token}));
    let read = on.service.ledger().catalog().rows_read() - before;
    assert!(read < 10, "{read} rows");
    assert_eq!(on.err(&user, "RetireGrant", json!({"GrantToken": token})), "InvalidGrantTokenException");
}

#[test]
fn both_accounts_see_a_role_being_assumed() {
    let on = Lab::new();
    let user = on.user(B, "user", EAST, Some(identity("Allow", "sts:AssumeRole", "*")));
    let (open, closed) = (
        on.role(A, "open", B, identity("Allow", "kms:*", "*")),
        on.role(A, "closed", A, identity("Allow", "kms:*", "*")),
    );
    on.session(&user, &open, None, EAST);
    let _refused =
        on.call(&user, "sts:AssumeRole", json!({"RoleArn": closed, "RoleSessionName": "session"})).unwrap_err();
    let seen = |account: &str, region: &str| {
        let asked = json!({"LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": "AssumeRole"}]});
        let found = on.call(&on.root(account, region), "cloudtrail:LookupEvents", asked).unwrap();
        let told = |e: &Value| serde_json::from_str::<Value>(e["CloudTrailEvent"].as_str().unwrap()).unwrap();
        let roles = found["Events"].as_array().unwrap().iter().map(|e| text(&told(e)["requestParameters"]["roleArn"]));
        roles.collect::<Vec<_>>()
    };
    assert_eq!(seen(B, EAST), [closed, open.clone()], "newest first");
    assert_eq!(seen(A, EAST), [open], "not the refusal");
    assert!(seen(A, WEST).is_empty());
}
