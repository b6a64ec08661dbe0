//! Users and roles, their inline policies, and the revocation of their sessions.

use super::base::{CheckEditedPolicy, CheckPolicy, Iam, act, limit, no_root};
use super::departed::{Departed, Elsewhere};
use super::name::{
    MAX_NAME, MAX_POLICY_NAME, PrincipalRef, Sort, Tags, check_name, check_not_local, check_path, check_tags, draw_id,
};
use super::records::{AccessKeyRecord, Entity, Role, User, key_of};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Asker, Tx, Versioned};
use std::cell::Cell;
use std::collections::BTreeMap;

/// Most characters of all inline policies of a user or a role, without white space. AWS allows this to roles, and less to
/// users, which can have managed policies instead; coffer has none.
pub const MAX_POLICIES: usize = 10_240;
/// Most characters of a trust policy, without white space (IAM's default quota).
pub const MAX_TRUST: usize = 2048;
/// Most users of an account (IAM's quota).
pub const MAX_USERS: usize = 5000;
/// Most roles of an account (IAM's default quota).
pub const MAX_ROLES: usize = 1000;
/// Most policies and grants in which one transaction puts a principal's id in place of its ARN: the record of a transaction
/// lists its changes, and has at most 1 MiB.
const MAX_RENAMED: usize = if cfg!(test) { 8 } else { 2000 };
/// Longest session that a role can allow, in seconds, and the shortest value of that limit.
pub const MAX_SESSION_SECONDS: std::ops::RangeInclusive<u32> = 3600..=43_200;

/// The parameters of a new user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewUser {
    /// Its account.
    pub account: String,
    /// Its path; `None`: `/`.
    pub path: Option<String>,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
}

/// The parameters of a new role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRole {
    /// Its account.
    pub account: String,
    /// Its path; `None`: `/`.
    pub path: Option<String>,
    /// Its name.
    pub name: String,
    /// Its trust policy.
    pub trust: String,
    /// Longest session, in seconds; `None`: 3600.
    pub max_session_seconds: Option<u32>,
    /// Its tags.
    pub tags: Tags,
}

/// A user or a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserOrRole {
    /// A user.
    User(User),
    /// A role.
    Role(Role),
}

/// Length of a document as IAM's quotas count it: without white space.
fn counted(document: &str) -> usize {
    document.chars().filter(|c| !c.is_whitespace()).count()
}

fn check_trust(document: &str, check: CheckPolicy<'_>) -> Result<()> {
    if counted(document) > MAX_TRUST {
        return Err(limit(format!("a trust policy may have {MAX_TRUST} characters without white space")));
    }
    check(document)
}

/// Refuses to delete what still has something of its own (DeleteConflict).
fn conflict(arn: &str, has: &str, hint: &str) -> Error {
    let what = format!("{arn} cannot be deleted: it still has {has}");
    Error::new(Kind::InvalidState, what).reason(Reason::DeleteConflict).hint(hint)
}

fn has_no_policies<E: Entity>(record: &E) -> Result<()> {
    if record.policies().is_empty() {
        return Ok(());
    }
    Err(conflict(&record.arn_of(), "inline policies", "delete them first, with `coffer principal policy delete`"))
}

impl Iam {
    /// Creates a user.
    ///
    /// # Errors
    /// [`Kind::Exists`] for a name that is in use, in any case; [`Kind::NotFound`] for a missing account; [`Kind::Usage`]
    /// for a malformed name, path or tag; [`Kind::InvalidState`] (LimitExceededException) above [`MAX_USERS`].
    pub fn create_user(&self, new: NewUser, by: impl Into<Asker>) -> Result<User> {
        self.create_user_if(new, &|_, _| Ok(()), by)
    }

    /// The same if `may` does not refuse it, in the same transaction: a layer above knows who else has such an ARN.
    ///
    /// # Errors
    /// As [`Iam::create_user`], and those of `may`.
    pub fn create_user_if(
        &self,
        new: NewUser,
        may: &dyn Fn(&Tx<'_>, &User) -> Result<()>,
        by: impl Into<Asker>,
    ) -> Result<User> {
        check_not_local(&new.name)?;
        let NewUser { account, path, name, tags } = new;
        let path = path.unwrap_or_else(|| "/".into());
        let (id, created) = (draw_id("AIDA", 17, &*self.env.rng), self.env.now());
        let policies = BTreeMap::new();
        self.create(User { id, account, path, name, created, tags, policies, revoked_before: None }, MAX_USERS, may, by)
    }

    /// Creates a role.
    ///
    /// # Errors
    /// As [`Iam::create_user`]; [`Kind::Usage`] for a session limit outside [`MAX_SESSION_SECONDS`]; the error of
    /// `check_trust_policy`; [`Kind::InvalidState`] (LimitExceededException) above [`MAX_ROLES`] or [`MAX_TRUST`].
    pub fn create_role(&self, new: NewRole, check_trust_policy: CheckPolicy<'_>, by: impl Into<Asker>) -> Result<Role> {
        let NewRole { account, path, name, trust, max_session_seconds, tags } = new;
        let max_session_seconds = max_session_seconds.unwrap_or(3600);
        if !MAX_SESSION_SECONDS.contains(&max_session_seconds) {
            let (least, most) = MAX_SESSION_SECONDS.into_inner();
            let what =
                format!("the longest session of a role must be {least} to {most} seconds, not {max_session_seconds}");
            return Err(Error::new(Kind::Usage, what));
        }
        check_trust(&trust, check_trust_policy)?;
        let path = path.unwrap_or_else(|| "/".into());
        let (id, created) = (draw_id("AROA", 17, &*self.env.rng), self.env.now());
        let (policies, revoked_before) = (BTreeMap::new(), None);
        let role =
            Role { id, account, path, name, created, trust, max_session_seconds, tags, policies, revoked_before };
        self.create(role, MAX_ROLES, &|_, _| Ok(()), by)
    }

    fn create<E: Entity>(
        &self,
        new: E,
        most: usize,
        may: &dyn Fn(&Tx<'_>, &E) -> Result<()>,
        by: impl Into<Asker>,
    ) -> Result<E> {
        check_name(E::NOUN, new.entity_name(), 1, MAX_NAME)?;
        check_path(new.path())?;
        check_tags(new.tags())?;
        self.account(new.account())?;
        let act = act(&format!("Create{}", E::AWS), &new.arn_of()).detail("id", new.id());
        self.ledger.audited(by, act, |tx| {
            may(tx, &new)?;
            if tx.count_of::<E>("account", new.account())? >= most {
                let (noun, account) = (E::NOUN, new.account());
                return Err(limit(format!("account {account} has {most} {noun}s, the most that are possible")));
            }
            match tx.insert(&new) {
                Err(e) if e.kind() == Kind::Exists => {
                    let what = format!("{} {} of account {} already exists", E::NOUN, new.entity_name(), new.account());
                    Err(Error::new(Kind::Exists, what).hint("choose another name; case does not count"))
                }
                made => made.map(drop),
            }
        })?;
        Ok(new)
    }

    /// Returns whether an account has a user of that name, regardless of case.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn has_user(tx: &Tx<'_>, account: &str, name: &str) -> Result<bool> {
        tx.find::<User>(&key_of(account, name)).map(|found| found.is_some())
    }

    /// Returns an account's users and roles: users first, each sorted by name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a missing account; what the catalog reports. A damaged record is left out, and logged.
    pub fn principals(&self, account: &str) -> Result<(Vec<User>, Vec<Role>)> {
        self.account(account)?;
        Ok((self.all_of(account)?, self.all_of(account)?))
    }

    fn all_of<E: Entity>(&self, account: &str) -> Result<Vec<E>> {
        let listing = self.catalog().list_of::<E>(&[("account", account)])?;
        for bad in &listing.damaged {
            tracing::error!("{} {} is damaged: {}", E::NOUN, bad.id, bad.why);
        }
        let mut all: Vec<E> =
            listing.records.into_iter().map(|r| r.record).filter(|e| e.account() == account).collect();
        all.sort_by_key(|e| e.entity_name().to_ascii_lowercase());
        Ok(all)
    }

    /// Returns a user or a role.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] for root; [`Kind::Integrity`] for a damaged record.
    pub fn principal(&self, name: &PrincipalRef) -> Result<UserOrRole> {
        match name.sort {
            Sort::Root => Err(no_root("record", name)),
            Sort::User => self.find::<User>(name).map(UserOrRole::User),
            Sort::Role => self.find::<Role>(name).map(UserOrRole::Role),
        }
    }

    /// Deletes a user that has no access keys and no inline policies, or a role that has no inline policies. Its sessions
    /// end, and where policies and grants name it, its unique id takes the place of its ARN.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] (DeleteConflict); [`Kind::Usage`] for root.
    pub fn delete_principal(&self, name: &PrincipalRef, elsewhere: &Elsewhere<'_>, by: impl Into<Asker>) -> Result<()> {
        let by = by.into();
        match name.sort {
            Sort::Root => Err(no_root("record", name)),
            Sort::User => self.delete::<User>(name, elsewhere, &by, |tx, user| {
                if tx.list_of::<AccessKeyRecord>(&[("principal", &user.id)])?.records.is_empty() {
                    return Ok(());
                }
                let hint = "delete them first, with `coffer principal key delete`";
                Err(conflict(&user.arn(), "access keys", hint))
            }),
            Sort::Role => self.delete::<Role>(name, elsewhere, &by, |_, _| Ok(())),
        }
    }

    fn delete<E: Entity>(
        &self,
        name: &PrincipalRef,
        elsewhere: &Elsewhere<'_>,
        by: &Asker,
        may: impl Fn(&Tx<'_>, &E) -> Result<()>,
    ) -> Result<()> {
        let gone = self.find::<E>(name)?;
        let act = act(&format!("Delete{}", E::AWS), &gone.arn_of());
        // More changes than one record of the audit has room for. The rest is renamed before, in transactions of its own:
        // until the principal is gone, its id means the same as its ARN.
        let too_many = Cell::new(false);
        loop {
            let deleted = self.ledger.audited(by.clone(), act.clone(), |tx| {
                let Versioned { record, version } = Self::find_in::<E>(tx, name)?;
                may(tx, &record)?;
                has_no_policies(&record)?;
                too_many.set(elsewhere.rename_in(tx, &Departed::of(&record), MAX_RENAMED + 1)? > MAX_RENAMED);
                if too_many.get() {
                    let what = format!("more than {MAX_RENAMED} policies and grants name {}", record.arn_of());
                    return Err(conflict(&record.arn_of(), &what, "its unique id is put into them first"));
                }
                tx.delete::<E>(&record.id(), version)
            });
            if !too_many.take() {
                return deleted;
            }
            self.rename_first::<E>(name, elsewhere, by)?;
        }
    }

    /// Puts the unique id of a principal into [`MAX_RENAMED`] of the records that name it.
    fn rename_first<E: Entity>(&self, name: &PrincipalRef, elsewhere: &Elsewhere<'_>, by: &Asker) -> Result<()> {
        let act = Act::new("coffer:NamePrincipalById").detail("principal", self.find::<E>(name)?.arn_of());
        self.ledger.audited(by.clone(), act, |tx| {
            let departed = Departed::of(&Self::find_in::<E>(tx, name)?.record);
            elsewhere.rename_in(tx, &departed, MAX_RENAMED).map(drop)
        })
    }

    /// Puts an inline policy; replaces the one of that name.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] for a malformed name, or for root; the error of `check`; [`Kind::InvalidState`]
    /// (LimitExceededException) above [`MAX_POLICIES`].
    pub fn put_policy(
        &self,
        of: &PrincipalRef,
        name: &str,
        document: &str,
        check: CheckPolicy<'_>,
        by: impl Into<Asker>,
    ) -> Result<()> {
        check_name("policy", name, 1, MAX_POLICY_NAME)?;
        check(document)?;
        match of.sort {
            Sort::Root => Err(no_root("policies", of)),
            Sort::User => self.put_policy_of::<User>(of, name, document, by),
            Sort::Role => self.put_policy_of::<Role>(of, name, document, by),
        }
    }

    fn put_policy_of<E: Entity>(
        &self,
        of: &PrincipalRef,
        name: &str,
        document: &str,
        by: impl Into<Asker>,
    ) -> Result<()> {
        let act = self
            .act_on_policy::<E>("Put", of, name)?
            .detail("policy-sha256", crate::ledger::sha256_hex(document.as_bytes()));
        self.change::<E>(of, act, by, |record| {
            record.policies_mut().insert(name.to_owned(), document.to_owned());
            let all: usize = record.policies().values().map(|document| counted(document)).sum();
            if all > MAX_POLICIES {
                let what = format!(
                    "{}: its inline policies may have {MAX_POLICIES} characters without white space, not {all}",
                    record.arn_of()
                );
                return Err(limit(what));
            }
            Ok(())
        })
        .map(drop)
    }

    fn act_on_policy<E: Entity>(&self, verb: &str, of: &PrincipalRef, name: &str) -> Result<Act> {
        Ok(act(&format!("{verb}{}Policy", E::AWS), &self.find::<E>(of)?.arn_of()).detail("policy", name))
    }

    /// Returns the inline policies: documents by name, as they were put.
    ///
    /// # Errors
    /// As [`Iam::principal`].
    pub fn policies(&self, of: &PrincipalRef) -> Result<BTreeMap<String, String>> {
        Ok(match self.principal(of)? {
            UserOrRole::User(user) => user.policies,
            UserOrRole::Role(role) => role.policies,
        })
    }

    /// Returns an inline policy, as it was put.
    ///
    /// # Errors
    /// As [`Iam::principal`]; [`Kind::NotFound`] for a missing policy.
    pub fn policy(&self, of: &PrincipalRef, name: &str) -> Result<String> {
        self.policies(of)?.remove(name).ok_or_else(|| no_policy(of, name))
    }

    /// Deletes an inline policy.
    ///
    /// # Errors
    /// As [`Iam::policy`].
    pub fn delete_policy(&self, of: &PrincipalRef, name: &str, by: impl Into<Asker>) -> Result<()> {
        match of.sort {
            Sort::Root => Err(no_root("policies", of)),
            Sort::User => self.delete_policy_of::<User>(of, name, by),
            Sort::Role => self.delete_policy_of::<Role>(of, name, by),
        }
    }

    fn delete_policy_of<E: Entity>(&self, of: &PrincipalRef, name: &str, by: impl Into<Asker>) -> Result<()> {
        let act = self.act_on_policy::<E>("Delete", of, name)?;
        self.change::<E>(of, act, by, |record| {
            record.policies_mut().remove(name).map(drop).ok_or_else(|| no_policy(of, name))
        })
        .map(drop)
    }

    /// Replaces the trust policy of a role.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] for what is no role; the error of `check`; [`Kind::InvalidState`]
    /// (LimitExceededException) above [`MAX_TRUST`].
    pub fn update_trust_policy(
        &self,
        role: &PrincipalRef,
        document: &str,
        check: CheckEditedPolicy<'_>,
        by: impl Into<Asker>,
    ) -> Result<Role> {
        if role.sort != Sort::Role {
            return Err(Error::new(Kind::Usage, format!("{role} has no trust policy")).hint("name a role"));
        }
        let act = act("UpdateAssumeRolePolicy", &self.find::<Role>(role)?.arn())
            .detail("policy-sha256", crate::ledger::sha256_hex(document.as_bytes()));
        self.change::<Role>(role, act, by, |role| {
            check_trust(document, &|document| check(document, &role.trust))?;
            document.clone_into(&mut role.trust);
            Ok(())
        })
    }

    /// Refuses from now on every session that a user or a role has so far. Also possible on a full disk, because it
    /// restricts. AWS has no such operation: its console puts a policy on `aws:TokenIssueTime`.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] for root.
    pub fn revoke_sessions(&self, of: &PrincipalRef, by: impl Into<Asker>) -> Result<Timestamp> {
        match of.sort {
            Sort::Root => Err(no_root("sessions", of)),
            Sort::User => self.revoke_sessions_of::<User>(of, by),
            Sort::Role => self.revoke_sessions_of::<Role>(of, by),
        }
    }

    fn revoke_sessions_of<E: Entity>(&self, of: &PrincipalRef, by: impl Into<Asker>) -> Result<Timestamp> {
        let now = self.env.now();
        let act = act("RevokeSessions", &self.find::<E>(of)?.arn_of()).restrictive();
        let record = self.change::<E>(of, act, by, |record| {
            record.revoke(now);
            Ok(())
        })?;
        Ok(record.revoked_before().unwrap_or(now))
    }
}

fn no_policy(of: &PrincipalRef, name: &str) -> Error {
    Error::new(Kind::NotFound, format!("{of} has no policy {name:?}")).hint("see `coffer principal policy list`")
}
