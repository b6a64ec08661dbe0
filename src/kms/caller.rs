//! Who asks, by what right, and for what.

use super::policy::{Facts, GrantFacts, Policy, PrincipalFacts, Question, VOLUME_SERVICE};
use crate::cipher::wrap::EncryptionContext;
use crate::error::{Error, Kind, Reason, Result};
use crate::iam::Principal;
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
    /// What the policies of a user or a role allow, or everything for the root of its account: of a request that an access
    /// key signed.
    Principal(Arc<Permissions>),
    /// coffer itself, or an existing lease of this process: not checked.
    Settled,
}

/// The permissions of a principal that has an access key, or a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// What policies can test of it.
    pub principal: PrincipalFacts,
    /// Its identity policies; none: it is the root of its account, and may do everything there.
    pub identity: Option<Vec<Policy>>,
    /// The policies that its session was opened with: it has only what one of them allows.
    pub session: Option<Vec<Policy>>,
    /// What policies can test of the request: address, Region, transport.
    pub request: Facts,
    /// Who signed the request.
    pub signer: Arc<Principal>,
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
    /// It only asks whether it may: nothing is done, and the answer is an error (DryRun).
    pub dry_run: bool,
    /// What it is answered when it is denied something: the request names a key of another account, and it must not learn
    /// whether there is one.
    pub denial: Option<Arc<str>>,
}

impl Caller {
    /// Makes a caller whom no service acts for and who made no request over the network.
    #[must_use]
    pub fn new(principal: impl Into<String>, client: impl Into<String>, authority: Authority) -> Self {
        let (principal, client) = (principal.into(), client.into());
        Self { principal, via_service: None, client, authority, request: None, dry_run: false, denial: None }
    }

    /// Makes a service that acts for itself.
    #[must_use]
    pub fn service(principal: String, name: &str, client: &str) -> Self {
        Self { via_service: Some(name.to_owned()), ..Self::new(principal, client, Authority::Settled) }
    }

    /// What a grant to this caller can name: its ARN and its unique id, and of a role's session also those of the role.
    pub(super) fn principals(&self) -> impl Iterator<Item = &str> {
        let more = match &self.authority {
            Authority::Principal(permissions) => permissions.principal.other_names(),
            _ => [None; 3],
        };
        std::iter::once(self.principal.as_str()).chain(more.into_iter().flatten())
    }

    /// Whether it is the root of an account, by a signed request.
    pub(super) fn is_root_of(&self, account: &str) -> bool {
        matches!(&self.authority, Authority::Principal(p) if p.identity.is_none() && p.principal.account == account)
    }

    /// What it is answered for an error.
    #[must_use]
    pub fn answer(&self, e: Error) -> Error {
        match &self.denial {
            Some(denial) if e.is_denial() => Error::new(Kind::AccessDenied, &**denial),
            _ => e,
        }
    }

    /// Ends a dry run, once everything else has been checked.
    ///
    /// # Errors
    /// [`Kind::Usage`] (DryRunOperationException) for a dry run.
    pub fn unless_dry_run(&self, verb: &str) -> Result<()> {
        match self.dry_run {
            true => {
                Err(Error::new(Kind::Usage, format!("{verb}: it would succeed, but DryRun is set"))
                    .reason(Reason::DryRun))
            }
            false => Ok(()),
        }
    }
}

impl From<&Caller> for Asker {
    fn from(caller: &Caller) -> Self {
        let Caller { principal, via_service, client, authority, request, denial, dry_run: _ } = caller.clone();
        let request = request.map(|r| Box::new(r.bounded()));
        let administrator = match &authority {
            Authority::Administrator | Authority::Settled => true,
            // The root of its account.
            Authority::Principal(permissions) => permissions.identity.is_none(),
            _ => false,
        };
        Self { identity: Identity { principal, via_service, client, request }, administrator, denial }
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
            Self::Principal(permissions) => permissions.identity.is_none(),
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
    /// What the request says that policies can test, besides.
    pub(super) facts: Option<&'a Facts>,
}
