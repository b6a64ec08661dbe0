//! A real S3 server on this machine, SeaweedFS, which `tools/setup` installs; and a proxy before it that does what networks and
//! servers do wrong.

#![allow(dead_code, reason = "each user takes a part of it")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The credentials of a user who may do anything, and of one who may only read.
pub const ADMIN: (&str, &str) = ("AKIDADMIN", "secret-of-the-admin");
pub const READER: (&str, &str) = ("AKIDREADER", "secret-of-the-reader");

/// A running server. Dropping it ends it.
pub struct S3 {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

/// The server's program, if it is installed. It must be if `COFFER_NO_SKIP` is set.
fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let file = cache.map(|c| c.join("coffer-s3/venv/bin/weed")).filter(|file| file.exists());
    if file.is_none() {
        let what = "SeaweedFS, which `tools/setup` installs";
        assert!(std::env::var_os("COFFER_NO_SKIP").is_none(), "needs {what}, and COFFER_NO_SKIP is set");
        println!("SKIP: needs {what}");
    }
    file
}

/// Returns ports that nobody uses at the moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl S3 {
    /// Starts one. `None`: it is not installed.
    pub fn start() -> Option<Self> {
        let program = program()?;
        // Another process may take a port that was free.
        (0..3).find_map(|_| Self::try_start(&program)).or_else(|| panic!("the S3 server does not start"))
    }

    fn try_start(program: &PathBuf) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let user = |name: &str, (id, secret): (&str, &str), actions: &str| {
            format!(
                r#"{{"name":"{name}","credentials":[{{"accessKey":"{id}","secretKey":"{secret}"}}],"actions":[{actions}]}}"#
            )
        };
        let users =
            [user("admin", ADMIN, r#""Admin","Read","Write","List""#), user("reader", READER, r#""Read","List""#)];
        let config = folder.path().join("s3.json");
        std::fs::write(&config, format!(r#"{{"identities":[{}]}}"#, users.join(","))).unwrap();
        let ports: [u16; 8] = free_ports();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("server").arg(format!("-dir={}", folder.path().display()));
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-volume.preStopSeconds=0"]);
        command.args(["-master.volumeSizeLimitMB=64", "-volume.max=0", "-s3", "-s3.iam=false"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]).arg(format!("-s3.config={}", config.display()));
        let names =
            ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"];
        for (name, port) in names.iter().chain(&["s3.port", "s3.port.grpc"]).zip(ports) {
            command.arg(format!("-{name}={port}"));
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut new = Self { child, port: ports[6], _folder: folder };
        let until = Instant::now() + Duration::from_secs(30);
        while !new.answers() {
            if new.child.try_wait().unwrap().is_some() || Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(new)
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer.ends_with(b"200"))
        };
        ask().unwrap_or(false)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the environment of a process that acts as a user, without any other AWS configuration.
pub fn environment((id, secret): (&str, &str)) -> Vec<(&'static str, String)> {
    let none = "/nonexistent".to_owned();
    vec![
        ("AWS_ACCESS_KEY_ID", id.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ("AWS_SESSION_TOKEN", String::new()),
        ("AWS_PROFILE", String::new()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_CONFIG_FILE", none.clone()),
        ("AWS_SHARED_CREDENTIALS_FILE", none),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server answers this, and does nothing.
    Answer(u16, &'static str),
    /// The same in the middle of the request's body.
    AnswerInBody(u16, &'static str),
    /// The connection ends before the server has the request.
    Cut,
    /// The connection ends in the middle of the request's body.
    CutInBody,
    /// The server does it, and the connection ends before the answer.
    LoseAnswer,
    /// The server does it, and never answers.
    Withhold,
    /// The connection ends in the middle of the answer's body.
    CutInAnswer,
    /// A put that must not overwrite does, or seems to.
    IgnoreCondition,
    /// A list as it was when it was first asked for.
    Stale,
    /// A list with each object twice.
    Twice,
    /// No answer at all.
    Silence,
}

/// Requests that go wrong.
#[derive(Debug, Clone)]
struct Rule {
    method: &'static str,
    part: String,
    fault: Fault,
    /// Matching requests that are spared first.
    skip: usize,
    times: usize,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    met: usize,
    lists: HashMap<String, Bytes>,
    seen: Vec<(String, String)>,
    delay: Duration,
}

/// A proxy before a server.
pub struct Proxy {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub fn before(server: &S3) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (port, state, to) = (listener.local_addr().unwrap().port(), Arc::<Mutex<State>>::default(), server.port);
        let shared = state.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, shared, to));
        });
        Self { port, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lets so many requests of this method, whose path and query contain `part`, go wrong, after sparing `skip`.
    pub fn fail(&self, method: &'static str, part: &str, fault: Fault, skip: usize, times: usize) {
        let mut state = self.state.lock().unwrap();
        state.rules.push(Rule { method, part: part.to_owned(), fault, skip, times });
    }

    /// Ends all faults. Returns how many requests went wrong since the last time.
    pub fn mend(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.rules.clear();
        std::mem::take(&mut state.met)
    }

    /// Returns how many requests went wrong since the last [`Proxy::mend`].
    pub fn met(&self) -> usize {
        self.state.lock().unwrap().met
    }

    /// Delays each request by so much from now on.
    pub fn delay(&self, by: Duration) {
        self.state.lock().unwrap().delay = by;
    }

    /// Returns method and path, with the query, of all requests since the last time.
    pub fn seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

impl State {
    fn fault(&mut self, method: &str, path: &str) -> Option<Fault> {
        self.seen.push((method.to_owned(), path.to_owned()));
        let mut matching =
            self.rules.iter_mut().filter(|r| r.method == method && path.contains(&r.part) && r.times > 0);
        let rule = matching.next()?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        self.met += 1;
        Some(rule.fault)
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>, to: u16) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, state.clone(), to));
            let io = hyper_util::rt::TokioIo::new(stream);
            // An error of the service closes the connection.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>, to: u16) -> Result<Response<Answer>, Failure> {
    let path = request.uri().path_and_query().map(|p| p.as_str().to_owned()).unwrap_or_default();
    let path = percent_encoding::percent_decode_str(&path).decode_utf8_lossy().into_owned();
    let fault = state.lock().unwrap().fault(request.method().as_str(), &path);
    let is_conditional = request.headers().contains_key("if-none-match");
    let (head, mut body) = request.into_parts();
    let delay = state.lock().unwrap().delay;
    tokio::time::sleep(delay).await;
    match fault {
        Some(Fault::Cut) => return Err("cut".into()),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::CutInBody) => {
            let _ = body.frame().await;
            return Err("cut".into());
        }
        Some(Fault::AnswerInBody(status, code)) => {
            let _ = body.frame().await;
            return Ok(error(status, code));
        }
        Some(Fault::Answer(status, code)) => {
            let _ = body.collect().await;
            return Ok(error(status, code));
        }
        Some(Fault::IgnoreCondition) if is_conditional => {
            let _ = body.collect().await;
            return Ok(Response::builder().header("etag", "\"0\"").body(whole(Bytes::new()))?);
        }
        _ => {}
    }
    let (head, body) = forward(Request::from_parts(head, Full::new(body.collect().await?.to_bytes())), to).await?;
    let body = match fault {
        Some(Fault::LoseAnswer) => return Err("lost".into()),
        Some(Fault::Withhold) => std::future::pending().await,
        Some(Fault::CutInAnswer) => {
            let half = body.slice(..body.len() / 2);
            return Ok(Response::from_parts(head, Answer { now: Some(half), is_cut: true }));
        }
        Some(Fault::Stale) => state.lock().unwrap().lists.get(&path).cloned().unwrap_or(body),
        Some(Fault::Twice) => twice(&body),
        _ => body,
    };
    if path.contains("list-type=2") {
        state.lock().unwrap().lists.entry(path).or_insert_with(|| body.clone());
    }
    let mut answer = Response::from_parts(head, whole(body.clone()));
    if answer.headers().contains_key("content-length") && !body.is_empty() {
        answer.headers_mut().insert("content-length", body.len().into());
    }
    Ok(answer)
}

/// A body that may end too early.
struct Answer {
    now: Option<Bytes>,
    is_cut: bool,
}

const fn whole(bytes: Bytes) -> Answer {
    Answer { now: Some(bytes), is_cut: false }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Failure>>> {
        std::task::Poll::Ready(match self.now.take() {
            Some(bytes) if !bytes.is_empty() => Some(Ok(hyper::body::Frame::data(bytes))),
            _ if self.is_cut => Some(Err("cut".into())),
            _ => None,
        })
    }
    fn is_end_stream(&self) -> bool {
        !self.is_cut && self.now.as_ref().is_none_or(Bytes::is_empty)
    }
}

async fn forward(request: Request<Full<Bytes>>, to: u16) -> Result<(http::response::Parts, Bytes), Failure> {
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}

fn error(status: u16, code: &str) -> Response<Answer> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told to fail</Message></Error>");
    Response::builder().status(status).body(whole(body.into())).unwrap()
}

/// Returns a list's XML with each object twice.
fn twice(body: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(body);
    let mut parts = text.split("<Contents>");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (one, rest) = part.split_once("</Contents>").unwrap();
        out += &format!("<Contents>{one}</Contents><Contents>{one}</Contents>{rest}");
    }
    out.into()
}
