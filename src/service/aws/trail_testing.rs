//! An installation with users and a clock that is set, and its operations by their names.

use super::testing::{A, B, SetClock, installed};
use super::{Signed, find};
use crate::env::Env;
use crate::error::Result;
use crate::iam::{NewUser, PrincipalRef};
use crate::kms::policy::Policy;
use crate::kms::{Authority, Caller};
use crate::ledger::RequestInfo;
use crate::service::{Role, Service};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub(crate) const ACCOUNT: &str = A;
pub(crate) const OTHER: &str = B;
/// 2026-03-01T12:00:00Z.
pub(crate) const START: i64 = 1_772_366_400_000;
pub(crate) const DAY: i64 = 24 * 60 * 60 * 1000;

/// Two accounts in us-east-1, the first of which is the installation's own.
pub(crate) struct World {
    _dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    pub(crate) service: Arc<Service>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (dir, now) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(START)));
        let env = Env { clock: Arc::new(SetClock(now.clone(), now.clone())), ..Env::system() };
        let service = installed(&dir, env, Role::Command);
        Self { _dir: dir, now, service }
    }

    pub(crate) fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// The owner of the data directory, at the command line.
    pub(crate) fn local(&self) -> Caller {
        Caller::new(format!("arn:aws:iam::{ACCOUNT}:user/uid-0"), "pid 1", Authority::Administrator)
    }

    /// A new access key of an account's root.
    pub(crate) fn root(&self, account: &str) -> Caller {
        self.signed(&PrincipalRef::root(account), "us-east-1")
    }

    /// A new user with that policy, and its access key.
    pub(crate) fn user(&self, name: &str, policy: &Value) -> Caller {
        let (iam, of) = (self.service.kms.iam(), PrincipalRef::user(ACCOUNT, name));
        let new = NewUser { account: ACCOUNT.into(), name: name.into(), ..NewUser::default() };
        iam.create_user(new, &self.local()).unwrap();
        let check = |text: &str| Policy::parse_identity(text).map(drop);
        iam.put_policy(&of, "p", &policy.to_string(), &check, &self.local()).unwrap();
        self.signed(&of, "us-east-1")
    }

    /// A request of a principal in a Region, with a new access key.
    pub(crate) fn signed(&self, of: &PrincipalRef, region: &str) -> Caller {
        let made = self.service.kms.iam().create_access_key(of, &self.local()).unwrap();
        self.signed_with(&made.key.id, None, region)
    }

    /// A request of a session.
    pub(crate) fn session(&self, access_key: &str, token: &str) -> Caller {
        self.signed_with(access_key, Some(token), "us-east-1")
    }

    fn signed_with(&self, access_key: &str, token: Option<&str>, region: &str) -> Caller {
        let found = self.service.credential(access_key, token).unwrap();
        let info = RequestInfo {
            id: "12345126-30d5-4b28-98b9-9153da559963".into(),
            source: "192.0.2.7".into(),
            agent: "aws-cli/2".into(),
            region: region.into(),
            access_key: access_key.into(),
            ..RequestInfo::default()
        };
        self.service.signed_by(Signed { principal: Arc::new(found.principal), info, secure_transport: true }).unwrap()
    }

    pub(crate) fn call(&self, caller: &Caller, name: &str, input: Value) -> Result<Value> {
        self.service.aws(caller, find(name).unwrap(), input)
    }

    /// A new key: its ARN.
    pub(crate) fn key(&self, caller: &Caller, tags: &[(&str, &str)]) -> String {
        let tags: Vec<Value> = tags.iter().map(|(k, v)| json!({ "TagKey": k, "TagValue": v })).collect();
        let made = self.call(caller, "kms:CreateKey", json!({ "Tags": tags })).unwrap();
        made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }
}

/// A policy that allows these actions on everything.
pub(crate) fn allow(actions: &[&str]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": actions, "Resource": "*" }] })
}

/// AWS's code of a refusal.
pub(crate) fn code(answer: Result<Value>) -> &'static str {
    answer.unwrap_err().aws()
}
