//! Grants: permissions on one key for one principal, created and removed without changing the key's policy (KMS Developer
//! Guide, "Grants in AWS KMS").
//!
//! A grant allows what the policy does not mention; a Deny of the policy overrides it.
//! Durable leases of volumes depend on grants to the volume service, which are written and removed in the lease's
//! transaction.

use super::authority::{Authorizer, By};
use super::caller::{Authority, Caller, Wanted};
use super::grantstore::{Constraint, Grant, GrantSpec, GrantStore, Operation};
use super::keystore::{KeyRecord, KeyStore};
use super::name::KeyRef;
use super::policy::{Facts, GrantFacts, VOLUME_SERVICE, account_of};
use super::root::RootKey;
use super::scope::{KeyName, Scope};
use crate::cipher::hkdf_sha256;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Env;
use crate::error::{Error, Kind, Reason, Result};
use crate::iam::is_account;
use crate::ledger::{Act, Ledger};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The longest name of a grant (KMS API Reference, CreateGrant).
const MAX_NAME: usize = 256;
/// Bytes of a token before the masked id.
const CHECK: usize = 16;
/// Characters of a token of an earlier version.
const OLD_TOKEN: usize = 64;

/// Which grants to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFilter {
    /// Only this one.
    pub id: Option<String>,
    /// Only those for this principal.
    pub grantee: Option<String>,
}

/// Whether the resource part of an ARN is a valid principal: a type and a name.
fn is_principal(service: &str, resource: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
    match (service, resource.split_once('/')) {
        ("iam", None) => resource == "root",
        ("iam", Some(("service", name))) => name == VOLUME_SERVICE,
        ("iam", Some(("user" | "role", name))) | ("sts", Some(("assumed-role" | "federated-user", name))) => {
            !name.is_empty() && name.chars().all(good)
        }
        _ => false,
    }
}

fn check_principal(what: &str, arn: &str) -> Result<()> {
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    let good = matches!(fields[..], ["arn", "aws", service, "", account, resource]
        if is_account(account) && is_principal(service, resource));
    if !good || arn.contains(['*', '?']) || arn.len() > 256 {
        return Err(Error::new(Kind::Usage, format!("CreateGrant: {what} {arn:?} is not the ARN of a principal"))
            .reason(Reason::InvalidArn)
            .hint("use a form such as arn:aws:iam::111122223333:user/alice"));
    }
    Ok(())
}

fn check(spec: &GrantSpec) -> Result<()> {
    check_principal("the grantee", &spec.grantee)?;
    spec.retiring.as_deref().map_or(Ok(()), |r| check_principal("the retiring principal", r))?;
    if spec.operations.is_empty() {
        return Err(Error::new(Kind::Usage, "CreateGrant: no operation is given").hint("name at least one operation"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || ":/_-".contains(c);
    if spec.name.as_ref().is_some_and(|n| n.is_empty() || n.len() > MAX_NAME || !n.chars().all(good)) {
        return Err(Error::new(
            Kind::Usage,
            "CreateGrant: the name must have 1 to 256 characters of A-Z a-z 0-9 : / _ -",
        ));
    }
    if spec.constraint.as_ref().is_some_and(|c| c.pairs().is_empty()) {
        return Err(Error::new(Kind::Usage, "CreateGrant: the constraint has no pair of an encryption context"));
    }
    Ok(())
}

fn not_there(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no grant {id}")).hint("see `coffer key grant list`")
}

fn no_such_token() -> Error {
    Error::new(Kind::NotFound, "no grant has this token")
        .reason(Reason::InvalidGrantToken)
        .hint("see `coffer key grant list`")
}

/// The grants, as callers give them and take them back.
pub struct Grants {
    env: Env,
    scope: Arc<Scope>,
    root: Arc<RootKey>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    granted: Arc<GrantStore>,
    authorizer: Arc<Authorizer>,
    /// Ids by the tokens of earlier versions, once one was asked for.
    old_tokens: Mutex<Option<HashMap<String, String>>>,
}

impl Grants {
    /// Those of these keys.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        root: Arc<RootKey>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        granted: Arc<GrantStore>,
        authorizer: Arc<Authorizer>,
    ) -> Self {
        let old_tokens = Mutex::new(None);
        Self { env, scope, root, ledger, store, granted, authorizer, old_tokens }
    }

    fn new_grant(&self, key: &KeyName, spec: GrantSpec, caller: &Caller) -> Grant {
        let mut raw = [0u8; 32];
        self.env.rng.fill(&mut raw);
        let GrantSpec { grantee, retiring, operations, constraint, name } = spec;
        let (id, issuer, created) = (hex::encode(raw), caller.principal.clone(), self.env.now());
        let (place, key) = (key.place.clone(), key.id);
        Grant { id, key, place, name, grantee, retiring, issuer, operations, constraint, created }
    }

    /// A grant for a lease of a volume, to the volume service; CreateGrant was authorized before
    /// ([`Authorizer::ask_for_volume`]). [`Grant::put`] writes it in the lease's transaction.
    #[must_use]
    pub fn for_lease(&self, key: &KeyName, context: &EncryptionContext, caller: &Caller) -> Grant {
        let service = self.scope.volume_service();
        let spec = GrantSpec {
            grantee: service.clone(),
            retiring: Some(service),
            operations: BTreeSet::from([Operation::Decrypt]),
            constraint: (!context.is_empty()).then(|| Constraint::Equals(context.clone())),
            name: None,
        };
        self.new_grant(key, spec, caller)
    }

    /// The token by which RetireGrant finds a grant without its key. It permits nothing, and is always the same. It contains
    /// the id, masked: whoever has only the token does not learn it.
    fn token(&self, id: &str) -> String {
        let mut check = [0u8; CHECK];
        self.derive(&[b"coffer/grant-token/v2/check", id.as_bytes()], &mut check);
        let id = hex::decode(id).unwrap_or_default();
        hex::encode([&check[..], &self.masked(&check, &id)].concat())
    }

    /// The id in a token, if it is one.
    fn id_in(&self, token: &str) -> Option<String> {
        let bytes = hex::decode(token).ok()?;
        let (check, masked) = bytes.split_at_checked(CHECK).filter(|(_, masked)| masked.len() == 32)?;
        let id = hex::encode(self.masked(check, masked));
        (self.token(&id) == token).then_some(id)
    }

    fn masked(&self, check: &[u8], id: &[u8]) -> Vec<u8> {
        let mut mask = vec![0u8; id.len().min(32)];
        self.derive(&[b"coffer/grant-token/v2/mask", check], &mut mask);
        id.iter().zip(mask).map(|(a, b)| a ^ b).collect()
    }

    fn derive(&self, info: &[&[u8]], out: &mut [u8]) {
        hkdf_sha256(self.root.secret().expose(), &[], info, out);
    }

    /// The token that an earlier version gave for a grant. It does not contain the id.
    fn old_token(&self, id: &str) -> String {
        let mut token = [0u8; 32];
        self.derive(&[b"coffer/grant-token/v1", id.as_bytes()], &mut token);
        hex::encode(token)
    }

    /// The id of the grant with a token of an earlier version. Reads all grants the first time: none that is made later has
    /// such a token.
    fn id_of_old(&self, token: &str) -> Result<Option<String>> {
        let mut known = self.old_tokens.lock();
        if known.is_none() {
            let all = self.granted.all()?.records.into_iter().map(|g| (self.old_token(&g.record.id), g.record.id));
            *known = Some(all.collect());
        }
        Ok(known.as_ref().and_then(|known| known.get(token)).cloned())
    }

    /// Whether the caller may create this grant: by the policy, or by a grant to itself.
    fn may_create(&self, key: &KeyRecord, spec: &GrantSpec, caller: &Caller) -> Result<()> {
        let operations = spec.operations.iter().map(ToString::to_string).collect();
        let facts = GrantFacts {
            for_aws_resource: caller.via_service.is_some(),
            operations,
            grantee: Some(spec.grantee.clone()),
            retiring: spec.retiring.clone(),
            constraint: spec.constraint.as_ref().map(Constraint::name),
        };
        let none = EncryptionContext::new();
        let context = spec.constraint.as_ref().map_or(&none, Constraint::pairs);
        let wanted = Wanted { action: "CreateGrant", context, grant: Some(&facts), facts: None };
        // By the policy: any grant. By a grant: no more than that grant allows.
        if self.authorizer.authorize(key, wanted, caller)? == By::Policy {
            return Ok(());
        }
        for one in caller.principals() {
            let own = self.granted.of(&key.key(), Some(one))?.into_iter().map(|g| g.record);
            if own.filter(|g| g.covers(&key.key(), one, &wanted)).any(|g| g.may_give(spec)) {
                return Ok(());
            }
        }
        let what = format!("CreateGrant: the new grant would allow more than the grant of {}", caller.principal);
        Err(Error::new(Kind::AccessDenied, what).hint("request fewer operations, or the constraint of that grant"))
    }

    /// Creates a grant, or finds the same one of that name. Returns it and its token.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`]; [`Kind::KeyUnavailable`] for a key that is not enabled; [`Kind::Usage`] for an invalid name,
    /// principal or constraint; [`Kind::InvalidState`] (LimitExceededException) above [`super::MAX_GRANTS`].
    pub fn create(&self, key: &KeyRef, spec: GrantSpec, caller: &Caller) -> Result<(Grant, String)> {
        check(&spec)?;
        let id = self.store.resolve(key)?;
        let arn = self.scope.arn_of(&id);
        let operations: Vec<String> = spec.operations.iter().map(ToString::to_string).collect();
        let new = self.new_grant(&id, spec.clone(), caller);
        let act = Act::new("kms:CreateGrant")
            .key(arn.clone())
            .detail("grantee", &spec.grantee)
            .detail("operations", operations.join(" "))
            .detail("grant", &new.id);
        let made = self.ledger.audited(caller, act, |tx| {
            let key = self.store.load(&id)?.record;
            self.may_create(&key, &spec, caller)?;
            key.check_usable("CreateGrant", &arn, self.env.now())?;
            if let Some(none) = spec.operations.iter().find(|o| !o.suits(key.spec, key.usage)) {
                let what =
                    format!("CreateGrant: key {arn}, of spec {} for {}, does not have {none}", key.spec, key.usage);
                return Err(Error::new(Kind::Usage, what).hint("name operations that the key has"));
            }
            caller.unless_dry_run("CreateGrant")?;
            if spec.name.is_some() {
                let mut of_grantee = self.granted.of(&id, Some(&spec.grantee))?.into_iter();
                if let Some(found) = of_grantee.find(|g| g.record.is_what(&spec)) {
                    return Ok(found.record);
                }
            }
            new.put(tx)?;
            Ok(new.clone())
        })?;
        let token = self.token(&made.id);
        Ok((made, token))
    }

    /// The grants of a key.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn list(&self, key: &KeyRef, filter: &GrantFilter, caller: &Caller) -> Result<Vec<Grant>> {
        self.authorizer.ask(key, "ListGrants", caller)?;
        let fits = |g: &Grant| {
            filter.id.as_ref().is_none_or(|id| *id == g.id)
                && filter.grantee.as_ref().is_none_or(|grantee| *grantee == g.grantee)
        };
        let all = self.granted.of(&self.store.resolve(key)?, filter.grantee.as_deref())?.into_iter().map(|g| g.record);
        Ok(all.filter(fits).collect())
    }

    /// The grants of the keys of the caller's account and Region that a principal may retire; for the principal itself, and
    /// for whom its own permissions allow it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for any other caller.
    pub fn list_retirable(&self, retiring: &str, caller: &Caller) -> Result<Vec<Grant>> {
        let region = self.scope.place_of(caller).region;
        let signed = matches!(caller.authority, Authority::Principal(_));
        if signed {
            // The resource is the principal (KMS API Reference, ListRetirableGrants).
            self.authorizer.ask_own_about("ListRetirableGrants", retiring, &Facts::new(), caller)?;
        }
        // Of any principal of the caller's account, if its policies allow it (KMS API Reference, ListRetirableGrants).
        let is_own = signed && account_of(retiring) == account_of(&caller.principal);
        if !is_own && caller.principal != retiring && !self.authorizer.is_administrator(caller, None) {
            let what = format!("ListRetirableGrants: {} may not list the grants of {retiring}", caller.principal);
            let err = Error::new(Kind::AccessDenied, what).hint("run it as that principal, or as an administrator");
            self.ledger.record_refusal(Act::new("kms:ListRetirableGrants"), caller, &err);
            return Err(err);
        }
        let all = self.granted.retirable_by(retiring)?.records.into_iter().map(|g| g.record);
        let is_here = |g: &Grant| !signed || self.scope.place(g.place.as_ref()).region == region;
        Ok(all.filter(|g| g.retiring.as_deref() == Some(retiring) && is_here(g)).collect())
    }

    /// The grant with a token, or with an id on a key.
    fn named(&self, key: Option<&KeyRef>, id: Option<&str>, token: Option<&str>) -> Result<Grant> {
        match (key, id, token) {
            (None, None, Some(token)) => {
                let id = match self.id_in(token) {
                    None if token.len() == OLD_TOKEN => self.id_of_old(token)?,
                    id => id,
                };
                let found = id.map(|id| self.granted.get(&id)).transpose()?.flatten();
                found.ok_or_else(no_such_token)
            }
            (Some(key), Some(id), None) => {
                let key = self.store.resolve(key)?;
                self.granted.get(id)?.filter(|g| g.on() == key).ok_or_else(|| not_there(id))
            }
            _ => Err(Error::new(Kind::Usage, "RetireGrant: neither a token nor a key and a grant id is given")
                .hint("use --token TOKEN, or KEY and GRANT")),
        }
    }

    fn take_back(
        &self,
        act: Act,
        grant: &Grant,
        caller: &Caller,
        may: impl Fn(&KeyRecord) -> Result<()>,
    ) -> Result<()> {
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let act = act.key(self.scope.arn_of(&grant.on())).detail("grant", &grant.id).detail("grantee", &grant.grantee);
        self.ledger.audited(caller, act.restrictive(), |tx| {
            may(&self.store.load(&grant.on())?.record)?;
            caller.unless_dry_run(&verb)?;
            let found = tx.get::<Grant>(&grant.id)?.ok_or_else(|| not_there(&grant.id))?;
            tx.delete::<Grant>(&grant.id, found.version)
        })
    }

    /// Retires a grant: its retiring principal may, its grantee if the grant allows it, and the account's administrators.
    /// Returns the grant, so that the caller can notify what depends on it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], [`Kind::NotFound`].
    pub fn retire(
        &self,
        key: Option<&KeyRef>,
        id: Option<&str>,
        token: Option<&str>,
        caller: &Caller,
    ) -> Result<Grant> {
        let grant = self.named(key, id, token)?;
        let is_caller = |arn: &str| caller.principals().any(|one| one == arn);
        let by_itself = grant.operations.contains(&Operation::RetireGrant) && is_caller(&grant.grantee);
        let account = &self.scope.place(grant.place.as_ref()).account;
        let may = by_itself
            || grant.retiring.as_deref().is_some_and(is_caller)
            || caller.is_root_of(account)
            || self.authorizer.is_administrator(caller, grant.place.as_ref());
        let is_own = account_of(&caller.principal) == Some(account);
        // Who is a stranger to the grant and to its key does not learn which grant a token is of.
        let less = (token.is_some() && !may && !is_own).then(no_such_token);
        let act = Act::new("kms:RetireGrant");
        let act = if let Some(less) = &less { act.answered(less) } else { act };
        let retired = self.take_back(act, &grant, caller, |key| match may {
            true => self.authorizer.may_retire(key, caller),
            false => {
                let (who, key) = (&caller.principal, self.scope.arn_of(&grant.on()));
                let what = format!("User: {who} is not authorized to perform: kms:RetireGrant on resource: {key}");
                Err(Error::new(Kind::AccessDenied, what).hint("revoke it with `coffer key grant revoke`"))
            }
        });
        retired.map_err(|e| less.unwrap_or(e)).map(|()| grant)
    }

    /// Revokes a grant. Returns it, so that the caller can notify what depends on it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], [`Kind::NotFound`].
    pub fn revoke(&self, key: &KeyRef, id: &str, caller: &Caller) -> Result<Grant> {
        let grant = self.named(Some(key), Some(id), None)?;
        let facts = GrantFacts { for_aws_resource: caller.via_service.is_some(), ..GrantFacts::default() };
        let none = EncryptionContext::new();
        self.take_back(Act::new("kms:RevokeGrant"), &grant, caller, |key| {
            self.authorizer
                .authorize(
                    key,
                    Wanted { action: "RevokeGrant", context: &none, grant: Some(&facts), facts: None },
                    caller,
                )
                .map(drop)
        })?;
        Ok(grant)
    }
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
