//! Refusals outside of operations: unreadable requests, and exports that an NBD client asked for.

use super::Service;
use super::operations::named;
use super::token::volume_part;
use crate::error::{Error, Result};
use crate::kms::Caller;
use crate::ledger::Act;

impl Service {
    /// Audits the refusal of a request that could not be read, so that nothing else is known of it.
    pub fn refuse_unread(&self, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new("coffer:UnknownRequest"), caller, err);
    }

    /// Audits the refusal of an NBD client's request for an export whose name could not be read.
    pub fn refuse_unnamed(&self, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new("ec2:AttachVolume"), caller, err);
    }

    /// Opens or describes an export for an NBD client. A refusal leaves one audit record.
    ///
    /// # Errors
    /// The errors of `open`.
    pub fn opening<R>(&self, name: &str, caller: &Caller, open: impl FnOnce() -> Result<R>) -> Result<R> {
        self.ledger().verb(named("ec2:AttachVolume", volume_part(name)), caller, open)
    }
}
