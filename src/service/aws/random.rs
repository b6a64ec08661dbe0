//! Random bytes.

use super::crypto::no_recipient;
use super::operation::{At, AwsOperation};
use super::values::{Bytes, invalid};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// GenerateRandom.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GenerateRandom {
    number_of_bytes: Option<i64>,
    custom_key_store_id: Option<String>,
    recipient: Option<Value>,
}

/// Random bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RandomOutput {
    plaintext: Bytes,
}

impl AwsOperation for GenerateRandom {
    type Output = RandomOutput;
    fn perform(self, at: &At<'_>) -> Result<RandomOutput> {
        no_recipient("GenerateRandom", self.recipient.as_ref())?;
        if self.custom_key_store_id.is_some() {
            return Err(Error::new(Kind::Unsupported, "GenerateRandom: custom key stores are not supported"));
        }
        at.service.kms.authorizer().ask_own("GenerateRandom", at.caller)?;
        let wanted = self.number_of_bytes.ok_or_else(|| Error::new(Kind::Usage, "NumberOfBytes is required."))?;
        let bytes = usize::try_from(wanted).ok().filter(|n| (1..=1024).contains(n)).ok_or_else(|| {
            let end = if wanted < 1 { "greater than or equal to 1" } else { "less than or equal to 1024" };
            invalid("numberOfBytes", &wanted.to_string(), &format!("Member must have value {end}"))
        })?;
        let random = at.service.kms.crypto().random(bytes, at.caller)?;
        Ok(RandomOutput { plaintext: Bytes::of(random.expose()) })
    }
}
