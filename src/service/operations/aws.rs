//! Any operation of AWS's APIs, by its name and with AWS's parameters.

use super::{Authorization, Call, Operation};
use crate::document::Document;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::service::aws;
use serde::{Deserialize, Serialize};

/// Calls an operation of AWS's APIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallAws {
    /// Its name with the prefix of its service, as `kms:CreateKey`.
    pub operation: String,
    /// Its parameters, a JSON object.
    pub input: Document,
}

impl Operation for CallAws {
    type Answer = Document;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        // Those that exist record their refusals themselves.
        aws::find(&self.operation).is_none().then(|| super::named("aws:Call", &self.operation))
    }
    fn perform(self, call: Call<'_>) -> Result<Document> {
        let entry = aws::find(&self.operation).ok_or_else(|| {
            Error::new(Kind::Usage, format!("there is no operation {}", super::cut(&self.operation)))
                .hint("see the table of operations in docs/kms.md")
        })?;
        call.service.aws(call.caller, entry, self.input.into_inner()).map(Document::new)
    }
}
