//! Searches for secrets: in files, in output, and in the memory of a living process.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a secret that are searched for at once: whoever has so many of them has half of a key.
const PIECE: usize = 16;

/// A secret in one of the forms in which it could leak.
pub struct Needle {
    what: String,
    form: &'static str,
    pub bytes: Vec<u8>,
}

impl Needle {
    pub const fn form(&self) -> &'static str {
        self.form
    }
}

pub fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> Vec<u8> {
    // Only whole groups of three: the bytes before and after do not affect them.
    let group = |g: &[u8]| {
        let n = u32::from(g[0]) << 16 | u32::from(g[1]) << 8 | u32::from(g[2]);
        [18, 12, 6, 0].map(|shift| alphabet[(n >> shift) as usize & 63])
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

/// Raw, hexadecimal, base64 (both alphabets, at each of the three alignments), and decimal as a list of bytes.
pub fn needles(what: &str, secret: &[u8]) -> Vec<Needle> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let needle = |form, bytes| Needle { what: what.to_owned(), form, bytes };
    let list = |sep: &str| secret[..12].iter().map(u8::to_string).collect::<Vec<_>>().join(sep).into_bytes();
    let mut out = vec![
        needle("raw", secret.to_vec()),
        needle("hex", hex.clone().into_bytes()),
        needle("HEX", hex.to_uppercase().into_bytes()),
        needle("a list of bytes", list(", ")),
        needle("a list of bytes", list(",")),
    ];
    for last in [b"+/", b"-_"] {
        let alphabet: [u8; 64] = [&LETTERS[..], last].concat().try_into().unwrap();
        out.extend((0..3).map(|skip| needle("base64", base64(&secret[skip..], &alphabet))));
    }
    out
}

/// The needles of every piece of a secret: a part that something overwrote does not hide the rest.
pub fn pieces(what: &str, secret: &[u8]) -> Vec<Needle> {
    assert!(secret.len() >= PIECE, "{what} is too short to be recognised");
    let at = |n: usize| format!("{what}, bytes {} to {}", n * PIECE, (n + 1) * PIECE);
    secret.chunks_exact(PIECE).enumerate().flat_map(|(n, piece)| needles(&at(n), piece)).collect()
}

pub fn has(hay: &[u8], needle: &[u8]) -> bool {
    needle.len() <= hay.len() && hay.windows(needle.len()).any(|w| w == needle)
}

/// Returns which of the secrets occur in these bytes.
pub fn found(needles: &[Needle], place: &str, bytes: &[u8]) -> Vec<String> {
    // By their first bytes, of which two are looked at before all: there is much to search, and there are many needles.
    const START: usize = 8;
    let two = |b: &[u8]| usize::from(b[0]) << 8 | usize::from(b[1]);
    let (mut likely, mut starts) = (vec![false; 1 << 16], HashMap::<&[u8], Vec<usize>>::new());
    for (n, needle) in needles.iter().enumerate() {
        likely[two(&needle.bytes)] = true;
        starts.entry(&needle.bytes[..START]).or_default().push(n);
    }
    let mut seen = vec![false; needles.len()];
    for (at, window) in bytes.windows(START).enumerate().filter(|(_, window)| likely[two(window)]) {
        for n in starts.get(window).into_iter().flatten() {
            seen[*n] |= bytes[at..].starts_with(&needles[*n].bytes);
        }
    }
    let all = needles.iter().zip(seen).filter(|(_, seen)| *seen);
    all.map(|(n, _)| format!("{} as {} in {place}", n.what, n.form)).collect()
}

/// A mapping of a living process: its pages that are not all zeros.
struct Mapping {
    name: String,
    locked: bool,
    bytes: Vec<u8>,
}

/// The memory of a living process.
pub struct Memory(Vec<Mapping>);

impl Memory {
    /// Reads every readable mapping; needs root.
    pub fn of(pid: u32) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let mem = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut memory = Self(Vec::new());
        let mut mapping = None;
        for line in maps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            if let Some((from, to)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                mapping = rest.starts_with('r').then(|| (line.to_owned(), number(from), number(to)));
            } else if let ("VmFlags:", Some((name, from, to))) = (first, &mapping) {
                let locked = rest.split_whitespace().any(|flag| flag == "lo");
                memory.0.push(Mapping { name: name.clone(), locked, bytes: pages(&mem, *from, *to) });
            }
        }
        let read: usize = memory.0.iter().map(|m| m.bytes.len()).sum();
        assert!(read > 1 << 20, "only {read} bytes of the server were read");
        memory
    }

    /// Whether it has these bytes.
    pub fn has(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|m| has(&m.bytes, bytes))
    }

    /// Which of the secrets are anywhere but in locked pages: the pool of keys.
    pub fn outside_of_the_pool(&self, needles: &[Needle]) -> Vec<String> {
        self.0.iter().filter(|m| !m.locked).flat_map(|m| found(needles, &m.name, &m.bytes)).collect()
    }

    /// Which of the secrets are in the pool of keys.
    pub fn in_the_pool(&self, needles: &[Needle]) -> Vec<String> {
        self.0.iter().filter(|m| m.locked).flat_map(|m| found(needles, &m.name, &m.bytes)).collect()
    }

    /// Which of the secrets are anywhere.
    pub fn anywhere(&self, needles: &[Needle]) -> Vec<String> {
        self.0.iter().flat_map(|m| found(needles, &m.name, &m.bytes)).collect()
    }
}

/// Waits until none of the secrets are in a process's memory.
#[track_caller]
pub fn wait_until_gone(pid: u32, needles: &[Needle], when: &str) {
    let until = std::time::Instant::now() + super::PATIENCE / 6;
    loop {
        let left = Memory::of(pid).anywhere(needles);
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < until, "{when}: {left:#?}");
    }
}

/// The pages of a mapping that are not all zeros.
fn pages(mem: &File, from: u64, to: u64) -> Vec<u8> {
    const AT_ONCE: usize = 1 << 20;
    let (mut out, mut part, mut at) = (Vec::new(), vec![0; AT_ONCE], from);
    while at < to {
        let len = AT_ONCE.min((to - at) as usize);
        // A page that cannot be read, such as [vvar], is none of the program's.
        let Ok(n @ 1..) = mem.read_at(&mut part[..len], at) else {
            at += 4096;
            continue;
        };
        for page in part[..n].chunks(4096).filter(|page| page.iter().any(|b| *b != 0)) {
            out.extend_from_slice(page);
        }
        at += n as u64;
    }
    out
}
