use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn round_trip_and_tamper(offsets in proptest::collection::btree_set(any::<u32>(), 0..8), flip in any::<usize>()) {
        let moves: Vec<Move> = offsets
            .iter()
            .map(|o| Move { offset: *o, length: 4096, pack: PackId([2; 16]), new_offset: o ^ 1 })
            .collect();
        let made = Redirect { old: PackId([1; 16]), moves };
        let raw = made.encode();
        prop_assert_eq!(&Redirect::parse("r", made.old, &raw).unwrap(), &made);
        for m in &made.moves {
            prop_assert_eq!(made.find(m.offset, 4096), Some(*m));
            prop_assert_eq!(made.find(m.offset, 8192), None);
        }
        prop_assert!(Redirect::parse("r", PackId([3; 16]), &raw).is_err());
        let mut bad = raw;
        let i = flip % bad.len();
        bad[i] ^= 1;
        prop_assert!(Redirect::parse("r", made.old, &bad).is_err());
    }

    #[test]
    fn random_bytes_are_refused_or_read_whole(mut raw in proptest::collection::vec(any::<u8>(), 0..200), fix: bool) {
        if fix && raw.len() >= 64 {
            raw[..10].copy_from_slice(b"COFREDIR\x01\0");
            raw[32..64].fill(0);
            let hash = Hash32::of(&raw);
            raw[32..64].copy_from_slice(&hash.0);
        }
        // Whatever is accepted is complete: it encodes to the same bytes.
        if let Ok(redirect) = Redirect::parse("r", PackId([0; 16]), &raw) {
            prop_assert_eq!(redirect.encode(), raw);
        }
    }
}
