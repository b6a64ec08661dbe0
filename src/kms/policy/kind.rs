//! Kinds of policies, and versions of their language.

/// What a policy is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key: who may use it.
    Key,
    /// A user, a group, a role or a session: what it may do.
    Identity,
    /// A role: who may assume it.
    Trust,
}

impl Kind {
    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key policy",
            Self::Identity => "identity policy",
            Self::Trust => "trust policy",
        }
    }
}

/// The version of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V2008,
    V2012,
}

impl Version {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V2008 => "2008-10-17",
            Self::V2012 => "2012-10-17",
        }
    }
}
