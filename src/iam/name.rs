//! Names of IAM: the rules for them, ids, ARNs, and how a request names a principal.
//!
//! Sources: IAM User Guide, "IAM and AWS STS quotas" and "IAM identifiers"; IAM and STS API References for the patterns.

use crate::env::Rng;
use crate::error::{Error, Kind, Reason, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Longest name of a user or role, in characters.
pub const MAX_NAME: usize = 64;
/// Longest name of an inline policy, in characters.
pub const MAX_POLICY_NAME: usize = 128;
/// Longest path, in characters.
pub const MAX_PATH: usize = 512;
/// Most tags of a user, a role or a session.
pub const MAX_TAGS: usize = 50;

/// Tags, by key. Keys differ in more than case.
pub type Tags = BTreeMap<String, String>;

/// Digits of ids after their prefix: RFC 4648, base 32.
const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn usage(what: String) -> Error {
    Error::new(Kind::Usage, what)
}

/// Whether it is one of `A-Z a-z 0-9 _ + = , . @ -`.
const fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'=' | b',' | b'.' | b'@' | b'-')
}

/// Checks the name of a user, a role, a policy or a session: `least` to `most` characters of `A-Z a-z 0-9 _ + = , . @ -`.
///
/// # Errors
/// [`Kind::Usage`] with the violated rule.
pub(super) fn check_name(what: &str, name: &str, least: usize, most: usize) -> Result<()> {
    if !(least..=most).contains(&name.len()) {
        return Err(usage(format!("{what} name {name:?} must have {least} to {most} characters")));
    }
    if !name.bytes().all(is_name) {
        return Err(usage(format!("{what} name {name:?} may contain only A-Z a-z 0-9 _ + = , . @ -")));
    }
    Ok(())
}

/// Refuses the names of local users (`uid-1000`), which policies know as principals of their own.
pub(super) fn check_not_local(name: &str) -> Result<()> {
    let number = name.get(..4).filter(|start| start.eq_ignore_ascii_case("uid-")).map(|_| &name[4..]);
    if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
        let what = format!("user name {name:?} is reserved for a local user");
        return Err(usage(what).hint("choose a name that is not uid- and a number"));
    }
    Ok(())
}

/// Checks a path: `/`, or characters `!` to `~` that begin and end with `/`; at most [`MAX_PATH`].
///
/// # Errors
/// [`Kind::Usage`] with the violated rule.
pub(super) fn check_path(path: &str) -> Result<()> {
    if path.len() > MAX_PATH {
        return Err(usage(format!("a path may have at most {MAX_PATH} characters")));
    }
    if !path.starts_with('/') || !path.ends_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        let what = format!("path {path:?} must begin and end with / and contain only the characters ! to ~");
        return Err(usage(what).hint("use a path such as /division/team/"));
    }
    Ok(())
}

/// Whether a text is the id of an account: 12 digits.
#[must_use]
pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Checks an account id: 12 digits.
///
/// # Errors
/// [`Kind::Usage`].
pub fn check_account(id: &str) -> Result<()> {
    if is_account(id) {
        return Ok(());
    }
    Err(usage(format!("account {id:?} must be 12 digits")))
}

/// Whether a tag may contain this character: letters, separators, numbers and `_ . : / = + - @`.
fn is_tag(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c)
}

/// Checks tags: at most [`MAX_TAGS`], keys of 1 to 128 characters that differ in more than case and do not begin with
/// `aws:`, values of at most 256.
///
/// # Errors
/// [`Kind::Usage`] with the violated rule.
pub(super) fn check_tags(tags: &Tags) -> Result<()> {
    if tags.len() > MAX_TAGS {
        return Err(usage(format!("{} tags: at most {MAX_TAGS} are possible", tags.len())));
    }
    let mut seen = BTreeSet::new();
    for (key, value) in tags {
        let rule = if !(1..=128).contains(&key.chars().count()) {
            "must have 1 to 128 characters"
        } else if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            "may not begin with aws:"
        } else if value.chars().count() > 256 {
            "has a value of more than 256 characters"
        } else if !key.chars().chain(value.chars()).all(is_tag) {
            "may contain only letters, digits, spaces and _ . : / = + - @, and so may its value"
        } else if !seen.insert(key.to_lowercase()) {
            "is given twice; case does not count"
        } else {
            continue;
        };
        return Err(usage(format!("tag {key:?} {rule}")));
    }
    Ok(())
}

/// Draws an id: a prefix of four letters, then `digits` random ones of `A-Z 2-7`.
pub(super) fn draw_id(prefix: &str, digits: usize, rng: &dyn Rng) -> String {
    let mut raw = vec![0u8; digits];
    rng.fill(&mut raw);
    let drawn = raw.iter().map(|b| char::from(DIGITS[usize::from(b & 31)]));
    prefix.chars().chain(drawn).collect()
}

/// A principal that is kept in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// The account's root.
    Root,
    /// A user.
    User,
    /// A role.
    Role,
}

/// How a request names a principal: its account, what it is, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalRef {
    /// The account, 12 digits.
    pub account: String,
    /// What it is.
    pub sort: Sort,
    /// The path that an ARN gives; `None`: any.
    pub path: Option<String>,
    /// Its name; empty for root.
    pub name: String,
}

impl PrincipalRef {
    /// The root of an account.
    #[must_use]
    pub fn root(account: &str) -> Self {
        Self { account: account.into(), sort: Sort::Root, path: None, name: String::new() }
    }

    /// A user of an account, by name.
    #[must_use]
    pub fn user(account: &str, name: &str) -> Self {
        Self { account: account.into(), sort: Sort::User, path: None, name: name.into() }
    }

    /// A role of an account, by name.
    #[must_use]
    pub fn role(account: &str, name: &str) -> Self {
        Self { account: account.into(), sort: Sort::Role, path: None, name: name.into() }
    }

    /// Parses `root`, `user/NAME`, `role/NAME`, or an ARN (`arn:aws:iam::ACCOUNT:user/PATH/NAME`). Without an ARN, it is one
    /// of `account`.
    ///
    /// # Errors
    /// [`Kind::Usage`]; for an ARN (InvalidArnException).
    pub fn parse(text: &str, account: &str) -> Result<Self> {
        let Some(arn) = text.strip_prefix("arn:") else {
            return Self::resource(text, account)
                .filter(|p| p.path.as_deref().is_none_or(|path| path == "/"))
                .map_or_else(
                    || {
                        let what = format!("{text:?} does not name a principal");
                        Err(usage(what).hint("use user/NAME, role/NAME, root, or an ARN"))
                    },
                    |found| Ok(Self { path: None, ..found }),
                );
        };
        let bad = || {
            let what = format!("{text:?} is not the ARN of a user, a role or an account's root");
            usage(what).reason(Reason::InvalidArn).hint("use arn:aws:iam::ACCOUNT:user/NAME, role/NAME or root")
        };
        let resource = arn.strip_prefix("aws:iam::").ok_or_else(bad)?;
        let (account, resource) = resource.split_once(':').ok_or_else(bad)?;
        check_account(account).map_err(|_| bad())?;
        Self::resource(resource, account).ok_or_else(bad)
    }

    fn resource(text: &str, account: &str) -> Option<Self> {
        if text == "root" {
            return Some(Self::root(account));
        }
        let (sort, rest) = match (text.strip_prefix("user/"), text.strip_prefix("role/")) {
            (Some(rest), _) => (Sort::User, rest),
            (_, Some(rest)) => (Sort::Role, rest),
            _ => return None,
        };
        let (path, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        let path = if path.is_empty() { "/".to_owned() } else { format!("/{path}/") };
        let valid = !rest.starts_with('/') && check_name("", name, 1, MAX_NAME).is_ok() && check_path(&path).is_ok();
        valid.then(|| Self { account: account.into(), sort, path: Some(path), name: name.into() })
    }
}

impl fmt::Display for PrincipalRef {
    /// Formats as in a message: `user/alice of account 111122223333`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sort {
            Sort::Root => write!(f, "root of account {}", self.account),
            Sort::User => write!(f, "user/{} of account {}", self.name, self.account),
            Sort::Role => write!(f, "role/{} of account {}", self.name, self.account),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRng;

    #[test]
    fn names_follow_the_rules_of_iam() {
        let most = "x".repeat(64);
        for good in ["a", "Alice_1+=,.@-", &most] {
            assert!(check_name("user", good, 1, MAX_NAME).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["", "a b", "a/b", "a:b", "a*", "é", &long] {
            assert_eq!(check_name("user", bad, 1, MAX_NAME).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        for bad in ["uid-0", "UID-1000"] {
            assert!(check_not_local(bad).unwrap_err().line().contains("reserved"), "{bad}");
        }
        for good in ["uid-", "uid-x", "uid-1x", "alice", "é", "uidé1"] {
            assert!(check_not_local(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn paths_begin_and_end_with_a_slash() {
        let (most, long) = (format!("/{}/", "x".repeat(510)), format!("/{}/", "x".repeat(511)));
        for good in ["/", "/a/", "/a/b!~/", &most] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a", "a/", "/a b/", "/é/", "/a\u{7f}/", &long] {
            assert_eq!(check_path(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn tags_are_bounded_and_differ_in_more_than_case() {
        let of = |pairs: &[(&str, &str)]| check_tags(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        let (key, value) = ("k".repeat(128), "v".repeat(256));
        assert!(of(&[("Team", "größe 1"), ("a:b/c=d+e-f@g_h.i", "")]).is_ok());
        assert!(of(&[(&key, &value)]).is_ok());
        assert!(of(&[("team", "a"), ("Team", "b")]).unwrap_err().line().contains("twice"));
        assert!(of(&[("AWS:x", "")]).unwrap_err().line().contains("aws:"));
        for bad in [("", ""), ("a*", ""), ("a", "b\n"), (&format!("{key}k"), ""), ("a", &format!("{value}v"))] {
            assert!(of(&[bad]).is_err(), "{bad:?}");
        }
        let many: Tags = (0..51).map(|i| (format!("k{i}"), String::new())).collect();
        assert!(check_tags(&many).is_err());
    }

    /// Examples of the IAM User Guide, "Unique identifiers": AIDACKCEVSQ6C2EXAMPLE, AKIAIOSFODNN7EXAMPLE.
    #[test]
    fn ids_look_like_those_of_aws() {
        let (user, key) = (draw_id("AIDA", 17, &SystemRng), draw_id("AKIA", 16, &SystemRng));
        assert_eq!((user.len(), key.len()), ("AIDACKCEVSQ6C2EXAMPLE".len(), "AKIAIOSFODNN7EXAMPLE".len()));
        let is_digit = |c: char| c.is_ascii_uppercase() || ('2'..='7').contains(&c);
        assert!(user.starts_with("AIDA") && user.chars().all(is_digit), "{user}");
        assert_ne!(user, draw_id("AIDA", 17, &SystemRng));
    }

    #[test]
    fn principals_are_named_shortly_or_by_arn() {
        let of = |text: &str| PrincipalRef::parse(text, "111122223333");
        assert_eq!(of("user/alice").unwrap(), PrincipalRef::user("111122223333", "alice"));
        assert_eq!(of("role/r").unwrap(), PrincipalRef::role("111122223333", "r"));
        assert_eq!(of("root").unwrap(), PrincipalRef::root("111122223333"));
        assert_eq!(of("arn:aws:iam::444455556666:root").unwrap(), PrincipalRef::root("444455556666"));
        let deep = of("arn:aws:iam::444455556666:user/a/b/alice").unwrap();
        assert_eq!((deep.path.as_deref(), &*deep.name, &*deep.account), (Some("/a/b/"), "alice", "444455556666"));
        assert_eq!(of("arn:aws:iam::444455556666:role/r").unwrap().path.as_deref(), Some("/"));
        for bad in [
            "alice",
            "user/",
            "user/a/b",
            "user//a",
            "group/a",
            "",
            "root/",
            "arn:aws:sts::444455556666:assumed-role/r/s",
        ] {
            assert_eq!(of(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        for bad in
            ["arn:aws:iam::4444:user/a", "arn:aws:iam:us-east-1:444455556666:user/a", "arn:aws:iam::444455556666:user/"]
        {
            assert_eq!(of(bad).unwrap_err().why(), Some(Reason::InvalidArn), "{bad}");
        }
    }
}
