//! What `coffer bench`, `coffer demo` and the comparison with other servers (tools/compare) share: an installation in a scratch
//! folder, an NBD load generator, and facts about the machine to report with every measurement.

pub mod load;
pub mod machine;
pub mod session;

use crate::error::{Error, Kind};

/// Returns the error for a measurement that cannot be made.
#[must_use]
pub fn cannot(what: impl Into<String>) -> Error {
    Error::new(Kind::Failed, what)
}
