//! How accounts, principals and access keys are shown.

use super::render::{facts, line, or_dash, table};
use crate::service::api::{AccessKeyInfo, AccountInfo, PrincipalInfo, PrincipalPolicyInfo};

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
    table(&["kind", "name", "id", "policies", "created"], principals.iter().map(row));
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
