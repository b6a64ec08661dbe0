//! The KMS in process, without HTTP, each request recorded durably:
//!
//! ```sh
//! cargo bench --bench kms                          # requests a second at 1 and 16 threads
//! cargo bench --bench kms -- scale KEYS RECORDS    # an installation of that size beside a new one
//! ```
//!
//! `scale` fills an installation in /dev/shm, where syncs cost nothing, and measures a copy of it on disk.

use coffer::env::Env;
use coffer::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use coffer::service::aws::find;
use coffer::service::datadir::DataDir;
use coffer::service::{GRACE, OpenAs, Role, Service};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a rate is measured.
const TIME: Duration = Duration::from_secs(2);
/// Rounds of `scale`; each measures both installations.
const ROUNDS: usize = 7;
/// Requests of each kind in a round of `scale`.
const REQUESTS: usize = 200;

/// An installation in a scratch directory.
struct Installation {
    service: Arc<Service>,
    caller: Caller,
}

impl Installation {
    fn init(dir: &Path) {
        let data = DataDir::at(&dir.join("data")).expect("a path");
        let config = InstallationConfig::default();
        Service::init(&data, &Env::system(), &RootChoice::File(dir.join("root.key")), &config).expect("init");
    }

    fn open(dir: &Path) -> Self {
        let (data, env) = (DataDir::at(&dir.join("data")).expect("a path"), Env::system());
        let lock = data.try_lock(&env, "bench").expect("a lock").expect("not in use");
        let opening = OpenAs { role: Role::Daemon, single_host: false, lease_grace: GRACE };
        let unlock = RootUnlock::File(dir.join("root.key"));
        let service = Service::open(data, env, lock, &unlock, opening).expect("open");
        let caller = service.caller_of(0, "bench").expect("root");
        Self { service, caller }
    }

    fn ask(&self, operation: &str, input: Value) -> Value {
        let entry = find(&format!("kms:{operation}")).expect("an operation");
        self.service.aws(&self.caller, entry, input).expect("an answer")
    }

    fn create_key(&self, spec: &str, usage: &str) -> String {
        let made = self.ask("CreateKey", json!({"KeySpec": spec, "KeyUsage": usage}));
        made["KeyMetadata"]["KeyId"].as_str().expect("an id").to_owned()
    }

    fn encrypt(&self, key: &str) -> Value {
        self.ask("Encrypt", json!({"KeyId": key, "Plaintext": "dGV4dA=="}))["CiphertextBlob"].clone()
    }

    /// Has 16 threads do `act` for each of `count` numbers.
    fn fill(&self, count: usize, act: impl Fn(&Self, usize) + Sync) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while let n = next.fetch_add(1, Ordering::Relaxed)
                        && n < count
                    {
                        act(self, n);
                    }
                });
            }
        });
    }
}

fn scratch(on: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix("coffer-kms-").tempdir_in(on).expect("a scratch directory")
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Requests a second of a case, and the median latency in ms.
fn rate(of: &Installation, threads: usize, operation: &str, input: &Value) -> (f64, f64) {
    let from = Instant::now();
    let one = || {
        let mut latencies = Vec::new();
        while from.elapsed() < TIME {
            let at = Instant::now();
            of.ask(operation, input.clone());
            latencies.push(at.elapsed().as_secs_f64() * 1e3);
        }
        latencies
    };
    let all: Vec<f64> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().flat_map(|t| t.join().expect("a thread")).collect()
    });
    (all.len() as f64 / from.elapsed().as_secs_f64(), median(all))
}

/// The floor: appends of a record's size to a file, each with a sync.
fn syncs(dir: &Path) -> f64 {
    use std::io::Write;
    let mut file = std::fs::File::create(dir.join("floor")).expect("a file");
    file.write_all(&vec![0; 4 << 20]).expect("allocated");
    file.sync_all().expect("synced");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let (from, mut count) = (Instant::now(), 0);
    while from.elapsed() < TIME {
        file.write_all(&[1; 600]).expect("written");
        file.sync_data().expect("synced");
        count += 1;
    }
    f64::from(count) / from.elapsed().as_secs_f64()
}

fn rates() {
    let dir = scratch("/var/tmp");
    Installation::init(dir.path());
    let of = Installation::open(dir.path());
    let (aes, ec) =
        (of.create_key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), of.create_key("ECC_NIST_P256", "SIGN_VERIFY"));
    let cases = [
        ("GenerateDataKey", json!({"KeyId": aes, "KeySpec": "AES_256"})),
        ("Encrypt", json!({"KeyId": aes, "Plaintext": "dGV4dA=="})),
        ("Decrypt", json!({"CiphertextBlob": of.encrypt(&aes)})),
        ("Sign", json!({"KeyId": ec, "Message": "dGV4dA==", "SigningAlgorithm": "ECDSA_SHA_256"})),
    ];
    println!("{:<24} {:>7} {:>12} {:>9}", "", "threads", "requests/s", "p50 ms");
    println!("{:<24} {:>7} {:>12.0}", "floor: write and sync", 1, syncs(dir.path()));
    for (operation, input) in &cases {
        for threads in [1, 16] {
            let (rate, p50) = rate(&of, threads, operation, input);
            println!("{operation:<24} {threads:>7} {rate:>12.0} {p50:>9.3}");
        }
    }
    of.service.shut_down();
}

/// Makes an installation of so many keys, a tenth of them with an alias, and records; returns where it lies on disk.
fn filled(keys: usize, records: usize) -> tempfile::TempDir {
    let memory = scratch("/dev/shm");
    Installation::init(memory.path());
    let of = Installation::open(memory.path());
    let key = of.create_key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT");
    of.ask("CreateAlias", json!({"AliasName": "alias/bench", "TargetKeyId": key}));
    of.fill(keys.saturating_sub(1), |of, n| {
        let id = of.create_key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT");
        if n % 10 == 0 {
            of.ask("CreateAlias", json!({"AliasName": format!("alias/bench-{n}"), "TargetKeyId": id}));
        }
    });
    of.fill(records, |of, _| {
        of.ask("GenerateDataKeyWithoutPlaintext", json!({"KeyId": "alias/bench", "NumberOfBytes": 32}));
    });
    of.service.shut_down();
    drop(of);
    let disk = scratch("/var/tmp");
    let copied = std::process::Command::new("cp").arg("-a").arg(memory.path().join(".")).arg(disk.path()).status();
    assert!(copied.is_ok_and(|status| status.success()), "copied");
    rustix::fs::sync();
    disk
}

/// Milliseconds of a start, and of each kind of request.
fn look(dir: &Path) -> Vec<(&'static str, f64)> {
    let from = Instant::now();
    let of = Installation::open(dir);
    let start = from.elapsed().as_secs_f64() * 1e3;
    let blob = of.encrypt("alias/bench");
    let first = of.ask("ListKeys", json!({"Limit": 1}))["Keys"][0]["KeyId"].clone();
    let time = |operation: &str, input: Value| {
        let one = |_| {
            let from = Instant::now();
            of.ask(operation, input.clone());
            from.elapsed().as_secs_f64() * 1e3
        };
        median((0..REQUESTS).map(one).collect())
    };
    let seen = vec![
        ("start", start),
        ("ListKeys, 1", time("ListKeys", json!({"Limit": 1}))),
        ("ListAliases, 1", time("ListAliases", json!({"Limit": 1}))),
        ("DescribeKey", time("DescribeKey", json!({"KeyId": first}))),
        ("DescribeKey by alias", time("DescribeKey", json!({"KeyId": "alias/bench"}))),
        ("Decrypt", time("Decrypt", json!({"CiphertextBlob": blob}))),
        ("CreateKey", time("CreateKey", json!({}))),
    ];
    of.service.shut_down();
    seen
}

fn scale(keys: usize, records: usize) {
    let (empty, full) = (filled(1, 0), filled(keys, records));
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (look(empty.path()), look(full.path()))).collect();
    println!("{:<24} {:>12} {:>16} {:>7}", "ms", "1 key", format!("{keys} keys"), "ratio");
    for at in 0..rounds.first().map_or(0, |(small, _)| small.len()) {
        let one = median(rounds.iter().map(|(small, _)| small[at].1).collect());
        let many = median(rounds.iter().map(|(_, large)| large[at].1).collect());
        println!("{:<24} {one:>12.3} {many:>16.3} {:>7.2}", rounds[0].0[at].0, many / one);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["scale", keys, records] => {
            scale(keys.parse().expect("a number of keys"), records.parse().expect("a number of records"));
        }
        _ => rates(),
    }
}
