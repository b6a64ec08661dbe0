use crate::error::Kind;
use crate::service::api::{Reply, RewrapInfo};
use crate::service::lineage_tests::{Place, ask, bytes, restore, take, verify, write};
use crate::service::opening::Need;
use crate::service::testing::request;
use crate::service::{Service, records::VolumeRecord};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn say(service: &Arc<Service>, asked: Value) -> Reply {
    ask(service, request(asked.clone())).unwrap_or_else(|e| panic!("{asked}: {}", e.line()))
}

fn rewrap(service: &Arc<Service>, key: Option<&str>, dry_run: bool) -> RewrapInfo {
    match say(service, json!({"action": "key-rewrap", "key": key, "dry_run": dry_run})) {
        Reply::Rewrapped(told) => told,
        other => panic!("{other:?}"),
    }
}

/// The CMKs `alias/a` and `alias/b`, a volume under the first with 2 MiB, and the repository `far`.
fn world() -> (Place, Arc<Service>) {
    let (place, service) = Place::new();
    for alias in ["alias/a", "alias/b"] {
        say(&service, json!({"action": "key-create", "alias": alias, "description": ""}));
    }
    let url = format!("file://{}", place.path("far").display());
    say(&service, json!({"action": "repository-add", "name": "far", "location": {"url": url}}));
    let made = say(&service, json!({"action": "volume-create", "name": "a", "size": 8 * MIB, "key": "alias/a"}));
    let Reply::Volume(made) = made else { panic!("no volume") };
    let place = place.beside(made.id);
    write(&place, &service, 0, 2 * MIB, 1);
    (place, service)
}

fn rotate(service: &Arc<Service>, alias: &str) {
    say(service, json!({"action": "key-rotate", "key": alias}));
}

/// The material that the blobs in a volume's header name, in all slots.
fn in_header(service: &Arc<Service>, record: &VolumeRecord) -> Vec<String> {
    let used = service.opens.acquire(record, Need::Sealed).unwrap();
    let blobs = used.volume.with_header(|h| h.keys().iter().flat_map(|set| set.keys.clone()).collect::<Vec<_>>());
    blobs.iter().map(|k| service.kms.crypto().blob_info(&k.blob).unwrap().material.to_string()).collect()
}

fn newest(service: &Arc<Service>, alias: &str) -> String {
    let versions = service.kms.keys().describe(&alias.parse().unwrap()).unwrap().versions;
    versions.into_iter().find(|v| v.current).unwrap().key_material_id
}

/// The objects of both repositories, except for logs and refs.
fn objects(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = place.files("").into_iter().chain(Place::files_in(place.path("far"), ""));
    let is_kept = |path: &PathBuf| !path.to_str().unwrap().contains("/log/");
    all.filter(is_kept).map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn after_a_rotation_every_wrapped_key_names_the_newest_material_and_nothing_else_changes() {
    let (place, service) = world();
    let snapshot = take(&place, &service);
    let of = snapshot.id.to_string();
    say(&service, json!({"action": "snapshot-copy", "snapshot": of, "key": "alias/a", "repository": "far"}));
    say(&service, json!({"action": "snapshot-copy", "snapshot": of, "key": "alias/b"}));
    let filled = place.beside(restore(&service, snapshot.id, "w"));
    assert_eq!(rewrap(&service, None, false).keys, [], "all are current");
    rotate(&service, "alias/a");
    let (before, old) = (objects(&place), in_header(&service, &place.record(&service)));
    let planned = rewrap(&service, Some("alias/a"), true);
    // Two headers, the logs of both lineages, and the catalog's record of the copies.
    assert_eq!((planned.keys.len(), planned.current, planned.left.len(), planned.dry_run), (5, 0, 0, true));
    assert_eq!(in_header(&service, &place.record(&service)), old, "a dry run changes nothing");
    let done = rewrap(&service, Some("alias/a"), false);
    assert_eq!(done.left, []);
    assert_eq!(done.keys, planned.keys);
    let now = newest(&service, "alias/a");
    assert!(done.keys.iter().all(|key| key.from == old[0] && key.to == now && old[0] != now));
    for record in [place.record(&service), filled.record(&service)] {
        assert_eq!(in_header(&service, &record), std::slice::from_ref(&now), "both slots are the same");
    }
    let again = rewrap(&service, None, false);
    assert_eq!((again.keys.len(), again.left.len()), (0, 0));
    assert_eq!(again.current, 5 + 3, "with the other CMKs: a header, a log and the catalog's record");
    assert!(objects(&place) == before, "nothing signed is changed");
    let Reply::Events { events } =
        say(&service, json!({"action": "audit-list", "limit": 100, "act": "kms:RewrapVolumeKey"}))
    else {
        panic!("no events")
    };
    assert_eq!(events.len(), 2, "each data key is wrapped once");
    // All of it opens, in another process too.
    let service = place.reopen(service);
    verify(&service, snapshot.id);
    assert!(bytes(&filled, &service, 8 * MIB) == bytes(&place, &service, 8 * MIB));
    let restored = place.beside(restore(&service, snapshot.id, "x"));
    assert!(bytes(&restored, &service, 8 * MIB) == bytes(&place, &service, 8 * MIB));
    assert_eq!(in_header(&service, &restored.record(&service)), [now]);
}

#[test]
fn what_cannot_be_reached_is_named_and_left_to_the_next_run() {
    let (place, service) = world();
    let snapshot = take(&place, &service).id.to_string();
    say(&service, json!({"action": "snapshot-copy", "snapshot": snapshot, "repository": "far"}));
    rotate(&service, "alias/a");
    let service = place.reopen(service);
    std::fs::rename(place.path("far"), place.path("unplugged")).unwrap();
    let done = rewrap(&service, Some("alias/a"), false);
    assert_eq!((done.keys.len(), done.left.len()), (2, 1), "{done:?}");
    let left = crate::error::Error::from(done.left[0].clone());
    assert!(left.line().contains("repository far"), "{}", left.line());
    std::fs::rename(place.path("unplugged"), place.path("far")).unwrap();
    let service = place.reopen(service);
    let rest = rewrap(&service, Some("alias/a"), false);
    assert_eq!((rest.keys.len(), rest.current, rest.left.len()), (1, 2, 0), "{rest:?}");
    // While the CMK is disabled, every place is left.
    rotate(&service, "alias/a");
    drop(service.opens.close_unused(&place.record(&service)).unwrap());
    say(&service, json!({"action": "key-disable", "key": "alias/a"}));
    let none = rewrap(&service, Some("alias/a"), false);
    assert_eq!((none.keys.len(), none.left.len()), (0, 3), "{none:?}");
    let unknown = ask(&service, request(json!({"action": "key-rewrap", "key": "alias/none"}))).unwrap_err();
    assert_eq!(unknown.kind(), Kind::NotFound);
}
