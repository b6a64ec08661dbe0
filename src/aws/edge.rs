//! From a whole request to its answer, without sockets: authenticate, limit, route, call, render.

use super::answer::{self, Answer, Shape};
use super::backend::{ApiCall, ApiError, Backend, Credential, Refusal};
use super::query::{self, FormFault};
use super::rate::{Buckets, Rate, source};
use super::service::{Protocol, Row};
use super::sigv4::header::HeaderFault;
use super::sigv4::{Claim, Fault, Received};
use crate::document::Document;
use crate::env::Env;
use http::header::{ORIGIN, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Method};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where an ephemeral server is reset.
const RESET: &str = "/_coffer/reset";
/// Longest operation name, in characters.
const LONGEST_OPERATION: usize = 64;
/// Longest User-Agent that is passed on, in characters.
const LONGEST_AGENT: usize = 256;

/// A request's body, or why there is none.
pub(super) type Body = Result<Zeroizing<Vec<u8>>, ApiError>;

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) secure: bool,
}

/// Why there is no output.
enum Stop {
    /// The edge refused the request.
    Refused(ApiError),
    /// The backend answered with an error.
    Failed(ApiError),
}

pub(super) struct Edge {
    backend: Arc<dyn Backend>,
    env: Env,
    principals: Buckets<String>,
    failures: Buckets<IpAddr>,
    ephemeral: bool,
}

impl Edge {
    pub(super) fn new(backend: Arc<dyn Backend>, env: Env, rates: [Rate; 2], ephemeral: bool) -> Self {
        let [principals, failures] = rates;
        let (principals, failures) = (Buckets::new(principals, &env), Buckets::new(failures, &env));
        Self { backend, env, principals, failures, ephemeral }
    }

    /// Draws a request id: a UUID.
    pub(super) fn draw_id(&self) -> String {
        let mut bytes = [0; 16];
        self.env.rng.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// Answers a request. May block.
    pub(super) fn answer(&self, head: &Parts, body: Body, peer: Peer) -> Answer {
        let shape = Shape::of(&head.headers);
        let mut noted = self.noted(head, peer);
        if self.ephemeral && head.uri.path() == RESET {
            return match self.reset(head) {
                Ok(()) => {
                    answer::success(shape, None, "Reset", &noted.request_id, Document::new(Value::Object(Map::new())))
                }
                Err(err) => answer::failure(shape, None, &noted.request_id, &err),
            };
        }
        let outcome = self.perform(head, body, shape, &mut noted);
        let row = noted.service.and_then(|service| Row::signed_as(service.name()));
        let operation = noted.operation.clone().unwrap_or_default();
        let id = noted.request_id.clone();
        match outcome {
            Ok(output) => answer::success(shape, row, &operation, &id, output),
            Err(Stop::Failed(err)) => answer::failure(shape, row, &id, &err),
            Err(Stop::Refused(err)) => answer::failure(shape, row, &id, &self.refuse(err, noted)),
        }
    }

    fn noted(&self, head: &Parts, peer: Peer) -> Refusal {
        let agent = head.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        Refusal {
            code: String::new(),
            message: String::new(),
            service: None,
            operation: None,
            region: None,
            access_key_id: None,
            principal: None,
            request_id: self.draw_id(),
            source_ip: peer.address,
            user_agent: agent.unwrap_or_default().chars().filter(|c| !c.is_control()).take(LONGEST_AGENT).collect(),
            secure_transport: peer.secure,
        }
    }

    /// Tells the backend of a refusal, unless its source has caused too many. Returns what the client is told.
    fn refuse(&self, err: ApiError, noted: Refusal) -> ApiError {
        let known = noted.principal.is_some();
        if !self.failures.take(&source(noted.source_ip)) {
            return if known { err } else { ApiError::throttled() };
        }
        self.backend.refused(Refusal { code: err.code.to_string(), message: err.message.clone(), ..noted });
        err
    }

    fn reset(&self, head: &Parts) -> Result<(), ApiError> {
        // A browser sends Origin with each cross-site POST: a web page cannot reset the server of who looks at it.
        if head.method != Method::POST || head.headers.contains_key(ORIGIN) {
            return Err(ApiError {
                status: 403,
                ..ApiError::new("AccessDeniedException", "reset: use POST, not from a web page")
            });
        }
        self.backend.reset()
    }

    fn perform(&self, head: &Parts, body: Body, shape: Shape, noted: &mut Refusal) -> Result<Document, Stop> {
        let body = body.map_err(Stop::Refused)?;
        let (row, credential) = self.authenticate(head, &body, shape, noted).map_err(Stop::Refused)?;
        if !self.principals.take(&credential.principal) {
            return Err(Stop::Refused(ApiError::throttled()));
        }
        let (operation, input) = match (row.protocol, shape) {
            (Protocol::Json { targets }, Shape::Json) => json(targets, &head.headers, &body),
            (Protocol::Query { version, .. }, Shape::Query) => form(version, &body),
            _ => Err(ApiError::unknown_operation()),
        }
        .map_err(Stop::Refused)?;
        noted.operation = Some(operation.clone());
        let call = ApiCall {
            service: row.service,
            operation,
            input,
            region: noted.region.clone().unwrap_or_default(),
            identity: credential.identity,
            access_key_id: noted.access_key_id.clone().unwrap_or_default(),
            request_id: noted.request_id.clone(),
            source_ip: noted.source_ip,
            user_agent: noted.user_agent.clone(),
            secure_transport: noted.secure_transport,
        };
        self.backend.call(call).map(Document::new).map_err(Stop::Failed)
    }

    /// Finds out whose request it is, and for which service.
    fn authenticate(
        &self,
        head: &Parts,
        body: &[u8],
        shape: Shape,
        noted: &mut Refusal,
    ) -> Result<(&'static Row, Credential), ApiError> {
        if head.method != Method::POST || head.uri.path() != "/" {
            return Err(ApiError { status: 404, ..ApiError::unknown_operation() });
        }
        if shape == Shape::Json {
            noted.operation =
                target(&head.headers).and_then(|t| t.rsplit_once('.')).and_then(|(_, name)| operation(name));
        }
        let received = Received {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or(""),
            headers: &head.headers,
            authority: head.uri.authority().map(http::uri::Authority::as_str),
            body,
        };
        let claim = Claim::read(&received, self.env.now()).map_err(fault)?;
        let scope = &claim.authorization;
        noted.access_key_id = Some(scope.access_key_id.clone());
        noted.region = Some(scope.region.clone());
        let row = Row::signed_as(&scope.service).ok_or_else(|| {
            ApiError::new("InvalidSignatureException", "the credential is for a service that this endpoint does not have: it serves KMS, STS, CloudTrail and Resource Groups Tagging; users and roles are made with `coffer principal`")
        })?;
        noted.service = Some(row.service);
        let token = claim.session_token.as_ref().map(|token| token.as_str());
        let credential = self.backend.credential(&scope.access_key_id, token)?;
        claim.verify(&credential.secret).map_err(fault)?;
        noted.principal = Some(credential.principal.clone());
        Ok((row, credential))
    }
}

/// What a client is told about its signature.
fn fault(fault: Fault) -> ApiError {
    let incomplete = |what: &'static str| ApiError::new("IncompleteSignatureException", what);
    let invalid = |what: &'static str| ApiError::new("InvalidSignatureException", what);
    match fault {
        Fault::Missing => ApiError::new("MissingAuthenticationTokenException", "the request is not signed"),
        Fault::Presigned => incomplete("presigned requests are not supported: sign with the Authorization header"),
        Fault::Header(HeaderFault::Scheme) => incomplete("the Authorization header is not of AWS4-HMAC-SHA256"),
        Fault::Header(HeaderFault::Asymmetric) => incomplete("SigV4a is not supported: sign with AWS4-HMAC-SHA256"),
        Fault::Header(HeaderFault::Malformed) => {
            incomplete("the Authorization header needs Credential, SignedHeaders and Signature, once each")
        }
        Fault::Header(HeaderFault::Scope) => {
            incomplete("the credential is not of the form ID/YYYYMMDD/REGION/SERVICE/aws4_request")
        }
        Fault::Header(HeaderFault::SignedHeaders) => incomplete("SignedHeaders are not in lower case and in order"),
        Fault::Header(HeaderFault::Signature) => incomplete("the signature is not 64 hexadecimal digits in lower case"),
        Fault::Ambiguous => incomplete("a header that counts for the signature is repeated or not text"),
        Fault::NoDate => incomplete("the request needs a valid X-Amz-Date header, or a valid and signed Date header"),
        Fault::Unsigned => invalid("the signature must cover the host header and all x-amz-* headers"),
        Fault::Absent => invalid("a signed header is absent from the request"),
        Fault::ScopeDate => invalid("the date in the credential scope is not that of the request"),
        Fault::Expired => invalid("Signature expired: it is more than 15 minutes old; check the client's clock"),
        Fault::NotYet => {
            invalid("Signature not yet current: it is over 15 minutes in the future; check the client's clock")
        }
        Fault::Payload => invalid("x-amz-content-sha256 is not the hash of the body"),
        Fault::Mismatch => {
            invalid("the signature does not match: check the secret access key, and what changes requests on their way")
        }
    }
}

fn target(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-amz-target")?.to_str().ok()
}

/// Takes a name that an operation may have.
fn operation(name: &str) -> Option<String> {
    let good = !name.is_empty() && name.len() <= LONGEST_OPERATION && name.bytes().all(|b| b.is_ascii_alphanumeric());
    good.then(|| name.to_owned())
}

/// Reads a request of the JSON protocol.
fn json(targets: &[&str], headers: &HeaderMap, body: &[u8]) -> Result<(String, Document), ApiError> {
    let target = target(headers).unwrap_or_default();
    let name = targets.iter().find_map(|prefix| target.strip_prefix(prefix)).and_then(operation);
    let name = name.ok_or_else(ApiError::unknown_operation)?;
    let body = if body.is_empty() { b"{}" } else { body };
    match serde_json::from_slice(body).map(Document::new) {
        Ok(input) if input.is_object() => Ok((name, input)),
        // The parser's own message could quote the input.
        _ => Err(ApiError::new("SerializationException", "the body is not a JSON object")),
    }
}

/// Reads a request of the query protocol.
fn form(version: &str, body: &[u8]) -> Result<(String, Document), ApiError> {
    let mut fields = query::decode(body).map_err(|fault| {
        let why = match fault {
            FormFault::NotText => "the parameters are not UTF-8",
            FormFault::TooMany => "there are too many parameters",
            FormFault::Name => "a parameter's name is malformed",
            FormFault::Twice => "a parameter is given twice",
        };
        ApiError::new("MalformedQueryString", why)
    })?;
    let action =
        fields.remove("Action").ok_or_else(|| ApiError::new("MissingAction", "the parameter Action is missing"))?;
    let asked = fields.remove("Version");
    let name = action.as_str().and_then(operation);
    match (name, asked.as_ref().and_then(Value::as_str)) {
        (Some(name), Some(asked)) if asked == version => Ok((name, Document::new(Value::Object(fields)))),
        _ => Err(ApiError::unknown_operation()),
    }
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
