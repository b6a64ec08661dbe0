//! AES-256-XTS compared with memcpy, the bare block cipher, OpenSSL and `xts-mode`: in place, out of place, and with
//! the hole rule on read. First a table of every kernel that the processor supports, in interleaved rounds, with
//! coffer's own targets; then criterion's measurements of the kernel in use.

#[path = "support/bare.rs"]
mod bare;
#[path = "support/settings.rs"]
mod settings;

use aes::Aes256;
use cipher::{Array, KeyInit};
use coffer::cipher::wrap::{BackingKey, EncryptionContext, KeyId, WrappingKey};
use coffer::cipher::xts::{At, Kernel, XtsCipher};
use coffer::cipher::{DataKey, Unwrapped};
use coffer::env::SystemRng;
use coffer::units::SectorNo;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use openssl::cipher_ctx::CipherCtx;
use std::hint::black_box;
use std::time::Instant;

const SECTOR: usize = 4096;
/// Rounds of the table, and bytes processed per sample of a round.
const ROUNDS: usize = 41;
const BYTES: usize = 2 << 20;
const AT: At = At::sector(SectorNo(11));

fn key() -> Unwrapped<DataKey> {
    let backing: &dyn WrappingKey = &BackingKey::generate(KeyId::draw(&SystemRng));
    backing.new_data_key(&EncryptionContext::new(), &SystemRng).expect("a data key").1
}

/// OpenSSL's XTS, one call per sector. Its time does not depend on the key; equal halves are not allowed.
fn openssl() -> impl FnMut(&[u8], &mut [u8]) {
    let key: [u8; 64] = std::array::from_fn(|i| i as u8);
    let mut ctx = CipherCtx::new().expect("a context");
    ctx.encrypt_init(Some(openssl::cipher::Cipher::aes_256_xts()), Some(&key), Some(&[0; 16])).expect("a key");
    move |from, to| {
        for (i, (from, to)) in from.chunks(SECTOR).zip(to.chunks_mut(SECTOR)).enumerate() {
            ctx.encrypt_init(None, None, Some(&(i as u128).to_le_bytes())).expect("a tweak");
            ctx.cipher_update(from, Some(to)).expect("sealed");
        }
    }
}

/// Returns the rate of one sample in GB/s.
fn rate(size: usize, mut act: impl FnMut()) -> f64 {
    let times = BYTES / size;
    let started = Instant::now();
    (0..times).for_each(|_| act());
    (times * size) as f64 / started.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A column of the table: the operation, and its baseline.
struct Column {
    rates: Vec<f64>,
    ratios: Vec<f64>,
}

fn table(key: &Unwrapped<DataKey>) {
    println!(
        "GB/s; in brackets over the bare rate in registers of the same width, median of {ROUNDS} interleaved rounds"
    );
    println!(
        "{:<9} {:>8}  {:>6} {:>14} {:>14} {:>14} {:>14} {:>16}",
        "kernel", "bytes", "bare", "seal", "open", "open_parts", "seal_to", "seal/OpenSSL"
    );
    for kernel in Kernel::available() {
        let Some(xts) = XtsCipher::with_kernel(key, kernel) else { continue };
        for size in [SECTOR, 16 << 10, 128 << 10, 1 << 20] {
            row(&xts, kernel, size);
        }
    }
}

fn row(xts: &XtsCipher, kernel: Kernel, size: usize) {
    let (seal, open) = (bare::loop_of(kernel, true), bare::loop_of(kernel, false));
    let (mut room, mut out, mut reference) = (vec![0x5au8; size], vec![0u8; size], openssl());
    let mut columns: [Column; 6] = std::array::from_fn(|_| Column { rates: Vec::new(), ratios: Vec::new() });
    for _ in 0..ROUNDS {
        let bare_seal = seal.map(|f| rate(size, || f(black_box(&mut room))));
        let bare_open = open.map(|f| rate(size, || f(black_box(&mut room))));
        let theirs = rate(size, || reference(black_box(&room), black_box(&mut out)));
        let sealed = rate(size, || {
            let _sealed = xts.seal(AT, black_box(&mut room));
        });
        let samples = [
            (bare_seal.unwrap_or(f64::NAN), None),
            (sealed, bare_seal),
            (rate(size, || xts.open(AT, black_box(&mut room))), bare_open),
            (rate(size, || xts.open_parts(AT, black_box(&mut room))), bare_open),
            (
                rate(size, || {
                    let _sealed = xts.seal_to(AT, black_box(&room), black_box(&mut out));
                }),
                bare_seal,
            ),
            (theirs, Some(sealed)),
        ];
        for (column, (rate, base)) in columns.iter_mut().zip(samples) {
            column.rates.push(rate);
            column.ratios.extend(base.map(|b| rate / b));
        }
    }
    let [bare, seal, open, parts, to, theirs] = columns.map(|c| {
        let ratio = (!c.ratios.is_empty()).then(|| median(c.ratios));
        (median(c.rates), ratio)
    });
    let cell = |(rate, ratio): (f64, Option<f64>)| match ratio {
        Some(ratio) => format!("{rate:.2} ({ratio:.2})"),
        None => format!("{rate:.2}"),
    };
    let over = theirs.1.map_or(f64::NAN, |r| 1.0 / r);
    // The targets: 0.85 of the bare rate from 16 KiB on, 0.6 for one sector; AES-NI without vector extensions at least
    // OpenSSL's rate.
    let least = if size == SECTOR { 0.6 } else { 0.85 };
    let met = match kernel {
        Kernel::Avx512 | Kernel::Vaes => Some([seal, open, parts, to].iter().all(|c| c.1.is_some_and(|r| r >= least))),
        Kernel::AesNi => Some(over >= 1.0),
        _ => None,
    };
    let said = met.map_or("", |met| if met { "met" } else { "MISSED" });
    println!(
        "{:<9} {size:>8}  {:>6} {:>14} {:>14} {:>14} {:>14} {over:>16.2}  {said}",
        format!("{kernel:?}"),
        cell(bare),
        cell(seal),
        cell(open),
        cell(parts),
        cell(to)
    );
}

fn cipher(c: &mut Criterion) {
    let key = key();
    table(&key);
    let xts = XtsCipher::new(&key);
    let halves = |b: u8| Aes256::new(&Array::from([b; 32]));
    let slow = xts_mode::Xts128::<Aes256>::new(halves(1), halves(2));
    let mut reference = openssl();
    let mut group = c.benchmark_group(format!("cipher, {:?}", xts.kernel()));
    for size in [SECTOR, 128 << 10] {
        let source = vec![0x5au8; size];
        let mut room = source.clone();
        let mut bench = |name: &str, act: &mut dyn FnMut(&[u8], &mut [u8])| {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| act(black_box(&source), black_box(&mut room)));
            });
        };
        bench("floor: memcpy", &mut |from, to| to.copy_from_slice(from));
        if let Some(bare) = bare::loop_of(xts.kernel(), true) {
            bench("floor: bare AES-256 blocks", &mut |_, to| bare(to));
        }
        bench("floor: OpenSSL XTS", &mut |from, to| reference(from, to));
        bench("floor: xts-mode", &mut |_, to| slow.encrypt_area(to, SECTOR, 11, xts_mode::get_tweak_default));
        bench("seal", &mut |_, to| {
            let _sealed = xts.seal(AT, to);
        });
        bench("seal_to", &mut |from, to| {
            let _sealed = xts.seal_to(AT, from, to);
        });
        bench("open", &mut |_, to| xts.open(AT, to));
        bench("open_parts", &mut |_, to| xts.open_parts(AT, to));
        bench("open_parts_to", &mut |from, to| xts.open_parts_to(AT, from, to));
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = cipher }
criterion_main!(benches);
