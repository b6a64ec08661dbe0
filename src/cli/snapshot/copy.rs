//! `coffer snapshot copy`.

use super::labels::LabelArgs;
use crate::error::Result;
use crate::service::operations::{CopySnapshot, Request};

#[derive(Debug, clap::Args)]
pub(crate) struct CopyArgs {
    /// Snapshot name or id
    snapshot: String,
    /// CMK of the copy, which gets a data key of its own: id, ARN or alias [default: that of the snapshot, with its data keys]
    #[arg(long)]
    key: Option<String>,
    /// Repository for the copy [default: that of the snapshot]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Wait until it is completed
    #[arg(long)]
    pub(super) wait: bool,
    #[command(flatten)]
    labels: LabelArgs,
}

pub(super) fn request(args: CopyArgs) -> Result<Request> {
    let CopyArgs { snapshot, key, repository, wait, labels } = args;
    let tags = labels.tags()?;
    let LabelArgs { description, name, .. } = labels;
    Ok(CopySnapshot { snapshot, key, repository, description, name, tags, wait }.into())
}
