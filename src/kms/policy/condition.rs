//! The conditions of a statement: an operator, a condition key of the request, and the values to compare it with.
//!
//! | operators | compare |
//! |---|---|
//! | StringEquals, StringNotEquals, StringEqualsIgnoreCase, StringNotEqualsIgnoreCase | texts |
//! | StringLike, StringNotLike | texts with `*` and `?` |
//! | ArnEquals, ArnLike, ArnNotEquals, ArnNotLike | ARNs, part by part, with `*` and `?` |
//! | Bool | `true`, `false` |
//! | Null | whether the key is absent (`true`) or present (`false`) |
//! | NumericEquals, NumericNotEquals, NumericLessThan, …LessThanEquals, …GreaterThan, …GreaterThanEquals | numbers |
//! | DateEquals, DateNotEquals, DateLessThan, …LessThanEquals, …GreaterThan, …GreaterThanEquals | ISO 8601, or seconds since 1970 |
//! | IpAddress, NotIpAddress | addresses with networks: `203.0.113.0/24`, `2001:db8::/32` |
//! | BinaryEquals | bytes, in base64 |
//!
//! `…IfExists` holds if the key is absent. `ForAnyValue:` and `ForAllValues:` are for keys with several values, which need one
//! of them. If a request does not have the key, a comparison fails and a negated one holds. Values may have
//! variables (`variables`).
//!
//! Only keys that this build can evaluate are accepted (`keys`): a Deny on a key that is always absent would never match. An
//! operator that cannot compare the key's type is refused for the same reason.

use super::choice::{Choice, Values};
use super::forms::{Form, Reading, example};
use super::found::{Found, values_of};
use super::keys::{Key, Sort};
use super::kind::{Kind, Version};
use super::pattern::{Token, arn_fits, fits, fold_case};
use super::question::Question;
use super::variables::{self, As, expand, has_variables, sketch, sketched};
use super::words::{called_via, volume_service_in};
use crate::error::{self, Error, Result};
use ipnet::IpNet;
use std::net::IpAddr;

/// One condition: all of a statement's must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    operator: Operator,
    key: Key,
    /// As written in the document.
    name: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operator {
    set: Option<Set>,
    test: Test,
    if_exists: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Any,
    All,
}

impl Set {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Any => "ForAnyValue:",
            Self::All => "ForAllValues:",
        }
    }
}

/// How a value of the request is compared with a value of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Text,
    AnyCase,
    Like,
    Arn,
    Bool,
    Null,
    Number(Order),
    Date(Order),
    Address,
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Same,
    Less,
    LessOrSame,
    More,
    MoreOrSame,
}

impl Order {
    fn holds<T: PartialOrd>(self, have: &T, want: &T) -> bool {
        match self {
            Self::Same => have == want,
            Self::Less => have < want,
            Self::LessOrSame => have <= want,
            Self::More => have > want,
            Self::MoreOrSame => have >= want,
        }
    }
}

/// A comparison by its name; `not`: none of the policy's values may match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    name: &'static str,
    compare: Compare,
    not: bool,
}

const fn test(name: &'static str, compare: Compare, not: bool) -> Test {
    Test { name, compare, not }
}

const TESTS: [Test; 27] = [
    test("StringEquals", Compare::Text, false),
    test("StringNotEquals", Compare::Text, true),
    test("StringEqualsIgnoreCase", Compare::AnyCase, false),
    test("StringNotEqualsIgnoreCase", Compare::AnyCase, true),
    test("StringLike", Compare::Like, false),
    test("StringNotLike", Compare::Like, true),
    test("ArnEquals", Compare::Arn, false),
    test("ArnLike", Compare::Arn, false),
    test("ArnNotEquals", Compare::Arn, true),
    test("ArnNotLike", Compare::Arn, true),
    test("Bool", Compare::Bool, false),
    test("Null", Compare::Null, false),
    test("NumericEquals", Compare::Number(Order::Same), false),
    test("NumericNotEquals", Compare::Number(Order::Same), true),
    test("NumericLessThan", Compare::Number(Order::Less), false),
    test("NumericLessThanEquals", Compare::Number(Order::LessOrSame), false),
    test("NumericGreaterThan", Compare::Number(Order::More), false),
    test("NumericGreaterThanEquals", Compare::Number(Order::MoreOrSame), false),
    test("DateEquals", Compare::Date(Order::Same), false),
    test("DateNotEquals", Compare::Date(Order::Same), true),
    test("DateLessThan", Compare::Date(Order::Less), false),
    test("DateLessThanEquals", Compare::Date(Order::LessOrSame), false),
    test("DateGreaterThan", Compare::Date(Order::More), false),
    test("DateGreaterThanEquals", Compare::Date(Order::MoreOrSame), false),
    test("IpAddress", Compare::Address, false),
    test("NotIpAddress", Compare::Address, true),
    test("BinaryEquals", Compare::Binary, false),
];

impl Operator {
    fn parse(name: &str) -> Option<Self> {
        let sets = [Set::Any, Set::All];
        let set = sets.into_iter().find(|s| name.starts_with(s.prefix()));
        let rest = set.map_or(name, |s| &name[s.prefix().len()..]);
        let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |r| (r, true));
        let test = TESTS.into_iter().find(|t| t.name == rest)?;
        let sound = test.compare != Compare::Null || (set.is_none() && !if_exists);
        sound.then_some(Self { set, test, if_exists })
    }

    fn name(&self) -> String {
        let (set, suffix) = (self.set.map_or("", Set::prefix), if self.if_exists { "IfExists" } else { "" });
        format!("{set}{}{suffix}", self.test.name)
    }
}

/// The range of a date in seconds since 1970: from 2001 to the year 5138.
const SECONDS: std::ops::Range<i64> = 1_000_000_000..100_000_000_000;

/// Milliseconds since 1970 of a date in a policy: ISO 8601, a day, or seconds since 1970.
fn date(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        // A bare year, or a date without its dashes, would be a time in 1970.
        return (SECONDS.contains(&seconds)).then_some(seconds * 1000);
    }
    let whole = text.parse::<jiff::Timestamp>().ok();
    let day = || format!("{text}T00:00:00Z").parse::<jiff::Timestamp>().ok();
    whole.or_else(day).map(jiff::Timestamp::as_millisecond)
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|n| n.is_finite())
}

/// Seconds since 1970 of a number, or of a moment that a key has: `kms:ValidTo` is compared as either.
fn seconds(text: &str) -> Option<f64> {
    number(text).or_else(|| text.parse::<jiff::Timestamp>().ok().map(|t| t.as_millisecond() as f64 / 1000.0))
}

/// A network, or an address, which is a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Base64 with its padding, as one form of its bytes: RFC 4648, section 4.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len().is_multiple_of(4) && text.len() - body.len() <= 2 && body.bytes().all(good)
}

/// A value of the policy for one request.
enum Want {
    Text(String),
    Pattern(Vec<Token>),
}

impl Compare {
    /// What is wrong with a value of the policy, if it can never be compared.
    fn check(self, value: &str, version: Version) -> Result<(), &'static str> {
        let arn =
            |pattern: &str| pattern == "*" || (pattern.starts_with("arn:") && pattern.splitn(6, ':').count() == 6);
        let good = match self {
            Self::Text | Self::AnyCase | Self::Like => true,
            // Each part of an ARN may be a variable; so may all of it.
            Self::Arn => arn(&sketched(value, version)),
            Self::Bool | Self::Null => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
            Self::Number(_) => number(value).is_some(),
            Self::Date(_) => date(value).is_some(),
            Self::Address => network(value).is_some(),
            Self::Binary => is_base64(value),
        };
        match self {
            _ if good => Ok(()),
            Self::Arn => Err("is not an ARN with six parts"),
            Self::Bool | Self::Null => Err("is neither true nor false"),
            Self::Number(_) => Err("is not a number"),
            Self::Address => Err("is neither an IP address nor a network such as 203.0.113.0/24 or 2001:db8::/32"),
            Self::Binary => Err("is not base64"),
            _ => Err("is not a date: use a form such as 2027-01-31T00:00:00Z, or seconds since 1970"),
        }
    }

    /// How it interprets a value, if it compares texts.
    const fn reading(self) -> Option<Reading> {
        match self {
            Self::Text => Some(Reading::Exact),
            Self::AnyCase => Some(Reading::AnyCase),
            Self::Like => Some(Reading::Wild),
            Self::Arn => Some(Reading::Arn),
            Self::Bool | Self::Null | Self::Number(_) | Self::Date(_) | Self::Address | Self::Binary => None,
        }
    }

    /// How the text of its values is read.
    const fn reads(self) -> As {
        match self {
            Self::Like | Self::Arn => As::Pattern,
            Self::AnyCase => As::Folded,
            _ => As::Literal,
        }
    }

    /// Whether it can compare a value of this type.
    const fn suits(self, sort: Sort) -> bool {
        matches!(sort, Sort::Any)
            || match self {
                Self::Null => true,
                Self::Text | Self::AnyCase | Self::Like => matches!(sort, Sort::Text | Sort::TextOrArn | Sort::Bool),
                Self::Arn => matches!(sort, Sort::TextOrArn),
                Self::Bool => matches!(sort, Sort::Bool),
                Self::Number(_) => matches!(sort, Sort::Number | Sort::Seconds),
                Self::Date(_) => matches!(sort, Sort::Date | Sort::Seconds),
                Self::Address => matches!(sort, Sort::Address),
                Self::Binary => false,
            }
    }

    /// A value of the policy, ready to be compared.
    fn want(self, tokens: Vec<Token>) -> Want {
        match self.reads() {
            As::Pattern => Want::Pattern(tokens),
            _ => Want::Text(
                tokens.into_iter().filter_map(|t| if let Token::Char(c) = t { Some(c) } else { None }).collect(),
            ),
        }
    }

    fn fits(self, want: &Want, have: &str) -> bool {
        match (self, want) {
            (Self::Like, Want::Pattern(pattern)) => fits(pattern, have),
            (Self::Arn, Want::Pattern(pattern)) => *pattern == [Token::Many] || arn_fits(pattern, have),
            (Self::Text | Self::Binary, Want::Text(want)) => want == have,
            (Self::AnyCase, Want::Text(want)) => *want == fold_case(have),
            (Self::Bool, Want::Text(want)) => want.eq_ignore_ascii_case(have),
            (Self::Number(order), Want::Text(want)) => {
                matches!((seconds(have), number(want)), (Some(h), Some(w)) if order.holds(&h, &w))
            }
            (Self::Date(order), Want::Text(want)) => {
                matches!((date(have), date(want)), (Some(h), Some(w)) if order.holds(&h, &w))
            }
            (Self::Address, Want::Text(want)) => {
                let have = have.parse::<IpAddr>().map(|a| a.to_canonical());
                matches!((have, network(want)), (Ok(h), Some(w)) if w.contains(&h))
            }
            _ => false,
        }
    }
}

impl Condition {
    pub(super) fn string_equals(name: &str, key: Key, value: &str) -> Self {
        let operator = Operator { set: None, test: TESTS[0], if_exists: false };
        Self { operator, key, name: name.to_owned(), values: vec![value.to_owned()] }
    }

    /// A condition of a document.
    ///
    /// # Errors
    /// [`error::Kind::Usage`] for an unknown operator or key, an operator that cannot compare the key, a value that the key can
    /// never have, a key with several values without `ForAnyValue:` or `ForAllValues:`.
    pub(super) fn new(kind: Kind, version: Version, operator: &str, name: &str, values: Vec<String>) -> Result<Self> {
        let bad = |why: String| Err(Error::new(error::Kind::Usage, why));
        let Some(parsed) = Operator::parse(operator) else {
            let known = TESTS.map(|t| t.name).join(", ");
            return bad(format!("{operator:?} is not a known operator; known operators: {known}"));
        };
        let key = match Key::parse_in(kind, name) {
            Ok(key) => key,
            Err(why) => return bad(why),
        };
        let compare = parsed.test.compare;
        if !compare.suits(key.sort()) {
            return bad(format!("{operator} cannot compare {name}"));
        }
        for value in &values {
            if let Err(why) = variables::check(value, version) {
                return bad(format!("the value {value:?}: {why}"));
            }
            let exact = match compare {
                _ if has_variables(value, version) => false,
                Compare::Text | Compare::AnyCase => true,
                Compare::Like => !value.contains(['*', '?']),
                _ => false,
            };
            let word = if exact { key.check_text(value, compare == Compare::AnyCase) } else { Ok(()) };
            if let Err(why) = compare.check(value, version).and(word) {
                return bad(format!("the value {value:?} {why}"));
            }
        }
        if key.has_several() && parsed.set.is_none() && compare != Compare::Null {
            return bad(format!("{name} has several values: use ForAnyValue:{operator} or ForAllValues:{operator}"));
        }
        Ok(Self { operator: parsed, key, name: name.to_owned(), values })
    }

    /// Its operator, as in documents.
    pub(super) fn operator(&self) -> String {
        self.operator.name()
    }

    /// Its key, as in the document.
    pub(super) fn key(&self) -> &str {
        &self.name
    }

    pub(super) fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether it can hold for a request for an action (`kms:Decrypt`) on a Region's keys, without or with its key.
    pub(super) fn can_hold(&self, action: &str, region: &str, version: Version) -> bool {
        (self.key.may_be_absent_with(action) && self.compares(&self.fixed(version), &[]))
            || (self.key.goes_with(action) && self.holds_with_a_value(region, version))
    }

    /// Whether it can hold for a request that has its key.
    fn holds_with_a_value(&self, region: &str, version: Version) -> bool {
        let wants = self.fixed(version);
        if self.operator.test.compare == Compare::Null {
            return self.compares(&wants, &[vec![]]);
        }
        // A condition that is not a negation holds for its own values, which are checked one by one.
        let Some(reading) = self.operator.test.compare.reading().filter(|_| self.operator.test.not) else {
            return true;
        };
        let samples: Vec<Vec<String>> = match &self.key {
            Key::ViaService => vec![volume_service_in(region).into()],
            Key::CalledVia => vec![called_via().into()],
            key => key.values(region, reading, "").here.iter().flat_map(Form::samples).map(|text| vec![text]).collect(),
        };
        samples.into_iter().any(|names| self.compares(&wants, &[names]))
    }

    /// Whether requests for an action can have its key.
    pub(super) fn goes_with(&self, action: &str) -> bool {
        self.key.goes_with(action)
    }

    /// What is wrong with it, if it can hold for no request for a Region's keys, or if one of its values can never match:
    /// such a value is misspelt, and under a negation the condition would hold for what it should exclude.
    pub(super) fn check(&self, region: &str, version: Version) -> Result<(), String> {
        if matches!(self.key, Key::Foreign(_)) {
            return Ok(());
        }
        self.key.check_name()?;
        let compare = self.operator.test.compare;
        match (compare, compare.reading()) {
            (_, Some(reading)) => {
                self.check_texts(region, reading, version)?;
                let without = || self.key.may_be_absent() && self.compares(&self.fixed(version), &[]);
                if self.holds_with_a_value(region, version) || without() {
                    return Ok(());
                }
                Err(format!("can never hold: its values cover all that {} can be", self.name))
            }
            (Compare::Null, _) if !self.key.may_be_absent() && !self.compares(&self.fixed(version), &[vec![]]) => {
                Err(format!("can never hold: every request has {}", self.name))
            }
            (Compare::Number(order) | Compare::Date(order), _) => self.check_numbers(order),
            _ => Ok(()),
        }
    }

    fn check_texts(&self, region: &str, reading: Reading, version: Version) -> Result<(), String> {
        let (name, mut beside, mut can_match) = (&self.name, None, false);
        for value in &self.values {
            let read = if reading == Reading::AnyCase { fold_case(value) } else { value.clone() };
            let Values { here, elsewhere, longest, words } = self.key.values(region, reading, &read);
            let tokens = sketch(value, self.operator.test.compare.reads(), version);
            let fits = |forms: &[_]| forms.iter().any(|form| example(&tokens, reading, form, longest).is_some());
            if fits(&here) {
                can_match = true;
            } else if fits(&elsewhere) {
                beside = Some(format!(
                    "the value {value:?} exists only in AWS, and can never match here: {name} is {words}"
                ));
            } else {
                return Err(format!("the value {value:?} can never match: {name} is {words}"));
            }
        }
        beside.filter(|_| !can_match).map_or(Ok(()), Err)
    }

    /// Numbers that the key never is, and times at which no request is made.
    fn check_numbers(&self, order: Order) -> Result<(), String> {
        let (first, end, whole, why) = match *self.key.choice() {
            Choice::Whole(from, to) => {
                (from, to + 1.0, true, format!("{} is a whole number from {from} to {to}", self.name))
            }
            _ => {
                let why = "requests are made between 2001 and 5138, and aws:EpochTime is whole seconds".to_owned();
                (SECONDS.start as f64, SECONDS.end as f64, matches!(self.key, Key::EpochTime), why)
            }
        };
        for value in &self.values {
            let of_date = || date(value).map(|ms| ms as f64 / 1000.0);
            let number =
                if matches!(self.operator.test.compare, Compare::Number(_)) { number(value) } else { of_date() };
            let Some(want) = number else { continue };
            let can_match = match order {
                Order::Same => (first..end).contains(&want) && (!whole || want.fract() == 0.0),
                Order::Less => want > first,
                Order::LessOrSame => want >= first,
                Order::More => want < end - 1.0,
                Order::MoreOrSame if whole => want <= end - 1.0,
                Order::MoreOrSame => want < end - 1.0,
            };
            if !can_match {
                return Err(format!("the value {value:?} can never match: {why}"));
            }
        }
        Ok(())
    }

    /// Its values as they are for all requests: those without variables.
    fn fixed(&self, version: Version) -> Vec<Want> {
        let compare = self.operator.test.compare;
        let plain = self.values.iter().filter(|v| !has_variables(v, version));
        plain.map(|v| compare.want(sketch(v, compare.reads(), version))).collect()
    }

    /// Whether it holds for a request, in a statement that allows or denies. If several pairs of the encryption context have
    /// the key's name, a Deny matches if it does for any of them, an Allow if it does for all: a second pair cannot evade it.
    /// A value whose variable the request does not have matches nothing; under a negation, it makes an Allow fail.
    pub(super) fn holds(&self, q: &Question<'_>, allow: bool, version: Version) -> bool {
        let compare = self.operator.test.compare;
        let expanded = self.values.iter().filter_map(|v| expand(v, compare.reads(), version, q));
        let wants: Vec<Want> = expanded.map(|tokens| compare.want(tokens)).collect();
        if wants.len() < self.values.len() && self.operator.test.not && allow {
            return false;
        }
        match values_of(&self.key, q) {
            Found::Absent => self.compares(&wants, &[]),
            Found::One(names) => self.compares(&wants, &[names]),
            Found::Rivals(values) => {
                let mut each = values.into_iter().map(|v| self.compares(&wants, &[vec![v]]));
                if allow { each.all(|held| held) } else { each.any(|held| held) }
            }
            Found::Several(values) => self.compares(&wants, &values),
        }
    }

    /// Compares the policy's values with those of the request, each with all its names.
    fn compares(&self, wants: &[Want], have: &[Vec<String>]) -> bool {
        let Operator { set, test, if_exists } = self.operator;
        if test.compare == Compare::Null {
            return self.values.iter().any(|want| want.eq_ignore_ascii_case("true") == have.is_empty());
        }
        let fits = |want: &Want, names: &[String]| names.iter().any(|name| test.compare.fits(want, name));
        let one = |names: &Vec<String>| wants.iter().any(|want| fits(want, names)) != test.not;
        match set {
            None if have.is_empty() => if_exists || test.not,
            Some(Set::Any) if have.is_empty() => if_exists,
            None | Some(Set::All) => have.iter().all(one),
            Some(Set::Any) => have.iter().any(one),
        }
    }
}
