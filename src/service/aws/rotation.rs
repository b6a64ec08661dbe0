//! Rotation.

use super::key::{KeyNamed, of_a_key};
use super::operation::{At, AwsOperation};
use super::values::{Empty, Time, cut, invalid, page};
use crate::error::Result;
use crate::kms::{KeyVersion, Origin, RotationType};
use serde::{Deserialize, Serialize};

/// EnableKeyRotation.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct EnableKeyRotation {
    key_id: String,
    rotation_period_in_days: Option<u32>,
}

impl AwsOperation for EnableKeyRotation {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.key(&self.key_id)?;
        at.service.kms.rotations().enable(&key, self.rotation_period_in_days, at.caller).map(|()| Empty {})
    }
}

of_a_key! {
    /// DisableKeyRotation.
    DisableKeyRotation
}

impl AwsOperation for DisableKeyRotation {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        at.service.kms.rotations().disable(&at.key(&self.key_id)?, at.caller).map(|()| Empty {})
    }
}

of_a_key! {
    /// GetKeyRotationStatus.
    GetKeyRotationStatus
}

/// Whether and when a key rotates.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RotationStatusOutput {
    key_rotation_enabled: bool,
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_period_in_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_rotation_date: Option<Time>,
}

impl AwsOperation for GetKeyRotationStatus {
    type Output = RotationStatusOutput;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<RotationStatusOutput> {
        let key = at.key(&self.key_id)?;
        at.service.kms.authorizer().ask(&key, "GetKeyRotationStatus", at.caller)?;
        let status = at.service.kms.rotations().status(&key)?;
        Ok(RotationStatusOutput {
            key_rotation_enabled: status.enabled,
            key_id: status.key.arn,
            rotation_period_in_days: status.period_days,
            next_rotation_date: status.next.map(Time),
        })
    }
}

of_a_key! {
    /// RotateKeyOnDemand.
    RotateKeyOnDemand
}

impl AwsOperation for RotateKeyOnDemand {
    type Output = KeyNamed;
    fn perform(self, at: &At<'_>) -> Result<KeyNamed> {
        let key = at.service.kms.rotations().on_demand(&at.key(&self.key_id)?, at.caller)?;
        Ok(KeyNamed { key_id: key.arn })
    }
}

/// ListKeyRotations.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListKeyRotations {
    key_id: String,
    include_key_material: Option<String>,
    limit: Option<u32>,
    marker: Option<String>,
}

/// A version of a key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RotationsListEntry {
    key_id: String,
    key_material_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_material_description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    import_state: Option<&'static str>,
    key_material_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_model: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_to: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_date: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_type: Option<RotationType>,
}

/// A page of versions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RotationList {
    rotations: Vec<RotationsListEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

fn entry(arn: &str, origin: Origin, version: &KeyVersion) -> RotationsListEntry {
    let imported = origin == Origin::External;
    let model = if version.valid_to.is_some() { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" };
    RotationsListEntry {
        key_id: arn.to_owned(),
        key_material_id: version.key_material_id.clone(),
        key_material_description: version.description.clone(),
        import_state: imported.then_some(if version.is_here { "IMPORTED" } else { "PENDING_IMPORT" }),
        key_material_state: match (version.pending, version.current) {
            (true, _) => "PENDING_ROTATION",
            (false, true) => "CURRENT",
            (false, false) => "NON_CURRENT",
        },
        expiration_model: (imported && version.is_here).then_some(model),
        valid_to: version.valid_to.map(Time),
        rotation_date: version.rotation.map(|_| Time(version.created)),
        rotation_type: version.rotation,
    }
}

impl AwsOperation for ListKeyRotations {
    type Output = RotationList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<RotationList> {
        let key = at.key(&self.key_id)?;
        at.service.kms.authorizer().ask(&key, "ListKeyRotations", at.caller)?;
        let all = match self.include_key_material.as_deref() {
            None | Some("ROTATIONS_ONLY") => false,
            Some("ALL_KEY_MATERIAL") => true,
            Some(other) => {
                let rule = "Member must satisfy enum value set: [ALL_KEY_MATERIAL, ROTATIONS_ONLY]";
                return Err(invalid("includeKeyMaterial", other, rule));
            }
        };
        let (limit, after) = page(self.limit, self.marker.as_deref(), 100, 1000)?;
        let status = at.service.kms.rotations().status(&key)?;
        let wanted = |v: &&KeyVersion| all || v.rotation.is_some();
        let versions = status.key.versions.iter().filter(wanted);
        let mut rotations: Vec<_> = versions.map(|v| entry(&status.key.arn, status.key.origin, v)).collect();
        if let Some(after) = after {
            let passed = rotations.iter().position(|r| r.key_material_id == after);
            rotations.drain(..passed.map_or(0, |i| i + 1));
        }
        let next_marker = cut(&mut rotations, limit, |r| r.key_material_id.clone());
        Ok(RotationList { rotations, truncated: next_marker.is_some(), next_marker })
    }
}
