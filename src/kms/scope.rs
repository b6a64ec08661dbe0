//! An account in a Region: what keys, aliases and grants belong to.

use super::installation::Installation;
use super::policy::{VOLUME_SERVICE, account_of};
use crate::cipher::wrap::KeyId;

/// An account in a Region, and the names of what is in it.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    region: String,
    account: String,
}

impl Scope {
    /// The one that an installation has.
    pub(super) fn of(installation: &Installation) -> Self {
        Self { region: installation.region.clone(), account: installation.account.clone() }
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// The account, 12 digits.
    pub(super) fn account(&self) -> &str {
        &self.account
    }

    /// The ARN of a key.
    pub(super) fn key_arn(&self, id: KeyId) -> String {
        format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.account)
    }

    /// The ARN of an alias, by its name with `alias/`.
    pub(super) fn alias_arn(&self, name: &str) -> String {
        format!("arn:aws:kms:{}:{}:{name}", self.region, self.account)
    }

    /// The account's root.
    pub(super) fn root_principal(&self) -> String {
        format!("arn:aws:iam::{}:root", self.account)
    }

    /// The grantee of durable leases of volumes.
    pub(super) fn volume_service(&self) -> String {
        format!("arn:aws:iam::{}:service/{VOLUME_SERVICE}", self.account)
    }

    /// Whether a principal is of the account. Its volume service is, too.
    pub(super) fn has(&self, principal: &str) -> bool {
        account_of(principal) == Some(&*self.account)
    }
}
