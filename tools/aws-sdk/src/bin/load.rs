//! Measures KMS operations over HTTP, the same signed requests against each server:
//!
//! ```sh
//! load SECONDS CREDENTIALS NAME=URL [NAME=URL]    # tools/aws-sdk/compare calls it
//! ```
//!
//! CREDENTIALS is a file with an access key id and its secret in each line; a client uses one of them. A request is signed once
//! and sent again and again (a signature is valid for minutes), so that this program does little but wait.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A request of a client, ready to be sent.
fn signed(host: &str, keys: &Credentials, operation: &str, body: &str) -> Result<Vec<u8>> {
    let target = format!("TrentService.{operation}");
    let identity = keys.clone().into();
    let settings = SigningSettings::default();
    let params = SigningParams::builder().identity(&identity).region("us-east-1").name("kms").time(SystemTime::now());
    let params = params.settings(settings).build()?.into();
    let headers = [("host", host), ("content-type", "application/x-amz-json-1.1"), ("x-amz-target", &*target)];
    let url = format!("http://{host}/");
    let request = SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body.as_bytes()))?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    let mut text = String::from("POST / HTTP/1.1\r\n");
    let added = instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into_iter().chain(added) {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("content-length: {}\r\n\r\n{body}", body.len());
    Ok(text.into_bytes())
}

/// A connection, made anew if the server closes it after an answer.
struct Client {
    host: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Sends a request; returns the answer's body. Any status but 200 is an error.
    fn ask(&mut self, request: &[u8]) -> Result<String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.host)?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(request)?;
        let (mut line, mut length, mut status, mut keep) = (String::new(), 0, String::new(), true);
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Err("the server closed the connection".into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if status.is_empty() {
                keep = text.starts_with("http/1.1");
                status = text;
            } else if text.is_empty() {
                break;
            } else if let Some(value) = text.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            } else if text == "connection: close" {
                keep = false;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        self.stream = keep.then_some(stream);
        let body = String::from_utf8(body)?;
        if status.split(' ').nth(1) == Some("200") { Ok(body) } else { Err(format!("{status}: {body}").into()) }
    }
}

/// A server under test.
struct Server {
    name: String,
    host: String,
    /// Name, operation, body.
    cases: Vec<(&'static str, &'static str, String)>,
}

/// A member of a flat JSON object whose value is a string without escapes.
fn member(json: &str, name: &str) -> Result<String> {
    let found = json.split(&format!("\"{name}\"")).nth(1).and_then(|rest| rest.split('"').nth(1));
    found.map(str::to_owned).ok_or_else(|| format!("no {name} in {json}").into())
}

impl Server {
    fn new(name: &str, url: &str, keys: &Credentials) -> Result<Self> {
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let mut client = Client { host: host.clone(), stream: None };
        let mut ask = |operation: &str, body: &str| client.ask(&signed(&host, keys, operation, body)?);
        let mut key = |spec: &str, usage: &str| {
            let body = format!(r#"{{"KeySpec": "{spec}", "KeyUsage": "{usage}"}}"#);
            member(&ask("CreateKey", &body)?, "KeyId")
        };
        let aes = key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")?;
        let ec = key("ECC_NIST_P256", "SIGN_VERIFY")?;
        let rsa = key("RSA_2048", "SIGN_VERIFY")?;
        let text = "dGV4dA==";
        let blob = ask("Encrypt", &format!(r#"{{"KeyId": "{aes}", "Plaintext": "{text}"}}"#))?;
        let blob = member(&blob, "CiphertextBlob")?;
        let sign = |key: &str, how: &str| {
            format!(r#"{{"KeyId": "{key}", "Message": "{text}", "MessageType": "RAW", "SigningAlgorithm": "{how}"}}"#)
        };
        let cases = vec![
            ("GenerateDataKey", "GenerateDataKey", format!(r#"{{"KeyId": "{aes}", "KeySpec": "AES_256"}}"#)),
            ("Encrypt", "Encrypt", format!(r#"{{"KeyId": "{aes}", "Plaintext": "{text}"}}"#)),
            ("Decrypt", "Decrypt", format!(r#"{{"CiphertextBlob": "{blob}"}}"#)),
            ("Sign ECDSA P-256", "Sign", sign(&ec, "ECDSA_SHA_256")),
            ("Sign RSA-2048", "Sign", sign(&rsa, "RSASSA_PKCS1_V1_5_SHA_256")),
        ];
        Ok(Self { name: name.to_owned(), host, cases })
    }

    /// Runs a case with so many clients. Returns requests a second, and the latencies in ms, sorted.
    fn run(&self, case: usize, keys: &[Credentials], clients: usize, time: Duration) -> Result<(f64, Vec<f64>)> {
        let (_, operation, body) = &self.cases[case];
        let started = Instant::now();
        let one = |keys: &Credentials| -> Result<Vec<f64>> {
            let request = signed(&self.host, keys, operation, body)?;
            let mut client = Client { host: self.host.clone(), stream: None };
            let mut latencies = Vec::new();
            while started.elapsed() < time {
                let from = Instant::now();
                client.ask(&request)?;
                latencies.push(from.elapsed().as_secs_f64() * 1e3);
            }
            Ok(latencies)
        };
        let one = &one;
        let all: Result<Vec<Vec<f64>>> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..clients).map(|i| scope.spawn(move || one(&keys[i % keys.len()]))).collect();
            running.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?).collect()
        });
        let mut latencies = all?.concat();
        let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        Ok((rate, latencies))
    }
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * p).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, seconds, file, servers @ ..] = &args[..] else {
        return Err("usage: load SECONDS CREDENTIALS NAME=URL...".into());
    };
    let time = Duration::try_from_secs_f64(seconds.parse()?)?;
    let text = std::fs::read_to_string(file)?;
    let keys = text.lines().filter_map(|line| line.split_once(' '));
    let keys: Vec<_> = keys.map(|(id, secret)| Credentials::from_keys(id, secret, None)).collect();
    let first = keys.first().ok_or("no credentials")?;
    let server = |arg: &String| {
        let (name, url) = arg.split_once('=').ok_or("a server is NAME=URL")?;
        Server::new(name, url, first)
    };
    let servers = servers.iter().map(server).collect::<Result<Vec<_>>>()?;
    println!(
        "{:<18} {:>7}  {:<12} {:>10} {:>9} {:>9} {:>7}",
        "", "clients", "", "requests/s", "p50 ms", "p99 ms", "ratio"
    );
    for case in 0..servers.first().map_or(0, |s| s.cases.len()) {
        for clients in [1, 16] {
            let mut rates = Vec::new();
            for server in &servers {
                let (rate, all) = server.run(case, &keys, clients, time)?;
                rates.push(rate);
                // Of the first server to this one.
                let ratio = if rates.len() > 1 { format!("{:.1}", rates[0] / rate) } else { String::new() };
                let (p50, p99) = (percentile(&all, 0.5), percentile(&all, 0.99));
                let (name, what) = (&server.name, server.cases[case].0);
                println!("{what:<18} {clients:>7}  {name:<12} {rate:>10.0} {p50:>9.2} {p99:>9.2} {ratio:>7}");
            }
        }
    }
    Ok(())
}
