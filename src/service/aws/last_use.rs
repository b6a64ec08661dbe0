//! GetKeyLastUsage: when a key was last used, by the audit.
//!
//! The audit is read once, backwards; after that, each request reads what was added since the last one.

use super::trail_event::named;
use super::values::Time;
use super::{At, AwsOperation};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::ledger::audit::RecordKind;
use crate::ledger::{AuditEvent, AuditRecord, Filter, Ledger};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
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
struct LastUse {
    operation: &'static str,
    at: Timestamp,
    event: String,
    /// Id of the request, if it came over the network.
    request: Option<String>,
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
pub struct LastUses(Mutex<Known>);

impl LastUses {
    /// The last use of a key, by its ARN.
    fn of(&self, ledger: &Ledger, arn: &str) -> Result<Option<LastUse>> {
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

/// GetKeyLastUsage.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetKeyLastUsage {
    key_id: String,
}

/// The last use on the wire; empty if there was none.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyLastUsage {
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_trail_event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_request_id: Option<String>,
}

impl From<LastUse> for KeyLastUsage {
    fn from(last: LastUse) -> Self {
        Self {
            operation: Some(last.operation),
            timestamp: Some(Time(last.at)),
            cloud_trail_event_id: Some(last.event),
            kms_request_id: last.request,
        }
    }
}

/// When a key was used.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LastUsageOutput {
    key_id: String,
    key_last_usage: KeyLastUsage,
    tracking_start_date: Time,
    key_creation_date: Time,
}

impl AwsOperation for GetKeyLastUsage {
    type Output = LastUsageOutput;
    const READS: bool = true;
    fn names_key(&self) -> Option<&str> {
        Some(&self.key_id)
    }
    fn perform(self, at: &At<'_>) -> Result<LastUsageOutput> {
        let invalid = || Error::new(Kind::NotFound, format!("Invalid keyId '{}'", self.key_id));
        let key = at.key(&self.key_id)?;
        // Aliases are not supported, and keys of other accounts neither.
        if key.is_alias() {
            return Err(invalid());
        }
        at.service.kms.authorizer().ask(&key, "GetKeyLastUsage", at.caller)?;
        let key = at.service.kms.keys().describe(&key)?;
        if key.account != at.place.account {
            return Err(invalid());
        }
        let ledger = at.service.ledger();
        let oldest = ledger.audit_records()?.next().transpose()?.map(|record| record.body.at);
        let tracked = oldest.map_or(key.creation_date, |oldest| oldest.max(key.creation_date));
        // A use that the audit has expired is not told, or else it would be until the next start only.
        let last = at.service.last_uses.of(ledger, &key.arn)?.filter(|last| last.at >= tracked);
        Ok(LastUsageOutput {
            key_id: key.arn,
            key_last_usage: last.map(Into::into).unwrap_or_default(),
            tracking_start_date: Time(tracked),
            key_creation_date: Time(key.creation_date),
        })
    }
}

#[cfg(test)]
#[path = "last_use_tests.rs"]
mod tests;
