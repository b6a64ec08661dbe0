use super::super::pack::map_of;
use super::super::testing::chunk;
use super::*;
use proptest::prelude::*;

fn entry(n: u8) -> LeafEntry {
    let map = map_of(&chunk(n));
    LeafEntry { hash: Hash32([n; 32]), pack: [n; 16], offset: 64, length: stored_len(map), map, tag: KeyTag([n; 4]) }
}

#[test]
fn depth_goes_by_size() {
    let chunk = 512 << 10;
    assert_eq!([1, 256 * chunk, 256 * chunk + 1, 65536 * chunk].map(depth_of), [1, 1, 2, 2]);
    assert_eq!(depth_of(64 << 40), 4);
}

#[test]
fn every_changed_byte_is_found() {
    let mut entries = vec![LeafEntry::default(); FAN];
    entries[1] = entry(3);
    let raw = encode_leaf(5, &entries).unwrap();
    assert_eq!(raw.len(), PAGE_HEAD + 2 * LEAF);
    let name = Hash32::of(&raw);
    Page::parse("p", Bytes::from(raw.clone()), name, 0, 5).unwrap();
    assert!(Page::parse("p", Bytes::from(raw.clone()), name, 0, 6).is_err());
    assert!(Page::parse("p", Bytes::from(raw.clone()), name, 1, 5).is_err());
    for i in 0..raw.len() {
        let mut bad = raw.clone();
        bad[i] ^= 1;
        assert!(Page::parse("p", Bytes::from(bad), name, 0, 5).is_err(), "byte {i}");
    }
}

#[test]
fn a_page_without_entries_has_no_object() {
    assert_eq!(encode_leaf(0, &vec![LeafEntry::default(); FAN]), None);
    assert_eq!(encode_interior(1, 0, &[Hash32::default(); FAN]), None);
}

proptest! {
    #[test]
    fn round_trip(seeds in proptest::collection::vec(0u8..8, FAN), index in 0u64..1 << 20) {
        let entries: Vec<_> = seeds.iter().map(|n| if *n == 0 { LeafEntry::default() } else { entry(*n) }).collect();
        if let Some(raw) = encode_leaf(index, &entries) {
            let name = Hash32::of(&raw);
            let page = Page::parse("p", Bytes::from(raw), name, 0, index).unwrap();
            prop_assert_eq!((0..FAN).map(|i| page.leaf(i)).collect::<Vec<_>>(), entries);
        }
        let children: Vec<_> = seeds.iter().map(|n| Hash32([*n; 32])).collect();
        if let Some(raw) = encode_interior(2, index, &children) {
            let name = Hash32::of(&raw);
            let page = Page::parse("p", Bytes::from(raw), name, 2, index).unwrap();
            prop_assert_eq!((0..FAN).map(|i| page.child(i)).collect::<Vec<_>>(), children);
        }
    }

    #[test]
    fn forged_pages_never_panic(mut raw in proptest::collection::vec(any::<u8>(), 0..400), level in 0u8..3, count in 0u32..5) {
        if raw.len() >= 32 {
            raw[..12].copy_from_slice(&[b"COFPAGE1\x01\0".as_slice(), &[level, 0]].concat());
            raw[12..16].copy_from_slice(&count.to_le_bytes());
            raw[16..32].fill(0);
        }
        let name = Hash32::of(&raw);
        let _ = Page::parse("p", Bytes::from(raw), name, level, 0);
    }
}
