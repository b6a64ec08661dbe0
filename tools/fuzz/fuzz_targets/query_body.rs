//! Bodies of the query protocol: no panic, and what is decoded is decoded again from its plainest form. Run: `RUSTC_BOOTSTRAP=1
//! cargo fuzz run --fuzz-dir tools/fuzz query_body`.

#![no_main]

#[path = "../../../src/aws/query.rs"]
#[allow(dead_code)]
pub mod query;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Writes a value as parameters, with lists under `member`.
fn flatten(name: &str, value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => out.push(format!("{}={}", escaped(name), escaped(text))),
        Value::Array(items) => {
            assert!(!items.is_empty());
            items.iter().enumerate().for_each(|(i, item)| flatten(&format!("{name}.member.{}", i + 1), item, out));
        }
        Value::Object(fields) => {
            assert!(!fields.is_empty());
            fields.iter().for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, out));
        }
        other => panic!("a form has no {other}"),
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(decoded) = query::decode(input) else { return };
    let mut parameters = Vec::new();
    decoded.iter().for_each(|(name, value)| flatten(name, value, &mut parameters));
    match query::decode(parameters.join("&").as_bytes()) {
        Ok(again) => assert_eq!(again, decoded),
        // `member` may have made a name too long.
        Err(fault) => assert_eq!(fault, query::FormFault::Name),
    }
});
