//! The catalog's expected contents according to the log, object by object; compared with the catalog at each start.
//!
//! An intent without outcome may have happened or not: a kill came between, or the disk was too full for the outcome.
//! Until that is known, both states are acceptable, for all of its objects together. It is decided by its outcome, else
//! by the next act on one of its objects (whose version tells what it found), else by the catalog.

use super::super::catalog::{Change, INSTALLATION, Stamp, is_audited};
use super::{Body, RecordKind};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Kind and id of an object.
type Name = (String, String);

/// The state of an object, according to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Absent,
    /// Present at this version. The hash is unknown if the object was there when the log was accepted.
    At(u64, Option<String>),
}

impl Standing {
    fn after(change: &Change) -> Self {
        change.hash.as_ref().map_or(Self::Absent, |hash| Self::At(change.version, Some(hash.clone())))
    }

    /// Returns what the act of this change found: a record begins at version 1, and each act increments it.
    fn before(change: &Change) -> Self {
        match change {
            Change { version: 1, hash: Some(_), .. } => Self::Absent,
            Change { version, .. } => Self::At(version.saturating_sub(1), None),
        }
    }

    /// Whether both have the same version, or are absent.
    const fn has_version_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (Self::At(a, _), Self::At(b, _)) => *a == *b,
            _ => false,
        }
    }

    fn fits(&self, stamp: Option<&Stamp>) -> bool {
        match (self, stamp) {
            // A damaged row is a problem of that object, not of the log.
            (_, Some(Stamp::Damaged)) | (Self::Absent, None) => true,
            (Self::At(version, hash), Some(Stamp::At(there, is))) => {
                version == there && hash.as_ref().is_none_or(|hash| hash == is)
            }
            _ => false,
        }
    }
}

/// An object: its settled state, and the state it has if the open intent happened.
#[derive(Debug)]
struct Object {
    settled: Standing,
    open: Option<(u64, Standing)>,
}

/// The catalog's expected contents.
#[derive(Debug, Default)]
pub(in super::super) struct Known {
    /// Missing objects are absent, or after an accept, unknown.
    objects: HashMap<Name, Object>,
    /// Intents that may or may not have happened.
    open: BTreeMap<u64, Vec<Change>>,
    /// Intents without outcome that later acts decided, and whether they happened.
    told: BTreeMap<u64, bool>,
    /// The catalog was accepted as found: objects that no later record names are not compared.
    accepted: bool,
}

/// The result of a comparison with the catalog.
pub(in super::super) struct Compared {
    /// What is wrong, if anything.
    pub(in super::super) trouble: Option<String>,
    /// Each intent without outcome, and whether it happened.
    pub(in super::super) ends: BTreeMap<u64, bool>,
}

fn name(change: &Change) -> Name {
    (change.kind.clone(), change.id.clone())
}

impl Known {
    /// Adds one record; records must be added in order.
    pub(in super::super) fn note(&mut self, sequence: u64, kind: RecordKind, body: Body) {
        match kind {
            RecordKind::Intent => self.intent(sequence, body.changes),
            RecordKind::Outcome => {
                if let Some(intent) = body.intent {
                    self.decide(intent, body.result == "ok");
                    self.told.remove(&intent);
                }
            }
            RecordKind::Accept => *self = Self { accepted: true, ..Self::default() },
            RecordKind::Genesis | RecordKind::Event => {}
        }
    }

    fn intent(&mut self, sequence: u64, mut changes: Vec<Change>) {
        changes.retain(|c| is_audited(&c.kind));
        let mut seen = HashSet::new();
        let first: Vec<&Change> = changes.iter().filter(|c| seen.insert(name(c))).collect();
        for change in &first {
            let found = Standing::before(change);
            if let Some(object) = self.objects.get(&name(change))
                && let Some((earlier, state)) = &object.open
                && !(state.has_version_of(&found) && object.settled.has_version_of(&found))
            {
                let (earlier, happened) = (*earlier, state.has_version_of(&found));
                self.decide(earlier, happened);
                self.told.insert(earlier, happened);
            }
        }
        // Where both states have that version, this object decides nothing.
        for change in first {
            if let Some(object) = self.objects.get_mut(&name(change))
                && let Some((_, state)) = object.open.take()
                && state != object.settled
            {
                object.settled = Standing::before(change);
            }
        }
        for change in &changes {
            let settled = if self.accepted { Standing::before(change) } else { Standing::Absent };
            let object = self.objects.entry(name(change)).or_insert(Object { settled, open: None });
            object.open = Some((sequence, Standing::after(change)));
        }
        self.open.insert(sequence, changes);
    }

    /// Settles the objects of an intent that happened or did not.
    fn decide(&mut self, sequence: u64, happened: bool) {
        for change in self.open.remove(&sequence).unwrap_or_default() {
            let Some(object) = self.objects.get_mut(&name(&change)) else { continue };
            if let Some((_, state)) = object.open.take_if(|(of, _)| *of == sequence)
                && happened
            {
                object.settled = state;
            }
            // After an accept, absent says more than unknown.
            if !self.accepted && object.open.is_none() && object.settled == Standing::Absent {
                self.objects.remove(&name(&change));
            }
        }
    }

    /// Compares the catalog's rows with the log.
    pub(in super::super) fn compare(&self, rows: &HashMap<Name, Stamp>) -> Compared {
        let mut ends = self.told.clone();
        let mut trouble = None;
        for (sequence, changes) in &self.open {
            let is_open =
                |n: &Name| self.objects.get(n).and_then(|o| o.open.as_ref()).is_some_and(|o| o.0 == *sequence);
            let names: HashSet<Name> = changes.iter().map(name).filter(is_open).collect();
            let mut objects = names.iter().filter_map(|n| Some((rows.get(n), self.objects.get(n)?)));
            let happened = objects.clone().all(|(row, o)| o.open.as_ref().is_some_and(|(_, state)| state.fits(row)));
            let not = objects.all(|(row, o)| o.settled.fits(row));
            if !happened && !not {
                trouble = trouble.or_else(|| names.iter().find_map(|n| self.half(n, rows.get(n))));
            }
            ends.insert(*sequence, happened && !names.is_empty());
        }
        let certain = || self.objects.iter().filter(|(_, o)| o.open.is_none());
        let trouble = trouble
            .or_else(|| {
                certain().find(|(n, o)| !o.settled.fits(rows.get(*n))).map(|(n, o)| differs(n, &o.settled, rows))
            })
            .or_else(|| rows.iter().find_map(|(n, row)| self.stray(n, row)));
        Compared { trouble, ends }
    }

    /// Returns what is wrong with an object of an intent that happened for only some of its objects.
    fn half(&self, name: &Name, row: Option<&Stamp>) -> Option<String> {
        let (_, state) = self.objects.get(name)?.open.as_ref()?;
        let rows = row.map(|r| (name.clone(), r.clone())).into_iter().collect();
        (!state.fits(row)).then(|| differs(name, state, &rows))
    }

    /// Returns what is wrong with a row that no record names.
    fn stray(&self, name: &Name, row: &Stamp) -> Option<String> {
        let Stamp::At(version, _) = row else { return None };
        let (kind, id) = name;
        let fixed = kind != INSTALLATION || *version == 1;
        if self.objects.contains_key(name) || (fixed && (self.accepted || !is_audited(kind))) {
            return None;
        }
        Some(format!(
            "the catalog has {kind} {id}, which the audit log does not mention: the log was cut, or the row restored"
        ))
    }
}

fn differs((kind, id): &Name, state: &Standing, rows: &HashMap<Name, Stamp>) -> String {
    let row = rows.get(&(kind.clone(), id.clone()));
    match (state, row) {
        (Standing::At(version, _), Some(Stamp::At(there, _))) if there > version => format!(
            "the catalog has version {there} of {kind} {id}, the audit log only version {version}: the log was cut"
        ),
        (Standing::At(version, _), _) => format!(
            "the audit log has version {version} of {kind} {id}, which the catalog lacks: the catalog was rolled back"
        ),
        (Standing::Absent, _) => {
            format!(
                "the audit log says that {kind} {id} was removed, but the catalog has it: the catalog was rolled back"
            )
        }
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
