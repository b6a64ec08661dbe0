//! What every part of [`Iam`] uses: the records, the keys that seal, and how a named principal is found and changed.

use super::known::Known;
use super::name::{PrincipalRef, Sort};
use super::records::{AccessKeyRecord, Account, Entity, Role, User, key_of};
use super::token::Tokens;
use crate::cipher::wrap::{open_local, seal_local};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Asker, Catalog, Ledger, Tx, Versioned};
use crate::secret::Secret;
use crate::units::InstallationId;
use std::sync::Arc;

/// Longest secret access key, in bytes. Sealed, all have this length.
pub(super) const MAX_SECRET: usize = 128;
/// A secret as it is sealed: its length, then its bytes, then zeros.
pub(super) const PADDED: usize = 1 + MAX_SECRET;

/// A function that refuses a policy document which the policy language does not accept.
pub type CheckPolicy<'a> = &'a dyn Fn(&str) -> Result<()>;

/// The same for a document that replaces another one, which comes second.
pub type CheckEditedPolicy<'a> = &'a dyn Fn(&str, &str) -> Result<()>;

/// What [`Iam`] is made for: one installation.
pub struct Of {
    /// Clock and random numbers.
    pub env: Env,
    /// The records and the audit.
    pub ledger: Arc<Ledger>,
    /// The installation.
    pub installation: InstallationId,
    /// Its first account, which has no record of its own.
    pub first: Account,
    /// A key derived from the root key for this module alone.
    pub key: Secret<32>,
    /// Generation of that root key, from 1.
    pub root_generation: u32,
}

/// Accounts, principals and their credentials. Authorizes nothing: its callers do. Any thread may call it, but not from
/// inside a transaction of its ledger.
pub struct Iam {
    pub(super) env: Env,
    pub(super) ledger: Arc<Ledger>,
    pub(super) first: Account,
    pub(super) tokens: Tokens,
    pub(super) known: Known,
    installation: InstallationId,
    key: Secret<32>,
    root_generation: u32,
}

impl std::fmt::Debug for Iam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Iam({})", self.installation)
    }
}

/// Fields in the order of their lengths and bytes, so that no two lists look the same.
fn with_lengths(label: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut out = label.to_vec();
    for field in fields {
        out.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// An act on a principal, by its ARN.
pub(super) fn act(name: &str, arn: &str) -> Act {
    Act::new(format!("iam:{name}")).detail("principal", arn)
}

pub(super) fn missing(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::NotFound, format!("there is no {what}")).hint("see `coffer principal list`")
}

pub(super) fn limit(what: String) -> Error {
    Error::new(Kind::InvalidState, what).reason(Reason::LimitExceeded)
}

impl Iam {
    /// Makes it over an installation's ledger.
    #[must_use]
    pub fn new(of: Of) -> Self {
        let Of { env, ledger, installation, first, key, root_generation } = of;
        ledger.catalog().make_indexes::<User>();
        ledger.catalog().make_indexes::<Role>();
        ledger.catalog().make_indexes::<AccessKeyRecord>();
        let tokens = Tokens::new(installation, &key);
        Self { env, ledger, first, tokens, known: Known::default(), installation, key, root_generation }
    }

    pub(super) fn catalog(&self) -> &Catalog {
        self.ledger.catalog()
    }

    /// The user or role that a request names. `tx`: the transaction that reads it.
    pub(super) fn find_in<E: Entity>(tx: &Tx<'_>, name: &PrincipalRef) -> Result<Versioned<E>> {
        Self::checked(tx.find::<E>(&key_of(&name.account, &name.name))?, name)
    }

    /// The user or role that a request names.
    pub(super) fn find<E: Entity>(&self, name: &PrincipalRef) -> Result<E> {
        Ok(Self::checked(self.catalog().find::<E>(&key_of(&name.account, &name.name))?, name)?.record)
    }

    fn checked<E: Entity>(found: Option<Versioned<E>>, name: &PrincipalRef) -> Result<Versioned<E>> {
        let fits = |e: &Versioned<E>| name.path.as_deref().is_none_or(|path| path == e.record.path());
        found.filter(fits).ok_or_else(|| missing(name))
    }

    /// Changes a user or a role in an audited transaction.
    pub(super) fn change<E: Entity>(
        &self,
        name: &PrincipalRef,
        act: Act,
        by: impl Into<Asker>,
        change: impl Fn(&mut E) -> Result<()>,
    ) -> Result<E> {
        self.ledger.audited(by, act, |tx| {
            let Versioned { mut record, version } = Self::find_in::<E>(tx, name)?;
            change(&mut record)?;
            Ok(tx.update(&record, version)?.record)
        })
    }

    fn secret_aad(&self, id: &str, generation: u32) -> Vec<u8> {
        let fields: [&[u8]; 3] = [&self.installation.0, id.as_bytes(), &generation.to_le_bytes()];
        with_lengths(b"coffer/access-key/v1", &fields)
    }

    /// Seals the secret of an access key. Returns it in hexadecimal, and the generation of the root key.
    pub(super) fn seal_secret(&self, id: &str, secret: &str) -> Result<(String, u32)> {
        let aad = self.secret_aad(id, self.root_generation);
        let padded = Secret::<PADDED>::build(|out| {
            let len = secret.len().min(MAX_SECRET);
            out[0] = u8::try_from(len).unwrap_or(u8::MAX);
            out[1..=len].copy_from_slice(&secret.as_bytes()[..len]);
        });
        let sealed = seal_local(&self.key, &aad, padded.expose(), &*self.env.rng)?;
        Ok((hex::encode(sealed), self.root_generation))
    }

    /// Opens the secret of an access key, still padded.
    pub(super) fn open_secret(&self, id: &str, sealed: &str, generation: u32) -> Result<Secret<PADDED>> {
        let bad = |e: Error| e.context(format!("access key {id}"));
        let sealed = hex::decode(sealed)
            .map_err(|e| bad(Error::new(Kind::Integrity, "its secret is not hexadecimal").because(e)))?;
        open_local::<PADDED>(&self.key, &self.secret_aad(id, generation), &sealed).map_err(bad)
    }

    /// A time to be issued at that no earlier revocation covers.
    pub(super) fn issue_time(&self, revoked_before: Option<Timestamp>) -> Timestamp {
        let after = revoked_before.map(|at| Timestamp(at.0.saturating_add(1)));
        after.max(Some(self.env.now())).unwrap_or_else(|| self.env.now())
    }
}

/// Refuses what only users and roles have, for root.
pub(super) fn no_root(what: &str, name: &PrincipalRef) -> Error {
    debug_assert_eq!(name.sort, Sort::Root);
    Error::new(Kind::Usage, format!("the {name} has no {what}")).hint("name a user or a role")
}
