//! Operations on repositories of snapshots.

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::RepositoryInfo;
use crate::snapshot::location::Location;
use serde::{Deserialize, Serialize};

/// Adds a repository. If there is none at the location, one is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRepository {
    /// A name that no other repository has.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// Limit of its read cache, in bytes; 0: none.
    #[serde(default)]
    pub cache: u64,
}

impl Operation for AddRepository {
    type Answer = RepositoryInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:AddRepository", &self.name))
    }
    fn perform(self, call: Call<'_>) -> Result<RepositoryInfo> {
        call.service.add_repository(call.caller, self.name, self.location, self.cache)
    }
}

/// Lists the repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRepositories {}

impl Operation for ListRepositories {
    type Answer = Vec<RepositoryInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<RepositoryInfo>> {
        call.service.list_repositories()
    }
}

/// Describes one repository, and whether it can be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeRepository {
    /// Its name or id.
    pub repository: String,
}

impl Operation for DescribeRepository {
    type Answer = RepositoryInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<RepositoryInfo> {
        call.service.show_repository(&self.repository)
    }
}

/// Makes a repository the default: the snapshots of volumes without a setting of their own go there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetDefaultRepository {
    /// Its name or id.
    pub repository: String,
}

impl Operation for SetDefaultRepository {
    type Answer = RepositoryInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:SetDefaultRepository", &self.repository))
    }
    fn perform(self, call: Call<'_>) -> Result<RepositoryInfo> {
        call.service.set_default_repository(call.caller, &self.repository)
    }
}

/// Sets how much of what is read from a repository is kept in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRepositoryCache {
    /// Its name or id.
    pub repository: String,
    /// Limit in bytes; 0: nothing is kept, and what there is is deleted.
    pub size: u64,
}

impl Operation for SetRepositoryCache {
    type Answer = RepositoryInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:SetRepositoryCache", &self.repository))
    }
    fn perform(self, call: Call<'_>) -> Result<RepositoryInfo> {
        call.service.set_repository_cache(call.caller, &self.repository, self.size)
    }
}

/// Copies a repository to another place and uses it there. The old place keeps its objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRepository {
    /// Its name or id.
    pub repository: String,
    /// The new place.
    pub location: Location,
}

impl Operation for MoveRepository {
    type Answer = RepositoryInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:MoveRepository", &self.repository))
    }
    fn perform(self, call: Call<'_>) -> Result<RepositoryInfo> {
        call.service.move_repository(call.caller, &self.repository, self.location, call.report)
    }
}

/// Removes a repository that nothing here needs from the catalog. Deletes nothing in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRepository {
    /// Its name or id.
    pub repository: String,
}

impl Operation for RemoveRepository {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:RemoveRepository", &self.repository))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.remove_repository(call.caller, &self.repository).map(Done)
    }
}
