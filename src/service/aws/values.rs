//! Values of AWS's JSON protocol: bytes in base64, times in seconds, and how a request that does not fit is refused.

use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Bytes, in base64 on the wire; wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(Zeroizing<Vec<u8>>);

impl Bytes {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The bytes, if there are 1 to `most`.
    ///
    /// # Errors
    /// [`Kind::Usage`] naming the member.
    pub(super) fn up_to(&self, most: usize, member: &str) -> Result<&[u8]> {
        match self.0.len() {
            0 => Err(bad_length(member, "greater than or equal to 1")),
            n if n > most => Err(bad_length(member, &format!("less than or equal to {most}"))),
            _ => Ok(&self.0),
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        let bytes = STANDARD.decode(&*text).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

/// A time: seconds since 1970 on the wire, with milliseconds behind the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        // Exact: milliseconds fit into the 53 bits of a double.
        s.serialize_f64(self.0.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let seconds = f64::deserialize(d)?;
        let ms = seconds * 1000.0;
        if !(0.0..=1e15).contains(&ms) {
            return Err(serde::de::Error::custom("out of range"));
        }
        Ok(Self(Timestamp(ms as i64)))
    }
}

/// An answer without members.
#[derive(Debug, Serialize)]
pub(super) struct Empty {}

/// A value of another length than a member has, in AWS's form, which does not show it.
fn bad_length(member: &str, rule: &str) -> Error {
    let what = format!(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must have length {rule}"
    );
    Error::new(Kind::Usage, what)
}

/// A value that violates a rule of a member, in AWS's form.
pub(super) fn invalid(member: &str, value: &str, rule: &str) -> Error {
    let what =
        format!("1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {rule}");
    Error::new(Kind::Usage, what)
}

/// A member that a request does not have, or that is null, in AWS's form.
pub(super) fn missing(member: &str) -> Error {
    let what = format!(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must not be null"
    );
    Error::new(Kind::Usage, what)
}

/// A member's name with a small first letter, as AWS's errors name it.
fn in_lower(member: &str) -> String {
    let mut letters = member.chars();
    letters.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// A place in a request as AWS's errors name it: `tags.1.member.tagKey`.
fn place(path: &Path) -> Vec<String> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("{}.member", index + 1),
        other => in_lower(&other.to_string()),
    };
    path.iter().map(step).collect()
}

/// Parses a request.
///
/// # Errors
/// [`Kind::Usage`] (ValidationException) for a member that is unknown, missing, or of the wrong type.
pub(super) fn parse<O: DeserializeOwned>(input: Value) -> Result<O> {
    serde_path_to_error::deserialize(input).map_err(|e| {
        let (why, mut at) = (e.inner().to_string(), place(e.path()));
        // How serde says that a member is not there.
        if let Some(member) = why.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            at.push(in_lower(member));
            return missing(&at.join("."));
        }
        if why.starts_with("invalid type: null") && !at.is_empty() {
            return missing(&at.join("."));
        }
        let path = e.path().to_string();
        let at = if path == "." { String::new() } else { format!(" at '{path}'") };
        Error::new(Kind::Usage, format!("1 validation error detected{at}: {}", without_value(&why)))
    })
}

/// Takes a member out of a request, and parses it.
///
/// # Errors
/// As [`parse`].
pub(super) fn take<T: DeserializeOwned>(input: &mut Value, member: &str) -> Result<Option<T>> {
    let Some(value) = input.as_object_mut().and_then(|members| members.remove(member)) else { return Ok(None) };
    // With its name, which an error then tells.
    let named = Value::from_iter([(member, value)]);
    Ok(parse::<BTreeMap<String, T>>(named)?.remove(member))
}

/// What serde says of a value of the wrong type, without the value: it may be a secret in the wrong member.
fn without_value(why: &str) -> String {
    let wrong = ["invalid type: ", "invalid value: "].into_iter().find(|start| why.starts_with(start));
    match (wrong, why.rsplit_once(", expected ")) {
        (Some(start), Some((_, wanted))) => format!("{start}expected {wanted}"),
        _ => why.to_owned(),
    }
}

/// A word of a set of words.
///
/// # Errors
/// [`Kind::Usage`] (ValidationException) with the set, in AWS's form.
pub(super) fn word<T: std::str::FromStr>(text: &str, member: &str, all: &[&str]) -> Result<T> {
    text.parse()
        .map_err(|_| invalid(member, text, &format!("Member must satisfy enum value set: [{}]", all.join(", "))))
}

/// A page of a list: how many, and after what.
///
/// # Errors
/// [`Kind::Usage`] for a limit outside of 1 to `most`; [`Reason::InvalidMarker`] for a marker that is not one.
pub(super) fn page(
    limit: Option<u32>,
    marker: Option<&str>,
    default: usize,
    most: usize,
) -> Result<(usize, Option<&str>)> {
    let limit = match limit {
        None => default,
        Some(n) if (1..=most).contains(&(n as usize)) => n as usize,
        Some(n) => {
            let end =
                if n == 0 { "greater than or equal to 1".into() } else { format!("less than or equal to {most}") };
            return Err(invalid("limit", &n.to_string(), &format!("Member must have value {end}")));
        }
    };
    let good = |m: &str| m.len() <= 320 && m.bytes().all(|b| b.is_ascii_graphic());
    match marker {
        Some(m) if m.is_empty() || !good(m) => {
            Err(Error::new(Kind::Usage, "the marker is not one that a list returned").reason(Reason::InvalidMarker))
        }
        marker => Ok((limit, marker)),
    }
}

/// Cuts a list that was read with one item more than the page has. Returns the marker of the next page.
pub(super) fn cut<T>(items: &mut Vec<T>, limit: usize, marker: impl Fn(&T) -> String) -> Option<String> {
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    items.last().map(marker)
}

/// A tag of a request.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Tag {
    pub(super) tag_key: String,
    pub(super) tag_value: String,
}

/// Tags by their names.
///
/// # Errors
/// [`Reason::Tag`] for a name that comes twice.
pub(super) fn tags(list: Vec<Tag>) -> Result<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for Tag { tag_key, tag_value } in list {
        if tags.insert(tag_key.clone(), tag_value).is_some() {
            return Err(Error::new(Kind::Usage, format!("the tag {tag_key:?} comes twice")).reason(Reason::Tag));
        }
    }
    Ok(tags)
}

pub(super) fn tag_list(tags: BTreeMap<String, String>) -> Vec<Tag> {
    tags.into_iter().map(|(tag_key, tag_value)| Tag { tag_key, tag_value }).collect()
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
