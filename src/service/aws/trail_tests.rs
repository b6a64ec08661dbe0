use super::super::trail_testing::{ACCOUNT, DAY, OTHER, START, World, allow, code};
use super::event;
use crate::iam::{NewRole, PrincipalRef};
use crate::kms::{Caller, Place};
use crate::ledger::Filter;
use serde_json::{Value, json};

/// Looks events up: their names.
fn names(world: &World, caller: &Caller, input: Value) -> Vec<String> {
    let found = world.call(caller, "cloudtrail:LookupEvents", input).unwrap();
    let events = found["Events"].as_array().unwrap().iter();
    events.map(|e| e["EventName"].as_str().unwrap().to_owned()).collect()
}

fn by(key: &str, value: &str) -> Value {
    json!({ "LookupAttributes": [{ "AttributeKey": key, "AttributeValue": value }] })
}

fn encrypt(world: &World, caller: &Caller, key: &str) -> Value {
    let input = json!({ "KeyId": key, "Plaintext": "c2VjcmV0", "EncryptionContext": { "Department": "Engineering" } });
    world.call(caller, "kms:Encrypt", input).unwrap()["CiphertextBlob"].clone()
}

/// The unique id of the user Alice.
fn alice_id(world: &World) -> String {
    let (users, _) = world.service.kms.iam().principals(ACCOUNT).unwrap();
    users.into_iter().find(|user| user.name == "Alice").unwrap().id
}

/// "userIdentity with temporary security credentials" (CloudTrail User Guide, "CloudTrail userIdentity element").
#[test]
fn a_roles_session_is_told_with_the_roles_unique_id() {
    let world = World::new();
    let alice = world.user("Alice", &allow(&["*"]));
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": ACCOUNT }, "Action": "sts:AssumeRole" }] });
    let new = NewRole { account: ACCOUNT.into(), name: "Ops".into(), trust: trust.to_string(), ..NewRole::default() };
    let role = world.service.kms.iam().create_role(new, &|_| Ok(()), &world.local()).unwrap();
    let asked = json!({ "RoleArn": role.arn(), "RoleSessionName": "night" });
    let made = world.call(&alice, "sts:AssumeRole", asked).unwrap()["Credentials"].clone();
    let [id, token] = ["AccessKeyId", "SessionToken"].map(|name| made[name].as_str().unwrap());
    let session = world.session(id, token);
    assert_eq!(code(world.call(&session, "kms:ListKeys", json!({}))), "AccessDeniedException");
    let found = world.call(&alice, "cloudtrail:LookupEvents", by("EventName", "ListKeys")).unwrap();
    let told: Value = serde_json::from_str(found["Events"][0]["CloudTrailEvent"].as_str().unwrap()).unwrap();
    let expected = json!({
        "type": "AssumedRole",
        "principalId": format!("{}:night", role.id),
        "arn": format!("arn:aws:sts::{ACCOUNT}:assumed-role/Ops/night"),
        "accountId": ACCOUNT,
        "accessKeyId": id,
        "sessionContext": { "sessionIssuer": {
            "type": "Role", "principalId": role.id, "arn": role.arn(), "accountId": ACCOUNT, "userName": "Ops",
        } },
    });
    assert_eq!(told["userIdentity"], expected);
}

#[test]
fn an_act_without_an_end_is_no_event() {
    let world = World::new();
    world.key(&world.root(ACCOUNT), &[]);
    let found = world.service.ledger().events(&Filter::default(), None, 50).unwrap();
    let mut made = found.records.into_iter().find(|e| e.record.body.act == "kms:CreateKey").unwrap();
    let place = Place { account: ACCOUNT.into(), region: "us-east-1".into() };
    assert!(event(&made, &place, &place).is_some());
    made.record.body.result.clear();
    assert!(event(&made, &place, &place).is_none());
}

/// The record is that of the example "Decrypt with a standard symmetric encryption key" (KMS Developer Guide).
#[test]
fn a_decryption_is_told_as_cloudtrail_tells_it() {
    let world = World::new();
    let alice = world.user("Alice", &allow(&["kms:*", "cloudtrail:LookupEvents"]));
    let key = world.key(&alice, &[]);
    let blob = encrypt(&world, &alice, &key);
    world.pass(1_999);
    let input = json!({
        "CiphertextBlob": blob,
        "KeyId": key,
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "EncryptionContext": { "Department": "Engineering" },
    });
    let plain = world.call(&alice, "kms:Decrypt", input).unwrap();
    let found = world.call(&alice, "cloudtrail:LookupEvents", by("EventName", "Decrypt")).unwrap();
    assert_eq!(found.get("NextToken"), None);
    let [event] = &found["Events"].as_array().unwrap()[..] else { panic!("{found}") };
    let told: Value = serde_json::from_str(event["CloudTrailEvent"].as_str().unwrap()).unwrap();
    let access_key = &alice.request.as_ref().unwrap().access_key;
    let expected = json!({
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": alice_id(&world),
            "arn": "arn:aws:iam::111122223333:user/Alice",
            "accountId": "111122223333",
            "accessKeyId": access_key,
            "userName": "Alice",
        },
        "eventTime": "2026-03-01T12:00:01Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt",
        "awsRegion": "us-east-1",
        "sourceIPAddress": "192.0.2.7",
        "userAgent": "aws-cli/2",
        "requestParameters": {
            "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "keyId": key,
            "encryptionContext": { "Department": "Engineering" },
        },
        "responseElements": null,
        "additionalEventData": { "keyMaterialId": plain["KeyMaterialId"] },
        "requestID": "12345126-30d5-4b28-98b9-9153da559963",
        "eventID": event["EventId"],
        "readOnly": true,
        "resources": [{ "accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": key }],
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "recipientAccountId": "111122223333",
        "eventCategory": "Management",
    });
    assert_eq!(told, expected);
    let mut event = event.clone();
    event.as_object_mut().unwrap().remove("CloudTrailEvent");
    let expected = json!({
        "EventId": event["EventId"],
        "EventName": "Decrypt",
        "ReadOnly": "true",
        "AccessKeyId": access_key,
        "EventTime": ((START + 1000) / 1000) as f64,
        "EventSource": "kms.amazonaws.com",
        "Username": "Alice",
        "Resources": [{ "ResourceType": "AWS::KMS::Key", "ResourceName": key }],
    });
    assert_eq!(event, expected);
}

#[test]
fn a_refusal_has_cloudtrails_code_and_the_callers_account_alone_sees_it() {
    let world = World::new();
    let (alice, admin) = (world.user("Alice", &allow(&["kms:ListKeys"])), world.root(ACCOUNT));
    let key = world.key(&admin, &[]);
    let input = json!({ "KeyId": key, "Plaintext": "AAAA" });
    assert_eq!(code(world.call(&alice, "kms:Encrypt", input.clone())), "AccessDeniedException");
    let stranger = world.root(OTHER);
    assert_eq!(code(world.call(&stranger, "kms:Encrypt", input)), "AccessDeniedException");
    let missing = json!({ "KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab" });
    assert_eq!(code(world.call(&alice, "kms:DescribeKey", missing)), "NotFoundException");
    let told = |caller: &Caller, name: &str| {
        let found = world.call(caller, "cloudtrail:LookupEvents", by("EventName", name)).unwrap();
        let events = found["Events"].as_array().unwrap().clone();
        let event = |e: &Value| serde_json::from_str(e["CloudTrailEvent"].as_str().unwrap()).unwrap();
        events.iter().map(event).collect::<Vec<Value>>()
    };
    let of_alice = told(&admin, "Encrypt");
    assert_eq!(of_alice.len(), 1);
    assert_eq!(of_alice[0]["errorCode"], "AccessDenied");
    assert!(of_alice[0]["errorMessage"].as_str().unwrap().contains("Alice"));
    assert!(!of_alice[0].to_string().contains("AAAA"), "no plaintext");
    let of_stranger = told(&stranger, "Encrypt");
    assert_eq!((of_stranger.len(), &of_stranger[0]["recipientAccountId"]), (1, &json!(OTHER)));
    let root = json!({ "type": "Root", "principalId": OTHER, "arn": format!("arn:aws:iam::{OTHER}:root") });
    for (name, value) in root.as_object().unwrap() {
        assert_eq!(of_stranger[0]["userIdentity"][name], *value);
    }
    assert_eq!(told(&admin, "DescribeKey")[0]["errorCode"], "NotFoundException");
    assert!(told(&admin, "CreateKey")[0].get("errorCode").is_none());
}

#[test]
fn each_attribute_finds_what_it_names() {
    let world = World::new();
    let (admin, alice) = (world.root(ACCOUNT), world.user("Alice", &allow(&["kms:ListKeys"])));
    let (first, second) = (world.key(&admin, &[]), world.key(&admin, &[]));
    encrypt(&world, &admin, &first);
    encrypt(&world, &admin, &second);
    world.call(&alice, "kms:ListKeys", json!({})).unwrap();
    let found = |key: &str, value: &str| names(&world, &admin, by(key, value));
    assert_eq!(found("EventName", "CreateKey"), ["CreateKey", "CreateKey"]);
    assert_eq!(found("ResourceName", &first), ["Encrypt", "CreateKey"]);
    assert_eq!(found("ResourceType", "AWS::KMS::Key"), ["Encrypt", "Encrypt", "CreateKey", "CreateKey"]);
    assert!(found("ResourceType", "AWS::S3::Bucket").is_empty());
    assert_eq!(found("Username", "Alice"), ["ListKeys"]);
    assert!(found("Username", "root").contains(&"Encrypt".to_owned()));
    assert_eq!(found("AccessKeyId", &alice.request.as_ref().unwrap().access_key), ["ListKeys"]);
    assert!(
        found("EventSource", "iam.amazonaws.com")
            .iter()
            .all(|name| name.ends_with("Key") || name.starts_with("Put") || name == "CreateUser")
    );
    assert!(!found("EventSource", "iam.amazonaws.com").is_empty());
    assert!(!found("ReadOnly", "false").contains(&"Encrypt".to_owned()));
    assert_eq!(found("ReadOnly", "true").iter().filter(|name| *name == "Encrypt").count(), 2);
    // By its id: that event, and only for the account that sees it.
    let all = world.call(&admin, "cloudtrail:LookupEvents", by("EventName", "ListKeys")).unwrap();
    let id = all["Events"][0]["EventId"].as_str().unwrap();
    assert_eq!(found("EventId", id), ["ListKeys"]);
    assert!(names(&world, &world.root(OTHER), by("EventId", id)).is_empty());
    assert!(found("EventId", "not-an-id").is_empty());
    // The creation of the installation is none of AWS's.
    assert!(names(&world, &admin, json!({})).iter().all(|name| name != "Init"));
}

#[test]
fn accounts_and_regions_see_their_own_events_and_uses_of_their_keys() {
    let world = World::new();
    let (admin, other) = (world.root(ACCOUNT), world.root(OTHER));
    let key = world.key(&admin, &[]);
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": [ACCOUNT, OTHER] }, "Action": "kms:*", "Resource": "*" }] });
    world.call(&admin, "kms:PutKeyPolicy", json!({ "KeyId": key, "Policy": policy.to_string() })).unwrap();
    encrypt(&world, &other, &key);
    let west = world.signed(&PrincipalRef::root(ACCOUNT), "eu-west-1");
    world.call(&west, "kms:ListKeys", json!({})).unwrap();
    assert_eq!(names(&world, &admin, by("EventName", "Encrypt")), ["Encrypt"], "the key's account");
    assert_eq!(names(&world, &other, by("EventName", "Encrypt")), ["Encrypt"], "the caller's account");
    assert!(names(&world, &other, by("EventName", "CreateKey")).is_empty());
    assert!(names(&world, &admin, by("EventName", "ListKeys")).is_empty());
    assert_eq!(names(&world, &west, by("EventName", "ListKeys")), ["ListKeys"]);
    // What is done at the command line happens at home.
    world.service.kms.iam().create_account("third", None, &world.local()).unwrap();
    assert_eq!(names(&world, &admin, by("EventName", "CreateAccount")).len(), 2);
    assert!(names(&world, &west, by("EventName", "CreateAccount")).is_empty());
}

#[test]
fn pages_follow_each_other_without_gap_or_repetition() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    let key = world.key(&admin, &[]);
    for _ in 0..7 {
        encrypt(&world, &admin, &key);
        world.call(&admin, "kms:ListKeys", json!({})).unwrap();
    }
    let mut input = by("EventName", "Encrypt");
    input["MaxResults"] = json!(3);
    let (mut ids, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = world.call(&admin, "cloudtrail:LookupEvents", input.clone()).unwrap();
        let events = page["Events"].as_array().unwrap().clone();
        sizes.push(events.len());
        ids.extend(events.iter().map(|e| e["EventId"].to_string()));
        match page.get("NextToken") {
            Some(token) => input["NextToken"] = token.clone(),
            None => break,
        }
    }
    assert_eq!(sizes, [3, 3, 1]);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7);
    // A token is of its own request.
    let mut foreign = by("EventName", "ListKeys");
    foreign["NextToken"] = input["NextToken"].clone();
    let forged = json!({ "NextToken": "1" });
    for input in [foreign, forged] {
        assert_eq!(code(world.call(&admin, "cloudtrail:LookupEvents", input)), "InvalidNextTokenException");
    }
}

#[test]
fn only_the_last_ninety_days_and_the_wanted_time_are_found() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    world.key(&admin, &[]);
    world.pass(60 * DAY + 500);
    world.call(&admin, "kms:ListKeys", json!({})).unwrap();
    world.pass(29 * DAY);
    let seconds = |days: i64| json!((START + days * DAY) / 1000);
    let wanted = |input: Value| -> Vec<String> {
        let events = names(&world, &admin, input);
        events.into_iter().filter(|name| ["CreateKey", "ListKeys"].contains(&&**name)).collect()
    };
    assert_eq!(wanted(json!({})), ["ListKeys", "CreateKey"]);
    // The event has milliseconds, which its time does not show.
    assert_eq!(wanted(json!({ "StartTime": seconds(60), "EndTime": seconds(60) })), ["ListKeys"]);
    assert_eq!(wanted(json!({ "EndTime": seconds(59) })), ["CreateKey"]);
    assert_eq!(wanted(json!({ "StartTime": seconds(61) })), Vec::<String>::new());
    world.pass(2 * DAY);
    assert_eq!(wanted(json!({ "StartTime": seconds(-10) })), ["ListKeys"]);
}

#[test]
fn malformed_requests_have_cloudtrails_codes_and_the_permission_is_its_own() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    let attribute = |key: &str, value: &str| json!({ "AttributeKey": key, "AttributeValue": value });
    for (input, expected) in [
        (
            json!({ "LookupAttributes": [attribute("EventName", "a"), attribute("EventName", "b")] }),
            "InvalidLookupAttributesException",
        ),
        (by("Colour", "red"), "InvalidLookupAttributesException"),
        (by("ReadOnly", "maybe"), "InvalidLookupAttributesException"),
        (by("EventName", ""), "InvalidLookupAttributesException"),
        (json!({ "StartTime": 20, "EndTime": 10 }), "InvalidTimeRangeException"),
        (json!({ "MaxResults": 0 }), "InvalidMaxResultsException"),
        (json!({ "MaxResults": 51 }), "InvalidMaxResultsException"),
        (json!({ "EventCategory": "insight" }), "InvalidEventCategoryException"),
    ] {
        assert_eq!(code(world.call(&admin, "cloudtrail:LookupEvents", input.clone())), expected, "{input}");
    }
    let alice = world.user("Alice", &allow(&["kms:*"]));
    assert_eq!(code(world.call(&alice, "cloudtrail:LookupEvents", json!({}))), "AccessDeniedException");
}
