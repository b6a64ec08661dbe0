//! The operations of coffer: one struct each, with its answer, its authorization, its audit act for a refusal, and its
//! implementation.
//!
//! [`Request`] lists all of them, under their names on the control socket. The socket, the command line and other front ends
//! route from it. An operation that is missing from the list is not a `Request`, and one that lacks a part does not compile.

mod access;
mod access_key;
mod account;
mod attachment;
mod audit;
mod aws;
mod crypto;
mod grant;
mod installation;
mod key;
mod once;
mod principal;
mod repository;
mod schedule;
mod snapshot;
mod upkeep;
mod volume;

pub use access::{AllowAccess, CreateAccessToken, DenyAccess, ListAccess};
pub use access_key::{CreateAccessKey, DeleteAccessKey, ListAccessKeys, UpdateAccessKey};
pub use account::{CreateAccount, DescribeAccount, ListAccounts};
pub use attachment::{AttachVolume, BreakLease, DetachVolume, ListAttachments, RenewAttachment};
pub use audit::{AcceptAudit, ListAuditEvents, VerifyAudit};
pub use aws::CallAws;
pub use crypto::{Decrypt, Encrypt, GenerateDataKey, ReEncrypt};
pub use grant::{
    CreateGrant, GetKeyPolicy, ListGrants, ListRetirableGrants, PutKeyPolicy, ResetKeyPolicy, RetireGrant, RevokeGrant,
};
pub use installation::{Doctor, GetStatus};
pub use key::{
    CancelKeyDeletion, CreateAlias, CreateKey, DeleteAlias, DescribeKey, DisableKey, EnableKey, ListAliases, ListKeys,
    RewrapKeys, RotateKeyOnDemand, ScheduleKeyDeletion, UpdateAlias,
};
pub use once::ShownOnce;
pub use principal::{
    CreateRole, CreateUser, DeletePrincipal, DeletePrincipalPolicy, DescribePrincipal, GetPrincipalPolicy,
    ListPrincipalPolicies, ListPrincipals, PutPrincipalPolicy, RevokeSessions, UpdateAssumeRolePolicy,
};
pub use repository::{
    AddRepository, DescribeRepository, ListRepositories, MoveRepository, RemoveRepository, SetDefaultRepository,
    SetRepositoryCache,
};
pub use schedule::{AddSchedule, ListSchedules, PauseSchedule, RemoveSchedule};
pub use snapshot::{
    CopySnapshot, CreateSnapshot, CreateSnapshots, DeleteSnapshot, DescribeSnapshot, DescribeSnapshots, DiffSnapshots,
    DrillSnapshot, ExportSnapshot, GetRecycleBin, HoldSnapshot, LockSnapshot, PruneSnapshots, RecoverSnapshot,
    ReleaseSnapshot, SetRecycleBin, TagSnapshot, UnlockSnapshot, VerifySnapshots, WaitSnapshot,
};
pub use upkeep::{CheckRepository, CollectGarbage, CollectedGarbage, CountRepository, RemoveRef};
pub use volume::{
    AcceptLostWrites, AcceptRollback, CreateVolume, DeleteVolume, DescribeVolume, DescribeVolumes, ExportVolume,
    ExportVolumeKey, GrowVolume, ImportVolume, ModifyVolume, ResumeVolume, RollBackVolume, SuspendVolume,
};

use super::api::{
    AccessInfo, AccessKeyInfo, AccountInfo, AliasInfo, AttachmentInfo, ChangesInfo, CheckedInfo, CryptoInfo, EventInfo,
    ExportInfo, Finding, GrantInfo, KeyInfo, PolicyInfo, PrincipalInfo, PrincipalPolicyInfo, PrunedInfo,
    RecycleBinInfo, Reply, RepositoryInfo, RewrapInfo, RolledBackInfo, ScheduleInfo, SnapshotInfo, StatsInfo,
    StatusInfo, VerifiedInfo, VolumeInfo,
};
use super::{Report, Service};
use crate::document::Document;
use crate::error::{Error, Kind, Result};
use crate::kms::{Authority, Caller, KeyRef, Pins};
use crate::ledger::Act;
use crate::redact;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::sync::Arc;

/// Who may request an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// Root, and the owner of the data directory. If the operation uses a CMK, its policy is evaluated as well.
    Administrator,
    /// Whoever the policy and the grants of the CMK allow; the KMS evaluates them.
    KeyPolicy,
}

/// The service, caller, file and progress callback of one call.
pub struct Call<'a> {
    pub(super) service: &'a Arc<Service>,
    pub(super) caller: &'a Caller,
    pub(super) report: Report<'a>,
    file: Option<File>,
    pins: Pins<'a>,
}

impl<'a> Call<'a> {
    /// That of a new request.
    pub(super) fn new(service: &'a Arc<Service>, caller: &'a Caller, file: Option<File>, report: Report<'a>) -> Self {
        Self { service, caller, report, file, pins: Pins::new(&service.kms) }
    }

    /// Takes the open file that was passed with the request.
    fn take_file(&mut self) -> Result<File> {
        self.file.take().ok_or_else(|| {
            Error::new(Kind::Usage, "no open file was passed with the request, which needs one")
                .hint("pass one over the control socket with SCM_RIGHTS, or use the command line")
        })
    }

    /// Returns the key that the request names by id, ARN or alias: the same one each time, even if the alias is moved meanwhile.
    fn key(&self, name: &str) -> Result<KeyRef> {
        Ok(self.pins.pin(name.parse()?))
    }
}

/// One operation.
pub trait Operation: Into<Request> {
    /// Its answer.
    type Answer: Answer;
    /// Who may request it.
    const AUTHORIZATION: Authorization;

    /// Returns the act that the audit records for a refusal. `None`: the operation only reads what no policy protects, and
    /// refusals leave no record.
    fn act(&self, call: &Call<'_>) -> Option<Act>;

    /// Performs it.
    ///
    /// # Errors
    /// The errors that its documentation lists.
    fn perform(self, call: Call<'_>) -> Result<Self::Answer>;

    /// Returns which secret its answer shows that cannot be shown again.
    fn shows_once(&self) -> ShownOnce {
        ShownOnce::Nothing
    }
}

/// The answer of an operation, and its conversion to and from a [`Reply`].
pub trait Answer: Sized {
    /// Converts it to the reply that travels.
    fn into_reply(self) -> Reply;
    /// Extracts it from such a reply; `None` if that is the answer of another operation.
    fn of_reply(reply: Reply) -> Option<Self>;
}

/// Success without data, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done(pub String);

macro_rules! answers {
    ($($answer:ty: $value:ident => $reply:pat => $make:expr),* $(,)?) => {
        $(impl Answer for $answer {
            fn into_reply(self) -> Reply {
                let $value = self;
                $make
            }
            fn of_reply(reply: Reply) -> Option<Self> {
                match reply {
                    $reply => Some($value),
                    _ => None,
                }
            }
        })*
    };
}

answers! {
    Document: output => Reply::Aws { output } => Reply::Aws { output },
    StatusInfo: status => Reply::Status(status) => Reply::Status(status),
    KeyInfo: key => Reply::Key(key) => Reply::Key(key),
    Vec<KeyInfo>: keys => Reply::Keys { keys } => Reply::Keys { keys },
    PolicyInfo: policy => Reply::Policy(policy) => Reply::Policy(policy),
    GrantInfo: grant => Reply::Grant(grant) => Reply::Grant(grant),
    Vec<GrantInfo>: grants => Reply::Grants { grants } => Reply::Grants { grants },
    CryptoInfo: crypto => Reply::Crypto(crypto) => Reply::Crypto(crypto),
    Vec<AliasInfo>: aliases => Reply::Aliases { aliases } => Reply::Aliases { aliases },
    RewrapInfo: told => Reply::Rewrapped(told) => Reply::Rewrapped(told),
    VolumeInfo: volume => Reply::Volume(volume) => Reply::Volume(volume),
    RolledBackInfo: done => Reply::RolledBack(done) => Reply::RolledBack(done),
    Vec<VolumeInfo>: volumes => Reply::Volumes { volumes } => Reply::Volumes { volumes },
    SnapshotInfo: snapshot => Reply::Snapshot(snapshot) => Reply::Snapshot(snapshot),
    Vec<SnapshotInfo>: snapshots => Reply::Snapshots { snapshots } => Reply::Snapshots { snapshots },
    RepositoryInfo: repository => Reply::Repository(repository) => Reply::Repository(repository),
    Vec<RepositoryInfo>: repositories => Reply::Repositories { repositories } => Reply::Repositories { repositories },
    Vec<StatsInfo>: repositories => Reply::Stats { repositories } => Reply::Stats { repositories },
    Vec<CheckedInfo>: repositories => Reply::Checked { repositories } => Reply::Checked { repositories },
    Vec<VerifiedInfo>: snapshots => Reply::Verified { snapshots } => Reply::Verified { snapshots },
    ScheduleInfo: schedule => Reply::Schedule(schedule) => Reply::Schedule(schedule),
    Vec<ScheduleInfo>: schedules => Reply::Schedules { schedules } => Reply::Schedules { schedules },
    RecycleBinInfo: bin => Reply::RecycleBin(bin) => Reply::RecycleBin(bin),
    ExportInfo: export => Reply::Exported(export) => Reply::Exported(export),
    ChangesInfo: changes => Reply::Changes(changes) => Reply::Changes(changes),
    AttachmentInfo: attachment => Reply::Attachment(attachment) => Reply::Attachment(attachment),
    Vec<AttachmentInfo>: attachments => Reply::Attachments { attachments } => Reply::Attachments { attachments },
    AccessInfo: client => Reply::Access(client) => Reply::Access(client),
    Vec<AccessInfo>: clients => Reply::AccessList { clients } => Reply::AccessList { clients },
    AccountInfo: account => Reply::Account(account) => Reply::Account(account),
    Vec<AccountInfo>: accounts => Reply::Accounts { accounts } => Reply::Accounts { accounts },
    PrincipalInfo: principal => Reply::Principal(principal) => Reply::Principal(principal),
    Vec<PrincipalInfo>: principals => Reply::Principals { principals } => Reply::Principals { principals },
    PrincipalPolicyInfo: policy => Reply::PrincipalPolicy(policy) => Reply::PrincipalPolicy(policy),
    Vec<PrincipalPolicyInfo>: policies => Reply::PrincipalPolicies { policies } => Reply::PrincipalPolicies { policies },
    AccessKeyInfo: key => Reply::AccessKey(key) => Reply::AccessKey(key),
    Vec<AccessKeyInfo>: keys => Reply::AccessKeys { keys } => Reply::AccessKeys { keys },
    Vec<Finding>: findings => Reply::Findings { findings } => Reply::Findings { findings },
    Vec<EventInfo>: events => Reply::Events { events } => Reply::Events { events },
}

impl Answer for Done {
    fn into_reply(self) -> Reply {
        Reply::Done { message: self.0, warning: None }
    }
    fn of_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Done { message, .. } => Some(Self(message)),
            _ => None,
        }
    }
}

/// What pruning did, or, in a dry run, would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Each volume's snapshots, oldest first.
    pub snapshots: Vec<PrunedInfo>,
    /// Whether nothing was deleted.
    pub dry_run: bool,
}

impl Answer for Pruned {
    fn into_reply(self) -> Reply {
        Reply::Pruned { snapshots: self.snapshots, dry_run: self.dry_run }
    }
    fn of_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Pruned { snapshots, dry_run } => Some(Self { snapshots, dry_run }),
            _ => None,
        }
    }
}

/// That something was done, and what the caller should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warned(pub String, pub Option<String>);

impl Answer for Warned {
    fn into_reply(self) -> Reply {
        Reply::Done { message: self.0, warning: self.1 }
    }
    fn of_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Done { message, warning } => Some(Self(message, warning)),
            _ => None,
        }
    }
}

macro_rules! operations {
    ($($name:literal => $operation:ident),* $(,)?) => {
        /// An operation and what it acts on. Volumes and snapshots are named by id or name, keys by id, ARN or alias.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "action")]
        pub enum Request {
            $(
                #[doc = concat!("[`", stringify!($operation), "`]")]
                #[serde(rename = $name)]
                $operation($operation),
            )*
        }

        $(impl From<$operation> for Request {
            fn from(operation: $operation) -> Self {
                Self::$operation(operation)
            }
        })*

        impl Request {
            /// Returns its name on the control socket, such as `volume-create`.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$operation(_) => $name,)*
                }
            }

            /// Returns which secret its answer shows that cannot be shown again.
            #[must_use]
            pub fn shows_once(&self) -> ShownOnce {
                match self {
                    $(Self::$operation(operation) => operation.shows_once(),)*
                }
            }

            /// Performs it.
            pub(super) fn route(self, call: Call<'_>) -> Result<Reply> {
                match self {
                    $(Self::$operation(operation) => run(operation, call).map(Answer::into_reply),)*
                }
            }
        }
    };
}

operations! {
    "status" => GetStatus,
    "aws" => CallAws,
    "key-create" => CreateKey,
    "key-list" => ListKeys,
    "key-show" => DescribeKey,
    "key-enable" => EnableKey,
    "key-disable" => DisableKey,
    "key-rotate" => RotateKeyOnDemand,
    "key-rewrap" => RewrapKeys,
    "key-schedule-deletion" => ScheduleKeyDeletion,
    "key-cancel-deletion" => CancelKeyDeletion,
    "key-encrypt" => Encrypt,
    "key-decrypt" => Decrypt,
    "key-re-encrypt" => ReEncrypt,
    "key-generate-data-key" => GenerateDataKey,
    "key-policy-show" => GetKeyPolicy,
    "key-policy-set" => PutKeyPolicy,
    "key-policy-reset" => ResetKeyPolicy,
    "grant-create" => CreateGrant,
    "grant-list" => ListGrants,
    "grant-list-retirable" => ListRetirableGrants,
    "grant-revoke" => RevokeGrant,
    "grant-retire" => RetireGrant,
    "alias-create" => CreateAlias,
    "alias-update" => UpdateAlias,
    "alias-delete" => DeleteAlias,
    "alias-list" => ListAliases,
    "volume-create" => CreateVolume,
    "volume-modify" => ModifyVolume,
    "volume-suspend" => SuspendVolume,
    "volume-resume" => ResumeVolume,
    "volume-list" => DescribeVolumes,
    "volume-show" => DescribeVolume,
    "volume-delete" => DeleteVolume,
    "volume-grow" => GrowVolume,
    "volume-rollback" => RollBackVolume,
    "volume-export" => ExportVolume,
    "volume-import" => ImportVolume,
    "volume-export-key" => ExportVolumeKey,
    "volume-accept-rollback" => AcceptRollback,
    "volume-accept-lost-writes" => AcceptLostWrites,
    "snapshot-create" => CreateSnapshot,
    "snapshot-create-group" => CreateSnapshots,
    "snapshot-copy" => CopySnapshot,
    "snapshot-list" => DescribeSnapshots,
    "snapshot-wait" => WaitSnapshot,
    "snapshot-show" => DescribeSnapshot,
    "snapshot-delete" => DeleteSnapshot,
    "snapshot-verify" => VerifySnapshots,
    "snapshot-diff" => DiffSnapshots,
    "snapshot-drill" => DrillSnapshot,
    "snapshot-export" => ExportSnapshot,
    "snapshot-tag" => TagSnapshot,
    "snapshot-hold" => HoldSnapshot,
    "snapshot-release" => ReleaseSnapshot,
    "snapshot-lock" => LockSnapshot,
    "snapshot-unlock" => UnlockSnapshot,
    "snapshot-recover" => RecoverSnapshot,
    "snapshot-prune" => PruneSnapshots,
    "schedule-add" => AddSchedule,
    "schedule-list" => ListSchedules,
    "schedule-remove" => RemoveSchedule,
    "schedule-pause" => PauseSchedule,
    "recycle-bin-set" => SetRecycleBin,
    "recycle-bin-show" => GetRecycleBin,
    "repository-add" => AddRepository,
    "repository-list" => ListRepositories,
    "repository-show" => DescribeRepository,
    "repository-default" => SetDefaultRepository,
    "repository-cache" => SetRepositoryCache,
    "repository-move" => MoveRepository,
    "repository-remove" => RemoveRepository,
    "repository-gc" => CollectGarbage,
    "repository-stats" => CountRepository,
    "repository-check" => CheckRepository,
    "repository-unref" => RemoveRef,
    "attach-begin" => AttachVolume,
    "attach-renew" => RenewAttachment,
    "attach-end" => DetachVolume,
    "attachment-list" => ListAttachments,
    "lease-break" => BreakLease,
    "access-allow" => AllowAccess,
    "access-token" => CreateAccessToken,
    "access-deny" => DenyAccess,
    "access-list" => ListAccess,
    "account-create" => CreateAccount,
    "account-list" => ListAccounts,
    "account-show" => DescribeAccount,
    "user-create" => CreateUser,
    "role-create" => CreateRole,
    "principal-list" => ListPrincipals,
    "principal-show" => DescribePrincipal,
    "principal-delete" => DeletePrincipal,
    "principal-policy-put" => PutPrincipalPolicy,
    "principal-policy-show" => GetPrincipalPolicy,
    "principal-policy-list" => ListPrincipalPolicies,
    "principal-policy-delete" => DeletePrincipalPolicy,
    "principal-update-trust" => UpdateAssumeRolePolicy,
    "principal-revoke-sessions" => RevokeSessions,
    "access-key-create" => CreateAccessKey,
    "access-key-list" => ListAccessKeys,
    "access-key-update" => UpdateAccessKey,
    "access-key-delete" => DeleteAccessKey,
    "doctor" => Doctor,
    "audit-verify" => VerifyAudit,
    "audit-accept" => AcceptAudit,
    "audit-list" => ListAuditEvents,
}

/// Runs an operation for a caller, and ensures that a refusal is audited.
pub(super) fn run<O: Operation>(operation: O, call: Call<'_>) -> Result<O::Answer> {
    let (service, caller, act) = (call.service, call.caller, operation.act(&call));
    let perform = || {
        authorize::<O>(caller)?;
        operation.perform(call)
    };
    match act {
        Some(act) => service.ledger().verb(act, caller, perform),
        None => perform(),
    }
}

fn authorize<O: Operation>(caller: &Caller) -> Result<()> {
    match O::AUTHORIZATION {
        Authorization::KeyPolicy => Ok(()),
        Authorization::Administrator if caller.authority == Authority::Administrator => Ok(()),
        Authorization::Administrator => {
            let what = format!("{} is not an administrator of this installation", caller.principal);
            Err(Error::new(Kind::AccessDenied, what).hint("run as the owner of the data directory, or as root"))
        }
    }
}

/// Longest client-supplied name that is recorded, in bytes.
const NAMED: usize = 256;

/// Returns a client-supplied name for the audit. Masks tokens before cutting, so that no unrecognizable part of one is left.
fn cut(text: &str) -> String {
    let mut text = redact::tokens(text).into_owned();
    text.truncate(text.floor_char_boundary(NAMED));
    text
}

/// Returns an act on an object that the request names.
pub(super) fn named(act: &str, what: &str) -> Act {
    Act::new(act).detail("named", cut(what))
}

/// Returns an act on a CMK: by its ARN if that is known, else as the request names it.
fn on_key(call: &Call<'_>, operation: &str, key: &str) -> Act {
    match call.key(key) {
        Ok(key) => call.service.kms.act_on(format!("kms:{operation}"), &key),
        Err(_) => named(&format!("kms:{operation}"), key),
    }
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
