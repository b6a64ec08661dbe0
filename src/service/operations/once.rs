//! Answers with a secret that is shown once. A front end that cannot show it revokes it: otherwise it would be valid although
//! nobody knows it.

use super::{DeleteAccessKey, DenyAccess, DetachVolume, Request, RevokeGrant};
use crate::service::api::Reply;

/// The secret in the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownOnce {
    /// None, or one that can be shown again.
    Nothing,
    /// A token for TLS clients.
    Token,
    /// The token of a new grant. That of a named grant is shown again to whoever requests the same grant.
    Grant,
    /// An attachment's token.
    Attachment,
    /// A secret access key.
    AccessKey,
}

impl ShownOnce {
    /// Returns the request that revokes the secret in this answer, for when nobody has seen it.
    #[must_use]
    pub fn taken_back_by(self, reply: &Reply) -> Option<Request> {
        match (self, reply) {
            (Self::Token, Reply::Access(client)) => Some(DenyAccess { name: client.name.clone() }.into()),
            (Self::Grant, Reply::Grant(grant)) => {
                Some(RevokeGrant { key: grant.key.clone(), grant: grant.id.clone() }.into())
            }
            (Self::AccessKey, Reply::AccessKey(key)) => Some(DeleteAccessKey { access_key: key.id.clone() }.into()),
            (Self::Attachment, Reply::Attachment(att)) => Some(DetachVolume { what: att.id.clone() }.into()),
            _ => None,
        }
    }
}
