//! AES-256-XTS beside memcpy and beside the bare block cipher: in place, out of place, and the hole rule on read.

use aes::Aes256Enc;
use cipher::{Array, BlockCipherEncrypt, KeyInit};
use coffer::cipher::wrap::{BackingKey, EncryptionContext, KeyId};
use coffer::cipher::xts::{At, XtsCipher};
use coffer::env::SystemRng;
use coffer::units::SectorNo;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn cipher(c: &mut Criterion) {
    let backing = BackingKey::generate(KeyId::draw(&SystemRng));
    let (_, key) = backing.new_data_key(&EncryptionContext::new(), &SystemRng).expect("a data key");
    let xts = XtsCipher::new(&key);
    let bare = Aes256Enc::new(&Array::from([7u8; 32]));
    let mut group = c.benchmark_group("cipher");
    for size in [4 << 10, 16 << 10, 128 << 10, 1 << 20] {
        let source = vec![0x5au8; size];
        let mut room = source.clone();
        let at = At::sector(SectorNo(11));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("floor: memcpy", size), |b| {
            b.iter(|| black_box(&mut room).copy_from_slice(black_box(&source)));
        });
        group.bench_function(BenchmarkId::new("floor: bare AES-256 blocks", size), |b| {
            b.iter(|| bare.encrypt_blocks(Array::slice_as_chunks_mut(black_box(&mut room)).0));
        });
        group.bench_function(BenchmarkId::new("seal", size), |b| b.iter(|| xts.seal(at, black_box(&mut room))));
        group.bench_function(BenchmarkId::new("seal_to", size), |b| {
            b.iter(|| xts.seal_to(at, black_box(&source), black_box(&mut room)));
        });
        group.bench_function(BenchmarkId::new("open", size), |b| b.iter(|| xts.open(at, black_box(&mut room))));
        group.bench_function(BenchmarkId::new("open_parts", size), |b| {
            b.iter(|| xts.open_parts(at, black_box(&mut room)));
        });
    }
    group.finish();
}

criterion_group!(benches, cipher);
criterion_main!(benches);
