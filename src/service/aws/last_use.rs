//! GetKeyLastUsage: when a key was last used, by the audit.

use super::operation::{At, AwsOperation};
use super::values::Time;
use crate::error::{Error, Kind, Result};
use crate::service::last_uses::LastUse;
use serde::{Deserialize, Serialize};

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
    fn perform(self, at: &At<'_>) -> Result<LastUsageOutput> {
        let key = at.key(&self.key_id)?;
        at.service.kms.authorizer().ask(&key, "GetKeyLastUsage", at.caller)?;
        let key = at.service.kms.keys().describe(&key)?;
        // Keys of other accounts are not supported.
        if key.account != at.place.account {
            return Err(Error::new(Kind::NotFound, format!("Invalid keyId '{}'", self.key_id)));
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
