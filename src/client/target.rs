//! Where a binding leads on the laptop.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::client::Error;
use crate::http::prefix;
use crate::limits::UNIX_PATH;
use crate::machine::DialTarget;
use crate::wire::open::OpenForward;

/// A local server.
///
/// Parsed from `3000`, `:3000`, `localhost:3000`, `[::1]:3000` or `host:port`, from
/// `http://host:port/path` or `https://host:port/path`, whose path then stands in front of each
/// request's, or from `unix:/run/app.sock`. A bare port means `localhost`, of which both addresses
/// are tried.
///
/// ```
/// use hoody_tunnel::client::Target;
///
/// let target = |text: &str| text.parse::<Target>();
/// assert_eq!(target("3000")?.port(), Some(3000));
/// assert_eq!(target("http://localhost:8080/shop")?.prefix(), "/shop");
/// assert_eq!(target("https://localhost")?.port(), Some(443));
/// assert_eq!(target("unix:/run/app.sock")?.port(), None);
/// assert!(target("http://user:password@localhost:8080").is_err());
/// # Ok::<(), hoody_tunnel::client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    place: Place,
    /// What stands in front of the path of each request: nothing, or `/path`.
    prefix: String,
    /// It speaks TLS.
    tls: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Addr(SocketAddr),
    /// A name, looked up afresh for each connection, and a port.
    Name(String, u16),
    /// A Unix socket's path.
    Unix(String),
}

impl Target {
    fn new(place: Place) -> Target {
        Target {
            place,
            prefix: String::new(),
            tls: false,
        }
    }

    /// The port; a Unix socket has none.
    pub fn port(&self) -> Option<u16> {
        match &self.place {
            Place::Addr(addr) => Some(addr.port()),
            Place::Name(_, port) => Some(*port),
            Place::Unix(_) => None,
        }
    }

    /// What stands in front of the path of each request: nothing, or as in `/path`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What a browser would send as `Host` to reach it.
    pub fn authority(&self) -> String {
        let usual = usual_port(self.tls);
        match &self.place {
            Place::Addr(addr) if addr.port() == usual => match addr.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            Place::Name(name, port) if *port == usual => name.clone(),
            Place::Unix(_) => "localhost".into(),
            place => place.to_string(),
        }
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            true => "https",
            false => "http",
        }
    }

    /// The name that its certificate must carry, where it speaks TLS.
    pub(super) fn server_name(&self) -> Option<String> {
        let name = match &self.place {
            Place::Addr(addr) => addr.ip().to_string(),
            Place::Name(name, _) => name.clone(),
            Place::Unix(_) => return None,
        };
        self.tls.then_some(name)
    }

    /// Whom the kit is asked to connect to. It carries bytes, and nothing that is HTTP's or TLS's.
    pub(super) fn beyond(&self) -> Result<OpenForward<'_>, Error> {
        if self.tls || !self.prefix.is_empty() {
            return wrong(
                "What is forwarded is plain bytes: write 5432, host:port, [::1]:5432 or \
                 unix:/path, without https:// and without the path of a URL.",
            );
        }
        Ok(match &self.place {
            Place::Addr(addr) => OpenForward::Port {
                host: addr.ip().to_string().into(),
                port: addr.port(),
            },
            Place::Name(name, port) => OpenForward::Port {
                host: name.into(),
                port: *port,
            },
            Place::Unix(path) => OpenForward::Unix(path.into()),
        })
    }

    pub(super) fn dial(&self) -> DialTarget {
        match &self.place {
            Place::Addr(addr) => DialTarget::Addr(*addr),
            Place::Name(name, port) => DialTarget::Name(name.clone(), *port),
            Place::Unix(path) => DialTarget::Unix(path.into()),
        }
    }

    /// As a URL, for people who look for a server that does not answer.
    pub(super) fn shown(&self) -> String {
        match &self.place {
            Place::Unix(_) => self.to_string(),
            place => format!("{}://{place}{}", self.scheme(), self.prefix),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_str() {
            "" if !self.tls => write!(f, "{}", self.place),
            prefix => write!(f, "{}://{}{prefix}", self.scheme(), self.place),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Addr(addr) => write!(f, "{addr}"),
            Place::Name(name, port) => write!(f, "{name}:{port}"),
            Place::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Target {
        Target::new(Place::Addr(addr))
    }
}

impl From<u16> for Target {
    fn from(port: u16) -> Target {
        Target::new(Place::Name("localhost".into(), port))
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target, Error> {
        if let Some(path) = after(text, "unix:") {
            return read_unix(path).map(Target::new);
        }
        // It may be a password that stands before it, and is not repeated.
        if text.contains('@') {
            return wrong("A target has no user and no password.");
        }
        let (tls, url) = match (after(text, "http://"), after(text, "https://")) {
            (Some(url), _) => (false, url),
            (_, Some(url)) => (true, url),
            _ => {
                let place = read_place(text, None).ok_or_else(|| no_target(text))?;
                return Ok(Target::new(place));
            }
        };
        let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        let place = read_place(authority, Some(usual_port(tls))).ok_or_else(|| no_target(text))?;
        let prefix = read_prefix(path)?;
        Ok(Target { place, prefix, tls })
    }
}

/// What follows `scheme`, in whichever case it is written.
fn after<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (first, rest) = text.split_at_checked(scheme.len())?;
    first.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// A host and a port; where a `usual` port is known the host alone will do, elsewhere the port.
fn read_place(text: &str, usual: Option<u16>) -> Option<Place> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return (addr.port() > 0).then_some(Place::Addr(addr));
    }
    if let Some(port) = usual {
        let inside = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let ip = match inside {
            Some(inside) => inside.parse().ok().map(IpAddr::V6),
            None => text.parse().ok().map(IpAddr::V4),
        };
        if let Some(ip) = ip {
            return Some(Place::Addr(SocketAddr::new(ip, port)));
        }
        if is_host_name(text) {
            return Some(Place::Name(text.to_owned(), port));
        }
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let is_number = !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit());
    let port = port.parse::<u16>().ok();
    let port = port.filter(|&port| is_number && port > 0)?;
    match host {
        "" if usual.is_none() => Some(Place::Name("localhost".into(), port)),
        host => is_host_name(host).then(|| Place::Name(host.to_owned(), port)),
    }
}

/// The path of a target's URL, without the slash in the end.
fn read_prefix(path: &str) -> Result<String, Error> {
    if path.contains(['?', '#']) {
        return wrong("A target's URL ends with its path: it has no ? and no #.");
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() && !prefix::is_good(path.as_bytes()) {
        return wrong(
            "A target's path has letters, digits and %xx, and no part of it is empty, . or ..",
        );
    }
    Ok(path.to_owned())
}

/// A Unix socket's path; `unix:///run/app.sock` is one, too.
fn read_unix(path: &str) -> Result<Place, Error> {
    let Some(rest) = path.strip_prefix('/') else {
        return wrong("A Unix socket's path begins with a slash, as in unix:/run/app.sock.");
    };
    let path = format!("/{}", rest.trim_start_matches('/'));
    if path.ends_with('/') || path.chars().any(char::is_control) {
        return wrong("That is no path of a Unix socket.");
    }
    if path.len() > UNIX_PATH {
        let length = path.len();
        return wrong(&format!(
            "A Unix socket's path has at most {UNIX_PATH} bytes; this one has {length}."
        ));
    }
    Ok(Place::Unix(path))
}

fn no_target(text: &str) -> Error {
    Error::Options(format!(
        "`{}` is not a target: write 3000, localhost:3000, [::1]:3000, host:port, \
         http://host:port/path, https://host:port or unix:/path",
        text.escape_debug()
    ))
}

fn wrong<T>(text: &str) -> Result<T, Error> {
    Err(Error::Options(text.into()))
}

/// Whether `text` may be looked up and may stand in a `Host` field.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_plain)
}

/// The port that a URL leaves out.
fn usual_port(tls: bool) -> u16 {
    match tls {
        true => 443,
        false => 80,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_spelling_of_a_target_is_read_as_the_vectors_say() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/http/targets.json"
        );
        let text = std::fs::read_to_string(path).expect("the vectors are there");
        let cases: Vec<Value> = serde_json::from_str(&text).expect("a file of vectors is JSON");
        assert!(cases.len() > 30);
        for case in &cases {
            let text = case["text"].as_str().expect("a text");
            let read = text.parse::<Target>();
            if let Some(error) = case["error"].as_str() {
                let refused = read.expect_err(text).to_string();
                assert!(refused.contains(error), "{text}: {refused}");
                assert!(!refused.contains("hunter2"), "{text}: {refused}");
                continue;
            }
            let target = read.unwrap_or_else(|error| panic!("{text}: {error}"));
            let (host, unix) = match target.dial() {
                DialTarget::Addr(addr) => (Some(addr.ip().to_string()), None),
                DialTarget::Name(name, _) => (Some(name), None),
                DialTarget::Unix(path) => (None, Some(path.display().to_string())),
                DialTarget::Handler(_) | DialTarget::Addrs(_) => panic!("{text} is one target"),
            };
            assert_eq!(host.as_deref(), case["host"].as_str(), "{text}");
            assert_eq!(unix.as_deref(), case["unix"].as_str(), "{text}");
            let port = target.port().map(u64::from);
            assert_eq!(port, case["port"].as_u64(), "{text}");
            assert_eq!(target.prefix(), case["prefix"].as_str().unwrap_or(""));
            assert_eq!(target.server_name().is_some(), case["secure"] == true);
            let authority = target.authority();
            assert_eq!(Some(authority.as_str()), case["hostHeader"].as_str());
            assert_eq!(Some(target.to_string().as_str()), case["shown"].as_str());
            let again = target.to_string().parse::<Target>();
            assert_eq!(again.ok(), Some(target), "what is shown can be given again");
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_before_it_is_dialled() {
        let path = |length: usize| format!("unix:/{}", "x".repeat(length - 1)).parse::<Target>();
        assert!(path(UNIX_PATH).is_ok());
        let refused = path(UNIX_PATH + 1).unwrap_err().to_string();
        assert!(refused.contains("at most"), "{refused}");
    }
}
