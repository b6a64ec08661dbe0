//! `snapshot drill`: proves that snapshots can be restored, one after another, each with a command on the device if asked.

use super::around::{self, HeldSignals};
use crate::cli::args::Common;
use crate::cli::client::{self, data_dir};
use crate::cli::out::{line, note};
use crate::cli::render::{error, reply as render_reply};
use crate::env::{Env, Timestamp};
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::api::{Reply, SnapshotInfo, SnapshotState};
use crate::service::operations::{CreateVolume, DeleteVolume, DescribeSnapshots, DrillSnapshot};
use clap::Args;
use std::process::{Command, Stdio};

const DAY: i64 = 24 * 3600 * 1000;

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// Snapshot names or ids
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    snapshots: Vec<String>,
    /// All completed snapshots
    #[arg(long)]
    all: bool,
    /// Only those that no drill has proved restorable in the last N days
    #[arg(long, value_name = "N", requires = "all")]
    older_than: Option<u32>,
    /// Command to run on each while it is attached as $COFFER_DEVICE, before the rest of the drill; run by sh, needs root
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
}

pub(super) fn run(common: &Common, DrillArgs { snapshots, all, older_than, run }: DrillArgs) -> Result<u8> {
    let which = if all { chosen(common, older_than)? } else { snapshots };
    let (mut proved, mut failed) = (Vec::new(), Vec::new());
    // An interrupt reaches the command, too; what was made is removed before this process ends.
    let signals = run.as_ref().map(|_| HeldSignals::hold()).transpose()?;
    for snapshot in which {
        if signals.as_ref().is_some_and(HeldSignals::is_interrupted) {
            return Err(Error::new(Kind::Interrupted, "interrupted: the other snapshots were not tried"));
        }
        let outcome = run.as_deref().map_or(Ok(()), |command| with_device(common, &snapshot, command));
        match outcome.and_then(|()| one(common, &snapshot)) {
            Ok(info) if common.json => proved.push(info),
            Ok(info) if common.quiet => line(info.id),
            Ok(info) => line(format!("snapshot {} is proved restorable", info.id)),
            Err(err) if err.kind() == Kind::Interrupted => return Err(err),
            Err(err) => {
                error(&err, false);
                failed.push(err.kind());
            }
        }
    }
    if common.json {
        render_reply(&Reply::Snapshots { snapshots: proved }, common);
    }
    let worst = failed.iter().find(|kind| **kind == Kind::Integrity).or_else(|| failed.first());
    Ok(worst.map_or(0, |kind| kind.exit_code()))
}

fn one(common: &Common, snapshot: &str) -> Result<SnapshotInfo> {
    match client::ask(common, DrillSnapshot { snapshot: snapshot.to_owned() }.into())? {
        Reply::Snapshot(info) => Ok(info),
        _ => Err(unexpected()),
    }
}

/// Returns the completed snapshots that no drill has proved restorable for so many days.
fn chosen(common: &Common, older_than: Option<u32>) -> Result<Vec<String>> {
    let Reply::Snapshots { snapshots } = client::ask(common, DescribeSnapshots::default().into())? else {
        return Err(unexpected());
    };
    let now = Env::system().now();
    let limit = older_than.map(|days| Timestamp(now.0 - i64::from(days) * DAY));
    let is_due = |s: &SnapshotInfo| limit.is_none_or(|limit| s.proved.is_none_or(|at| at < limit));
    let due = snapshots.iter().filter(|s| s.state == SnapshotState::Completed && is_due(s));
    Ok(due.map(|s| s.id.to_string()).collect())
}

/// Runs a command on a volume from the snapshot, attached as a device, and removes both again.
fn with_device(common: &Common, snapshot: &str, command: &str) -> Result<()> {
    let create = CreateVolume { snapshot: Some(snapshot.to_owned()), ..CreateVolume::default() };
    let Reply::Volume(volume) = client::ask(common, create.into())? else { return Err(unexpected()) };
    let id = volume.id.to_string();
    let ran = coffer(common, &["--json", "attach", &id]).and_then(|attached| {
        let ran = device_of(&attached).and_then(|device| on_device(command, &device));
        coffer(common, &["--quiet", "detach", &id]).and(ran)
    });
    let removed = client::ask(common, DeleteVolume { volume: id.clone() }.into()).map(drop);
    if let Err(err) = &removed {
        note(format!(
            "coffer: the volume of the drill stays: {}; remove it with `coffer volume delete {id}`",
            err.line()
        ));
    }
    ran.and(removed).map_err(|e| e.context(format!("drill of snapshot {snapshot}")))
}

/// Runs this program for another verb; returns what it prints.
fn coffer(common: &Common, args: &[&str]) -> Result<Vec<u8>> {
    let what = || format!("run coffer {}", args.join(" "));
    let program = std::env::current_exe().on(what)?;
    let mut command = Command::new(program);
    command.arg("--data").arg(data_dir(common)?.path()).args(args).stdin(Stdio::null()).stderr(Stdio::inherit());
    let ended = command.output().on(what)?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    Err(Error::new(Kind::Failed, format!("{}: {}", what(), ended.status)))
}

fn device_of(attached: &[u8]) -> Result<String> {
    let reply: serde_json::Value = serde_json::from_slice(attached).map_err(|_| unexpected())?;
    reply["device"].as_str().map(str::to_owned).ok_or_else(unexpected)
}

fn on_device(line: &str, device: &str) -> Result<()> {
    let ended = around::run(line, &[("COFFER_DEVICE", device)])?;
    if ended.success() { Ok(()) } else { Err(Error::new(Kind::Failed, format!("the command failed: {ended}"))) }
}

fn unexpected() -> Error {
    Error::new(Kind::Failed, "the server sent an unexpected reply").hint("use the same version of coffer as the server")
}
