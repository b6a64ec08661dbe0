//! Masks tokens in text from outside that is recorded, logged or sent in an answer.

use std::borrow::Cow;

/// The shortest run of hexadecimal digits that may be a token's. Ids have 17.
const TOKEN_DIGITS: usize = 18;

/// Masks the tokens in text from outside, before it is recorded, logged or sent in an answer. A token is `tok-` or
/// `att-` and 64 hexadecimal digits. It is recognised by what precedes the digits by at most six characters (`tok`,
/// `att`, `t=`, in any case), so that a truncated or mistyped token, or one whose dash is %-encoded, is masked as well.
#[must_use]
pub fn tokens(text: &str) -> Cow<'_, str> {
    let digits = |at: usize| text.as_bytes()[at..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (mut out, mut kept, mut at) = (String::new(), 0, 0);
    while at < text.len() {
        let run = digits(at);
        if run >= TOKEN_DIGITS && introduces_token(&text[..at]) {
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
    fn what_is_no_token_stays() {
        let hash = format!("sha256:{HEX}");
        for text in ["", "web", "tok-data", "att-0123456789abcdef0", "vol-0123456789abcdef0", "é？", &hash, HEX] {
            assert!(matches!(tokens(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
