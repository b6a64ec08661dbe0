//! Comparing texts: without their case, and with patterns.

/// Unicode's full case folding: texts that differ only in case become equal. (Lower case is not enough: it maps a Greek capital
/// sigma to one of two small ones, by its position.)
pub fn fold_case(text: &str) -> String {
    unicase::UniCase::new(text).to_folded_case()
}

/// An element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    /// `?`: any character.
    One,
    /// `*`: any characters, or none.
    Many,
}

/// The tokens of a pattern; consecutive stars are equivalent to one.
pub(super) fn tokens_of(pattern: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for c in pattern.chars() {
        match c {
            '*' if tokens.last() == Some(&Token::Many) => {}
            '*' => tokens.push(Token::Many),
            '?' => tokens.push(Token::One),
            c => tokens.push(Token::Char(c)),
        }
    }
    tokens
}

/// Whether a text matches a pattern in which `*` matches any characters and `?` matches one.
pub(super) fn wild(pattern: &str, text: &str, any_case: bool) -> bool {
    match any_case {
        true => fits(&tokens_of(&fold_case(pattern)), &fold_case(text)),
        false => fits(&tokens_of(pattern), text),
    }
}

/// Whether a text matches a pattern.
pub(super) fn fits(pattern: &[Token], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to continue if what follows the last star does not match.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Many) => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(token) if *token == Token::One || *token == Token::Char(text[t]) => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|token| *token == Token::Many)
}

/// Whether an ARN matches a pattern, part by part: a star does not match a colon, except in the last part.
pub(super) fn arn_fits(pattern: &[Token], arn: &str) -> bool {
    let want: Vec<&[Token]> = pattern.splitn(6, |t| *t == Token::Char(':')).collect();
    let have: Vec<&str> = arn.splitn(6, ':').collect();
    want.len() == 6 && have.len() == 6 && want.iter().zip(&have).all(|(w, h)| fits(w, h))
}
