//! The values that condition keys can have, for the check that a policy's value can match one of them.

use super::forms::{Form, Reading};
use super::keys::{Key, MAX_PAIR};
use super::words::{known_service, volume_service_in};

/// The values of a condition key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice {
    /// Words: those here, and those that exist only in AWS.
    OneOf(&'static str, &'static str),
    /// Texts of these forms, of at most so many bytes, and a description; then the forms that exist only in AWS.
    Forms(&'static [&'static str], usize, &'static str, &'static [&'static str]),
    /// Whole numbers, from and to.
    Whole(f64, f64),
    /// The value of a pair of the encryption context.
    Pair,
    /// A service, and the volume service of a Region.
    Via,
}

/// The values that a condition key can have.
pub(super) struct Values {
    /// In a request here.
    pub(super) here: Vec<Form>,
    /// Only in AWS: not a mistake, but a condition needs another value beside it to hold.
    pub(super) elsewhere: Vec<Form>,
    /// The longest, bytes.
    pub(super) longest: usize,
    /// A description.
    pub(super) words: String,
}

/// The longest ARN, bytes.
const MAX_ARN: usize = 2048;
/// The longest name of a user.
const MAX_USER: usize = 64;
/// The longest key of a tag; AWS counts characters (KMS API Reference, Tag).
pub(super) const MAX_TAG_KEY: usize = 128 * 4;
const MAX_TAG_VALUE: usize = 256 * 4;

pub(super) const BOOL: Choice = Choice::OneOf("true false", "");
pub(super) const ANY: Choice = Choice::Forms(&["%t"], MAX_ARN, "any text", &[]);
pub(super) const NOT_EMPTY: Choice = Choice::Forms(&["%x"], MAX_ARN, "a text that is not empty", &[]);
/// Times are compared as numbers.
pub(super) const MOMENT: Choice = Choice::Forms(&["%x"], MAX_ARN, "a moment", &[]);
pub(super) const ACCOUNT: Choice = Choice::Forms(&["%a"], MAX_ARN, "an account of 12 digits", &[]);
pub(super) const REGION: Choice = Choice::Forms(&["%r"], MAX_USER, "a Region such as us-east-1", &[]);
pub(super) const ALIAS: Choice =
    Choice::Forms(&["alias/%l"], 256, "the name of an alias, which begins with alias/", &[]);
pub(super) const TAG: Choice =
    Choice::Forms(&["%t"], MAX_TAG_VALUE, "the value of a tag, of at most 256 characters", &[]);
pub(super) const TAG_KEY: Choice =
    Choice::Forms(&["%x"], MAX_TAG_KEY, "the key of a tag, not empty, of at most 128 characters", &[]);
pub(super) const PAIR_NAME: Choice =
    Choice::Forms(&["%x"], MAX_PAIR, "the name of a pair, not empty, of at most 8 KiB", &[]);
pub(super) const USER: Choice =
    Choice::Forms(&["%u"], MAX_USER, "a name of 1 to 64 letters, digits and + = , . @ _ -", &[]);
pub(super) const ARN: Choice = Choice::Forms(&["arn:%c:%c:%c:%c:%t"], MAX_ARN, "an ARN", &[]);
/// Principals, as requests and grants name them; a session of a role has the role's.
pub(super) const PRINCIPAL: Choice = Choice::Forms(
    &[
        "arn:aws:iam::%a:root",
        "arn:aws:iam::%a:user/%n",
        "arn:aws:iam::%a:role/%n",
        "arn:aws:iam::%a:service/ec2.coffer",
    ],
    MAX_ARN,
    "arn:aws:iam::ACCOUNT:root or …:user/NAME or …:role/NAME or …:service/ec2.coffer (of a session, its role)",
    &[],
);
pub(super) const GRANTEE: Choice = Choice::Forms(
    &[
        "arn:aws:iam::%a:root",
        "arn:aws:iam::%a:user/%n",
        "arn:aws:iam::%a:role/%n",
        "arn:aws:sts::%a:assumed-role/%n",
        "arn:aws:iam::%a:service/ec2.coffer",
    ],
    MAX_ARN,
    "the ARN of root, a user, a role, a session of a role, or ec2.coffer",
    &["%r.amazonaws.com", "%r.%r.amazonaws.com"],
);
pub(super) const PRINCIPAL_TYPE: Choice = Choice::OneOf("Account AssumedRole User", "Anonymous FederatedUser");
pub(super) const CALLED_VIA: Choice = Choice::OneOf(
    "ec2.coffer ec2.amazonaws.com",
    "athena.amazonaws.com cloudformation.amazonaws.com dynamodb.amazonaws.com kms.amazonaws.com",
);
/// The operations that a grant can allow.
pub(super) const GRANT_OPERATION: Choice = Choice::OneOf(GRANT_OPERATIONS, "");
pub(super) const GRANT_OPERATIONS: &str = "CreateGrant Decrypt DescribeKey Encrypt GenerateDataKey \
    GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo RetireGrant DeriveSharedSecret GenerateDataKeyPair \
    GenerateDataKeyPairWithoutPlaintext GenerateMac GetPublicKey Sign Verify VerifyMac";
pub(super) const CONSTRAINT: Choice = Choice::OneOf("EncryptionContextEquals EncryptionContextSubset", "");
pub(super) const SPEC: Choice = Choice::OneOf(
    "SYMMETRIC_DEFAULT RSA_2048 RSA_3072 RSA_4096 ECC_NIST_P256 ECC_NIST_P384 ECC_NIST_P521 ECC_NIST_EDWARDS25519 \
    ECC_SECG_P256K1 HMAC_224 HMAC_256 HMAC_384 HMAC_512 ML_DSA_44 ML_DSA_65 ML_DSA_87",
    "SM2",
);
pub(super) const PAIR_SPEC: Choice = Choice::OneOf(
    "RSA_2048 RSA_3072 RSA_4096 ECC_NIST_P256 ECC_NIST_P384 ECC_NIST_P521 ECC_NIST_EDWARDS25519 ECC_SECG_P256K1",
    "SM2",
);
pub(super) const USAGE: Choice = Choice::OneOf("ENCRYPT_DECRYPT SIGN_VERIFY GENERATE_VERIFY_MAC KEY_AGREEMENT", "");
pub(super) const ORIGIN: Choice = Choice::OneOf("AWS_KMS EXTERNAL", "AWS_CLOUDHSM EXTERNAL_KEY_STORE");
pub(super) const MULTI_REGION: Choice = Choice::OneOf("PRIMARY REPLICA", "");
pub(super) const ENCRYPTION: Choice = Choice::OneOf("SYMMETRIC_DEFAULT RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256", "SM2PKE");
pub(super) const SIGNING: Choice = Choice::OneOf(
    "RSASSA_PSS_SHA_256 RSASSA_PSS_SHA_384 RSASSA_PSS_SHA_512 RSASSA_PKCS1_V1_5_SHA_256 RSASSA_PKCS1_V1_5_SHA_384 \
    RSASSA_PKCS1_V1_5_SHA_512 ECDSA_SHA_256 ECDSA_SHA_384 ECDSA_SHA_512 ED25519_SHA_512 ED25519_PH_SHA_512 ML_DSA_SHAKE_256",
    "SM2DSA",
);
pub(super) const MESSAGE: Choice = Choice::OneOf("RAW DIGEST EXTERNAL_MU", "");
pub(super) const MAC: Choice = Choice::OneOf("HMAC_SHA_224 HMAC_SHA_256 HMAC_SHA_384 HMAC_SHA_512", "");
pub(super) const ECDH: Choice = Choice::OneOf("ECDH", "");
pub(super) const EXPIRATION: Choice = Choice::OneOf("KEY_MATERIAL_EXPIRES KEY_MATERIAL_DOES_NOT_EXPIRE", "");
pub(super) const WRAPPING: Choice = Choice::OneOf(
    "RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256 RSA_AES_KEY_WRAP_SHA_1 RSA_AES_KEY_WRAP_SHA_256",
    "RSAES_PKCS1_V1_5 SM2PKE",
);
pub(super) const WRAPPING_SPEC: Choice = Choice::OneOf("RSA_2048 RSA_3072 RSA_4096", "SM2");

impl Choice {
    /// Whether a word is one of its words, here or in AWS.
    pub(super) fn knows(&self, value: &str, any_case: bool) -> bool {
        let same = |word: &str| if any_case { word.eq_ignore_ascii_case(value) } else { word == value };
        match self {
            Self::OneOf(here, elsewhere) => here.split_whitespace().chain(elsewhere.split_whitespace()).any(same),
            _ => true,
        }
    }
}

impl Key {
    /// The values that it can have in requests for a Region's keys, if it is a text. `value` is the policy's value.
    pub(super) fn values(&self, region: &str, reading: Reading, value: &str) -> Values {
        let forms = |all: &[&str]| -> Vec<Form> { all.iter().map(|notation| Form::of(notation)).collect() };
        let of = |here: &[&str], longest, words: &str| Values {
            here: forms(here),
            elsewhere: Vec::new(),
            longest,
            words: words.to_owned(),
        };
        match (self.choice(), self) {
            (Choice::OneOf(here, elsewhere), _) => {
                let here: Vec<&str> = here.split_whitespace().collect();
                let elsewhere: Vec<&str> = elsewhere.split_whitespace().collect();
                Values { elsewhere: forms(&elsewhere), ..of(&here, MAX_ARN, &here.join(" or ")) }
            }
            (Choice::Forms(here, longest, words, elsewhere), _) => {
                Values { elsewhere: forms(elsewhere), ..of(here, *longest, words) }
            }
            (Choice::Whole(from, to), _) => of(&["%x"], MAX_ARN, &format!("a whole number from {from} to {to}")),
            (Choice::Pair, Self::Pair(name)) if reading == Reading::Arn => of(
                &["%c:%c:%c:%c:%c:%t"],
                MAX_PAIR.saturating_sub(name.len()),
                "an ARN of at most 8 KiB, its name included",
            ),
            (Choice::Pair, key) => {
                let name = if let Self::Pair(name) = key { name.len() } else { 0 };
                of(&["%t"], MAX_PAIR.saturating_sub(name), "a text of at most 8 KiB, its name included")
            }
            (Choice::Via, _) => {
                let own = volume_service_in(region);
                let known = |s: &str| ["", ".cn"].map(|end| Form::of(&format!("{s}.%r.amazonaws.com{end}"))).to_vec();
                let elsewhere = known_service(value).map(known).unwrap_or_default();
                Values { elsewhere, ..of(&[&own[0], &own[1]], MAX_ARN, &own.join(" or ")) }
            }
        }
    }
}
