//! DER at the edges: AWS-LC's parsers ignore what follows a structure and take other forms of a key too; here these are
//! refused.

use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Whether `der` is one SEQUENCE and nothing after it.
pub(super) fn is_one_sequence(der: &[u8]) -> bool {
    Any::from_der(der).is_ok_and(|(rest, any)| rest.is_empty() && any.tag() == Tag::Sequence)
}

/// Returns the key inside a SubjectPublicKeyInfo, without its algorithm. `None` if bytes follow, or if the algorithm's
/// parameters are a SEQUENCE: a curve must be named (RFC 5480, 2.1.1), and a key of id-RSASSA-PSS has uses of its own.
pub(super) fn public_key(spki_der: &[u8]) -> Option<Vec<u8>> {
    let (rest, spki) = SubjectPublicKeyInfo::from_der(spki_der).ok()?;
    let plain = spki.algorithm.parameters.as_ref().is_none_or(|parameters| parameters.tag() != Tag::Sequence);
    let whole = rest.is_empty() && spki.subject_public_key.unused_bits == 0;
    (plain && whole).then(|| spki.subject_public_key.data.to_vec())
}
