//! `snapshot verify`: a line for each snapshot that is good, and on standard error what is wrong with the others.

use super::ask::ask_without_key;
use crate::cli::args::Common;
use crate::cli::out::{line, note};
use crate::cli::render;
use crate::error::{Error, Kind, Result};
use crate::service::api::{Reply, VerifiedInfo};
use crate::service::operations::VerifySnapshots;
use clap::Args;

/// Most bad places that are shown for one snapshot; `--json` has more.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Snapshot names or ids
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    snapshots: Vec<String>,
    /// Verify all completed snapshots
    #[arg(long)]
    all: bool,
    /// Read only this share of the chunks, chosen at random, as 5% or 0.1%; all pages of the trees are read in any case
    #[arg(long, value_name = "N%", value_parser = share)]
    sample: Option<u32>,
    /// Require a signature by this public key (hexadecimal)
    #[arg(long)]
    trust: Option<String>,
}

/// A share of the chunks, in parts of a million.
fn share(text: &str) -> Result<u32, String> {
    let percent = text.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
    let of_a_million = percent.map(|p| (p * 10_000.0).round()).filter(|n| (1.0..=1_000_000.0).contains(n));
    of_a_million.map(|n| n as u32).ok_or_else(|| "not a share: use a percentage from 0.0001% to 100%".to_owned())
}

pub(super) fn run(common: &Common, VerifyArgs { snapshots, all, sample, trust }: VerifyArgs) -> Result<u8> {
    let reply = ask_without_key(common, &VerifySnapshots { snapshots, all, sample, trust }.into())?;
    let Reply::Verified { snapshots } = &reply else {
        return Err(Error::new(Kind::Failed, "the server sent an unexpected reply")
            .hint("use the same version of coffer as the server"));
    };
    if common.json {
        render::reply(&reply, common);
    } else {
        snapshots.iter().for_each(|one| show(one, sample.is_some(), common));
    }
    Ok(code(snapshots))
}

/// Integrity if anything is damaged, otherwise the first other reason why a snapshot could not be verified.
fn code(all: &[VerifiedInfo]) -> u8 {
    let kind = |one: &VerifiedInfo| match &one.error {
        Some(err) => Some(err.kind),
        None => (one.bad_chunks > 0).then_some(Kind::Integrity),
    };
    let kinds: Vec<Kind> = all.iter().filter_map(kind).collect();
    let is_damage = |k: &&Kind| **k == Kind::Integrity;
    kinds.iter().find(is_damage).or_else(|| kinds.first()).map_or(0, |k| k.exit_code())
}

fn show(one: &VerifiedInfo, is_sample: bool, common: &Common) {
    let VerifiedInfo { snapshot, chunks, verified, bytes, .. } = one;
    if let Some(err) = &one.error {
        render::error(&Error::from(err.clone()), false);
        return;
    }
    if one.bad_chunks > 0 {
        for bad in one.bad.iter().take(SHOWN) {
            let which = match bad.count {
                1 => format!("chunk {}", bad.first),
                n => format!("chunks {} to {}", bad.first, bad.first + n - 1),
            };
            note(format!("coffer: snapshot {snapshot}: {which} (at byte {}): {}", bad.offset, bad.reason));
        }
        let more = if one.bad.len() > SHOWN { ", not all of them shown here (use --json)" } else { "" };
        let rest = format!("{verified} of {chunks} chunks are good");
        note(format!("coffer: snapshot {snapshot} is damaged: {} chunks are bad{more}; {rest}", one.bad_chunks));
        return;
    }
    if common.quiet {
        return line(snapshot);
    }
    let trust = match &one.signed_by {
        _ if one.attested => "attested by the trusted key".to_owned(),
        Some(key) => format!("consistent but unattested; pin --trust {key}"),
        None => "unsigned".to_owned(),
    };
    let read = if is_sample { format!("{verified} of {chunks} chunks at random") } else { format!("{chunks} chunks") };
    line(format!("snapshot {snapshot}: {read}, {bytes} bytes, {trust}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::api::WireError;

    #[test]
    fn a_share_is_a_percentage() {
        for (text, of_a_million) in [("100%", 1_000_000), ("5%", 50_000), ("0.1 %", 1000), ("0.0001%", 1)] {
            assert_eq!(share(text), Ok(of_a_million), "{text}");
        }
        for bad in ["", "5", "%", "0%", "0.00001%", "101%", "-1%", "nan%", "inf%", "x%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn damage_decides_the_exit_code() {
        let good = VerifiedInfo::default();
        let failed = |kind| {
            let error = Some(WireError::from(&Error::new(kind, "no")));
            VerifiedInfo { error, ..VerifiedInfo::default() }
        };
        let bad = VerifiedInfo { bad_chunks: 1, ..VerifiedInfo::default() };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(std::slice::from_ref(&good)), 0);
        assert_eq!(code(&[good.clone(), failed(Kind::NotFound), failed(Kind::Io)]), 4);
        assert_eq!(code(&[failed(Kind::NotFound), bad, good]), 7);
        assert_eq!(code(&[failed(Kind::NotFound), failed(Kind::Integrity)]), 7);
    }
}
