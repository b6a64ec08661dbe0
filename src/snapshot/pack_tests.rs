use super::super::testing::{KEY, LINEAGE, chunk};
use super::*;
use proptest::prelude::*;

fn made(seeds: &[u8]) -> Vec<u8> {
    let mut pack = PackBuilder::new(PackId([9; 16]), LINEAGE);
    for (i, seed) in seeds.iter().enumerate() {
        let bytes = chunk(*seed);
        let map = map_of(&bytes);
        pack.append(ChunkNo(i as u64), map, KEY.tag(), body_hash(&bytes, map), &bytes).unwrap();
    }
    pack.seal()
}

#[test]
fn what_was_packed_is_read_back() {
    let raw = made(&[1, 2, 3]);
    let index = parse_pack("p", &raw).unwrap();
    assert_eq!((index.id, index.lineage, index.bodies.len()), (PackId([9; 16]), LINEAGE, 3));
    let (head, at) = index.bodies[1];
    let (again, sectors) = parse_body("p", at as usize, &raw[at as usize..]).unwrap();
    assert_eq!((head, sectors.len()), (again, 3 * SECTOR));
    assert!(sectors.iter().all(|b| *b == 2));
}

#[test]
fn every_changed_byte_is_found() {
    // One small body: every byte of the pack outside its sectors, and some inside.
    let raw = made(&[1]);
    let inside = HEADER + HEAD..HEADER + HEAD + 2 * SECTOR;
    for i in (0..raw.len()).filter(|i| !inside.contains(i) || i % 997 == 0) {
        let mut bad = raw.clone();
        bad[i] ^= 0x10;
        assert!(parse_pack("p", &bad).is_err(), "byte {i}");
    }
    for cut in [0, 1, 63, 64, raw.len() - 1] {
        assert!(parse_pack("p", &raw[..cut]).is_err());
    }
}

#[test]
fn the_sector_map_follows_the_hole_rule() {
    let mut bytes = vec![0; CHUNK];
    assert!(map_of(&bytes).is_empty());
    bytes[9 * SECTOR + 4095] = 1;
    assert_eq!(sectors(map_of(&bytes)).collect::<Vec<_>>(), [9]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut raw in proptest::collection::vec(any::<u8>(), 0..400), fix: bool) {
        if fix && raw.len() > 100 {
            raw[..12].copy_from_slice(b"COFPACK1\x01\0\0\0");
            raw[60..64].fill(0);
            let crc = crc32c::crc32c(&raw[..64]);
            raw[60..64].copy_from_slice(&crc.to_le_bytes());
            let end = raw.len() - 8;
            raw[end..].copy_from_slice(END);
        }
        let _ = parse_pack("p", &raw);
        let _ = parse_body("p", 0, &raw);
    }
}
