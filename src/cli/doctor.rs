//! `coffer doctor`: asks the service; if that cannot be opened, looks at the parts by itself. It is then that people call a
//! doctor.

use super::{Common, client, render};
use crate::error::{Error, Kind, Result};
use crate::kms::root::RootFile;
use crate::service::api::{Finding, Grade, Reply, Request};
use crate::service::datadir::DataDir;
use crate::units::ByteLen;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Free bytes below which a disk counts as full.
const LITTLE: u64 = 64 << 20;
/// The most that is read of a file that should be small.
const SMALL: u64 = 1 << 20;

pub(super) fn run(common: &Common) -> Result<u8> {
    match client::call(common, Request::Doctor {}) {
        Ok(reply) => Ok(render::reply(&reply, common)),
        // Somebody else has it, or there is nothing to look at.
        Err(err) if matches!(err.kind(), Kind::Busy | Kind::Unreachable | Kind::Usage | Kind::Interrupted) => Err(err),
        Err(err) => {
            let data = client::data_dir(common)?;
            if !data.path().is_dir() || !seems_initialised(&data) {
                return Err(err);
            }
            let code = if err.kind().row().exit == Kind::Integrity.row().exit { err.kind() } else { Kind::Failed };
            let findings = look(common, &data, &err);
            render::reply(&Reply::Findings { findings }, common);
            Ok(code.row().exit)
        }
    }
}

/// A directory that has lost its root files is one all the same.
fn seems_initialised(data: &DataDir) -> bool {
    data.is_initialised() || ["catalog.db", "audit"].iter().any(|name| data.path().join(name).exists())
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, grade: Grade, check: &str, message: impl Into<String>) {
        self.0.push(Finding { grade, check: check.to_owned(), message: message.into() });
    }
}

fn look(common: &Common, data: &DataDir, err: &Error) -> Vec<Finding> {
    let mut out = Findings(Vec::new());
    out.add(Grade::Error, "installation", format!("it cannot be opened: {}", err.line()));
    check_folder(&mut out, "data directory", data.path(), true);
    check_root(&mut out, common, data);
    check_file(&mut out, "catalog", &data.path().join("catalog.db"), "restore it from a backup of the data directory");
    check_folder(&mut out, "audit", &data.path().join("audit"), false);
    check_folder(&mut out, "volumes", &data.volumes(), false);
    check_repository(&mut out, &data.repository());
    check_space(&mut out, data.path());
    out.0
}

/// Mode and owner, and whether it can be listed.
fn check_folder(out: &mut Findings, check: &str, path: &Path, private: bool) {
    let shown = path.display();
    let listed = std::fs::read_dir(path).map(Iterator::count);
    let (meta, entries) = match (std::fs::symlink_metadata(path), listed) {
        (Ok(meta), Ok(entries)) => (meta, entries),
        (Err(e), _) | (_, Err(e)) => {
            let next = "restore it from a backup, or run as its owner";
            return out.add(Grade::Error, check, format!("{shown} cannot be read: {e} ({next})"));
        }
    };
    match oddities(&meta, private) {
        Some(why) => out.add(Grade::Warning, check, format!("{shown}: {why}")),
        None => out.add(Grade::Ok, check, format!("{shown}: {entries} entries")),
    }
}

fn oddities(meta: &Metadata, private: bool) -> Option<String> {
    let (mode, uid, own) = (meta.permissions().mode() & 0o777, meta.uid(), rustix::process::geteuid().as_raw());
    if private && mode & 0o077 != 0 {
        return Some(format!("others may enter it, mode {mode:o} (chmod 700)"));
    }
    (uid != own).then(|| format!("it belongs to uid {uid}, and this is uid {own} (run as its owner)"))
}

/// Opens without waiting: a FIFO in a file's place is a finding, too.
fn open(path: &Path) -> std::io::Result<(File, Metadata)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() { Ok((file, meta)) } else { Err(std::io::Error::other("it is not a regular file")) }
}

fn check_file(out: &mut Findings, check: &str, path: &Path, next: &str) {
    match open(path) {
        Ok((_, meta)) if meta.len() == 0 => {
            out.add(Grade::Error, check, format!("{} is empty ({next})", path.display()));
        }
        Ok((_, meta)) => {
            out.add(Grade::Ok, check, format!("{} can be read, {}", path.display(), ByteLen(meta.len())));
        }
        Err(e) => out.add(Grade::Error, check, format!("{} cannot be read: {e} ({next})", path.display())),
    }
}

/// The root files, and the key file that opens them.
fn check_root(out: &mut Findings, common: &Common, data: &DataDir) {
    let root = match RootFile::read(data.path()) {
        Ok(root) => root,
        Err(err) => {
            let next = "restore root.json or root.b.json from a backup: without it no volume can be opened";
            return out.add(Grade::Error, "root key", format!("{} ({next})", err.line()));
        }
    };
    let named = common.root_key_file.as_deref();
    for slot in root.slots() {
        match slot.kind.as_str() {
            "file" => {
                let path = named.unwrap_or(Path::new(&slot.note));
                let next = "bring it back from a backup, or name a copy with --root-key-file";
                check_file(out, "root key", path, next);
            }
            kind => out.add(Grade::Ok, "root key", format!("slot {} ({kind})", slot.id)),
        }
    }
}

fn check_repository(out: &mut Findings, path: &Path) {
    let description = path.join("coffer-repository.json");
    let next = "snapshots need it; volumes do not";
    let read = open(&description).and_then(|(file, _)| {
        let mut text = Vec::new();
        file.take(SMALL).read_to_end(&mut text).map(|_| text)
    });
    let whole = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).is_ok_and(|v| v.is_object());
    match read {
        Ok(text) if whole(&text) => out.add(Grade::Ok, "repository", format!("{} can be read", description.display())),
        Ok(_) => out.add(Grade::Error, "repository", format!("{} is damaged ({next})", description.display())),
        Err(e) => {
            out.add(Grade::Error, "repository", format!("{} cannot be read: {e} ({next})", description.display()))
        }
    }
}

fn check_space(out: &mut Findings, path: &Path) {
    use rustix::fs::StatVfsMountFlags as Flags;
    let Ok(disk) = rustix::fs::statvfs(path) else { return };
    let free = disk.f_bavail * disk.f_frsize;
    if disk.f_flag.contains(Flags::RDONLY) {
        let message = format!("{} is on a file system that is mounted read-only (remount it writable)", path.display());
        out.add(Grade::Error, "disk", message);
    }
    if free < LITTLE || disk.f_favail == 0 && disk.f_files > 0 {
        let message = format!("{} free, {} files ({})", ByteLen(free), disk.f_favail, "free space on that file system");
        out.add(Grade::Error, "disk", message);
    } else {
        out.add(Grade::Ok, "disk", format!("{} free", ByteLen(free)));
    }
}
