use super::*;
use openssl::symm::{Cipher, Crypter, Mode};
use proptest::prelude::*;

fn cipher(key: &[u8; 64]) -> XtsCipher {
    XtsCipher::from_halves(&key[..32], &key[32..])
}

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.replace([' ', '\n'], "")).unwrap()
}

/// One unit of any length by OpenSSL, tweak = LE128(unit).
fn openssl(mode: Mode, key: &[u8; 64], unit: u64, data: &[u8]) -> Vec<u8> {
    let mut c = Crypter::new(Cipher::aes_256_xts(), mode, key, Some(&u128::from(unit).to_le_bytes())).unwrap();
    c.pad(false);
    let mut out = vec![0; data.len() + 16];
    let n = c.update(data, &mut out).unwrap();
    let m = c.finalize(&mut out[n..]).unwrap();
    out.truncate(n + m);
    out
}

/// IEEE 1619-2018 Annex B, vectors 10 to 12: XTS-AES-256 with a 512-byte data unit, that is the first part of a unit.
/// Key 1 is digits of e, key 2 digits of pi, the plaintext 00 01 … ff twice.
#[test]
fn ieee_1619_vectors_10_to_12() {
    let key1 = hex("2718281828459045235360287471352662497757247093699959574966967627");
    let key2 = hex("3141592653589793238462643383279502884197169399375105820974944592");
    let cipher = XtsCipher::from_halves(&key1, &key2);
    let plain: Vec<u8> = (0..512).map(|i| i as u8).collect();
    for (unit, head, tail) in [
        (0xffu64, "1c3b3a102f770386e4836c99e370cf9b", "c4f36ffda9fcea70b9c6e693e148c151"),
        (0xffffu64, "77a31251618a15e6b92d1d66dffe7b50", "a4f9e27b42af8100cb9d59cef9645803"),
        (0xff_ffffu64, "e387aaa58ba483afa7e8eb469778317e", "2263a1eef52dd6888c309f5a7d712826"),
    ] {
        let mut buf = plain.clone();
        cipher.seal(At::sector(SectorNo(unit)), &mut buf);
        assert_eq!(hex::encode(&buf[..16]), head, "unit {unit:x}");
        assert_eq!(hex::encode(&buf[496..]), tail, "unit {unit:x}");
        cipher.open(At::sector(SectorNo(unit)), &mut buf);
        assert_eq!(buf, plain);
    }
}

#[test]
fn holes_stay_zeros_and_only_holes() {
    let key: [u8; 64] = std::array::from_fn(|i| i as u8);
    let cipher = cipher(&key);
    let plain: Vec<u8> = (0..SECTOR * 2).map(|i| (i / 7) as u8).collect();
    let mut sealed = plain.clone();
    cipher.seal(At::sector(SectorNo(9)), &mut sealed);
    sealed[PART..3 * PART].fill(0);
    sealed[SECTOR..SECTOR + PART].fill(0);
    let mut almost = sealed.clone();
    almost[PART + 500] = 1; // one byte set: no hole any more, so it opens to noise
    cipher.open_parts(At::sector(SectorNo(9)), &mut sealed);
    assert_eq!(sealed[..PART], plain[..PART]);
    assert_eq!(sealed[PART..3 * PART], [0; 2 * PART]);
    assert_eq!(sealed[3 * PART..SECTOR], plain[3 * PART..SECTOR]);
    assert_eq!(sealed[SECTOR..SECTOR + PART], [0; PART]);
    assert_eq!(sealed[SECTOR + PART..], plain[SECTOR + PART..]);
    cipher.open_parts(At::sector(SectorNo(9)), &mut almost);
    assert_ne!(almost[PART..2 * PART], [0; PART]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_to_openssl_for_any_run_of_parts(
        key in any::<[u8; 32]>(), key2 in any::<[u8; 32]>(), first_part in 0u64..100_000, parts in 1usize..80, seed in any::<u64>()
    ) {
        let mut both = [0u8; 64];
        both[..32].copy_from_slice(&key);
        both[32..].copy_from_slice(&key2);
        prop_assume!(key != key2);
        let plain: Vec<u8> = (0..parts * PART).map(|i| (seed.wrapping_mul(i as u64 + 1) >> 24) as u8).collect();
        let at = At::new(first_part * PART as u64).unwrap();
        let ours = cipher(&both);

        // The oracle seals whole units, of which the run is a window.
        let skip = (first_part % 8) as usize * PART;
        let units = (skip + plain.len()).div_ceil(SECTOR);
        let mut padded = vec![0u8; units * SECTOR];
        padded[skip..skip + plain.len()].copy_from_slice(&plain);
        let theirs: Vec<u8> = padded.chunks(SECTOR).enumerate()
            .flat_map(|(i, u)| openssl(Mode::Encrypt, &both, first_part / 8 + i as u64, u)).collect();

        let mut sealed = plain.clone();
        ours.seal(at, &mut sealed);
        prop_assert_eq!(&sealed[..], &theirs[skip..skip + plain.len()]);
        let mut apart = vec![0u8; plain.len()];
        ours.seal_to(at, &plain, &mut apart);
        prop_assert_eq!(&apart, &sealed);
        let mut portable = ours;
        #[cfg(target_arch = "x86_64")]
        { portable.kernel = None; }
        let mut again = plain.clone();
        portable.seal(at, &mut again);
        prop_assert_eq!(&again, &sealed, "the portable path and the processor's kernel differ");
        portable.open(at, &mut again);
        prop_assert_eq!(&again, &plain);
        let ours = cipher(&both);
        ours.open(at, &mut sealed);
        prop_assert_eq!(&sealed, &plain);
        ours.open_parts(at, &mut apart);
        prop_assert_eq!(&apart, &plain);
    }

    #[test]
    fn equal_to_the_xts_mode_crate(key in any::<[u8; 64]>(), sector in any::<u32>(), data in prop::collection::vec(any::<u8>(), SECTOR)) {
        use aes::Aes256;
        let half = |b: &[u8]| Aes256::new(&Array::try_from(b).unwrap());
        let reference = xts_mode::Xts128::<Aes256>::new(half(&key[..32]), half(&key[32..]));
        let mut theirs = data.clone();
        reference.encrypt_sector(&mut theirs, u128::from(sector).to_le_bytes().into());
        let mut ours = data;
        cipher(&key).seal(At::sector(SectorNo(u64::from(sector))), &mut ours);
        prop_assert_eq!(ours, theirs);
    }
}
