//! `coffer snapshot create`: of one volume, or of several at one instant, with commands around the point in time.

use super::around::{self, HeldSignals};
use super::labels::LabelArgs;
use super::waiting::end_waiting_on_interrupt;
use crate::api::control;
use crate::cli::args::Common;
use crate::cli::client::{self, data_dir};
use crate::cli::{out, render};
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::api::Reply;
use crate::service::operations::{CreateSnapshot, CreateSnapshots, Request, WaitSnapshot};
use clap::Args;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long `--freeze` may last once its command has ended: then `--thaw` runs, whether or not the server has answered.
const FROZEN_MAX: Duration = Duration::from_secs(30);
/// How often an interrupt is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name or id; several with --group
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Take the snapshots of all these volumes at one instant: all, or none
    #[arg(long, conflicts_with = "name")]
    group: bool,
    /// Command that quiesces a file system or a program before; run by sh
    #[arg(long, value_name = "COMMAND")]
    freeze: Option<String>,
    /// Command that undoes --freeze, as soon as the point in time is fixed, and also after a failure
    #[arg(long, value_name = "COMMAND", requires = "freeze")]
    thaw: Option<String>,
    /// Wait until it is completed
    #[arg(long)]
    wait: bool,
    /// Repository for this snapshot [default: as the volume is set]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    #[command(flatten)]
    labels: LabelArgs,
}

pub(super) fn run(common: &Common, args: CreateArgs) -> Result<u8> {
    let (freeze, thaw, wait) = (args.freeze.clone(), args.thaw.clone(), args.wait);
    let request = request(args)?;
    let Some(freeze) = freeze else {
        if wait {
            end_waiting_on_interrupt(common)?;
        }
        return client::ask(common, request).map(|reply| render::reply(&reply, common));
    };
    let taken = take_frozen(common, request, &freeze, thaw.as_deref())?;
    if wait {
        end_waiting_on_interrupt(common)?;
        return wait_for(common, taken).map(|reply| render::reply(&reply, common));
    }
    Ok(render::reply(&taken, common))
}

/// Returns the request; with a command to run before, one that does not wait.
fn request(args: CreateArgs) -> Result<Request> {
    let CreateArgs { mut volumes, group, freeze, wait, repository, labels, .. } = args;
    let (wait, tags) = (wait && freeze.is_none(), labels.tags()?);
    let LabelArgs { description, name, .. } = labels;
    if group {
        return Ok(CreateSnapshots { volumes, description, wait, repository, tags }.into());
    }
    match (volumes.pop(), volumes.is_empty()) {
        (Some(volume), true) => Ok(CreateSnapshot { volume, description, wait, repository, name, tags }.into()),
        _ => Err(Error::new(Kind::Usage, "several volumes are named")
            .hint("add --group to take their snapshots at one instant")),
    }
}

/// Takes snapshots between the two commands.
fn take_frozen(common: &Common, request: Request, freeze: &str, thaw: Option<&str>) -> Result<Reply> {
    if !control::daemon_answers(&data_dir(common)?.control_socket()) {
        return Err(Error::new(Kind::Usage, "--freeze needs a server: without one, nothing has the volume attached")
            .hint("start `coffer serve`, or leave out --freeze"));
    }
    let signals = HeldSignals::hold()?;
    let outcome = command("freeze", freeze).and_then(|()| {
        if signals.is_interrupted() {
            Err(stopped("no snapshot was taken"))
        } else {
            ask_in_time(common, request, &signals)
        }
    });
    // In any case: a command that failed may have frozen a part.
    let thawed = thaw.map_or(Ok(()), |thaw| command("thaw", thaw));
    match (outcome, thawed) {
        (Ok(taken), Ok(())) => Ok(taken),
        (Ok(taken), Err(err)) => Err(err.context(format!("{} taken, but", ids(&taken).join(" ")))),
        (Err(err), thawed) => {
            thawed.unwrap_or_else(|also| out::note(format!("coffer: {}", also.line())));
            Err(err)
        }
    }
}

/// Asks the server, which answers once the point in time is fixed. Gives up after [`FROZEN_MAX`].
fn ask_in_time(common: &Common, request: Request, signals: &HeldSignals) -> Result<Reply> {
    let (send, answer) = channel();
    let asking = common.clone();
    let ask = move || drop(send.send(client::ask(&asking, request)));
    std::thread::Builder::new().name("ask".to_owned()).spawn(ask).on(|| "start a thread".to_owned())?;
    let since = Instant::now();
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::new(Kind::Failed, "the request was lost")),
            Err(RecvTimeoutError::Timeout) if signals.is_interrupted() => {
                return Err(stopped("a snapshot may have been taken"));
            }
            Err(RecvTimeoutError::Timeout) if since.elapsed() > FROZEN_MAX => {
                let seconds = FROZEN_MAX.as_secs();
                let what = format!("the server did not fix the point in time within {seconds} seconds");
                return Err(Error::new(Kind::Unreachable, what)
                    .hint("a snapshot may be taken later, without --freeze in force: see `coffer snapshot list`"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn stopped(what: &str) -> Error {
    Error::new(Kind::Interrupted, format!("interrupted: {what}")).hint("see `coffer snapshot list`")
}

fn command(which: &str, line: &str) -> Result<()> {
    let ended = around::run(line, &[]).map_err(|e| e.context(format!("the {which} command")))?;
    if ended.success() {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("the {which} command failed: {ended}")).hint(match which {
        "freeze" => "no snapshot was taken",
        _ => "undo --freeze by hand",
    }))
}

/// Waits until what was taken is completed.
fn wait_for(common: &Common, taken: Reply) -> Result<Reply> {
    let mut completed = Vec::new();
    for snapshot in ids(&taken) {
        if let Reply::Snapshot(one) = client::ask(common, WaitSnapshot { snapshot }.into())? {
            completed.push(one);
        }
    }
    Ok(match (&taken, completed.pop()) {
        (Reply::Snapshot(_), Some(one)) => Reply::Snapshot(one),
        (_, last) => Reply::Snapshots { snapshots: completed.into_iter().chain(last).collect() },
    })
}

/// Returns the ids of the snapshots that were taken.
fn ids(taken: &Reply) -> Vec<String> {
    match taken {
        Reply::Snapshot(one) => vec![one.id.to_string()],
        Reply::Snapshots { snapshots } => snapshots.iter().map(|one| one.id.to_string()).collect(),
        _ => Vec::new(),
    }
}
