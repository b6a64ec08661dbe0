//! The two kinds of failure of a connection: an [`Errno`] goes into a reply, a [`Hangup`] ends the link. And the one
//! table that maps coffer's [`Kind`] to both the errors of requests and the error replies to options.

use super::codec::reply;
use crate::error::{Error, Kind};

/// An error number of the protocol ("Error values" of proto.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Errno {
    /// EPERM: a write to a read-only export, or a caller that lacks permission.
    Perm,
    /// EIO: the data could not be read or written.
    Io,
    /// EINVAL: the request is malformed or out of bounds.
    Inval,
    /// ENOSPC: no space left, or a write past the end.
    NoSpc,
    /// EOVERFLOW: a request without payload that is too large.
    Overflow,
    /// ENOTSUP: not supported by this server.
    NotSup,
    /// ESHUTDOWN: the server is shutting down.
    Shutdown,
}

impl Errno {
    /// Returns its number on the wire.
    #[must_use]
    pub const fn wire(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }

    /// Returns the error with this number on the wire; `None` for a number that this server never sends.
    #[must_use]
    pub const fn from_wire(n: u32) -> Option<Self> {
        Some(match n {
            1 => Self::Perm,
            5 => Self::Io,
            22 => Self::Inval,
            28 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => return None,
        })
    }
}

/// The errors that a [`Kind`] maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The error in the reply to a request.
    pub errno: Errno,
    /// The error reply type to an option.
    pub option: u32,
}

/// Maps a kind. `Kind` is non-exhaustive for other crates, but in this one a new kind does not compile without a row.
#[must_use]
pub const fn row(kind: Kind) -> Row {
    const fn row(errno: Errno, option: u32) -> Row {
        Row { errno, option }
    }
    match kind {
        // Not ERR_UNKNOWN: it means that there is no such export, and is all that clients then report. An export that
        // exists but cannot be opened is another case.
        Kind::Failed | Kind::Partial | Kind::Io => row(Errno::Io, reply::ERR_POLICY),
        Kind::Integrity | Kind::InvalidCiphertext => row(Errno::Io, reply::ERR_POLICY),
        Kind::Unreachable => row(Errno::Io, reply::ERR_POLICY),
        Kind::NotFound => row(Errno::Io, reply::ERR_UNKNOWN),
        Kind::Usage => row(Errno::Inval, reply::ERR_INVALID),
        // A lease held by someone else, a name taken, a state that does not allow it: known, and not allowed now.
        Kind::Busy | Kind::Exists | Kind::InvalidState => row(Errno::Io, reply::ERR_POLICY),
        Kind::AccessDenied | Kind::ReadOnly => row(Errno::Perm, reply::ERR_POLICY),
        Kind::KeyUnavailable => row(Errno::Io, reply::ERR_POLICY),
        Kind::NoSpace => row(Errno::NoSpc, reply::ERR_POLICY),
        Kind::Unsupported => row(Errno::NotSup, reply::ERR_PLATFORM),
        Kind::Interrupted => row(Errno::Shutdown, reply::ERR_SHUTDOWN),
    }
}

impl From<&Error> for Errno {
    fn from(err: &Error) -> Self {
        row(err.kind()).errno
    }
}

/// Why a link is cut: the client violated the protocol so that no reply is possible, or went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hangup {
    /// The client set flags that this server did not offer.
    #[error("unknown client flags")]
    ClientFlags,
    /// An option does not start with its magic.
    #[error("bad option magic")]
    OptionMagic,
    /// More options than a negotiation may contain.
    #[error("too many options")]
    TooManyOptions,
    /// An option with more data than is worth discarding.
    #[error("option too long")]
    OptionTooLong,
    /// A client without fixed newstyle sent something other than an export's name.
    #[error("option needs fixed newstyle")]
    NotFixed,
    /// `NBD_OPT_EXPORT_NAME` failed, and has no error reply.
    #[error("export refused")]
    Refused,
    /// A request does not start with its magic.
    #[error("bad request magic")]
    RequestMagic,
    /// A WRITE with more payload than is worth discarding.
    #[error("payload too long")]
    PayloadTooLong,
    /// `NBD_OPT_EXPORT_NAME` where TLS is required and not started; it has no error reply.
    #[error("export requested without TLS")]
    NotSecure,
    /// Plaintext bytes after `NBD_OPT_STARTTLS`.
    #[error("bytes between STARTTLS and TLS")]
    Injection,
    /// The TLS handshake or a record is invalid.
    #[error("TLS failed")]
    Tls,
    /// The negotiation exceeded its time limit.
    #[error("negotiation timed out")]
    HandshakeTimeout,
    /// A request was read too long ago to be applied safely; the client must resend it.
    #[error("request too old to apply")]
    Stale,
    /// The socket failed.
    #[error("connection lost")]
    Lost,
    /// It left buffers idle that others were waiting for.
    #[error("replies left unread or a payload unsent while others waited for buffers")]
    Resting,
    /// Its lease was broken, or a newer connection replaced it.
    #[error("connection displaced")]
    Displaced,
    /// The server ends the connection.
    #[error("server shutdown")]
    Shutdown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_errno_and_option_reply() {
        let table = [
            (Kind::Failed, Errno::Io, reply::ERR_POLICY),
            (Kind::Usage, Errno::Inval, reply::ERR_INVALID),
            (Kind::Partial, Errno::Io, reply::ERR_POLICY),
            (Kind::NotFound, Errno::Io, reply::ERR_UNKNOWN),
            (Kind::Exists, Errno::Io, reply::ERR_POLICY),
            (Kind::Busy, Errno::Io, reply::ERR_POLICY),
            (Kind::KeyUnavailable, Errno::Io, reply::ERR_POLICY),
            (Kind::AccessDenied, Errno::Perm, reply::ERR_POLICY),
            (Kind::InvalidCiphertext, Errno::Io, reply::ERR_POLICY),
            (Kind::Integrity, Errno::Io, reply::ERR_POLICY),
            (Kind::InvalidState, Errno::Io, reply::ERR_POLICY),
            (Kind::NoSpace, Errno::NoSpc, reply::ERR_POLICY),
            (Kind::ReadOnly, Errno::Perm, reply::ERR_POLICY),
            (Kind::Io, Errno::Io, reply::ERR_POLICY),
            (Kind::Unsupported, Errno::NotSup, reply::ERR_PLATFORM),
            (Kind::Unreachable, Errno::Io, reply::ERR_POLICY),
            (Kind::Interrupted, Errno::Shutdown, reply::ERR_SHUTDOWN),
        ];
        for (kind, errno, option) in table {
            assert_eq!(row(kind), Row { errno, option }, "{kind:?}");
            assert_eq!(Errno::from(&Error::new(kind, "x")), errno);
        }
    }

    #[test]
    fn a_full_disk_is_enospc_on_the_wire() {
        let err = Error::io("write", std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(Errno::from(&err).wire(), 28);
    }

    #[test]
    fn numbers_go_round() {
        let all = [Errno::Perm, Errno::Io, Errno::Inval, Errno::NoSpc, Errno::Overflow, Errno::NotSup, Errno::Shutdown];
        for errno in all {
            assert_eq!(Errno::from_wire(errno.wire()), Some(errno));
        }
        assert_eq!(Errno::from_wire(2), None);
    }
}
