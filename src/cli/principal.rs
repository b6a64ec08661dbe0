//! `coffer account` and `coffer principal`.

use super::crypto::pairs;
use super::key::read_policy;
use super::render::{facts, line, or_dash, table};
use crate::error::Result;
use crate::service::api::{AccessKeyInfo, AccountInfo, PrincipalInfo, PrincipalPolicyInfo};
use crate::service::operations::Request;
use crate::service::operations::{
    CreateAccessKey, CreateAccount, CreateRole, CreateUser, DeleteAccessKey, DeletePrincipal, DeletePrincipalPolicy,
    DescribeAccount, DescribePrincipal, GetPrincipalPolicy, ListAccessKeys, ListAccounts, ListPrincipalPolicies,
    ListPrincipals, PutPrincipalPolicy, RevokeSessions, UpdateAccessKey, UpdateAssumeRolePolicy,
};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum AccountVerb {
    /// Create an account; accounts cannot be deleted
    Create {
        /// Name, 1 to 50 characters
        name: String,
        /// Account id, 12 digits [default: a random one]
        #[arg(long, value_name = "ACCOUNT")]
        id: Option<String>,
    },
    /// List accounts, the installation's first one first
    List,
    /// Show an account
    Show {
        /// Account id
        account: String,
    },
}

/// The account that a name is looked up in.
#[derive(Debug, Args)]
pub(super) struct Within {
    /// Account [default: this installation's first]
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// user/NAME, role/NAME, root, or an ARN
    principal: String,
    #[command(flatten)]
    within: Within,
}

/// What users and roles have in common when they are created.
#[derive(Debug, Args)]
pub(super) struct New {
    /// Name, 1 to 64 characters
    name: String,
    #[command(flatten)]
    within: Within,
    /// Path, as /division/team/ [default: /]
    #[arg(long)]
    path: Option<String>,
    /// Tag, name=value; can be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum NewVerb {
    /// Create a user
    User {
        #[command(flatten)]
        new: New,
    },
    /// Create a role, which others assume for a session
    Role {
        #[command(flatten)]
        new: New,
        /// Trust policy: who may assume it (JSON file; - for standard input)
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
        /// Longest session in seconds, 3600 to 43200
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        max_session: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PrincipalVerb {
    /// Create a user or a role
    #[command(subcommand)]
    Create(NewVerb),
    /// List the users and roles of an account
    List {
        #[command(flatten)]
        within: Within,
    },
    /// Show a user or a role
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Delete a user or a role that has no access keys and no policies; its sessions end
    Delete {
        #[command(flatten)]
        which: Which,
    },
    /// Manage inline policies: what a user or a role may do
    #[command(subcommand)]
    Policy(PrincipalPolicyVerb),
    /// Replace the trust policy of a role: who may assume it
    UpdateTrust {
        #[command(flatten)]
        which: Which,
        /// Policy document, JSON; - for standard input
        file: PathBuf,
    },
    /// Manage access keys, with which requests over HTTP are signed
    #[command(subcommand)]
    Key(AccessKeyVerb),
    /// End all sessions that a user or a role has so far
    RevokeSessions {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PrincipalPolicyVerb {
    /// Put an inline policy; replaces the one of that name
    Put {
        #[command(flatten)]
        which: Which,
        /// Name of the policy
        policy: String,
        /// Policy document, JSON; - for standard input
        file: PathBuf,
    },
    /// Show an inline policy
    Show {
        #[command(flatten)]
        which: Which,
        /// Name of the policy
        policy: String,
    },
    /// List inline policies
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Delete an inline policy
    Delete {
        #[command(flatten)]
        which: Which,
        /// Name of the policy
        policy: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AccessKeyVerb {
    /// Create an access key for a user or for root; its secret is shown only once
    Create {
        #[command(flatten)]
        which: Which,
    },
    /// List access keys
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Make an access key inactive: requests signed with it are refused
    Disable {
        /// Access key id
        key: String,
    },
    /// Make an access key active again
    Enable {
        /// Access key id
        key: String,
    },
    /// Delete an access key
    Delete {
        /// Access key id
        key: String,
    },
}

pub(super) fn account_request(verb: AccountVerb) -> Request {
    match verb {
        AccountVerb::Create { name, id } => CreateAccount { name, account: id }.into(),
        AccountVerb::List => ListAccounts {}.into(),
        AccountVerb::Show { account } => DescribeAccount { account }.into(),
    }
}

pub(super) fn principal_request(verb: PrincipalVerb) -> Result<Request> {
    Ok(match verb {
        PrincipalVerb::Create(NewVerb::User { new: New { name, within, path, tags } }) => {
            CreateUser { name, account: within.account, path, tags: pairs(&tags)? }.into()
        }
        PrincipalVerb::Create(NewVerb::Role { new: New { name, within, path, tags }, trust, max_session }) => {
            let (trust, max_session_seconds) = (read_policy(&trust)?, Some(max_session));
            CreateRole { name, trust, account: within.account, path, max_session_seconds, tags: pairs(&tags)? }.into()
        }
        PrincipalVerb::List { within } => ListPrincipals { account: within.account }.into(),
        PrincipalVerb::Show { which: Which { principal, within } } => {
            DescribePrincipal { principal, account: within.account }.into()
        }
        PrincipalVerb::Delete { which: Which { principal, within } } => {
            DeletePrincipal { principal, account: within.account }.into()
        }
        PrincipalVerb::Policy(verb) => policy_request(verb)?,
        PrincipalVerb::UpdateTrust { which: Which { principal, within }, file } => {
            UpdateAssumeRolePolicy { principal, account: within.account, document: read_policy(&file)? }.into()
        }
        PrincipalVerb::Key(verb) => access_key_request(verb),
        PrincipalVerb::RevokeSessions { which: Which { principal, within } } => {
            RevokeSessions { principal, account: within.account }.into()
        }
    })
}

fn policy_request(verb: PrincipalPolicyVerb) -> Result<Request> {
    Ok(match verb {
        PrincipalPolicyVerb::Put { which: Which { principal, within }, policy, file } => {
            let document = read_policy(&file)?;
            PutPrincipalPolicy { principal, account: within.account, policy, document }.into()
        }
        PrincipalPolicyVerb::Show { which: Which { principal, within }, policy } => {
            GetPrincipalPolicy { principal, account: within.account, policy }.into()
        }
        PrincipalPolicyVerb::List { which: Which { principal, within } } => {
            ListPrincipalPolicies { principal, account: within.account }.into()
        }
        PrincipalPolicyVerb::Delete { which: Which { principal, within }, policy } => {
            DeletePrincipalPolicy { principal, account: within.account, policy }.into()
        }
    })
}

fn access_key_request(verb: AccessKeyVerb) -> Request {
    match verb {
        AccessKeyVerb::Create { which: Which { principal, within } } => {
            CreateAccessKey { principal, account: within.account }.into()
        }
        AccessKeyVerb::List { which: Which { principal, within } } => {
            ListAccessKeys { principal, account: within.account }.into()
        }
        AccessKeyVerb::Disable { key } => UpdateAccessKey { access_key: key, active: false }.into(),
        AccessKeyVerb::Enable { key } => UpdateAccessKey { access_key: key, active: true }.into(),
        AccessKeyVerb::Delete { key } => DeleteAccessKey { access_key: key }.into(),
    }
}

pub(super) fn show_account(a: &AccountInfo) {
    facts(&[("account", a.id.clone()), ("name", a.name.clone()), ("created", a.created.to_string())]);
}

pub(super) fn list_accounts(accounts: &[AccountInfo]) {
    let row = |a: &AccountInfo| vec![a.id.clone(), a.name.clone(), a.created.to_string()];
    table(&["account", "name", "created"], accounts.iter().map(row));
}

pub(super) fn show_principal(p: &PrincipalInfo) {
    let mut rows = vec![
        (p.sort.word(), p.name.clone()),
        ("arn", p.arn.clone()),
        ("id", p.id.clone()),
        ("policies", if p.policies.is_empty() { "-".to_owned() } else { p.policies.join(", ") }),
        ("created", p.created.to_string()),
    ];
    rows.extend(p.max_session_seconds.iter().map(|s| ("longest session", format!("{s} s"))));
    rows.extend(p.revoked_before.iter().map(|at| ("sessions revoked", format!("up to {at}"))));
    rows.extend(p.tags.iter().map(|(k, v)| ("tag", format!("{k} = {v}"))));
    rows.extend(p.trust.iter().map(|t| ("trust policy", t.split_whitespace().collect::<Vec<_>>().join(" "))));
    facts(&rows);
}

pub(super) fn list_principals(principals: &[PrincipalInfo]) {
    let row = |p: &PrincipalInfo| {
        vec![p.sort.to_string(), p.name.clone(), p.id.clone(), p.policies.join(" "), p.created.to_string()]
    };
    table(&["sort", "name", "id", "policies", "created"], principals.iter().map(row));
}

pub(super) fn list_policies(policies: &[PrincipalPolicyInfo]) {
    table(&["policy"], policies.iter().map(|p| vec![p.name.clone()]));
}

pub(super) fn show_access_key(k: &AccessKeyInfo) {
    let mut rows = vec![
        ("access key", k.id.clone()),
        ("account", k.account.clone()),
        ("user", k.user.clone().unwrap_or_else(|| "root".to_owned())),
        ("status", status(k)),
    ];
    if let Some(secret) = &k.secret {
        rows.push(("secret", secret.to_string()));
        rows.push(("", "shown only once".to_owned()));
    }
    facts(&rows);
}

fn status(k: &AccessKeyInfo) -> String {
    if k.active { "Active" } else { "Inactive" }.to_owned()
}

pub(super) fn list_access_keys(keys: &[AccessKeyInfo]) {
    let row = |k: &AccessKeyInfo| vec![k.id.clone(), or_dash(k.user.as_ref()), status(k), k.created.to_string()];
    table(&["access key", "user", "status", "created"], keys.iter().map(row));
}

/// The id of an access key, and its secret if it was just made.
pub(super) fn access_key_ids(k: &AccessKeyInfo) -> Vec<String> {
    [k.id.clone()].into_iter().chain(k.secret.iter().map(|s| s.to_string())).collect()
}

pub(super) fn show_policy(p: &PrincipalPolicyInfo) {
    line(&p.document);
}
