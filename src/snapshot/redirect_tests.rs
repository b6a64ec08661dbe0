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

/// Who read a redirect before or while another one was put may not have the new one: it must not be kept in its place.
#[test]
fn a_redirect_that_was_read_before_a_put_does_not_replace_the_one_that_was_put() {
    use crate::units::{InstallationId, LineageId};
    let folder = Folder { lineage: LineageId([1; 16]), installation: InstallationId([2; 16]) };
    let made = |pack| {
        let only = Move { offset: 64, length: 4096, pack: PackId([pack; 16]), new_offset: 64 };
        Arc::new(Redirect { old: PackId([3; 16]), moves: vec![only] })
    };
    let (old, new, mut moved) = (made(4), made(5), Moved::default());
    let known = |moved: &Moved| moved.get(folder, old.old).flatten().map(|r| r.moves[0].pack);
    let before = moved.puts();
    moved.keep_read(folder, &old, before);
    assert_eq!(known(&moved), Some(PackId([4; 16])));
    moved.put(folder, old.old, None);
    let meanwhile = moved.puts();
    moved.keep_read(folder, &old, before);
    assert_eq!(known(&moved), None, "the put may fail");
    moved.put(folder, old.old, Some(&new));
    moved.keep_read(folder, &old, before);
    moved.keep_read(folder, &old, meanwhile);
    assert_eq!(known(&moved), Some(PackId([5; 16])));
    moved.keep_none(folder, PackId([9; 16]));
    assert_eq!(moved.get(folder, PackId([9; 16])), Some(None));
    moved.put(folder, PackId([9; 16]), None);
    assert_eq!(moved.get(folder, PackId([9; 16])), None);
}
