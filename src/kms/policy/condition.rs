//! The conditions of a statement: an operator, a key of the request, and the values it is held against.
//!
//! | operators | compare |
//! |---|---|
//! | StringEquals, StringNotEquals, StringEqualsIgnoreCase, StringNotEqualsIgnoreCase | texts |
//! | StringLike, StringNotLike | texts with `*` and `?` |
//! | ArnEquals, ArnLike, ArnNotEquals, ArnNotLike | ARNs, part by part, with `*` and `?` |
//! | Bool | `true`, `false` |
//! | Null | whether the key is absent (`true`) or there (`false`) |
//! | NumericEquals, NumericNotEquals, NumericLessThan, …LessThanEquals, …GreaterThan, …GreaterThanEquals | numbers |
//! | DateEquals, DateNotEquals, DateLessThan, …LessThanEquals, …GreaterThan, …GreaterThanEquals | ISO 8601, or seconds since 1970 |
//!
//! `…IfExists` holds when the key is absent. `ForAnyValue:` and `ForAllValues:` are for keys with several values, and those
//! need one of them. A key that a request does not have is absent: a comparison with it fails, a negated one holds.
//! IpAddress and BinaryEquals are not built: no request has an address or bytes.

use super::{Question, account_of, is_root, user_of, wild};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};

/// Condition keys whose values are several.
const SEVERAL: [&str; 2] = ["kms:encryptioncontextkeys", "kms:grantoperations"];
/// What the condition key of one pair of the encryption context begins with.
const CONTEXT: &str = "kms:encryptioncontext:";

/// One condition: all of a statement's must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    operator: Operator,
    key: String,
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

/// How a value of the request is compared with one of the policy.
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

/// A comparison under its name; `not`: none of the policy's values may fit.
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

/// Milliseconds since 1970 of a date as a policy writes it: ISO 8601, a day alone, or seconds since 1970.
fn date(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1000);
    }
    let whole = text.parse::<jiff::Timestamp>().ok();
    let day = || format!("{text}T00:00:00Z").parse::<jiff::Timestamp>().ok();
    whole.or_else(day).map(jiff::Timestamp::as_millisecond)
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|n| n.is_finite())
}

/// ARNs are compared part by part: a star does not reach over a colon, but in the last part.
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
            Self::Arn => Err("is no ARN of six parts"),
            Self::Bool | Self::Null => Err("is neither true nor false"),
            Self::Number(_) => Err("is no number"),
            _ => Err("is no date: say it as 2027-01-31T00:00:00Z, or in seconds since 1970"),
        }
    }

    fn fits(self, want: &str, have: &str) -> bool {
        match self {
            Self::Text => want == have,
            Self::AnyCase => want.to_lowercase() == have.to_lowercase(),
            Self::Like => wild(want, have, false),
            Self::Arn => want == "*" || arn_fits(want, have),
            Self::Bool => want.eq_ignore_ascii_case(have),
            Self::Null => false,
            Self::Number(order) => matches!((number(have), number(want)), (Some(h), Some(w)) if order.holds(&h, &w)),
            Self::Date(order) => matches!((date(have), date(want)), (Some(h), Some(w)) if order.holds(&h, &w)),
        }
    }
}

impl Condition {
    pub(super) fn string_equals(key: &str, value: &str) -> Self {
        let operator = Operator { set: None, test: TESTS[0], if_exists: false };
        Self { operator, key: key.to_owned(), values: vec![value.to_owned()] }
    }

    /// A condition of a document.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an operator that is not known, a value it cannot compare, a key with several values without
    /// `ForAnyValue:` or `ForAllValues:`.
    pub(super) fn new(operator: &str, key: &str, values: Vec<String>) -> Result<Self> {
        let bad = |why: String| Err(Error::new(Kind::Usage, why));
        let Some(parsed) = Operator::parse(operator) else {
            return bad(format!("{operator:?} is no operator that this build knows"));
        };
        if key.is_empty() || !key.contains(':') {
            return bad(format!("{key:?} is no condition key, as kms:ViaService is"));
        }
        for value in &values {
            if let Err(why) = parsed.test.compare.check(value) {
                return bad(format!("the value {value:?} {why}"));
            }
        }
        if SEVERAL.contains(&&*key.to_lowercase()) && parsed.set.is_none() && parsed.test.compare != Compare::Null {
            return bad(format!("{key} has several values: say ForAnyValue:{operator} or ForAllValues:{operator}"));
        }
        Ok(Self { operator: parsed, key: key.to_owned(), values })
    }

    /// Its operator, as documents write it.
    pub(super) fn operator(&self) -> String {
        self.operator.name()
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether it holds for a request.
    pub(super) fn holds(&self, q: &Question<'_>) -> bool {
        let have = values_of(&self.key, q);
        let Operator { set, test, if_exists } = self.operator;
        if test.compare == Compare::Null {
            return self.values.iter().any(|want| want.eq_ignore_ascii_case("true") == have.is_empty());
        }
        let one = |value: &String| self.values.iter().any(|want| test.compare.fits(want, value)) != test.not;
        match set {
            None if have.is_empty() => if_exists || test.not,
            Some(Set::Any) if have.is_empty() => if_exists,
            None | Some(Set::All) => have.iter().all(one),
            Some(Set::Any) => have.iter().any(one),
        }
    }
}

/// The values of a condition key in a request; none: the request has no such key. Names of keys have no case, nor has the name
/// of a pair of the encryption context as a part of one.
fn values_of(key: &str, q: &Question<'_>) -> Vec<String> {
    let key = key.to_lowercase();
    if let Some(name) = key.strip_prefix(CONTEXT) {
        let of_name = q.context.iter().filter(|(k, _)| k.to_lowercase() == name);
        return of_name.map(|(_, v)| v.to_owned()).collect();
    }
    let one = |value: Option<&str>| value.map(str::to_owned).into_iter().collect();
    let member = || account_of(q.principal);
    match &*key {
        "kms:viaservice" => one(q.via_service),
        "kms:calleraccount" | "aws:principalaccount" => one(member()),
        "kms:encryptioncontextkeys" => q.context.iter().map(|(k, _)| k.to_owned()).collect(),
        "kms:grantisforawsresource" => one(q.grant.map(|g| if g.for_aws_resource { "true" } else { "false" })),
        "kms:grantoperations" => q.grant.map(|g| g.operations.clone()).unwrap_or_default(),
        "aws:principalarn" => one(Some(q.principal)),
        "aws:principaltype" if is_root(q.principal) => one(Some("Account")),
        "aws:principaltype" => one(user_of(q.principal).map(|_| "User")),
        "aws:username" => one(user_of(q.principal)),
        "aws:currenttime" => vec![now(q.now)],
        "aws:epochtime" => vec![(q.now.0 / 1000).to_string()],
        _ => Vec::new(),
    }
}

/// A time to the millisecond, as [`date`] reads it.
fn now(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| (at.0 / 1000).to_string(), |t| t.to_string())
}
