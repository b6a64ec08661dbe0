//! Who asks, by what right, and for what.

use super::policy::{GrantFacts, Question, VOLUME_SERVICE};
use crate::cipher::wrap::EncryptionContext;
use crate::ledger::{Asker, Identity};

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
}

impl From<&Caller> for Asker {
    fn from(caller: &Caller) -> Self {
        let Caller { principal, via_service, client, authority } = caller.clone();
        let administrator = matches!(authority, Authority::Administrator | Authority::Settled);
        Self { identity: Identity { principal, via_service, client }, administrator }
    }
}

impl Authority {
    /// Whether the principal's own permissions allow it.
    pub(super) fn permits(&self, q: &Question<'_>) -> bool {
        match self {
            Self::Administrator | Self::Settled => true,
            Self::Volumes(keys) => {
                q.principal.via_service.as_deref() == Some(VOLUME_SERVICE)
                    && ["kms:Decrypt", "kms:CreateGrant", "kms:DescribeKey"].contains(&q.action)
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
