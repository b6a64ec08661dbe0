//! Verbs over a Unix socket in the data directory: one JSON object a line.
//!
//! ```text
//! client -> {"request": {"action": "volume-list"}}                  one a connection
//! server -> {"progress": {"what": …, "done": …, "total": …}}        any number
//! server -> {"reply": {…}}  or  {"error": {"kind": …, "message": …, "hint": …}}
//! ```
//! Who calls is told by SO_PEERCRED. A client that hangs up while it waits asks its job to stop.

use crate::error::{Error, IoContext, Kind, Result};
use crate::service::Service;
use crate::service::api::{Progress, Reply, Request, WireError};
use crate::sys::peer_cred;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest line either side reads: a list of thousands of volumes fits.
const LINE: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Call {
    request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Progress(Progress),
    Reply(Box<Reply>),
    Error(WireError),
}

/// The listening side.
pub struct ControlServer {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Listens on `path` (mode 0600), taking the place of what a dead daemon left there. The caller holds the data
    /// directory's lock, so nobody else listens.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the path is too long for a Unix socket (107 bytes).
    pub fn start(path: &Path, service: Arc<Service>) -> Result<Self> {
        let what = || format!("listen on {}", path.display());
        if path.as_os_str().len() > 107 {
            return Err(Error::new(Kind::Usage, format!("{}: the path is longer than a Unix socket may have", what()))
                .hint("choose a shorter data directory"));
        }
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).on(what)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).on(what)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let service = service.clone();
                std::thread::spawn(move || serve_one(&service, connection));
            }
        });
        Ok(Self { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = UnixStream::connect(&self.path); // wakes accept
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve_one(service: &Arc<Service>, connection: UnixStream) {
    let mut out = &connection;
    let answer = match hear(&connection) {
        Ok(Some((uid, request))) => {
            let mut report = |progress: Progress| send(&mut out, &Answer::Progress(progress)).is_ok();
            let outcome =
                service.caller_of(uid, "command line").and_then(|caller| service.handle(&caller, request, &mut report));
            outcome.map(|r| Answer::Reply(Box::new(r))).unwrap_or_else(|e| Answer::Error(WireError::from(&e)))
        }
        Ok(None) => return,
        Err(err) => Answer::Error(WireError::from(&err)),
    };
    let _ = send(&mut &connection, &answer);
}

fn hear(connection: &UnixStream) -> Result<Option<(u32, Request)>> {
    let what = || "read a request".to_owned();
    let uid = peer_cred(connection).on(what)?.uid;
    connection.set_read_timeout(Some(Duration::from_secs(10))).on(what)?;
    let mut line = String::new();
    BufReader::new(connection.take(LINE)).read_line(&mut line).on(what)?;
    if line.is_empty() {
        return Ok(None);
    }
    let call: Call = serde_json::from_str(&line).map_err(|e| {
        Error::new(Kind::Usage, "this request is not one of this version")
            .because(e)
            .hint("use the daemon's own coffer")
    })?;
    Ok(Some((uid, call.request)))
}

fn send(out: &mut impl Write, answer: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Whether a daemon listens there.
#[must_use]
pub fn daemon_answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Asks the daemon that listens on `path`. `None`: nobody listens there.
///
/// # Errors
/// What the verb says; [`Kind::Unreachable`] if the daemon goes away in the middle.
pub fn ask(path: &Path, request: &Request, report: &mut dyn FnMut(Progress)) -> Result<Option<Reply>> {
    let Ok(connection) = UnixStream::connect(path) else { return Ok(None) };
    let gone = |why: &str| {
        Error::new(Kind::Unreachable, format!("the daemon at {} {why}", path.display()))
            .hint("see its log, then try again")
    };
    send(&mut &connection, &Call { request: request.clone() }).map_err(|e| gone("hung up").because(e))?;
    let mut lines = BufReader::new((&connection).take(LINE));
    loop {
        let mut line = String::new();
        let n = lines.read_line(&mut line).map_err(|e| gone("hung up").because(e))?;
        if n == 0 {
            return Err(gone("ended without an answer"));
        }
        match serde_json::from_str(&line).map_err(|e| gone("answered what this version does not know").because(e))? {
            Answer::Progress(progress) => report(progress),
            Answer::Reply(reply) => return Ok(Some(*reply)),
            Answer::Error(wire) => return Err(wire.into()),
        }
    }
}
