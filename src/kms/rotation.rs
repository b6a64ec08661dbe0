//! Rotation: new backing keys for a key, on demand and by themselves. The old ones decrypt what they encrypted, for ever.
//!
//! A key rotates by itself when its date has passed by the wall clock *and* its period has passed on a clock that cannot be
//! set (`waiting`). One that is disabled or pending deletion then does not rotate, but does as soon as it is enabled.

use super::backing::BackingKeys;
use super::caller::{Authority, Caller};
use super::key::{KeyMetadata, KeyVersion, Keys};
use super::keystore::{
    BackingRecord, KeyManager, KeyRecord, KeyState, KeyStore, Origin, Rotation, RotationType, invalid_state,
};
use super::name::KeyRef;
use super::policy::{Facts, Key};
use super::scope::{KeyName, Scope};
use super::waiting::Deletions;
use crate::cipher::keys::KeySpec;
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Tx};
use std::ops::RangeInclusive;
use std::sync::Arc;

const DAY: i64 = 24 * 60 * 60 * 1000;
/// The days of a rotation period (KMS API Reference, EnableKeyRotation).
pub const PERIODS: RangeInclusive<u32> = 90..=2560;
/// The period of a key for which none is given, and of service-managed keys.
pub const YEARLY: u32 = 365;

/// The automatic rotation of a key (KMS API Reference, GetKeyRotationStatus).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationStatus {
    /// The key's metadata.
    pub key: KeyMetadata,
    /// Whether it rotates by itself.
    pub enabled: bool,
    /// Its period in days.
    pub period_days: Option<u32>,
    /// The date of the next rotation.
    pub next: Option<Timestamp>,
}

/// The rotation of keys, as callers see and change it.
pub struct Rotations {
    env: Env,
    scope: Arc<Scope>,
    store: Arc<KeyStore>,
    backing: Arc<BackingKeys>,
    keys: Arc<Keys>,
    waiting: Arc<Deletions>,
}

impl Rotations {
    /// That of these keys.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        store: Arc<KeyStore>,
        backing: Arc<BackingKeys>,
        keys: Arc<Keys>,
        waiting: Arc<Deletions>,
    ) -> Self {
        Self { env, scope, store, backing, keys, waiting }
    }

    /// Refuses a key whose rotation a verb cannot change.
    fn check(&self, key: &KeyRecord, verb: &str, by_itself: bool) -> Result<()> {
        let arn = self.scope.arn_of(&key.key());
        let unsupported = |why: &str| {
            let what = format!("{verb}: key {arn} {why}");
            Err(Error::new(Kind::Unsupported, what).hint("rotate it manually: create a key and update the alias"))
        };
        if key.spec != KeySpec::SymmetricDefault {
            return unsupported("is not a symmetric encryption key, and only those rotate");
        }
        if by_itself && key.origin == Origin::External {
            return unsupported("has imported key material, which does not rotate by itself");
        }
        self.keys.check_usable(key, verb)?;
        // Those of a multi-Region key rotate together, by what the primary key says.
        let region = &self.scope.place(key.place.as_ref()).region;
        match &key.primary {
            Some(primary) if primary != region => unsupported("is a replica, and rotates with its primary key"),
            _ => Ok(()),
        }
    }

    /// Lets a key rotate by itself, or changes its period. The period begins now.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a period outside of 90 to 2560 days; [`Kind::Unsupported`] for an asymmetric or HMAC key, imported
    /// material, and a replica; [`Kind::KeyUnavailable`] by the key's state.
    pub fn enable(&self, key: &KeyRef, period_days: Option<u32>, caller: &Caller) -> Result<()> {
        if let Some(days) = period_days.filter(|d| !PERIODS.contains(d)) {
            let (first, last) = (PERIODS.start(), PERIODS.end());
            let what = format!("EnableKeyRotation: the rotation period must be {first} to {last} days, not {days}");
            return Err(Error::new(Kind::Usage, what));
        }
        let now = self.env.now();
        let facts = Facts::new().number(Key::RotationPeriodInDays, period_days.unwrap_or(YEARLY).into());
        let act = Act::new("kms:EnableKeyRotation");
        let enabled = self.keys.change_if(key, act, &facts, caller, |key, verb, _| {
            self.check(key, verb, true)?;
            let period_days = period_days.or(key.rotation.as_ref().map(|r| r.period_days)).unwrap_or(YEARLY);
            let next = Timestamp(now.0.saturating_add(i64::from(period_days) * DAY));
            key.rotation = Some(Rotation { period_days, next });
            Ok(())
        });
        let enabled = enabled?;
        let counted = self.store.load(&enabled.key).and_then(|key| match &key.record.rotation {
            Some(rotation) => self.waiting.begin_rotation(&enabled.key, rotation.next),
            None => Ok(()),
        });
        if let Err(e) = counted {
            tracing::warn!("the rotation period of {} is not counted yet: {}", enabled.arn, e.line());
        }
        Ok(())
    }

    /// Ends the automatic rotation of a key.
    ///
    /// # Errors
    /// As [`Rotations::enable`].
    pub fn disable(&self, key: &KeyRef, caller: &Caller) -> Result<()> {
        let disabled = self.keys.change(key, Act::new("kms:DisableKeyRotation"), caller, |key, verb, _| {
            self.check(key, verb, true)?;
            key.rotation = None;
            Ok(())
        });
        disabled.map(drop)
    }

    /// Whether and when a key rotates. Not authorized here.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for an asymmetric or HMAC key; as [`Keys::describe`].
    pub fn status(&self, key: &KeyRef) -> Result<RotationStatus> {
        let mut record = self.store.find(key)?.record;
        if record.spec != KeySpec::SymmetricDefault {
            let arn = self.scope.arn_of(&record.key());
            let what = format!("GetKeyRotationStatus: key {arn} is not a symmetric encryption key");
            return Err(Error::new(Kind::Unsupported, what));
        }
        if let Some(primary) = self.primary_of(&record)? {
            record.rotation = primary.rotation;
        }
        let rotation = self.effective(&record).filter(|_| record.state != KeyState::PendingDeletion);
        Ok(RotationStatus {
            enabled: rotation.is_some(),
            period_days: rotation.as_ref().map(|r| r.period_days),
            next: rotation.map(|r| r.next),
            key: self.keys.metadata(&record)?,
        })
    }

    /// The automatic rotation of a key: a service-managed key rotates yearly, whatever one says.
    fn effective(&self, key: &KeyRecord) -> Option<Rotation> {
        let yearly = || {
            let last = key.backing.last().map_or(key.created, |b| b.created);
            Rotation { period_days: YEARLY, next: Timestamp(last.0.saturating_add(i64::from(YEARLY) * DAY)) }
        };
        match key.manager {
            KeyManager::Aws => Some(yearly()),
            KeyManager::Customer => key.rotation.clone(),
        }
    }

    /// The primary key of a replica.
    fn primary_of(&self, key: &KeyRecord) -> Result<Option<KeyRecord>> {
        let Some(primary) = &key.primary else { return Ok(None) };
        let is_primary = |k: &KeyRecord| self.scope.place(k.place.as_ref()).region == *primary;
        if is_primary(key) {
            return Ok(None);
        }
        Ok(self.store.keys_of(key.id)?.into_iter().map(|k| k.record).find(is_primary))
    }

    /// The versions of a key, oldest first. Not authorized here.
    ///
    /// # Errors
    /// As [`Rotations::status`].
    pub fn list(&self, key: &KeyRef) -> Result<Vec<KeyVersion>> {
        Ok(self.status(key)?.key.versions)
    }

    /// Gives a key a new backing key: imported material that waits for it, or a new one. There is no limit to how often.
    ///
    /// # Errors
    /// As [`Rotations::enable`]; [`Kind::InvalidState`] for imported material if no new one was imported.
    pub fn on_demand(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        let name = self.store.resolve(key)?;
        let made = self.keys.change_all(key, Act::new("kms:RotateKeyOnDemand"), caller, |key, verb| {
            self.check(key, verb, false)?;
            self.next_version(key, verb, RotationType::OnDemand)
        })?;
        made.into_iter().find(|k| k.key == name).ok_or_else(|| Error::new(Kind::NotFound, "the key is gone"))
    }

    /// Gives a key its next backing key. Returns what the other keys of a multi-Region key get, too.
    fn next_version(&self, key: &mut KeyRecord, verb: &str, by: RotationType) -> Result<Option<BackingRecord>> {
        let arn = self.scope.arn_of(&key.key());
        if key.origin == Origin::External {
            let Some(waiting) = key.backing.iter_mut().find(|b| b.pending) else {
                let hint = "import it with ImportKeyMaterial and ImportType NEW_KEY_MATERIAL";
                return Err(invalid_state(verb, &arn, "has no new key material that waits for a rotation", hint));
            };
            (waiting.pending, waiting.rotation) = (false, Some(by));
            waiting.created = self.env.now();
            return Ok(None);
        }
        let made = BackingRecord { rotation: Some(by), ..self.backing.create(key.id, key.spec)?.record };
        key.backing.push(made.clone());
        Ok(Some(made))
    }

    /// The keys whose period has passed.
    fn due(&self) -> Result<Vec<KeyName>> {
        let rotates = |k: &KeyRecord| self.effective(k).map(|r| (k.key(), r.next));
        let keys: Vec<_> = self.store.timed()?.iter().filter_map(|k| rotates(&k.record)).collect();
        self.waiting.count_rotations(&keys)
    }

    /// Rotates the keys whose date and period have passed. Called periodically by the service. Returns how many.
    ///
    /// # Errors
    /// What the catalog or the audit reports of the first key that did not rotate; the others do.
    pub fn rotate_due(&self) -> Result<usize> {
        let all: Vec<Result<bool>> = self.due()?.iter().map(|name| self.rotate(name)).collect();
        let rotated = all.iter().filter(|one| matches!(one, Ok(true))).count();
        if rotated > 0 {
            // Counts their next periods.
            self.due()?;
        }
        all.into_iter().find_map(Result::err).map_or(Ok(rotated), Err)
    }

    /// Rotates a key that is due, if it is enabled.
    fn rotate(&self, name: &KeyName) -> Result<bool> {
        if self.keys.state_of(&self.store.load(name)?.record) != KeyState::Enabled {
            return Ok(false);
        }
        let myself = Caller::service(self.scope.root_principal(), "coffer", "coffer itself");
        self.keys.change_all(&KeyRef::named(name), Act::new("kms:RotateKey"), &myself, |key, verb| {
            let made = self.next_version(key, verb, RotationType::Automatic)?;
            if let Some(rotation) = &mut key.rotation {
                let period = i64::from(rotation.period_days) * DAY;
                rotation.next = Timestamp(self.env.now().0.saturating_add(period));
            }
            Ok(made)
        })?;
        Ok(true)
    }
}

impl Keys {
    /// Changes a key, and gives what the change returns to the other Regions' keys of a multi-Region key: in one
    /// transaction.
    pub(super) fn change_all(
        &self,
        key: &KeyRef,
        act: Act,
        caller: &Caller,
        change: impl Fn(&mut KeyRecord, &str) -> Result<Option<BackingRecord>>,
    ) -> Result<Vec<KeyMetadata>> {
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let (name, asked) = (self.store.resolve(key)?, key.facts());
        let all = self.ledger.audited(caller, act.key(self.scope.arn_of(&name)), |tx: &mut Tx<'_>| {
            let mut key = self.store.load(&name)?;
            self.may_change(&key.record, &verb, &asked, caller)?;
            let new = change(&mut key.record, &verb)?;
            let mut all = vec![tx.update(&key.record, key.version)?.record];
            if let (Some(new), true) = (new, key.record.primary.is_some()) {
                let others = self.store.keys_of(name.id)?.into_iter().filter(|k| k.record.key() != name);
                for mut other in others {
                    other.record.backing.push(new.clone());
                    all.push(tx.update(&other.record, other.version)?.record);
                }
            }
            Ok(all)
        })?;
        all.iter().map(|k| self.metadata(k)).collect()
    }

    /// Whether a caller may do what a verb does to a key.
    pub(super) fn may_change(&self, key: &KeyRecord, verb: &str, facts: &Facts, caller: &Caller) -> Result<()> {
        if key.manager == KeyManager::Aws && caller.authority != Authority::Settled {
            let what = format!("{verb}: key {} is managed by the service", self.scope.arn_of(&key.key()));
            return Err(Error::new(Kind::AccessDenied, what).hint("create a key of your own with `coffer key create`"));
        }
        let context = crate::cipher::wrap::EncryptionContext::new();
        let wanted = super::caller::Wanted { action: verb, context: &context, grant: None, facts: Some(facts) };
        self.authorizer.authorize(key, wanted, caller).map(drop)
    }
}
