//! From an access key id to the secret that its signatures are checked with, and to who signed.
//!
//! Refusals are not audited here: whoever calls can bound how often strangers cause a record.

use super::base::{Iam, PADDED};
use super::known::{Holder, Opened};
use super::name::{Sort, Tags};
use super::records::{AccessKeyRecord, Account, Entity, Role, User};
use super::token::{SESSION_KEY, Session, unrecognized};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::Record;
use crate::secret::Secret;
use std::collections::BTreeSet;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What kind of principal a credential belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// The account's root: its identity policies are everything.
    Root,
    /// A user, with an access key or with a session of its own ([`Principal::issued`]).
    User,
    /// The session of a role.
    Session,
}

/// Who signed a request, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its ARN: that of the user or root, or `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// Its account.
    pub account: String,
    /// What it is.
    pub kind: PrincipalKind,
    /// `aws:userid`: the user's unique id; the role's, `:` and the session's name; for root the account.
    pub user_id: String,
    /// `aws:username`; only users have one.
    pub user_name: Option<String>,
    /// ARN of the role, of a role's session.
    pub role_arn: Option<String>,
    /// Name of a role's session.
    pub session_name: Option<String>,
    /// Tags (`aws:PrincipalTag`): those of the user or role; a session's take precedence over its role's.
    pub tags: Tags,
    /// Keys of the tags that the next session in a chain inherits.
    pub transitive: BTreeSet<String>,
    /// When the session was issued (`aws:TokenIssueTime`); `None`: no session.
    pub issued: Option<Timestamp>,
    /// When the session ends.
    pub expires: Option<Timestamp>,
    /// Whether the session was opened with multi-factor authentication; coffer has none.
    pub mfa: bool,
    /// Identity policies: documents as they were put. The same `Arc` as long as nothing was changed.
    pub policies: Vec<Arc<str>>,
    /// Session policies, which limit the identity policies; empty: no limit.
    pub session_policies: Vec<Arc<str>>,
}

/// A secret access key, and whose it is.
pub struct Credential {
    /// The secret that signatures are checked with.
    pub secret: Zeroizing<String>,
    /// Who signs with it.
    pub principal: Principal,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({}, redacted)", self.principal.arn)
    }
}

fn unknown(access_key_id: &str) -> Error {
    let shown = &access_key_id[..access_key_id.floor_char_boundary(128)];
    unrecognized(format!("access key {shown:?} does not exist, or is inactive"))
}

impl Iam {
    /// Returns the secret and the principal of an access key, or of a session with its token. Reads memory only, unless
    /// something was changed since the last call.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`]: (UnrecognizedClientException) for an access key that does not exist or is inactive, a token
    /// that is not that key's, or a session that was revoked or whose user or role was deleted; (ExpiredTokenException)
    /// for a session that has ended. What the catalog reports.
    pub fn credential(&self, access_key_id: &str, session_token: Option<&str>) -> Result<Credential> {
        match session_token {
            Some(token) => self.session_credential(access_key_id, token),
            None if access_key_id.starts_with(SESSION_KEY) => {
                let what =
                    format!("access key {:?} is that of a session, and the session token is missing", access_key_id);
                Err(unrecognized(what).hint("send the session token along"))
            }
            None => self.key_credential(access_key_id),
        }
    }

    /// A number that differs after each change of a record that credentials depend on.
    fn changes(&self) -> u64 {
        let kinds = [Account::KIND, User::KIND, Role::KIND, AccessKeyRecord::KIND];
        kinds.iter().map(|kind| self.catalog().changes_of(kind)).sum()
    }

    fn key_credential(&self, id: &str) -> Result<Credential> {
        let at = self.changes();
        let key = match self.known.key(id, at) {
            Some(key) => key,
            None => {
                let key = Arc::new(self.open_key(id)?);
                self.known.keep_key(id, &key, at);
                key
            }
        };
        let holder = self.holder(&key.holder, at)?.ok_or_else(|| unknown(id))?;
        let (user_id, sort) = (key.holder.clone(), holder.sort);
        let principal = Principal {
            arn: holder.arn.clone(),
            account: holder.account.clone(),
            kind: if sort == Sort::Root { PrincipalKind::Root } else { PrincipalKind::User },
            user_id,
            user_name: (sort == Sort::User).then(|| holder.name.clone()),
            role_arn: None,
            session_name: None,
            tags: holder.tags.clone(),
            transitive: BTreeSet::new(),
            issued: None,
            expires: None,
            mfa: false,
            policies: holder.policies.clone(),
            session_policies: Vec::new(),
        };
        Ok(Credential { secret: text_of(&key.secret)?, principal })
    }

    fn open_key(&self, id: &str) -> Result<Opened> {
        let found = self.catalog().get::<AccessKeyRecord>(id)?.map(|k| k.record);
        let record = found.filter(|k| k.active).ok_or_else(|| unknown(id))?;
        let secret = self.open_secret(id, &record.sealed, record.root_generation)?;
        Ok(Opened { secret, holder: record.principal })
    }

    /// The holder of that unique id, if it exists.
    fn holder(&self, id: &str, at: u64) -> Result<Option<Arc<Holder>>> {
        if let Some(known) = self.known.holder(id, at) {
            return Ok(Some(known));
        }
        let holder = match id.get(..4) {
            Some("AIDA") => self.holder_of::<User>(id, Sort::User)?,
            Some("AROA") => self.holder_of::<Role>(id, Sort::Role)?,
            _ => self.root_of(id)?,
        };
        let holder = holder.map(Arc::new);
        if let Some(holder) = &holder {
            self.known.keep_holder(id, holder, at);
        }
        Ok(holder)
    }

    fn holder_of<E: Entity>(&self, id: &str, sort: Sort) -> Result<Option<Holder>> {
        let Some(found) = self.catalog().get::<E>(id)? else { return Ok(None) };
        let record = found.record;
        Ok(Some(Holder {
            sort,
            account: record.account().to_owned(),
            arn: record.arn_of(),
            name: record.entity_name().to_owned(),
            tags: record.tags().clone(),
            policies: record.policies().values().map(|document| Arc::from(&**document)).collect(),
            revoked_before: record.revoked_before(),
        }))
    }

    fn root_of(&self, account: &str) -> Result<Option<Holder>> {
        let account = match self.account(account) {
            Ok(account) => account.id,
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Usage) => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(Some(Holder {
            sort: Sort::Root,
            arn: format!("arn:aws:iam::{account}:root"),
            account,
            name: String::new(),
            tags: Tags::new(),
            policies: Vec::new(),
            revoked_before: None,
        }))
    }

    fn session_credential(&self, access_key_id: &str, token: &str) -> Result<Credential> {
        let (session, secret) = self.tokens.open(access_key_id, token)?;
        if session.expires <= self.env.now() {
            let what = format!("the session token expired at {}", session.expires);
            let err = Error::new(Kind::AccessDenied, what).reason(Reason::ExpiredToken);
            return Err(err.hint("request a new session"));
        }
        let gone = || unrecognized("the session's user or role was deleted");
        let holder = self.holder(&session.holder, self.changes())?.ok_or_else(gone)?;
        if holder.revoked_before.is_some_and(|at| session.issued <= at) {
            return Err(unrecognized("the session was revoked").hint("request a new session"));
        }
        let principal = in_session(&holder, session).ok_or_else(gone)?;
        Ok(Credential { secret, principal })
    }
}

/// The principal of a session. `None`: root has no sessions.
fn in_session(holder: &Holder, session: Session) -> Option<Principal> {
    let Session { holder: id, session_name, issued, expires, policies, tags: own, transitive } = session;
    let (kind, arn, user_id) = match (holder.sort, &session_name) {
        (Sort::User, None) => (PrincipalKind::User, holder.arn.clone(), id),
        (Sort::Role, Some(name)) => {
            (PrincipalKind::Session, session_arn(&holder.account, &holder.name, name), format!("{id}:{name}"))
        }
        _ => return None,
    };
    let is_own = |key: &str| own.keys().any(|k| k.to_lowercase() == key.to_lowercase());
    let mut tags: Tags =
        holder.tags.iter().filter(|(key, _)| !is_own(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    tags.extend(own);
    Some(Principal {
        arn,
        account: holder.account.clone(),
        kind,
        user_id,
        user_name: (holder.sort == Sort::User).then(|| holder.name.clone()),
        role_arn: (holder.sort == Sort::Role).then(|| holder.arn.clone()),
        session_name,
        tags,
        transitive,
        issued: Some(issued),
        expires: Some(expires),
        mfa: false,
        policies: holder.policies.clone(),
        session_policies: policies.into_iter().map(Arc::from).collect(),
    })
}

/// The ARN of a role's session, which has no path (IAM User Guide, "IAM ARNs").
pub(super) fn session_arn(account: &str, role: &str, session: &str) -> String {
    format!("arn:aws:sts::{account}:assumed-role/{role}/{session}")
}

/// A secret without its padding.
fn text_of(padded: &Secret<PADDED>) -> Result<Zeroizing<String>> {
    let bytes = padded.expose();
    let text = bytes.get(1..=usize::from(bytes[0])).and_then(|b| std::str::from_utf8(b).ok());
    let text = text.ok_or_else(|| Error::new(Kind::Integrity, "a secret access key is not of the expected form"))?;
    Ok(Zeroizing::new(text.to_owned()))
}
