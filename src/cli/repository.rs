//! `coffer repository`: its verbs.

use super::args::size;
use super::upkeep::{CheckArgs, GcArgs, StatsArgs};
use crate::error::{Error, Kind, Result};
use crate::service::operations::{
    AddRepository, DescribeRepository, ListRepositories, MoveRepository, RemoveRef, RemoveRepository, Request,
    SetDefaultRepository, SetRepositoryCache,
};
use crate::snapshot::location::{Location, S3Options};
use crate::units::{ByteLen, SnapshotId};
use clap::{Args, Subcommand};

/// How to reach a bucket. Credentials come from the environment or from ~/.aws/credentials.
#[derive(Debug, Clone, Args)]
pub(super) struct S3Args {
    /// URL of the S3 server [default: AWS's]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, or that of the profile, or us-east-1]
    #[arg(long)]
    region: Option<String>,
    /// Put the bucket's name into the path, not into the host name
    #[arg(long)]
    path_style: bool,
    /// Allow an http: endpoint that is not on this machine
    #[arg(long)]
    allow_http: bool,
    /// Longest time that a call to the server may take, with its retries [default: 120]
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u32>,
}

impl S3Args {
    pub(super) fn options(self) -> S3Options {
        let Self { endpoint, region, path_style, allow_http, time_limit } = self;
        S3Options { endpoint, region, path_style, allow_http, time_limit }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum RepositoryVerb {
    /// Add a repository; if there is none at the URL, one is made
    Add {
        /// Name of the repository
        name: String,
        /// s3://bucket/prefix, file:///folder, or an absolute path
        url: String,
        #[command(flatten)]
        s3: S3Args,
        /// Keep up to so much of what is read from it in the data directory, as 10GiB [default: nothing]
        #[arg(long, value_name = "SIZE", value_parser = size)]
        cache_size: Option<ByteLen>,
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
    /// Set how much of what is read from a repository is kept in the data directory
    Cache {
        /// Name or id
        repository: String,
        /// Limit, as 10GiB; 0 keeps nothing and deletes what there is
        #[arg(long, value_parser = size)]
        size: ByteLen,
    },
    /// Copy a repository to another place, and use it there; what was interrupted continues
    Move {
        /// Name or id
        repository: String,
        /// The new place: s3://bucket/prefix, file:///folder, or an absolute path
        url: String,
        #[command(flatten)]
        s3: S3Args,
    },
    /// Delete what nothing needs any more, and compact packs that are mostly garbage
    Gc(GcArgs),
    /// Count what is in a repository, and what deleting each snapshot would give back
    Stats(StatsArgs),
    /// Check that every object is well-formed, and that what snapshots need is there
    Check(CheckArgs),
    /// Remove a ref, which keeps a snapshot for a volume or a job; audited
    Unref {
        /// Name of the ref, as `repository stats` shows it
        name: String,
        /// Repository that has it [default: whichever does]
        #[arg(long, value_name = "NAME")]
        repository: Option<String>,
        /// Remove it although something may need it
        #[arg(long)]
        force: bool,
    },
    /// List and verify the snapshots of any repository, read-only; needs no data directory and no key
    Open(OpenArgs),
    /// Remove a repository that nothing here needs; its objects are kept
    Remove {
        /// Name or id
        repository: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct OpenArgs {
    /// s3://bucket/prefix, file:///folder, or an absolute path
    pub(super) url: String,
    #[command(flatten)]
    pub(super) s3: S3Args,
    /// Verify the signature and every chunk of this snapshot, or of all
    #[arg(long, value_name = "SNAPSHOT", num_args = 0..=1)]
    pub(super) verify: Option<Option<SnapshotId>>,
    /// Require a signature by this public key (hexadecimal)
    #[arg(long, value_name = "HEX", requires = "verify")]
    pub(super) trust: Option<String>,
}

/// Returns the request of a verb.
pub(super) fn request(verb: RepositoryVerb) -> Result<Request> {
    Ok(match verb {
        RepositoryVerb::Add { name, url, s3, cache_size } => {
            let (location, cache) = (Location::new(&url, s3.options())?, cache_size.map_or(0, |size| size.0));
            AddRepository { name, location, cache }.into()
        }
        RepositoryVerb::Open(_) | RepositoryVerb::Gc(_) | RepositoryVerb::Stats(_) | RepositoryVerb::Check(_) => {
            return Err(Error::new(Kind::Failed, "this verb is handled elsewhere"));
        }
        RepositoryVerb::Unref { name, repository, force } => RemoveRef { name, repository, force }.into(),
        RepositoryVerb::Move { repository, url, s3 } => {
            MoveRepository { repository, location: Location::new(&url, s3.options())? }.into()
        }
        RepositoryVerb::List => ListRepositories {}.into(),
        RepositoryVerb::Show { repository } => DescribeRepository { repository }.into(),
        RepositoryVerb::Default { repository } => SetDefaultRepository { repository }.into(),
        RepositoryVerb::Cache { repository, size } => SetRepositoryCache { repository, size: size.0 }.into(),
        RepositoryVerb::Remove { repository } => RemoveRepository { repository }.into(),
    })
}
