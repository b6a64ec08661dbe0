use super::*;
use crate::env::SystemRng;

struct Site {
    data: tempfile::TempDir,
    elsewhere: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap(), elsewhere: tempfile::tempdir().unwrap() }
    }
    fn key(&self) -> PathBuf {
        self.elsewhere.path().join("root.key")
    }
    fn create(&self, choice: &RootChoice) -> Result<(RootFile, RootKey)> {
        let made = RootFile::create(self.data.path(), InstallationId([7; 16]), choice, &SystemRng)?;
        made.0.write(self.data.path())?;
        Ok(made)
    }
}

fn phrase(text: &str) -> Passphrase {
    Passphrase::take(&mut text.as_bytes().to_vec()).unwrap()
}

const CHEAP: Argon2Cost = Argon2Cost { memory_kib: 65536, time: 3, lanes: 1 };

#[test]
fn a_key_file_opens_by_name_or_from_where_it_was() {
    let place = Site::new();
    let (_, root) = place.create(&RootChoice::File(place.key())).unwrap();
    assert_eq!(std::fs::metadata(place.key()).unwrap().mode() & 0o777, 0o600);
    let file = RootFile::read(place.data.path()).unwrap();
    for unlock in [RootUnlock::Automatic, RootUnlock::File(place.key())] {
        assert!(file.unlock(place.data.path(), &unlock).unwrap().secret.ct_eq(&root.secret));
    }
    let none = file.unlock(place.data.path(), &RootUnlock::Passphrase(phrase("long enough"))).unwrap_err();
    assert_eq!(none.kind(), Kind::KeyUnavailable);
}

#[test]
fn a_wrong_missing_open_or_foreign_key_file_is_named_with_what_to_do() {
    let place = Site::new();
    place.create(&RootChoice::File(place.key())).unwrap();
    let file = RootFile::read(place.data.path()).unwrap();
    let refused = |path: PathBuf| {
        let err = file.unlock(place.data.path(), &RootUnlock::File(path.clone())).unwrap_err();
        assert_eq!(err.kind(), Kind::KeyUnavailable, "{}", err.line());
        assert!(err.line().contains(path.to_str().unwrap()) && err.advice().is_some(), "{}", err.line());
        err.line()
    };
    let other = Site::new();
    other.create(&RootChoice::File(other.key())).unwrap();
    assert!(refused(other.key()).contains("belongs to another installation"));
    refused(place.elsewhere.path().join("gone"));
    let foreign = place.elsewhere.path().join("foreign");
    std::fs::write(&foreign, "hello").unwrap();
    std::fs::set_permissions(&foreign, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(refused(foreign).contains("not a coffer key file"));
    std::fs::set_permissions(place.key(), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert!(refused(place.key()).contains("chmod 600"));
}

#[test]
fn a_key_file_in_the_data_directory_is_refused_by_any_path() {
    let place = Site::new();
    let inside = place.data.path().join("root.key");
    assert_eq!(place.create(&RootChoice::File(inside.clone())).unwrap_err().kind(), Kind::Usage);
    assert!(!inside.exists());
    let link = place.elsewhere.path().join("link");
    std::os::unix::fs::symlink(place.data.path(), &link).unwrap();
    assert_eq!(place.create(&RootChoice::File(link.join("root.key"))).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_passphrase_opens_and_a_wrong_one_does_not() {
    let place = Site::new();
    let (_, root) = place.create(&RootChoice::Passphrase(phrase("correct horse"), CHEAP)).unwrap();
    let file = RootFile::read(place.data.path()).unwrap();
    let open = |text: &str| file.unlock(place.data.path(), &RootUnlock::Passphrase(phrase(text)));
    assert!(open("correct horse").unwrap().secret.ct_eq(&root.secret));
    assert_eq!(open("incorrect horse").unwrap_err().kind(), Kind::KeyUnavailable);
    assert_eq!(file.unlock(place.data.path(), &RootUnlock::Automatic).unwrap_err().kind(), Kind::KeyUnavailable);
    let mut short = *b"short";
    assert!(Passphrase::take(&mut short).is_err());
    assert_eq!(short, [0; 5]);
}

#[test]
fn argon2_costs_are_bounded_when_made_and_when_read() {
    for (memory_kib, time, lanes) in
        [(65535, 3, 1), (4 << 20 | 1, 3, 1), (65536, 2, 1), (65536, 65, 1), (65536, 3, 0), (65536, 3, 17)]
    {
        assert!(Argon2Cost { memory_kib, time, lanes }.check().is_err(), "{memory_kib} {time} {lanes}");
    }
    let place = Site::new();
    place.create(&RootChoice::Passphrase(phrase("correct horse"), CHEAP)).unwrap();
    let mut file = RootFile::read(place.data.path()).unwrap();
    file.slots[0].insert("memory_kib".into(), u32::MAX.into());
    let err = file.unlock(place.data.path(), &RootUnlock::Passphrase(phrase("correct horse"))).unwrap_err();
    assert!(err.what().contains("out of bounds"), "{err}");
}

#[test]
fn unknown_slots_are_shown_as_not_usable_and_never_dropped() {
    let place = Site::new();
    let (mut file, root) = place.create(&RootChoice::File(place.key())).unwrap();
    for kind in ["systemd-credential", "pkcs11", "recovery", "from-the-future"] {
        let slot = serde_json::json!({"id": "00", "kind": kind, "generation": 1, "anything": {"x": [1, 2]}});
        file.slots.push(slot.as_object().unwrap().clone());
    }
    file.revision += 1;
    file.write(place.data.path()).unwrap();
    let mut again = RootFile::read(place.data.path()).unwrap();
    again
        .add_slot(place.data.path(), &root, &RootChoice::Passphrase(phrase("correct horse"), CHEAP), &SystemRng)
        .unwrap();
    again.write(place.data.path()).unwrap();
    let slots = RootFile::read(place.data.path()).unwrap();
    let usable: Vec<bool> = slots.slots().iter().map(|s| s.usable).collect();
    assert_eq!(usable, [true, false, false, false, false, true]);
    assert!(slots.slots()[2].note.contains("not usable by this build"));
    assert_eq!(slots.slots[3]["anything"]["x"][1], 2);
    assert!(slots.unlock(place.data.path(), &RootUnlock::Automatic).is_ok());
}

#[test]
fn any_changed_byte_of_a_copy_is_noticed_and_the_other_copy_serves() {
    let place = Site::new();
    place.create(&RootChoice::File(place.key())).unwrap();
    let (a, b) = (place.data.path().join(FILES[0]), place.data.path().join(FILES[1]));
    let good = std::fs::read(&a).unwrap();
    std::fs::remove_file(&b).unwrap();
    for at in 0..good.len() {
        let mut torn = good.clone();
        torn[at] ^= 0x10;
        std::fs::write(&a, &torn).unwrap();
        // White space is no part of what is checked.
        if let Ok(file) = RootFile::read(place.data.path()) {
            assert!(good[at].is_ascii_whitespace() || file.unlock(place.data.path(), &RootUnlock::Automatic).is_ok());
        }
        std::fs::write(&a, &good[..at]).unwrap();
        assert!(RootFile::read(place.data.path()).is_err() || good[at..].iter().all(u8::is_ascii_whitespace));
    }
    std::fs::write(&b, &good).unwrap();
    std::fs::write(&a, "").unwrap();
    RootFile::read(place.data.path()).unwrap().unlock(place.data.path(), &RootUnlock::Automatic).unwrap();
}

#[test]
fn either_copy_opens_and_the_newer_counts() {
    let place = Site::new();
    let (mut file, root) = place.create(&RootChoice::File(place.key())).unwrap();
    let paths = FILES.map(|n| place.data.path().join(n));
    let older = std::fs::read(&paths[0]).unwrap();
    file.add_slot(place.data.path(), &root, &RootChoice::SharedFile(place.key()), &SystemRng).unwrap();
    file.write(place.data.path()).unwrap();
    // Killed between the copies: B is new, A is old.
    std::fs::write(&paths[0], &older).unwrap();
    assert_eq!(RootFile::read(place.data.path()).unwrap().slots().len(), 2);
    for damaged in [&paths[0], &paths[1]] {
        let good = std::fs::read(damaged).unwrap();
        let at = good.windows(5).position(|w| w == b"check").unwrap() + 12;
        let mut torn = good.clone();
        torn[at] ^= 1;
        std::fs::write(damaged, &torn).unwrap();
        assert!(RootFile::read(place.data.path()).is_ok());
        std::fs::write(damaged, &good).unwrap();
    }
    for path in &paths {
        std::fs::write(path, "{").unwrap();
    }
    assert_eq!(RootFile::read(place.data.path()).unwrap_err().kind(), Kind::Integrity);
    for path in &paths {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(RootFile::read(place.data.path()).unwrap_err().kind(), Kind::NotFound);
}
