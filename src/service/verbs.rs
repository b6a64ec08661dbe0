//! What a request about keys is in the audit, before anything of it was understood: its operation, and the key as it was named.

use super::Service;
use super::api::Request;
use crate::kms::{Act, KeyRef};

/// Longest name of a key or an alias, as it was given, that is recorded; bytes.
const NAMED: usize = 256;

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAMED)]
}

impl Service {
    /// The act that a refused request is recorded as. Requests that are not about keys are recorded where they are done.
    pub(super) fn act_of(&self, request: &Request) -> Act {
        use Request as R;
        let on = |verb: &str, key: &str| match key.parse::<KeyRef>() {
            Ok(key) => self.kms.act_on(format!("kms:{verb}"), &key),
            Err(_) => Act::new(format!("kms:{verb}")).detail("named", cut(key)),
        };
        let alone = |verb: &str| Act::new(format!("kms:{verb}"));
        let alias = |verb: &str, alias: &str| alone(verb).detail("alias", cut(alias));
        match request {
            R::KeyCreate { .. } => alone("CreateKey"),
            R::KeyShow { key } => on("DescribeKey", key),
            R::KeyEnable { key } => on("EnableKey", key),
            R::KeyDisable { key } => on("DisableKey", key).restrictive(),
            R::KeyRotate { key } => on("RotateKeyOnDemand", key),
            R::KeyEncrypt { key, .. } => on("Encrypt", key),
            R::KeyDecrypt { key: Some(key), .. } => on("Decrypt", key),
            R::KeyDecrypt { key: None, .. } => alone("Decrypt"),
            R::KeyReEncrypt { key, .. } => on("ReEncryptTo", key),
            R::KeyGenerateDataKey { key, plaintext: true, .. } => on("GenerateDataKey", key),
            R::KeyGenerateDataKey { key, plaintext: false, .. } => on("GenerateDataKeyWithoutPlaintext", key),
            R::KeyScheduleDeletion { key, .. } => on("ScheduleKeyDeletion", key).restrictive(),
            R::KeyCancelDeletion { key } => on("CancelKeyDeletion", key),
            R::KeyPolicyShow { key } => on("GetKeyPolicy", key),
            R::KeyPolicySet { key, .. } => on("PutKeyPolicy", key),
            R::KeyPolicyReset { key } => on("PutKeyPolicy", key).detail("reset", true),
            R::GrantCreate { key, .. } => on("CreateGrant", key),
            R::GrantList { key, .. } => on("ListGrants", key),
            R::GrantListRetirable { .. } => alone("ListRetirableGrants"),
            R::GrantRevoke { key, grant } => on("RevokeGrant", key).detail("grant", cut(grant)).restrictive(),
            R::GrantRetire { key: Some(key), .. } => on("RetireGrant", key).restrictive(),
            R::GrantRetire { key: None, .. } => alone("RetireGrant").restrictive(),
            R::AliasCreate { alias: name, key } => on("CreateAlias", key).detail("alias", cut(name)),
            R::AliasUpdate { alias: name, key } => on("UpdateAlias", key).detail("alias", cut(name)),
            R::AliasDelete { alias: name } => alias("DeleteAlias", name),
            R::AliasList {} => alone("ListAliases"),
            R::KeyList {} => alone("ListKeys"),
            _ => alone("Unknown"),
        }
    }
}
