//! Whole requests, signed by another implementation, through the edge: no sockets.

use super::super::testing::{Fake, IDENTITY, KEY, PRINCIPAL, SECRET, TOKEN, at, env, signed};
use super::super::{Limits, Service};
use super::*;
use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use serde_json::json;
use std::num::NonZeroU32;

const JSON: &str = "application/x-amz-json-1.1";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const PEER: Peer = Peer { address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), secure: false };

struct Answered {
    status: u16,
    kind: String,
    error: Option<String>,
    id: String,
    body: String,
}

impl Answered {
    fn json(&self) -> Value {
        assert_eq!(self.kind, JSON);
        serde_json::from_str(&self.body).unwrap()
    }

    /// The code of an error, which the header, the body and the log of refusals must agree on.
    fn code(&self) -> String {
        let code = match &*self.kind {
            "text/xml" => self.between("Code"),
            _ => self.json()["__type"].as_str().unwrap().to_owned(),
        };
        assert_eq!(self.error.as_deref(), Some(&*code), "{}", self.body);
        code
    }

    fn between(&self, element: &str) -> String {
        let (_, rest) = self.body.split_once(&format!("<{element}>")).unwrap();
        rest.split_once(&format!("</{element}>")).unwrap().0.to_owned()
    }
}

fn edge(fake: &Arc<Fake>, rates: [Rate; 2], ephemeral: bool) -> Edge {
    Edge::new(fake.clone(), env(), rates, ephemeral)
}

fn usual() -> [Rate; 2] {
    let limits = Limits::default();
    [limits.principal, limits.failures]
}

fn ask(edge: &Edge, request: Request<Vec<u8>>) -> Answered {
    let (head, body) = request.into_parts();
    let answer = edge.answer(&head, Ok(Zeroizing::new(body)), PEER);
    let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let (status, kind, error) = (answer.status().as_u16(), header("content-type").unwrap(), header("x-amzn-errortype"));
    let id = header("x-amzn-requestid").unwrap();
    let body = futures::executor::block_on(answer.into_body().collect()).unwrap().to_bytes();
    Answered { status, kind, error, id, body: String::from_utf8(body.to_vec()).unwrap() }
}

fn kms(target: &str, body: &str) -> Request<Vec<u8>> {
    signed("kms", &[("content-type", JSON), ("x-amz-target", target)], body, KEY, SECRET, None)
}

fn sts(body: &str) -> Request<Vec<u8>> {
    signed("sts", &[("content-type", FORM)], body, KEY, SECRET, None)
}

#[test]
fn a_json_request_reaches_the_backend_and_comes_back() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), false);
    let answered = ask(&edge, kms("TrentService.Encrypt", r#"{"KeyId":"alias/x","Plaintext":"AAAA"}"#));
    assert_eq!((answered.status, answered.error.as_deref()), (200, None));
    assert_eq!(answered.json(), json!({"Operation": "Encrypt", "Input": {"KeyId": "alias/x", "Plaintext": "AAAA"}}));
    let call = &fake.calls()[0];
    assert_eq!((call.service, &*call.region, &*call.identity), (Service::Kms, "eu-central-1", IDENTITY));
    assert_eq!((&call.request_id, call.secure, &*call.agent), (&answered.id, false, "test/1"));
    assert_eq!(uuid::Uuid::parse_str(&answered.id).unwrap().get_version_num(), 4);
    assert!(fake.refusals().is_empty());
}

#[test]
fn each_service_is_known_by_its_scope_and_target() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), false);
    for (scope, target, service) in [
        ("cloudtrail", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents", Service::CloudTrail),
        ("cloudtrail", "CloudTrail_20131101.LookupEvents", Service::CloudTrail),
        ("tagging", "ResourceGroupsTaggingAPI_20170126.GetResources", Service::Tagging),
    ] {
        let headers = [("content-type", JSON), ("x-amz-target", target)];
        assert_eq!(ask(&edge, signed(scope, &headers, "{}", KEY, SECRET, None)).status, 200, "{target}");
        assert_eq!(fake.calls().last().unwrap().service, service);
        // Signed for one service, meant for another.
        let answered = ask(&edge, signed("kms", &headers, "{}", KEY, SECRET, None));
        assert_eq!((answered.status, &*answered.code()), (400, "UnknownOperationException"));
    }
    assert_eq!(fake.calls().len(), 3);
}

#[test]
fn a_form_becomes_an_object_and_the_output_xml() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), false);
    let form = "Action=AssumeRole&Version=2011-06-15&RoleArn=a%26b&PolicyArns.member.1.arn=p";
    let answered = ask(&edge, sts(form));
    assert_eq!((answered.status, &*answered.kind), (200, "text/xml"));
    let expected = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <Input><PolicyArns><member><arn>p</arn></member></PolicyArns><RoleArn>a&amp;b</RoleArn></Input>\
         <Operation>AssumeRole</Operation></AssumeRoleResult><ResponseMetadata><RequestId>{}</RequestId>\
         </ResponseMetadata></AssumeRoleResponse>",
        answered.id
    );
    assert_eq!(answered.body, expected);
    assert_eq!(fake.calls()[0].service, Service::Sts);
}

#[test]
fn refusals_are_told_in_the_callers_protocol_and_to_the_backend() {
    let headers = [("content-type", JSON), ("x-amz-target", "TrentService.Encrypt")];
    let form = "Action=GetCallerIdentity&Version=2011-06-15";
    let both = |id: &str, secret: &str, token: Option<&str>| {
        [
            signed("kms", &headers, "{}", id, secret, token),
            signed("sts", &[("content-type", FORM)], form, id, secret, token),
        ]
    };
    let unsigned = both(KEY, SECRET, None).map(|mut request| {
        request.headers_mut().remove("authorization");
        request
    });
    let asymmetric = both(KEY, SECRET, None).map(|mut request| {
        request.headers_mut().insert("authorization", HeaderValue::from_static("AWS4-ECDSA-P256-SHA256 Credential=x"));
        request
    });
    let late = both(KEY, SECRET, None).map(|request| at(request, "20150830T114459Z"));
    for ([json, query], expected, known) in [
        (both("AKIDNOBODY", SECRET, None), [("UnrecognizedClientException", 400), ("InvalidClientTokenId", 403)], true),
        (both(KEY, "other", None), [("InvalidSignatureException", 400), ("SignatureDoesNotMatch", 403)], true),
        (both(KEY, SECRET, Some("old")), [("ExpiredTokenException", 400), ("ExpiredToken", 403)], true),
        (unsigned, [("MissingAuthenticationTokenException", 400), ("MissingAuthenticationToken", 403)], false),
        (asymmetric, [("IncompleteSignatureException", 400), ("IncompleteSignature", 400)], false),
        (late, [("InvalidSignatureException", 400), ("SignatureDoesNotMatch", 403)], false),
    ] {
        for (request, (code, status)) in [json, query].into_iter().zip(expected) {
            let fake = Arc::new(Fake::default());
            let answered = ask(&edge(&fake, usual(), false), request);
            assert_eq!((&*answered.code(), answered.status), (code, status), "{}", answered.body);
            let refusals = fake.refusals();
            assert_eq!(refusals.len(), 1);
            assert_eq!((refusals[0].principal.as_deref(), &refusals[0].request_id), (None, &answered.id));
            assert_eq!(refusals[0].service.is_some(), known, "{code}");
            assert!(fake.calls().is_empty());
            assert!(!answered.body.contains(SECRET) && !answered.body.contains("AKID"), "{}", answered.body);
        }
    }
}

#[test]
fn a_session_token_is_passed_on() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), false);
    let headers = [("content-type", JSON), ("x-amz-target", "TrentService.ListKeys")];
    assert_eq!(ask(&edge, signed("kms", &headers, "{}", "ASIASESSION", SECRET, Some(TOKEN))).status, 200);
    assert_eq!(
        ask(&edge, signed("kms", &headers, "{}", "ASIASESSION", SECRET, None)).code(),
        "UnrecognizedClientException"
    );
}

#[test]
fn what_cannot_be_routed_is_a_client_error() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), false);
    for (request, code, status) in [
        (kms("TrentService.", "{}"), "UnknownOperationException", 400),
        (kms("TrentService.En-crypt", "{}"), "UnknownOperationException", 400),
        (kms("DynamoDB_20120810.Scan", "{}"), "UnknownOperationException", 400),
        (kms("TrentService.NoSuch", "{}"), "UnknownOperationException", 400),
        (kms("TrentService.Encrypt", "{"), "SerializationException", 400),
        (kms("TrentService.Encrypt", "[]"), "SerializationException", 400),
        (kms("TrentService.Encrypt", &"[".repeat(5000)), "SerializationException", 400),
        (sts("Action=NoSuch&Version=2011-06-15"), "InvalidAction", 400),
        (sts("Action=GetCallerIdentity&Version=2010-01-01"), "InvalidAction", 400),
        (sts("Action=GetCallerIdentity"), "InvalidAction", 400),
        (sts("Version=2011-06-15"), "MissingAction", 400),
        (sts("Action=GetCallerIdentity&Action=X"), "MalformedQueryString", 400),
        (signed("s3", &[("content-type", JSON)], "", KEY, SECRET, None), "InvalidSignatureException", 400),
        (signed("kms", &[("content-type", FORM)], "Action=Encrypt", KEY, SECRET, None), "InvalidAction", 400),
        (
            signed("sts", &[("x-amz-target", "TrentService.Encrypt")], "{}", KEY, SECRET, None),
            "UnknownOperationException",
            400,
        ),
    ] {
        let answered = ask(&edge, request);
        assert_eq!((&*answered.code(), answered.status), (code, status), "{}", answered.body);
    }
    for (method, path) in [("GET", "/"), ("POST", "/other"), ("GET", "/_coffer/reset"), ("POST", "/_coffer/reset")] {
        let mut request = kms("TrentService.ListKeys", "{}");
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = path.parse().unwrap();
        assert_eq!(ask(&edge, request).status, 404, "{method} {path}");
    }
    assert_eq!(fake.resets(), 0);
}

#[test]
fn a_refusal_after_the_signature_names_the_principal() {
    let fake = Arc::new(Fake::default());
    ask(&edge(&fake, usual(), false), kms("TrentService.Encrypt", "{"));
    let refusal = &fake.refusals()[0];
    assert_eq!(refusal.principal.as_deref(), Some(PRINCIPAL));
    assert_eq!((refusal.operation.as_deref(), refusal.access_key_id.as_deref()), (Some("Encrypt"), Some(KEY)));
    assert_eq!((&*refusal.code, refusal.region.as_deref()), ("SerializationException", Some("eu-central-1")));
}

#[test]
fn errors_of_the_backend_are_not_refusals() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), false);
    for (operation, code, status) in [
        ("Fail", "NotFoundException", 400),
        ("Break", "KMSInternalException", 500),
        ("Slow", "DependencyTimeoutException", 503),
    ] {
        let answered = ask(&edge, kms(&format!("TrentService.{operation}"), "{}"));
        assert_eq!((&*answered.code(), answered.status), (code, status));
    }
    let answered = ask(&edge, sts("Action=Deny&Version=2011-06-15"));
    assert_eq!((&*answered.code(), answered.status, &*answered.between("Type")), ("AccessDenied", 403, "Sender"));
    let answered = ask(&edge, sts("Action=Break&Version=2011-06-15"));
    assert_eq!((&*answered.code(), answered.status, &*answered.between("Type")), ("InternalFailure", 500, "Receiver"));
    assert!(fake.refusals().is_empty());
}

#[test]
fn a_principal_above_its_rate_is_throttled() {
    let fake = Arc::new(Fake::default());
    let two = Rate::new(NonZeroU32::MIN, NonZeroU32::new(2).unwrap());
    let edge = edge(&fake, [two, two], false);
    let codes: Vec<_> = (0..5).map(|_| ask(&edge, kms("TrentService.ListKeys", "{}"))).collect();
    assert_eq!(codes.iter().map(|a| a.status).collect::<Vec<_>>(), [200, 200, 400, 400, 400]);
    assert_eq!((&*codes[4].code(), &codes[4].json()["message"]), ("ThrottlingException", &json!("Rate exceeded")));
    assert_eq!(fake.refusals().len(), 2, "the audit is limited too");
    let answered = ask(&edge, sts("Action=GetCallerIdentity&Version=2011-06-15"));
    assert_eq!((&*answered.code(), answered.status), ("Throttling", 400));
}

#[test]
fn failures_of_a_source_are_bounded_but_shut_nobody_out() {
    let fake = Arc::new(Fake::default());
    let two = Rate::new(NonZeroU32::MIN, NonZeroU32::new(2).unwrap());
    let edge = edge(&fake, [usual()[0], two], false);
    let headers = [("content-type", JSON), ("x-amz-target", "TrentService.ListKeys")];
    let wrong = || signed("kms", &headers, "{}", KEY, "wrong", None);
    let codes: Vec<_> = (0..4).map(|_| ask(&edge, wrong()).code()).collect();
    let (bad, slow) = ("InvalidSignatureException", "ThrottlingException");
    assert_eq!(codes, [bad, bad, slow, slow]);
    assert_eq!(fake.refusals().len(), 2);
    assert_eq!(ask(&edge, kms("TrentService.ListKeys", "{}")).status, 200);
}

#[test]
fn an_ephemeral_server_is_reset_but_not_by_a_web_page() {
    let fake = Arc::new(Fake::default());
    let edge = edge(&fake, usual(), true);
    let reset = |method: &str| Request::builder().method(method).uri("/_coffer/reset").body(Vec::new()).unwrap();
    assert_eq!(ask(&edge, reset("POST")).status, 200);
    assert_eq!(ask(&edge, reset("GET")).status, 403);
    let mut page = reset("POST");
    page.headers_mut().insert("origin", HeaderValue::from_static("https://example.com"));
    assert_eq!(ask(&edge, page).status, 403);
    assert_eq!(fake.resets(), 1);
}
