use super::*;

/// Serialises and parses each value of an enum, and returns the names.
macro_rules! round_trip {
    ($name:ident) => {{
        for value in $name::ALL {
            assert_eq!(value.name().parse::<$name>().unwrap(), *value);
            assert_eq!(value.to_string(), value.name());
            let json = serde_json::to_string(value).unwrap();
            assert_eq!(json, format!("\"{}\"", value.name()));
            assert_eq!(serde_json::from_str::<$name>(&json).unwrap(), *value);
        }
        $name::ALL.iter().map(|v| v.name()).collect::<Vec<_>>().join(" ")
    }};
}

/// The names are those of the KMS API model of 2014-11-01 in botocore 1.43.11, without SM2.
#[test]
fn names_are_those_of_aws() {
    assert_eq!(
        round_trip!(KeySpec),
        "SYMMETRIC_DEFAULT RSA_2048 RSA_3072 RSA_4096 ECC_NIST_P256 ECC_NIST_P384 ECC_NIST_P521 ECC_NIST_EDWARDS25519 \
         ECC_SECG_P256K1 HMAC_224 HMAC_256 HMAC_384 HMAC_512 ML_DSA_44 ML_DSA_65 ML_DSA_87"
    );
    assert_eq!(round_trip!(KeyUsage), "ENCRYPT_DECRYPT SIGN_VERIFY GENERATE_VERIFY_MAC KEY_AGREEMENT");
    assert_eq!(round_trip!(EncryptionAlgorithm), "SYMMETRIC_DEFAULT RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256");
    assert_eq!(
        round_trip!(SigningAlgorithm),
        "RSASSA_PSS_SHA_256 RSASSA_PSS_SHA_384 RSASSA_PSS_SHA_512 RSASSA_PKCS1_V1_5_SHA_256 \
         RSASSA_PKCS1_V1_5_SHA_384 RSASSA_PKCS1_V1_5_SHA_512 ECDSA_SHA_256 ECDSA_SHA_384 ECDSA_SHA_512 \
         ED25519_SHA_512 ED25519_PH_SHA_512 ML_DSA_SHAKE_256"
    );
    assert_eq!(round_trip!(MessageType), "RAW DIGEST EXTERNAL_MU");
    assert_eq!(round_trip!(MacAlgorithm), "HMAC_SHA_224 HMAC_SHA_256 HMAC_SHA_384 HMAC_SHA_512");
    assert_eq!(round_trip!(KeyAgreementAlgorithm), "ECDH");
    assert_eq!(
        round_trip!(DataKeyPairSpec),
        "RSA_2048 RSA_3072 RSA_4096 ECC_NIST_P256 ECC_NIST_P384 ECC_NIST_P521 ECC_NIST_EDWARDS25519 ECC_SECG_P256K1"
    );
    assert_eq!(
        round_trip!(WrappingAlgorithm),
        "RSAES_PKCS1_V1_5 RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256 RSA_AES_KEY_WRAP_SHA_1 RSA_AES_KEY_WRAP_SHA_256"
    );
    assert_eq!(round_trip!(WrappingKeySpec), "RSA_2048 RSA_3072 RSA_4096");
}

#[test]
fn an_unknown_name_is_told_the_allowed_ones() {
    let err = "rsa_2048".parse::<WrappingKeySpec>().unwrap_err();
    assert_eq!(err.kind(), Kind::Usage);
    assert_eq!(err.line(), "\"rsa_2048\" is not a wrapping key spec (use one of RSA_2048, RSA_3072, RSA_4096)");
    let err = serde_json::from_str::<KeyAgreementAlgorithm>("\"X\"").unwrap_err();
    assert!(err.to_string().starts_with("\"X\" is not a key agreement algorithm (use one of ECDH)"), "{err}");
    let err = "X".parse::<EncryptionAlgorithm>().unwrap_err();
    assert_eq!(err.what(), "\"X\" is not an encryption algorithm");
}

#[test]
fn sm2_is_known_but_not_supported() {
    assert_eq!("SM2".parse::<KeySpec>().unwrap_err().kind(), Kind::Unsupported);
    assert_eq!("SM2".parse::<DataKeyPairSpec>().unwrap_err().kind(), Kind::Unsupported);
    assert_eq!("SM2DSA".parse::<SigningAlgorithm>().unwrap_err().kind(), Kind::Unsupported);
    assert_eq!("SM2PKE".parse::<EncryptionAlgorithm>().unwrap_err().kind(), Kind::Unsupported);
}

/// Each spec with its usages and the algorithms of each, from the Developer Guide, "Key spec reference".
#[test]
fn algorithms_are_those_of_the_key_spec_reference() {
    const RSA: &str = "ENCRYPT_DECRYPT: RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256; SIGN_VERIFY: RSASSA_PKCS1_V1_5_SHA_256 \
                       RSASSA_PKCS1_V1_5_SHA_384 RSASSA_PKCS1_V1_5_SHA_512 RSASSA_PSS_SHA_256 RSASSA_PSS_SHA_384 \
                       RSASSA_PSS_SHA_512";
    for (spec, expected) in [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT: SYMMETRIC_DEFAULT"),
        ("RSA_2048", RSA),
        ("RSA_3072", RSA),
        ("RSA_4096", RSA),
        ("ECC_NIST_P256", "SIGN_VERIFY: ECDSA_SHA_256; KEY_AGREEMENT: ECDH"),
        ("ECC_NIST_P384", "SIGN_VERIFY: ECDSA_SHA_384; KEY_AGREEMENT: ECDH"),
        ("ECC_NIST_P521", "SIGN_VERIFY: ECDSA_SHA_512; KEY_AGREEMENT: ECDH"),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY: ED25519_SHA_512 ED25519_PH_SHA_512"),
        ("ECC_SECG_P256K1", "SIGN_VERIFY: ECDSA_SHA_256"),
        ("HMAC_224", "GENERATE_VERIFY_MAC: HMAC_SHA_224"),
        ("HMAC_256", "GENERATE_VERIFY_MAC: HMAC_SHA_256"),
        ("HMAC_384", "GENERATE_VERIFY_MAC: HMAC_SHA_384"),
        ("HMAC_512", "GENERATE_VERIFY_MAC: HMAC_SHA_512"),
        ("ML_DSA_44", "SIGN_VERIFY: ML_DSA_SHAKE_256"),
        ("ML_DSA_65", "SIGN_VERIFY: ML_DSA_SHAKE_256"),
        ("ML_DSA_87", "SIGN_VERIFY: ML_DSA_SHAKE_256"),
    ] {
        let spec: KeySpec = spec.parse().unwrap();
        // Over all usages, so that one that is not in the list must have no algorithm.
        let of = |usage: KeyUsage| -> Vec<&str> {
            let encryption = spec.encryption_algorithms(usage).iter().map(|a| a.name());
            let signing = spec.signing_algorithms(usage).iter().map(|a| a.name());
            let mac = spec.mac_algorithms(usage).iter().map(|a| a.name());
            let agreement = spec.key_agreement_algorithms(usage).iter().map(|a| a.name());
            encryption.chain(signing).chain(mac).chain(agreement).collect()
        };
        let lists = KeyUsage::ALL.iter().map(|u| (u, of(*u))).filter(|(_, list)| !list.is_empty());
        let (usages, lists): (Vec<_>, Vec<_>) = lists.map(|(u, list)| (*u, format!("{u}: {}", list.join(" ")))).unzip();
        assert_eq!(lists.join("; "), expected, "{spec}");
        assert_eq!(usages, spec.usages(), "{spec}");
        assert_ne!(spec.is_symmetric(), spec.is_asymmetric());
        assert_eq!(spec.is_mac(), expected.contains("MAC"), "{spec}");
        assert_eq!(spec.is_symmetric(), spec.is_mac() || spec.name() == "SYMMETRIC_DEFAULT", "{spec}");
    }
}

#[test]
fn only_a_symmetric_encryption_key_has_a_default_usage() {
    assert_eq!(KeySpec::SymmetricDefault.usage(None).unwrap(), KeyUsage::EncryptDecrypt);
    for spec in &KeySpec::ALL[1..] {
        let err = spec.usage(None).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage, "{spec}");
        assert_eq!(spec.usage(Some(spec.usages()[0])).unwrap(), spec.usages()[0]);
    }
    let err = KeySpec::Rsa2048.usage(Some(KeyUsage::KeyAgreement)).unwrap_err();
    assert_eq!(
        err.line(),
        "a key of spec RSA_2048 cannot have KeyUsage KEY_AGREEMENT (set KeyUsage to ENCRYPT_DECRYPT or SIGN_VERIFY)"
    );
}
