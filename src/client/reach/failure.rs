//! Why a connection to the kit did not come about or was lost, and whether to try again.

use crate::client::Error;
use crate::machine::{Ended, IoFailure, NO_TLS};
use crate::mux::Violation;
use crate::wire::code::Code;
use crate::wire::control::GoAway;
use crate::ws::HandshakeError;

/// What ended an attempt or a standing connection.
#[derive(Debug, Clone)]
pub(in crate::client) enum Failure {
    /// The TCP connection to whoever comes first on the way failed.
    Dial(IoFailure),
    /// The proxy answered, but not with a way through.
    ProxyRefused { status: u16, text: String },
    /// The proxy's answer was no HTTP.
    ProxyBroken(&'static str),
    /// TLS failed.
    Tls(IoFailure),
    /// Whoever answers refuses the upgrade.
    Refused { status: u16, text: String },
    /// The upgrade's answer is wrong.
    Handshake(HandshakeError),
    /// The answer was no HTTP.
    NotHttp(&'static str),
    /// The kit said GOAWAY.
    Goaway {
        code: Code,
        message: String,
        /// Whether it does not want us back, or wants us at once; not every kit says.
        is_final: Option<bool>,
    },
    /// The kit closed the WebSocket, with this code.
    Closed(Option<u16>),
    /// The session that was asked for is another process's by now.
    Taken,
    /// The kit broke the protocol.
    Violation(Violation),
    /// The kit did not let this connection join the session.
    Unjoined,
    /// A step of the way took too long.
    Slow(&'static str),
    /// A standing connection carried nothing any more.
    Silent,
    /// The connection ended.
    Dropped(Ended),
    /// A plain connection was closed without a byte.
    Mute,
    /// The kit ended the connection in order, but without a word.
    HungUp,
    /// The network changed, so a new try is better than the one that runs.
    Disturbed,
    /// Another way to the kit carries fewer lanes, so this one is to go there.
    Moved,
}

impl From<GoAway> for Failure {
    fn from(goaway: GoAway) -> Failure {
        Failure::Goaway {
            code: goaway.code(),
            message: goaway.message,
            is_final: goaway.is_final,
        }
    }
}

impl Failure {
    /// Whether another try is pointless. Some of it is only before the first success: later a proxy
    /// that restarts may answer anything for a while.
    pub(crate) fn is_fatal(&self, ever_online: bool) -> bool {
        let first = !ever_online;
        match self {
            Failure::Refused { status: 401, .. } => true,
            Failure::Refused { status, .. } | Failure::ProxyRefused { status, .. } => {
                first && (300..500).contains(status) && !matches!(status, 408 | 425 | 429)
            }
            Failure::Goaway {
                is_final: Some(true),
                ..
            } => true,
            Failure::Goaway { code, .. } => match code {
                Code::AuthError | Code::VersionMismatch => true,
                Code::ResourceExhausted => first,
                _ => false,
            },
            Failure::Closed(Some(1008)) => true,
            Failure::Closed(Some(1013)) => first,
            Failure::Tls(failure) => first && (is_distrust(failure) || is_plain(failure)),
            Failure::Handshake(_) | Failure::NotHttp(_) | Failure::ProxyBroken(_) => first,
            Failure::Violation(_) => first,
            _ => false,
        }
    }

    /// Whether the system had nothing left to dial with.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Failure::Dial(failure) if failure.is_shortage())
    }

    /// Whether one of both sides broke the rules, which the next session may do again.
    pub(crate) fn is_quarrel(&self) -> bool {
        match self {
            Failure::Violation(_) => true,
            Failure::Goaway { code, .. } => !matches!(code, Code::NoError | Code::IdleTimeout),
            _ => false,
        }
    }

    /// Whether it may be the way's fault, so that another one may be better.
    pub(crate) fn is_the_ways(&self) -> bool {
        use Failure::{Closed, Disturbed, Goaway, Moved, Taken, Unjoined, Violation};
        !matches!(
            self,
            Goaway { .. } | Closed(_) | Taken | Violation(_) | Unjoined | Disturbed | Moved
        )
    }

    /// Whether the kit itself wants no other try, by whatever way.
    pub(crate) fn is_the_kits_last_word(&self) -> bool {
        matches!(self, Failure::Goaway { .. } | Failure::Closed(Some(1008))) && self.is_fatal(false)
    }

    /// Whether the kit has not heard of us for long: it keeps the session all the same.
    pub(crate) fn is_about_silence(&self) -> bool {
        matches!(self, Failure::Goaway { message, .. } if message == "pong timeout")
    }

    /// Whether the kit asks us to come back at once.
    pub(crate) fn is_restart(&self) -> bool {
        let asks = Some(false);
        matches!(self, Failure::Goaway { is_final, .. } if *is_final == asks)
    }

    /// The same for people and programs.
    pub(crate) fn error(&self) -> Error {
        let quoted = |text: &str| match text.is_empty() {
            true => String::new(),
            false => format!(": {text}"),
        };
        match self {
            Failure::Dial(failure) => Error::Io(format!("cannot connect: {}", failure.text)),
            Failure::ProxyRefused { status: 407, text } => Error::Proxy(format!(
                "the proxy wants other credentials (HTTP 407{}); put them into its URL",
                quoted(text)
            )),
            Failure::ProxyRefused { status, text } => Error::Proxy(format!(
                "the proxy did not let us through (HTTP {status}{}); is its URL right?",
                quoted(text)
            )),
            Failure::ProxyBroken(why) => Error::Proxy(format!(
                "the proxy does not speak HTTP: {why} Is its URL right?"
            )),
            Failure::Tls(failure) if is_plain(failure) => Error::Tls(
                "whoever answers there does not speak TLS: the URL of a plain kit begins with ws://"
                    .into(),
            ),
            Failure::Tls(failure) => Error::Tls(match is_distrust(failure) {
                true => format!(
                    "{}; if the certificate is of your own making, give its CA file",
                    failure.text
                ),
                false => format!("TLS failed: {}", failure.text),
            }),
            Failure::Refused { status: 401, text } => Error::Auth(format!(
                "the kit does not accept the token, or wants one (HTTP 401{})",
                quoted(text)
            )),
            Failure::Refused { status, text } => Error::Refused {
                status: *status,
                message: format!(
                    "no tunnel is opened at this URL{}{}",
                    quoted(text),
                    hint(*status)
                ),
            },
            Failure::Handshake(error) => Error::Protocol(format!(
                "that is not a kit, or one that is too old: {error}"
            )),
            Failure::NotHttp(why) => Error::Protocol(format!("that is not a kit: {why}")),
            Failure::Goaway {
                message,
                is_final: Some(true),
                ..
            } => Error::Closed(format!(
                "the kit ended the session for good{}",
                quoted(&plain(message))
            )),
            Failure::Goaway { code, message, .. } => goaway(*code, message),
            Failure::Taken => {
                Error::Lost("another process has this session; opening one of our own".into())
            }
            Failure::Closed(Some(1008)) => Error::Auth("the kit does not accept the token".into()),
            Failure::Closed(Some(1013)) => {
                Error::SessionLimit("the kit has as many sessions as it may have".into())
            }
            Failure::Closed(Some(code)) => Error::Lost(format!("the kit closed with code {code}")),
            Failure::Closed(None) | Failure::HungUp => {
                Error::Lost("the kit closed the connection".into())
            }
            Failure::Mute => Error::Lost(
                "the connection was closed without an answer; if TLS is spoken there, the URL \
                 begins with wss://"
                    .into(),
            ),
            Failure::Violation(violation) => {
                Error::Protocol(format!("the kit broke the protocol: {violation}"))
            }
            Failure::Unjoined => Error::Lost("the kit let no further connection join".into()),
            Failure::Slow(step) => Error::Timeout(format!("no answer in time while {step}")),
            Failure::Silent => Error::Lost("the connection went silent".into()),
            Failure::Dropped(Ended::Reset) => Error::Lost("the connection was reset".into()),
            Failure::Dropped(Ended::Failed(failure)) => {
                Error::Lost(format!("the connection broke: {}", failure.text))
            }
            Failure::Disturbed => Error::Lost("the network changed".into()),
            Failure::Moved => Error::Lost("another URL carries the connection from now on".into()),
        }
    }
}

fn goaway(code: Code, message: &str) -> Error {
    let said = match message.is_empty() {
        true => code.name().to_owned(),
        false => plain(message),
    };
    match code {
        Code::AuthError => Error::Auth(format!("the kit does not accept the token: {said}")),
        Code::VersionMismatch => Error::Version(format!(
            "the kit speaks another version of the protocol: {said}; update the older of both"
        )),
        Code::ResourceExhausted => Error::SessionLimit(format!(
            "the kit has no room: {said}; end another session, or raise its limit"
        )),
        Code::ProtocolError | Code::FlowControlError | Code::FrameSizeError => {
            Error::Protocol(format!("the kit says that we broke the protocol: {said}"))
        }
        _ => Error::Lost(format!("the kit ended the session: {said}")),
    }
}

/// Whether TLS failed because the certificate is not to be trusted, which waiting does not mend.
pub(in crate::client) fn is_distrust(failure: &IoFailure) -> bool {
    failure.text.contains("certificate") || failure.kind == std::io::ErrorKind::InvalidInput
}

/// Whether TLS failed because there is none.
fn is_plain(failure: &IoFailure) -> bool {
    failure.text.contains(NO_TLS)
}

fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => "; it redirects: use the URL that it leads to",
        400 => "; if it speaks TLS its URL begins with wss://",
        403 => "; if the kit is behind a proxy, its operator may have to allow this host",
        404 => "; is the path right?",
        _ => "",
    }
}

/// What a peer said, fit for a terminal: printable, and short.
pub(in crate::client) fn plain(text: &str) -> String {
    if text.len() <= QUOTED_CHARS && text.bytes().all(|octet| octet.is_ascii_graphic()) {
        return text.to_owned();
    }
    let is_shown = |c: &char| !c.is_control();
    let words: String = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(is_shown)
        .take(QUOTED_CHARS)
        .collect();
    words.trim().to_owned()
}

/// How much of a peer's words is repeated, in characters.
const QUOTED_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> Failure {
        Failure::Refused {
            status,
            text: "why".into(),
        }
    }

    fn goaway(code: Code) -> Failure {
        let message = "session limit".into();
        let is_final = None;
        Failure::Goaway {
            code,
            message,
            is_final,
        }
    }

    #[test]
    fn what_waiting_cannot_mend_is_fatal_at_first() {
        for (failure, first, later) in [
            (refused(401), true, true),
            (refused(400), true, false),
            (refused(403), true, false),
            (refused(404), true, false),
            (refused(429), false, false),
            (refused(503), false, false),
            (goaway(Code::AuthError), true, true),
            (goaway(Code::VersionMismatch), true, true),
            (goaway(Code::ResourceExhausted), true, false),
            (goaway(Code::IdleTimeout), false, false),
            (goaway(Code::NoError), false, false),
            (Failure::Closed(Some(1008)), true, true),
            (Failure::Closed(Some(1013)), true, false),
            (Failure::Closed(Some(1001)), false, false),
            (Failure::Silent, false, false),
            (Failure::Dropped(Ended::Reset), false, false),
        ] {
            assert_eq!(failure.is_fatal(false), first, "{failure:?} at first");
            assert_eq!(failure.is_fatal(true), later, "{failure:?} later");
        }
    }

    #[test]
    fn a_name_that_does_not_resolve_and_a_refused_connection_are_waited_for() {
        let failure = |kind, text: &str| IoFailure {
            kind,
            text: text.into(),
        };
        let unresolved = failure(std::io::ErrorKind::NotFound, "no such name");
        assert!(!Failure::Dial(unresolved).is_fatal(false));
        let distrusted = failure(
            std::io::ErrorKind::InvalidData,
            "TLS: invalid peer certificate: UnknownIssuer",
        );
        assert!(Failure::Tls(distrusted.clone()).is_fatal(false));
        assert!(
            Failure::Tls(distrusted)
                .error()
                .to_string()
                .contains("CA file")
        );
    }

    #[test]
    fn a_peers_words_cannot_steer_the_terminal() {
        assert_eq!(plain(" a\x1b[31m\r\nb\u{9b}1m "), "a[31m  b1m");
        assert_eq!(plain(&"x".repeat(1000)).len(), 200);
    }
}
