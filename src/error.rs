//! The one error type of coffer, and the one table that gives an error its exit code, its AWS code and its errno.
//!
//! An [`Error`] says *what* failed and on what, *why* (its source), and what to do *next*. Its [`Kind`] is what
//! programs act on; the words are for people. Module-private enums may exist, but what crosses a module boundary is
//! this type. Secrets never enter one: there is no constructor that takes bytes.

use std::fmt;

/// The result of everything in coffer that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about a full disk.
pub const FREE_SPACE: &str = "free space there: remove other files, or snapshots and volumes that are not needed: `coffer \
                              snapshot delete` and `coffer volume delete` work on a full disk too";

/// What to do about EFBIG: which of the two limits it was the operating system does not say.
const TOO_LARGE: &str = "the file is larger than this process may write (`ulimit -f`; LimitFSIZE= of a systemd service), or than its \
                         file system can hold (ext4: 16 TiB): raise the limit, or keep it on another file system";

/// What sort of failure it is: fixes the exit code, the AWS error code and the errno (see [`Kind::row`]).
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
    /// The daemon that should answer does not.
    Unreachable,
    /// The user stopped it.
    Interrupted,
}

/// One row of the table: what a [`Kind`] means to a shell, to an AWS client and to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Process exit code.
    pub exit: u8,
    /// AWS error code (KMS API Reference, "Common Errors" and per-action errors).
    pub aws: &'static str,
    /// errno as Linux numbers it; the NBD layer maps it to the protocol's subset.
    pub errno: i32,
}

impl Kind {
    /// The table. Exhaustive on purpose: a new kind does not compile until it has a row.
    #[must_use]
    pub const fn row(self) -> Row {
        const fn row(exit: u8, aws: &'static str, errno: i32) -> Row {
            Row { exit, aws, errno }
        }
        match self {
            Self::Failed => row(1, "KMSInternalException", libc::EIO),
            Self::Usage => row(2, "ValidationException", libc::EINVAL),
            Self::Partial => row(3, "KMSInternalException", libc::EIO),
            Self::NotFound => row(4, "NotFoundException", libc::ENOENT),
            Self::Exists => row(1, "AlreadyExistsException", libc::EEXIST),
            Self::Busy => row(5, "ConflictException", libc::EBUSY),
            Self::KeyUnavailable => row(6, "KMSInvalidStateException", libc::ENOKEY),
            Self::AccessDenied => row(6, "AccessDeniedException", libc::EPERM),
            Self::InvalidCiphertext => row(7, "InvalidCiphertextException", libc::EBADMSG),
            Self::Integrity => row(7, "KMSInternalException", libc::EIO),
            Self::InvalidState => row(1, "KMSInvalidStateException", libc::EINVAL),
            Self::NoSpace => row(1, "LimitExceededException", libc::ENOSPC),
            Self::ReadOnly => row(1, "UnsupportedOperationException", libc::EPERM),
            Self::Io => row(1, "KMSInternalException", libc::EIO),
            Self::Unsupported => row(1, "UnsupportedOperationException", libc::EOPNOTSUPP),
            Self::Unreachable => row(8, "DependencyTimeoutException", libc::ENOTCONN),
            Self::Interrupted => row(130, "KMSInternalException", libc::EINTR),
        }
    }
}

/// What failed, on what, why, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    code: Option<Box<str>>,
}

/// An AWS error code that is finer than the error's kind: rides as the error's source, see [`Error::aws`].
#[derive(Debug, Clone, Copy)]
pub struct AwsCode(pub &'static str);

impl fmt::Display for AwsCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for AwsCode {}

impl Error {
    /// An error of `kind`; `what` names the operation and its object, as in "open volume web (vol-…): slot A …".
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: None, source: None, code: None }
    }

    /// Adds what the user can do next, one imperative sentence without a full stop.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
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
        self.what = format!("{what}: {}", self.what);
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
        Self { kind, what: what.into(), hint: hint.map(str::to_owned), source: Some(Box::new(err)), code: None }
    }

    /// The kind: what programs act on.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The AWS error code: its own where that is finer than its kind's (DisabledException).
    #[must_use]
    pub fn aws(&self) -> &str {
        if let Some(code) = &self.code {
            return code;
        }
        let own = std::error::Error::source(self).and_then(|s| s.downcast_ref::<AwsCode>());
        own.map_or(self.kind.row().aws, |c| c.0)
    }

    /// Sets the AWS error code of an error whose cause has become words.
    #[must_use]
    pub fn with_aws(mut self, code: impl Into<Box<str>>) -> Self {
        self.code = Some(code.into());
        self
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
        Self { kind: self.kind, what, hint: self.hint.clone(), source: None, code: Some(self.aws().into()) }
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

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let of = |k: Kind| k.row().exit;
        assert_eq!(of(Kind::Failed), 1);
        assert_eq!(of(Kind::Usage), 2);
        assert_eq!(of(Kind::Partial), 3);
        assert_eq!(of(Kind::NotFound), 4);
        assert_eq!(of(Kind::Busy), 5);
        assert_eq!(of(Kind::KeyUnavailable), 6);
        assert_eq!(of(Kind::AccessDenied), 6);
        assert_eq!(of(Kind::Integrity), 7);
        assert_eq!(of(Kind::Unreachable), 8);
        assert_eq!(of(Kind::Interrupted), 130);
    }

    #[test]
    fn a_full_disk_stays_a_full_disk() {
        let err = Error::io("write x", std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!((err.kind(), err.kind().row().errno), (Kind::NoSpace, libc::ENOSPC));
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
