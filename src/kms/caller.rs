//! Who asks, by what right, and for what.

use super::policy::{GrantFacts, Question, VOLUME_SERVICE};
use crate::cipher::wrap::EncryptionContext;
use crate::ledger::{Asker, Identity};

/// What a principal may do by itself, where the key's policy leaves that to its account. Set by the edge that established who
/// the caller is, never from a request; not part of an audit record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Authority {
    /// Nothing: only what policies and grants name it for.
    #[default]
    Nothing,
    /// Everything: the account's root, and the owner of the data directory.
    Administrator,
    /// To use volumes: Decrypt, CreateGrant and DescribeKey through the volume service, on these keys (ARNs).
    Volumes(Vec<String>),
    /// The grants of a lease that was let in before: these alone count, whatever the policy says of the caller now.
    Grants(Vec<String>),
    /// coffer itself, or a lease of this process's life that was let in before: nothing is asked.
    Settled,
}

/// Who asks, as the edge established it, and what it may do by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As [`Identity::principal`].
    pub principal: String,
    /// As [`Identity::via_service`].
    pub via_service: Option<String>,
    /// As [`Identity::client`].
    pub client: String,
    /// What it may do by itself. Not in the record: the policy of then is not there either.
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
    /// What the principal's own permissions say.
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

/// An operation that is asked for on a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As `Decrypt`.
    pub(super) action: &'a str,
    pub(super) context: &'a EncryptionContext,
    pub(super) grant: Option<&'a GrantFacts>,
}
