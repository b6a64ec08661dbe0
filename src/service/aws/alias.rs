//! Aliases.

use super::operation::{At, AwsOperation};
use super::values::{Empty, Time, cut, invalid, page};
use crate::error::{Error, Kind, Result};
use crate::kms::alias::AliasMetadata;
use crate::kms::policy::Facts;
use serde::{Deserialize, Serialize};

/// Checks the name of an alias that is to be made or changed, with AWS's answers.
fn check(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b":/_-".contains(&b);
    if name.is_empty() || !name.bytes().all(good) {
        return Err(invalid("aliasName", name, "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"));
    }
    if name.starts_with("alias/") && name.contains(':') {
        return Err(Error::new(Kind::Usage, format!("{name} contains invalid characters for an alias")));
    }
    Ok(())
}

/// The caller's own permission on the alias; the one on the key is its policy's ("Controlling access to aliases").
fn ask(action: &str, name: &str, at: &At<'_>) -> Result<()> {
    at.service.kms.authorizer().ask_own_about(action, &at.place.alias_arn(name), &Facts::new(), at.caller)
}

/// CreateAlias.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateAlias {
    alias_name: String,
    target_key_id: String,
}

impl AwsOperation for CreateAlias {
    type Output = Empty;
    // It refuses one in other words.
    const TAKES_ALIASES: bool = true;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        check(&self.alias_name)?;
        ask("CreateAlias", &self.alias_name, at)?;
        let key = at.key(&self.target_key_id)?;
        at.service.kms.aliases().create(&self.alias_name, &key, at.caller).map(|_| Empty {})
    }
}

/// UpdateAlias.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct UpdateAlias {
    alias_name: String,
    target_key_id: String,
}

impl AwsOperation for UpdateAlias {
    type Output = Empty;
    // It refuses one in other words.
    const TAKES_ALIASES: bool = true;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        check(&self.alias_name)?;
        ask("UpdateAlias", &self.alias_name, at)?;
        let key = at.key(&self.target_key_id)?;
        at.service.kms.aliases().update(&self.alias_name, &key, at.caller).map(|_| Empty {})
    }
}

/// DeleteAlias.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DeleteAlias {
    alias_name: String,
}

impl AwsOperation for DeleteAlias {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        check(&self.alias_name)?;
        ask("DeleteAlias", &self.alias_name, at)?;
        at.service.kms.aliases().delete(&self.alias_name, at.caller).map(|()| Empty {})
    }
}

/// ListAliases.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListAliases {
    key_id: Option<String>,
    limit: Option<u32>,
    marker: Option<String>,
}

/// An alias of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AliasListEntry {
    alias_name: String,
    alias_arn: String,
    target_key_id: String,
    creation_date: Time,
    last_updated_date: Time,
}

/// A page of aliases.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AliasList {
    aliases: Vec<AliasListEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

impl AwsOperation for ListAliases {
    type Output = AliasList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<AliasList> {
        let kms = &at.service.kms;
        kms.authorizer().ask_own("ListAliases", at.caller)?;
        let (limit, after) = page(self.limit, self.marker.as_deref(), 50, 100)?;
        let found = match &self.key_id {
            Some(key) => {
                let key = at.key(key)?;
                if at.is_foreign(&key) {
                    let what = format!("ListAliases: key {key} is of another account");
                    return Err(Error::new(Kind::NotFound, what));
                }
                let mut all = kms.aliases().list(Some(&key))?.aliases;
                all.retain(|a| after.is_none_or(|after| a.alias_name.as_str() > after));
                all
            }
            None => kms.aliases().page(&at.place, after, limit + 1)?.aliases,
        };
        let entry = |a: AliasMetadata| AliasListEntry {
            alias_name: a.alias_name,
            alias_arn: a.alias_arn,
            target_key_id: a.target_key_id.to_string(),
            creation_date: Time(a.creation_date),
            last_updated_date: Time(a.last_updated_date),
        };
        let mut aliases: Vec<_> = found.into_iter().map(entry).collect();
        let next_marker = cut(&mut aliases, limit, |a| a.alias_name.clone());
        Ok(AliasList { aliases, truncated: next_marker.is_some(), next_marker })
    }
}
