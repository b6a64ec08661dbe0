//! The listener over loopback sockets, with clients of other implementations: bytes by hand, OpenSSL, hyper's client.

use super::super::testing::{Fake, KEY, SECRET, env, signed};
use super::*;
use crate::nbd::tls::Oldest;
use http_body_util::Full;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::path::Path;

const HEADERS: [(&str, &str); 1] = [("content-type", "application/x-amz-json-1.1")];

fn config(limits: Limits) -> Config {
    Config { address: (Ipv4Addr::LOCALHOST, 0).into(), tls: None, ephemeral: false, limits, env: env() }
}

fn start(config: Config) -> (Arc<Fake>, SocketAddr, Server) {
    let fake = Arc::new(Fake::default());
    let listener = Listener::bind(config).unwrap();
    let address = listener.address();
    (fake.clone(), address, serve(listener, fake).unwrap())
}

fn kms(operation: &str, body: &str) -> Request<Vec<u8>> {
    let target = format!("TrentService.{operation}");
    signed("kms", &[HEADERS[0], ("x-amz-target", &target)], body, KEY, SECRET, None)
}

/// The head of a request as HTTP/1.1.
fn head(request: &Request<Vec<u8>>) -> Vec<u8> {
    let mut out = b"POST / HTTP/1.1\r\n".to_vec();
    for (name, value) in request.headers() {
        out.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    out.extend_from_slice(format!("content-length: {}\r\n\r\n", request.body().len()).as_bytes());
    out
}

fn send(mut stream: impl Write, request: &Request<Vec<u8>>) {
    stream.write_all(&[&head(request)[..], request.body()].concat()).unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    // A test that would hang fails instead.
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Reads an answer: status and body.
fn receive(mut stream: impl Read) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

/// Whether the server has closed the connection.
fn closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 256]) {
        Ok(n) => n == 0,
        Err(err) => err.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Waits until that many calls have reached the backend.
fn reached(fake: &Fake, calls: usize) {
    while fake.calls().len() < calls {
        std::thread::yield_now();
    }
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let (fake, address, server) = start(config(Limits::default()));
    let stream = connect(address);
    for i in 0..3 {
        send(&stream, &kms("Encrypt", &format!("{{\"N\":{i}}}")));
        let expected = format!("{{\"Input\":{{\"N\":{i}}},\"Operation\":\"Encrypt\"}}");
        assert_eq!(receive(&stream), (200, expected));
    }
    assert!(fake.calls().iter().all(|call| !call.secure));
    assert!(server.shutdown(Duration::from_secs(10)), "idle connections do not hold a server up");
    assert!(closed(&stream));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_body_above_the_limit_is_refused_with_an_answer() {
    let (fake, address, _server) = start(config(Limits { body: 1000, ..Limits::default() }));
    let stream = connect(address);
    send(&stream, &kms("Encrypt", &format!("{{\"A\":\"{}\"}}", "x".repeat(993))));
    let (status, body) = receive(&stream);
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("RequestEntityTooLargeException"), "{body}");
    send(&stream, &kms("Encrypt", &format!("{{\"A\":\"{}\"}}", "x".repeat(992))));
    assert_eq!(receive(&stream).0, 200, "exactly 1000 bytes, on the same connection");
    assert_eq!(fake.calls().len(), 1);
    assert_eq!(fake.refusals()[0].code, "RequestEntityTooLargeException");
}

#[test]
fn a_head_above_the_limit_is_refused() {
    let (fake, address, _server) = start(config(Limits { head: 8192, ..Limits::default() }));
    let stream = connect(address);
    let long = "x".repeat(20_000);
    send(&stream, &signed("kms", &[("x-long", &long)], "{}", KEY, SECRET, None));
    assert_eq!(receive(&stream).0, 431);
    assert!(fake.calls().is_empty());
}

#[test]
fn slow_clients_are_cut_off() {
    let short = Duration::from_millis(50);
    let (fake, address, _server) = start(config(Limits { head_time: short, body_time: short, ..Limits::default() }));
    let mut silent = connect(address);
    silent.write_all(b"POST / HTTP/1.1\r\nhost:").unwrap();
    let request = kms("Encrypt", "{}");
    let mut slow = connect(address);
    slow.write_all(&head(&request)).unwrap();
    let (status, body) = receive(&slow);
    assert_eq!(status, 408);
    assert!(body.contains("RequestTimeoutException"), "{body}");
    // Some servers say 408 before they close.
    while !closed(&silent) {}
    assert!(closed(&connect(address)), "a connection without a single byte");
    assert!(fake.calls().is_empty());
}

#[test]
fn connections_above_the_limit_are_closed() {
    let (_fake, address, _server) = start(config(Limits { connections: 1, ..Limits::default() }));
    let first = connect(address);
    send(&first, &kms("ListKeys", "{}"));
    assert_eq!(receive(&first).0, 200);
    assert!(closed(&connect(address)));
    send(&first, &kms("ListKeys", "{}"));
    assert_eq!(receive(&first).0, 200);
}

#[test]
fn requests_above_the_limit_are_told_to_come_back() {
    let (fake, address, _server) = start(config(Limits { requests: 1, ..Limits::default() }));
    let gate = fake.gate.lock();
    let (first, second) = (connect(address), connect(address));
    send(&first, &kms("Wait", "{}"));
    reached(&fake, 1);
    send(&second, &kms("ListKeys", "{}"));
    let (status, body) = receive(&second);
    assert_eq!(status, 503);
    assert!(body.contains("ServiceUnavailable"), "{body}");
    drop(gate);
    assert_eq!(receive(&first), (200, "{\"Waited\":true}".to_owned()));
}

#[test]
fn bodies_that_arrive_slowly_take_no_place_among_the_requests() {
    let (_fake, address, _server) = start(config(Limits { requests: 4, ..Limits::default() }));
    let begin = |request: &Request<Vec<u8>>| {
        let mut stream = connect(address);
        stream.write_all(&head(request)).unwrap();
        stream
    };
    let _slow: Vec<_> = (0..8).map(|_| begin(&kms("Encrypt", "{}"))).collect();
    let large = kms("Encrypt", &format!("{{\"A\":\"{}\"}}", "x".repeat(SMALL)));
    let mut arriving = Vec::new();
    let status = |request: &Request<Vec<u8>>| {
        let stream = connect(address);
        send(&stream, request);
        receive(&stream).0
    };
    // One large body may arrive at a time here: once the server has seen the head of one of these, it takes no other.
    while status(&large) != 503 {
        arriving.push(begin(&large));
    }
    for _ in 0..3 {
        assert_eq!(status(&kms("ListKeys", "{}")), 200);
    }
}

#[test]
fn a_connection_ends_after_a_body_that_outgrew_its_buffer() {
    let (_fake, address, _server) = start(config(Limits::default()));
    let stream = connect(address);
    send(&stream, &kms("Encrypt", &format!("{{\"A\":\"{}\"}}", "x".repeat(FIRST_BUFFER))));
    assert_eq!(receive(&stream).0, 200);
    assert!(closed(&stream));
}

#[test]
fn a_server_that_stops_finishes_what_it_began() {
    let (fake, address, server) = start(config(Limits::default()));
    let gate = fake.gate.lock();
    let stream = connect(address);
    send(&stream, &kms("Wait", "{}"));
    reached(&fake, 1);
    let stopping = std::thread::spawn(move || server.shutdown(Duration::from_secs(30)));
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    drop(gate);
    assert_eq!(receive(&stream).0, 200);
    assert!(stopping.join().unwrap());
}

#[test]
fn a_server_does_not_wait_longer_than_it_is_told_to() {
    let (fake, address, server) = start(config(Limits::default()));
    let gate = fake.gate.lock();
    let stream = connect(address);
    send(&stream, &kms("Wait", "{}"));
    reached(&fake, 1);
    assert!(!server.shutdown(Duration::ZERO));
    assert!(closed(&stream));
    drop(gate);
}

#[test]
fn a_panic_is_an_answer() {
    let (_fake, address, _server) = start(config(Limits::default()));
    let stream = connect(address);
    send(&stream, &kms("Panic", "{}"));
    let (status, body) = receive(&stream);
    assert_eq!(status, 500);
    assert!(body.contains("InternalFailure"), "{body}");
}

#[test]
fn plain_http_is_for_loopback_alone() {
    for address in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), (Ipv6Addr::UNSPECIFIED, 0).into()] {
        let err = Listener::bind(Config { address, ..config(Limits::default()) }).err().unwrap();
        assert_eq!(err.kind(), Kind::Usage);
        assert!(err.line().contains("tls init"), "{}", err.line());
        let socket = TcpListener::bind(address).unwrap();
        assert!(Listener::from_socket(socket, config(Limits::default())).is_err());
    }
    let first = Listener::bind(config(Limits::default())).unwrap();
    assert_eq!(first.url(), format!("http://127.0.0.1:{}", first.address().port()));
    let again = Listener::bind(Config { address: first.address(), ..config(Limits::default()) });
    assert_eq!(again.err().unwrap().kind(), Kind::Busy);
}

/// A server with a certificate for `localhost` in `folder`, on all addresses.
fn start_tls(folder: &Path, limits: Limits) -> (Arc<Fake>, SocketAddr, Server) {
    let system = Env::system();
    crate::nbd::pki::init(folder, &["localhost".to_owned()], &system).unwrap();
    let tls = Some(Arc::new(TlsServer::open(folder, system, Oldest::Tls13).unwrap()));
    let address = (Ipv4Addr::UNSPECIFIED, 0).into();
    let (fake, address, server) = start(Config { tls, address, ..config(limits) });
    (fake, (Ipv4Addr::LOCALHOST, address.port()).into(), server)
}

#[test]
fn tls_serves_a_client_of_openssl() {
    use openssl::ssl::{SslConnector, SslMethod};
    let folder = tempfile::tempdir().unwrap();
    let (fake, address, _server) = start_tls(folder.path(), Limits::default());
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(folder.path().join("ca-cert.pem")).unwrap();
    let mut stream = builder.build().connect("localhost", connect(address)).unwrap();
    for _ in 0..2 {
        send(&mut stream, &kms("ListKeys", "{}"));
        assert_eq!(receive(&mut stream).0, 200);
    }
    assert!(fake.calls().iter().all(|call| call.secure));
    // Plain HTTP gets nowhere.
    let plain = connect(address);
    send(&plain, &kms("ListKeys", "{}"));
    while !closed(&plain) {}
    assert_eq!(fake.calls().len(), 2);
}

#[test]
fn a_client_that_begins_no_handshake_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (_fake, address, _server) =
        start_tls(folder.path(), Limits { handshake: Duration::from_millis(50), ..Limits::default() });
    assert!(closed(&connect(address)));
}

/// The signature covers `host`, which HTTP/2 sends as `:authority`.
#[test]
fn http2_is_negotiated_and_authority_stands_for_host() {
    use rustls::pki_types::pem::PemObject;
    let folder = tempfile::tempdir().unwrap();
    let (fake, address, _server) = start_tls(folder.path(), Limits::default());
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_file(folder.path().join("ca-cert.pem")).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let answers = async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for host in [true, false] {
            let mut request = kms("ListKeys", "{}");
            assert_eq!(request.uri().authority().unwrap().as_str(), "localhost:4566");
            if !host {
                request.headers_mut().remove("host");
            }
            let answer = sender.send_request(request.map(|body| Full::new(bytes::Bytes::from(body)))).await.unwrap();
            answers.push((answer.version(), answer.status().as_u16()));
        }
        answers
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    assert_eq!(runtime.block_on(answers), [(Version::HTTP_2, 200); 2]);
    assert_eq!(fake.calls().len(), 2);
}
