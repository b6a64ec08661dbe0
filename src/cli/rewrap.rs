//! `coffer key rewrap`.

use super::args::Common;
use super::client::call;
use super::out::line;
use super::render::{self, error, table};
use crate::error::{Error, Kind, Result};
use crate::service::api::{RewrapInfo, RewrappedInfo};
use crate::service::operations::{Answer, RewrapKeys};

#[derive(Debug, clap::Args)]
pub(super) struct RewrapArgs {
    /// Key id, ARN or alias [default: all CMKs]
    key: Option<String>,
    /// Change nothing, only show what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(common: &Common, RewrapArgs { key, dry_run }: RewrapArgs) -> Result<u8> {
    let told = call(common, RewrapKeys { key, dry_run })?;
    let errors: Vec<Error> = told.left.iter().cloned().map(Error::from).collect();
    let code = if errors.is_empty() { 0 } else { Kind::Partial.exit_code() };
    if common.json {
        render::reply(&told.into_reply(), common);
        return Ok(code);
    }
    if common.quiet {
        told.keys.iter().for_each(|key| line(&key.data_key));
    } else {
        if !told.keys.is_empty() {
            table(&["place", "data key", "from material", "to material"], told.keys.iter().map(row));
        }
        line(in_words(&told));
    }
    errors.iter().for_each(|err| error(err, false));
    Ok(code)
}

fn row(key: &RewrappedInfo) -> Vec<String> {
    let short = |material: &str| material.chars().take(16).collect();
    vec![key.place.clone(), key.data_key.clone(), short(&key.from), short(&key.to)]
}

fn in_words(told: &RewrapInfo) -> String {
    let verb = if told.dry_run { "would be rewrapped" } else { "rewrapped" };
    let left = match told.left.len() {
        0 => String::new(),
        left => format!(", {left} places left: the same command does them later"),
    };
    format!("{} wrapped data keys {verb}, {} are current{left}", told.keys.len(), told.current)
}
