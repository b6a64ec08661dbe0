//! A policy document as JSON, before its meaning is known; and what is wrong with a document.

use super::kind::Kind;
use crate::error::{self, Error, Reason};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What is wrong with a document, and where.
pub(super) struct Flaw(String);

pub(super) fn malformed(at: &str, why: impl fmt::Display) -> Flaw {
    Flaw(format!("{at}: {why}"))
}

impl Flaw {
    /// MalformedPolicyDocumentException, for a policy of that kind.
    pub(super) fn of(self, kind: Kind) -> Error {
        let name = kind.name();
        Error::new(error::Kind::Usage, format!("{name}: {}", self.0)).reason(Reason::MalformedPolicy).hint(format!(
            "see docs/kms.md for what {} may contain",
            if kind == Kind::Identity { format!("an {name}") } else { format!("a {name}") }
        ))
    }
}

/// A part of a document, unless it has a flaw.
pub(super) type Read<T> = Result<T, Flaw>;

/// JSON whose objects keep the order of their fields; a repeated field is an error.
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut fields: Vec<(String, Json)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if fields.iter().any(|(n, _)| *n == name) {
                        return Err(serde::de::Error::custom(format!("the field {name:?} is repeated")));
                    }
                    fields.push((name, value));
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

pub(super) fn object(json: Json, at: &str) -> Read<Vec<(String, Json)>> {
    match json {
        Json::Object(fields) => Ok(fields),
        other => Err(malformed(at, format!("must be an object, not {}", other.kind()))),
    }
}

pub(super) fn text(json: Json, at: &str) -> Read<String> {
    match json {
        Json::Text(text) => Ok(text),
        other => Err(malformed(at, format!("must be a string, not {}", other.kind()))),
    }
}

/// A string, or a non-empty list of strings.
pub(super) fn texts(json: Json, at: &str) -> Read<Vec<String>> {
    match json {
        Json::List(list) if list.is_empty() => Err(malformed(at, "the list is empty")),
        Json::List(list) => list.into_iter().enumerate().map(|(i, t)| text(t, &format!("{at}[{i}]"))).collect(),
        one => Ok(vec![text(one, at)?]),
    }
}

/// Values of a condition: strings, and numbers and booleans as strings.
pub(super) fn values(json: Json, at: &str) -> Read<Vec<String>> {
    let one = |json: Json, at: &str| match json {
        Json::Bool(value) => Ok(value.to_string()),
        Json::Number(value) => Ok(value),
        other => text(other, at),
    };
    match json {
        Json::List(list) if list.is_empty() => Err(malformed(at, "the list is empty")),
        Json::List(list) => list.into_iter().enumerate().map(|(i, v)| one(v, &format!("{at}[{i}]"))).collect(),
        single => Ok(vec![one(single, at)?]),
    }
}
