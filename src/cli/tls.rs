//! `coffer tls`: certificates, which need no data directory, and who may use what, which is asked of the service.

use super::client::config_folder;
use super::{Common, render};
use crate::env::Env;
use crate::error::{IoContext, Result};
use crate::nbd::pki;
use crate::service::operations::Request;
use crate::service::operations::{AllowAccess, CreateAccessToken, DenyAccess, ListAccess};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum TlsVerb {
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
        /// Its name, which `coffer tls allow` knows it by
        name: String,
        #[command(flatten)]
        place: TlsFolder,
    },
    #[command(flatten)]
    Access(AccessVerb),
}

/// Who may use what: the same under `coffer tls` and `coffer access`.
#[derive(Debug, Subcommand)]
pub(super) enum AccessVerb {
    /// Let the bearer of a certificate, or another user of this machine, use volumes
    Allow {
        /// A name in the certificate, as NAME or cn:NAME, dns:NAME, email:NAME, uri:NAME; sha256:FINGERPRINT, or uid:NUMBER
        name: String,
        #[command(flatten)]
        what: What,
    },
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

/// Makes certificates, or answers what to ask of the service.
pub(super) fn run(common: &Common, verb: TlsVerb) -> Result<Option<Request>> {
    Ok(match verb {
        TlsVerb::Init { place, name, client } => {
            let (dir, env) = (folder(place)?, Env::system());
            pki::init(&dir, &hosts(name), &env)?;
            let first = pki::client(&dir, &client, &env)?;
            render::certificates(&dir, &client, &first, common);
            None
        }
        TlsVerb::Client { name, place } => {
            let dir = folder(place)?;
            let made = pki::client(&dir, &name, &Env::system())?;
            render::certificates(&dir, &name, &made, common);
            None
        }
        TlsVerb::Access(verb) => Some(access(verb)),
    })
}

/// What to ask of the service.
pub(super) fn access(verb: AccessVerb) -> Request {
    match verb {
        AccessVerb::Allow { name, what: What { volumes, all_volumes: all, user } } => {
            AllowAccess { name, user, volumes, all }.into()
        }
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
