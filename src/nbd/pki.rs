//! A small private CA, for `coffer tls init` and `coffer tls client`.
//!
//! ```text
//! DIR                      0700
//!   ca-key.pem             0600: signs; can be moved elsewhere once all certificates are made
//!   ca-cert.pem            for every client
//!   server-key.pem         0600
//!   server-cert.pem
//!   clients/NAME           0700: all that one client needs, under the names that libnbd and QEMU look for
//!     ca-cert.pem client-key.pem client-cert.pem
//! ```
//! Keys are ECDSA over P-256, which every TLS library supports.

use super::tls::{CA_CERT, SERVER_CERT, SERVER_KEY};
use crate::env::{Env, Timestamp};
use crate::error::{Error, IoContext, Kind, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// The CA's private key, PEM.
pub const CA_KEY: &str = "ca-key.pem";
/// A client's certificate, PEM.
pub const CLIENT_CERT: &str = "client-cert.pem";
/// A client's private key, PEM.
pub const CLIENT_KEY: &str = "client-key.pem";

/// Validity of the CA in days: ten years.
const CA_DAYS: i64 = 3652;
/// Validity of server and client certificates in days: a little over two years, the most that common clients accept.
const DAYS: i64 = 825;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long before now validity begins, in milliseconds: clocks differ.
const EARLY_MS: i64 = 3600 * 1000;

/// Makes a CA in `folder`, and a certificate for a server reachable as `hosts` (names and addresses).
///
/// # Errors
/// [`Kind::Exists`] if one of the files exists; [`Kind::Usage`] for an invalid host; what the file system reports.
pub fn init(folder: &Path, hosts: &[String], env: &Env) -> Result<()> {
    for name in [CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY] {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(Kind::Exists, format!("create a CA: {} already exists", path.display()))
                .hint("use the existing one, or another --dir"));
        }
    }
    let server = params(hosts, hosts.first().map_or("coffer", String::as_str), env.now(), DAYS)?;
    make_folder(folder)?;
    let mut tag = [0; 4];
    env.rng.fill(&mut tag);
    let mut ca = params(&[], &format!("coffer CA {}", hex::encode(tag)), env.now(), CA_DAYS)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = new_key()?;
    let ca_cert = ca.self_signed(&*ca_key).map_err(failed)?;
    write(&folder.join(CA_KEY), &Zeroizing::new(ca_key.serialize_pem()), 0o600)?;
    write(&folder.join(CA_CERT), &ca_cert.pem(), 0o644)?;
    let issuer = Issuer::from_params(&ca, &*ca_key);
    let pair = [folder.join(SERVER_CERT), folder.join(SERVER_KEY)];
    issue(server, ExtendedKeyUsagePurpose::ServerAuth, &issuer, &pair)
}

/// Makes a certificate for the client `name` (its common name), and a directory with all it needs.
///
/// # Errors
/// [`Kind::Exists`] if it has one; [`Kind::NotFound`] without a CA; [`Kind::Usage`] for an invalid name.
pub fn client(folder: &Path, name: &str, env: &Env) -> Result<PathBuf> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) || name.starts_with('.') {
        return Err(Error::new(Kind::Usage, format!("{name:?} is not a valid client name"))
            .hint("use at most 64 letters, digits and . _ - @, not starting with ."));
    }
    let mine = folder.join("clients").join(name);
    if mine.symlink_metadata().is_ok() {
        return Err(Error::new(Kind::Exists, format!("create a certificate: {} already exists", mine.display()))
            .hint("remove that folder first to create a new one"));
    }
    let text = |path: PathBuf| {
        std::fs::read_to_string(&path).map(Zeroizing::new).on(|| format!("read {}", path.display())).map_err(|e| {
            if e.kind() == Kind::NotFound { e.hint("create a CA first with `coffer tls init`") } else { e }
        })
    };
    let (ca_pem, key_pem) = (text(folder.join(CA_CERT))?, text(folder.join(CA_KEY))?);
    let ca_key = Zeroizing::new(KeyPair::from_pem(&key_pem).map_err(failed)?);
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, &*ca_key).map_err(failed)?;
    make_folder(&mine)?;
    write(&mine.join(CA_CERT), &ca_pem, 0o644)?;
    let pair = [mine.join(CLIENT_CERT), mine.join(CLIENT_KEY)];
    issue(params(&[], name, env.now(), DAYS)?, ExtendedKeyUsagePurpose::ClientAuth, &issuer, &pair)?;
    Ok(mine)
}

fn params(hosts: &[String], name: &str, now: Timestamp, days: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).map_err(|e| {
        Error::new(Kind::Usage, format!("create a certificate for {}", hosts.join(", ")))
            .because(e)
            .hint("use DNS names or IP addresses")
    })?;
    let at = |ms: i64| {
        OffsetDateTime::from_unix_timestamp(ms / 1000)
            .map_err(|e| Error::new(Kind::Failed, "create a certificate: this machine's clock is wrong").because(e))
    };
    params.not_before = at(now.0 - EARLY_MS)?;
    params.not_after = at(now.0 + days * DAY_MS)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn new_key() -> Result<Zeroizing<KeyPair>> {
    KeyPair::generate().map(Zeroizing::new).map_err(failed)
}

/// Makes a key and its certificate, and writes both.
fn issue(
    mut params: CertificateParams,
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, &KeyPair>,
    files: &[PathBuf; 2],
) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = new_key()?;
    let cert = params.signed_by(&*key, issuer).map_err(failed)?;
    write(&files[1], &Zeroizing::new(key.serialize_pem()), 0o600)?;
    write(&files[0], &cert.pem(), 0o644)
}

fn make_folder(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.on(|| format!("create {}", path.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = std::fs::File::options().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
        .on(|| format!("write {}", path.display()))
}

fn failed(err: rcgen::Error) -> Error {
    Error::new(Kind::Failed, "create a certificate").because(err)
}
