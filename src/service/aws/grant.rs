//! Grants.

use super::crypto::{Pairs, context};
use super::operation::{At, AwsOperation};
use super::values::{Empty, Time, cut, invalid, page};
use crate::error::{Error, Kind, Result};
use crate::kms::{Constraint, Grant, GrantFilter, GrantSpec, Operation};
use serde::{Deserialize, Serialize};

/// What a grant is limited to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Constraints {
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_context_subset: Option<Pairs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_context_equals: Option<Pairs>,
}

impl Constraints {
    fn constraint(self) -> Result<Option<Constraint>> {
        let pairs = |p: &Pairs| if p.is_empty() { None } else { Some(p.clone()) };
        let subset = self.encryption_context_subset.as_ref().and_then(pairs);
        let equals = self.encryption_context_equals.as_ref().and_then(pairs);
        match (subset, equals) {
            (None, None) => Ok(None),
            (Some(subset), None) => Ok(Some(Constraint::Subset(context(Some(&subset))?))),
            (None, Some(equals)) => Ok(Some(Constraint::Equals(context(Some(&equals))?))),
            (Some(_), Some(_)) => {
                let what = "CreateGrant: a grant has EncryptionContextSubset or EncryptionContextEquals, not both";
                Err(Error::new(Kind::Usage, what))
            }
        }
    }

    fn of(constraint: &Constraint) -> Self {
        let pairs = |c: &crate::cipher::wrap::EncryptionContext| {
            Some(c.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Pairs>())
        };
        match constraint {
            Constraint::Subset(c) => Self { encryption_context_subset: pairs(c), encryption_context_equals: None },
            Constraint::Equals(c) => Self { encryption_context_subset: None, encryption_context_equals: pairs(c) },
        }
    }
}

/// CreateGrant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateGrant {
    key_id: String,
    grantee_principal: Option<String>,
    retiring_principal: Option<String>,
    operations: Vec<String>,
    constraints: Option<Constraints>,
    name: Option<String>,
}

/// A new grant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GrantOutput {
    grant_token: String,
    grant_id: String,
}

impl AwsOperation for CreateGrant {
    type Output = GrantOutput;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<GrantOutput> {
        let key = at.key(&self.key_id)?;
        let grantee = self
            .grantee_principal
            .ok_or_else(|| Error::new(Kind::Usage, "CreateGrant: GranteePrincipal is required"))?;
        let operation = |text: &String| {
            text.parse::<Operation>().map_err(|_| {
                let all: Vec<String> = Operation::ALL.iter().map(ToString::to_string).collect();
                let rule = format!(
                    "Member must satisfy constraint: [Member must satisfy enum value set: [{}]]",
                    all.join(", ")
                );
                invalid("operations", &format!("[{text}]"), &rule)
            })
        };
        let operations = self.operations.iter().map(operation).collect::<Result<_>>()?;
        let constraint = self.constraints.map(Constraints::constraint).transpose()?.flatten();
        let name = self.name.filter(|n| !n.is_empty());
        let spec = GrantSpec { grantee, retiring: self.retiring_principal, operations, constraint, name };
        let (grant, grant_token) = at.service.kms.grants().create(&key, spec, at.caller)?;
        Ok(GrantOutput { grant_token, grant_id: grant.id })
    }
}

/// A grant of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GrantListEntry {
    key_id: String,
    grant_id: String,
    name: String,
    creation_date: Time,
    grantee_principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retiring_principal: Option<String>,
    issuing_account: String,
    operations: Vec<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<Constraints>,
}

/// A page of grants.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GrantList {
    grants: Vec<GrantListEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

fn list(at: &At<'_>, mut all: Vec<Grant>, limit: usize, after: Option<&str>) -> GrantList {
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let entry = |g: &Grant| GrantListEntry {
        key_id: at.service.kms.key_arn(&g.on()),
        grant_id: g.id.clone(),
        name: g.name.clone().unwrap_or_default(),
        creation_date: Time(g.created),
        grantee_principal: g.grantee.clone(),
        retiring_principal: g.retiring.clone(),
        issuing_account: format!("arn:aws:iam::{}:root", at.service.kms.account_of(&g.on())),
        operations: g.operations.iter().copied().collect(),
        constraints: g.constraint.as_ref().map(Constraints::of),
    };
    let wanted = all.iter().filter(|g| after.is_none_or(|after| g.id.as_str() > after)).take(limit + 1);
    let mut grants: Vec<_> = wanted.map(entry).collect();
    let next_marker = cut(&mut grants, limit, |g| g.grant_id.clone());
    GrantList { grants, truncated: next_marker.is_some(), next_marker }
}

/// ListGrants.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListGrants {
    limit: Option<u32>,
    marker: Option<String>,
    key_id: String,
    grant_id: Option<String>,
    grantee_principal: Option<String>,
}

impl AwsOperation for ListGrants {
    type Output = GrantList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<GrantList> {
        let (limit, after) = page(self.limit, self.marker.as_deref(), 50, 100)?;
        let filter = GrantFilter { id: self.grant_id, grantee: self.grantee_principal };
        let all = at.service.kms.grants().list(&at.key(&self.key_id)?, &filter, at.caller)?;
        Ok(list(at, all, limit, after))
    }
}

/// ListRetirableGrants.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListRetirableGrants {
    limit: Option<u32>,
    marker: Option<String>,
    retiring_principal: String,
}

impl AwsOperation for ListRetirableGrants {
    type Output = GrantList;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<GrantList> {
        let (limit, after) = page(self.limit, self.marker.as_deref(), 50, 100)?;
        let all = at.service.kms.grants().list_retirable(&self.retiring_principal, at.caller)?;
        Ok(list(at, all, limit, after))
    }
}

/// RetireGrant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RetireGrant {
    grant_token: Option<String>,
    key_id: Option<String>,
    grant_id: Option<String>,
}

impl AwsOperation for RetireGrant {
    type Output = Empty;
    const TAKES_DRY_RUN: bool = true;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let key = self.key_id.as_deref().map(|key| at.key(key)).transpose()?;
        let (id, token) = (self.grant_id.as_deref(), self.grant_token.as_deref());
        let gone = at.service.kms.grants().retire(key.as_ref(), id, token, at.caller)?;
        at.service.suspensions.suspend_lease_of(&gone);
        Ok(Empty {})
    }
}

/// RevokeGrant: a volume whose lease depends on the grant is suspended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RevokeGrant {
    key_id: String,
    grant_id: String,
}

impl AwsOperation for RevokeGrant {
    type Output = Empty;
    const TAKES_DRY_RUN: bool = true;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        let gone = at.service.kms.grants().revoke(&at.key(&self.key_id)?, &self.grant_id, at.caller)?;
        at.service.suspensions.suspend_lease_of(&gone);
        Ok(Empty {})
    }
}
