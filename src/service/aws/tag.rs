//! The tags of keys.

use super::operation::{At, AwsOperation};
use super::values::{Empty, Tag, cut, page, tag_list, tags};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// TagResource.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct TagResource {
    key_id: String,
    tags: Vec<Tag>,
}

impl AwsOperation for TagResource {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.key(&self.key_id)?;
        at.service.kms.tags().tag(&key, &tags(self.tags)?, at.caller).map(|()| Empty {})
    }
}

/// UntagResource.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct UntagResource {
    key_id: String,
    tag_keys: Vec<String>,
}

impl AwsOperation for UntagResource {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = at.key(&self.key_id)?;
        at.service.kms.tags().untag(&key, &self.tag_keys, at.caller).map(|()| Empty {})
    }
}

/// ListResourceTags.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListResourceTags {
    key_id: String,
    limit: Option<u32>,
    marker: Option<String>,
}

/// A page of tags.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagList {
    tags: Vec<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

impl AwsOperation for ListResourceTags {
    type Output = TagList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<TagList> {
        let key = at.key(&self.key_id)?;
        at.service.kms.authorizer().ask(&key, "ListResourceTags", at.caller)?;
        let (limit, after) = page(self.limit, self.marker.as_deref(), 50, 50)?;
        let all = at.service.kms.tags().of(&key)?;
        let mut tags = tag_list(all.into_iter().filter(|(name, _)| after.is_none_or(|a| name.as_str() > a)).collect());
        let next_marker = cut(&mut tags, limit, |t| t.tag_key.clone());
        Ok(TagList { tags, truncated: next_marker.is_some(), next_marker })
    }
}
