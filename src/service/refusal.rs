//! Refusals of what is no operation: requests that cannot be read, and exports that a client over NBD asked for.

use super::Service;
use super::operations::named;
use crate::error::{Error, Result};
use crate::kms::Caller;
use crate::ledger::Act;

impl Service {
    /// Records a request that was refused before it could be read: nothing more is known of it.
    pub fn refuse_unread(&self, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new("coffer:UnknownRequest"), caller, err);
    }

    /// Records that a client over NBD asked for an export, and that which one could not be read.
    pub fn refuse_unnamed(&self, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new("ec2:AttachVolume"), caller, err);
    }

    /// Opens an export, or looks at one, for a caller over NBD: a refusal leaves one record.
    ///
    /// # Errors
    /// What `open` says.
    pub fn opening<R>(&self, name: &str, caller: &Caller, open: impl FnOnce() -> Result<R>) -> Result<R> {
        // What follows the name is a token, or nothing that says which export.
        let plain = name.split_once('?').map_or(name, |(plain, _)| plain);
        self.ledger().verb(named("ec2:AttachVolume", plain), caller, open)
    }
}
