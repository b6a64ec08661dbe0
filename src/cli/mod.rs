//! The command line: clap's tree, one request a verb, and how answers are shown. No logic.

mod attach;
mod audit;
mod bench;
mod client;
mod crypto;
mod demo;
mod doctor;
mod init;
mod key;
mod out;
mod render;
mod serve;
mod snapshot;
mod sockets;
mod tls;

pub(crate) use out::Log as LogWriter;

use crate::error::{Error, Kind, Result};
use crate::service::OnKeyLoss;
use crate::service::api::Reply;
use crate::service::operations::Request;
use crate::service::operations::{
    AcceptAudit, AcceptLostWrites, AcceptRollback, CancelKeyDeletion, CreateAlias, CreateKey, CreateSnapshot,
    CreateVolume, DeleteAlias, DeleteSnapshot, DeleteVolume, DescribeKey, DescribeSnapshot, DescribeSnapshots,
    DescribeVolume, DescribeVolumes, DisableKey, EnableKey, ExportVolume, ExportVolumeKey, GetStatus, GrowVolume,
    ListAliases, ListAuditEvents, ListKeys, ModifyVolume, ResumeVolume, RotateKeyOnDemand, ScheduleKeyDeletion,
    SuspendVolume, UpdateAlias, VerifyAudit, VerifySnapshot,
};
use crate::units::ByteLen;
use clap::{Args, Parser, Subcommand};
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

/// What every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Common {
    /// Data directory [default: /var/lib/coffer for root, ~/.local/share/coffer for others]
    #[arg(long, global = true, env = "COFFER_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print facts as JSON, and progress as JSON lines
    #[arg(long, global = true)]
    json: bool,
    /// Print ids alone
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Use this root key file, when it is not where init put it
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_fd")]
    root_key_file: Option<PathBuf>,
    /// Allow volumes on shared file systems: no other host opens them
    #[arg(long, global = true)]
    single_host_i_know: bool,
    /// Read the root key's passphrase from this file descriptor
    #[arg(long, global = true, value_name = "N")]
    passphrase_fd: Option<i32>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a data directory, with its catalog and its root key
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
    /// Serve volumes over NBD
    Serve(serve::ServeArgs),
    /// Attach a volume as a block device (as root, with the kernel's nbd module)
    Attach(attach::AttachArgs),
    /// Keep an attached device connected; `attach` starts it
    #[command(hide = true)]
    AttachHelper {
        /// What it keeps, for those who read the list of processes
        shown: Vec<String>,
    },
    /// Detach a volume
    Detach(attach::DetachArgs),
    /// List attachments
    Attachments,
    /// Clients over TLS: their certificates, and which volumes they may use
    #[command(subcommand)]
    Tls(TlsVerb),
    /// Which volumes clients over TLS and other users of this machine may use
    #[command(subcommand)]
    Access(AccessVerb),
    /// Run the whole job once, in a scratch directory
    Demo(demo::DemoArgs),
    /// Measure throughput and latency
    Bench(bench::BenchArgs),
    /// Check this installation and this machine
    Doctor,
    /// Show what this installation is
    Status,
    /// The audit: who did what, chained
    #[command(subcommand)]
    Audit(AuditVerb),
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// Make a customer-managed CMK
    Create {
        /// Point this alias at it (alias/…)
        #[arg(long)]
        alias: Option<String>,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// Its key policy, JSON; - for standard input [default: its account may do all]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        #[command(flatten)]
        lockout: key::Lockout,
    },
    /// Key policies: who may do what with a CMK
    #[command(subcommand)]
    Policy(key::PolicyVerb),
    /// Grants: permissions for one principal, given and taken back by themselves
    #[command(subcommand)]
    Grant(key::GrantVerb),
    /// List CMKs
    List,
    /// Show a CMK
    Show {
        /// Key id, ARN or alias
        key: String,
    },
    /// Make a CMK usable
    Enable {
        /// Key id, ARN or alias
        key: String,
    },
    /// Make a CMK unusable, and with it all volumes under it
    Disable {
        /// Key id, ARN or alias
        key: String,
    },
    /// Make a new backing key; old ones stay for decryption
    Rotate {
        /// Key id, ARN or alias
        key: String,
    },
    #[command(flatten)]
    Crypto(crypto::CryptoVerb),
    /// Delete a CMK after a waiting time
    ScheduleDeletion {
        /// Key id, ARN or alias
        key: String,
        /// Days to wait, 7 to 30
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Take a scheduled deletion back
    CancelDeletion {
        /// Key id, ARN or alias
        key: String,
    },
    /// Aliases
    #[command(subcommand)]
    Alias(AliasVerb),
}

#[derive(Debug, Subcommand)]
enum AliasVerb {
    /// Point a new alias at a CMK
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
    /// Remove an alias
    Delete {
        /// alias/…
        alias: String,
    },
    /// List aliases
    List,
}

/// What a volume does that can be changed later.
#[derive(Debug, Args)]
struct SettingsArgs {
    /// What it does when its CMK cannot be used any more: wait for it, go on until it is detached, or fail
    #[arg(long, value_name = "suspend|continue|fail", value_parser = on_key_loss)]
    on_key_loss: Option<OnKeyLoss>,
    /// Limit its requests a second, in units of up to 256 KiB; 0: no limit
    #[arg(long, value_name = "N")]
    iops: Option<u64>,
    /// Limit its bytes a second: 125 or 125MiB; 0: no limit
    #[arg(long, value_name = "MIB", value_parser = throughput)]
    throughput: Option<u64>,
}

fn on_key_loss(text: &str) -> Result<OnKeyLoss, String> {
    let all = [OnKeyLoss::Suspend, OnKeyLoss::Continue, OnKeyLoss::Fail];
    all.into_iter().find(|p| p.to_string() == text).ok_or_else(|| "say suspend, continue or fail".to_owned())
}

/// Bytes a second; a bare number is MiB, as EBS has it.
fn throughput(text: &str) -> Result<u64, String> {
    let bytes = match text.parse::<u64>() {
        Ok(mib) => mib.checked_mul(1 << 20),
        Err(_) => text.parse::<ByteLen>().ok().map(|b| b.0),
    };
    bytes.ok_or_else(|| "say a number of MiB, as 125, or a size, as 125MiB or 125MB".to_owned())
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    /// Make a volume, empty or from a snapshot
    Create {
        /// Size, as 20GiB (powers of 1024) or 20GB (of 1000); with --snapshot at least the snapshot's
        #[arg(long)]
        size: Option<ByteLen>,
        /// CMK that wraps its data key [default: alias/aws/ebs]
        #[arg(long)]
        key: Option<String>,
        /// A name of its own
        #[arg(long)]
        name: Option<String>,
        /// Fill it from this snapshot
        #[arg(long)]
        snapshot: Option<String>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Change what a volume does, also while it is attached
    Modify {
        /// Name or id
        volume: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Wipe a volume's data key: its requests wait until it is resumed
    Suspend {
        /// Name or id
        volume: String,
    },
    /// Let a volume go on that was suspended by hand
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
    /// Make a volume larger
    Grow {
        /// Name or id
        volume: String,
        /// New size, as 40GiB or 40GB
        #[arg(long)]
        size: ByteLen,
    },
    /// Write a volume's sealed sectors to a file
    Export {
        /// Name or id
        volume: String,
        /// The file; must not exist
        out: PathBuf,
        /// Sealed sectors are the only form there is yet
        #[arg(long, required = true)]
        sealed: bool,
        /// Seal zeros into holes, so that cryptsetup opens it
        #[arg(long)]
        fill_holes: bool,
    },
    /// Take a volume's header as it is, though the catalog knows a newer one; audited
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
        /// The file; must not exist
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Show the newest acts and how they ended; --json shows the whole records
    List {
        /// How many records: most acts have two
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Check the chain against the catalog
    Verify,
    /// Go on with an audit that was found cut or forked, after finding out why
    Accept,
}

#[derive(Debug, Subcommand)]
enum SnapshotVerb {
    /// Take a snapshot of a volume, attached or not
    Create {
        /// Name or id
        volume: String,
        /// Return when it is completed
        #[arg(long)]
        wait: bool,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List snapshots
    List,
    /// Show a snapshot
    Show {
        /// Id
        snapshot: String,
    },
    /// Delete a snapshot
    Delete {
        /// Id
        snapshot: String,
    },
    /// Check a snapshot's signature and every chunk's hash; no key is needed
    Verify {
        /// Id
        snapshot: String,
        /// Public key, hexadecimal, that it must be signed with
        #[arg(long)]
        trust: Option<String>,
    },
}

/// Parses, runs, prints; answers the exit code.
#[must_use]
pub fn main() -> u8 {
    crate::sys::harden_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return not_run(&err),
    };
    let json = cli.common.json;
    let outcome = run(cli);
    // What could not be printed counts even where the verb went well, and never hides why a verb failed.
    match outcome.and_then(|code| out::outcome().map(|()| code)) {
        Ok(code) => code,
        Err(err) => {
            render::error(&err, json);
            err.kind().exit_code()
        }
    }
}

/// Prints help, the version, or what is wrong with the arguments.
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
        Verb::Key(verb) => key_request(verb)?,
        Verb::Volume(verb) => volume_request(verb)?,
        Verb::Snapshot(SnapshotVerb::Verify { snapshot, trust }) => {
            return snapshot::verify(&common, snapshot, trust).map(|reply| render::reply(&reply, &common));
        }
        Verb::Snapshot(verb) => {
            if matches!(verb, SnapshotVerb::Create { wait: true, .. }) {
                snapshot::end_waiting_on_interrupt(&common)?;
            }
            snapshot_request(verb)
        }
        Verb::Doctor => return doctor::run(&common),
        Verb::Status => GetStatus {}.into(),
        Verb::Audit(AuditVerb::List { limit }) => ListAuditEvents { limit }.into(),
        Verb::Audit(AuditVerb::Verify) => VerifyAudit {}.into(),
        Verb::Audit(AuditVerb::Accept) => AcceptAudit {}.into(),
    };
    let grows = matches!(request, Request::GrowVolume(_));
    let denies = matches!(request, Request::DenyAccess(_));
    let bypasses = key::bypasses_lockout_check(&request);
    let once = request.shows_once();
    out::must_be_there(once)?;
    let reply =
        if bypasses { key::ask_and_say_who_is_locked_out(&common, &request)? } else { client::ask(&common, request)? };
    if let Reply::Volume(volume) = &reply
        && grows
    {
        attach::follow(&common, volume)?;
    }
    let code = if denies { render::denied(&reply, &common) } else { render::reply(&reply, &common) };
    out::keep_or_take_back(&common, once, &reply)?;
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
        KeyVerb::Crypto(_) => return Err(Error::new(Kind::Failed, "this verb has a way of its own")),
    })
}

fn volume_request(verb: VolumeVerb) -> Result<Request> {
    // The server has another working directory.
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|e| Error::io(format!("find {}", path.display()), e));
    Ok(match verb {
        VolumeVerb::Create { size, key, name, snapshot, settings } => {
            let SettingsArgs { on_key_loss, iops, throughput } = settings;
            CreateVolume { name, size: size.map(|s| s.0), key, snapshot, on_key_loss, iops, throughput }.into()
        }
        VolumeVerb::Modify { volume, settings: SettingsArgs { on_key_loss, iops, throughput } } => {
            if (on_key_loss, iops, throughput) == (None, None, None) {
                return Err(Error::new(Kind::Usage, format!("nothing of {volume} is to be changed"))
                    .hint("say --on-key-loss, --iops or --throughput"));
            }
            ModifyVolume { volume, on_key_loss, iops, throughput }.into()
        }
        VolumeVerb::Suspend { volume } => SuspendVolume { volume }.into(),
        VolumeVerb::Resume { volume } => ResumeVolume { volume }.into(),
        VolumeVerb::List => DescribeVolumes {}.into(),
        VolumeVerb::Show { volume } => DescribeVolume { volume }.into(),
        VolumeVerb::Delete { volume } => DeleteVolume { volume }.into(),
        VolumeVerb::Grow { volume, size } => GrowVolume { volume, size: size.0 }.into(),
        VolumeVerb::Export { volume, out, sealed: _, fill_holes } => {
            ExportVolume { volume, out: absolute(out)?, fill_holes }.into()
        }
        VolumeVerb::AcceptRollback { volume } => AcceptRollback { volume }.into(),
        VolumeVerb::AcceptLostWrites { volume } => AcceptLostWrites { volume }.into(),
        VolumeVerb::ExportKey { volume, out } => ExportVolumeKey { volume, out: absolute(out)? }.into(),
    })
}

fn snapshot_request(verb: SnapshotVerb) -> Request {
    match verb {
        SnapshotVerb::Create { volume, wait, description } => CreateSnapshot { volume, description, wait }.into(),
        SnapshotVerb::List => DescribeSnapshots {}.into(),
        SnapshotVerb::Show { snapshot } => DescribeSnapshot { snapshot }.into(),
        SnapshotVerb::Delete { snapshot } => DeleteSnapshot { snapshot }.into(),
        SnapshotVerb::Verify { snapshot, trust } => VerifySnapshot { snapshot, trust }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound_and_says_what_every_verb_and_flag_is_for() {
        let mut tree = Cli::command();
        tree.build();
        tree.clone().debug_assert();
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
                assert!(sub.get_about().is_some(), "{} has no words", sub.get_name());
                for arg in sub.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
                    assert!(arg.get_help().is_some(), "{} {} has no words", sub.get_name(), arg.get_id());
                }
                walk(sub);
            }
        }
        walk(&tree);
    }
}
