use super::*;
use crate::env::SystemRng;
use crate::store::sim::SimStore;
use crate::volume::format::DATA_OFFSET;

fn store() -> SimStore {
    SimStore::new(DATA_OFFSET)
}

#[test]
fn marks_survive_and_two_key_epochs_live_side_by_side() {
    let (volume, disk) = (VolumeId::draw(&SystemRng), store());
    let map = Map::new(volume, 1, 1000, None);
    let set = |key: u8, changed: u32| Entry { present: true, key: KeyEpoch(key), changed: Epoch(changed) };
    map.mark(&disk, &[ChunkNo(0), ChunkNo(59), ChunkNo(60)], |_, _| set(0, 7)).unwrap();
    map.mark(&disk, &[ChunkNo(61), ChunkNo(999)], |_, _| set(1, 9)).unwrap();
    let again = Map::new(volume, 1, 1000, None);
    for (chunk, expect) in
        [(0, set(0, 7)), (59, set(0, 7)), (60, set(0, 7)), (61, set(1, 9)), (999, set(1, 9)), (1, Entry::default())]
    {
        assert_eq!(again.entry(&disk, ChunkNo(chunk)).unwrap(), expect, "chunk {chunk}");
    }
    assert_eq!(again.next_mapped(&disk, ChunkNo(120), ChunkNo(1000)), Some(ChunkNo(960)));
    assert_eq!(again.next_mapped(&disk, ChunkNo(970), ChunkNo(1000)), Some(ChunkNo(970)));
}

#[test]
fn an_older_generation_is_absent_and_a_newer_one_a_rollback() {
    let (volume, disk) = (VolumeId::draw(&SystemRng), store());
    let map = Map::new(volume, 2, 100, None);
    map.mark(&disk, &[ChunkNo(3)], |_, e| Entry { present: true, ..e }).unwrap();
    assert_eq!(Map::new(volume, 3, 100, None).entry(&disk, ChunkNo(3)).unwrap(), Entry::default());
    let err = Map::new(volume, 1, 100, None).entry(&disk, ChunkNo(3)).unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity);
    assert!(err.line().contains("rolled back"), "{}", err.line());
}

#[test]
fn any_flipped_byte_of_a_block_is_noticed_or_rebuilt_where_allowed() {
    let (volume, disk) = (VolumeId::draw(&SystemRng), store());
    Map::new(volume, 1, 100, None).mark(&disk, &[ChunkNo(3)], |_, e| Entry { present: true, ..e }).unwrap();
    for byte in 0..META_BLOCK as u64 {
        disk.poke(MAP_OFFSET + byte, 0x40);
        let err = Map::new(volume, 1, 100, None).entry(&disk, ChunkNo(70 - 67)).unwrap_err();
        assert_eq!(err.kind(), Kind::Integrity, "byte {byte}");
        assert!(err.line().contains("map block 0 (offset 196608)"), "{}", err.line());
        disk.poke(MAP_OFFSET + byte, 0x40);
    }
    disk.poke(MAP_OFFSET + 40, 1);
    let whole = Entry { present: true, key: KeyEpoch(0), changed: Epoch(5) };
    let map = Map::new(volume, 1, 100, Some(whole));
    assert_eq!(map.entry(&disk, ChunkNo(59)).unwrap(), whole);
    assert!(map.was_rebuilt());
}

#[test]
fn a_block_of_another_volume_is_refused() {
    let disk = store();
    let (mine, theirs) = (VolumeId::draw(&SystemRng), VolumeId::draw(&SystemRng));
    Map::new(theirs, 1, 100, None).mark(&disk, &[ChunkNo(0)], |_, e| Entry { present: true, ..e }).unwrap();
    assert!(Map::new(mine, 1, 100, None).entry(&disk, ChunkNo(0)).unwrap_err().line().contains("volume tag"));
}

#[test]
fn written_blocks_are_found_whatever_the_file_system_says_of_holes() {
    use crate::store::sim::Seek;
    let (volume, disk) = (VolumeId::draw(&SystemRng), store());
    let chunks = 50_000 * ENTRIES as u64;
    let far = ChunkNo(40_000 * ENTRIES as u64 + 7);
    Map::new(volume, 1, chunks, None).mark(&disk, &[far], |_, e| Entry { present: true, ..e }).unwrap();
    for seek in [Seek::Truth, Seek::AllData, Seek::AllHoles] {
        disk.set_seek(seek);
        let map = Map::new(volume, 1, chunks, None);
        let found = map.next_mapped(&disk, ChunkNo(5), ChunkNo(chunks));
        assert_eq!(found, Some(ChunkNo(40_000 * ENTRIES as u64)));
        assert_eq!(map.next_mapped(&disk, ChunkNo(far.0 + 60), ChunkNo(chunks)), None);
        assert_eq!(
            map.next_mapped(&disk, ChunkNo(5), ChunkNo(30_000 * ENTRIES as u64)),
            None,
            "not past the end asked for"
        );
    }
}

#[test]
fn zeros_are_damage_where_blocks_were_written_when_the_volume_was_made() {
    let (volume, disk) = (VolumeId::draw(&SystemRng), store());
    let map = || Map::new(volume, 1, 1000, None).written(130);
    map().write_absent(&disk, 130).unwrap();
    for chunk in [0, 129, 179, 180, 999] {
        assert_eq!(map().entry(&disk, ChunkNo(chunk)).unwrap(), Entry::default());
    }
    disk.punch(MAP_OFFSET + 2 * META_BLOCK as u64, META_BLOCK as u64);
    let err = map().entry(&disk, ChunkNo(130)).unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity);
    assert!(err.line().contains("map block 2") && err.line().contains("chunks 120 to 179"), "{}", err.line());
    assert_eq!(map().entry(&disk, ChunkNo(119)).unwrap(), Entry::default());
    assert_eq!(map().entry(&disk, ChunkNo(180)).unwrap(), Entry::default(), "never written");
    assert_eq!(map().next_mapped(&disk, ChunkNo(120), ChunkNo(1000)), Some(ChunkNo(120)), "who asks meets the error");
}
