//! Imported key material.

use super::operation::{At, AwsOperation};
use super::values::{Bytes, Time, invalid, word};
use crate::cipher::keys::{WrappingAlgorithm, WrappingKeySpec};
use crate::error::{Error, Kind, Result};
use crate::kms::Material;
use serde::{Deserialize, Serialize};

/// GetParametersForImport.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetParametersForImport {
    key_id: String,
    wrapping_algorithm: String,
    wrapping_key_spec: String,
}

/// What material is wrapped with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ParametersOutput {
    key_id: String,
    import_token: Bytes,
    public_key: Bytes,
    parameters_valid_to: Time,
}

impl AwsOperation for GetParametersForImport {
    type Output = ParametersOutput;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<ParametersOutput> {
        let key = at.key(&self.key_id)?;
        let algorithm = word(&self.wrapping_algorithm, "wrappingAlgorithm", WrappingAlgorithm::NAMES)?;
        let spec = word(&self.wrapping_key_spec, "wrappingKeySpec", WrappingKeySpec::NAMES)?;
        let made = at.service.kms.imports().parameters(&key, algorithm, spec, at.caller)?;
        Ok(ParametersOutput {
            key_id: made.key_arn,
            import_token: Bytes::of(&made.token),
            public_key: Bytes::of(&made.public_key),
            parameters_valid_to: Time(made.valid_to),
        })
    }
}

/// ImportKeyMaterial: volumes that wait for the key resume.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ImportKeyMaterial {
    key_id: String,
    import_token: Bytes,
    encrypted_key_material: Bytes,
    valid_to: Option<Time>,
    expiration_model: Option<String>,
    import_type: Option<String>,
    key_material_description: Option<String>,
    key_material_id: Option<String>,
}

/// Imported or deleted material.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MaterialOutput {
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_material_id: Option<String>,
}

impl ImportKeyMaterial {
    fn expires(&self) -> Result<bool> {
        match self.expiration_model.as_deref() {
            None | Some("KEY_MATERIAL_EXPIRES") if self.valid_to.is_some() => Ok(true),
            None | Some("KEY_MATERIAL_EXPIRES") => {
                let what =
                    "ImportKeyMaterial: ValidTo is required unless ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE";
                Err(Error::new(Kind::Usage, what))
            }
            Some("KEY_MATERIAL_DOES_NOT_EXPIRE") if self.valid_to.is_none() => Ok(false),
            Some("KEY_MATERIAL_DOES_NOT_EXPIRE") => {
                Err(Error::new(Kind::Usage, "ImportKeyMaterial: ValidTo is set, but the material does not expire"))
            }
            Some(other) => {
                let rule = "Member must satisfy enum value set: [KEY_MATERIAL_EXPIRES, KEY_MATERIAL_DOES_NOT_EXPIRE]";
                Err(invalid("expirationModel", other, rule))
            }
        }
    }

    fn is_new(&self) -> Result<Option<bool>> {
        match self.import_type.as_deref() {
            None => Ok(None),
            Some("NEW_KEY_MATERIAL") => Ok(Some(true)),
            Some("EXISTING_KEY_MATERIAL") => Ok(Some(false)),
            Some(other) => {
                let rule = "Member must satisfy enum value set: [NEW_KEY_MATERIAL, EXISTING_KEY_MATERIAL]";
                Err(invalid("importType", other, rule))
            }
        }
    }
}

impl AwsOperation for ImportKeyMaterial {
    type Output = MaterialOutput;
    fn perform(self, at: &At<'_>) -> Result<MaterialOutput> {
        let (key, is_new, expires) = (at.key(&self.key_id)?, self.is_new()?, self.expires()?);
        if self.key_material_description.as_ref().is_some_and(|d| d.chars().count() > 256) {
            return Err(Error::new(Kind::Usage, "ImportKeyMaterial: the description is longer than 256 characters"));
        }
        let material = Material {
            token: self.import_token.up_to(6144, "importToken")?,
            encrypted: self.encrypted_key_material.up_to(6144, "encryptedKeyMaterial")?,
            expires: self.valid_to.filter(|_| expires).map(|t| t.0),
            is_new,
            description: self.key_material_description.clone(),
            id: self.key_material_id.clone(),
        };
        let (meta, id) = at.service.kms.imports().import(&key, &material, at.caller)?;
        at.service.suspensions.resume_under(&meta.arn);
        Ok(MaterialOutput { key_id: meta.arn, key_material_id: Some(id) })
    }
}

/// DeleteImportedKeyMaterial: volumes under the key are suspended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DeleteImportedKeyMaterial {
    key_id: String,
    key_material_id: Option<String>,
}

impl AwsOperation for DeleteImportedKeyMaterial {
    type Output = MaterialOutput;
    fn perform(self, at: &At<'_>) -> Result<MaterialOutput> {
        let key = at.key(&self.key_id)?;
        let (meta, id) = at.service.kms.imports().delete(&key, self.key_material_id.as_deref(), at.caller)?;
        at.service.suspensions.suspend_under(&meta.arn);
        Ok(MaterialOutput { key_id: meta.arn, key_material_id: id })
    }
}
