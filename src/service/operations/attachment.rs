//! Operations on attachments and leases.

use super::{Authorization, Call, Done, Operation, ShownOnce, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::AttachmentInfo;
use serde::{Deserialize, Serialize};

/// Registers an attachment. The answer contains everything needed to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    /// Name or id of the volume.
    pub volume: String,
    /// The device that it will appear as.
    pub device: String,
}

impl Operation for AttachVolume {
    type Answer = AttachmentInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:AttachVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<AttachmentInfo> {
        call.service.begin_attachment(call.caller, &self.volume, &self.device)
    }
    fn shows_once(&self) -> ShownOnce {
        ShownOnce::Attachment
    }
}

/// Replaces the token of an attachment; the old one becomes invalid. For a helper process that replaces a killed one: a token is
/// shown only once, so the new process does not have the old token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewAttachment {
    /// A volume, a device or an attachment's id.
    pub what: String,
}

impl Operation for RenewAttachment {
    type Answer = AttachmentInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:RenewAttachment", &self.what))
    }
    fn perform(self, call: Call<'_>) -> Result<AttachmentInfo> {
        call.service.renew_attachment(call.caller, &self.what)
    }
}

/// Ends an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachVolume {
    /// A volume, a device or an attachment's id.
    pub what: String,
}

impl Operation for DetachVolume {
    type Answer = AttachmentInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:DetachVolume", &self.what).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<AttachmentInfo> {
        call.service.end_attachment(call.caller, &self.what)
    }
}

/// Lists the attachments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAttachments {}

impl Operation for ListAttachments {
    type Answer = Vec<AttachmentInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<AttachmentInfo>> {
        call.service.list_attachments()
    }
}

/// Breaks the lease of a volume, or disconnects the readers of a snapshot, and closes the holder's connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakLease {
    /// A volume, a snapshot, a device or an attachment's id.
    pub what: String,
}

impl Operation for BreakLease {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:BreakLease", &self.what).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.break_lease(call.caller, &self.what).map(Done)
    }
}
