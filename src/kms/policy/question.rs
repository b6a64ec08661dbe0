//! What a policy is asked.

use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;

/// A request, as a policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The operation, as `Decrypt`.
    pub action: &'a str,
    /// ARN of the key.
    pub resource: &'a str,
    /// ARN of the principal.
    pub principal: &'a str,
    /// The service that makes the request on behalf of the principal. Set by coffer's service layer, never from a request.
    pub via_service: Option<&'a str>,
    /// Encryption context of the operation; for CreateGrant, that of the grant's constraint.
    pub context: &'a EncryptionContext,
    /// The grant, for an operation on grants.
    pub grant: Option<&'a GrantFacts>,
    /// The time of the request.
    pub now: Timestamp,
}

/// The properties of a grant that conditions can test when it is created, listed or revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFacts {
    /// Whether a service makes the request for a resource of its own, such as a volume.
    pub for_aws_resource: bool,
    /// The operations that it allows.
    pub operations: Vec<String>,
}
