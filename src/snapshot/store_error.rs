//! Errors of the `object_store` crate, in coffer's terms: which kind, what the server answered, what to do next.

use crate::error::{Error, Kind};
use object_store::client::{HttpError, HttpErrorKind};

/// Converts an error of the store. One of the operating system, and one that a server names, keeps its kind.
pub(super) fn of_store(what: String, err: object_store::Error) -> Error {
    if let Some(code) = causes(&err).find_map(|e| e.downcast_ref::<std::io::Error>()?.raw_os_error())
        && http(&err).is_none()
    {
        return Error::io(what, std::io::Error::from_raw_os_error(code));
    }
    let kind = match err {
        object_store::Error::NotFound { .. } => Kind::NotFound,
        object_store::Error::AlreadyExists { .. } => Kind::Exists,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Kind::AccessDenied
        }
        _ => Kind::Io,
    };
    if let Some(answer) = causes(&err).find_map(|e| Answer::parse(&e.to_string())) {
        return answer.error(kind, what);
    }
    if let Some(failed) = http(&err) {
        return cut(failed, what, &err);
    }
    Error::new(kind, what).because(err)
}

/// Whether the connection failed in a way that leaves open whether the call took effect.
pub(super) fn was_cut(err: &object_store::Error) -> bool {
    http(err).is_some_and(|failed| failed != HttpErrorKind::Connect)
}

/// Makes the error of a call that did not end in time.
pub(super) fn late(what: String, limit: std::time::Duration) -> Error {
    Error::new(Kind::Io, format!("{what}: no answer within {} s", limit.as_secs()))
        .hint("check the network and the server; `coffer repository add --time-limit` allows more time")
}

fn causes<'a>(
    err: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(err), |e| e.source())
}

fn http(err: &object_store::Error) -> Option<HttpErrorKind> {
    causes(err).find_map(|e| e.downcast_ref::<HttpError>()).map(HttpError::kind)
}

fn cut(kind: HttpErrorKind, what: String, err: &object_store::Error) -> Error {
    let (why, hint) = match kind {
        HttpErrorKind::Connect => ("cannot connect", "check the network, and the endpoint of the repository"),
        HttpErrorKind::Timeout => ("no answer in time", "check the network and the server"),
        _ => ("the connection failed", "try again"),
    };
    // The innermost cause: those around it repeat the request.
    let cause = causes(err).last().map(ToString::to_string).unwrap_or_default();
    Error::new(Kind::Io, format!("{what}: {why}: {cause}")).hint(hint)
}

/// What a server answered, from the text of the crate's error, which has no type of its own for it.
struct Answer {
    status: u16,
    code: String,
    message: String,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("status code: ")?;
        let status = rest.get(..3)?.parse().ok()?;
        let element = |name: &str| {
            let (_, rest) = rest.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(value, _)| value.chars().take(200).collect::<String>())
        };
        let (code, message) = (element("Code").unwrap_or_default(), element("Message").unwrap_or_default());
        Some(Self { status, code, message })
    }

    fn error(self, kind: Kind, what: String) -> Error {
        let Self { status, code, message } = self;
        let (kind, hint) = match (status, code.as_str()) {
            // Not an absent object: nothing may follow from that.
            (_, "NoSuchBucket") => (Kind::Io, Some("create the bucket, or correct the URL of the repository")),
            (401 | 403, _) => (
                Kind::AccessDenied,
                Some("check the credentials of this process, and what they may do with the bucket"),
            ),
            (400, "AuthorizationHeaderMalformed" | "InvalidRegion") | (301, _) => {
                (Kind::Io, Some("name the bucket's Region: `coffer repository add --region`"))
            }
            (501, _) => (Kind::Unsupported, None),
            (500.., _) => (Kind::Io, Some("the server has a problem: try again later")),
            _ => (kind, None),
        };
        let words: Vec<&str> = [code.as_str(), message.as_str()].into_iter().filter(|w| !w.is_empty()).collect();
        let said = if words.is_empty() { String::new() } else { format!(" ({})", words.join(": ")) };
        let err = Error::new(kind, format!("{what}: the server answered {status}{said}"));
        hint.into_iter().fold(err, Error::hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_its_kind_and_tells_what_to_do() {
        let error = |text: &str| Answer::parse(text).unwrap().error(Kind::Io, "get x".to_owned());
        let denied = error(
            "Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code><Message>no</Message></Error>",
        );
        assert_eq!(denied.kind(), Kind::AccessDenied);
        assert!(
            denied.line().starts_with("get x: the server answered 403 (AccessDenied: no) (check"),
            "{}",
            denied.line()
        );
        let gone = Answer::parse("status code: 404 Not Found: <Code>NoSuchBucket</Code>").unwrap();
        assert_eq!(gone.error(Kind::NotFound, String::new()).kind(), Kind::Io);
        assert_eq!(error("status code: 501 Not Implemented: ").kind(), Kind::Unsupported);
        assert_eq!(
            error("status code: 503 Slow Down: ").line(),
            "get x: the server answered 503 (the server has a problem: try again later)"
        );
        assert!(Answer::parse("status code: x").is_none() && Answer::parse("nothing").is_none());
    }
}
