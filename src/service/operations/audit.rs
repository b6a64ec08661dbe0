//! Operations on the audit log.

use super::{Authorization, Call, Done, Operation};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, AuditRecord};
use crate::service::Service;
use crate::service::api::EventInfo;
use serde::{Deserialize, Serialize};

/// Verifies the audit chain against the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyAudit {}

impl Operation for VerifyAudit {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Service) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let report = call.service.ledger().verify_audit()?;
        let (count, hash) = (report.head.count, report.head.hash);
        match report.trouble {
            None => Ok(Done(format!("{count} records, chained; head {hash} (keep a copy of this head elsewhere)"))),
            Some(why) => Err(Error::new(Kind::Integrity, format!("audit: {why}"))
                .hint("find out what happened (a restored backup?), then run `coffer audit accept`")),
        }
    }
}

/// Accepts an audit chain that was found truncated or forked. Damaged records are set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptAudit {}

impl Operation for AcceptAudit {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Service) -> Option<Act> {
        Some(Act::new("coffer:AcceptAudit"))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.ledger().accept_audit(call.caller)?;
        call.service.suspensions.resume_all();
        Ok(Done("the audit continues; damaged records were moved aside in audit/".to_owned()))
    }
}

/// Lists the newest audit records, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAuditEvents {
    /// Number of records at most; 0 counts as 1.
    pub limit: usize,
}

impl Operation for ListAuditEvents {
    type Answer = Vec<EventInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Service) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<EventInfo>> {
        let event = |record: AuditRecord| EventInfo {
            sequence: record.sequence,
            record: serde_json::to_value(&record).unwrap_or_default(),
        };
        Ok(call.service.ledger().newest_audit_records(self.limit.max(1))?.into_iter().map(event).collect())
    }
}
