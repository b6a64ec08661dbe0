use super::*;
use crate::store::StoreIdentity;
use proptest::prelude::*;

fn slot() -> Slot {
    let identity = Identity {
        generation: 3,
        volume_id: "vol-0123456789abcdef0".parse().unwrap(),
        size: 1 << 30,
        sector_size: 4096,
        chunk_size: 524_288,
        data_offset: DATA_OFFSET,
        regions: Vec::new(),
        lineage: LineageId([1; 16]),
        parent: None,
        map_generation: 1,
        key_epochs: vec![KeySlot { epoch: KeyEpoch(0), data_key_id: DataKeyId([2; 16]) }],
        context: BTreeMap::new(),
        mac_epoch: KeyEpoch(0),
    };
    let state = StateBlock {
        clean: true,
        boot_id: "b".into(),
        file: StoreIdentity { holder: 1, number: 2, born: None },
        epoch: Epoch(1),
        spill: None,
        pending: Vec::new(),
        base: None,
        trust_p: Epoch(0),
        changed_untrusted: Untrusted::No,
        write_failed: false,
        sealed_units: BTreeMap::new(),
        lease_generation: 0,
        hydrated: true,
    };
    Slot {
        flags: Flags::default(),
        identity_raw: json(&identity).unwrap(),
        identity,
        mac: [9; 32],
        keys: Keys::default(),
        keys_generation: 4,
        state,
        state_generation: 5,
    }
}

#[test]
fn the_bytes_are_where_the_drawing_says() {
    let raw = slot().encode(1).unwrap();
    assert_eq!(raw.len(), 65_536);
    assert_eq!(&raw[..8], b"COFFERV1");
    assert_eq!((raw[8], raw[10]), (1, 1));
    assert_eq!(&raw[36..57], b"vol-0123456789abcdef0");
    for (at, magic, generation) in [(4096, b"CIDN", 3), (28 * 1024, b"CKEY", 4), (60 * 1024, b"CSTA", 5)] {
        assert_eq!(&raw[at..at + 4], magic);
        assert_eq!(le64(&raw, at + 16), generation);
        assert_eq!(&raw[at + 24..at + 56], &slot().identity_hash().0);
    }
}

#[test]
fn data_starts_past_the_map_of_64_tib() {
    assert_eq!(MAP_BLOCKS, 2_236_963);
    assert_eq!(DATA_OFFSET % (1 << 20), 0);
    const { assert!(DATA_OFFSET >= MAP_OFFSET + MAP_BLOCKS * 512) };
}

#[test]
fn eight_pending_snapshots_fit_the_state() {
    let mut full = slot();
    for i in 0..MAX_PENDING {
        full.state.pending.push(PendingRecord {
            base_p: Epoch(u32::MAX),
            comparing: Untrusted::Intent,
            chunks: u64::MAX,
            slot: i as u8,
            snapshot: "snap-0123456789abcdef0".parse().unwrap(),
            p: Epoch(u32::MAX),
            time: i64::MAX,
            repository: RepositoryId([i as u8; 16]),
            base: Some("snap-0123456789abcdef0".parse().unwrap()),
            map_generation: u32::MAX,
        });
    }
    full.state.spill = Some(SpillId([255; 16]));
    full.state.sealed_units = (0..60).map(|e| (e, u64::MAX)).collect();
    assert_eq!(full.encode_state().unwrap().len(), 4096);
}

#[test]
fn an_identity_has_the_names_that_headers_always_had() {
    let told = |born| serde_json::to_string(&StoreIdentity { holder: 1, number: 2, born }).unwrap();
    assert_eq!(told(None), r#"{"device":1,"inode":2,"birth":null}"#);
    let old = r#"{"device":1,"inode":2,"birth":-3}"#;
    assert_eq!((told(Some(-3)).as_str(), serde_json::from_str::<StoreIdentity>(old).unwrap().born), (old, Some(-3)));
}

#[test]
fn any_changed_byte_of_what_counts_is_noticed_with_its_offset() {
    let good = slot().encode(0).unwrap();
    let used = |at: usize| at < 4096 || [4096usize, 28 * 1024, 60 * 1024].iter().any(|s| (*s..*s + 88).contains(&at));
    for at in (0..SLOT).filter(|a| used(*a)) {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        let err = Slot::decode(&bad).expect_err("noticed");
        assert_eq!(err.kind(), Kind::Integrity, "byte {at}");
        assert!(err.line().contains("at offset"), "{}", err.line());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut noise in prop::collection::vec(any::<u8>(), 4096), at in 0usize..SLOT) {
        let _ = Slot::decode(&noise);
        let mut raw = slot().encode(0).unwrap();
        noise.truncate(SLOT - at);
        raw[at..at + noise.len()].copy_from_slice(&noise);
        let _ = Slot::decode(&raw);
    }
}
