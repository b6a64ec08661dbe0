//! The Security Token Service: who one is, and temporary credentials. Parameters are strings, as its query protocol has
//! them.

use super::operation::{At, AwsOperation};
use super::values::{Time, invalid};
use crate::error::{Error, Kind, Result};
use crate::iam::{self, Principal, SessionCredentials};
use crate::kms::Authority;
use crate::kms::policy::Policy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The principal whose access key signed the request.
fn signer<'a>(at: &'a At<'_>) -> Result<&'a Principal> {
    match &at.caller.authority {
        Authority::Principal(permissions) => Ok(&permissions.signer),
        _ => Err(Error::new(Kind::AccessDenied, "this operation needs a request that an access key signed")),
    }
}

/// GetCallerIdentity.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetCallerIdentity {}

/// Who one is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IdentityOutput {
    user_id: String,
    account: String,
    arn: String,
}

impl AwsOperation for GetCallerIdentity {
    type Output = IdentityOutput;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<IdentityOutput> {
        let iam::CallerIdentity { user_id, account, arn } = at.service.kms.iam().get_caller_identity(signer(at)?);
        Ok(IdentityOutput { user_id, account, arn })
    }
}

/// Temporary credentials.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: IsoTime,
}

/// A time as the query protocol writes it: ISO 8601, to the second.
#[derive(Debug)]
struct IsoTime(Time);

impl Serialize for IsoTime {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        let seconds = self.0.0.0.div_euclid(1000);
        match jiff::Timestamp::from_second(seconds) {
            Ok(at) => s.collect_str(&at),
            Err(_) => s.serialize_i64(seconds),
        }
    }
}

impl From<SessionCredentials> for Credentials {
    fn from(made: SessionCredentials) -> Self {
        Self {
            access_key_id: made.access_key_id,
            secret_access_key: made.secret.as_str().to_owned(),
            session_token: made.token,
            expiration: IsoTime(Time(made.expires)),
        }
    }
}

fn seconds(text: Option<&str>) -> Result<Option<u32>> {
    let bad = |text: &str| invalid("durationSeconds", text, "Member must be a number of seconds");
    text.map(|t| t.parse().map_err(|_| bad(t))).transpose()
}

/// A tag of a session.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct SessionTag {
    key: String,
    value: String,
}

/// AssumeRole.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct AssumeRole {
    role_arn: String,
    role_session_name: String,
    policy: Option<String>,
    duration_seconds: Option<String>,
    #[serde(default, deserialize_with = "list")]
    tags: Vec<SessionTag>,
    #[serde(default, deserialize_with = "list")]
    transitive_tag_keys: Vec<String>,
    external_id: Option<String>,
    source_identity: Option<String>,
    serial_number: Option<String>,
    token_code: Option<String>,
    #[serde(default, deserialize_with = "list")]
    policy_arns: Vec<serde_json::Value>,
}

/// A list of the query protocol: an empty one is an empty string there.
fn list<'de, D: serde::Deserializer<'de>, T: serde::de::DeserializeOwned>(
    d: D,
) -> std::result::Result<Vec<T>, D::Error> {
    match serde_json::Value::deserialize(d)? {
        serde_json::Value::String(none) if none.is_empty() => Ok(Vec::new()),
        value => serde_json::from_value(value).map_err(serde::de::Error::custom),
    }
}

/// A session of a role.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AssumedRoleUser {
    assumed_role_id: String,
    arn: String,
}

/// A session of a role and its credentials.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AssumeRoleOutput {
    credentials: Credentials,
    assumed_role_user: AssumedRoleUser,
    packed_policy_size: u32,
}

impl AssumeRole {
    /// Refuses what would limit or prove more than coffer can check.
    fn refuse_unsupported(&self) -> Result<()> {
        let given = [
            ("PolicyArns", !self.policy_arns.is_empty()),
            ("SourceIdentity", self.source_identity.is_some()),
            ("SerialNumber", self.serial_number.is_some()),
            ("TokenCode", self.token_code.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                Err(Error::new(Kind::Unsupported, format!("AssumeRole: the parameter {name} is not supported")))
            }
            None => Ok(()),
        }
    }
}

impl AwsOperation for AssumeRole {
    type Output = AssumeRoleOutput;
    fn perform(self, at: &At<'_>) -> Result<AssumeRoleOutput> {
        self.refuse_unsupported()?;
        let kms = &at.service.kms;
        let mut tags = BTreeMap::new();
        for SessionTag { key, value } in self.tags {
            if tags.insert(key.clone(), value).is_some() {
                return Err(Error::new(Kind::Usage, format!("AssumeRole: the tag {key:?} comes twice")));
            }
        }
        let request = iam::AssumeRole {
            role_arn: self.role_arn,
            session_name: self.role_session_name,
            duration_seconds: seconds(self.duration_seconds.as_deref())?,
            policy: self.policy,
            tags,
            transitive: self.transitive_tag_keys.into_iter().collect(),
            external_id: self.external_id,
        };
        let region = &kms.installation().region;
        let check = |text: &str| Policy::parse_identity(text)?.check_identity(region);
        let allow = |role: &iam::Role| kms.authorizer().may_assume(role, &request, at.caller);
        let made = kms.iam().assume_role(&request, signer(at)?, &check, &allow, at.caller)?;
        Ok(AssumeRoleOutput {
            credentials: made.credentials.into(),
            assumed_role_user: AssumedRoleUser { assumed_role_id: made.id, arn: made.arn },
            packed_policy_size: made.packed_percent,
        })
    }
}

/// GetSessionToken.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetSessionToken {
    duration_seconds: Option<String>,
    serial_number: Option<String>,
    token_code: Option<String>,
}

/// A session of a user.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SessionOutput {
    credentials: Credentials,
}

impl AwsOperation for GetSessionToken {
    type Output = SessionOutput;
    fn perform(self, at: &At<'_>) -> Result<SessionOutput> {
        if self.serial_number.is_some() || self.token_code.is_some() {
            let what = "GetSessionToken: SerialNumber and TokenCode (multi-factor authentication) are not supported";
            return Err(Error::new(Kind::Unsupported, what));
        }
        let duration = seconds(self.duration_seconds.as_deref())?;
        let made = at.service.kms.iam().get_session_token(signer(at)?, duration, at.caller)?;
        Ok(SessionOutput { credentials: made.into() })
    }
}
