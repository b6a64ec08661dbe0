//! Accounts in Regions: what keys, aliases and grants belong to.
//!
//! Records of the installation's first account in its Region, its *home*, carry no place, and their ids no prefix. Those
//! of other places do, so that both can be listed by a range of ids: `~ACCOUNT/REGION/…` sorts after every id at home.

use super::caller::Caller;
use super::installation::Installation;
use super::policy::{VOLUME_SERVICE, account_of};
use crate::cipher::wrap::KeyId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An account in a Region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// 12 digits.
    pub account: String,
    /// As `us-east-1`.
    pub region: String,
}

impl Place {
    /// The ARN of a key in it.
    #[must_use]
    pub fn key_arn(&self, id: KeyId) -> String {
        format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.account)
    }

    /// The ARN of an alias in it, by its name with `alias/`.
    #[must_use]
    pub fn alias_arn(&self, name: &str) -> String {
        format!("arn:aws:kms:{}:{}:{name}", self.region, self.account)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}, account {}", self.region, self.account)
    }
}

/// The id of a row: that of the object, prefixed with its place unless it is at home.
pub(super) fn row_id(place: Option<&Place>, id: &str) -> String {
    place.map_or_else(|| id.to_owned(), |p| format!("{}{id}", prefix_of(p)))
}

fn prefix_of(place: &Place) -> String {
    format!("~{}/{}/", place.account, place.region)
}

/// The ids of the rows of a place: those after the first and before the second.
pub(super) fn rows_of(place: Option<&Place>) -> (String, String) {
    match place {
        None => (String::new(), "~".into()),
        // `0` follows `/`.
        Some(p) => (prefix_of(p), format!("~{}/{}0", p.account, p.region)),
    }
}

/// A key: its place (none: at home) and its id. A multi-Region key has the same id in several Regions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// Its account and Region, if that is not the installation's own.
    pub place: Option<Place>,
    /// Its id.
    pub id: KeyId,
}

impl KeyName {
    /// The id of its row.
    pub(super) fn row(&self) -> String {
        row_id(self.place.as_ref(), &self.id.to_string())
    }
}

impl From<KeyId> for KeyName {
    fn from(id: KeyId) -> Self {
        Self { place: None, id }
    }
}

/// The home of an installation, and the names of what is in it and elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    home: Place,
}

impl Scope {
    /// That of an installation.
    pub(super) fn of(installation: &Installation) -> Self {
        Self { home: Place { region: installation.region.clone(), account: installation.account.clone() } }
    }

    /// The place of a record.
    pub(super) fn place<'a>(&'a self, of: Option<&'a Place>) -> &'a Place {
        of.unwrap_or(&self.home)
    }

    /// The account of a caller, in the Region of its request.
    pub(super) fn place_of(&self, caller: &Caller) -> Place {
        // A request that came by no network has no Region.
        let asked = caller.request.as_ref().map(|r| &r.region).filter(|region| !region.is_empty());
        let region = asked.unwrap_or(&self.home.region);
        let account = account_of(&caller.principal).unwrap_or(&self.home.account);
        Place { account: account.to_owned(), region: region.clone() }
    }

    /// A place as records keep it.
    pub(super) fn kept(&self, place: Place) -> Option<Place> {
        (place != self.home).then_some(place)
    }

    /// The ARN of a key.
    pub(super) fn arn_of(&self, key: &KeyName) -> String {
        self.place(key.place.as_ref()).key_arn(key.id)
    }

    /// The root of the installation's account.
    pub(super) fn root_principal(&self) -> String {
        format!("arn:aws:iam::{}:root", self.home.account)
    }

    /// The grantee of durable leases of volumes.
    pub(super) fn volume_service(&self) -> String {
        format!("arn:aws:iam::{}:service/{VOLUME_SERVICE}", self.home.account)
    }
}
