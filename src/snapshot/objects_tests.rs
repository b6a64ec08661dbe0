use super::*;

pub(in super::super) fn check(objects: &dyn Objects) {
    let bytes = Bytes::from_static(b"hello");
    objects.put_new("a/b/c", bytes.clone()).unwrap();
    assert_eq!(objects.put_new("a/b/c", bytes.clone()).unwrap_err().kind(), Kind::Exists);
    put_same(objects, "a/b/c", &bytes).unwrap();
    assert_eq!(put_same(objects, "a/b/c", &Bytes::from_static(b"hullo")).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(put_same(objects, "a/b/c", &Bytes::from_static(b"he")).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(objects.get("a/b/c", 5).unwrap(), bytes);
    assert_eq!(objects.get("a/b/c", 4).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(objects.get("a/b/d", 4).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(objects.get_range("a/b/c", 1..3).unwrap(), Bytes::from_static(b"el"));
    assert_eq!(objects.get_range("a/b/c", 3..9).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(objects.get_range("a/b/c", 30..39).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(objects.get_range("a/x", 0..1).unwrap_err().kind(), Kind::NotFound);
    let (mut one, mut two) = ([0; 2], [0; 2]);
    objects.get_into("a/b/c", 1, &mut [&mut one, &mut two]).unwrap();
    assert_eq!((one, two), (*b"el", *b"lo"));
    assert_eq!(objects.get_into("a/b/c", 2, &mut [&mut one, &mut two]).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(objects.get_into("a/b/c", 30, &mut [&mut one]).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(objects.get_into("a/x", 0, &mut [&mut one]).unwrap_err().kind(), Kind::NotFound);
    assert_eq!((objects.head("a/b/c").unwrap(), objects.head("a").unwrap()), (Some(5), None));
    objects.put_over("a/b/c", Bytes::from_static(b"x")).unwrap();
    let all = objects.list("a").unwrap();
    assert_eq!((all.len(), all[0].name(), all[0].size), (1, "c", 1));
    assert_eq!(objects.folders("").unwrap(), ["a"]);
    assert_eq!(objects.folders("nowhere").unwrap(), Vec::<String>::new());
    assert_eq!(objects.list("nowhere").unwrap(), []);
    objects.delete("a/b/c").unwrap();
    objects.delete("a/b/c").unwrap();
    assert_eq!(objects.list("").unwrap(), []);
}

#[test]
fn memory_and_local_files_behave_alike() {
    check(&*super::super::testing::memory());
    let dir = tempfile::tempdir().unwrap();
    check(&StoreObjects::local(dir.path()).unwrap());
}

#[test]
fn the_door_opens_from_inside_another_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { check(&*super::super::testing::memory()) });
}

#[test]
fn what_a_killed_put_left_staged_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let objects = StoreObjects::local(dir.path()).unwrap();
    objects.put_new("a/b", Bytes::from_static(b"x")).unwrap();
    std::fs::write(dir.path().join("a/c#1"), b"half").unwrap();
    std::fs::write(dir.path().join("a/other-c#1"), b"another's").unwrap();
    objects.settle("a", "c").unwrap();
    objects.settle("nowhere", "").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 2, "another's is left alone");
    objects.settle("a", "").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    assert_eq!(objects.list("").unwrap().len(), 1);
}

#[test]
fn a_fifo_a_folder_and_a_socket_are_damage_and_nothing_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let objects = StoreObjects::local(dir.path()).unwrap();
    objects.put_new("f/good", Bytes::from_static(b"x")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("f/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    std::fs::create_dir(dir.path().join("f/folder")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("f/socket")).unwrap();
    for bad in ["f/fifo", "f/folder", "f/socket"] {
        assert_eq!(objects.get(bad, 10).unwrap_err().kind(), Kind::Integrity, "{bad}");
        assert_eq!(objects.get_range(bad, 0..1).unwrap_err().kind(), Kind::Integrity, "{bad}");
        assert_eq!(objects.get_into(bad, 0, &mut [&mut [0]]).unwrap_err().kind(), Kind::Integrity, "{bad}");
        assert_eq!(objects.head(bad).unwrap(), None, "{bad}");
        let put = put_same(&objects, bad, &Bytes::from_static(b"x"));
        assert_eq!(put.unwrap_err().kind(), Kind::Integrity, "{bad}");
    }
    assert_eq!(objects.list("f").unwrap().len(), 1);
}

#[test]
fn what_stands_where_an_object_should_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let objects = StoreObjects::local(dir.path()).unwrap();
    objects.put_new("f/good", Bytes::from_static(b"x")).unwrap();
    let at = |name: &str| dir.path().join("f").join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink("gone", at("dangling")).unwrap();
    std::os::unix::fs::symlink("good", at("link")).unwrap();
    std::fs::write(at("staged#1"), b"half").unwrap();
    let names = |all: Vec<Listed>| {
        let mut names: Vec<String> = all.iter().map(|o| o.name().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(objects.irregular("f").unwrap()), ["dangling", "fifo", "folder"]);
    assert_eq!(names(objects.list("f").unwrap()), ["good", "link"], "a link is listed; reading it is damage");
    for bad in ["f/dangling", "f/fifo", "f/folder", "f/link"] {
        assert_eq!(objects.get(bad, 10).unwrap_err().kind(), Kind::Integrity, "{bad}");
    }
    assert_eq!(objects.irregular("nowhere").unwrap(), []);
}

#[test]
fn a_runtime_that_gets_no_thread_is_an_error() {
    let none = |_, _| Err(std::io::Error::from_raw_os_error(libc::EAGAIN));
    let err = start_runtime(none).unwrap_err();
    assert!(err.line().contains("start the object store's thread: Resource temporarily unavailable"), "{}", err.line());
}

#[test]
fn a_folder_whose_disk_is_away_is_out_of_reach_and_nothing_is_put_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("here"), dir.path().join("away"));
    std::fs::create_dir(&here).unwrap();
    let objects = StoreObjects::local(&here).unwrap();
    objects.put_new("f/a", Bytes::from_static(b"x")).unwrap();
    std::fs::rename(&here, &away).unwrap();
    // First nothing is there, then an empty folder, as below the mount point of a disk.
    for _ in 0..2 {
        let kinds = [
            objects.put_new("f/b", Bytes::from_static(b"y")).unwrap_err().kind(),
            objects.put_over("f/a", Bytes::from_static(b"y")).unwrap_err().kind(),
            objects.get("f/a", 10).unwrap_err().kind(),
            objects.get_range("f/a", 0..1).unwrap_err().kind(),
            objects.get_into("f/a", 0, &mut [&mut [0]]).unwrap_err().kind(),
            objects.head("f/a").unwrap_err().kind(),
            objects.list("f").unwrap_err().kind(),
            objects.folders("").unwrap_err().kind(),
            objects.delete("f/a").unwrap_err().kind(),
        ];
        assert_eq!(kinds, [Kind::Unreachable; 9]);
        assert!(!here.join("f").exists());
        let _ = std::fs::create_dir(&here);
    }
    std::fs::remove_dir(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    assert_eq!(objects.get("f/a", 10).unwrap(), "x");
    objects.put_new("f/b", Bytes::from_static(b"y")).unwrap();
}
