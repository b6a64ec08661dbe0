//! Accounts. The installation's first one always exists; it has no record. There is no deletion: what is in an account
//! (keys, volumes, audit records) names it by ARN, in layers that this one does not see.

use super::base::{Iam, limit};
use super::name::check_account;
use super::records::Account;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Asker};

/// Most accounts of an installation.
pub const MAX_ACCOUNTS: usize = 1000;

/// Checks a name: 1 to 50 printable ASCII characters (Account Management API Reference, PutAccountName).
fn check(name: &str) -> Result<()> {
    if (1..=50).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "an account's name must have 1 to 50 printable ASCII characters"))
}

impl Iam {
    /// Returns all accounts, the first one first, the others by id.
    ///
    /// # Errors
    /// What the catalog reports; a damaged record is left out, and logged.
    pub fn accounts(&self) -> Result<Vec<Account>> {
        let all = self.catalog().list::<Account>()?;
        for bad in &all.damaged {
            tracing::error!("account {} is damaged: {}", bad.id, bad.why);
        }
        Ok([self.first.clone()].into_iter().chain(all.records.into_iter().map(|a| a.record)).collect())
    }

    /// Returns an account.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] for a malformed id; [`Kind::Integrity`] for a damaged record.
    pub fn account(&self, id: &str) -> Result<Account> {
        check_account(id)?;
        if id == self.first.id {
            return Ok(self.first.clone());
        }
        let missing =
            || Error::new(Kind::NotFound, format!("there is no account {id}")).hint("see `coffer account list`");
        Ok(self.catalog().get::<Account>(id)?.ok_or_else(missing)?.record)
    }

    /// Creates an account; without an id, under a random one.
    ///
    /// # Errors
    /// [`Kind::Exists`] for an id that is in use; [`Kind::Usage`] for a malformed id or name; [`Kind::InvalidState`]
    /// (LimitExceededException) above [`MAX_ACCOUNTS`].
    pub fn create_account(&self, name: &str, id: Option<&str>, by: impl Into<Asker>) -> Result<Account> {
        check(name)?;
        let id = match id {
            Some(id) => check_account(id).map(|()| id.to_owned())?,
            None => self.draw_account(),
        };
        let account = Account { id, name: name.to_owned(), created: self.env.now() };
        let act = Act::new("organizations:CreateAccount").detail("account", &account.id).detail("name", name);
        self.ledger.audited(by, act, |tx| {
            if account.id == self.first.id {
                return Err(Error::new(Kind::Exists, format!("account {} already exists", account.id)));
            }
            if tx.list::<Account>()?.records.len() + 1 >= MAX_ACCOUNTS {
                return Err(limit(format!(
                    "CreateAccount: there are {MAX_ACCOUNTS} accounts, the most that are possible"
                )));
            }
            tx.insert(&account).map(drop)
        })?;
        Ok(account)
    }

    /// An account id that AWS could have given: 12 digits, the first not 0.
    fn draw_account(&self) -> String {
        let mut raw = [0u8; 8];
        self.env.rng.fill(&mut raw);
        (100_000_000_000 + u64::from_le_bytes(raw) % 900_000_000_000).to_string()
    }
}
