//! `coffer snapshot`: its verbs, and what they do besides sending requests.

mod around;
mod copy;
mod create;
mod diff;
mod drill;
mod export;
mod labels;
mod protect;
mod prune;
mod recycle;
mod schedule;
mod verify;
mod waiting;

use super::args::{Common, selection};
use super::client;
use super::crypto::pairs;
use super::render;
use crate::error::Result;
use crate::service::operations::{
    DeleteSnapshot, DescribeSnapshot, DescribeSnapshots, RecoverSnapshot, Request, TagSnapshot, WaitSnapshot,
};
use crate::units::GroupId;
use clap::Subcommand;
use waiting::end_waiting_on_interrupt;

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotVerb {
    /// Create a snapshot of a volume, attached or not, or of several at one instant
    Create(create::CreateArgs),
    /// Copy a snapshot to another repository, or under another CMK
    Copy(copy::CopyArgs),
    /// List snapshots
    List {
        /// Only those with this tag, or with this value of it; can be repeated
        #[arg(long = "tag", value_name = "NAME[=VALUE]")]
        tags: Vec<String>,
        /// Only those of this volume (name or id)
        #[arg(long)]
        volume: Option<String>,
        /// Those in the recycle bin, instead of the others
        #[arg(long)]
        recycled: bool,
        /// Only those that were taken together in this group
        #[arg(long)]
        group: Option<GroupId>,
    },
    /// Add tags to a snapshot, or remove some
    Tag {
        /// Snapshot name or id
        snapshot: String,
        /// Tags to add, name=value
        #[arg(value_name = "NAME=VALUE", required_unless_present = "remove")]
        tags: Vec<String>,
        /// Remove this tag; can be repeated
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
    },
    /// Show a snapshot
    Show {
        /// Snapshot name or id
        snapshot: String,
    },
    /// Wait until a snapshot is completed; without a server, continue it
    Wait {
        /// Snapshot name or id
        snapshot: String,
    },
    /// Delete a snapshot, or put it into the recycle bin if that is on; cancel a pending one
    Delete {
        /// Snapshot name or id
        snapshot: String,
        /// Delete it for good, also from the recycle bin
        #[arg(long)]
        now: bool,
    },
    /// Take a snapshot out of the recycle bin
    Recover {
        /// Snapshot id
        snapshot: String,
    },
    /// Keep deleted snapshots for some days
    #[command(subcommand)]
    RecycleBin(recycle::RecycleBinVerb),
    /// Verify the signature of snapshots and the hash of every chunk; needs no key
    Verify(verify::VerifyArgs),
    /// Prove that snapshots can be restored, by restoring them
    Drill(drill::DrillArgs),
    /// Delete the snapshots that a retention policy does not keep
    Prune(prune::PruneArgs),
    /// Snapshots that a server takes by itself
    #[command(subcommand)]
    Schedule(schedule::ScheduleVerb),
    #[command(flatten)]
    Protect(protect::ProtectVerb),
    /// List the byte ranges that differ between two snapshots of a lineage; needs no key
    Diff(diff::DiffArgs),
    /// Write the plain bytes of a snapshot to a file; audited
    Export(export::ExportArgs),
}

pub(super) fn run(common: &Common, verb: SnapshotVerb) -> Result<u8> {
    let request: Request = match verb {
        SnapshotVerb::Create(args) => return create::run(common, args),
        SnapshotVerb::Copy(args) => {
            if args.wait {
                end_waiting_on_interrupt(common)?;
            }
            copy::request(args)?
        }
        SnapshotVerb::List { tags, volume, recycled, group } => {
            DescribeSnapshots { tags: selection(&tags), volume, recycled, group }.into()
        }
        SnapshotVerb::Tag { snapshot, tags, remove } => TagSnapshot { snapshot, tags: pairs(&tags)?, remove }.into(),
        SnapshotVerb::Wait { snapshot } => {
            end_waiting_on_interrupt(common)?;
            WaitSnapshot { snapshot }.into()
        }
        SnapshotVerb::Show { snapshot } => DescribeSnapshot { snapshot }.into(),
        SnapshotVerb::Delete { snapshot, now } => DeleteSnapshot { snapshot, now }.into(),
        SnapshotVerb::Recover { snapshot } => RecoverSnapshot { snapshot }.into(),
        SnapshotVerb::RecycleBin(verb) => recycle::request(verb),
        SnapshotVerb::Verify(args) => return verify::run(common, args),
        SnapshotVerb::Drill(args) => return drill::run(common, args),
        SnapshotVerb::Schedule(verb) => return schedule::run(common, verb),
        SnapshotVerb::Protect(verb) => protect::request(verb),
        SnapshotVerb::Prune(args) => return prune::run(common, args),
        SnapshotVerb::Diff(args) => return diff::run(common, args),
        SnapshotVerb::Export(args) => return export::run(common, args),
    };
    client::ask(common, request).map(|reply| render::reply(&reply, common))
}
