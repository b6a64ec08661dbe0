//! What a deleted user or role leaves behind: policies and grants that name it.
//!
//! They name it by its ARN, which the next principal of its name has, too. So its deletion puts its unique id, which no
//! other principal will ever have, in place of the ARN, in the same transaction. AWS keeps the unique id from the start,
//! and shows it as soon as it can no longer show an ARN for it (IAM User Guide, "AWS JSON policy elements: Principal").

use super::records::{Entity, Role};
use crate::error::Result;
use crate::ledger::{Record, Tx};

/// A user or a role that is being deleted: the names it had, and the unique id that is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    arn: String,
    /// What the ARNs of a role's sessions begin with.
    sessions: Option<String>,
    id: String,
}

impl Departed {
    pub(super) fn of<E: Entity>(record: &E) -> Self {
        let is_role = E::KIND == Role::KIND;
        let sessions = is_role.then(|| super::credential::session_arn(record.account(), record.entity_name(), ""));
        Self { arn: record.arn_of(), sessions, id: record.id() }
    }

    /// Whether a JSON document can name it: most do not, and need not be parsed. An escape may hide any name.
    #[must_use]
    pub fn may_be_in(&self, document: &str) -> bool {
        let has = |name: &str| document.contains(name);
        has(&self.arn) || self.sessions.as_deref().is_some_and(has) || has("\\")
    }

    /// What stands for a principal from now on: for the ARN of the user or the role its unique id, for the ARN of a role's
    /// session that id, `:` and the session's name. `None`: it is another principal.
    #[must_use]
    pub fn instead_of(&self, principal: &str) -> Option<String> {
        if principal == self.arn {
            return Some(self.id.clone());
        }
        let session = principal.strip_prefix(self.sessions.as_deref()?)?;
        Some(format!("{}:{session}", self.id))
    }
}

/// Whatever names a principal outside of this layer.
pub struct Elsewhere<'a> {
    /// Puts other names of principals into a policy document. `None`: it has none of them.
    pub rename: &'a dyn Fn(&str, &Departed) -> Option<String>,
    /// Puts them into at most so many records, and returns how many it changed.
    pub records: RenameRecords<'a>,
}

/// See [`Elsewhere::records`].
pub type RenameRecords<'a> = &'a dyn Fn(&mut Tx<'_>, &Departed, usize) -> Result<usize>;

impl Elsewhere<'_> {
    /// Renames a principal in at most `most` records: in trust policies, and above this layer. Returns how many it changed.
    pub(super) fn rename_in(&self, tx: &mut Tx<'_>, departed: &Departed, most: usize) -> Result<usize> {
        let mut changed = 0;
        // The role itself goes, with its trust policy.
        for mut found in tx.list::<Role>()?.records.into_iter().filter(|found| found.record.id != departed.id) {
            if changed == most {
                return Ok(changed);
            }
            if let Some(trust) = (self.rename)(&found.record.trust, departed) {
                found.record.trust = trust;
                tx.update(&found.record, found.version)?;
                changed += 1;
            }
        }
        Ok(changed + (self.records)(tx, departed, most - changed)?)
    }
}
