//! The one error type of coffer.
//!
//! An [`Error`] says *what* failed and on what, *why* (its source), and what to do *next*. Programs act on its
//! [`Kind`], and on a [`Reason`] where AWS has a finer code; the text is for people and holds no codes. Each edge maps
//! kinds exhaustively: [`Kind::exit_code`], [`Error::aws`], and `nbd::errno` for NBD's errors. A module may have
//! private error enums, but only this type crosses a module boundary. Secrets never enter an error: no constructor
//! takes bytes.

use crate::redact;
use std::borrow::Cow;
use std::fmt;

/// The result of every fallible operation in coffer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The hint for a full disk.
pub const FREE_SPACE: &str = "free space there: remove other files, or delete snapshots and volumes with `coffer \
                              snapshot delete` and `coffer volume delete`, which also work on a full disk";

/// The hint for EFBIG, which does not tell which of the two limits was exceeded.
const TOO_LARGE: &str = "raise the limit (`ulimit -f`; LimitFSIZE= of a systemd service), or use another file \
                         system (a file on ext4 is limited to 16 TiB)";

/// The class of a failure: determines the exit code, the AWS error code and the NBD error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// None of the other kinds applies; the source says more.
    Failed,
    /// The request is malformed or not possible.
    Usage,
    /// The request was carried out in part.
    Partial,
    /// The named object does not exist.
    NotFound,
    /// An object of that name exists.
    Exists,
    /// Another user, process or host holds what is needed.
    Busy,
    /// The key's state forbids its use (disabled, pending deletion, expired, unavailable).
    KeyUnavailable,
    /// The caller is not allowed to do this.
    AccessDenied,
    /// A ciphertext blob, or the key it unwraps to, is invalid.
    InvalidCiphertext,
    /// Bytes on disk or in a repository are damaged, forged or rolled back.
    Integrity,
    /// The object is not in a state that allows this.
    InvalidState,
    /// A file system is full or a quota is exhausted.
    NoSpace,
    /// The file, directory or export is read-only.
    ReadOnly,
    /// The operating system failed an I/O operation.
    Io,
    /// This build, or this machine, does not support it.
    Unsupported,
    /// The server does not answer.
    Unreachable,
    /// The user interrupted it.
    Interrupted,
}

impl Kind {
    /// Returns the exit code of a command that failed with this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Partial => 3,
            Self::NotFound => 4,
            Self::Busy => 5,
            Self::KeyUnavailable | Self::AccessDenied => 6,
            Self::InvalidCiphertext | Self::Integrity => 7,
            Self::Unreachable => 8,
            Self::Interrupted => 130,
            Self::Failed | Self::Exists | Self::InvalidState | Self::NoSpace => 1,
            Self::ReadOnly | Self::Io | Self::Unsupported => 1,
        }
    }

    /// Returns the AWS error code of an error without a [`Reason`] (KMS API Reference, "Common Errors" and per-action
    /// errors).
    #[must_use]
    pub const fn aws(self) -> &'static str {
        match self {
            Self::Usage => "ValidationException",
            Self::NotFound => "NotFoundException",
            Self::Exists => "AlreadyExistsException",
            Self::Busy => "ConflictException",
            Self::KeyUnavailable | Self::InvalidState => "KMSInvalidStateException",
            Self::AccessDenied => "AccessDeniedException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::NoSpace => "LimitExceededException",
            Self::ReadOnly | Self::Unsupported => "UnsupportedOperationException",
            Self::Unreachable => "DependencyTimeoutException",
            Self::Failed | Self::Partial | Self::Integrity | Self::Io | Self::Interrupted => "KMSInternalException",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident => $code:literal),+ $(,)?) => {
        /// A finer cause than the error's kind, where AWS has a code for it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$reason),+];

            /// Returns its AWS error code (KMS API Reference).
            #[must_use]
            pub const fn aws(self) -> &'static str {
                match self {
                    $(Self::$reason => $code,)+
                }
            }

            /// Returns the reason with this AWS error code.
            #[must_use]
            pub fn of_aws(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.aws() == code)
            }
        }
    };
}

reasons! {
    /// The KMS key is disabled.
    KeyDisabled => "DisabledException",
    /// The ciphertext belongs to another KMS key.
    IncorrectKey => "IncorrectKeyException",
    /// A quota is reached.
    LimitExceeded => "LimitExceededException",
    /// A key policy is malformed, or would lock out the caller that sets it.
    MalformedPolicy => "MalformedPolicyDocumentException",
    /// An alias name is malformed or reserved.
    InvalidAliasName => "InvalidAliasNameException",
    /// An ARN is malformed, or of the wrong resource type.
    InvalidArn => "InvalidArnException",
    /// An alias name is one of the service's own.
    ReservedAlias => "NotAuthorizedException",
    /// A tag is malformed or reserved.
    Tag => "TagException",
    /// The request would have succeeded, and was a dry run.
    DryRun => "DryRunOperationException",
    /// The key's usage or spec does not have the operation or the algorithm.
    InvalidKeyUsage => "InvalidKeyUsageException",
    /// A signature is not valid.
    InvalidSignature => "KMSInvalidSignatureException",
    /// A MAC is not valid.
    InvalidMac => "KMSInvalidMacException",
    /// A marker of a paged list is malformed.
    InvalidMarker => "InvalidMarkerException",
    /// A grant token is malformed or unknown.
    InvalidGrantToken => "InvalidGrantTokenException",
    /// A grant id is malformed.
    InvalidGrantId => "InvalidGrantIdException",
    /// An import token is malformed, or of another key.
    InvalidImportToken => "InvalidImportTokenException",
    /// An import token has expired.
    ExpiredImportToken => "ExpiredImportTokenException",
    /// Imported material is not the one that was imported before.
    IncorrectKeyMaterial => "IncorrectKeyMaterialException",
    /// A user or role still has something of its own, and cannot be deleted (IAM).
    DeleteConflict => "DeleteConflict",
    /// A session's token has expired (STS).
    ExpiredToken => "ExpiredTokenException",
    /// An access key or a session's token is unknown, inactive, revoked or forged.
    UnrecognizedClient => "UnrecognizedClientException",
    /// A session's policy and tags together are too large (STS).
    PackedPolicyTooLarge => "PackedPolicyTooLarge",
    /// An attribute to look events up by is unknown, malformed, or one too many (CloudTrail).
    InvalidLookupAttributes => "InvalidLookupAttributesException",
    /// A time range ends before it starts (CloudTrail).
    InvalidTimeRange => "InvalidTimeRangeException",
    /// A page's size is out of range (CloudTrail).
    InvalidMaxResults => "InvalidMaxResultsException",
    /// A page's token is malformed, or of another request (CloudTrail).
    InvalidNextToken => "InvalidNextTokenException",
    /// A category of events that does not exist here (CloudTrail).
    InvalidEventCategory => "InvalidEventCategoryException",
    /// A parameter is missing, malformed or out of range (Resource Groups Tagging API).
    InvalidParameter => "InvalidParameterException",
}

/// A failure: what failed, on what, why, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    reason: Option<Reason>,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Masks tokens in a message, whatever put them there.
fn masked(text: String) -> String {
    match redact::tokens(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(masked) => masked,
    }
}

impl Error {
    /// Makes an error of `kind`; `what` names the operation and its object, as in "open volume web (vol-…): slot A …".
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, reason: None, what: masked(what.into()), hint: None, source: None }
    }

    /// Sets a reason, which is finer than the kind.
    #[must_use]
    pub const fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Adds a hint: what the user can do next, one imperative sentence without a full stop.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(masked(hint.into()));
        self
    }

    /// Adds the cause: the error below this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps this error in a wider one: "attach web: open volume …". Keeps the kind and the hint.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.what = masked(format!("{what}: {}", self.what));
        self
    }

    /// Makes an error from an I/O error on a named object. ENOSPC, EROFS, ENOENT, EACCES map to their kinds.
    #[must_use]
    pub fn io(what: impl Into<String>, err: std::io::Error) -> Self {
        let (kind, hint) = match err.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => (Kind::NoSpace, Some(FREE_SPACE)),
            Some(libc::EFBIG) => (Kind::NoSpace, Some(TOO_LARGE)),
            Some(libc::EROFS) => (Kind::ReadOnly, Some("remount the file system writable")),
            Some(libc::EACCES | libc::EPERM) => (Kind::AccessDenied, Some("run as the owner of that path")),
            Some(libc::ENOENT) => (Kind::NotFound, None),
            Some(libc::EEXIST) => (Kind::Exists, None),
            Some(libc::EINTR) => (Kind::Interrupted, None),
            _ => (Kind::Io, None),
        };
        let (what, hint) = (masked(what.into()), hint.map(str::to_owned));
        Self { kind, reason: None, what, hint, source: Some(Box::new(err)) }
    }

    /// An error of bind(2) or listen(2), with what to do about it.
    #[must_use]
    pub fn listen(what: impl Into<String>, err: std::io::Error) -> Self {
        let (kind, hint) = match err.raw_os_error() {
            Some(libc::EADDRINUSE) => (Kind::Busy, "stop the process that listens there, or choose another address"),
            Some(libc::EADDRNOTAVAIL) => (Kind::Usage, "use an address of this machine"),
            Some(libc::ENOENT) => (Kind::NotFound, "create the directory first"),
            _ => return Self::io(what, err),
        };
        Self::new(kind, what).because(err).hint(hint)
    }

    /// Returns the kind, which is what programs act on.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the reason, where AWS has a finer code than the kind's.
    #[must_use]
    pub const fn why(&self) -> Option<Reason> {
        self.reason
    }

    /// Returns the AWS error code: the reason's if there is one, else the kind's.
    #[must_use]
    pub fn aws(&self) -> &'static str {
        self.reason.map_or(self.kind.aws(), Reason::aws)
    }

    /// Returns whether it says that something may not be used, or does not exist: whoever may not use it learns neither.
    #[must_use]
    pub const fn is_denial(&self) -> bool {
        self.reason.is_none() && matches!(self.kind, Kind::AccessDenied | Kind::NotFound)
    }

    /// Returns what failed, without the cause or the hint.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns the hint, if there is one.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Formats the whole error as one line: what failed, each cause, the hint. The command line prints it and the
    /// control socket carries it.
    #[must_use]
    pub fn line(&self) -> String {
        let mut out = self.what.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            out.push_str(": ");
            out.push_str(&err.to_string());
            cause = err.source();
        }
        if let Some(hint) = &self.hint {
            out.push_str(" (");
            out.push_str(hint);
            out.push(')');
        }
        // Causes are other libraries' texts, and may repeat what they were given.
        masked(out)
    }

    /// Copies the error for a second waiter on the same failure (a latched sync error, say): the cause is flattened
    /// into text.
    #[must_use]
    pub fn replay(&self) -> Self {
        let mut what = self.what.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            what = format!("{what}: {err}");
            cause = err.source();
        }
        Self { kind: self.kind, reason: self.reason, what: masked(what), hint: self.hint.clone(), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

/// Adds context to a bare `std::io::Result`.
pub trait IoContext<T> {
    /// Turns an I/O error into an [`Error`] that says what was being done, and on what.
    fn on(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn on(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e))
    }
}

impl<T> IoContext<T> for std::result::Result<T, rustix::io::Errno> {
    fn on(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is docs/architecture.md, "Exit codes".
    #[test]
    fn exit_codes_are_the_documented_ones() {
        let page = include_str!("../docs/architecture.md");
        let line =
            page.split("## Exit codes").nth(1).and_then(|rest| rest.split('.').next()).unwrap().replace('\n', " ");
        let documented = |words: &str| {
            let entry = line.split(" · ").find(|entry| entry.contains(words)).unwrap();
            entry.trim().split(' ').next().unwrap().parse::<u8>().unwrap()
        };
        for (kind, words) in [
            (Kind::Failed, "failed"),
            (Kind::Usage, "usage"),
            (Kind::Partial, "partly"),
            (Kind::NotFound, "not found"),
            (Kind::Busy, "busy"),
            (Kind::KeyUnavailable, "key or access"),
            (Kind::AccessDenied, "key or access"),
            (Kind::Integrity, "damaged"),
            (Kind::InvalidCiphertext, "damaged"),
            (Kind::Unreachable, "no answer"),
            (Kind::Interrupted, "interrupted"),
        ] {
            assert_eq!(kind.exit_code(), documented(words), "{kind:?}");
        }
    }

    #[test]
    fn a_full_disk_stays_a_full_disk() {
        let err = Error::io("write x", std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(err.kind(), Kind::NoSpace);
        assert_eq!(err.replay().kind(), Kind::NoSpace);
    }

    #[test]
    fn a_file_that_is_too_large_names_both_limits() {
        let err = Error::io("grow x", std::io::Error::from_raw_os_error(libc::EFBIG));
        assert_eq!(err.kind(), Kind::NoSpace);
        for words in ["ulimit -f", "file system"] {
            assert!(err.line().contains(words), "{}", err.line());
        }
    }

    #[test]
    fn a_line_has_what_why_and_next() {
        let err = Error::new(Kind::Busy, "open volume web").because(std::io::Error::other("held by 7")).hint("stop it");
        assert_eq!(err.context("attach").line(), "attach: open volume web: held by 7 (stop it)");
    }
}
