//! Grants as they are kept in the catalog, and what they allow.

use super::caller::Wanted;
use super::policy::fold_case;
use super::scope::{KeyName, Place};
use crate::cipher::keys::{KeySpec, KeyUsage};
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Ledger, Listing, Record, Tx, Versioned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The most grants of a key (KMS Developer Guide, "Quotas").
pub const MAX_GRANTS: usize = 50_000;

/// The operations that a grant can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// Decrypt ciphertext.
    Decrypt,
    /// Encrypt plaintext.
    Encrypt,
    /// Generate a data key.
    GenerateDataKey,
    /// Generate a data key and return it only encrypted.
    GenerateDataKeyWithoutPlaintext,
    /// Re-encrypt ciphertext from this key.
    ReEncryptFrom,
    /// Re-encrypt ciphertext to this key.
    ReEncryptTo,
    /// Create a grant with a subset of these permissions.
    CreateGrant,
    /// Retire this grant.
    RetireGrant,
    /// Describe the key.
    DescribeKey,
    /// Sign a message.
    Sign,
    /// Verify a signature.
    Verify,
    /// Get the public key.
    GetPublicKey,
    /// Generate a data key pair.
    GenerateDataKeyPair,
    /// Generate a data key pair and return its private key only encrypted.
    GenerateDataKeyPairWithoutPlaintext,
    /// Make a MAC.
    GenerateMac,
    /// Verify a MAC.
    VerifyMac,
    /// Agree on a secret.
    DeriveSharedSecret,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Decrypt,
        Self::Encrypt,
        Self::GenerateDataKey,
        Self::GenerateDataKeyWithoutPlaintext,
        Self::ReEncryptFrom,
        Self::ReEncryptTo,
        Self::CreateGrant,
        Self::RetireGrant,
        Self::DescribeKey,
        Self::Sign,
        Self::Verify,
        Self::GetPublicKey,
        Self::GenerateDataKeyPair,
        Self::GenerateDataKeyPairWithoutPlaintext,
        Self::GenerateMac,
        Self::VerifyMac,
        Self::DeriveSharedSecret,
    ];

    /// Whether a key of this spec and usage has the operation (KMS Developer Guide, "Grant operations").
    pub(super) fn suits(self, spec: KeySpec, usage: KeyUsage) -> bool {
        match self {
            Self::Decrypt | Self::Encrypt | Self::ReEncryptFrom | Self::ReEncryptTo => {
                usage == KeyUsage::EncryptDecrypt
            }
            Self::GenerateDataKey | Self::GenerateDataKeyWithoutPlaintext => spec == KeySpec::SymmetricDefault,
            Self::GenerateDataKeyPair | Self::GenerateDataKeyPairWithoutPlaintext => spec == KeySpec::SymmetricDefault,
            Self::Sign | Self::Verify => usage == KeyUsage::SignVerify,
            Self::GetPublicKey => spec.is_asymmetric(),
            Self::GenerateMac | Self::VerifyMac => usage == KeyUsage::GenerateVerifyMac,
            Self::DeriveSharedSecret => usage == KeyUsage::KeyAgreement,
            Self::CreateGrant | Self::RetireGrant | Self::DescribeKey => true,
        }
    }

    /// Whether the operation has an encryption context, to which a constraint applies.
    const fn has_context(self) -> bool {
        matches!(
            self,
            Self::Decrypt
                | Self::Encrypt
                | Self::GenerateDataKey
                | Self::GenerateDataKeyWithoutPlaintext
                | Self::ReEncryptFrom
                | Self::ReEncryptTo
                | Self::GenerateDataKeyPair
                | Self::GenerateDataKeyPairWithoutPlaintext
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Operation {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|o| o.to_string() == s).ok_or_else(|| {
            let all: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            Error::new(Kind::Usage, format!("{s:?} is not an operation that a grant can allow"))
                .hint(format!("use {}", all.join(", ")))
        })
    }
}

/// The encryption contexts that a grant is limited to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Constraint {
    /// Exactly this one.
    #[serde(rename = "EncryptionContextEquals")]
    Equals(EncryptionContext),
    /// Those that include these pairs.
    #[serde(rename = "EncryptionContextSubset")]
    Subset(EncryptionContext),
}

/// Whether `whole` includes all pairs of `part`. In a constraint, names of pairs are case-insensitive, values are not. If
/// several names in either differ only in case, all of these must be identical in both.
fn is_part(part: &EncryptionContext, whole: &EncryptionContext) -> bool {
    fn named<'a>(context: &'a EncryptionContext, name: &str) -> Vec<(&'a str, &'a str)> {
        context.iter().filter(|(n, _)| fold_case(n) == name).collect()
    }
    let has = |(name, _): (&str, &str)| {
        let name = fold_case(name);
        match (&named(part, &name)[..], &named(whole, &name)[..]) {
            ([(_, want)], [(_, have)]) => want == have,
            (want, have) => want == have,
        }
    };
    part.iter().all(has)
}

impl Constraint {
    /// Its type, as in `kms:GrantConstraintType`.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Equals(_) => "EncryptionContextEquals",
            Self::Subset(_) => "EncryptionContextSubset",
        }
    }

    pub(super) const fn pairs(&self) -> &EncryptionContext {
        match self {
            Self::Equals(pairs) | Self::Subset(pairs) => pairs,
        }
    }

    pub(super) fn admits(&self, context: &EncryptionContext) -> bool {
        is_part(self.pairs(), context) && (matches!(self, Self::Subset(_)) || is_part(context, self.pairs()))
    }

    /// Whether it admits everything that `other` admits.
    pub(super) fn is_as_wide_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Equals(_), Self::Subset(_)) => false,
            _ => self.admits(other.pairs()),
        }
    }
}

/// The parameters of a new grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSpec {
    /// ARN of the principal that gets the permissions.
    pub grantee: String,
    /// ARN of a principal that may retire it.
    pub retiring: Option<String>,
    /// The operations that it allows.
    pub operations: BTreeSet<Operation>,
    /// The encryption contexts that it is limited to; none: all.
    pub constraint: Option<Constraint>,
    /// A name that makes the request idempotent: the same request returns the same grant.
    pub name: Option<String>,
}

/// A grant, as stored in the catalog (KMS API Reference, GrantListEntry).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// The id of the key.
    pub key: KeyId,
    /// The key's account and Region, if not the installation's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The grantee.
    pub grantee: String,
    /// Who may retire it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<String>,
    /// Who created it.
    pub issuer: String,
    /// The operations that it allows.
    pub operations: BTreeSet<Operation>,
    /// The encryption contexts that it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// When it was created.
    pub created: Timestamp,
}

impl Record for Grant {
    const KIND: &'static str = "kms-grant";
    const INDEXES: &'static [&'static [&'static str]] = &[&["key", "grantee"], &["retiring"]];
    fn id(&self) -> String {
        self.id.clone()
    }
}

impl Grant {
    /// Its key.
    #[must_use]
    pub fn on(&self) -> KeyName {
        KeyName { place: self.place.clone(), id: self.key }
    }

    /// Whether it allows this to that principal.
    pub(super) fn covers(&self, key: &KeyName, principal: &str, wanted: &Wanted<'_>) -> bool {
        let Ok(operation) = wanted.action.parse::<Operation>() else { return false };
        let admitted = || self.constraint.as_ref().is_none_or(|c| c.admits(wanted.context));
        self.key == key.id
            && self.place == key.place
            && self.grantee == principal
            && self.operations.contains(&operation)
            && (!operation.has_context() || admitted())
    }

    /// Whether it is the one that would be made so.
    pub(super) fn is_what(&self, spec: &GrantSpec) -> bool {
        (&self.name, &self.grantee, &self.retiring) == (&spec.name, &spec.grantee, &spec.retiring)
            && (&self.operations, &self.constraint) == (&spec.operations, &spec.constraint)
    }

    /// Whether its grantee may create this grant: no more operations, no wider constraint.
    pub(super) fn may_give(&self, spec: &GrantSpec) -> bool {
        let narrower = match (&self.constraint, &spec.constraint) {
            (None, _) => true,
            (Some(own), Some(given)) => own.is_as_wide_as(given),
            (Some(_), None) => false,
        };
        narrower && spec.operations.is_subset(&self.operations)
    }

    /// Writes a grant in the transaction of the object that depends on it.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] (LimitExceededException) for more than [`MAX_GRANTS`] on its key; what the catalog reports.
    pub fn put(&self, tx: &mut Tx<'_>) -> Result<()> {
        if tx.count_of::<Self>("key", &self.key.to_string())? >= MAX_GRANTS {
            let what = format!("CreateGrant: key {} has reached the limit of {MAX_GRANTS} grants", self.key);
            let err = Error::new(Kind::InvalidState, what).reason(Reason::LimitExceeded);
            return Err(err.hint("retire or revoke grants that are no longer needed"));
        }
        tx.insert(self).map(drop)
    }

    /// Removes a grant in the transaction of the object that depended on it; a grant that does not exist is not an error.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn remove(tx: &mut Tx<'_>, id: &str) -> Result<()> {
        match tx.get::<Self>(id)? {
            Some(found) => tx.delete::<Self>(id, found.version),
            None => Ok(()),
        }
    }
}

/// The grants in a ledger.
pub(super) struct GrantStore {
    ledger: Arc<Ledger>,
}

impl GrantStore {
    /// Those of all keys.
    pub(super) const fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger }
    }

    /// The grant of that id.
    pub(super) fn get(&self, id: &str) -> Result<Option<Grant>> {
        Ok(self.ledger.catalog().get::<Grant>(id)?.map(|g| g.record))
    }

    /// A key's grants, or those of one grantee; reads no others.
    pub(super) fn of(&self, key: &KeyName, grantee: Option<&str>) -> Result<Vec<Versioned<Grant>>> {
        let id = key.id.to_string();
        let wanted: Vec<_> = [("key", id.as_str())].into_iter().chain(grantee.map(|g| ("grantee", g))).collect();
        let all = self.ledger.catalog().list_of::<Grant>(&wanted)?;
        for bad in &all.damaged {
            tracing::error!("grant {} is damaged and allows nothing: {}", bad.id, bad.why);
        }
        let fits = |g: &Versioned<Grant>| {
            g.record.key == key.id && g.record.place == key.place && grantee.is_none_or(|one| g.record.grantee == one)
        };
        Ok(all.records.into_iter().filter(fits).collect())
    }

    /// Whether a grant allows this.
    pub(super) fn covers(&self, key: &KeyName, principal: &str, wanted: &Wanted<'_>) -> Result<bool> {
        if wanted.action.parse::<Operation>().is_err() {
            return Ok(false);
        }
        Ok(self.of(key, Some(principal))?.iter().any(|g| g.record.covers(key, principal, wanted)))
    }

    /// All grants; damaged records are listed, not refused.
    pub(super) fn all(&self) -> Result<Listing<Grant>> {
        self.ledger.catalog().list::<Grant>()
    }

    /// Those that a principal may retire; its index may bring others, which the caller leaves out.
    pub(super) fn retirable_by(&self, principal: &str) -> Result<Listing<Grant>> {
        self.ledger.catalog().list_of::<Grant>(&[("retiring", principal)])
    }
}
