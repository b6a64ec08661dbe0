//! Shared by the tests of this module: an installation with a clock that can be set.

use super::*;
use crate::env::{Clock, Env, SystemRng, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Asker, Identity, Ledger};
use crate::secret::Secret;
use crate::units::InstallationId;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The installation's first account.
pub(super) const FIRST: &str = "111122223333";
/// A policy document.
pub(super) const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[]}"#;
/// The key of IAM in these tests: all bytes are this.
pub(super) const KEY: u8 = 0x42;
/// The installation.
pub(super) const INSTALLATION: InstallationId = InstallationId([7; 16]);
pub(super) const START: i64 = 1_800_000_000_000;

#[derive(Clone)]
struct SetClock(Arc<AtomicI64>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
    fn since_boot(&self) -> i64 {
        0
    }
}

pub(super) struct Place {
    _dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) iam: Iam,
}

pub(super) fn root() -> Secret<32> {
    Secret::build(|out| out.fill(KEY))
}

impl Place {
    pub(super) fn new() -> Self {
        let (dir, now) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(START)));
        let env = Env { clock: Arc::new(SetClock(now.clone())), rng: Arc::new(SystemRng), boot_id: "test".into() };
        let made = Ledger::create(dir.path(), env.clone(), &root(), &Act::new("coffer:Init"), |_| Ok(()));
        let ledger = Arc::new(made.unwrap());
        let first = Account { id: FIRST.into(), name: "coffer".into(), created: Timestamp(START) };
        let of = Of { env, ledger: ledger.clone(), installation: INSTALLATION, first, key: root(), root_generation: 1 };
        Self { _dir: dir, now, ledger, iam: Iam::new(of) }
    }

    pub(super) fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    pub(super) fn user(&self, name: &str) -> User {
        let new = NewUser { account: FIRST.into(), name: name.into(), ..NewUser::default() };
        self.iam.create_user(new, by()).unwrap()
    }

    pub(super) fn role(&self, name: &str) -> Role {
        let new = NewRole { account: FIRST.into(), name: name.into(), trust: POLICY.into(), ..NewRole::default() };
        self.iam.create_role(new, &any, by()).unwrap()
    }

    /// Makes an access key; returns its id and secret.
    pub(super) fn key(&self, owner: &PrincipalRef) -> (String, String) {
        let made = self.iam.create_access_key(owner, by()).unwrap();
        (made.key.id, made.secret.to_string())
    }

    /// The principal of a new access key.
    pub(super) fn signer(&self, owner: &PrincipalRef) -> Principal {
        self.iam.credential(&self.key(owner).0, None).unwrap().principal
    }

    pub(super) fn assume(&self, request: &AssumeRole, caller: &Principal) -> Result<AssumedRole> {
        self.iam.assume_role(request, caller, &any, &|_| Ok(()), by())
    }

    /// The acts in the audit, with their results; an intent's is in the record after it.
    pub(super) fn acts(&self) -> Vec<(String, String)> {
        let all = self.ledger.audit_records().unwrap().map(|r| serde_json::to_value(r.unwrap()).unwrap());
        let text = |v: &serde_json::Value, field: &str| v[field].as_str().unwrap_or_default().to_owned();
        all.map(|r| (text(&r, "act"), text(&r, "result"))).collect()
    }
}

pub(super) fn by() -> Asker {
    let principal = format!("arn:aws:iam::{FIRST}:root");
    let identity = Identity { principal, via_service: None, client: "test".into(), request: None };
    Asker { identity, administrator: true, denial: None }
}

/// Accepts every document.
pub(super) fn any(_: &str) -> Result<()> {
    Ok(())
}

/// Accepts no document.
pub(super) fn none(_: &str) -> Result<()> {
    Err(Error::new(Kind::Usage, "malformed"))
}

/// Nothing outside of this layer names a principal.
pub(super) const NOWHERE: Elsewhere<'static> = Elsewhere { rename: &|_, _| None, records: &|_, _, _| Ok(0) };

pub(super) fn alice() -> PrincipalRef {
    PrincipalRef::user(FIRST, "alice")
}

pub(super) fn deploy() -> PrincipalRef {
    PrincipalRef::role(FIRST, "deploy")
}

/// A request for a session of `deploy`.
pub(super) fn request() -> AssumeRole {
    let role_arn = format!("arn:aws:iam::{FIRST}:role/deploy");
    AssumeRole { role_arn, session_name: "build-7".into(), ..AssumeRole::default() }
}
