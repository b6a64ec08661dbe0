use super::super::checkpoint::CheckpointKey;
use super::super::log::{Entry, Log};
use super::super::record::{Body, Identity};
use super::*;
use crate::ledger::RequestInfo;
use crate::secret::Secret;

const DAY: i64 = CLOCK_STEP;

/// A log in segments of a few records: acts `0` to `n - 1`, one a day, each an intent and, some records later, its
/// outcome; and an event after each.
fn filled(n: u64) -> (tempfile::TempDir, PathBuf, u64) {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("audit");
    let key = CheckpointKey::of(&Secret::build(|b| b.fill(5)));
    let mut log = Log::create(&dir, key, Body::at(Timestamp(0), "test:Init")).unwrap();
    log.set_segment(1500);
    for at in 0..n {
        let mut intent = Body::at(Timestamp(at as i64 * DAY), "kms:DisableKey");
        intent.key = Some(format!("arn:aws:kms:eu-west-1:111122223333:key/{at}"));
        intent.detail.insert("n".into(), at.to_string());
        intent.caller = Some(Identity {
            principal: format!("arn:aws:iam::111122223333:user/u{}", at % 2),
            via_service: None,
            client: "test".into(),
            request: Some(Box::new(RequestInfo {
                access_key: format!("AKIA{}", at % 3),
                read_only: at % 5 == 0,
                ..RequestInfo::default()
            })),
        });
        let caller = intent.caller.clone();
        let intent = log.append(&[&Entry::new(RecordKind::Intent, intent).unwrap()]).unwrap();
        let mut event = Body::at(Timestamp(at as i64 * DAY), "kms:Decrypt");
        (event.caller, event.result) = (caller, "ok".into());
        log.append(&[&Entry::new(RecordKind::Event, event).unwrap()]).unwrap();
        let mut outcome = Body::at(Timestamp(at as i64 * DAY), "");
        (outcome.intent, outcome.result) = (Some(intent), if at % 2 == 0 { "ok" } else { "failed" }.into());
        outcome.error = (at % 2 == 1).then(|| format!("why {at}"));
        log.append(&[&Entry::new(RecordKind::Outcome, outcome).unwrap()]).unwrap();
    }
    let count = log.head().count;
    (keep, dir, count)
}

fn events(dir: &Path, range: (u64, u64), filter: &Filter, from: Option<&str>, limit: usize) -> Result<Page> {
    super::events(dir, range, &Wanted { filter, test: &|_| true }, from, limit)
}

/// All pages of a search.
fn all(dir: &Path, count: u64, filter: &Filter, limit: usize) -> Vec<AuditEvent> {
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let page = events(dir, (0, count), filter, next.as_deref(), limit).unwrap();
        assert!(page.records.len() <= limit);
        found.extend(page.records);
        next = page.next;
        if next.is_none() {
            return found;
        }
    }
}

#[test]
fn an_intent_and_its_outcome_are_one_event_on_whatever_pages_and_segments_they_are() {
    let (_keep, dir, count) = filled(20);
    assert!(segments(&dir).unwrap().len() > 8);
    for limit in [1, 2, 7, 1000] {
        let found = all(&dir, count, &Filter::default(), limit);
        assert_eq!(found.len(), 41, "two for each act, and the genesis");
        assert!(found.windows(2).all(|w| w[0].record.sequence > w[1].record.sequence), "newest first");
        let acts = found.iter().filter(|e| e.record.body.act == "kms:DisableKey");
        for (event, at) in acts.zip((0..20).rev()) {
            let wanted = if at % 2 == 0 { ("ok", None) } else { ("failed", Some(format!("why {at}"))) };
            let body = &event.record.body;
            assert_eq!((body.result.as_str(), body.error.clone()), wanted);
            assert_eq!(body.detail["n"], at.to_string());
        }
    }
    // One that is unfinished has no result.
    let newest = events(&dir, (0, count - 1), &Filter::default(), None, 2).unwrap().records;
    assert_eq!((newest[1].record.body.act.as_str(), newest[1].record.body.result.as_str()), ("kms:DisableKey", ""));
}

#[test]
fn each_field_of_a_filter_leaves_out_what_it_should() {
    let (_keep, dir, count) = filled(12);
    let find = |filter: &Filter| -> Vec<i64> {
        all(&dir, count, filter, 1000).iter().rev().map(|e| e.record.body.at.0 / DAY).collect()
    };
    let act = |name: &str| Filter { act: Some(name.into()), ..Filter::default() };
    assert_eq!(find(&act("kms:Decrypt")), (0..12).collect::<Vec<_>>());
    assert_eq!(find(&act("Decrypt")).len(), 12);
    assert_eq!(find(&act("decrypt")).len(), 0);
    let days = |from: i64, to: i64| Filter {
        from: Some(Timestamp(from * DAY)),
        to: Some(Timestamp(to * DAY)),
        ..act("Decrypt")
    };
    assert_eq!(find(&days(3, 5)), [3, 4, 5]);
    assert_eq!(find(&days(0, 0)), [0]);
    assert_eq!(find(&Filter { user: Some("u1".into()), ..act("Decrypt") }), [1, 3, 5, 7, 9, 11]);
    let arn = "arn:aws:iam::111122223333:user/u0".to_owned();
    assert_eq!(find(&Filter { user: Some(arn), ..act("Decrypt") }).len(), 6);
    assert_eq!(find(&Filter { access_key: Some("AKIA2".into()), ..act("Decrypt") }), [2, 5, 8, 11]);
    assert_eq!(find(&Filter { read_only: Some(true), ..act("Decrypt") }), [0, 5, 10]);
    let key = "arn:aws:kms:eu-west-1:111122223333:key/7".to_owned();
    assert_eq!(find(&Filter { resource: Some(key), ..Filter::default() }), [7]);
    assert_eq!(find(&Filter { resource: Some("8".into()), ..Filter::default() }), [8]);
}

#[test]
fn an_event_is_found_by_its_id_and_by_no_other() {
    let (_keep, dir, count) = filled(9);
    for event in all(&dir, count, &Filter::default(), 1000) {
        let id = Uuid::parse_str(&event.id).unwrap();
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        let by_id = |id: &str| {
            let filter = Filter { event: Some(id.into()), ..Filter::default() };
            events(&dir, (0, count), &filter, None, 10).unwrap()
        };
        assert_eq!(by_id(&event.id), Page { records: vec![event.clone()], next: None });
        let mut other = *id.as_bytes();
        other[15] ^= 1;
        assert!(by_id(&Uuid::from_bytes(other).to_string()).records.is_empty());
    }
    let odd = |id: &str| {
        let filter = Filter { event: Some(id.into()), ..Filter::default() };
        events(&dir, (0, count), &filter, None, 10).unwrap().records.len()
    };
    assert_eq!((odd(""), odd("no id"), odd("ffffffff-ffff-8fff-bfff-ffffffffffff")), (0, 0, 0));
}

#[test]
fn a_page_reads_a_bounded_number_of_records_and_says_where_to_go_on() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("audit");
    let key = CheckpointKey::of(&Secret::build(|b| b.fill(5)));
    let mut log = Log::create(&dir, key, Body::at(Timestamp(0), "test:Init")).unwrap();
    let entries: Vec<Entry> =
        (0..25_000).map(|n| Entry::new(RecordKind::Event, Body::at(Timestamp(n), "test:Act")).unwrap()).collect();
    log.append(&entries.iter().collect::<Vec<_>>()).unwrap();
    let filter = Filter { act: Some("test:Init".into()), ..Filter::default() };
    let (mut pages, mut next) = (Vec::new(), None);
    loop {
        let page = events(&dir, (0, 25_001), &filter, next.as_deref(), 10).unwrap();
        pages.push(page.records.len());
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [0, 0, 1]);
}

#[test]
fn a_token_that_is_not_from_a_page_is_refused() {
    let (_keep, dir, count) = filled(3);
    let good = events(&dir, (0, count), &Filter::default(), None, 1).unwrap().next.unwrap();
    events(&dir, (0, count), &Filter::default(), Some(&good), 1).unwrap();
    let mut bad =
        vec![String::new(), "1".into(), "é".repeat(20), good.to_uppercase() + "0", format!("2{}", &good[1..])];
    bad.extend((0..good.len()).map(|cut| good[..cut].to_owned()));
    for token in bad {
        let err = events(&dir, (0, count), &Filter::default(), Some(&token), 1).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage, "{token}");
    }
    // One that points behind the end, or before what is kept, finds nothing wrong.
    assert!(events(&dir, (count, count), &Filter::default(), Some(&good), 1).unwrap().records.is_empty());
}
