//! Measurements in this process: the cipher compared with memcpy, and the plain file that is the server's floor.

use super::Row;
use crate::cipher::wrap::{BackingKey, EncryptionContext, KeyId, WrappingKey};
use crate::cipher::xts::{At, XtsCipher};
use crate::env::{Rng, SystemRng};
use crate::error::{IoContext, Result};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Repeats `act`, which processes `bytes`, for `time`.
fn repeat(what: &str, bytes: usize, time: Duration, mut act: impl FnMut() -> Result<()>) -> Result<Row> {
    act()?;
    let (started, before) = (Instant::now(), cpu());
    let mut latencies = Vec::with_capacity(1 << 20);
    let mut last = started;
    while last - started < time {
        act()?;
        let now = Instant::now();
        latencies.push(now - last);
        last = now;
    }
    let (elapsed, used) = ((last - started).as_secs_f64(), cpu() - before);
    let total = latencies.len() as f64 * bytes as f64;
    latencies.sort_unstable();
    let percentile = |p: usize| latencies.get(latencies.len() * p / 100).map(|d| d.as_secs_f64() * 1e6);
    Ok(Row {
        what: what.to_owned(),
        rate: total / elapsed,
        iops: Some(latencies.len() as f64 / elapsed),
        p50: percentile(50),
        p99: percentile(99),
        cpu_per_gib: Some(used / (total / (1u64 << 30) as f64)),
        floor: None,
    })
}

/// AES-256-XTS in calls of 4 KiB and 128 KiB, compared with memcpy.
pub(super) fn cipher(time: Duration) -> Result<Vec<Row>> {
    let backing: &dyn WrappingKey = &BackingKey::generate(KeyId::draw(&SystemRng));
    let (_, key) = backing.new_data_key(&EncryptionContext::new(), &SystemRng)?;
    let cipher = XtsCipher::new(&key);
    let at = At::new(0).unwrap_or_else(|| At::sector(crate::units::SectorNo(0)));
    let source = vec![0x5au8; 128 << 10];
    let mut room = source.clone();
    let floor = repeat("memcpy 128 KiB", source.len(), time / 2, || {
        black_box(&mut room).copy_from_slice(black_box(&source));
        Ok(())
    })?;
    let mut rows = vec![floor.clone()];
    for (size, name) in [(4 << 10, "4 KiB"), (128 << 10, "128 KiB")] {
        for seal in [true, false] {
            let verb = if seal { "seal" } else { "open" };
            let mut row =
                repeat(&format!("AES-256-XTS {verb} {name} ({:?})", cipher.kernel()), size, time / 2, || {
                    let buf = black_box(&mut room[..size]);
                    if seal {
                        cipher.seal(at, buf);
                    } else {
                        cipher.open(at, buf);
                    }
                    Ok(())
                })?;
            row.floor = Some((floor.what.clone(), row.rate / floor.rate));
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A plain file on the same disk, with a warm page cache: no single-threaded server can be faster.
pub(super) fn file(dir: &Path, size: u64, time: Duration) -> Result<Vec<Row>> {
    let path = dir.join("floor");
    let what = || format!("measure {}", path.display());
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).on(what)?;
    let mut buf = vec![0u8; 128 << 10];
    SystemRng.fill(&mut buf);
    let mut at = 0;
    while at < size {
        file.write_all_at(&buf, at).on(what)?;
        at += buf.len() as u64;
    }
    let mut rows = Vec::new();
    for (name, write, random, block) in [
        ("file write 128 KiB", true, false, 128usize << 10),
        ("file read 128 KiB", false, false, 128 << 10),
        ("file random write 4 KiB", true, true, 4 << 10),
        ("file random read 4 KiB", false, true, 4 << 10),
    ] {
        let (mut n, blocks) = (1u64, size / block as u64);
        rows.push(repeat(name, block, time, || {
            n = if random {
                n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
            } else {
                n + 1
            };
            let offset = (n >> if random { 20 } else { 0 }) % blocks * block as u64;
            let part = &mut buf[..block];
            if write { file.write_all_at(part, offset).on(what) } else { file.read_exact_at(part, offset).on(what) }
        })?);
    }
    drop(file);
    std::fs::remove_file(&path).on(what)?;
    Ok(rows)
}
