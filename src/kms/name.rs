//! How KMS keys are named: key id, key ARN, alias name, alias ARN (KMS Developer Guide, "Key identifiers").

use super::policy::{Facts, Key};
use super::scope::{KeyName, Place};
use crate::cipher::wrap::KeyId;
use crate::error::{Error, Kind, Reason, Result};
use crate::iam::is_account;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The prefix of every alias.
pub const ALIAS_PREFIX: &str = "alias/";
/// The prefix of aliases of service-managed keys; callers cannot create or change those.
pub const RESERVED_PREFIX: &str = "alias/aws/";
/// The alias of the service-managed key that volumes use if no key is given.
pub const EBS_ALIAS: &str = "alias/aws/ebs";

/// Checks an alias: `alias/` and 1 to 250 of `A-Z a-z 0-9 / _ -` (KMS API Reference, CreateAlias).
///
/// # Errors
/// [`Kind::Usage`] (InvalidAliasNameException) naming the violated rule.
pub fn check_alias(name: &str) -> Result<()> {
    let rest = name.strip_prefix(ALIAS_PREFIX).unwrap_or_default();
    let rule = if !name.starts_with(ALIAS_PREFIX) {
        "must start with alias/"
    } else if rest.is_empty() || name.len() > 256 {
        "must have 1 to 250 characters after alias/"
    } else if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-".contains(&b)) {
        "may contain only A-Z a-z 0-9 / _ -"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Usage, format!("alias {name:?} {rule}")).reason(Reason::InvalidAliasName))
}

/// Whether a text has the form of a Region's name.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(good)
}

/// Refuses the names of service-managed keys.
pub(super) fn check_not_reserved(name: &str) -> Result<()> {
    if name.starts_with(RESERVED_PREFIX) {
        let what = format!("alias {name:?}: names under {RESERVED_PREFIX} are reserved for service-managed keys");
        return Err(Error::new(Kind::Usage, what).reason(Reason::ReservedAlias));
    }
    Ok(())
}

/// The target of a [`KeyRef`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Id(KeyId),
    Alias(String),
}

/// A reference to a KMS key by a caller. Without a place it is a key of the installation's own account and Region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyRef {
    pub(super) target: Target,
    /// Region and account of an ARN, or of the caller ([`KeyRef::at`]).
    pub(super) place: Option<Place>,
    /// The key that its alias refers to, if there is one, once that was looked up: later, the alias may refer to another.
    pub(super) pinned: Option<Option<KeyId>>,
}

impl KeyRef {
    /// The key of that id.
    #[must_use]
    pub const fn id(id: KeyId) -> Self {
        Self { target: Target::Id(id), place: None, pinned: None }
    }

    /// The key of that name.
    #[must_use]
    pub fn named(name: &KeyName) -> Self {
        Self { target: Target::Id(name.id), place: name.place.clone(), pinned: None }
    }

    /// The same, of this account and Region unless it is an ARN.
    #[must_use]
    pub fn at(self, place: &Place) -> Self {
        Self { place: Some(self.place.unwrap_or_else(|| place.clone())), ..self }
    }

    /// What policies can test of how a request names its key.
    #[must_use]
    pub(super) fn facts(&self) -> Facts {
        match &self.target {
            Target::Alias(name) => Facts::new().text(Key::RequestAlias, name.clone()),
            Target::Id(_) => Facts::new(),
        }
    }

    /// Whether it names an alias.
    #[must_use]
    pub const fn is_alias(&self) -> bool {
        matches!(self.target, Target::Alias(_))
    }

    /// The Region that an ARN names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.place.as_ref().map(|p| p.region.as_str())
    }

    /// The account that an ARN names.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.place.as_ref().map(|p| p.account.as_str())
    }

    /// The service-managed key of volumes, `alias/aws/ebs`.
    #[must_use]
    pub fn ebs_default() -> Self {
        Self { target: Target::Alias(EBS_ALIAS.into()), place: None, pinned: None }
    }
}

impl From<KeyId> for KeyRef {
    fn from(id: KeyId) -> Self {
        Self::id(id)
    }
}

impl FromStr for KeyRef {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if s.starts_with(ALIAS_PREFIX) {
            check_alias(s)?;
            return Ok(Self { target: Target::Alias(s.into()), place: None, pinned: None });
        }
        if !s.starts_with("arn:") {
            return Ok(Self::id(s.parse().map_err(|e: Error| {
                Error::new(Kind::Usage, format!("{s:?} is not a key id, ARN or alias"))
                    .because(e)
                    .hint("use a key id, a key ARN, an alias (alias/NAME) or an alias ARN")
            })?));
        }
        let bad = || {
            Error::new(Kind::Usage, format!("{s:?} is not the ARN of a key or an alias"))
                .reason(Reason::InvalidArn)
                .hint("use arn:aws:kms:REGION:ACCOUNT:key/ID or arn:aws:kms:REGION:ACCOUNT:alias/NAME")
        };
        let fields: Vec<&str> = s.splitn(6, ':').collect();
        let ["arn", "aws", "kms", region, account, resource] = fields[..] else { return Err(bad()) };
        // Ids of rows are made of these.
        if !is_region(region) || !is_account(account) {
            return Err(bad());
        }
        let target = match resource.strip_prefix("key/") {
            Some(id) => Target::Id(id.parse().map_err(|_| bad())?),
            None => {
                check_alias(resource).map_err(|_| bad())?;
                Target::Alias(resource.into())
            }
        };
        Ok(Self { target, place: Some(Place { region: region.into(), account: account.into() }), pinned: None })
    }
}

impl TryFrom<String> for KeyRef {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<KeyRef> for String {
    fn from(key: KeyRef) -> Self {
        key.to_string()
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { region, account }) = &self.place {
            write!(f, "arn:aws:kms:{region}:{account}:")?;
        }
        match (&self.target, &self.place) {
            (Target::Id(id), Some(_)) => write!(f, "key/{id}"),
            (Target::Id(id), None) => id.fmt(f),
            (Target::Alias(name), _) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_in_four_ways_and_show_as_they_were_named() {
        let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
        for good in [
            id.to_owned(),
            format!("arn:aws:kms:us-east-1:111122223333:key/{id}"),
            "alias/web/db_1-x".into(),
            "arn:aws:kms:us-east-1:111122223333:alias/web".into(),
            EBS_ALIAS.into(),
        ] {
            assert_eq!(good.parse::<KeyRef>().unwrap().to_string(), good);
        }
        for (bad, code) in [
            ("web", "ValidationException"),
            ("", "ValidationException"),
            ("alias/", "InvalidAliasNameException"),
            ("alias/a b", "InvalidAliasNameException"),
            ("arn:aws:kms:us-east-1:111122223333:web", "InvalidArnException"),
            ("arn:aws:s3:::bucket", "InvalidArnException"),
            ("arn:", "InvalidArnException"),
        ] {
            let err = bad.parse::<KeyRef>().unwrap_err();
            assert_eq!((err.kind(), err.aws()), (Kind::Usage, code), "{bad}");
        }
        assert!(check_alias(&format!("alias/{}", "x".repeat(250))).is_ok());
        assert!(check_alias(&format!("alias/{}", "x".repeat(251))).is_err());
    }
}
