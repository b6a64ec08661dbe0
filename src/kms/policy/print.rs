//! A policy as a document, formatted for people.

use super::kind::Kind;
use super::{Names, Policy, Principal, Statement, Whom};
use serde_json::{Map, Value};

impl Policy {
    /// The document, formatted for people.
    #[must_use]
    pub fn pretty(&self) -> String {
        // serde_json sorts an object's fields; this uses the customary order.
        let mut out = format!("{{\n  \"Version\": \"{}\",\n", self.version.name());
        if let Some(id) = &self.id {
            out.push_str(&format!("  \"Id\": {},\n", Value::from(id.as_str())));
        }
        out.push_str("  \"Statement\": [\n");
        let statements: Vec<String> = self.statements.iter().map(|s| s.pretty(self.kind)).collect();
        out.push_str(&statements.join(",\n"));
        out.push_str("\n  ]\n}");
        out
    }
}

/// A single value as it is, several as a list.
fn one_or_list(values: &[String]) -> Value {
    match values {
        [one] => Value::from(one.as_str()),
        all => Value::from(all.to_vec()),
    }
}

fn principals_json(principals: &[Principal]) -> Value {
    if principals == [Principal::Everyone] {
        return Value::from("*");
    }
    let (mut aws, mut services) = (Vec::new(), Vec::new());
    for principal in principals {
        match principal {
            Principal::Everyone => aws.push("*".to_owned()),
            Principal::Account(id) => aws.push(format!("arn:aws:iam::{id}:root")),
            Principal::Arn(name) | Principal::Id(name) => aws.push(name.clone()),
            Principal::Service(name) => services.push(name.clone()),
        }
    }
    let all = [("AWS", aws), ("Service", services)];
    let filled = all.iter().filter(|(_, v)| !v.is_empty());
    Value::Object(filled.map(|(k, v)| ((*k).to_owned(), one_or_list(v))).collect())
}

impl Statement {
    fn pretty(&self, kind: Kind) -> String {
        let named = |word: &str, names: &Names| {
            (if names.not { format!("Not{word}") } else { word.to_owned() }, one_or_list(&names.patterns))
        };
        let mut fields = vec![
            ("Effect".to_owned(), Value::from(if self.allow { "Allow" } else { "Deny" })),
            named("Action", &self.actions),
        ];
        match &self.principals {
            Whom::Holder => {}
            Whom::These(all) => fields.insert(1, ("Principal".to_owned(), principals_json(all))),
            Whom::Except(all) => fields.insert(1, ("NotPrincipal".to_owned(), principals_json(all))),
        }
        if kind != Kind::Trust {
            fields.push(named("Resource", &self.resources));
        }
        if let Some(sid) = &self.sid {
            fields.insert(0, ("Sid".to_owned(), Value::from(sid.as_str())));
        }
        if !self.conditions.is_empty() {
            let mut by_operator = Map::new();
            for condition in &self.conditions {
                let keys = by_operator.entry(condition.operator()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(keys) = keys {
                    keys.insert(condition.key().to_owned(), one_or_list(condition.values()));
                }
            }
            fields.push(("Condition".to_owned(), Value::Object(by_operator)));
        }
        let line = |(name, value): &(String, Value)| {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            format!("      \"{name}\": {}", text.replace('\n', "\n      "))
        };
        let lines: Vec<String> = fields.iter().map(line).collect();
        format!("    {{\n{}\n    }}", lines.join(",\n"))
    }
}
