//! Operations for the upkeep of repositories: garbage, statistics, checks, refs.

use super::{Answer, Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::{CheckedInfo, CollectedInfo, Reply, StatsInfo};
use serde::{Deserialize, Serialize};

/// Deletes what no snapshot or volume needs any more, and compacts packs that are mostly garbage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectGarbage {
    /// Name or id of the repository; `None`: all.
    #[serde(default)]
    pub repository: Option<String>,
    /// Change nothing, only answer.
    #[serde(default)]
    pub dry_run: bool,
    /// Bytes to copy per second at most.
    #[serde(default)]
    pub rate: Option<u64>,
}

/// What collecting garbage did, or, in a dry run, would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedGarbage {
    /// By repository.
    pub repositories: Vec<CollectedInfo>,
    /// Whether nothing was changed.
    pub dry_run: bool,
}

impl Answer for CollectedGarbage {
    fn into_reply(self) -> Reply {
        Reply::Collected { repositories: self.repositories, dry_run: self.dry_run }
    }
    fn of_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Collected { repositories, dry_run } => Some(Self { repositories, dry_run }),
            _ => None,
        }
    }
}

impl Operation for CollectGarbage {
    type Answer = CollectedGarbage;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:CollectGarbage", self.repository.as_deref().unwrap_or("all")))
    }
    fn perform(self, call: Call<'_>) -> Result<CollectedGarbage> {
        let dry_run = self.dry_run;
        let repositories = call.service.collect_garbage(call.caller, &self, call.report)?;
        Ok(CollectedGarbage { repositories, dry_run })
    }
}

/// Counts what is in repositories, and what each snapshot would give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountRepository {
    /// Name or id of the repository; `None`: all.
    #[serde(default)]
    pub repository: Option<String>,
}

impl Operation for CountRepository {
    type Answer = Vec<StatsInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<StatsInfo>> {
        call.service.repository_stats(self.repository.as_deref())
    }
}

/// Checks that the objects of repositories are well-formed, and that what snapshots need is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRepository {
    /// Name or id of the repository; `None`: all.
    #[serde(default)]
    pub repository: Option<String>,
    /// Also read all data.
    #[serde(default)]
    pub read_data: bool,
}

impl Operation for CheckRepository {
    type Answer = Vec<CheckedInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<CheckedInfo>> {
        call.service.check_repositories(self.repository.as_deref(), self.read_data, call.report)
    }
}

/// Removes a ref that keeps a snapshot's objects, whoever put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRef {
    /// Its name, `<installation>-<id>`.
    pub name: String,
    /// Name or id of its repository; `None`: whichever has it.
    #[serde(default)]
    pub repository: Option<String>,
    /// Without this, it is refused, with what would break.
    #[serde(default)]
    pub force: bool,
}

impl Operation for RemoveRef {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:RemoveRef", &self.name))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.remove_ref(call.caller, &self).map(Done)
    }
}
