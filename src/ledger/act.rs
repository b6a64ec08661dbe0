//! An act, as the audit records it.

use super::audit::{Body, Identity};
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use crate::error::Error;
use crate::redact;
use std::collections::BTreeMap;

/// Acts that free disk space, or are a step of that: like restrictive acts, they may use the audit's reserve on a full
/// disk.
const FREES_SPACE: [&str; 3] = ["ec2:DeleteVolume", "ec2:DeleteSnapshot", "ec2:SnapshotNotification"];

/// The detail of a record that has what the caller was answered, if the record says more.
pub const ANSWER: &str = "answer";
/// The detail of a record that has AWS's code of that answer.
pub const ANSWER_CODE: &str = "answer-code";

/// An act: its name and what it affects. Holds nothing secret: all of it goes into the audit.
#[derive(Debug, Clone)]
pub struct Act {
    name: String,
    key: Option<String>,
    context: EncryptionContext,
    detail: BTreeMap<String, String>,
    urgent: bool,
}

impl Act {
    /// Makes an act from its name: the service's prefix and the AWS operation, such as `kms:Decrypt` or
    /// `ebs:AttachVolume`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let context = EncryptionContext::new();
        let name = name.into();
        let urgent = FREES_SPACE.contains(&&*name);
        Self { name, key: None, context, detail: BTreeMap::new(), urgent }
    }

    /// Sets the KMS key concerned, by ARN.
    #[must_use]
    pub fn key(mut self, arn: String) -> Self {
        self.key = Some(bounded(&arn));
        self
    }

    /// Sets the encryption context.
    #[must_use]
    pub fn context(mut self, context: &EncryptionContext) -> Self {
        self.context = context.clone();
        self
    }

    /// Adds a detail, such as `volume`.
    #[must_use]
    pub fn detail(mut self, what: &str, value: impl ToString) -> Self {
        self.detail.insert(what.into(), bounded(&value.to_string()));
        self
    }

    /// Adds what the caller is answered if that is less than the record says.
    #[must_use]
    pub fn answered(self, answer: &Error) -> Self {
        self.detail(ANSWER, answer.line()).detail(ANSWER_CODE, answer.aws())
    }

    /// Marks the act as restrictive (disable, revoke, detach, suspend), so that it may use the audit's reserve on a
    /// full disk.
    #[must_use]
    pub const fn restrictive(mut self) -> Self {
        self.urgent = true;
        self
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may use the audit's reserve.
    pub(super) const fn is_urgent(&self) -> bool {
        self.urgent
    }

    pub(super) fn body(&self, at: Timestamp, caller: Option<Identity>) -> Body {
        let mut body = Body::at(at, &self.name);
        body.caller = caller;
        body.key.clone_from(&self.key);
        body.context = self.context.clone();
        body.detail = self.detail.clone();
        body
    }
}

/// Longest text of a record that comes from a request, in bytes: a caller must not fill the disk with refusals.
const LONGEST: usize = 4096;

/// A text as it is recorded: without tokens, cut to a length.
pub(super) fn bounded(text: &str) -> String {
    let mut text = redact::tokens(text).into_owned();
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_says_takes_a_bounded_part_of_a_record() {
        let long = "é".repeat(1_000_000);
        let act = Act::new("kms:ReplicateKey").key(long.clone()).detail("region", &long);
        let body = act.body(Timestamp(0), None);
        assert!(body.key.unwrap().len() < 5000 && body.detail["region"].len() < 5000);
        assert_eq!(bounded("alias/a"), "alias/a");
    }
}
