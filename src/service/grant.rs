//! What the end of a grant does to the volume whose lease depends on it.

use super::Service;
use super::records::{AttachmentRecord, LeaseRecord};
use crate::kms::Grant;

impl Service {
    /// A grant is gone: the volume whose lease lived by it is suspended, unless it was set to go on.
    pub(super) fn suspend_lease_of(&self, grant: &Grant) {
        let lived = |grants: &Vec<String>| grants.contains(&grant.id);
        let catalog = self.ledger().catalog();
        let attached = catalog.list::<AttachmentRecord>().map(|all| {
            all.records.into_iter().filter(|a| lived(&a.record.grants)).map(|a| a.record.volume).collect::<Vec<_>>()
        });
        let leased = catalog.list::<LeaseRecord>().map(|all| {
            all.records.into_iter().filter(|l| lived(&l.record.grants)).map(|l| l.record.volume).collect::<Vec<_>>()
        });
        match (attached, leased) {
            (Ok(attached), Ok(leased)) => {
                let why = format!("grant {} of its lease is gone", grant.id);
                attached.into_iter().chain(leased).for_each(|id| self.suspend_one(id, &why));
            }
            (Err(err), _) | (_, Err(err)) => {
                // Whose it was is not known: better all of the key's volumes than the wrong one.
                tracing::error!("look for the lease of grant {}: {}", grant.id, err.line());
                self.suspend_volumes(&self.kms.key_arn(grant.key));
            }
        }
    }
}
