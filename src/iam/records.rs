//! Accounts, users, roles and access keys, as the catalog keeps them (docs/format.md, "Principals").

use super::name::Tags;
use crate::env::Timestamp;
use crate::ledger::Record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An account: what keys, users and roles belong to. The installation's first account has no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id, 12 digits.
    pub id: String,
    /// A descriptive name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
}

impl Record for Account {
    const KIND: &'static str = "iam-account";
    fn id(&self) -> String {
        self.id.clone()
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its unique id, `AIDA…`. A later user of the same name has another.
    pub id: String,
    /// Its account.
    pub account: String,
    /// Its path, `/` or `/division/`.
    pub path: String,
    /// Its name, unique in the account regardless of case.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Its inline policies: documents by name, as they were put.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, String>,
    /// Sessions issued at this time or earlier are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_before: Option<Timestamp>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its unique id, `AROA…`.
    pub id: String,
    /// Its account.
    pub account: String,
    /// Its path.
    pub path: String,
    /// Its name, unique among the account's roles regardless of case.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// Its trust policy: who may assume it (AssumeRolePolicyDocument).
    pub trust: String,
    /// Longest session, in seconds.
    pub max_session_seconds: u32,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Its inline policies: documents by name, as they were put.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, String>,
    /// Sessions issued at this time or earlier are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_before: Option<Timestamp>,
}

/// What users and roles have in common.
pub(super) trait Entity: Record + Clone {
    /// `user` or `role`.
    const NOUN: &'static str;
    /// The same in the names of AWS's operations.
    const AWS: &'static str;
    fn account(&self) -> &str;
    fn path(&self) -> &str;
    fn entity_name(&self) -> &str;
    fn tags(&self) -> &Tags;
    fn policies(&self) -> &BTreeMap<String, String>;
    fn policies_mut(&mut self) -> &mut BTreeMap<String, String>;
    fn revoked_before(&self) -> Option<Timestamp>;
    fn revoke(&mut self, at: Timestamp);

    /// The ARN (IAM User Guide, "IAM ARNs").
    fn arn_of(&self) -> String {
        format!("arn:aws:iam::{}:{}{}{}", self.account(), Self::NOUN, self.path(), self.entity_name())
    }
}

/// The name by which the catalog finds a user or a role: case does not count.
pub(super) fn key_of(account: &str, name: &str) -> String {
    format!("{account}/{}", name.to_ascii_lowercase())
}

macro_rules! entity {
    ($entity:ident, $kind:literal, $noun:literal, $aws:literal) => {
        impl Record for $entity {
            const KIND: &'static str = $kind;
            const INDEXES: &'static [&'static [&'static str]] = &[&["account"]];
            fn id(&self) -> String {
                self.id.clone()
            }
            fn name(&self) -> Option<String> {
                Some(key_of(&self.account, &self.name))
            }
        }

        impl Entity for $entity {
            const NOUN: &'static str = $noun;
            const AWS: &'static str = $aws;
            fn account(&self) -> &str {
                &self.account
            }
            fn path(&self) -> &str {
                &self.path
            }
            fn entity_name(&self) -> &str {
                &self.name
            }
            fn tags(&self) -> &Tags {
                &self.tags
            }
            fn policies(&self) -> &BTreeMap<String, String> {
                &self.policies
            }
            fn policies_mut(&mut self) -> &mut BTreeMap<String, String> {
                &mut self.policies
            }
            fn revoked_before(&self) -> Option<Timestamp> {
                self.revoked_before
            }
            fn revoke(&mut self, at: Timestamp) {
                self.revoked_before = self.revoked_before.max(Some(at));
            }
        }

        impl $entity {
            /// Returns its ARN.
            #[must_use]
            pub fn arn(&self) -> String {
                self.arn_of()
            }
        }
    };
}

entity!(User, "iam-user", "user", "User");
entity!(Role, "iam-role", "role", "Role");

/// An access key. Its secret is sealed under the root key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AccessKeyRecord {
    /// `AKIA…`.
    pub(super) id: String,
    pub(super) account: String,
    /// Unique id of the user; the account id for root.
    pub(super) principal: String,
    pub(super) active: bool,
    pub(super) created: Timestamp,
    /// The secret, sealed, hexadecimal.
    pub(super) sealed: String,
    /// Generation of the root key that seals it.
    pub(super) root_generation: u32,
}

impl Record for AccessKeyRecord {
    const KIND: &'static str = "iam-access-key";
    const INDEXES: &'static [&'static [&'static str]] = &[&["principal"]];
    fn id(&self) -> String {
        self.id.clone()
    }
}
