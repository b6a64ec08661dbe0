//! `snapshot recycle-bin` and `snapshot recover`.

use crate::service::operations::{GetRecycleBin, Request, SetRecycleBin};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum RecycleBinVerb {
    /// Keep snapshots that are deleted from now on for so many days
    Set {
        /// Days, 1 to 365
        #[arg(long, value_name = "N")]
        days: u32,
    },
    /// Delete snapshots at once from now on; what is in the recycle bin stays as long as it was to stay
    Off,
    /// Show for how long deleted snapshots are kept
    Show,
}

pub(super) fn request(verb: RecycleBinVerb) -> Request {
    match verb {
        RecycleBinVerb::Set { days } => SetRecycleBin { days: Some(days) }.into(),
        RecycleBinVerb::Off => SetRecycleBin { days: None }.into(),
        RecycleBinVerb::Show => GetRecycleBin {}.into(),
    }
}
