//! What a request is in the audit before any of it is understood: its operation, and what it names, as it was named.

use super::Service;
use super::api::Request;
use crate::error::{Error, Result};
use crate::kms::{Caller, KeyRef};
use crate::ledger::Act;
use crate::redact;

/// Longest name, as it was given, that is recorded; bytes.
const NAMED: usize = 256;

/// A name as it was given. Masked before it is cut, so that no part of a token is left that is not known for one.
fn cut(text: &str) -> String {
    let mut text = redact::tokens(text).into_owned();
    text.truncate(text.floor_char_boundary(NAMED));
    text
}

/// An operation on something that the request names.
fn named(operation: &str, what: &str) -> Act {
    Act::new(operation).detail("named", cut(what))
}

impl Service {
    /// The act that a refused request is recorded as. `None`: it reads what no policy guards, and leaves no record.
    pub(super) fn act_of(&self, request: &Request) -> Option<Act> {
        use Request as R;
        Some(match request {
            R::Status {}
            | R::VolumeList {}
            | R::VolumeShow { .. }
            | R::SnapshotList {}
            | R::SnapshotShow { .. }
            | R::SnapshotVerify { .. }
            | R::AttachmentList {}
            | R::AccessList {}
            | R::Doctor {}
            | R::AuditVerify {}
            | R::AuditList { .. } => return None,
            R::VolumeCreate { name, .. } => match name {
                Some(name) => named("ec2:CreateVolume", name),
                None => Act::new("ec2:CreateVolume"),
            },
            R::VolumeModify { volume, .. } | R::VolumeGrow { volume, .. } => named("ec2:ModifyVolume", volume),
            R::VolumeSuspend { volume } => named("coffer:SuspendVolume", volume).restrictive(),
            R::VolumeResume { volume } => named("coffer:ResumeVolume", volume),
            R::VolumeDelete { volume } => named("ec2:DeleteVolume", volume),
            R::VolumeExport { volume, .. } => named("coffer:ExportVolume", volume),
            R::VolumeExportKey { volume, .. } => named("coffer:ExportKey", volume),
            R::VolumeAcceptRollback { volume } => named("coffer:AcceptRollback", volume),
            R::VolumeAcceptLostWrites { volume } => named("coffer:AcceptLostWrites", volume),
            R::SnapshotCreate { volume, .. } => named("ec2:CreateSnapshot", volume),
            R::SnapshotDelete { snapshot } => named("ec2:DeleteSnapshot", snapshot),
            R::AttachBegin { volume, .. } => named("ec2:AttachVolume", volume),
            R::AttachRenew { what } => named("coffer:RenewAttachment", what),
            R::AttachEnd { what } => named("ec2:DetachVolume", what).restrictive(),
            R::LeaseBreak { what } => named("coffer:BreakLease", what).restrictive(),
            R::AccessAllow { name, .. } => named("coffer:AllowTlsClient", name),
            R::AccessToken { name, .. } => named("coffer:MakeTlsToken", name),
            R::AccessDeny { name } => named("coffer:DenyTlsClient", name).restrictive(),
            R::AuditAccept {} => Act::new("coffer:AcceptAudit"),
            R::KeyCreate { .. }
            | R::KeyList {}
            | R::KeyShow { .. }
            | R::KeyEnable { .. }
            | R::KeyDisable { .. }
            | R::KeyRotate { .. }
            | R::KeyEncrypt { .. }
            | R::KeyDecrypt { .. }
            | R::KeyReEncrypt { .. }
            | R::KeyGenerateDataKey { .. }
            | R::KeyScheduleDeletion { .. }
            | R::KeyCancelDeletion { .. }
            | R::KeyPolicyShow { .. }
            | R::KeyPolicySet { .. }
            | R::KeyPolicyReset { .. }
            | R::GrantCreate { .. }
            | R::GrantList { .. }
            | R::GrantListRetirable { .. }
            | R::GrantRevoke { .. }
            | R::GrantRetire { .. }
            | R::AliasCreate { .. }
            | R::AliasUpdate { .. }
            | R::AliasDelete { .. }
            | R::AliasList {} => self.key_act_of(request),
        })
    }

    /// The same for the requests about keys, which name the key where it is known.
    fn key_act_of(&self, request: &Request) -> Act {
        use Request as R;
        let on = |verb: &str, key: &str| match key.parse::<KeyRef>() {
            Ok(key) => self.kms.act_on(format!("kms:{verb}"), &key),
            Err(_) => named(&format!("kms:{verb}"), key),
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
            _ => alone("ListKeys"),
        }
    }

    /// Records a request that was refused before it could be read: nothing more is known of it.
    pub fn refuse_unread(&self, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new("coffer:UnknownRequest"), caller, err);
    }

    /// Records that a client over NBD asked for an export, and that which one could not be read.
    pub fn refuse_unnamed(&self, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new("ec2:AttachVolume"), caller, err);
    }

    /// Opens an export, or looks at one, for a caller over NBD: a refusal leaves one record.
    ///
    /// # Errors
    /// What `open` says.
    pub fn opening<R>(&self, name: &str, caller: &Caller, open: impl FnOnce() -> Result<R>) -> Result<R> {
        // What follows the name is a token, or nothing that says which export.
        let plain = name.split_once('?').map_or(name, |(plain, _)| plain);
        self.ledger().verb(named("ec2:AttachVolume", plain), caller, open)
    }
}
