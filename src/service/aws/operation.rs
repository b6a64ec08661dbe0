//! What an operation is, and what it is given.

use crate::error::{Error, Kind, Reason, Result};
use crate::kms::{Caller, KeyRef, Pins, Place};
use crate::service::Service;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// One request: the service, its caller, and the account and Region that it is about.
pub(super) struct At<'a> {
    pub(super) service: &'a Arc<Service>,
    pub(super) caller: &'a Caller,
    pub(super) place: Place,
    /// The keys that it names.
    pub(super) pins: Pins<'a>,
}

/// An operation of an AWS service.
pub(super) trait AwsOperation: DeserializeOwned {
    /// What it answers.
    type Output: Serialize;
    /// Whether it changes nothing, and the KMS leaves the record of its success to the caller.
    const READS: bool = false;

    /// Whether its key can be named by an alias. The KMS API Reference says so of the member KeyId: "key ID, key ARN, alias
    /// name, or alias ARN"; of the other operations, "key ID or key ARN".
    const TAKES_ALIASES: bool = false;
    /// Whether it has the member DryRun: the request then only asks whether it may.
    const TAKES_DRY_RUN: bool = false;
    /// Whether it has the member GrantTokens. They say nothing here: a grant counts at once.
    const TAKES_GRANT_TOKENS: bool = false;

    /// Performs it.
    fn perform(self, at: &At<'_>) -> Result<Self::Output>;
}

impl At<'_> {
    /// Whether a key is named by an ARN of another account.
    pub(super) fn is_foreign(&self, key: &KeyRef) -> bool {
        let is_here = key.region() == Some(&self.place.region);
        is_here && key.account().is_some_and(|account| account != self.place.account)
    }

    /// What a caller is answered who may not use a key of another account, or who names one that does not exist: he does not
    /// learn which. The audit says it.
    pub(super) fn denial(&self, act: &str) -> Arc<str> {
        let who = &self.caller.principal;
        let what = format!(
            "User: {who} is not authorized to perform: {act} on a key of another account: it does not exist in Region {}, or \
             the policies of both accounts do not allow it",
            self.place.region
        );
        what.into()
    }

    /// The key that a request names, in the caller's account and Region unless it is an ARN.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a malformed name; [`Kind::NotFound`] for one of another Region: those do not see each other.
    pub(super) fn key(&self, name: &str) -> Result<KeyRef> {
        let key = name.parse::<KeyRef>().map_err(|e| match e.why() {
            // AWS says so, and has another error for ARNs that are none.
            Some(Reason::InvalidAliasName) | None => {
                Error::new(Kind::NotFound, format!("Invalid keyId '{name}'")).because(e)
            }
            Some(_) => e,
        })?;
        match key.region().filter(|region| *region != self.place.region) {
            Some(region) => Err(Error::new(
                Kind::NotFound,
                format!("Invalid arn {region}: the request is for {}", self.place.region),
            )),
            None => Ok(self.pins.pin(key.at(&self.place))),
        }
    }
}
