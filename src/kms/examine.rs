//! Examines each part of an installation separately, for when it cannot be opened. Writes nothing.

use super::root::{self, RootFile, RootKey, RootUnlock};
use super::{AUDIT, CATALOG, UNFINISHED, key_files};
use crate::error::{Error, Kind, Result};
use crate::ledger;
use std::path::{Path, PathBuf};

/// A part, and its state.
#[derive(Debug)]
pub struct Part {
    /// The part, as `root key`.
    pub name: &'static str,
    /// What was checked, or what is wrong and what to do.
    pub state: Result<String>,
}

/// Examines the copies of the root file, the key files, the catalog and the audit log in `dir`, each separately.
#[must_use]
pub fn examine(dir: &Path, unlock: &RootUnlock) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut add = |name, state| parts.push(Part { name, state });
    if dir.join(UNFINISHED).symlink_metadata().is_ok() {
        let what = format!("{}: `coffer init` did not complete", dir.display());
        add("init", Err(Error::new(Kind::InvalidState, what).hint("run `coffer init` again")));
    }
    for name in root::FILES {
        add("root file", RootFile::read_copy(&dir.join(name)).map(|_| format!("{name} is valid")));
    }
    let file = RootFile::read(dir).ok();
    for path in file.iter().flat_map(key_files) {
        let state = root::existing_key_file(dir, &path, root::Named::InRootFile)
            .map(|_| format!("the key file {} is readable", path.display()));
        add("key file", state);
    }
    let key = file.map(|file| file.unlock(dir, unlock));
    let records = ledger::examine(dir, key.as_ref().and_then(|k| k.as_ref().ok()).map(RootKey::secret));
    match key {
        Some(key) => add("root key", key.map(|_| "opened".to_owned())),
        None => add("root key", Err(Error::new(Kind::KeyUnavailable, "root key: no valid root file"))),
    }
    records.into_iter().for_each(|(name, state)| add(name, state));
    parts
}

/// Copies of the root file that are damaged while the other one is valid.
#[must_use]
pub fn lost_root_copies(dir: &Path) -> Vec<String> {
    let [a, b] = root::FILES;
    let mut found = Vec::new();
    for (name, other) in [(a, b), (b, a)] {
        let lost = RootFile::read_copy(&dir.join(name)).err();
        if let Some(err) = lost.filter(|_| RootFile::read_copy(&dir.join(other)).is_ok()) {
            let (from, to) = (dir.join(other), dir.join(name));
            let next = format!("restore it with `cp -p {} {}`", from.display(), to.display());
            let why = err.replay();
            found.push(format!("{}; its only copy, {other}, is in use: {next}", why.what()));
        }
    }
    found
}

/// Permissions of other users on the files of an installation in `dir`, and on its key files.
#[must_use]
pub fn open_to_others(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let Ok(folder) = std::fs::metadata(dir) else { return Vec::new() };
    let mut found = Vec::new();
    if folder.mode() & 0o022 != 0 {
        found.push(format!("{0}: other users can write to it (run chmod 700 {0})", dir.display()));
    } else if folder.mode() & 0o077 != 0 {
        found.push(format!("{0}: other users can look into it (run chmod 700 {0})", dir.display()));
    }
    let inside: Vec<PathBuf> = [root::FILES[0], root::FILES[1], CATALOG, "catalog.db-wal", AUDIT, "volumes", "lock"]
        .into_iter()
        .map(|name| dir.join(name))
        .chain(std::fs::read_dir(dir.join(AUDIT)).into_iter().flatten().flatten().map(|e| e.path()))
        .collect();
    let keys: Vec<PathBuf> = RootFile::read(dir).iter().flat_map(key_files).collect();
    for (path, secret) in inside.into_iter().map(|p| (p, false)).chain(keys.into_iter().map(|p| (p, true))) {
        let Ok(meta) = (if secret { std::fs::metadata(&path) } else { path.symlink_metadata() }) else { continue };
        let (shown, mode) = (path.display(), meta.mode() & 0o7777);
        if meta.is_symlink() {
            found.push(format!("{shown}: a symbolic link, which coffer does not follow"));
        } else if meta.uid() != folder.uid() && !(secret && meta.uid() == 0) {
            found.push(format!(
                "{shown}: owned by uid {}, not by {1} (run chown {1} {shown})",
                meta.uid(),
                folder.uid()
            ));
        } else if mode & if secret { 0o077 } else { 0o022 } != 0 {
            found.push(format!("{shown}: other users can read or change it, mode {mode:04o} (run chmod go= {shown})"));
        }
    }
    found
}
