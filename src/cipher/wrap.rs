//! Wrapping keys: the ciphertext blob, the encryption context, and local sealing under the root key.
//!
//! # Ciphertext blob, format 1 (since coffer 0.1)
//! ```text
//! offset  bytes  field
//!      0      4  magic "COFB"
//!      4      1  format: 1
//!      5      1  suite: 1 = HKDF-SHA-256 + AES-256-GCM, committing; 2 = the same from a message key in the recipient
//!      6      1  purpose: 1 general (public verbs), 2 volume data key
//!      7      1  flags: 0
//!      8      1  key id kind: 0 UUID, 1 `mrk-` and 32 hexadecimal digits
//!      9     16  key id
//!     25     32  key material id = SHA-256("coffer/kmid/v1" || key id (16) || material (32))
//!     57     32  nonce, random
//!     89      2  r = length of the recipient, little-endian; 0 in suite 1, at least 1 in suite 2
//!     91      r  recipient
//!   91+r     32  commitment
//!  123+r      n  ciphertext, as long as the plaintext (at most 4096 from public verbs; 64 for a volume)
//!      …     16  tag
//! ```
//! Suite 1: `K || C = HKDF-SHA-256(ikm = backing key, salt = nonce, info = "coffer/blob/v1" || bytes 0..57, 64 bytes)`
//! (RFC 5869). C is the commitment: compared first, in constant time, so that no blob opens under two keys. Then
//! AES-256-GCM (NIST SP 800-38D) with K, a nonce of twelve zeros (K is used once), AAD = every byte before the
//! ciphertext followed by the context's canonical bytes. The blob holds no account, region or ARN.
//!
//! Suite 2 is for backing keys whose bytes cannot be read, as in a token ([`WrappingKey`]): the recipient is a fresh message key
//! of 32 bytes, wrapped by the backing key, and takes its place in HKDF. The keys of this build are of suite 1.
//!
//! # Encryption context, canonical bytes
//! `u32 count`, then the pairs sorted by the bytes of the key, each string `u32 length || UTF-8`; integers little-endian;
//! no normalisation; no context = an empty one = four zero bytes.
//!
//! # Local seal, format 1
//! ```text
//! 0  1   format: 1
//! 1  12  nonce, random
//! 13 n   AES-256-GCM ciphertext under HKDF-SHA-256(root key, no salt, "coffer/local-seal/v1"), AAD by the caller
//!    16  tag
//! ```
//! A root key makes a few dozen seals; random 96-bit nonces allow 2^32 (SP 800-38D, 8.3).

use super::{DataKey, Unwrapped, hkdf_sha256};
use crate::env::Rng;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::units::DataKeyId;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The first bytes of a blob.
pub const MAGIC: [u8; 4] = *b"COFB";
/// Size limit of a blob, in bytes (KMS API Reference, Decrypt: CiphertextBlob).
pub const MAX_BLOB: usize = 6144;
/// Size limit of plaintext in the public verbs, in bytes (KMS API Reference, Encrypt: Plaintext).
pub const MAX_PLAINTEXT: usize = 4096;
/// Size limit of an encryption context, in canonical bytes.
pub const MAX_CONTEXT: usize = 8192;

const HEAD: usize = 57;
const NONCE: usize = 32;
const COMMITMENT: usize = 32;
const TAG: usize = 16;
const BLOB_INFO: &[u8] = b"coffer/blob/v1";
const LOCAL_INFO: &[u8] = b"coffer/local-seal/v1";
const LOCAL_HEAD: usize = 13;

// ---------------------------------------------------------------------------------------------------------------------
// Key ids

/// A KMS key's id: a UUID, or the multi-Region form `mrk-` with 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    multi_region: bool,
    bytes: [u8; 16],
}

impl KeyId {
    /// Draws a new key id: a version 4 UUID (RFC 9562, 5.4).
    #[must_use]
    pub fn draw(rng: &dyn Rng) -> Self {
        let mut raw = [0u8; 16];
        rng.fill(&mut raw);
        Self { multi_region: false, bytes: *uuid::Builder::from_random_bytes(raw).as_uuid().as_bytes() }
    }

    /// Draws the id of a multi-Region key: `mrk-` and 32 hexadecimal digits.
    #[must_use]
    pub fn draw_multi_region(rng: &dyn Rng) -> Self {
        Self { multi_region: true, ..Self::draw(rng) }
    }

    /// Whether it is the id of a multi-Region key.
    #[must_use]
    pub const fn is_multi_region(&self) -> bool {
        self.multi_region
    }

    /// Returns the 16 bytes that the text encodes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.bytes
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.multi_region {
            write!(f, "mrk-{}", hex::encode(self.bytes))
        } else {
            uuid::Uuid::from_bytes(self.bytes).hyphenated().fmt(f)
        }
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, format!("{s:?} is not a key id"))
                .hint("a key id is a UUID such as 1234abcd-12ab-34cd-56ef-1234567890ab, or mrk- and 32 hex digits")
        };
        let mut bytes = [0u8; 16];
        if let Some(digits) = s.strip_prefix("mrk-") {
            hex::decode_to_slice(digits, &mut bytes).map_err(|_| bad())?;
            return Ok(Self { multi_region: true, bytes });
        }
        let uuid = uuid::Uuid::try_parse(s).ok().filter(|_| s.len() == 36).ok_or_else(bad)?;
        Ok(Self { multi_region: false, bytes: *uuid.as_bytes() })
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The id of a backing key (a version of a KMS key): SHA-256("coffer/kmid/v1" || key id || material).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyMaterialId(pub [u8; 32]);

impl KeyMaterialId {
    /// Returns the id of a key's material: for a pair, its private key as PKCS #8.
    #[must_use]
    pub fn of(key: KeyId, material: &[u8]) -> Self {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [b"coffer/kmid/v1".as_slice(), &key.bytes, material] {
            hash.update(part);
        }
        let mut id = [0u8; 32];
        id.copy_from_slice(hash.finish().as_ref());
        Self(id)
    }
}

impl fmt::Display for KeyMaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyMaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyMaterialId {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyMaterialId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let mut raw = [0u8; 32];
        hex::decode_to_slice(String::deserialize(d)?, &mut raw).map_err(serde::de::Error::custom)?;
        Ok(Self(raw))
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Encryption context

/// Non-secret pairs bound to a ciphertext, which must be given again to open it. The AAD, the policy and the audit all
/// take this one type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct EncryptionContext(BTreeMap<String, String>);

impl EncryptionContext {
    /// Makes an empty context, which is the same as no context.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Makes a context of one pair, such as `aws:ebs:id` and a volume's id.
    #[must_use]
    pub fn of(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self(BTreeMap::from([(key.into(), value.into())]))
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a duplicate key, an empty key, or a context above [`MAX_CONTEXT`] bytes.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        if key.is_empty() {
            return Err(Error::new(Kind::Usage, "encryption context: a key is empty"));
        }
        if self.0.contains_key(&key) {
            return Err(Error::new(Kind::Usage, format!("encryption context: the key {key:?} comes twice")));
        }
        if self.canonical_len() + 8 + key.len() + value.len() > MAX_CONTEXT {
            return Err(Error::new(Kind::Usage, format!("encryption context: more than {MAX_CONTEXT} bytes")));
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// Parses a JSON object of strings, as the KMS API carries it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for anything else, and for a duplicate key.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|e| Error::new(Kind::Usage, "encryption context: not a JSON object of strings").because(e))
    }

    /// Formats it as a JSON object of strings, keys sorted.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_value(&self.0).map(|v| v.to_string()).unwrap_or_default()
    }

    /// Returns the value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Iterates over the pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn canonical_len(&self) -> usize {
        4 + self.0.iter().map(|(k, v)| 8 + k.len() + v.len()).sum::<usize>()
    }

    /// Returns the canonical bytes (see the module's documentation), which are part of the AAD.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.canonical_len());
        out.extend_from_slice(&len32(self.0.len()));
        for text in self.0.iter().flat_map(|(k, v)| [k, v]) {
            out.extend_from_slice(&len32(text.len()));
            out.extend_from_slice(text.as_bytes());
        }
        out
    }
}

/// Encodes a length as four little-endian bytes; every caller has bounded it far below 2^32.
fn len32(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

impl Serialize for EncryptionContext {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for EncryptionContext {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = EncryptionContext;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut context = EncryptionContext::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    context.insert(key, value).map_err(serde::de::Error::custom)?;
                }
                Ok(context)
            }
        }
        d.deserialize_map(Pairs)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The blob

/// The purpose of a blob, which limits who may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Made by a public verb (Encrypt, GenerateDataKey); the public Decrypt opens it.
    General,
    /// A volume's data key: made and opened only inside this process.
    Volume,
}

impl Purpose {
    const fn byte(self) -> u8 {
        match self {
            Self::General => 1,
            Self::Volume => 2,
        }
    }
}

/// Where the keys of a blob come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// From the backing key.
    Backing = 1,
    /// From a message key that the backing key wraps.
    Message = 2,
}

/// A parsed blob. Nothing in it is authenticated until it has been opened.
#[derive(Debug, Clone, Copy)]
pub struct Blob<'a> {
    bytes: &'a [u8],
    suite: Suite,
    purpose: Purpose,
    key_id: KeyId,
    material: KeyMaterialId,
    /// Offset of the commitment.
    commitment_at: usize,
}

fn bad(why: impl fmt::Display) -> Error {
    Error::new(Kind::InvalidCiphertext, format!("ciphertext blob: {why}"))
}

impl<'a> Blob<'a> {
    /// Parses `bytes`. Every length is checked against the bytes that are left.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] naming the first field that violates format 1.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > MAX_BLOB {
            return Err(bad(format_args!("{} bytes, more than {MAX_BLOB}", bytes.len())));
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Err(bad(format_args!("{} bytes are too few", bytes.len())));
        };
        if head[..4] != MAGIC {
            return Err(bad("it does not start with COFB"));
        }
        let [format, suite, purpose, flags, kind] = [head[4], head[5], head[6], head[7], head[8]];
        let known = [Suite::Backing, Suite::Message].into_iter().find(|known| *known as u8 == suite);
        let Some(suite) = known.filter(|_| (format, flags) == (1, 0) && kind <= 1) else {
            let what = format_args!("format {format}, suite {suite}, flags {flags}, key id kind {kind}");
            return Err(bad(format_args!("{what}: this build opens format 1")));
        };
        let purpose = match purpose {
            1 => Purpose::General,
            2 => Purpose::Volume,
            other => return Err(bad(format_args!("purpose {other} is unknown"))),
        };
        let recipient = rest.get(NONCE..NONCE + 2).map_or(0, |l| usize::from(u16::from_le_bytes([l[0], l[1]])));
        if (suite == Suite::Message) != (recipient > 0) {
            return Err(bad("suite 1 has no recipient, and suite 2 has one"));
        }
        if rest.len() < NONCE + 2 + recipient + COMMITMENT + TAG {
            return Err(bad(format_args!("{} bytes are too few", bytes.len())));
        }
        let mut id = [0u8; 16];
        id.copy_from_slice(&head[9..25]);
        let mut material = [0u8; 32];
        material.copy_from_slice(&head[25..HEAD]);
        Ok(Self {
            bytes,
            suite,
            purpose,
            key_id: KeyId { multi_region: kind == 1, bytes: id },
            material: KeyMaterialId(material),
            commitment_at: HEAD + NONCE + 2 + recipient,
        })
    }

    /// Returns its suite.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Returns its purpose.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Returns the id of the KMS key that it names.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Returns the id of the backing key that it names.
    #[must_use]
    pub const fn material(&self) -> KeyMaterialId {
        self.material
    }

    /// Everything before the nonce.
    fn head(&self) -> &'a [u8] {
        &self.bytes[..HEAD]
    }

    fn nonce(&self) -> &'a [u8] {
        &self.bytes[HEAD..HEAD + NONCE]
    }

    fn recipient(&self) -> &'a [u8] {
        &self.bytes[HEAD + NONCE + 2..self.commitment_at]
    }

    fn ciphertext_at(&self) -> usize {
        self.commitment_at + COMMITMENT
    }

    /// Returns the length of the plaintext, in bytes.
    #[must_use]
    pub fn plaintext_len(&self) -> usize {
        self.bytes.len() - self.ciphertext_at() - TAG
    }
}

/// Derives K || C of a blob from its backing key (suite 1) or its message key (suite 2).
fn message_keys(from: &Secret<32>, head: &[u8], nonce: &[u8]) -> Secret<64> {
    Secret::build(|out| hkdf_sha256(from.expose(), nonce, &[BLOB_INFO, head], out))
}

/// AES-256-GCM under the first 32 bytes of `keys`.
fn gcm(key: &[u8]) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key);
    key.map(LessSafeKey::new).map_err(|_| Error::new(Kind::Failed, "AES-256-GCM could not be set up"))
}

fn seal_in_place(key: &[u8], nonce: [u8; 12], aad: &[u8], bytes: &mut [u8]) -> Result<[u8; TAG]> {
    let tag = gcm(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes)
        .map_err(|_| Error::new(Kind::Failed, "AES-256-GCM could not seal"))?;
    let mut out = [0u8; TAG];
    out.copy_from_slice(tag.as_ref());
    Ok(out)
}

/// Opens `bytes` in place; false if the tag does not match (then the contents of `bytes` must not be used).
fn open_in_place(key: &[u8], nonce: [u8; 12], aad: &[u8], tag: &[u8], bytes: &mut [u8]) -> Result<bool> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    Ok(gcm(key)?.open_in_place_separate_tag(nonce, Aad::from(aad), tag, bytes).is_ok())
}

// ---------------------------------------------------------------------------------------------------------------------
// Backing keys

/// A version of a KMS key: 256 bits of wrapping key, and its ids.
#[derive(Debug)]
pub struct BackingKey {
    key_id: KeyId,
    material: KeyMaterialId,
    secret: Secret<32>,
}

impl BackingKey {
    /// Makes the backing key of `key_id` with this material.
    #[must_use]
    pub fn new(key_id: KeyId, secret: Secret<32>) -> Self {
        Self { key_id, material: KeyMaterialId::of(key_id, secret.expose()), secret }
    }

    /// Generates a backing key for `key_id` from the operating system's random numbers.
    #[must_use]
    pub fn generate(key_id: KeyId) -> Self {
        Self::new(key_id, Secret::random())
    }

    /// Seals the material under the root key `root` with `aad`.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the cipher cannot be set up.
    pub fn seal_under(&self, root: &Secret<32>, aad: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
        seal_local(root, aad, self.secret.expose(), rng)
    }
}

impl WrappingKey for BackingKey {
    fn key_id(&self) -> KeyId {
        self.key_id
    }
    fn material(&self) -> KeyMaterialId {
        self.material
    }
    fn suite(&self) -> Suite {
        Suite::Backing
    }
    fn wrap_message_key(&self, head: &[u8], nonce: &[u8]) -> Result<MessageKey> {
        Ok(MessageKey { keys: message_keys(&self.secret, head, nonce), recipient: Vec::new() })
    }
    fn unwrap_message_key(&self, head: &[u8], nonce: &[u8], _recipient: &[u8]) -> Result<Secret<64>> {
        Ok(message_keys(&self.secret, head, nonce))
    }
}

/// The keys of a new blob.
pub struct MessageKey {
    /// K || C.
    pub keys: Secret<64>,
    /// From which [`WrappingKey::unwrap_message_key`] has them again; empty in suite 1.
    pub recipient: Vec<u8>,
}

/// A version of a symmetric KMS key, as blobs need it: it gives each blob keys of its own, and never its own bytes.
pub trait WrappingKey {
    /// Returns the id of its KMS key.
    fn key_id(&self) -> KeyId;
    /// Returns its material id.
    fn material(&self) -> KeyMaterialId;
    /// Returns the suite of its blobs.
    fn suite(&self) -> Suite;
    /// Makes the keys of a blob with this head and this random nonce.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if the key cannot be reached.
    fn wrap_message_key(&self, head: &[u8], nonce: &[u8]) -> Result<MessageKey>;
    /// Returns the keys of a blob that it made; other keys or an error for any other.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if the key cannot be reached, [`Kind::InvalidCiphertext`] for a recipient that it did not make.
    fn unwrap_message_key(&self, head: &[u8], nonce: &[u8], recipient: &[u8]) -> Result<Secret<64>>;
}

impl dyn WrappingKey + '_ {
    fn seal(&self, purpose: Purpose, context: &EncryptionContext, plain: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
        let mut nonce = [0u8; NONCE];
        rng.fill(&mut nonce);
        self.seal_with(purpose, context, plain, &nonce)
    }

    fn seal_with(&self, purpose: Purpose, context: &EncryptionContext, plain: &[u8], nonce: &[u8]) -> Result<Vec<u8>> {
        let mut blob = Vec::with_capacity(HEAD + NONCE + 2 + COMMITMENT + plain.len() + TAG);
        blob.extend_from_slice(&MAGIC);
        let id = self.key_id();
        blob.extend_from_slice(&[1, self.suite() as u8, purpose.byte(), 0, u8::from(id.multi_region)]);
        blob.extend_from_slice(&id.bytes);
        blob.extend_from_slice(&self.material().0);
        let MessageKey { keys, recipient } = self.wrap_message_key(&blob, nonce)?;
        let (key, commitment) = keys.expose().split_at(32);
        let length = u16::try_from(recipient.len()).map_err(|_| Error::new(Kind::Failed, "a recipient is too long"))?;
        blob.extend_from_slice(nonce);
        blob.extend_from_slice(&length.to_le_bytes());
        blob.extend_from_slice(&recipient);
        blob.extend_from_slice(commitment);
        let aad = [&blob[..], &context.canonical()].concat();
        let at = blob.len();
        blob.extend_from_slice(plain);
        let tag = seal_in_place(key, [0; 12], &aad, &mut blob[at..])?;
        blob.extend_from_slice(&tag);
        Ok(blob)
    }

    /// Opens `blob` into `out`, which must be [`Blob::plaintext_len`] bytes long.
    fn open(&self, blob: &Blob<'_>, context: &EncryptionContext, out: &mut [u8]) -> Result<()> {
        let ours = (self.key_id(), self.material(), self.suite());
        if (blob.key_id, blob.material, blob.suite) != ours {
            let what = format_args!("it was made with key material {}, not {}", blob.material, ours.1);
            return Err(bad(format_args!("{what}, or in another suite")));
        }
        let keys = self.unwrap_message_key(blob.head(), blob.nonce(), blob.recipient())?;
        let (key, commitment) = keys.expose().split_at(32);
        let at = blob.ciphertext_at();
        if !bool::from(commitment.ct_eq(&blob.bytes[blob.commitment_at..at])) {
            return Err(bad("its key commitment does not fit: the blob was altered"));
        }
        let (ciphertext, tag) = blob.bytes[at..].split_at(out.len());
        out.copy_from_slice(ciphertext);
        let aad = [&blob.bytes[..at], &context.canonical()].concat();
        if !open_in_place(key, [0; 12], &aad, tag, out)? {
            return Err(bad("its tag does not fit: the encryption context differs, or the blob was altered"));
        }
        Ok(())
    }

    /// Seals the bytes of a public caller: purpose general.
    ///
    /// # Errors
    /// [`Kind::Usage`] for more than [`MAX_PLAINTEXT`] bytes or none.
    pub fn seal_bytes(&self, context: &EncryptionContext, plain: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
        if plain.is_empty() || plain.len() > MAX_PLAINTEXT {
            let what = format!("encrypt: a plaintext has 1 to {MAX_PLAINTEXT} bytes, not {}", plain.len());
            return Err(Error::new(Kind::Usage, what).hint("encrypt larger data under a data key"));
        }
        self.seal(Purpose::General, context, plain, rng)
    }

    /// Opens a blob of purpose general; the plaintext is wiped when dropped.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] for a volume's data key, another key's blob, another context, an altered blob.
    pub fn open_bytes(&self, blob: &Blob<'_>, context: &EncryptionContext) -> Result<Zeroizing<Vec<u8>>> {
        if blob.purpose != Purpose::General {
            return Err(bad("it holds a volume's data key, which no public verb opens"));
        }
        let mut out = Zeroizing::new(vec![0u8; blob.plaintext_len()]);
        self.open(blob, context, &mut out)?;
        Ok(out)
    }

    /// Generates a volume's data key, and its blob under `context`.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the random numbers came out with equal halves.
    pub fn new_data_key(&self, context: &EncryptionContext, rng: &dyn Rng) -> Result<(Vec<u8>, Unwrapped<DataKey>)> {
        let key = checked(Secret::random(), Kind::Failed)?;
        Ok((self.wrap_data_key(&key, context, rng)?, key))
    }

    /// Wraps an open data key again: under another KMS key or a newer version.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the cipher cannot be set up.
    pub fn wrap_data_key(&self, key: &Unwrapped<DataKey>, ctx: &EncryptionContext, rng: &dyn Rng) -> Result<Vec<u8>> {
        self.seal(Purpose::Volume, ctx, key.get().0.expose(), rng)
    }

    /// Opens a volume's data key: the only way from a blob to a cipher.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] for a blob of another purpose, key, context or length, an altered one, one whose
    /// halves are equal, or one whose key is not `expected`.
    pub fn open_data_key(
        &self,
        blob: &Blob<'_>,
        context: &EncryptionContext,
        expected: DataKeyId,
    ) -> Result<Unwrapped<DataKey>> {
        if blob.purpose != Purpose::Volume || blob.plaintext_len() != 64 {
            return Err(bad("it does not hold a volume's data key"));
        }
        let key = checked(Secret::try_build(|out| self.open(blob, context, out))?, Kind::InvalidCiphertext)?;
        let found = key.get().id();
        if found != expected {
            return Err(bad(format_args!("it holds data key {found}, not {expected}")));
        }
        Ok(key)
    }
}

/// Makes a data key of 64 bytes, if its halves differ. Every key that a cipher is built from comes through here.
fn checked(secret: Secret<64>, kind: Kind) -> Result<Unwrapped<DataKey>> {
    let key = DataKey(secret);
    if key.halves_are_equal() {
        return Err(Error::new(kind, "data key: its two halves are equal, which XTS forbids"));
    }
    Ok(Unwrapped(key))
}

// ---------------------------------------------------------------------------------------------------------------------
// Local sealing

fn local_key(root: &Secret<32>) -> Secret<32> {
    Secret::build(|out| hkdf_sha256(root.expose(), &[], &[LOCAL_INFO], out))
}

/// Seals `plain` (a secret of this installation) under `root`; `aad` binds its kind and owner.
///
/// # Errors
/// [`Kind::Failed`] if the cipher cannot be set up.
pub fn seal_local(root: &Secret<32>, aad: &[u8], plain: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
    let mut nonce = [0u8; 12];
    rng.fill(&mut nonce);
    let mut out = Vec::with_capacity(LOCAL_HEAD + plain.len() + TAG);
    out.push(1);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = seal_in_place(local_key(root).expose(), nonce, aad, &mut out[LOCAL_HEAD..])?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Opens `N` bytes sealed by [`seal_local`].
///
/// # Errors
/// [`Kind::Integrity`] if it was altered, has another length, or was sealed under another key or `aad`.
pub fn open_local<const N: usize>(root: &Secret<32>, aad: &[u8], sealed: &[u8]) -> Result<Secret<N>> {
    let parts = LocalSeal::parse(sealed).filter(|parts| parts.ciphertext.len() == N);
    let parts = parts.ok_or_else(|| bad_seal("it is not of the expected form"))?;
    Secret::try_build(|out| parts.open(root, aad, out))
}

/// Opens bytes of any length sealed by [`seal_local`]; wiped when dropped.
///
/// # Errors
/// As [`open_local`].
pub fn open_local_bytes(root: &Secret<32>, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let parts = LocalSeal::parse(sealed).ok_or_else(|| bad_seal("it is not of the expected form"))?;
    let mut out = Zeroizing::new(vec![0; parts.ciphertext.len()]);
    parts.open(root, aad, &mut out)?;
    Ok(out)
}

fn bad_seal(why: &str) -> Error {
    Error::new(Kind::Integrity, format!("sealed secret: {why}"))
}

/// The fields of a local seal.
struct LocalSeal<'a> {
    nonce: [u8; 12],
    ciphertext: &'a [u8],
    tag: &'a [u8],
}

impl<'a> LocalSeal<'a> {
    fn parse(sealed: &'a [u8]) -> Option<Self> {
        let (head, rest) = sealed.split_first_chunk::<LOCAL_HEAD>()?;
        let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let mut nonce = [0u8; 12];
        nonce.copy_from_slice(&head[1..]);
        (head[0] == 1).then_some(Self { nonce, ciphertext, tag })
    }

    /// Opens it into `out`, which is as long as the ciphertext.
    fn open(&self, root: &Secret<32>, aad: &[u8], out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(self.ciphertext);
        match open_in_place(local_key(root).expose(), self.nonce, aad, self.tag, out)? {
            true => Ok(()),
            false => Err(bad_seal("it was altered, or sealed under another root key or for something else")),
        }
    }
}

#[cfg(test)]
#[path = "wrap_tests.rs"]
mod tests;
