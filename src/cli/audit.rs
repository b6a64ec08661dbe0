//! The audit log as a table: one row for each action, with its outcome. `--json` shows the records themselves.

use super::render::{or_dash, table};
use crate::env::Timestamp;
use crate::service::api::EventInfo;
use serde_json::Value;
use std::collections::HashMap;

/// Details that name the object of an action, the most specific first.
const NAMES: [&str; 7] = ["snapshot", "volume", "alias", "grant", "attachment", "name", "installation"];

/// Parses a time of a filter.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let at = text.parse::<jiff::Timestamp>().map_err(|_| "not a time: use the form 2026-03-01T12:00:00Z".to_owned())?;
    Ok(Timestamp(at.as_millisecond()))
}

pub(super) fn list(events: &[EventInfo]) {
    table(&["no", "time", "principal", "action", "resource", "outcome"], rows(events));
}

fn rows(events: &[EventInfo]) -> Vec<Vec<String>> {
    let intent_of = |e: &EventInfo| e.record["intent"].as_u64();
    let ends: HashMap<u64, &EventInfo> = events.iter().filter_map(|e| Some((intent_of(e)?, e))).collect();
    let acts: HashMap<u64, &EventInfo> = events.iter().map(|e| (e.sequence, e)).collect();
    // An outcome whose intent is not listed has a row of its own.
    let shown = events.iter().filter(|e| intent_of(e).is_none_or(|n| !acts.contains_key(&n)));
    shown.map(|e| row(e, ends.get(&e.sequence).copied())).collect()
}

fn row(event: &EventInfo, end: Option<&EventInfo>) -> Vec<String> {
    let record = &event.record;
    let named = NAMES.iter().find_map(|name| text(&record["detail"][*name]));
    let key = || text(&record["key"]).map(|arn| arn.rsplit(':').next().unwrap_or_default().to_owned());
    let act = text(&record["act"]).or_else(|| record["intent"].as_u64().map(|n| format!("(outcome of record {n})")));
    vec![
        event.sequence.to_string(),
        or_dash(record["at"].as_i64().map(Timestamp).as_ref()),
        or_dash(text(&record["caller"]["principal"]).as_ref()),
        or_dash(act.as_ref()),
        or_dash(named.or_else(key).as_ref()),
        outcome(end.map_or(record, |e| &e.record)),
    ]
}

fn outcome(record: &Value) -> String {
    let result = match (text(&record["result"]), record["kind"].as_str()) {
        (Some(result), _) => result,
        (None, Some("intent")) => "no outcome yet".to_owned(),
        (None, _) => "-".to_owned(),
    };
    text(&record["error"]).map_or(result.clone(), |why| format!("{result}: {why}"))
}

/// A string of a record. Some of them come from clients: control characters never reach the terminal.
fn text(value: &Value) -> Option<String> {
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    value.as_str().filter(|text| !text.is_empty()).map(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The number is that of date(1).
    #[test]
    fn times_are_those_of_rfc_3339() {
        assert_eq!(time("2026-03-01T12:00:00Z"), Ok(Timestamp(1_772_366_400_000)));
        assert_eq!(time("2026-03-01T13:00:00.5+01:00"), Ok(Timestamp(1_772_366_400_500)));
        assert!(time("yesterday").is_err());
    }

    fn event(sequence: u64, record: Value) -> EventInfo {
        EventInfo { sequence, record }
    }

    #[test]
    fn an_action_and_its_outcome_are_one_row_without_control_characters() {
        let caller = json!({ "principal": "arn:aws:iam::1:root" });
        let key = "arn:aws:kms:us-east-1:1:key/k";
        let act = |kind: &str, act: &str| json!({ "at": 0, "kind": kind, "act": act, "caller": caller, "key": key });
        let mut refused = act("event", "kms:Decrypt");
        (refused["result"], refused["error"]) = (json!("refused"), json!("no\u{1b}[2J\nmore"));
        let mut volume = act("intent", "ec2:CreateVolume");
        volume["detail"] = json!({ "size": "1", "volume": "vol-1" });
        let rows = rows(&[
            event(4, json!({ "at": 0, "kind": "outcome", "intent": 3, "result": "ok" })),
            event(5, volume),
            event(6, refused),
            event(7, json!({ "at": 0, "kind": "outcome", "intent": 5, "result": "failed", "error": "full" })),
            event(8, act("intent", "kms:DisableKey")),
        ]);
        let at = "1970-01-01T00:00:00Z";
        let who = "arn:aws:iam::1:root";
        assert_eq!(
            rows,
            [
                ["4", at, "-", "(outcome of record 3)", "-", "ok"],
                ["5", at, who, "ec2:CreateVolume", "vol-1", "failed: full"],
                ["6", at, who, "kms:Decrypt", "key/k", "refused: no?[2J?more"],
                ["8", at, who, "kms:DisableKey", "key/k", "no outcome yet"],
            ]
        );
    }
}
