//! `coffer tls`: certificates, which need no data directory, and who may use what, which is asked of the service.

use super::client::{Ask, config_folder, session};
use super::{Common, render};
use crate::env::Env;
use crate::error::{IoContext, Result};
use crate::nbd::pki;
use crate::service::api::{AccessInfo, Reply};
use crate::service::operations::Request;
use crate::service::operations::{AllowAccess, CreateAccessToken, DenyAccess, DescribeVolumes, ListAccess};
use clap::{Args, Subcommand};
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
    /// Make a private CA, and certificates for this server and a first client
    Init {
        #[command(flatten)]
        place: TlsFolder,
        /// A DNS name or address that clients reach this server by [default: this machine's name, localhost, 127.0.0.1, ::1]
        #[arg(long, value_name = "HOST")]
        name: Vec<String>,
        /// The first client's name
        #[arg(long, default_value = "client", value_name = "NAME")]
        client: String,
    },
    /// Make a certificate for another client
    Client {
        /// Its name, which `coffer access allow` knows it by
        name: String,
        #[command(flatten)]
        place: TlsFolder,
    },
}

/// Who may use what: the same under `coffer tls` and `coffer access`.
#[derive(Debug, Subcommand)]
pub(super) enum AccessVerb {
    /// Allow a client to use volumes; replaces what it was allowed before, unless --add is given
    ///
    /// A client is the bearer of a certificate, or another user of this machine. The volumes given replace the list that the
    /// client has; with --add they are added to it.
    Allow(AllowArgs),
    /// Make a token that stands in for a certificate; it is shown once
    Token {
        /// What to call it: the remote client's name
        name: String,
        #[command(flatten)]
        what: What,
    },
    /// Take back what was allowed; connections that are open stay
    Deny {
        /// As it was allowed
        name: String,
    },
    /// List who may use what
    List,
}

#[derive(Debug, Args)]
pub(super) struct AllowArgs {
    /// A name in the certificate, as NAME or cn:NAME, dns:NAME, email:NAME, uri:NAME; sha256:FINGERPRINT, or uid:NUMBER
    name: String,
    #[command(flatten)]
    what: What,
    /// Add these volumes to those that the client may use already
    #[arg(long)]
    add: bool,
}

impl AllowArgs {
    fn request(self) -> AllowAccess {
        let What { volumes, all_volumes: all, user } = self.what;
        AllowAccess { name: self.name, user, volumes, all }
    }
}

#[derive(Debug, Args)]
pub(super) struct TlsFolder {
    /// Folder of the CA [default: /etc/coffer/tls for root, ~/.config/coffer/tls for others]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct What {
    /// A volume, by name or id
    #[arg(long = "volume", value_name = "VOLUME", required_unless_present = "all_volumes")]
    volumes: Vec<String>,
    /// All volumes, later ones too
    #[arg(long, conflicts_with = "volumes")]
    all_volumes: bool,
    /// The user it acts as [default: the same name]
    #[arg(long)]
    user: Option<String>,
}

/// Allows a client to use volumes, and says what that replaces.
pub(super) fn allow(common: &Common, args: AllowArgs) -> Result<u8> {
    let add = args.add;
    let wanted = args.request();
    let (before, now) = session(common, "allow-access", &mut |ask| {
        let before = match ask(ListAccess {}.into())? {
            Reply::AccessList { clients } => clients.into_iter().find(|c| c.name == wanted.name && c.by != TOKEN),
            _ => None,
        };
        let request = match &before {
            Some(before) if add => extended(wanted.clone(), before, ask)?,
            _ => wanted.clone(),
        };
        Ok((before, ask(request.into())?))
    })?;
    Ok(render::allowed(before.as_ref(), &now, common))
}

/// How [`AccessInfo::by`] calls a token.
const TOKEN: &str = "token";

/// What a client is to be allowed, and what it was allowed before. Volumes that were deleted meanwhile are left out.
fn extended(wanted: AllowAccess, before: &AccessInfo, ask: Ask<'_>) -> Result<AllowAccess> {
    let user = wanted.user.or_else(|| before.principal.split_once(":user/").map(|(_, user)| user.to_owned()));
    let Some(had) = before.volumes.as_ref().filter(|_| !wanted.all) else {
        return Ok(AllowAccess { user, volumes: Vec::new(), all: true, ..wanted });
    };
    let known = match ask(DescribeVolumes {}.into())? {
        Reply::Volumes { volumes } => volumes,
        _ => Vec::new(),
    };
    let is_known = |name: &&String| known.iter().any(|v| v.name.as_ref() == Some(*name) || v.id.to_string() == **name);
    let mut volumes: Vec<String> = had.iter().filter(is_known).cloned().collect();
    volumes.extend(wanted.volumes);
    Ok(AllowAccess { user, volumes, ..wanted })
}

/// Makes certificates.
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

/// What to ask of the service.
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
