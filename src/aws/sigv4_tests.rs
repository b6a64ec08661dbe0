//! Known answers: AWS's SigV4 test suite. Another signer: the crate aws-sigv4. Mutations of both must be refused.

use super::*;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30T12:36:00Z, the time of the suite.
const SUITE: Timestamp = Timestamp(1_440_938_160_000);

/// A request that owns its parts.
#[derive(Clone)]
struct Owned {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Owned {
    fn received(&self) -> Received<'_> {
        let Self { method, path, query, headers, body } = self;
        Received { method, path, query, headers, authority: None, body }
    }

    fn check(&self, now: Timestamp, secret: &str) -> Result<(), Fault> {
        Claim::read(&self.received(), now)?.verify(secret)
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    /// With the signature of another request under it.
    fn authorized(self, change: impl Fn(&str) -> String) -> Self {
        let old = self.headers[AUTHORIZATION].to_str().unwrap().to_owned();
        self.set("authorization", &change(&old))
    }
}

/// Reads the suite: whether to accept, name, request.
fn suite() -> Vec<(bool, String, Owned)> {
    let mut blocks = Vec::new();
    let lines = include_str!("sigv4/vectors.txt").lines().filter(|line| !line.starts_with('#'));
    let mut lines = lines.peekable();
    while let Some(first) = lines.next() {
        let (verdict, name) = first.split_once(' ').unwrap();
        let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = HeaderMap::new();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.to_lowercase().as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        let body = lines.by_ref().take_while(|line| *line != ".").collect::<Vec<_>>().join("\n").into_bytes();
        let [method, path, query] = [method, path, query].map(str::to_owned);
        blocks.push((verdict == "accept", name.to_owned(), Owned { method, path, query, headers, body }));
    }
    assert!(blocks.len() > 30);
    blocks
}

fn vector(name: &str) -> Owned {
    suite().into_iter().find(|(_, n, _)| n == name).unwrap().2
}

/// The time of a vector: two of them are not of the suite's.
fn time_of(request: &Owned) -> Timestamp {
    if request.headers["x-amz-date"] == "20210511T154045Z" { Timestamp(1_620_747_645_000) } else { SUITE }
}

#[test]
fn the_suite_of_aws_is_accepted_and_no_other_secret() {
    for (accept, name, request) in suite() {
        let now = time_of(&request);
        assert_eq!(request.check(now, SECRET).is_ok(), accept, "{name}");
        if accept {
            assert_eq!(request.check(now, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEX"), Err(Fault::Mismatch), "{name}");
        }
    }
}

#[test]
fn every_change_of_a_request_is_noticed() {
    let base = vector("post-x-www-form-urlencoded");
    let query = vector("get-vanilla-query-order-key-case");
    base.check(SUITE, SECRET).unwrap();
    let changed: [(Owned, Fault); 12] = [
        (Owned { method: "PUT".into(), ..base.clone() }, Fault::Mismatch),
        (Owned { path: "/x".into(), ..base.clone() }, Fault::Mismatch),
        (Owned { query: "a=b".into(), ..base.clone() }, Fault::Mismatch),
        (Owned { query: "Param2=value2&Param1=value2".into(), ..query }, Fault::Mismatch),
        (Owned { body: b"Param1=value2".to_vec(), ..base.clone() }, Fault::Payload),
        (base.clone().set("host", "example.amazonaws.org"), Fault::Mismatch),
        (base.clone().set("content-type", "text/plain"), Fault::Mismatch),
        (base.clone().set("x-amz-date", "20150830T123601Z"), Fault::Mismatch),
        (base.clone().set("x-amz-content-sha256", UNSIGNED_PAYLOAD), Fault::Mismatch),
        (base.clone().authorized(|old| old.replace("us-east-1", "us-east-2")), Fault::Mismatch),
        (base.clone().authorized(|old| old.replace("/service/", "/kms/")), Fault::Mismatch),
        (base.clone().authorized(|old| old.replace("content-length;", "")), Fault::Mismatch),
    ];
    for (i, (request, fault)) in changed.into_iter().enumerate() {
        assert_eq!(request.check(SUITE, SECRET), Err(fault), "change {i}");
    }
    // What is not signed may change.
    base.set("user-agent", "x").check(SUITE, SECRET).unwrap();
}

#[test]
fn a_signature_is_valid_for_15_minutes_either_way() {
    let request = vector("get-vanilla");
    for (ms, expected) in
        [(SKEW_MS, Ok(())), (-SKEW_MS, Ok(())), (SKEW_MS + 1, Err(Fault::Expired)), (-SKEW_MS - 1, Err(Fault::NotYet))]
    {
        assert_eq!(request.check(Timestamp(SUITE.0 + ms), SECRET), expected, "{ms}");
    }
    assert_eq!(request.check(Timestamp(i64::MIN), SECRET), Err(Fault::NotYet));
}

#[test]
fn what_must_be_signed_is() {
    let token = vector("post-sts-header-after");
    assert_eq!(token.check(SUITE, SECRET), Err(Fault::Unsigned));
    let base = vector("get-vanilla");
    assert_eq!(base.clone().set("x-amz-target", "TrentService.Encrypt").check(SUITE, SECRET), Err(Fault::Unsigned));
    let hostless = base.clone().authorized(|old| old.replace("host;", ""));
    assert_eq!(hostless.check(SUITE, SECRET), Err(Fault::Unsigned));
    let absent = base.authorized(|old| old.replace("host;", "host;my-header;"));
    assert_eq!(absent.check(SUITE, SECRET), Err(Fault::Absent));
    for name in ["host", "x-amz-date", "authorization", "x-amz-security-token"] {
        let mut twice = vector("get-vanilla-with-session-token");
        let value = twice.headers[name].clone();
        twice.headers.append(name, value);
        assert_eq!(twice.check(SUITE, SECRET), Err(Fault::Ambiguous), "{name}");
    }
}

#[test]
fn the_session_token_is_told() {
    let claim = Claim::read(&vector("post-sts-header-before").received(), SUITE).unwrap();
    assert!(claim.session_token.unwrap().starts_with("AQoDYXdzEPT//"));
}

#[test]
fn dates_are_strict() {
    let base = vector("get-vanilla");
    for bad in
        ["20150830T123600", "2015-08-30T12:36:00Z", "20151330T123600Z", "20150830T243600Z", "20150830t123600Z", ""]
    {
        assert_eq!(base.clone().set("x-amz-date", bad).check(SUITE, SECRET), Err(Fault::NoDate), "{bad}");
    }
    assert_eq!(base.clone().set("x-amz-date", "20150831T003600Z").check(SUITE, SECRET), Err(Fault::ScopeDate));
    let mut undated = base;
    undated.headers.remove("x-amz-date");
    // A Date header counts only if it is signed.
    let undated = undated.set("date", "Sun, 30 Aug 2015 12:36:00 GMT");
    assert_eq!(undated.check(SUITE, SECRET), Err(Fault::NoDate));
    let dated = undated.authorized(|old| old.replace("host;x-amz-date", "date;host"));
    assert_eq!(dated.check(SUITE, SECRET), Err(Fault::Mismatch), "read, but signed otherwise");
    assert_eq!(dated.check(Timestamp(SUITE.0 + SKEW_MS + 1), SECRET), Err(Fault::Expired));
}

#[test]
fn other_schemes_are_told_apart() {
    let base = vector("get-vanilla");
    let with = |value: &str| base.clone().set("authorization", value).check(SUITE, SECRET);
    assert_eq!(with("Bearer x"), Err(Fault::Header(HeaderFault::Scheme)));
    assert_eq!(with("AWS4-ECDSA-P256-SHA256 Credential=a"), Err(Fault::Header(HeaderFault::Asymmetric)));
    let mut none = base.clone();
    none.headers.remove(AUTHORIZATION);
    assert_eq!(none.check(SUITE, SECRET), Err(Fault::Missing));
    none.query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0".into();
    assert_eq!(none.check(SUITE, SECRET), Err(Fault::Presigned));
}

#[test]
fn only_one_form_of_the_header_is_read() {
    use HeaderFault::{Malformed, Scope, Signature, SignedHeaders};
    let hex = "0".repeat(64);
    let of = |credential: &str, headers: &str, signature: &str| {
        Authorization::parse(&format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={headers}, Signature={signature}"
        ))
    };
    let good = "AKID/20150830/us-east-1/kms/aws4_request";
    assert_eq!(of(good, "host;x-amz-date", &hex).unwrap().signed_headers, ["host", "x-amz-date"]);
    for bad in [
        "AKID/20150830/us-east-1/kms",
        "AKID/20150830/us-east-1/kms/aws4_request/x",
        "AKID/2015083/us-east-1/kms/aws4_request",
        "AKID/2015083x/us-east-1/kms/aws4_request",
        "/20150830/us-east-1/kms/aws4_request",
        "AKID/20150830//kms/aws4_request",
        "AKID/20150830/us-east-1/KMS/aws4_request",
        "AK ID/20150830/us-east-1/kms/aws4_request",
        "AKID/20150830/us-east-1/kms/aws5_request",
    ] {
        assert_eq!(of(bad, "host", &hex), Err(Scope), "{bad}");
    }
    for bad in ["Host", "x;host", "host;host", "host;", ";host", "ho st", "h\u{e4}"] {
        assert_eq!(of(good, bad, &hex), Err(SignedHeaders), "{bad}");
    }
    for bad in [&hex[1..], "x", &"A".repeat(64), &format!("{hex}0")] {
        assert_eq!(of(good, "host", bad), Err(Signature), "{bad}");
    }
    let whole = format!("Credential={good},SignedHeaders=host,Signature={hex}");
    assert!(Authorization::parse(&format!("AWS4-HMAC-SHA256 {whole}")).is_ok());
    for bad in [
        "",
        &format!("{whole},"),
        &format!("{whole},Signature={hex}"),
        &format!("{whole},X=y"),
        "Credential=, Signature=",
    ] {
        assert_eq!(Authorization::parse(&format!("AWS4-HMAC-SHA256 {bad}")), Err(Malformed), "{bad}");
    }
    assert_eq!(Authorization::parse(&format!("AWS4-HMAC-SHA256 {}", "x".repeat(9000))), Err(Malformed));
}

/// Signs as the AWS SDK for Rust does.
fn signed(owned: &Owned, region: &str, service: &str, token: Option<&str>) -> Owned {
    let identity = Credentials::new("AKIDEXAMPLE", SECRET, token.map(str::to_owned), None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(UNIX_EPOCH + Duration::from_millis(SUITE.0 as u64))
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let uri = format!("http://localhost:8080{}?{}", owned.path, owned.query);
    let headers = owned.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let signable = SignableRequest::new(&owned.method, &uri, headers, SignableBody::Bytes(&owned.body)).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    let mut request = Request::builder().method(&*owned.method).uri(&uri).body(()).unwrap();
    *request.headers_mut() = owned.headers.clone();
    instructions.apply_to_request_http1x(&mut request);
    let mut out = Owned { headers: request.headers().clone(), ..owned.clone() };
    out.headers.entry("host").or_insert(HeaderValue::from_static("localhost:8080"));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the SDK's signer signs is accepted; with any bit of the body changed it is not.
    #[test]
    fn the_signer_of_the_sdk_agrees(
        method in "GET|POST|PUT",
        segments in prop::collection::vec("[a-zA-Z0-9._~-]{0,6}|%[2-7][0-9A-F]", 0..5),
        query in prop::collection::vec(("[a-zA-Z0-9-]{1,5}", "[a-zA-Z0-9~_.-]{0,5}|%C3%A4|%2[0-9A-F]"), 0..4),
        header in "[ -~]{0,20}",
        body in prop::collection::vec(any::<u8>(), 0..40),
        token in prop::option::of("[A-Za-z0-9+/=]{1,40}"),
        region in "[a-z]{2}-[a-z]{3,9}-[1-9]",
    ) {
        let query = query.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&");
        let owned = Owned { method, path: format!("/{}", segments.join("/")), query, headers: HeaderMap::new(), body };
        let owned = owned.set("my-header", header.trim());
        let request = signed(&owned, &region, "kms", token.as_deref());
        prop_assert_eq!(request.check(SUITE, SECRET), Ok(()), "{} {}", request.path, request.query);
        let claim = Claim::read(&request.received(), SUITE).unwrap();
        prop_assert_eq!(claim.session_token.as_ref().map(|t| t.as_str()), token.as_deref());
        prop_assert_eq!(&claim.authorization.region, &region);
        let mut other = request;
        other.body.push(0);
        prop_assert!(other.check(SUITE, SECRET).is_err());
    }

    #[test]
    fn no_header_panics(text in "(AWS4-HMAC-SHA256 )?[ -~]{0,80}") {
        let _ = Authorization::parse(&text);
    }
}
