use super::*;
use openssl::symm::{Cipher, Crypter, Mode};
use proptest::prelude::*;

type Key = [u8; 64];

fn half(key: &[u8]) -> &[u8; 32] {
    key.try_into().unwrap()
}

fn cipher(key: &Key, kernel: Kernel) -> XtsCipher {
    XtsCipher::from_halves(half(&key[..32]), half(&key[32..]), kernel).unwrap()
}

/// The key's cipher on every kernel that this processor supports.
fn ciphers(key: &Key) -> Vec<XtsCipher> {
    Kernel::available().map(|kernel| cipher(key, kernel)).collect()
}

fn counted_key() -> Key {
    std::array::from_fn(|i| i as u8)
}

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s).unwrap()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// One unit of any length by OpenSSL, tweak = LE128(unit).
fn openssl(mode: Mode, key: &Key, unit: u64, data: &[u8]) -> Vec<u8> {
    let mut c = Crypter::new(Cipher::aes_256_xts(), mode, key, Some(&u128::from(unit).to_le_bytes())).unwrap();
    c.pad(false);
    let mut out = vec![0; data.len() + 16];
    let n = c.update(data, &mut out).unwrap();
    let m = c.finalize(&mut out[n..]).unwrap();
    out.truncate(n + m);
    out
}

/// Whole units by OpenSSL.
fn openssl_units(key: &Key, unit: u64, data: &[u8]) -> Vec<u8> {
    data.chunks(SECTOR).enumerate().flat_map(|(i, d)| openssl(Mode::Encrypt, key, unit + i as u64, d)).collect()
}

#[test]
fn the_fastest_kernel_is_taken_and_the_portable_one_is_always_there() {
    let key = crate::cipher::test_key(1);
    let all: Vec<_> = Kernel::available().collect();
    assert_eq!(XtsCipher::new(&key).kernel(), all[0]);
    assert_eq!(all.last(), Some(&Kernel::Portable));
    for kernel in Kernel::ALL {
        assert_eq!(XtsCipher::with_kernel(&key, kernel).map(|c| c.kernel()), all.contains(&kernel).then_some(kernel));
    }
    #[cfg(target_arch = "aarch64")]
    assert!(!std::arch::is_aarch64_feature_detected!("aes") || all[0] == Kernel::ArmAes);
    #[cfg(target_arch = "x86_64")]
    assert!(!is_x86_feature_detected!("aes") || all.contains(&Kernel::AesNi));
}

/// IEEE 1619-2018 Annex B, vectors 10 to 12: XTS-AES-256 with a 512-byte data unit, that is the first subsector of a
/// unit. Key 1 is digits of e, key 2 digits of pi, the plaintext 00 01 … ff twice.
#[test]
fn ieee_1619_vectors_10_to_12() {
    let mut key = counted_key();
    key[..32].copy_from_slice(&hex("2718281828459045235360287471352662497757247093699959574966967627"));
    key[32..].copy_from_slice(&hex("3141592653589793238462643383279502884197169399375105820974944592"));
    let plain: Vec<u8> = (0..512).map(|i| i as u8).collect();
    for (unit, head, tail) in [
        (0xffu64, "1c3b3a102f770386e4836c99e370cf9b", "c4f36ffda9fcea70b9c6e693e148c151"),
        (0xffffu64, "77a31251618a15e6b92d1d66dffe7b50", "a4f9e27b42af8100cb9d59cef9645803"),
        (0xff_ffffu64, "e387aaa58ba483afa7e8eb469778317e", "2263a1eef52dd6888c309f5a7d712826"),
    ] {
        for cipher in ciphers(&key) {
            let mut buf = plain.clone();
            cipher.seal(At::sector(SectorNo(unit)), &mut buf);
            assert_eq!(hex::encode(&buf[..16]), head, "unit {unit:x}, {:?}", cipher.kernel());
            assert_eq!(hex::encode(&buf[496..]), tail, "unit {unit:x}, {:?}", cipher.kernel());
            cipher.open(At::sector(SectorNo(unit)), &mut buf);
            assert_eq!(buf, plain, "unit {unit:x}, {:?}", cipher.kernel());
        }
    }
}

/// Their units are shorter than a subsector. Blocks are independent given the tweak, so each is the head of a
/// subsector.
#[test]
fn nist_vectors() {
    let lines = include_str!("nist-xts-aes256.txt").lines().filter(|l| !l.starts_with('#'));
    let mut seen = 0;
    for line in lines {
        let [way, key, unit, plain, sealed] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let (key, plain, sealed) = (Key::try_from(hex(key)).unwrap(), hex(plain), hex(sealed));
        let at = At::sector(SectorNo(unit.parse().unwrap()));
        for cipher in ciphers(&key) {
            let (from, to) = if way == "seal" { (&plain, &sealed) } else { (&sealed, &plain) };
            let mut buf = from.clone();
            buf.resize(SUBSECTOR, 0x77);
            if way == "seal" {
                cipher.seal(at, &mut buf);
            } else {
                cipher.open(at, &mut buf);
            }
            assert_eq!(&buf[..to.len()], to, "{line}, {:?}", cipher.kernel());
        }
        seen += 1;
    }
    assert_eq!(seen, 24, "vectors");
}

/// Every alignment in subsectors, every length up to beyond a batch, at odd addresses too, in place and out of place;
/// adjacent bytes stay unchanged.
#[test]
fn every_kernel_equals_openssl_for_every_run_of_parts() {
    const MAX_UNITS: usize = (BATCH + 2) * SUBSECTORS;
    let key: Key = noise(3, 64).try_into().unwrap();
    let unit = (1u64 << 40) + 77;
    let plain = noise(4, MAX_UNITS * SUBSECTOR);
    let sealed = openssl_units(&key, unit, &plain);
    let (mut room, mut apart) = (vec![0u8; MAX_UNITS * SUBSECTOR + 128], vec![0u8; MAX_UNITS * SUBSECTOR + 128]);
    for cipher in ciphers(&key) {
        for skip in 0..SUBSECTORS {
            for parts in 1..=MAX_UNITS - skip {
                // All lengths up to three units; above that, only those next to the end of a unit or a batch.
                if parts > 3 * SUBSECTORS && !matches!((skip + parts) % SUBSECTORS, 0 | 1 | 7) {
                    continue;
                }
                let at = At::new(unit * SECTOR as u64 + (skip * SUBSECTOR) as u64).unwrap();
                let (from, to) = (skip * SUBSECTOR, (skip + parts) * SUBSECTOR);
                let what = || format!("{:?}, {parts} parts from part {skip}", cipher.kernel());
                let lead = 32 + parts % 17;
                let inside = lead..lead + parts * SUBSECTOR;
                room.fill(0xc3);
                apart.fill(0x3c);
                room[inside.clone()].copy_from_slice(&plain[from..to]);
                cipher.seal_to(at, &room[inside.clone()], &mut apart[inside.clone()]);
                cipher.seal(at, &mut room[inside.clone()]);
                assert!(room[inside.clone()] == sealed[from..to], "seal: {}", what());
                assert!(apart[inside.clone()] == sealed[from..to], "seal_to: {}", what());
                apart[inside.clone()].fill(0);
                cipher.open_parts_to(at, &room[inside.clone()], &mut apart[inside.clone()]);
                cipher.open(at, &mut room[inside.clone()]);
                assert!(room[inside.clone()] == plain[from..to], "open: {}", what());
                assert!(apart[inside.clone()] == plain[from..to], "open_parts_to: {}", what());
                let outside =
                    |buf: &[u8], byte| buf[..inside.start].iter().chain(&buf[inside.end..]).all(|b| *b == byte);
                assert!(outside(&room, 0xc3) && outside(&apart, 0x3c), "bytes around: {}", what());
            }
        }
    }
}

#[test]
fn holes_stay_zeros_and_only_holes() {
    let at = At::sector(SectorNo(9));
    let plain: Vec<u8> = (0..SECTOR * 3).map(|i| (i / 7) as u8).collect();
    for cipher in ciphers(&counted_key()) {
        let mut sealed = plain.clone();
        cipher.seal(at, &mut sealed);
        sealed[SUBSECTOR..3 * SUBSECTOR].fill(0);
        sealed[SECTOR..SECTOR + SUBSECTOR].fill(0);
        sealed[3 * SECTOR - SUBSECTOR..].fill(0);
        let mut almost = sealed.clone();
        almost[SUBSECTOR + 500] = 1; // one byte set: not a hole, so it opens to noise
        let mut apart = vec![0xee; sealed.len()];
        cipher.open_parts_to(at, &sealed, &mut apart);
        cipher.open_parts(at, &mut sealed);
        assert_eq!(sealed, apart);
        assert_eq!(sealed[..SUBSECTOR], plain[..SUBSECTOR]);
        assert_eq!(sealed[SUBSECTOR..3 * SUBSECTOR], [0; 2 * SUBSECTOR]);
        assert_eq!(sealed[3 * SUBSECTOR..SECTOR], plain[3 * SUBSECTOR..SECTOR]);
        assert_eq!(sealed[SECTOR..SECTOR + SUBSECTOR], [0; SUBSECTOR]);
        assert_eq!(
            sealed[SECTOR + SUBSECTOR..3 * SECTOR - SUBSECTOR],
            plain[SECTOR + SUBSECTOR..3 * SECTOR - SUBSECTOR]
        );
        assert_eq!(sealed[3 * SECTOR - SUBSECTOR..], [0; SUBSECTOR]);
        cipher.open_parts(at, &mut almost);
        assert_ne!(almost[SUBSECTOR..2 * SUBSECTOR], [0; SUBSECTOR]);
        assert_eq!(almost[2 * SUBSECTOR..3 * SUBSECTOR], [0; SUBSECTOR]);
        // From the middle of a unit: the first subsector is the unit's fourth.
        let mut middle = plain[3 * SUBSECTOR..SECTOR].to_vec();
        cipher.seal(at.plus(3 * SUBSECTOR), &mut middle);
        middle[SUBSECTOR..2 * SUBSECTOR].fill(0);
        cipher.open_parts(at.plus(3 * SUBSECTOR), &mut middle);
        assert_eq!(middle[..SUBSECTOR], plain[3 * SUBSECTOR..4 * SUBSECTOR]);
        assert_eq!(middle[SUBSECTOR..2 * SUBSECTOR], [0; SUBSECTOR]);
        assert_eq!(middle[2 * SUBSECTOR..], plain[5 * SUBSECTOR..SECTOR]);
    }
}

/// A sealed subsector may begin with sixteen zero bytes by chance, or by a client's choice of key and data; it is not a
/// hole then.
#[test]
fn a_part_that_only_begins_with_zeros_is_opened() {
    for cipher in ciphers(&counted_key()) {
        let at = At::sector(SectorNo(2));
        let mut plain = vec![0u8; SECTOR];
        plain[SUBSECTOR..SUBSECTOR + 16].fill(0); // it seals to zeros: its plaintext is the opening of zeros
        cipher.open(at, &mut plain);
        let head = plain[SUBSECTOR..SUBSECTOR + 16].to_vec();
        let mut whole = noise(8, SECTOR);
        whole[SUBSECTOR..SUBSECTOR + 16].copy_from_slice(&head);
        let mut sealed = whole.clone();
        cipher.seal(at, &mut sealed);
        assert_eq!(sealed[SUBSECTOR..SUBSECTOR + 16], [0; 16]);
        cipher.open_parts(at, &mut sealed);
        assert_eq!(sealed, whole, "{:?}", cipher.kernel());
    }
}

#[test]
fn what_is_sealed_again_opens_to_the_same_bytes_and_holes_stay_holes() {
    let (at, len, part) = (At::sector(SectorNo(7)), 4 * SECTOR, SECTOR..SECTOR + SUBSECTOR);
    for (from, to) in ciphers(&counted_key()).into_iter().zip(ciphers(&std::array::from_fn(|i| i as u8 ^ 0xa5))) {
        let mut plain = noise(3, len);
        let mut sealed = plain.clone();
        from.seal(at, &mut sealed);
        let mut wanted = plain.clone();
        to.seal(at, &mut wanted);
        for hole in [part.clone(), 3 * SECTOR..len] {
            [&mut plain, &mut sealed, &mut wanted].into_iter().for_each(|bytes| bytes[hole.clone()].fill(0));
        }
        let (mut room, mut out) = (vec![1; len], crate::cipher::SealedBuf::holes(len));
        from.reseal(&to, at, Sealed::made_up(&sealed), &mut room, out.room());
        assert!(out[..] == wanted && room == plain, "{:?}", from.kernel());
    }
}

#[test]
#[should_panic(expected = "not whole subsectors")]
fn a_run_that_is_no_whole_subsector_is_refused() {
    cipher(&counted_key(), Kernel::Portable).seal(At::sector(SectorNo(0)), &mut [0; SUBSECTOR + 16]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_to_openssl_under_any_key(key in any::<[u8; 32]>(), key2 in any::<[u8; 32]>(), unit in 0u64..1 << 51, seed in any::<u64>()) {
        prop_assume!(key != key2);
        let mut both = [0u8; 64];
        both[..32].copy_from_slice(&key);
        both[32..].copy_from_slice(&key2);
        let plain = noise(seed, 5 * SECTOR);
        let sealed = openssl_units(&both, unit, &plain);
        for cipher in ciphers(&both) {
            let mut buf = plain.clone();
            cipher.seal(At::sector(SectorNo(unit)), &mut buf);
            prop_assert!(buf == sealed, "{:?}", cipher.kernel());
            cipher.open_parts(At::sector(SectorNo(unit)), &mut buf);
            prop_assert!(buf == plain, "{:?}", cipher.kernel());
        }
    }

    #[test]
    fn equal_to_the_xts_mode_crate(key in any::<[u8; 64]>(), sector in any::<u32>(), data in prop::collection::vec(any::<u8>(), SECTOR)) {
        use ::cipher::{Array, KeyInit};
        use aes::Aes256;
        let block = |b: &[u8]| Aes256::new(&Array::try_from(b).unwrap());
        let reference = xts_mode::Xts128::<Aes256>::new(block(&key[..32]), block(&key[32..]));
        let mut theirs = data.clone();
        reference.encrypt_sector(&mut theirs, u128::from(sector).to_le_bytes().into());
        for cipher in ciphers(&key) {
            let mut ours = data.clone();
            cipher.seal(At::sector(SectorNo(u64::from(sector))), &mut ours);
            prop_assert!(ours == theirs, "{:?}", cipher.kernel());
        }
    }
}
