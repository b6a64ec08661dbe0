//! Who asks, by what right, and for what.

use super::policy::{GrantFacts, Question, VOLUME_SERVICE};
use crate::cipher::wrap::EncryptionContext;
use crate::ledger::{Asker, Identity, RequestInfo};
use std::sync::Arc;

/// A principal's own permissions, which count where the key's policy delegates to its account. Set by the edge that
/// authenticated the caller, never from a request; not part of an audit record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Authority {
    /// None: only policies and grants that name it count.
    #[default]
    Nothing,
    /// Everything: the account's root, and the owner of the data directory.
    Administrator,
    /// Using volumes: Decrypt, CreateGrant and DescribeKey through the volume service, on these keys (ARNs).
    Volumes(Vec<String>),
    /// The grants of an existing lease: only these count, whatever the policy now says about the caller.
    Grants(Vec<String>),
    /// coffer itself, or an existing lease of this process: not checked.
    Settled,
}

/// The caller, as authenticated by the edge, and its own permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As [`Identity::principal`].
    pub principal: String,
    /// As [`Identity::via_service`].
    pub via_service: Option<String>,
    /// As [`Identity::client`].
    pub client: String,
    /// Its own permissions. Not recorded in the audit, as the policy at that time is not, either.
    pub authority: Authority,
    /// As [`Identity::request`]. Part of the record, but no policy sees it.
    pub request: Option<Arc<RequestInfo>>,
}

impl Caller {
    /// Makes a caller whom no service acts for and who made no request over the network.
    #[must_use]
    pub fn new(principal: impl Into<String>, client: impl Into<String>, authority: Authority) -> Self {
        let (principal, client) = (principal.into(), client.into());
        Self { principal, via_service: None, client, authority, request: None }
    }

    /// Makes a service that acts for itself.
    #[must_use]
    pub fn service(principal: String, name: &str, client: &str) -> Self {
        Self { via_service: Some(name.to_owned()), ..Self::new(principal, client, Authority::Settled) }
    }
}

impl From<&Caller> for Asker {
    fn from(caller: &Caller) -> Self {
        let Caller { principal, via_service, client, authority, request } = caller.clone();
        let request = request.map(|r| Box::new(r.bounded()));
        let administrator = matches!(authority, Authority::Administrator | Authority::Settled);
        Self { identity: Identity { principal, via_service, client, request }, administrator }
    }
}

impl Authority {
    /// Whether the principal's own permissions allow it.
    pub(super) fn permits(&self, q: &Question<'_>) -> bool {
        match self {
            Self::Administrator | Self::Settled => true,
            Self::Volumes(keys) => {
                q.via_service == Some(VOLUME_SERVICE)
                    && ["Decrypt", "CreateGrant", "DescribeKey"].contains(&q.action)
                    && keys.iter().any(|k| k == q.resource)
            }
            Self::Nothing | Self::Grants(_) => false,
        }
    }
}

/// A requested operation on a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As `Decrypt`.
    pub(super) action: &'a str,
    pub(super) context: &'a EncryptionContext,
    pub(super) grant: Option<&'a GrantFacts>,
}
