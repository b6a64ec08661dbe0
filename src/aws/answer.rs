//! Answers in the caller's protocol.

use super::backend::ApiError;
use super::service::{Protocol, Row};
use super::xml;
use crate::document::Document;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use zeroize::Zeroizing;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// Room for an output, so that it is rarely copied as it grows: copies are not wiped.
const ROOM: usize = 16 * 1024;

/// The protocol that a request looks like, whatever it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// AWS JSON.
    Json,
    /// AWS query.
    Query,
}

impl Shape {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let form = essence.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if form && !headers.contains_key("x-amz-target") { Self::Query } else { Self::Json }
    }
}

/// Renders an operation's output.
pub(super) fn success(shape: Shape, row: Option<&Row>, operation: &str, id: &str, output: Document) -> Answer {
    let body = match (shape, row.map(|row| row.protocol)) {
        (Shape::Query, Some(Protocol::Query { namespace, .. })) => xml::success(operation, namespace, id, &output),
        _ => {
            let mut body = Zeroizing::new(Vec::with_capacity(ROOM));
            serde_json::to_writer(&mut *body, &*output).map_err(std::io::Error::from).map(|()| body)
        }
    };
    match body {
        Ok(body) => rendered(shape, 200, id, Bytes::from_owner(body)),
        Err(err) => {
            tracing::error!("render the answer of {operation} ({id}): {err}");
            failure(shape, row, id, &ApiError::internal())
        }
    }
}

/// Renders an error.
pub(super) fn failure(shape: Shape, row: Option<&Row>, id: &str, err: &ApiError) -> Answer {
    let (code, status) = match shape {
        Shape::Json => (&*err.code, err.status),
        Shape::Query => in_query(err),
    };
    let body = match shape {
        Shape::Json => serde_json::json!({"__type": code, "message": err.message}).to_string().into_bytes(),
        Shape::Query => {
            let namespace = row.and_then(|row| match row.protocol {
                Protocol::Query { namespace, .. } => Some(namespace),
                Protocol::Json { .. } => None,
            });
            xml::failure(namespace, id, status < 500, code, &err.message).unwrap_or_default()
        }
    };
    let mut answer = rendered(shape, status, id, Bytes::from(body));
    if let Ok(code) = HeaderValue::from_str(code) {
        answer.headers_mut().insert(ERROR_TYPE, code);
    }
    answer
}

fn rendered(shape: Shape, status: u16, id: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match shape {
        Shape::Json => "application/x-amz-json-1.1",
        Shape::Query => "text/xml",
    };
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(id) = HeaderValue::from_str(id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    answer
}

/// The query protocol's code and status of an error (STS API Reference, "Common Errors" and each action's errors).
fn in_query(err: &ApiError) -> (&str, u16) {
    match &*err.code {
        "UnrecognizedClientException" => ("InvalidClientTokenId", 403),
        "InvalidSignatureException" => ("SignatureDoesNotMatch", 403),
        "ExpiredTokenException" => ("ExpiredToken", 403),
        "MissingAuthenticationTokenException" => ("MissingAuthenticationToken", 403),
        "AccessDeniedException" => ("AccessDenied", 403),
        "IncompleteSignatureException" => ("IncompleteSignature", err.status),
        "UnknownOperationException" => ("InvalidAction", err.status),
        "ValidationException" => ("ValidationError", err.status),
        "ThrottlingException" => ("Throttling", err.status),
        "MalformedPolicyDocumentException" => ("MalformedPolicyDocument", err.status),
        "PackedPolicyTooLargeException" => ("PackedPolicyTooLarge", err.status),
        "KMSInternalException" => ("InternalFailure", err.status),
        other => (other, err.status),
    }
}
