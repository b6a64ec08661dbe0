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
//!
//! `…IfExists` holds if the key is absent. `ForAnyValue:` and `ForAllValues:` are for keys with several values, which need one
//! of them. If a request does not have the key, a comparison fails and a negated one holds. IpAddress and BinaryEquals are not
//! implemented: no request has an address or bytes.
//!
//! Only keys that this build can evaluate are accepted (`words`): a Deny on a key that is always absent would never match. An
//! operator that cannot compare the key's type is refused for the same reason.

use super::arn::{account_of, is_root, region_of, user_of};
use super::forms::{Form, Reading, example};
use super::pattern::{fold_case, wild};
use super::question::Question;
use super::words::{Key, Sort, VOLUME_SERVICE, Values, volume_service_in};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};

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

const TESTS: [Test; 24] = [
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

/// Milliseconds since 1970 of a date in a policy: ISO 8601, a day, or seconds since 1970.
/// The range of a date in seconds since 1970: from 2001 to the year 5138.
const SECONDS: std::ops::Range<i64> = 1_000_000_000..100_000_000_000;

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

/// ARNs are compared part by part: a star does not match a colon, except in the last part.
fn arn_fits(pattern: &str, arn: &str) -> bool {
    let (want, have): (Vec<&str>, Vec<&str>) = (pattern.splitn(6, ':').collect(), arn.splitn(6, ':').collect());
    want.len() == 6 && have.len() == 6 && want.iter().zip(&have).all(|(w, h)| wild(w, h, false))
}

impl Compare {
    /// What is wrong with a value of the policy, if it can never be compared.
    fn check(self, value: &str) -> Result<(), &'static str> {
        let good = match self {
            Self::Text | Self::AnyCase | Self::Like => true,
            Self::Arn => value == "*" || (value.starts_with("arn:") && value.splitn(6, ':').count() == 6),
            Self::Bool | Self::Null => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
            Self::Number(_) => number(value).is_some(),
            Self::Date(_) => date(value).is_some(),
        };
        match self {
            _ if good => Ok(()),
            Self::Arn => Err("is not an ARN with six parts"),
            Self::Bool | Self::Null => Err("is neither true nor false"),
            Self::Number(_) => Err("is not a number"),
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
            Self::Bool | Self::Null | Self::Number(_) | Self::Date(_) => None,
        }
    }

    /// Whether it can compare a value of this type.
    const fn suits(self, sort: Sort) -> bool {
        match self {
            Self::Null => true,
            Self::Text | Self::AnyCase | Self::Like => matches!(sort, Sort::Text | Sort::TextOrArn | Sort::Bool),
            Self::Arn => matches!(sort, Sort::TextOrArn),
            Self::Bool => matches!(sort, Sort::Bool),
            Self::Number(_) => matches!(sort, Sort::Seconds),
            Self::Date(_) => matches!(sort, Sort::Date | Sort::Seconds),
        }
    }

    fn fits(self, want: &str, have: &str) -> bool {
        match self {
            Self::Text => want == have,
            Self::AnyCase => fold_case(want) == fold_case(have),
            Self::Like => wild(want, have, false),
            Self::Arn => want == "*" || arn_fits(want, have),
            Self::Bool => want.eq_ignore_ascii_case(have),
            Self::Null => false,
            Self::Number(order) => matches!((number(have), number(want)), (Some(h), Some(w)) if order.holds(&h, &w)),
            Self::Date(order) => matches!((date(have), date(want)), (Some(h), Some(w)) if order.holds(&h, &w)),
        }
    }
}

/// The value of a condition key in a request.
enum Found {
    Absent,
    /// One value; for the volume service, all of its names.
    One(Vec<String>),
    /// The values of several pairs whose names differ only in case: which one is meant is ambiguous.
    Rivals(Vec<String>),
    Several(Vec<String>),
}

impl Condition {
    pub(super) fn string_equals(name: &str, key: Key, value: &str) -> Self {
        let operator = Operator { set: None, test: TESTS[0], if_exists: false };
        Self { operator, key, name: name.to_owned(), values: vec![value.to_owned()] }
    }

    /// A condition of a document.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an unknown operator or key, an operator that cannot compare the key, a value that the key can
    /// never have, a key with several values without `ForAnyValue:` or `ForAllValues:`.
    pub(super) fn new(operator: &str, name: &str, values: Vec<String>) -> Result<Self> {
        let bad = |why: String| Err(Error::new(Kind::Usage, why));
        let Some(parsed) = Operator::parse(operator) else {
            let known = TESTS.map(|t| t.name).join(", ");
            return bad(format!("{operator:?} is not a known operator; known operators: {known}"));
        };
        let key = match Key::parse(name) {
            Ok(key) => key,
            Err(why) => return bad(why),
        };
        let compare = parsed.test.compare;
        if !compare.suits(key.sort()) {
            return bad(format!("{operator} cannot compare {name}"));
        }
        for value in &values {
            let exact = match compare {
                Compare::Text | Compare::AnyCase => true,
                Compare::Like => !value.contains(['*', '?']),
                _ => false,
            };
            let word = if exact { key.check_text(value, compare == Compare::AnyCase) } else { Ok(()) };
            if let Err(why) = compare.check(value).and(word) {
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

    /// Whether it can hold for a request for an action on a Region's keys, without or with its key.
    pub(super) fn can_hold(&self, action: &str, region: &str) -> bool {
        (self.key.may_be_absent_with(action) && self.compares(&[]))
            || (self.key.goes_with(action) && self.holds_with_a_value(region))
    }

    /// Whether it can hold for a request that has its key.
    fn holds_with_a_value(&self, region: &str) -> bool {
        if self.operator.test.compare == Compare::Null {
            return self.compares(&[vec![]]);
        }
        // A condition that is not a negation holds for its own values, which are checked one by one.
        let Some(reading) = self.operator.test.compare.reading().filter(|_| self.operator.test.not) else {
            return true;
        };
        let samples: Vec<Vec<String>> = match &self.key {
            Key::ViaService => vec![volume_service_in(region).into()],
            key => key.values(region, reading, "").here.iter().flat_map(Form::samples).map(|text| vec![text]).collect(),
        };
        samples.into_iter().any(|names| self.compares(&[names]))
    }

    /// Whether requests for an action can have its key.
    pub(super) fn goes_with(&self, action: &str) -> bool {
        self.key.goes_with(action)
    }

    /// What is wrong with it, if it can hold for no request for a Region's keys, or if one of its values can never match:
    /// such a value is misspelt, and under a negation the condition would hold for what it should exclude.
    pub(super) fn check(&self, region: &str) -> Result<(), String> {
        self.key.check_name()?;
        let compare = self.operator.test.compare;
        match (compare, compare.reading()) {
            (_, Some(reading)) => {
                self.check_texts(region, reading)?;
                if self.holds_with_a_value(region) || (self.key.may_be_absent() && self.compares(&[])) {
                    return Ok(());
                }
                Err(format!("can never hold: its values cover all that {} can be", self.name))
            }
            (Compare::Null, _) if !self.key.may_be_absent() && !self.compares(&[vec![]]) => {
                Err(format!("can never hold: every request has {}", self.name))
            }
            (Compare::Number(order) | Compare::Date(order), _) => self.check_moments(order),
            _ => Ok(()),
        }
    }

    fn check_texts(&self, region: &str, reading: Reading) -> Result<(), String> {
        let (name, mut beside, mut can_match) = (&self.name, None, false);
        for value in &self.values {
            let read = if reading == Reading::AnyCase { fold_case(value) } else { value.clone() };
            let Values { here, elsewhere, longest, words } = self.key.values(region, reading, &read);
            let fits = |forms: &[_]| forms.iter().any(|form| example(&read, reading, form, longest).is_some());
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

    /// Times at which no request is made.
    fn check_moments(&self, order: Order) -> Result<(), String> {
        let (first, end) = (SECONDS.start as f64, SECONDS.end as f64);
        let whole = matches!(self.key, Key::EpochTime);
        for value in &self.values {
            let of_date = || date(value).map(|ms| ms as f64 / 1000.0);
            let number =
                if matches!(self.operator.test.compare, Compare::Number(_)) { number(value) } else { of_date() };
            let Some(want) = number else { continue };
            let can_match = match order {
                Order::Same => (first..end).contains(&want) && (!whole || want.fract() == 0.0),
                Order::Less => want > first,
                Order::LessOrSame => want >= first,
                Order::More | Order::MoreOrSame => want < end - 1.0,
            };
            if !can_match {
                let why = "requests are made between 2001 and 5138, and aws:EpochTime is whole seconds";
                return Err(format!("the value {value:?} can never match: {why}"));
            }
        }
        Ok(())
    }

    /// Whether it holds for a request, in a statement that allows or denies. If several pairs of the encryption context have
    /// the key's name, a Deny matches if it does for any of them, an Allow if it does for all: a second pair cannot evade it.
    pub(super) fn holds(&self, q: &Question<'_>, allow: bool) -> bool {
        match values_of(&self.key, q) {
            Found::Absent => self.compares(&[]),
            Found::One(names) => self.compares(&[names]),
            Found::Rivals(values) => {
                let mut each = values.into_iter().map(|v| self.compares(&[vec![v]]));
                if allow { each.all(|held| held) } else { each.any(|held| held) }
            }
            Found::Several(values) => {
                let values: Vec<Vec<String>> = values.into_iter().map(|v| vec![v]).collect();
                self.compares(&values)
            }
        }
    }

    /// Compares the policy's values with those of the request, each with all its names.
    fn compares(&self, have: &[Vec<String>]) -> bool {
        let Operator { set, test, if_exists } = self.operator;
        if test.compare == Compare::Null {
            return self.values.iter().any(|want| want.eq_ignore_ascii_case("true") == have.is_empty());
        }
        let fits = |want: &String, names: &[String]| names.iter().any(|name| test.compare.fits(want, name));
        let one = |names: &Vec<String>| self.values.iter().any(|want| fits(want, names)) != test.not;
        match set {
            None if have.is_empty() => if_exists || test.not,
            Some(Set::Any) if have.is_empty() => if_exists,
            None | Some(Set::All) => have.iter().all(one),
            Some(Set::Any) => have.iter().any(one),
        }
    }
}

/// The value of a condition key in a request.
fn values_of(key: &Key, q: &Question<'_>) -> Found {
    let one = |value: Option<&str>| value.map_or(Found::Absent, |v| Found::One(vec![v.to_owned()]));
    let several = |values: Vec<String>| if values.is_empty() { Found::Absent } else { Found::Several(values) };
    match key {
        Key::ViaService if q.via_service == Some(VOLUME_SERVICE) => {
            Found::One(volume_service_in(region_of(q.resource)).into())
        }
        Key::ViaService => one(q.via_service),
        Key::Account => one(account_of(q.principal)),
        Key::Pair(name) => {
            let of_name = q.context.iter().filter(|(k, _)| fold_case(k) == *name);
            let values: Vec<String> = of_name.map(|(_, v)| v.to_owned()).collect();
            match values.len() {
                0 => Found::Absent,
                1 => Found::One(values),
                _ => Found::Rivals(values),
            }
        }
        Key::ContextKeys => several(q.context.iter().map(|(k, _)| k.to_owned()).collect()),
        Key::GrantIsForAwsResource => one(q.grant.map(|g| if g.for_aws_resource { "true" } else { "false" })),
        Key::GrantOperations => several(q.grant.map(|g| g.operations.clone()).unwrap_or_default()),
        Key::PrincipalArn => one(Some(q.principal)),
        Key::PrincipalType if is_root(q.principal) => one(Some("Account")),
        Key::PrincipalType => one(user_of(q.principal).map(|_| "User")),
        Key::UserName => one(user_of(q.principal)),
        Key::CurrentTime => one(Some(&now(q.now))),
        Key::EpochTime => one(Some(&(q.now.0 / 1000).to_string())),
    }
}

/// A time with milliseconds, as [`date`] parses it.
fn now(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| (at.0 / 1000).to_string(), |t| t.to_string())
}
