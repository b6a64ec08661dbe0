//! The Authorization header of Signature Version 4.
//!
//! ```text
//! AWS4-HMAC-SHA256 Credential=ID/YYYYMMDD/REGION/SERVICE/aws4_request, SignedHeaders=host;x-amz-date, Signature=<64 hex digits>
//! ```
//! Source: IAM User Guide, "Create a signed AWS API request". Uses nothing outside the standard library, so that it can be fuzzed
//! alone.

/// The scheme of SigV4 with HMAC-SHA-256.
pub const SCHEME: &str = "AWS4-HMAC-SHA256";
/// The scheme of SigV4a, whose signatures are asymmetric.
pub const SCHEME_ASYMMETRIC: &str = "AWS4-ECDSA-P256-SHA256";
/// The last part of each credential scope.
pub const TERMINATOR: &str = "aws4_request";

/// Longest header that is read, in bytes.
const LONGEST: usize = 8 * 1024;
/// Longest access key id, in characters (STS API Reference, `Credentials`).
const LONGEST_ID: usize = 128;
/// Longest Region or service name, in characters; no real one comes near it.
const LONGEST_NAME: usize = 64;
/// Most signed headers.
const MOST_HEADERS: usize = 100;

/// What an Authorization header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// The access key id.
    pub access_key_id: String,
    /// The scope's date, `YYYYMMDD`.
    pub date: String,
    /// The scope's Region.
    pub region: String,
    /// The scope's service: a signing name such as `kms`.
    pub service: String,
    /// The signed headers: lower case, ascending, no duplicates.
    pub signed_headers: Vec<String>,
    /// The signature: HMAC-SHA-256, 32 bytes.
    pub signature: [u8; 32],
}

/// Why an Authorization header is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// Another scheme than SigV4, such as Basic or Bearer.
    Scheme,
    /// SigV4a, which is not supported.
    Asymmetric,
    /// The header is too long, or has an unknown, missing, repeated or empty part.
    Malformed,
    /// The credential is not `ID/YYYYMMDD/REGION/SERVICE/aws4_request`.
    Scope,
    /// The signed headers are not in lower case, not in order, or too many.
    SignedHeaders,
    /// The signature is not 64 lower-case hexadecimal digits.
    Signature,
}

impl Authorization {
    /// Reads a header's value.
    ///
    /// # Errors
    /// A [`HeaderFault`] unless the value has exactly the form above. Space around the commas is optional, and so is their order.
    pub fn parse(value: &str) -> Result<Self, HeaderFault> {
        if value.len() > LONGEST {
            return Err(HeaderFault::Malformed);
        }
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        match scheme {
            SCHEME => {}
            SCHEME_ASYMMETRIC => return Err(HeaderFault::Asymmetric),
            _ => return Err(HeaderFault::Scheme),
        }
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim_matches(' ').split_once('=').ok_or(HeaderFault::Malformed)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(HeaderFault::Malformed),
            };
            if value.is_empty() || slot.replace(value).is_some() {
                return Err(HeaderFault::Malformed);
            }
        }
        let missing = HeaderFault::Malformed;
        let (credential, headers) = (credential.ok_or(missing)?, headers.ok_or(missing)?);
        let [access_key_id, date, region, service] = scope(credential)?;
        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            signed_headers: signed_headers(headers)?,
            signature: unhex(signature.ok_or(missing)?).ok_or(HeaderFault::Signature)?,
        })
    }
}

/// Splits a credential into access key id, date, Region and service.
fn scope(credential: &str) -> Result<[String; 4], HeaderFault> {
    let parts: Vec<&str> = credential.split('/').collect();
    let &[id, date, region, service, TERMINATOR] = &parts[..] else { return Err(HeaderFault::Scope) };
    let within = |text: &str, most: usize, good: fn(u8) -> bool| {
        !text.is_empty() && text.len() <= most && text.bytes().all(good)
    };
    let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = within(id, LONGEST_ID, |b| b.is_ascii_alphanumeric() || b == b'_')
        && date.len() == 8
        && within(date, 8, |b| b.is_ascii_digit())
        && within(region, LONGEST_NAME, name)
        && within(service, LONGEST_NAME, name);
    if good { Ok([id, date, region, service].map(str::to_owned)) } else { Err(HeaderFault::Scope) }
}

fn signed_headers(list: &str) -> Result<Vec<String>, HeaderFault> {
    // The characters of a token (RFC 9110, section 5.6.2), without upper case.
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    let names: Vec<&str> = list.split(';').collect();
    let good = names.len() <= MOST_HEADERS
        && names.iter().all(|name| !name.is_empty() && name.bytes().all(token))
        && names.is_sorted_by(|a, b| a < b);
    if good { Ok(names.into_iter().map(str::to_owned).collect()) } else { Err(HeaderFault::SignedHeaders) }
}

/// Reads 64 lower-case hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let pairs: &[[u8; 2]; 32] = text.as_bytes().as_chunks().0.try_into().ok().filter(|_| text.len() == 64)?;
    let mut out = [0; 32];
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}
