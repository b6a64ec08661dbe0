//! What a policy is asked.

use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;

/// What is asked of a policy.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The operation, as `Decrypt`.
    pub action: &'a str,
    /// ARN of the key.
    pub resource: &'a str,
    /// ARN of who asks.
    pub principal: &'a str,
    /// The service that asks for the principal. Set by coffer's service layer, never from a request.
    pub via_service: Option<&'a str>,
    /// Encryption context of the operation; of CreateGrant that of the grant's constraint.
    pub context: &'a EncryptionContext,
    /// Of an operation on grants.
    pub grant: Option<&'a GrantFacts>,
    /// When.
    pub now: Timestamp,
}

/// What a policy may want to know of a grant that is made, listed or revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFacts {
    /// Whether a service asks, for a resource of its own such as a volume.
    pub for_aws_resource: bool,
    /// What it lets its grantee do.
    pub operations: Vec<String>,
}
