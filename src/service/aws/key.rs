//! Keys.

use super::operation::{At, AwsOperation};
use super::values::{Empty, Tag, Time, cut, invalid, page, tags, word};
use crate::cipher::keys::{
    EncryptionAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm,
};
use crate::error::{Error, Kind, Result};
use crate::kms::policy::{Facts, Key};
use crate::kms::{self, KeyManager, KeyState, NewKey, Origin};
use serde::{Deserialize, Serialize};

/// A Region's key of a multi-Region key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RegionKey {
    arn: String,
    region: String,
}

/// The Regions of a multi-Region key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Regions {
    multi_region_key_type: &'static str,
    primary_key: RegionKey,
    replica_keys: Vec<RegionKey>,
}

/// A key's metadata on the wire.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyMetadata {
    #[serde(rename = "AWSAccountId")]
    account: String,
    key_id: String,
    pub(super) arn: String,
    creation_date: Time,
    enabled: bool,
    description: String,
    key_usage: KeyUsage,
    pub(super) key_state: KeyState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deletion_date: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_to: Option<Time>,
    origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_model: Option<&'static str>,
    key_manager: KeyManager,
    customer_master_key_spec: KeySpec,
    key_spec: KeySpec,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    encryption_algorithms: &'static [EncryptionAlgorithm],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    signing_algorithms: &'static [SigningAlgorithm],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    key_agreement_algorithms: &'static [KeyAgreementAlgorithm],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mac_algorithms: &'static [MacAlgorithm],
    multi_region: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_region_configuration: Option<Regions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pending_deletion_window_in_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_key_material_id: Option<String>,
}

impl From<kms::KeyMetadata> for KeyMetadata {
    fn from(key: kms::KeyMetadata) -> Self {
        let (spec, usage) = (key.key_spec, key.key_usage);
        let rotates = spec == KeySpec::SymmetricDefault;
        let current = key.versions.iter().find(|v| v.current && rotates).map(|v| v.key_material_id.clone());
        let here = key.versions.iter().any(|v| v.is_here) && key.origin == Origin::External;
        let model = if key.valid_to.is_some() { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" };
        let region = |(arn, region)| RegionKey { arn, region };
        Self {
            account: key.account,
            key_id: key.key_id.to_string(),
            arn: key.arn,
            creation_date: Time(key.creation_date),
            enabled: key.enabled,
            description: key.description,
            key_usage: usage,
            key_state: key.key_state,
            deletion_date: key.deletion_date.map(Time),
            valid_to: key.valid_to.map(Time),
            origin: key.origin,
            expiration_model: here.then_some(model),
            key_manager: key.key_manager,
            customer_master_key_spec: spec,
            key_spec: spec,
            encryption_algorithms: spec.encryption_algorithms(usage),
            signing_algorithms: spec.signing_algorithms(usage),
            key_agreement_algorithms: spec.key_agreement_algorithms(usage),
            mac_algorithms: spec.mac_algorithms(usage),
            multi_region: key.regions.is_some(),
            multi_region_configuration: key.regions.map(|r| Regions {
                multi_region_key_type: if r.is_primary { "PRIMARY" } else { "REPLICA" },
                primary_key: region(r.primary),
                replica_keys: r.replicas.into_iter().map(region).collect(),
            }),
            pending_deletion_window_in_days: key.pending_window_in_days,
            current_key_material_id: current,
        }
    }
}

/// An answer that is a key's metadata.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyOutput {
    key_metadata: KeyMetadata,
}

/// [CreateKey](https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateKey.html).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateKey {
    policy: Option<String>,
    #[serde(default)]
    description: String,
    key_usage: Option<String>,
    customer_master_key_spec: Option<String>,
    key_spec: Option<String>,
    origin: Option<String>,
    custom_key_store_id: Option<String>,
    #[serde(default)]
    bypass_policy_lockout_safety_check: bool,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    multi_region: bool,
    xks_key_id: Option<String>,
}

impl AwsOperation for CreateKey {
    type Output = KeyOutput;
    fn perform(self, at: &At<'_>) -> Result<KeyOutput> {
        if self.custom_key_store_id.is_some() || self.xks_key_id.is_some() {
            return Err(Error::new(Kind::Unsupported, "CreateKey: custom key stores are not supported"));
        }
        let spec = match (&self.key_spec, &self.customer_master_key_spec) {
            (Some(_), Some(_)) => {
                let what = "You cannot specify KeySpec and CustomerMasterKeySpec in the same request.";
                return Err(Error::new(Kind::Usage, what));
            }
            (spec, old) => spec.as_deref().or(old.as_deref()),
        };
        let spec = spec.map(|s| word::<KeySpec>(s, "keySpec", KeySpec::NAMES)).transpose()?;
        let usage = self.key_usage.as_deref().map(|u| word::<KeyUsage>(u, "keyUsage", KeyUsage::NAMES)).transpose()?;
        let origin = match self.origin.as_deref() {
            None | Some("AWS_KMS") => Origin::AwsKms,
            Some("EXTERNAL") => Origin::External,
            Some(store @ ("AWS_CLOUDHSM" | "EXTERNAL_KEY_STORE")) => {
                let what = format!("CreateKey: the origin {store} needs a custom key store, which is not supported");
                return Err(Error::new(Kind::Unsupported, what));
            }
            Some(other) => {
                let rule = "Member must satisfy enum value set: [AWS_KMS, EXTERNAL, AWS_CLOUDHSM, EXTERNAL_KEY_STORE]";
                return Err(invalid("origin", other, rule));
            }
        };
        let tags = tags(self.tags)?;
        let facts = Facts::new()
            .text(Key::KeySpec, spec.unwrap_or(KeySpec::SymmetricDefault).name())
            .text(Key::KeyUsage, usage.unwrap_or(KeyUsage::EncryptDecrypt).name())
            .text(Key::KeyOrigin, origin.name())
            .flag(Key::MultiRegion, self.multi_region)
            .flag(Key::BypassPolicyLockoutSafetyCheck, self.bypass_policy_lockout_safety_check)
            .request_tags(tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        at.service.kms.authorizer().ask_own_about("CreateKey", "*", &facts, at.caller)?;
        if !tags.is_empty() {
            at.service.kms.authorizer().ask_own_about("TagResource", "*", &facts, at.caller)?;
        }
        let new = NewKey {
            description: &self.description,
            policy: self.policy.as_deref(),
            bypass_lockout_check: self.bypass_policy_lockout_safety_check,
            alias: None,
            spec,
            usage,
            origin,
            multi_region: self.multi_region,
            tags: Some(&tags),
        };
        Ok(KeyOutput { key_metadata: at.service.kms.keys().create_with(&new, at.caller)?.into() })
    }
}

/// DescribeKey.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DescribeKey {
    key_id: String,
}

impl AwsOperation for DescribeKey {
    type Output = KeyOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<KeyOutput> {
        let key = at.key(&self.key_id)?;
        at.service.kms.authorizer().ask(&key, "DescribeKey", at.caller)?;
        Ok(KeyOutput { key_metadata: at.service.kms.keys().describe(&key)?.into() })
    }
}

/// ListKeys.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListKeys {
    limit: Option<u32>,
    marker: Option<String>,
}

/// A key of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyListEntry {
    key_id: String,
    key_arn: String,
}

/// A page of keys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyList {
    keys: Vec<KeyListEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

impl AwsOperation for ListKeys {
    type Output = KeyList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<KeyList> {
        at.service.kms.authorizer().ask_own("ListKeys", at.caller)?;
        let (limit, after) = page(self.limit, self.marker.as_deref(), 100, 1000)?;
        let found = at.service.kms.keys().page(&at.place, after, limit + 1)?;
        let entry =
            |(id, key_arn): (crate::cipher::wrap::KeyId, String)| KeyListEntry { key_id: id.to_string(), key_arn };
        let mut keys: Vec<_> = found.into_iter().map(entry).collect();
        let next_marker = cut(&mut keys, limit, |k| k.key_id.clone());
        Ok(KeyList { keys, truncated: next_marker.is_some(), next_marker })
    }
}

/// UpdateKeyDescription.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct UpdateKeyDescription {
    key_id: String,
    description: String,
}

impl AwsOperation for UpdateKeyDescription {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.key(&self.key_id)?;
        at.service.kms.keys().update_description(&key, &self.description, at.caller).map(|_| Empty {})
    }
}

/// A request that only names a key.
macro_rules! of_a_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "PascalCase", deny_unknown_fields)]
        pub(super) struct $name {
            pub(super) key_id: String,
        }
    };
}
pub(super) use of_a_key;

of_a_key! {
    /// EnableKey: volumes that wait for the key resume.
    EnableKey
}

impl AwsOperation for EnableKey {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.service.kms.keys().enable(&at.key(&self.key_id)?, at.caller)?;
        at.service.suspensions.resume_under(&key.arn);
        Ok(Empty {})
    }
}

of_a_key! {
    /// DisableKey: volumes under the key are suspended.
    DisableKey
}

impl AwsOperation for DisableKey {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.service.kms.keys().disable(&at.key(&self.key_id)?, at.caller)?;
        at.service.suspensions.suspend_under(&key.arn);
        Ok(Empty {})
    }
}

/// ScheduleKeyDeletion: volumes under the key are suspended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ScheduleKeyDeletion {
    key_id: String,
    pending_window_in_days: Option<u32>,
}

/// The deletion of a key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeletionOutput {
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<Time>,
    key_state: KeyState,
    pending_window_in_days: u32,
}

impl AwsOperation for ScheduleKeyDeletion {
    type Output = DeletionOutput;
    fn perform(self, at: &At<'_>) -> Result<DeletionOutput> {
        let days = self.pending_window_in_days.unwrap_or(30);
        let key = at.service.kms.keys().schedule_deletion(&at.key(&self.key_id)?, days, at.caller)?;
        at.service.suspensions.suspend_under(&key.arn);
        Ok(DeletionOutput {
            key_id: key.arn,
            deletion_date: key.deletion_date.map(Time),
            key_state: key.key_state,
            pending_window_in_days: days,
        })
    }
}

of_a_key! {
    /// CancelKeyDeletion: the key stays disabled.
    CancelKeyDeletion
}

/// An answer that names a key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyNamed {
    pub(super) key_id: String,
}

impl AwsOperation for CancelKeyDeletion {
    type Output = KeyNamed;
    fn perform(self, at: &At<'_>) -> Result<KeyNamed> {
        let key = at.service.kms.keys().cancel_deletion(&at.key(&self.key_id)?, at.caller)?;
        Ok(KeyNamed { key_id: key.arn })
    }
}
