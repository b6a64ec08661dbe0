//! Access keys of users and of root. A secret is shown once, when it is made; the catalog keeps it sealed, because
//! checking a signature (Signature Version 4) needs it.

use super::base::{Iam, MAX_SECRET, limit, missing};
use super::name::{PrincipalRef, Sort, draw_id};
use super::records::{AccessKeyRecord, User};
use super::token::SESSION_KEY;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Asker, Tx, Versioned};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Most access keys of a user, or of an account's root (IAM's quota).
pub const MAX_ACCESS_KEYS: usize = 2;
/// Random bytes of a secret access key: 40 characters in base64, as those of AWS.
const SECRET_BYTES: usize = 30;

/// An access key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
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
}

/// An access key that was just made, with its secret.
pub struct NewAccessKey {
    /// The access key.
    pub key: AccessKey,
    /// Its secret, 40 characters. Cannot be had again.
    pub secret: Zeroizing<String>,
}

impl std::fmt::Debug for NewAccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewAccessKey({}, redacted)", self.key.id)
    }
}

/// Draws a secret access key.
fn draw_secret() -> Zeroizing<String> {
    let mut raw = Zeroizing::new([0u8; SECRET_BYTES]);
    crate::sys::random(&mut raw[..]);
    Zeroizing::new(STANDARD.encode(&raw[..]))
}

/// Checks an access key that was chosen, not drawn.
fn check_chosen(id: &str, secret: &str) -> Result<()> {
    let usage = |what: String| Err(Error::new(Kind::Usage, what));
    if !(1..=128).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return usage("an access key id must have 1 to 128 characters of A-Z a-z 0-9 _".into());
    }
    if id.starts_with(SESSION_KEY) {
        return usage(format!("access key id {id}: ids that begin with {SESSION_KEY} are those of sessions"));
    }
    if !(1..=MAX_SECRET).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return usage(format!("the secret access key of {id} must have 1 to {MAX_SECRET} printable ASCII characters"));
    }
    Ok(())
}

impl Iam {
    /// The unique id that the access keys of a user or of root have as their principal, and the user's name.
    fn owner_in(&self, tx: &Tx<'_>, owner: &PrincipalRef) -> Result<(String, Option<String>)> {
        match owner.sort {
            Sort::Root => self.account(&owner.account).map(|account| (account.id, None)),
            Sort::User => {
                let user = Self::find_in::<User>(tx, owner)?.record;
                Ok((user.id, Some(user.name)))
            }
            Sort::Role => {
                let what = format!("{owner} has no access keys: whoever assumes a role gets a session's");
                Err(Error::new(Kind::Usage, what).hint("name a user"))
            }
        }
    }

    /// Makes an access key for a user or for root.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a missing user or account; [`Kind::Usage`] for a role; [`Kind::InvalidState`]
    /// (LimitExceededException) above [`MAX_ACCESS_KEYS`].
    pub fn create_access_key(&self, owner: &PrincipalRef, by: impl Into<Asker>) -> Result<NewAccessKey> {
        let (id, secret) = (draw_id("AKIA", 16, &*self.env.rng), draw_secret());
        let record = self.seal_new(&id, &secret, &owner.account)?;
        let act = Act::new("iam:CreateAccessKey").detail("owner", owner).detail("access-key", &id);
        let key = self.ledger.audited(by, act, |tx| {
            let (principal, user) = self.owner_in(tx, owner)?;
            let others = tx.list_of::<AccessKeyRecord>(&[("principal", &principal)])?;
            if others.records.len() + others.damaged.len() >= MAX_ACCESS_KEYS {
                let err = limit(format!("{owner} has {MAX_ACCESS_KEYS} access keys, the most that are possible"));
                return Err(err.hint("delete one with `coffer principal key delete`"));
            }
            let record = AccessKeyRecord { principal, ..record.clone() };
            tx.insert(&record)?;
            Ok(shown(record, user))
        })?;
        Ok(NewAccessKey { key, secret })
    }

    /// Puts an access key with a chosen id and secret, in place of the one of that id; there can be more than
    /// [`MAX_ACCESS_KEYS`] of them. For credentials that are fixed in a configuration.
    ///
    /// # Errors
    /// As [`Iam::create_access_key`]; [`Kind::Usage`] for a malformed id or secret.
    pub fn put_access_key(
        &self,
        id: &str,
        secret: &str,
        owner: &PrincipalRef,
        by: impl Into<Asker>,
    ) -> Result<AccessKey> {
        check_chosen(id, secret)?;
        let record = self.seal_new(id, secret, &owner.account)?;
        let act =
            Act::new("iam:CreateAccessKey").detail("owner", owner).detail("access-key", id).detail("chosen", true);
        self.ledger.audited(by, act, |tx| {
            let (principal, user) = self.owner_in(tx, owner)?;
            let record = AccessKeyRecord { principal, ..record.clone() };
            match tx.get::<AccessKeyRecord>(id)? {
                Some(old) => tx.update(&record, old.version)?,
                None => tx.insert(&record)?,
            };
            Ok(shown(record, user))
        })
    }

    fn seal_new(&self, id: &str, secret: &str, account: &str) -> Result<AccessKeyRecord> {
        let (sealed, root_generation) = self.seal_secret(id, secret)?;
        let (id, account, principal) = (id.to_owned(), account.to_owned(), String::new());
        Ok(AccessKeyRecord { id, account, principal, active: true, created: self.env.now(), sealed, root_generation })
    }

    /// Returns the access keys of a user or of root, oldest first.
    ///
    /// # Errors
    /// As [`Iam::create_access_key`]; what the catalog reports. A damaged record is left out, and logged.
    pub fn access_keys(&self, owner: &PrincipalRef) -> Result<Vec<AccessKey>> {
        let (principal, user) = match owner.sort {
            Sort::User => {
                let user = self.find::<User>(owner)?;
                (user.id, Some(user.name))
            }
            Sort::Root => (self.account(&owner.account)?.id, None),
            Sort::Role => return Ok(Vec::new()),
        };
        let listing = self.catalog().list_of::<AccessKeyRecord>(&[("principal", &principal)])?;
        for bad in &listing.damaged {
            tracing::error!("access key {} is damaged: {}", bad.id, bad.why);
        }
        let own = listing.records.into_iter().map(|r| r.record).filter(|k| k.principal == principal);
        let mut keys: Vec<AccessKey> = own.map(|k| shown(k, user.clone())).collect();
        keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(keys)
    }

    /// Makes an access key usable, or not. Deactivating also works on a full disk, because it restricts.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; what the catalog reports.
    pub fn set_access_key_active(&self, id: &str, active: bool, by: impl Into<Asker>) -> Result<AccessKey> {
        let status = if active { "Active" } else { "Inactive" };
        let act = Act::new("iam:UpdateAccessKey").detail("access-key", id).detail("status", status);
        self.ledger.audited(by, if active { act } else { act.restrictive() }, |tx| {
            let Versioned { mut record, version } = Self::key_in(tx, id)?;
            record.active = active;
            let record = tx.update(&record, version)?.record;
            let user = self.user_of(tx, &record)?;
            Ok(shown(record, user))
        })
    }

    /// Deletes an access key.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; what the catalog reports.
    pub fn delete_access_key(&self, id: &str, by: impl Into<Asker>) -> Result<()> {
        let act = Act::new("iam:DeleteAccessKey").detail("access-key", id).restrictive();
        self.ledger.audited(by, act, |tx| {
            let version = Self::key_in(tx, id)?.version;
            tx.delete::<AccessKeyRecord>(id, version)
        })
    }

    fn key_in(tx: &Tx<'_>, id: &str) -> Result<Versioned<AccessKeyRecord>> {
        tx.get::<AccessKeyRecord>(id)?
            .ok_or_else(|| missing(format!("access key {id}")).hint("see `coffer principal key list PRINCIPAL`"))
    }

    fn user_of(&self, tx: &Tx<'_>, key: &AccessKeyRecord) -> Result<Option<String>> {
        if key.principal == key.account {
            return Ok(None);
        }
        Ok(tx.get::<User>(&key.principal)?.map(|user| user.record.name))
    }
}

fn shown(record: AccessKeyRecord, user: Option<String>) -> AccessKey {
    let AccessKeyRecord { id, account, active, created, .. } = record;
    AccessKey { id, account, user, active, created }
}
