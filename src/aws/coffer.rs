//! The backend: a service, and its operations by their names.

use super::backend::{ApiCall, ApiError, Backend, Credential, Refusal};
use super::service::Service as AwsService;
use crate::error::{Error, Kind, Reason, Result};
use crate::iam::Principal;
use crate::kms::{Authority, Caller};
use crate::ledger::RequestInfo;
use crate::service::Service;
use crate::service::aws::{Signed, find};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;

/// Makes the service that takes the place of one that is reset.
pub type Renew = Box<dyn Fn() -> Result<Arc<Service>> + Send + Sync>;

/// Answers by a service.
pub struct Coffer {
    service: RwLock<Arc<Service>>,
    renew: Option<Renew>,
    /// Held while a service takes the place of another.
    resetting: Mutex<()>,
}

impl Coffer {
    /// By this one.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self { service: RwLock::new(service), renew: None, resetting: Mutex::default() }
    }

    /// By this one, until it is reset.
    #[must_use]
    pub fn ephemeral(service: Arc<Service>, renew: Renew) -> Self {
        Self { service: RwLock::new(service), renew: Some(renew), resetting: Mutex::default() }
    }

    /// The service that answers now.
    #[must_use]
    pub fn service(&self) -> Arc<Service> {
        self.service.read().clone()
    }
}

/// The prefix of a service's actions.
const fn prefix(service: AwsService) -> &'static str {
    match service {
        AwsService::Kms => "kms",
        AwsService::Sts => "sts",
        AwsService::CloudTrail => "cloudtrail",
        AwsService::Tagging => "tag",
    }
}

/// The error of an access key that cannot be used.
fn refusal_of(err: &Error) -> ApiError {
    match err.why() {
        Some(Reason::ExpiredToken) => ApiError::expired_token(),
        _ if err.kind() == Kind::AccessDenied => ApiError::unknown_credential(),
        _ => err.into(),
    }
}

impl Backend for Coffer {
    fn credential(&self, access_key_id: &str, session_token: Option<&str>) -> Result<Credential, ApiError> {
        let found = self.service().credential(access_key_id, session_token).map_err(|e| refusal_of(&e))?;
        let principal = found.principal.arn.clone();
        Ok(Credential { secret: found.secret, identity: Arc::new(found.principal), principal })
    }

    fn call(&self, call: ApiCall) -> Result<serde_json::Value, ApiError> {
        let name = format!("{}:{}", prefix(call.service), call.operation);
        let entry = find(&name).ok_or_else(ApiError::unknown_operation)?;
        let principal = call.identity.downcast::<Principal>().map_err(|_| ApiError::internal())?;
        let info = RequestInfo {
            id: call.request_id,
            source: call.source_ip.to_string(),
            agent: call.user_agent,
            region: call.region,
            access_key: call.access_key_id,
            ..RequestInfo::default()
        };
        let service = self.service();
        let signed = Signed { principal, info, secure_transport: call.secure_transport };
        let answer = service.signed_by(signed).and_then(|caller| service.aws(&caller, entry, call.input.into_inner()));
        answer.map_err(|e| {
            if matches!(e.kind(), Kind::Failed | Kind::Partial | Kind::Integrity | Kind::Io | Kind::NoSpace) {
                tracing::error!("{name}: {}", e.line());
            }
            (&e).into()
        })
    }

    fn refused(&self, refusal: Refusal) {
        let operation = refusal.operation.as_deref().unwrap_or("-");
        let name = refusal.service.map_or_else(|| format!("aws:{operation}"), |s| format!("{}:{operation}", prefix(s)));
        let principal = refusal.principal.clone().unwrap_or_else(|| "anonymous".into());
        let client = format!("{}, request {}", refusal.source_ip, refusal.request_id);
        let info = RequestInfo {
            id: refusal.request_id,
            source: refusal.source_ip.to_string(),
            agent: refusal.user_agent,
            region: refusal.region.unwrap_or_default(),
            access_key: refusal.access_key_id.unwrap_or_default(),
            ..RequestInfo::default()
        };
        let caller = Caller::new(principal, client, Authority::Nothing);
        let caller = Caller { request: Some(Arc::new(info)), ..caller };
        let err = Error::new(Kind::AccessDenied, format!("{}: {}", refusal.code, refusal.message));
        self.service().record_refusal(&name, &caller, &err);
    }

    fn reset(&self) -> Result<(), ApiError> {
        let _one = self.resetting.lock();
        let renew = self.renew.as_ref().ok_or_else(ApiError::unknown_operation)?;
        let fresh = renew().map_err(|e| {
            tracing::error!("reset: {}", e.line());
            ApiError::internal()
        })?;
        let old = std::mem::replace(&mut *self.service.write(), fresh);
        old.shut_down();
        Ok(())
    }
}
