//! Where a binding leads on the laptop.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::client::Error;
use crate::machine::DialTarget;

/// A local server.
///
/// Parsed from `3000`, `:3000`, `localhost:3000`, `[::1]:3000` or `host:port`. A bare port means
/// `localhost`, of which both addresses are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Addr(SocketAddr),
    /// A name, looked up afresh for each connection, and a port.
    Name(String, u16),
}

impl Target {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Target::Addr(addr) => addr.port(),
            Target::Name(_, port) => *port,
        }
    }

    /// What a browser would send as `Host` to reach it.
    pub fn authority(&self) -> String {
        match self {
            Target::Addr(addr) if addr.port() == 80 => match addr.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            Target::Name(name, 80) => name.clone(),
            _ => self.to_string(),
        }
    }

    pub(super) fn dial(&self) -> DialTarget {
        match self {
            Target::Addr(addr) => DialTarget::Addr(*addr),
            Target::Name(name, port) => DialTarget::Name(name.clone(), *port),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Addr(addr) => write!(f, "{addr}"),
            Target::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Target {
        Target::Addr(addr)
    }
}

impl From<u16> for Target {
    fn from(port: u16) -> Target {
        Target::Name("localhost".into(), port)
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target, Error> {
        let wrong = || {
            Error::Options(format!(
                "`{}` is not a target: write 3000, localhost:3000, [::1]:3000 or host:port",
                text.escape_debug()
            ))
        };
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match addr.port() {
                0 => Err(wrong()),
                _ => Ok(Target::Addr(addr)),
            };
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let is_number = !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(port) if is_number && port > 0 => port,
            _ => return Err(wrong()),
        };
        if host.is_empty() {
            return Ok(Target::from(port));
        }
        match is_host_name(host) {
            true => Ok(Target::Name(host.to_owned(), port)),
            false => Err(wrong()),
        }
    }
}

/// Whether `text` may be looked up and may stand in a `Host` field.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_target_is_understood() {
        let name = |host: &str, port| Target::Name(host.into(), port);
        for (text, wanted) in [
            ("3000", name("localhost", 3000)),
            (":3000", name("localhost", 3000)),
            ("localhost:80", name("localhost", 80)),
            ("db.internal:5432", name("db.internal", 5432)),
            ("[::1]:3000", Target::Addr("[::1]:3000".parse().unwrap())),
            ("127.0.0.1:1", Target::Addr("127.0.0.1:1".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Target>().unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_examples() {
        for text in [
            "", "0", "x", "a b:3", "h:70000", "::1:3", "h:+3", "host:", "[::1]", "é:1",
        ] {
            let refused = text.parse::<Target>().unwrap_err();
            assert!(refused.to_string().contains("localhost:3000"), "{text}");
        }
    }

    #[test]
    fn the_usual_port_is_left_out_of_the_host_field() {
        let authority = |text: &str| text.parse::<Target>().unwrap().authority();
        assert_eq!(authority("localhost:80"), "localhost");
        assert_eq!(authority("[::1]:80"), "[::1]");
        assert_eq!(authority("3000"), "localhost:3000");
    }
}
