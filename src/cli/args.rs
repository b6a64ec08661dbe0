//! What commands share: their global options, and how values are read.

use crate::error::Error;
use crate::service::{BackgroundRate, OnKeyLoss};
use crate::units::ByteLen;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Common {
    /// Data directory [env: COFFER_DATA] [default: /var/lib/coffer for root, ~/.local/share/coffer for others]
    // Not by clap: it would show the flag as required, and a bare `coffer` as an error, if the variable is set.
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Print results as JSON, and progress as JSON lines on standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print only ids
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Use this root key file instead of the one that init wrote
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_fd")]
    pub(super) root_key_file: Option<PathBuf>,
    /// Allow volumes on a shared file system, if no other host opens them
    #[arg(long, global = true)]
    pub(super) single_host_i_know: bool,
    /// Read the root key's passphrase from this file descriptor
    #[arg(long, global = true, value_name = "N")]
    pub(super) passphrase_fd: Option<i32>,
}

pub(super) fn on_key_loss(text: &str) -> Result<OnKeyLoss, String> {
    let all = [OnKeyLoss::Suspend, OnKeyLoss::Continue, OnKeyLoss::Fail];
    all.into_iter().find(|p| p.to_string() == text).ok_or_else(|| "use suspend, continue or fail".to_owned())
}

/// Requests per second.
pub(super) fn requests(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "not a number of requests per second: use a whole number, as 3000, or 0 for no limit".to_owned())
}

/// A size, with the whole message of what is wrong with it: clap shows no hint.
pub(super) fn size(text: &str) -> Result<ByteLen, String> {
    text.parse::<ByteLen>().map_err(|e| e.line())
}

/// A rate of work in the background: a word, or a size.
pub(super) fn background_rate(text: &str) -> Result<BackgroundRate, String> {
    let bytes = size(text).map(|n| n.0.to_string());
    bytes.unwrap_or_else(|_| text.to_owned()).parse().map_err(|err: Error| err.line())
}

/// Bytes per second; a bare number is MiB, as in EBS.
pub(super) fn throughput(text: &str) -> Result<u64, String> {
    let bytes = match text.parse::<u64>() {
        Ok(mib) => mib.checked_mul(1 << 20),
        Err(_) => text.parse::<ByteLen>().ok().map(|b| b.0),
    };
    bytes.ok_or_else(|| "not a throughput: use a number of MiB, as 125, or a size, as 125MiB or 125MB".to_owned())
}

/// Tags to select by: each with a value, or with any.
pub(super) fn selection(tags: &[String]) -> BTreeMap<String, Option<String>> {
    let one = |tag: &String| match tag.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (tag.clone(), None),
    };
    tags.iter().map(one).collect()
}
