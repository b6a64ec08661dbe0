//! `key rewrap`: wraps data keys again under the newest material of their CMK.
//!
//! A rotation leaves data keys wrapped by the material that they were made with. Wrapped keys are in the headers of volumes, in the
//! logs of repositories (where the newest record of a data key counts), and in the catalog for copies that may not have completed yet.
//! Nothing signed is changed. What cannot be reached is named, and left to the next run.

use super::Service;
use super::api::{Progress, RewrapInfo, RewrappedInfo, SnapshotState, WireError};
use super::copies::CopyLineage;
use super::home::Home;
use super::opening::Need;
use super::records::VolumeRecord;
use super::{Report, volume_keys};
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, KeyName, KeyRef};
use crate::ledger::Act;
use crate::units::DataKeyId;
use crate::volume::format::WrappedKey;
use std::collections::{BTreeMap, BTreeSet};

/// The encryption contexts of data keys.
type Contexts = BTreeMap<DataKeyId, BTreeMap<String, String>>;

/// A run.
struct Run<'a> {
    service: &'a Service,
    caller: Caller,
    /// Only data keys under this CMK.
    only: Option<KeyName>,
    dry_run: bool,
    /// The newest material of each CMK that was met.
    newest: BTreeMap<String, String>,
    /// The data keys that were wrapped again. One is in several places, and is wrapped once.
    made: BTreeMap<DataKeyId, Vec<u8>>,
    contexts: Contexts,
    told: RewrapInfo,
}

impl Service {
    /// Wraps data keys again that are wrapped by old material of their CMK, of one CMK or of all.
    pub(super) fn rewrap_keys(
        &self,
        caller: &Caller,
        key: Option<&KeyRef>,
        dry_run: bool,
        report: Report<'_>,
    ) -> Result<RewrapInfo> {
        let only = key.map(|key| self.kms.keys().describe(key)).transpose()?.map(|found| found.key);
        let caller = Caller { via_service: Some(super::EC2.to_owned()), ..caller.clone() };
        let told = RewrapInfo { dry_run, current: 0, keys: Vec::new(), left: Vec::new() };
        let (newest, made, contexts) = Default::default();
        let mut run = Run { service: self, caller, only, dry_run, newest, made, contexts, told };
        let (volumes, homes) = (self.records.volumes()?, self.homes_with_keys(&mut run.contexts)?);
        let total = (volumes.len() + homes.len()) as u64;
        let mut steps = 0;
        let mut go_on = || {
            let progress = Progress { what: "rewrap".into(), done: steps, total: Some(total), unit: "places".into() };
            steps += 1;
            if report(progress) {
                return Ok(());
            }
            Err(Error::new(Kind::Interrupted, "rewrap data keys: stopped").hint("the same command does the rest"))
        };
        for volume in &volumes {
            go_on()?;
            let done = run.volume(volume);
            run.note(format!("volume {}", volume.shown()), done);
        }
        for home in homes {
            go_on()?;
            let done = run.log(home);
            run.note(run.of_log(home), done);
        }
        run.copies()?;
        Ok(run.told)
    }

    /// Returns where there are logs with wrapped keys, and adds the contexts of the keys of snapshots.
    fn homes_with_keys(&self, contexts: &mut Contexts) -> Result<BTreeSet<Home>> {
        let mut homes: BTreeSet<Home> = self.logs.all()?.into_iter().collect();
        for snapshot in self.records.snapshots()?.into_iter().filter(|s| s.state != SnapshotState::Error) {
            contexts.extend(snapshot.data_keys.iter().map(|key| (*key, snapshot.context.clone())));
            if snapshot.state == SnapshotState::Completed {
                homes.insert(snapshot.home());
            }
        }
        Ok(homes)
    }
}

impl Run<'_> {
    /// Notes what could not be done at a place.
    fn note(&mut self, place: String, done: Result<()>) {
        if let Err(err) = done {
            self.told.left.push(WireError::from(&err.context(place)));
        }
    }

    fn of_log(&self, home: Home) -> String {
        format!("log of lineage {} in repository {}", home.lineage, self.service.repositories.name_of(home.repository))
    }

    /// Returns the blob to replace another one with; `None`: that one is current, or under another CMK.
    fn newer(
        &mut self,
        place: &str,
        (data_key, blob): (DataKeyId, &[u8]),
        context: &BTreeMap<String, String>,
    ) -> Result<Option<Vec<u8>>> {
        let crypto = self.service.kms.crypto();
        let info = crypto.blob_info(blob)?;
        if self.only.as_ref().is_some_and(|only| *only != info.key) {
            return Ok(None);
        }
        let newest = self.newest_of(&info.key, &info.key_arn)?;
        if info.material.to_string() == newest {
            self.told.current += 1;
            return Ok(None);
        }
        let known = self.made.get(&data_key).cloned();
        let known = known.filter(|made| crypto.blob_info(made).is_ok_and(|made| made.key == info.key));
        let made = match known {
            _ if self.dry_run => blob.to_vec(),
            Some(made) => made,
            None => {
                let (to, context) = (KeyRef::named(&info.key), volume_keys::context_of(context)?);
                crypto.rewrap_volume_key(blob, &context, data_key, &to, &self.caller)?
            }
        };
        self.told.keys.push(RewrappedInfo {
            place: place.to_owned(),
            data_key: data_key.to_string(),
            key: info.key_arn,
            from: info.material.to_string(),
            to: newest,
        });
        if self.dry_run {
            return Ok(None);
        }
        self.made.insert(data_key, made.clone());
        Ok(Some(made))
    }

    fn newest_of(&mut self, key: &KeyName, arn: &str) -> Result<String> {
        if let Some(known) = self.newest.get(arn) {
            return Ok(known.clone());
        }
        let versions = self.service.kms.keys().describe(&KeyRef::named(key))?.versions;
        let current = versions.into_iter().find(|version| version.current).map(|version| version.key_material_id);
        let newest =
            current.ok_or_else(|| Error::new(Kind::KeyUnavailable, format!("key {arn} has no key material")))?;
        self.newest.insert(arn.to_owned(), newest.clone());
        Ok(newest)
    }

    /// Rewraps the data keys in a volume's header. An interrupted rewrap left the slots with different blobs: both are written again.
    fn volume(&mut self, record: &VolumeRecord) -> Result<()> {
        let service = self.service;
        service.attachments.refuse_if_elsewhere(record)?;
        let used = service.opens.acquire(record, Need::Sealed)?;
        let _turn = service.turns.take(record.id);
        let (slots, sets, context) = used.volume.with_header(|h| {
            let sets: Vec<_> = h.keys().into_iter().map(|set| set.keys.clone()).collect();
            (h.identity().key_epochs.clone(), sets, h.identity().context.clone())
        });
        let mut next: Vec<WrappedKey> = sets.first().cloned().unwrap_or_default();
        let mut is_change = sets.len() > 1;
        for slot in slots {
            self.contexts.insert(slot.data_key_id, context.clone());
            let Some(wrapped) = next.iter_mut().find(|wrapped| wrapped.epoch == slot.epoch) else { continue };
            let place = format!("volume {}", record.shown());
            if let Some(blob) = self.newer(&place, (slot.data_key_id, &wrapped.blob), &context)? {
                wrapped.blob = blob;
                is_change = true;
            }
        }
        if is_change && !self.dry_run { used.volume.rewrap(next) } else { Ok(()) }
    }

    /// Rewraps the data keys in a log. One that no volume and no snapshot uses any more is left alone.
    fn log(&mut self, home: Home) -> Result<()> {
        let service = self.service;
        service.logs.check(home)?;
        let repository = service.repositories.open(home.repository)?;
        for (data_key, wrapped) in repository.keys(home.lineage)? {
            let Some(context) = self.contexts.get(&data_key).cloned() else { continue };
            if let Some(blob) = self.newer(&self.of_log(home), (data_key, &wrapped.blob), &context)? {
                repository.put_key(home.lineage, data_key, &blob)?;
                service.logs.note(home);
            }
        }
        Ok(())
    }

    /// Rewraps the data keys of lineages of copies, which the catalog has until the first of them is completed.
    fn copies(&mut self) -> Result<()> {
        let ledger = self.service.records.ledger();
        for found in ledger.catalog().list::<CopyLineage>()?.records {
            let CopyLineage { data_key, blob, context, .. } = &found.record;
            let place = format!("copies in lineage {}", found.record.lineage);
            let newer = self.newer(&place, (*data_key, blob), context);
            let done = newer.and_then(|newer| {
                let Some(blob) = newer else { return Ok(()) };
                let mut next = found.record.clone();
                next.blob = blob;
                let act =
                    Act::new("coffer:RewrapKeys").detail("lineage", next.lineage).detail("data-key", next.data_key);
                ledger.audited(&self.caller, act, |tx| tx.update(&next, found.version).map(drop))
            });
            self.note(place, done);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "rewrap_tests.rs"]
mod tests;
