//! Work on several repositories at once: a slow one delays only its own.

use std::collections::BTreeMap;

/// Does `work` with all items, those of each `group` in order and apart from the others. Returns when all are done.
pub(super) fn apart<T: Send, G: Ord>(items: Vec<T>, group: impl Fn(&T) -> G, work: impl Fn(T) + Sync) {
    let mut groups: BTreeMap<G, Vec<T>> = BTreeMap::new();
    for item in items {
        groups.entry(group(&item)).or_default().push(item);
    }
    let mut groups = groups.into_values();
    let here = groups.next();
    std::thread::scope(|scope| {
        for group in groups {
            let group = parking_lot::Mutex::new(group);
            let (group, work) = (std::sync::Arc::new(group), &work);
            let run = {
                let group = group.clone();
                move || std::mem::take(&mut *group.lock()).into_iter().for_each(work)
            };
            if let Err(err) = std::thread::Builder::new().name("apart".to_owned()).spawn_scoped(scope, run) {
                tracing::warn!("start a thread: {err}; continuing in this one");
                std::mem::take(&mut *group.lock()).into_iter().for_each(work);
            }
        }
        here.into_iter().flatten().for_each(&work);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::testing::Gate;
    use parking_lot::Mutex;

    #[test]
    fn a_group_that_waits_delays_no_other_and_each_is_in_order() {
        let (gate, done) = (Gate::closed(), Mutex::new(Vec::new()));
        let all = (0..9).collect();
        apart(
            all,
            |n| n % 3,
            |n: i32| {
                if n == 0 {
                    gate.pass();
                }
                done.lock().push(n);
                if n % 3 > 0 && done.lock().len() == 6 {
                    gate.open();
                }
            },
        );
        let done = done.into_inner();
        assert_eq!(done[6..], [0, 3, 6]);
        let of = |group| done.iter().copied().filter(|n| n % 3 == group).collect::<Vec<_>>();
        assert_eq!((of(1), of(2)), (vec![1, 4, 7], vec![2, 5, 8]));
    }
}
