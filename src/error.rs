//! The one error type of coffer.
//!
//! An [`Error`] says *what* failed and on what, *why* (its source), and what to do *next*. Its [`Kind`] is what programs act
//! on, with a [`Reason`] where AWS tells kinds apart more finely; the words are for people and hold no codes. Each edge maps
//! kinds exhaustively: [`Kind::exit_code`], [`Error::aws`], and `nbd::errno` for NBD's errors. Module-private enums may
//! exist, but what crosses a module boundary is this type. Secrets never enter one: there is no constructor that takes bytes.

use crate::redact;
use std::borrow::Cow;
use std::fmt;

/// The result of everything in coffer that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about a full disk.
pub const FREE_SPACE: &str = "free space there: remove other files, or delete snapshots and volumes with `coffer \
                              snapshot delete` and `coffer volume delete`, which also work on a full disk";

/// What to do about EFBIG: which of the two limits it was the operating system does not say.
const TOO_LARGE: &str = "raise the limit (`ulimit -f`; LimitFSIZE= of a systemd service), or use another file \
                         system (a file on ext4 is limited to 16 TiB)";

/// What sort of failure it is: fixes the exit code, the AWS error code and NBD's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// Nothing more specific is known; the source says more.
    Failed,
    /// The caller asked for something that is malformed or not possible as asked.
    Usage,
    /// Some of what was asked was done, and some was not.
    Partial,
    /// The named thing is not there.
    NotFound,
    /// A thing of that name is there already.
    Exists,
    /// Somebody else holds what is needed.
    Busy,
    /// The key's state forbids its use (disabled, pending deletion, expired, unavailable).
    KeyUnavailable,
    /// The caller may not do this.
    AccessDenied,
    /// A ciphertext blob, or a key that it unwraps to, is not what it should be.
    InvalidCiphertext,
    /// Bytes on disk or in a repository are damaged, forged or rolled back.
    Integrity,
    /// The object is not in a state that allows this.
    InvalidState,
    /// A file system or a quota is full.
    NoSpace,
    /// The file, folder or export may be read only.
    ReadOnly,
    /// The operating system failed an input or output operation.
    Io,
    /// This program, or this machine, cannot do it.
    Unsupported,
    /// The server that should answer does not.
    Unreachable,
    /// The user stopped it.
    Interrupted,
}

impl Kind {
    /// The exit code of a command that failed so.
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

    /// The AWS error code of an error without a [`Reason`] (KMS API Reference, "Common Errors" and per-action errors).
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

/// Why, where AWS has an error code that is finer than that of the error's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The KMS key is disabled.
    KeyDisabled,
    /// The ciphertext is another KMS key's.
    IncorrectKey,
    /// There are as many as there may be.
    LimitExceeded,
    /// A key policy is malformed, or would lock its writer out.
    MalformedPolicy,
    /// The name of an alias is against the rules, or reserved.
    InvalidAliasName,
    /// An ARN is malformed, or not of the right sort.
    InvalidArn,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KeyDisabled,
        Self::IncorrectKey,
        Self::LimitExceeded,
        Self::MalformedPolicy,
        Self::InvalidAliasName,
        Self::InvalidArn,
    ];

    /// Its AWS error code (KMS API Reference).
    #[must_use]
    pub const fn aws(self) -> &'static str {
        match self {
            Self::KeyDisabled => "DisabledException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::LimitExceeded => "LimitExceededException",
            Self::MalformedPolicy => "MalformedPolicyDocumentException",
            Self::InvalidAliasName => "InvalidAliasNameException",
            Self::InvalidArn => "InvalidArnException",
        }
    }

    /// The reason that has this AWS error code.
    #[must_use]
    pub fn of_aws(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.aws() == code)
    }
}

/// What failed, on what, why, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    reason: Option<Reason>,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// No message has a token in it, whoever wrote it there.
fn masked(text: String) -> String {
    match redact::tokens(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(masked) => masked,
    }
}

impl Error {
    /// An error of `kind`; `what` names the operation and its object, as in "open volume web (vol-…): slot A …".
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, reason: None, what: masked(what.into()), hint: None, source: None }
    }

    /// Says why more finely than its kind does.
    #[must_use]
    pub const fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Adds what the user can do next, one imperative sentence without a full stop.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(masked(hint.into()));
        self
    }

    /// Adds why: the error below this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps this error in a wider one: "attach web: open volume …". The kind and the hint stay.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.what = masked(format!("{what}: {}", self.what));
        self
    }

    /// An I/O error on a named thing. ENOSPC, EROFS, ENOENT, EACCES keep their meaning.
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

    /// The kind: what programs act on.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Why, where AWS tells that more finely than the kind does.
    #[must_use]
    pub const fn why(&self) -> Option<Reason> {
        self.reason
    }

    /// The AWS error code: its reason's, else its kind's.
    #[must_use]
    pub fn aws(&self) -> &'static str {
        self.reason.map_or(self.kind.aws(), Reason::aws)
    }

    /// What failed, without cause and advice.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The advice, when there is one.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Everything in one line: what, each cause, the advice. What the command line prints and the socket carries.
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
        out
    }

    /// A copy for a second waiter on the same failure (a latched sync error, say): the cause becomes words.
    #[must_use]
    pub fn replay(&self) -> Self {
        let mut what = self.what.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            what = format!("{what}: {err}");
            cause = err.source();
        }
        Self { kind: self.kind, reason: self.reason, what, hint: self.hint.clone(), source: None }
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

/// Puts the name of a thing on a bare `std::io::Result`.
pub trait IoContext<T> {
    /// Turns an I/O error into an [`Error`] that names what was being done, and on what.
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

    /// docs/architecture.md, "Exit codes".
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
