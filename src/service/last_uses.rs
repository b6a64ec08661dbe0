//! When keys were last used, by the audit. It is read once, backwards; after that, each question reads what was added since
//! the last one.

use super::aws::trail_event::named;
use crate::env::Timestamp;
use crate::error::Result;
use crate::ledger::audit::RecordKind;
use crate::ledger::{AuditEvent, AuditRecord, Filter, Ledger};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;

/// The operations that use a key (KMS API Reference, KeyLastUsageData).
const OPERATIONS: &[&str] = &[
    "Decrypt",
    "DeriveSharedSecret",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
];
/// Events of one read of the audit.
const PAGE: usize = 1000;

/// The operation of an act that uses a key.
fn operation(act: &str) -> Option<&'static str> {
    let (source, name) = named(act)?;
    OPERATIONS.iter().copied().find(|operation| source == "kms.amazonaws.com" && *operation == name)
}

/// Whether a record is one of a key's successful use.
fn is_use(record: &AuditRecord) -> bool {
    let body = &record.body;
    record.kind == RecordKind::Event && body.result == "ok" && body.key.is_some() && operation(&body.act).is_some()
}

/// The last use of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastUse {
    pub(super) operation: &'static str,
    pub(super) at: Timestamp,
    /// Id of its event.
    pub(super) event: String,
    /// Id of the request, if it came over the network.
    pub(super) request: Option<String>,
}

/// The last uses of all keys, as far as the audit was read.
#[derive(Default)]
struct Known {
    /// Sequence of the first record that was not read.
    upto: u64,
    /// By the key's ARN.
    uses: HashMap<String, LastUse>,
}

/// When keys were last used. Reads the audit when it is asked.
#[derive(Default)]
pub(super) struct LastUses(Mutex<Known>);

impl LastUses {
    /// The last use of a key, by its ARN.
    pub(super) fn of(&self, ledger: &Ledger, arn: &str) -> Result<Option<LastUse>> {
        let mut known = self.0.lock();
        known.catch_up(ledger)?;
        Ok(known.uses.get(arn).cloned())
    }
}

impl Known {
    fn catch_up(&mut self, ledger: &Ledger) -> Result<()> {
        let (newest, oldest) = (Cell::new(None), Cell::new(u64::MAX));
        let test = |record: &AuditRecord| {
            newest.set(newest.get().or(Some(record.sequence)));
            oldest.set(record.sequence);
            record.sequence >= self.upto && is_use(record)
        };
        let (mut new, mut next) = (HashMap::new(), None::<String>);
        loop {
            let page = ledger.events_if(&Filter::default(), &test, next.as_deref(), PAGE)?;
            for AuditEvent { id, record } in page.records {
                let (Some(arn), Some(operation)) = (record.body.key, operation(&record.body.act)) else { continue };
                let request = record.body.caller.and_then(|c| c.request).map(|r| r.id);
                // They come newest first.
                new.entry(arn).or_insert(LastUse { operation, at: record.body.at, event: id, request });
            }
            next = page.next;
            if next.is_none() || oldest.get() <= self.upto {
                break;
            }
        }
        self.uses.extend(new);
        if let Some(newest) = newest.get() {
            self.upto = newest + 1;
        }
        Ok(())
    }
}
