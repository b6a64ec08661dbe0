//! AWS's operations: JSON in, JSON out, with AWS's names, fields, defaults and errors.
//!
//! Every front end that speaks AWS's protocols routes from the one table here ([`find`]): an operation is a struct, which is
//! what the request's JSON is parsed into, and its `AwsOperation`. The KMS authorizes and records what it does; requests
//! that only read, and refusals, are recorded here. What the KMS API Reference calls a parameter or an answer is not
//! explained again.

mod alias;
#[cfg(test)]
mod aws_tests;
mod caller;
mod crypto;
#[cfg(test)]
mod departed_tests;
mod grant;
mod import;
mod key;
#[cfg(test)]
mod known_tests;
mod last_use;
mod operation;
mod pair;
#[cfg(test)]
mod pin_tests;
mod policy;
mod random;
mod region;
mod rotation;
#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod strangers_tests;
mod sts;
mod tag;
mod tagging;
#[cfg(test)]
mod tenancy_tests;
#[cfg(test)]
mod testing;
mod trail;
pub(super) mod trail_event;
#[cfg(test)]
pub(super) mod trail_testing;
mod values;
#[cfg(test)]
mod volume_tests;

pub use caller::Signed;

use operation::{At, AwsOperation};

use super::Service;
use crate::error::{Error, Kind, Result};
use crate::iam::{Credential, PrincipalRef};
use crate::kms::{Caller, KeyRef, Pins};
use crate::ledger::{Act, RequestInfo};
use serde_json::Value;
use std::sync::Arc;

/// An operation of the table.
pub struct Entry {
    /// As `kms:CreateKey`.
    pub name: &'static str,
    /// Whether it changes nothing.
    pub reads: bool,
    run: fn(&Arc<Service>, &Caller, &'static str, Value) -> Result<Value>,
    parses: fn(Value) -> Result<()>,
}

impl Entry {
    /// Whether parameters are such as the operation takes. Asks nobody whether they name anything.
    ///
    /// # Errors
    /// [`Kind::Usage`] (ValidationException) for a member that is unknown, missing, or of the wrong type.
    pub fn parses(&self, input: Value) -> Result<()> {
        (self.parses)(input)
    }
}

macro_rules! operations {
    ($($service:literal { $($module:ident::$operation:ident),+ $(,)? })+) => {
        /// All operations.
        pub const OPERATIONS: &[Entry] = &[$($(Entry {
            name: concat!($service, ":", stringify!($operation)),
            reads: <$module::$operation as AwsOperation>::READS,
            run: run::<$module::$operation>,
            parses: |input| parse::<$module::$operation>(input).map(drop),
        },)+)+];
    };
}

operations! {
    "kms" {
        key::CreateKey, key::DescribeKey, key::ListKeys, key::UpdateKeyDescription, key::EnableKey, key::DisableKey,
        key::ScheduleKeyDeletion, key::CancelKeyDeletion,
        last_use::GetKeyLastUsage,
        tag::TagResource, tag::UntagResource, tag::ListResourceTags,
        crypto::Encrypt, crypto::Decrypt, crypto::ReEncrypt, crypto::GenerateDataKey,
        crypto::GenerateDataKeyWithoutPlaintext, random::GenerateRandom,
        pair::GenerateDataKeyPair, pair::GenerateDataKeyPairWithoutPlaintext, pair::Sign, pair::Verify,
        pair::GetPublicKey, pair::DeriveSharedSecret, pair::GenerateMac, pair::VerifyMac,
        alias::CreateAlias, alias::UpdateAlias, alias::DeleteAlias, alias::ListAliases,
        rotation::EnableKeyRotation, rotation::DisableKeyRotation, rotation::GetKeyRotationStatus,
        rotation::RotateKeyOnDemand, rotation::ListKeyRotations,
        import::GetParametersForImport, import::ImportKeyMaterial, import::DeleteImportedKeyMaterial,
        policy::PutKeyPolicy, policy::GetKeyPolicy, policy::ListKeyPolicies,
        grant::CreateGrant, grant::ListGrants, grant::ListRetirableGrants, grant::RetireGrant, grant::RevokeGrant,
        region::ReplicateKey, region::UpdatePrimaryRegion,
    }
    "sts" { sts::GetCallerIdentity, sts::AssumeRole, sts::GetSessionToken }
    "cloudtrail" { trail::LookupEvents }
    "tag" {
        tagging::TagResources, tagging::UntagResources, tagging::GetResources, tagging::GetTagKeys, tagging::GetTagValues,
    }
}

/// The operation of that name, as `kms:CreateKey`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    OPERATIONS.iter().find(|entry| entry.name == name)
}

/// Members of a request that are not recorded: secrets, and what CloudTrail leaves out, too.
const UNRECORDED: &[&str] = &[
    "Plaintext",
    "Message",
    "CiphertextBlob",
    "EncryptedKeyMaterial",
    "ImportToken",
    "GrantToken",
    "GrantTokens",
    "Mac",
    "Signature",
    "PublicKey",
    "Recipient",
    "TokenCode",
];

/// Members of a request whose values are recorded as they are, with whatever they look like.
const RECORDED_AS_THEY_ARE: &[&str] =
    &["EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext", "Constraints", "Policy", "Tags"];

/// Members of a request that name a key.
const NAMING: &[&str] = &["KeyId", "TargetKeyId", "SourceKeyId", "DestinationKeyId"];
/// Those of them, and the alias, by which a record names the key; the first that a request has.
const RECORDED_AS: &[&str] = &["KeyId", "TargetKeyId", "DestinationKeyId", "AliasName"];

/// The parameters of a request as they are recorded.
fn recorded(input: &Value) -> String {
    let Value::Object(fields) = input else { return String::new() };
    let kept: serde_json::Map<String, Value> = fields
        .iter()
        .filter(|(name, _)| !UNRECORDED.contains(&name.as_str()))
        .map(|(n, v)| (n.clone(), if RECORDED_AS_THEY_ARE.contains(&n.as_str()) { v.clone() } else { masked(v) }))
        .collect();
    if kept.is_empty() { String::new() } else { Value::Object(kept).to_string() }
}

/// A value without secrets that someone took for names.
fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => crate::redact::tokens(text).into(),
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), masked(value))).collect(),
        other => other.clone(),
    }
}

/// Parses a request: whether it is a dry run, and the rest.
fn parse<O: AwsOperation>(mut input: Value) -> Result<(bool, O)> {
    let dry_run = if O::TAKES_DRY_RUN { values::take::<bool>(&mut input, "DryRun")? } else { None };
    if O::TAKES_GRANT_TOKENS {
        values::take::<Vec<String>>(&mut input, "GrantTokens")?;
    }
    Ok((dry_run.unwrap_or(false), values::parse(input)?))
}

fn run<O: AwsOperation>(service: &Arc<Service>, caller: &Caller, name: &'static str, input: Value) -> Result<Value> {
    let parameters = recorded(&input);
    let key = RECORDED_AS.iter().find_map(|member| input.get(member)?.as_str()).map(str::to_owned);
    let named =
        NAMING.iter().filter_map(|member| input.get(member)?.as_str()?.parse::<KeyRef>().ok()).collect::<Vec<_>>();
    let parsed = parse::<O>(input);
    let mut request = caller.request.as_deref().cloned().unwrap_or_default();
    if request.region.is_empty() {
        // A caller of this machine, who is in no other Region.
        request.region.clone_from(&service.kms.installation().region);
    }
    // What could not be parsed may have a secret anywhere.
    let parameters = if parsed.is_ok() { parameters } else { String::new() };
    let request = RequestInfo { parameters, read_only: O::READS, ..request };
    let dry_run = parsed.as_ref().is_ok_and(|(dry_run, _)| *dry_run);
    let caller = Caller { dry_run, request: Some(Arc::new(request)), ..caller.clone() };
    let at = At { service, place: service.kms.place_of(&caller), caller: &caller, pins: Pins::new(&service.kms) };
    let denial = named.iter().any(|key| at.is_foreign(key)).then(|| at.denial(name));
    let caller = Caller { denial, ..caller.clone() };
    let at = At { caller: &caller, ..at };
    let key = key.filter(|_| parsed.is_ok()).and_then(|key| at.key(&key).ok());
    let act = key.as_ref().map_or_else(|| Act::new(name), |key| service.kms.act_on(name, key));
    // What is refused before anybody asked whether it is allowed does not say which key another account's alias has.
    let refused = match key.filter(|key| key.is_alias() && at.is_foreign(key)) {
        Some(alias) => Act::new(name).detail("named", alias),
        None => act.clone(),
    };
    let output = service.ledger().verb(refused, &caller, || {
        let operation = parsed?.1;
        match named.iter().find(|key| key.is_alias() && !O::TAKES_ALIASES) {
            Some(alias) => Err(Error::new(Kind::NotFound, format!("Invalid keyId '{alias}'"))),
            None => operation.perform(&at),
        }
    });
    let output = output.map_err(|e| caller.answer(e))?;
    if O::READS {
        service.ledger().record(&caller, act, Ok(()))?;
    }
    serde_json::to_value(output).map_err(|e| Error::new(Kind::Failed, format!("{name}: encode the answer")).because(e))
}

impl Service {
    /// The secret of an access key, or of a session with its token, and whose it is.
    ///
    /// # Errors
    /// Those of [`crate::iam::Iam::credential`].
    pub fn credential(&self, access_key_id: &str, session_token: Option<&str>) -> Result<Credential> {
        self.kms.iam().credential(access_key_id, session_token)
    }

    /// Gives a principal an access key of a chosen id and secret: for credentials that are fixed, as those of tests.
    ///
    /// # Errors
    /// Those of [`crate::iam::Iam::put_access_key`].
    pub fn put_access_key(&self, id: &str, secret: &str, owner: &PrincipalRef) -> Result<()> {
        let myself = self.records.own_caller("configuration");
        self.kms.iam().put_access_key(id, secret, owner, &myself).map(drop)
    }

    /// Records a request that a front end refused before it was one of an operation.
    pub fn record_refusal(&self, act: &str, caller: &Caller, err: &Error) {
        self.ledger().record_refusal(Act::new(act), caller, err);
    }

    /// Performs one of [`OPERATIONS`] for a caller. Refusals and reads are recorded, too.
    ///
    /// # Errors
    /// Those of the operation; [`Error::aws`] is AWS's code.
    pub fn aws(self: &Arc<Self>, caller: &Caller, entry: &Entry, input: Value) -> Result<Value> {
        self.settle_leftovers();
        (entry.run)(self, caller, entry.name, input)
    }
}
