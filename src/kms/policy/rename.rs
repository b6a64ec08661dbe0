//! Gives principals of a policy document another name, and leaves the rest as it is.

use super::document::Json;
use super::parse::MAX_IDENTITY_POLICY;
use serde_json::Value;

/// Replaces the names of principals in the statements of a policy: every name under `Principal` or `NotPrincipal` for which
/// `other` has one. `None`: there is none, or the document is not JSON. The fields keep their order.
///
/// It does not ask whether this build understands the policy: one that it does not understand allows nothing now, but may later.
#[must_use]
pub fn rename(document: &str, other: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut json: Json = serde_json::from_str(document).ok()?;
    if !rename_in(&mut json, other) {
        return None;
    }
    let pretty = json.written(Some(0));
    // Blanks must not make it too long for its kind of policy.
    let fits = pretty.len() <= document.len().max(MAX_IDENTITY_POLICY);
    Some(if fits { pretty } else { json.written(None) })
}

fn rename_in(document: &mut Json, other: &dyn Fn(&str) -> Option<String>) -> bool {
    let mut changed = false;
    for statements in document.fields_mut(&["Statement"]) {
        for statement in statements.each_mut() {
            for principals in statement.fields_mut(&["Principal", "NotPrincipal"]) {
                for names in principals.fields_mut(&["AWS"]) {
                    for name in names.each_mut() {
                        if let Json::Text(name) = name
                            && let Some(new) = other(name)
                        {
                            *name = new;
                            changed = true;
                        }
                    }
                }
            }
        }
    }
    changed
}

impl Json {
    /// The values of the fields with one of these names.
    fn fields_mut<'a>(&'a mut self, names: &'a [&str]) -> impl Iterator<Item = &'a mut Self> {
        let fields = if let Self::Object(fields) = self { &mut fields[..] } else { &mut [] };
        fields.iter_mut().filter(|(name, _)| names.contains(&&**name)).map(|(_, value)| value)
    }

    /// The items of a list, or a single value.
    fn each_mut(&mut self) -> &mut [Self] {
        match self {
            Self::List(items) => items,
            one => std::slice::from_mut(one),
        }
    }

    /// The document, with a line for each item, indented by this much, or without any blanks.
    fn written(&self, indent: Option<usize>) -> String {
        let text = |text: &str| Value::from(text).to_string();
        let within = indent.map(|n| n + 2);
        let space = if indent.is_some() { " " } else { "" };
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.clone(),
            Self::Text(value) => text(value),
            Self::List(items) => lines('[', items.iter().map(|item| item.written(within)), ']', indent),
            Self::Object(fields) => {
                let field = |(name, value): &(String, Self)| format!("{}:{space}{}", text(name), value.written(within));
                lines('{', fields.iter().map(field), '}', indent)
            }
        }
    }
}

fn lines(open: char, items: impl Iterator<Item = String>, close: char, indent: Option<usize>) -> String {
    let items: Vec<String> = items.collect();
    match indent {
        Some(n) if !items.is_empty() => {
            let (line, end) = (format!("\n{}", " ".repeat(n + 2)), format!("\n{}", " ".repeat(n)));
            format!("{open}{line}{}{end}{close}", items.join(&format!(",{line}")))
        }
        _ => format!("{open}{}{close}", items.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;

    const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
    const ID: &str = "AIDACKCEVSQ6C2EXAMPLE";

    fn of_alice(name: &str) -> Option<String> {
        (name == ALICE).then(|| ID.to_owned())
    }

    #[test]
    fn only_principals_get_another_name() {
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"é \"{ALICE}\"","Effect":"Allow","Principal":{{"AWS":["{ALICE}","{ALICE}2"]}},
            "Action":"kms:*","Resource":"*","Condition":{{"StringEquals":{{"aws:PrincipalArn":"{ALICE}"}},"Bool":{{"aws:SecureTransport":true}}}}}},
            {{"Effect":"Deny","NotPrincipal":{{"AWS":"{}"}},"Action":"kms:*","Resource":"*"}}]}}"#,
            ALICE.replace('/', "\\/")
        );
        let renamed = rename(&policy, &of_alice).unwrap();
        let expected: Value = serde_json::from_str(
            &policy.replace(&format!("[\"{ALICE}\""), &format!("[\"{ID}\"")).replace(&ALICE.replace('/', "\\/"), ID),
        )
        .unwrap();
        assert_eq!(serde_json::from_str::<Value>(&renamed).unwrap(), expected);
        assert!(renamed.find("Version") < renamed.find("Statement") && renamed.find("Sid") < renamed.find("Effect"));
        Policy::parse(&renamed).unwrap();
        assert_eq!(rename(&renamed, &of_alice), None, "there is nothing left to rename");
    }

    #[test]
    fn what_names_nobody_stays() {
        for document in ["", "{", "[]", "{}", r#"{"Statement":1}"#, r#"{"Statement":{"Principal":"*"}}"#] {
            assert_eq!(rename(document, &of_alice), None, "{document}");
        }
        let odd = format!(r#"{{"Statement":{{"Principal":{{"AWS":"{ALICE}"}},"New":[null,-1.5,[],{{}}]}}}}"#);
        assert!(rename(&odd, &of_alice).unwrap().contains(ID), "a policy of a newer coffer");
    }

    #[test]
    fn a_policy_does_not_become_too_long() {
        let statement =
            format!(r#"{{"Effect":"Allow","Principal":{{"AWS":"{ALICE}"}},"Action":"kms:Decrypt","Resource":"*"}}"#);
        let many = format!(r#"{{"Statement":[{}]}}"#, vec![statement; 200].join(","));
        assert!(rename(&many, &of_alice).unwrap().len() < many.len());
    }
}
