//! Known answers: what the operations answer, OpenSSL verifies, decrypts and computes, too.

use super::testing::*;
use openssl::bn::BigNumContext;
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey};
use openssl::encrypt::Decrypter;
use openssl::hash::{MessageDigest, hash};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use serde_json::{Value, json};

const MESSAGE: &[u8] = b"what is signed, and how";

fn digest_of(algorithm: &str) -> MessageDigest {
    match &algorithm[algorithm.len() - 3..] {
        "256" => MessageDigest::sha256(),
        "384" => MessageDigest::sha384(),
        "512" => MessageDigest::sha512(),
        "224" => MessageDigest::sha224(),
        other => panic!("{other}"),
    }
}

fn verifies(public: &PKey<Public>, algorithm: &str, salt: Option<RsaPssSaltlen>, signature: &[u8]) -> bool {
    if algorithm.starts_with("ED25519") {
        let mut by = Verifier::new_without_digest(public).unwrap();
        return by.verify_oneshot(signature, MESSAGE).unwrap();
    }
    let md = digest_of(algorithm);
    let mut by = Verifier::new(md, public).unwrap();
    if let Some(salt) = salt {
        by.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        by.set_rsa_pss_saltlen(salt).unwrap();
        by.set_rsa_mgf1_md(md).unwrap();
    }
    by.update(MESSAGE).unwrap();
    by.verify(signature).unwrap_or(false)
}

#[test]
fn openssl_verifies_signatures() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let mut tried = 0;
    for spec in
        ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"]
    {
        let k = on.key(&root, json!({"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"}));
        let found = on.ok(&root, "GetPublicKey", json!({"KeyId": k}));
        assert_eq!(
            (&found["KeySpec"], &found["KeyUsage"], &found["KeyId"]),
            (&json!(spec), &json!("SIGN_VERIFY"), &json!(k))
        );
        let public = PKey::public_key_from_der(&bytes(&found["PublicKey"])).unwrap();
        for algorithm in found["SigningAlgorithms"].as_array().unwrap().iter().map(text) {
            if algorithm == "ED25519_PH_SHA_512" {
                continue;
            }
            let asked = json!({"KeyId": k, "Message": b64(MESSAGE), "SigningAlgorithm": algorithm});
            let signature = bytes(&on.ok(&root, "Sign", asked)["Signature"]);
            let salt = || algorithm.contains("PSS").then_some(RsaPssSaltlen::DIGEST_LENGTH);
            assert!(verifies(&public, &algorithm, salt(), &signature), "{spec} {algorithm}");
            if salt().is_some() {
                // The salt has the length of the hash, and no other.
                let other = RsaPssSaltlen::custom(digest_of(&algorithm).size() as i32 - 1);
                assert!(!verifies(&public, &algorithm, Some(other), &signature), "{algorithm}");
            }
            if algorithm.starts_with("ECDSA") {
                openssl::ecdsa::EcdsaSig::from_der(&signature).unwrap();
            }
            if !algorithm.starts_with("ED25519") {
                let digest = hash(digest_of(&algorithm), MESSAGE).unwrap();
                let asked = json!({
                    "KeyId": k, "Message": b64(&digest), "MessageType": "DIGEST", "SigningAlgorithm": algorithm,
                });
                let signature = bytes(&on.ok(&root, "Sign", asked)["Signature"]);
                assert!(verifies(&public, &algorithm, salt(), &signature), "{spec} {algorithm} of a digest");
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 6 + 4 + 1);
}

#[test]
fn openssl_computes_the_same_macs() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    for (spec, algorithm, len) in [
        ("HMAC_224", "HMAC_SHA_224", 28),
        ("HMAC_256", "HMAC_SHA_256", 32),
        ("HMAC_384", "HMAC_SHA_384", 48),
        ("HMAC_512", "HMAC_SHA_512", 64),
    ] {
        // With material that is known here.
        let material = vec![7; len];
        let k = on.key(&root, json!({"KeySpec": spec, "KeyUsage": "GENERATE_VERIFY_MAC", "Origin": "EXTERNAL"}));
        on.import(&root, &k, &material, json!({})).unwrap();
        let mut signer = Signer::new(digest_of(algorithm), &PKey::hmac(&material).unwrap()).unwrap();
        signer.update(MESSAGE).unwrap();
        let theirs = signer.sign_to_vec().unwrap();
        let mut asked = json!({"KeyId": k, "Message": b64(MESSAGE), "MacAlgorithm": algorithm});
        assert_eq!(bytes(&on.ok(&root, "GenerateMac", asked.clone())["Mac"]), theirs, "{spec}");
        asked["Mac"] = b64(&theirs).into();
        on.ok(&root, "VerifyMac", asked);
    }
}

#[test]
fn both_sides_agree_on_a_secret() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    for (spec, curve) in
        [("ECC_NIST_P256", Nid::X9_62_PRIME256V1), ("ECC_NIST_P384", Nid::SECP384R1), ("ECC_NIST_P521", Nid::SECP521R1)]
    {
        let k = on.key(&root, json!({"KeySpec": spec, "KeyUsage": "KEY_AGREEMENT"}));
        let ours = on.ok(&root, "GetPublicKey", json!({"KeyId": k}));
        assert_eq!(ours["KeyAgreementAlgorithms"], json!(["ECDH"]));
        let ours = PKey::public_key_from_der(&bytes(&ours["PublicKey"])).unwrap();
        let theirs = PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap();
        let mut deriver = Deriver::new(&theirs).unwrap();
        deriver.set_peer(&ours).unwrap();
        let asked = json!({
            "KeyId": k, "KeyAgreementAlgorithm": "ECDH", "PublicKey": b64(&theirs.public_key_to_der().unwrap()),
        });
        let found = on.ok(&root, "DeriveSharedSecret", asked);
        assert_eq!(bytes(&found["SharedSecret"]), deriver.derive_to_vec().unwrap(), "{spec}");
        assert_eq!(found["KeyOrigin"], "AWS_KMS");
        // A key of another curve, and a point that is none, are refused.
        let other =
            PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::SECP256K1).unwrap()).unwrap()).unwrap();
        let asked = json!({
            "KeyId": k, "KeyAgreementAlgorithm": "ECDH", "PublicKey": b64(&other.public_key_to_der().unwrap()),
        });
        assert_eq!(on.err(&root, "DeriveSharedSecret", asked), "ValidationException");
    }
}

#[test]
fn rsa_encrypts_and_decrypts_as_openssl_does() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    // With a private key that OpenSSL has, too.
    let theirs = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let k = on.key(&root, json!({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT", "Origin": "EXTERNAL"}));
    import_wrapped(&on, &root, &k, &theirs.private_key_to_pkcs8().unwrap(), "RSA_4096");
    let public = on.ok(&root, "GetPublicKey", json!({"KeyId": k}));
    assert_eq!(bytes(&public["PublicKey"]), theirs.public_key_to_der().unwrap());
    assert_eq!(public["EncryptionAlgorithms"], json!(["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]));
    for (algorithm, md) in
        [("RSAES_OAEP_SHA_1", MessageDigest::sha1()), ("RSAES_OAEP_SHA_256", MessageDigest::sha256())]
    {
        let asked = json!({"KeyId": k, "Plaintext": b64(MESSAGE), "EncryptionAlgorithm": algorithm});
        let sealed = bytes(&on.ok(&root, "Encrypt", asked)["CiphertextBlob"]);
        let mut by = Decrypter::new(&theirs).unwrap();
        by.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
        by.set_rsa_oaep_md(md).unwrap();
        by.set_rsa_mgf1_md(md).unwrap();
        let mut out = vec![0; by.decrypt_len(&sealed).unwrap()];
        let len = by.decrypt(&sealed, &mut out).unwrap();
        assert_eq!(&out[..len], MESSAGE, "{algorithm}");
        let mut asked = json!({"KeyId": k, "CiphertextBlob": b64(&sealed), "EncryptionAlgorithm": algorithm});
        assert_eq!(bytes(&on.ok(&root, "Decrypt", asked.clone())["Plaintext"]), MESSAGE);
        asked.as_object_mut().unwrap().remove("KeyId");
        assert_eq!(on.err(&root, "Decrypt", asked), "ValidationException");
    }
    let sealed = oaep(&theirs.public_key_to_der().unwrap(), MESSAGE);
    let asked = json!({"KeyId": k, "CiphertextBlob": b64(&sealed), "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"});
    assert_eq!(bytes(&on.ok(&root, "Decrypt", asked.clone())["Plaintext"]), MESSAGE);
    let mut other = asked.clone();
    other["EncryptionAlgorithm"] = "RSAES_OAEP_SHA_1".into();
    assert_eq!(on.err(&root, "Decrypt", other), "InvalidCiphertextException");
    let mut other = asked;
    other["EncryptionContext"] = json!({"a": "b"});
    assert_eq!(on.err(&root, "Decrypt", other), "ValidationException");
}

/// RSA_AES_KEY_WRAP_SHA_256 by OpenSSL: an AES-256 key by RSAES-OAEP, then the material by AES-KWP (RFC 5649) under it.
fn import_wrapped(on: &Lab, caller: &crate::kms::Caller, key: &str, material: &[u8], spec: &str) -> Value {
    let asked = json!({"KeyId": key, "WrappingAlgorithm": "RSA_AES_KEY_WRAP_SHA_256", "WrappingKeySpec": spec});
    let given = on.ok(caller, "GetParametersForImport", asked);
    let aes = [5; 32];
    let mut by = openssl::cipher_ctx::CipherCtx::new().unwrap();
    by.set_flags(openssl::cipher_ctx::CipherCtxFlags::FLAG_WRAP_ALLOW);
    by.encrypt_init(Some(openssl::cipher::Cipher::aes_256_wrap_pad()), Some(&aes), None).unwrap();
    let mut wrapped = oaep(&bytes(&given["PublicKey"]), &aes);
    by.cipher_update_vec(material, &mut wrapped).unwrap();
    on.ok(
        caller,
        "ImportKeyMaterial",
        json!({
            "KeyId": key, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": b64(&wrapped),
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        }),
    )
}

#[test]
fn material_wrapped_by_both_algorithms_is_the_same_material() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({"Origin": "EXTERNAL"}));
    let material = [0x5a; 32];
    let first = on.import(&root, &k, &material, json!({})).unwrap();
    let blob = on.ok(&root, "Encrypt", json!({"KeyId": k, "Plaintext": b64(MESSAGE)}))["CiphertextBlob"].clone();
    on.ok(&root, "DeleteImportedKeyMaterial", json!({"KeyId": k}));
    for spec in ["RSA_2048", "RSA_3072", "RSA_4096"] {
        assert_eq!(import_wrapped(&on, &root, &k, &material, spec)["KeyMaterialId"], first["KeyMaterialId"], "{spec}");
        let opened = on.ok(&root, "Decrypt", json!({"CiphertextBlob": blob}));
        assert_eq!(bytes(&opened["Plaintext"]), MESSAGE);
    }
}

#[test]
fn an_imported_signing_key_signs_as_its_owner_does() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let theirs =
        PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::SECP384R1).unwrap()).unwrap()).unwrap();
    let k = on.key(&root, json!({"KeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY", "Origin": "EXTERNAL"}));
    import_wrapped(&on, &root, &k, &theirs.private_key_to_pkcs8().unwrap(), "RSA_2048");
    let public = bytes(&on.ok(&root, "GetPublicKey", json!({"KeyId": k}))["PublicKey"]);
    assert_eq!(public, theirs.public_key_to_der().unwrap());
    let asked = json!({"KeyId": k, "Message": b64(MESSAGE), "SigningAlgorithm": "ECDSA_SHA_384"});
    let signature = bytes(&on.ok(&root, "Sign", asked.clone())["Signature"]);
    assert!(verifies(&PKey::public_key_from_der(&public).unwrap(), "ECDSA_SHA_384", None, &signature));
    let mut signer = Signer::new(MessageDigest::sha384(), &theirs).unwrap();
    signer.update(MESSAGE).unwrap();
    let mut asked = asked;
    asked["Signature"] = b64(&signer.sign_to_vec().unwrap()).into();
    on.ok(&root, "Verify", asked);
}

#[test]
fn data_key_pairs_are_pairs() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    for (spec, id, bits) in [
        ("RSA_2048", Id::RSA, 2048),
        ("RSA_3072", Id::RSA, 3072),
        ("ECC_NIST_P256", Id::EC, 256),
        ("ECC_NIST_P384", Id::EC, 384),
        ("ECC_NIST_P521", Id::EC, 521),
        ("ECC_SECG_P256K1", Id::EC, 256),
        ("ECC_NIST_EDWARDS25519", Id::ED25519, 253),
    ] {
        let asked = json!({"KeyId": k, "KeyPairSpec": spec, "EncryptionContext": {"a": "b"}});
        let made = on.ok(&root, "GenerateDataKeyPair", asked.clone());
        let private = PKey::private_key_from_pkcs8(&bytes(&made["PrivateKeyPlaintext"])).unwrap();
        assert_eq!((private.id(), private.public_key_to_der().unwrap()), (id, bytes(&made["PublicKey"])), "{spec}");
        assert!(private.bits().abs_diff(bits) <= 3, "{spec}: {} bits", private.bits());
        if id == Id::EC {
            let key = private.ec_key().unwrap();
            key.check_key().unwrap();
            let mut context = BigNumContext::new().unwrap();
            assert!(key.public_key().is_on_curve(key.group(), &mut context).unwrap());
        }
        let opened = json!({"CiphertextBlob": made["PrivateKeyCiphertextBlob"], "EncryptionContext": {"a": "b"}});
        assert_eq!(on.ok(&root, "Decrypt", opened)["Plaintext"], made["PrivateKeyPlaintext"], "{spec}");
        let made = on.ok(&root, "GenerateDataKeyPairWithoutPlaintext", asked);
        let opened = json!({"CiphertextBlob": made["PrivateKeyCiphertextBlob"], "EncryptionContext": {"a": "b"}});
        let private = bytes(&on.ok(&root, "Decrypt", opened)["Plaintext"]);
        let private = PKey::private_key_from_pkcs8(&private).unwrap();
        assert_eq!(private.public_key_to_der().unwrap(), bytes(&made["PublicKey"]), "{spec}");
    }
    let pair = json!({"KeyId": on.key(&root, json!({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"})), "KeyPairSpec": "RSA_2048"});
    assert_eq!(on.err(&root, "GenerateDataKeyPair", pair), "InvalidKeyUsageException");
}
