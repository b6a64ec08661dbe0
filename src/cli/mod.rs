//! The command line: clap's tree, one request for each verb, and how answers are shown. No logic.

mod args;
mod attach;
mod audit;
mod bench;
mod client;
mod crypto;
mod demo;
mod doctor;
mod ephemeral;
mod import;
mod init;
mod key;
mod keyless;
mod kms;
mod once;
mod out;
mod principal;
mod principals_shown;
mod render;
mod repository;
mod repository_open;
mod rewrap;
mod serve;
mod snapshot;
mod sockets;
mod tls;
mod upkeep;

use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::service::api::Reply;
use crate::service::operations::Request;
use crate::service::operations::{
    AcceptAudit, AcceptLostWrites, AcceptRollback, CancelKeyDeletion, CreateAlias, CreateKey, CreateVolume,
    DeleteAlias, DeleteVolume, DescribeKey, DescribeVolume, DescribeVolumes, DisableKey, EnableKey, ExportVolume,
    ExportVolumeKey, GetStatus, GrowVolume, ListAliases, ListAuditEvents, ListKeys, ModifyVolume, ResumeVolume,
    RollBackVolume, RotateKeyOnDemand, ScheduleKeyDeletion, SuspendVolume, UpdateAlias, VerifyAudit,
};
use crate::service::{BackgroundRate, OnKeyLoss};
use crate::units::ByteLen;
use args::{Common, background_rate, on_key_loss, requests, size, throughput};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use principal::{AccountVerb, PrincipalVerb};
use repository::RepositoryVerb;
use snapshot::SnapshotVerb;
use std::io::IsTerminal;
use std::path::PathBuf;
use tls::{AccessVerb, TlsVerb};

/// Encrypted block volumes over NBD, with snapshots and the key management service under them.
#[derive(Debug, Parser)]
#[command(name = "coffer", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a data directory, its catalog and its root key
    Init(init::InitArgs),
    /// Customer master keys (CMKs)
    #[command(subcommand)]
    Key(KeyVerb),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Snapshots
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Repositories: where snapshots are kept
    #[command(subcommand)]
    Repository(RepositoryVerb),
    /// Serve volumes over NBD
    Serve(serve::ServeArgs),
    /// Attach a volume as a block device (needs root and the kernel's nbd module)
    Attach(attach::AttachArgs),
    /// Keep an attached device connected; started by `attach`
    #[command(hide = true)]
    AttachHelper {
        /// The attachment, for people who read the process list
        shown: Vec<String>,
    },
    /// Detach a volume
    Detach(attach::DetachArgs),
    /// List attachments
    Attachments,
    /// Create certificates for the server and its TLS clients, and manage access
    #[command(subcommand)]
    Tls(TlsVerb),
    /// Manage which volumes TLS clients and other local users may use
    #[command(subcommand)]
    Access(AccessVerb),
    /// Accounts: what keys, users and roles belong to
    #[command(subcommand)]
    Account(AccountVerb),
    /// Users, roles, their policies and access keys
    #[command(subcommand)]
    Principal(PrincipalVerb),
    /// Show a complete session in a scratch directory
    Demo(demo::DemoArgs),
    /// Measure throughput and latency
    Bench(bench::BenchArgs),
    /// Check this installation and this machine for problems
    Doctor,
    /// Show this installation and its server
    Status,
    /// Call any operation of AWS's KMS API; parameters and answer are JSON
    Kms(kms::KmsArgs),
    /// The audit log: a hash chain of who did what
    #[command(subcommand)]
    Audit(AuditVerb),
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// Create a customer managed CMK
    Create {
        /// Create this alias for it (alias/…)
        #[arg(long)]
        alias: Option<String>,
        /// Description
        #[arg(long, default_value = "")]
        description: String,
        /// Key policy (JSON file; - for standard input) [default: the account has full access]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        #[command(flatten)]
        lockout: key::Lockout,
    },
    /// Manage key policies: who may use and administer a CMK
    #[command(subcommand)]
    Policy(key::PolicyVerb),
    /// Manage grants: permissions for one principal, outside the key policy
    #[command(subcommand)]
    Grant(key::GrantVerb),
    /// List CMKs
    List,
    /// Show a CMK
    Show {
        /// Key id, ARN or alias
        key: String,
    },
    /// Enable a CMK
    Enable {
        /// Key id, ARN or alias
        key: String,
    },
    /// Disable a CMK, and suspend the volumes that use it
    Disable {
        /// Key id, ARN or alias
        key: String,
    },
    /// Rotate a CMK: create a new backing key; old ones are kept for decryption
    Rotate {
        /// Key id, ARN or alias
        key: String,
    },
    /// Wrap data keys again, under the newest backing key of their CMK; say what could not be done
    Rewrap(rewrap::RewrapArgs),
    #[command(flatten)]
    Crypto(crypto::CryptoVerb),
    /// Schedule the deletion of a CMK after a waiting period
    ScheduleDeletion {
        /// Key id, ARN or alias
        key: String,
        /// Waiting period in days, 7 to 30
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Cancel a scheduled deletion; the CMK stays disabled
    CancelDeletion {
        /// Key id, ARN or alias
        key: String,
    },
    /// Manage aliases
    #[command(subcommand)]
    Alias(AliasVerb),
}

#[derive(Debug, Subcommand)]
enum AliasVerb {
    /// Create an alias for a CMK
    Create {
        /// alias/…
        alias: String,
        /// Key id or ARN
        key: String,
    },
    /// Point an alias at another CMK
    Update {
        /// alias/…
        alias: String,
        /// Key id or ARN
        key: String,
    },
    /// Delete an alias; its CMK is kept
    Delete {
        /// alias/…
        alias: String,
    },
    /// List aliases
    List,
}

/// Settings of a volume, which can be changed later.
#[derive(Debug, Args)]
struct SettingsArgs {
    /// When the CMK can no longer be used: suspend requests until it can, continue until the volume is detached, or fail
    /// requests
    #[arg(long, value_name = "suspend|continue|fail", value_parser = on_key_loss)]
    on_key_loss: Option<OnKeyLoss>,
    /// Limit on requests per second, in units of up to 256 KiB; 0: no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = requests)]
    iops: Option<u64>,
    /// Limit on throughput per second, as 125 (MiB) or 125MiB; 0: no limit
    #[arg(long, value_name = "MIB", allow_hyphen_values = true, value_parser = throughput)]
    throughput: Option<u64>,
    /// How fast a server fills it from its snapshot: unlimited, paused, or a size per second, as 20MiB
    #[arg(long, value_name = "RATE", value_parser = background_rate)]
    hydrate_rate: Option<BackgroundRate>,
    /// How fast a server copies its snapshots: unlimited, paused, or a size per second, as 20MiB
    #[arg(long, value_name = "RATE", value_parser = background_rate)]
    snapshot_rate: Option<BackgroundRate>,
    /// Repository for the volume's snapshots; default: the one that `repository default` names
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    /// Create a volume, empty or from a snapshot
    Create {
        /// Size, as 20GiB (powers of 1024) or 20GB (of 1000); with --snapshot at least the snapshot's
        #[arg(long, allow_hyphen_values = true, value_parser = size)]
        size: Option<ByteLen>,
        /// CMK that wraps the volume's data key [default: alias/aws/ebs]
        #[arg(long)]
        key: Option<String>,
        /// Name of the volume
        #[arg(long)]
        name: Option<String>,
        /// Create the volume from this snapshot (name or id)
        #[arg(long)]
        snapshot: Option<String>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Change a volume's settings, also while it is attached
    Modify {
        /// Name or id
        volume: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Suspend a volume: wipe its data key from memory and hold its requests
    Suspend {
        /// Name or id
        volume: String,
    },
    /// Resume a volume that was suspended with `volume suspend`
    Resume {
        /// Name or id
        volume: String,
    },
    /// List volumes
    List,
    /// Show a volume and its header
    Show {
        /// Name or id
        volume: String,
    },
    /// Delete a volume
    Delete {
        /// Name or id
        volume: String,
    },
    /// Grow a volume
    Grow {
        /// Name or id
        volume: String,
        /// New size, as 40GiB or 40GB
        #[arg(long, allow_hyphen_values = true, value_parser = size)]
        size: ByteLen,
    },
    /// Roll a volume back to a snapshot of it, in place; what it has now is kept as a snapshot
    Rollback {
        /// Name or id; nobody may use it
        volume: String,
        /// Name or id of the snapshot
        #[arg(long, value_name = "SNAPSHOT")]
        to: String,
        /// Do not keep what it has now
        #[arg(long)]
        discard: bool,
    },
    /// Write a volume's encrypted sectors to a file
    Export {
        /// Name or id
        volume: String,
        /// Output file, which must not exist
        out: PathBuf,
        /// Export sectors as they are stored, encrypted; the only format so far
        #[arg(long, required = true)]
        sealed: bool,
        /// Write holes as encrypted zeros, as cryptsetup needs
        #[arg(long)]
        fill_holes: bool,
    },
    /// Create a volume from a raw image; audited
    Import(import::ImportArgs),
    /// Accept a volume's header although the catalog knows a newer one; audited
    AcceptRollback {
        /// Name or id
        volume: String,
    },
    /// Make a volume writable again after a sync failed; audited
    AcceptLostWrites {
        /// Name or id
        volume: String,
    },
    /// Write a volume's clear data key (64 bytes) to a file; audited
    ExportKey {
        /// Name or id
        volume: String,
        /// Output file, which must not exist
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Show the latest actions and their outcome; --json shows whole records
    List {
        /// Number of records; most actions have two
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
        limit: usize,
        /// Only this action, as Decrypt or kms:Decrypt
        #[arg(long, value_name = "ACTION")]
        act: Option<String>,
        /// Only actions on this key (ARN, id or alias), or on another object (id or name)
        #[arg(long = "key", value_name = "KEY")]
        resource: Option<String>,
        /// Only actions of this principal (ARN or name)
        #[arg(long, value_name = "PRINCIPAL")]
        user: Option<String>,
        /// Only actions at this time or later, as 2026-03-01T12:00:00Z
        #[arg(long, value_name = "TIME", value_parser = audit::time)]
        since: Option<Timestamp>,
        /// Only actions at this time or earlier
        #[arg(long, value_name = "TIME", value_parser = audit::time)]
        until: Option<Timestamp>,
    },
    /// Verify the hash chain, and compare it with the catalog
    Verify,
    /// Continue an audit log that was found cut or forked, after you know why
    Accept,
}

/// Parses, runs, prints; returns the exit code.
#[must_use]
pub fn main() -> u8 {
    crate::sys::harden_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return not_run(&err),
    };
    let json = cli.common.json;
    let outcome = run(cli);
    // Output that could not be written is a failure even if the verb succeeded, but never hides why a verb failed.
    match outcome.and_then(|code| out::outcome().map(|()| code)) {
        Ok(code) => code,
        Err(err) => {
            render::error(&err, json);
            err.kind().exit_code()
        }
    }
}

/// Prints the help, the version, or an error in the arguments.
fn not_run(err: &clap::Error) -> u8 {
    if err.use_stderr() {
        let _ = err.print();
        return Kind::Usage.exit_code();
    }
    let (text, plain) = (err.render(), !std::io::stdout().is_terminal());
    let text = if plain { text.to_string() } else { text.ansi().to_string() };
    match out::bytes(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            render::error(&out::unwritten(e), false);
            Kind::Failed.exit_code()
        }
        _ => 0,
    }
}

fn run(cli: Cli) -> Result<u8> {
    let common = cli.common;
    let request = match cli.verb {
        Verb::Init(args) => return init::run(&common, &args),
        Verb::Serve(args) => return serve::run(&common, args),
        Verb::Attach(args) => return attach::attach(&common, &args),
        Verb::AttachHelper { .. } => return crate::attach::helper::run().map(|()| 0),
        Verb::Detach(args) => return attach::detach(&common, &args),
        Verb::Attachments => return attach::attachments(&common),
        Verb::Demo(args) => return demo::run(&common, &args),
        Verb::Bench(args) => return bench::run(&common, &args),
        Verb::Tls(TlsVerb::Certificates(verb)) => return tls::run(&common, verb),
        Verb::Tls(TlsVerb::Access(AccessVerb::Allow(args))) | Verb::Access(AccessVerb::Allow(args)) => {
            return tls::allow(&common, args);
        }
        Verb::Tls(TlsVerb::Access(verb)) | Verb::Access(verb) => tls::access(verb),
        Verb::Key(KeyVerb::Crypto(verb)) => return crypto::run(&common, verb),
        Verb::Key(KeyVerb::Rewrap(args)) => return rewrap::run(&common, args),
        Verb::Account(verb) => principal::account_request(verb),
        Verb::Principal(verb) => principal::principal_request(verb)?,
        Verb::Key(verb) => key_request(verb)?,
        Verb::Volume(VolumeVerb::Import(args)) => return import::run(&common, args),
        Verb::Volume(verb) => volume_request(verb)?,
        Verb::Repository(RepositoryVerb::Open(args)) => return repository_open::run(&common, &args),
        Verb::Repository(RepositoryVerb::Gc(args)) => return upkeep::collect(&common, args),
        Verb::Repository(RepositoryVerb::Stats(args)) => return upkeep::stats(&common, args),
        Verb::Repository(RepositoryVerb::Check(args)) => return upkeep::check(&common, args),
        Verb::Repository(verb) => repository::request(verb)?,
        Verb::Snapshot(verb) => return snapshot::run(&common, verb),
        Verb::Doctor => return doctor::run(&common),
        Verb::Status => GetStatus {}.into(),
        Verb::Kms(args) => args.request()?.into(),
        Verb::Audit(AuditVerb::List { limit, act, resource, user, since, until }) => {
            ListAuditEvents { limit, act, resource, user, since, until }.into()
        }
        Verb::Audit(AuditVerb::Verify) => VerifyAudit {}.into(),
        Verb::Audit(AuditVerb::Accept) => AcceptAudit {}.into(),
    };
    let grows = matches!(request, Request::GrowVolume(_));
    let denies = matches!(request, Request::DenyAccess(_));
    let bypasses = key::bypasses_lockout_check(&request);
    let cancels = matches!(request, Request::CancelKeyDeletion(_));
    let shown = request.shows_once();
    once::must_be_there(shown)?;
    let reply =
        if bypasses { key::ask_without_lockout_check(&common, request)? } else { client::ask(&common, request)? };
    if let Reply::Volume(volume) = &reply
        && grows
    {
        attach::follow(&common, volume)?;
    }
    if let Reply::Key(key) = &reply
        && cancels
    {
        render::say_that_it_stays_disabled(key);
    }
    let code = if denies { render::denied(&reply, &common) } else { render::reply(&reply, &common) };
    once::keep_or_take_back(&common, shown, &reply)?;
    Ok(code)
}

fn key_request(verb: KeyVerb) -> Result<Request> {
    Ok(match verb {
        KeyVerb::Create { alias, description, policy, lockout } => {
            let policy = policy.as_deref().map(key::read_policy).transpose()?;
            CreateKey { alias, description, policy, bypass_lockout_check: lockout.is_bypassed() }.into()
        }
        KeyVerb::Policy(verb) => key::policy_request(verb)?,
        KeyVerb::Grant(verb) => key::grant_request(verb)?,
        KeyVerb::List => ListKeys {}.into(),
        KeyVerb::Show { key } => DescribeKey { key }.into(),
        KeyVerb::Enable { key } => EnableKey { key }.into(),
        KeyVerb::Disable { key } => DisableKey { key }.into(),
        KeyVerb::Rotate { key } => RotateKeyOnDemand { key }.into(),
        KeyVerb::ScheduleDeletion { key, days } => ScheduleKeyDeletion { key, days }.into(),
        KeyVerb::CancelDeletion { key } => CancelKeyDeletion { key }.into(),
        KeyVerb::Alias(AliasVerb::Create { alias, key }) => CreateAlias { alias, key }.into(),
        KeyVerb::Alias(AliasVerb::Update { alias, key }) => UpdateAlias { alias, key }.into(),
        KeyVerb::Alias(AliasVerb::Delete { alias }) => DeleteAlias { alias }.into(),
        KeyVerb::Alias(AliasVerb::List) => ListAliases {}.into(),
        KeyVerb::Crypto(_) | KeyVerb::Rewrap(_) => {
            return Err(Error::new(Kind::Failed, "this verb is handled elsewhere"));
        }
    })
}

fn volume_request(verb: VolumeVerb) -> Result<Request> {
    // The server may have another working directory.
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|e| Error::io(format!("find {}", path.display()), e));
    Ok(match verb {
        VolumeVerb::Create { size, key, name, snapshot, settings } => {
            let SettingsArgs { on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository } = settings;
            let size = size.map(|s| s.0);
            CreateVolume {
                name,
                size,
                key,
                snapshot,
                on_key_loss,
                iops,
                throughput,
                hydrate_rate,
                snapshot_rate,
                repository,
            }
            .into()
        }
        VolumeVerb::Modify {
            volume,
            settings: SettingsArgs { on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository },
        } => {
            if (on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, &repository)
                == (None, None, None, None, None, &None)
            {
                return Err(Error::new(Kind::Usage, format!("modify {volume}: no setting is given"))
                    .hint("use --on-key-loss, --iops, --throughput, --hydrate-rate, --snapshot-rate or --repository"));
            }
            ModifyVolume { volume, on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository }.into()
        }
        VolumeVerb::Suspend { volume } => SuspendVolume { volume }.into(),
        VolumeVerb::Resume { volume } => ResumeVolume { volume }.into(),
        VolumeVerb::List => DescribeVolumes {}.into(),
        VolumeVerb::Show { volume } => DescribeVolume { volume }.into(),
        VolumeVerb::Delete { volume } => DeleteVolume { volume }.into(),
        VolumeVerb::Grow { volume, size } => GrowVolume { volume, size: size.0 }.into(),
        VolumeVerb::Rollback { volume, to, discard } => RollBackVolume { volume, snapshot: to, discard }.into(),
        VolumeVerb::Export { volume, out, sealed: _, fill_holes } => {
            ExportVolume { volume, out: new_file(absolute(out)?)?, fill_holes }.into()
        }
        VolumeVerb::Import(_) => return Err(Error::new(Kind::Failed, "this verb is handled elsewhere")),
        VolumeVerb::AcceptRollback { volume } => AcceptRollback { volume }.into(),
        VolumeVerb::AcceptLostWrites { volume } => AcceptLostWrites { volume }.into(),
        VolumeVerb::ExportKey { volume, out } => ExportVolumeKey { volume, out: new_file(absolute(out)?)? }.into(),
    })
}

/// Refuses a path at which no file can be created, before a key is used for it. The server checks again.
fn new_file(path: PathBuf) -> Result<PathBuf> {
    let refused = |errno| {
        Err(crypto::out_hint(Error::io(format!("create {}", path.display()), std::io::Error::from_raw_os_error(errno))))
    };
    if path.symlink_metadata().is_ok() {
        return refused(libc::EEXIST);
    }
    match path.parent().map(std::fs::metadata) {
        Some(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => refused(libc::ENOENT),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_verb_and_flag_has_a_help_text() {
        let mut tree = Cli::command();
        tree.build();
        tree.clone().debug_assert();
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
                assert!(sub.get_about().is_some(), "{} has no help text", sub.get_name());
                for arg in sub.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
                    assert!(arg.get_help().is_some(), "{} {} has no help text", sub.get_name(), arg.get_id());
                }
                walk(sub);
            }
        }
        walk(&tree);
    }
}
