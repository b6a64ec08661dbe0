//! The caller of a request that an access key signed.

use crate::error::{Error, Kind, Result};
use crate::iam::{Principal, PrincipalKind};
use crate::kms::policy::{self, Facts, Key, Policy, PrincipalFacts, SessionFacts};
use crate::kms::{Authority, Caller, Permissions, is_region};
use crate::ledger::RequestInfo;
use crate::service::Service;
use std::sync::Arc;

/// A signed request, as its front end saw it.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Whose access key signed it.
    pub principal: Arc<Principal>,
    /// Its id, address, Region.
    pub info: RequestInfo,
    /// Whether it came over TLS.
    pub secure_transport: bool,
}

/// What policies can test of a principal.
fn facts_of(principal: &Principal) -> PrincipalFacts {
    let kind = match principal.kind {
        PrincipalKind::Root => policy::PrincipalKind::Root,
        PrincipalKind::User => policy::PrincipalKind::User,
        PrincipalKind::Session => policy::PrincipalKind::Session,
    };
    PrincipalFacts {
        arn: principal.arn.clone(),
        account: principal.account.clone(),
        kind,
        user_id: Some(principal.user_id.clone()),
        user_name: principal.user_name.clone(),
        role_arn: principal.role_arn.clone(),
        tags: principal.tags.clone(),
        session: principal.issued.map(|issued| SessionFacts { issued, mfa: None }),
        via_service: None,
    }
}

/// Policies that were valid when they were put. One that this build does not understand allows nothing: its request fails.
fn parsed(documents: &[Arc<str>]) -> Result<Vec<Policy>> {
    documents.iter().map(|text| Policy::parse_identity(text)).collect()
}

impl Service {
    /// The caller of a signed request.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a Region that is none, or a stored policy of the principal that this build does not understand.
    pub fn signed_by(&self, signed: Signed) -> Result<Caller> {
        let Signed { principal, info, secure_transport } = signed;
        if !is_region(&info.region) {
            return Err(Error::new(Kind::Usage, format!("{:?} is not the name of a Region", info.region)));
        }
        let request = Facts::new()
            .text(Key::SourceIp, info.source.clone())
            .flag(Key::SecureTransport, secure_transport)
            .text(Key::RequestedRegion, info.region.clone())
            .text_if(Key::UserAgent, (!info.agent.is_empty()).then(|| info.agent.clone()));
        let identity = match principal.kind {
            PrincipalKind::Root => None,
            _ => Some(parsed(&principal.policies)?),
        };
        let session = match principal.session_policies.is_empty() {
            true => None,
            false => Some(parsed(&principal.session_policies)?),
        };
        let client = format!("{}, request {}", info.source, info.id);
        let (arn, principal_id) = (principal.arn.clone(), principal.user_id.clone());
        let permissions =
            Permissions { principal: facts_of(&principal), identity, session, request, signer: principal };
        let caller = Caller::new(arn, client, Authority::Principal(Arc::new(permissions)));
        Ok(Caller { request: Some(Arc::new(RequestInfo { principal_id, ..info })), ..caller })
    }
}
