//! The Resource Groups Tagging API, for keys: the only resources here that AWS tags.

use super::operation::{At, AwsOperation};
use crate::cipher::wrap::KeyId;
use crate::error::{Error, Kind, Reason, Result};
use crate::kms::policy::{Facts, account_of};
use crate::kms::{KeyRef, Tags};
use crate::ledger::Act;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that are read at once.
const BATCH: usize = 100;
/// Tag keys or values of a page.
const NAMES: usize = 100;

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what).reason(Reason::InvalidParameter)
}

fn count<T>(list: &[T], most: usize, member: &str) -> Result<()> {
    match (1..=most).contains(&list.len()) {
        true => Ok(()),
        false => Err(bad(format!("{member} has {} items, and must have 1 to {most}", list.len()))),
    }
}

fn ask(at: &At<'_>, verb: &str, facts: &Facts) -> Result<()> {
    at.service.kms.authorizer().ask_own_about(&format!("tag:{verb}"), "*", facts, at.caller)
}

/// The key that an ARN names, if it is one of the caller's account and Region.
fn key_of(at: &At<'_>, arn: &str) -> Result<KeyRef> {
    let key = arn.parse::<KeyRef>().ok().filter(|key| arn.starts_with("arn:aws:kms:") && !key.is_alias());
    let key = key.ok_or_else(|| bad(format!("{arn} is not the ARN of a resource that can be tagged")))?;
    match key.region() == Some(&at.place.region) && account_of(arn) == Some(&at.place.account) {
        true => Ok(key),
        false => Err(bad(format!("{arn} is not in {}", at.place))),
    }
}

/// Why a resource was not changed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FailureInfo {
    status_code: u16,
    error_code: &'static str,
    error_message: String,
}

impl From<&Error> for FailureInfo {
    fn from(err: &Error) -> Self {
        match err.kind() {
            Kind::Failed | Kind::Partial | Kind::Integrity | Kind::Io | Kind::Interrupted => Self {
                status_code: 500,
                error_code: "InternalServiceException",
                error_message: "the request failed on the server".into(),
            },
            _ => Self { status_code: 400, error_code: err.aws(), error_message: err.what().to_owned() },
        }
    }
}

/// The resources that were not changed, by ARN.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Failures {
    failed_resources_map: BTreeMap<String, FailureInfo>,
}

/// Changes each resource by itself: one that fails does not keep the others from being changed. The refusal of each is
/// recorded as that of the KMS operation.
fn each(at: &At<'_>, arns: &[String], verb: &'static str, change: impl Fn(&KeyRef) -> Result<()>) -> Failures {
    let mut failed_resources_map = BTreeMap::new();
    for arn in arns {
        let act = Act::new(verb).detail("resource", arn);
        let changed = at.service.ledger().verb(act, at.caller, || change(&key_of(at, arn)?));
        if let Err(err) = changed {
            if FailureInfo::from(&err).status_code == 500 {
                tracing::error!("{verb} {arn}: {}", err.line());
            }
            failed_resources_map.insert(arn.clone(), FailureInfo::from(&err));
        }
    }
    Failures { failed_resources_map }
}

/// TagResources.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct TagResources {
    #[serde(rename = "ResourceARNList")]
    arns: Vec<String>,
    tags: Tags,
}

impl AwsOperation for TagResources {
    type Output = Failures;
    fn perform(self, at: &At<'_>) -> Result<Failures> {
        let facts = Facts::new().request_tags(self.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        ask(at, "TagResources", &facts)?;
        count(&self.arns, 20, "ResourceARNList")?;
        count(&self.tags.keys().collect::<Vec<_>>(), 50, "Tags")?;
        let tags = at.service.kms.tags();
        Ok(each(at, &self.arns, "kms:TagResource", |key| tags.tag(key, &self.tags, at.caller)))
    }
}

/// UntagResources.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct UntagResources {
    #[serde(rename = "ResourceARNList")]
    arns: Vec<String>,
    tag_keys: Vec<String>,
}

impl AwsOperation for UntagResources {
    type Output = Failures;
    fn perform(self, at: &At<'_>) -> Result<Failures> {
        let facts = Facts::new().texts(crate::kms::policy::Key::TagKeys, self.tag_keys.iter().cloned());
        ask(at, "UntagResources", &facts)?;
        count(&self.arns, 20, "ResourceARNList")?;
        count(&self.tag_keys, 50, "TagKeys")?;
        let tags = at.service.kms.tags();
        Ok(each(at, &self.arns, "kms:UntagResource", |key| tags.untag(key, &self.tag_keys, at.caller)))
    }
}

/// A tag that resources must have, with one of these values, or any.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct TagFilter {
    key: String,
    #[serde(default)]
    values: Vec<String>,
}

impl TagFilter {
    fn fits(&self, tags: &Tags) -> bool {
        tags.get(&self.key).is_some_and(|value| self.values.is_empty() || self.values.contains(value))
    }
}

/// GetResources.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetResources {
    #[serde(default)]
    pagination_token: String,
    #[serde(default)]
    tag_filters: Vec<TagFilter>,
    resources_per_page: Option<u32>,
    tags_per_page: Option<u32>,
    #[serde(default)]
    resource_type_filters: Vec<String>,
    #[serde(default)]
    include_compliance_details: bool,
    #[serde(default)]
    exclude_compliant_resources: bool,
    #[serde(rename = "ResourceARNList")]
    arns: Option<Vec<String>>,
}

/// A tag as this API has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ResourceTag {
    key: String,
    value: String,
}

/// A resource and its tags.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ResourceTagMapping {
    #[serde(rename = "ResourceARN")]
    arn: String,
    tags: Vec<ResourceTag>,
}

impl ResourceTagMapping {
    fn of(arn: String, tags: Tags) -> Self {
        Self { arn, tags: tags.into_iter().map(|(key, value)| ResourceTag { key, value }).collect() }
    }
}

/// A page of resources. The token is empty on the last one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ResourceList {
    pagination_token: String,
    resource_tag_mapping_list: Vec<ResourceTagMapping>,
}

/// How much is on a page.
struct PageSize {
    resources: usize,
    tags: usize,
}

impl GetResources {
    fn size(&self) -> Result<PageSize> {
        let within = |n: Option<u32>, (least, most): (u32, u32), default: usize, member: &str| match n {
            None => Ok(default),
            Some(n) if (least..=most).contains(&n) => Ok(n as usize),
            Some(n) => Err(bad(format!("{member} is {n}, and must be {least} to {most}"))),
        };
        let resources = within(self.resources_per_page, (1, 100), 100, "ResourcesPerPage")?;
        Ok(PageSize { resources, tags: within(self.tags_per_page, (100, 500), usize::MAX, "TagsPerPage")? })
    }

    fn check(&self) -> Result<()> {
        if self.include_compliance_details || self.exclude_compliant_resources {
            return Err(bad("there are no tag policies, so that compliance with them cannot be told"));
        }
        if self.tag_filters.len() > 50 || self.tag_filters.iter().any(|f| f.values.len() > 20) {
            return Err(bad("TagFilters has at most 50 keys, with at most 20 values each"));
        }
        if self.tag_filters.iter().any(|f| !(1..=128).contains(&f.key.chars().count())) {
            return Err(bad("TagFilters: a key has 1 to 128 characters"));
        }
        if self.resource_type_filters.len() > 100 {
            return Err(bad("ResourceTypeFilters has at most 100 items"));
        }
        Ok(())
    }

    /// The resources of a list of ARNs. What does not exist, or has no tags, is left out.
    fn listed(&self, arns: &[String], at: &At<'_>) -> Result<ResourceList> {
        let paged = !self.pagination_token.is_empty() || self.resources_per_page.or(self.tags_per_page).is_some();
        if paged || !self.tag_filters.is_empty() || !self.resource_type_filters.is_empty() {
            return Err(bad("ResourceARNList cannot be given with filters or with parameters of pages"));
        }
        count(arns, 100, "ResourceARNList")?;
        let mut found = Vec::new();
        for arn in arns.iter().collect::<BTreeSet<_>>() {
            let Ok(key) = key_of(at, arn) else { continue };
            if let Some(tags) = tags_of(at, &key)? {
                found.push(ResourceTagMapping::of(arn.clone(), tags));
            }
        }
        Ok(ResourceList { pagination_token: String::new(), resource_tag_mapping_list: found })
    }

    fn found(&self, at: &At<'_>) -> Result<ResourceList> {
        let size = self.size()?;
        let wanted_type = |filter: &String| filter == "kms" || filter == "kms:key";
        let (mut found, mut counted, mut token) = (Vec::new(), 0, String::new());
        if !self.resource_type_filters.is_empty() && !self.resource_type_filters.iter().any(wanted_type) {
            return Ok(ResourceList { pagination_token: token, resource_tag_mapping_list: found });
        }
        each_tagged(at, after(&self.pagination_token)?, |id, arn, tags| {
            if !self.tag_filters.iter().all(|filter| filter.fits(&tags)) {
                return true;
            }
            if found.len() == size.resources || (!found.is_empty() && counted + tags.len() > size.tags) {
                return false;
            }
            counted += tags.len();
            token = id;
            found.push(ResourceTagMapping::of(arn, tags));
            true
        })
        .map(|is_all| {
            let pagination_token = if is_all { String::new() } else { token };
            ResourceList { pagination_token, resource_tag_mapping_list: found }
        })
    }
}

/// The key after which a page begins.
fn after(token: &str) -> Result<Option<&str>> {
    match token {
        "" => Ok(None),
        id if id.parse::<KeyId>().is_ok() => Ok(Some(id)),
        _ => Err(bad("PaginationToken is not one that was returned")),
    }
}

/// The tags of a key; none if it is gone or has none.
fn tags_of(at: &At<'_>, key: &KeyRef) -> Result<Option<Tags>> {
    match at.service.kms.tags().of(key) {
        Ok(tags) => Ok(Some(tags).filter(|tags| !tags.is_empty())),
        Err(e) if [Kind::NotFound, Kind::KeyUnavailable].contains(&e.kind()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Goes through the tagged keys of the caller's account and Region, in the order of their ids, until it is told to stop.
/// Returns whether those were all.
fn each_tagged(at: &At<'_>, after: Option<&str>, mut visit: impl FnMut(String, String, Tags) -> bool) -> Result<bool> {
    let mut after = after.map(str::to_owned);
    loop {
        let keys = at.service.kms.keys().page(&at.place, after.as_deref(), BATCH)?;
        let is_last = keys.len() < BATCH;
        for (id, arn) in keys {
            after = Some(id.to_string());
            let Some(tags) = tags_of(at, &KeyRef::id(id).at(&at.place))? else { continue };
            if !visit(id.to_string(), arn, tags) {
                return Ok(false);
            }
        }
        if is_last {
            return Ok(true);
        }
    }
}

impl AwsOperation for GetResources {
    type Output = ResourceList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<ResourceList> {
        ask(at, "GetResources", &Facts::new())?;
        self.check()?;
        match &self.arns {
            Some(arns) => self.listed(arns, at),
            None => self.found(at),
        }
    }
}

/// GetTagKeys.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetTagKeys {
    #[serde(default)]
    pagination_token: String,
}

/// A page of tag keys. The token is empty on the last one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagKeyList {
    pagination_token: String,
    tag_keys: Vec<String>,
}

/// GetTagValues.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetTagValues {
    #[serde(default)]
    pagination_token: String,
    key: String,
}

/// A page of values of a tag. The token is empty on the last one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagValueList {
    pagination_token: String,
    tag_values: Vec<String>,
}

/// A page of what the tags of all keys have, in order, and the token of the next one: the page's last word behind `.`, which
/// tells an empty value from no token.
fn words(at: &At<'_>, token: &str, of: impl Fn(&Tags) -> Vec<String>) -> Result<(String, Vec<String>)> {
    let after = match token.strip_prefix('.') {
        None if !token.is_empty() => return Err(bad("PaginationToken is not one that was returned")),
        after => after,
    };
    let mut words = BTreeSet::new();
    each_tagged(at, None, |_, _, tags| {
        words.extend(of(&tags).into_iter().filter(|word| after.is_none_or(|after| word.as_str() > after)));
        true
    })?;
    let is_more = words.len() > NAMES;
    let page: Vec<String> = words.into_iter().take(NAMES).collect();
    let token = page.last().filter(|_| is_more).map(|last| format!(".{last}"));
    Ok((token.unwrap_or_default(), page))
}

impl AwsOperation for GetTagKeys {
    type Output = TagKeyList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<TagKeyList> {
        ask(at, "GetTagKeys", &Facts::new())?;
        let (pagination_token, tag_keys) = words(at, &self.pagination_token, |tags| tags.keys().cloned().collect())?;
        Ok(TagKeyList { pagination_token, tag_keys })
    }
}

impl AwsOperation for GetTagValues {
    type Output = TagValueList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<TagValueList> {
        ask(at, "GetTagValues", &Facts::new())?;
        let of = |tags: &Tags| tags.get(&self.key).cloned().into_iter().collect();
        let (pagination_token, tag_values) = words(at, &self.pagination_token, of)?;
        Ok(TagValueList { pagination_token, tag_values })
    }
}

#[cfg(test)]
#[path = "tagging_tests.rs"]
mod tests;
