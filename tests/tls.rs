//! NBD over TLS: third-party clients, who may open what, and hostile clients, none of which may hold up the others.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod, SslStream, SslVersion};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB: usize = 1 << 20;
const ACK: u32 = 1;
const ERR_POLICY: u32 = (1 << 31) + 2;
const ERR_INVALID: u32 = (1 << 31) + 3;
const ERR_TLS_REQD: u32 = (1 << 31) + 5;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;

/// A data directory with the volumes `web` and `db`, a CA, and the client `client`, which may use `web`.
fn rig() -> Scratch {
    let s = Scratch::new();
    for name in ["web", "db"] {
        s.ok(&["volume", "create", "--size", "16MiB", "--name", name]);
    }
    make_ca(&s, "tls");
    s.ok(&["tls", "allow", "client", "--volume", "web"]);
    s
}

fn make_ca(s: &Scratch, folder: &str) {
    let dir = s.path(folder);
    s.ok(&["tls", "init", "--dir", dir.to_str().unwrap(), "--name", "localhost", "--name", "127.0.0.1"]);
}

fn serve(s: &Scratch) -> (Served<'_>, u16) {
    serve_with(s, &[])
}

fn serve_with<'a>(s: &'a Scratch, more: &[&str]) -> (Served<'a>, u16) {
    let dir = s.path("tls");
    let served = s.serve_with(&[&["--listen", "tcp:127.0.0.1:0", "--tls", dir.to_str().unwrap()], more].concat());
    let status = s.json(&["status"]);
    let place = status["nbd"][0].as_str().unwrap().to_owned();
    let port: u16 = place.strip_prefix("tcp:127.0.0.1:").unwrap().parse().unwrap();
    assert_ne!(port, 0, "{place}");
    (served, port)
}

fn client_dir(s: &Scratch) -> PathBuf {
    s.path("tls/clients/client")
}

fn uri(port: u16, name: &str, folder: &Path) -> String {
    format!("nbds://localhost:{port}/{name}?tls-certificates={}", folder.display())
}

#[track_caller]
fn good(program: &str, args: &[&str]) -> String {
    let out = output(Command::new(program).args(args));
    assert_eq!(out.code, 0, "{program} {args:?}: {out:?}");
    out.stdout
}

/// A client that speaks NBD by hand, plain or over OpenSSL's TLS.
struct Hand<S: Read + Write>(S);

impl Hand<TcpStream> {
    fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hand = Self(socket);
        assert_eq!(hand.get(18)[..16], *b"NBDMAGICIHAVEOPT");
        hand.0.write_all(&3u32.to_be_bytes()).unwrap();
        hand
    }

    /// Starts TLS and does the handshake; TLS 1.3's client is done before the server has verified its certificate.
    fn secure(
        mut self,
        folder: &Path,
        how: impl FnOnce(&mut SslConnectorBuilder),
    ) -> Result<Hand<SslStream<TcpStream>>, String> {
        assert_eq!(self.ask(STARTTLS, &[]).0, ACK);
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_ca_file(folder.join("ca-cert.pem")).unwrap();
        if folder.join("client-cert.pem").exists() {
            builder.set_certificate_chain_file(folder.join("client-cert.pem")).unwrap();
            builder.set_private_key_file(folder.join("client-key.pem"), SslFiletype::PEM).unwrap();
        }
        how(&mut builder);
        builder.build().connect("localhost", self.0).map(Hand).map_err(|e| e.to_string())
    }
}

impl<S: Read + Write> Hand<S> {
    fn get(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.0.read_exact(&mut out).unwrap();
        out
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Returns the first reply to an option that is not information, and its text.
    fn ask(&mut self, option: u32, data: &[u8]) -> (u32, String) {
        self.put(&raw::option(option, data));
        loop {
            let head = self.get(20);
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let data = self.get(word(16) as usize);
            if !matches!(word(12), 2 | 3) {
                return (word(12), String::from_utf8_lossy(&data).into_owned());
            }
        }
    }

    fn go(&mut self, name: &str) -> (u32, String) {
        self.ask(GO, &raw::query(name, &[]))
    }

    fn read_at(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.put(&raw::request(raw::READ, 0, 7, offset, len));
        assert_eq!(self.get(16)[4..8], [0; 4]);
        self.get(len as usize)
    }

    /// Waits for the server to hang up, discarding whatever it sent before.
    fn expect_hangup(&mut self) {
        let mut sink = [0; 4096];
        loop {
            match self.0.read(&mut sink) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) => {
                    let waited = matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                    assert!(!waited, "the server did not hang up");
                    return;
                }
            }
        }
    }
}

/// A client that must be served whatever the others do.
fn secured(s: &Scratch, port: u16) -> Hand<SslStream<TcpStream>> {
    let mut hand = Hand::connect(port).secure(&client_dir(s), |_| {}).unwrap();
    assert_eq!(hand.go("web").0, ACK);
    hand
}

#[test]
fn libnbd_and_nbdkit_copy_there_and_back() {
    if !requires("nbdinfo") || !requires("nbdcopy") {
        return;
    }
    let s = rig();
    let (served, port) = serve(&s);
    let web = uri(port, "web", &client_dir(&s));
    assert!(good("nbdinfo", &[&web]).contains("newstyle-fixed with TLS"));
    let listed = good("nbdinfo", &["--list", &uri(port, "", &client_dir(&s))]);
    assert!(listed.contains("export=\"web\"") && !listed.contains("export=\"db\""), "{listed}");
    let (image, back) = (s.path("image"), s.path("back"));
    std::fs::write(&image, noise(1, 16 * MIB)).unwrap();
    good("nbdcopy", &["--connections=4", image.to_str().unwrap(), &web]);
    good("nbdcopy", &["--connections=4", &web, back.to_str().unwrap()]);
    assert!(std::fs::read(&image).unwrap() == std::fs::read(&back).unwrap());
    if requires("nbdkit") {
        let folder = format!("tls-certificates={}", client_dir(&s).display());
        let plain = format!("port={port}");
        let run = "nbdcopy \"$uri\" - | cmp - \"$IMAGE\"";
        let args = ["-U", "-", "nbd", "hostname=localhost", &plain, "export=web", "tls=require", &folder, "--run", run];
        let out = output(Command::new("nbdkit").env("IMAGE", &image).args(args));
        assert_eq!(out.code, 0, "{out:?}");
    }
    assert_eq!(served.stop(), 0);
}

/// nbd-client supports nothing newer. The access rules are the same, and nothing older is accepted.
#[test]
fn tls_1_2_is_spoken_when_asked_for_alone() {
    let s = rig();
    s.fails(2, &["serve", "--tls12"], &["--tls"]);
    let (_served, port) = serve_with(&s, &["--tls12"]);
    let version = |version| {
        Hand::connect(port).secure(&client_dir(&s), move |b| {
            b.set_min_proto_version(Some(version)).unwrap();
            b.set_max_proto_version(Some(version)).unwrap();
        })
    };
    for good in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut client = version(good).unwrap();
        assert_eq!(client.go("db").0, ERR_POLICY);
        assert_eq!(client.go("web").0, ACK);
        assert_eq!(client.read_at(0, 512), [0; 512]);
    }
    version(SslVersion::TLS1_1).map(drop).unwrap_err();
    let nobody = s.path("nobody");
    std::fs::create_dir(&nobody).unwrap();
    std::fs::copy(s.path("tls/ca-cert.pem"), nobody.join("ca-cert.pem")).unwrap();
    let anonymous = Hand::connect(port).secure(&nobody, |b| b.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap());
    assert_eq!(anonymous.unwrap().go("web").0, ERR_POLICY);
}

#[test]
fn qemu_reads_and_writes() {
    if !requires("qemu-io") || !requires("qemu-img") {
        return;
    }
    let s = rig();
    let (_served, port) = serve(&s);
    let creds = format!("tls-creds-x509,id=t,dir={},endpoint=client", client_dir(&s).display());
    let image = format!("driver=nbd,host=localhost,port={port},export=web,tls-creds=t");
    let (write, read) = ("write -P 0x5a 1000 700000", "read -P 0x5a 1000 700000");
    let said = good("qemu-io", &["--object", &creds, "--image-opts", "-c", write, "-c", read, &image]);
    assert!(said.contains("wrote 700000/700000") && said.contains("read 700000/700000"), "{said}");
    let out = s.path("out");
    good("qemu-img", &["convert", "--object", &creds, "--image-opts", &image, "-O", "raw", out.to_str().unwrap()]);
    let got = std::fs::read(out).unwrap();
    assert!(got.len() == 16 * MIB && got[1000..701_000].iter().all(|b| *b == 0x5a) && got[701_000] == 0);
    // qemu-nbd requests the list, and describes each export with its contexts.
    let place = ["-L", "-b", "localhost", "-p", &port.to_string()].map(str::to_owned);
    let place: Vec<_> = place.iter().map(String::as_str).chain(["--object", &creds, "--tls-creds=t"]).collect();
    let listed = good("qemu-nbd", &place);
    for word in ["export: 'web'", "base:allocation", "coffer:changed"] {
        assert!(listed.contains(word), "no {word} in {listed}");
    }
    assert!(!listed.contains("'db'"), "{listed}");
}

#[test]
fn strangers_are_refused_and_audited_and_a_token_lets_in() {
    let s = rig();
    let (_served, port) = serve(&s);
    let anonymous = s.path("anonymous");
    std::fs::create_dir(&anonymous).unwrap();
    std::fs::copy(s.path("tls/ca-cert.pem"), anonymous.join("ca-cert.pem")).unwrap();
    let token = s.id(&["tls", "token", "laptop", "--volume", "web", "--user", "ann"]);
    let dir = s.path("tls");
    s.ok(&["tls", "client", "other", "--dir", dir.to_str().unwrap()]);

    let mut hand = Hand::connect(port).secure(&anonymous, |_| {}).unwrap();
    assert_eq!(hand.ask(LIST, &[]), (ACK, String::new()));
    for (name, words) in [
        ("web".to_owned(), "without a certificate or a token may not use volume web"),
        // The same whether or not such a volume exists.
        ("none".to_owned(), "without a certificate or a token may not use volume none"),
        ("web?t=tok-00".to_owned(), "unknown token"),
        (format!("db?t={token}"), "laptop may not use volume db"),
    ] {
        let (code, said) = hand.go(&name);
        assert!(code == ERR_POLICY && said.contains(words), "{name}: {code:#x} {said}");
    }
    assert_eq!(hand.go(&format!("web?t={token}")).0, ACK);
    let mut other = Hand::connect(port).secure(&s.path("tls/clients/other"), |_| {}).unwrap();
    assert!(other.go("web").1.contains("a client with the certificate other may not use volume web"));
    // Allowed, but someone else holds it.
    let mut late = Hand::connect(port).secure(&client_dir(&s), |_| {}).unwrap();
    assert!(late.go("web").1.contains("held by the TLS client laptop"));

    let events = s.json(&["audit", "list"])["events"].to_string();
    for words in ["refused", "anonymous", "\\\"other\\\"", "user/ann", "sha256:"] {
        let words = words.replace("\\\"", "\"");
        assert!(events.contains(&words), "{words}: {events}");
    }
    assert!(!events.contains(&token) && !s.log().contains(&token));
    // A second open by the holder is accepted; once it is denied, no more.
    s.ok(&["tls", "deny", "laptop"]);
    let mut hand = Hand::connect(port).secure(&anonymous, |_| {}).unwrap();
    assert!(hand.go(&format!("web?t={token}")).1.contains("unknown token"));
    s.fails(4, &["tls", "deny", "laptop"], &["laptop has no access"]);
    assert_eq!(s.ids(&["tls", "list"]), ["client"]);
}

#[test]
fn nothing_is_done_before_tls_and_nothing_plain_is_kept() {
    let s = rig();
    let (_served, port) = serve(&s);
    let mut bystander = secured(&s, port);
    let mut hand = Hand::connect(port);
    for (option, data) in [
        (LIST, vec![]),
        (INFO, raw::query("web", &[])),
        (GO, raw::query("web", &[])),
        (8, vec![]),
        (99, vec![1; 70_000]),
    ] {
        assert_eq!(hand.ask(option, &data).0, ERR_TLS_REQD, "option {option}");
    }
    assert_eq!(hand.ask(STARTTLS, b"x").0, ERR_INVALID);
    assert_eq!(hand.ask(2, &[]).0, ACK);
    hand.expect_hangup();
    // It has no error reply.
    let mut hand = Hand::connect(port);
    hand.put(&raw::option(1, b"web"));
    hand.expect_hangup();
    // Bytes injected by an attacker after STARTTLS must not be taken for the client's own.
    for smuggled in [raw::option(LIST, &[]), raw::option(GO, &raw::query("web", &[])), vec![0x16, 3, 1]] {
        let mut hand = Hand::connect(port);
        hand.put(&[raw::option(STARTTLS, &[]), smuggled].concat());
        hand.expect_hangup();
    }
    let mut hand = Hand::connect(port);
    assert_eq!(hand.ask(STARTTLS, &[]).0, ACK);
    hand.put(&raw::option(GO, &raw::query("web", &[])));
    hand.expect_hangup();
    // Under TLS there is no second STARTTLS, and the negotiation continues.
    let mut hand = Hand::connect(port).secure(&client_dir(&s), |_| {}).unwrap();
    assert_eq!(hand.ask(STARTTLS, &[]).0, ERR_INVALID);
    assert_eq!(hand.go("web").0, ACK);
    assert_eq!(bystander.read_at(0, 4096), [0; 4096]);
}

#[test]
fn bad_handshakes_end_and_hold_up_nobody() {
    let s = rig();
    make_ca(&s, "foreign");
    let (_served, port) = serve(&s);
    let mut bystander = secured(&s, port);
    let old =
        Hand::connect(port).secure(&client_dir(&s), |b| b.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap());
    assert!(old.err().unwrap().contains("protocol version"));
    // The server verifies the certificates below after the client considers the handshake done.
    let refused = |folder: &Path| {
        if let Ok(mut hand) = Hand::connect(port).secure(folder, |b| b.set_ca_file(s.path("tls/ca-cert.pem")).unwrap())
        {
            let _ = hand.0.write_all(&raw::option(GO, &raw::query("web", &[])));
            hand.expect_hangup();
        }
    };
    refused(&s.path("foreign/clients/client"));
    let expired = s.path("expired");
    certificate(&s.path("tls"), &expired, "client", -20, -10);
    refused(&expired);
    certificate(&s.path("tls"), &s.path("early"), "client", 10, 20);
    refused(&s.path("early"));
    assert!(s.log().contains("xpired"), "{}", s.log());
    // Half a record, then nothing; and one that is cut off and continues as noise.
    let half = secured(&s, port);
    half.0.get_ref().write_all(&[0x17, 3, 3, 0x40, 0, 1, 2, 3]).unwrap();
    let mut noisy = secured(&s, port);
    noisy.0.get_ref().write_all(&[&[0x17, 3, 3, 1, 0][..], &[0xaa; 4096]].concat()).unwrap();
    noisy.expect_hangup();
    let mut gone = Hand::connect(port);
    assert_eq!(gone.ask(STARTTLS, &[]).0, ACK);
    gone.0.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    gone.0.shutdown(Shutdown::Write).unwrap();
    gone.expect_hangup();
    assert_eq!(bystander.read_at(4096, 8192), [0; 8192]);
    drop(half);
}

/// Makes a certificate whose validity begins and ends so many days from now, and a client's directory.
fn certificate(ca: &Path, folder: &Path, name: &str, from: i64, to: i64) {
    certificate_with(ca, folder, name, (from, to), None);
}

/// The same, with an alternative name.
fn certificate_with(ca: &Path, folder: &Path, name: &str, (from, to): (i64, i64), alternative: Option<&str>) {
    let ca_cert = X509::from_pem(&std::fs::read(ca.join("ca-cert.pem")).unwrap()).unwrap();
    let ca_key = PKey::private_key_from_pem(&std::fs::read(ca.join("ca-key.pem")).unwrap()).unwrap();
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let at = |days: i64| {
        let now = std::fs::metadata(ca.join("ca-key.pem")).unwrap().modified().unwrap();
        let secs = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        Asn1Time::from_unix(secs + days * 86_400).unwrap()
    };
    let mut cert = X509::builder().unwrap();
    cert.set_version(2).unwrap();
    cert.set_subject_name(&subject.build()).unwrap();
    cert.set_issuer_name(ca_cert.subject_name()).unwrap();
    cert.set_pubkey(&key).unwrap();
    cert.set_not_before(&at(from)).unwrap();
    cert.set_not_after(&at(to)).unwrap();
    if let Some(name) = alternative {
        let mut names = SubjectAlternativeName::new();
        match name.split_once(':').unwrap() {
            ("URI", uri) => names.uri(uri),
            ("DNS", dns) => names.dns(dns),
            (_, mail) => names.email(mail),
        };
        let context = cert.x509v3_context(Some(&ca_cert), None);
        let extension = names.build(&context).unwrap();
        cert.append_extension(extension).unwrap();
    }
    cert.sign(&ca_key, MessageDigest::sha256()).unwrap();
    let cert = cert.build().to_pem().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(ca.join("ca-cert.pem"), folder.join("ca-cert.pem")).unwrap();
    for part in ["client", "server"] {
        std::fs::write(folder.join(format!("{part}-cert.pem")), &cert).unwrap();
        let file = folder.join(format!("{part}-key.pem"));
        std::fs::write(&file, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A client chooses the names in its certificate request: a name of one kind must not match one of another, above all
/// not the fingerprint of someone else's certificate, nor a user of the server's machine.
#[test]
fn a_name_of_one_kind_does_not_pass_for_another() {
    let s = rig();
    let (_served, port) = serve(&s);
    let pem = std::fs::read(client_dir(&s).join("client-cert.pem")).unwrap();
    let pinned = X509::from_pem(&pem).unwrap().digest(MessageDigest::sha256()).unwrap();
    let pinned = format!("sha256:{}", hex::encode(pinned));
    s.ok(&["access", "deny", "client"]);
    s.ok(&["access", "allow", &pinned, "--volume", "web", "--user", "pinned"]);
    s.ok(&["access", "allow", "dns:db.example", "--volume", "db", "--user", "db"]);
    s.ok(&["access", "allow", "uid:4242", "--volume", "web"]);
    s.fails(2, &["access", "allow", "uid-4242", "--volume", "web"], &["reserved for a local user"]);
    let go = |folder: &Path, name: &str| Hand::connect(port).secure(folder, |_| {}).unwrap().go(name).0;
    assert_eq!(go(&client_dir(&s), "web"), ACK);
    for (i, (cn, san)) in [
        ("x", format!("URI:{pinned}")),
        (&*pinned.chars().take(60).collect::<String>(), format!("DNS:{pinned}")),
        ("x", format!("email:{pinned}")),
        ("x", "URI:uid:4242".to_owned()),
        ("uid:4242", "URI:cn:uid:4242".to_owned()),
        ("db.example", "URI:dns:db.example".to_owned()),
        ("dns:db.example", "email:db.example".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = s.path(&format!("forged{i}"));
        certificate_with(&s.path("tls"), &folder, cn, (-1, 10), Some(&san));
        for volume in ["web", "db"] {
            assert_eq!(go(&folder, volume), ERR_POLICY, "CN {cn}, {san}: {volume}");
        }
    }
    certificate_with(&s.path("tls"), &s.path("db"), "x", (-1, 10), Some("DNS:db.example"));
    assert_eq!(go(&s.path("db"), "db"), ACK);
}

/// A server over memory, so that its limits can be short.
#[test]
fn a_handshake_has_a_time_limit() {
    use coffer::nbd::memory::{Fixed, Memory};
    use coffer::nbd::{Listener, Server, ServerConfig, TlsServer};
    use std::sync::Arc;
    let s = Scratch::empty();
    make_ca(&s, "tls");
    let tls = TlsServer::open(&s.path("tls"), coffer::env::Env::system(), Default::default()).unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let exports = Arc::new(Fixed::default().with("m", Arc::new(Memory::new(4096))));
    let config = ServerConfig { handshake: Duration::from_millis(300), ..ServerConfig::default() };
    let server = Server::start(vec![Listener::Tls(socket, Arc::new(tls))], exports, config).unwrap();
    let mut silent = Hand::connect(port);
    assert_eq!(silent.ask(STARTTLS, &[]).0, ACK);
    silent.expect_hangup();
    // The same limit applies after the handshake, until an export is selected.
    let mut idle = Hand::connect(port).secure(&s.path("tls/clients/client"), |_| {}).unwrap();
    idle.expect_hangup();
    assert!(server.shutdown(PATIENCE));
}

#[test]
fn requests_in_any_records_are_served_and_replies_that_wait_are_whole() {
    let s = rig();
    let (_served, port) = serve(&s);
    let mut hand = secured(&s, port);
    let data = noise(2, 16 * MIB);
    for (i, part) in data.chunks(MIB).enumerate() {
        hand.put(&raw::request(raw::WRITE, 0, i as u64, (i * MIB) as u64, MIB as u32));
        hand.put(part);
        assert_eq!(hand.get(16)[4..8], [0; 4]);
    }
    // One record per byte.
    for byte in raw::request(raw::READ, 0, 9, 5, 100) {
        hand.put(&[byte]);
    }
    assert_eq!(hand.get(16)[8..], 9u64.to_be_bytes());
    assert_eq!(hand.get(100), data[5..105]);
    // More replies than all buffers hold, before the first is read; another connection of the holder is served
    // meanwhile.
    let asked: Vec<u8> = (0..64).flat_map(|i| raw::request(raw::READ, 0, i, i % 16 * MIB as u64, MIB as u32)).collect();
    hand.put(&asked);
    assert_eq!(secured(&s, port).read_at(77, 1000), data[77..1077]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let head = hand.get(16);
        assert_eq!(head[4..8], [0; 4]);
        let cookie = u64::from_be_bytes(head[8..].try_into().unwrap());
        let at = (cookie % 16) as usize * MIB;
        assert!(hand.get(MIB) == data[at..at + MIB], "reply {cookie}");
        assert!(seen.insert(cookie));
    }
    // A clean disconnect is answered by close_notify.
    hand.put(&raw::request(raw::DISC, 0, 0, 0, 0));
    assert_eq!(hand.0.read(&mut [0; 16]).unwrap(), 0);
    assert!(hand.0.get_shutdown().contains(openssl::ssl::ShutdownState::RECEIVED));
}

#[test]
fn new_certificates_are_taken_without_a_restart_and_bad_ones_are_not() {
    let s = rig();
    make_ca(&s, "next");
    let (_served, port) = serve(&s);
    let mut before = secured(&s, port);
    // Half of an exchange: certificate and key do not match.
    let put = |name: &str| {
        std::fs::copy(s.path("next").join(name), s.path("new.pem")).unwrap();
        std::fs::rename(s.path("new.pem"), s.path("tls").join(name)).unwrap();
    };
    put("server-cert.pem");
    let folder = client_dir(&s);
    drop(Hand::connect(port).secure(&folder, |_| {}).unwrap());
    assert!(s.log().contains("new certificates are not used"), "{}", s.log());
    put("server-key.pem");
    put("ca-cert.pem");
    let refused = Hand::connect(port).secure(&folder, |_| {}).err().unwrap();
    assert!(refused.contains("certificate verify failed"), "{refused}");
    let mut after = Hand::connect(port).secure(&s.path("next/clients/client"), |_| {}).unwrap();
    assert_eq!(after.go("web").0, ACK);
    assert_eq!(before.read_at(0, 512), after.read_at(0, 512));
}

#[test]
fn what_is_wrong_with_certificates_is_said_at_the_start() {
    let s = rig();
    let dir = |name: &str| s.path(name).to_str().unwrap().to_owned();
    let fails = |code: i32, folder: &str, words: &[&str]| {
        s.fails(code, &["serve", "--listen", "tcp:127.0.0.1:0", "--tls", &dir(folder)], words);
    };
    fails(4, "nowhere", &["server-cert.pem", "coffer tls init"]);
    certificate(&s.path("tls"), &s.path("expired"), "localhost", -20, -10);
    fails(1, "expired", &["server-cert.pem expired at 20"]);
    certificate(&s.path("tls"), &s.path("early"), "localhost", 10, 20);
    fails(1, "early", &["server-cert.pem is not valid before 20"]);
    make_ca(&s, "mixed");
    std::fs::copy(s.path("tls/server-key.pem"), s.path("mixed/server-key.pem")).unwrap();
    fails(2, "mixed", &["certificate and key in", "cannot be used"]);
    std::fs::set_permissions(s.path("mixed/server-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    fails(2, "mixed", &["every user can read", "chmod 600"]);
    std::fs::write(s.path("mixed/server-cert.pem"), "none").unwrap();
    fails(2, "mixed", &["it contains no certificate"]);
    let both = ["serve", "--listen", "tcp:127.0.0.1:0", "--insecure-loopback", "--tls", &dir("tls")];
    s.fails(2, &both, &["cannot be used with"]);
}

#[test]
fn a_ca_is_made_once_its_keys_are_private_and_openssl_finds_it_good() {
    let s = rig();
    let dir = s.path("tls");
    s.fails(1, &["tls", "init", "--dir", dir.to_str().unwrap()], &["create a CA", "already exists"]);
    s.fails(1, &["tls", "client", "client", "--dir", dir.to_str().unwrap()], &["clients/client already exists"]);
    s.fails(2, &["tls", "client", "../x", "--dir", dir.to_str().unwrap()], &["not a valid client name"]);
    s.fails(2, &["tls", "allow", "x"], &["--volume"]);
    s.fails(4, &["tls", "allow", "x", "--volume", "nope"], &["nope"]);
    let keys: Vec<_> = files(&dir).into_iter().filter(|f| f.to_str().unwrap().ends_with("key.pem")).collect();
    assert_eq!(keys.len(), 3);
    for key in keys {
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    assert!(!client_dir(&s).join("ca-key.pem").exists());
    if requires("openssl") {
        let of = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        for (purpose, cert) in [("sslserver", "server-cert.pem"), ("sslclient", "clients/client/client-cert.pem")] {
            good("openssl", &["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &of("ca-cert.pem"), &of(cert)]);
        }
    }
}

#[test]
fn the_uri_of_a_captive_command_has_the_real_port() {
    if !requires("nbdinfo") {
        return;
    }
    let s = rig();
    let run = "test \"$(nbdinfo --size \"$uri\")\" = 16777216";
    s.ok(&["serve", "--listen", "tcp:127.0.0.1:0", "--insecure-loopback", "--run", run, "web"]);
    let run = "test \"$(nbdinfo --size \"$uri?tls-certificates=$CERTS\")\" = 16777216";
    let dir = s.path("tls");
    let args = ["serve", "--listen", "tcp:127.0.0.1:0", "--tls", dir.to_str().unwrap(), "--run", run, "web"];
    let out = output(s.command(&args).env("CERTS", client_dir(&s)));
    assert_eq!(out.code, 0, "{out:?}");
}

/// The lease of a TLS client is based on a grant: the policy is evaluated when it begins, and not again.
#[test]
fn a_client_that_was_let_in_comes_back_by_its_grant_and_not_without_it() {
    let s = rig();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "mine", "--key", "alias/k"]);
    s.ok(&["access", "allow", "client", "--volume", "mine", "--user", "alice"]);
    let (server, port) = serve(&s);
    let go = |port| Hand::connect(port).secure(&client_dir(&s), |_| ()).unwrap().go("mine");
    assert_eq!(go(port).0, ACK); // and cut off
    let grants = || s.ids(&["key", "grant", "list", "alias/k"]);
    wait_until("its lease is noted", || grants().len() == 1);
    let account = s.json(&["status"])["account"].as_str().unwrap().to_owned();
    let manage = r#"["kms:*KeyPolicy", "kms:ListGrants", "kms:RevokeGrant", "kms:DescribeKey"]"#;
    let leave_to_account = |actions: &str| {
        let policy = format!(
            r#"{{"Statement": {{"Effect": "Allow", "Principal": {{"AWS": "{account}"}}, "Action": {actions}, "Resource": "*"}}}}"#
        );
        std::fs::write(s.path("policy"), policy).unwrap();
        s.ok(&["key", "policy", "set", "alias/k", s.path("policy").to_str().unwrap()]);
    };
    leave_to_account(manage);
    server.kill9();
    let (server, port) = serve(&s);
    assert_eq!(go(port).0, ACK, "it is let in by its grant");
    s.ok(&["key", "grant", "revoke", "alias/k", &grants()[0]]);
    let (code, words) = go(port);
    assert!(code == ERR_POLICY && words.contains("was revoked"), "{words}");
    // Once its lease has ended, it is authorised like anyone else: and refused.
    s.ok(&["detach", "--force", "mine"]);
    let (code, words) = go(port);
    assert!(code == ERR_POLICY && words.contains("kms:CreateGrant") && words.contains("user/alice"), "{words}");
    leave_to_account(r#""kms:*""#);
    assert_eq!(go(port).0, ACK);
    drop(server);
}

#[test]
fn a_client_that_was_cut_off_keeps_its_volume_through_a_restart_until_it_says_goodbye() {
    let s = rig();
    let (server, port) = serve(&s);
    s.ok(&["tls", "client", "other", "--dir", s.path("tls").to_str().unwrap()]);
    s.ok(&["tls", "allow", "other", "--volume", "web"]);
    let other = |port| Hand::connect(port).secure(&s.path("tls/clients/other"), |_| ()).unwrap().go("web");
    drop(secured(&s, port));
    let (code, words) = other(port);
    assert!(code == ERR_POLICY && words.contains("the TLS client client"), "{words}");
    server.kill9();
    let (server, port) = serve(&s);
    let (code, words) = other(port);
    assert!(code == ERR_POLICY && words.contains("the TLS client client"), "{words}");
    let mut back = secured(&s, port);
    back.put(&raw::request(raw::DISC, 0, 0, 0, 0));
    back.expect_hangup();
    wait_until("its farewell is heard", || s.json(&["volume", "show", "web"])["holder"].is_null());
    assert_eq!(other(port).0, ACK);
    drop(server);
}
