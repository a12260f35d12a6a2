//! URLs of kits and proxies, as far as they are needed to dial.

use std::net::{IpAddr, SocketAddr};

use crate::client::target::is_host_name;
use crate::machine::DialTarget;

/// A host by name or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) enum Host {
    /// A name to be looked up.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct Url {
    /// Lower case, without `://`.
    pub scheme: String,
    /// What stands before the `@`, percent-decoded: user and password.
    pub credentials: Option<(String, String)>,
    pub host: Host,
    pub port: Option<u16>,
    /// Path and query; empty when there is neither.
    pub path: String,
}

/// Why a text is no URL, in a sentence that does not repeat it: it may hold a password.
pub(in crate::client) type Fault = &'static str;

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Url, Fault> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("The scheme is missing, as in wss://.")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        if path.bytes().any(|octet| !octet.is_ascii_graphic()) {
            return Err("The path has a character that must be percent-encoded.");
        }
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(read_credentials(credentials)?), authority),
            None => (None, authority),
        };
        let (host, port) = read_authority(authority)?;
        Ok(Url {
            scheme: scheme.to_ascii_lowercase(),
            credentials,
            host,
            port,
            path: path.to_owned(),
        })
    }
}

impl Host {
    /// How to dial it.
    pub(crate) fn dial(&self, port: u16) -> DialTarget {
        match self {
            Host::Name(name) => DialTarget::Name(name.clone(), port),
            Host::Ip(ip) => DialTarget::Addr(SocketAddr::new(*ip, port)),
        }
    }

    /// The name that a certificate must carry.
    pub(crate) fn server_name(&self) -> String {
        match self {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => ip.to_string(),
        }
    }

    /// As it stands in front of a port.
    pub(crate) fn bracketed(&self) -> String {
        match self {
            Host::Name(name) => name.clone(),
            Host::Ip(IpAddr::V4(ip)) => ip.to_string(),
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        }
    }

    /// Whether it is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Host::Name(name) => {
                name.eq_ignore_ascii_case("localhost")
                    || name.to_ascii_lowercase().ends_with(".localhost")
            }
            Host::Ip(ip) => ip.is_loopback(),
        }
    }
}

fn read_authority(authority: &str) -> Result<(Host, Option<u16>), Fault> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or("The bracket is not closed.")?;
        let ip = inside
            .parse()
            .map_err(|_| "The address in brackets is malformed.")?;
        let port = match after.strip_prefix(':') {
            Some(port) => read_port(port)?,
            None if after.is_empty() => None,
            None => return Err("There is something between the bracket and the port."),
        };
        return Ok((Host::Ip(IpAddr::V6(ip)), port));
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, read_port(port)?),
        None => (authority, None),
    };
    if let Ok(ip) = name.parse() {
        return Ok((Host::Ip(IpAddr::V4(ip)), port));
    }
    match is_host_name(name) {
        true => Ok((Host::Name(name.to_owned()), port)),
        false => Err("The host name is malformed."),
    }
}

fn read_port(port: &str) -> Result<Option<u16>, Fault> {
    if port.is_empty() {
        return Ok(None);
    }
    let is_number = port.bytes().all(|octet| octet.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if is_number && port > 0 => Ok(Some(port)),
        _ => Err("The port is not a number from 1 to 65535."),
    }
}

fn read_credentials(text: &str) -> Result<(String, String), Fault> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Ok((percent_decode(user)?, percent_decode(password)?))
}

fn percent_decode(text: &str) -> Result<String, Fault> {
    const FAULT: Fault = "The credentials are not percent-encoded as they should be.";
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(FAULT);
        };
        octets.push((high << 4 | low) as u8);
    }
    String::from_utf8(octets).map_err(|_| FAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url = Url::parse("wss://Kit.example:8443/a/b?c=d#e").unwrap();
        assert_eq!(url.scheme, "wss");
        assert_eq!(url.host, Host::Name("Kit.example".into()));
        assert_eq!((url.port, url.path.as_str()), (Some(8443), "/a/b?c=d"));
        let url = Url::parse("http://us%40er:p%3Aw@[::1]:3128").unwrap();
        assert_eq!(url.credentials, Some(("us@er".into(), "p:w".into())));
        assert_eq!(
            (url.host.bracketed().as_str(), url.port),
            ("[::1]", Some(3128))
        );
        assert_eq!(url.host.server_name(), "::1");
        assert!(url.host.is_loopback());
    }

    #[test]
    fn malformed_urls_are_refused_without_repeating_them() {
        for text in [
            "kit.example",
            "wss://",
            "wss://a b/",
            "wss://h:0/",
            "wss://h:99999",
            "wss://[::1/",
            "wss://[x]/",
            "wss://[::1]x/",
            "wss://h/a b",
            "http://secret%zz@h",
            "wss://h\r\nx: y/",
        ] {
            let fault = Url::parse(text).unwrap_err();
            assert!(!fault.contains("secret"), "{text}: {fault}");
        }
    }
}
