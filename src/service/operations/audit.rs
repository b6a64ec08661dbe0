//! Operations on the audit log.

use super::{Authorization, Call, Done, Operation};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::KeyRef;
use crate::ledger::{Act, AuditRecord, Filter};
use crate::service::Service;
use crate::service::api::EventInfo;
use serde::{Deserialize, Serialize};

/// Actions of a filtered list at most.
const MOST: usize = 1000;

/// Verifies the audit chain against the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyAudit {}

impl Operation for VerifyAudit {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
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
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("coffer:AcceptAudit"))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.ledger().accept_audit(call.caller)?;
        call.service.suspensions.resume_all();
        Ok(Done("the audit continues; damaged records were moved aside in audit/".to_owned()))
    }
}

/// Lists the newest audit records, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAuditEvents {
    /// Number of records at most; 0 counts as 1. With a filter, of actions, each with its outcome; at most 1000.
    pub limit: usize,
    /// Name of the action, with or without its service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<String>,
    /// ARN of a KMS key, or the id or name of another object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// ARN of the principal, or the name that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// At this time or later, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// At this time or earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl ListAuditEvents {
    /// The newest records.
    #[must_use]
    pub fn newest(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The filter, if there is one. A key that is not named by its ARN is one of these keys.
    fn filter(&self, service: &Service) -> Result<Option<Filter>> {
        let Self { limit: _, act, resource, user, since, until } = self.clone();
        let resource = match resource {
            Some(name) if !name.starts_with("arn:") => Some(arn_of(&name, service)?.unwrap_or(name)),
            other => other,
        };
        let filter = Filter { from: since, to: until, act, resource, user, ..Filter::default() };
        Ok((filter != Filter::default()).then_some(filter))
    }
}

/// The ARN of the key of that id or alias, if it exists.
fn arn_of(name: &str, service: &Service) -> Result<Option<String>> {
    let Ok(key) = name.parse::<KeyRef>() else { return Ok(None) };
    match service.kms.keys().describe(&key) {
        Ok(key) => Ok(Some(key.arn)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Operation for ListAuditEvents {
    type Answer = Vec<EventInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<EventInfo>> {
        let event = |record: AuditRecord| EventInfo {
            sequence: record.sequence,
            record: serde_json::to_value(&record).unwrap_or_default(),
        };
        let (ledger, limit) = (call.service.ledger(), self.limit.max(1));
        let Some(filter) = self.filter(call.service)? else {
            return Ok(ledger.newest_audit_records(limit)?.into_iter().map(event).collect());
        };
        let limit = limit.min(MOST);
        let (mut found, mut next) = (Vec::new(), None::<String>);
        loop {
            let page = ledger.events(&filter, next.as_deref(), limit - found.len())?;
            found.extend(page.records.into_iter().map(|found| event(found.record)));
            next = page.next;
            if next.is_none() || found.len() >= limit || crate::interrupt::is_asked_for() {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::api::Reply;
    use crate::service::aws::trail_testing::{ACCOUNT, DAY, START, World};
    use crate::service::operations::Request;
    use serde_json::json;

    #[test]
    fn a_filtered_list_has_each_action_once_with_its_outcome() {
        let world = World::new();
        let admin = world.root(ACCOUNT);
        let (key, other) = (world.key(&admin, &[]), world.key(&admin, &[]));
        let alias = json!({ "AliasName": "alias/a", "TargetKeyId": key });
        world.call(&admin, "kms:CreateAlias", alias).unwrap();
        world.pass(DAY);
        world.call(&admin, "kms:DisableKey", json!({ "KeyId": key })).unwrap();
        let list = |filter: serde_json::Value| -> Vec<(String, String)> {
            let mut asked = json!({ "action": "audit-list", "limit": 50 });
            asked.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
            let request: Request = serde_json::from_value(asked).unwrap();
            let reply = world.service.handle(&world.local(), request, &mut |_| true).unwrap();
            let Reply::Events { events } = reply else { panic!("{reply:?}") };
            let text = |e: &EventInfo, name: &str| e.record[name].as_str().unwrap_or_default().to_owned();
            events.iter().map(|e| (text(e, "act"), text(e, "result"))).collect()
        };
        let ok = |names: &[&str]| names.iter().map(|n| (format!("kms:{n}"), "ok".to_owned())).collect::<Vec<_>>();
        for name in [&key, "alias/a", key.rsplit('/').next().unwrap()] {
            assert_eq!(list(json!({ "resource": name, "act": "DisableKey" })), ok(&["DisableKey"]), "{name}");
        }
        assert_eq!(list(json!({ "resource": other })), ok(&["CreateKey"]));
        assert_eq!(list(json!({ "act": "kms:CreateKey", "user": "root" })), ok(&["CreateKey", "CreateKey"]));
        assert_eq!(list(json!({ "act": "kms:CreateKey", "user": "root", "limit": 1 })), ok(&["CreateKey"]));
        assert_eq!(list(json!({ "since": START + DAY })), ok(&["DisableKey"]));
        assert!(!list(json!({ "until": START + 1 })).contains(&ok(&["DisableKey"])[0]));
        assert!(list(json!({ "user": "nobody" })).is_empty());
        // Without a filter, the records themselves: intents and outcomes.
        assert_eq!(
            list(json!({ "limit": 2 })),
            [("kms:DisableKey".into(), String::new()), (String::new(), "ok".into())]
        );
    }
}
