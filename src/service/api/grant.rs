//! Answers about key policies and grants.

use crate::env::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A key's policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// ARN of the CMK.
    pub key: String,
    /// The document, as it was put.
    pub document: String,
    /// The same document, formatted for people.
    pub pretty: String,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantInfo {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// ARN of the CMK.
    pub key: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// ARN of the grantee principal.
    pub grantee: String,
    /// ARN of the principal that may retire it.
    pub retiring: Option<String>,
    /// ARN of the principal that created it.
    pub issuer: String,
    /// The operations that it allows.
    pub operations: Vec<String>,
    /// The exact encryption context that it is limited to.
    pub equals: Option<BTreeMap<String, String>>,
    /// Pairs that the encryption context must contain.
    pub subset: Option<BTreeMap<String, String>>,
    /// When it was created.
    pub created: Timestamp,
    /// The token for `grant retire --token`, only in the answer that created the grant.
    pub token: Option<String>,
}
