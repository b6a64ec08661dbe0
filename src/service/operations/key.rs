//! Operations on CMKs and their aliases.

use super::{Authorization, Call, Done, Operation, cut, on_key};
use crate::error::Result;
use crate::kms::NewKey;
use crate::kms::alias::AliasMetadata;
use crate::ledger::Act;
use crate::service::api::{AliasInfo, KeyInfo, RewrapInfo};
use serde::{Deserialize, Serialize};

/// Creates a customer managed CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// An alias for it, as `alias/…`.
    pub alias: Option<String>,
    /// Free text for people.
    pub description: String,
    /// Its key policy. `None`: AWS's default key policy.
    #[serde(default)]
    pub policy: Option<String>,
    /// Accepts a policy under which the caller could not replace it.
    #[serde(default)]
    pub bypass_lockout_check: bool,
}

impl Operation for CreateKey {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("kms:CreateKey"))
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        let Self { alias, description, policy, bypass_lockout_check } = self;
        let (policy, alias) = (policy.as_deref(), alias.as_deref());
        let new = NewKey { description: &description, policy, bypass_lockout_check, alias, ..NewKey::default() };
        call.service.key_info(call.service.kms.keys().create_with(&new, call.caller)?)
    }
}

/// Lists the CMKs, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListKeys {}

impl Operation for ListKeys {
    type Answer = Vec<KeyInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("kms:ListKeys"))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<KeyInfo>> {
        let listing = call.service.kms.keys().list()?;
        for bad in &listing.damaged {
            tracing::error!("{} {} is damaged and unavailable", bad.kind, bad.id);
        }
        let mut keys = listing.keys.into_iter().map(|m| call.service.key_info(m)).collect::<Result<Vec<_>>>()?;
        keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(keys)
    }
}

/// Describes one CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeKey {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for DescribeKey {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "DescribeKey", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        let (kms, key) = (&call.service.kms, call.key(&self.key)?);
        kms.authorizer().ask(&key, "DescribeKey", call.caller)?;
        call.service.key_info(kms.keys().describe(&key)?)
    }
}

/// Enables a CMK. Volumes that wait for it are resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnableKey {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for EnableKey {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "EnableKey", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        let meta = call.service.kms.keys().enable(&call.key(&self.key)?, call.caller)?;
        call.service.suspensions.resume_under(&meta.arn);
        call.service.key_info(meta)
    }
}

/// Disables a CMK. Volumes under it are suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisableKey {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for DisableKey {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "DisableKey", &self.key).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        let meta = call.service.kms.keys().disable(&call.key(&self.key)?, call.caller)?;
        call.service.without_key(meta)
    }
}

/// Gives a CMK a new backing key. The old ones are kept for decryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKeyOnDemand {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for RotateKeyOnDemand {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "RotateKeyOnDemand", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        call.service.key_info(call.service.kms.rotations().on_demand(&call.key(&self.key)?, call.caller)?)
    }
}

/// Wraps data keys of volumes and snapshots again, under the newest backing key of their CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewrapKeys {
    /// Id, ARN or alias of the CMK; `None`: of all.
    #[serde(default)]
    pub key: Option<String>,
    /// Whether to change nothing, and only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

impl Operation for RewrapKeys {
    type Answer = RewrapInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(self.key.as_ref().map_or_else(|| Act::new("kms:ReEncrypt"), |key| on_key(call, "ReEncrypt", key)))
    }
    fn perform(self, call: Call<'_>) -> Result<RewrapInfo> {
        let key = self.key.as_deref().map(|key| call.key(key)).transpose()?;
        call.service.rewrap_keys(call.caller, key.as_ref(), self.dry_run, call.report)
    }
}

/// Disables a CMK, and deletes it after a waiting period. Volumes under it are suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleKeyDeletion {
    /// Id, ARN or alias of the CMK.
    pub key: String,
    /// The waiting period, 7 to 30 days.
    pub days: u32,
}

impl Operation for ScheduleKeyDeletion {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "ScheduleKeyDeletion", &self.key).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        let meta = call.service.kms.keys().schedule_deletion(&call.key(&self.key)?, self.days, call.caller)?;
        let dependents = Some(call.service.dependents(&meta.arn)?);
        Ok(KeyInfo { dependents, ..call.service.without_key(meta)? })
    }
}

/// Cancels a scheduled deletion. The CMK stays disabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelKeyDeletion {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for CancelKeyDeletion {
    type Answer = KeyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "CancelKeyDeletion", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<KeyInfo> {
        call.service.key_info(call.service.kms.keys().cancel_deletion(&call.key(&self.key)?, call.caller)?)
    }
}

/// Creates an alias for a CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAlias {
    /// The alias, as `alias/…`.
    pub alias: String,
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for CreateAlias {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "CreateAlias", &self.key).detail("alias", cut(&self.alias)))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.kms.aliases().create(&self.alias, &call.key(&self.key)?, call.caller)?;
        Ok(Done(format!("{} now refers to key {}", self.alias, self.key)))
    }
}

/// Points an alias at another CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateAlias {
    /// The alias, as `alias/…`.
    pub alias: String,
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for UpdateAlias {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "UpdateAlias", &self.key).detail("alias", cut(&self.alias)))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.kms.aliases().update(&self.alias, &call.key(&self.key)?, call.caller)?;
        Ok(Done(format!("{} now refers to key {}", self.alias, self.key)))
    }
}

/// Deletes an alias. The CMK that it points at is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteAlias {
    /// The alias, as `alias/…`.
    pub alias: String,
}

impl Operation for DeleteAlias {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("kms:DeleteAlias").detail("alias", cut(&self.alias)))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.kms.aliases().delete(&self.alias, call.caller)?;
        Ok(Done(format!("{} is deleted; its key is kept", self.alias)))
    }
}

/// Lists the aliases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAliases {}

impl Operation for ListAliases {
    type Answer = Vec<AliasInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("kms:ListAliases"))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<AliasInfo>> {
        let info = |a: AliasMetadata| AliasInfo { alias: a.alias_name, key: a.target_key_id.to_string() };
        Ok(call.service.kms.aliases().list(None)?.aliases.into_iter().map(info).collect())
    }
}
