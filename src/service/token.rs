//! Secrets that stand in an export's name: made here, told once, kept as a hash.

use zeroize::Zeroizing;

/// Bytes of randomness in a token: 256 bits, so that it cannot be guessed and needs no slow hash.
const BYTES: usize = 32;

/// A new token that begins with `prefix`.
pub(super) fn draw(prefix: &str) -> Zeroizing<String> {
    let mut raw = Zeroizing::new([0u8; BYTES]);
    crate::sys::random(&mut raw[..]);
    Zeroizing::new(format!("{prefix}{}", hex::encode(&raw[..])))
}

/// What is kept of a token: BLAKE3, hexadecimal.
pub(super) fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// An export name taken apart: `web?t=TOKEN&c=SLOT&ro`. What is not known is read over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExportName<'a> {
    /// The volume; may be empty.
    pub(super) volume: &'a str,
    /// What `t=` says.
    pub(super) token: Option<&'a str>,
    /// What `c=` says, if it is a number.
    pub(super) slot: Option<u32>,
    /// Whether `ro` stands there.
    pub(super) read_only: bool,
}

impl<'a> ExportName<'a> {
    pub(super) fn parse(name: &'a str) -> Self {
        let (volume, query) = name.split_once('?').unwrap_or((name, ""));
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key));
        Self {
            volume,
            token: value("t="),
            slot: value("c=").and_then(|n| n.parse().ok()),
            read_only: query.split('&').any(|pair| pair == "ro"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_names_are_taken_apart() {
        let of = |name| {
            let e = ExportName::parse(name);
            (e.volume, e.token, e.slot, e.read_only)
        };
        assert_eq!(of("web"), ("web", None, None, false));
        assert_eq!(of("web?t=att-1&c=2"), ("web", Some("att-1"), Some(2), false));
        assert_eq!(of("web?c=x&t=x&ro"), ("web", Some("x"), None, true));
        assert_eq!(of("web?ro"), ("web", None, None, true));
        assert_eq!(of("web?"), ("web", None, None, false));
        assert_eq!(of("?t=a"), ("", Some("a"), None, false));
        assert_eq!(of("web?rot=1"), ("web", None, None, false));
    }

    #[test]
    fn tokens_are_long_and_never_the_same_and_their_hash_is_another_thing() {
        let (a, b) = (draw("att-"), draw("att-"));
        assert_eq!((a.len(), &a[..4]), (4 + 2 * BYTES, "att-"));
        assert_ne!(*a, *b);
        assert_eq!(hash(&a), hash(&a));
        assert!(hash(&a) != hash(&b) && !hash(&a).contains(&a[4..]));
    }
}
