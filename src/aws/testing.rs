//! A backend that answers with what it was asked, and a signer: the crate aws-sigv4.

use super::backend::{ApiCall, ApiError, Backend, Credential, Refusal};
use super::service::Service;
use crate::env::{Clock, Env, Timestamp};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use zeroize::Zeroizing;

/// The time that tests run at: 2015-08-30T12:00:00Z.
pub(super) const NOW: Timestamp = Timestamp(1_440_936_000_000);
pub(super) const KEY: &str = "AKIDEXAMPLE";
pub(super) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// The token of the session `ASIASESSION`.
pub(super) const TOKEN: &str = "token+of/a==session";
pub(super) const PRINCIPAL: &str = "arn:aws:iam::111122223333:user/alice";
pub(super) const IDENTITY: &str = "alice";

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }
    fn since_boot(&self) -> i64 {
        1000
    }
}

/// An environment whose clock stands still.
pub(super) fn env() -> Env {
    Env { clock: Arc::new(Still), ..Env::system() }
}

/// What a call was.
#[derive(Debug, Clone)]
pub(super) struct Called {
    pub(super) service: Service,
    pub(super) region: String,
    pub(super) identity: String,
    pub(super) request_id: String,
    pub(super) secure: bool,
    pub(super) agent: String,
}

#[derive(Default)]
pub(super) struct Fake {
    calls: Mutex<Vec<Called>>,
    refusals: Mutex<Vec<Refusal>>,
    resets: AtomicUsize,
    /// Calls of `Wait` return once this is unlocked.
    pub(super) gate: Mutex<()>,
}

impl Fake {
    pub(super) fn calls(&self) -> Vec<Called> {
        self.calls.lock().clone()
    }
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().clone()
    }
    pub(super) fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }
}

impl Backend for Fake {
    fn credential(&self, access_key_id: &str, session_token: Option<&str>) -> Result<Credential, ApiError> {
        match (access_key_id, session_token) {
            (KEY, None) | ("ASIASESSION", Some(TOKEN)) => Ok(Credential {
                secret: Zeroizing::new(SECRET.to_owned()),
                identity: Arc::new(IDENTITY.to_owned()),
                principal: PRINCIPAL.to_owned(),
            }),
            (_, Some("old")) => Err(ApiError::expired_token()),
            _ => Err(ApiError::unknown_credential()),
        }
    }

    fn call(&self, call: ApiCall) -> Result<Value, ApiError> {
        let identity = call.identity.downcast_ref::<String>().unwrap().clone();
        let ApiCall { service, region, request_id, secure_transport: secure, user_agent: agent, .. } = call;
        self.calls.lock().push(Called { service, region, identity, request_id, secure, agent });
        match &*call.operation {
            "NoSuch" => Err(ApiError::unknown_operation()),
            "Fail" => Err(ApiError::new("NotFoundException", "no such key")),
            "Break" => Err(ApiError::new("KMSInternalException", "broken")),
            "Slow" => Err(ApiError::new("DependencyTimeoutException", "slow")),
            "Deny" => Err(ApiError::new("AccessDeniedException", "denied")),
            "Panic" => panic!("asked to"),
            "Wait" => {
                drop(self.gate.lock());
                Ok(json!({"Waited": true}))
            }
            operation => Ok(json!({"Operation": operation, "Input": call.input.into_inner()})),
        }
    }

    fn refused(&self, refusal: Refusal) {
        self.refusals.lock().push(refusal);
    }

    fn reset(&self) -> Result<(), ApiError> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Makes a request to `http://localhost:4566/`, signed at [`NOW`] for eu-central-1.
pub(super) fn signed(
    service: &str,
    headers: &[(&str, &str)],
    body: &str,
    id: &str,
    secret: &str,
    token: Option<&str>,
) -> Request<Vec<u8>> {
    let identity = Credentials::new(id, secret, token.map(str::to_owned), None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-central-1")
        .name(service)
        .time(UNIX_EPOCH + Duration::from_millis(NOW.0 as u64))
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let uri = "http://localhost:4566/";
    let mut request = Request::post(uri).header("host", "localhost:4566").header("user-agent", "test/1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body.as_bytes().to_vec()).unwrap();
    let signable = SignableRequest::new(
        "POST",
        uri,
        request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())),
        SignableBody::Bytes(body.as_bytes()),
    );
    let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
    instructions.apply_to_request_http1x(&mut request);
    request
}

/// Changes a request's X-Amz-Date, which is checked before the signature.
pub(super) fn at(mut request: Request<Vec<u8>>, date: &str) -> Request<Vec<u8>> {
    request.headers_mut().insert("x-amz-date", date.parse().unwrap());
    request
}
