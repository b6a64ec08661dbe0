use super::*;
use crate::volume::testing::Gate;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

#[test]
fn threads_start_up_to_the_bound_and_what_is_too_much_is_dropped() {
    let (fetchers, gate, (tell, told)) = (Fetchers::default(), Arc::new(Gate::closed()), channel());
    let running = Arc::new(AtomicUsize::new(0));
    let submit = || {
        let (gate, tell, running) = (gate.clone(), tell.clone(), running.clone());
        fetchers.submit(Box::new(move || {
            running.fetch_add(1, Ordering::SeqCst);
            tell.send(()).unwrap();
            gate.pass();
        }))
    };
    for _ in 0..IN_FLIGHT {
        assert!(submit());
        told.recv().unwrap();
    }
    for _ in 0..WAITING {
        assert!(submit());
    }
    assert!(!submit(), "the queue is full");
    assert_eq!(running.load(Ordering::SeqCst), IN_FLIGHT);
    gate.open();
    for _ in 0..WAITING {
        told.recv().unwrap();
    }
    assert!(told.try_recv().is_err());
}

#[test]
fn a_job_that_panics_takes_only_its_thread_with_it() {
    let (fetchers, (tell, told)) = (Fetchers::default(), channel());
    for _ in 0..3 * IN_FLIGHT {
        while !fetchers.submit(Box::new(|| panic!("told to"))) {
            std::thread::yield_now();
        }
    }
    let job = move || tell.send(()).unwrap();
    while !fetchers.submit(Box::new(job.clone())) {
        std::thread::yield_now();
    }
    told.recv().unwrap();
}
