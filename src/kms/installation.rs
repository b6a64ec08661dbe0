//! The installation: its id, account, region and name, and its signing key.

use super::name::is_region;
use super::root::RootKey;
use crate::cipher::wrap::{open_local, seal_local};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::iam::check_account;
use crate::ledger::Record;
use crate::ledger::catalog::INSTALLATION;
use crate::secret::Secret;
use crate::units::InstallationId;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};

/// The parameters of a new installation.
#[derive(Debug, Clone)]
pub struct InstallationConfig {
    /// The account in ARNs: 12 digits. `None`: random.
    pub account: Option<String>,
    /// The region in ARNs: 1 to 32 of `a-z 0-9 -`.
    pub region: String,
    /// A descriptive name, 1 to 128 characters without control characters.
    pub name: String,
}

impl Default for InstallationConfig {
    /// A random account, region `us-east-1` (which every AWS client accepts), name `coffer`.
    fn default() -> Self {
        Self { account: None, region: "us-east-1".into(), name: "coffer".into() }
    }
}

/// The public facts of a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// Its id.
    pub id: InstallationId,
    /// The account in its ARNs, 12 digits.
    pub account: String,
    /// The region in its ARNs.
    pub region: String,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
}

/// The installation's record, with the signing key, whose private half is sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InstallationRecord {
    #[serde(flatten)]
    pub(super) public: Installation,
    /// Generation of the root key that seals it.
    root_generation: u32,
    /// Ed25519 public key (RFC 8032), hexadecimal.
    signing_public: String,
    /// Ed25519 seed, sealed, hexadecimal.
    signing_sealed: String,
}

impl Record for InstallationRecord {
    const KIND: &'static str = INSTALLATION;
    fn id(&self) -> String {
        self.public.id.to_string()
    }
}

fn signing_aad(id: InstallationId, generation: u32) -> Vec<u8> {
    [b"coffer/signing-key/v1", &id.0[..], &generation.to_le_bytes()].concat()
}

impl InstallationConfig {
    /// Validates the parameters.
    ///
    /// # Errors
    /// [`Kind::Usage`] with the violated rule.
    pub fn check(&self) -> Result<()> {
        let usage = |what: String| Err(Error::new(Kind::Usage, what));
        let Self { account, region, name } = self;
        if !is_region(region) {
            return usage(format!("region {region:?} must have 1 to 32 characters of a-z 0-9 -"));
        }
        if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
            return usage("the installation's name must have 1 to 128 characters and no control characters".into());
        }
        match account {
            Some(account) => check_account(account),
            None => Ok(()),
        }
    }
}

fn pair(seed: &Secret<32>) -> Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed.expose())
        .map_err(|_| Error::new(Kind::Failed, "signing key: cannot create an Ed25519 key"))
}

impl InstallationRecord {
    pub(super) fn make(id: InstallationId, config: &InstallationConfig, root: &RootKey, env: &Env) -> Result<Self> {
        config.check()?;
        let InstallationConfig { account, region, name } = config;
        let account = account.clone().unwrap_or_else(|| {
            let mut raw = [0u8; 8];
            env.rng.fill(&mut raw);
            format!("{:012}", u64::from_le_bytes(raw) % 1_000_000_000_000)
        });
        let seed = Secret::<32>::random();
        let signing_public = hex::encode(pair(&seed)?.public_key().as_ref());
        let aad = signing_aad(id, root.generation());
        let signing_sealed = hex::encode(seal_local(root.secret(), &aad, seed.expose(), &*env.rng)?);
        let (region, name, created) = (region.clone(), name.clone(), env.now());
        let public = Installation { id, account, region, name, created };
        Ok(Self { public, root_generation: root.generation(), signing_public, signing_sealed })
    }

    pub(super) fn public_key(&self) -> Result<[u8; 32]> {
        let mut out = [0u8; 32];
        hex::decode_to_slice(&self.signing_public, &mut out)
            .map_err(|e| Error::new(Kind::Integrity, "signing key: the public half is invalid").because(e))?;
        Ok(out)
    }

    pub(super) fn sign(&self, root: &RootKey, message: &[u8]) -> Result<[u8; 64]> {
        let sealed = hex::decode(&self.signing_sealed)
            .map_err(|e| Error::new(Kind::Integrity, "signing key: the private half is invalid").because(e))?;
        let seed = open_local::<32>(root.secret(), &signing_aad(self.public.id, self.root_generation), &sealed)
            .map_err(|e| e.context("signing key"))?;
        let pair = pair(&seed)?;
        if pair.public_key().as_ref() != self.public_key()? {
            return Err(Error::new(Kind::Integrity, "signing key: its halves do not match"));
        }
        let mut out = [0u8; 64];
        out.copy_from_slice(pair.sign(message).as_ref());
        Ok(out)
    }
}
