use super::*;

const KINDS: [&str; 2] = ["volume", "kms-key"];

/// A catalog and the log of its changes, by the rules of an audited transaction.
#[derive(Default)]
struct Model {
    rows: HashMap<Name, Stamp>,
    log: Vec<(u64, RecordKind, Body)>,
    /// The rows before the last act.
    before: HashMap<Name, Stamp>,
    /// Names that an act ever touched, with their final past states.
    past: HashMap<Name, Vec<Option<Stamp>>>,
    /// Acts may remove an object and create it again at once: if the outcome is lost, one version then has two hashes.
    remakes: bool,
}

/// The ending of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Committed { outcome: bool },
    Failed { outcome: bool },
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn stamp(row: &Option<Stamp>) -> Option<(u64, String)> {
    match row {
        Some(Stamp::At(version, hash)) => Some((*version, hash.clone())),
        _ => None,
    }
}

impl Model {
    fn record(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Body)) -> u64 {
        let mut body = Body::at(crate::env::Timestamp(1), "test:Act");
        fill(&mut body);
        let sequence = self.log.len() as u64;
        self.log.push((sequence, kind, body));
        sequence
    }

    /// Does an act on one to three objects: inserts absent ones, updates or removes present ones.
    fn act(&mut self, draw: &mut Draw, end: End) {
        let mut after = self.rows.clone();
        let mut changes = Vec::new();
        for _ in 0..=draw.below(3) {
            let name: Name = (KINDS[draw.below(2) as usize].into(), format!("o{}", draw.below(3)));
            if !self.remakes && changes.iter().any(|c: &Change| c.hash.is_none() && super::name(c) == name) {
                continue;
            }
            let (kind, id) = name.clone();
            let hash = format!("h{}", draw.below(1 << 40));
            let change = match stamp(&after.get(&name).cloned()) {
                None => Change { kind, id, version: 1, hash: Some(hash), was: None },
                Some((version, _)) if draw.below(3) == 0 => {
                    Change { kind, id, version: version + 1, hash: None, was: None }
                }
                Some((version, _)) => Change { kind, id, version: version + 1, hash: Some(hash), was: None },
            };
            match &change.hash {
                Some(hash) => drop(after.insert(name, Stamp::At(change.version, hash.clone()))),
                None => drop(after.remove(&name)),
            }
            changes.push(change);
        }
        self.before = self.rows.clone();
        let touched: HashSet<Name> = changes.iter().map(name).collect();
        let intent = self.record(RecordKind::Intent, |b| b.changes = changes);
        let (committed, outcome) = match end {
            End::Committed { outcome } => (true, outcome),
            End::Failed { outcome } => (false, outcome),
        };
        if committed {
            for name in touched {
                let old = self.rows.get(&name).cloned();
                self.past.entry(name).or_default().push(old);
            }
            self.rows = after;
        }
        if outcome {
            self.record(RecordKind::Outcome, |b| {
                b.intent = Some(intent);
                b.result = if committed { "ok" } else { "failed" }.into();
            });
        }
    }

    fn known(&self) -> Known {
        let mut known = Known::default();
        self.log.iter().cloned().for_each(|(sequence, kind, body)| known.note(sequence, kind, body));
        known
    }

    /// Does what the next start does: compares, and closes the open intents if there is space.
    fn restart(&mut self, writable: bool) {
        let compared = self.known().compare(&self.rows);
        assert_eq!(compared.trouble, None);
        for (intent, happened) in compared.ends.into_iter().filter(|_| writable) {
            self.record(RecordKind::Outcome, |b| {
                b.intent = Some(intent);
                b.result = if happened { "ok" } else { "interrupted" }.into();
            });
        }
    }
}

/// The seeds are fixed: each run tries the same sequences.
fn sequences(remakes: bool, mut each: impl FnMut(&mut Model, &mut Draw)) {
    for seed in 1..=120u64 {
        let (mut model, mut draw) =
            (Model { remakes, ..Model::default() }, Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        for _ in 0..40 {
            let outcome = draw.below(3) > 0;
            let end = if draw.below(3) > 0 { End::Committed { outcome } } else { End::Failed { outcome } };
            model.act(&mut draw, end);
            if draw.below(6) == 0 {
                let writable = draw.below(2) == 0;
                model.restart(writable);
            }
        }
        each(&mut model, &mut draw);
    }
}

#[test]
fn acts_whose_outcomes_are_lost_and_kills_at_any_step_are_never_trouble() {
    let mut open = 0;
    sequences(true, |model, _| {
        let compared = model.known().compare(&model.rows);
        assert_eq!(compared.trouble, None);
        open += compared.ends.len();
    });
    assert!(open > 100, "{open}: too few open intents to say anything");
}

#[test]
fn what_an_open_intent_did_is_told_as_it_was() {
    sequences(true, |model, draw| {
        model.restart(true);
        let committed = draw.below(2) == 0;
        let end = if committed { End::Committed { outcome: false } } else { End::Failed { outcome: false } };
        model.act(draw, end);
        let ends = model.known().compare(&model.rows).ends;
        // An act that leaves its objects unchanged may count as happened or not.
        assert_eq!(ends.len(), 1);
        let changes = &model.log.last().unwrap().2.changes;
        let kept = |n: &Name| changes.iter().filter(|c| name(c) == *n).count() > 1;
        if !changes.iter().any(|c| kept(&name(c))) {
            assert_eq!(ends.into_values().next(), Some(committed));
        }
    });
}

#[test]
fn a_row_put_back_removed_or_added_is_always_trouble() {
    let mut tried = 0;
    sequences(false, |model, draw| {
        model.restart(true);
        let known = model.known();
        for (name, states) in &model.past {
            let now = model.rows.get(name).cloned();
            let old = states[draw.below(states.len() as u64) as usize].clone();
            for put in [old, None, Some(Stamp::At(1, "of elsewhere".into())), Some(Stamp::At(900, "h".into()))] {
                if put == now {
                    continue;
                }
                let mut rows = model.rows.clone();
                match put.clone() {
                    Some(row) => drop(rows.insert(name.clone(), row)),
                    None => drop(rows.remove(name)),
                }
                let trouble = known.compare(&rows).trouble;
                assert!(trouble.as_ref().is_some_and(|t| t.contains(&name.1)), "{put:?} for {now:?}: {trouble:?}");
                tried += 1;
            }
        }
        let mut rows = model.rows.clone();
        rows.insert(("volume".into(), "never".into()), Stamp::At(1, "h".into()));
        assert!(known.compare(&rows).trouble.unwrap().contains("never"));
    });
    assert!(tried > 1000, "{tried}");
}

#[test]
fn a_log_and_a_head_cut_together_are_trouble() {
    let mut tried = 0;
    sequences(true, |model, _| {
        model.restart(true);
        let last = model.log.iter().rposition(|(_, kind, _)| *kind == RecordKind::Intent).unwrap();
        let committed = model.log[last + 1..].iter().any(|(_, _, b)| b.intent == Some(last as u64) && b.result == "ok");
        assert_eq!(model.known().compare(&model.rows).trouble, None);
        model.log.truncate(last);
        if committed && model.rows != model.before {
            let trouble = model.known().compare(&model.rows).trouble;
            let names: HashSet<Name> = model.rows.keys().cloned().collect();
            assert!(trouble.is_some(), "{names:?}");
            tried += 1;
        }
    });
    assert!(tried > 30, "{tried}");
}

#[test]
fn what_an_intent_did_to_one_object_it_did_to_the_other() {
    let mut model = Model::default();
    let put = |id: &str, version, hash: &str| Change {
        kind: "volume".into(),
        id: id.into(),
        version,
        hash: Some(hash.into()),
        was: None,
    };
    model.record(RecordKind::Intent, |b| b.changes = vec![put("a", 1, "x"), put("b", 1, "y")]);
    let row = |id: &str, hash: &str| (("volume".to_owned(), id.to_owned()), Stamp::At(1, hash.into()));
    let rows = |list: Vec<(Name, Stamp)>| list.into_iter().collect::<HashMap<_, _>>();
    let known = model.known();
    assert_eq!(known.compare(&rows(vec![])).trouble, None);
    assert_eq!(known.compare(&rows(vec![row("a", "x"), row("b", "y")])).trouble, None);
    assert!(known.compare(&rows(vec![row("a", "x")])).trouble.unwrap().contains("volume b"));
    // A later act on a decides for b too.
    model.record(RecordKind::Intent, |b| b.changes = vec![put("a", 2, "z")]);
    assert!(model.known().compare(&rows(vec![row("a", "x")])).trouble.unwrap().contains("volume b"));
}

#[test]
fn after_an_accept_only_what_later_records_name_is_compared() {
    let mut model = Model::default();
    let change = |version, hash: Option<&str>| Change {
        kind: "volume".into(),
        id: "a".into(),
        version,
        hash: hash.map(Into::into),
        was: None,
    };
    model.record(RecordKind::Accept, |_| {});
    let at = |version, hash: &str| {
        HashMap::from([(("volume".to_owned(), "a".to_owned()), Stamp::At(version, hash.to_owned()))])
    };
    assert_eq!(model.known().compare(&at(5, "found")).trouble, None);
    let intent = model.record(RecordKind::Intent, |b| b.changes = vec![change(6, Some("h"))]);
    assert_eq!(model.known().compare(&at(5, "found")).trouble, None);
    assert_eq!(model.known().compare(&at(6, "h")).trouble, None);
    assert!(model.known().compare(&at(4, "older")).trouble.is_some());
    model.record(RecordKind::Outcome, |b| (b.intent, b.result) = (Some(intent), "ok".into()));
    assert!(model.known().compare(&at(5, "found")).trouble.is_some());
    model.record(RecordKind::Intent, |b| b.changes = vec![change(7, None)]);
    assert_eq!(model.known().compare(&HashMap::new()).trouble, None);
    let mut installation = HashMap::from([(("installation".to_owned(), "i".to_owned()), Stamp::At(1, "h".to_owned()))]);
    installation.extend(at(6, "h"));
    assert_eq!(model.known().compare(&installation).trouble, None);
    installation.insert(("installation".to_owned(), "i".to_owned()), Stamp::At(2, "h".to_owned()));
    assert!(model.known().compare(&installation).trouble.is_some());
}
