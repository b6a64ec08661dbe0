//! Parses a policy. Strict: a field that is unknown, repeated or of the wrong type is refused, with its location.

use super::arn::is_account;
use super::condition::Condition;
use super::pattern::wild;
use super::words::{could_name_an_action, is_service_principal, names_an_action};
use super::{Names, Policy, Principal, Statement, Version};
use crate::cipher::wrap::KeyId;
use crate::error::{Error, Kind, Reason, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// The longest policy, bytes (KMS API Reference, PutKeyPolicy).
pub const MAX_POLICY: usize = 32_768;

pub(super) fn malformed(at: &str, why: impl fmt::Display) -> Error {
    Error::new(Kind::Usage, format!("key policy: {at}: {why}"))
        .reason(Reason::MalformedPolicy)
        .hint("see docs/kms.md for what a key policy may contain")
}

/// JSON whose objects keep the order of their fields; a repeated field is an error.
enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut fields: Vec<(String, Json)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if fields.iter().any(|(n, _)| *n == name) {
                        return Err(serde::de::Error::custom(format!("the field {name:?} is repeated")));
                    }
                    fields.push((name, value));
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn object(json: Json, at: &str) -> Result<Vec<(String, Json)>> {
    match json {
        Json::Object(fields) => Ok(fields),
        other => Err(malformed(at, format!("must be an object, not {}", other.kind()))),
    }
}

fn text(json: Json, at: &str) -> Result<String> {
    match json {
        Json::Text(text) => Ok(text),
        other => Err(malformed(at, format!("must be a string, not {}", other.kind()))),
    }
}

/// A string, or a non-empty list of strings.
fn texts(json: Json, at: &str) -> Result<Vec<String>> {
    match json {
        Json::List(list) if list.is_empty() => Err(malformed(at, "the list is empty")),
        Json::List(list) => list.into_iter().enumerate().map(|(i, t)| text(t, &format!("{at}[{i}]"))).collect(),
        one => Ok(vec![text(one, at)?]),
    }
}

/// Values of a condition: strings, and numbers and booleans as strings.
fn values(json: Json, at: &str) -> Result<Vec<String>> {
    let one = |json: Json, at: &str| match json {
        Json::Bool(value) => Ok(value.to_string()),
        Json::Number(value) => Ok(value),
        other => text(other, at),
    };
    match json {
        Json::List(list) if list.is_empty() => Err(malformed(at, "the list is empty")),
        Json::List(list) => list.into_iter().enumerate().map(|(i, v)| one(v, &format!("{at}[{i}]"))).collect(),
        single => Ok(vec![one(single, at)?]),
    }
}

fn aws_principal(name: String, at: &str) -> Result<Principal> {
    if name == "*" {
        return Ok(Principal::Everyone);
    }
    if is_account(&name) {
        return Ok(Principal::Account(name));
    }
    let bad = |why: &str| Err(malformed(at, format!("{name:?} {why}")));
    let fields: Vec<&str> = name.splitn(6, ':').collect();
    let ["arn", "aws", "iam" | "sts", "", account, resource] = fields[..] else {
        return bad("is not a principal: use *, an account id, or the ARN of an account's root, a user or a role");
    };
    if !is_account(account) {
        return bad("has no account id of 12 digits");
    }
    if name.contains(['*', '?']) {
        return bad("has a wildcard, which a principal cannot have: use a condition on aws:PrincipalArn");
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
    match (fields[2], resource.split_once('/')) {
        ("iam", None) if resource == "root" => Ok(Principal::Account(account.to_owned())),
        (_, Some((_, rest))) if rest.is_empty() || !rest.chars().all(good) => bad("is not a valid name of a principal"),
        ("iam", Some(("user" | "role", _))) | ("sts", Some(("assumed-role", _))) => Ok(Principal::Arn(name)),
        _ => bad("is not the ARN of root, a user or a role"),
    }
}

fn principals(json: Json, at: &str) -> Result<Vec<Principal>> {
    let fields = match json {
        Json::Text(all) if all == "*" => return Ok(vec![Principal::Everyone]),
        Json::Text(other) => {
            return Err(malformed(at, format!("{other:?} is neither \"*\" nor an object with AWS or Service")));
        }
        json => object(json, at)?,
    };
    let (mut named, mut services) = (Vec::new(), Vec::new());
    for (kind, value) in fields {
        let at = format!("{at}.{kind}");
        match &*kind {
            "AWS" => {
                for name in texts(value, &at)? {
                    named.push(aws_principal(name, &at)?);
                }
            }
            "Service" => {
                for name in texts(value, &at)? {
                    if !is_service_principal(&name) {
                        let why =
                            "is not a supported service: use ec2.coffer or ec2.amazonaws.com, which mean the same";
                        return Err(malformed(&at, format!("{name:?} {why}")));
                    }
                    services.push(Principal::Service(name));
                }
            }
            _ => return Err(malformed(&at, "the type of a principal must be AWS or Service")),
        }
    }
    named.append(&mut services);
    if named.is_empty() {
        return Err(malformed(at, "it has no principal"));
    }
    Ok(named)
}

fn no_action(at: &str, pattern: &str) -> Error {
    malformed(at, format!("{pattern:?} is not an action of AWS KMS or coffer, and could never match"))
}

fn actions(json: Json, not: bool, at: &str) -> Result<Names> {
    let patterns = texts(json, at)?;
    for pattern in &patterns {
        let name = pattern.split_once(':').filter(|(service, _)| service.eq_ignore_ascii_case("kms")).map(|(_, n)| n);
        let good = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"*?".contains(&b));
        if pattern != "*" && !name.is_some_and(good) {
            return Err(malformed(at, format!("{pattern:?} is neither * nor an action such as kms:Decrypt")));
        }
        if !could_name_an_action(pattern) {
            return Err(no_action(at, pattern));
        }
    }
    Ok(Names { not, patterns })
}

fn resources(json: Json, not: bool, at: &str) -> Result<Names> {
    let patterns = texts(json, at)?;
    for pattern in &patterns {
        if pattern != "*" && !(pattern.starts_with("arn:") && pattern.splitn(6, ':').count() == 6) {
            return Err(malformed(at, format!("{pattern:?} is neither * nor an ARN with six parts")));
        }
        if pattern != "*" && !can_be_a_key(pattern) {
            let why =
                "is not the ARN of a key (arn:aws:kms:REGION:ACCOUNT:key/ID): use * for the key that has the policy";
            return Err(malformed(at, format!("{pattern:?} {why}")));
        }
    }
    Ok(Names { not, patterns })
}

/// Whether the ARN of a key can match: aliases and resources of other services never occur in requests.
fn can_be_a_key(pattern: &str) -> bool {
    let fields: Vec<&str> = pattern.splitn(6, ':').collect();
    let [_, partition, service, region, account, resource] = fields[..] else { return false };
    let is_open = |field: &str| field.contains(['*', '?']);
    let word = |field: &str, of: &str| wild(field, of, false);
    let region_good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-*?".contains(&c);
    let account_good =
        is_account(account) || (is_open(account) && account.bytes().all(|b| b.is_ascii_digit() || b"*?".contains(&b)));
    // Up to its first wildcard, it must be a prefix of a key's ARN.
    let fixed = resource.split(['*', '?']).next().unwrap_or_default();
    let resource_good = match fixed.strip_prefix("key/") {
        Some(id) if is_open(resource) => {
            id.strip_prefix("mrk-").unwrap_or(id).bytes().all(|b| b"0123456789abcdef-mrk".contains(&b))
        }
        Some(id) => id.parse::<KeyId>().is_ok_and(|key| key.to_string() == id),
        None => is_open(resource) && "key/".starts_with(fixed),
    };
    word(partition, "aws")
        && word(service, "kms")
        && !region.is_empty()
        && region.bytes().all(region_good)
        && account_good
        && resource_good
}

fn conditions(json: Json, at: &str) -> Result<Vec<Condition>> {
    let mut found = Vec::new();
    for (operator, keys) in object(json, at)? {
        let at = format!("{at}.{operator}");
        let keys = object(keys, &at)?;
        if keys.is_empty() {
            return Err(malformed(&at, "it has no condition key"));
        }
        let mut names = HashSet::new();
        for (key, wanted) in keys {
            let at = format!("{at}.{key}");
            if !names.insert(key.to_ascii_lowercase()) {
                return Err(malformed(&at, "this condition key is repeated (condition keys are case-insensitive)"));
            }
            let wanted = values(wanted, &at)?;
            found.push(Condition::new(&operator, &key, wanted).map_err(|e| malformed(&at, e.what()))?);
        }
    }
    // Sorted, as they are printed, so that printing and parsing a policy changes nothing.
    found.sort_by(|a, b| (a.operator(), a.key()).cmp(&(b.operator(), b.key())));
    Ok(found)
}

/// Sets a field that may be set once.
fn once<T>(slot: &mut Option<T>, value: T, at: &str, rival: &str) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(at, format!("cannot be used together with {rival}"))),
    }
}

fn statement(json: Json, at: &str) -> Result<Statement> {
    let (mut sid, mut effect, mut principal, mut action, mut resource, mut condition) =
        (None, None, None, None, None, Vec::new());
    for (name, value) in object(json, at)? {
        let here = format!("{at}.{name}");
        match &*name {
            "Sid" => sid = Some(text(value, &here)?),
            "Effect" => match &*text(value, &here)? {
                "Allow" => effect = Some(true),
                "Deny" => effect = Some(false),
                other => return Err(malformed(&here, format!("{other:?} is neither Allow nor Deny"))),
            },
            "Principal" => principal = Some(principals(value, &here)?),
            "NotPrincipal" => {
                return Err(malformed(
                    &here,
                    "is not supported: name the principals, or use a condition on aws:PrincipalArn",
                ));
            }
            "Action" => once(&mut action, actions(value, false, &here)?, &here, "NotAction")?,
            "NotAction" => once(&mut action, actions(value, true, &here)?, &here, "Action")?,
            "Resource" => once(&mut resource, resources(value, false, &here)?, &here, "NotResource")?,
            "NotResource" => once(&mut resource, resources(value, true, &here)?, &here, "Resource")?,
            "Condition" => condition = conditions(value, &here)?,
            _ => return Err(malformed(&here, "is not a field of a statement")),
        }
    }
    // A pattern that matches no action is harmless in an Allow with Action and a Deny with NotAction; the other two would
    // allow more than they say.
    if let (Some(allow), Some(names)) = (effect, &action)
        && allow == names.not
        && let Some(empty) = names.patterns.iter().find(|p| !names_an_action(p))
    {
        return Err(no_action(&format!("{at}.{}", if names.not { "NotAction" } else { "Action" }), empty));
    }
    let missing = |field: &str| malformed(at, format!("it has no {field}"));
    Ok(Statement {
        sid,
        allow: effect.ok_or_else(|| missing("Effect"))?,
        principals: principal.ok_or_else(|| missing("Principal"))?,
        actions: action.ok_or_else(|| missing("Action"))?,
        resources: resource.ok_or_else(|| missing("Resource"))?,
        conditions: condition,
    })
}

/// Refuses policy variables: a variable that is not substituted must not be compared literally.
fn refuse_variables(policy: &Policy) -> Result<()> {
    for (i, statement) in policy.statements.iter().enumerate() {
        let values = statement.conditions.iter().flat_map(|c| c.values());
        if let Some(found) = values.chain(&statement.resources.patterns).find(|v| v.contains("${")) {
            let why = format!("{found:?} has a policy variable, which is not supported");
            return Err(malformed(&format!("Statement[{i}]"), why));
        }
    }
    Ok(())
}

impl Policy {
    /// Parses a policy document, such as a stored one. A new one is also [`Policy::check`]ed.
    ///
    /// # Errors
    /// [`Kind::Usage`]: MalformedPolicyDocumentException naming the location and what is wrong there; ValidationException for
    /// more than [`MAX_POLICY`] bytes.
    pub fn parse(document: &str) -> Result<Self> {
        if document.len() > MAX_POLICY {
            let what = format!("key policy: {} bytes exceed the limit of {MAX_POLICY}", document.len());
            return Err(Error::new(Kind::Usage, what).hint("combine principals and actions in fewer statements"));
        }
        let json: Json =
            serde_json::from_str(document).map_err(|e| malformed("the document", format!("not valid JSON: {e}")))?;
        let (mut version, mut id, mut statements) = (Version::V2008, None, None);
        for (name, value) in object(json, "the document")? {
            match &*name {
                "Version" => match &*text(value, "Version")? {
                    "2012-10-17" => version = Version::V2012,
                    "2008-10-17" => {}
                    other => {
                        return Err(malformed("Version", format!("{other:?} is neither 2012-10-17 nor 2008-10-17")));
                    }
                },
                "Id" => id = Some(text(value, "Id")?),
                "Statement" => statements = Some(read_statements(value)?),
                _ => return Err(malformed(&name, "is not a field of a policy")),
            }
        }
        let statements = statements.ok_or_else(|| malformed("the document", "it has no Statement"))?;
        let policy = Self { version, id, statements };
        if version == Version::V2012 {
            refuse_variables(&policy)?;
        }
        Ok(policy)
    }
}

fn read_statements(json: Json) -> Result<Vec<Statement>> {
    match json {
        Json::List(list) if list.is_empty() => Err(malformed("Statement", "the list is empty")),
        Json::List(list) => {
            list.into_iter().enumerate().map(|(i, s)| statement(s, &format!("Statement[{i}]"))).collect()
        }
        one => Ok(vec![statement(one, "Statement")?]),
    }
}
