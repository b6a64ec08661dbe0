//! `coffer repository open`: lists and verifies a repository in this process, without an installation.

use super::args::Common;
use super::render::{Progressing, line, or_dash, table};
use super::repository::OpenArgs;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::service::foreign::{Checked, Contents, ForeignRepository};
use crate::snapshot::location::Location;
use crate::units::ByteLen;

/// Runs the verb; returns the exit code.
pub(super) fn run(common: &Common, args: &OpenArgs) -> Result<u8> {
    let location = Location::new(&args.url, args.s3.clone().options())?;
    let repository = ForeignRepository::open(&location, Env::system())?;
    let Some(only) = args.verify else {
        let contents = repository.contents()?;
        show(common, &repository.id()?, &contents);
        return Ok(code(contents.damaged.is_empty()));
    };
    let mut bar = Progressing::new(common);
    let all = repository.verify(only, args.trust.as_deref(), &mut |p| {
        bar.show(&p);
        true
    })?;
    show_checked(common, &all);
    let damaged = if only.is_none() { repository.contents()?.damaged } else { Vec::new() };
    damaged.iter().for_each(|(lineage, why)| super::out::note(format!("coffer: lineage {lineage}: {why}")));
    Ok(code(damaged.is_empty() && all.iter().all(|c| c.bad.is_empty())))
}

const fn code(good: bool) -> u8 {
    if good { 0 } else { Kind::Integrity.exit_code() }
}

fn show(common: &Common, id: &str, contents: &Contents) {
    if common.json {
        line(serde_json::json!({"repository": id, "snapshots": contents.snapshots, "damaged": contents.damaged}));
        return;
    }
    if common.quiet {
        contents.snapshots.iter().for_each(|s| line(s.id));
        return;
    }
    let rows = contents.snapshots.iter().map(|s| {
        vec![
            s.id.to_string(),
            or_dash(s.volume.as_ref()),
            ByteLen(s.size).to_string(),
            ByteLen(s.stored).to_string(),
            s.time.to_string(),
            or_dash(s.parent.as_ref()),
        ]
    });
    table(&["snapshot", "volume", "size", "stored", "created", "base"], rows);
    contents.damaged.iter().for_each(|(lineage, why)| super::out::note(format!("coffer: lineage {lineage}: {why}")));
}

fn show_checked(common: &Common, all: &[Checked]) {
    if common.json {
        line(serde_json::json!({ "verified": all }));
        return;
    }
    for one in all {
        let id = one.snapshot;
        if common.quiet {
            line(id);
        } else if let Some(first) = one.bad.first() {
            line(format!("{id}: BAD: {} parts are unreadable, the first: {first}", one.bad.len()));
        } else {
            let signed = one.signed_by.as_deref().unwrap_or_default();
            let trust = if one.attested {
                "attested by the trusted key".to_owned()
            } else {
                format!("consistent but unattested; pin --trust {signed}")
            };
            line(format!("{id}: {} chunks, {} bytes, {trust}", one.chunks, one.bytes));
        }
    }
}
