use super::super::trail_testing::{ACCOUNT, OTHER, World, allow, code};
use crate::iam::PrincipalRef;
use crate::kms::Caller;
use serde_json::{Value, json};

const MISSING: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// The ARNs that GetResources finds, in order.
fn resources(world: &World, caller: &Caller, input: Value) -> Vec<String> {
    let found = world.call(caller, "tag:GetResources", input).unwrap();
    assert_eq!(found["PaginationToken"], "");
    let mut arns = arns(&found);
    arns.sort();
    arns
}

fn arns(found: &Value) -> Vec<String> {
    let list = found["ResourceTagMappingList"].as_array().unwrap().iter();
    list.map(|r| r["ResourceARN"].as_str().unwrap().to_owned()).collect()
}

fn sorted(arns: &[&String]) -> Vec<String> {
    let mut arns: Vec<String> = arns.iter().map(|arn| (*arn).clone()).collect();
    arns.sort();
    arns
}

/// The filters are those of the API Reference's example of GetResources.
#[test]
fn filters_are_joined_by_and_and_their_values_by_or() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    let all = world.key(&admin, &[("key1", "value1"), ("key2", "value3"), ("key3", "")]);
    let second = world.key(&admin, &[("key2", "value4"), ("key3", "x")]);
    let third = world.key(&admin, &[("key1", "other"), ("key2", "value2")]);
    world.key(&admin, &[]);
    let filter1 = json!({ "Key": "key1", "Values": ["value1"] });
    let filter2 = json!({ "Key": "key2", "Values": ["value2", "value3", "value4"] });
    let filter3 = json!({ "Key": "key3" });
    let found = |filters: &[&Value]| resources(&world, &admin, json!({ "TagFilters": filters }));
    assert_eq!(found(&[&filter1]), std::slice::from_ref(&all));
    assert_eq!(found(&[&filter2]), sorted(&[&all, &second, &third]));
    assert_eq!(found(&[&filter3]), sorted(&[&all, &second]));
    assert_eq!(found(&[&filter1, &filter2, &filter3]), std::slice::from_ref(&all));
    assert_eq!(found(&[&json!({ "Key": "key4" })]), Vec::<String>::new());
    assert_eq!(found(&[]), sorted(&[&all, &second, &third]), "what has no tags is not a tagged resource");
    for (types, count) in [(json!(["kms"]), 3), (json!(["ec2:instance", "kms:key"]), 3), (json!(["kms:alias"]), 0)] {
        assert_eq!(resources(&world, &admin, json!({ "ResourceTypeFilters": types })).len(), count);
    }
    let listed = json!({ "ResourceARNList": [third, MISSING] });
    let answer = world.call(&admin, "tag:GetResources", listed).unwrap();
    let tags = json!([{ "Key": "key1", "Value": "other" }, { "Key": "key2", "Value": "value2" }]);
    let only = json!([{ "ResourceARN": third, "Tags": tags }]);
    assert_eq!(answer, json!({ "PaginationToken": "", "ResourceTagMappingList": only }));
    // Another Region and another account have none of them.
    let west = world.signed(&PrincipalRef::root(ACCOUNT), "eu-west-1");
    assert!(resources(&world, &west, json!({})).is_empty());
    assert!(resources(&world, &world.root(OTHER), json!({ "ResourceARNList": [all] })).is_empty());
}

#[test]
fn pages_have_as_many_resources_and_tags_as_are_wanted() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    let names: Vec<String> = (0..40).map(|n| format!("n{n:02}")).collect();
    let tags: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let keys: Vec<String> = (0..5).map(|_| world.key(&admin, &tags)).collect();
    for (member, size, expected) in [("ResourcesPerPage", 2, [2, 2, 1]), ("TagsPerPage", 100, [2, 2, 1])] {
        let (mut input, mut all, mut sizes) = (json!({ member: size }), Vec::new(), Vec::new());
        loop {
            let page = world.call(&admin, "tag:GetResources", input.clone()).unwrap();
            sizes.push(arns(&page).len());
            all.extend(arns(&page));
            match page["PaginationToken"].as_str().unwrap() {
                "" => break,
                token => input["PaginationToken"] = json!(token),
            }
        }
        assert_eq!(sizes, expected, "{member}");
        all.sort();
        assert_eq!(all, sorted(&keys.iter().collect::<Vec<_>>()));
    }
    let words = |verb: &str, input: Value| world.call(&admin, verb, input).unwrap();
    assert_eq!(words("tag:GetTagKeys", json!({})), json!({ "PaginationToken": "", "TagKeys": names }));
    let values = json!({ "PaginationToken": "", "TagValues": ["v"] });
    assert_eq!(words("tag:GetTagValues", json!({ "Key": "n07" })), values);
    // A hundred on a page, and the rest on the next.
    for n in 0..3 {
        let more: Vec<String> = (0..40).map(|i| format!("m{n}{i:02}")).collect();
        world.key(&admin, &more.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
    }
    let first = words("tag:GetTagKeys", json!({}));
    let rest = words("tag:GetTagKeys", json!({ "PaginationToken": first["PaginationToken"] }));
    let count = |page: &Value| page["TagKeys"].as_array().unwrap().len();
    assert_eq!((count(&first), count(&rest), &rest["PaginationToken"]), (100, 60, &json!("")));
}

#[test]
fn each_resource_is_changed_by_itself_and_failures_are_told_by_arn() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    let (good, foreign) = (world.key(&admin, &[("old", "1")]), world.key(&world.root(OTHER), &[]));
    let deleted = world.key(&admin, &[]);
    world.call(&admin, "kms:ScheduleKeyDeletion", json!({ "KeyId": deleted })).unwrap();
    let bucket = "arn:aws:s3:::bucket".to_owned();
    let list = [&good, &foreign, &deleted, &bucket, &MISSING.to_owned()];
    let answer =
        world.call(&admin, "tag:TagResources", json!({ "ResourceARNList": list, "Tags": { "a": "b" } })).unwrap();
    let failed = answer["FailedResourcesMap"].as_object().unwrap();
    let codes: Vec<(&str, &Value)> = failed.iter().map(|(arn, why)| (arn.as_str(), &why["ErrorCode"])).collect();
    let mut expected = [
        (foreign.as_str(), json!("InvalidParameterException")),
        (bucket.as_str(), json!("InvalidParameterException")),
        (deleted.as_str(), json!("KMSInvalidStateException")),
        (MISSING, json!("NotFoundException")),
    ];
    expected.sort_by_key(|e| e.0);
    assert_eq!(codes, expected.iter().map(|(arn, code)| (*arn, code)).collect::<Vec<_>>());
    assert!(failed.values().all(|why| why["StatusCode"] == 400 && !why["ErrorMessage"].as_str().unwrap().is_empty()));
    let tags = |key: &str| world.call(&admin, "kms:ListResourceTags", json!({ "KeyId": key })).unwrap()["Tags"].clone();
    let tag = |key: &str, value: &str| json!({ "TagKey": key, "TagValue": value });
    assert_eq!(tags(&good), json!([tag("a", "b"), tag("old", "1")]));
    let answer =
        world.call(&admin, "tag:UntagResources", json!({ "ResourceARNList": [good], "TagKeys": ["old", "none"] }));
    assert_eq!(answer.unwrap(), json!({ "FailedResourcesMap": {} }));
    assert_eq!(tags(&good), json!([tag("a", "b")]));
}

#[test]
fn tagging_a_key_needs_both_permissions() {
    let world = World::new();
    let key = world.key(&world.root(ACCOUNT), &[]);
    let input = json!({ "ResourceARNList": [key], "Tags": { "a": "b" } });
    let outer = world.user("Outer", &allow(&["tag:*"]));
    let answer = world.call(&outer, "tag:TagResources", input.clone()).unwrap();
    assert_eq!(answer["FailedResourcesMap"][&key]["ErrorCode"], "AccessDeniedException");
    let inner = world.user("Inner", &allow(&["kms:*"]));
    assert_eq!(code(world.call(&inner, "tag:TagResources", input.clone())), "AccessDeniedException");
    for verb in ["GetResources", "GetTagKeys"] {
        assert_eq!(code(world.call(&inner, &format!("tag:{verb}"), json!({}))), "AccessDeniedException");
    }
    let both = world.user("Both", &allow(&["kms:TagResource", "tag:TagResources"]));
    assert_eq!(world.call(&both, "tag:TagResources", input).unwrap(), json!({ "FailedResourcesMap": {} }));
}

#[test]
fn malformed_requests_are_invalid_parameters() {
    let world = World::new();
    let admin = world.root(ACCOUNT);
    let many = vec![MISSING; 21];
    for (verb, input) in [
        ("TagResources", json!({ "ResourceARNList": many, "Tags": { "a": "b" } })),
        ("TagResources", json!({ "ResourceARNList": [], "Tags": { "a": "b" } })),
        ("TagResources", json!({ "ResourceARNList": [MISSING], "Tags": {} })),
        ("UntagResources", json!({ "ResourceARNList": [MISSING], "TagKeys": [] })),
        ("GetResources", json!({ "ResourcesPerPage": 0 })),
        ("GetResources", json!({ "ResourcesPerPage": 101 })),
        ("GetResources", json!({ "TagsPerPage": 99 })),
        ("GetResources", json!({ "PaginationToken": "x" })),
        ("GetResources", json!({ "ResourceARNList": [MISSING], "ResourcesPerPage": 1 })),
        ("GetResources", json!({ "ResourceARNList": [MISSING], "TagFilters": [{ "Key": "a" }] })),
        ("GetResources", json!({ "IncludeComplianceDetails": true })),
        ("GetTagKeys", json!({ "PaginationToken": "x" })),
    ] {
        let answer = world.call(&admin, &format!("tag:{verb}"), input.clone());
        assert_eq!(code(answer), "InvalidParameterException", "{verb} {input}");
    }
}
