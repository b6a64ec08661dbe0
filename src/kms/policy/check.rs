//! The check of a policy when it is put, after parsing: that each of its statements can match a request.
//!
//! A Deny that never matches denies nothing, contrary to what its author believes. A misspelt value under a negation allows or
//! denies everything. Both are refused, with the value and the reason.
//!
//! Stored policies are read without this check ([`Policy::parse`]): they keep the meaning that they had when they were put.

use super::arn::region_of;
use super::parse::malformed;
use super::pattern::{fold_case, wild};
use super::{Policy, Principal, Statement, Version, words};
use crate::error::Result;
use std::collections::HashSet;

impl Policy {
    /// Refuses a policy with a statement, or a value in one, that could never match a request for its key.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`]: MalformedPolicyDocumentException naming the location, the value and why it never matches.
    pub fn check(&self, key_arn: &str) -> Result<()> {
        for (i, statement) in self.statements.iter().enumerate() {
            let at = format!("Statement[{i}]");
            statement.check_principals(&at, region_of(key_arn))?;
            statement.check_actions(&at)?;
            statement.check_resources(&at, key_arn)?;
            statement.check_conditions(&at, region_of(key_arn), self.version)?;
        }
        Ok(())
    }
}

impl Statement {
    fn check_principals(&self, at: &str, region: &str) -> Result<()> {
        let elsewhere =
            |p: &&Principal| matches!(p, Principal::Service(name) if !words::is_volume_service(name, region));
        match self.principals.iter().find(elsewhere) {
            Some(Principal::Service(name)) => {
                let why = format!("is the volume service of another Region than {region}: use ec2.coffer");
                Err(malformed(&format!("{at}.Principal.Service"), format!("{name:?} {why}")))
            }
            _ => Ok(()),
        }
    }

    fn covers_action(&self, action: &str) -> bool {
        self.actions.cover(|p| wild(p, action, true))
    }

    fn check_actions(&self, at: &str) -> Result<()> {
        if words::is_about_an_action(|action| self.covers_action(action)) {
            return Ok(());
        }
        let (field, why) = match self.actions.not {
            true => ("NotAction", "covers all actions, so that the statement applies to none"),
            false => ("Action", "matches no action of AWS KMS or coffer"),
        };
        Err(malformed(&format!("{at}.{field}"), format!("{} {why}", self.actions.patterns.join(", "))))
    }

    /// A key policy applies only to its own key. A `NotResource` may name another key: the statement then applies to this one.
    fn check_resources(&self, at: &str, key_arn: &str) -> Result<()> {
        let covers = |p: &str| wild(p, key_arn, false);
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

    fn check_conditions(&self, at: &str, region: &str, version: Version) -> Result<()> {
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
            condition.check(region).map_err(|why| malformed(&at, why))?;
            let asks = |can: &dyn Fn(&str) -> bool| {
                words::is_about_an_action(|action| self.covers_action(action) && can(&action["kms:".len()..]))
            };
            if !asks(&|action| condition.can_hold(action, region)) {
                let why = match asks(&|action| condition.goes_with(action)) {
                    true => "can never hold: every request for the statement's actions has this key",
                    false => "can never hold: no request for the statement's actions has this key",
                };
                return Err(malformed(&at, why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
