//! DER at the edges: AWS-LC's parsers ignore what follows a structure, here it is refused.

use x509_parser::asn1_rs::{Any, FromDer, Tag};

/// Whether `der` is one SEQUENCE and nothing after it.
pub(super) fn is_one_sequence(der: &[u8]) -> bool {
    Any::from_der(der).is_ok_and(|(rest, any)| rest.is_empty() && any.tag() == Tag::Sequence)
}
