//! Signature Version 4: whether a request was signed with a secret access key. Neither sockets nor keys' storage: a pure function of
//! the request, the time and the secret.
//!
//! Source: IAM User Guide, "AWS Signature Version 4 for API requests"; the rules for services other than S3: the path is
//! normalized (RFC 3986, section 5.2.4) and encoded once more than on the wire.
//!
//! [`Claim::read`] checks all that needs no secret; [`Claim::verify`] compares the signature, in constant time. Stricter than AWS in
//! what must be signed: `host` and every `x-amz-*` header of the request, session tokens included.

pub mod header;

use crate::env::Timestamp;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use header::{Authorization, HeaderFault, SCHEME, TERMINATOR, unhex};
use http::HeaderMap;
use http::header::{AUTHORIZATION, DATE, HOST};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// How far a signature's time may be from this machine's clock, in milliseconds: 15 minutes.
pub const SKEW_MS: i64 = 15 * 60 * 1000;
/// The value of `x-amz-content-sha256` when the signature does not cover the body.
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
const AMZ_DATE: &str = "x-amz-date";
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// A request as it came over the wire.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The path, still encoded; empty means `/`.
    pub path: &'a str,
    /// The query without its `?`, still encoded.
    pub query: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What stands for the Host header if there is none: HTTP/2's `:authority`.
    pub authority: Option<&'a str>,
    /// The whole body.
    pub body: &'a [u8],
}

/// Why a request is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no Authorization header.
    Missing,
    /// The signature is in the query: a presigned URL, which is not supported.
    Presigned,
    /// The Authorization header is malformed or of another scheme.
    Header(HeaderFault),
    /// A header that counts for the signature is repeated or not text.
    Ambiguous,
    /// `host` or an `x-amz-*` header is not signed.
    Unsigned,
    /// A signed header is absent.
    Absent,
    /// There is neither a valid X-Amz-Date nor a valid, signed Date header.
    NoDate,
    /// The scope's date is not that of the request.
    ScopeDate,
    /// The request was signed more than 15 minutes ago.
    Expired,
    /// The request was signed more than 15 minutes from now.
    NotYet,
    /// The body is not the one that `x-amz-content-sha256` names, or is sent in signed chunks.
    Payload,
    /// The signature does not match.
    Mismatch,
}

/// What a request claims about its signer, before the signature is verified.
#[derive(Debug)]
pub struct Claim {
    /// The Authorization header.
    pub authorization: Authorization,
    /// The session token, which is signed.
    pub session_token: Option<Zeroizing<String>>,
    /// `YYYYMMDDTHHMMSSZ`.
    time: String,
    /// SHA-256 of the canonical request, in hexadecimal.
    canonical: String,
}

impl Claim {
    /// Reads the claim of a request, and checks all of it but the signature.
    ///
    /// # Errors
    /// Any [`Fault`] but [`Fault::Mismatch`].
    pub fn read(request: &Received<'_>, now: Timestamp) -> Result<Self, Fault> {
        let authorization = match single(request.headers, AUTHORIZATION.as_str())? {
            Some(value) => Authorization::parse(value).map_err(Fault::Header)?,
            None if presigned(request.query) => return Err(Fault::Presigned),
            None => return Err(Fault::Missing),
        };
        let signed = &authorization.signed_headers;
        covers(request, signed)?;
        let (time, at) = time(request.headers, signed)?;
        if !time.starts_with(&authorization.date) {
            return Err(Fault::ScopeDate);
        }
        match now.0.saturating_sub(at.0) {
            late if late > SKEW_MS => return Err(Fault::Expired),
            early if early < -SKEW_MS => return Err(Fault::NotYet),
            _ => {}
        }
        let payload = payload(request)?;
        let canonical = canonical_request(request, signed, &payload)?;
        let session_token = single(request.headers, SECURITY_TOKEN)?.map(|token| Zeroizing::new(token.to_owned()));
        Ok(Self { session_token, time, canonical: sha256(&canonical), authorization })
    }

    /// Whether the request was signed with this secret access key.
    ///
    /// # Errors
    /// [`Fault::Mismatch`] if it was not.
    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let Authorization { date, region, service, .. } = &self.authorization;
        let to_sign = format!("{SCHEME}\n{}\n{date}/{region}/{service}/{TERMINATOR}\n{}", self.time, self.canonical);
        let mut first = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(secret.as_bytes());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &first);
        for part in [date, region, service, TERMINATOR] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        // Compares in constant time.
        hmac::verify(&key, to_sign.as_bytes(), &self.authorization.signature).map_err(|_| Fault::Mismatch)
    }
}

/// Returns a header's value if it occurs once, and is text.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Fault::Ambiguous),
        (Some(_), Some(_)) => Err(Fault::Ambiguous),
    }
}

fn presigned(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        ["X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"].iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// Checks that the signature covers the headers that it must, and names none that the request does not have.
fn covers(request: &Received<'_>, signed: &[String]) -> Result<(), Fault> {
    let is_signed = |name: &str| signed.binary_search_by(|s| s.as_str().cmp(name)).is_ok();
    if !is_signed(HOST.as_str()) {
        return Err(Fault::Unsigned);
    }
    single(request.headers, HOST.as_str())?;
    for name in request.headers.keys().filter(|name| name.as_str().starts_with("x-amz-")) {
        single(request.headers, name.as_str())?;
        if !is_signed(name.as_str()) {
            return Err(Fault::Unsigned);
        }
    }
    Ok(())
}

/// Returns the time of the signature in the form that is signed, and as a time.
fn time(headers: &HeaderMap, signed: &[String]) -> Result<(String, Timestamp), Fault> {
    let at = match single(headers, AMZ_DATE)? {
        Some(text) => basic(text),
        None if signed.iter().any(|name| name == DATE.as_str()) => {
            let text = single(headers, DATE.as_str())?.ok_or(Fault::NoDate)?;
            basic(text)
                .or_else(|| jiff::fmt::rfc2822::parse(text).ok().map(|at| at.with_time_zone(TimeZone::UTC).datetime()))
        }
        None => None,
    };
    let at = at.ok_or(Fault::NoDate)?;
    let stamp = TimeZone::UTC.to_timestamp(at).map_err(|_| Fault::NoDate)?;
    Ok((at.strftime("%Y%m%dT%H%M%SZ").to_string(), Timestamp(stamp.as_millisecond())))
}

/// Reads `YYYYMMDDTHHMMSSZ`, and nothing else.
fn basic(text: &str) -> Option<DateTime> {
    let shape = |(i, b): (usize, u8)| match i {
        8 => b == b'T',
        15 => b == b'Z',
        _ => b.is_ascii_digit(),
    };
    let good = text.len() == 16 && text.bytes().enumerate().all(shape);
    good.then(|| DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok())?
}

/// Returns what stands for the body in the canonical request: its hash, unless the client says that it is not signed.
fn payload(request: &Received<'_>) -> Result<String, Fault> {
    let hash = || digest(&SHA256, request.body);
    match single(request.headers, CONTENT_SHA256)? {
        None => Ok(sha256(request.body)),
        Some(UNSIGNED_PAYLOAD) => Ok(UNSIGNED_PAYLOAD.to_owned()),
        Some(text) => match unhex(text) {
            Some(claimed) if bool::from(claimed[..].ct_eq(hash().as_ref())) => Ok(text.to_owned()),
            _ => Err(Fault::Payload),
        },
    }
}

/// Builds the canonical request.
fn canonical_request(request: &Received<'_>, signed: &[String], payload: &str) -> Result<Vec<u8>, Fault> {
    let mut out = format!("{}\n", request.method).into_bytes();
    path(request.path, &mut out);
    out.push(b'\n');
    query(request.query, &mut out);
    out.push(b'\n');
    for name in signed {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        let mut values = request.headers.get_all(name).iter().map(|value| value.as_bytes()).peekable();
        if values.peek().is_some() {
            for (i, value) in values.enumerate() {
                out.extend_from_slice(if i > 0 { b"," } else { b"" });
                squeeze(value, &mut out);
            }
        } else if let (true, Some(authority)) = (name == HOST.as_str(), request.authority) {
            out.extend_from_slice(authority.as_bytes());
        } else {
            return Err(Fault::Absent);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(signed.join(";").as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload.as_bytes());
    Ok(out)
}

/// Appends a header's value without space at its ends, and with single spaces within.
fn squeeze(value: &[u8], out: &mut Vec<u8>) {
    let words = value.split(|b| *b == b' ' || *b == b'\t').filter(|word| !word.is_empty());
    for (i, word) in words.enumerate() {
        out.extend_from_slice(if i > 0 { b" " } else { b"" });
        out.extend_from_slice(word);
    }
}

/// Appends a path without its dot segments and empty segments, each segment encoded once more.
fn path(raw: &str, out: &mut Vec<u8>) {
    let mut kept: Vec<&str> = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    for segment in &kept {
        out.push(b'/');
        encode(segment.as_bytes(), out);
    }
    if kept.is_empty() || ["/", "/.", "/.."].iter().any(|end| raw.ends_with(end)) {
        out.push(b'/');
    }
}

/// Appends a query in order of its encoded names, then values.
fn query(raw: &str, out: &mut Vec<u8>) {
    let encoded = |text: &str| {
        let mut out = Vec::new();
        encode(&percent_encoding::percent_decode_str(text).collect::<Vec<u8>>(), &mut out);
        out
    };
    let pairs = raw.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<_> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    for (i, (name, value)) in pairs.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b"&" } else { b"" });
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// Appends bytes with all but the unreserved characters (RFC 3986, section 2.3) percent-encoded.
fn encode(raw: &[u8], out: &mut Vec<u8>) {
    for byte in raw {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            other => out.extend_from_slice(percent_encoding::percent_encode_byte(*other).as_bytes()),
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
