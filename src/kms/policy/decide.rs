//! The decision: all policies that apply to a request, together. A pure function.
//!
//! | of these | AWS |
//! |---|---|
//! | a Deny in any policy | refuses |
//! | an Allow for the user, or for the session of a role | is enough, in the account of the resource |
//! | an Allow for the role of a session, or for everyone | is enough, if the session's policies allow it, too |
//! | an Allow for the account | leaves it to the identity policies, and to the session's |
//! | a grant | is enough, if the session's policies allow it, too |
//! | a principal of another account | also needs an Allow of its own policies |
//!
//! The root user of the account needs no policy of its own; for that of another, the caller says so with [`Own::Everything`].
//!
//! Sources: IAM User Guide, "Policy evaluation for requests within a single account",
//! "Cross-account policy evaluation logic", "Session policies"; KMS Developer Guide, "Determining access to AWS KMS keys".

use super::kind::Kind;
use super::question::{PrincipalKind, Question};
use super::{Policy, Verdict};

/// A principal's own permissions.
#[derive(Debug, Clone, Copy)]
pub enum Own<'a> {
    /// Everything.
    Everything,
    /// What these identity policies allow.
    Policies(&'a [Policy]),
}

/// A request and all that applies to it.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// The policy of the resource: of the key, or of the role that is to be assumed. None if the action has no such resource:
    /// then the principal's own permissions decide.
    pub resource_policy: Option<&'a Policy>,
    /// Those of the principal.
    pub own: Own<'a>,
    /// The policies with which the session was made, if there were any: it has only what one of them allows.
    pub session: Option<&'a [Policy]>,
    /// Whether a grant to the principal covers the request.
    pub grants_allow: bool,
    /// The request.
    pub question: &'a Question<'a>,
    /// Whether the principal is of the account of the resource.
    pub same_account: bool,
}

/// What allowed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A policy.
    Policy,
    /// A grant.
    Grant,
}

/// The result of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It is allowed.
    Allowed(By),
    /// It is not.
    Denied(Why),
}

/// The type of a policy, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A key's policy.
    Resource,
    /// A role's trust policy.
    Trust,
    /// An identity policy.
    Identity,
    /// A session's policy.
    Session,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A policy of this type has a Deny.
    Explicit(Source),
    /// No policy of this type has an Allow.
    NoAllow(Source),
}

impl Source {
    const fn words(self) -> &'static str {
        match self {
            Self::Resource => "resource-based policy",
            Self::Trust => "role trust policy",
            Self::Identity => "identity-based policy",
            Self::Session => "session policy",
        }
    }

    const fn of(policy: &Policy) -> Self {
        match policy.kind() {
            Kind::Trust => Self::Trust,
            Kind::Key | Kind::Identity => Self::Resource,
        }
    }
}

impl Why {
    /// The end of AWS's message (IAM User Guide, "Access denied error messages"); the action has its service, as `kms:Decrypt`.
    #[must_use]
    pub fn words(self, action: &str) -> String {
        match self {
            Self::Explicit(source) => {
                let article = if source == Source::Identity { "an" } else { "a" };
                format!("with an explicit deny in {article} {}", source.words())
            }
            Self::NoAllow(source) => format!("because no {} allows the {action} action", source.words()),
        }
    }

    /// Whether there is a Deny, which nothing overrides.
    #[must_use]
    pub const fn is_explicit(self) -> bool {
        matches!(self, Self::Explicit(_))
    }
}

/// Whether one of these denies, and whether one allows.
fn asked(policies: &[Policy], q: &Question<'_>) -> (bool, bool) {
    policies.iter().map(|p| p.verdict(q)).fold((false, false), |(denies, allows), verdict| {
        (denies || verdict == Verdict::Denied, allows || verdict == Verdict::Allowed)
    })
}

/// Decides a request.
#[must_use]
pub fn decide(d: &Decision<'_>) -> Ruling {
    let (q, denied) = (d.question, Ruling::Denied);
    let resource = d.resource_policy.map(|policy| policy.verdict(q));
    let at_resource = d.resource_policy.map_or(Source::Identity, Source::of);
    if resource == Some(Verdict::Denied) {
        return denied(Why::Explicit(at_resource));
    }
    let (own_denies, own_allows) = match d.own {
        Own::Everything => (false, true),
        Own::Policies(policies) => asked(policies, q),
    };
    let (session_denies, session_allows) = d.session.map_or((false, true), |policies| asked(policies, q));
    if own_denies || session_denies {
        return denied(Why::Explicit(if own_denies { Source::Identity } else { Source::Session }));
    }
    let is_root = d.same_account && q.principal.kind == PrincipalKind::Root;
    let missing = if !own_allows && !is_root {
        Some(Why::NoAllow(Source::Identity))
    } else {
        (!session_allows).then_some(Why::NoAllow(Source::Session))
    };
    let granted = d.grants_allow && session_allows;
    match (resource, missing) {
        (None, None) => Ruling::Allowed(By::Policy),
        (None, Some(why)) => denied(why),
        // Both accounts must allow it.
        (Some(_), Some(why)) if !d.same_account => denied(why),
        (Some(Verdict::Allowed), _) => Ruling::Allowed(By::Policy),
        (Some(Verdict::AllowedForRole), _) if session_allows => Ruling::Allowed(By::Policy),
        (Some(Verdict::Delegated), None) => Ruling::Allowed(By::Policy),
        _ if granted => Ruling::Allowed(By::Grant),
        (Some(Verdict::Delegated), Some(why)) => denied(why),
        (Some(Verdict::AllowedForRole), _) => denied(Why::NoAllow(Source::Session)),
        _ if d.grants_allow => denied(Why::NoAllow(Source::Session)),
        _ => denied(Why::NoAllow(at_resource)),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
