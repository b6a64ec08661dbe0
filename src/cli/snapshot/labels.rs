//! What the user says about a new snapshot.

use crate::cli::crypto::pairs;
use crate::error::Result;
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Description
    #[arg(long, default_value = "")]
    pub(super) description: String,
    /// Name of the snapshot
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Tag, name=value; can be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
}

impl LabelArgs {
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a tag without a value.
    pub(super) fn tags(&self) -> Result<BTreeMap<String, String>> {
        pairs(&self.tags)
    }
}
