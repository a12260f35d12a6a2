//! What can go wrong for a user of the library, in variants that stay.

use std::fmt;

use crate::wire::control::BindErrCode;

/// Why a call failed, or why a session ended. Each one's text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An option cannot work; nothing was opened.
    Options(String),
    /// The kit does not accept the token, or wants one.
    Auth(String),
    /// The kit has as many sessions as it may have.
    SessionLimit(String),
    /// The kit refused a binding.
    Bind {
        /// Why, for programs.
        code: BindErrCode,
        /// Why, for people.
        message: String,
    },
    /// Whoever answers at the URL does not open tunnels there.
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why, and the start of what it said.
        message: String,
    },
    /// The kit does not do what was asked for: it is older, or its operator does not allow it.
    NotGranted(String),
    /// The kit speaks another version of the protocol.
    Version(String),
    /// The kit broke the protocol, or says that we did.
    Protocol(String),
    /// The connection was lost, and `retry_for` has passed since.
    Lost(String),
    /// There was no answer in time.
    Timeout(String),
    /// TLS failed: above all a certificate that cannot be verified.
    Tls(String),
    /// The proxy refused, or cannot be used.
    Proxy(String),
    /// The system said no.
    Io(String),
    /// The session was closed, by us or by the kit's operator.
    Closed(String),
}

impl Error {
    /// A word that stays the same for programs (`--json`).
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Options(_) => "options",
            Error::Auth(_) => "auth",
            Error::SessionLimit(_) => "session-limit",
            Error::Bind { .. } => "bind",
            Error::Refused { .. } => "refused",
            Error::NotGranted(_) => "not-granted",
            Error::Version(_) => "version",
            Error::Protocol(_) => "protocol",
            Error::Lost(_) => "lost",
            Error::Timeout(_) => "timeout",
            Error::Tls(_) => "tls",
            Error::Proxy(_) => "proxy",
            Error::Io(_) => "io",
            Error::Closed(_) => "closed",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Bind { code, message } => write!(f, "{message} ({code}){}", bind_advice(*code)),
            Error::Refused { status, message } => write!(f, "{message} (HTTP {status})"),
            Error::Options(text)
            | Error::Auth(text)
            | Error::NotGranted(text)
            | Error::SessionLimit(text)
            | Error::Version(text)
            | Error::Protocol(text)
            | Error::Lost(text)
            | Error::Timeout(text)
            | Error::Tls(text)
            | Error::Proxy(text)
            | Error::Io(text)
            | Error::Closed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

fn bind_advice(code: BindErrCode) -> &'static str {
    match code {
        BindErrCode::AlreadyBound => {
            ": another tunnel holds the port; pick another one, or take it over"
        }
        BindErrCode::PortInUse => ": a program in the container has the port; pick another one",
        BindErrCode::ReservedPort => ": pick a port from 80 on that is not the kit's own",
        BindErrCode::PrivilegedPort => {
            ": pick a port from 1024 on, or have the kit's operator allow it"
        }
        BindErrCode::InvalidHost => ": a pull listens on 127.0.0.1, ::1 or localhost",
        BindErrCode::BindCapExceeded => ": unbind one first, or use another session",
        _ => "",
    }
}
