//! Temporary credentials without a record: everything about a session is in its token, sealed.
//!
//! # A token, in base64 (RFC 4648, section 4)
//! ```text
//! offset  bytes  field
//!      0      1  version: 1
//!      1      1  1, the version of local sealing (docs/format.md)
//!      2     12  nonce
//!     14      n  AES-256-GCM of the session, JSON
//!   14+n     16  tag
//! ```
//! The key is HKDF-SHA-256(key of IAM, no salt, "coffer/session-token/v1" || access key id), through local sealing, with
//! "coffer/session-token/v1" || installation id as associated data: a token opens only with its own access key id, which
//! the request's signature names. The secret is base64 of 30 bytes of HKDF-SHA-256(key of IAM, the token's bytes as
//! salt, "coffer/session-secret/v1" || access key id).

use super::name::Tags;
use crate::cipher::hkdf_sha256;
use crate::cipher::wrap::{open_local_bytes, seal_local};
use crate::env::{Rng, Timestamp};
use crate::error::{Error, Kind, Reason, Result};
use crate::secret::Secret;
use crate::units::InstallationId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// Prefix of the access key ids of sessions.
pub(super) const SESSION_KEY: &str = "ASIA";
/// Longest token, in characters: a request's headers must have room for it.
pub const MAX_TOKEN: usize = 8192;
/// Longest session that fits into a token, in bytes of JSON.
pub(super) const MAX_SESSION: usize = MAX_TOKEN / 4 * 3 - OVERHEAD;
/// Bytes of a token that are not the session: version, local sealing's version, nonce and tag.
const OVERHEAD: usize = 1 + 1 + 12 + 16;
const VERSION: u8 = 1;
const TOKEN_INFO: &[u8] = b"coffer/session-token/v1";
const SECRET_INFO: &[u8] = b"coffer/session-secret/v1";

/// A session, as its token holds it. What its user or role may do is read from that one's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    /// Unique id of the user or role.
    pub(super) holder: String,
    /// Of a role's session.
    #[serde(rename = "name", default, skip_serializing_if = "Option::is_none")]
    pub(super) session_name: Option<String>,
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
    /// Session policies: limits to what the role allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) policies: Vec<String>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub(super) tags: Tags,
    /// Keys of tags that sessions inherit which this one opens.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) transitive: BTreeSet<String>,
}

/// Seals and opens tokens.
pub(super) struct Tokens {
    installation: InstallationId,
    key: Secret<32>,
}

/// A token or an access key id that is not one of this installation's. Says no more: nobody can probe with it.
pub(super) fn unrecognized(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::AccessDenied, what.to_string()).reason(Reason::UnrecognizedClient)
}

fn forged() -> Error {
    unrecognized("the session token was altered, or belongs to another access key or installation")
        .hint("request a new session, and send its token unchanged")
}

impl Tokens {
    /// Those of an installation, under the key of IAM.
    pub(super) fn new(installation: InstallationId, key: &Secret<32>) -> Self {
        Self { installation, key: Secret::build(|out| out.copy_from_slice(key.expose())) }
    }

    fn key_for(&self, access_key_id: &str) -> Secret<32> {
        let info = [TOKEN_INFO, access_key_id.as_bytes()];
        Secret::build(|out| hkdf_sha256(self.key.expose(), &[], &info, out))
    }

    fn aad(&self) -> Vec<u8> {
        [TOKEN_INFO, &self.installation.0].concat()
    }

    /// Seals a session. Returns its token and its secret access key.
    ///
    /// # Errors
    /// [`Kind::Usage`] (PackedPolicyTooLarge) if it does not fit.
    pub(super) fn seal(
        &self,
        access_key_id: &str,
        session: &Session,
        rng: &dyn Rng,
    ) -> Result<(String, Zeroizing<String>)> {
        let fail = |e| Error::new(Kind::Failed, "session token: encode").because(e);
        let plain = serde_json::to_vec(session).map_err(fail)?;
        if plain.len() > MAX_SESSION {
            let percent = packed_percent(plain.len());
            let what = format!("the session's policy and tags take {percent}% of the space that a token has for them");
            let err = Error::new(Kind::Usage, what).reason(Reason::PackedPolicyTooLarge);
            return Err(err.hint("use a shorter session policy, or fewer tags"));
        }
        let sealed = seal_local(&self.key_for(access_key_id), &self.aad(), &plain, rng)?;
        let raw = [&[VERSION], &sealed[..]].concat();
        Ok((STANDARD.encode(&raw), self.secret(access_key_id, &raw)))
    }

    fn secret(&self, access_key_id: &str, token: &[u8]) -> Zeroizing<String> {
        let mut raw = Zeroizing::new([0u8; 30]);
        hkdf_sha256(self.key.expose(), token, &[SECRET_INFO, access_key_id.as_bytes()], &mut raw[..]);
        Zeroizing::new(STANDARD.encode(&raw[..]))
    }

    /// Opens a token that this installation issued for this access key. Returns the session and its secret access key.
    /// Does not check whether it has expired.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] (UnrecognizedClientException) for anything else.
    pub(super) fn open(&self, access_key_id: &str, token: &str) -> Result<(Session, Zeroizing<String>)> {
        if token.len() > MAX_TOKEN || !access_key_id.starts_with(SESSION_KEY) {
            return Err(forged());
        }
        let raw = STANDARD.decode(token).map_err(|_| forged())?;
        let Some((&VERSION, sealed)) = raw.split_first() else { return Err(forged()) };
        let opened = open_local_bytes(&self.key_for(access_key_id), &self.aad(), sealed);
        let plain = opened.map_err(|e| if e.kind() == Kind::Integrity { forged() } else { e })?;
        let session = serde_json::from_slice(&plain).map_err(|_| forged())?;
        Ok((session, self.secret(access_key_id, &raw)))
    }
}

/// How much of the space in a token a session takes, in percent (PackedPolicySize).
pub(super) fn packed_percent(bytes: usize) -> u32 {
    u32::try_from((bytes * 100).div_ceil(MAX_SESSION)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
