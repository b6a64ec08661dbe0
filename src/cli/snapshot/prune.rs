//! `snapshot prune`: a row for each snapshot, with what becomes of it and why.

use super::ask::selection;
use crate::cli::args::Common;
use crate::cli::client;
use crate::cli::out::line;
use crate::cli::render::{self, or_dash, table};
use crate::error::{Error, Kind, Result};
use crate::service::Keep;
use crate::service::api::PrunedInfo;
use crate::service::operations::{Answer, PruneSnapshots};
use clap::Args;

/// Which snapshots of each volume a policy keeps.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to keep of each volume (in UTC)")]
pub(crate) struct KeepArgs {
    /// The newest N
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// The newest of each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_hourly: u32,
    /// The newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// The newest of each of the last N weeks that have one, from Monday
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// The newest of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// The newest of each of the last N years that have one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,
    /// All with this tag, or with this value of it; can be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    keep_tag: Vec<String>,
}

impl KeepArgs {
    pub(super) fn policy(&self) -> Keep {
        Keep {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            tags: selection(&self.keep_tag),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only snapshots of this volume (name or id) [default: of each volume]
    #[arg(long)]
    volume: Option<String>,
    /// Delete nothing, only show what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    keep: KeepArgs,
}

pub(super) fn run(common: &Common, PruneArgs { volume, dry_run, keep }: PruneArgs) -> Result<u8> {
    let pruned = client::call(common, PruneSnapshots { volume, keep: keep.policy(), dry_run })?;
    let errors: Vec<Error> = pruned.snapshots.iter().filter_map(|one| one.error.clone()).map(Error::from).collect();
    let code = if errors.is_empty() { 0 } else { Kind::Partial.exit_code() };
    if common.json {
        render::reply(&pruned.into_reply(), common);
        return Ok(code);
    }
    if common.quiet {
        pruned.snapshots.iter().filter(|one| !one.kept).for_each(|one| line(one.snapshot));
    } else {
        table(
            &["snapshot", "name", "volume", "created", "", "why"],
            pruned.snapshots.iter().map(|one| row(one, pruned.dry_run)),
        );
    }
    errors.iter().for_each(|err| render::error(err, false));
    Ok(code)
}

fn row(one: &PrunedInfo, dry_run: bool) -> Vec<String> {
    let fate = match (&one.error, one.kept) {
        (Some(_), _) => "failed",
        (None, true) => "kept",
        (None, false) if dry_run => "would be deleted",
        (None, false) => "deleted",
    };
    let why = if one.reasons.is_empty() { "-".to_owned() } else { one.reasons.join(", ") };
    vec![
        one.snapshot.to_string(),
        or_dash(one.name.as_ref()),
        one.volume.to_string(),
        one.created.to_string(),
        fate.to_owned(),
        why,
    ]
}
