//! `coffer doctor`: what is wrong with this installation and this machine, and what to do about it.

use super::Service;
use super::api::{Finding, Grade};
use super::datadir::DataDir;
use super::opening::{InUse, Need};
use super::records::{SnapshotRecord, VolumeRecord};
use crate::error::{Error, Result};
use crate::kms::{KeyState, RootUnlock};
use crate::snapshot::repository::Repository;
use crate::units::{LineageId, RepositoryId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What can be said of an installation that does not open: each part is looked at by itself.
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

/// Whose the files are, and how much space they have.
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
                let message = format!("no more than {} MiB are free on the file system of {place}", free >> 20);
                out.add(Grade::Warning, "space", format!("{message}: {}", crate::error::FREE_SPACE));
            }
        }
        Err(e) => out.add(Grade::Error, "space", format!("look at {}: {e}", data.path().display())),
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, grade: Grade, check: &str, message: impl Into<String>) {
        self.0.push(Finding { grade, check: check.to_owned(), message: message.into() });
    }
}

impl Service {
    pub(super) fn doctor(self: &Arc<Self>) -> Result<Vec<Finding>> {
        let mut out = Findings(Vec::new());
        machine(&mut out);
        files(&self.data, &mut out);
        self.check_root(&mut out)?;
        self.check_audit(&mut out);
        self.check_keys(&mut out)?;
        self.check_volumes(&mut out)?;
        self.check_snapshots(&mut out)?;
        out.0.extend(self.check_repository());
        Ok(out.0)
    }

    /// The repository as `coffer doctor` sees it.
    pub(super) fn check_repository(self: &Arc<Self>) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut add = |grade, message: String| out.push(Finding { grade, check: "repository".to_owned(), message });
        if let Err(err) = self.repository.id() {
            let mend = self.repository_of_a_header().and_then(|id| Repository::description_of(id).ok());
            let mend = mend.map_or_else(
                || "put it back from a copy".to_owned(),
                |json| format!("put it back from a copy, or write into repository/coffer-repository.json: {json}"),
            );
            add(Grade::Error, format!("{}; snapshots cannot be used until then: {mend}", err.line()));
            return out;
        }
        let records = self.records.snapshots().unwrap_or_default();
        let mut lineages: BTreeSet<LineageId> = records.iter().map(|r| r.lineage).collect();
        lineages.extend(self.records.volumes().unwrap_or_default().iter().map(|v| v.lineage));
        for lineage in lineages {
            self.check_lineage(lineage, &records, &mut add);
        }
        for record in records.iter().filter(|r| r.is_deleting()) {
            add(Grade::Warning, format!("snapshot {} is deleted, but not all of it could be removed yet", record.id));
        }
        out
    }

    fn check_lineage(&self, lineage: LineageId, records: &[SnapshotRecord], add: &mut dyn FnMut(Grade, String)) {
        match self.repository.unreadable(lineage) {
            Ok((bad, _)) => {
                for record in bad {
                    add(
                        Grade::Warning,
                        format!(
                            "{}; the catalog knows what counts, so nothing is lost: the next snapshot that is taken or deleted in this lineage writes a record that makes up for it",
                            record.error.line()
                        ),
                    );
                }
            }
            Err(err) => return add(Grade::Error, format!("{}; put it back from a copy of the repository", err.line())),
        }
        if let Err(err) = self.logs.check(lineage) {
            return add(Grade::Error, err.line());
        }
        for record in records.iter().filter(|r| r.lineage == lineage && r.state == "completed") {
            match self.repository.live(lineage, record.id) {
                Ok(None) => add(
                    Grade::Error,
                    format!("snapshot {} is not in the repository any more: `coffer snapshot delete` it", record.id),
                ),
                Ok(Some(_)) => {
                    if let Err(err) = self.repository.check_reach(lineage, record.id) {
                        add(
                            Grade::Error,
                            format!(
                                "snapshot {}: {}; put that object back from a copy, or delete the snapshot: until then nothing of its lineage can be freed",
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

    /// The repository's id, as headers of volumes have it.
    fn repository_of_a_header(self: &Arc<Self>) -> Option<RepositoryId> {
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
                "file" if super::lies_inside(at, self.data.path()) => out.add(
                    Grade::Error,
                    "root key",
                    format!("the key file {} lies in the data directory: whoever takes that takes all", slot.note),
                ),
                "file" => out.add(
                    Grade::Warning,
                    "root key",
                    format!(
                        "the root key is in the file {}: whoever takes both it and the data directory takes all",
                        slot.note
                    ),
                ),
                kind if slot.usable => out.add(Grade::Ok, "root key", format!("slot {} ({kind})", slot.id)),
                kind => out.add(Grade::Warning, "root key", format!("slot {} ({kind}): {}", slot.id, slot.note)),
            }
        }
        Ok(())
    }

    fn check_audit(&self, out: &mut Findings) {
        match self.ledger().verify_audit() {
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

    /// Keys that will be gone, and volumes that wait for theirs.
    fn check_keys(&self, out: &mut Findings) -> Result<()> {
        let now = self.env.now();
        for pending in self.kms.deletions().pending()? {
            let (key, at, days) = (pending.key, pending.at, pending.days_left());
            let mut message = format!(
                "key {key} is pending deletion at {at}; what it wraps is lost then: `coffer key cancel-deletion {key}` keeps it"
            );
            if pending.is_held(now) {
                message.push_str(&format!(
                    "; its date has passed, but {days} days of its waiting time have not: was the clock set, or the machine off?"
                ));
            }
            out.add(Grade::Warning, "key", message);
        }
        let states: HashMap<String, KeyState> =
            self.kms.keys().list()?.keys.into_iter().map(|k| (k.arn, k.key_state)).collect();
        for record in self.records.volumes()? {
            let waits = self.opens.is_waiting(record.id);
            if record.suspended {
                let resume = format!("suspended by hand: `coffer volume resume {}` ends that", record.id);
                out.add(Grade::Warning, "volume", format!("{} is {resume}", record.shown()));
            } else if waits {
                let why = format!("is suspended until its CMK {} or its grant can be used again", record.key_arn);
                out.add(Grade::Warning, "volume", format!("{} {why}: see `coffer key show`", record.shown()));
            } else if let Some(why) = cannot_be_opened(&record.key_arn, &states) {
                out.add(Grade::Warning, "volume", format!("{} cannot be attached: {why}", record.shown()));
            }
        }
        Ok(())
    }

    /// Snapshots that failed: they hold nothing, and whoever counts on them should know.
    fn check_snapshots(&self, out: &mut Findings) -> Result<()> {
        for failed in self.records.snapshots()?.into_iter().filter(|s| s.state == "error") {
            let why = failed.error.as_deref().unwrap_or("no reason is known");
            let next = format!("take another, and remove it: `coffer snapshot delete {}`", failed.id);
            out.add(Grade::Warning, "snapshot", format!("{} of {} failed: {why}: {next}", failed.id, failed.volume));
        }
        Ok(())
    }

    fn check_volumes(self: &Arc<Self>, out: &mut Findings) -> Result<()> {
        let listing = self.ledger().catalog().list::<VolumeRecord>()?;
        let mut damaged = self.kms.keys().list()?.damaged;
        damaged.extend(self.kms.aliases().list(None)?.damaged);
        damaged.extend(self.ledger().catalog().list::<SnapshotRecord>()?.damaged);
        damaged.extend(listing.damaged);
        for bad in damaged {
            out.add(Grade::Error, "catalog", format!("the record of {} {} cannot be believed", bad.kind, bad.id));
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
                    format!("{name} has the id of {id}, which is refused: move the wrong one of the two elsewhere"),
                ),
                None => out.add(
                    Grade::Warning,
                    "volume",
                    format!("{name} is no volume of the catalog: a create was cut off, or it was copied here"),
                ),
            }
        }
        Ok(())
    }

    /// The worst of what is wrong with an open volume. `None`: nothing, and what there is to say has been said.
    fn look_at_volume(&self, record: &VolumeRecord, used: &InUse) -> Option<(Grade, String)> {
        let (volume, shown) = (&used.volume, record.shown());
        let (damage, lost) = volume.with_header(|h| (h.damage(), h.state().write_failed || record.write_failed));
        if let Some(damage) = damage {
            return Some((Grade::Warning, format!("{damage}; attaching it mends that")));
        }
        if lost {
            let what = "a sync failed, acknowledged writes may be lost; it is read-only";
            return Some((Grade::Error, format!("{shown}: {what}")));
        }
        match volume.check_map() {
            Err(err) => return Some((Grade::Error, format!("{shown}: {}", err.line()))),
            Ok(true) => {
                let what = "a block of its map is damaged, and its chunks count as changed";
                let next = "nothing is lost; writes mend it, and the next snapshot compares them";
                return Some((Grade::Warning, format!("{shown}: {what}: {next}")));
            }
            Ok(false) => {}
        }
        let missing = volume.missing_chunks().len();
        if missing > 0 {
            return Some((Grade::Error, format!("{shown}: {}", words_for_missing(missing))));
        }
        let parent = record.parent.as_ref().filter(|_| !volume.is_hydrated());
        if let Some(Err(err)) = parent.map(|p| self.repository.check_reach(record.lineage, p.snapshot)) {
            let what = "it cannot be filled from its snapshot";
            return Some((Grade::Error, format!("{shown}: {what}: {}", err.line())));
        }
        let cannot_be_opened = || self.kms.keys().must_be_usable(&record.key_arn, "look").is_err();
        let is_told = record.suspended || self.opens.is_waiting(record.id) || cannot_be_opened();
        (!is_told).then_some((Grade::Ok, shown))
    }
}

/// Why the CMK of a volume does not open it now, and what to do.
fn cannot_be_opened(arn: &str, states: &HashMap<String, KeyState>) -> Option<String> {
    let id = arn.rsplit('/').next().unwrap_or(arn);
    match states.get(arn) {
        Some(KeyState::Enabled) => None,
        Some(KeyState::Disabled) => Some(format!("its CMK is disabled: `coffer key enable {id}`")),
        Some(KeyState::PendingDeletion) => Some(format!(
            "its CMK is pending deletion: `coffer key cancel-deletion {id}`, then `coffer key enable {id}`"
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
        0 => out.add(Grade::Ok, "swap", "no unencrypted swap is seen"),
        n => out.add(
            Grade::Warning,
            "swap",
            format!(
                "{n} swap areas may be unencrypted: secrets of other programs, and transient copies, may reach them"
            ),
        ),
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|l| l.contains(" ext4 ") && l.contains("data=writeback")) {
        out.add(
            Grade::Error,
            "file system",
            "an ext4 is mounted with data=writeback: after power loss old bytes may show; do not keep volumes there",
        );
    }
    let nbd = Path::new("/sys/module/nbd").exists();
    out.add(
        if nbd { Grade::Ok } else { Grade::Warning },
        "kernel",
        if nbd {
            "the nbd module is there"
        } else {
            "the nbd module is not loaded: `coffer attach` needs it (modprobe nbd)"
        },
    );
}
/// What is said of a volume that could not be filled.
pub(super) fn words_for_missing(chunks: usize) -> String {
    format!(
        "{chunks} chunks of its snapshot cannot be read, and reads of them fail: `coffer snapshot verify` shows why"
    )
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
