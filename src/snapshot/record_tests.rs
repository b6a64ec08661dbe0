use super::super::testing::{LINEAGE, author};
use super::*;
use proptest::prelude::*;

fn record(body: &[u8]) -> (Record, PublicKey) {
    let by = author(1);
    let envelope = Envelope {
        family: Family::Log,
        kind: 2,
        lineage: LINEAGE,
        number: 77,
        previous: Hash32([5; 32]),
        signer: by.installation,
    };
    (Record::sign(envelope, body, &*by.signer).unwrap(), by.signer.public_key())
}

#[test]
fn every_changed_byte_is_found() {
    let (made, key) = record(b"{\"a\":1}");
    for i in 0..made.raw().len() {
        let mut bad = made.raw().to_vec();
        bad[i] ^= 1;
        let found = Record::parse("r", Family::Log, Bytes::from(bad)).and_then(|r| r.verify("r", &key));
        assert!(found.is_err(), "byte {i}");
    }
}

#[test]
fn a_signature_is_bound_to_the_family() {
    let (made, key) = record(b"{}");
    let mut other = made.raw().to_vec();
    other[..8].copy_from_slice(b"COFMANI1");
    let other = Record::parse("r", Family::Manifest, Bytes::from(other)).unwrap();
    assert!(other.verify("r", &key).is_err());
    assert!(made.verify("r", &author(2).signer.public_key()).is_err());
}

proptest! {
    #[test]
    fn round_trip(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (made, key) = record(&body);
        let read = Record::parse("r", Family::Log, made.raw().clone()).unwrap();
        read.verify("r", &key).unwrap();
        prop_assert_eq!(read.envelope, made.envelope);
        prop_assert_eq!(read.hash(), made.hash());
        let _ = read.body::<serde_json::Value>("r");
    }

    #[test]
    fn random_bytes_never_panic(mut raw in proptest::collection::vec(any::<u8>(), 0..300), fix: bool) {
        if fix && raw.len() >= 10 {
            raw[..10].copy_from_slice(b"COFLOGR1\x01\0");
        }
        if let Ok(r) = Record::parse("r", Family::Log, Bytes::from(raw)) {
            prop_assert!(r.verify("r", &[1; 32]).is_err());
        }
    }
}
