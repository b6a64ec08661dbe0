//! `snapshot hold`, `release`, `lock` and `unlock`.

use crate::cli::audit::time;
use crate::env::Timestamp;
use crate::service::api::LockMode;
use crate::service::operations::{HoldSnapshot, LockSnapshot, ReleaseSnapshot, Request, UnlockSnapshot};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ProtectVerb {
    /// Hold a snapshot against deletion until it is released
    Hold {
        /// Snapshot name or id
        snapshot: String,
    },
    /// Release a hold; a lock stays
    Release {
        /// Snapshot name or id
        snapshot: String,
    },
    /// Lock a snapshot against deletion for a time, or change its lock
    Lock(LockArgs),
    /// Take back a governance lock, or a compliance lock that still cools off
    Unlock {
        /// Snapshot name or id
        snapshot: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// Snapshot name or id
    snapshot: String,
    /// governance: can be taken back; compliance: nobody can take it back once it has cooled off, only extend it
    #[arg(long, value_name = "governance|compliance", value_parser = mode)]
    mode: LockMode,
    /// Duration in days, 1 to 36500
    #[arg(long, value_name = "D", required_unless_present = "until", conflicts_with = "until")]
    days: Option<u32>,
    /// When it expires, as 2027-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// How many hours a compliance lock can be taken back, 1 to 72 [default: it cannot]
    #[arg(long, value_name = "HOURS")]
    cool_off: Option<u32>,
}

fn mode(text: &str) -> Result<LockMode, String> {
    let all = [LockMode::Governance, LockMode::Compliance];
    all.into_iter().find(|m| m.word() == text).ok_or_else(|| "use governance or compliance".to_owned())
}

pub(super) fn request(verb: ProtectVerb) -> Request {
    match verb {
        ProtectVerb::Hold { snapshot } => HoldSnapshot { snapshot }.into(),
        ProtectVerb::Release { snapshot } => ReleaseSnapshot { snapshot }.into(),
        ProtectVerb::Lock(LockArgs { snapshot, mode, days, until, cool_off }) => {
            LockSnapshot { snapshot, mode, days, until, cool_off }.into()
        }
        ProtectVerb::Unlock { snapshot } => UnlockSnapshot { snapshot }.into(),
    }
}
