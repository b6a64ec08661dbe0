//! DER at the edges: AWS-LC's parsers ignore what follows a structure and take other forms of a key too; here these are
//! refused.

use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Whether `der` is one SEQUENCE and nothing after it.
pub(super) fn is_one_sequence(der: &[u8]) -> bool {
    Any::from_der(der).is_ok_and(|(rest, any)| rest.is_empty() && any.tag() == Tag::Sequence)
}

/// The algorithm identifiers whose keys have more than one encoding.
const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";

/// Returns the key inside a SubjectPublicKeyInfo, without its algorithm. `None` if bytes follow, or if it is encoded in a way
/// that AWS-LC overlooks and the standards exclude: parameters other than NULL for RSA (RFC 3279, 2.3.1) or than a named
/// curve (RFC 5480, 2.1.1), any for other keys (RFC 8410, 3), and points in the hybrid form (RFC 5480, 2.2).
pub(super) fn public_key(spki_der: &[u8]) -> Option<Vec<u8>> {
    let (rest, spki) = SubjectPublicKeyInfo::from_der(spki_der).ok()?;
    let (parameters, key) = (spki.algorithm.parameters.as_ref(), &spki.subject_public_key);
    let is = |tag: Tag| {
        parameters.is_some_and(|p| p.tag() == tag && p.class() == Class::Universal && p.header.is_primitive())
    };
    let plain = match &*spki.algorithm.algorithm.to_id_string() {
        RSA => is(Tag::Null),
        EC => is(Tag::Oid) && !matches!(key.data.first(), None | Some(6 | 7)),
        _ => parameters.is_none(),
    };
    let whole = rest.is_empty() && key.unused_bits == 0;
    (plain && whole).then(|| key.data.to_vec())
}
