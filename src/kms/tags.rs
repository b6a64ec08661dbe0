//! The tags of keys (KMS Developer Guide, "Tags in AWS KMS").

use super::caller::Caller;
use super::key::{Keys, Tags};
use super::keystore::KeyStore;
use super::name::KeyRef;
use super::policy::{Facts, Key};
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::Act;
use std::sync::Arc;

/// The most tags of a key.
pub const MAX_TAGS: usize = 50;
/// The longest name and the longest value of a tag, characters.
const LONGEST: (usize, usize) = (128, 256);

fn bad(why: String) -> Error {
    Error::new(Kind::Usage, why).reason(Reason::Tag)
}

/// Checks the tags of a key, or of something else with tags by AWS's rules (KMS API Reference, Tag; EC2 User Guide, "Tag
/// restrictions"). `of` names it, as `a key`.
///
/// # Errors
/// [`Kind::Usage`] (TagException) for a name of no or too many characters, one under `aws:`, a character that tags do not
/// have; LimitExceededException for more than 50 tags.
pub fn check(of: &str, tags: &Tags) -> Result<()> {
    let good = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
    for (name, value) in tags {
        if name.is_empty() || name.chars().count() > LONGEST.0 || value.chars().count() > LONGEST.1 {
            return Err(bad(format!("tag {name:?}: a name has 1 to 128 characters, and a value at most 256")));
        }
        if name.to_lowercase().starts_with("aws:") {
            return Err(bad(format!("tag {name:?}: names under aws: are reserved")));
        }
        if !name.chars().chain(value.chars()).all(good) {
            return Err(bad(format!("tag {name:?}: only letters, digits, spaces and _ . : / = + - @ are allowed")));
        }
    }
    match tags.len() > MAX_TAGS {
        true => Err(bad(format!("{of} has at most {MAX_TAGS} tags, not {}", tags.len())).reason(Reason::LimitExceeded)),
        false => Ok(()),
    }
}

/// The tags of keys, as callers see and change them.
pub struct KeyTags {
    store: Arc<KeyStore>,
    keys: Arc<Keys>,
}

impl KeyTags {
    /// Those of these keys.
    pub(super) const fn new(store: Arc<KeyStore>, keys: Arc<Keys>) -> Self {
        Self { store, keys }
    }

    /// Adds tags to a key, and replaces the values of those that it has.
    ///
    /// # Errors
    /// [`Kind::Usage`] (TagException, LimitExceededException); [`Kind::InvalidState`] while the key is pending deletion; as
    /// for any verb on the key.
    pub fn tag(&self, key: &KeyRef, tags: &Tags, caller: &Caller) -> Result<()> {
        check("a key", tags)?;
        let act = Act::new("kms:TagResource").detail("tags", tags.keys().cloned().collect::<Vec<_>>().join(" "));
        let facts = Facts::new().request_tags(tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let tagged = self.keys.change_if(key, act, &facts, caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            let mut all = key.tags.clone();
            all.extend(tags.clone());
            check("a key", &all)?;
            key.tags = all;
            Ok(())
        });
        tagged.map(drop)
    }

    /// Removes tags from a key; those that it does not have are not an error.
    ///
    /// # Errors
    /// As [`KeyTags::tag`].
    pub fn untag(&self, key: &KeyRef, names: &[String], caller: &Caller) -> Result<()> {
        let act = Act::new("kms:UntagResource").detail("tags", names.join(" "));
        let facts = Facts::new().texts(Key::TagKeys, names.iter().cloned());
        let untagged = self.keys.change_if(key, act, &facts, caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            key.tags.retain(|name, _| !names.contains(name));
            Ok(())
        });
        untagged.map(drop)
    }

    /// The tags of a key, in the order of their names. Not authorized here.
    ///
    /// # Errors
    /// As [`Keys::describe`].
    pub fn of(&self, key: &KeyRef) -> Result<Tags> {
        Ok(self.store.find(key)?.record.tags)
    }
}
