use super::*;

#[test]
fn locked_values_do_not_overlap_and_are_reused_after_a_wipe() {
    let mut all: Vec<_> = (0..3000u32).map(|i| Locked::new([i.to_le_bytes(); 30])).collect();
    for (i, value) in all.iter().enumerate() {
        assert_eq!(value[29], (i as u32).to_le_bytes());
    }
    let address = all[7].as_ptr() as usize;
    all.remove(7);
    let again = Locked::<[u8; 100]>::zeroed();
    assert_eq!(*again, [0u8; 100]);
    assert!(address != 0);
}

#[test]
fn processor_time_grows_with_work_of_any_thread() {
    let before = cpu_time(std::process::id()).unwrap();
    let work = || (0..3_000_000u64).fold(1u64, |a, b| std::hint::black_box(a ^ b));
    std::thread::spawn(work).join().unwrap();
    assert!(cpu_time(std::process::id()).unwrap() > before);
    assert_eq!(cpu_time(u32::MAX), None);
}

#[test]
fn a_peer_of_another_pid_namespace_is_a_user_without_a_process() {
    let of = |pid, uid, nobody| known(&libc::ucred { pid, uid, gid: 0 }, nobody).map_err(|e| e.kind());
    let refused = Err(io::ErrorKind::PermissionDenied);
    assert_eq!(of(0, 7, None), Ok(PeerCred { pid: 0, uid: 7 }));
    assert_eq!(of(-1, 7, None), Ok(PeerCred { pid: 0, uid: 7 }));
    assert_eq!(of(9, 65534, None), Ok(PeerCred { pid: 9, uid: 65534 }), "a user like others where all have numbers");
    assert_eq!(of(9, 65534, Some(65534)), refused);
    assert_eq!(of(9, u32::MAX, None), refused);
    let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
    let this = PeerCred { pid: std::process::id() as i32, uid: rustix::process::geteuid().as_raw() };
    assert_eq!(peer_cred(&a).unwrap(), this);
}

#[test]
fn which_users_have_no_number_is_told_by_the_map_of_the_user_namespace() {
    assert_eq!(nobody_in("         0          0 4294967295\n", "65534\n"), None);
    assert_eq!(nobody_in("         0     100000      65536\n", "99\n"), Some(99));
    assert_eq!(nobody_in("0 1000 1\n1 100000 65536\n", "?"), Some(65534));
    assert_eq!(nobody_in("", ""), Some(65534), "without /proc nobody is sure");
}

#[test]
fn pages_are_zeroed_aligned_writable_and_given_back() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut pages = Pages::zeroed((64 << 20) - 5);
    assert_eq!((pages.len(), pages.as_ptr() as usize % 4096), (64 << 20, 0));
    assert!(pages.iter().all(|b| *b == 0));
    pages.fill(7);
    let full = resident();
    drop(pages);
    assert!(resident() + (48 << 20) < full, "{full} {}", resident());
}

#[test]
fn parts_of_pages_are_disjoint_and_the_last_one_gives_the_whole_back() {
    let pages = Pages::zeroed(3 * 4096);
    let address = pages.as_ptr() as usize;
    let mut parts = pages.split([5000, 100, 9000].into_iter());
    std::thread::scope(|all| {
        for (n, part) in parts.iter_mut().enumerate() {
            all.spawn(move || part.fill(n as u8 + 1));
        }
    });
    assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [5000, 100, 3 * 4096 - 5100]);
    let last = parts.remove(1);
    assert!(parts.into_iter().all(|p| p.give_up().is_none()));
    assert_eq!(*last, [2; 100]);
    let whole = last.give_up().unwrap();
    assert_eq!(whole.as_ptr() as usize, address);
    assert_eq!((whole[0], whole[4999], whole[5000], whole[5099], whole[5100]), (1, 1, 2, 2, 3));
    assert_eq!(whole.last(), Some(&3));
}

#[test]
fn an_ofd_lock_excludes_another_open_of_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let a = File::create(&path).unwrap();
    let b = File::options().read(true).write(true).open(&path).unwrap();
    assert!(ofd_lock(&a, LockKind::Exclusive, 0, 1).unwrap());
    assert!(!ofd_lock(&b, LockKind::Exclusive, 0, 1).unwrap());
    assert!(!ofd_is_locked(&a, 1, 1).unwrap(), "nobody has byte 1 yet");
    assert!(ofd_lock(&b, LockKind::Exclusive, 1, 1).unwrap());
    assert!(ofd_is_locked(&a, 1, 1).unwrap());
    assert!(!ofd_is_locked(&a, 0, 1).unwrap(), "its own lock is none in its way");
    ofd_unlock(&a, 0, 1).unwrap();
    assert!(ofd_lock(&b, LockKind::Shared, 0, 1).unwrap());
    drop(b);
    assert!(ofd_lock(&a, LockKind::Exclusive, 0, 0).unwrap());
}
