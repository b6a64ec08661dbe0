//! `coffer serve --ephemeral`: AWS's API for a test suite, over a fresh installation in a temporary directory. It has fixed
//! credentials, forgets everything at `POST /_coffer/reset`, and leaves nothing when it ends.

use super::serve::ServeArgs;
use crate::aws::{self, Coffer, Config, Limits, Listener};
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::iam::PrincipalRef;
use crate::kms::{InstallationConfig, RootChoice, RootUnlock};
use crate::service::datadir::DataDir;
use crate::service::{GRACE, OpenAs, Role, Service};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The account of test suites.
const ACCOUNT: &str = "123456789012";
/// The access key of its root, which AWS's documentation uses in examples. Not secret.
const ACCESS_KEY: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
/// How long requests in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Where fresh installations are put: in memory if the machine has a place for that, since nothing has to be kept.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let usable = memory.is_dir() && rustix::fs::access(memory, rustix::fs::Access::WRITE_OK).is_ok();
    if usable { memory.to_owned() } else { std::env::temp_dir() }
}

/// What the names of their directories begin with.
const PREFIX: &str = "coffer-ephemeral-";
/// Age at which a directory that nobody has locked is one that a killed server left: a new one is locked long before.
const LEFT: Duration = Duration::from_secs(60);

/// Locks a directory for as long as the file is open.
fn lock(dir: &Path) -> rustix::io::Result<std::fs::File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = std::fs::File::from(rustix::fs::open(dir, flags, Mode::empty())?);
    rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive)?;
    Ok(open)
}

/// Removes what servers left that were killed.
fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let is_left = |m: &std::fs::Metadata| {
            m.is_dir()
                && m.uid() == rustix::process::geteuid().as_raw()
                && m.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= LEFT))
        };
        if is_ours
            && entry.metadata().is_ok_and(|m| is_left(&m))
            && let Ok(_held) = lock(&entry.path())
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes installations, one after another, and removes all but the newest.
struct Fresh {
    dir: tempfile::TempDir,
    /// Says that the directory is in use.
    _lock: std::fs::File,
    env: Env,
    made: AtomicU64,
}

impl Fresh {
    fn new(env: Env) -> Result<Self> {
        let named = || "create a temporary directory".to_owned();
        let place = place();
        sweep(&place);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place).on(named)?;
        let lock = lock(dir.path()).map_err(std::io::Error::from).on(named)?;
        Ok(Self { dir, _lock: lock, env, made: AtomicU64::new(0) })
    }

    fn make(&self) -> Result<Arc<Service>> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        if let Some(older) = n.checked_sub(2) {
            // The one before this is still in use by requests in flight.
            let _ = std::fs::remove_dir_all(self.dir.path().join(older.to_string()));
        }
        let dir = self.dir.path().join(n.to_string());
        std::fs::create_dir(&dir).on(|| format!("create {}", dir.display()))?;
        let (data, env) = (DataDir::at(&dir.join("data"))?, self.env.clone());
        let config = InstallationConfig { account: Some(ACCOUNT.into()), ..InstallationConfig::default() };
        Service::init(&data, &env, &RootChoice::File(dir.join("root.key")), &config)?;
        let lock = data
            .try_lock(&env, "serve")?
            .ok_or_else(|| Error::new(Kind::Busy, format!("{} is in use", data.path().display())))?;
        let unlock = RootUnlock::File(dir.join("root.key"));
        let opening = OpenAs { role: Role::Daemon, single_host: false, lease_grace: GRACE };
        let service = Service::open(data, env, lock, &unlock, opening)?;
        service.put_access_key(ACCESS_KEY.0, ACCESS_KEY.1, &PrincipalRef::root(ACCOUNT))?;
        Ok(service)
    }
}

pub(super) fn run(args: &ServeArgs, mut signals: signal_hook::iterator::Signals) -> Result<u8> {
    let address = args.api.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    if !address.ip().is_loopback() {
        let what = format!("serve --ephemeral: {address} is not a loopback address");
        return Err(Error::new(Kind::Usage, what).hint("its credentials are known to everybody: use 127.0.0.1 or ::1"));
    }
    let env = Env::system();
    let config = Config { address, tls: None, ephemeral: true, limits: Limits::default(), env: env.clone() };
    let listener = Listener::bind(config)?;
    let url = listener.url();
    let fresh = Arc::new(Fresh::new(env)?);
    let renewed = fresh.clone();
    let backend = Arc::new(Coffer::ephemeral(fresh.make()?, Box::new(move || renewed.make())));
    let server = aws::serve(listener, backend.clone())?;
    super::out::note(format!(
        "coffer: AWS API on {url}, account {ACCOUNT}, access key {} with secret {}",
        ACCESS_KEY.0, ACCESS_KEY.1
    ));
    super::serve::wait_for_signal(&mut signals);
    if !server.shutdown(DRAIN) {
        tracing::warn!("requests were still in flight after {} s", DRAIN.as_secs());
    }
    backend.service().shut_down();
    Ok(0)
}
