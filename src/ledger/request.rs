//! The request that an act was asked for with, as its audit record and an event of CloudTrail tell it.

use crate::redact;
use serde::{Deserialize, Serialize};

/// Length limit of [`RequestInfo::parameters`], in bytes: CloudTrail's for `requestParameters`
/// (docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html).
pub const MAX_PARAMETERS: usize = 100 << 10;
/// Length limit of [`RequestInfo::agent`], in bytes: CloudTrail's for `userAgent`.
pub const MAX_AGENT: usize = 1 << 10;
/// Length limit of every other field, in bytes.
pub const MAX_FIELD: usize = 128;

/// Facts about a request over the network. Holds nothing secret. Of bounded length after [`RequestInfo::bounded`],
/// which every record has been through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestInfo {
    /// The request's id, as the answer names it (`x-amzn-RequestId`).
    pub id: String,
    /// IP address that it came from.
    pub source: String,
    /// The client's `User-Agent`.
    pub agent: String,
    /// Region that it was addressed to.
    pub region: String,
    /// Id of the access key that signed it; empty if none did. Not secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access_key: String,
    /// Unique id of the principal that signed it, as CloudTrail's `principalId`: of a user its id, of a role's session the
    /// role's, `:` and the session's name, of the root the account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal_id: String,
    /// Its parameters without secrets, as one canonical JSON object; empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// It changes nothing.
    pub read_only: bool,
}

impl RequestInfo {
    /// Cuts every field to its limit and masks tokens. Parameters that are too long are left out, as CloudTrail does:
    /// cut short, they would not be JSON.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let cut = |text: &str, limit| {
            let text = redact::tokens(text);
            text[..text.floor_char_boundary(limit)].to_owned()
        };
        // A context or a tag may look like a secret: what names something was masked by itself.
        let parameters = redact::export_tokens(&self.parameters);
        Self {
            id: cut(&self.id, MAX_FIELD),
            source: cut(&self.source, MAX_FIELD),
            agent: cut(&self.agent, MAX_AGENT),
            region: cut(&self.region, MAX_FIELD),
            access_key: cut(&self.access_key, MAX_FIELD),
            principal_id: cut(&self.principal_id, MAX_FIELD),
            parameters: if parameters.len() > MAX_PARAMETERS { String::new() } else { parameters.into_owned() },
            read_only: self.read_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_at_a_character_and_parameters_left_out_whole() {
        let long = RequestInfo {
            id: "é".repeat(MAX_FIELD),
            agent: "a".repeat(MAX_AGENT + 1),
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            parameters: "x".repeat(MAX_PARAMETERS + 1),
            read_only: true,
            ..RequestInfo::default()
        };
        let bounded = long.bounded();
        assert_eq!((bounded.id.len(), bounded.agent.len(), bounded.parameters.len()), (MAX_FIELD, MAX_AGENT, 0));
        assert_eq!((bounded.access_key.as_str(), bounded.read_only), ("AKIAIOSFODNN7EXAMPLE", true));
        assert_eq!(bounded.bounded(), bounded);
        let odd = RequestInfo { source: "é".repeat(MAX_FIELD).split_off(2) + "x", ..RequestInfo::default() };
        assert!(odd.bounded().source.chars().all(|c| c == 'é'));
        let token = format!("{{\"token\":\"tok-{}\"}}", "a1".repeat(32));
        let masked = RequestInfo { parameters: token, ..RequestInfo::default() }.bounded().parameters;
        assert_eq!(masked, "{\"token\":\"tok-…\"}");
    }

    #[test]
    fn a_record_from_before_there_were_requests_is_read_and_written_as_it_was() {
        let old = r#"{"principal":"p","via_service":null,"client":"c"}"#;
        let identity: crate::ledger::Identity = serde_json::from_str(old).unwrap();
        assert_eq!(identity.request, None);
        assert_eq!(serde_json::to_string(&identity).unwrap(), old);
        let asked = r#"{"principal":"p","via_service":null,"client":"c","request":{"id":"r","source":"10.0.0.1","agent":"aws-cli/2","region":"eu-west-1","access_key":"AKIA","parameters":"{\"keyId\":\"k\"}","read_only":true}}"#;
        let identity: crate::ledger::Identity = serde_json::from_str(asked).unwrap();
        assert_eq!(identity.request.as_ref().unwrap().parameters, r#"{"keyId":"k"}"#);
        assert_eq!(serde_json::to_string(&identity).unwrap(), asked);
    }
}
