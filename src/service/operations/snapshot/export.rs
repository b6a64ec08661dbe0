//! The operation that writes a snapshot to an image.

use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::ExportInfo;
use crate::service::operations::{Authorization, Call, Operation, named};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Writes the plain bytes of a snapshot to the open file that is passed with the request. Needs the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSnapshot {
    /// Name or id of the snapshot.
    pub snapshot: String,
    /// The path of the file, for messages and the audit: its contents are replaced, and holes stay holes. `None`: it is a stream,
    /// to which all bytes are written.
    pub out: Option<PathBuf>,
}

impl Operation for ExportSnapshot {
    type Answer = ExportInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:ExportSnapshot", &self.snapshot))
    }
    fn perform(self, mut call: Call<'_>) -> Result<ExportInfo> {
        let file = call.take_file()?;
        call.service.export_snapshot(call.caller, &self.snapshot, (&file, self.out.as_deref()), call.report)
    }
}
