//! The query protocol's parameters: a form whose names are paths.
//!
//! `PolicyArns.member.1.arn=a&PolicyArns.member.2.arn=b` is `{"PolicyArns": [{"arn": "a"}, {"arn": "b"}]}`. Numbers make a list, in
//! their order; `member` above them is left out. Every scalar is a string. Source: Smithy, "AWS query protocol". Uses nothing of
//! coffer, so that it can be fuzzed alone.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Most parameters of a request.
const MOST: usize = 2048;
/// Most parts of a parameter's name.
const DEEPEST: usize = 16;

/// Why a form is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormFault {
    /// Not UTF-8 once decoded.
    NotText,
    /// More than 2048 parameters.
    TooMany,
    /// A name is empty, has an empty part, or more than 16 parts.
    Name,
    /// A parameter is given twice, or both as a value and as a structure.
    Twice,
}

/// Decodes a form into a JSON object.
///
/// # Errors
/// A [`FormFault`].
pub fn decode(body: &[u8]) -> Result<Map<String, Value>, FormFault> {
    let mut root = Node::default();
    let pairs = body.split(|b| *b == b'&').filter(|pair| !pair.is_empty());
    for (count, pair) in pairs.enumerate() {
        if count == MOST {
            return Err(FormFault::TooMany);
        }
        let at = pair.iter().position(|b| *b == b'=');
        let (name, value) = at.map_or((pair, &pair[pair.len()..]), |at| (&pair[..at], &pair[at + 1..]));
        root.put(&text(name)?, text(value)?)?;
    }
    Ok(root.fields.into_iter().map(|(name, node)| (name, node.into_value())).collect())
}

/// Decodes a name or a value (WHATWG URL, section 5.1), but accepts only UTF-8.
fn text(raw: &[u8]) -> Result<String, FormFault> {
    let spaced: Vec<u8> = raw.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    let decoded = percent_encoding::percent_decode(&spaced).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| FormFault::NotText)
}

/// A value, or a structure of more.
#[derive(Default)]
struct Node {
    value: Option<String>,
    fields: BTreeMap<String, Self>,
}

impl Node {
    fn put(&mut self, name: &str, value: String) -> Result<(), FormFault> {
        let mut node = self;
        for (depth, part) in name.split('.').enumerate() {
            if part.is_empty() || depth == DEEPEST {
                return Err(FormFault::Name);
            }
            if node.value.is_some() {
                return Err(FormFault::Twice);
            }
            node = node.fields.entry(part.to_owned()).or_default();
        }
        if node.value.is_some() || !node.fields.is_empty() {
            return Err(FormFault::Twice);
        }
        node.value = Some(value);
        Ok(())
    }

    fn into_value(mut self) -> Value {
        if let Some(value) = self.value {
            return Value::String(value);
        }
        if self.fields.len() == 1
            && let Some(member) = self.fields.remove("member")
        {
            if member.indices().is_some() {
                return member.into_value();
            }
            self.fields.insert("member".to_owned(), member);
        }
        match self.indices() {
            Some(mut indices) => {
                indices.sort_unstable();
                let item = |index: &u32| self.fields.remove(&index.to_string()).map_or(Value::Null, Self::into_value);
                Value::Array(indices.iter().map(item).collect())
            }
            None => Value::Object(self.fields.into_iter().map(|(name, node)| (name, node.into_value())).collect()),
        }
    }

    /// Returns the numbers that all its fields are, unless one is something else.
    fn indices(&self) -> Option<Vec<u32>> {
        let number = |name: &String| name.parse().ok().filter(|n: &u32| *n > 0 && n.to_string() == *name);
        let all: Option<Vec<u32>> = self.fields.keys().map(number).collect();
        all.filter(|all| !all.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decoded(body: &str) -> Value {
        Value::Object(decode(body.as_bytes()).unwrap())
    }

    /// The bodies are botocore's, of sts.assume_role and sts.get_caller_identity.
    #[test]
    fn forms_become_objects() {
        let assume = "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fx&RoleSessionName=s\
                      &PolicyArns.member.1.arn=a&PolicyArns.member.2.arn=b+c&DurationSeconds=900&Tags.member.1.Key=k\
                      &Tags.member.1.Value=%C3%A4";
        assert_eq!(
            decoded(assume),
            json!({
                "Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": "arn:aws:iam::111122223333:role/x",
                "RoleSessionName": "s", "PolicyArns": [{"arn": "a"}, {"arn": "b c"}], "DurationSeconds": "900",
                "Tags": [{"Key": "k", "Value": "ä"}],
            })
        );
        assert_eq!(decoded(""), json!({}));
        assert_eq!(decoded("A&B=&C=="), json!({"A": "", "B": "", "C": "="}));
    }

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        assert_eq!(decoded("L.member.10=c&L.member.2=b&L.member.1=a"), json!({"L": ["a", "b", "c"]}));
        assert_eq!(decoded("F.1.Name=n&F.1.Value.1=v"), json!({"F": [{"Name": "n", "Value": ["v"]}]}));
        // Neither is a list.
        assert_eq!(decoded("L.member.01=a"), json!({"L": {"member": {"01": "a"}}}));
        assert_eq!(decoded("L.0=a&M.1=b&M.x=c"), json!({"L": {"0": "a"}, "M": {"1": "b", "x": "c"}}));
        // A large number takes no room.
        assert_eq!(decoded("L.member.4294967295=a"), json!({"L": ["a"]}));
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (body, fault) in [
            ("A=1&A=2", FormFault::Twice),
            ("A=1&A.b=2", FormFault::Twice),
            ("A.b=2&A=1", FormFault::Twice),
            ("A=%FF", FormFault::NotText),
            ("A..b=1", FormFault::Name),
            ("=1", FormFault::Name),
            (".A=1", FormFault::Name),
        ] {
            assert_eq!(decode(body.as_bytes()), Err(fault), "{body}");
        }
        assert_eq!(decode(format!("{}a=1", "a.".repeat(16)).as_bytes()), Err(FormFault::Name));
        let many: String = (0..=MOST).map(|i| format!("p{i}=&")).collect();
        assert_eq!(decode(many.as_bytes()), Err(FormFault::TooMany));
    }
}
