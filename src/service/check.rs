//! `coffer doctor`: finds what is wrong with the installation and the machine, and what to do about it.

use super::access::Access;
use super::api::SnapshotState;
use super::api::{Finding, Grade};
use super::datadir::{DataDir, lies_inside};
use super::home::{Home, RepositoryKey};
use super::logs::Logs;
use super::opening::{InUse, Need, OpenVolumes};
use super::records::{Records, SnapshotRecord, VolumeRecord};
use super::repositories::Repositories;
use super::strangers::Strangers;
use crate::env::{Env, Timestamp};
use crate::error::{Error, Result};
use crate::kms::{KeyState, Kms, OwnedKey, RootUnlock};
use crate::snapshot::repository::Repository;
use crate::store::factory::Stores;
use crate::units::{ChunkNo, LineageId, RepositoryId, VolumeId};
use crate::volume::format::ParentRef;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// How long after a drill, or after a volume's first snapshot, another drill is due: 90 days, in milliseconds.
const DRILLED_WITHIN: i64 = 90 * 24 * 3600 * 1000;

/// Checks an installation that does not open, each part on its own.
#[must_use]
pub fn examine(data: &DataDir, unlock: &RootUnlock, refused: &Error) -> Vec<Finding> {
    let mut out = Findings(Vec::new());
    machine(&mut out);
    out.add(Grade::Error, "installation", format!("it does not open: {}", refused.line()));
    for part in crate::kms::examine(data.path(), unlock) {
        match part.state {
            Ok(good) => out.add(Grade::Ok, part.name, good),
            Err(err) => out.add(Grade::Error, part.name, err.line()),
        }
    }
    files(data, &mut out);
    out.0
}

/// Checks the ownership of the files, and the free space.
fn files(data: &DataDir, out: &mut Findings) {
    for open in crate::kms::open_to_others(data.path()) {
        out.add(Grade::Error, "files", open);
    }
    match rustix::fs::statvfs(data.path()) {
        Ok(at) => {
            let (free, place) = (at.f_bavail.saturating_mul(at.f_frsize), data.path().display());
            if at.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
                out.add(Grade::Error, "space", format!("the file system of {place} is mounted read-only"));
            } else if free < crate::ledger::WANTED_SPACE {
                let message = format!("only {} MiB are free on the file system of {place}", free >> 20);
                out.add(Grade::Warning, "space", format!("{message}: {}", crate::error::FREE_SPACE));
            }
        }
        Err(e) => out.add(Grade::Error, "space", format!("check the free space of {}: {e}", data.path().display())),
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, grade: Grade, check: &str, message: impl Into<String>) {
        self.0.push(Finding { grade, check: check.to_owned(), message: message.into() });
    }
}

/// The checks of an open installation.
pub(super) struct Doctor {
    /// Its data directory.
    pub(super) data: DataDir,
    /// Its clock.
    pub(super) env: Env,
    /// Its root key and CMKs.
    pub(super) kms: Arc<Kms>,
    /// Its catalog.
    pub(super) records: Arc<Records>,
    /// Its snapshots.
    pub(super) repositories: Arc<Repositories>,
    /// The expected length of each lineage's log.
    pub(super) logs: Arc<Logs>,
    /// Its volumes.
    pub(super) stores: Arc<dyn Stores>,
    /// Stores without a record.
    pub(super) strangers: Arc<Strangers>,
    /// The open volumes.
    pub(super) opens: Arc<OpenVolumes>,
    /// The clients that are limited by records.
    pub(super) access: Arc<Access>,
}

impl Doctor {
    /// Runs all checks and returns their findings, good ones included.
    pub(super) fn look(&self) -> Result<Vec<Finding>> {
        let mut out = Findings(Vec::new());
        machine(&mut out);
        files(&self.data, &mut out);
        self.check_root(&mut out)?;
        self.check_owned_keys(&mut out);
        self.check_audit(&mut out);
        self.check_keys(&mut out)?;
        self.check_access(&mut out)?;
        self.check_volumes(&mut out)?;
        self.check_snapshots(&mut out)?;
        out.0.extend(self.check_repositories());
        Ok(out.0)
    }

    fn check_access(&self, out: &mut Findings) -> Result<()> {
        for (client, arn) in self.access.with_a_users_arn()? {
            let what = format!(
                "the client {client} acts as {arn}, which is an IAM user, too, and policies cannot tell them apart: give the \
                 client another name with `coffer access allow {client} --user USER`"
            );
            out.add(Grade::Warning, "access", what);
        }
        Ok(())
    }

    /// Checks the repositories.
    pub(super) fn check_repositories(&self) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut add = |grade, message: String| out.push(Finding { grade, check: "repository".to_owned(), message });
        self.check_local(&mut add);
        for record in self.repositories.records().unwrap_or_default() {
            match self.repositories.open(RepositoryKey::Added(record.id)) {
                Ok(repository) => self.check_repository(RepositoryKey::Added(record.id), &repository, &mut add),
                Err(err) => add(Grade::Error, format!("{}; no snapshot in it can be used until then", err.line())),
            }
        }
        let records = self.records.snapshots().unwrap_or_default();
        for record in records.iter().filter(|r| r.is_deleting()) {
            add(Grade::Warning, format!("snapshot {} is deleted, but not all of its data is removed yet", record.id));
        }
        out
    }

    /// Checks the repository in the data directory.
    fn check_local(&self, add: &mut dyn FnMut(Grade, String)) {
        let repository = self.repositories.local();
        if let Err(err) = repository.id() {
            let mend = self.repository_of_a_header().and_then(|id| Repository::description_of(id).ok());
            let mend = mend.map_or_else(
                || "restore it from a copy".to_owned(),
                |json| format!("restore it from a copy, or write this into repository/coffer-repository.json: {json}"),
            );
            add(Grade::Error, format!("{}; no snapshot in it can be used until it is repaired: {mend}", err.line()));
            return;
        }
        self.check_repository(RepositoryKey::Local, repository, add);
    }

    fn check_repository(&self, key: RepositoryKey, repository: &Repository, add: &mut dyn FnMut(Grade, String)) {
        let records: Vec<_> =
            self.records.snapshots().unwrap_or_default().into_iter().filter(|r| r.repository == key).collect();
        let mut lineages: BTreeSet<LineageId> = records.iter().map(|r| r.lineage).collect();
        if key.is_local() {
            lineages.extend(self.records.volumes().unwrap_or_default().iter().map(|v| v.lineage));
        }
        for lineage in lineages {
            self.check_home(Home { repository: key, lineage }, repository, &records, add);
        }
    }

    fn check_home(
        &self,
        home: Home,
        repository: &Repository,
        records: &[SnapshotRecord],
        add: &mut dyn FnMut(Grade, String),
    ) {
        let lineage = home.lineage;
        match repository.unreadable(lineage) {
            Ok((bad, _)) => {
                for record in bad {
                    add(
                        Grade::Warning,
                        format!(
                            "{}; nothing is lost, because the catalog has the same facts: the next snapshot taken or deleted in this lineage writes a record that replaces it",
                            record.error.line()
                        ),
                    );
                }
            }
            Err(err) => return add(Grade::Error, format!("{}; restore it from a copy of the repository", err.line())),
        }
        if let Err(err) = self.logs.check(home) {
            return add(Grade::Error, err.line());
        }
        for record in records.iter().filter(|r| r.lineage == lineage && r.state == SnapshotState::Completed) {
            match repository.live(lineage, record.id) {
                Ok(None) => add(
                    Grade::Error,
                    format!(
                        "snapshot {} is no longer in the repository: remove its record with `coffer snapshot delete`",
                        record.id
                    ),
                ),
                Ok(Some(_)) => {
                    if let Err(err) = repository.check_reach(lineage, record.id) {
                        add(
                            Grade::Error,
                            format!(
                                "snapshot {}: {}; restore that object from a copy, or delete the snapshot: until then, no space in its lineage can be freed",
                                record.id,
                                err.line()
                            ),
                        );
                    }
                }
                Err(err) => add(Grade::Error, err.line()),
            }
        }
    }

    /// Returns the id of the repository, as a volume's record or header has it.
    fn repository_of_a_header(&self) -> Option<RepositoryId> {
        let volumes = self.records.volumes().ok()?;
        let parents = volumes.iter().find_map(|v| v.parent.as_ref().map(|p| p.repository));
        parents.or_else(|| {
            let used = volumes.iter().filter_map(|v| self.opens.acquire(v, Need::Sealed).ok());
            used.filter_map(|u| u.volume.base()).map(|b| b.repository).next()
        })
    }

    fn check_root(&self, out: &mut Findings) -> Result<()> {
        let slots = self.kms.root_slots().unwrap_or_else(|err| {
            out.add(Grade::Error, "root key", err.line());
            Vec::new()
        });
        for lost in crate::kms::lost_root_copies(self.data.path()) {
            out.add(Grade::Warning, "root file", lost);
        }
        for slot in slots {
            let at = Path::new(&slot.note);
            match slot.kind.as_str() {
                "file" if lies_inside(at, self.data.path()) => out.add(
                    Grade::Error,
                    "root key",
                    format!("the key file {} is in the data directory: whoever copies the directory can read everything", slot.note),
                ),
                "file" => out.add(
                    Grade::Warning,
                    "root key",
                    format!(
                        "the root key is in the file {}: whoever copies both this file and the data directory can read everything",
                        slot.note
                    ),
                ),
                kind if slot.usable => out.add(Grade::Ok, "root key", format!("slot {} ({kind})", slot.id)),
                kind => out.add(Grade::Warning, "root key", format!("slot {} ({kind}): {}", slot.id, slot.note)),
            }
        }
        Ok(())
    }

    /// Lists coffer's own keys, which ListKeys does not, and checks the one that can be damaged by itself.
    fn check_owned_keys(&self, out: &mut Findings) {
        let named = |key: OwnedKey| format!("{} ({})", key.name, key.protects);
        let all = self.kms.owned_keys().map(named).collect::<Vec<_>>().join(", ");
        let generation = self.kms.root_generation();
        out.add(Grade::Ok, "own keys", format!("under generation {generation} of the root key: {all}"));
        if let Err(err) = self.kms.check_signing_key() {
            let next = "new snapshots cannot be signed: restore the catalog from a backup";
            out.add(Grade::Error, "own keys", format!("{}; {next}", err.line()));
        }
    }

    fn check_audit(&self, out: &mut Findings) {
        match self.records.ledger().verify_audit() {
            Ok(report) => match report.trouble {
                None => out.add(
                    Grade::Ok,
                    "audit",
                    format!("{} records, chained, head {}", report.head.count, report.head.hash),
                ),
                Some(why) => out.add(Grade::Error, "audit", why),
            },
            Err(err) => out.add(Grade::Error, "audit", err.line()),
        }
    }

    /// Checks for keys that are pending deletion, and for volumes that wait for their keys.
    fn check_keys(&self, out: &mut Findings) -> Result<()> {
        let now = self.env.now();
        for pending in self.kms.deletions().pending()? {
            let (key, at, days) = (self.kms.key_arn(&pending.key), pending.at, pending.days_left());
            let mut message = format!(
                "key {key} is pending deletion at {at}, and everything it wraps is lost then: `coffer key cancel-deletion {key}` keeps it"
            );
            if pending.is_held(now) {
                message.push_str(&format!(
                    "; its date has passed, but {days} days of its waiting period have not: the clock was set, or the machine was off"
                ));
            }
            out.add(Grade::Warning, "key", message);
        }
        let states: HashMap<String, KeyState> =
            self.kms.keys().list()?.keys.into_iter().map(|k| (k.arn, k.key_state)).collect();
        for record in self.records.volumes()? {
            let waits = self.opens.is_waiting(record.id);
            if record.suspended {
                let resume = format!("suspended by hand: resume it with `coffer volume resume {}`", record.id);
                out.add(Grade::Warning, "volume", format!("{} is {resume}", record.shown()));
            } else if waits {
                let why = format!("is suspended until its CMK {} or its grant is usable again", record.key_arn);
                out.add(Grade::Warning, "volume", format!("{} {why}: see `coffer key show`", record.shown()));
            } else if let Some(why) = cannot_be_opened(&record.key_arn, &states) {
                out.add(Grade::Warning, "volume", format!("{} cannot be attached: {why}", record.shown()));
            }
        }
        Ok(())
    }

    /// Checks for failed snapshots: they hold no data, which anyone who relies on them should know.
    fn check_snapshots(&self, out: &mut Findings) -> Result<()> {
        for failed in self.records.snapshots()?.into_iter().filter(|s| s.state == SnapshotState::Error) {
            let why = failed.error.as_deref().unwrap_or("unknown reason");
            let next = format!("take another one, and delete this one with `coffer snapshot delete {}`", failed.id);
            out.add(Grade::Warning, "snapshot", format!("{} of {} failed: {why}: {next}", failed.id, failed.volume));
        }
        self.check_drills(out)
    }

    /// Checks for volumes that rely on snapshots which nobody has tried to restore for long.
    fn check_drills(&self, out: &mut Findings) -> Result<()> {
        let long_ago = Timestamp(self.env.now().0.saturating_sub(DRILLED_WITHIN));
        let mut volumes: BTreeMap<VolumeId, (Timestamp, Option<Timestamp>)> = BTreeMap::new();
        let all = self.records.snapshots()?;
        for one in all.iter().filter(|s| s.state == SnapshotState::Completed && !s.is_hidden()) {
            let (oldest, proved) = volumes.entry(one.volume).or_insert((one.created, None));
            (*oldest, *proved) = ((*oldest).min(one.created), (*proved).max(one.proved));
        }
        for (volume, (oldest, proved)) in volumes {
            if proved.unwrap_or(oldest) < long_ago {
                let last = proved.map_or_else(|| "never".to_owned(), |at| format!("last on {at}"));
                let what = format!("the snapshots of {volume} were {last} proved restorable");
                out.add(Grade::Warning, "drill", format!("{what}: use `coffer snapshot drill`"));
            }
        }
        Ok(())
    }

    fn check_volumes(&self, out: &mut Findings) -> Result<()> {
        let listing = self.records.ledger().catalog().list::<VolumeRecord>()?;
        let mut damaged = self.kms.keys().list()?.damaged;
        damaged.extend(self.kms.aliases().list(None)?.damaged);
        damaged.extend(self.records.ledger().catalog().list::<SnapshotRecord>()?.damaged);
        damaged.extend(listing.damaged);
        for bad in damaged {
            out.add(Grade::Error, "catalog", format!("the record of {} {} is damaged", bad.kind, bad.id));
        }
        let mut known = HashSet::new();
        for record in listing.records.into_iter().map(|r| r.record) {
            known.insert(record.id);
            if !record.stage.is_ready() {
                out.add(Grade::Ok, "volume", format!("{} is being created or deleted", record.shown()));
                continue;
            }
            match self.opens.acquire(&record, Need::Sealed) {
                Ok(used) => {
                    if let Some((grade, message)) = self.look_at_volume(&record, &used) {
                        out.add(grade, "volume", message);
                    }
                }
                Err(err) => out.add(Grade::Error, "volume", err.line()),
            }
        }
        let found = self.stores.list().unwrap_or_else(|err| {
            out.add(Grade::Error, "volume", err.line());
            Vec::new()
        });
        for found in found.into_iter().filter(|f| !(f.published && f.named.is_some_and(|id| known.contains(&id)))) {
            let name = &found.name;
            match self.strangers.id_in(&found).filter(|id| known.contains(id)) {
                Some(id) => out.add(
                    Grade::Error,
                    "volume",
                    format!(
                        "{name} has the id of {id}, so neither can be opened: move the wrong one of the two elsewhere"
                    ),
                ),
                None => out.add(
                    Grade::Warning,
                    "volume",
                    format!("{name} is not a volume of the catalog: a create was interrupted, or it was copied here"),
                ),
            }
        }
        Ok(())
    }

    /// Returns the worst problem of an open volume, or that it is good. `None`: it is good, but another check has a finding about
    /// it.
    fn look_at_volume(&self, record: &VolumeRecord, used: &InUse) -> Option<(Grade, String)> {
        let (volume, shown) = (&used.volume, record.shown());
        let (damage, lost) = volume.with_header(|h| (h.damage(), h.state().write_failed || record.write_failed));
        if let Some(damage) = damage {
            return Some((Grade::Warning, format!("{damage}; attaching the volume repairs this")));
        }
        if lost {
            let what = "a sync failed, so acknowledged writes may be lost; the volume is read-only";
            return Some((Grade::Error, format!("{shown}: {what}")));
        }
        match volume.check_map() {
            Err(err) => return Some((Grade::Error, format!("{shown}: {}", err.line()))),
            Ok(true) => {
                let what = "a block of its map is damaged, so its chunks count as changed";
                let next = "nothing is lost; writes repair the map, and the next snapshot compares these chunks";
                return Some((Grade::Warning, format!("{shown}: {what}: {next}")));
            }
            Ok(false) => {}
        }
        if let Some(missing) = words_for_missing(&volume.missing_chunks()) {
            return Some((Grade::Error, format!("{shown}: {missing}")));
        }
        let parent = record.parent.as_ref().filter(|_| !volume.is_hydrated());
        let reach = |p: &ParentRef| self.repositories.open_id(p.repository)?.check_reach(record.lineage, p.snapshot);
        if let Some(Err(err)) = parent.map(reach) {
            let what = "it cannot be filled from its snapshot";
            return Some((Grade::Error, format!("{shown}: {what}: {}", err.line())));
        }
        let cannot_be_opened = || self.kms.keys().must_be_usable(&record.key_arn, "look").is_err();
        let is_told = record.suspended || self.opens.is_waiting(record.id) || cannot_be_opened();
        (!is_told).then_some((Grade::Ok, shown))
    }
}

/// Returns why the CMK of a volume does not unwrap its data key now, and what to do about it.
fn cannot_be_opened(arn: &str, states: &HashMap<String, KeyState>) -> Option<String> {
    let id = arn.rsplit('/').next().unwrap_or(arn);
    match states.get(arn) {
        Some(KeyState::Enabled) => None,
        Some(KeyState::Disabled) => Some(format!("its CMK is disabled: `coffer key enable {id}`")),
        Some(KeyState::PendingDeletion) => Some(format!(
            "its CMK is pending deletion: `coffer key cancel-deletion {id}`, then `coffer key enable {id}`"
        )),
        Some(KeyState::PendingImport) => Some(format!("its CMK {id} has no key material: import it again")),
        Some(KeyState::PendingReplicaDeletion) => Some(format!(
            "its CMK is pending deletion of its replicas: `coffer key cancel-deletion {id}`, then `coffer key enable {id}`"
        )),
        Some(KeyState::Unavailable) => Some(format!("its CMK {id} is unavailable")),
        None => Some(format!("its CMK {id} is not in the catalog")),
    }
}

fn machine(out: &mut Findings) {
    if crate::sys::secrets_are_locked() {
        out.add(Grade::Ok, "memory", "key pages are locked");
    } else {
        out.add(Grade::Warning, "memory", "key pages could not be locked: raise RLIMIT_MEMLOCK (ulimit -l)");
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    match swaps.lines().skip(1).filter(|l| !l.starts_with("/dev/dm-") && !l.starts_with("/dev/zram")).count() {
        0 => out.add(Grade::Ok, "swap", "no unencrypted swap found"),
        n => out.add(
            Grade::Warning,
            "swap",
            format!(
                "{n} swap areas may be unencrypted: secrets of other programs and transient copies may be written there"
            ),
        ),
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|l| l.contains(" ext4 ") && l.contains("data=writeback")) {
        out.add(
            Grade::Error,
            "file system",
            "an ext4 file system is mounted with data=writeback: stale data may appear after power loss; do not keep volumes there",
        );
    }
    let nbd = Path::new("/sys/module/nbd").exists();
    out.add(
        if nbd { Grade::Ok } else { Grade::Warning },
        "kernel",
        if nbd {
            "the nbd module is loaded"
        } else {
            "the nbd module is not loaded, but `coffer attach` needs it: run `modprobe nbd`"
        },
    );
}
/// Returns the message for a volume that cannot be filled completely, naming the first of the chunks.
pub(super) fn words_for_missing(chunks: &[ChunkNo]) -> Option<String> {
    const NAMED: usize = 8;
    let (count, named) =
        (chunks.len(), chunks.iter().take(NAMED).map(ChunkNo::to_string).collect::<Vec<_>>().join(", "));
    let more = if count > NAMED { ", …" } else { "" };
    (count > 0).then(|| {
        format!(
            "{count} chunks of its snapshot ({named}{more}) cannot be read, and reads of them fail: `coffer snapshot verify` shows why"
        )
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
