//! The values of condition keys in a request.

use super::actions::uses_a_key;
use super::arn::{account_of, region_of};
use super::keys::Key;
use super::pattern::fold_case;
use super::question::{PrincipalFacts, PrincipalKind, Question, moment};
use super::words::{VOLUME_SERVICE, called_via, volume_service_in};
use crate::env::Timestamp;

/// The value of a condition key in a request.
pub(super) enum Found {
    Absent,
    /// One value; for the volume service, all of its names.
    One(Vec<String>),
    /// The values of several pairs or tags whose names differ only in case: which one is meant is ambiguous.
    Rivals(Vec<String>),
    /// Several, each with all of its names.
    Several(Vec<Vec<String>>),
}

impl Found {
    fn one(value: Option<impl Into<String>>) -> Self {
        value.map_or(Self::Absent, |v| Self::One(vec![v.into()]))
    }

    fn flag(value: bool) -> Self {
        Self::one(Some(value.to_string()))
    }

    fn named(values: Vec<String>) -> Self {
        match values.len() {
            0 => Self::Absent,
            1 => Self::One(values),
            _ => Self::Rivals(values),
        }
    }

    fn several(values: impl IntoIterator<Item = String>) -> Self {
        let values: Vec<Vec<String>> = values.into_iter().map(|v| vec![v]).collect();
        if values.is_empty() { Self::Absent } else { Self::Several(values) }
    }
}

/// Of names that are equal without their case, all values.
fn of_name<'a>(all: impl Iterator<Item = (&'a String, &'a String)>, name: &str) -> Found {
    Found::named(all.filter(|(k, _)| fold_case(k) == *name).map(|(_, v)| v.clone()).collect())
}

/// The value of a condition key in a request.
pub(super) fn values_of(key: &Key, q: &Question<'_>) -> Found {
    let (who, facts) = (q.principal, q.facts);
    match key {
        Key::ViaService => via(who, q, false),
        Key::CalledVia => via(who, q, true),
        Key::ViaAwsService => Found::flag(who.via_service.is_some()),
        Key::Account => Found::one(Some(&*who.account).filter(|a| !a.is_empty())),
        Key::PrincipalArn => Found::one(Some(who.principal_arn()).filter(|a| !a.is_empty())),
        Key::PrincipalType => Found::one(type_of(who)),
        Key::PrincipalIsAwsService => Found::flag(who.kind == PrincipalKind::Service),
        Key::PrincipalTag(name) => of_name(who.tags.iter(), name),
        Key::UserId => Found::one(who.user_id.as_deref()),
        Key::UserName => Found::one(who.user_name.as_deref().filter(|_| who.kind == PrincipalKind::User)),
        Key::TokenIssueTime => Found::one(who.session.map(|s| moment(s.issued))),
        Key::MultiFactorAuthPresent => Found::one(who.session.map(|s| s.mfa.is_some().to_string())),
        Key::MultiFactorAuthAge => Found::one(mfa_age(who, q.now)),
        Key::CurrentTime => Found::one(Some(moment(q.now))),
        Key::EpochTime => Found::one(Some((q.now.0 / 1000).to_string())),
        Key::Pair(name) => of_name(facts.pairs().iter().map(|(k, v)| (k, v)), name),
        Key::ContextKeys => Found::several(facts.pairs().iter().map(|(k, _)| k.clone())),
        Key::RequestTag(_) | Key::ResourceTag(_) => Found::named(facts.tags(key)),
        Key::Foreign(_) => Found::Absent,
        key if key.has_several() => Found::several(facts.get(key).iter().cloned()),
        key => match facts.get(key) {
            [] => implied(key, q),
            values => Found::One(values[..1].to_vec()),
        },
    }
}

/// What the resource says of a request, if the operation says nothing else.
fn implied(key: &Key, q: &Question<'_>) -> Found {
    let is_key = uses_a_key(q.action);
    match key {
        Key::ResourceAccount => Found::one(account_of(q.resource)),
        Key::RequestedRegion if is_key => Found::one(Some(region_of(q.resource)).filter(|r| !r.is_empty())),
        _ => Found::Absent,
    }
}

/// The service through which the principal asks; the volume service has several names.
fn via(who: &PrincipalFacts, q: &Question<'_>, as_principal: bool) -> Found {
    let Some(service) = &who.via_service else { return Found::Absent };
    let mut names = vec![service.clone()];
    if service == VOLUME_SERVICE {
        names = volume_service_in(region_of(q.resource)).into();
        if as_principal {
            names = called_via().into();
        }
    }
    if as_principal { Found::Several(vec![names]) } else { Found::One(names) }
}

const fn type_of(who: &PrincipalFacts) -> Option<&'static str> {
    match who.kind {
        PrincipalKind::Root => Some("Account"),
        PrincipalKind::User => Some("User"),
        PrincipalKind::Session => Some("AssumedRole"),
        PrincipalKind::Anonymous => Some("Anonymous"),
        PrincipalKind::Service => None,
    }
}

/// Seconds since the second factor.
fn mfa_age(who: &PrincipalFacts, now: Timestamp) -> Option<String> {
    let at = who.session?.mfa?;
    Some((now.0.saturating_sub(at.0) / 1000).max(0).to_string())
}
