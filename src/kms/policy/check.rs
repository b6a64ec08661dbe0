//! The check of a policy when it is put, after parsing: that each of its statements can match a request.
//!
//! A Deny that never matches denies nothing, contrary to what its author believes. A misspelt value under a negation allows or
//! denies everything. Both are refused, with the value and the reason.
//!
//! Stored policies are read without this check ([`Policy::parse`]): they keep the meaning that they had when they were put.

use super::arn::{account_of, region_of};
use super::document::{Read, malformed};
use super::kind::{Kind, Version};
use super::pattern::{fold_case, wild};
use super::variables::sketched;
use super::{Policy, Principal, Statement, Whom, words};
use crate::error::Result;
use std::collections::HashSet;

impl Policy {
    /// Refuses a key policy with a statement, or a value in one, that could never match a request for its key.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`]: MalformedPolicyDocumentException naming the location, the value and why it never matches.
    pub fn check(&self, key_arn: &str) -> Result<()> {
        self.check_edited(key_arn, None)
    }

    /// The same for the policy that replaces this one: it may keep the unique ids of deleted principals that this one has.
    ///
    /// # Errors
    /// As [`Policy::check`].
    pub fn check_edited(&self, key_arn: &str, replaced: Option<&Self>) -> Result<()> {
        self.check_statements(region_of(key_arn), Some(key_arn), replaced)
    }

    /// Refuses an identity or session policy with a statement, or a value in one, that could never match a request in this
    /// Region.
    ///
    /// # Errors
    /// As [`Policy::check`].
    pub fn check_identity(&self, region: &str) -> Result<()> {
        self.check_statements(region, None, None)
    }

    /// Refuses a trust policy with a statement, or a value in one, that could never match a request for its role.
    ///
    /// # Errors
    /// As [`Policy::check`].
    pub fn check_trust(&self, region: &str) -> Result<()> {
        self.check_edited_trust(region, None)
    }

    /// The same for the policy that replaces this one, as [`Policy::check_edited`].
    ///
    /// # Errors
    /// As [`Policy::check`].
    pub fn check_edited_trust(&self, region: &str, replaced: Option<&Self>) -> Result<()> {
        self.check_statements(region, None, replaced)
    }

    fn names_id(&self, id: &str) -> bool {
        self.statements.iter().flat_map(|s| s.principals.listed()).any(|p| matches!(p, Principal::Id(own) if own == id))
    }

    fn check_statements(&self, region: &str, key_arn: Option<&str>, replaced: Option<&Self>) -> Result<()> {
        let each = || {
            for (i, statement) in self.statements.iter().enumerate() {
                let at = format!("Statement[{i}]");
                statement.check_principals(self.kind, &at, region)?;
                statement.check_ids(&at, replaced)?;
                let actions = statement.check_actions(self.kind, &at)?;
                match key_arn {
                    Some(arn) => statement.check_resources(&at, arn, self.version)?,
                    None => statement.check_exceptions(&at)?,
                }
                statement.check_conditions(&actions, &at, region, self.version)?;
            }
            Ok(())
        };
        let checked: Read<()> = each();
        checked.map_err(|flaw| flaw.of(self.kind))
    }
}

/// Actions of services that coffer does not have, which these patterns match.
fn others(patterns: &[String]) -> impl Iterator<Item = String> {
    let of = |p: &String| {
        let (service, name) = p.split_once(':')?;
        (!Kind::knows(service)).then(|| format!("{service}:{}", name.replace('*', "").replace('?', "x")))
    };
    patterns.iter().filter_map(of).chain(["another-service:Action".to_owned()])
}

impl Statement {
    fn check_principals(&self, kind: Kind, at: &str, region: &str) -> Read<()> {
        let (field, principals) = (self.principals.field(), self.principals.listed());
        let elsewhere =
            |p: &&Principal| matches!(p, Principal::Service(name) if !words::is_volume_service(name, region));
        if kind == Kind::Key
            && let Some(Principal::Service(name)) = principals.iter().find(elsewhere)
        {
            let why = format!("is the volume service of another Region than {region}: use ec2.coffer");
            return Err(malformed(&format!("{at}.{field}.Service"), format!("{name:?} {why}")));
        }
        match &self.principals {
            Whom::Except(all) => check_excepted(all, &format!("{at}.{field}")),
            _ => Ok(()),
        }
    }

    /// An id is what is left of a deleted principal, and names nobody: AWS takes only ARNs. Here, a policy can be read, edited and
    /// put with the ids that it had.
    fn check_ids(&self, at: &str, replaced: Option<&Policy>) -> Read<()> {
        let is_new = |id: &str| !replaced.is_some_and(|policy| policy.names_id(id));
        let found = self.principals.listed().iter().find(|p| matches!(p, Principal::Id(id) if is_new(id)));
        let Some(Principal::Id(id)) = found else { return Ok(()) };
        let why = "is a unique id, which stands for a deleted user or role, and which the policy before did not have: \
                   name a user or a role by its ARN";
        Err(malformed(&format!("{at}.{}.AWS", self.principals.field()), format!("{id:?} {why}")))
    }

    fn covers_action(&self, action: &str) -> bool {
        self.actions.cover(|p| wild(p, action, true))
    }

    /// The actions that it is about, of which there must be one.
    fn check_actions(&self, kind: Kind, at: &str) -> Read<Vec<String>> {
        let other = kind.has_other_services().then(|| others(&self.actions.patterns));
        let all = kind.actions().chain(other.into_iter().flatten());
        let covered: Vec<String> = all.filter(|action| self.covers_action(action)).collect();
        if !covered.is_empty() {
            return Ok(covered);
        }
        let (field, why) = match self.actions.not {
            true => ("NotAction", "covers all actions, so that the statement applies to none"),
            false if kind == Kind::Key => ("Action", "matches no action of AWS KMS or coffer"),
            false => ("Action", "matches no action"),
        };
        Err(malformed(&format!("{at}.{field}"), format!("{} {why}", self.actions.patterns.join(", "))))
    }

    /// An exception of everything leaves nothing.
    fn check_exceptions(&self, at: &str) -> Read<()> {
        match self.resources.not && self.resources.patterns.iter().any(|p| p == "*") {
            true => Err(malformed(
                &format!("{at}.NotResource"),
                "covers everything, so that the statement applies to nothing",
            )),
            false => Ok(()),
        }
    }

    /// A key policy applies only to its own key. A `NotResource` may name another key: the statement then applies to this one.
    fn check_resources(&self, at: &str, key_arn: &str, version: Version) -> Read<()> {
        // A variable may stand for anything, so that it never covers for certain.
        let covers = |p: &str| match self.resources.not {
            true => wild(p, key_arn, false),
            false => wild(&sketched(p, version), key_arn, false),
        };
        let patterns = &self.resources.patterns;
        let (field, found, why) = match self.resources.not {
            true => (
                "NotResource",
                patterns.iter().find(|p| covers(p)),
                "covers the key that has the policy, so that the statement applies to no key",
            ),
            false => (
                "Resource",
                patterns.iter().find(|p| !covers(p)),
                "is not the key that has the policy, and can never match: a key policy applies to its own key; use \"*\"",
            ),
        };
        found.map_or(Ok(()), |p| Err(malformed(&format!("{at}.{field}"), format!("{p:?} {why}"))))
    }

    fn check_conditions(&self, actions: &[String], at: &str, region: &str, version: Version) -> Read<()> {
        let mut names = HashSet::new();
        for condition in &self.conditions {
            let (operator, name) = (condition.operator(), condition.key());
            let at = format!("{at}.Condition.{operator}.{name}");
            if version == Version::V2012 && name.contains("${") {
                let why = "the name has a policy variable, which is substituted neither here nor in AWS";
                return Err(malformed(&at, why));
            }
            if !names.insert((operator, fold_case(name))) {
                return Err(malformed(&at, "this condition key is repeated (condition keys are case-insensitive)"));
            }
            condition.check(region, version).map_err(|why| malformed(&at, why))?;
            if !actions.iter().any(|action| condition.can_hold(action, region, version)) {
                let why = match actions.iter().any(|action| condition.goes_with(action)) {
                    true => "can never hold: every request for the statement's actions has this key",
                    false => "can never hold: no request for the statement's actions has this key",
                };
                return Err(malformed(&at, why));
            }
        }
        Ok(())
    }
}

/// What `NotPrincipal` cannot leave out, contrary to what it seems to say: a user or a role without its account, a session
/// without its role.
fn check_excepted(all: &[Principal], at: &str) -> Read<()> {
    if all.contains(&Principal::Everyone) {
        return Err(malformed(at, "leaves out everyone, so that the statement applies to nobody"));
    }
    for principal in all {
        let Principal::Arn(arn) = principal else { continue };
        let account = account_of(arn).unwrap_or_default();
        if !all.contains(&Principal::Account(account.to_owned())) {
            let why = format!("{arn:?} is left out only if its account is, too: add arn:aws:iam::{account}:root");
            return Err(malformed(&format!("{at}.AWS"), why));
        }
        let session = arn.split_once(":assumed-role/").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
        let is_role = |p: &Principal, role: &str| matches!(p, Principal::Arn(of) if of.split_once(":role/").is_some_and(|(_, path)| path.rsplit('/').next() == Some(role)));
        if let Some(role) = session
            && !all.iter().any(|p| is_role(p, role))
        {
            let why = format!("{arn:?} is left out only if its role is, too: add arn:aws:iam::{account}:role/{role}");
            return Err(malformed(&format!("{at}.AWS"), why));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
