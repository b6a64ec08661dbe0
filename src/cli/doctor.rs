//! `coffer doctor`: asks the service; if it cannot be opened, examines its parts directly, because that is when people need a
//! doctor.

use super::args::Common;
use super::{client, render};
use crate::error::{Error, Kind, Result};
use crate::file::{OpenHow, open_regular};
use crate::kms::RootUnlock;
use crate::service::api::{Finding, Grade, Reply};
use crate::service::datadir::DataDir;
use crate::service::operations::Doctor;
use std::io::Read;
use std::path::Path;

/// The most to read of a file that should be small.
const SMALL: u64 = 1 << 20;

pub(super) fn run(common: &Common) -> Result<u8> {
    match client::call(common, Doctor {}) {
        Ok(findings) => Ok(render::reply(&Reply::Findings { findings }, common)),
        // Another process holds it, or there is nothing to examine.
        Err(err) if matches!(err.kind(), Kind::Busy | Kind::Unreachable | Kind::Usage | Kind::Interrupted) => Err(err),
        Err(err) => {
            let data = client::data_dir(common)?;
            if !data.path().is_dir() || !(data.is_initialised() || client::has_lost_its_root_files(&data)) {
                return Err(err);
            }
            let code = if err.kind().exit_code() == Kind::Integrity.exit_code() { err.kind() } else { Kind::Failed };
            let findings = look(common, &data, &err)?;
            render::reply(&Reply::Findings { findings }, common);
            Ok(code.exit_code())
        }
    }
}

fn look(common: &Common, data: &DataDir, err: &Error) -> Result<Vec<Finding>> {
    let _owner = data.act_as_owner()?;
    let unlock = common.root_key_file.clone().map_or(RootUnlock::Automatic, RootUnlock::File);
    let mut out = crate::service::examine(data, &unlock, err);
    out.push(volumes(&data.volumes()));
    out.push(repository(&data.repository()));
    Ok(out)
}

fn finding(grade: Grade, check: &str, message: String) -> Finding {
    Finding { grade, check: check.to_owned(), message }
}

fn volumes(path: &Path) -> Finding {
    match std::fs::read_dir(path).map(Iterator::count) {
        Ok(entries) => finding(Grade::Ok, "volumes", format!("{}: {entries} files", path.display())),
        Err(e) => {
            let next = "restore it from a backup, or run as its owner";
            finding(Grade::Error, "volumes", format!("cannot read {}: {e} ({next})", path.display()))
        }
    }
}

fn repository(path: &Path) -> Finding {
    let description = path.join("coffer-repository.json");
    let (shown, next) = (description.display(), "snapshots need it; volumes do not");
    let read = open_regular(&description, &OpenHow::read()).and_then(|file| {
        let mut text = Vec::new();
        let read = file.take(SMALL).read_to_end(&mut text);
        read.map(|_| text).map_err(|e| Error::io(format!("read {shown}"), e))
    });
    let whole = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).is_ok_and(|v| v.is_object());
    match read {
        Ok(text) if whole(&text) => finding(Grade::Ok, "repository", format!("{shown} is valid")),
        Ok(_) => finding(Grade::Error, "repository", format!("{shown} is damaged ({next})")),
        Err(e) => finding(Grade::Error, "repository", format!("{} ({next})", e.line())),
    }
}
