use super::super::trail_testing::{ACCOUNT, OTHER, START, World, allow, code};
use serde_json::json;

#[test]
fn the_last_successful_use_is_told_and_nothing_else() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    world.pass(5000);
    let (key, unused) = (world.key(&admin, &[]), world.key(&admin, &[]));
    let created = (START + 5000) as f64 / 1000.0;
    let ask = |key: &str| world.call(&admin, "kms:GetKeyLastUsage", json!({ "KeyId": key })).unwrap();
    let never =
        json!({ "KeyId": unused, "KeyLastUsage": {}, "TrackingStartDate": created, "KeyCreationDate": created });
    assert_eq!(ask(&unused), never);
    for (n, (verb, input)) in [
        ("Encrypt", json!({ "KeyId": key, "Plaintext": "AAAA" })),
        ("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" })),
    ]
    .into_iter()
    .enumerate()
    {
        world.pass(1000);
        world.call(&admin, &format!("kms:{verb}"), input).unwrap();
        // Neither of these is a successful use.
        world.call(&admin, "kms:DescribeKey", json!({ "KeyId": key })).unwrap();
        let dry = json!({ "KeyId": key, "Plaintext": "AAAA", "DryRun": true });
        assert_eq!(code(world.call(&admin, "kms:Encrypt", dry)), "DryRunOperationException");
        let told = ask(&key);
        let last = &told["KeyLastUsage"];
        assert_eq!((&last["Operation"], &last["Timestamp"]), (&json!(verb), &json!(created + 1.0 + n as f64)));
        assert_eq!(last["KmsRequestId"], admin.request.as_ref().unwrap().id);
        // The event is the one that CloudTrail has.
        let attribute = json!({ "AttributeKey": "EventId", "AttributeValue": last["CloudTrailEventId"] });
        let found = world.call(&admin, "cloudtrail:LookupEvents", json!({ "LookupAttributes": [attribute] })).unwrap();
        assert_eq!(
            (&found["Events"][0]["EventName"], &found["Events"][0]["Resources"][0]["ResourceName"]),
            (&json!(verb), &json!(key))
        );
        assert_eq!(ask(&unused), never);
    }
    // ReEncrypt uses two keys.
    let made = world.call(&admin, "kms:Encrypt", json!({ "KeyId": key, "Plaintext": "AAAA" })).unwrap();
    let input = json!({ "CiphertextBlob": made["CiphertextBlob"], "DestinationKeyId": unused });
    world.call(&admin, "kms:ReEncrypt", input).unwrap();
    for key in [&key, &unused] {
        assert_eq!(ask(key)["KeyLastUsage"]["Operation"], "ReEncrypt");
    }
}

#[test]
fn what_is_not_ones_own_key_or_permitted_is_refused() {
    let world = World::new();
    let (admin, alice) = (world.root(ACCOUNT), world.user("Alice", &allow(&["kms:DescribeKey"])));
    let key = world.key(&admin, &[]);
    world.call(&admin, "kms:CreateAlias", json!({ "AliasName": "alias/a", "TargetKeyId": key })).unwrap();
    for (caller, key, expected) in [
        (&alice, key.as_str(), "AccessDeniedException"),
        (&admin, "alias/a", "NotFoundException"),
        (&admin, "1234abcd-12ab-34cd-56ef-1234567890ab", "NotFoundException"),
        (&admin, "arn:aws:kms:us-east-1:x", "InvalidArnException"),
        (&world.root(OTHER), &key, "AccessDeniedException"),
    ] {
        assert_eq!(code(world.call(caller, "kms:GetKeyLastUsage", json!({ "KeyId": key }))), expected, "{key}");
    }
}
