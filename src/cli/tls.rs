//! `coffer tls`: certificates, which need no data directory. `coffer access`: who may use which volumes.

use super::args::Common;
use super::client::{self, config_folder};
use super::render;
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::nbd::pki;
use crate::service::operations::Request;
use crate::service::operations::{AllowAccess, CreateAccessToken, DenyAccess, ListAccess};
use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum TlsVerb {
    #[command(flatten)]
    Certificates(CertificateVerb),
    #[command(flatten)]
    Access(AccessVerb),
}

#[derive(Debug, Subcommand)]
pub(super) enum CertificateVerb {
    /// Create a private CA, and certificates for this server and a first client
    Init {
        #[command(flatten)]
        place: TlsFolder,
        /// DNS name or address of this server; can be repeated [default: this machine's name, localhost, 127.0.0.1, ::1]
        #[arg(long, value_name = "HOST")]
        name: Vec<String>,
        /// Name of the first client
        #[arg(long, default_value = "client", value_name = "NAME")]
        client: String,
    },
    /// Create a certificate for another client
    Client {
        /// Name of the client, for `coffer access allow`
        name: String,
        #[command(flatten)]
        place: TlsFolder,
    },
}

/// Who may use which volumes: the same under `coffer tls` and `coffer access`.
#[derive(Debug, Subcommand)]
pub(super) enum AccessVerb {
    /// Allow a client to use volumes; replaces what it was allowed before, unless --add is given
    #[command(
        after_help = "A client is the bearer of a certificate, or another local user. The given volumes replace the \
                            client's list; with --add, they extend it. Clients that already hold a volume are not \
                            affected."
    )]
    Allow(AllowArgs),
    /// Create a token, which replaces a client certificate; it is shown only once
    Token {
        /// Name of the token: the remote client's name
        name: String,
        #[command(flatten)]
        what: What,
    },
    /// Revoke access; clients that already hold a volume are not affected
    Deny {
        /// Name of the client or token, as listed
        name: String,
    },
    /// List clients and tokens, and which volumes they may use
    List,
}

#[derive(Debug, Args)]
pub(super) struct AllowArgs {
    /// Client: a name in its certificate (NAME, cn:NAME, dns:NAME, email:NAME, uri:NAME), sha256:FINGERPRINT, or uid:NUMBER
    name: String,
    #[command(flatten)]
    what: What,
    /// Extend the client's list instead of replacing it
    #[arg(long)]
    add: bool,
}

impl AllowArgs {
    fn request(self) -> AllowAccess {
        let What { volumes, all_volumes: all, user } = self.what;
        AllowAccess { name: self.name, user, volumes, all, add: self.add }
    }
}

#[derive(Debug, Args)]
pub(super) struct TlsFolder {
    /// Directory of the CA [default: /etc/coffer/tls for root, ~/.config/coffer/tls for others]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["volumes", "all_volumes"]))]
pub(super) struct What {
    /// Volume, by name or id; can be repeated
    #[arg(long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// All volumes, also future ones
    #[arg(long)]
    all_volumes: bool,
    /// User that the client acts as [default: the client's name]
    #[arg(long)]
    user: Option<String>,
}

/// Kinds of names of clients.
const KINDS: [&str; 6] = ["cn", "dns", "email", "uri", "sha256", "uid"];

/// Refuses an unknown kind of name; with --user, it is taken for a plain name with a colon.
fn check_kind(args: &AllowArgs) -> Result<()> {
    match args.name.split_once(':') {
        Some((kind, _)) if args.what.user.is_none() && !KINDS.contains(&kind) => {
            let what = format!("NAME {:?}: unknown kind of name {kind:?}", args.name);
            Err(Error::new(Kind::Usage, what)
                .hint("use one of cn:, dns:, email:, uri:, sha256: or uid:, or add --user for a URI"))
        }
        _ => Ok(()),
    }
}

/// Allows a client to use volumes, and says what that replaces.
pub(super) fn allow(common: &Common, args: AllowArgs) -> Result<u8> {
    check_kind(&args)?;
    let now = client::call(common, args.request())?;
    Ok(render::allowed(&now, common))
}

/// Creates certificates.
pub(super) fn run(common: &Common, verb: CertificateVerb) -> Result<u8> {
    match verb {
        CertificateVerb::Init { place, name, client } => {
            let (dir, env) = (folder(place)?, Env::system());
            pki::init(&dir, &hosts(name), &env)?;
            let first = pki::client(&dir, &client, &env)?;
            render::certificates(&dir, &client, &first, common);
        }
        CertificateVerb::Client { name, place } => {
            let dir = folder(place)?;
            let made = pki::client(&dir, &name, &Env::system())?;
            render::certificates(&dir, &name, &made, common);
        }
    }
    Ok(0)
}

/// The request for the service.
pub(super) fn access(verb: AccessVerb) -> Request {
    match verb {
        AccessVerb::Allow(args) => args.request().into(),
        AccessVerb::Token { name, what: What { volumes, all_volumes: all, user } } => {
            CreateAccessToken { name, user, volumes, all }.into()
        }
        AccessVerb::Deny { name } => DenyAccess { name }.into(),
        AccessVerb::List => ListAccess {}.into(),
    }
}

fn folder(place: TlsFolder) -> Result<PathBuf> {
    match place.dir {
        Some(dir) => std::path::absolute(&dir).on(|| format!("find {}", dir.display())),
        None => Ok(config_folder()?.join("tls")),
    }
}

fn hosts(named: Vec<String>) -> Vec<String> {
    if !named.is_empty() {
        return named;
    }
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    [own].into_iter().filter(|n| !n.is_empty() && n != "localhost" && n.is_ascii()).chain(local).collect()
}
