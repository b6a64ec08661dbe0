//! Secrets in export names: created here, shown once, kept as a hash.

use crate::error::{Error, Kind, Result};
use zeroize::Zeroizing;

/// Random bytes in a token: 256 bits, so that it cannot be guessed and needs no slow hash.
const BYTES: usize = 32;

/// Creates a token that begins with `prefix`.
pub(super) fn draw(prefix: &str) -> Zeroizing<String> {
    let mut raw = Zeroizing::new([0u8; BYTES]);
    crate::sys::random(&mut raw[..]);
    Zeroizing::new(format!("{prefix}{}", hex::encode(&raw[..])))
}

/// Returns what is stored of a token: its BLAKE3 hash, in hexadecimal.
pub(super) fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// A parsed export name: `web?t=TOKEN&c=SLOT&ro`. Any other parameter is refused: a client that misspells `ro` must not get a
/// writable volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExportName<'a> {
    /// Name or id of the volume; may be empty.
    pub(super) volume: &'a str,
    /// The value of `t`.
    pub(super) token: Option<&'a str>,
    /// The value of `c`.
    pub(super) slot: Option<u32>,
    /// Whether `ro` is present.
    pub(super) read_only: bool,
}

/// Returns the part of an export name that names a volume or snapshot, also of a malformed name.
/// What follows it is a token, or does not say which export.
pub fn volume_part(name: &str) -> &str {
    name.split('?').next().unwrap_or_default()
}

impl<'a> ExportName<'a> {
    /// Parses an export name.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a parameter that is unknown, empty, repeated, or lacks its value.
    pub(super) fn parse(name: &'a str) -> Result<Self> {
        let (volume, query) = name.split_once('?').map_or((name, None), |(volume, query)| (volume, Some(query)));
        let mut out = Self { volume, token: None, slot: None, read_only: false };
        for pair in query.into_iter().flat_map(|q| q.split('&')) {
            let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
            match (key, value) {
                ("ro", None) if !out.read_only => out.read_only = true,
                ("ro", Some(_)) => return Err(refused("ro takes no value")),
                ("t", Some(token)) if !token.is_empty() && out.token.is_none() => out.token = Some(token),
                ("c", Some(slot)) if out.slot.is_none() => {
                    let digits = !slot.is_empty() && slot.bytes().all(|b| b.is_ascii_digit());
                    let number = slot.parse().ok().filter(|_| digits);
                    out.slot = Some(number.ok_or_else(|| refused("c is not followed by a number"))?);
                }
                ("ro" | "t" | "c", _) if out.has(key) => return Err(refused(&format!("{key} is given twice"))),
                ("t" | "c", _) => return Err(refused(&format!("{key} has no value"))),
                ("", None) => return Err(refused("a parameter is empty")),
                _ => return Err(refused(&unknown(key))),
            }
        }
        Ok(out)
    }

    fn has(&self, key: &str) -> bool {
        match key {
            "t" => self.token.is_some(),
            "c" => self.slot.is_some(),
            _ => self.read_only,
        }
    }
}

/// Describes an unknown parameter. Does not repeat anything that may be a misplaced token.
fn unknown(key: &str) -> String {
    if key.contains('%') {
        return "%-encoding is not decoded".to_owned();
    }
    let harmless = !key.is_empty() && key.len() <= 12 && key.bytes().all(|b| b.is_ascii_alphanumeric());
    if harmless { format!("there is no parameter {key}") } else { "there is an unknown parameter".to_owned() }
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Usage, format!("the export name: {why}"))
        .hint("after the `?`, use ro, t=TOKEN and c=SLOT, joined by `&`, each at most once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_names_are_taken_apart() {
        let of = |name| {
            let e = ExportName::parse(name).unwrap();
            (e.volume, e.token, e.slot, e.read_only)
        };
        assert_eq!(of("web"), ("web", None, None, false));
        assert_eq!(of("web?t=att-1&c=2"), ("web", Some("att-1"), Some(2), false));
        assert_eq!(of("web?c=0&t=x&ro"), ("web", Some("x"), Some(0), true));
        assert_eq!(of("web?ro"), ("web", None, None, true));
        assert_eq!(of("?t=a"), ("", Some("a"), None, false));
    }

    #[test]
    fn what_is_not_understood_behind_the_question_mark_is_refused_with_words() {
        for (name, word) in [
            ("web?ro=1", "no value"),
            ("web?ro=", "no value"),
            ("web?RO", "no parameter RO"),
            ("web?Ro", "no parameter Ro"),
            ("web?readonly", "no parameter readonly"),
            ("web?read_only=true", "unknown parameter"),
            ("web?rot=1", "no parameter rot"),
            ("web?ro ", "unknown parameter"),
            ("web?ro;c=1", "unknown parameter"),
            ("web?ro?ro", "unknown parameter"),
            ("web?%72o", "%-encoding"),
            ("web?ro%26c=1", "%-encoding"),
            ("web?", "empty"),
            ("web?&ro", "empty"),
            ("web?ro&", "empty"),
            ("web?ro&&c=1", "empty"),
            ("web?ro&ro", "ro is given twice"),
            ("web?t=a&t=a", "t is given twice"),
            ("web?c=1&c=2", "c is given twice"),
            ("web?t", "t has no value"),
            ("web?t=", "t has no value"),
            ("web?c", "c has no value"),
            ("web?c=", "number"),
            ("web?c=x", "number"),
            ("web?c=+1", "number"),
            ("web?c=-1", "number"),
            ("web?c=1.0", "number"),
            ("web?c=4294967296", "number"),
            ("web?T=tok-secret", "no parameter T"),
            ("web?tok-secret", "unknown parameter"),
            ("?", "empty"),
        ] {
            let err = ExportName::parse(name).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{name}");
            assert!(err.line().contains(word) && !err.line().contains("secret"), "{name}: {}", err.line());
        }
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
