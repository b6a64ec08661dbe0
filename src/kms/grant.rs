//! Grants: permissions on one key for one principal, created and removed without changing the key's policy (KMS Developer
//! Guide, "Grants in AWS KMS").
//!
//! A grant allows what the policy does not mention; a Deny of the policy overrides it.
//! Durable leases of volumes depend on grants to the volume service, which are written and removed in the lease's
//! transaction.

use super::authority::{By, Wanted};
use super::key::KeyRecord;
use super::name::KeyRef;
use super::policy::{GrantFacts, VOLUME_SERVICE, fold_case};
use super::{Caller, Kms};
use crate::cipher::hkdf_sha256;
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Record, Tx, Versioned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The most grants of a key (KMS Developer Guide, "Quotas").
pub const MAX_GRANTS: usize = 50_000;
/// The longest name of a grant (KMS API Reference, CreateGrant).
const MAX_NAME: usize = 256;

/// The operations that a grant can allow, for symmetric keys.
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
}

impl Operation {
    const ALL: [Self; 9] = [
        Self::Decrypt,
        Self::Encrypt,
        Self::GenerateDataKey,
        Self::GenerateDataKeyWithoutPlaintext,
        Self::ReEncryptFrom,
        Self::ReEncryptTo,
        Self::CreateGrant,
        Self::RetireGrant,
        Self::DescribeKey,
    ];

    /// Whether the operation has an encryption context, to which a constraint applies.
    const fn has_context(self) -> bool {
        !matches!(self, Self::CreateGrant | Self::RetireGrant | Self::DescribeKey)
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
    const fn pairs(&self) -> &EncryptionContext {
        match self {
            Self::Equals(pairs) | Self::Subset(pairs) => pairs,
        }
    }

    fn admits(&self, context: &EncryptionContext) -> bool {
        is_part(self.pairs(), context) && (matches!(self, Self::Subset(_)) || is_part(context, self.pairs()))
    }

    /// Whether it admits everything that `other` admits.
    fn is_as_wide_as(&self, other: &Self) -> bool {
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
    /// The key.
    pub key: KeyId,
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
    /// Whether it allows this to that principal.
    pub(super) fn covers(&self, key: KeyId, principal: &str, wanted: &Wanted<'_>) -> bool {
        let Ok(operation) = wanted.action.parse::<Operation>() else { return false };
        let admitted = || self.constraint.as_ref().is_none_or(|c| c.admits(wanted.context));
        self.key == key
            && self.grantee == principal
            && self.operations.contains(&operation)
            && (!operation.has_context() || admitted())
    }

    fn is_what(&self, spec: &GrantSpec) -> bool {
        (&self.name, &self.grantee, &self.retiring) == (&spec.name, &spec.grantee, &spec.retiring)
            && (&self.operations, &self.constraint) == (&spec.operations, &spec.constraint)
    }

    /// Whether its grantee may create this grant: no more operations, no wider constraint.
    fn may_give(&self, spec: &GrantSpec) -> bool {
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

/// Which grants to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFilter {
    /// Only this one.
    pub id: Option<String>,
    /// Only those for this principal.
    pub grantee: Option<String>,
}

/// Whether the resource part of an ARN is a valid principal: a type and a name.
fn is_principal(service: &str, resource: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
    match (service, resource.split_once('/')) {
        ("iam", None) => resource == "root",
        ("iam", Some(("service", name))) => name == VOLUME_SERVICE,
        ("iam", Some(("user" | "role", name))) | ("sts", Some(("assumed-role" | "federated-user", name))) => {
            !name.is_empty() && name.chars().all(good)
        }
        _ => false,
    }
}

fn check_principal(what: &str, arn: &str) -> Result<()> {
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    let good = matches!(fields[..], ["arn", "aws", service, "", account, resource]
        if account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) && is_principal(service, resource));
    if !good || arn.contains(['*', '?']) || arn.len() > 256 {
        return Err(Error::new(Kind::Usage, format!("CreateGrant: {what} {arn:?} is not the ARN of a principal"))
            .reason(Reason::InvalidArn)
            .hint("use a form such as arn:aws:iam::111122223333:user/alice"));
    }
    Ok(())
}

fn check(spec: &GrantSpec) -> Result<()> {
    check_principal("the grantee", &spec.grantee)?;
    spec.retiring.as_deref().map_or(Ok(()), |r| check_principal("the retiring principal", r))?;
    if spec.operations.is_empty() {
        return Err(Error::new(Kind::Usage, "CreateGrant: no operation is given").hint("name at least one operation"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || ":/_-".contains(c);
    if spec.name.as_ref().is_some_and(|n| n.is_empty() || n.len() > MAX_NAME || !n.chars().all(good)) {
        return Err(Error::new(
            Kind::Usage,
            "CreateGrant: the name must have 1 to 256 characters of A-Z a-z 0-9 : / _ -",
        ));
    }
    if spec.constraint.as_ref().is_some_and(|c| c.pairs().is_empty()) {
        return Err(Error::new(Kind::Usage, "CreateGrant: the constraint has no pair of an encryption context"));
    }
    Ok(())
}

fn not_there(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no grant {id}")).hint("see `coffer key grant list`")
}

impl Kms {
    /// The grant of that id.
    pub(super) fn grant(&self, id: &str) -> Result<Option<Grant>> {
        Ok(self.ledger.catalog().get::<Grant>(id)?.map(|g| g.record))
    }

    /// A key's grants, or those of one grantee; reads no others.
    fn grants_of(&self, key: KeyId, grantee: Option<&str>) -> Result<Vec<Versioned<Grant>>> {
        let id = key.to_string();
        let wanted: Vec<_> = [("key", id.as_str())].into_iter().chain(grantee.map(|g| ("grantee", g))).collect();
        let all = self.ledger.catalog().list_of::<Grant>(&wanted)?;
        for bad in &all.damaged {
            tracing::error!("grant {} is damaged and allows nothing: {}", bad.id, bad.why);
        }
        let fits = |g: &Versioned<Grant>| g.record.key == key && grantee.is_none_or(|one| g.record.grantee == one);
        Ok(all.records.into_iter().filter(fits).collect())
    }

    /// Whether a grant allows this.
    pub(super) fn is_granted(&self, key: KeyId, principal: &str, wanted: &Wanted<'_>) -> Result<bool> {
        if wanted.action.parse::<Operation>().is_err() {
            return Ok(false);
        }
        Ok(self.grants_of(key, Some(principal))?.iter().any(|g| g.record.covers(key, principal, wanted)))
    }

    fn new_grant(&self, key: KeyId, spec: GrantSpec, caller: &Caller) -> Grant {
        let mut raw = [0u8; 32];
        self.env.rng.fill(&mut raw);
        let GrantSpec { grantee, retiring, operations, constraint, name } = spec;
        let (id, issuer, created) = (hex::encode(raw), caller.principal.clone(), self.env.now());
        Grant { id, key, name, grantee, retiring, issuer, operations, constraint, created }
    }

    /// A grant for a lease of a volume, to the volume service; CreateGrant was authorized before ([`Kms::ask_for_volume`]).
    /// [`Grant::put`] writes it in the lease's transaction.
    #[must_use]
    pub fn lease_grant(&self, key: KeyId, context: &EncryptionContext, caller: &Caller) -> Grant {
        let service = self.volume_service();
        let spec = GrantSpec {
            grantee: service.clone(),
            retiring: Some(service),
            operations: BTreeSet::from([Operation::Decrypt]),
            constraint: (!context.is_empty()).then(|| Constraint::Equals(context.clone())),
            name: None,
        };
        self.new_grant(key, spec, caller)
    }

    /// The token by which RetireGrant finds a grant without its key. It permits nothing, and is always the same.
    fn grant_token(&self, id: &str) -> String {
        let mut token = [0u8; 32];
        hkdf_sha256(self.root.secret().expose(), &[], &[b"coffer/grant-token/v1", id.as_bytes()], &mut token);
        hex::encode(token)
    }

    /// Whether the caller may create this grant: by the policy, or by a grant to itself.
    fn may_create(&self, key: &KeyRecord, spec: &GrantSpec, caller: &Caller) -> Result<()> {
        let operations = spec.operations.iter().map(ToString::to_string).collect();
        let facts = GrantFacts { for_aws_resource: caller.via_service.is_some(), operations };
        let none = EncryptionContext::new();
        let context = spec.constraint.as_ref().map_or(&none, Constraint::pairs);
        let wanted = Wanted { action: "CreateGrant", context, grant: Some(&facts) };
        // By the policy: any grant. By a grant: no more than that grant allows.
        if self.authorize(key, wanted, caller)? == By::Policy {
            return Ok(());
        }
        let own = self.grants_of(key.id, Some(&caller.principal))?.into_iter().map(|g| g.record);
        if own.filter(|g| g.covers(key.id, &caller.principal, &wanted)).any(|g| g.may_give(spec)) {
            return Ok(());
        }
        let what = format!("CreateGrant: the new grant would allow more than the grant of {}", caller.principal);
        Err(Error::new(Kind::AccessDenied, what).hint("request fewer operations, or the constraint of that grant"))
    }

    /// Creates a grant, or finds the same one of that name. Returns it and its token.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`]; [`Kind::KeyUnavailable`] for a key that is not enabled; [`Kind::Usage`] for an invalid name,
    /// principal or constraint; [`Kind::InvalidState`] (LimitExceededException) above [`MAX_GRANTS`].
    pub fn create_grant(&self, key: &KeyRef, spec: GrantSpec, caller: &Caller) -> Result<(Grant, String)> {
        check(&spec)?;
        let id = self.resolve(key)?;
        let arn = self.key_arn(id);
        let operations: Vec<String> = spec.operations.iter().map(ToString::to_string).collect();
        let new = self.new_grant(id, spec.clone(), caller);
        let act = Act::new("kms:CreateGrant")
            .key(arn.clone())
            .detail("grantee", &spec.grantee)
            .detail("operations", operations.join(" "))
            .detail("grant", &new.id);
        let made = self.ledger.audited(caller, act, |tx| {
            let key = self.load(id)?.record;
            self.may_create(&key, &spec, caller)?;
            key.check_usable("CreateGrant", &arn)?;
            if spec.name.is_some() {
                let mut of_grantee = self.grants_of(id, Some(&spec.grantee))?.into_iter();
                if let Some(found) = of_grantee.find(|g| g.record.is_what(&spec)) {
                    return Ok(found.record);
                }
            }
            new.put(tx)?;
            Ok(new.clone())
        })?;
        let token = self.grant_token(&made.id);
        Ok((made, token))
    }

    /// The grants of a key.
    ///
    /// # Errors
    /// As [`Kms::ask`].
    pub fn list_grants(&self, key: &KeyRef, filter: &GrantFilter, caller: &Caller) -> Result<Vec<Grant>> {
        self.ask(key, "ListGrants", caller)?;
        let fits = |g: &Grant| {
            filter.id.as_ref().is_none_or(|id| *id == g.id)
                && filter.grantee.as_ref().is_none_or(|grantee| *grantee == g.grantee)
        };
        let all = self.grants_of(self.resolve(key)?, filter.grantee.as_deref())?.into_iter().map(|g| g.record);
        Ok(all.filter(fits).collect())
    }

    /// The grants of all keys that a principal may retire; for the principal itself and for the account's administrators.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for any other caller.
    pub fn list_retirable_grants(&self, retiring: &str, caller: &Caller) -> Result<Vec<Grant>> {
        if caller.principal != retiring && !self.is_administrator(caller) {
            let what = format!("ListRetirableGrants: {} may not list the grants of {retiring}", caller.principal);
            let err = Error::new(Kind::AccessDenied, what).hint("run it as that principal, or as an administrator");
            self.ledger.record_refusal(Act::new("kms:ListRetirableGrants"), caller, &err);
            return Err(err);
        }
        let all =
            self.ledger.catalog().list_of::<Grant>(&[("retiring", retiring)])?.records.into_iter().map(|g| g.record);
        Ok(all.filter(|g| g.retiring.as_deref() == Some(retiring)).collect())
    }

    /// The grant with a token, or with an id on a key.
    fn named_grant(&self, key: Option<&KeyRef>, id: Option<&str>, token: Option<&str>) -> Result<Grant> {
        match (key, id, token) {
            (None, None, Some(token)) => {
                let all = self.ledger.catalog().list::<Grant>()?.records.into_iter().map(|g| g.record);
                let mut all = all.filter(|g| self.grant_token(&g.id) == token);
                all.next().ok_or_else(|| {
                    Error::new(Kind::NotFound, "no grant has this token").hint("see `coffer key grant list`")
                })
            }
            (Some(key), Some(id), None) => {
                let key = self.resolve(key)?;
                self.grant(id)?.filter(|g| g.key == key).ok_or_else(|| not_there(id))
            }
            _ => Err(Error::new(Kind::Usage, "RetireGrant: neither a token nor a key and a grant id is given")
                .hint("use --token TOKEN, or KEY and GRANT")),
        }
    }

    fn take_back(
        &self,
        act: Act,
        grant: &Grant,
        caller: &Caller,
        may: impl Fn(&KeyRecord) -> Result<()>,
    ) -> Result<()> {
        let act = act.key(self.key_arn(grant.key)).detail("grant", &grant.id).detail("grantee", &grant.grantee);
        self.ledger.audited(caller, act.restrictive(), |tx| {
            may(&self.load(grant.key)?.record)?;
            let found = tx.get::<Grant>(&grant.id)?.ok_or_else(|| not_there(&grant.id))?;
            tx.delete::<Grant>(&grant.id, found.version)
        })
    }

    /// Retires a grant: its retiring principal may, its grantee if the grant allows it, and the account's administrators.
    /// Returns the grant, so that the caller can notify what depends on it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], [`Kind::NotFound`].
    pub fn retire_grant(
        &self,
        key: Option<&KeyRef>,
        id: Option<&str>,
        token: Option<&str>,
        caller: &Caller,
    ) -> Result<Grant> {
        let grant = self.named_grant(key, id, token)?;
        let by_itself = grant.operations.contains(&Operation::RetireGrant) && grant.grantee == caller.principal;
        let may = by_itself || grant.retiring.as_ref() == Some(&caller.principal) || self.is_administrator(caller);
        self.take_back(Act::new("kms:RetireGrant"), &grant, caller, |_| match may {
            true => Ok(()),
            false => {
                let what = format!("RetireGrant: {} may not retire grant {}", caller.principal, grant.id);
                Err(Error::new(Kind::AccessDenied, what).hint("revoke it with `coffer key grant revoke`"))
            }
        })?;
        Ok(grant)
    }

    /// Revokes a grant. Returns it, so that the caller can notify what depends on it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], [`Kind::NotFound`].
    pub fn revoke_grant(&self, key: &KeyRef, id: &str, caller: &Caller) -> Result<Grant> {
        let grant = self.named_grant(Some(key), Some(id), None)?;
        let facts = GrantFacts { for_aws_resource: caller.via_service.is_some(), operations: Vec::new() };
        let none = EncryptionContext::new();
        self.take_back(Act::new("kms:RevokeGrant"), &grant, caller, |key| {
            self.authorize(key, Wanted { action: "RevokeGrant", context: &none, grant: Some(&facts) }, caller).map(drop)
        })?;
        Ok(grant)
    }
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
