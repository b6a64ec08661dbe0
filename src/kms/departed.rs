//! Key policies and grants that name a principal which is being deleted (see [`crate::iam::Departed`]).

use super::Kms;
use super::caller::Caller;
use super::grantstore::Grant;
use super::keystore::KeyRecord;
use super::policy::rename;
use crate::error::Result;
use crate::iam::{Departed, Elsewhere, PrincipalRef};
use crate::ledger::{Record, Tx, Versioned};

/// Rows that are in memory at a time.
const PAGE: usize = 500;
/// An id after that of every row: those have only characters before it.
const END: &str = "\u{7f}";

impl Kms {
    /// Deletes a user or a role as [`crate::iam::Iam::delete_principal`] does: its unique id takes the place of its ARN in the
    /// policies and grants of all keys, of whatever account and Region.
    ///
    /// # Errors
    /// As [`crate::iam::Iam::delete_principal`].
    pub fn delete_principal(&self, name: &PrincipalRef, caller: &Caller) -> Result<()> {
        let rename = |document: &str, departed: &Departed| {
            let renamed = || rename(document, &|arn| departed.instead_of(arn));
            departed.may_be_in(document).then(renamed).flatten()
        };
        let records = |tx: &mut Tx<'_>, departed: &Departed, most: usize| {
            let in_policy = |key: &mut KeyRecord| match key.policy.as_deref().and_then(|text| rename(text, departed)) {
                Some(renamed) => key.policy.replace(renamed).is_some(),
                None => false,
            };
            let changed = change_each::<KeyRecord>(tx, most, in_policy)?;
            Ok(changed + change_each::<Grant>(tx, most - changed, |grant| grant.rename(departed))?)
        };
        self.iam.delete_principal(name, &Elsewhere { rename: &rename, records: &records }, caller)
    }
}

impl Grant {
    fn rename(&mut self, departed: &Departed) -> bool {
        let grantee = departed.instead_of(&self.grantee);
        let retiring = self.retiring.as_deref().and_then(|arn| departed.instead_of(arn));
        let changed = grantee.is_some() || retiring.is_some();
        self.grantee = grantee.unwrap_or_else(|| std::mem::take(&mut self.grantee));
        self.retiring = retiring.or_else(|| self.retiring.take());
        changed
    }
}

/// Changes every record for which `change` says so, at most `most`, reading all of them once. A damaged row stays: its key
/// is unavailable, or it allows nothing.
fn change_each<R: Record>(tx: &mut Tx<'_>, most: usize, change: impl Fn(&mut R) -> bool) -> Result<usize> {
    let (mut after, mut changed) = (String::new(), 0);
    loop {
        let page = tx.page::<R>(&after, END, PAGE)?;
        let ids = page.records.iter().map(|r| r.record.id()).chain(page.damaged.into_iter().map(|bad| bad.id));
        let Some(last) = ids.max() else { return Ok(changed) };
        for Versioned { mut record, version } in page.records {
            if changed == most {
                return Ok(changed);
            }
            if change(&mut record) {
                tx.update(&record, version)?;
                changed += 1;
            }
        }
        after = last;
    }
}
