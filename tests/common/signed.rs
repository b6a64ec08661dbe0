//! A client of AWS's API that signs (with AWS's own crate) and keeps its connection.

use super::PATIENCE;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use coffer::env::Env;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, UNIX_EPOCH};

/// What a request is signed with.
#[derive(Clone)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A connection.
pub struct Api {
    stream: Box<dyn Stream>,
    scheme: &'static str,
    host: String,
    key: AccessKey,
}

impl Api {
    /// Connects to `http://HOST:PORT` or `https://HOST:PORT`; in TLS, without a look at the server's certificate.
    #[track_caller]
    pub fn connect(url: &str, key: &AccessKey) -> Self {
        let (scheme, host) = url.split_once("://").unwrap();
        let socket = TcpStream::connect(host).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, key) = (host.to_owned(), key.clone());
        if scheme == "http" {
            return Self { stream: Box::new(socket), scheme: "http", host, key };
        }
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        let stream = builder.build().connect("localhost", socket).unwrap();
        Self { stream: Box::new(stream), scheme: "https", host, key }
    }

    /// The bytes of a request.
    fn request(&self, service: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
        let AccessKey { id, secret, token } = &self.key;
        let now = Env::system().now().0.try_into().unwrap();
        let identity = Credentials::new(id, secret, token.clone(), None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name(service)
            .time(UNIX_EPOCH + Duration::from_millis(now))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let uri = format!("{}://{}/", self.scheme, self.host);
        let length = body.len().to_string();
        let mut all = vec![("host", &*self.host), ("content-length", &*length)];
        all.extend(headers);
        let signable = SignableRequest::new("POST", &*uri, all.iter().copied(), SignableBody::Bytes(body.as_bytes()));
        let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
        let mut text = "POST / HTTP/1.1\r\n".to_owned();
        for (name, value) in all.iter().copied().chain(instructions.headers()) {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        text += body;
        text.into_bytes()
    }

    /// The bytes of a request to the KMS.
    pub fn kms_request(&self, operation: &str, input: &Value) -> Vec<u8> {
        let target = format!("TrentService.{operation}");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", &*target)];
        self.request("kms", &headers, &input.to_string())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads an answer: its status and its body.
    #[track_caller]
    pub fn answer(&mut self) -> (u16, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        (status, body)
    }

    /// Performs an operation of the KMS that must succeed.
    #[track_caller]
    pub fn kms(&mut self, operation: &str, input: Value) -> Value {
        let request = self.kms_request(operation, &input);
        self.send(&request);
        let (status, body) = self.answer();
        assert_eq!(status, 200, "{operation}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Performs an action of STS that must succeed; returns its XML.
    #[track_caller]
    pub fn sts(&mut self, form: &str) -> String {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let request = self.request("sts", &headers, &format!("{form}&Version=2011-06-15"));
        self.send(&request);
        let (status, body) = self.answer();
        let text = String::from_utf8(body).unwrap();
        assert_eq!(status, 200, "{form}: {text}");
        text
    }
}
