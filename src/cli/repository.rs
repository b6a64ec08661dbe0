//! `coffer repository`: its verbs.

use crate::error::Result;
use crate::service::operations::{
    AddRepository, DescribeRepository, ListRepositories, RemoveRepository, Request, SetDefaultRepository,
};
use crate::snapshot::location::Location;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum RepositoryVerb {
    /// Add a repository; if there is none at the URL, one is made
    Add {
        /// Name of the repository
        name: String,
        /// file:///folder, or an absolute path
        url: String,
    },
    /// List repositories
    List,
    /// Show a repository, and whether it can be opened
    Show {
        /// Name or id
        repository: String,
    },
    /// Send the snapshots of volumes without a setting of their own to a repository
    Default {
        /// Name or id
        repository: String,
    },
    /// Remove a repository that nothing here needs; its objects are kept
    Remove {
        /// Name or id
        repository: String,
    },
}

/// Returns the request of a verb.
pub(super) fn request(verb: RepositoryVerb) -> Result<Request> {
    Ok(match verb {
        RepositoryVerb::Add { name, url } => AddRepository { name, location: Location::new(&url)? }.into(),
        RepositoryVerb::List => ListRepositories {}.into(),
        RepositoryVerb::Show { repository } => DescribeRepository { repository }.into(),
        RepositoryVerb::Default { repository } => SetDefaultRepository { repository }.into(),
        RepositoryVerb::Remove { repository } => RemoveRepository { repository }.into(),
    })
}
