//! Masks tokens in text from outside that is recorded, logged or sent in an answer.

use std::borrow::Cow;

/// The shortest run of hexadecimal digits that may be a token's. Ids have 17.
const TOKEN_DIGITS: usize = 18;

/// The shortest run of base64 that may be a secret's: a secret access key has 40 characters, a session token and a ciphertext
/// many more.
const SECRET_DIGITS: usize = 32;

/// Masks tokens and secrets in text from outside, before it is recorded, logged or sent in an answer: those of
/// [`export_tokens`], and what looks like a secret access key or a session token, which someone typed where a name belongs.
/// Those are long runs of base64 in which upper case, lower case and digits change as often as in random text. Hexadecimal text
/// stays.
#[must_use]
pub fn tokens(text: &str) -> Cow<'_, str> {
    match secrets(text) {
        Cow::Borrowed(same) => export_tokens(same),
        Cow::Owned(masked) => Cow::Owned(export_tokens(&masked).into_owned()),
    }
}

fn secrets(text: &str) -> Cow<'_, str> {
    // Base64 may be %-encoded.
    let is_digit = |b: u8| b.is_ascii_alphanumeric() || b"+/%".contains(&b);
    without_runs(text, is_digit, |_, run| is_random(run))
}

/// Puts an ellipsis in place of each run of digits that is masked by what precedes it and by itself. Digits are ASCII.
fn without_runs(text: &str, is_digit: impl Fn(u8) -> bool, is_masked: impl Fn(&str, &[u8]) -> bool) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut out, mut kept, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|b| is_digit(**b)).count();
        if run > 0 && is_masked(&text[..at], &bytes[at..at + run]) {
            out.push_str(&text[kept..at]);
            out.push('…');
            kept = at + run;
        }
        at += run.max(1);
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

/// Whether a run of base64 is long, has both cases, and consists of words of fewer than 3.2 characters: capitalised, lower
/// case, upper case, or digits. Random text has words of 1.9 on average, and one of a thousand secrets of 40 characters has
/// longer ones; in names in camel case they have about five.
fn is_random(run: &[u8]) -> bool {
    let (mut words, mut upper, mut last) = (0, 0, None);
    let (mut has_upper, mut has_lower, mut len) = (false, false, 0);
    for b in run.iter().filter(|b| b.is_ascii_alphanumeric()) {
        let sort = (b.is_ascii_uppercase(), b.is_ascii_lowercase());
        // A single capital belongs to the word after it.
        if last != Some(sort) && !(sort.1 && upper == 1) {
            words += 1;
        }
        upper = if sort.0 { upper + 1 } else { 0 };
        (has_upper, has_lower, last, len) = (has_upper || sort.0, has_lower || sort.1, Some(sort), len + 1);
    }
    run.len() >= SECRET_DIGITS && has_upper && has_lower && len * 10 < words * 32
}

/// Masks the tokens of exports in text from outside. A token is `tok-` or
/// `att-` and 64 hexadecimal digits. It is recognised by what precedes the digits by at most six characters (`tok`,
/// `att`, `t=`, in any case), so that a truncated or mistyped token, or one whose dash is %-encoded, is masked as well.
#[must_use]
pub fn export_tokens(text: &str) -> Cow<'_, str> {
    let is_token = |before: &str, run: &[u8]| run.len() >= TOKEN_DIGITS && introduces_token(before);
    without_runs(text, |b| b.is_ascii_hexdigit(), is_token)
}

fn introduces_token(before: &str) -> bool {
    let near = &before.as_bytes()[before.len().saturating_sub(6)..];
    let has = |word: &[u8]| near.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
    has(b"tok") || has(b"att") || has(b"t=")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    #[test]
    fn a_token_is_masked_wherever_it_stands_and_however_it_is_mistyped() {
        for around in [
            "{}",
            "v?t={}",
            "v%3Ft={}",
            "v&t={}",
            "v#t={}",
            "v;t={}",
            "v？t={}",
            "é{}é",
            "{}?ro",
            "uid:{}",
            "a {} b {} c",
        ] {
            for token in ["tok-HEX", "att-HEX", "TOK-HEX", "tok_HEX", "tok%2DHEX", "tok%2dHEX", "tok-0HEX", "t=HEX"] {
                let text = around.replace("{}", &token.replace("HEX", HEX));
                let masked = tokens(&text);
                assert!(!masked.contains("cdef") && masked.contains('…'), "{text}: {masked}");
            }
            let cut = around.replace("{}", &format!("tok-{}", &HEX[..18]));
            assert!(!tokens(&cut).contains("cdef"), "{cut}");
        }
        assert_eq!(tokens(&format!("é tok-{HEX}&c=1")), "é tok-…&c=1");
    }

    #[test]
    fn secret_access_keys_and_session_tokens_are_masked() {
        let secret = "q3vXh7Lw0RkZpT9b/2sYcFe8uJgM4dAo6iKxWm+1";
        let token = "AQoDYXdzEJr1K8YPpwvBY0sfGeoM9V3ZJ/bRPB+sYOaRvUPgg3Ul/QyPN5Gd";
        for secret in [secret, token, &token.replace('/', "%2F").replace('+', "%2B")] {
            for around in
                ["{}", "alias/{}", "arn:aws:kms:us-east-1:111122223333:key/{}", "é {}==é", "{\"KeyId\":\"{}\"}"]
            {
                let masked = tokens(&around.replace("{}", secret)).into_owned();
                assert!(!masked.contains(&secret[8..16]) && masked.contains('…'), "{masked}");
            }
        }
        // Nearly all random ones are.
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(digits[(state >> 58) as usize])
        };
        let drawn: Vec<String> = (0..10_000).map(|_| (0..40).map(|_| draw()).collect()).collect();
        let missed = drawn.iter().filter(|secret| matches!(tokens(secret), Cow::Borrowed(_))).count();
        assert!(missed < 100, "{missed} of 10000");
    }

    #[test]
    fn names_are_no_secrets() {
        for name in [
            "alias/Production/Payments/CardHolderData/EuWest1",
            "AllowUseOfTheKeyForAccount111122223333AndNobodyElse",
            "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_AdministratorAccess_0a1b2c3d4e5f6a7b/alice@example.com",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "AROAAAAAAAAAAAAAAAAAA:i-0123456789abcdef0",
            "/var/lib/coffer/SnapshotRepositories/Backup2026/Vol1",
        ] {
            assert_eq!(tokens(name), name);
        }
    }

    #[test]
    fn what_is_no_token_stays() {
        let hash = format!("sha256:{HEX}");
        for text in ["", "web", "tok-data", "att-0123456789abcdef0", "vol-0123456789abcdef0", "é？", &hash, HEX] {
            assert!(matches!(tokens(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
