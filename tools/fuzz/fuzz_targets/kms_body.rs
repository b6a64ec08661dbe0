//! Bodies of AWS's JSON operations: no body is a panic, whether it fits is the same each time, and what is said of one that
//! does not fit quotes no value of it, for a secret may be in the wrong member. The first byte of an input chooses the
//! operation. Run: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tools/fuzz kms_body`.

#![no_main]

use coffer::service::aws::OPERATIONS;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Strings that are long enough to be a secret.
fn values<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if text.len() >= 12 => out.push(text),
        Value::Array(items) => items.iter().for_each(|item| values(item, out)),
        Value::Object(fields) => fields.values().for_each(|field| values(field, out)),
        _ => {}
    }
}

/// All names of members, which an error may quote.
fn names<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| names(item, out)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            out.push(name);
            names(field, out);
        }),
        _ => {}
    }
}

/// A value that no message has by itself.
const MARK: &str = "zqxj-7-mark";

/// Replaces a value wherever it is.
fn replace(of: &mut Value, from: &str, to: &str) {
    match of {
        Value::String(text) if text == from => to.clone_into(text),
        Value::Array(all) => all.iter_mut().for_each(|one| replace(one, from, to)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, from, to)),
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((operation, body)) = input.split_first() else { return };
    let entry = &OPERATIONS[usize::from(*operation) % OPERATIONS.len()];
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    let first = entry.parses(body.clone());
    let Err(err) = first else {
        assert!(entry.parses(body).is_ok());
        return;
    };
    let said = err.line();
    assert_eq!(entry.parses(body.clone()).unwrap_err().line(), said);
    let (mut secret, mut public) = (Vec::new(), Vec::new());
    values(&body, &mut secret);
    names(&body, &mut public);
    // What an operation's own words have, such as the names of its members.
    let own = entry.parses(Value::Object(Default::default())).map_or_else(|e| e.line(), |()| String::new());
    for value in secret {
        let known = own.contains(value) || public.iter().any(|name| name.contains(value));
        if known || !said.contains(value) {
            continue;
        }
        // It may be a word of the message itself: then another value in its place is not in there.
        let mut other = body.clone();
        replace(&mut other, value, MARK);
        let said = entry.parses(other).map_or_else(|e| e.line(), |()| String::new());
        assert!(!said.contains(MARK), "{}: {said}", entry.name);
    }
});
