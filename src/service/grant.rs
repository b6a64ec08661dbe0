//! Key policies and grants as verbs, and the grants that volumes' leases live by.
//!
//! Who begins a lease is asked once: the policy of the volume's CMK, for CreateGrant and Decrypt. A lease that outlives its
//! connections (an attachment, a client over TLS) is given a grant of the volume service, in the transaction that writes the
//! lease; a restart or a resume opens the volume under that grant alone. It goes with the lease. If it is taken back before, the
//! volume is suspended, and stays so until it is detached and attached again.

use super::api::{GrantInfo, PolicyInfo, Reply, Request};
use super::records::{AttachmentRecord, LeaseRecord, VolumeRecord};
use super::{EC2, Holder, Service, context_of};
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::error::{Error, Kind, Result};
use crate::kms::policy::Policy;
use crate::kms::{Authority, Caller, Constraint, Grant, GrantFilter, GrantSpec, KeyRef};
use crate::units::VolumeId;
use crate::volume::Volume;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Service {
    pub(super) fn handle_policy(self: &Arc<Self>, caller: &Caller, request: Request) -> Result<Reply> {
        use Request as R;
        let (kms, of) = (&self.kms, |key: &str| key.parse::<KeyRef>());
        match request {
            R::KeyPolicyShow { key } => {
                let document = kms.get_key_policy(&of(&key)?, caller)?;
                let pretty = Policy::parse(&document)?.pretty();
                let key = kms.describe_key(&of(&key)?)?.arn;
                Ok(Reply::Policy(PolicyInfo { key, document, pretty }))
            }
            R::KeyPolicySet { key, policy, bypass_lockout_check } => {
                kms.put_key_policy(&of(&key)?, &policy, bypass_lockout_check, caller)?;
                Ok(Reply::Done { message: format!("{key} has this policy from now on; leases that are there go on") })
            }
            R::KeyPolicyReset { key } => {
                kms.reset_key_policy(&of(&key)?, caller)?;
                Ok(Reply::Done { message: format!("{key} has the default policy again: its account may do all") })
            }
            R::GrantCreate { key, grantee, retiring, operations, equals, subset, name } => {
                let operations = operations.iter().map(|o| o.parse()).collect::<Result<_>>()?;
                let constraint = constraint(equals, subset)?;
                let spec = GrantSpec { grantee, retiring, operations, constraint, name };
                let (grant, token) = kms.create_grant(&of(&key)?, spec, caller)?;
                Ok(Reply::Grant(self.grant_info(&grant, Some(token))))
            }
            R::GrantList { key, grant, grantee } => {
                let filter = GrantFilter { id: grant, grantee };
                self.grant_list(kms.list_grants(&of(&key)?, &filter, caller)?)
            }
            R::GrantListRetirable { retiring } => self.grant_list(kms.list_retirable_grants(&retiring, caller)?),
            R::GrantRevoke { key, grant } => {
                let gone = kms.revoke_grant(&of(&key)?, &grant, caller)?;
                self.suspend_lease_of(&gone);
                Ok(Reply::Done { message: format!("grant {} is revoked", gone.id) })
            }
            R::GrantRetire { key, grant, token } => {
                let key = key.as_deref().map(of).transpose()?;
                let gone = kms.retire_grant(key.as_ref(), grant.as_deref(), token.as_deref(), caller)?;
                self.suspend_lease_of(&gone);
                Ok(Reply::Done { message: format!("grant {} is retired", gone.id) })
            }
            _ => Err(Error::new(Kind::Failed, "this verb is not about policies or grants")),
        }
    }

    fn grant_list(&self, grants: Vec<Grant>) -> Result<Reply> {
        Ok(Reply::Grants { grants: grants.iter().map(|g| self.grant_info(g, None)).collect() })
    }

    fn grant_info(&self, grant: &Grant, token: Option<String>) -> GrantInfo {
        let pairs = |c: &EncryptionContext| {
            Some(c.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>())
        };
        let (equals, subset) = match &grant.constraint {
            Some(Constraint::Equals(c)) => (pairs(c), None),
            Some(Constraint::Subset(c)) => (None, pairs(c)),
            None => (None, None),
        };
        GrantInfo {
            id: grant.id.clone(),
            key: self.kms.key_arn(grant.key),
            name: grant.name.clone(),
            grantee: grant.grantee.clone(),
            retiring: grant.retiring.clone(),
            issuer: grant.issuer.clone(),
            operations: grant.operations.iter().map(ToString::to_string).collect(),
            equals,
            subset,
            created: grant.created,
            token,
        }
    }

    /// Asks whether a caller may have a volume: before its lease, and also while the volume is open for others.
    pub(super) fn ask_for_lease(&self, record: &VolumeRecord, caller: &Caller) -> Result<()> {
        let client = format!("{}, volume {}", caller.client, record.id);
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        self.kms.ask_for_volume(&record.key_arn.parse()?, &context_of(&record.context)?, &caller)
    }

    /// Asks whether a caller may have an open volume's data key in clear: of each CMK that wraps it.
    pub(super) fn ask_for_export(&self, volume: &Volume, caller: &Caller) -> Result<()> {
        let (keys, context) = self.wrapped_under(volume)?;
        let client = format!("{}, volume {}", caller.client, volume.id());
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        keys.into_iter().try_for_each(|key| self.kms.ask_for_export(&KeyRef::id(key), &context, &caller))
    }

    /// The CMKs that wrap an open volume's data keys, and under which encryption context.
    fn wrapped_under(&self, volume: &Volume) -> Result<(Vec<KeyId>, EncryptionContext)> {
        let (blobs, context) = volume.with_header(|h| {
            let blobs: Vec<_> = h.keys().iter().flat_map(|k| k.keys.clone()).collect();
            (blobs, h.identity().context.clone())
        });
        let mut keys: Vec<KeyId> = Vec::new();
        for wrapped in blobs {
            let id = self.kms.blob_info(&wrapped.blob)?.key_id;
            if !keys.contains(&id) {
                keys.push(id);
            }
        }
        Ok((keys, context_of(&context)?))
    }

    /// Grants for a durable lease of an open volume: one on each CMK that wraps a key of it.
    pub(super) fn lease_grants(&self, volume: &Volume, caller: &Caller) -> Result<Vec<Grant>> {
        let (keys, context) = self.wrapped_under(volume)?;
        Ok(keys.into_iter().map(|key| self.kms.lease_grant(key, &context, caller)).collect())
    }

    /// The caller as it asks for a volume that it has already: under its lease's grants, or, in a process's or an address's
    /// lease, as one that was let in. Leases from before there were grants have none: their callers are asked anew.
    pub(super) fn as_holder(&self, id: VolumeId, holder: &Holder, had_it: bool, caller: &Caller) -> Result<Caller> {
        let authority = match holder {
            _ if !had_it => caller.authority.clone(),
            Holder::Attachment(_) | Holder::Remote(_) => match self.records.grants_of_lease(id)? {
                Some(grants) if !grants.is_empty() => Authority::Grants(grants),
                Some(_) => caller.authority.clone(),
                None => Authority::Settled, // it only reads
            },
            Holder::Process { .. } | Holder::Connection(_) | Holder::Address(_) => Authority::Settled,
        };
        Ok(Caller { authority, ..caller.clone() })
    }

    /// Who unwraps a suspended volume's keys again: its durable lease's grants, else this caller.
    pub(super) fn as_resuming(&self, id: VolumeId, caller: &Caller) -> Result<Caller> {
        let authority = match self.records.grants_of_lease(id)? {
            Some(grants) if !grants.is_empty() => Authority::Grants(grants),
            _ => caller.authority.clone(),
        };
        Ok(Caller { authority, ..caller.clone() })
    }

    /// A suspended volume whose lease lost its grant is opened for nobody until that lease is over.
    pub(super) fn refuse_if_revoked(&self, record: &VolumeRecord, caller: &Caller) -> Result<()> {
        match self.as_resuming(record.id, caller)? {
            lease if matches!(lease.authority, Authority::Grants(_)) => self.ask_for_lease(record, &lease),
            _ => Ok(()),
        }
    }

    /// A grant is gone: the volume whose lease lived by it is suspended, unless it was set to go on.
    fn suspend_lease_of(&self, grant: &Grant) {
        let lived = |grants: &Vec<String>| grants.contains(&grant.id);
        let catalog = self.ledger().catalog();
        let attached = catalog.list::<AttachmentRecord>().map(|all| {
            all.records.into_iter().filter(|a| lived(&a.record.grants)).map(|a| a.record.volume).collect::<Vec<_>>()
        });
        let leased = catalog.list::<LeaseRecord>().map(|all| {
            all.records.into_iter().filter(|l| lived(&l.record.grants)).map(|l| l.record.volume).collect::<Vec<_>>()
        });
        match (attached, leased) {
            (Ok(attached), Ok(leased)) => {
                let why = format!("grant {} of its lease is gone", grant.id);
                attached.into_iter().chain(leased).for_each(|id| self.suspend_one(id, &why));
            }
            (Err(err), _) | (_, Err(err)) => {
                // Whose it was is not known: better all of the key's volumes than the wrong one.
                tracing::error!("look for the lease of grant {}: {}", grant.id, err.line());
                self.suspend_volumes(&self.kms.key_arn(grant.key));
            }
        }
    }
}

fn constraint(
    equals: Option<BTreeMap<String, String>>,
    subset: Option<BTreeMap<String, String>>,
) -> Result<Option<Constraint>> {
    match (equals, subset) {
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::Usage, "CreateGrant: EncryptionContextEquals or EncryptionContextSubset")
                .hint("leave one of them out"))
        }
        (Some(pairs), None) => Ok(Some(Constraint::Equals(context_of(&pairs)?))),
        (None, Some(pairs)) => Ok(Some(Constraint::Subset(context_of(&pairs)?))),
        (None, None) => Ok(None),
    }
}
