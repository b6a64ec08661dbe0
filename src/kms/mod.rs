//! The key management service: KMS keys, their aliases and states, and the operations that use them.
//!
//! # In the data directory
//! ```text
//! root.json, root.b.json   the root key, wrapped                       root
//! catalog.*, audit/        its records and the audit log               crate::ledger
//! init-unfinished          exists while init runs: nothing in here was ever used, init may start over
//! ```
//! The key hierarchy: root key -> backing keys and signing key (sealed under it, in the catalog) -> data keys (in blobs).
//! [`Kms`] performs the operations, authorized by the key's policy and grants ([`Authority`]). The service, which calls it in
//! the same process, says who the caller is. `components` lists what [`Kms`] is made of.

pub mod alias;
mod authority;
mod backing;
mod caller;
mod components;
mod data;
mod departed;
mod examine;
mod grant;
mod grantstore;
mod import;
mod installation;
pub mod key;
mod keystore;
mod name;
mod owned;
mod pairs;
mod pins;
mod policies;
pub mod policy;
mod replicas;
pub mod root;
mod rotation;
mod scope;
mod tags;
mod waiting;

pub use alias::Aliases;
pub use authority::Authorizer;
pub use caller::{Authority, Caller, Permissions};
pub use data::{BlobInfo, Ciphertext, Crypto, DataKeySpec, Decrypted, Encrypted, Plaintext};
pub use examine::{Part, examine, lost_root_copies, open_to_others};
pub use grant::{GrantFilter, Grants};
pub use grantstore::{Constraint, Grant, GrantSpec, MAX_GRANTS, Operation};
pub use import::{ImportParameters, Imports, Material};
pub use installation::{Installation, InstallationConfig};
pub use key::{KeyListing, KeyMetadata, KeyVersion, Keys, NewKey, Regions, Tags};
pub use keystore::{KeyManager, KeyState, Origin, RotationType};
pub use name::{EBS_ALIAS, KeyRef, check_alias, is_region};
pub use owned::OwnedKey;
pub use pairs::{PublicKey, ToSign};
pub use pins::Pins;
pub use policies::KeyPolicies;
pub use replicas::{NewReplica, Replicas};
pub use root::{Argon2Cost, Passphrase, RootChoice, RootUnlock};
pub use rotation::{RotationStatus, Rotations};
pub use scope::{KeyName, Place};
pub use tags::{KeyTags, check as check_tags};
pub use waiting::{Deletions, PendingDeletion, Waited};

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use crate::iam::{self, Iam};
use crate::ledger::{self, AUDIT, Act, CATALOG, Ledger};
use crate::units::InstallationId;
use components::Components;
use installation::InstallationRecord;
use root::{RootFile, RootKey};
use scope::Scope;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Exists while [`Kms::init`] runs.
pub const UNFINISHED: &str = "init-unfinished";

/// The key management service of one data directory. The caller holds the directory's lock. Any thread may call it, but
/// not from inside a transaction of its ledger.
pub struct Kms {
    dir: PathBuf,
    env: Env,
    root: Arc<RootKey>,
    ledger: Arc<Ledger>,
    installation: InstallationRecord,
    public_key: [u8; 32],
    iam: Arc<Iam>,
    /// For the keys of the installation's account and Region.
    here: Components,
    waited: Waited,
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kms({})", self.installation.public.id)
    }
}

impl Kms {
    /// Creates a new installation in `dir`, which exists and has no coffer files. If it is killed, the next `init` removes
    /// what it left; complete only when this returns.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is an installation; [`Kind::Usage`] for a key file inside `dir` or a bad configuration;
    /// what the file system reports.
    pub fn init(dir: &Path, env: Env, root: &RootChoice, config: &InstallationConfig) -> Result<Self> {
        Self::init_then(dir, env, root, config, || Ok(()))
    }

    /// As [`Kms::init`]; `then` creates what else belongs to a new installation, before it counts as complete.
    ///
    /// # Errors
    /// As [`Kms::init`], and those of `then`.
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
            let what = format!("init {}: {found} already exists", dir.display());
            return Err(Error::new(Kind::Exists, what).hint("choose another directory, or use that installation"));
        }
        let own = root.makes();
        let text = own.map_or(&[][..], |path| path.as_os_str().as_encoded_bytes());
        // When run again after a kill, it finds the key file that it created itself.
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
        // Every name must be durable before the marker is removed.
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
        let genesis = Act::new("coffer:Init").detail("installation", id);
        let ledger =
            Ledger::create(dir, env.clone(), root.secret(), &genesis, |tx| tx.insert(&installation).map(drop))?;
        Self::over(dir, env, root, ledger, installation)
    }

    /// The components, over what is open.
    fn over(dir: &Path, env: Env, root: RootKey, ledger: Ledger, installation: InstallationRecord) -> Result<Self> {
        let public_key = installation.public_key()?;
        ledger.catalog().make_indexes::<Grant>();
        let (root, ledger) = (Arc::new(root), Arc::new(ledger));
        let (id, scope) = (installation.public.id, Scope::of(&installation.public));
        let here = Components::new(&env, id, scope, &root, &ledger);
        let iam = Arc::new(Iam::new(principals_of(&env, &installation.public, &root, &ledger)));
        let waited = Waited::new(env.clone(), ledger.clone());
        Ok(Self { dir: dir.into(), env, root, ledger, installation, public_key, iam, here, waited })
    }

    /// Opens the installation in `dir`: root key, catalog, audit log (whose damage does not fail this, but makes keys
    /// unavailable: [`Ledger::take_up_audit`]).
    ///
    /// # Errors
    /// [`Kind::NotFound`] without an installation, [`Kind::InvalidState`] for an unfinished one, [`Kind::KeyUnavailable`] if
    /// the root key does not open, [`Kind::Integrity`] for a damaged catalog.
    pub fn open(dir: &Path, env: Env, unlock: &RootUnlock) -> Result<Self> {
        if dir.join(UNFINISHED).symlink_metadata().is_ok() {
            let what = format!("open {}: `coffer init` did not complete", dir.display());
            return Err(Error::new(Kind::InvalidState, what).hint("run `coffer init` again"));
        }
        let file = RootFile::read(dir).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("{} is not a coffer data directory", dir.display()))
                .because(e)
                .hint("name the directory with --data, or create one with `coffer init`"),
            _ => e,
        })?;
        let root = file.unlock(dir, unlock)?;
        let ledger = Ledger::open(dir, env.clone(), root.secret())?;
        let id = file.installation().to_string();
        let found = ledger.catalog().get::<InstallationRecord>(&id)?.ok_or_else(|| {
            let what = format!("the catalog does not belong to installation {id} of root.json");
            Error::new(Kind::Integrity, what).hint("restore root.json and catalog.db from the same backup")
        })?;
        let kms = Self::over(dir, env, root, ledger, found.record)?;
        kms.ledger.take_up_audit()?;
        // A key past its date cannot be used anyway: a failure to remove it does not prevent opening.
        if kms.ledger.audit_trouble().is_none()
            && let Err(e) = kms.here.deletions.purge_due()
        {
            tracing::warn!(error = %e.line(), "cannot remove keys past their deletion date");
        }
        Ok(kms)
    }

    /// Its records and its audit log, shared with the layers above.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Its accounts, principals and their credentials.
    #[must_use]
    pub const fn iam(&self) -> &Arc<Iam> {
        &self.iam
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.here.keys
    }

    /// The names that its keys go by.
    #[must_use]
    pub const fn aliases(&self) -> &Aliases {
        &self.here.aliases
    }

    /// Its keys' policies.
    #[must_use]
    pub const fn policies(&self) -> &KeyPolicies {
        &self.here.policies
    }

    /// The grants on its keys.
    #[must_use]
    pub const fn grants(&self) -> &Grants {
        &self.here.grants
    }

    /// What its keys are used for.
    #[must_use]
    pub const fn crypto(&self) -> &Crypto {
        &self.here.crypto
    }

    /// The rotation of its keys.
    #[must_use]
    pub const fn rotations(&self) -> &Rotations {
        &self.here.rotations
    }

    /// The import of key material.
    #[must_use]
    pub const fn imports(&self) -> &Imports {
        &self.here.imports
    }

    /// The Regions of its multi-Region keys.
    #[must_use]
    pub const fn replicas(&self) -> &Replicas {
        &self.here.replicas
    }

    /// The tags of its keys.
    #[must_use]
    pub const fn tags(&self) -> &KeyTags {
        &self.here.tags
    }

    /// Says who may do what with its keys.
    #[must_use]
    pub fn authorizer(&self) -> &Authorizer {
        &self.here.authorizer
    }

    /// The time that has passed by the clock that cannot be set.
    #[must_use]
    pub const fn waited(&self) -> &Waited {
        &self.waited
    }

    /// Its keys that wait for their deletion.
    #[must_use]
    pub fn deletions(&self) -> &Deletions {
        &self.here.deletions
    }

    /// The ARN of a key.
    #[must_use]
    pub fn key_arn(&self, key: &KeyName) -> String {
        self.here.scope.arn_of(key)
    }

    /// The account of a key.
    #[must_use]
    pub fn account_of(&self, key: &KeyName) -> String {
        self.here.scope.place(key.place.as_ref()).account.clone()
    }

    /// The account and Region that a caller's request is about.
    #[must_use]
    pub fn place_of(&self, caller: &Caller) -> Place {
        self.here.scope.place_of(caller)
    }

    /// An act on a key, by its ARN if it is known which that is, else as it was named.
    pub(crate) fn act_on(&self, name: impl Into<String>, key: &KeyRef) -> Act {
        self.here.store.act_on(name, key)
    }

    /// The installation.
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

    /// Adds a slot to the root key: a second key file, or a passphrase in case the file is lost.
    ///
    /// # Errors
    /// As [`Kms::init`] for `choice`; what the file system and the audit report.
    pub fn add_root_slot(&self, choice: &RootChoice, caller: &Caller) -> Result<()> {
        let mut file = RootFile::read(&self.dir)?;
        file.add_slot(&self.dir, &self.root, choice, &*self.env.rng)?;
        let act = Act::new("coffer:AddRootSlot").detail("kind", file.slots().last().map_or("", |s| &s.kind));
        self.write_root(&file, act, caller)
    }

    /// Removes a slot of the root key, by its id. Old copies of `root.json` still contain it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] for the last slot that this build can open.
    pub fn remove_root_slot(&self, id: &str, caller: &Caller) -> Result<()> {
        let mut file = RootFile::read(&self.dir)?;
        file.remove_slot(id)?;
        self.write_root(&file, Act::new("coffer:RemoveRootSlot").detail("slot", id), caller)
    }

    fn write_root(&self, file: &RootFile, act: Act, caller: &Caller) -> Result<()> {
        self.ledger.record(caller, act.clone(), Ok(()))?;
        file.write(&self.dir).inspect_err(|e| drop(self.ledger.record(caller, act, Err(e))))
    }

    /// Signs with the installation's Ed25519 key (RFC 8032).
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the sealed private half does not open.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        self.installation.sign(&self.root, message)
    }

    /// The installation's Ed25519 public key, which verifiers pin.
    #[must_use]
    pub const fn public_key(&self) -> [u8; 32] {
        self.public_key
    }
}

/// What [`Iam`] is made for. It never sees the root key, only one that is derived from it.
fn principals_of(env: &Env, installation: &Installation, root: &RootKey, ledger: &Arc<Ledger>) -> iam::Of {
    let Installation { id, account, name, created, .. } = installation.clone();
    iam::Of {
        env: env.clone(),
        ledger: ledger.clone(),
        installation: id,
        first: iam::Account { id: account, name, created },
        key: root.derive(b"coffer/iam/v1"),
        root_generation: root.generation(),
    }
}

/// One of coffer's files in `dir`, if there is any.
fn there(dir: &Path) -> Option<&'static str> {
    let is_there = |name: &&str| dir.join(name).symlink_metadata().is_ok();
    [root::FILES[0], root::FILES[1], CATALOG, AUDIT].into_iter().find(is_there)
}

/// Removes the files of an unfinished init. The marker proves that none of them was ever used.
fn remove_unfinished(dir: &Path) -> Result<()> {
    let names = [root::FILES[0], root::FILES[1], "root.json.new", "root.b.json.new"];
    for path in names.iter().map(|n| dir.join(n)).filter(|p| p.symlink_metadata().is_ok()) {
        std::fs::remove_file(&path).on(|| format!("remove {}", path.display()))?;
    }
    ledger::remove(dir)
}

/// The paths of key files in the slots of a root file.
fn key_files(file: &RootFile) -> Vec<PathBuf> {
    file.slots().into_iter().filter(|s| s.kind == "file").map(|s| s.note.into()).collect()
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod audit_tests;

#[cfg(test)]
#[path = "kms_tests.rs"]
mod tests;
