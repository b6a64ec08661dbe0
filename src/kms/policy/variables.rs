//! Policy variables: `${aws:username}` in a value or a resource stands for what the request has for that condition key.
//!
//! | in a document of version 2012-10-17 | stands for |
//! |---|---|
//! | `${KEY}` | the request's value of a condition key with a single value |
//! | `${KEY, 'TEXT'}` | the same, or TEXT if the request does not have it |
//! | `${*}`, `${?}`, `${$}` | the character itself |
//!
//! What is put in place of a variable is literal: a `*` in it is no wildcard. A value whose variable is absent matches nothing.
//! Source: IAM User Guide, "IAM policy elements: Variables and tags".

use super::found::{Found, values_of};
use super::keys::Key;
use super::kind::Version;
use super::pattern::{Token, fold_case, tokens_of};
use super::question::Question;

enum Piece<'a> {
    Text(&'a str),
    Literal(char),
    Variable(Key, Option<&'a str>),
}

/// Whether a text can have variables.
pub(super) fn has_variables(text: &str, version: Version) -> bool {
    version == Version::V2012 && text.contains("${")
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        found.push(Piece::Text(before));
        let (inside, end) = after.split_once('}').ok_or("a policy variable has no closing brace")?;
        found.push(match inside {
            "*" => Piece::Literal('*'),
            "?" => Piece::Literal('?'),
            "$" => Piece::Literal('$'),
            inside => variable(inside)?,
        });
        rest = end;
    }
    found.push(Piece::Text(rest));
    Ok(found)
}

fn variable(inside: &str) -> Result<Piece<'_>, String> {
    let (name, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((name, rest)) => {
            let quoted = rest.trim_start().strip_prefix('\'').and_then(|r| r.strip_suffix('\''));
            let bad = || format!("the default value of the policy variable ${{{inside}}} is not in single quotes");
            (name, Some(quoted.filter(|q| !q.contains('\'')).ok_or_else(bad)?))
        }
    };
    let key = Key::parse(name).map_err(|why| format!("policy variable: {why}"))?;
    match key.can_be_a_variable() {
        true => Ok(Piece::Variable(key, default)),
        false => Err(format!("{name:?} cannot be a policy variable: it can have several values")),
    }
}

/// What is wrong with the variables of a value or a resource.
pub(super) fn check(text: &str, version: Version) -> Result<(), String> {
    if !has_variables(text, version) {
        return Ok(());
    }
    pieces(text)?.iter().try_for_each(|piece| match piece {
        Piece::Variable(key, _) => key.check_name().map_err(|why| format!("policy variable: {why}")),
        _ => Ok(()),
    })
}

/// How the text beside variables is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    Literal,
    Pattern,
    /// Literal, case-folded.
    Folded,
}

impl As {
    fn tokens(self, text: &str) -> Vec<Token> {
        match self {
            Self::Literal => text.chars().map(Token::Char).collect(),
            Self::Folded => fold_case(text).chars().map(Token::Char).collect(),
            Self::Pattern => tokens_of(text),
        }
    }
}

fn joined(
    text: &str,
    read: As,
    version: Version,
    of: impl Fn(&Key, Option<&str>) -> Option<Vec<Token>>,
) -> Option<Vec<Token>> {
    if !has_variables(text, version) {
        return Some(read.tokens(text));
    }
    let mut all: Vec<Token> = Vec::new();
    for piece in pieces(text).ok()? {
        let more = match piece {
            Piece::Text(text) => read.tokens(text),
            Piece::Literal(c) => vec![Token::Char(c)],
            Piece::Variable(key, default) => of(&key, default)?,
        };
        let twice = all.last() == Some(&Token::Many) && more.first() == Some(&Token::Many);
        all.extend(more.into_iter().skip(usize::from(twice)));
    }
    Some(all)
}

/// A text with the request's values in place of its variables; none if one is absent.
pub(super) fn expand(text: &str, read: As, version: Version, q: &Question<'_>) -> Option<Vec<Token>> {
    let literal = if read == As::Folded { As::Folded } else { As::Literal };
    joined(text, read, version, |key, default| {
        let found = match values_of(key, q) {
            Found::One(values) => values.into_iter().next(),
            Found::Absent => default.map(str::to_owned),
            // Which of several is meant is ambiguous.
            Found::Rivals(_) | Found::Several(_) => None,
        };
        found.map(|value| literal.tokens(&value))
    })
}

/// A text with a star in place of each variable: what it can match at all.
pub(super) fn sketch(text: &str, read: As, version: Version) -> Vec<Token> {
    joined(text, read, version, |_, _| Some(vec![Token::Many])).unwrap_or_default()
}

/// As [`sketch`], as the text of a pattern.
pub(super) fn sketched(pattern: &str, version: Version) -> String {
    let char = |token: Token| match token {
        Token::Char(c) => c,
        Token::One => '?',
        Token::Many => '*',
    };
    match has_variables(pattern, version) {
        true => sketch(pattern, As::Pattern, version).into_iter().map(char).collect(),
        false => pattern.to_owned(),
    }
}
