//! Sessions: temporary credentials of roles and users (AWS Security Token Service API Reference). No session is kept:
//! its token holds it ([`super::token`]).

use super::base::{CheckPolicy, Iam};
use super::credential::{Principal, PrincipalKind, session_arn};
use super::name::{PrincipalRef, Sort, Tags, check_name, check_tags, draw_id};
use super::records::{Role, User};
use super::token::{SESSION_KEY, Session, packed_percent};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Asker};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// Shortest session, in seconds.
pub const MIN_SECONDS: u32 = 900;
/// Longest session of a user, in seconds: 36 hours.
pub const MAX_USER_SECONDS: u32 = 129_600;
/// Longest session of a role that another role's session opens, in seconds.
pub const MAX_CHAINED_SECONDS: u32 = 3600;
/// Longest session policy, in characters.
pub const MAX_SESSION_POLICY: usize = 2048;

/// The answer to GetCallerIdentity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerIdentity {
    /// `aws:userid`.
    pub user_id: String,
    /// The account.
    pub account: String,
    /// The ARN.
    pub arn: String,
}

/// The parameters of AssumeRole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssumeRole {
    /// ARN of the role.
    pub role_arn: String,
    /// Name of the session, 2 to 64 characters.
    pub session_name: String,
    /// Length of the session, in seconds; `None`: 3600.
    pub duration_seconds: Option<u32>,
    /// A policy that limits the session, at most [`MAX_SESSION_POLICY`] characters.
    pub policy: Option<String>,
    /// Tags of the session.
    pub tags: Tags,
    /// Keys of those tags that later sessions in a chain inherit.
    pub transitive: BTreeSet<String>,
    /// A secret that the role's owner and the caller agreed on, for the trust policy (`sts:ExternalId`).
    pub external_id: Option<String>,
}

/// Temporary credentials.
pub struct SessionCredentials {
    /// Access key id, `ASIA…`.
    pub access_key_id: String,
    /// Secret access key, 40 characters.
    pub secret: Zeroizing<String>,
    /// Session token.
    pub token: String,
    /// When they end.
    pub expires: Timestamp,
}

impl std::fmt::Debug for SessionCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionCredentials({}, until {}, redacted)", self.access_key_id, self.expires)
    }
}

/// The answer to AssumeRole.
#[derive(Debug)]
pub struct AssumedRole {
    /// The session's credentials.
    pub credentials: SessionCredentials,
    /// ARN of the session, `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// The role's unique id, `:` and the session's name.
    pub id: String,
    /// How much of the space for them policy and tags take, in percent (PackedPolicySize).
    pub packed_percent: u32,
}

fn check_seconds(seconds: u32, most: u32, whose: &str) -> Result<()> {
    if (MIN_SECONDS..=most).contains(&seconds) {
        return Ok(());
    }
    let what = format!("the duration of {whose} must be {MIN_SECONDS} to {most} seconds, not {seconds}");
    Err(Error::new(Kind::Usage, what))
}

fn check_external_id(id: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b);
    if (2..=1224).contains(&id.len()) && id.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "an external id must have 2 to 1224 characters of A-Z a-z 0-9 _ + = , . @ : / -"))
}

/// A refusal in AWS's words. The same for a role that does not exist: nobody can probe for roles.
fn denied(caller: &Principal, role_arn: &str) -> Error {
    let arn = &caller.arn;
    let what = format!("User: {arn} is not authorized to perform: sts:AssumeRole on resource: {role_arn}");
    Error::new(Kind::AccessDenied, what).hint("see the role's trust policy, and the caller's own policies")
}

impl AssumeRole {
    /// Checks what can be checked without the role.
    fn check(&self, check_policy: CheckPolicy<'_>) -> Result<()> {
        check_name("session", &self.session_name, 2, 64)?;
        check_tags(&self.tags)?;
        self.external_id.as_deref().map_or(Ok(()), check_external_id)?;
        if let Some(policy) = &self.policy {
            if policy.chars().count() > MAX_SESSION_POLICY {
                let what = format!("a session policy may have at most {MAX_SESSION_POLICY} characters");
                return Err(Error::new(Kind::Usage, what));
            }
            check_policy(policy)?;
        }
        match self.transitive.iter().find(|key| !self.tags.contains_key(*key)) {
            Some(key) => {
                Err(Error::new(Kind::Usage, format!("transitive tag {key:?} is not among the session's tags")))
            }
            None => Ok(()),
        }
    }

    /// The tags of the session, and which of them are transitive: those of the request, and those that it inherits.
    fn tags_after(&self, caller: &Principal) -> Result<(Tags, BTreeSet<String>)> {
        let (mut tags, mut transitive) = (self.tags.clone(), self.transitive.clone());
        for key in &caller.transitive {
            if tags.keys().any(|own| own.to_lowercase() == key.to_lowercase()) {
                let what = format!("tag {key:?} is inherited from the calling session, and cannot be set again");
                return Err(Error::new(Kind::Usage, what));
            }
            if let Some(value) = caller.tags.get(key) {
                tags.insert(key.clone(), value.clone());
                transitive.insert(key.clone());
            }
        }
        check_tags(&tags)?;
        Ok((tags, transitive))
    }
}

impl Iam {
    /// Returns who a principal is; needs no permission (GetCallerIdentity).
    #[must_use]
    pub fn get_caller_identity(&self, principal: &Principal) -> CallerIdentity {
        let Principal { user_id, account, arn, .. } = principal.clone();
        CallerIdentity { user_id, account, arn }
    }

    /// Opens a session of a role. `allow` decides by the role's trust policy and the caller's own policies; its error is
    /// returned. Audited, refusals too.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], also for a role that does not exist and for root as the caller; [`Kind::Usage`] for a
    /// malformed request or a duration that the role does not allow, and (PackedPolicyTooLarge) for a policy and tags that
    /// do not fit; the errors of `check_policy` and `allow`; what the audit reports.
    pub fn assume_role(
        &self,
        request: &AssumeRole,
        caller: &Principal,
        check_policy: CheckPolicy<'_>,
        allow: &dyn Fn(&Role) -> Result<()>,
        by: impl Into<Asker>,
    ) -> Result<AssumedRole> {
        let by = by.into();
        let act = Act::new("sts:AssumeRole")
            .detail("role", shown(&request.role_arn))
            .detail("session", shown(&request.session_name));
        self.ledger.verb(act.clone(), by.clone(), || {
            request.check(check_policy)?;
            let role = self.role_to_assume(request, caller)?;
            allow(&role)?;
            let chained = caller.kind == PrincipalKind::Session;
            let most = if chained { MAX_CHAINED_SECONDS } else { role.max_session_seconds };
            let seconds = request.duration_seconds.unwrap_or(3600);
            check_seconds(seconds, most.min(role.max_session_seconds), "this role's session")?;
            let (tags, transitive) = request.tags_after(caller)?;
            let policies: Vec<String> = request.policy.iter().cloned().collect();
            let issued = self.issue_time(role.revoked_before);
            let session = Session {
                holder: role.id.clone(),
                session_name: Some(request.session_name.clone()),
                issued,
                expires: Timestamp(issued.0.saturating_add(i64::from(seconds) * 1000)),
                policies,
                tags,
                transitive,
            };
            let packed = session.policies.iter().map(String::len).sum::<usize>()
                + session.tags.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
            let credentials = self.open_session(&session, act, by)?;
            Ok(AssumedRole {
                credentials,
                arn: session_arn(&role.account, &role.name, &request.session_name),
                id: format!("{}:{}", role.id, request.session_name),
                packed_percent: packed_percent(packed),
            })
        })
    }

    fn role_to_assume(&self, request: &AssumeRole, caller: &Principal) -> Result<Role> {
        let refused = || denied(caller, &request.role_arn);
        if !request.role_arn.starts_with("arn:") {
            let what = format!("{:?} is not the ARN of a role", request.role_arn);
            return Err(Error::new(Kind::Usage, what).reason(Reason::InvalidArn));
        }
        let name = PrincipalRef::parse(&request.role_arn, &caller.account)?;
        if name.sort != Sort::Role || caller.kind == PrincipalKind::Root {
            return Err(refused());
        }
        let role = self.find::<Role>(&name).map_err(|e| if e.kind() == Kind::NotFound { refused() } else { e })?;
        // ARNs in policies are compared as text: one that differs in case is another role's.
        if role.arn() == request.role_arn { Ok(role) } else { Err(refused()) }
    }

    /// Opens a session of a user, with the user's own permissions (GetSessionToken). Audited.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for root, and for a session; [`Kind::Usage`] for a duration outside of 900 to
    /// 129,600 seconds; what the audit reports.
    pub fn get_session_token(
        &self,
        caller: &Principal,
        duration_seconds: Option<u32>,
        by: impl Into<Asker>,
    ) -> Result<SessionCredentials> {
        let by = by.into();
        let act = Act::new("sts:GetSessionToken").detail("principal", &caller.arn);
        self.ledger.verb(act.clone(), by.clone(), || {
            if caller.kind != PrincipalKind::User || caller.issued.is_some() {
                let what = format!("{} cannot call GetSessionToken", caller.arn);
                return Err(Error::new(Kind::AccessDenied, what).hint("call it with the access key of a user"));
            }
            let seconds = duration_seconds.unwrap_or(43_200);
            check_seconds(seconds, MAX_USER_SECONDS, "a user's session")?;
            let gone = || super::base::missing(&caller.arn);
            let user = self.catalog().get::<User>(&caller.user_id)?.ok_or_else(gone)?.record;
            let issued = self.issue_time(user.revoked_before);
            let session = Session {
                holder: user.id,
                session_name: None,
                issued,
                expires: Timestamp(issued.0.saturating_add(i64::from(seconds) * 1000)),
                policies: Vec::new(),
                tags: Tags::new(),
                transitive: BTreeSet::new(),
            };
            self.open_session(&session, act, by)
        })
    }

    /// Seals a session, and records it before anyone has its credentials.
    fn open_session(&self, session: &Session, act: Act, by: Asker) -> Result<SessionCredentials> {
        let access_key_id = draw_id(SESSION_KEY, 16, &*self.env.rng);
        let (token, secret) = self.tokens.seal(&access_key_id, session, &*self.env.rng)?;
        let act = act.detail("access-key", &access_key_id).detail("expires", session.expires);
        self.ledger.record(by, act, Ok(()))?;
        Ok(SessionCredentials { access_key_id, secret, token, expires: session.expires })
    }
}

/// Text from a request, for the audit.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(256)]
}
