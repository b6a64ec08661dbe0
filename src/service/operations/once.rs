//! Answers that hold a secret which is shown once. Who makes such a secret and cannot show it takes it back: else it would be in
//! use, with nobody who knows it.

use super::{DenyAccess, DetachVolume, Request, RevokeGrant};
use crate::service::api::Reply;

/// The secret that a request makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownOnce {
    /// None, or one that can be had again.
    Nothing,
    /// A token for clients over TLS.
    Token,
    /// A new grant's token. That of a grant with a name is shown again to who asks for the same grant.
    Grant,
    /// An attachment's token.
    Attachment,
}

impl ShownOnce {
    /// What voids the secret in this answer, when nobody has seen it.
    #[must_use]
    pub fn taken_back_by(self, reply: &Reply) -> Option<Request> {
        match (self, reply) {
            (Self::Token, Reply::Access(client)) => Some(DenyAccess { name: client.name.clone() }.into()),
            (Self::Grant, Reply::Grant(grant)) => {
                Some(RevokeGrant { key: grant.key.clone(), grant: grant.id.clone() }.into())
            }
            (Self::Attachment, Reply::Attachment(att)) => Some(DetachVolume { what: att.id.clone() }.into()),
            _ => None,
        }
    }
}
