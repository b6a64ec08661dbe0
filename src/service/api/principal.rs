//! Answers about accounts, principals and access keys.

use super::state::PrincipalSort;
use crate::env::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Its id, 12 digits.
    pub id: String,
    /// A descriptive name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
}

/// A user or a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalInfo {
    /// Its ARN.
    pub arn: String,
    /// `user` or `role`.
    pub sort: PrincipalSort,
    /// Its unique id, `AIDA…` or `AROA…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Names of its inline policies.
    pub policies: Vec<String>,
    /// Of a role: its trust policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// Of a role: its longest session, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_session_seconds: Option<u32>,
    /// Sessions issued at this time or earlier are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_before: Option<Timestamp>,
}

/// An inline policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalPolicyInfo {
    /// The user or role, as the request named it.
    pub principal: String,
    /// Its name.
    pub name: String,
    /// The document, as it was put.
    pub document: String,
}

/// An access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyInfo {
    /// Its id, `AKIA…`.
    pub id: String,
    /// Its account.
    pub account: String,
    /// Name of its user; `None`: root.
    pub user: Option<String>,
    /// Whether it can be used.
    pub active: bool,
    /// When it was created.
    pub created: Timestamp,
    /// The secret access key, only in the answer that created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for AccessKeyInfo {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, account, user, active, .. } = self;
        write!(f, "AccessKeyInfo({id}, {account}, {user:?}, {active})")
    }
}
