//! Parses a policy. Strict: a field that is unknown, repeated or of the wrong type is refused, with its location.

use super::condition::Condition;
use super::document::{Flaw, Json, Read, malformed, object, text, texts, values};
use super::kind::{Kind, Version};
use super::pattern::wild;
use super::variables::{self, sketched};
use super::words::{is_any_service_principal, is_service_principal};
use super::{Names, Policy, Principal, Statement, Whom};
use crate::cipher::wrap::KeyId;
use crate::error::{self, Error, Result};
use crate::iam::is_account;
use std::collections::HashSet;

/// The longest key policy, bytes (KMS API Reference, PutKeyPolicy).
pub const MAX_POLICY: usize = 32_768;
/// The longest identity policy, session policy or trust policy, bytes. IAM has less for most types: 2,048 for users, 6,144 for
/// managed policies, 10,240 for roles, without blanks (IAM User Guide, "IAM and AWS STS quotas").
pub const MAX_IDENTITY_POLICY: usize = 10_240;

/// Whether a text is the unique id of a user or a role, or that of a role's session (IAM User Guide, "Unique identifiers").
fn is_unique_id(text: &str) -> bool {
    let (id, session) = text.split_once(':').map_or((text, None), |(id, session)| (id, Some(session)));
    let is_role = id.starts_with("AROA");
    let good = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
    (is_role || id.starts_with("AIDA"))
        && id.len() == 21
        && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && session.is_none_or(|name| is_role && name.chars().all(good))
}

fn aws_principal(name: String, at: &str) -> Read<Principal> {
    if name == "*" {
        return Ok(Principal::Everyone);
    }
    if is_account(&name) {
        return Ok(Principal::Account(name));
    }
    if is_unique_id(&name) {
        return Ok(Principal::Id(name));
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

fn principals(kind: Kind, json: Json, at: &str) -> Read<Vec<Principal>> {
    let fields = match json {
        Json::Text(all) if all == "*" => return Ok(vec![Principal::Everyone]),
        Json::Text(other) => {
            return Err(malformed(at, format!("{other:?} is neither \"*\" nor an object with AWS or Service")));
        }
        json => object(json, at)?,
    };
    let (mut named, mut services) = (Vec::new(), Vec::new());
    for (sort, value) in fields {
        let at = format!("{at}.{sort}");
        match &*sort {
            "AWS" => {
                for name in texts(value, &at)? {
                    named.push(aws_principal(name, &at)?);
                }
            }
            "Service" => {
                for name in texts(value, &at)? {
                    let known = if kind == Kind::Trust { is_any_service_principal } else { is_service_principal };
                    if !known(&name) {
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

fn no_action(kind: Kind, at: &str, pattern: &str) -> Flaw {
    let of = match kind {
        Kind::Key => "of AWS KMS or coffer",
        Kind::Identity => "of its service",
        Kind::Trust => "that a trust policy can allow (sts:AssumeRole, sts:SetSourceIdentity, sts:TagSession)",
    };
    malformed(at, format!("{pattern:?} is not an action {of}, and could never match"))
}

fn actions(kind: Kind, json: Json, not: bool, at: &str) -> Read<Names> {
    let patterns = texts(json, at)?;
    for pattern in &patterns {
        let service = |s: &str| match kind {
            Kind::Key => s.eq_ignore_ascii_case("kms"),
            Kind::Trust => s.eq_ignore_ascii_case("sts"),
            Kind::Identity => !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
        };
        let name = pattern.split_once(':').filter(|(s, _)| service(s)).map(|(_, n)| n);
        let good = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"*?".contains(&b));
        if pattern != "*" && !name.is_some_and(good) {
            let such = if kind == Kind::Trust { "sts:AssumeRole" } else { "kms:Decrypt" };
            return Err(malformed(at, format!("{pattern:?} is neither * nor an action such as {such}")));
        }
        if !kind.could_name_an_action(pattern) {
            return Err(no_action(kind, at, pattern));
        }
    }
    Ok(Names { not, patterns })
}

fn resources(kind: Kind, version: Version, json: Json, not: bool, at: &str) -> Read<Names> {
    let patterns = texts(json, at)?;
    for pattern in &patterns {
        variables::check(pattern, version).map_err(|why| malformed(at, format!("{pattern:?}: {why}")))?;
        let shown = sketched(pattern, version);
        if shown != "*" && !(shown.starts_with("arn:") && shown.splitn(6, ':').count() == 6) {
            return Err(malformed(at, format!("{pattern:?} is neither * nor an ARN with six parts")));
        }
        let fields: Vec<&str> = shown.splitn(6, ':').collect();
        let is_kms = fields.get(2).is_some_and(|service| service.eq_ignore_ascii_case("kms"));
        let (good, why) = match kind {
            Kind::Identity if is_kms => (
                can_be(&shown, "key") || can_be(&shown, "alias"),
                "is neither the ARN of a key (arn:aws:kms:REGION:ACCOUNT:key/ID) nor of an alias (…:alias/NAME)",
            ),
            Kind::Identity => (
                shown == "*" || wild(fields[1], "aws", false),
                "is not in the partition aws (arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE)",
            ),
            _ => (
                shown == "*" || can_be(&shown, "key"),
                "is not the ARN of a key (arn:aws:kms:REGION:ACCOUNT:key/ID): use * for the key that has the policy",
            ),
        };
        if !good {
            return Err(malformed(at, format!("{pattern:?} {why}")));
        }
    }
    Ok(Names { not, patterns })
}

/// Whether the ARN of a key, or of an alias, can match.
fn can_be(pattern: &str, what: &str) -> bool {
    let fields: Vec<&str> = pattern.splitn(6, ':').collect();
    let [_, partition, service, region, account, resource] = fields[..] else { return false };
    let is_open = |field: &str| field.contains(['*', '?']);
    let word = |field: &str, of: &str| wild(field, of, false);
    let region_good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-*?".contains(&c);
    let account_good =
        is_account(account) || (is_open(account) && account.bytes().all(|b| b.is_ascii_digit() || b"*?".contains(&b)));
    // Up to its first wildcard, it must be a prefix of the resource's name.
    let fixed = resource.split(['*', '?']).next().unwrap_or_default();
    let kind = format!("{what}/");
    let resource_good = match fixed.strip_prefix(&kind) {
        Some(name) if what == "alias" => name.bytes().all(|b| b.is_ascii_alphanumeric() || b":/_-".contains(&b)),
        Some(id) if is_open(resource) => {
            id.strip_prefix("mrk-").unwrap_or(id).bytes().all(|b| b"0123456789abcdef-mrk".contains(&b))
        }
        Some(id) => id.parse::<KeyId>().is_ok_and(|key| key.to_string() == id),
        None => is_open(resource) && kind.starts_with(fixed),
    };
    word(partition, "aws")
        && word(service, "kms")
        && !region.is_empty()
        && region.bytes().all(region_good)
        && account_good
        && resource_good
}

fn conditions(kind: Kind, version: Version, json: Json, at: &str) -> Read<Vec<Condition>> {
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
            found.push(Condition::new(kind, version, &operator, &key, wanted).map_err(|e| malformed(&at, e.what()))?);
        }
    }
    // Sorted, as they are printed, so that printing and parsing a policy changes nothing.
    found.sort_by(|a, b| (a.operator(), a.key()).cmp(&(b.operator(), b.key())));
    Ok(found)
}

/// Sets a field that may be set once.
fn once<T>(slot: &mut Option<T>, value: T, at: &str, rival: &str) -> Read<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(at, format!("cannot be used together with {rival}"))),
    }
}

fn statement(kind: Kind, version: Version, json: Json, at: &str) -> Read<Statement> {
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
            "Principal" | "NotPrincipal" if kind == Kind::Identity => {
                return Err(malformed(&here, "an identity policy has none: it is about who has it"));
            }
            "Principal" => once(&mut principal, Whom::These(principals(kind, value, &here)?), &here, "NotPrincipal")?,
            "NotPrincipal" => once(&mut principal, Whom::Except(principals(kind, value, &here)?), &here, "Principal")?,
            "Action" => once(&mut action, actions(kind, value, false, &here)?, &here, "NotAction")?,
            "NotAction" => once(&mut action, actions(kind, value, true, &here)?, &here, "Action")?,
            "Resource" | "NotResource" if kind == Kind::Trust => {
                return Err(malformed(&here, "a trust policy has none: it is about the role that has it"));
            }
            "Resource" => once(&mut resource, resources(kind, version, value, false, &here)?, &here, "NotResource")?,
            "NotResource" => once(&mut resource, resources(kind, version, value, true, &here)?, &here, "Resource")?,
            "Condition" => condition = conditions(kind, version, value, &here)?,
            _ => return Err(malformed(&here, "is not a field of a statement")),
        }
    }
    let missing = |field: &str| malformed(at, format!("it has no {field}"));
    let statement = Statement {
        sid,
        allow: effect.ok_or_else(|| missing("Effect"))?,
        principals: match kind {
            Kind::Identity => Whom::Holder,
            Kind::Key | Kind::Trust => principal.ok_or_else(|| missing("Principal"))?,
        },
        actions: action.ok_or_else(|| missing("Action"))?,
        resources: match kind {
            Kind::Trust => Names::of(&["*"]),
            Kind::Key | Kind::Identity => resource.ok_or_else(|| missing("Resource"))?,
        },
        conditions: condition,
    };
    check_statement(kind, &statement, at)?;
    Ok(statement)
}

/// What would allow more than it says.
fn check_statement(kind: Kind, statement: &Statement, at: &str) -> Read<()> {
    if statement.allow && matches!(statement.principals, Whom::Except(_)) {
        let why = "cannot be in an Allow, which would be for everyone else: name the principals that it is for";
        return Err(malformed(&format!("{at}.NotPrincipal"), why));
    }
    // A pattern that matches no action is harmless in an Allow with Action and a Deny with NotAction.
    let names = &statement.actions;
    if statement.allow == names.not
        && let Some(empty) = names.patterns.iter().find(|p| !kind.names_an_action(p))
    {
        return Err(no_action(kind, &format!("{at}.{}", if names.not { "NotAction" } else { "Action" }), empty));
    }
    Ok(())
}

impl Policy {
    /// Parses a key policy, such as a stored one. A new one is also [`Policy::check`]ed.
    ///
    /// # Errors
    /// [`error::Kind::Usage`]: MalformedPolicyDocumentException naming the location and what is wrong there;
    /// ValidationException for more than [`MAX_POLICY`] bytes.
    pub fn parse(document: &str) -> Result<Self> {
        Self::of_kind(Kind::Key, document)
    }

    /// Parses a policy of an identity or of a session: without principals, with actions of all services. A new one is also
    /// checked with [`Policy::check_identity`].
    ///
    /// # Errors
    /// As [`Policy::parse`], for more than [`MAX_IDENTITY_POLICY`] bytes.
    pub fn parse_identity(document: &str) -> Result<Self> {
        Self::of_kind(Kind::Identity, document)
    }

    /// Parses a role's trust policy: with principals, without resources, with the actions by which a role is assumed. A new
    /// one is also checked with [`Policy::check_trust`].
    ///
    /// # Errors
    /// As [`Policy::parse`], for more than [`MAX_IDENTITY_POLICY`] bytes.
    pub fn parse_trust(document: &str) -> Result<Self> {
        Self::of_kind(Kind::Trust, document)
    }

    fn of_kind(kind: Kind, document: &str) -> Result<Self> {
        let most = if kind == Kind::Key { MAX_POLICY } else { MAX_IDENTITY_POLICY };
        if document.len() > most {
            let what = format!("{}: {} bytes exceed the limit of {most}", kind.name(), document.len());
            return Err(Error::new(error::Kind::Usage, what).hint("combine principals and actions in fewer statements"));
        }
        read(kind, document).map_err(|flaw: Flaw| flaw.of(kind))
    }
}

fn read(kind: Kind, document: &str) -> Read<Policy> {
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
            "Statement" => statements = Some(value),
            _ => return Err(malformed(&name, "is not a field of a policy")),
        }
    }
    // What is a variable depends on the version, which may stand after the statements.
    let statements = statements.ok_or_else(|| malformed("the document", "it has no Statement"))?;
    let statements = match statements {
        Json::List(list) if list.is_empty() => Err(malformed("Statement", "the list is empty")),
        Json::List(list) => {
            list.into_iter().enumerate().map(|(i, s)| statement(kind, version, s, &format!("Statement[{i}]"))).collect()
        }
        one => Ok(vec![statement(kind, version, one, "Statement")?]),
    };
    Ok(Policy { kind, version, id, statements: statements? })
}
