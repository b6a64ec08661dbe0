//! Secrets that are shown once: not created where they could not be shown, and revoked if they were not.

use super::args::Common;
use super::{client, out};
use crate::error::{Error, Kind, Result};
use crate::service::api::Reply;
use crate::service::operations::ShownOnce;

/// Refuses to create a secret that could not be shown.
///
/// # Errors
/// If there is no standard output.
pub(super) fn must_be_there(once: ShownOnce) -> Result<()> {
    if once != ShownOnce::Nothing && crate::sys::was_closed(1) {
        return Err(Error::new(
            Kind::Failed,
            "standard output is closed, and this command's output is shown only once",
        )
        .hint("redirect it to a file or a terminal"));
    }
    Ok(())
}

/// After a reply was printed: revokes a secret that is shown once and could not be written.
///
/// # Errors
/// Why it was not written.
pub(super) fn keep_or_take_back(common: &Common, once: ShownOnce, reply: &Reply) -> Result<()> {
    let Some(undo) = once.taken_back_by(reply) else { return Ok(()) };
    let Some(err) = out::take_failure() else { return Ok(()) };
    Err(match client::ask(common, undo) {
        Ok(_) => err.context("the secret could not be shown and was revoked"),
        Err(failed) => err
            .context(format!("the secret could not be shown, and is still valid: {}", failed.line()))
            .hint("revoke it with `coffer access deny`, `coffer key grant revoke` or `coffer principal key delete`"),
    })
}
