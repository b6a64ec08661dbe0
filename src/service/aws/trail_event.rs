//! An audit event as CloudTrail tells it (AWS CloudTrail User Guide, "CloudTrail record contents").

use crate::kms::Place;
use crate::kms::policy::account_of;
use crate::ledger::{ANSWER, ANSWER_CODE, AuditEvent, AuditRecord, ERROR_CODE, RequestInfo};
use serde_json::{Map, Value, json};

/// Version of the record format.
const VERSION: &str = "1.11";
/// The type of keys.
pub(super) const KEY_TYPE: &str = "AWS::KMS::Key";

/// Prefixes of acts, and the sources of their events. Acts of coffer's own are not among them.
const SOURCES: &[(&str, &str)] = &[
    ("kms", "kms.amazonaws.com"),
    ("sts", "sts.amazonaws.com"),
    ("iam", "iam.amazonaws.com"),
    ("ec2", "ec2.amazonaws.com"),
    ("ebs", "ebs.amazonaws.com"),
    ("organizations", "organizations.amazonaws.com"),
    ("cloudtrail", "cloudtrail.amazonaws.com"),
    ("tag", "tagging.amazonaws.com"),
];

/// Acts that coffer names more exactly than AWS, and the AWS operation that each is.
const NAMES: &[(&str, &str)] = &[
    ("kms:ReEncryptFrom", "ReEncrypt"),
    ("kms:ReEncryptTo", "ReEncrypt"),
    ("kms:RewrapVolumeKey", "ReEncrypt"),
    ("kms:GenerateVolumeKey", "GenerateDataKeyWithoutPlaintext"),
    ("kms:UnwrapVolumeKey", "Decrypt"),
];

/// Operations that change nothing, besides those that get, list, describe or look up.
const READS: &[&str] = &[
    "Encrypt",
    "Decrypt",
    "ReEncrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateRandom",
    "GenerateMac",
    "VerifyMac",
    "Sign",
    "Verify",
    "DeriveSharedSecret",
    "AssumeRole",
];

/// Acts that the KMS does by itself.
const SERVICE_EVENTS: &[&str] = &["DeleteKey", "RotateKey", "DeleteExpiredKeyMaterial", "SynchronizeMultiRegionKey"];

/// Source and name of the event of an act; `None` for one that AWS does not have.
pub(crate) fn named(act: &str) -> Option<(&'static str, &str)> {
    let (prefix, name) = act.split_once(':')?;
    let (_, source) = SOURCES.iter().find(|(p, _)| *p == prefix)?;
    let aws = NAMES.iter().find(|(ours, _)| *ours == act).map(|(_, aws)| *aws);
    Some((source, aws.unwrap_or(name)))
}

/// Whether an operation changes nothing.
pub(super) fn is_read_only(name: &str) -> bool {
    READS.contains(&name) || ["Get", "List", "Describe", "Lookup"].iter().any(|verb| name.starts_with(verb))
}

/// The Region and the account of a key's ARN.
fn place_of_key(arn: &str) -> Option<(&str, &str)> {
    let mut fields = arn.split(':').skip(3);
    Some((fields.next()?, fields.next()?))
}

/// The request that a record's caller made over the network.
pub(super) fn request_of(record: &AuditRecord) -> Option<&RequestInfo> {
    record.body.caller.as_ref()?.request.as_deref()
}

/// Whether an account sees an event in a Region: one of its principals, or one of its keys or roles there. A refusal is seen by the
/// caller's account only (KMS Developer Guide, "Logging AWS KMS API calls with AWS CloudTrail"). What was not asked for over
/// the network happened in the installation's Region.
pub(super) fn is_seen(record: &AuditRecord, from: &Place, home: &Place) -> bool {
    let Some(caller) = &record.body.caller else { return false };
    let region = request_of(record).map_or(&home.region, |r| &r.region);
    if account_of(&caller.principal) == Some(&from.account) && *region == from.region {
        return true;
    }
    if record.body.result == "refused" {
        return false;
    }
    // A role's account sees its sessions being opened.
    let role = record.body.detail.get("role").filter(|_| record.body.act == "sts:AssumeRole");
    if role.and_then(|arn| account_of(arn)) == Some(&from.account) && *region == from.region {
        return true;
    }
    let key = record.body.key.as_deref().and_then(place_of_key);
    key == Some((&from.region, &from.account))
}

/// What the caller was answered, if that is all that an account may see: the key behind the request is not its own.
fn answer_of<'a>(record: &'a AuditRecord, from: &Place) -> Option<(&'a str, &'a str)> {
    let owner = record.body.key.as_deref().and_then(account_of);
    let detail = |name: &str| record.body.detail.get(name).map(String::as_str);
    detail(ANSWER_CODE).zip(detail(ANSWER)).filter(|_| owner != Some(&from.account))
}

/// The key of an event, for an account that may know it: of a refused request, whatever it was refused for, one of its own, or
/// one that the request named by its ARN.
pub(super) fn key_of<'a>(record: &'a AuditRecord, from: &Place) -> Option<&'a String> {
    let key = record.body.key.as_ref()?;
    let is_own = account_of(key) == Some(&from.account);
    let is_named = || request_of(record).is_some_and(|request| request.parameters.contains(&**key));
    let is_known = is_own || record.body.result != "refused" || (answer_of(record, from).is_none() && is_named());
    is_known.then_some(key)
}

/// What CloudTrail calls the user name of a principal: of a user its name, of a role's session the session's.
pub(super) fn user_of(principal: &str) -> &str {
    principal.rsplit(['/', ':']).next().unwrap_or(principal)
}

fn identity(principal: &str, request: Option<&RequestInfo>, via: Option<&str>) -> Value {
    let account = account_of(principal).unwrap_or_default();
    let resource = principal.splitn(6, ':').nth(5).unwrap_or_default();
    let mut identity = match resource.split_once('/') {
        None if resource == "root" => json!({ "type": "Root", "principalId": account, "arn": principal }),
        Some(("user", _)) => json!({ "type": "IAMUser", "arn": principal, "userName": user_of(principal) }),
        Some(("assumed-role", role)) => {
            let role = role.split('/').next().unwrap_or_default();
            let arn = format!("arn:aws:iam::{account}:role/{role}");
            let issuer = json!({ "type": "Role", "arn": arn, "accountId": account, "userName": role });
            json!({ "type": "AssumedRole", "arn": principal, "sessionContext": { "sessionIssuer": issuer } })
        }
        Some(("service", name)) => json!({ "type": "AWSService", "invokedBy": name }),
        _ => json!({ "type": "Unknown", "principalId": principal }),
    };
    if let Some(id) = request.map(|r| r.principal_id.as_str()).filter(|id| !id.is_empty()) {
        identity["principalId"] = id.into();
        if let Some(issuer) = identity.pointer_mut("/sessionContext/sessionIssuer") {
            issuer["principalId"] = id.split(':').next().into();
        }
    }
    if !account.is_empty() {
        identity["accountId"] = account.into();
    }
    if let Some(key) = request.map(|r| r.access_key.as_str()).filter(|key| !key.is_empty()) {
        identity["accessKeyId"] = key.into();
    }
    if let Some(via) = via {
        identity["invokedBy"] = via.into();
    }
    identity
}

/// Parameters with CloudTrail's names: those of the API with a small first letter. What a caller names stays as it is.
fn in_lower(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| member(&name, value)).collect(),
        Value::Array(items) => items.into_iter().map(in_lower).collect(),
        other => other,
    }
}

fn member(name: &str, value: Value) -> (String, Value) {
    let mut letters = name.chars();
    let small: String = letters.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(letters).collect();
    let is_map = small.starts_with("encryptionContext") || (small == "tags" && value.is_object());
    (small, if is_map { value } else { in_lower(value) })
}

fn parameters(record: &AuditRecord, key: Option<&String>) -> Value {
    let asked = request_of(record).map(|r| r.parameters.as_str()).filter(|p| !p.is_empty());
    if let Some(asked) = asked.and_then(|p| serde_json::from_str(p).ok()) {
        return in_lower(asked);
    }
    let mut known = Map::new();
    if let Some(key) = key {
        known.insert("keyId".into(), key.as_str().into());
    }
    if !record.body.context.is_empty() {
        known.insert("encryptionContext".into(), json!(record.body.context));
    }
    if known.is_empty() { Value::Null } else { Value::Object(known) }
}

/// Details that CloudTrail has no member for.
fn additional(record: &AuditRecord) -> Map<String, Value> {
    let named = |name: &str| if name == "material" { "keyMaterialId".to_owned() } else { name.to_owned() };
    let told_elsewhere = |name: &str| [ERROR_CODE, ANSWER, ANSWER_CODE].contains(&name);
    let details = record.body.detail.iter().filter(|(name, _)| !told_elsewhere(name));
    details.map(|(name, value)| (named(name), value.as_str().into())).collect()
}

/// CloudTrail's code of an error: a denied request has another one there than in the answer.
fn error_code(code: &str) -> &str {
    if code == "AccessDeniedException" { "AccessDenied" } else { code }
}

/// The record of an event for an account, as CloudTrail writes it.
pub(super) fn record(event: &AuditEvent, (source, name): (&str, &str), from: &Place, home: &Place) -> Value {
    let AuditEvent { id, record } = event;
    let body = &record.body;
    let (caller, request) = (body.caller.as_ref(), request_of(record));
    let via = caller.and_then(|c| c.via_service.as_deref());
    let client = caller.map_or("", |c| c.client.as_str());
    let (answer, key) = (answer_of(record, from), key_of(record, from));
    let resources: Vec<Value> =
        key.iter().map(|arn| json!({ "accountId": account_of(arn), "type": KEY_TYPE, "ARN": arn })).collect();
    let mut out = json!({
        "eventVersion": VERSION,
        "userIdentity": identity(caller.map_or("", |c| c.principal.as_str()), request, via),
        "eventTime": body.at.to_string(),
        "eventSource": source,
        "eventName": name,
        "awsRegion": request.map_or(&home.region, |r| &r.region),
        "sourceIPAddress": request.map_or(via.unwrap_or("127.0.0.1"), |r| r.source.as_str()),
        "userAgent": request.map_or(via.unwrap_or(client), |r| r.agent.as_str()),
        "requestParameters": parameters(record, key),
        "responseElements": null,
        "eventID": id,
        "readOnly": is_read_only(name),
        "resources": resources,
        "eventType": if SERVICE_EVENTS.contains(&name) { "AwsServiceEvent" } else { "AwsApiCall" },
        "managementEvent": true,
        "recipientAccountId": from.account,
        "eventCategory": "Management",
    });
    let set = |out: &mut Value, name: &str, value: Option<&str>| {
        if let Some(value) = value {
            out[name] = value.into();
        }
    };
    set(&mut out, "requestID", request.map(|r| r.id.as_str()));
    let (code, message) = match answer {
        Some((code, message)) => (Some(code), Some(message)),
        None => (body.detail.get(ERROR_CODE).map(String::as_str), body.error.as_deref()),
    };
    set(&mut out, "errorCode", code.map(error_code));
    set(&mut out, "errorMessage", message);
    let additional = if answer.is_none() { additional(record) } else { Map::new() };
    if !additional.is_empty() {
        out["additionalEventData"] = Value::Object(additional);
    }
    out
}
