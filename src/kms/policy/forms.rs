//! The values that a condition key can have, as forms, and whether a value of a policy matches one of them.
//!
//! A form is a pattern over small alphabets: `arn:aws:iam::%a:user/%n`. A value of a policy, with its own `*` and `?`,
//! matches if some text has the form and matches the value; that text is the [`example`]. A value without an example can
//! never match.

use super::pattern::Token;
use std::collections::VecDeque;

/// The characters that are possible at a position of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Digit,
    /// Regions: lower-case letters, digits, dashes.
    Label,
    /// Names of aliases.
    Alias,
    /// Names of users.
    User,
    /// Names of principals, which may have a path.
    Path,
    /// Everything except a colon: a part of an ARN.
    Part,
    Any,
}

impl Class {
    fn has(self, c: char) -> bool {
        match self {
            Self::Digit => c.is_ascii_digit(),
            Self::Label => c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            Self::Alias => c.is_ascii_alphanumeric() || ":/_-".contains(c),
            Self::User => c.is_ascii_alphanumeric() || "+=,.@_-".contains(c),
            Self::Path => c == '/' || Self::User.has(c),
            Self::Part => c != ':',
            Self::Any => true,
        }
    }

    /// Its ASCII letters and digits, which no pattern treats specially.
    fn samples(self) -> impl Iterator<Item = char> {
        ('a'..='z').chain('0'..='9').chain('A'..='Z').filter(move |c| self.has(*c))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Char(char),
    One(Class),
    /// Zero or more.
    Many(Class),
}

/// The form of texts of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form(Vec<Step>);

impl Form {
    /// Parses the notation of a form: `%a` an account, `%r` a Region, `%l` a name of an alias, `%u` a user's name, `%n` a name with a path, `%c` a
    /// part of an ARN, `%t` any text, `%x` any non-empty text; everything else is literal.
    pub(super) fn of(notation: &str) -> Self {
        let (mut steps, mut chars) = (Vec::new(), notation.chars());
        while let Some(c) = chars.next() {
            let some = |class| vec![Step::One(class), Step::Many(class)];
            steps.extend(match (c, if c == '%' { chars.next() } else { None }) {
                ('%', Some('a')) => vec![Step::One(Class::Digit); 12],
                ('%', Some('r')) => some(Class::Label),
                ('%', Some('l')) => some(Class::Alias),
                ('%', Some('u')) => some(Class::User),
                ('%', Some('n')) => some(Class::Path),
                ('%', Some('x')) => some(Class::Any),
                ('%', Some('c')) => vec![Step::Many(Class::Part)],
                ('%', Some('t')) => vec![Step::Many(Class::Any)],
                _ => vec![Step::Char(c)],
            });
        }
        Self(steps)
    }

    /// Its six parts, as an ARN.
    fn parts(&self) -> Vec<&[Step]> {
        self.0.splitn(6, |s| *s == Step::Char(':')).collect()
    }

    /// A few texts of this form that differ as much as possible, to find one that no pattern matches.
    pub(super) fn samples(&self) -> Vec<String> {
        let class = |s: &Step| if let Step::One(class) | Step::Many(class) = s { Some(*class) } else { None };
        let open = self.0.iter().find_map(class);
        let fills: Vec<char> = open.map_or_else(|| vec!['-'], |class| class.samples().collect());
        let of = |class: Class, fill: char| if class.has(fill) { fill } else { '7' };
        let filled = |fill: char, times: usize| {
            let step = |step: &Step| match step {
                Step::Char(c) => c.to_string(),
                Step::One(class) => of(*class, fill).to_string(),
                Step::Many(class) => of(*class, fill).to_string().repeat(times),
            };
            self.0.iter().map(step).collect::<String>()
        };
        fills.iter().flat_map(|fill| [0, 1, 7].map(|times| filled(*fill, times))).collect()
    }
}

/// How a value of a policy is compared with texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Exact,
    /// Equal, ignoring case; the value is case-folded.
    AnyCase,
    /// With `*` and `?`.
    Wild,
    /// Part by part, with `*` and `?`.
    Arn,
}

/// A character that both allow.
fn both(token: Token, step: Step, any_case: bool) -> Option<char> {
    let same = |c: char, of: char| c == of || (any_case && c == of.to_ascii_lowercase());
    match (token, step) {
        (Token::Char(c), Step::Char(of)) => same(c, of).then_some(of),
        (Token::Char(c), Step::One(class) | Step::Many(class)) => class.has(c).then_some(c),
        (_, Step::Char(of)) => Some(of),
        (_, Step::One(class) | Step::Many(class)) => class.samples().next(),
    }
}

/// The shortest text that matches a value and has a form.
fn shortest(value: &[Token], form: &[Step], any_case: bool) -> Option<String> {
    let width = form.len() + 1;
    // By position in both: the previous position, and the character between them.
    let mut from: Vec<Option<(usize, Option<char>)>> = vec![None; (value.len() + 1) * width];
    let mut done = vec![false; from.len()];
    let mut queue = VecDeque::from([(0, None)]);
    while let Some((at, came)) = queue.pop_front() {
        if std::mem::replace(&mut done[at], true) {
            continue;
        }
        from[at] = came;
        let (v, f) = (at / width, at % width);
        let (token, step) = (value.get(v).copied(), form.get(f).copied());
        if token == Some(Token::Many) {
            queue.push_front((at + width, Some((at, None))));
        }
        if matches!(step, Some(Step::Many(_))) {
            queue.push_front((at + 1, Some((at, None))));
        }
        if let (Some(token), Some(step)) = (token, step)
            && let Some(c) = both(token, step, any_case)
        {
            let value_stays = token == Token::Many;
            let form_stays = matches!(step, Step::Many(_));
            let next = at + if value_stays { 0 } else { width } + usize::from(!form_stays);
            if next != at {
                queue.push_back((next, Some((at, Some(c)))));
            }
        }
    }
    let mut at = from.len() - 1;
    if !done[at] {
        return None;
    }
    let mut text = Vec::new();
    while let Some((before, c)) = from[at] {
        text.extend(c);
        at = before;
    }
    Some(text.into_iter().rev().collect())
}

/// A text of the form that matches a value of a policy, of at most `longest` bytes.
pub(super) fn example(value: &[Token], reading: Reading, form: &Form, longest: usize) -> Option<String> {
    // No text has that many characters, and the search time depends on the length.
    if value.iter().filter(|t| **t != Token::Many).count() > longest {
        return None;
    }
    let found = match reading {
        // A single star matches every ARN.
        Reading::Arn if value != [Token::Many] => {
            let parts: Vec<&[Token]> = value.splitn(6, |t| *t == Token::Char(':')).collect();
            let forms: Vec<&[Step]> = form.parts();
            let part = |(value, form): (&&[Token], &&[Step])| shortest(value, form, false);
            let found: Option<Vec<String>> = parts.iter().zip(&forms).map(part).collect();
            found.filter(|found| (parts.len(), forms.len()) == (6, 6) && found.len() == 6).map(|f| f.join(":"))
        }
        _ => shortest(value, &form.0, reading == Reading::AnyCase),
    };
    found.filter(|text| text.len() <= longest)
}
