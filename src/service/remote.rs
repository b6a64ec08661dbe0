//! What clients with limited access may use (TLS clients, and local users other than root and the owner of the data directory),
//! and the verbs that grant it.

use super::access::split_token;
use super::token::ExportName;
use super::{Attached, ConnectRequest, Holder, Remote, ServedExport, Service};
use crate::error::Result;
use crate::kms::Caller;

impl Service {
    /// Returns the volumes that a client may open without a token.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn remote_exports(&self, remote: &Remote) -> Result<Vec<ServedExport>> {
        let Some(access) = self.access.of(remote, None)? else { return Ok(Vec::new()) };
        self.records.volumes()?.iter().filter(|r| access.allows(r.id)).map(|r| self.served(r)).collect()
    }

    /// Describes one export to a client with limited access.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`](crate::error::Kind::AccessDenied), whether or not the volume exists; audited.
    pub fn remote_export(&self, name: &str, remote: &Remote) -> Result<ServedExport> {
        let read_only = ExportName::parse(name)?.read_only;
        Ok(ServedExport { read_only, ..self.served(&self.access.admit(name, remote)?.1)? })
    }

    /// Attaches one connection of a client with limited access.
    ///
    /// # Errors
    /// The errors of [`Service::remote_export`] and [`Service::attach`].
    pub fn remote_attach(&self, name: &str, remote: &Remote) -> Result<Attached> {
        let (access, volume) = self.access.admit(name, remote)?;
        let caller = self.access.caller(&access, remote, &volume.key_arn);
        // The access token in the name is not an attachment's.
        let peer = remote.process.clone().unwrap_or(Holder::Remote(access.name));
        let asking = ConnectRequest { peer, connection: remote.connection };
        self.opening(name, &caller, || self.attach(&split_token(name)?.0, asking, &caller))
    }

    /// Describes a snapshot to a client with limited access. Whoever may use the source volume may read it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`](crate::error::Kind::AccessDenied), whether or not the snapshot exists; audited.
    pub fn remote_snapshot(&self, name: &str, remote: &Remote) -> Result<(ServedExport, Caller)> {
        let (record, caller) = self.access.admit_snapshot(name, remote)?;
        Ok((self.snapshot_export(record.id)?, caller))
    }

    /// Returns the identity of a client before it has named an export: that of the first name in its certificate with an access
    /// record, else anonymous.
    #[must_use]
    pub fn remote_identity(&self, remote: &Remote) -> Caller {
        self.access.identity_of(remote)
    }
}
