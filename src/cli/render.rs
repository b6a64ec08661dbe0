//! How replies, progress and errors are shown: tables for people, JSON for programs, only ids with -q.

use super::args::Common;
use super::out::note;
use super::principals_shown as principals;
use crate::attach::helper::HelperState;
use crate::error::{Error, Kind};
use crate::service::BackgroundRate;
use crate::service::api::{
    AccessInfo, AliasInfo, AttachmentInfo, CopyInfo, Dependents, Finding, Grade, GrantInfo, KeyInfo, LockInfo,
    LockState, Progress, RecycleBinInfo, Reply, RepositoryInfo, RolledBackInfo, SnapshotInfo, StatusInfo, VolumeInfo,
    WireError,
};
use crate::units::ByteLen;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;

pub(super) use super::out::line;

fn json<T: serde::Serialize>(value: &T) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        line(text);
    }
}

/// Prints an error to standard error.
pub(super) fn error(err: &Error, as_json: bool) {
    if as_json {
        if let Ok(text) = serde_json::to_string(&serde_json::json!({ "error": WireError::from(err) })) {
            note(text);
        }
    } else {
        note(format!("coffer: {}", err.line()));
    }
}

/// Prints a reply; returns the exit code.
pub(super) fn reply(reply: &Reply, common: &Common) -> u8 {
    if let Reply::Key(key) = reply {
        say_what_lost_its_key(key);
    }
    if common.json {
        json(reply);
        return code(reply);
    }
    if common.quiet {
        ids(reply).iter().for_each(line);
        return code(reply);
    }
    match reply {
        Reply::Done { message, .. } => line(message),
        Reply::Status(status) => show_status(status),
        Reply::Key(key) => show_key(key),
        Reply::Keys { keys } => list_keys(keys),
        Reply::Policy(policy) => line(&policy.pretty),
        Reply::Grant(grant) => show_grant(grant),
        Reply::Grants { grants } => list_grants(grants),
        // Its bytes were written elsewhere.
        Reply::Crypto(info) => line(&info.key),
        Reply::Aliases { aliases } => list_aliases(aliases),
        Reply::Volume(volume) => show_volume(volume),
        Reply::Volumes { volumes } => list_volumes(volumes),
        Reply::RolledBack(done) => show_rollback(done),
        Reply::Snapshot(snapshot) => show_snapshot(snapshot),
        Reply::Snapshots { snapshots } => list_snapshots(snapshots),
        Reply::Repository(one) => show_repository(one),
        Reply::Repositories { repositories } => list_repositories(repositories),
        Reply::RecycleBin(bin) => show_recycle_bin(bin),
        // `repository gc`, `stats` and `check` print these themselves.
        Reply::Stats { repositories } => repositories.iter().for_each(|one| line(&one.repository)),
        Reply::Checked { repositories } => repositories.iter().for_each(|one| line(&one.repository)),
        Reply::Collected { repositories, .. } => repositories.iter().for_each(|one| line(&one.repository)),
        // `snapshot schedule`, `prune`, `verify` and `key rewrap` print these themselves, and `snapshot diff` its parts.
        Reply::Schedule(schedule) => line(schedule.id),
        Reply::Schedules { schedules } => schedules.iter().for_each(|one| line(one.id)),
        Reply::Pruned { snapshots, .. } => snapshots.iter().for_each(|one| line(one.snapshot)),
        Reply::Verified { snapshots } => snapshots.iter().for_each(|one| line(&one.snapshot)),
        Reply::Rewrapped(told) => told.keys.iter().for_each(|key| line(&key.data_key)),
        Reply::Exported(image) => {
            let (data, size) = (ByteLen(image.data), ByteLen(image.size));
            line(format!("wrote {}: {data} of data in {size}", image.snapshot));
        }
        Reply::Changes(part) => line(format!("{} ranges of {}", part.ranges.len(), part.to)),
        Reply::Attachment(att) => line(format!("{} is attached as {} ({})", shown(att), att.device, att.id)),
        Reply::Attachments { attachments: all } => attachments(&all.iter().map(|a| (a, None)).collect::<Vec<_>>()),
        Reply::Access(client) => show_client(client),
        Reply::AccessList { clients } => list_clients(clients),
        Reply::Account(account) => principals::show_account(account),
        Reply::Accounts { accounts } => principals::list_accounts(accounts),
        Reply::Principal(one) => principals::show_principal(one),
        Reply::Principals { principals } => principals::list_principals(principals),
        Reply::PrincipalPolicy(policy) => principals::show_policy(policy),
        Reply::PrincipalPolicies { policies } => principals::list_policies(policies),
        Reply::AccessKey(key) => principals::show_access_key(key),
        Reply::AccessKeys { keys } => principals::list_access_keys(keys),
        Reply::Aws { output } => line(serde_json::to_string_pretty(&**output).unwrap_or_default()),
        Reply::Findings { findings } => list_findings(findings),
        Reply::Events { events } => super::audit::list(events),
    }
    code(reply)
}

fn code(reply: &Reply) -> u8 {
    match reply {
        Reply::Findings { findings } if findings.iter().any(|f| f.grade == Grade::Error) => Kind::Failed.exit_code(),
        _ => 0,
    }
}

fn ids(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Done { .. } | Reply::Findings { .. } | Reply::Events { .. } | Reply::Aws { .. } => Vec::new(),
        Reply::Status(s) => vec![s.installation.clone()],
        Reply::Crypto(info) => vec![info.key.clone()],
        Reply::Key(k) => vec![k.id.clone()],
        Reply::Keys { keys } => keys.iter().map(|k| k.id.clone()).collect(),
        Reply::Policy(policy) => vec![policy.key.clone()],
        Reply::Grant(grant) => vec![grant.id.clone()],
        Reply::Grants { grants } => grants.iter().map(|g| g.id.clone()).collect(),
        Reply::Aliases { aliases } => aliases.iter().map(|a| a.alias.clone()).collect(),
        Reply::Volume(v) => vec![v.id.to_string()],
        Reply::Volumes { volumes } => volumes.iter().map(|v| v.id.to_string()).collect(),
        Reply::RolledBack(done) => vec![done.volume.to_string()],
        Reply::Snapshot(s) => vec![s.id.to_string()],
        Reply::Snapshots { snapshots } => snapshots.iter().map(|s| s.id.to_string()).collect(),
        Reply::Repository(r) => vec![r.name.clone()],
        Reply::Repositories { repositories } => repositories.iter().map(|r| r.name.clone()).collect(),
        Reply::Collected { repositories, .. } => repositories.iter().map(|one| one.repository.clone()).collect(),
        Reply::Stats { repositories } => {
            repositories.iter().flat_map(|one| &one.snapshots).map(|s| s.snapshot.to_string()).collect()
        }
        Reply::Checked { repositories } => repositories.iter().flat_map(|one| one.orphans.clone()).collect(),
        Reply::Schedule(schedule) => vec![schedule.id.to_string()],
        Reply::Schedules { schedules } => schedules.iter().map(|s| s.id.to_string()).collect(),
        Reply::Pruned { snapshots, .. } => snapshots.iter().map(|one| one.snapshot.to_string()).collect(),
        Reply::RecycleBin(bin) => bin.days.iter().map(u32::to_string).collect(),
        Reply::Verified { snapshots } => snapshots.iter().map(|one| one.snapshot.clone()).collect(),
        Reply::Exported(image) => vec![image.snapshot.to_string()],
        Reply::Rewrapped(told) => told.keys.iter().map(|key| key.data_key.clone()).collect(),
        Reply::Changes(part) => vec![part.to.to_string()],
        Reply::Access(c) => vec![c.token.clone().unwrap_or_else(|| c.name.clone())],
        Reply::AccessList { clients } => clients.iter().map(|c| c.name.clone()).collect(),
        Reply::Account(a) => vec![a.id.clone()],
        Reply::Accounts { accounts } => accounts.iter().map(|a| a.id.clone()).collect(),
        Reply::Principal(p) => vec![p.arn.clone()],
        Reply::Principals { principals } => principals.iter().map(|p| p.arn.clone()).collect(),
        Reply::PrincipalPolicy(p) => vec![p.name.clone()],
        Reply::PrincipalPolicies { policies } => policies.iter().map(|p| p.name.clone()).collect(),
        Reply::AccessKey(k) => principals::access_key_ids(k),
        Reply::AccessKeys { keys } => keys.iter().map(|k| k.id.clone()).collect(),
        Reply::Attachment(a) => vec![a.id.clone()],
        Reply::Attachments { attachments } => attachments.iter().map(|a| a.id.clone()).collect(),
    }
}

pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for text in table.to_string().lines() {
        line(text.trim_end());
    }
}

pub(super) fn facts(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        line(format!("{name:width$}  {value}"));
    }
}

pub(super) fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn show_status(s: &StatusInfo) {
    facts(&[
        ("installation", s.installation.clone()),
        ("account", s.account.clone()),
        ("region", s.region.clone()),
        ("signing key", s.signing_key.clone()),
        ("data", s.data.display().to_string()),
        ("server", s.daemon.map_or_else(|| "none".to_owned(), |pid| format!("pid {pid}"))),
        ("nbd", if s.nbd.is_empty() { "-".to_owned() } else { s.nbd.join(", ") }),
    ]);
}

/// Says on standard error what disabling a key did to volumes in use, whatever the output format.
fn say_what_lost_its_key(k: &KeyInfo) {
    if !k.suspended.is_empty() {
        eprintln!("coffer: warning: volumes suspended until the key can be used again: {}", k.suspended.join(", "));
    }
    if !k.continuing.is_empty() {
        let which = k.continuing.join(", ");
        eprintln!("coffer: warning: volumes not suspended until they are closed (--on-key-loss continue): {which}");
    }
    if let Some(Dependents { volumes, snapshots }) = k.dependents
        && volumes + snapshots > 0
    {
        note(format!(
            "coffer: warning: {} and {} become permanently unreadable once the key is deleted; to keep it, run `coffer key cancel-deletion {}`",
            counted(volumes, "volume"),
            counted(snapshots, "snapshot"),
            k.id
        ));
    }
}

/// After a key's deletion was cancelled.
pub(super) fn say_that_it_stays_disabled(k: &KeyInfo) {
    note(format!(
        "coffer: the key stays disabled, and volumes that use it stay suspended; enable it with `coffer key enable {}`",
        k.id
    ));
}

/// As `1 volume`, `2 volumes`.
fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Returns a state as programs read it.
fn word(state: impl serde::Serialize) -> String {
    serde_json::to_value(state).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn show_key(k: &KeyInfo) {
    let deletion = match k.days_held {
        Some(days) => {
            format!("{}; {days} days of the waiting period have not passed yet", or_dash(k.deletion.as_ref()))
        }
        None => or_dash(k.deletion.as_ref()),
    };
    facts(&[
        ("key", k.id.clone()),
        ("arn", k.arn.clone()),
        ("state", word(k.state)),
        ("manager", word(k.manager)),
        ("spec", k.spec.to_string()),
        ("aliases", if k.aliases.is_empty() { "-".to_owned() } else { k.aliases.join(", ") }),
        ("description", k.description.clone()),
        ("created", k.created.to_string()),
        ("deletion", deletion),
        ("backing keys", k.materials.to_string()),
    ]);
}

fn show_grant(g: &GrantInfo) {
    let mut rows = vec![
        ("grant", g.id.clone()),
        ("key", g.key.clone()),
        ("name", or_dash(g.name.as_ref())),
        ("grantee", g.grantee.clone()),
        ("retiring", or_dash(g.retiring.as_ref())),
        ("issuer", g.issuer.clone()),
        ("operations", g.operations.join(" ")),
        ("created", g.created.to_string()),
    ];
    for (how, pairs) in [("context equals", &g.equals), ("context has", &g.subset)] {
        rows.extend(pairs.iter().flatten().map(|(k, v)| (how, format!("{k} = {v}"))));
    }
    rows.extend(g.token.iter().map(|t| ("token", t.clone())));
    facts(&rows);
}

fn list_grants(grants: &[GrantInfo]) {
    let row = |g: &GrantInfo| {
        let pairs = g.equals.iter().chain(&g.subset).flatten().map(|(k, v)| format!("{k}={v}"));
        let context: Vec<String> = pairs.collect();
        vec![g.id.clone(), g.grantee.clone(), g.operations.join(" "), context.join(" "), or_dash(g.name.as_ref())]
    };
    table(&["grant", "grantee", "operations", "context", "name"], grants.iter().map(row));
}

fn show_client(c: &AccessInfo) {
    let mut rows = vec![
        ("name", c.name.clone()),
        ("by", c.by.to_string()),
        ("principal", c.principal.clone()),
        ("volumes", volumes_of(c)),
    ];
    if let Some(token) = &c.token {
        rows.push(("export", format!("VOLUME?t={token}")));
        rows.push(("", "shown only once; whoever has it may use these volumes".to_owned()));
    }
    facts(&rows);
}

/// Prints what a client may use now, and what it could use before.
pub(super) fn allowed(now: &AccessInfo, common: &Common) -> u8 {
    if common.json || common.quiet {
        return reply(&Reply::Access(now.clone()), common);
    }
    let before = now.before.clone().map_or_else(String::new, |mut before| {
        before.sort();
        format!(" (before: {})", if before.is_empty() { "all".to_owned() } else { before.join(", ") })
    });
    line(format!("{} may now use: {}{before}", now.name, volumes_of(now)));
    0
}

/// Prints what a deny revoked.
pub(super) fn denied(reply: &Reply, common: &Common) -> u8 {
    match reply {
        Reply::Access(c) if !common.json && !common.quiet => {
            let which = c.volumes.as_ref().map_or_else(|| "all volumes".to_owned(), |v| v.join(", "));
            line(format!("{} ({}) is no longer allowed to use {which}", c.name, c.by));
            0
        }
        other => self::reply(other, common),
    }
}

fn volumes_of(c: &AccessInfo) -> String {
    let Some(mut volumes) = c.volumes.clone() else { return "all".to_owned() };
    volumes.sort();
    volumes.join(", ")
}

fn list_clients(clients: &[AccessInfo]) {
    let row = |c: &AccessInfo| {
        vec![c.name.clone(), c.by.to_string(), c.principal.clone(), volumes_of(c), c.created.to_string()]
    };
    table(&["name", "by", "principal", "volumes", "created"], clients.iter().map(row));
}

fn list_keys(keys: &[KeyInfo]) {
    // Keys of several accounts or Regions need their ARNs to be told apart, and to be named in other commands.
    let place = |k: &KeyInfo| k.arn.rsplit_once('/').map(|(place, _)| place.to_owned());
    let is_one_place = keys.windows(2).all(|pair| place(&pair[0]) == place(&pair[1]));
    let name = |k: &KeyInfo| if is_one_place { k.id.clone() } else { k.arn.clone() };
    table(
        &["key", "state", "manager", "aliases", "created"],
        keys.iter().map(|k| vec![name(k), word(k.state), word(k.manager), k.aliases.join(" "), k.created.to_string()]),
    );
}

fn list_aliases(aliases: &[AliasInfo]) {
    table(&["alias", "key"], aliases.iter().map(|a| vec![a.alias.clone(), a.key.clone()]));
}

fn show_volume(v: &VolumeInfo) {
    let mut rows = vec![
        ("volume", v.id.to_string()),
        ("name", or_dash(v.name.as_ref())),
        ("state", v.state.to_string()),
        ("size", exact(v.size)),
        ("on disk", v.stored.map_or_else(|| "-".to_owned(), |n| ByteLen(n).to_string())),
        ("key", v.key.clone()),
        ("snapshot", or_dash(v.snapshot.as_ref())),
        ("hydrated", hydrated(v)),
        ("created", v.created.to_string()),
        ("holder", or_dash(v.holder.as_ref())),
        ("on key loss", v.on_key_loss.to_string()),
        ("limits", limits(v)),
    ];
    rows.extend(v.repository.iter().map(|r| ("repository", r.clone())));
    if v.snapshot_rate != BackgroundRate::Unlimited {
        rows.push(("snapshot rate", rate(v.snapshot_rate)));
    }
    if let Some(h) = &v.header {
        rows.extend([
            ("file", h.path.display().to_string()),
            ("generation", h.generation.to_string()),
            ("lineage", h.lineage.clone()),
            ("epoch", h.epoch.to_string()),
            ("clean", h.clean.to_string()),
            ("map untrusted", word(h.changed_untrusted)),
            ("writes lost", h.write_failed.to_string()),
            ("sealed units", format!("{} of 4 KiB (IEEE 1619 limits a key to 2^36)", h.sealed_units)),
        ]);
        rows.extend(h.context.iter().map(|(k, v)| ("context", format!("{k} = {v}"))));
        for (id, blob) in &h.data_keys {
            rows.push(("data key", id.clone()));
            rows.push(("wrapped", format!("{} … ({} bytes)", blob.get(..64).unwrap_or(blob), blob.len() / 2)));
        }
        rows.extend(h.damage.iter().map(|d| ("damage", d.clone())));
    }
    facts(&rows);
}

/// A size, and its bytes if the short form is rounded: 10GB is not 10GiB.
fn exact(bytes: u64) -> String {
    let short = ByteLen(bytes).to_string();
    if short.contains('.') { format!("{short} ({bytes} bytes)") } else { short }
}

fn hydrated(v: &VolumeInfo) -> String {
    match v.hydrate_rate {
        _ if v.hydrated => "true".to_owned(),
        BackgroundRate::Unlimited => "false".to_owned(),
        BackgroundRate::Paused => "false (paused)".to_owned(),
        BackgroundRate::PerSecond(bytes) => format!("false (at most {}/s)", ByteLen(bytes)),
    }
}

fn rate(rate: BackgroundRate) -> String {
    match rate {
        BackgroundRate::PerSecond(bytes) => format!("at most {}/s", ByteLen(bytes)),
        word => word.to_string(),
    }
}

fn limits(v: &VolumeInfo) -> String {
    let iops = v.iops.map(|n| format!("{n} IOPS"));
    let throughput = v.throughput.map(|n| format!("{}/s", ByteLen(n)));
    let all: Vec<String> = iops.into_iter().chain(throughput).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn list_volumes(volumes: &[VolumeInfo]) {
    table(
        &["volume", "name", "size", "on disk", "state", "snapshot"],
        volumes.iter().map(|v| {
            let stored = v.stored.map_or_else(|| "-".to_owned(), |n| ByteLen(n).to_string());
            vec![
                v.id.to_string(),
                or_dash(v.name.as_ref()),
                ByteLen(v.size).to_string(),
                stored,
                v.state.to_string(),
                or_dash(v.snapshot.as_ref()),
            ]
        }),
    );
}

fn show_rollback(done: &RolledBackInfo) {
    let kept = done.kept.map_or_else(String::new, |kept| format!("; what it had before is snapshot {kept}"));
    line(format!("volume {} is rolled back to {}{kept}", done.volume, done.snapshot));
}

fn show_snapshot(s: &SnapshotInfo) {
    let mut rows = vec![
        ("snapshot", s.id.to_string()),
        ("name", or_dash(s.name.as_ref())),
        ("volume", s.volume.to_string()),
        ("state", s.state.to_string()),
        ("error", or_dash(s.error.as_ref())),
        ("progress", s.copy.as_ref().map_or_else(|| "-".to_owned(), copied)),
        ("size", ByteLen(s.size).to_string()),
        ("changed", ByteLen(s.changed).to_string()),
        ("stored", ByteLen(s.stored).to_string()),
        ("base", or_dash(s.base.as_ref())),
        ("repository", s.repository.clone()),
        ("key", s.key.clone()),
        ("created", s.created.to_string()),
        ("description", s.description.clone()),
        ("held", s.held.to_string()),
        ("schedule", or_dash(s.schedule.as_ref())),
        ("group", or_dash(s.group.as_ref())),
        ("proved restorable", or_dash(s.proved.as_ref())),
        ("lock", s.lock.as_ref().map_or_else(|| "-".to_owned(), lock)),
    ];
    rows.extend(s.source.iter().map(|source| ("copy of", source.to_string())));
    rows.extend(s.recycled_until.iter().map(|until| ("recycled until", until.to_string())));
    rows.extend(s.tags.iter().map(|(name, value)| ("tag", format!("{name} = {value}"))));
    facts(&rows);
}

fn lock(lock: &LockInfo) -> String {
    let cooling = lock.cool_off_until.filter(|_| lock.state == LockState::ComplianceCooloff);
    let cooling = cooling.map_or_else(String::new, |until| format!("; can be taken back until {until}"));
    format!("{} until {}{cooling}", lock.state, lock.until)
}

fn show_recycle_bin(bin: &RecycleBinInfo) {
    line(match bin.days {
        Some(days) => format!("deleted snapshots stay in the recycle bin for {}", counted(days as usize, "day")),
        None => "the recycle bin is off: snapshots are deleted at once".to_owned(),
    });
}

/// What protects a snapshot from deletion, in a word.
fn protection(s: &SnapshotInfo) -> String {
    let lock = s.lock.as_ref().map(|lock| lock.state).filter(|state| *state != LockState::Expired);
    match lock {
        _ if s.held => "held".to_owned(),
        Some(state) => state.to_string(),
        None => "-".to_owned(),
    }
}

/// How far a pending snapshot is, for people.
fn copied(copy: &CopyInfo) -> String {
    let left = ByteLen(copy.total.saturating_sub(copy.copied));
    match &copy.waits {
        Some(why) => format!("{} %, {left} left, waiting for the repository: {why}", copy.percent),
        None => format!("{} %, {left} left, {}/s", copy.percent, ByteLen(copy.rate)),
    }
}

fn list_snapshots(snapshots: &[SnapshotInfo]) {
    if snapshots.iter().any(|s| s.recycled_until.is_some()) {
        return list_recycled(snapshots);
    }
    // The last two only if they say something: all are in the one repository that every installation has, say.
    let is_elsewhere = snapshots.iter().any(|s| s.repository != "local");
    let is_proved = snapshots.iter().any(|s| s.proved.is_some());
    let mut head = vec!["snapshot", "name", "volume", "state", "size", "changed", "stored", "protected", "created"];
    head.extend(is_elsewhere.then_some("repository"));
    head.extend(is_proved.then_some("proved"));
    let row = |s: &SnapshotInfo| {
        let mut row = vec![
            s.id.to_string(),
            or_dash(s.name.as_ref()),
            s.volume.to_string(),
            s.state.to_string(),
            ByteLen(s.size).to_string(),
            ByteLen(s.changed).to_string(),
            ByteLen(s.stored).to_string(),
            protection(s),
            s.created.to_string(),
        ];
        row.extend(is_elsewhere.then(|| s.repository.clone()));
        row.extend(is_proved.then(|| or_dash(s.proved.as_ref())));
        row
    };
    table(&head, snapshots.iter().map(row));
}

fn show_repository(r: &RepositoryInfo) {
    let mut rows =
        vec![("repository", r.name.clone()), ("id", or_dash(r.id.as_ref())), ("url", r.location.url().to_owned())];
    let s3 = r.location.s3();
    rows.extend(s3.endpoint.iter().map(|e| ("endpoint", e.clone())));
    rows.extend(s3.region.iter().map(|e| ("region", e.clone())));
    rows.extend(s3.path_style.then(|| ("addressing", "path".to_owned())));
    rows.extend(s3.time_limit.map(|seconds| ("time limit", format!("{seconds} s"))));
    let used = r.cached.map(|bytes| format!(", {} used", ByteLen(bytes))).unwrap_or_default();
    rows.extend((r.cache > 0).then(|| ("read cache", format!("{}{used}", ByteLen(r.cache)))));
    rows.extend([
        ("default", r.default.to_string()),
        ("snapshots", r.snapshots.to_string()),
        ("stored", ByteLen(r.stored).to_string()),
        ("added", or_dash(r.created.as_ref())),
    ]);
    rows.extend(r.error.iter().map(|e| ("error", e.clone())));
    facts(&rows);
}

fn list_repositories(repositories: &[RepositoryInfo]) {
    let row = |r: &RepositoryInfo| {
        let default = if r.default { "default" } else { "" };
        let stored = ByteLen(r.stored).to_string();
        vec![r.name.clone(), r.location.url().to_owned(), r.snapshots.to_string(), stored, default.to_owned()]
    };
    table(&["repository", "url", "snapshots", "stored", ""], repositories.iter().map(row));
}

fn list_recycled(snapshots: &[SnapshotInfo]) {
    let row = |s: &SnapshotInfo| {
        let until = or_dash(s.recycled_until.as_ref());
        vec![s.id.to_string(), or_dash(s.name.as_ref()), s.volume.to_string(), s.created.to_string(), until]
    };
    table(&["snapshot", "name", "volume", "created", "recycled until"], snapshots.iter().map(row));
}

/// A volume's name, or its id.
pub(super) fn shown(a: &AttachmentInfo) -> String {
    a.name.clone().unwrap_or_else(|| a.volume.to_string())
}

/// Attachments, and the helpers of their devices on this machine.
pub(super) fn attachments(all: &[(&AttachmentInfo, Option<HelperState>)]) {
    let row = |(a, helper): &(&AttachmentInfo, Option<HelperState>)| {
        let connections = helper.as_ref().map(|h| format!("{}/{}", h.alive, h.connections));
        vec![
            a.id.clone(),
            shown(a),
            a.device.clone(),
            or_dash(connections.as_ref()),
            or_dash(helper.as_ref().map(|h| h.pid).as_ref()),
            a.created.to_string(),
        ]
    };
    table(&["attachment", "volume", "device", "connections", "helper", "since"], all.iter().map(row));
}

/// The same as JSON: the service's reply, with a helper in each attachment.
pub(super) fn attachments_json(all: &[(&AttachmentInfo, Option<HelperState>)]) {
    let one = |(a, helper): &(&AttachmentInfo, Option<HelperState>)| {
        let mut value = serde_json::to_value(a).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("helper".to_owned(), serde_json::to_value(helper).unwrap_or_default());
        }
        value
    };
    json(&serde_json::json!({ "kind": "attachments", "attachments": all.iter().map(one).collect::<Vec<_>>() }));
}

fn list_findings(findings: &[Finding]) {
    for f in findings {
        let grade = match f.grade {
            Grade::Ok => "ok     ",
            Grade::Warning => "warning",
            Grade::Error => "ERROR  ",
        };
        line(format!("{grade}  {}: {}", f.check, f.message));
    }
}

/// Prints what `init` created.
pub(super) fn initialised(status: &StatusInfo, key_file: Option<&Path>, common: &Common) {
    if common.json {
        let mut value = serde_json::to_value(status).unwrap_or_default();
        if let (Some(object), Some(file)) = (value.as_object_mut(), key_file) {
            object.insert("key_file".to_owned(), file.display().to_string().into());
        }
        return json(&value);
    }
    if common.quiet {
        return line(&status.installation);
    }
    line(format!("Data directory  {}", status.data.display()));
    line(format!("Installation    {} (account {}, Region {})", status.installation, status.account, status.region));
    line(format!("Signing key     {}  (pin it with `snapshot verify --trust`)", status.signing_key));
    if let Some(file) = key_file {
        line(format!("Root key        {}", file.display()));
        note("coffer: warning: whoever has both the root key file and the data directory can read everything;");
        note("        keep a backup of the key file elsewhere, or use `coffer init --passphrase`");
    }
}

/// Prints what a folder of certificates contains, and what to do next.
pub(super) fn certificates(dir: &Path, client: &str, made: &Path, common: &Common) {
    if common.json {
        return json(&serde_json::json!({ "tls": dir, "client": client, "folder": made }));
    }
    if common.quiet {
        return line(made.display());
    }
    line(format!("CA and server  {}  use it with: coffer serve --listen tcp:ADDRESS:PORT --tls {0}", dir.display()));
    line(format!("Client         {}  give it to {client}, for --tls-certificates", made.display()));
    line(format!("Next           coffer access allow {client} --volume VOLUME"));
}

/// Progress: a bar on a terminal for what takes more than a second, JSON lines with --json, otherwise nothing.
pub(super) struct Progressing {
    json: bool,
    bar: Option<ProgressBar>,
    quiet: bool,
    /// --quiet was given.
    only_ids: bool,
    started: std::time::Instant,
}

impl Progressing {
    pub(super) fn new(common: &Common) -> Self {
        let quiet = common.quiet || !std::io::stderr().is_terminal();
        Self { json: common.json, bar: None, quiet, only_ids: common.quiet, started: std::time::Instant::now() }
    }

    /// Whether to say that a server does not answer.
    pub(super) fn tells_of_waiting(&self) -> bool {
        !self.only_ids || std::io::stderr().is_terminal()
    }

    pub(super) fn show(&mut self, p: &Progress) {
        if self.json {
            if let Ok(text) = serde_json::to_string(&serde_json::json!({ "progress": p })) {
                note(text);
            }
            return;
        }
        if self.quiet || self.started.elapsed().as_secs() < 1 {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = p.total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let style = if p.total.is_some() {
                "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec}"
            } else {
                "{spinner} {msg} {bytes}"
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(p.what.clone());
        bar.set_position(p.done);
    }
}

impl Drop for Progressing {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
