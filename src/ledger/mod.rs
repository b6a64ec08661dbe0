//! The ledger: authenticated records of every object, and the chained audit of who did what to them.
//!
//! # In the data directory
//! ```text
//! catalog.db(-wal)         one authenticated record an object          catalog
//! catalog.spare            disk space for catalog.db-wal               store::sqlite
//! audit/                   who did what, chained                       audit
//! ```
//! The layers above know what the records mean, and who may do what. They supply their [`Record`] types, an [`Act`],
//! and the caller it is recorded for ([`Asker`]).
//!
//! # Order of an audited change
//! The transaction's writes -> intent record, synced -> head into the same transaction -> commit -> outcome record. A
//! kill between any two leaves either no change and an intent that the next start closes as interrupted, or the change
//! and an intent that the next start closes as done. An outcome may be missing for good (a full disk, a failed commit).

mod act;
pub mod audit;
pub mod catalog;
mod examine;
mod group;
mod refusals;
mod request;
mod store;

pub use act::{ANSWER, ANSWER_CODE, Act};
pub use audit::{AuditEvent, AuditHead, AuditRecord, Filter, Identity, Page};
pub(crate) use catalog::sha256_hex;
pub use catalog::{Catalog, Change, Damaged, Listing, Record, Tx, Versioned};
pub(crate) use examine::examine;
pub use request::{MAX_AGENT, MAX_FIELD, MAX_PARAMETERS, RequestInfo};
#[cfg(test)]
pub(crate) use store::sqlite::tamper;

use crate::env::{Env, Timestamp};
use crate::error::{Error, IoContext, Kind, Result};
use crate::secret::Secret;
use audit::{Body, CheckpointKey, Compared, Entry, Log, RecordKind, Scan, Start, Wanted};
use group::{Group, Space};
use parking_lot::Mutex;
use refusals::Refusals;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The catalog's file in the data directory.
pub(crate) const CATALOG: &str = "catalog.db";
/// The audit's subdirectory.
pub(crate) const AUDIT: &str = "audit";

/// The detail of a record that has AWS's code of its error.
pub const ERROR_CODE: &str = "error-code";

/// Bytes that should be free: the reserve and the space ahead of audit and catalog (2 MiB), and a day's records. With
/// less, `doctor` warns.
pub const WANTED_SPACE: u64 = 32 << 20;

/// The caller that an act is recorded for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The identity in the record.
    pub identity: Identity,
    /// It can write records at will, so its refusals have a higher limit.
    pub administrator: bool,
    /// What it is answered when it is denied something, if that is less than the record says.
    pub denial: Option<Arc<str>>,
}

/// The records and the audit of one data directory. The caller holds the directory's lock. Any thread may call it, but
/// not from inside [`Catalog::transaction`].
pub struct Ledger {
    dir: PathBuf,
    env: Env,
    catalog: Catalog,
    root: Secret<32>,
    group: Group,
    refusals: Refusals,
    /// The last start read only a part of the log.
    unchecked: AtomicBool,
    /// Held while the whole log is read, and while old segments are removed.
    whole: Mutex<()>,
}

/// What a look at the whole log and the whole catalog finds.
struct Whole {
    head: AuditHead,
    /// What makes keys unavailable.
    trouble: Option<String>,
    /// What is only reported.
    damage: Option<String>,
}

/// The result of [`Ledger::verify_audit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The number of good records, and the hash of the last. Keep a copy elsewhere to detect tampering by root.
    pub head: AuditHead,
    /// What is wrong, if anything.
    pub trouble: Option<String>,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Some(log) = self.group.log().as_mut() {
            log.take_space();
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.dir.display())
    }
}

impl Ledger {
    /// Creates in `dir` an empty catalog and an audit that begins with `genesis`. `first` writes the catalog's first
    /// records.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one; the error of `first`; what the file system reports.
    pub fn create(
        dir: &Path,
        env: Env,
        root: &Secret<32>,
        genesis: &Act,
        first: impl FnOnce(&mut Tx<'_>) -> Result<()>,
    ) -> Result<Self> {
        Self::begin(dir, env, (Catalog::create(&dir.join(CATALOG), root)?, root), genesis, first)
    }

    fn begin(
        dir: &Path,
        env: Env,
        (catalog, root): (Catalog, &Secret<32>),
        genesis: &Act,
        first: impl FnOnce(&mut Tx<'_>) -> Result<()>,
    ) -> Result<Self> {
        let log = Log::create(&dir.join(AUDIT), CheckpointKey::of(root), genesis.body(env.now(), None))?;
        catalog.transaction(|tx| {
            first(tx)?;
            tx.put_head(&log.head())
        })?;
        let ledger = Self::on(dir, env, catalog, root);
        let count = log.head().count;
        ledger.group.open(Box::new(log), count);
        Ok(ledger)
    }

    /// Opens the catalog in `dir` for reading; nothing can be changed before [`Ledger::take_up_audit`].
    ///
    /// # Errors
    /// [`Kind::Integrity`] for a missing or damaged catalog; otherwise as [`Catalog::open`].
    pub fn open(dir: &Path, env: Env, root: &Secret<32>) -> Result<Self> {
        let catalog = with_reserve(dir, || Catalog::open(&dir.join(CATALOG), root)).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::Integrity, format!("{}: {CATALOG} is missing", dir.display()))
                .because(e)
                .hint("restore it from a backup: it contains all keys"),
            _ => e,
        })?;
        Ok(Self::on(dir, env, catalog, root))
    }

    fn on(dir: &Path, env: Env, catalog: Catalog, root: &Secret<32>) -> Self {
        Self {
            dir: dir.into(),
            env,
            catalog,
            root: Secret::build(|out| out.copy_from_slice(root.expose())),
            group: Group::new(),
            refusals: Refusals::default(),
            unchecked: AtomicBool::new(false),
            whole: Mutex::default(),
        }
    }

    fn key(&self) -> CheckpointKey {
        CheckpointKey::of(&self.root)
    }

    /// Reads the log from its newest checkpoint on and opens it for appending, or keeps what is wrong with it. See
    /// [`audit`] for what is repaired and what is trouble; trouble is not an error here, but makes keys unavailable.
    /// What is before the checkpoint, [`Ledger::check_rest`] reads.
    ///
    /// # Errors
    /// What the file system and the catalog report.
    pub fn take_up_audit(&self) -> Result<()> {
        with_reserve(&self.dir, || {
            let dir = self.dir.join(AUDIT);
            let head = self.head()?;
            let scan = Scan::run(&dir, head.as_ref(), Some(&self.key()), Start::Newest)?;
            let whole = !scan.known.is_partial();
            let rows = if whole { self.catalog.stamps()? } else { self.stamps_of(&scan)? };
            let compared = scan.known.compare(&rows);
            if let Some(why) = scan.trouble(head.as_ref()).or(compared.trouble.clone()) {
                self.group.close(why);
                return Ok(());
            }
            let mut log = Log::resume(&dir, scan, self.key())?;
            self.close_interrupted(&mut log, &compared);
            log.known().adopt(&rows);
            self.unchecked.store(!whole, Ordering::Release);
            self.group.open(Box::new(log), head.map_or(0, |h| h.count));
            Ok(())
        })
    }

    /// Returns the rows of the objects that a part of the log names.
    fn stamps_of(&self, scan: &Scan) -> Result<HashMap<audit::Name, catalog::Stamp>> {
        self.catalog.stamps_of(scan.known.names().cloned().collect())
    }

    /// Returns the head in the catalog; `None` if it is missing or damaged.
    fn head(&self) -> Result<Option<AuditHead>> {
        match self.catalog.get::<AuditHead>("head") {
            Ok(head) => Ok(head.map(|h| h.record)),
            Err(e) if e.kind() == Kind::Integrity => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads the whole log, up to what is durable now, and compares every row with it. Others go on appending.
    fn look_at_whole(&self) -> Result<Whole> {
        let _alone = self.whole.lock();
        let (head, end, rows) = self.catalog.between_transactions(|| {
            let end = self.group.head().map_or(u64::MAX, |h| h.count);
            Ok((self.head()?, end, self.catalog.stamps()?))
        })?;
        let (dir, key) = (self.dir.join(AUDIT), self.key());
        let mut scan = Scan::until(&dir, head.as_ref(), Some(&key), Start::Oldest, end)?;
        audit::read_base(&dir, &mut scan.known, scan.first)?;
        let damage = scan.bad.as_ref().map(|(why, _)| why.clone());
        let mut whole = Whole { head: scan.at(), damage, trouble: None };
        if let Some((why, _)) = &scan.bad
            && self.group.head().is_some()
        {
            // An old segment is damaged. What it told, a later checkpoint tells, as far as a digest can.
            let why = why.clone();
            let newer = Scan::until(&dir, head.as_ref(), Some(&key), Start::Newest, end)?;
            if newer.began > scan.count && newer.bad.is_none() {
                (whole.damage, whole.head) = (Some(why), newer.at());
                scan = newer;
            }
        }
        whole.trouble = scan.trouble(head.as_ref()).or_else(|| scan.known.compare(&rows).trouble);
        if whole.trouble.is_none() {
            match scan.known.compare_rest(&rows) {
                Ok(trouble) => whole.trouble = trouble,
                Err(why) => whole.damage = whole.damage.or(Some(why)),
            }
        }
        Ok(whole)
    }

    /// Reads what the last start did not read of the log, and compares every row of the catalog with it: once, from a
    /// thread of its own, soon after the start. What does not fit makes keys unavailable. A damaged old segment does
    /// not: what it told is also in a checkpoint. It is logged, and reported by [`Ledger::verify_audit`].
    ///
    /// # Errors
    /// What the file system and the catalog report.
    pub fn check_rest(&self) -> Result<()> {
        self.outside_transaction()?;
        if self.group.ready().is_err() {
            return Ok(());
        }
        if let Err(e) = self.catalog.check_rest() {
            if e.kind() == Kind::Integrity {
                tracing::error!(why = %e.line(), "the catalog is damaged: keys are unavailable");
                self.group.close(e.what().to_owned());
            }
            return Err(e);
        }
        if !self.unchecked.load(Ordering::Acquire) {
            return Ok(());
        }
        let whole = self.look_at_whole()?;
        self.unchecked.store(false, Ordering::Release);
        if let Some(why) = whole.trouble {
            tracing::error!(%why, "the audit log and the catalog do not fit: keys are unavailable");
            self.group.close(why);
        } else if let Some(why) = whole.damage {
            tracing::error!(%why, "an old part of the audit log is damaged; `coffer audit verify` reports it");
        }
        Ok(())
    }

    /// Closes intents left without outcome by a kill or a full disk. If the disk is still full, the next start tries
    /// again.
    fn close_interrupted(&self, log: &mut Log, compared: &Compared) {
        let close = |(sequence, happened): (&u64, &bool)| {
            let mut outcome = Body::at(self.env.now(), "");
            outcome.intent = Some(*sequence);
            outcome.result = if *happened { "ok" } else { "interrupted" }.into();
            Entry::new(RecordKind::Outcome, outcome)
        };
        let closed = compared.ends.iter().map(close).collect::<Result<Vec<Entry>>>();
        let closed = closed.and_then(|outcomes| match &outcomes[..] {
            [] => Ok(()),
            outcomes => log.append(&outcomes.iter().collect::<Vec<_>>()).map(drop),
        });
        if let Err(e) = closed {
            tracing::warn!(error = %e.line(), "cannot record the outcome of interrupted actions");
        }
    }

    /// Accepts the log and the catalog as they were found; damaged records are set aside, not removed. Keys are usable
    /// again.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if nothing is wrong; what the file system reports.
    pub fn accept_audit(&self, by: impl Into<Asker>) -> Result<()> {
        self.outside_transaction()?;
        let by = by.into();
        self.catalog.between_transactions(|| {
            let Some(why) = self.group.trouble() else {
                return Err(Error::new(Kind::InvalidState, "audit accept: the audit log has no damage"));
            };
            let (dir, old) = (self.dir.join(AUDIT), self.head()?);
            let scan = Scan::run(&dir, old.as_ref(), Some(&self.key()), Start::Newest)?;
            let kept = AuditHead { count: u64::MAX, hash: String::new(), first: scan.first };
            with_reserve(&self.dir, || Log::set_aside(&dir, &scan))?;
            let scan = Scan::run(&dir, Some(&kept), Some(&self.key()), Start::Newest)?;
            let mut log = Log::resume(&dir, scan, self.key())?;
            let act = Act::new("coffer:AcceptAudit").detail("trouble", why);
            let mut body = act.body(self.env.now(), Some(by.identity.clone()));
            if let Some(head) = old {
                body.detail.insert("old-count".into(), head.count.to_string());
                body.detail.insert("old-head".into(), head.hash);
            }
            let entry = Entry::new(RecordKind::Accept, body)?;
            log.with_reserve(|log| log.append(&[&entry]))?;
            let head = log.head();
            with_reserve(&self.dir, || self.catalog.begin(true, |tx| tx.put_head(&head)))?;
            log.known().adopt(&self.catalog.stamps()?);
            self.unchecked.store(false, Ordering::Release);
            self.group.open(Box::new(log), head.count);
            Ok(())
        })
    }

    /// Returns why all keys are unavailable, if the audit is waiting to be accepted.
    #[must_use]
    pub fn audit_trouble(&self) -> Option<String> {
        self.group.trouble()
    }

    /// Reads the whole log again and compares it with the catalog, while others go on.
    ///
    /// # Errors
    /// What the file system reports; what is wrong with the log is in the report.
    pub fn verify_audit(&self) -> Result<AuditReport> {
        self.outside_transaction()?;
        let whole = self.look_at_whole()?;
        // What is being written is not read, so a torn tail is damage too.
        Ok(AuditReport { head: whole.head, trouble: whole.trouble.or(whole.damage) })
    }

    /// Removes the whole segments whose records are older than `days` days, from the oldest on; the newest one stays,
    /// and so do those since the oldest act without outcome. The removal is recorded. Returns the number of segments
    /// removed.
    ///
    /// # Errors
    /// [`Kind::Usage`] for 0 days; [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog
    /// report.
    pub fn expire_audit(&self, by: impl Into<Asker>, days: u32) -> Result<usize> {
        self.outside_transaction()?;
        if days == 0 {
            return Err(Error::new(Kind::Usage, "audit: keep records for at least one day"));
        }
        let _alone = self.whole.lock();
        let (dir, key) = (self.dir.join(AUDIT), self.key());
        let before = Timestamp(self.env.now().0.saturating_sub(i64::from(days) * 24 * 60 * 60 * 1000));
        self.group.ready()?;
        let Some(head) = self.head()? else { return Ok(0) };
        let limit = self.group.log().as_mut().and_then(|log| log.known().oldest_open()).unwrap_or(u64::MAX);
        if let Some(first) = audit::expirable(&dir, &head, &key, before, limit)? {
            if !audit::write_base(&dir, &head, &key, first)? {
                tracing::warn!(first, "the audit's old segments do not tell every object; a digest will have to do");
            }
            let act = Act::new("coffer:ExpireAudit").detail("first", first).detail("days", days);
            let entry = Entry::new(RecordKind::Event, self.event_of(&by.into(), &act))?;
            let sequence = self.group.append(entry, Space::Kept)?;
            self.group.keep_from(first);
            self.group.commit_head_now(&self.catalog)?;
            tracing::info!(first, sequence, "old segments of the audit are removed");
        }
        let Some(head) = self.head()? else { return Ok(0) };
        if audit::is_removable(&dir, head.first)? { audit::remove_before(&dir, head.first) } else { Ok(0) }
    }

    /// Sets the size of a segment, in bytes.
    #[cfg(test)]
    pub(crate) fn set_segment(&self, bytes: u64) {
        if let Some(log) = self.group.log().as_mut() {
            log.set_segment(bytes);
        }
    }

    fn event_of(&self, by: &Asker, act: &Act) -> Body {
        let mut body = act.body(self.env.now(), Some(by.identity.clone()));
        body.result = "ok".into();
        body
    }

    /// Finds events, newest first: an act that changed something is one event, with its result. Reads at most some
    /// thousand records, so a page may be short, or empty, and say where to go on. At most 1000 events.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a token that is not from an earlier page; [`Kind::Integrity`] for a damaged record; what the
    /// file system reports.
    pub fn events(&self, filter: &Filter, from: Option<&str>, limit: usize) -> Result<Page> {
        self.events_if(filter, &|_| true, from, limit)
    }

    /// Finds the events that pass a test, too. The test sees a record before it is joined with its outcome.
    ///
    /// # Errors
    /// As [`Ledger::events`].
    pub fn events_if(
        &self,
        filter: &Filter,
        test: &dyn Fn(&AuditRecord) -> bool,
        from: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        audit::events(&self.dir.join(AUDIT), self.readable()?, &Wanted { filter, test }, from, limit)
    }

    /// Iterates over the log's records, from the first; stops at the first bad one, which is an error.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn audit_records(&self) -> Result<audit::Reader> {
        let (first, count) = self.readable()?;
        Ok(audit::Reader::open(&self.dir.join(AUDIT), first)?.until(count))
    }

    /// Returns the newest `limit` records, oldest first.
    ///
    /// # Errors
    /// What the file system reports; [`Kind::Integrity`] for a damaged record among them.
    pub fn newest_audit_records(&self, limit: usize) -> Result<Vec<AuditRecord>> {
        audit::newest(&self.dir.join(AUDIT), self.readable()?, limit)
    }

    /// Returns the sequence of the oldest record that is kept, and the number of complete records: excludes one being
    /// appended at the moment.
    fn readable(&self) -> Result<(u64, u64)> {
        self.outside_transaction()?;
        Ok(match self.group.head() {
            Some(head) => (head.first, head.count),
            None => (self.head()?.map_or(0, |h| h.first), u64::MAX),
        })
    }

    /// Changes the catalog and records that in the audit: both, or neither. `change` runs again if the first attempt
    /// found the disk full and `act` restricts or frees space. A refusal by `change` is recorded as one.
    ///
    /// # Errors
    /// The error of `change`; [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog
    /// report.
    pub fn audited<R>(
        &self,
        by: impl Into<Asker>,
        act: Act,
        mut change: impl FnMut(&mut Tx<'_>) -> Result<R>,
    ) -> Result<R> {
        self.outside_transaction()?;
        let by = by.into();
        self.group.ready()?;
        if act.is_urgent() {
            return self.group.with_reserve(|| self.attempt(&by, &act, &mut change));
        }
        self.group.keep_reserve()?;
        self.attempt(&by, &act, &mut change)
    }

    /// Runs a step outside catalog and audit that frees space: on a full disk it uses the audit's reserve, which the
    /// next audited act allocates again. The step must not use the audit.
    ///
    /// # Errors
    /// The step's.
    pub fn with_reserve<R>(&self, mut step: impl FnMut() -> Result<R>) -> Result<R> {
        match step() {
            Err(e) if e.kind() == Kind::NoSpace => {
                self.group.ready()?;
                self.group.give_up_reserve()?;
                step()
            }
            other => other,
        }
    }

    fn attempt<R>(&self, by: &Asker, act: &Act, change: &mut impl FnMut(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        let act_body = || act.body(self.env.now(), Some(by.identity.clone()));
        let (mut intent, mut committing, mut counted) = (None, false, 0);
        let space = if act.is_urgent() { Space::Reserve } else { Space::Kept };
        let result = self.catalog.begin(true, |tx| {
            let done = change(tx)?;
            let mut body = act_body();
            body.changes = tx.changes().to_vec();
            // The reserve is for the retry of the whole act.
            let entry = Entry::new(RecordKind::Intent, body)?;
            intent = Some(self.group.append(entry, space.min(Space::Allocated))?);
            let head = self.group.head().ok_or_else(|| Error::new(Kind::KeyUnavailable, "the audit log was closed"))?;
            counted = head.count;
            tx.put_head(&head)?;
            committing = true;
            Ok(done)
        });
        if result.is_ok() {
            self.group.counted(counted);
        }
        let (kind, mut body) = match intent {
            // Only the next start can tell whether a failed commit took effect; one refused because of a conflict did
            // not.
            Some(_) if committing && result.as_ref().is_err_and(|e| e.kind() != Kind::Busy) => return result,
            Some(_) => (RecordKind::Outcome, Body::at(self.env.now(), "")),
            None => (RecordKind::Event, act_body()),
        };
        body.intent = intent;
        body.result = match (&result, intent) {
            (Ok(_), _) => "ok",
            (Err(_), Some(_)) => "failed",
            (Err(_), None) => "refused",
        }
        .into();
        if let Err(e) = &result {
            tell(&mut body, e, by);
        }
        if result.is_err() && !self.refusals.admit(by, &mut body) && intent.is_none() {
            return result;
        }
        let space = if result.is_ok() { space.max(Space::Allocated) } else { Space::Allocated };
        let recorded = Entry::new(kind, body).and_then(|entry| self.group.append(entry, space));
        // The intent is durable, and enough for the next start: failing to write an outcome must not deny what was
        // done.
        if let Err(e) = recorded {
            tracing::warn!(error = %e.line(), act = act.name(), "cannot record the outcome of an action");
        }
        result
    }

    /// Records an act that changes nothing in the catalog, or a refusal; durable on return. Refusals of one principal
    /// are recorded at a bounded rate, and those left out are counted.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog report.
    pub fn record(&self, by: impl Into<Asker>, act: Act, outcome: Result<(), &Error>) -> Result<()> {
        self.outside_transaction()?;
        let by = by.into();
        let mut body = act.body(self.env.now(), Some(by.identity.clone()));
        body.result = if outcome.is_ok() { "ok" } else { "refused" }.into();
        if let Err(e) = outcome {
            tell(&mut body, e, &by);
        }
        if outcome.is_err() && !self.refusals.admit(&by, &mut body) {
            return Ok(());
        }
        self.group.ready()?;
        // A refusal neither restricts nor frees anything: it may not use the reserve.
        let urgent = act.is_urgent() && outcome.is_ok();
        let entry = Entry::new(RecordKind::Event, body)?;
        if !urgent {
            return self.group.append_counted(&self.catalog, entry, Space::Kept).map(drop);
        }
        let sequence = self.group.append(entry, Space::Reserve)?;
        self.group.with_reserve(|| self.group.commit_head(&self.catalog, sequence))
    }

    /// Records a refusal; if that fails, the caller still gets the refusal.
    pub fn record_refusal(&self, act: Act, by: impl Into<Asker>, err: &Error) {
        if let Err(lost) = self.record(by, act, Err(err)) {
            tracing::warn!(error = %lost.line(), "cannot record a refusal");
        }
    }

    /// Runs a verb, and makes sure that a refusal of it is in the audit: whatever is wrong with a request and wherever
    /// that was detected, one record says that `by` asked for `act` and why it was refused. Interrupting a verb is not
    /// a refusal.
    ///
    /// # Errors
    /// The verb's.
    pub fn verb<R>(&self, act: Act, by: impl Into<Asker>, verb: impl FnOnce() -> Result<R>) -> Result<R> {
        let before = refusals::seen();
        verb().inspect_err(|e| {
            if refusals::seen() == before && e.kind() != Kind::Interrupted {
                self.record_refusal(act, by, e);
            }
        })
    }

    fn outside_transaction(&self) -> Result<()> {
        if self.catalog.in_transaction() {
            let what = "ledger: called from inside a catalog transaction";
            return Err(
                Error::new(Kind::InvalidState, what).hint("use Ledger::audited, and the transaction it hands out")
            );
        }
        Ok(())
    }

    /// Returns the catalog.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

/// Says in a record why an act was refused or failed.
fn tell(body: &mut Body, err: &Error, by: &Asker) {
    body.error = Some(act::bounded(&err.line()));
    body.detail.insert(ERROR_CODE.into(), err.aws().into());
    if let Some(denial) = by.denial.as_deref().filter(|_| err.is_denial()) {
        body.detail.insert(ANSWER.into(), act::bounded(denial));
        body.detail.insert(ANSWER_CODE.into(), Kind::AccessDenied.aws().into());
    }
}

/// Removes what an unfinished init left in `dir`.
///
/// # Errors
/// What the file system reports.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    let names = ["catalog.db", "catalog.db-wal", "catalog.db-shm", "catalog.db-journal", "catalog.spare"];
    for path in names.iter().map(|n| dir.join(n)).filter(|p| p.symlink_metadata().is_ok()) {
        std::fs::remove_file(&path).on(|| format!("remove {}", path.display()))?;
    }
    let audit = dir.join(AUDIT);
    if audit.exists() {
        std::fs::remove_dir_all(&audit).on(|| format!("remove {}", audit.display()))?;
    }
    Ok(())
}

/// Runs a step that must work on a full disk: if there is no space, releases the audit's reserve and retries.
fn with_reserve<R>(dir: &Path, mut step: impl FnMut() -> Result<R>) -> Result<R> {
    match step() {
        Err(e) if e.kind() == Kind::NoSpace => {
            audit::give_up_reserve(&dir.join(AUDIT))?;
            step()
        }
        other => other,
    }
}

#[cfg(test)]
mod segments_tests;
#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
