//! The key management service: KMS keys, their aliases and states, the verbs that use them, and the audit of it all.
//!
//! # In the data directory
//! ```text
//! root.json, root.b.json   the root key, wrapped                       root
//! catalog.db               one authenticated record an object          catalog
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
//! and an intent that the next start closes as done.

mod act;
pub mod alias;
pub mod audit;
mod authority;
pub mod catalog;
mod data;
mod grant;
mod installation;
pub mod key;
mod name;
pub mod policy;
pub mod root;

pub use act::Act;
pub use audit::{AuditHead, AuditRecord, Caller};
pub use authority::Authority;
pub use data::{BlobInfo, DataKeySpec, Decrypted, Encrypted, Plaintext};
pub use grant::{Constraint, Grant, GrantFilter, GrantSpec, MAX_GRANTS, Operation};
pub use installation::{Installation, InstallationConfig};
pub use key::{KeyListing, KeyManager, KeyMetadata, KeyState};
pub use name::{EBS_ALIAS, KeyRef, aws_code, check_alias};
pub use root::{Argon2Cost, Passphrase, RootChoice, RootUnlock};

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::InstallationId;
use audit::{Body, Log, RecordKind, Scan};
use catalog::{Catalog, Change, Stamp};
use installation::InstallationRecord;
use parking_lot::Mutex;
use root::{RootFile, RootKey};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// There while [`Kms::init`] runs.
const UNFINISHED: &str = "init-unfinished";
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
        let marker = dir.join(UNFINISHED);
        if marker.exists() {
            remove_unfinished(dir)?;
        } else if let Some(found) = there(dir) {
            let what = format!("init {}: there is a {found} already", dir.display());
            return Err(Error::new(Kind::Exists, what).hint("choose another directory, or use the installation there"));
        }
        let made = std::fs::File::create(&marker).and_then(|f| f.sync_all());
        made.on(|| format!("write {}", marker.display()))?;
        root::sync_dir(dir)?;
        let kms = Self::make(dir, env, root, config)?;
        // Every name must be there before the marker is gone.
        root::sync_dir(dir)?;
        std::fs::remove_file(&marker).on(|| format!("remove {}", marker.display()))?;
        root::sync_dir(dir)?;
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
        Ok(Self { dir: dir.into(), env, root, catalog, installation, public_key, audit })
    }

    /// Opens the installation in `dir`: root key, catalog, audit (see [`audit`] for what is repaired and what is trouble;
    /// trouble does not fail this, it makes keys unavailable).
    ///
    /// # Errors
    /// [`Kind::NotFound`] without an installation, [`Kind::InvalidState`] for an unfinished one, [`Kind::KeyUnavailable`] if
    /// the root key does not open, [`Kind::Integrity`] for a damaged catalog.
    pub fn open(dir: &Path, env: Env, unlock: &RootUnlock) -> Result<Self> {
        if dir.join(UNFINISHED).exists() {
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
        let catalog = Catalog::open(&dir.join(CATALOG), root.secret()).map_err(|e| match e.kind() {
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
        let kms = Self { dir: dir.into(), env, root, catalog, installation: found.record, public_key, audit };
        kms.take_up_audit()?;
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
        let (scan, trouble) = self.look_at_audit()?;
        *self.audit.lock() = match trouble {
            Some(why) => Audit::Trouble(why),
            None => {
                let mut log = Log::resume(&self.dir.join(AUDIT), &scan)?;
                self.close_interrupted(&mut log, &scan)?;
                Audit::Ready(Box::new(log))
            }
        };
        Ok(())
    }

    fn look_at_audit(&self) -> Result<(Scan, Option<String>)> {
        let head = match self.catalog.get::<AuditHead>("head") {
            Ok(head) => head.map(|h| h.record),
            Err(e) if e.kind() == Kind::Integrity => None,
            Err(e) => return Err(e),
        };
        let scan = Scan::run(&self.dir.join(AUDIT), head.as_ref())?;
        let trouble = match scan.trouble(head.as_ref()) {
            Some(why) => Some(why),
            None => rolled_back(&self.catalog.stamps()?, scan.done.values()),
        };
        Ok((scan, trouble))
    }

    /// Closes intents that a kill left open: done if the catalog has what they announced.
    fn close_interrupted(&self, log: &mut Log, scan: &Scan) -> Result<()> {
        if scan.open.is_empty() {
            return Ok(());
        }
        let stamps = self.catalog.stamps()?;
        let close = |(sequence, intent): (&u64, &Body)| {
            let done = !intent.changes.is_empty() && rolled_back(&stamps, intent.changes.iter()).is_none();
            let mut outcome = Body::at(self.env.now(), "");
            outcome.intent = Some(*sequence);
            outcome.result = if done { "ok" } else { "interrupted" }.into();
            outcome
        };
        let outcomes: Vec<Body> = scan.open.iter().map(close).collect();
        let records: Vec<(RecordKind, &Body)> = outcomes.iter().map(|o| (RecordKind::Outcome, o)).collect();
        match log.append(&records) {
            Err(e) if e.kind() == Kind::NoSpace => {
                log.give_up_reserve()?;
                log.append(&records).map(drop)
            }
            other => other.map(drop),
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
        Log::set_aside(&dir, &self.look_at_audit()?.0)?;
        let scan = Scan::run(&dir, None)?;
        let mut log = Log::resume(&dir, &scan)?;
        let mut body = Act::new("coffer:AcceptAudit").detail("trouble", why).body(self.env.now(), caller);
        if let Ok(Some(head)) = self.catalog.get::<AuditHead>("head") {
            body.detail.insert("old-count".into(), head.record.count.to_string());
            body.detail.insert("old-head".into(), head.record.hash);
        }
        log.append(&[(RecordKind::Accept, &body)])?;
        self.catalog.begin(true, |tx| tx.put_head(&log.head()))?;
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
        let (scan, trouble) = self.look_at_audit()?;
        // With nothing being written, a torn tail is damage too.
        let trouble = trouble.or_else(|| scan.bad.as_ref().map(|(why, _)| why.clone()));
        Ok(AuditReport { head: AuditHead { count: scan.count, hash: hex::encode(scan.hash) }, trouble })
    }

    /// The log's records from the first on; ends behind the first bad one, which is an error.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn audit_records(&self) -> Result<audit::Reader> {
        self.outside_transaction()?;
        // A record that is being appended right now is not the reader's: it stops at what is there.
        let until = match &*self.audit.lock() {
            Audit::Ready(log) => log.head().count,
            Audit::Trouble(_) => u64::MAX,
        };
        Ok(audit::Reader::open(&self.dir.join(AUDIT))?.until(until))
    }

    /// Changes the catalog and says so in the audit: either both, or neither. `change` runs again if the first try found the
    /// disk full and `act` restricts. A refusal of `change` is recorded as such.
    ///
    /// # Errors
    /// What `change` says; [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog report.
    pub fn audited<R>(
        &self,
        caller: &Caller,
        act: Act,
        mut change: impl FnMut(&mut catalog::Tx<'_>) -> Result<R>,
    ) -> Result<R> {
        self.outside_transaction()?;
        let mut audit = self.audit.lock();
        let log = audit.ready()?;
        if !act.restricts() {
            log.reserve()?;
        }
        let mut result = self.attempt(log, caller, &act, &mut change);
        if act.restricts() && result.as_ref().is_err_and(|e| e.kind() == Kind::NoSpace) {
            log.give_up_reserve()?;
            result = self.attempt(log, caller, &act, &mut change);
        }
        result
    }

    fn attempt<R>(
        &self,
        log: &mut Log,
        caller: &Caller,
        act: &Act,
        change: &mut impl FnMut(&mut catalog::Tx<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut intent = None;
        let result = self.catalog.begin(true, |tx| {
            let done = change(tx)?;
            let mut body = act.body(self.env.now(), caller);
            body.changes = tx.changes().to_vec();
            intent = Some(log.append(&[(RecordKind::Intent, &body)])?);
            tx.put_head(&log.head())?;
            Ok(done)
        });
        let (kind, mut body) = match intent {
            Some(_) => (RecordKind::Outcome, Body::at(self.env.now(), "")),
            None => (RecordKind::Event, act.body(self.env.now(), caller)),
        };
        body.intent = intent;
        body.result = match (&result, intent) {
            (Ok(_), _) => "ok",
            (Err(_), Some(_)) => "failed",
            (Err(_), None) => "refused",
        }
        .into();
        body.error = result.as_ref().err().map(Error::line);
        // The intent is durable and tells the next start all: an outcome that cannot be written is no reason to deny
        // what was done.
        if let Err(e) = log.append(&[(kind, &body)]) {
            tracing::warn!(error = %e.line(), act = act.name(), "the outcome of an act could not be recorded");
        }
        result
    }

    /// Records an act that changes nothing in the catalog, or a refusal; durable when this returns.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] while the audit waits to be accepted; what disk and catalog report.
    pub fn record(&self, caller: &Caller, act: Act, outcome: Result<(), &Error>) -> Result<()> {
        self.outside_transaction()?;
        let mut audit = self.audit.lock();
        let log = audit.ready()?;
        let mut body = act.body(self.env.now(), caller);
        body.result = if outcome.is_ok() { "ok" } else { "refused" }.into();
        body.error = outcome.err().map(Error::line);
        let write = |log: &mut Log| {
            log.append(&[(RecordKind::Event, &body)])?;
            self.catalog.begin(true, |tx| tx.put_head(&log.head()))
        };
        let result = if act.restricts() { write(log) } else { log.reserve().and_then(|()| write(log)) };
        match result {
            Err(e) if act.restricts() && e.kind() == Kind::NoSpace => {
                log.give_up_reserve()?;
                write(log)
            }
            other => other,
        }
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
    [root::FILES[0], root::FILES[1], CATALOG, AUDIT].into_iter().find(|name| dir.join(name).exists())
}

/// Removes what an unfinished init left. The marker says that nothing of it was ever used.
fn remove_unfinished(dir: &Path) -> Result<()> {
    let names = [root::FILES[0], root::FILES[1], "root.json.new", "root.b.json.new"];
    let database = ["catalog.db", "catalog.db-wal", "catalog.db-shm", "catalog.db-journal"];
    for path in names.iter().chain(&database).map(|n| dir.join(n)).filter(|p| p.exists()) {
        std::fs::remove_file(&path).on(|| format!("remove {}", path.display()))?;
    }
    let audit = dir.join(AUDIT);
    if audit.exists() {
        std::fs::remove_dir_all(&audit).on(|| format!("remove {}", audit.display()))?;
    }
    Ok(())
}

/// The first of `changes` that the catalog has not, or only in an older version.
fn rolled_back<'a>(
    stamps: &HashMap<(String, String), Stamp>,
    mut changes: impl Iterator<Item = &'a Change>,
) -> Option<String> {
    let lost = |c: &&Change| match (stamps.get(&(c.kind.clone(), c.id.clone())), &c.hash) {
        // A damaged row is that object's trouble alone.
        (Some(Stamp::Damaged), _) | (None, None) => false,
        (Some(Stamp::At(version, hash)), Some(then)) => *version < c.version || (*version == c.version && hash != then),
        (Some(Stamp::At(version, _)), None) => *version < c.version,
        (None, Some(_)) => true,
    };
    let found = changes.find(lost)?;
    Some(format!(
        "the audit tells of version {} of {} {}, which the catalog has not: the catalog was rolled back",
        found.version, found.kind, found.id
    ))
}

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "kms_tests.rs"]
mod tests;
