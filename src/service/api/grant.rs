//! What is answered of key policies and grants.

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
    /// The same, laid out for people.
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
    /// Who it is for.
    pub grantee: String,
    /// Who may retire it.
    pub retiring: Option<String>,
    /// Who gave it.
    pub issuer: String,
    /// What it allows.
    pub operations: Vec<String>,
    /// For this encryption context alone.
    pub equals: Option<BTreeMap<String, String>>,
    /// For encryption contexts that have these pairs.
    pub subset: Option<BTreeMap<String, String>>,
    /// When it was made.
    pub created: Timestamp,
    /// What names it to `grant retire --token`, in the answer to its making alone.
    pub token: Option<String>,
}
