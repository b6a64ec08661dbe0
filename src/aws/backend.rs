//! What the edge asks of the rest of coffer: who has an access key, and what an operation answers.

use super::service::Service;
use crate::document::Document;
use crate::error::{Error, Kind, Reason};
use std::any::Any;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What answers requests. Called on threads that may block.
pub trait Backend: Send + Sync + 'static {
    /// Returns the secret and the identity of an access key, or of a session's.
    ///
    /// # Errors
    /// [`ApiError::unknown_credential`] for a key that does not exist, is not active, or comes without its session token or with
    /// another; [`ApiError::expired_token`] for a session that has ended.
    fn credential(&self, access_key_id: &str, session_token: Option<&str>) -> Result<Credential, ApiError>;

    /// Performs an operation, and returns its JSON object. In the query protocol too: the edge translates.
    ///
    /// # Errors
    /// What the client is to be told; [`ApiError::unknown_operation`] for an operation that does not exist.
    fn call(&self, call: ApiCall) -> Result<serde_json::Value, ApiError>;

    /// Takes note of a request that the edge refused: it never reached [`Backend::call`]. Not called for failures above the limit of
    /// their source ([`super::Limits::failures`]), so that nobody can fill a disk with them.
    fn refused(&self, refusal: Refusal);

    /// Forgets all state. Called for `POST /_coffer/reset`, which only a listener with [`super::Config::ephemeral`] has.
    ///
    /// # Errors
    /// What the client is to be told.
    fn reset(&self) -> Result<(), ApiError>;
}

/// What belongs to an access key.
pub struct Credential {
    /// The secret access key.
    pub secret: Zeroizing<String>,
    /// What the backend gets back with the call.
    pub identity: Arc<dyn Any + Send + Sync>,
    /// The principal's ARN: its rate is limited under this name, and refusals name it.
    pub principal: String,
}

/// An authenticated request.
pub struct ApiCall {
    /// The service.
    pub service: Service,
    /// The operation, such as `GenerateDataKey`; 1 to 64 letters and digits. The edge does not know which exist.
    pub operation: String,
    /// The parameters, a JSON object. In the query protocol each scalar is a string: `{"DurationSeconds": "900"}`.
    pub input: Document,
    /// The Region of the credential scope. The edge does not know which exist.
    pub region: String,
    /// The identity of the credential.
    pub identity: Arc<dyn Any + Send + Sync>,
    /// The access key id that signed it.
    pub access_key_id: String,
    /// The request's id, a UUID, which the answer carries too.
    pub request_id: String,
    /// The client's address.
    pub source_ip: IpAddr,
    /// The client's User-Agent, cut to 256 characters; may be empty.
    pub user_agent: String,
    /// Whether the request came over TLS.
    pub secure_transport: bool,
}

/// A request that the edge refused. Only what was read before the refusal is set; nothing here is authenticated but `principal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error code that the client was given.
    pub code: String,
    /// The error message that the client was given.
    pub message: String,
    /// The service of the credential scope.
    pub service: Option<Service>,
    /// The operation.
    pub operation: Option<String>,
    /// The Region of the credential scope.
    pub region: Option<String>,
    /// The access key id.
    pub access_key_id: Option<String>,
    /// The principal, if the signature was valid.
    pub principal: Option<String>,
    /// The request's id.
    pub request_id: String,
    /// The client's address.
    pub source_ip: IpAddr,
    /// The client's User-Agent, cut to 256 characters.
    pub user_agent: String,
    /// Whether the request came over TLS.
    pub secure_transport: bool,
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The error code of the JSON protocol, such as `NotFoundException`. In the query protocol, common errors have other codes, to
    /// which the edge translates.
    pub code: Cow<'static, str>,
    /// The message, for people.
    pub message: String,
    /// The HTTP status.
    pub status: u16,
}

impl ApiError {
    /// Makes an error with its code's HTTP status.
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        Self { status: status(&code), message: message.into(), code }
    }

    /// The access key is unknown or not active.
    #[must_use]
    pub fn unknown_credential() -> Self {
        Self::new("UnrecognizedClientException", "the access key id or the session token is not valid")
    }

    /// The session of a temporary credential has ended.
    #[must_use]
    pub fn expired_token() -> Self {
        Self::new("ExpiredTokenException", "the session token has expired")
    }

    /// The service has no such operation.
    #[must_use]
    pub fn unknown_operation() -> Self {
        Self::new("UnknownOperationException", "the service has no such operation")
    }

    /// The caller exceeded a rate.
    #[must_use]
    pub fn throttled() -> Self {
        Self::new("ThrottlingException", "Rate exceeded")
    }

    /// A fault of coffer; the log says which, the client is not told.
    #[must_use]
    pub fn internal() -> Self {
        Self::new("InternalFailure", "the request failed on the server; its log has the cause under this request id")
    }
}

/// The HTTP status of a JSON protocol's error code (KMS API Reference, "Common Errors" and each action's errors).
fn status(code: &str) -> u16 {
    match code {
        "InternalFailure" | "InternalServiceError" | "KMSInternalException" | "KeyUnavailableException" => 500,
        "DependencyTimeoutException" | "ServiceUnavailable" => 503,
        "RequestEntityTooLargeException" => 413,
        _ => 400,
    }
}

/// Kinds that are the server's own trouble keep their text for the log.
impl From<&Error> for ApiError {
    fn from(err: &Error) -> Self {
        match err.kind() {
            Kind::Failed | Kind::Partial | Kind::Integrity | Kind::Io | Kind::Interrupted => {
                Self { message: Self::internal().message, ..Self::new(err.aws(), "") }
            }
            // The code of a quota would be wrong: it is the server's disk that is full.
            Kind::NoSpace => Self { message: Self::internal().message, ..Self::new("KMSInternalException", "") },
            // AWS says nothing about a reserved name.
            _ if err.why() == Some(Reason::ReservedAlias) => Self::new(err.aws(), ""),
            _ => Self::new(err.aws(), err.what()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_inside_is_not_told() {
        let told = ApiError::from(&Error::new(Kind::Io, "write /var/lib/coffer/catalog"));
        assert_eq!((&*told.code, told.status), ("KMSInternalException", 500));
        assert!(!told.message.contains("/var"), "{}", told.message);
        let told = ApiError::from(&Error::new(Kind::NotFound, "alias/x does not exist"));
        assert_eq!((&*told.code, told.status, &*told.message), ("NotFoundException", 400, "alias/x does not exist"));
    }

    #[test]
    fn statuses_are_those_of_the_reference() {
        for (code, expected) in [
            ("KMSInternalException", 500),
            ("KeyUnavailableException", 500),
            ("DependencyTimeoutException", 503),
            ("AccessDeniedException", 400),
            ("ThrottlingException", 400),
        ] {
            assert_eq!(ApiError::new(code, "").status, expected, "{code}");
        }
    }
}
