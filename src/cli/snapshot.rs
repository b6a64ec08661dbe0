//! What `coffer snapshot` does besides sending requests: verification without a key, and the end of waiting.

use super::args::Common;
use super::client::{PATIENCE, ask_daemon, ask_once, data_dir};
use super::render;
use crate::api::control;
use crate::env::Env;
use crate::error::{IoContext, Kind, Result};
use crate::service::api::Reply;
use crate::service::datadir::Wanting;
use crate::service::operations::Request;
use crate::service::operations::VerifySnapshot;
use crate::service::verify_unopened;

/// `snapshot verify`: the server's reply, or, without a server, from the repository itself.
pub(super) fn verify(common: &Common, snapshot: String, trust: Option<String>) -> Result<Reply> {
    let data = data_dir(common)?;
    let mut bar = render::Progressing::new(common);
    let request: Request = VerifySnapshot { snapshot: snapshot.clone(), trust: trust.clone() }.into();
    let socket = data.control_socket();
    if let Some(reply) = ask_once(&socket, &request, &mut bar)? {
        return Ok(reply);
    }
    if !data.is_initialised() {
        return super::client::ask(common, request); // reports what is missing
    }
    let env = Env::system();
    let lock = data.lock(&env, "snapshot-verify", Wanting::Command, PATIENCE, || control::daemon_answers(&socket))?;
    let Some(lock) = lock else { return ask_daemon(&socket, &request, &mut bar) };
    let mut gave_way = false;
    let verified = verify_unopened(&data, env, &snapshot, trust.as_deref(), &mut |p| {
        bar.show(&p);
        gave_way |= lock.is_asked_for();
        !gave_way
    });
    drop(lock);
    match verified {
        _ if gave_way => ask_daemon(&socket, &request, &mut bar),
        // It may be in a repository that only the catalog knows, for which the root key is needed.
        Err(err) if err.kind() == Kind::NotFound => match super::client::ask(common, request) {
            Err(no_key) if no_key.kind() == Kind::KeyUnavailable => Err(err),
            other => other,
        },
        other => other.map(|message| Reply::Done { message, warning: None }),
    }
}

/// From now on, Ctrl-C ends the waiting for a server's snapshot, and says that the snapshot continues. Without a server no
/// process could continue it, and the snapshot is cancelled.
pub(super) fn end_waiting_on_interrupt(common: &Common) -> Result<()> {
    if !control::daemon_answers(&data_dir(common)?.control_socket()) {
        return Ok(());
    }
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT]).on(|| "catch SIGINT".to_owned())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("coffer: no longer waiting; the server continues the snapshot (see `coffer snapshot list`)");
            std::process::exit(130);
        }
    });
    Ok(())
}
