//! What clients may have that are allowed some volumes alone: those over TLS, and users of this machine other than the owner
//! of the data and root. And the verbs that allow it.

use super::access::split_token;
use super::api::AccessInfo;
use super::token::ExportName;
use super::{Attached, ConnectRequest, Holder, Remote, ServedExport, Service};
use crate::error::Result;
use crate::kms::Caller;

impl Service {
    /// What a client over TLS may open with its certificate.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn remote_exports(&self, remote: &Remote) -> Result<Vec<ServedExport>> {
        let Some(access) = self.access.of(remote, None)? else { return Ok(Vec::new()) };
        self.records.volumes()?.iter().filter(|r| access.allows(r.id)).map(|r| self.served(r)).collect()
    }

    /// What one export would be to a client over TLS.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`](crate::error::Kind::AccessDenied), whether or not there is such a volume; audited.
    pub fn remote_export(&self, name: &str, remote: &Remote) -> Result<ServedExport> {
        let read_only = ExportName::parse(name)?.read_only;
        Ok(ServedExport { read_only, ..self.served(&self.access.admit(name, remote)?.1)? })
    }

    /// Attaches one connection of a client over TLS.
    ///
    /// # Errors
    /// As [`Service::remote_export`] and [`Service::attach`].
    pub fn remote_attach(&self, name: &str, remote: &Remote) -> Result<Attached> {
        let (access, volume) = self.access.admit(name, remote)?;
        let caller = self.access.caller(&access, remote, &volume.key_arn);
        // Its own token is no attachment's.
        let peer = remote.process.clone().unwrap_or(Holder::Remote(access.name));
        let asking = ConnectRequest { peer, connection: remote.connection };
        self.opening(name, &caller, || self.attach(&split_token(name)?.0, asking, &caller))
    }

    /// A client over TLS asks for a snapshot: who may use the volume that it was taken of may read it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`](crate::error::Kind::AccessDenied), whether or not there is such a snapshot; audited.
    pub fn remote_snapshot(&self, name: &str, remote: &Remote) -> Result<(ServedExport, Caller)> {
        let (record, caller) = self.access.admit_snapshot(name, remote)?;
        Ok((self.snapshot_export(record.id)?, caller))
    }

    /// Who a client is, as far as it is known before anything of what it asks for is: of a name in its certificate that is
    /// allowed something, else nobody.
    #[must_use]
    pub fn remote_identity(&self, remote: &Remote) -> Caller {
        self.access.identity_of(remote)
    }

    /// Lets the bearer of a certificate use volumes.
    pub(super) fn allow_client(
        &self,
        caller: &Caller,
        name: &str,
        user: Option<String>,
        volumes: &[String],
        all: bool,
    ) -> Result<AccessInfo> {
        self.access.allow(caller, name, user, volumes, all)
    }

    /// Makes a token. It is told in this answer alone.
    pub(super) fn make_token(
        &self,
        caller: &Caller,
        name: &str,
        user: Option<String>,
        volumes: &[String],
        all: bool,
    ) -> Result<AccessInfo> {
        self.access.make_token(caller, name, user, volumes, all)
    }

    /// Takes back what was allowed.
    pub(super) fn deny_client(&self, caller: &Caller, name: &str) -> Result<AccessInfo> {
        self.access.deny(caller, name)
    }

    /// All that is allowed.
    pub(super) fn list_clients(&self) -> Result<Vec<AccessInfo>> {
        self.access.list()
    }
}
