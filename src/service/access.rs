//! Access control for every client that does not administer the installation: which volumes a TLS client, the bearer of a token,
//! or a local user other than root and the owner of the data directory may use.
//!
//! An access record of the catalog applies to one name: a name in a client's certificate, the name of a token, or `uid:` and a
//! number. It states which user of this account the client acts as, and which volumes it may use. A client without a record gets
//! the same error for a volume that exists as for one that does not, so that a stranger cannot probe for names. Refusals are
//! audited at a bounded rate, because anyone can cause them.

use super::api::{AccessInfo, AccessKind};
use super::lease::Holder;
use super::records::{Records, SnapshotRecord, VolumeRecord};
use super::token::{self, ExportName};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::iam::{Iam, User};
use crate::kms::{Authority, Caller, Kms};
use crate::ledger::{Act, Record, Tx};
use crate::units::VolumeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Prefix of an access token. The token of an attachment (`att-…`) is valid only on this machine's socket: over TLS it grants
/// nothing.
const TOKEN: &str = "tok-";
/// Prefix of the name of a local user.
const UID: &str = "uid:";
/// Prefix of the fingerprint of a certificate.
const FINGERPRINT: &str = "sha256:";
/// Longest name from the wire that is audited, in bytes.
const SHOWN: usize = 128;

/// A client whose access is limited by records, as it identifies itself: a TLS client, or a local user.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The names in its certificate, each with its kind (`cn:`, `dns:`, `email:`, `uri:`), and its fingerprint; empty without a
    /// certificate. For a local user: `uid:` and the number.
    pub names: Vec<String>,
    /// The process of a local user, which becomes the lease holder. `None` for a TLS client.
    pub process: Option<Holder>,
    /// The connection and its address, for the audit.
    pub client: String,
    /// The server's number for the connection.
    pub connection: u64,
}

/// The catalog's record of what one client may use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AccessRecord {
    pub(super) name: String,
    user: String,
    /// `None`: all volumes.
    volumes: Option<BTreeSet<VolumeId>>,
    /// BLAKE3 hash of the token, in hexadecimal. `None`: the record is for a certificate or a local user.
    token: Option<String>,
    created: Timestamp,
}

impl Record for AccessRecord {
    const KIND: &'static str = "tls-access";
    fn id(&self) -> String {
        self.name.clone()
    }
}

impl AccessRecord {
    /// Returns whether the client may use a volume.
    pub(super) fn allows(&self, id: VolumeId) -> bool {
        self.volumes.as_ref().is_none_or(|v| v.contains(&id))
    }
}

/// Kinds of names. Names of different kinds never match: what a certificate claims in one field must not pass for what a record
/// means by another.
const KINDS: [&str; 6] = [FINGERPRINT, UID, "cn:", "dns:", "email:", "uri:"];

/// Returns whether the name in a record matches a name that a client presents (`cn:web`, `dns:web.example`, `sha256:…`,
/// `uid:1000`).
///
/// A record may state the kind. A record without one, such as a record from before kinds existed, is matched by its form: with a
/// colon it is a URI, with an `@` an e-mail address or a common name, otherwise a DNS name or a common name.
fn means(record: &str, shown: &str) -> bool {
    if KINDS.iter().any(|kind| record.starts_with(kind)) {
        return record == shown;
    }
    let kinds: &[&str] = match record {
        r if r.contains(':') => &["uri:"],
        r if r.contains('@') => &["email:", "cn:"],
        _ => &["dns:", "cn:"],
    };
    kinds.iter().any(|kind| shown.strip_prefix(kind) == Some(record))
}

/// The access records, and the checks against them.
pub(super) struct Access {
    env: Env,
    kms: Arc<Kms>,
    records: Arc<Records>,
    /// All access records, and the catalog's count of changes to them when they were read.
    known: Mutex<Option<(u64, Arc<Vec<AccessRecord>>)>>,
}

/// Splits an export name into the name without its access token, and the token.
pub(super) fn split_token(name: &str) -> Result<(String, Option<&str>)> {
    let token = ExportName::parse(name)?.token.filter(|t| t.starts_with(TOKEN));
    let (Some(token), Some((volume, query))) = (token, name.split_once('?')) else {
        return Ok((name.to_owned(), None));
    };
    let rest: Vec<&str> = query.split('&').filter(|pair| pair.strip_prefix("t=") != Some(token)).collect();
    let name = if rest.is_empty() { volume.to_owned() } else { format!("{volume}?{}", rest.join("&")) };
    Ok((name, Some(token)))
}

/// Returns a name as it was given, cut to [`SHOWN`] bytes.
fn shown_whole(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHOWN)]
}

/// Returns a name for display: a common name without its kind.
fn shown(name: &str) -> String {
    shown_whole(name.strip_prefix("cn:").unwrap_or(name)).to_owned()
}

impl Access {
    /// Creates the checks against these records. Clients act as users of the account of this KMS.
    pub(super) fn new(env: &Env, kms: &Arc<Kms>, records: &Arc<Records>) -> Self {
        Self { env: env.clone(), kms: kms.clone(), records: records.clone(), known: Mutex::new(None) }
    }

    /// Returns the identity of a client before it has named an export: that of the first name in its certificate with an access
    /// record, else anonymous.
    pub(super) fn identity_of(&self, remote: &Remote) -> Caller {
        let access = self.of(remote, None).ok().flatten();
        self.identity(access.as_ref(), remote)
    }

    fn identity(&self, access: Option<&AccessRecord>, remote: &Remote) -> Caller {
        match access {
            Some(access) => self.caller(access, remote, ""),
            None => Caller::new("anonymous", &*remote.client, Authority::Nothing),
        }
    }

    /// Returns a client as a caller that may use what is sealed under this key.
    pub(super) fn caller(&self, access: &AccessRecord, remote: &Remote, key_arn: &str) -> Caller {
        let client = format!("{}, {} {}", remote.client, by(access), access.name);
        let authority = Authority::Volumes(vec![key_arn.to_owned()]);
        Caller::new(self.user_arn(&access.user), client, authority)
    }

    fn user_arn(&self, user: &str) -> String {
        format!("arn:aws:iam::{}:user/{user}", self.kms.installation().account)
    }

    /// Returns the record that applies to a client: that of its token, else that of the first of its names with a record.
    pub(super) fn of(&self, remote: &Remote, token: Option<&str>) -> Result<Option<AccessRecord>> {
        if token.is_none() && remote.names.is_empty() {
            return Ok(None);
        }
        let all = self.allowed()?;
        if let Some(hash) = token.map(token::hash) {
            // A record from before such names were refused must not make the bearer of a token a local user either.
            let fits = |a: &&AccessRecord| a.token.as_ref() == Some(&hash) && !a.name.starts_with(UID);
            return Ok(all.iter().find(fits).cloned());
        }
        // Nothing in a certificate makes its bearer a local user.
        let fits = |a: &AccessRecord| a.token.is_none() && a.name.starts_with(UID) == remote.process.is_some();
        let of = |shown: &String| all.iter().find(|a| fits(a) && means(&a.name, shown)).cloned();
        Ok(remote.names.iter().find_map(of))
    }

    /// Returns all access records. Reads the catalog once after each change: one connection may ask a thousand times.
    fn allowed(&self) -> Result<Arc<Vec<AccessRecord>>> {
        let changes = self.records.ledger().catalog().changes_of(AccessRecord::KIND);
        let mut known = self.known.lock();
        if let Some((_, all)) = known.as_ref().filter(|(then, _)| *then == changes) {
            return Ok(all.clone());
        }
        let all = self.records.ledger().catalog().list::<AccessRecord>()?.records.into_iter().map(|r| r.record);
        let all = Arc::new(all.collect::<Vec<_>>());
        *known = Some((changes, all.clone()));
        Ok(all)
    }

    /// Returns the volume that a client names, and the record that allows it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], whether or not the volume exists; audited.
    pub(super) fn admit(&self, name: &str, remote: &Remote) -> Result<(AccessRecord, VolumeRecord)> {
        let (plain, token) = split_token(name)?;
        let access = self.of(remote, token)?;
        let wanted = ExportName::parse(&plain)?.volume;
        let volume = match (&access, self.records.exported(&plain)) {
            (Some(access), Ok(volume)) if access.allows(volume.id) => return Ok((access.clone(), volume)),
            (_, Err(err)) if err.kind() != Kind::NotFound => return Err(err),
            (_, volume) => volume.ok(),
        };
        let volume = volume.map(|v| v.id);
        Err(self.turned_away(access.as_ref(), remote, token, (wanted, volume)))
    }

    /// Returns the snapshot that a client names. Whoever may use its source volume may read it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], whether or not the snapshot exists; audited.
    pub(super) fn admit_snapshot(&self, name: &str, remote: &Remote) -> Result<(SnapshotRecord, Caller)> {
        let (plain, token) = split_token(name)?;
        let access = self.of(remote, token)?;
        let wanted = ExportName::parse(&plain)?.volume;
        let record = match self.records.find_snapshot(wanted) {
            Err(err) if err.kind() != Kind::NotFound => return Err(err),
            record => record.ok(),
        };
        match (&access, record) {
            (Some(access), Some(record)) if access.allows(record.volume) => {
                let caller = self.caller(access, remote, &record.key_arn);
                Ok((record, caller))
            }
            (_, record) => Err(self.turned_away(access.as_ref(), remote, token, (wanted, record.map(|r| r.volume)))),
        }
    }

    /// Audits the refusal of a client, and returns it as an error.
    fn turned_away(
        &self,
        access: Option<&AccessRecord>,
        remote: &Remote,
        token: Option<&str>,
        (wanted, volume): (&str, Option<VolumeId>),
    ) -> Error {
        let who = match (access, remote.names.first(), token) {
            (Some(access), ..) => format!("client {}", access.name),
            (None, _, Some(_)) => "a client with an unknown token".to_owned(),
            (None, Some(uid), None) if remote.process.is_some() => format!("the local user {uid}"),
            (None, Some(name), None) => format!("a client with the certificate {}", shown(name)),
            (None, None, None) => "a client without a certificate or a token".to_owned(),
        };
        let err = Error::new(Kind::AccessDenied, format!("{who} may not use volume {}", shown(wanted)))
            .hint("allow it on the server: `coffer access allow NAME --volume VOLUME`");
        self.record_refusal(access, remote, volume, &err);
        err
    }

    fn record_refusal(&self, access: Option<&AccessRecord>, remote: &Remote, volume: Option<VolumeId>, err: &Error) {
        // With an unknown token, the caller is still identified by its certificate or its uid.
        let caller = access.map_or_else(|| self.identity_of(remote), |access| self.identity(Some(access), remote));
        let mut act = Act::new("ec2:AttachVolume");
        if let Some(volume) = volume {
            act = act.detail("volume", volume);
        }
        if let Some(name) = remote.names.first() {
            act = act.detail(if remote.process.is_some() { "user" } else { "certificate" }, shown(name));
        }
        if let Some(fingerprint) = remote.names.iter().find(|n| n.starts_with(FINGERPRINT)) {
            act = act.detail("fingerprint", fingerprint);
        }
        self.records.ledger().record_refusal(act, &caller, err);
    }

    /// Allows a client, by a name in its certificate or its uid, to use volumes. Replaces its earlier record, or with `add` adds to
    /// it, in one transaction: a concurrent addition is not lost, and a concurrent deny not undone.
    pub(super) fn allow(
        &self,
        caller: &Caller,
        name: &str,
        user: Option<String>,
        (volumes, all): (&[String], bool),
        add: bool,
    ) -> Result<AccessInfo> {
        check_name(name, By::Name)?;
        let says_user = user.is_some();
        let wanted = self.new_access(name, user, volumes, all)?;
        let act = self.act_on("coffer:AllowTlsClient", &wanted);
        let act = if add { act.detail("add", true) } else { act };
        let known = self.records.volumes()?;
        let (record, before) = self.records.ledger().audited(caller, act, |tx| {
            let mut record = wanted.clone();
            let Some(found) = tx.get::<AccessRecord>(name)? else {
                self.check_no_user(tx, &record)?;
                tx.insert(&record)?;
                return Ok((record, None));
            };
            if found.record.token.is_some() {
                return Err(exists(name));
            }
            if add {
                record.user = if says_user { record.user } else { found.record.user.clone() };
                record.volumes = match (record.volumes, &found.record.volumes) {
                    // Volumes that were deleted are not carried over.
                    (Some(new), Some(had)) => {
                        let had = known.iter().map(|v| v.id).filter(|id| had.contains(id));
                        Some(new.into_iter().chain(had).collect())
                    }
                    _ => None,
                };
            }
            self.check_no_user(tx, &record)?;
            tx.update(&record, found.version)?;
            Ok((record, Some(found.record)))
        })?;
        let before = before.map(|b| names_of(&b, &known).unwrap_or_default());
        Ok(AccessInfo { before, ..self.client_info(&record, &known, None) })
    }

    /// Creates an access token. Only this answer shows it; the catalog keeps its hash.
    pub(super) fn make_token(
        &self,
        caller: &Caller,
        name: &str,
        user: Option<String>,
        volumes: &[String],
        all: bool,
    ) -> Result<AccessInfo> {
        check_name(name, By::Token)?;
        let token = token::draw(TOKEN);
        let record = AccessRecord { token: Some(token::hash(&token)), ..self.new_access(name, user, volumes, all)? };
        self.records.ledger().audited(caller, self.act_on("coffer:MakeTlsToken", &record), |tx| {
            if tx.get::<AccessRecord>(name)?.is_some() {
                return Err(exists(name));
            }
            self.check_no_user(tx, &record)?;
            tx.insert(&record).map(drop)
        })?;
        Ok(self.client_info(&record, &self.records.volumes()?, Some(token.to_string())))
    }

    /// Refuses a client that would act under the ARN of an IAM user: policies could not tell them apart.
    fn check_no_user(&self, tx: &Tx<'_>, record: &AccessRecord) -> Result<()> {
        if !Iam::has_user(tx, &self.kms.installation().account, &record.user)? {
            return Ok(());
        }
        let what = format!("{} cannot act as {}: that is an IAM user", record.name, self.user_arn(&record.user));
        Err(Error::new(Kind::Exists, what)
            .hint("choose another --user, or delete the user with `coffer principal delete`"))
    }

    /// Refuses an IAM user whose ARN a client has, for the same reason.
    pub(super) fn check_no_client(&self, tx: &Tx<'_>, user: &User) -> Result<()> {
        if user.account != self.kms.installation().account {
            return Ok(());
        }
        let all = tx.list::<AccessRecord>()?.records.into_iter().map(|r| r.record);
        match all.into_iter().find(|client| client.user.eq_ignore_ascii_case(&user.name)) {
            Some(client) => {
                let what =
                    format!("user {} cannot be created: the client {} acts under that name", user.name, client.name);
                let hint =
                    "choose another name, or give the client another one with `coffer access allow NAME --user USER`";
                Err(Error::new(Kind::Exists, what).hint(hint))
            }
            None => Ok(()),
        }
    }

    /// The clients that act under the ARN of an IAM user, from before this was refused: their names, and those ARNs.
    pub(super) fn with_a_users_arn(&self) -> Result<Vec<(String, String)>> {
        let users = self.kms.iam().principals(&self.kms.installation().account)?.0;
        let is_user = |client: &AccessRecord| users.iter().any(|u| u.name.eq_ignore_ascii_case(&client.user));
        let all = self.allowed()?;
        Ok(all.iter().filter(|c| is_user(c)).map(|c| (c.name.clone(), self.user_arn(&c.user))).collect())
    }

    /// Revokes the access of a client or a token.
    pub(super) fn deny(&self, caller: &Caller, name: &str) -> Result<AccessInfo> {
        // Before the transaction: this queries the same catalog.
        let unknown = self.not_listed(name);
        let act = Act::new("coffer:DenyTlsClient").detail("name", shown(name)).restrictive();
        let gone = self.records.ledger().audited(caller, act, |tx| {
            let found = tx.get::<AccessRecord>(name)?.ok_or_else(|| unknown.replay())?;
            tx.delete::<AccessRecord>(name, found.version)?;
            Ok(found.record)
        })?;
        Ok(self.client_info(&gone, &self.records.volumes()?, None))
    }

    /// Returns the error for a name without a record. A kind too many or too few is the likely slip, so the hint names the
    /// records that differ only in that.
    fn not_listed(&self, name: &str) -> Error {
        let plain = |name: &str| KINDS.iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name).to_owned();
        let all = self.allowed().unwrap_or_default();
        let near = all.iter().map(|a| &a.name).filter(|listed| plain(listed) == plain(name));
        let near: Vec<String> = near.map(|listed| format!("`coffer access deny {listed}`")).collect();
        let what = format!("{} has no access: no client of that name is listed", shown_whole(name));
        let err = Error::new(Kind::NotFound, what);
        if near.is_empty() {
            err.hint("see `coffer access list`")
        } else {
            err.hint(format!("try {}", near.join(" or ")))
        }
    }

    /// Returns all access records, as they are shown.
    pub(super) fn list(&self) -> Result<Vec<AccessInfo>> {
        let all = self.records.ledger().catalog().list::<AccessRecord>()?.records;
        let known = self.records.volumes()?;
        Ok(all.iter().map(|r| self.client_info(&r.record, &known, None)).collect())
    }

    fn new_access(&self, name: &str, user: Option<String>, volumes: &[String], all: bool) -> Result<AccessRecord> {
        let named = KINDS.iter().find_map(|kind| Some((*kind, name.strip_prefix(kind)?)));
        let user = user.unwrap_or_else(|| match named {
            Some((UID, number)) => format!("uid-{number}"),
            Some((FINGERPRINT, _)) | None => name.to_owned(),
            Some((_, plain)) => plain.to_owned(),
        });
        // Policies know local users by these names: no certificate or token may act as one of them.
        if user.strip_prefix("uid-").is_some_and(|number| name.strip_prefix(UID) != Some(number)) {
            return Err(Error::new(
                Kind::Usage,
                format!("the user {user} is reserved for a local user, and {name} is not that user"),
            )
            .hint("choose another --user"));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
        if user.starts_with(FINGERPRINT) {
            return Err(
                Error::new(Kind::Usage, format!("{name} does not name the user to act as")).hint("add --user NAME")
            );
        }
        if user.is_empty() || user.len() > 64 || !user.chars().all(good) {
            return Err(Error::new(Kind::Usage, format!("{user:?} is not a valid user name"))
                .hint("use --user NAME with at most 64 letters, digits and + = , . @ _ -"));
        }
        if all != volumes.is_empty() {
            return Err(Error::new(Kind::Usage, "allow a client: give either some volumes or all")
                .hint("use --volume VOLUME or --all-volumes"));
        }
        let ids = volumes.iter().map(|v| self.records.find_volume(v).map(|r| r.id)).collect::<Result<BTreeSet<_>>>()?;
        let volumes = (!all).then_some(ids);
        Ok(AccessRecord { name: name.to_owned(), user, volumes, token: None, created: self.env.now() })
    }

    fn act_on(&self, name: &str, record: &AccessRecord) -> Act {
        let volumes = record
            .volumes
            .as_ref()
            .map_or_else(|| "all".to_owned(), |v| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let act = Act::new(name).detail("name", &record.name).detail("principal", self.user_arn(&record.user));
        act.detail("volumes", volumes)
    }

    fn client_info(&self, record: &AccessRecord, known: &[VolumeRecord], token: Option<String>) -> AccessInfo {
        AccessInfo {
            name: record.name.clone(),
            by: by(record),
            principal: self.user_arn(&record.user),
            volumes: names_of(record, known),
            created: record.created,
            token,
            before: None,
        }
    }
}

/// Returns the volumes that a record allows, by name where they have one. `None`: all.
fn names_of(record: &AccessRecord, known: &[VolumeRecord]) -> Option<Vec<String>> {
    let name = |id: &VolumeId| {
        known.iter().find(|r| r.id == *id).and_then(|r| r.name.clone()).unwrap_or_else(|| id.to_string())
    };
    record.volumes.as_ref().map(|all| all.iter().map(name).collect())
}

/// What a client presents to be granted access.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A name: in its certificate, or of a local user.
    Name,
    Token,
}

/// Refuses a name that no client can have, and one that a token must not have.
fn check_name(name: &str, by: By) -> Result<()> {
    let bad = |what: String, next: &str| Err(Error::new(Kind::Usage, what).hint(next));
    if name.is_empty() || name.len() > SHOWN || name.chars().any(char::is_control) {
        return Err(Error::new(Kind::Usage, "allow a client: a name has 1 to 128 bytes and no control characters"));
    }
    if by == By::Token && [UID, FINGERPRINT].iter().any(|kind| name.starts_with(kind)) {
        let what =
            format!("a token cannot be named {name}: it is for a remote client, not for a local user or a certificate");
        return bad(what, "name it after the client, such as ci, or use `coffer access allow` for uid: and sha256:");
    }
    if let Some(uid) = name.strip_prefix(UID) {
        let number = uid.parse::<u32>().ok().filter(|n| *n != u32::MAX);
        return match number {
            Some(n) if n.to_string() == uid => Ok(()),
            Some(n) => bad(format!("{name} is not the canonical form of a uid"), &format!("use uid:{n}")),
            None => bad(format!("{name} is not a uid"), "use uid: and a decimal number, such as uid:1000"),
        };
    }
    if let Some(digits) = name.strip_prefix(FINGERPRINT) {
        let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 64 || !digits.bytes().all(hexadecimal) {
            return bad(
                format!(
                    "{name} is not a certificate fingerprint: use 64 hexadecimal digits in lower case, without colons"
                ),
                "copy it from the audit record of the refused client, or from `openssl x509 -noout -fingerprint -sha256`",
            );
        }
    }
    Ok(())
}

fn by(record: &AccessRecord) -> AccessKind {
    match (&record.token, record.name.starts_with(UID)) {
        (Some(_), _) => AccessKind::Token,
        (None, true) => AccessKind::LocalUser,
        (None, false) => AccessKind::Certificate,
    }
}

fn exists(name: &str) -> Error {
    Error::new(Kind::Exists, format!("{name} already has access"))
        .hint("see `coffer access list`, or revoke it with `coffer access deny`")
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod access_tests;

#[cfg(test)]
mod tests {
    use super::super::datadir::{DataDir, Role};
    use super::super::{GRACE, OpenAs, Service};
    use super::*;

    #[test]
    fn a_token_is_taken_out_of_a_name_and_the_rest_stays() {
        assert_eq!(split_token("web?t=tok-1&c=2").unwrap(), ("web?c=2".to_owned(), Some("tok-1")));
        assert_eq!(split_token("web?t=tok-1").unwrap(), ("web".to_owned(), Some("tok-1")));
        assert_eq!(split_token("web?t=att-1&c=2").unwrap(), ("web?t=att-1&c=2".to_owned(), None));
        assert_eq!(split_token("web").unwrap(), ("web".to_owned(), None));
    }

    /// The access records are read once, however often one client asks, and again after each change.
    #[test]
    fn asking_a_thousand_times_reads_what_is_allowed_once() {
        let (place, key) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let env = Env::system();
        let data = DataDir::at(&place.path().join("data")).unwrap();
        let (root, config) = (crate::kms::RootChoice::File(key.path().join("key")), Default::default());
        Service::init(&data, &env, &root, &config).unwrap();
        let lock = data.try_lock(&env, "test").unwrap().unwrap();
        let opening = OpenAs { role: Role::Command, single_host: false, lease_grace: GRACE };
        let unlock = crate::kms::RootUnlock::Automatic;
        let service = Service::open(data, env, lock, &unlock, opening).unwrap();
        let owner = service.caller_of(0, "test").unwrap();
        for n in 0..50 {
            service.access.allow(&owner, &format!("c{n}"), None, (&[], true), false).unwrap();
        }
        let remote = |name: Option<&str>| Remote {
            names: name.map(str::to_owned).into_iter().collect(),
            process: None,
            client: "test".into(),
            connection: 1,
        };
        let cost = |remote: &Remote| {
            let before = service.ledger().catalog().rows_read();
            (0..1024).for_each(|_| assert!(service.remote_exports(remote).unwrap().is_empty()));
            service.ledger().catalog().rows_read() - before
        };
        assert_eq!(cost(&remote(None)), 0, "a client that presents no name is allowed nothing");
        assert_eq!(cost(&remote(Some("cn:stranger"))), 50);
        assert_eq!(cost(&remote(Some("cn:c7"))), 0, "there is no volume, and the records are cached");
        service.access.deny(&owner, "c7").unwrap();
        assert_eq!(cost(&remote(Some("cn:c7"))), 49);
        assert!(service.access.of(&remote(Some("cn:c7")), None).unwrap().is_none());
        assert!(service.access.of(&remote(Some("dns:c8")), None).unwrap().is_some());
    }

    /// A certificate chooses its own names: a name of one kind must not match a record of another.
    #[test]
    fn names_of_one_kind_are_none_of_another() {
        for (record, shown, is) in [
            ("sha256:ab", "sha256:ab", true),
            ("sha256:ab", "uri:sha256:ab", false),
            ("sha256:ab", "cn:sha256:ab", false),
            ("uid:0", "cn:uid:0", false),
            ("uid:0", "uri:uid:0", false),
            ("uid:0", "uid:0", true),
            ("dns:db.example", "dns:db.example", true),
            ("dns:db.example", "cn:db.example", false),
            ("dns:db.example", "uri:dns:db.example", false),
            ("cn:db", "dns:db", false),
            ("uri:spiffe://a/b", "uri:spiffe://a/b", true),
            ("email:a@b", "cn:a@b", false),
            // Records from before kinds existed.
            ("client", "cn:client", true),
            ("db.example", "dns:db.example", true),
            ("db.example", "email:db.example", false),
            ("db.example", "uri:db.example", false),
            ("a@b", "email:a@b", true),
            ("a@b", "cn:a@b", true),
            ("a@b", "dns:a@b", false),
            ("spiffe://a/b", "uri:spiffe://a/b", true),
            ("spiffe://a/b", "cn:spiffe://a/b", false),
            ("client", "cn:Client", false),
        ] {
            assert_eq!(means(record, shown), is, "{record} {shown}");
        }
    }
}
