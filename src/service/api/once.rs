//! Answers that hold a secret which is shown once. Who makes such a secret and cannot show it takes it back: else it would be in
//! use, with nobody who knows it.

use super::{Reply, Request};

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

impl Request {
    /// Which secret its answer alone will show.
    #[must_use]
    pub const fn shows_once(&self) -> ShownOnce {
        match self {
            Self::AccessToken { .. } => ShownOnce::Token,
            Self::GrantCreate { name: None, .. } => ShownOnce::Grant,
            Self::AttachBegin { .. } => ShownOnce::Attachment,
            _ => ShownOnce::Nothing,
        }
    }
}

impl ShownOnce {
    /// What voids the secret in this answer, when nobody has seen it.
    #[must_use]
    pub fn taken_back_by(self, reply: &Reply) -> Option<Request> {
        match (self, reply) {
            (Self::Token, Reply::Access(client)) => Some(Request::AccessDeny { name: client.name.clone() }),
            (Self::Grant, Reply::Grant(grant)) => {
                Some(Request::GrantRevoke { key: grant.key.clone(), grant: grant.id.clone() })
            }
            (Self::Attachment, Reply::Attachment(att)) => Some(Request::AttachEnd { what: att.id.clone() }),
            _ => None,
        }
    }
}
