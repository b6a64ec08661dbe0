//! Accounts, principals and access keys as operations show them.

use super::api::{AccessKeyInfo, AccountInfo, PrincipalInfo, PrincipalSort};
use crate::iam::{AccessKey, Account, NewAccessKey, Role, User, UserOrRole};

impl From<Account> for AccountInfo {
    fn from(account: Account) -> Self {
        let Account { id, name, created } = account;
        Self { id, name, created }
    }
}

impl From<User> for PrincipalInfo {
    fn from(user: User) -> Self {
        let arn = user.arn();
        let User { id, name, created, tags, policies, revoked_before, .. } = user;
        let (sort, policies) = (PrincipalSort::User, policies.into_keys().collect());
        Self { arn, sort, id, name, created, tags, policies, trust: None, max_session_seconds: None, revoked_before }
    }
}

impl From<Role> for PrincipalInfo {
    fn from(role: Role) -> Self {
        let arn = role.arn();
        let Role { id, name, created, trust, max_session_seconds, tags, policies, revoked_before, .. } = role;
        let (sort, policies) = (PrincipalSort::Role, policies.into_keys().collect());
        let (trust, max_session_seconds) = (Some(trust), Some(max_session_seconds));
        Self { arn, sort, id, name, created, tags, policies, trust, max_session_seconds, revoked_before }
    }
}

impl From<UserOrRole> for PrincipalInfo {
    fn from(found: UserOrRole) -> Self {
        match found {
            UserOrRole::User(user) => user.into(),
            UserOrRole::Role(role) => role.into(),
        }
    }
}

impl From<AccessKey> for AccessKeyInfo {
    fn from(key: AccessKey) -> Self {
        let AccessKey { id, account, user, active, created } = key;
        Self { id, account, user, active, created, secret: None }
    }
}

impl From<NewAccessKey> for AccessKeyInfo {
    fn from(new: NewAccessKey) -> Self {
        Self { secret: Some(new.secret), ..new.key.into() }
    }
}
