//! What the KMS is made of.
//!
//! | component | has | asks |
//! |---|---|---|
//! | `Scope` | the installation's account and Region, and the ARNs in them and elsewhere | |
//! | `KeyStore` | the records of keys and aliases | |
//! | `GrantStore` | the records of grants, and what they allow | |
//! | `BackingKeys` | what keys encrypt with, sealed and unsealed | |
//! | [`Authorizer`] | the decision who may do what | both stores |
//! | [`Deletions`] | the clock of keys that wait for their deletion | `KeyStore` |
//! | [`Keys`] | the keys' states and versions | `KeyStore`, `BackingKeys`, `Authorizer`, `Deletions` |
//! | [`Aliases`] | the names of keys | `KeyStore`, `Authorizer` |
//! | [`KeyPolicies`] | the documents that the decision is made by | `KeyStore`, `Authorizer`, `Keys` |
//! | [`Grants`] | giving grants and taking them back | both stores, `Authorizer` |
//! | [`Crypto`] | the use of keys | `KeyStore`, `BackingKeys`, `Authorizer`, `Keys` |
//! | [`Rotations`] | new backing keys, on demand and by themselves | `KeyStore`, `BackingKeys`, `Keys`, `Deletions` |
//! | [`Imports`] | key material that callers bring | `KeyStore`, `BackingKeys`, `Keys` |
//! | [`Replicas`] | the Regions of multi-Region keys | `KeyStore`, `Authorizer`, `Keys` |
//! | [`KeyTags`] | the tags of keys | `KeyStore`, `Keys` |

use super::alias::Aliases;
use super::authority::Authorizer;
use super::backing::BackingKeys;
use super::data::Crypto;
use super::grant::Grants;
use super::grantstore::GrantStore;
use super::import::Imports;
use super::key::Keys;
use super::keystore::KeyStore;
use super::policies::KeyPolicies;
use super::replicas::Replicas;
use super::root::RootKey;
use super::rotation::Rotations;
use super::scope::Scope;
use super::tags::KeyTags;
use super::waiting::Deletions;
use crate::env::Env;
use crate::ledger::Ledger;
use crate::units::InstallationId;
use std::sync::Arc;

/// The components; each knows those above it alone.
pub(super) struct Components {
    pub(super) scope: Arc<Scope>,
    pub(super) store: Arc<KeyStore>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) deletions: Arc<Deletions>,
    pub(super) keys: Arc<Keys>,
    pub(super) aliases: Aliases,
    pub(super) policies: KeyPolicies,
    pub(super) grants: Grants,
    pub(super) crypto: Crypto,
    pub(super) rotations: Rotations,
    pub(super) imports: Imports,
    pub(super) replicas: Replicas,
    pub(super) tags: KeyTags,
}

impl Components {
    /// Those over the installation's root key and ledger.
    pub(super) fn new(
        env: &Env,
        installation: InstallationId,
        scope: Scope,
        root: &Arc<RootKey>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let scope = Arc::new(scope);
        let store = Arc::new(KeyStore::new(scope.clone(), ledger.clone()));
        let backing = Arc::new(BackingKeys::new(env.clone(), installation, scope.clone(), root.clone()));
        let granted = Arc::new(GrantStore::new(ledger.clone()));
        let authorizer = Authorizer::new(env.clone(), scope.clone(), ledger.clone(), store.clone(), granted.clone());
        let authorizer = Arc::new(authorizer);
        let deletions = Arc::new(Deletions::new(env.clone(), scope.clone(), ledger.clone(), store.clone()));
        let keys = Arc::new(Keys::new(
            env.clone(),
            scope.clone(),
            ledger.clone(),
            store.clone(),
            backing.clone(),
            authorizer.clone(),
            deletions.clone(),
        ));
        let aliases = Aliases::new(env.clone(), scope.clone(), ledger.clone(), store.clone(), authorizer.clone());
        let policies = KeyPolicies::new(scope.clone(), ledger.clone(), store.clone(), authorizer.clone(), keys.clone());
        let grants = Grants::new(
            env.clone(),
            scope.clone(),
            root.clone(),
            ledger.clone(),
            store.clone(),
            granted,
            authorizer.clone(),
        );
        let crypto = Crypto::new(
            env.clone(),
            scope.clone(),
            ledger.clone(),
            store.clone(),
            backing.clone(),
            authorizer.clone(),
            keys.clone(),
        );
        let rotations =
            Rotations::new(env.clone(), scope.clone(), store.clone(), backing.clone(), keys.clone(), deletions.clone());
        let imports = Imports::new(env.clone(), root.clone(), store.clone(), backing, keys.clone());
        let replicas =
            Replicas::new(env.clone(), scope.clone(), ledger.clone(), store.clone(), authorizer.clone(), keys.clone());
        let tags = KeyTags::new(store.clone(), keys.clone());
        Self {
            scope,
            store,
            authorizer,
            deletions,
            keys,
            aliases,
            policies,
            grants,
            crypto,
            rotations,
            imports,
            replicas,
            tags,
        }
    }
}
