use super::*;
use crate::env::{SystemRng, Timestamp};
use crate::units::{Hash32, LineageId};
use std::sync::Arc;

fn record() -> VolumeRecord {
    VolumeRecord {
        id: VolumeId::draw(&SystemRng),
        name: Some("web".to_owned()),
        size: 512,
        key_arn: String::new(),
        created: Timestamp(0),
        lineage: LineageId([0; 16]),
        context: Default::default(),
        parent: None,
        hydrated: true,
        identity_generation: 1,
        identity_hash: Hash32::default(),
        write_failed: false,
        on_key_loss: Default::default(),
        suspended: false,
        iops: 0,
        throughput: 0,
        hydrate_rate: Default::default(),
        snapshot_rate: Default::default(),
        repository: None,
        stage: Default::default(),
        next: None,
    }
}

fn newcomer(holder: Holder, connection: u64) -> LeaseRequest {
    LeaseRequest { holder, connection, slot: None, reading: false }
}

/// Joins, and gets the volume. Returns whether that started the lease for this holder.
fn begins(leases: &Leases, web: &VolumeRecord, one: LeaseRequest) -> bool {
    let holder = one.holder.clone();
    leases.join(web, one).unwrap();
    leases.authorize(web.id, &holder)
}

fn remote(name: &str) -> Holder {
    Holder::Remote(name.to_owned())
}

fn process(pid: i32) -> Holder {
    Holder::Process { pid, start: 1 }
}

/// This process, so that it has not ended.
fn living() -> Holder {
    process(std::process::id() as i32)
}

#[test]
fn a_lease_is_its_holders_alone_and_ends_with_the_last_connection() {
    let (leases, web) = (Leases::new(GRACE), record());
    assert!(begins(&leases, &web, newcomer(living(), 1)));
    assert!(!begins(&leases, &web, newcomer(living(), 2)));
    let refused = leases.join(&web, newcomer(remote("a"), 3)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy);
    assert!(refused.line().contains(&living().to_string()), "{}", refused.line());
    assert_eq!(leases.leave(web.id, 1, false), Left::Goes);
    assert!(leases.join(&web, newcomer(remote("a"), 4)).is_err());
    assert_eq!(leases.leave(web.id, 2, false), Left::Ended(living()));
    assert!(begins(&leases, &web, newcomer(remote("a"), 5)));
}

#[test]
fn who_only_joined_was_not_let_in_and_who_was_is_until_its_lease_ends() {
    let (leases, web) = (Leases::new(GRACE), record());
    let join = |holder: Holder, connection, reading| {
        leases.join(&web, LeaseRequest { reading, ..newcomer(holder, connection) }).unwrap();
    };
    join(remote("a"), 1, false);
    join(remote("a"), 2, false);
    assert!(!leases.is_let_in(web.id, &remote("a")), "a second connection gets in by no first one that is being asked");
    assert!(leases.authorize(web.id, &remote("a")) && !leases.authorize(web.id, &remote("a")));
    leases.leave(web.id, 1, false);
    assert!(leases.is_let_in(web.id, &remote("a")) && !leases.is_let_in(web.id, &remote("b")));
    leases.leave(web.id, 2, false);
    assert!(leases.is_let_in(web.id, &remote("a")), "cut off, it may come back");
    join(remote("a"), 3, false);
    leases.leave(web.id, 3, true);
    assert!(!leases.is_let_in(web.id, &remote("a")), "it said goodbye");
    // Readers share a lease, but each is checked.
    join(living(), 4, true);
    join(remote("b"), 5, true);
    leases.authorize(web.id, &living());
    assert!(!leases.is_let_in(web.id, &remote("b")));
    leases.authorize(web.id, &remote("b"));
    leases.leave(web.id, 4, false);
    assert!(!leases.is_let_in(web.id, &living()) && leases.is_let_in(web.id, &remote("b")));
    // After a restart.
    leases.leave(web.id, 5, false);
    leases.keep(web.id, remote("c"));
    assert!(leases.is_let_in(web.id, &remote("c")));
}

#[test]
fn a_tls_client_that_was_cut_off_comes_back_first_and_one_that_said_goodbye_is_gone() {
    let (leases, web) = (Leases::new(Duration::from_secs(3600)), record());
    assert!(begins(&leases, &web, newcomer(remote("a"), 1)));
    assert_eq!(leases.leave(web.id, 1, false), Left::Goes);
    let refused = leases.join(&web, newcomer(living(), 2)).unwrap_err();
    assert!(refused.line().contains("the TLS client a, which disconnected uncleanly"), "{}", refused.line());
    assert!(!begins(&leases, &web, newcomer(remote("a"), 3)));
    assert_eq!(leases.leave(web.id, 3, true), Left::Ended(remote("a")));
    assert!(begins(&leases, &web, newcomer(living(), 4)));
}

#[test]
fn the_grace_ends() {
    let (leases, web) = (Leases::new(Duration::ZERO), record());
    leases.join(&web, newcomer(remote("a"), 1)).unwrap();
    leases.leave(web.id, 1, false);
    assert_eq!(leases.shown(web.id), None);
    assert!(begins(&leases, &web, newcomer(living(), 2)));
}

#[test]
fn readers_share_and_neither_readers_nor_a_writer_let_the_other_in() {
    let (leases, web) = (Leases::new(GRACE), record());
    let reading = |holder, connection| LeaseRequest { reading: true, ..newcomer(holder, connection) };
    leases.join(&web, reading(living(), 1)).unwrap();
    assert!(begins(&leases, &web, reading(remote("a"), 2)));
    assert!(!begins(&leases, &web, reading(remote("a"), 6)));
    leases.leave(web.id, 6, true);
    let refused = leases.join(&web, newcomer(remote("b"), 3)).unwrap_err();
    assert!(refused.line().contains(&format!("{}, the TLS client a (reading)", living())), "{}", refused.line());
    assert!(leases.join(&web, newcomer(living(), 3)).is_err(), "not even the same holder may write beside a reader");
    leases.leave(web.id, 1, true);
    assert_eq!(leases.leave(web.id, 2, false), Left::Ended(living()), "a reader's lease is not kept");
    leases.join(&web, newcomer(remote("b"), 4)).unwrap();
    assert!(leases.join(&web, reading(remote("b"), 5)).is_err());
}

/// Leases whose hook ends a connection as a server does: at once, but in another thread.
fn with_server(web: &VolumeRecord) -> (Arc<Leases>, Arc<Mutex<Vec<u64>>>) {
    let (leases, closed) = (Arc::new(Leases::new(GRACE)), Arc::new(Mutex::new(Vec::new())));
    let (weak, seen, id) = (Arc::downgrade(&leases), Arc::clone(&closed), web.id);
    leases.set_disconnect(Box::new(move |connection| {
        seen.lock().push(connection);
        let leases = weak.upgrade().unwrap();
        std::thread::spawn(move || leases.leave(id, connection, false));
    }));
    (leases, closed)
}

#[test]
fn a_connection_in_a_slot_closes_the_one_before_and_is_let_in_when_that_has_left() {
    let web = record();
    let (leases, closed) = with_server(&web);
    let att = Holder::Attachment("att-1".to_owned());
    let slot = |connection, slot| LeaseRequest { slot: Some(slot), ..newcomer(att.clone(), connection) };
    assert!(begins(&leases, &web, slot(1, 0)));
    leases.join(&web, slot(2, 1)).unwrap();
    assert!(closed.lock().is_empty());
    assert!(!begins(&leases, &web, slot(3, 0)));
    assert_eq!(*closed.lock(), [1], "the other slot goes on");
    let left: Vec<u64> = leases.held.lock()[&web.id].members.iter().map(|m| m.connection).collect();
    assert_eq!(left, [2, 3]);
}

#[test]
fn a_broken_lease_closes_all_its_connections() {
    let web = record();
    let (leases, closed) = with_server(&web);
    assert_eq!(leases.break_lease(&web).unwrap(), None);
    leases.join(&web, newcomer(remote("a"), 1)).unwrap();
    leases.join(&web, newcomer(remote("a"), 2)).unwrap();
    assert_eq!(leases.break_lease(&web).unwrap().as_deref(), Some("the TLS client a"));
    assert_eq!(*closed.lock(), [1, 2]);
    assert!(begins(&leases, &web, newcomer(living(), 3)), "it is not kept for a");
}
