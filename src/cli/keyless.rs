//! Requests that need no root key: performed by a server, or from the repository itself.

use super::args::Common;
use super::client::{self, PATIENCE, ask_daemon, ask_once, data_dir};
use super::render;
use crate::api::control;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::service::answer_unopened;
use crate::service::api::Reply;
use crate::service::datadir::Wanting;
use crate::service::operations::Request;
use crate::units::SnapshotId;

/// Performs a request that needs no root key: the server's reply, or, without a server, from the repository itself.
pub(super) fn ask_without_key(common: &Common, request: &Request) -> Result<Reply> {
    let data = data_dir(common)?;
    let mut bar = render::Progressing::new(common);
    let socket = data.control_socket();
    if let Some(reply) = ask_once(&socket, request, None, &mut bar)? {
        return Ok(reply);
    }
    if !data.is_initialised() || !has_ids_alone(request) {
        return client::ask(common, request.clone()); // knows names, and reports what is missing
    }
    let env = Env::system();
    let lock = data.lock(&env, request.name(), Wanting::Command, PATIENCE, || control::daemon_answers(&socket))?;
    let Some(lock) = lock else { return ask_daemon(&socket, request, None, &mut bar) };
    let mut gave_way = false;
    let answered = answer_unopened(&data, env, request.clone(), &mut |p| {
        bar.show(&p);
        gave_way |= lock.is_asked_for();
        !gave_way
    });
    drop(lock);
    match answered {
        Err(err) if gave_way && err.kind() == Kind::Interrupted => ask_daemon(&socket, request, None, &mut bar),
        // It may be in a repository that only the catalog knows, for which the root key is needed.
        answer if is_elsewhere(&answer) => match client::ask(common, request.clone()) {
            Err(no_key) if no_key.kind() == Kind::KeyUnavailable => answer,
            other => other,
        },
        other => other,
    }
}

/// Whether a snapshot that was named is not in the data directory's repository.
fn is_elsewhere(answer: &Result<Reply>) -> bool {
    match answer {
        Err(err) => err.kind() == Kind::NotFound,
        Ok(Reply::Verified { snapshots }) => {
            snapshots.iter().any(|s| s.error.as_ref().is_some_and(|err| err.kind == Kind::NotFound))
        }
        Ok(_) => false,
    }
}

/// Whether a request names all its snapshots by id: their names are in the catalog.
fn has_ids_alone(request: &Request) -> bool {
    let is_id = |what: &String| what.parse::<SnapshotId>().is_ok();
    match request {
        Request::VerifySnapshots(asked) => asked.snapshots.iter().all(is_id),
        Request::DiffSnapshots(asked) => asked.from.iter().all(is_id) && is_id(&asked.to),
        _ => false,
    }
}
