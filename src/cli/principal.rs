//! `coffer account` and `coffer principal`.

use super::crypto::pairs;
use super::key::read_policy;
use crate::error::Result;
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
