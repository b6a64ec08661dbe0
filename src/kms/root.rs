//! The master root key (MRK): 256 random bits, wrapped in slots that a person or a machine can unlock.
//!
//! # `root.json`, format 1 (since coffer 0.1)
//! Two copies, `root.json` and `root.b.json`, beside the catalog; the valid one with the higher revision counts. B is written
//! before A, each by write, sync, rename, sync of the folder. A JSON object:
//! ```text
//! format        "coffer-root/1"
//! revision      counts the writes of this file
//! installation  32 hexadecimal digits
//! generation    of the current MRK, from 1
//! check         first 16 bytes of HKDF-SHA-256(MRK, no salt, "coffer/root-check/v1" || generation u32), hex
//! slots         [{id (32 hex digits), kind, generation, ...}]
//! checksum      SHA-256, hex, of this object without "checksum": keys sorted, no white space, UTF-8
//! ```
//! | slot kind | further fields | its key-encryption key |
//! |---|---|---|
//! | `file` | `path` (where it was; a hint), `wrapped` | HKDF-SHA-256(the file's 32 bytes, salt = slot id, "coffer/root-slot/file/v1") |
//! | `passphrase` | `memory_kib`, `time`, `lanes`, `salt`, `wrapped` | argon2id (RFC 9106), version 0x13 |
//! | `systemd-credential`, `pkcs11`, `recovery` | preserved | not usable by this build |
//!
//! `wrapped` is a local seal (see [`crate::cipher::wrap`]) of the MRK under that key; AAD = "coffer/root-slot/v1" ||
//! installation id || slot id || generation u32 || kind. Argon2id's memory is 64 MiB to 4 GiB, its time 3 to 64, its lanes 1
//! to 16: less is too weak, more could exhaust the machine.
//!
//! # Key file, format 1
//! One line of text, mode 0600: `coffer-root-key-1 ` and 64 hexadecimal digits. Whoever has it and the data directory can
//! read everything, so it is never in the data directory. It is created atomically ([`crate::sys::draft`]).

use crate::cipher::hkdf_sha256;
use crate::cipher::wrap::{open_local, seal_local};
use crate::env::Rng;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use crate::secret::Secret;
use crate::sys::as_started;
use crate::sys::draft::Draft;
use crate::units::InstallationId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroize;

/// The two copies, in the order they are read; they are written in reverse order.
pub const FILES: [&str; 2] = ["root.json", "root.b.json"];
const FORMAT: &str = "coffer-root/1";
const KEY_FILE_HEAD: &str = "coffer-root-key-1 ";
/// The most bytes to read of a root file.
const MAX_FILE: u64 = 1 << 20;

/// A passphrase: up to 1024 bytes in locked memory, never shown.
#[derive(Debug)]
pub struct Passphrase {
    bytes: Secret<1024>,
    len: usize,
}

impl Passphrase {
    /// Moves the bytes out of `from`, which is wiped.
    ///
    /// # Errors
    /// [`Kind::Usage`] for fewer than 8 or more than 1024 bytes (`from` is wiped in any case).
    pub fn take(from: &mut [u8]) -> Result<Self> {
        let len = from.len();
        if !(8..=1024).contains(&len) {
            from.zeroize();
            return Err(Error::new(Kind::Usage, "the passphrase must have 8 to 1024 bytes"));
        }
        let bytes = Secret::build(|out| out[..len].copy_from_slice(from));
        from.zeroize();
        Ok(Self { bytes, len })
    }

    /// Whether both are equal, in constant time for equal lengths.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.len == other.len && self.bytes.ct_eq(&other.bytes)
    }
}

/// The cost of argon2id. The default follows RFC 9106, 4 (second recommended option), with more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argon2Cost {
    /// Memory, KiB: 65536 (64 MiB) to 4194304 (4 GiB).
    pub memory_kib: u32,
    /// Passes: 3 to 64.
    pub time: u32,
    /// Lanes: 1 to 16.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    fn default() -> Self {
        Self { memory_kib: 256 * 1024, time: 3, lanes: 4 }
    }
}

impl Argon2Cost {
    fn check(self) -> Result<argon2::Params> {
        let within = (64 * 1024..=4 * 1024 * 1024).contains(&self.memory_kib)
            && (3..=64).contains(&self.time)
            && (1..=16).contains(&self.lanes);
        let params = argon2::Params::new(self.memory_kib, self.time, self.lanes, Some(32)).ok().filter(|_| within);
        params.ok_or_else(|| {
            let Self { memory_kib, time, lanes } = self;
            Error::new(Kind::Usage, format!("argon2id: {memory_kib} KiB, {time} passes, {lanes} lanes: out of bounds"))
                .hint("use 64 MiB to 4 GiB, 3 to 64 passes, 1 to 16 lanes")
        })
    }
}

/// How a new installation protects its root key.
#[derive(Debug)]
pub enum RootChoice {
    /// In a new key file outside the data directory, mode 0600.
    File(PathBuf),
    /// In an existing key file, perhaps of another installation: whoever has it can open both.
    SharedFile(PathBuf),
    /// With a passphrase: a restart needs a person.
    Passphrase(Passphrase, Argon2Cost),
}

impl RootChoice {
    /// The key file to create.
    pub(super) fn makes(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::SharedFile(_) | Self::Passphrase(..) => None,
        }
    }
}

/// How to unlock the root key.
#[derive(Debug)]
pub enum RootUnlock {
    /// The key file at this path.
    File(PathBuf),
    /// The passphrase.
    Passphrase(Passphrase),
    /// The key file at the path in its slot: for an unattended start.
    Automatic,
}

/// A slot, for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotInfo {
    /// The slot's id, 32 hexadecimal digits.
    pub id: String,
    /// `file`, `passphrase`, `systemd-credential`, `pkcs11`, `recovery`, or a kind of a newer coffer.
    pub kind: String,
    /// The MRK generation it wraps.
    pub generation: u64,
    /// Whether this build can open it.
    pub usable: bool,
    /// Where the key file was, or why the slot is not usable.
    pub note: String,
}

/// The open root key.
#[derive(Debug)]
pub struct RootKey {
    generation: u32,
    secret: Secret<32>,
}

impl RootKey {
    /// Its generation, from 1.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The key, for sealing.
    pub(super) const fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    /// A key derived for one purpose: HKDF-SHA-256 without salt.
    pub(super) fn derive(&self, purpose: &[u8]) -> Secret<32> {
        Secret::build(|out| hkdf_sha256(self.secret.expose(), &[], &[purpose], out))
    }

    fn check_value(&self) -> String {
        let mut out = [0u8; 16];
        let info: [&[u8]; 2] = [b"coffer/root-check/v1", &self.generation.to_le_bytes()];
        hkdf_sha256(self.secret.expose(), &[], &info, &mut out);
        hex::encode(out)
    }
}

/// The contents of `root.json`. Slots are kept as they were read, so that those of a newer coffer are not lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootFile {
    format: String,
    revision: u64,
    installation: InstallationId,
    generation: u32,
    check: String,
    slots: Vec<Map<String, Value>>,
}

fn key_unavailable(what: impl Into<String>) -> Error {
    Error::new(Kind::KeyUnavailable, what)
}

fn checksum(object: &Map<String, Value>) -> String {
    let sorted: std::collections::BTreeMap<&String, &Value> = object.iter().filter(|(k, _)| *k != "checksum").collect();
    crate::ledger::sha256_hex(serde_json::to_string(&sorted).unwrap_or_default().as_bytes())
}

/// Reads at most `limit` bytes of an open file.
fn read_bounded(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).on(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > limit {
        bytes.zeroize();
        return Err(Error::new(Kind::Integrity, format!("{}: longer than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

impl RootFile {
    /// Reads the newer valid copy in `dir`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is neither, [`Kind::Integrity`] if none is valid, [`Kind::Unsupported`] for a newer format.
    pub fn read(dir: &Path) -> Result<Self> {
        let copies = FILES.map(|name| Self::read_copy(&dir.join(name)));
        let mut newest: Option<Self> = None;
        let mut failure: Option<Error> = None;
        for copy in copies {
            match copy {
                Ok(file) if newest.as_ref().is_none_or(|n| n.revision < file.revision) => newest = Some(file),
                Ok(_) => {}
                Err(e) if failure.as_ref().is_none_or(|f| f.kind() == Kind::NotFound) => failure = Some(e),
                Err(_) => {}
            }
        }
        newest.ok_or_else(|| {
            failure.unwrap_or_else(|| Error::new(Kind::NotFound, format!("no root.json in {}", dir.display())))
        })
    }

    pub(super) fn read_copy(path: &Path) -> Result<Self> {
        let bytes = read_bounded(&open_regular(path, &OpenHow::read())?, path, MAX_FILE)?;
        let damaged = |why: String| {
            Error::new(Kind::Integrity, format!("{}: {why}", path.display())).hint("restore it from a backup")
        };
        let object: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| damaged(format!("not valid JSON: {e}")))?;
        let format = object.get("format").and_then(Value::as_str).unwrap_or_default();
        if format != FORMAT {
            let what = format!("{}: unknown format {format:?}; this build supports {FORMAT}", path.display());
            return Err(
                Error::new(Kind::Unsupported, what).hint("use the version of coffer that wrote it, or a newer one")
            );
        }
        if object.get("checksum").and_then(Value::as_str) != Some(checksum(&object).as_str()) {
            return Err(damaged("the checksum does not match".into()));
        }
        serde_json::from_value(Value::Object(object)).map_err(|e| damaged(e.to_string()))
    }

    /// Writes both copies, B before A, durably.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let fail = |e| Error::new(Kind::Failed, "encode root.json").because(e);
        let mut object = match serde_json::to_value(self).map_err(fail)? {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        let sum = checksum(&object);
        object.insert("checksum".into(), Value::String(sum));
        let text = serde_json::to_string_pretty(&object).map_err(fail)? + "\n";
        for name in FILES.iter().rev() {
            let (path, temporary) = (dir.join(name), dir.join(format!("{name}.new")));
            remove_if_there(&temporary)?;
            let mut file = open_regular(&temporary, &OpenHow::write().create_new())?;
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .and_then(|()| std::fs::rename(&temporary, &path))
                .on(|| format!("write {}", path.display()))?;
            sync_dir(dir)?;
        }
        Ok(())
    }

    /// The installation whose root key this is.
    #[must_use]
    pub const fn installation(&self) -> InstallationId {
        self.installation
    }

    /// The slots, usable by this build or not.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotInfo> {
        self.slots.iter().map(info).collect()
    }

    /// Creates a root key of generation 1 for `installation`, protected as `choice` says. Writes the key file, if any, but
    /// not yet `root.json`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a key file inside `dir` or costs out of bounds; what the file system reports.
    pub fn create(
        dir: &Path,
        installation: InstallationId,
        choice: &RootChoice,
        rng: &dyn Rng,
    ) -> Result<(Self, RootKey)> {
        let root = RootKey { generation: 1, secret: Secret::random() };
        let check = root.check_value();
        let mut file =
            Self { format: FORMAT.into(), revision: 1, installation, generation: 1, check, slots: Vec::new() };
        file.add_slot(dir, &root, choice, rng)?;
        Ok((file, root))
    }

    /// Adds a slot for the open root key (in memory; [`RootFile::write`] makes it durable).
    ///
    /// # Errors
    /// As [`RootFile::create`].
    pub fn add_slot(&mut self, dir: &Path, root: &RootKey, choice: &RootChoice, rng: &dyn Rng) -> Result<()> {
        let id = InstallationId::draw(rng).0;
        let mut slot = Map::new();
        let (kind, kek) = match choice {
            RootChoice::File(path) | RootChoice::SharedFile(path) => {
                refuse_inside(dir, path)?;
                let secret = match choice.makes() {
                    Some(path) => as_started(|| new_key_file(dir, path))?,
                    None => existing_key_file(dir, path, Named::ByCaller)?,
                };
                let place = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                slot.insert("path".into(), place.to_string_lossy().into_owned().into());
                ("file", file_kek(&secret, &id))
            }
            RootChoice::Passphrase(passphrase, cost) => {
                let mut salt = [0u8; 32];
                rng.fill(&mut salt);
                slot.insert("memory_kib".into(), cost.memory_kib.into());
                slot.insert("time".into(), cost.time.into());
                slot.insert("lanes".into(), cost.lanes.into());
                slot.insert("salt".into(), hex::encode(salt).into());
                ("passphrase", passphrase_kek(passphrase, *cost, &salt)?)
            }
        };
        let aad = slot_aad(self.installation, &id, root.generation, kind);
        let wrapped = seal_local(&kek, &aad, root.secret.expose(), rng)?;
        slot.insert("id".into(), hex::encode(id).into());
        slot.insert("kind".into(), kind.into());
        slot.insert("generation".into(), root.generation.into());
        slot.insert("wrapped".into(), hex::encode(wrapped).into());
        self.slots.push(slot);
        self.revision += 1;
        Ok(())
    }

    /// Removes a slot (in memory; [`RootFile::write`] makes it durable).
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] if no slot that this build can open would be left.
    pub fn remove_slot(&mut self, id: &str) -> Result<()> {
        let at = self.slots.iter().position(|s| text(s, "id") == id);
        let at = at.ok_or_else(|| Error::new(Kind::NotFound, format!("root key: there is no slot {id}")))?;
        if !self.slots.iter().enumerate().any(|(i, slot)| i != at && info(slot).usable) {
            let what = format!("root key: slot {id} is the last one that this build can unlock");
            return Err(Error::new(Kind::InvalidState, what).hint("add another slot first"));
        }
        self.slots.remove(at);
        self.revision += 1;
        Ok(())
    }

    /// Unlocks the root key.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] naming what was tried, why it failed, and what to do; [`Kind::Integrity`] if a slot contains
    /// a key that is not this installation's.
    pub fn unlock(&self, dir: &Path, unlock: &RootUnlock) -> Result<RootKey> {
        let wanted = if matches!(unlock, RootUnlock::Passphrase(_)) { "passphrase" } else { "file" };
        let mut failure = None;
        for slot in self
            .slots
            .iter()
            .filter(|s| text(s, "kind") == wanted && number(s, "generation") == u64::from(self.generation))
        {
            match self.open_slot(dir, slot, unlock) {
                Ok(root) if root.check_value() == self.check => return Ok(root),
                Ok(_) => {
                    let what =
                        format!("root.json: the root key in slot {} does not match the check value", text(slot, "id"));
                    return Err(Error::new(Kind::Integrity, what).hint("restore root.json from a backup"));
                }
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| self.no_slot(wanted)))
    }

    fn no_slot(&self, wanted: &str) -> Error {
        let have: Vec<String> = self.slots().iter().map(|s| s.kind.clone()).collect();
        let what = format!("root key: it has no {wanted} slot, only: {}", have.join(", "));
        key_unavailable(what).hint("give the passphrase on a terminal or with --passphrase-fd")
    }

    fn open_slot(&self, dir: &Path, slot: &Map<String, Value>, unlock: &RootUnlock) -> Result<RootKey> {
        let mut id = [0u8; 16];
        let bad = |what: &str| Error::new(Kind::Integrity, format!("root.json: slot {}: {what}", text(slot, "id")));
        hex::decode_to_slice(text(slot, "id"), &mut id).map_err(|_| bad("its id is not 32 hexadecimal digits"))?;
        let wrapped = hex::decode(text(slot, "wrapped")).map_err(|_| bad("wrapped is not hexadecimal"))?;
        let remembered = PathBuf::from(text(slot, "path"));
        let (kind, kek, wrong) = match unlock {
            RootUnlock::Passphrase(passphrase) => {
                let salt = hex::decode(text(slot, "salt")).map_err(|_| bad("salt is not hexadecimal"))?;
                let small = |field| u32::try_from(number(slot, field)).unwrap_or(u32::MAX);
                let cost = Argon2Cost { memory_kib: small("memory_kib"), time: small("time"), lanes: small("lanes") };
                let wrong = key_unavailable("root key: wrong passphrase").hint("try again");
                ("passphrase", passphrase_kek(passphrase, cost, &salt)?, wrong)
            }
            RootUnlock::File(path) => {
                ("file", file_kek(&existing_key_file(dir, path, Named::ByCaller)?, &id), wrong_file(path))
            }
            RootUnlock::Automatic => {
                let secret = existing_key_file(dir, &remembered, Named::InRootFile)?;
                ("file", file_kek(&secret, &id), wrong_file(&remembered))
            }
        };
        let aad = slot_aad(self.installation, &id, self.generation, kind);
        let secret = open_local(&kek, &aad, &wrapped).map_err(|_| wrong)?;
        Ok(RootKey { generation: self.generation, secret })
    }
}

fn wrong_file(path: &Path) -> Error {
    key_unavailable(format!("root key: the key file {} belongs to another installation", path.display()))
        .hint("name the right file with --root-key-file, or restore it from a backup")
}

fn text<'a>(slot: &'a Map<String, Value>, field: &str) -> &'a str {
    slot.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn number(slot: &Map<String, Value>, field: &str) -> u64 {
    slot.get(field).and_then(Value::as_u64).unwrap_or(u64::MAX)
}

fn info(slot: &Map<String, Value>) -> SlotInfo {
    let kind = text(slot, "kind");
    let (usable, note) = match kind {
        "file" => (true, text(slot, "path").to_owned()),
        "passphrase" => (true, String::new()),
        _ => (false, "not usable by this build".to_owned()),
    };
    let generation = slot.get("generation").and_then(Value::as_u64).unwrap_or(0);
    SlotInfo { id: text(slot, "id").into(), kind: kind.into(), generation, usable, note }
}

fn slot_aad(installation: InstallationId, slot: &[u8; 16], generation: u32, kind: &str) -> Vec<u8> {
    [b"coffer/root-slot/v1", &installation.0[..], slot, &generation.to_le_bytes(), kind.as_bytes()].concat()
}

fn file_kek(secret: &Secret<32>, slot: &[u8; 16]) -> Secret<32> {
    Secret::build(|out| hkdf_sha256(secret.expose(), slot, &[b"coffer/root-slot/file/v1"], out))
}

fn passphrase_kek(passphrase: &Passphrase, cost: Argon2Cost, salt: &[u8]) -> Result<Secret<32>> {
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cost.check()?);
    let typed = &passphrase.bytes.expose()[..passphrase.len];
    Secret::try_build(|out| argon.hash_password_into(typed, salt, out)).map_err(|e| {
        Error::new(Kind::Failed, format!("argon2id with {} KiB of memory: {e}", cost.memory_kib))
            .hint("free some memory, or use a lower cost")
    })
}

// ---------------------------------------------------------------------------------------------------------------------
// The key file

/// Refuses a key file in the data directory: a copy of the directory would then include its key.
fn refuse_inside(dir: &Path, path: &Path) -> Result<()> {
    as_started(|| refuse_if_inside(dir, path))
}

fn refuse_if_inside(dir: &Path, path: &Path) -> Result<()> {
    let folder = std::path::absolute(path).ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default();
    let folder = folder.canonicalize().on(|| format!("key file {}: its directory", path.display()))?;
    let data = dir.canonicalize().on(|| format!("data directory {}", dir.display()))?;
    let target = path.canonicalize().unwrap_or_default();
    if folder.starts_with(&data) || target.starts_with(&data) {
        let what = format!("key file {}: inside the data directory {}", path.display(), dir.display());
        return Err(Error::new(Kind::Usage, what).hint("choose a path outside it, such as ~/.config/coffer/root.key"));
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// The key file that an unfinished init was about to create.
pub(super) fn read_marker(marker: &Path) -> Option<PathBuf> {
    let file = open_regular(marker, &OpenHow::read()).ok()?;
    let path = read_bounded(&file, marker, 4096).ok().filter(|bytes| !bytes.is_empty())?;
    Some(std::ffi::OsString::from_vec(path).into())
}

/// The error for a new key file whose path exists.
pub(super) fn is_taken(path: &Path) -> Error {
    let what = format!("key file {}: it already exists, and may belong to another installation", path.display());
    Error::new(Kind::Exists, what)
        .hint("name a new file, or use --reuse-key-file to share it: whoever has it can then open both installations")
}

fn new_key_file(dir: &Path, path: &Path) -> Result<Secret<32>> {
    let shown = path.display();
    let taken = |e: Error| if e.kind() == Kind::Exists { is_taken(path) } else { e };
    let draft = Draft::new(path).map_err(taken)?;
    // The owner of the data directory must be able to read it, even if root created it.
    let owner = std::fs::metadata(dir).on(|| format!("stat {}", dir.display()))?;
    if draft.file().metadata().on(|| format!("stat {shown}"))?.uid() != owner.uid() {
        std::os::unix::fs::fchown(draft.file(), Some(owner.uid()), Some(owner.gid()))
            .on(|| format!("chown {shown} to the owner of {}", dir.display()))?;
    }
    let secret = Secret::<32>::random();
    let mut line = Secret::<64>::try_build(|out| hex::encode_to_slice(secret.expose(), out))
        .map(|digits| [KEY_FILE_HEAD.as_bytes(), digits.expose(), b"\n"].concat())
        .map_err(|e| Error::new(Kind::Failed, "encode the key file").because(e))?;
    let wrote = draft.file().write_all(&line);
    line.zeroize();
    wrote.on(|| format!("write the key file {shown}"))?;
    draft.publish().map_err(taken)?;
    Ok(secret)
}

/// The origin of a key file's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// The command line: opened with the caller's credentials.
    ByCaller,
    /// `root.json`, which the data directory's owner can write: opened as that owner, so that root's permissions are not used.
    InRootFile,
}

/// Opens a key file and checks it: a regular file of root, of this user or of the data directory's owner, which others cannot
/// read.
fn open_key_file(dir: &Path, path: &Path, named: Named) -> Result<File> {
    let shown = path.display();
    let open = || open_regular(path, &OpenHow::read().follow());
    let opened = match named {
        Named::ByCaller => as_started(open),
        Named::InRootFile => open(),
    };
    let file = opened.map_err(|e| {
        key_unavailable(format!("root key: cannot read the key file {shown}"))
            .because(e)
            .hint("restore it, or name it with --root-key-file")
    })?;
    refuse_inside(dir, path)?;
    let meta = file.metadata().on(|| format!("stat {shown}"))?;
    if meta.mode() & 0o077 != 0 {
        let what = format!("root key: other users can read the key file {shown} (mode {:04o})", meta.mode() & 0o7777);
        return Err(key_unavailable(what).hint(format!("run `chmod 600 {shown}`")));
    }
    let owner = std::fs::metadata(dir).on(|| format!("stat {}", dir.display()))?.uid();
    let me = rustix::process::geteuid().as_raw();
    if ![0, me, owner].contains(&meta.uid()) {
        let what = format!("root key: the key file {shown} belongs to another user, uid {}", meta.uid());
        return Err(key_unavailable(what).hint(format!("find out why; if it is yours, run `chown {owner} {shown}`")));
    }
    Ok(file)
}

pub(super) fn existing_key_file(dir: &Path, path: &Path, named: Named) -> Result<Secret<32>> {
    let shown = path.display();
    let file = open_key_file(dir, path, named)?;
    let mut bytes = read_bounded(&file, path, 4096).map_err(|e| {
        Error::new(Kind::KeyUnavailable, e.what().to_owned())
            .hint("name the right file with --root-key-file")
            .because(e)
    })?;
    let digits = bytes.strip_prefix(KEY_FILE_HEAD.as_bytes()).map(<[u8]>::trim_ascii_end);
    let secret = Secret::try_build(|out| match digits {
        Some(digits) => hex::decode_to_slice(digits, out).map_err(|_| ()),
        None => Err(()),
    });
    bytes.zeroize();
    secret.map_err(|()| {
        key_unavailable(format!("root key: {shown} is not a coffer key file"))
            .hint("name the right file with --root-key-file")
    })
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
