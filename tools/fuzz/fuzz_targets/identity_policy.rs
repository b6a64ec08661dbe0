//! Policies of identities, of keys and of roles: no document is a panic, what is read prints as what reads the same, and asking
//! it ends. The first byte of an input chooses the kind. Run: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tools/fuzz
//! identity_policy`.
//!
//! The modules of policies are taken in by path, not by way of the coffer crate: they need few of its dependencies, and
//! building those anew with coverage would take minutes.

#![no_main]

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
pub mod error;
#[path = "../../../src/redact.rs"]
mod redact;

#[path = "../../../src/kms/policy/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod policy;

/// The name of the principals' layer that policies use.
pub mod iam {
    pub fn is_account(text: &str) -> bool {
        text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
    }
}

/// The names of the cipher that policies use.
#[allow(missing_docs)]
pub mod cipher {
    pub mod wrap {
        use std::collections::BTreeMap;

        pub const MAX_CONTEXT: usize = 8192;

        #[derive(Default)]
        pub struct EncryptionContext(BTreeMap<String, String>);

        impl EncryptionContext {
            pub fn of(key: &str, value: &str) -> Self {
                Self(BTreeMap::from([(key.to_owned(), value.to_owned())]))
            }
            pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
                self.0.iter().map(|(k, v)| (&**k, &**v))
            }
        }

        /// A key's id, as its text.
        pub struct KeyId(String);

        impl std::str::FromStr for KeyId {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                (text.len() == 36).then(|| Self(text.to_owned())).ok_or(())
            }
        }
        impl std::fmt::Display for KeyId {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    }
}

/// The names of the environment that policies use.
#[allow(missing_docs)]
pub mod env {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Timestamp(pub i64);
}

use cipher::wrap::EncryptionContext;
use env::Timestamp;
use libfuzzer_sys::fuzz_target;
use policy::{Decision, Facts, Key, Own, Policy, PrincipalFacts, Question, decide};

const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let Ok(document) = std::str::from_utf8(rest) else { return };
    let parse = match kind % 3 {
        0 => Policy::parse_identity,
        1 => Policy::parse,
        _ => Policy::parse_trust,
    };
    let Ok(policy) = parse(document) else { return };
    let _ = match kind % 3 {
        0 => policy.check_identity("us-east-1"),
        1 => policy.check(KEY),
        _ => policy.check_trust("us-east-1"),
    };
    // Printed, a long document may be longer than a document can be.
    if let Ok(again) = parse(&policy.pretty()) {
        assert_eq!(again, policy);
    }
    let facts = Facts::new().text(Key::SourceIp, "203.0.113.7").context(&EncryptionContext::of("a", "b"));
    for who in ["user/alice", "root", "role/Ops", "service/ec2.coffer"] {
        let principal = PrincipalFacts::of_arn(&format!("arn:aws:iam::111122223333:{who}"));
        let now = Timestamp(1_800_000_000_000);
        let question = Question { action: "kms:Decrypt", resource: KEY, principal: &principal, facts: &facts, now };
        let own = std::slice::from_ref(&policy);
        let _ = decide(&Decision {
            resource_policy: Some(&policy),
            own: Own::Policies(own),
            session: Some(own),
            grants_allow: false,
            question: &question,
            same_account: true,
        });
    }
});
