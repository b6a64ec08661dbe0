//! Operations on who may use which volumes: clients over TLS, and other users of this machine.

use super::{Authorization, Call, Operation, ShownOnce, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::AccessInfo;
use serde::{Deserialize, Serialize};

/// Allows a client, by a name in its certificate or a local user's uid, to use volumes. Replaces its earlier access record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowAccess {
    /// A name in the certificate, the certificate's fingerprint as `sha256:…`, or a local user as `uid:1000`.
    pub name: String,
    /// The user of this account that it acts as. `None`: the user with the same name.
    pub user: Option<String>,
    /// Names or ids of the volumes.
    pub volumes: Vec<String>,
    /// Instead of `volumes`: all volumes, including future ones.
    pub all: bool,
    /// Add to what it was allowed before, instead of replacing that.
    #[serde(default)]
    pub add: bool,
}

impl Operation for AllowAccess {
    type Answer = AccessInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:AllowTlsClient", &self.name))
    }
    fn perform(self, call: Call<'_>) -> Result<AccessInfo> {
        let Self { name, user, volumes, all, add } = self;
        call.service.access.allow(call.caller, &name, user, (&volumes, all), add)
    }
}

/// Creates a token that replaces a client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAccessToken {
    /// The name of the token.
    pub name: String,
    /// The user of this account that its bearer acts as. `None`: the user with the same name.
    pub user: Option<String>,
    /// Names or ids of the volumes.
    pub volumes: Vec<String>,
    /// Instead of `volumes`: all volumes, including future ones.
    pub all: bool,
}

impl Operation for CreateAccessToken {
    type Answer = AccessInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:MakeTlsToken", &self.name))
    }
    fn perform(self, call: Call<'_>) -> Result<AccessInfo> {
        call.service.access.make_token(call.caller, &self.name, self.user, &self.volumes, self.all)
    }
    fn shows_once(&self) -> ShownOnce {
        ShownOnce::Token
    }
}

/// Revokes the access of a client or a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyAccess {
    /// The name of the client or token, as it is listed.
    pub name: String,
}

impl Operation for DenyAccess {
    type Answer = AccessInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:DenyTlsClient", &self.name).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<AccessInfo> {
        call.service.access.deny(call.caller, &self.name)
    }
}

/// Lists the access records: who may use which volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAccess {}

impl Operation for ListAccess {
    type Answer = Vec<AccessInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<AccessInfo>> {
        call.service.access.list()
    }
}
