//! The key management service: KMS keys, their aliases and states, the verbs that use them, and the audit of it all.
//!
//! # In the data directory
//! ```text
//! root.json, root.b.json   the root key, wrapped                       root
//! catalog.db(-wal)         one authenticated record an object          catalog
//! catalog.spare            disk space for catalog.db-wal               catalog::space
//! audit/                   who did what, chained                       audit
//! init-unfinished          there while init runs: nothing in here was ever used, init may start over
//! ```
//! The path of a key: root key -> backing keys and signing key (sealed under it, in the catalog) -> data keys (in blobs).
//! [`Kms`] does the verbs, and asks the key's policy and grants whether the caller may ([`Authority`]). Who the caller is, the
//! service says, which calls these in its own process.
//!
//! # Order of an audited change
//! The transaction's writes -> intent record, synced -> head into the same transaction -> commit -> outcome record.
//! A kill between any two leaves either no change and an intent that the next start closes as interrupted, or the change
//! and an intent that the next start closes as done. An outcome may stay missing (a full disk, a failed commit).

pub mod alias;
mod authority;
mod data;
mod examine;
mod grant;
mod installation;
pub mod key;
mod name;
pub mod policy;
pub mod root;
mod waiting;

pub use authority::{Authority, Caller};
pub use data::{BlobInfo, DataKeySpec, Decrypted, Encrypted, Plaintext};
pub use examine::{Part, examine, lost_root_copies, open_to_others};
pub use grant::{Constraint, Grant, GrantFilter, GrantSpec, MAX_GRANTS, Operation};
pub use installation::{Installation, InstallationConfig};
pub use key::{KeyListing, KeyManager, KeyMetadata, KeyState, NewKey};
pub use name::{EBS_ALIAS, KeyRef, check_alias};
pub use root::{Argon2Cost, Passphrase, RootChoice, RootUnlock};
pub use waiting::PendingDeletion;

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use crate::ledger::audit::{self, AuditHead, AuditRecord, Body, Compared, Log, RecordKind, Scan};
use crate::ledger::{Act, Catalog, Tx, refusals};
use crate::units::InstallationId;
use installation::InstallationRecord;
use parking_lot::Mutex;
use root::{RootFile, RootKey};
use std::io::Write;
use std::path::{Path, PathBuf};

/// There while [`Kms::init`] runs.
pub const UNFINISHED: &str = "init-unfinished";
const CATALOG: &str = "catalog.db";
const AUDIT: &str = "audit";

/// The key management service of one data directory. The caller holds the directory's lock. Any thread may call it, but
/// not from inside [`Catalog::transaction`].
pub struct Kms {
    dir: PathBuf,
    env: Env,
    root: RootKey,
    catalog: Catalog,
    installation: InstallationRecord,
    public_key: [u8; 32],
    audit: Mutex<Audit>,
    refusals: refusals::Refusals,
}

/// The log, or why keys are unavailable.
enum Audit {
    Ready(Box<Log>),
    Trouble(String),
}

impl Audit {
    fn ready(&mut self) -> Result<&mut Log> {
        match self {
            Self::Ready(log) => Ok(log),
            Self::Trouble(why) => {
                let what = format!("keys are unavailable until the audit is accepted: {why}");
                let hint = "find out what happened (a restored backup?), then: coffer audit accept";
                Err(Error::new(Kind::KeyUnavailable, what).hint(hint))
            }
        }
    }
}

/// What [`Kms::verify_audit`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// How many good records there are, and the hash of the last: worth keeping elsewhere.
    pub head: AuditHead,
    /// What is wrong, if something is.
    pub trouble: Option<String>,
}

/// Bytes that should be free: the reserve and the space ahead of audit and catalog (2 MiB), and a day's work with its records.
/// With less, `doctor` warns.
pub const WANTED_SPACE: u64 = 32 << 20;

impl Drop for Kms {
    fn drop(&mut self) {
        if let Audit::Ready(log) = self.audit.get_mut() {
            log.take_space();
        }
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kms({})", self.installation.public.id)
    }
}

impl Kms {
    /// Makes a new installation in `dir`, which is there and empty of coffer's files. Killed in the middle, it leaves what
    /// another `init` removes; complete only when this returns.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is an installation; [`Kind::Usage`] for a key file inside `dir` or a bad configuration;
    /// what the file system reports.
    pub fn init(dir: &Path, env: Env, root: &RootChoice, config: &InstallationConfig) -> Result<Self> {
        Self::init_then(dir, env, root, config, || Ok(()))
    }

    /// As [`Kms::init`], with what else belongs to a new installation: `then` is done before it counts as complete.
    ///
    /// # Errors
    /// As [`Kms::init`], and what `then` says.
    pub fn init_then(
        dir: &Path,
        env: Env,
        root: &RootChoice,
        config: &InstallationConfig,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let marker = dir.join(UNFINISHED);
        let mut begun = None;
        if marker.symlink_metadata().is_ok() {
            begun = root::read_marker(&marker);
        } else if let Some(found) = there(dir) {
            let what = format!("init {}: there is a {found} already", dir.display());
            return Err(Error::new(Kind::Exists, what).hint("choose another directory, or use the installation there"));
        }
        let own = root.makes();
        let text = own.map_or(&[][..], |path| path.as_os_str().as_encoded_bytes());
        // Run again after a kill, it finds the key file that it made itself.
        let again;
        let root = match own.filter(|path| crate::sys::as_started(|| path.symlink_metadata().is_ok())) {
            Some(path) if begun.as_deref() == Some(path) => {
                again = RootChoice::SharedFile(path.to_owned());
                &again
            }
            Some(path) => return Err(root::is_taken(path)),
            None => root,
        };
        let made = open_regular(&marker, &OpenHow::write().create())?;
        let wrote = made.set_len(0).and_then(|()| (&made).write_all(text)).and_then(|()| made.sync_all());
        wrote.on(|| format!("write {}", marker.display()))?;
        sync_dir(dir)?;
        remove_unfinished(dir)?;
        let kms = Self::make(dir, env, root, config)?;
        then()?;
        // Every name must be there before the marker is gone.
        sync_dir(dir)?;
        std::fs::remove_file(&marker).on(|| format!("remove {}", marker.display()))?;
        sync_dir(dir)?;
        Ok(kms)
    }

    fn make(dir: &Path, env: Env, choice: &RootChoice, config: &InstallationConfig) -> Result<Self> {
        let id = InstallationId::draw(&*env.rng);
        let (file, root) = RootFile::create(dir, id, choice, &*env.rng)?;
        let installation = InstallationRecord::make(id, config, &root, &env)?;
        file.write(dir)?;
        let catalog = Catalog::create(&dir.join(CATALOG), root.secret())?;
        let mut genesis = Body::at(env.now(), "coffer:Init");
        genesis.detail.insert("installation".into(), id.to_string());
        let log = Log::create(&dir.join(AUDIT), &genesis)?;
        catalog.transaction(|tx| {
            tx.insert(&installation)?;
            tx.put_head(&log.head())
        })?;
        let public_key = installation.public_key()?;
        let audit = Mutex::new(Audit::Ready(Box::new(log)));
        catalog.make_indexes::<Grant>();
        let refusals = refusals::Refusals::default();
        Ok(Self { dir: dir.into(), env, root, catalog, installation, public_key, audit, refusals })
    }

    /// Opens the installation in `dir`: root key, catalog, audit (see [`audit`] for what is repaired and what is trouble;
    /// trouble does not fail this, it makes keys unavailable).
    ///
    /// # Errors
    /// [`Kind::NotFound`] without an installation, [`Kind::InvalidState`] for an unfinished one, [`Kind::KeyUnavailable`] if
    /// the root key does not open, [`Kind::Integrity`] for a damaged catalog.
    pub fn open(dir: &Path, env: Env, unlock: &RootUnlock) -> Result<Self> {
        if dir.join(UNFINISHED).symlink_metadata().is_ok() {
            let what = format!("open {}: its init did not finish", dir.display());
            return Err(Error::new(Kind::InvalidState, what).hint("run `coffer init` again"));
        }
        let file = RootFile::read(dir).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("{} is no coffer data directory", dir.display()))
                .because(e)
                .hint("name it with --data, or make one with `coffer init`"),
            _ => e,
        })?;
        let root = file.unlock(dir, unlock)?;
        let catalog =
            with_reserve(dir, || Catalog::open(&dir.join(CATALOG), root.secret())).map_err(|e| match e.kind() {
                Kind::NotFound => Error::new(Kind::Integrity, format!("{}: {CATALOG} is missing", dir.display()))
                    .because(e)
                    .hint("restore it from a backup: without it, no key is there"),
                _ => e,
            })?;
        let id = file.installation().to_string();
        let found = catalog.get::<InstallationRecord>(&id)?.ok_or_else(|| {
            let what = format!("catalog: it is not of installation {id}, which root.json is of");
            Error::new(Kind::Integrity, what).hint("restore root.json and catalog.db from the same backup")
        })?;
        let public_key = found.record.public_key()?;
        let audit = Mutex::new(Audit::Trouble("it was not looked at yet".into()));
        catalog.make_indexes::<Grant>();
        let (installation, refusals) = (found.record, refusals::Refusals::default());
        let kms = Self { dir: dir.into(), env, root, catalog, installation, public_key, audit, refusals };
        with_reserve(dir, || kms.take_up_audit())?;
        // A key past its date is of no use either way: not being able to remove it is no reason to stay closed.
        if kms.audit_trouble().is_none()
            && let Err(e) = kms.purge_due()
        {
            tracing::warn!(error = %e.line(), "keys past their deletion date could not be removed");
        }
        Ok(kms)
    }

    /// Looks at the log as it was left; opens it for appending, or says what is wrong.
    fn take_up_audit(&self) -> Result<()> {
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

    /// Closes intents that a kill or a full disk left without outcome. Where that is full still, the next start tries.
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
            tracing::warn!(error = %e.line(), "how interrupted acts ended could not be recorded");
        }
    }

    /// Accepts the log and the catalog as they were found; damaged records are set aside, not removed. Keys are usable again.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if nothing is wrong; what the file system reports.
    pub fn accept_audit(&self, caller: &Caller) -> Result<()> {
        self.outside_transaction()?;
        let mut audit = self.audit.lock();
        let Audit::Trouble(why) = &*audit else {
            return Err(Error::new(Kind::InvalidState, "audit accept: nothing is wrong with it"));
        };
        let dir = self.dir.join(AUDIT);
        let scan = self.look_at_audit()?.0;
        with_reserve(&self.dir, || Log::set_aside(&dir, &scan))?;
        let scan = Scan::run(&dir, None)?;
        let mut log = Log::resume(&dir, &scan)?;
        let mut body = Act::new("coffer:AcceptAudit").detail("trouble", why).body(self.env.now(), caller.identity());
        if let Ok(Some(head)) = self.catalog.get::<AuditHead>("head") {
            body.detail.insert("old-count".into(), head.record.count.to_string());
            body.detail.insert("old-head".into(), head.record.hash);
        }
        log.with_reserve(|log| log.append(&[(RecordKind::Accept, &body)]))?;
        with_reserve(&self.dir, || self.catalog.begin(true, |tx| tx.put_head(&log.head())))?;
        *audit = Audit::Ready(Box::new(log));
        Ok(())
    }

    /// Why all keys are unavailable, if they are: the audit waits to be accepted.
    #[must_use]
    pub fn audit_trouble(&self) -> Option<String> {
        // Inside a transaction the lock may be this thread's own, or wait for it; an audited one runs without trouble only.
        let audit = if self.catalog.in_transaction() { self.audit.try_lock()? } else { self.audit.lock() };
        match &*audit {
            Audit::Ready(_) => None,
            Audit::Trouble(why) => Some(why.clone()),
        }
    }

    /// Reads the whole log again and holds it against the catalog.
    ///
    /// # Errors
    /// What the file system reports; what is wrong with the log is in the report.
    pub fn verify_audit(&self) -> Result<AuditReport> {
        self.outside_transaction()?;
        let _audit = self.audit.lock();
        let (scan, compared) = self.look_at_audit()?;
        // With nothing being written, a torn tail is damage too.
        let trouble = compared.trouble.or_else(|| scan.bad.as_ref().map(|(why, _)| why.clone()));
        Ok(AuditReport { head: AuditHead { count: scan.count, hash: hex::encode(scan.hash) }, trouble })
    }

    /// The log's records from the first on; ends behind the first bad one, which is an error.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn audit_records(&self) -> Result<audit::Reader> {
        Ok(audit::Reader::open(&self.dir.join(AUDIT))?.until(self.readable()?))
    }

    /// The newest `limit` records, oldest of them first.
    ///
    /// # Errors
    /// What the file system reports; [`Kind::Integrity`] for a damaged record among the segments that were read.
    pub fn newest_audit_records(&self, limit: usize) -> Result<Vec<AuditRecord>> {
        audit::newest(&self.dir.join(AUDIT), limit, self.readable()?)
    }

    /// How many records may be read: one that is being appended right now is not the reader's.
    fn readable(&self) -> Result<u64> {
        self.outside_transaction()?;
        Ok(match &*self.audit.lock() {
            Audit::Ready(log) => log.head().count,
            Audit::Trouble(_) => u64::MAX,
        })
    }

    /// Changes the catalog and says so in the audit: either both, or neither. `change` runs again if the first try found the
    /// disk full and `act` restricts or frees space. A refusal of `change` is recorded as such.
    ///
    /// # Errors
    /// What `change` says; [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog report.
    pub fn audited<R>(&self, caller: &Caller, act: Act, mut change: impl FnMut(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        self.outside_transaction()?;
        let mut audit = self.audit.lock();
        let log = audit.ready()?;
        log.with_space(act.is_urgent(), |log| self.attempt(log, caller, &act, &mut change))
    }

    /// Does a step that frees space, outside of catalog and audit: on a full disk with the audit's reserve, which the next
    /// audited act makes good again. The step must not use the audit.
    ///
    /// # Errors
    /// The step's.
    pub fn with_reserve<R>(&self, mut step: impl FnMut() -> Result<R>) -> Result<R> {
        match step() {
            Err(e) if is_no_space(&e) => {
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
        caller: &Caller,
        act: &Act,
        change: &mut impl FnMut(&mut Tx<'_>) -> Result<R>,
    ) -> Result<R> {
        let (mut intent, mut committing) = (None, false);
        let result = self.catalog.begin(true, |tx| {
            let done = change(tx)?;
            let mut body = act.body(self.env.now(), caller.identity());
            body.changes = tx.changes().to_vec();
            intent = Some(log.append(&[(RecordKind::Intent, &body)])?);
            tx.put_head(&log.head())?;
            committing = true;
            Ok(done)
        });
        let (kind, mut body) = match intent {
            // Whether a commit that failed took place, only the next start can see.
            Some(_) if committing && result.is_err() => return result,
            Some(_) => (RecordKind::Outcome, Body::at(self.env.now(), "")),
            None => (RecordKind::Event, act.body(self.env.now(), caller.identity())),
        };
        body.intent = intent;
        body.result = match (&result, intent) {
            (Ok(_), _) => "ok",
            (Err(_), Some(_)) => "failed",
            (Err(_), None) => "refused",
        }
        .into();
        body.error = result.as_ref().err().map(Error::line);
        if result.is_err() && !self.admit(caller, &mut body) && intent.is_none() {
            return result;
        }
        let append = |log: &mut Log| log.append(&[(kind, &body)]);
        let recorded = if act.is_urgent() && result.is_ok() { log.with_reserve(append) } else { append(log) };
        // The intent is durable and tells the next start all: an outcome that cannot be written is no reason to deny
        // what was done.
        if let Err(e) = recorded {
            tracing::warn!(error = %e.line(), act = act.name(), "the outcome of an act could not be recorded");
        }
        result
    }

    /// Records an act that changes nothing in the catalog, or a refusal; durable when this returns. Refusals of one principal are
    /// recorded at a bounded rate, and those left out are counted.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog report.
    pub fn record(&self, caller: &Caller, act: Act, outcome: Result<(), &Error>) -> Result<()> {
        self.outside_transaction()?;
        let mut body = act.body(self.env.now(), caller.identity());
        body.result = if outcome.is_ok() { "ok" } else { "refused" }.into();
        body.error = outcome.err().map(Error::line);
        if outcome.is_err() && !self.admit(caller, &mut body) {
            return Ok(());
        }
        let mut audit = self.audit.lock();
        let log = audit.ready()?;
        let mut appended = false;
        // A refusal restricts nothing and frees nothing: the reserve is not for it.
        log.with_space(act.is_urgent() && outcome.is_ok(), |log| {
            if !appended {
                log.append(&[(RecordKind::Event, &body)])?;
                appended = true;
            }
            self.catalog.begin(true, |tx| tx.put_head(&log.head()))
        })
    }

    /// Does a verb, and sees to it that its refusal is in the audit: whatever is wrong with a request and wherever that was
    /// found, one record says that `caller` asked for `act` and why it was refused. Who stops a verb is not refused.
    ///
    /// # Errors
    /// What the verb says.
    pub fn verb<R>(&self, act: Act, caller: &Caller, verb: impl FnOnce() -> Result<R>) -> Result<R> {
        let before = refusals::seen();
        verb().inspect_err(|e| {
            if refusals::seen() == before && e.kind() != Kind::Interrupted {
                self.record_refusal(act, caller, e);
            }
        })
    }

    fn admit(&self, caller: &Caller, body: &mut Body) -> bool {
        self.refusals.admit(&caller.principal, caller.writes_at_will(), body)
    }

    fn outside_transaction(&self) -> Result<()> {
        if self.catalog.in_transaction() {
            let what = "kms: called from inside a catalog transaction";
            return Err(Error::new(Kind::InvalidState, what).hint("use Kms::audited, and the transaction it hands out"));
        }
        Ok(())
    }

    /// coffer itself, as a caller: what the clock makes it do.
    fn myself(&self) -> Caller {
        Caller {
            principal: format!("arn:aws:iam::{}:root", self.installation.public.account),
            via_service: Some("coffer".into()),
            client: "coffer itself".into(),
            authority: Authority::Settled,
        }
    }

    /// The records of the layers above are kept here too.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Which installation this is.
    #[must_use]
    pub const fn installation(&self) -> &Installation {
        &self.installation.public
    }

    /// The root key's slots, usable by this build or not.
    ///
    /// # Errors
    /// What reading `root.json` reports.
    pub fn root_slots(&self) -> Result<Vec<root::SlotInfo>> {
        Ok(RootFile::read(&self.dir)?.slots())
    }

    /// Adds a slot to the root key: a second key file, or a passphrase for when the file is lost.
    ///
    /// # Errors
    /// As [`Kms::init`] for `choice`; what the file system and the audit report.
    pub fn add_root_slot(&self, choice: &RootChoice, caller: &Caller) -> Result<()> {
        let mut file = RootFile::read(&self.dir)?;
        file.add_slot(&self.dir, &self.root, choice, &*self.env.rng)?;
        let act = Act::new("coffer:AddRootSlot").detail("kind", file.slots().last().map_or("", |s| &s.kind));
        self.write_root(&file, act, caller)
    }

    /// Removes a slot of the root key, by its id. Old copies of `root.json` still hold it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] for the last slot that this build can open.
    pub fn remove_root_slot(&self, id: &str, caller: &Caller) -> Result<()> {
        let mut file = RootFile::read(&self.dir)?;
        file.remove_slot(id)?;
        self.write_root(&file, Act::new("coffer:RemoveRootSlot").detail("slot", id), caller)
    }

    fn write_root(&self, file: &RootFile, act: Act, caller: &Caller) -> Result<()> {
        self.record(caller, act.clone(), Ok(()))?;
        file.write(&self.dir).inspect_err(|e| drop(self.record(caller, act, Err(e))))
    }

    /// Signs with the installation's Ed25519 key (RFC 8032).
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the sealed private half does not open.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        self.installation.sign(&self.root, message)
    }

    /// The installation's Ed25519 public key: what verifiers pin.
    #[must_use]
    pub const fn public_key(&self) -> [u8; 32] {
        self.public_key
    }
}

/// Which of coffer's files is in `dir`, if one is.
fn there(dir: &Path) -> Option<&'static str> {
    let is_there = |name: &&str| dir.join(name).symlink_metadata().is_ok();
    [root::FILES[0], root::FILES[1], CATALOG, AUDIT].into_iter().find(is_there)
}

/// Removes what an unfinished init left. The marker says that nothing of it was ever used.
fn remove_unfinished(dir: &Path) -> Result<()> {
    let names = [root::FILES[0], root::FILES[1], "root.json.new", "root.b.json.new"];
    let database = ["catalog.db", "catalog.db-wal", "catalog.db-shm", "catalog.db-journal", "catalog.spare"];
    for path in names.iter().chain(&database).map(|n| dir.join(n)).filter(|p| p.symlink_metadata().is_ok()) {
        std::fs::remove_file(&path).on(|| format!("remove {}", path.display()))?;
    }
    let audit = dir.join(AUDIT);
    if audit.exists() {
        std::fs::remove_dir_all(&audit).on(|| format!("remove {}", audit.display()))?;
    }
    Ok(())
}

/// Where the slots of a root file say that their key files are.
fn key_files(file: &RootFile) -> Vec<PathBuf> {
    file.slots().into_iter().filter(|s| s.kind == "file").map(|s| s.note.into()).collect()
}

fn is_no_space(error: &Error) -> bool {
    error.kind() == Kind::NoSpace
}

/// Does a step that must work on a full disk: if there is no space, the audit's reserve is given up for it.
fn with_reserve<R>(dir: &Path, mut step: impl FnMut() -> Result<R>) -> Result<R> {
    match step() {
        Err(e) if is_no_space(&e) => {
            audit::give_up_reserve(&dir.join(AUDIT))?;
            step()
        }
        other => other,
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod audit_tests;

#[cfg(test)]
#[path = "kms_tests.rs"]
mod tests;
