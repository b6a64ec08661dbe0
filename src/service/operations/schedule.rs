//! Operations on schedules of snapshots.

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::ScheduleInfo;
use crate::service::{Cadence, Keep};
use serde::{Deserialize, Serialize};

/// Adds a schedule: a server takes a snapshot of the volume each time it is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddSchedule {
    /// Name or id of the volume.
    pub volume: String,
    /// How often.
    pub cadence: Cadence,
    /// Which of the schedule's own snapshots to keep after each run; `None`: all.
    #[serde(default)]
    pub keep: Option<Keep>,
}

impl Operation for AddSchedule {
    type Answer = ScheduleInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("dlm:CreateLifecyclePolicy", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<ScheduleInfo> {
        call.service.add_schedule(call.caller, &self.volume, self.cadence, self.keep)
    }
}

/// Lists the schedules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSchedules {}

impl Operation for ListSchedules {
    type Answer = Vec<ScheduleInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<ScheduleInfo>> {
        call.service.list_schedules()
    }
}

/// Removes a schedule; its snapshots are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveSchedule {
    /// Id of the schedule.
    pub schedule: String,
}

impl Operation for RemoveSchedule {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("dlm:DeleteLifecyclePolicy", &self.schedule))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.remove_schedule(call.caller, &self.schedule).map(Done)
    }
}

/// Pauses a schedule, or resumes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseSchedule {
    /// Id of the schedule.
    pub schedule: String,
    /// Whether it is paused from now on.
    pub paused: bool,
}

impl Operation for PauseSchedule {
    type Answer = ScheduleInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("dlm:UpdateLifecyclePolicy", &self.schedule))
    }
    fn perform(self, call: Call<'_>) -> Result<ScheduleInfo> {
        call.service.pause_schedule(call.caller, &self.schedule, self.paused)
    }
}
