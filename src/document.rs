//! A JSON value that may hold secrets, such as the plaintext of a data key.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroize;

/// A JSON value whose strings are wiped when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Document(Value);

impl Document {
    /// Takes a value.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// Returns the value, which is then not wiped any more.
    #[must_use]
    pub fn into_inner(mut self) -> Value {
        self.0.take()
    }
}

impl std::ops::Deref for Document {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Document(redacted)")
    }
}

/// Wipes all strings of a value but the names.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_wiped_and_not_shown() {
        let mut value = json!({"Plaintext": "c2VjcmV0", "List": ["x", {"Deep": "y"}], "N": 1});
        wipe(&mut value);
        assert_eq!(value, json!({"Plaintext": "", "List": ["", {"Deep": ""}], "N": 1}));
        assert!(!format!("{:?}", Document::new(json!({"Plaintext": "c2VjcmV0"}))).contains("c2V"));
        assert_eq!(Document::new(json!({"a": "b"})).into_inner(), json!({"a": "b"}));
    }
}
