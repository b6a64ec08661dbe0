//! CloudTrail: looking up the events of the audit (AWS CloudTrail API Reference, LookupEvents).

use super::operation::{At, AwsOperation};
use super::trail_event::{KEY_TYPE, is_read_only, is_seen, key_of, named, record, request_of, user_of};
use super::values::Time;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::kms::Place;
use crate::kms::policy::Facts;
use crate::ledger::{AuditEvent, AuditRecord, Filter};
use serde::{Deserialize, Serialize};

/// How far back one can look.
const DAYS: i64 = 90;
const DAY: i64 = 24 * 60 * 60 * 1000;
/// The most events of a page.
const MOST: i64 = 50;
/// Reads of the audit for one page, of 10,000 records each. A page may have fewer events than are wanted.
const MOST_READS: usize = 20;

/// An attribute that events must have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct LookupAttribute {
    attribute_key: String,
    attribute_value: String,
}

/// LookupEvents.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct LookupEvents {
    #[serde(default)]
    lookup_attributes: Vec<LookupAttribute>,
    start_time: Option<Time>,
    end_time: Option<Time>,
    event_category: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

/// What an event is about.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Resource {
    resource_type: &'static str,
    resource_name: String,
}

/// An event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    event_id: String,
    event_name: String,
    read_only: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_key_id: Option<String>,
    event_time: Time,
    event_source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    resources: Vec<Resource>,
    cloud_trail_event: String,
}

/// A page of events, newest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EventList {
    events: Vec<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

fn refused(reason: Reason, what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what).reason(reason)
}

/// A test of a record by an attribute.
enum Attribute {
    Any,
    Id(String),
    Name(String),
    ReadOnly(bool),
    User(String),
    ResourceType(String),
    Resource(String),
    Source(String),
    AccessKey(String),
}

impl Attribute {
    fn of(list: &[LookupAttribute]) -> Result<Self> {
        let LookupAttribute { attribute_key: key, attribute_value: value } = match list {
            [] => return Ok(Self::Any),
            [one] => one,
            _ => return Err(refused(Reason::InvalidLookupAttributes, "only one lookup attribute is supported")),
        };
        if !(1..=2000).contains(&value.chars().count()) {
            let what = format!("{key}: a value has 1 to 2000 characters");
            return Err(refused(Reason::InvalidLookupAttributes, what));
        }
        let text = value.clone();
        Ok(match key.as_str() {
            "EventId" => Self::Id(text),
            "EventName" => Self::Name(text),
            "ReadOnly" => {
                Self::ReadOnly(value.parse().map_err(|_| {
                    refused(Reason::InvalidLookupAttributes, "ReadOnly: the value is not true or false")
                })?)
            }
            "Username" => Self::User(text),
            "ResourceType" => Self::ResourceType(text),
            "ResourceName" => Self::Resource(text),
            "EventSource" => Self::Source(text),
            "AccessKeyId" => Self::AccessKey(text),
            _ => return Err(refused(Reason::InvalidLookupAttributes, format!("{key:?} is not a lookup attribute"))),
        })
    }

    fn fits(&self, record: &AuditRecord, (source, name): (&str, &str), from: &Place) -> bool {
        let body = &record.body;
        match self {
            // The ledger finds it by its id.
            Self::Any | Self::Id(_) => true,
            Self::Name(wanted) => name == wanted,
            Self::ReadOnly(wanted) => is_read_only(name) == *wanted,
            Self::User(wanted) => body.caller.as_ref().is_some_and(|c| user_of(&c.principal) == wanted),
            Self::ResourceType(wanted) => wanted == KEY_TYPE && key_of(record, from).is_some(),
            Self::Resource(wanted) => key_of(record, from) == Some(wanted),
            Self::Source(wanted) => source == wanted,
            Self::AccessKey(wanted) => request_of(record).is_some_and(|r| r.access_key == *wanted),
        }
    }
}

/// A time to the second, as events have it.
const fn second(at: Timestamp) -> Timestamp {
    Timestamp(at.0.div_euclid(1000) * 1000)
}

impl LookupEvents {
    /// What is looked for, in the ledger's terms; only events of the last 90 days.
    fn filter(&self, attribute: &Attribute, now: Timestamp) -> Result<Filter> {
        let (start, end) = (self.start_time.map(|t| second(t.0)), self.end_time.map(|t| second(t.0)));
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(refused(Reason::InvalidTimeRange, "StartTime is after EndTime"));
        }
        let oldest = Timestamp(now.0 - DAYS * DAY);
        let event = if let Attribute::Id(id) = attribute { Some(id.clone()) } else { None };
        Ok(Filter {
            from: Some(start.map_or(oldest, |start| start.max(oldest))),
            to: end.map(|end| Timestamp(end.0 + 999)),
            event,
            ..Filter::default()
        })
    }

    fn limit(&self) -> Result<usize> {
        let most = self.max_results.unwrap_or(MOST);
        match (1..=MOST).contains(&most) {
            true => Ok(most as usize),
            false => Err(refused(Reason::InvalidMaxResults, format!("MaxResults is {most}, and must be 1 to {MOST}"))),
        }
    }

    /// A check value of what a token is for.
    fn query(&self, place: &Place) -> String {
        let attributes = self.lookup_attributes.iter().map(|a| (&a.attribute_key, &a.attribute_value));
        let times = (self.start_time.map(|t| t.0.0), self.end_time.map(|t| t.0.0));
        let query = format!("{:?} {times:?} {place}", attributes.collect::<Vec<_>>());
        format!("{:08x}", crc32c::crc32c(query.as_bytes()))
    }
}

fn event(event: &AuditEvent, from: &Place, home: &Place) -> Option<Event> {
    let body = &event.record.body;
    if body.result.is_empty() {
        // It is under way; or a full disk left it without an end, which the next start decides.
        return None;
    }
    let (source, name) = named(&body.act)?;
    let resource = |arn: &String| Resource { resource_type: KEY_TYPE, resource_name: arn.clone() };
    let access_key = request_of(&event.record).map(|r| r.access_key.clone());
    Some(Event {
        event_id: event.id.clone(),
        event_name: name.to_owned(),
        read_only: if is_read_only(name) { "true" } else { "false" },
        access_key_id: access_key.filter(|key| !key.is_empty()),
        event_time: Time(second(body.at)),
        event_source: source,
        username: body.caller.as_ref().map(|c| user_of(&c.principal).to_owned()),
        resources: key_of(&event.record, from).into_iter().map(resource).collect(),
        cloud_trail_event: record(event, (source, name), from, home).to_string(),
    })
}

impl AwsOperation for LookupEvents {
    type Output = EventList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<EventList> {
        let service = at.service;
        service.kms.authorizer().ask_own_about("cloudtrail:LookupEvents", "*", &Facts::new(), at.caller)?;
        if let Some(category) = &self.event_category {
            let what = format!("EventCategory {category:?} is not supported: there are management events only");
            return Err(refused(Reason::InvalidEventCategory, what));
        }
        let attribute = Attribute::of(&self.lookup_attributes)?;
        let (filter, limit) = (self.filter(&attribute, service.env.now())?, self.limit()?);
        let invalid =
            || refused(Reason::InvalidNextToken, "NextToken is not that of the page before, of the same request");
        let query = self.query(&at.place);
        let token = self.next_token.as_deref().map(|t| t.strip_suffix(&query).ok_or_else(invalid)).transpose()?;
        let installation = service.kms.installation();
        let home = Place { account: installation.account.clone(), region: installation.region.clone() };
        let test = |record: &AuditRecord| {
            is_seen(record, &at.place, &home)
                && named(&record.body.act).is_some_and(|names| attribute.fits(record, names, &at.place))
        };
        let (mut events, mut next) = (Vec::new(), token.map(str::to_owned));
        for _ in 0..MOST_READS {
            let page = service.ledger().events_if(&filter, &test, next.as_deref(), limit - events.len());
            let page = page.map_err(|e| if e.kind() == Kind::Usage { invalid() } else { e })?;
            events.extend(page.records.iter().filter_map(|found| event(found, &at.place, &home)));
            next = page.next;
            if next.is_none() || events.len() >= limit {
                break;
            }
        }
        Ok(EventList { events, next_token: next.map(|token| token + &query) })
    }
}

#[cfg(test)]
#[path = "trail_tests.rs"]
mod tests;
