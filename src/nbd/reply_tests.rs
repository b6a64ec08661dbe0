//! Replies byte for byte, written by hand from the specification.

use super::*;

const SIMPLE: To = To { style: Style::Simple, cookie: 0x0102_0304_0506_0708, offset: 0x1000 };
const STRUCTURED: To = To { style: Style::Structured, ..SIMPLE };
const EXTENDED: To = To { style: Style::Extended, ..SIMPLE };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn data_is_announced_in_each_style() {
    assert_eq!(hex(&SIMPLE.data(0x1000, 512, true)), "67446698000000000102030405060708");
    assert_eq!(hex(&STRUCTURED.data(0x1200, 512, true)), "668e33ef000100010102030405060708000002080000000000001200");
    assert_eq!(
        hex(&EXTENDED.data(0x1200, 512, false)),
        "6e8a278c000000010102030405060708000000000000100000000000000002080000000000001200"
    );
}

#[test]
fn holes_and_plain_ends() {
    assert_eq!(
        hex(&STRUCTURED.hole(0x2000, 0x1000, true)),
        "668e33ef0001000201020304050607080000000c000000000000200000001000"
    );
    assert_eq!(
        hex(&EXTENDED.hole(0x2000, 0x1000, true)),
        "6e8a278c0001000201020304050607080000000000001000000000000000000c000000000000200000001000"
    );
    assert_eq!(hex(&STRUCTURED.done()), hex(&SIMPLE.done()));
    assert_eq!(hex(&STRUCTURED.nothing_read()), "668e33ef00010000010203040506070800000000");
    assert_eq!(hex(&EXTENDED.done()), "6e8a278c00010000010203040506070800000000000010000000000000000000");
}

#[test]
fn errors_bear_text_and_offset_where_there_is_room() {
    assert_eq!(hex(&SIMPLE.error(Errno::Io, "bad", Some(1))), "67446698000000050102030405060708");
    assert_eq!(
        hex(&STRUCTURED.error(Errno::Io, "bad", None)),
        "668e33ef000180010102030405060708000000090000000500036261".to_owned() + "64"
    );
    assert_eq!(
        hex(&EXTENDED.error(Errno::NoSpc, "", Some(0x1001))),
        "6e8a278c000180020102030405060708".to_owned()
            + "0000000000001000"
            + "000000000000000e"
            + "0000001c00000000000000001001"
    );
    let long = STRUCTURED.error(Errno::Io, &"ä".repeat(5000), None);
    assert_eq!(long.len(), 20 + 6 + MAX_TEXT);
    assert!(std::str::from_utf8(&long[26..]).is_ok());
}

#[test]
fn extents_of_a_context() {
    let extents = [Extent { len: 0x8000, flags: 3 }, Extent { len: 0x1000, flags: 0 }];
    assert_eq!(
        hex(&STRUCTURED.status(7, &extents, true)),
        "668e33ef00010005010203040506070800000014".to_owned() + "0000000700008000000000030000100000000000"
    );
    assert_eq!(
        hex(&EXTENDED.status(7, &extents[..1], false)),
        "6e8a278c00000006010203040506070800000000000010000000000000000018".to_owned()
            + "000000070000000100000000000080000000000000000003"
    );
}

#[test]
fn an_extent_too_long_for_32_bits_ends_the_answer_short() {
    let extents = [Extent { len: 5 << 30, flags: 3 }, Extent { len: 4096, flags: 0 }];
    let told = STRUCTURED.status(0, &extents, true);
    assert_eq!(told.len(), 20 + 4 + 8, "what follows it would be at another place");
    let len = u32::from_be_bytes(told[24..28].try_into().unwrap());
    assert!(len > 1 << 31 && len.is_multiple_of(4096));
}

/// Joins the runs again.
fn covered(content: &Content, len: usize) -> Vec<(usize, usize, bool)> {
    match content {
        Content::Data => vec![(0, len, false)],
        Content::Zeroes => vec![(0, len, true)],
        Content::Mixed(runs) => runs.iter().map(|(r, zero)| (r.start, r.end, *zero)).collect(),
    }
}

#[test]
fn zeroes_are_found_where_they_are_worth_it() {
    let mut data = vec![7u8; 256 << 10];
    assert_eq!(Content::of(&data, 0), Content::Data);
    data[4096..8192].fill(0);
    assert_eq!(Content::of(&data, 0), Content::Data, "one sector is not worth a chunk");
    data[64 << 10..128 << 10].fill(0);
    let found = covered(&Content::of(&data, 0), data.len());
    assert_eq!(found, [(0, 64 << 10, false), (64 << 10, 128 << 10, true), (128 << 10, 256 << 10, false)]);
    data.fill(0);
    assert_eq!(Content::of(&data, 12), Content::Zeroes);
    assert_eq!(Content::of(&data[..1], 5), Content::Zeroes);
    *data.last_mut().unwrap() = 1;
    let found = covered(&Content::of(&data, 0), data.len());
    assert_eq!(found, [(0, 252 << 10, true), (252 << 10, 256 << 10, false)]);
    // Even if the read starts at an odd offset, holes are aligned to sectors of the export.
    let found = covered(&Content::of(&data, 512), data.len());
    assert_eq!(found, [(0, (256 << 10) - 512, true), ((256 << 10) - 512, 256 << 10, false)]);
}

proptest::proptest! {
    #[test]
    fn runs_cover_all_and_zero_ones_are_zero(
        marks in proptest::collection::vec((0usize..400_000, 1usize..60_000), 0..6),
        len in 1usize..400_000,
        offset in 0u64..10_000,
    ) {
        let mut data = vec![0u8; len];
        for (at, n) in marks {
            let end = (at + n).min(len);
            if at < end {
                data[at..end].fill(9);
            }
        }
        let mut at = 0;
        for (start, end, zero) in covered(&Content::of(&data, offset), len) {
            proptest::prop_assert_eq!(start, at);
            proptest::prop_assert!(end > start);
            proptest::prop_assert!(!zero || data[start..end].iter().all(|b| *b == 0));
            at = end;
        }
        proptest::prop_assert_eq!(at, len);
    }
}
