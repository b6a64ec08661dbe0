//! Key verbs: the KMS's, and what they do to open volumes.

use super::api::{AliasInfo, CryptoInfo, Dependents, EventInfo, KeyInfo, Plain, Reply, Request};
use super::{OnKeyLoss, Service, context_of};
use crate::cipher::wrap::KeyId;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, DataKeySpec, Encrypted, KeyMetadata, KeyRef, NewKey};
use crate::ledger::AuditRecord;
use crate::units::VolumeId;
use crate::volume::Volume;
use std::sync::Arc;

impl Service {
    pub(super) fn handle_key(self: &Arc<Self>, caller: &Caller, request: Request) -> Result<Reply> {
        use Request as R;
        let kms = &self.kms;
        let of = |key: &str| key.parse::<KeyRef>();
        let one = |meta: Result<KeyMetadata>| meta.and_then(|m| self.key_info(m)).map(Reply::Key);
        match request {
            R::KeyCreate { alias, description, policy, bypass_lockout_check } => {
                let (policy, alias) = (policy.as_deref(), alias.as_deref());
                let new = NewKey { description: &description, policy, bypass_lockout_check, alias };
                one(kms.create_key_with(&new, caller))
            }
            R::KeyList {} => {
                let listing = kms.list_keys()?;
                for bad in &listing.damaged {
                    tracing::error!("{} {} is damaged and unavailable", bad.kind, bad.id);
                }
                let mut keys = listing.keys.into_iter().map(|m| self.key_info(m)).collect::<Result<Vec<_>>>()?;
                keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
                Ok(Reply::Keys { keys })
            }
            R::KeyShow { key } => {
                kms.ask(&of(&key)?, "DescribeKey", caller)?;
                one(kms.describe_key(&of(&key)?))
            }
            R::KeyEnable { key } => {
                let meta = kms.enable_key(&of(&key)?, caller)?;
                self.resume_volumes(&meta.arn);
                one(Ok(meta))
            }
            R::KeyDisable { key } => {
                let meta = kms.disable_key(&of(&key)?, caller)?;
                self.without_key(meta)
            }
            R::KeyRotate { key } => one(kms.rotate_key_on_demand(&of(&key)?, caller)),
            R::KeyEncrypt { key, plaintext, context } => {
                let made = kms.encrypt(&of(&key)?, &context_of(&context)?, &plaintext.bytes()?, caller)?;
                Ok(encrypted(made, None))
            }
            R::KeyDecrypt { key, blob, context } => {
                let key = key.as_deref().map(of).transpose()?;
                let opened = kms.decrypt(&blob_of(&blob)?, &context_of(&context)?, key.as_ref(), caller)?;
                let plaintext = Some(Plain::of(opened.plaintext.expose()));
                let (key, key_material_id) = (opened.key_arn, opened.key_material_id);
                Ok(Reply::Crypto(CryptoInfo { key, key_material_id, blob: None, plaintext }))
            }
            R::KeyReEncrypt { key, blob, context, new_context } => {
                let (from, to) = (context_of(&context)?, context_of(&new_context)?);
                let made = kms.re_encrypt(&blob_of(&blob)?, (&from, None), (&to, &of(&key)?), caller)?;
                Ok(encrypted(made, None))
            }
            R::KeyGenerateDataKey { key, bytes, plaintext, context } => {
                let (key, context, spec) = (of(&key)?, context_of(&context)?, DataKeySpec::Bytes(bytes));
                if !plaintext {
                    let made = kms.generate_data_key_without_plaintext(&key, spec, &context, caller)?;
                    return Ok(encrypted(made, None));
                }
                let (clear, made) = kms.generate_data_key(&key, spec, &context, caller)?;
                Ok(encrypted(made, Some(Plain::of(clear.expose()))))
            }
            R::KeyScheduleDeletion { key, days } => {
                let meta = kms.schedule_key_deletion(&of(&key)?, days, caller)?;
                let lost = self.dependents(&meta.arn)?;
                match self.without_key(meta)? {
                    Reply::Key(info) => Ok(Reply::Key(KeyInfo { dependents: Some(lost), ..info })),
                    other => Ok(other),
                }
            }
            R::KeyCancelDeletion { key } => one(kms.cancel_key_deletion(&of(&key)?, caller)),
            R::AliasCreate { alias, key } => {
                kms.create_alias(&alias, &of(&key)?, caller)?;
                Ok(Reply::Done { message: format!("{alias} points at {key}") })
            }
            R::AliasUpdate { alias, key } => {
                kms.update_alias(&alias, &of(&key)?, caller)?;
                Ok(Reply::Done { message: format!("{alias} points at {key}") })
            }
            R::AliasDelete { alias } => {
                kms.delete_alias(&alias, caller)?;
                Ok(Reply::Done { message: format!("{alias} is gone; the key it pointed at is not") })
            }
            _ => self.list_aliases(),
        }
    }

    /// What nobody can read any more once a CMK is destroyed.
    fn dependents(&self, arn: &str) -> Result<Dependents> {
        let volumes = self.volume_records()?.iter().filter(|v| v.key_arn == arn).count();
        let all = self.snapshot_records()?;
        // One in error never held anything that could be read.
        let readable =
            |s: &&super::snapshot::SnapshotRecord| s.key_arn == arn && !s.is_deleting() && s.state != "error";
        Ok(Dependents { volumes, snapshots: all.iter().filter(readable).count() })
    }

    /// A key cannot be used any more: suspends the volumes that are in use under it, and says which.
    fn without_key(&self, meta: KeyMetadata) -> Result<Reply> {
        let (continuing, suspended) = self.in_use_under(&meta.arn);
        self.suspend_volumes(&meta.arn);
        Ok(Reply::Key(KeyInfo { continuing, suspended, ..self.key_info(meta)? }))
    }

    /// The volumes that are in use under a CMK: those that go on without it, and those that do not.
    fn in_use_under(&self, arn: &str) -> (Vec<String>, Vec<String>) {
        let mut here: Vec<(VolumeId, bool, Arc<Volume>)> = {
            let opens = self.opens.lock();
            let under = opens.iter().filter(|(_, o)| o.is_used() && o.cmks.iter().any(|c| c == arn));
            under.map(|(id, o)| (*id, o.settings.on_key_loss() == OnKeyLoss::Continue, o.volume.clone())).collect()
        };
        here.retain(|(_, _, volume)| volume.is_unlocked());
        here.sort_by_key(|(id, ..)| *id);
        let name = |id: VolumeId| self.find_volume(&id.to_string()).map_or_else(|_| id.to_string(), |r| r.shown());
        let named =
            |which: bool| here.iter().filter(|(_, go_on, _)| *go_on == which).map(|(id, ..)| name(*id)).collect();
        (named(true), named(false))
    }

    fn list_aliases(&self) -> Result<Reply> {
        let listing = self.kms.list_aliases(None)?;
        let info =
            |a: crate::kms::alias::AliasMetadata| AliasInfo { alias: a.alias_name, key: a.target_key_id.to_string() };
        Ok(Reply::Aliases { aliases: listing.aliases.into_iter().map(info).collect() })
    }

    fn key_info(&self, meta: KeyMetadata) -> Result<KeyInfo> {
        let aliases = self.kms.list_aliases(Some(&KeyRef::id(meta.key_id)))?;
        Ok(KeyInfo {
            id: meta.key_id.to_string(),
            arn: meta.arn,
            state: word(&meta.key_state),
            manager: word(&meta.key_manager),
            spec: meta.key_spec.to_owned(),
            description: meta.description,
            aliases: aliases.aliases.into_iter().map(|a| a.alias_name).collect(),
            created: meta.creation_date,
            deletion: meta.deletion_date,
            days_held: self.days_held(meta.key_id, meta.deletion_date)?,
            materials: meta.versions.len(),
            suspended: Vec::new(),
            continuing: Vec::new(),
            dependents: None,
        })
    }

    /// How many days a key is kept beyond its date, if that has passed by the wall clock alone.
    fn days_held(&self, key: KeyId, deletion: Option<Timestamp>) -> Result<Option<i64>> {
        let now = self.env.now();
        let Some(at) = deletion.filter(|at| *at <= now) else { return Ok(None) };
        let pending = self.kms.pending_deletion(key, at)?;
        Ok(pending.is_held(now).then(|| pending.days_left()))
    }

    pub(super) fn verify_audit(&self) -> Result<Reply> {
        let report = self.ledger().verify_audit()?;
        match report.trouble {
            None => {
                let message = format!(
                    "{} records, chained; head {}: worth keeping elsewhere",
                    report.head.count, report.head.hash
                );
                Ok(Reply::Done { message })
            }
            Some(why) => Err(Error::new(Kind::Integrity, format!("audit: {why}"))
                .hint("find out what happened (a restored backup?), then `coffer audit accept`")),
        }
    }

    /// The newest audit records, oldest of them first.
    pub(super) fn list_events(&self, limit: usize) -> Result<Reply> {
        let event = |record: AuditRecord| EventInfo {
            sequence: record.sequence,
            record: serde_json::to_value(&record).unwrap_or_default(),
        };
        let events = self.ledger().newest_audit_records(limit.max(1))?.into_iter().map(event).collect();
        Ok(Reply::Events { events })
    }
}

fn encrypted(made: Encrypted, plaintext: Option<Plain>) -> Reply {
    let blob = Some(hex::encode(made.blob));
    Reply::Crypto(CryptoInfo { key: made.key_arn, key_material_id: made.key_material_id, blob, plaintext })
}

fn blob_of(hexadecimal: &str) -> Result<Vec<u8>> {
    hex::decode(hexadecimal).map_err(|_| Error::new(Kind::InvalidCiphertext, "the ciphertext blob is no hexadecimal"))
}

/// A state or manager as AWS writes it.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
