//! `coffer key policy` and `coffer key grant`.

use super::args::Common;
use super::client::ask;
use super::crypto::pairs;
use super::out::note;
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::policy::MAX_POLICY;
use crate::service::api::Reply;
use crate::service::operations::Request;
use crate::service::operations::{
    CreateGrant, GetKeyPolicy, ListGrants, ListRetirableGrants, PutKeyPolicy, ResetKeyPolicy, RetireGrant, RevokeGrant,
};
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A key policy that is about to be put.
#[derive(Debug, Args)]
pub(super) struct Lockout {
    /// Accept a policy under which you could no longer change the key's policy
    #[arg(long)]
    bypass_policy_lockout_safety_check: bool,
}

impl Lockout {
    pub(super) const fn is_bypassed(&self) -> bool {
        self.bypass_policy_lockout_safety_check
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyVerb {
    /// Show a CMK's key policy
    Show {
        /// Key id, ARN or alias
        key: String,
    },
    /// Replace a CMK's key policy
    Set {
        /// Key id, ARN or alias
        key: String,
        /// Policy document, JSON, at most 32 KiB; - for standard input
        file: PathBuf,
        #[command(flatten)]
        lockout: Lockout,
    },
    /// Restore a CMK's default policy, if its policy locks everybody out (uid 0 only; audited)
    Reset {
        /// Key id, ARN or alias
        key: String,
    },
}

/// Grant constraints.
#[derive(Debug, Args)]
pub(super) struct ConstraintArgs {
    /// Allow only this encryption context, name=value; can be repeated
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "context_subset")]
    context_equals: Vec<String>,
    /// Allow only encryption contexts that include this pair, name=value; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    context_subset: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum GrantVerb {
    /// Create a grant: let a principal use a CMK without changing its policy
    Create {
        /// Key id, ARN or alias
        key: String,
        /// ARN of the principal that gets the permissions
        #[arg(long, value_name = "ARN")]
        grantee: String,
        /// Operation that it allows, as Decrypt; can be repeated
        #[arg(long = "operation", value_name = "OPERATION", required = true)]
        operations: Vec<String>,
        /// ARN of a principal that may retire it
        #[arg(long, value_name = "ARN")]
        retiring: Option<String>,
        #[command(flatten)]
        constraint: ConstraintArgs,
        /// Name; a second request with the same name returns the same grant
        #[arg(long)]
        name: Option<String>,
    },
    /// List a CMK's grants, or those that a principal may retire
    List {
        /// Key id, ARN or alias
        #[arg(required_unless_present = "retirable_by")]
        key: Option<String>,
        /// Only the grant with this id
        #[arg(long, value_name = "GRANT")]
        id: Option<String>,
        /// Only grants for this principal
        #[arg(long, value_name = "ARN")]
        grantee: Option<String>,
        /// Grants of all CMKs that this principal may retire
        #[arg(long, value_name = "ARN", conflicts_with_all = ["key", "id", "grantee"])]
        retirable_by: Option<String>,
    },
    /// Revoke a grant; a volume that is attached under it is suspended
    Revoke {
        /// Key id, ARN or alias
        key: String,
        /// Grant id
        grant: String,
    },
    /// Retire a grant, as its retiring principal or as an administrator
    Retire {
        /// Key id, ARN or alias
        #[arg(required_unless_present = "token", requires = "grant")]
        key: Option<String>,
        /// Grant id
        grant: Option<String>,
        /// Grant token, instead of the key and grant id
        #[arg(long, conflicts_with_all = ["key", "grant"])]
        token: Option<String>,
    },
}

/// A policy from a file, or from standard input.
pub(super) fn read_policy(file: &Path) -> Result<String> {
    let most = MAX_POLICY as u64 + 1;
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().take(most).read_to_end(&mut bytes).on(|| "read the policy from standard input".to_owned())?;
    } else {
        let what = || format!("read the policy {}", file.display());
        std::fs::File::open(file).and_then(|f| f.take(most).read_to_end(&mut bytes)).on(what)?;
    }
    if bytes.len() as u64 == most {
        let what = format!("{}: a key policy is limited to {MAX_POLICY} bytes", file.display());
        return Err(Error::new(Kind::Usage, what).hint("combine principals and actions in fewer statements"));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(Kind::Usage, format!("{}: not valid UTF-8", file.display())))
}

pub(super) fn policy_request(verb: PolicyVerb) -> Result<Request> {
    Ok(match verb {
        PolicyVerb::Show { key } => GetKeyPolicy { key }.into(),
        PolicyVerb::Set { key, file, lockout } => {
            let bypass_lockout_check = lockout.is_bypassed();
            PutKeyPolicy { key, policy: read_policy(&file)?, bypass_lockout_check }.into()
        }
        PolicyVerb::Reset { key } => ResetKeyPolicy { key }.into(),
    })
}

/// Whether a request asks not to be checked for a policy that locks its author out.
pub(super) const fn bypasses_lockout_check(request: &Request) -> bool {
    match request {
        Request::PutKeyPolicy(put) => put.bypass_lockout_check,
        Request::CreateKey(create) => create.bypass_lockout_check && create.policy.is_some(),
        _ => false,
    }
}

/// Performs a request that bypasses the lockout check, and warns where that matters.
pub(super) fn ask_without_lockout_check(common: &Common, request: Request) -> Result<Reply> {
    let reply = ask(common, request)?;
    match &reply {
        Reply::Done { warning: Some(warning), .. } => note(format!("coffer: warning: {warning}")),
        Reply::Key(_) => note(
            "coffer: warning: the lockout check was bypassed: if the key policy locks you out, only root can change it, with `coffer key policy reset`",
        ),
        _ => {}
    }
    Ok(reply)
}

fn given(context: &[String]) -> Result<Option<BTreeMap<String, String>>> {
    if context.is_empty() { Ok(None) } else { pairs(context).map(Some) }
}

pub(super) fn grant_request(verb: GrantVerb) -> Result<Request> {
    Ok(match verb {
        GrantVerb::Create { key, grantee, operations, retiring, constraint, name } => {
            let (equals, subset) = (given(&constraint.context_equals)?, given(&constraint.context_subset)?);
            CreateGrant { key, grantee, retiring, operations, equals, subset, name }.into()
        }
        GrantVerb::List { key, id, grantee, retirable_by } => match (key, retirable_by) {
            (_, Some(retiring)) => ListRetirableGrants { retiring }.into(),
            (key, None) => ListGrants { key: key.unwrap_or_default(), grant: id, grantee }.into(),
        },
        GrantVerb::Revoke { key, grant } => RevokeGrant { key, grant }.into(),
        GrantVerb::Retire { key, grant, token } => RetireGrant { key, grant, token }.into(),
    })
}
