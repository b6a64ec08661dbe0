//! What the verbs of `coffer snapshot` share: requests that need no root key, and how tags are selected.

use crate::api::control;
use crate::cli::args::Common;
use crate::cli::client::{self, PATIENCE, ask_daemon, ask_once, data_dir};
use crate::cli::render;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::service::answer_unopened;
use crate::service::api::Reply;
use crate::service::datadir::Wanting;
use crate::service::operations::Request;
use crate::units::SnapshotId;
use std::collections::BTreeMap;

/// Tags to select by: each with a value, or with any.
pub(super) fn selection(tags: &[String]) -> BTreeMap<String, Option<String>> {
    let one = |tag: &String| match tag.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (tag.clone(), None),
    };
    tags.iter().map(one).collect()
}

/// Performs a request that needs no root key: the server's reply, or, without a server, from the repository itself.
pub(super) fn ask_without_key(common: &Common, request: &Request) -> Result<Reply> {
    let data = data_dir(common)?;
    let mut bar = render::Progressing::new(common);
    let socket = data.control_socket();
    if let Some(reply) = ask_once(&socket, request, &mut bar)? {
        return Ok(reply);
    }
    if !data.is_initialised() || !has_ids_alone(request) {
        return client::ask(common, request.clone()); // knows names, and reports what is missing
    }
    let env = Env::system();
    let lock = data.lock(&env, request.name(), Wanting::Command, PATIENCE, || control::daemon_answers(&socket))?;
    let Some(lock) = lock else { return ask_daemon(&socket, request, &mut bar) };
    let mut gave_way = false;
    let answered = answer_unopened(&data, env, request.clone(), &mut |p| {
        bar.show(&p);
        gave_way |= lock.is_asked_for();
        !gave_way
    });
    drop(lock);
    match answered {
        Err(err) if gave_way && err.kind() == Kind::Interrupted => ask_daemon(&socket, request, &mut bar),
        other => other,
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
