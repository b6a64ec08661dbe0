use super::super::testing::{KEY, LINEAGE, author, snap};
use super::*;
use proptest::prelude::*;

fn manifest() -> (Manifest, Folder) {
    let folder = Folder { lineage: LINEAGE, installation: author(1).installation };
    let m = Manifest {
        format: 1,
        snapshot: snap(1),
        installation: folder.installation,
        volume: None,
        size: 1 << 30,
        root: Hash32([1; 32]),
        depth: depth_of(1 << 30),
        time: Timestamp(5),
        point: 1,
        map_generation: 1,
        parent: Some(snap(0)),
        keys: [(hex::encode(KEY.tag().0), KEY)].into(),
        folders: vec![folder.installation],
        chunks: 1,
        changed_chunks: 1,
        stored_bytes: 4096,
        source: None,
    };
    (m, folder)
}

#[test]
fn what_was_signed_is_read_back() {
    let (m, folder) = manifest();
    let by = author(1);
    let record = m.sign(folder, Hash32::default(), &*by.signer).unwrap();
    let (read, again) = Manifest::parse("m", folder, snap(1), record.raw().clone()).unwrap();
    again.verify("m", &by.signer.public_key()).unwrap();
    assert_eq!((read.key_of(KEY.tag()), read), (Some(KEY), m));
    assert!(Manifest::parse("m", folder, snap(2), record.raw().clone()).is_err());
}

#[test]
fn contradictions_are_refused() {
    let (good, folder) = manifest();
    let bad: [fn(&mut Manifest); 6] = [
        |m| m.depth += 1,
        |m| m.size = 0,
        |m| m.size = u64::MAX,
        |m| m.folders.clear(),
        |m| m.format = 2,
        |m| m.keys = [("00000000".to_owned(), KEY)].into(),
    ];
    for spoil in bad {
        let mut m = good.clone();
        spoil(&mut m);
        let record = m.sign(folder, Hash32::default(), &*author(1).signer).unwrap();
        assert!(Manifest::parse("m", folder, snap(1), record.raw().clone()).is_err());
    }
}

proptest! {
    #[test]
    fn changed_manifests_never_panic(at in any::<usize>(), to in any::<u8>()) {
        let (m, folder) = manifest();
        let by = author(1);
        let mut raw = m.sign(folder, Hash32::default(), &*by.signer).unwrap().raw().to_vec();
        let i = at % raw.len();
        prop_assume!(raw[i] != to);
        raw[i] = to;
        let read = Manifest::parse("m", folder, snap(1), Bytes::from(raw));
        prop_assert!(read.and_then(|(_, r)| r.verify("m", &by.signer.public_key())).is_err());
    }
}
