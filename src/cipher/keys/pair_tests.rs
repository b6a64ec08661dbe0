use super::super::{KeySpec, PrivateKey};
use super::*;
use openssl::pkey::{Id, PKey};

/// OpenSSL reads both halves, and they belong together.
#[test]
fn pairs_are_what_openssl_reads() {
    use DataKeyPairSpec as Spec;
    for (spec, id, bits) in [
        (Spec::Rsa2048, Id::RSA, 2048),
        (Spec::Rsa3072, Id::RSA, 3072),
        (Spec::EccNistP256, Id::EC, 256),
        (Spec::EccNistP384, Id::EC, 384),
        (Spec::EccNistP521, Id::EC, 521),
        (Spec::EccSecgP256k1, Id::EC, 256),
        (Spec::EccNistEdwards25519, Id::ED25519, 256),
    ] {
        let pair = generate_pair(spec).unwrap();
        let private = PKey::private_key_from_pkcs8(&pair.private).unwrap();
        let public = PKey::public_key_from_der(&pair.public).unwrap();
        assert!(private.public_eq(&public), "{spec}");
        assert_eq!((public.id(), public.bits()), (id, if id == Id::ED25519 { 256 } else { bits }), "{spec}");
        assert_eq!(private.public_key_to_der().unwrap(), pair.public, "{spec}");
        let again = PrivateKey::from_pkcs8(KeySpec::from(spec), &pair.private).unwrap();
        assert_eq!(again.public_key_der().unwrap(), pair.public, "{spec}");
        assert_ne!(generate_pair(spec).unwrap().public, pair.public, "{spec}");
        assert_eq!(format!("{pair:?}"), "DataKeyPair(redacted)");
    }
}
