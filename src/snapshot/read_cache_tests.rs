use super::*;
use crate::volume::testing::Seeded;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const PAGE: usize = 4096;

fn bytes(n: u64) -> Vec<u8> {
    n.to_le_bytes().into_iter().cycle().take(PAGE).collect()
}

fn hash(n: u64) -> Hash32 {
    Hash32::of(&bytes(n))
}

fn put(cache: &ReadCache, n: u64) {
    cache.put(&hash(n), &bytes(n));
}

fn get(cache: &ReadCache, n: u64) -> bool {
    let mut out = vec![0xee; PAGE];
    let is_here = cache.get(&hash(n), &mut out);
    assert!(!is_here || out == bytes(n), "{n}: other bytes");
    is_here
}

fn cache(dir: &tempfile::TempDir, files: u64) -> ReadCache {
    ReadCache::new(dir.path().join("cache"), files * BLOCK)
}

/// Returns the files in a folder and below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn on_the_disk(dir: &tempfile::TempDir) -> u64 {
    files(dir.path()).iter().map(|f| on_disk(f.metadata().unwrap().len())).sum()
}

#[test]
fn files_are_evicted_by_their_last_use_which_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let one = cache(&dir, 3);
    (1..=3).for_each(|n| put(&one, n));
    assert!(get(&one, 1));
    put(&one, 4);
    assert_eq!([1, 2, 3, 4].map(|n| one.has(&hash(n))), [true, false, true, true]);
    assert_eq!((one.taken(), on_the_disk(&dir)), (3 * BLOCK, 3 * BLOCK));
    // The clock of a file system may be coarse: the times of use are set here.
    let used = |n: u64, second: u64| {
        let file = File::open(one.path(&hash(n))).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(second)).unwrap();
    };
    [(4, 10), (1, 20), (3, 30)].iter().for_each(|(n, second)| used(*n, *second));
    let two = cache(&dir, 3);
    assert!(get(&two, 4), "now it was used last");
    let three = cache(&dir, 3);
    put(&three, 5);
    assert_eq!([1, 3, 4, 5].map(|n| get(&three, n)), [false, true, true, true]);
    // A smaller limit.
    assert_eq!(cache(&dir, 1).taken(), BLOCK);
    assert_eq!(on_the_disk(&dir), BLOCK);
}

#[test]
fn what_a_killed_process_was_writing_is_removed_and_what_is_not_ours_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let one = cache(&dir, 9);
    put(&one, 1);
    let beside = |name: String| one.folder_of(&hash(1)).join(name);
    let (torn, foreign) = (beside(format!("{}{NEW}7", hash(2))), beside("notes".to_owned()));
    let misplaced = beside(Hash32([0; 32]).to_string());
    for file in [&torn, &foreign, &misplaced] {
        std::fs::write(file, b"half").unwrap();
    }
    let two = cache(&dir, 9);
    assert!(get(&two, 1) && !get(&two, 2));
    assert_eq!((torn.exists(), foreign.exists(), two.taken()), (false, true, BLOCK));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_never_returned_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir, 9);
    let path = cache.path(&hash(1));
    let spoil: [&dyn Fn(); 5] = [
        &|| std::fs::write(&path, bytes(2)).unwrap(),
        &|| std::fs::write(&path, b"").unwrap(),
        &|| File::options().write(true).open(&path).unwrap().set_len(PAGE as u64 + 1).unwrap(),
        &|| std::fs::remove_file(&path).unwrap(),
        &|| {
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        },
    ];
    for (n, spoil) in spoil.iter().enumerate() {
        for whole in [false, true] {
            put(&cache, 1);
            assert!(get(&cache, 1));
            spoil();
            let is_here = if whole { cache.get_all(&hash(1), PAGE).is_some() } else { get(&cache, 1) };
            assert!(!is_here, "spoiled {n}");
            assert!(path.symlink_metadata().is_err() && cache.taken() == 0, "spoiled {n}: it is removed");
        }
    }
    put(&cache, 1);
    assert_eq!(cache.get_all(&hash(1), PAGE), Some(bytes(1)));
    assert_eq!(cache.get_all(&hash(1), PAGE - 1), None, "more than was asked for");
}

#[test]
fn a_full_disk_or_an_unwritable_folder_fails_nothing_and_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let seen = full.clone();
    let cache = cache(&dir, 3000).with_disk(move |_| seen.load(Ordering::Relaxed));
    let all = GIVE_BACK / BLOCK + 10;
    (0..all).for_each(|n| put(&cache, n));
    assert_eq!(cache.taken(), all * BLOCK);
    full.store(true, Ordering::Relaxed);
    put(&cache, 5000);
    assert_eq!((cache.taken(), on_the_disk(&dir)), (10 * BLOCK, 10 * BLOCK));
    assert!(!get(&cache, 5000) && get(&cache, all - 1) && !get(&cache, 0));
    // A file where a folder should be: it cannot be written by anyone, not even by root.
    let blocked = dir.path().join("file");
    std::fs::write(&blocked, b"").unwrap();
    let cache = ReadCache::new(blocked.clone(), 100 * BLOCK);
    put(&cache, 1);
    assert!(!get(&cache, 1) && cache.taken() == 0 && blocked.is_file());
}

#[test]
fn it_is_off_at_0_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir, 9);
    (1..=5).for_each(|n| put(&cache, n));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache.folder), mode(&cache.path(&hash(1)))), (0o700, 0o600));
    cache.set_limit(2 * BLOCK).unwrap();
    assert_eq!([3, 4, 5].map(|n| get(&cache, n)), [false, true, true]);
    cache.set_limit(0).unwrap();
    put(&cache, 1);
    assert!(!get(&cache, 4) && !cache.folder.exists());
    cache.set_limit(BLOCK).unwrap();
    put(&cache, 1);
    assert!(get(&cache, 1));
}

/// By seeds, from several threads: whatever is put, read, spoiled and resized, only right bytes are returned, the limit
/// holds at every moment, and at the end the index is what is on the disk.
#[test]
fn threads_that_put_and_read_at_will_see_only_right_bytes() {
    for seed in 1..=8u64 {
        println!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir, 20);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut rng = Seeded(seed * 10 + thread);
                    for _ in 0..300 {
                        let n = rng.below(40);
                        match rng.below(8) {
                            0 => drop(std::fs::write(cache.path(&hash(n)), b"spoiled")),
                            1 => drop(std::fs::remove_file(cache.path(&hash(n)))),
                            2 => cache.set_limit((10 + rng.below(11)) * BLOCK).unwrap(),
                            3..6 => put(cache, n),
                            _ => {
                                let _is_here = get(cache, n);
                            }
                        }
                        assert!(cache.taken() <= 24 * BLOCK, "more than the limit and what is being written");
                    }
                });
            }
        });
        let _right = (0..40).filter(|n| get(&cache, *n)).count();
        cache.set_limit(20 * BLOCK).unwrap();
        let known = cache.taken();
        assert!(on_the_disk(&dir) >= known);
        let again = ReadCache::new(cache.folder.clone(), 100 * BLOCK);
        let _right = (0..40).filter(|n| get(&again, *n)).count();
        assert!(again.taken() >= known, "what is known is there");
    }
}
