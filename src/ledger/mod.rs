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
mod refusals;
mod request;
mod store;

pub use act::Act;
pub use audit::{AuditHead, AuditRecord, Identity};
pub(crate) use catalog::sha256_hex;
pub use catalog::{Catalog, Change, Damaged, Listing, Record, Tx, Versioned};
pub(crate) use examine::examine;
pub use request::{MAX_AGENT, MAX_FIELD, MAX_PARAMETERS, RequestInfo};
#[cfg(test)]
pub(crate) use store::sqlite::tamper;

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::secret::Secret;
use audit::{Body, Compared, Log, RecordKind, Scan};
use parking_lot::Mutex;
use refusals::Refusals;
use std::path::{Path, PathBuf};

/// The catalog's file in the data directory.
pub(crate) const CATALOG: &str = "catalog.db";
/// The audit's subdirectory.
pub(crate) const AUDIT: &str = "audit";

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
}

/// The records and the audit of one data directory. The caller holds the directory's lock. Any thread may call it, but
/// not from inside [`Catalog::transaction`].
pub struct Ledger {
    dir: PathBuf,
    env: Env,
    catalog: Catalog,
    audit: Mutex<Audit>,
    refusals: Refusals,
}

/// The log, or why nothing can be changed and no key used.
enum Audit {
    Ready(Box<Log>),
    Trouble(String),
}

impl Audit {
    fn ready(&mut self) -> Result<&mut Log> {
        match self {
            Self::Ready(log) => Ok(log),
            Self::Trouble(why) => {
                let what = format!("keys are unavailable until the audit log is accepted: {why}");
                let hint = "find out what happened (a restored backup?), then run `coffer audit accept`";
                Err(Error::new(Kind::KeyUnavailable, what).hint(hint))
            }
        }
    }
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
        if let Audit::Ready(log) = self.audit.get_mut() {
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
        Self::begin(dir, env, Catalog::create(&dir.join(CATALOG), root)?, genesis, first)
    }

    fn begin(
        dir: &Path,
        env: Env,
        catalog: Catalog,
        genesis: &Act,
        first: impl FnOnce(&mut Tx<'_>) -> Result<()>,
    ) -> Result<Self> {
        let log = Log::create(&dir.join(AUDIT), &genesis.body(env.now(), None))?;
        catalog.transaction(|tx| {
            first(tx)?;
            tx.put_head(&log.head())
        })?;
        let ledger = Self::on(dir, env, catalog);
        *ledger.audit.lock() = Audit::Ready(Box::new(log));
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
        Ok(Self::on(dir, env, catalog))
    }

    fn on(dir: &Path, env: Env, catalog: Catalog) -> Self {
        let audit = Mutex::new(Audit::Trouble("not checked yet".into()));
        Self { dir: dir.into(), env, catalog, audit, refusals: Refusals::default() }
    }

    /// Reads the log and opens it for appending, or keeps what is wrong with it. See [`audit`] for what is repaired and
    /// what is trouble; trouble is not an error here, but makes keys unavailable.
    ///
    /// # Errors
    /// What the file system and the catalog report.
    pub fn take_up_audit(&self) -> Result<()> {
        with_reserve(&self.dir, || {
            let (scan, compared) = self.look_at_audit()?;
            *self.audit.lock() = match compared.trouble {
                Some(why) => Audit::Trouble(why),
                None => {
                    let mut log = Log::resume(&self.dir.join(AUDIT), &scan)?;
                    self.close_interrupted(&mut log, &compared);
                    Audit::Ready(Box::new(log))
                }
            };
            Ok(())
        })
    }

    fn look_at_audit(&self) -> Result<(Scan, Compared)> {
        let head = match self.catalog.get::<AuditHead>("head") {
            Ok(head) => head.map(|h| h.record),
            Err(e) if e.kind() == Kind::Integrity => None,
            Err(e) => return Err(e),
        };
        let scan = Scan::run(&self.dir.join(AUDIT), head.as_ref())?;
        let mut compared = scan.known.compare(&self.catalog.stamps()?);
        compared.trouble = scan.trouble(head.as_ref()).or(compared.trouble);
        Ok((scan, compared))
    }

    /// Closes intents left without outcome by a kill or a full disk. If the disk is still full, the next start tries
    /// again.
    fn close_interrupted(&self, log: &mut Log, compared: &Compared) {
        let close = |(sequence, happened): (&u64, &bool)| {
            let mut outcome = Body::at(self.env.now(), "");
            outcome.intent = Some(*sequence);
            outcome.result = if *happened { "ok" } else { "interrupted" }.into();
            outcome
        };
        let outcomes: Vec<Body> = compared.ends.iter().map(close).collect();
        let records: Vec<(RecordKind, &Body)> = outcomes.iter().map(|o| (RecordKind::Outcome, o)).collect();
        if !records.is_empty()
            && let Err(e) = log.append(&records)
        {
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
        let mut audit = self.audit.lock();
        let Audit::Trouble(why) = &*audit else {
            return Err(Error::new(Kind::InvalidState, "audit accept: the audit log has no damage"));
        };
        let dir = self.dir.join(AUDIT);
        let scan = self.look_at_audit()?.0;
        with_reserve(&self.dir, || Log::set_aside(&dir, &scan))?;
        let scan = Scan::run(&dir, None)?;
        let mut log = Log::resume(&dir, &scan)?;
        let act = Act::new("coffer:AcceptAudit").detail("trouble", why);
        let mut body = act.body(self.env.now(), Some(by.into().identity));
        if let Ok(Some(head)) = self.catalog.get::<AuditHead>("head") {
            body.detail.insert("old-count".into(), head.record.count.to_string());
            body.detail.insert("old-head".into(), head.record.hash);
        }
        log.with_reserve(|log| log.append(&[(RecordKind::Accept, &body)]))?;
        with_reserve(&self.dir, || self.catalog.begin(true, |tx| tx.put_head(&log.head())))?;
        *audit = Audit::Ready(Box::new(log));
        Ok(())
    }

    /// Returns why all keys are unavailable, if the audit is waiting to be accepted.
    #[must_use]
    pub fn audit_trouble(&self) -> Option<String> {
        // Inside a transaction, this thread may hold the lock, or its holder may wait for this thread; an audited
        // transaction runs only without trouble.
        let audit = if self.catalog.in_transaction() { self.audit.try_lock()? } else { self.audit.lock() };
        match &*audit {
            Audit::Ready(_) => None,
            Audit::Trouble(why) => Some(why.clone()),
        }
    }

    /// Reads the whole log again and compares it with the catalog.
    ///
    /// # Errors
    /// What the file system reports; what is wrong with the log is in the report.
    pub fn verify_audit(&self) -> Result<AuditReport> {
        self.outside_transaction()?;
        let _audit = self.audit.lock();
        let (scan, compared) = self.look_at_audit()?;
        // Nothing is being written, so a torn tail is damage too.
        let trouble = compared.trouble.or_else(|| scan.bad.as_ref().map(|(why, _)| why.clone()));
        Ok(AuditReport { head: AuditHead { count: scan.count, hash: hex::encode(scan.hash) }, trouble })
    }

    /// Iterates over the log's records, from the first; stops at the first bad one, which is an error.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn audit_records(&self) -> Result<audit::Reader> {
        Ok(audit::Reader::open(&self.dir.join(AUDIT))?.until(self.readable()?))
    }

    /// Returns the newest `limit` records, oldest first.
    ///
    /// # Errors
    /// What the file system reports; [`Kind::Integrity`] for a damaged record in the segments that were read.
    pub fn newest_audit_records(&self, limit: usize) -> Result<Vec<AuditRecord>> {
        audit::newest(&self.dir.join(AUDIT), limit, self.readable()?)
    }

    /// Returns the number of complete records: excludes one being appended at the moment.
    fn readable(&self) -> Result<u64> {
        self.outside_transaction()?;
        Ok(match &*self.audit.lock() {
            Audit::Ready(log) => log.head().count,
            Audit::Trouble(_) => u64::MAX,
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
        let (by, mut audit) = (by.into(), self.audit.lock());
        let log = audit.ready()?;
        log.with_space(act.is_urgent(), |log| self.attempt(log, &by, &act, &mut change))
    }

    /// Runs a step outside catalog and audit that frees space: on a full disk it uses the audit's reserve, which the
    /// next audited act allocates again. The step must not use the audit.
    ///
    /// # Errors
    /// The step's.
    pub fn with_reserve<R>(&self, mut step: impl FnMut() -> Result<R>) -> Result<R> {
        match step() {
            Err(e) if e.kind() == Kind::NoSpace => {
                let mut audit = self.audit.lock();
                audit.ready()?.give_up_reserve()?;
                step()
            }
            other => other,
        }
    }

    fn attempt<R>(
        &self,
        log: &mut Log,
        by: &Asker,
        act: &Act,
        change: &mut impl FnMut(&mut Tx<'_>) -> Result<R>,
    ) -> Result<R> {
        let act_body = || act.body(self.env.now(), Some(by.identity.clone()));
        let (mut intent, mut committing) = (None, false);
        let result = self.catalog.begin(true, |tx| {
            let done = change(tx)?;
            let mut body = act_body();
            body.changes = tx.changes().to_vec();
            intent = Some(log.append(&[(RecordKind::Intent, &body)])?);
            tx.put_head(&log.head())?;
            committing = true;
            Ok(done)
        });
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
        body.error = result.as_ref().err().map(Error::line);
        if result.is_err() && !self.refusals.admit(by, &mut body) && intent.is_none() {
            return result;
        }
        let append = |log: &mut Log| log.append(&[(kind, &body)]);
        let recorded = if act.is_urgent() && result.is_ok() { log.with_reserve(append) } else { append(log) };
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
        body.error = outcome.err().map(Error::line);
        if outcome.is_err() && !self.refusals.admit(&by, &mut body) {
            return Ok(());
        }
        let mut audit = self.audit.lock();
        let log = audit.ready()?;
        let mut appended = false;
        // A refusal neither restricts nor frees anything: it may not use the reserve.
        log.with_space(act.is_urgent() && outcome.is_ok(), |log| {
            if !appended {
                log.append(&[(RecordKind::Event, &body)])?;
                appended = true;
            }
            self.catalog.begin(true, |tx| tx.put_head(&log.head()))
        })
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
#[path = "ledger_tests.rs"]
mod tests;
