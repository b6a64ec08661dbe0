//! `repository gc`, `stats` and `check`: what they did or found, for people.

use super::args::Common;
use super::client::call;
use super::out::{line, note};
use super::render::{error, facts, or_dash, reply as render_reply, table};
use crate::error::{Error, Kind, Result};
use crate::service::api::{CheckedInfo, CollectedInfo, RefInfo, Reply, StatsInfo, UniqueInfo};
use crate::service::operations::{Answer, CheckRepository, CollectGarbage, CollectedGarbage, CountRepository};
use crate::units::ByteLen;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Name or id [default: all repositories]
    repository: Option<String>,
    /// Change nothing, only show what would be freed
    #[arg(long)]
    dry_run: bool,
    /// Copy at most so much per second, as 50MiB [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = super::args::size)]
    rate: Option<ByteLen>,
}

pub(super) fn collect(common: &Common, GcArgs { repository, dry_run, rate }: GcArgs) -> Result<u8> {
    let done = call(common, CollectGarbage { repository, dry_run, rate: rate.map(|r| r.0) })?;
    let code = collected_code(&done.repositories);
    if common.json || common.quiet {
        render_reply(&done.into_reply(), common);
    } else {
        show_collected(&done);
    }
    Ok(code)
}

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// Name or id [default: all repositories]
    repository: Option<String>,
}

pub(super) fn stats(common: &Common, StatsArgs { repository }: StatsArgs) -> Result<u8> {
    let repositories = call(common, CountRepository { repository })?;
    let errors: Vec<_> = repositories.iter().flat_map(|one| &one.errors).map(|err| err.kind).collect();
    let is_damaged = repositories.iter().any(|one| !one.faults.is_empty());
    if common.json || common.quiet {
        render_reply(&Reply::Stats { repositories }, common);
    } else {
        repositories.iter().for_each(show_stats);
    }
    Ok(code(is_damaged, &errors))
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Name or id [default: all repositories]
    repository: Option<String>,
    /// Read all data as well, and compare it with its hashes
    #[arg(long)]
    read_data: bool,
}

pub(super) fn check(common: &Common, CheckArgs { repository, read_data }: CheckArgs) -> Result<u8> {
    let repositories = call(common, CheckRepository { repository, read_data })?;
    let errors: Vec<_> = repositories.iter().flat_map(|one| &one.errors).map(|err| err.kind).collect();
    let is_damaged = repositories.iter().any(|one| !one.problems.is_empty());
    if common.json {
        render_reply(&Reply::Checked { repositories }, common);
    } else {
        repositories.iter().for_each(|one| show_checked(one, common));
    }
    Ok(code(is_damaged, &errors))
}

/// Damage first, then the first error.
fn code(is_damaged: bool, errors: &[Kind]) -> u8 {
    let damage = is_damaged.then_some(Kind::Integrity);
    damage.or_else(|| errors.first().copied()).map_or(0, |kind| kind.exit_code())
}

fn show_stats(one: &StatsInfo) {
    let size = |bytes: u64| ByteLen(bytes).to_string();
    let mut rows = vec![
        ("repository", one.repository.clone()),
        ("total", size(one.total)),
        ("live", format!("{}, of which {} are shared by several snapshots", size(one.live), size(one.shared))),
        ("garbage", size(one.garbage)),
    ];
    rows.extend((one.pending > 0).then(|| ("pending", size(one.pending))));
    facts(&rows);
    let tally = |t: &crate::service::api::TallyInfo| vec![t.sort.clone(), t.objects.to_string(), size(t.bytes)];
    table(&["type", "objects", "size"], one.objects.iter().map(tally));
    let unique = |s: &UniqueInfo| {
        vec![s.snapshot.to_string(), or_dash(s.name.as_ref()), or_dash(s.volume.as_ref()), size(s.unique)]
    };
    table(&["snapshot", "name", "volume", "unique"], one.snapshots.iter().map(unique));
    if !one.refs.is_empty() {
        let row = |r: &RefInfo| {
            let owner = if r.own { "this installation" } else { "another installation" };
            let kind = r.error.clone().or_else(|| r.kind.clone());
            vec![r.name.clone(), or_dash(r.snapshot.as_ref()), or_dash(kind.as_ref()), owner.to_owned()]
        };
        table(&["ref", "snapshot", "kind", "of"], one.refs.iter().map(row));
    }
    for why in &one.faults {
        note(format!(
            "coffer: repository {}: the numbers are too low, for something is unreadable: {why}",
            one.repository
        ));
    }
    one.errors.iter().for_each(|err| error(&Error::from(err.clone()), false));
}

fn show_checked(one: &CheckedInfo, common: &Common) {
    for why in &one.problems {
        note(format!("coffer: repository {}: {why}", one.repository));
    }
    one.errors.iter().for_each(|err| error(&Error::from(err.clone()), false));
    // What is damaged decides what is needed.
    if !one.problems.is_empty() || !one.errors.is_empty() {
        return;
    }
    if common.quiet {
        one.orphans.iter().for_each(line);
        return;
    }
    if !one.orphans.is_empty() {
        let (count, bytes) = (one.orphans.len(), ByteLen(one.orphaned));
        line(format!(
            "{}: {count} objects ({bytes}) are not needed; `coffer repository gc` deletes them:",
            one.repository
        ));
        one.orphans.iter().for_each(|path| line(format!("  {path}")));
    }
    let data = if one.read_data { "with all data" } else { "without the data in packs" };
    line(format!("{}: {} objects are good, {data}", one.repository, one.objects));
}

fn collected_code(all: &[CollectedInfo]) -> u8 {
    let is_damaged = all.iter().any(|one| !one.damaged.is_empty() || !one.blind.is_empty());
    let errors: Vec<_> = all.iter().flat_map(|one| &one.errors).map(|err| err.kind).collect();
    code(is_damaged, &errors)
}

fn show_collected(done: &CollectedGarbage) {
    let row = |one: &CollectedInfo| {
        let size = |bytes: u64| ByteLen(bytes).to_string();
        let (freed, live, garbage) = (size(one.freed), size(one.live), size(one.garbage));
        vec![one.repository.clone(), freed, one.deleted.to_string(), one.compacted.to_string(), live, garbage]
    };
    let freed = if done.dry_run { "would free" } else { "freed" };
    let head = ["repository", freed, "objects", "packs compacted", "live", "garbage"];
    table(&head, done.repositories.iter().map(row));
    for one in &done.repositories {
        let of = &one.repository;
        if one.held > 0 {
            let held = ByteLen(one.held);
            line(format!("{of}: {held} of garbage are in packs that held or locked snapshots need"));
        }
        for held in &one.refs {
            line(format!("{of}: the ref {} keeps the deleted snapshot {}", held.id, held.snapshot));
        }
        for why in &one.blind {
            note(format!("coffer: repository {of}: nothing is deleted, for what cannot be read may need it: {why}"));
        }
        for why in &one.damaged {
            note(format!("coffer: repository {of}: a damaged pack is left alone: {why}"));
        }
        one.errors.iter().for_each(|err| error(&Error::from(err.clone()), false));
    }
}
