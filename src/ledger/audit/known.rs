//! The catalog's expected contents according to the log, object by object; compared with the catalog at each start.
//!
//! An intent without outcome may have happened or not: a kill came between, or the disk was too full for the outcome.
//! Until that is known, both states are acceptable, for all of its objects together. It is decided by its outcome, else
//! by the next act on one of its objects (whose version tells what it found), else by the catalog.

use super::super::catalog::{Change, INSTALLATION, Stamp, is_audited};
use super::checkpoint::{Checkpoint, Open};
use super::digest::Digest;
use super::record::{Body, RecordKind};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Kind and id of an object.
pub(crate) type Name = (String, String);

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
            Change { version, was, .. } => Self::At(version.saturating_sub(1), was.clone()),
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

    /// Adds it to a digest; `None` if its hash is unknown.
    fn added_to(&self, mut digest: Digest, (kind, id): &Name) -> Option<Digest> {
        if let Self::At(version, hash) = self {
            digest.add(kind, id, *version, hash.as_ref()?);
        }
        Some(digest)
    }

    /// The same, removing it.
    fn taken_from(&self, mut digest: Digest, (kind, id): &Name) -> Option<Digest> {
        if let Self::At(version, hash) = self {
            digest.remove(kind, id, *version, hash.as_ref()?);
        }
        Some(digest)
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
#[derive(Debug)]
pub(crate) struct Known {
    /// Missing objects are absent, or after an accept, unknown.
    objects: HashMap<Name, Object>,
    /// Intents that may or may not have happened.
    open: BTreeMap<u64, Vec<Change>>,
    /// Intents without outcome that later acts decided, and whether they happened.
    told: BTreeMap<u64, bool>,
    /// The catalog was accepted as found: objects that no later record names are not compared.
    accepted: bool,
    /// It began at a checkpoint: of objects that no later record names, only `rest` is known.
    partial: bool,
    /// Digest of the objects that no record named since; unknown after an accept, and with logs from before there were
    /// checkpoints.
    rest: Option<Digest>,
}

impl Default for Known {
    /// Before the first record.
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            open: BTreeMap::new(),
            told: BTreeMap::new(),
            accepted: false,
            partial: false,
            rest: Some(Digest::default()),
        }
    }
}

/// The result of a comparison with the catalog.
pub(crate) struct Compared {
    /// What is wrong, if anything.
    pub(crate) trouble: Option<String>,
    /// Each intent without outcome, and whether it happened.
    pub(crate) ends: BTreeMap<u64, bool>,
}

fn name(change: &Change) -> Name {
    (change.kind.clone(), change.id.clone())
}

impl Known {
    /// Adds one record; records must be added in order.
    pub(crate) fn note(&mut self, sequence: u64, kind: RecordKind, body: Body) {
        match kind {
            RecordKind::Intent => self.intent(sequence, body.changes),
            RecordKind::Outcome => {
                if let Some(intent) = body.intent {
                    self.decide(intent, body.result == "ok");
                    self.told.remove(&intent);
                }
            }
            RecordKind::Accept => *self = Self { accepted: true, rest: None, ..Self::default() },
            RecordKind::Genesis | RecordKind::Event | RecordKind::Checkpoint => {}
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
            if !self.objects.contains_key(&name(change)) {
                let settled = if self.accepted || self.partial { Standing::before(change) } else { Standing::Absent };
                self.rest = self.rest.take().and_then(|rest| settled.taken_from(rest, &name(change)));
                self.objects.insert(name(change), Object { settled, open: None });
            }
            let Some(object) = self.objects.get_mut(&name(change)) else { continue };
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
            if !self.accepted && !self.partial && object.open.is_none() && object.settled == Standing::Absent {
                self.objects.remove(&name(&change));
            }
        }
    }

    /// Begins at a checkpoint.
    pub(super) fn from_checkpoint(checkpoint: &Checkpoint) -> Self {
        let mut known = Self { partial: true, rest: Some(checkpoint.objects.clone()), ..Self::default() };
        for Open { sequence, changes } in &checkpoint.open {
            known.intent(*sequence, changes.clone());
        }
        known.told.clone_from(&checkpoint.told);
        known
    }

    /// Returns the digest of all objects, of an open intent's as they were before it; `None` if a hash is unknown.
    fn total(&self) -> Option<Digest> {
        self.objects.iter().try_fold(self.rest.clone()?, |digest, (name, object)| object.settled.added_to(digest, name))
    }

    /// Returns the checkpoint of the records so far, without its MAC; `None` if the state of an object is unknown.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        let filled = |change: &Change| {
            let mut change = change.clone();
            if let Some(Object { settled: Standing::At(version, hash), .. }) = self.objects.get(&name(&change))
                && change.was.is_none()
                && version + 1 == change.version
            {
                change.was.clone_from(hash);
            }
            change
        };
        let open = |(sequence, changes): (&u64, &Vec<Change>)| Open {
            sequence: *sequence,
            changes: changes.iter().map(filled).collect(),
        };
        let open = self.open.iter().map(open).collect();
        Some(Checkpoint { objects: self.total()?, open, told: self.told.clone(), mac: String::new() })
    }

    /// Goes past a checkpoint, which must say what the records before it add up to.
    pub(super) fn pass(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        match self.total() {
            Some(total) if total != checkpoint.objects => {
                return Err("the checkpoint does not agree with the records before it".into());
            }
            Some(_) => {}
            None => {
                let begin = Some(checkpoint.objects.clone());
                self.rest = self.objects.iter().fold(begin, |d, (name, o)| o.settled.taken_from(d?, name));
            }
        }
        let numbers = checkpoint.open.iter().map(|o| o.sequence);
        if !numbers.eq(self.open.keys().copied()) {
            return Err("the checkpoint does not agree with the records before it on what is unfinished".into());
        }
        Ok(())
    }

    /// Takes what is still unknown from the catalog, which was compared with it.
    pub(crate) fn adopt(&mut self, rows: &HashMap<Name, Stamp>) {
        for (name, object) in &mut self.objects {
            if let (Standing::At(version, hash @ None), Some(Stamp::At(there, is))) =
                (&mut object.settled, rows.get(name))
                && version == there
            {
                *hash = Some(is.clone());
            }
        }
        if self.rest.is_none() {
            self.rest = Some(self.digest_of_rest(rows).0);
        }
    }

    /// Returns the digest of the rows that no record named, and how many of those are damaged.
    fn digest_of_rest(&self, rows: &HashMap<Name, Stamp>) -> (Digest, usize) {
        let (mut digest, mut damaged) = (Digest::default(), 0);
        for (name, row) in rows.iter().filter(|(n, _)| is_audited(&n.0) && !self.objects.contains_key(*n)) {
            match row {
                Stamp::At(version, hash) => digest.add(&name.0, &name.1, *version, hash),
                Stamp::Damaged => damaged += 1,
            }
        }
        (digest, damaged)
    }

    /// Compares the rows that no record named with the checkpoint that it began at. The error says that it cannot.
    pub(crate) fn compare_rest(&self, rows: &HashMap<Name, Stamp>) -> Result<Option<String>, String> {
        let Some(rest) = self.rest.as_ref().filter(|_| self.partial) else { return Ok(None) };
        let (digest, damaged) = self.digest_of_rest(rows);
        if digest == *rest {
            return Ok(None);
        }
        if damaged > 0 {
            let what =
                "objects that have not changed since the audit log's oldest checkpoint cannot be compared with it";
            return Err(format!("{what}: {damaged} records of the catalog are damaged"));
        }
        let what = "the catalog's objects that have not changed since are not those of the audit log's checkpoint";
        Ok(Some(format!("{what}: a row was rolled back, removed or added")))
    }

    /// Returns the objects as `(kind, id, version, hash)`; `None` unless all are known.
    pub(super) fn objects(&self) -> Option<Vec<(&str, &str, u64, &str)>> {
        if self.partial || self.rest.as_ref().is_none_or(|rest| *rest != Digest::default()) {
            return None;
        }
        let mut found = Vec::new();
        for ((kind, id), object) in &self.objects {
            if let Standing::At(version, hash) = &object.settled {
                found.push((kind.as_str(), id.as_str(), *version, hash.as_deref()?));
            }
        }
        found.sort_unstable();
        Some(found)
    }

    /// Takes the objects of the checkpoint that it began at. Does nothing if they are not those.
    pub(super) fn complete(&mut self, objects: Vec<(String, String, u64, String)>) {
        let Some(mut rest) = self.rest.clone() else { return };
        let unnamed: Vec<_> = objects
            .into_iter()
            .filter(|(kind, id, ..)| !self.objects.contains_key(&(kind.clone(), id.clone())))
            .collect();
        unnamed.iter().for_each(|(kind, id, version, hash)| rest.remove(kind, id, *version, hash));
        if rest != Digest::default() {
            return;
        }
        let settled =
            |(kind, id, version, hash)| ((kind, id), Object { settled: Standing::At(version, Some(hash)), open: None });
        self.objects.extend(unnamed.into_iter().map(settled));
        (self.rest, self.partial) = (Some(rest), false);
    }

    /// Forgets it, as an accept does.
    #[cfg(test)]
    pub(super) fn forget_rest(&mut self) {
        self.rest = None;
    }

    /// Whether of some objects only a digest is known.
    pub(crate) const fn is_partial(&self) -> bool {
        self.partial
    }

    /// Kind and id of each object that is known.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.objects.keys()
    }

    /// The oldest intent without outcome.
    pub(crate) fn oldest_open(&self) -> Option<u64> {
        self.open.keys().chain(self.told.keys()).min().copied()
    }

    /// Compares the catalog's rows with the log.
    pub(crate) fn compare(&self, rows: &HashMap<Name, Stamp>) -> Compared {
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
        if self.objects.contains_key(name) || (fixed && (self.accepted || self.partial || !is_audited(kind))) {
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
