//! Buckets: their addresses and credentials, and the contract of objects over a real server.

use super::super::location::Location;
use super::super::objects::tests::check;
use super::*;
use server::{ADMIN, Fault, Proxy, READER, S3, environment};
use std::collections::HashMap;

#[path = "../../tests/common/s3.rs"]
mod server;

fn variables(pairs: &[(&str, &str)]) -> Source {
    let all: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Source { variable: Box::new(move |name| all.get(name).filter(|v| !v.is_empty()).cloned()) }
}

fn user(who: (&str, &str)) -> Source {
    let all = environment(who);
    variables(&all.iter().map(|(k, v)| (*k, v.as_str())).collect::<Vec<_>>())
}

fn at(endpoint: String) -> S3Options {
    S3Options { endpoint: Some(endpoint), path_style: true, time_limit: Some(5), ..S3Options::default() }
}

#[test]
fn a_real_server_behaves_like_a_folder() {
    let Some(server) = S3::start() else { return };
    // The first requests to a new server may be slow, be repeated, and take effect after their repetition.
    Bucket::new("warm", &at(server.endpoint())).unwrap().check(&user(ADMIN)).unwrap();
    for url in ["contract", "contract/with/a/prefix"] {
        let bucket = Bucket::new(url, &at(server.endpoint())).unwrap();
        check(&*bucket.open(&user(ADMIN)).unwrap());
    }
    denials(&server);
    faults(&server);
}

fn denials(server: &S3) {
    let bucket = Bucket::new("contract", &at(server.endpoint())).unwrap();
    let reader = bucket.open(&user(READER)).unwrap();
    let put = reader.put_new("x", Bytes::from_static(b"x")).unwrap_err();
    assert!(put.kind() == Kind::AccessDenied && put.line().contains("AccessDenied"), "{}", put.line());
    assert_eq!(bucket.check(&user(READER)).unwrap_err().kind(), Kind::AccessDenied);
    for (id, secret) in [(ADMIN.0, "wrong"), ("AKIDNOBODY", ADMIN.1)] {
        let err = bucket.open(&user((id, secret))).unwrap().get("x", 10).unwrap_err();
        assert!(err.kind() == Kind::AccessDenied && !err.line().contains(secret), "{}", err.line());
    }
    let missing = Bucket::new("missing", &at(server.endpoint())).unwrap().open(&user(READER)).unwrap();
    let err = missing.get("x", 10).unwrap_err();
    assert!(err.kind() == Kind::Io && err.line().contains("create the bucket"), "{}", err.line());
}

/// Whatever goes wrong once is tried again; what keeps going wrong is an error in time; what was put is put once.
fn faults(server: &S3) {
    let proxy = Proxy::before(server);
    let bucket = Bucket::new("faults", &at(proxy.endpoint())).unwrap();
    let objects = bucket.open(&user(ADMIN)).unwrap();
    let good = Bytes::from(vec![7; 3 << 20]);
    let once = [
        Fault::Answer(500, "InternalError"),
        Fault::Answer(503, "SlowDown"),
        Fault::AnswerInBody(503, "SlowDown"),
        Fault::Cut,
        Fault::CutInBody,
        Fault::LoseAnswer,
    ];
    for (n, fault) in once.into_iter().enumerate() {
        let path = format!("put/{n}");
        proxy.fail("PUT", &path, fault, 0, 1);
        super::super::objects::put_same(&*objects, &path, &good).unwrap();
        proxy.fail("GET", &path, fault, 0, 1);
        assert!(objects.get(&path, good.len()).unwrap() == good, "{fault:?}");
        assert_eq!(proxy.mend(), 2, "{fault:?}");
    }
    proxy.fail("GET", "put/0", Fault::CutInAnswer, 0, 1);
    assert!(objects.get("put/0", good.len()).unwrap() == good);
    proxy.fail("GET", "put/0", Fault::CutInAnswer, 0, 1);
    assert!(objects.get_range("put/0", 5..2 << 20).unwrap() == good.slice(5..2 << 20));
    assert_eq!(proxy.mend(), 2);
    proxy.fail("GET", "list-type=2", Fault::Cut, 0, 1);
    assert_eq!(objects.list("put").unwrap().len(), once.len());
    proxy.fail("DELETE", "put/0", Fault::LoseAnswer, 0, 1);
    proxy.fail("POST", "delete", Fault::LoseAnswer, 0, 1);
    objects.delete("put/0").unwrap();
    assert_eq!(objects.head("put/0").unwrap(), None);
    proxy.mend();
    proxy.fail("GET", "put/1", Fault::Silence, 0, 100);
    let began = std::time::Instant::now();
    let err = objects.get("put/1", 5).unwrap_err();
    assert!(err.kind() == Kind::Io && err.line().contains("get put/1: no answer"), "{}", err.line());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    proxy.mend();
    conditions(&proxy);
}

/// A server without conditional puts is refused, with words.
fn conditions(proxy: &Proxy) {
    let bucket = Bucket::new("faults", &at(proxy.endpoint())).unwrap();
    for (fault, words) in [
        (Fault::Answer(501, "NotImplemented"), "refuses conditional puts"),
        (Fault::IgnoreCondition, "ignores conditional puts"),
    ] {
        proxy.fail("PUT", "coffer-probe", fault, 0, 100);
        let err = bucket.check(&user(ADMIN)).unwrap_err();
        assert!(err.kind() == Kind::Unsupported && err.line().contains(words), "{}", err.line());
        proxy.mend();
    }
    bucket.check(&user(ADMIN)).unwrap();
    let left = bucket.open(&user(ADMIN)).unwrap().list("").unwrap();
    assert!(left.iter().all(|o| !o.path.contains("probe")), "{left:?}");
}

#[test]
fn an_address_is_checked_before_anything_is_sent() {
    let with = |endpoint: &str| S3Options { endpoint: Some(endpoint.to_owned()), ..S3Options::default() };
    for good in ["https://s3.example.com", "https://s3.example.com:9000/", "http://localhost:8333"] {
        Bucket::new("bucket/prefix/", &with(good)).unwrap();
    }
    let bad = |url: &str, options: &S3Options, words: &str| {
        let err = Bucket::new(url, options).unwrap_err();
        assert!(err.kind() == Kind::Usage && err.line().contains(words), "{url} {options:?}: {}", err.line());
        assert!(!err.line().contains("hunter2"), "{}", err.line());
    };
    bad("bucket", &with("http://s3.example.com"), "--allow-http");
    bad("bucket", &with("http://10.0.0.1:9000"), "--allow-http");
    bad("bucket", &with("https://10.0.0.1:9000"), "--path-style");
    bad("bucket", &with("https://me:hunter2@s3.example.com"), "credentials");
    bad("bucket", &with("https://s3.example.com/path"), "path");
    bad("bucket", &with("ftp://s3.example.com"), "scheme");
    bad("bucket", &with("s3.example.com"), "not a URL");
    bad("bucket", &S3Options { time_limit: Some(1), ..S3Options::default() }, "time limit");
    for url in ["", "b", "id:hunter2@bucket", "bu cket", "bucket/../x", "bucket//x", "bucket/a?b", "bucket/a#b"] {
        bad(url, &S3Options::default(), "");
    }
    let allowed = S3Options { allow_http: true, ..with("http://s3.example.com") };
    Bucket::new("bucket", &allowed).unwrap();
    Location::new("s3://bucket", allowed).unwrap();
}

#[test]
fn credentials_come_from_the_first_place_that_has_them() {
    let bucket = Bucket::new("bucket", &S3Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let no = |pairs: &[(&str, &str)], words: &str| {
        let pairs = [pairs, &[("HOME", home), ("AWS_EC2_METADATA_DISABLED", "true")]].concat();
        let err = bucket.open(&variables(&pairs)).map(drop).unwrap_err();
        assert!(err.kind() == Kind::AccessDenied && err.line().contains(words), "{pairs:?}: {}", err.line());
    };
    no(&[], "no credentials");
    no(&[("AWS_ACCESS_KEY_ID", "AKID")], "only one of");
    no(&[("AWS_PROFILE", "web")], "no AWS profile web");
    std::fs::create_dir(folder.path().join(".aws")).unwrap();
    std::fs::write(
        folder.path().join(".aws/config"),
        "[profile sso]\nsso_session = x\n[profile web]\nregion = eu-west-1\n",
    )
    .unwrap();
    no(&[("AWS_PROFILE", "sso")], "sso_session, which coffer does not");
    no(&[("AWS_PROFILE", "web")], "has no aws_access_key_id");
    std::fs::write(
        folder.path().join(".aws/credentials"),
        "[web]\naws_access_key_id = AKIDWEB\naws_secret_access_key = hunter2\n",
    )
    .unwrap();
    let web = variables(&[("HOME", home), ("AWS_PROFILE", "web")]);
    bucket.open(&web).unwrap();
    let profiles = Profiles::of(&web).unwrap();
    assert_eq!(profiles.region().as_deref(), Some("eu-west-1"));
    let provider = profiles.provider().unwrap().unwrap();
    assert_eq!(format!("{provider:?}"), "ProfileCredentials(web)");
    let got = futures::executor::block_on(object_store::CredentialProvider::get_credential(&provider)).unwrap();
    assert_eq!((got.key_id.as_str(), got.secret_key.as_str()), ("AKIDWEB", "hunter2"));
}
