//! What is asked of a policy when it is put, beyond that it is understood: that each of its statements can match a request.
//!
//! A Deny that never fires forbids nothing, and its author believes that it does. A misspelt value under a negation allows or
//! denies everything. So both are refused, with the value and the reason.
//!
//! Policies that are kept are read without this ([`Policy::parse`]): they go on meaning what they meant when they were put.

use super::arn::region_of;
use super::parse::malformed;
use super::pattern::{fold_case, wild};
use super::{Policy, Principal, Statement, Version, words};
use crate::error::Result;
use std::collections::HashSet;

impl Policy {
    /// Refuses a policy with a statement, or a value in one, that could never match a request about the key that it is for.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`]: MalformedPolicyDocumentException naming the place, the value and why it never matches.
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
                let why = format!("is the volume service of another Region than {region}: say ec2.coffer");
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
            true => ("NotAction", "covers all actions, so that the statement is about none"),
            false => ("Action", "covers no action that AWS KMS or coffer has"),
        };
        Err(malformed(&format!("{at}.{field}"), format!("{} {why}", self.actions.patterns.join(", "))))
    }

    /// A key policy is about its own key alone. In a `NotResource` another key may stand: the statement is then about this one, as
    /// it says.
    fn check_resources(&self, at: &str, key_arn: &str) -> Result<()> {
        let covers = |p: &str| wild(p, key_arn, false);
        let patterns = &self.resources.patterns;
        let (field, found, why) = match self.resources.not {
            true => (
                "NotResource",
                patterns.iter().find(|p| covers(p)),
                "covers the key that has the policy, so that the statement is about no key",
            ),
            false => (
                "Resource",
                patterns.iter().find(|p| !covers(p)),
                "is not the key that has the policy, and can never match: a key policy is about its own key; say \"*\"",
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
                let why = "the name has a policy variable, which is not filled in, neither here nor in AWS";
                return Err(malformed(&at, why));
            }
            if !names.insert((operator, fold_case(name))) {
                return Err(malformed(&at, "this key comes twice here, and case does not tell condition keys apart"));
            }
            condition.check(region).map_err(|why| malformed(&at, why))?;
            let asks = |can: &dyn Fn(&str) -> bool| {
                words::is_about_an_action(|action| self.covers_action(action) && can(&action["kms:".len()..]))
            };
            if !asks(&|action| condition.can_hold(action, region)) {
                let why = match asks(&|action| condition.goes_with(action)) {
                    true => "can never hold: each request for the statement's actions has this key",
                    false => "no request for the statement's actions has this key, so that it never holds",
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
