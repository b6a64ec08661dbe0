//! Policies: who may do what with which resource, in the language of AWS policy documents.
//! A policy is parsed as a whole ([`Policy::parse`]): what this build does not understand is refused, never ignored. Evaluation
//! ([`decide`](decide()), [`Policy::verdict`]) cannot fail. When it is put, a policy is also checked ([`Policy::check`]): a
//! statement that could never match is refused. Stored policies are not checked again.
//!
//! | in a document | here |
//! |---|---|
//! | `Version` | 2012-10-17, 2008-10-17 (the default) |
//! | `Principal` | `"*"`, `{"AWS": …}` (`*`, an account, `arn:aws:iam::ACCOUNT:root`, a user, a role or a session by ARN), `{"Service": …}` |
//! | unique ids | `AIDA…`, `AROA…`, `AROA…:SESSION` in place of the ARN of a principal that was deleted ([`rename`](rename())) |
//! | `NotPrincipal` | in a Deny: everyone whose ARNs, of session, role and account, are not all listed |
//! | `Action`, `NotAction` | an action of `actions`, or `*`; `*` matches any characters, `?` matches one; case-insensitive |
//! | `Resource`, `NotResource` | `*`, or ARNs with `*` and `?` |
//! | `Condition` | see [`condition`] |
//! | variables (`${aws:username}`) | in version 2012-10-17, in resources and texts of conditions; plain text in 2008-10-17, as in AWS |
//!
//! A key policy and a role's trust policy have principals; an identity or session policy has none. A trust policy has no
//! resource.
//!
//! Sources: IAM User Guide, "IAM JSON policy element reference" and "Policy evaluation logic"; KMS Developer Guide, "Key
//! policies in AWS KMS", "Condition keys for AWS KMS".

mod actions;
mod arn;
mod check;
mod choice;
pub mod condition;
mod decide;
mod document;
mod forms;
mod found;
mod keys;
mod kind;
mod parse;
mod pattern;
mod print;
mod question;
mod rename;
mod variables;
mod words;

use arn::region_of;
use condition::Condition;
use kind::Version;
use pattern::{fits, wild};
use variables::{As, expand};

pub use arn::account_of;
pub(super) use pattern::fold_case;

pub use actions::EXPORT_VOLUME_KEY;
pub use decide::{By, Decision, Own, Ruling, Source, Why, decide};
pub use keys::Key;
pub use kind::Kind;
pub use parse::{MAX_IDENTITY_POLICY, MAX_POLICY};
pub use question::{Facts, GrantFacts, PrincipalFacts, PrincipalKind, Question, SessionFacts};
pub use rename::rename;
pub use words::VOLUME_SERVICE;

/// A parsed policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    kind: Kind,
    version: Version,
    id: Option<String>,
    statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    sid: Option<String>,
    allow: bool,
    principals: Whom,
    actions: Names,
    resources: Names,
    conditions: Vec<Condition>,
}

/// The principals that a statement is about. In a list, first those of `AWS`, then those of `Service`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whom {
    /// Who has the policy.
    Holder,
    These(Vec<Principal>),
    /// Everyone except these.
    Except(Vec<Principal>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Principal {
    Everyone,
    /// All principals of an account, if their own permissions allow it; in a Deny, all of them.
    Account(String),
    Arn(String),
    /// The unique id of a user, a role or a role's session, which no later principal of its name has.
    Id(String),
    Service(String),
}

/// What a statement applies to: these, or (`not`) everything except these.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    not: bool,
    patterns: Vec<String>,
}

impl Names {
    fn of(patterns: &[&str]) -> Self {
        Self { not: false, patterns: patterns.iter().map(|p| (*p).to_owned()).collect() }
    }

    fn cover(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|p| fits(p)) != self.not
    }
}

/// The result of evaluating a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No statement matches.
    Silent,
    /// An Allow for the principal's account matches: the principal's own permissions decide.
    Delegated,
    /// An Allow for the role of the session, or for everyone, matches: the policies of the session limit it.
    AllowedForRole,
    /// An Allow for the principal matches.
    Allowed,
    /// A Deny matches, which overrides everything else.
    Denied,
}

impl Principal {
    /// What an Allow for it gives a principal, if it is about that principal.
    fn matches(&self, q: &Question<'_>) -> Option<Verdict> {
        let who = q.principal;
        let is_session = who.kind == PrincipalKind::Session;
        let of_role = if is_session { Verdict::AllowedForRole } else { Verdict::Allowed };
        match self {
            Self::Everyone => Some(of_role),
            Self::Arn(named) if *named == who.arn => Some(Verdict::Allowed),
            Self::Arn(named) => (is_session && who.role_arn.as_deref() == Some(named)).then_some(of_role),
            Self::Id(id) if who.user_id.as_deref() == Some(id) => Some(Verdict::Allowed),
            Self::Id(id) => (is_session && who.role_id() == Some(id)).then_some(of_role),
            Self::Service(name) => self.is_service(name, q).then_some(Verdict::Allowed),
            Self::Account(id) => {
                // A service belongs to no account: it is named itself, or by a grant.
                let member = who.account == *id && who.kind != PrincipalKind::Service;
                let own = if who.kind == PrincipalKind::Root { Verdict::Allowed } else { Verdict::Delegated };
                member.then_some(own)
            }
        }
    }

    fn is_service(&self, name: &str, q: &Question<'_>) -> bool {
        // A role's resource has no Region: any of the volume service's names is it.
        let region = region_of(q.resource);
        let named = words::is_volume_service(name, region) || (region.is_empty() && words::is_service_principal(name));
        q.principal.is_service(VOLUME_SERVICE) && named
    }
}

impl Whom {
    /// The principals in the document.
    fn listed(&self) -> &[Principal] {
        match self {
            Self::Holder => &[],
            Self::These(all) | Self::Except(all) => all,
        }
    }

    /// The field of the document that lists them.
    const fn field(&self) -> &'static str {
        if matches!(self, Self::Except(_)) { "NotPrincipal" } else { "Principal" }
    }

    /// What an Allow for them gives a principal, if they include it.
    fn matches(&self, q: &Question<'_>) -> Option<Verdict> {
        match self {
            Self::Holder => Some(Verdict::Allowed),
            Self::These(all) => all.iter().filter_map(|p| p.matches(q)).max(),
            Self::Except(all) => (!is_excepted(all, q)).then_some(Verdict::Allowed),
        }
    }
}

/// Whether `NotPrincipal` leaves a principal out: it lists everyone, or all ARNs that the principal has. Those of a session are
/// its own, that of its role and that of the account; those of a user its own and that of the account (IAM User Guide, "AWS
/// JSON policy elements: NotPrincipal").
fn is_excepted(all: &[Principal], q: &Question<'_>) -> bool {
    let who = q.principal;
    let has =
        |wanted: &str| all.iter().any(|p| matches!(p, Principal::Arn(name) | Principal::Id(name) if name == wanted));
    let has_itself = has(&who.arn) || who.user_id.as_deref().is_some_and(has);
    let has_account = all.iter().any(|p| matches!(p, Principal::Account(id) if *id == who.account));
    if all.contains(&Principal::Everyone) {
        return true;
    }
    match who.kind {
        PrincipalKind::Root => has_account,
        PrincipalKind::User => has_account && has_itself,
        PrincipalKind::Session => {
            has_account && has_itself && [who.role_arn.as_deref(), who.role_id()].into_iter().flatten().any(has)
        }
        PrincipalKind::Service => all.iter().any(|p| matches!(p, Principal::Service(_)) && p.matches(q).is_some()),
        PrincipalKind::Anonymous => false,
    }
}

impl Statement {
    fn allow(sid: &str, principal: Principal, actions: &[&str], conditions: Vec<Condition>) -> Self {
        Self {
            sid: Some(sid.to_owned()),
            allow: true,
            principals: Whom::These(vec![principal]),
            actions: Names::of(actions),
            resources: Names::of(&["*"]),
            conditions,
        }
    }

    fn fits(&self, q: &Question<'_>, version: Version) -> bool {
        self.actions.cover(|p| wild(p, q.action, true))
            && self.covers(q, version)
            && self.conditions.iter().all(|c| c.holds(q, self.allow, version))
    }

    /// Whether it is about the resource. A pattern whose variable the request does not have matches nothing; as an exception
    /// from what is allowed, it makes the statement about nothing.
    fn covers(&self, q: &Question<'_>, version: Version) -> bool {
        let Names { not, patterns } = &self.resources;
        let expanded: Vec<_> = patterns.iter().filter_map(|p| expand(p, As::Pattern, version, q)).collect();
        if expanded.len() < patterns.len() && *not && self.allow {
            return false;
        }
        expanded.iter().any(|p| fits(p, q.resource)) != *not
    }
}

impl Policy {
    /// Whether it has a condition on the aliases of a key, which a request is then asked for.
    pub(super) fn mentions_aliases(&self) -> bool {
        let names = |s: &Statement| s.conditions.iter().any(|c| c.key().eq_ignore_ascii_case("kms:ResourceAliases"));
        self.statements.iter().any(names)
    }

    /// The default policy: the account's root may do everything, and principals of the account what their own permissions
    /// allow.
    #[must_use]
    pub fn of_account(account: &str) -> Self {
        let root = Principal::Account(account.to_owned());
        let all = Statement::allow("Enable IAM User Permissions", root, &["kms:*"], Vec::new());
        Self { kind: Kind::Key, version: Version::V2012, id: Some("key-default-1".to_owned()), statements: vec![all] }
    }

    /// The policy of the service-managed key of volumes: every principal of the account, through the service.
    #[must_use]
    pub fn of_volume_service(account: &str) -> Self {
        let uses = ["Encrypt", "Decrypt", "ReEncrypt*", "GenerateDataKey*", "CreateGrant", "DescribeKey"];
        let uses: Vec<String> = uses.iter().map(|u| format!("kms:{u}")).collect();
        // Not for everyone who uses a volume: only the account's administrators may export a data key.
        let looks = ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant", "kms:ExportVolumeKey"];
        let through = vec![
            Condition::string_equals("kms:CallerAccount", Key::Account, account),
            Condition::string_equals("kms:ViaService", Key::ViaService, VOLUME_SERVICE),
        ];
        let uses: Vec<&str> = uses.iter().map(String::as_str).collect();
        let statements = vec![
            Statement::allow("All of the account, through the volume service", Principal::Everyone, &uses, through),
            Statement::allow(
                "The account's look at it, and its way out",
                Principal::Account(account.to_owned()),
                &looks,
                Vec::new(),
            ),
        ];
        Self { kind: Kind::Key, version: Version::V2012, id: Some("auto-ebs-2".to_owned()), statements }
    }

    /// What it is attached to.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Evaluates a request. A Deny overrides every Allow.
    #[must_use]
    pub fn verdict(&self, q: &Question<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for statement in &self.statements {
            let Some(allowed) = statement.principals.matches(q) else { continue };
            // What it allows is no more than what another allowed.
            if (statement.allow && allowed <= verdict) || !statement.fits(q, self.version) {
                continue;
            }
            if !statement.allow {
                return Verdict::Denied;
            }
            verdict = allowed;
        }
        verdict
    }
}

#[cfg(test)]
#[path = "language_tests.rs"]
mod language_tests;
#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
