use super::*;
use crate::volume::testing::Seeded;

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

fn id(n: usize) -> SnapshotId {
    format!("snap-{n:017x}").parse().unwrap()
}

/// The times of those that are kept, with the reasons.
fn kept(times: &[&str], keep: &Keep) -> Vec<(String, String)> {
    let tags = Tags::default();
    let all: Vec<_> =
        times.iter().enumerate().map(|(n, t)| Candidate { id: id(n), time: at(t), tags: &tags }).collect();
    let why = reasons(&all, keep);
    times.iter().zip(why).filter(|(_, w)| !w.is_empty()).map(|(t, w)| ((*t).to_owned(), w.join(", "))).collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

const NONE: Keep = Keep { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0, tags: BTreeMap::new() };

#[test]
fn each_rule_keeps_the_newest_of_its_periods() {
    let (a, b, c, d, e) = (
        "2026-01-01T00:00:00Z",
        "2025-12-31T23:59:59Z",
        "2025-12-31T23:00:00Z",
        // A Sunday, and the Monday after it.
        "2025-12-28T23:59:59Z",
        "2024-02-29T12:00:00Z",
    );
    let times = [e, d, c, b, a];
    for (keep, wanted) in [
        (Keep { last: 2, ..NONE }, &[(b, "last 2"), (a, "last 1")][..]),
        (Keep { last: 9, ..NONE }, &[(e, "last 5"), (d, "last 4"), (c, "last 3"), (b, "last 2"), (a, "last 1")]),
        (Keep { hourly: 2, ..NONE }, &[(b, "hourly"), (a, "hourly")]),
        (Keep { hourly: 3, ..NONE }, &[(d, "hourly"), (b, "hourly"), (a, "hourly")]),
        (Keep { daily: 2, ..NONE }, &[(b, "daily"), (a, "daily")]),
        (Keep { weekly: 2, ..NONE }, &[(d, "weekly"), (a, "weekly")]),
        (Keep { monthly: 3, ..NONE }, &[(e, "monthly"), (b, "monthly"), (a, "monthly")]),
        (Keep { yearly: 9, ..NONE }, &[(e, "yearly"), (b, "yearly"), (a, "yearly")]),
        (Keep { yearly: 1, daily: 1, ..NONE }, &[(a, "daily, yearly")]),
        (NONE, &[(a, "newest")]),
    ] {
        assert_eq!(kept(&times, &keep), pairs(wanted), "{keep:?}");
        let mut shuffled = [a, c, e, b, d];
        let mut found = kept(&shuffled, &keep);
        found.sort();
        assert_eq!(
            found,
            {
                let mut w = pairs(wanted);
                w.sort();
                w
            },
            "in any order: {keep:?}"
        );
        shuffled.reverse();
    }
    assert_eq!(kept(&[], &NONE), []);
}

#[test]
fn a_tag_keeps_with_its_value_or_with_any() {
    let tagged =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Tags>();
    let tags = [tagged(&[("keep", "")]), tagged(&[("team", "web")]), tagged(&[("team", "db")]), tagged(&[])];
    let all: Vec<_> =
        tags.iter().enumerate().map(|(n, tags)| Candidate { id: id(n), time: Timestamp(n as i64), tags }).collect();
    let keep =
        |name: &str, value: Option<&str>| Keep { tags: [(name.to_owned(), value.map(str::to_owned))].into(), ..NONE };
    let which = |keep: &Keep| reasons(&all, keep).iter().map(|w| w.join(",")).collect::<Vec<_>>();
    assert_eq!(which(&keep("team", None)), ["", "tag team", "tag team", "newest"]);
    assert_eq!(which(&keep("team", Some("web"))), ["", "tag team", "", "newest"]);
    assert_eq!(which(&keep("keep", None)), ["tag keep", "", "", "newest"]);
}

#[test]
fn times_outside_the_calendar_are_no_panic() {
    let tags = Tags::default();
    let all = [i64::MIN, -1, 0, i64::MAX].map(|t| Candidate { id: id(0), time: Timestamp(t), tags: &tags });
    let every = Keep { last: 1, hourly: 9, daily: 9, weekly: 9, monthly: 9, yearly: 9, ..NONE };
    assert!(reasons(&all, &every).iter().all(|w| !w.is_empty()));
}

/// By seeds: what a rule alone keeps, it keeps together with others; no rule keeps more than its number, nor two of one period; the
/// newest is always kept; and pruning what is left again removes nothing.
#[test]
fn rules_do_not_take_from_one_another_and_pruning_twice_is_pruning_once() {
    for seed in 1..=300u64 {
        let mut random = Seeded(seed);
        let tags = Tags::default();
        let span = [HOUR * 5, DAY * 5, DAY * 60, DAY * 2000][random.below(4) as usize] as u64;
        let times: Vec<i64> = (0..random.below(40)).map(|_| 1_700_000_000_000 + random.below(span) as i64).collect();
        let all: Vec<_> =
            times.iter().enumerate().map(|(n, t)| Candidate { id: id(n), time: Timestamp(*t), tags: &tags }).collect();
        let mut number = || random.below(5) as u32;
        let keep = Keep {
            last: number(),
            hourly: number(),
            daily: number(),
            weekly: number(),
            monthly: number(),
            yearly: number(),
            tags: BTreeMap::new(),
        };
        let together = reasons(&all, &keep);
        for alone in [
            Keep { last: keep.last, ..NONE },
            Keep { hourly: keep.hourly, ..NONE },
            Keep { daily: keep.daily, ..NONE },
            Keep { weekly: keep.weekly, ..NONE },
            Keep { monthly: keep.monthly, ..NONE },
            Keep { yearly: keep.yearly, ..NONE },
        ] {
            for (one, both) in reasons(&all, &alone).iter().zip(&together) {
                assert!(one.is_empty() || !both.is_empty(), "seed {seed}: {alone:?} keeps what {keep:?} does not");
            }
        }
        for (name, count, period) in PERIODS {
            let of: Vec<i64> = all
                .iter()
                .zip(&together)
                .filter(|(_, w)| w.iter().any(|r| r == name))
                .map(|(c, _)| period(c.time))
                .collect();
            let distinct: std::collections::BTreeSet<_> = of.iter().collect();
            assert!(of.len() <= count(&keep) as usize && distinct.len() == of.len(), "seed {seed}: {name}");
        }
        let newest = (0..all.len()).max_by_key(|i| (all[*i].time, all[*i].id));
        assert!(newest.is_none_or(|i| !together[i].is_empty()), "seed {seed}");
        let left: Vec<_> = all.iter().zip(&together).filter(|(_, w)| !w.is_empty()).map(|(c, _)| c.clone()).collect();
        assert!(reasons(&left, &keep).iter().all(|w| !w.is_empty()), "seed {seed}: pruning again removes more");
    }
}
