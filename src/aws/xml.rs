//! The query protocol's answers, in XML.
//!
//! ```text
//! <XResponse xmlns="…"><XResult>…</XResult><ResponseMetadata><RequestId>…</RequestId></ResponseMetadata></XResponse>
//! <ErrorResponse xmlns="…"><Error><Type>Sender</Type><Code>…</Code><Message>…</Message></Error><RequestId>…</RequestId></ErrorResponse>
//! ```
//! An object's fields become elements, a list's items `member` elements; null fields are left out. Source: Smithy, "AWS query
//! protocol".

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use serde_json::Value;
use std::io::{Error, Result, Write};
use zeroize::Zeroizing;

/// Room for an answer, so that it is rarely copied as it grows: copies are not wiped.
const ROOM: usize = 16 * 1024;

/// Writes the answer of an operation.
///
/// # Errors
/// If the output is not an object, or a field's name is no XML name: an error of the backend.
pub(super) fn success(operation: &str, namespace: &str, id: &str, output: &Value) -> Result<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(ROOM));
    let mut writer = Writer::new(&mut *out);
    let Value::Object(_) = output else { return Err(Error::other("the output is not an object")) };
    element(&mut writer, &format!("{operation}Response"), Some(namespace), |w| {
        element(w, &format!("{operation}Result"), None, |w| content(w, output))?;
        element(w, "ResponseMetadata", None, |w| leaf(w, "RequestId", id))
    })?;
    Ok(out)
}

/// Writes an error.
///
/// # Errors
/// None in practice: it is written to memory.
pub(super) fn failure(namespace: Option<&str>, id: &str, sender: bool, code: &str, message: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    element(&mut writer, "ErrorResponse", namespace, |w| {
        element(w, "Error", None, |w| {
            leaf(w, "Type", if sender { "Sender" } else { "Receiver" })?;
            leaf(w, "Code", code)?;
            leaf(w, "Message", message)
        })?;
        leaf(w, "RequestId", id)
    })?;
    Ok(out)
}

fn element<W: Write>(
    writer: &mut Writer<W>,
    name: &str,
    namespace: Option<&str>,
    inner: impl FnOnce(&mut Writer<W>) -> Result<()>,
) -> Result<()> {
    let mut start = BytesStart::new(name);
    if let Some(namespace) = namespace {
        start.push_attribute(("xmlns", namespace));
    }
    writer.write_event(Event::Start(start))?;
    inner(writer)?;
    writer.write_event(Event::End(BytesEnd::new(name)))
}

fn leaf<W: Write>(writer: &mut Writer<W>, name: &str, value: &str) -> Result<()> {
    element(writer, name, None, |w| text(w, value))
}

/// Writes text, with U+FFFD for characters that XML 1.0 cannot hold (section 2.2).
fn text<W: Write>(writer: &mut Writer<W>, value: &str) -> Result<()> {
    let good = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..);
    if value.chars().all(good) {
        return writer.write_event(Event::Text(BytesText::new(value)));
    }
    let clean: String = value.chars().map(|c| if good(c) { c } else { '\u{FFFD}' }).collect();
    writer.write_event(Event::Text(BytesText::new(&clean)))
}

fn content<W: Write>(writer: &mut Writer<W>, value: &Value) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::Bool(b) => text(writer, if *b { "true" } else { "false" }),
        Value::Number(n) => text(writer, &n.to_string()),
        Value::String(s) => text(writer, s),
        Value::Array(items) => items.iter().try_for_each(|item| element(writer, "member", None, |w| content(w, item))),
        Value::Object(fields) => fields.iter().filter(|(_, value)| !value.is_null()).try_for_each(|(name, value)| {
            if !is_name(name) {
                return Err(Error::other("a field's name is no XML name"));
            }
            element(writer, name, None, |w| content(w, value))
        }),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(output: &Value) -> String {
        String::from_utf8(success("GetX", "urn:x", "r-1", output).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn an_object_becomes_elements() {
        let output = json!({"Arn": "a&<b>", "N": 7, "L": ["x", {"K": true}], "None": null});
        assert_eq!(
            written(&output),
            "<GetXResponse xmlns=\"urn:x\"><GetXResult><Arn>a&amp;&lt;b&gt;</Arn>\
             <L><member>x</member><member><K>true</K></member></L><N>7</N></GetXResult>\
             <ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></GetXResponse>"
        );
        assert!(written(&json!({"A": "b\u{0}c\u{1b}"})).contains("<A>b\u{FFFD}c\u{FFFD}</A>"));
    }

    #[test]
    fn an_error_names_code_and_side() {
        let error = failure(None, "r-1", true, "InvalidAction", "no <Foo>").unwrap();
        assert_eq!(
            String::from_utf8(error).unwrap(),
            "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidAction</Code><Message>no &lt;Foo&gt;</Message></Error>\
             <RequestId>r-1</RequestId></ErrorResponse>"
        );
    }

    #[test]
    fn a_backend_cannot_write_markup_by_a_name() {
        assert!(success("GetX", "urn:x", "r", &json!({"a><b": "c"})).is_err());
        assert!(success("GetX", "urn:x", "r", &json!(["a"])).is_err());
    }
}
