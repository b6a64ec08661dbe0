//! `coffer snapshot copy`.

use crate::cli::crypto::pairs;
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
    /// Description
    #[arg(long, default_value = "")]
    description: String,
    /// Name of the copy
    #[arg(long)]
    name: Option<String>,
    /// Tag, name=value; can be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
}

pub(super) fn request(args: CopyArgs) -> Result<Request> {
    let CopyArgs { snapshot, key, repository, wait, description, name, tags } = args;
    let tags = pairs(&tags)?;
    Ok(CopySnapshot { snapshot, key, repository, description, name, tags, wait }.into())
}
