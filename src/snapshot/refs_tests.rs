use super::super::testing::{LINEAGE, snap};
use super::*;
use proptest::prelude::*;

#[test]
fn a_ref_round_trips_and_job_refs_age() {
    let made = Ref {
        format: 1,
        kind: RefKind::Job,
        installation: InstallationId([1; 16]),
        id: "vol-1.base".into(),
        snapshot: snap(1),
        folder: InstallationId([2; 16]),
        time: Timestamp(0),
        heartbeat: Timestamp(10),
    };
    let path = Ref::path(LINEAGE, made.installation, &made.id).unwrap();
    assert_eq!(Ref::parse(&path, LINEAGE, &made.encode().unwrap()).unwrap(), made);
    assert!(Ref::parse("elsewhere", LINEAGE, &made.encode().unwrap()).is_err());
    assert!(made.counts(Timestamp(9 + JOB_REF_LIFE)) && !made.counts(Timestamp(10 + JOB_REF_LIFE)));
    for bad in ["", "a/b", "ü", &"x".repeat(65)] {
        assert!(Ref::path(LINEAGE, made.installation, bad).is_err());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Ref::parse("x", LINEAGE, &raw).is_err());
    }
}
