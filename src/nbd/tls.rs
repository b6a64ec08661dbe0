//! The server side of TLS: certificates from a directory, reloaded when they change; TLS 1.3, and 1.2 on request.
//!
//! The files have the names that libnbd, nbdkit and QEMU use: `server-cert.pem`, `server-key.pem`, and `ca-cert.pem`
//! for verifying client certificates. Without the last, no client certificate is requested. A client may come without
//! one; [`super::Exports`] decides what it may open then.
//!
//! No session resumption and no early data: every connection presents its certificate again.

use super::export::Certificate;
use crate::env::{Env, Timestamp};
use crate::error::{Error, IoContext, Kind, Result};
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The CA that client certificates are verified against, PEM.
pub const CA_CERT: &str = "ca-cert.pem";
/// The server's certificate and chain up to the CA, PEM.
pub const SERVER_CERT: &str = "server-cert.pem";
/// The server's private key, PEM.
pub const SERVER_KEY: &str = "server-key.pem";

/// The oldest TLS version that a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oldest {
    /// For clients without TLS 1.3, such as nbd-client 3.24: only with forward secrecy and authenticated encryption.
    Tls12,
    /// The recommended version.
    #[default]
    Tls13,
}

impl Oldest {
    fn and_newer(self) -> Vec<&'static rustls::SupportedProtocolVersion> {
        match self {
            Self::Tls12 => vec![&rustls::version::TLS13, &rustls::version::TLS12],
            Self::Tls13 => vec![&rustls::version::TLS13],
        }
    }
}

/// The certificate directory of a listener.
pub struct TlsServer {
    folder: PathBuf,
    env: Env,
    oldest: Oldest,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// The files' state at the last attempt to load them, successful or not.
    seen: Stamps,
}

/// Device, inode, size and last change of each file.
type Stamps = [Option<(u64, u64, u64, i64, i64)>; 3];

impl std::fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsServer").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Loads the certificates in `folder`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a missing file; [`Kind::Usage`] for an invalid certificate or key, for a key of another
    /// certificate or one that everyone may read; [`Kind::InvalidState`] for a certificate that is not valid now.
    pub fn open(folder: &Path, env: Env, oldest: Oldest) -> Result<Self> {
        let seen = stamps(folder);
        let config = load(folder, env.now(), oldest)?;
        Ok(Self { folder: folder.to_owned(), env, oldest, loaded: Mutex::new(Loaded { config, seen }) })
    }

    /// Returns the configuration for a new connection, with the current certificates. If changed files are invalid, the
    /// previous ones stay in use.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock();
        let now = stamps(&self.folder);
        if now != loaded.seen {
            loaded.seen = now;
            match load(&self.folder, self.env.now(), self.oldest) {
                Ok(config) => loaded.config = config,
                Err(err) => tracing::error!("the new certificates are not used: {}", err.line()),
            }
        }
        Arc::clone(&loaded.config)
    }

    /// Makes the TLS state of a new connection.
    pub(super) fn accept(&self) -> Option<ServerConnection> {
        ServerConnection::new(self.config()).inspect_err(|err| tracing::error!("TLS: {err}")).ok()
    }
}

fn stamps(folder: &Path) -> Stamps {
    [CA_CERT, SERVER_CERT, SERVER_KEY].map(|name| {
        let meta = std::fs::metadata(folder.join(name)).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
    })
}

fn load(folder: &Path, now: Timestamp, oldest: Oldest) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let own = format!("certificate and key in {}", folder.display());
    let bad = |what: &str, err: rustls::Error| {
        Error::new(Kind::Usage, format!("TLS: {what} cannot be used"))
            .because(err)
            .hint("create a matching set with `coffer tls init`")
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&oldest.and_newer())
        .map_err(|e| bad("TLS", e))?;
    let ca = folder.join(CA_CERT);
    let builder = if ca.exists() {
        let mut roots = RootCertStore::empty();
        for cert in certificates(&ca, now)? {
            roots.add(cert).map_err(|e| bad(&ca.display().to_string(), e))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| bad(&ca.display().to_string(), rustls::Error::General(e.to_string())))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = certificates(&folder.join(SERVER_CERT), now)?;
    let mut config = builder.with_single_cert(chain, key(&folder.join(SERVER_KEY))?).map_err(|e| bad(&own, e))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).on(|| format!("TLS: read {}", path.display())).map_err(|e| match e.kind() {
        Kind::NotFound => e.hint("create a CA and certificates with `coffer tls init`"),
        _ => e,
    })
}

/// Reads all certificates of a file; the first must be valid now.
fn certificates(path: &Path, now: Timestamp) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why: String| {
        Error::new(Kind::Usage, format!("TLS: {}: {why}", path.display())).hint("use a certificate in PEM format")
    };
    let all = CertificateDer::pem_slice_iter(&read(path)?).collect::<std::result::Result<Vec<_>, _>>();
    let all = all.map_err(|e| bad(e.to_string()))?;
    let first = all.first().ok_or_else(|| bad("it contains no certificate".to_owned()))?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|e| bad(e.to_string()))?;
    let [from, to] =
        [parsed.validity().not_before, parsed.validity().not_after].map(|t| Timestamp(t.timestamp() * 1000));
    let wrong = if now < from {
        format!("is not valid before {from}")
    } else if now > to {
        format!("expired at {to}")
    } else {
        return Ok(all);
    };
    Err(Error::new(Kind::InvalidState, format!("TLS: the certificate in {} {wrong}", path.display()))
        .hint("replace it with a valid one, or check this machine's clock"))
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if mode & 0o007 != 0 {
        return Err(Error::new(Kind::Usage, format!("TLS: every user can read the key {}", path.display()))
            .hint(format!("run `chmod 600 {}`", path.display())));
    }
    let mut pem = read(path)?;
    let parsed = PrivateKeyDer::from_pem_slice(&pem);
    zeroize::Zeroize::zeroize(&mut pem);
    parsed.map_err(|_| {
        Error::new(Kind::Usage, format!("TLS: {}: it contains no private key", path.display()))
            .hint("use a key in PEM format, without a passphrase")
    })
}

/// Lists the subjects of a certificate: each name prefixed by its kind, so that none can be confused with one of
/// another kind, or with a fingerprint. Leaves out names that are not text.
pub(super) fn describe(der: &CertificateDer<'_>) -> Certificate {
    let fingerprint = format!("sha256:{}", hex::encode(digest(&SHA256, der)));
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return Certificate { names: Vec::new(), fingerprint } };
    let mut names: Vec<String> =
        parsed.subject().iter_common_name().filter_map(|cn| cn.as_str().ok().map(|cn| format!("cn:{cn}"))).collect();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("dns:{name}")),
            GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
            GeneralName::URI(name) => Some(format!("uri:{name}")),
            _ => None,
        }));
    }
    Certificate { names, fingerprint }
}
