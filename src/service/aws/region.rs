//! Multi-Region keys.

use super::key::KeyMetadata;
use super::operation::{At, AwsOperation};
use super::values::{Empty, Tag, tag_list, tags};
use crate::error::Result;
use crate::kms::{KeyRef, NewReplica};
use serde::{Deserialize, Serialize};

/// ReplicateKey.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ReplicateKey {
    key_id: String,
    replica_region: String,
    policy: Option<String>,
    #[serde(default)]
    bypass_policy_lockout_safety_check: bool,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

/// A replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReplicaOutput {
    replica_key_metadata: KeyMetadata,
    replica_policy: String,
    replica_tags: Vec<Tag>,
}

impl AwsOperation for ReplicateKey {
    type Output = ReplicaOutput;
    fn perform(self, at: &At<'_>) -> Result<ReplicaOutput> {
        let (key, tags) = (at.key(&self.key_id)?, tags(self.tags)?);
        let new = NewReplica {
            region: &self.replica_region,
            description: &self.description,
            policy: self.policy.as_deref(),
            bypass_lockout_check: self.bypass_policy_lockout_safety_check,
            tags: &tags,
        };
        let made = at.service.kms.replicas().replicate(&key, &new, at.caller)?;
        let replica_policy = at.service.kms.policies().shown(&KeyRef::named(&made.key))?;
        Ok(ReplicaOutput { replica_key_metadata: made.into(), replica_policy, replica_tags: tag_list(tags) })
    }
}

/// UpdatePrimaryRegion.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct UpdatePrimaryRegion {
    key_id: String,
    primary_region: String,
}

impl AwsOperation for UpdatePrimaryRegion {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.key(&self.key_id)?;
        at.service.kms.replicas().update_primary(&key, &self.primary_region, at.caller).map(|()| Empty {})
    }
}
