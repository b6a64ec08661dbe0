//! `coffer snapshot`: its verbs, and what they do besides sending requests.

mod diff;
mod protect;
mod prune;
mod recycle;
mod verify;

use super::args::Common;
use super::client::{self, PATIENCE, ask_daemon, ask_once, data_dir};
use super::crypto::pairs;
use super::render;
use crate::api::control;
use crate::env::Env;
use crate::error::{IoContext, Kind, Result};
use crate::service::answer_unopened;
use crate::service::api::Reply;
use crate::service::datadir::Wanting;
use crate::service::operations::{
    CreateSnapshot, DeleteSnapshot, DescribeSnapshot, DescribeSnapshots, RecoverSnapshot, Request, TagSnapshot,
};
use crate::units::SnapshotId;
use clap::Subcommand;
use std::collections::BTreeMap;

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotVerb {
    /// Create a snapshot of a volume, attached or not
    Create {
        /// Name or id
        volume: String,
        /// Wait until it is completed
        #[arg(long)]
        wait: bool,
        /// Description
        #[arg(long, default_value = "")]
        description: String,
        /// Name of the snapshot
        #[arg(long)]
        name: Option<String>,
        /// Tag, name=value; can be repeated
        #[arg(long = "tag", value_name = "NAME=VALUE")]
        tags: Vec<String>,
    },
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
    /// Delete a snapshot, or put it into the recycle bin if that is on
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
    /// Delete the snapshots that a retention policy does not keep
    Prune(prune::PruneArgs),
    #[command(flatten)]
    Protect(protect::ProtectVerb),
    /// List the byte ranges that differ between two snapshots of a lineage; needs no key
    Diff(diff::DiffArgs),
}

pub(super) fn run(common: &Common, verb: SnapshotVerb) -> Result<u8> {
    let request: Request = match verb {
        SnapshotVerb::Create { volume, wait, description, name, tags } => {
            if wait {
                end_waiting_on_interrupt(common)?;
            }
            CreateSnapshot { volume, description, wait, name, tags: pairs(&tags)? }.into()
        }
        SnapshotVerb::List { tags, volume, recycled } => {
            DescribeSnapshots { tags: selection(&tags), volume, recycled }.into()
        }
        SnapshotVerb::Tag { snapshot, tags, remove } => TagSnapshot { snapshot, tags: pairs(&tags)?, remove }.into(),
        SnapshotVerb::Show { snapshot } => DescribeSnapshot { snapshot }.into(),
        SnapshotVerb::Delete { snapshot, now } => DeleteSnapshot { snapshot, now }.into(),
        SnapshotVerb::Recover { snapshot } => RecoverSnapshot { snapshot }.into(),
        SnapshotVerb::RecycleBin(verb) => recycle::request(verb),
        SnapshotVerb::Verify(args) => return verify::run(common, args),
        SnapshotVerb::Protect(verb) => protect::request(verb),
        SnapshotVerb::Prune(args) => return prune::run(common, args),
        SnapshotVerb::Diff(args) => return diff::run(common, args),
    };
    client::ask(common, request).map(|reply| render::reply(&reply, common))
}

/// Tags to select by: each with a value, or with any.
fn selection(tags: &[String]) -> BTreeMap<String, Option<String>> {
    let one = |tag: &String| match tag.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (tag.clone(), None),
    };
    tags.iter().map(one).collect()
}

/// Performs a request that needs no root key: the server's reply, or, without a server, from the repository itself.
fn ask_without_key(common: &Common, request: &Request) -> Result<Reply> {
    let data = data_dir(common)?;
    let mut bar = render::Progressing::new(common);
    let socket = data.control_socket();
    if let Some(reply) = ask_once(&socket, request, &mut bar)? {
        return Ok(reply);
    }
    if !data.is_initialised() || !has_ids_alone(request) {
        return client::ask(common, request.clone()); // knows names, and reports what is missing
    }
    let env = Env::system();
    let lock = data.lock(&env, request.name(), Wanting::Command, PATIENCE, || control::daemon_answers(&socket))?;
    let Some(lock) = lock else { return ask_daemon(&socket, request, &mut bar) };
    let mut gave_way = false;
    let answered = answer_unopened(&data, env, request.clone(), &mut |p| {
        bar.show(&p);
        gave_way |= lock.is_asked_for();
        !gave_way
    });
    drop(lock);
    match answered {
        Err(err) if gave_way && err.kind() == Kind::Interrupted => ask_daemon(&socket, request, &mut bar),
        other => other,
    }
}

/// Whether a request names all its snapshots by id: their names are in the catalog.
fn has_ids_alone(request: &Request) -> bool {
    let is_id = |what: &String| what.parse::<SnapshotId>().is_ok();
    match request {
        Request::VerifySnapshots(asked) => asked.snapshots.iter().all(is_id),
        Request::DiffSnapshots(asked) => asked.from.iter().all(is_id) && is_id(&asked.to),
        _ => false,
    }
}

/// From now on, Ctrl-C ends the waiting for a server's snapshot, and says that the snapshot continues. Without a server no
/// process could continue it, and the snapshot is cancelled.
fn end_waiting_on_interrupt(common: &Common) -> Result<()> {
    if !control::daemon_answers(&data_dir(common)?.control_socket()) {
        return Ok(());
    }
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT]).on(|| "catch SIGINT".to_owned())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("coffer: no longer waiting; the server continues the snapshot (see `coffer snapshot list`)");
            std::process::exit(130);
        }
    });
    Ok(())
}
