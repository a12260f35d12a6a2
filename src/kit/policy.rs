//! Whom clients may have the kit connect to (PROTOCOL §8).
//!
//! A [`Policy`] is pure: it knows what the operator listed, is shown the addresses that a name has,
//! and answers with those that may be connected to, which are all of them or none. It never looks
//! anything up, so what it judged is what is dialled.
//!
//! Addresses are judged as what they reach: `0.0.0.0` and `::` are this machine, an IPv4 address in
//! an IPv6 one is that IPv4 address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::http::trail::Network;

/// What the operator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Any port of this machine's loopback.
    loopback: bool,
    rules: Vec<Rule>,
}

/// One thing that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// A name, whatever addresses it has.
    Name { name: String, port: Option<u16> },
    /// Addresses.
    Range { range: Range, port: Option<u16> },
    /// A Unix socket, by exactly this path.
    Unix(String),
}

/// Addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    network: Network,
    is_v4: bool,
    /// It is one address, listed by itself.
    alone: bool,
}

impl Range {
    fn has(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_v4 && self.network.contains(ip)
    }
}

/// Why something is not allowed; the text is for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// Nothing is.
    Off,
    /// It is not listed, by this address where a name has one.
    NotListed(Option<IpAddr>),
    /// An address that answers for the machine or its cloud.
    Special(IpAddr),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Off => f.write_str("this kit connects to nothing (--allow-forward off)"),
            Denied::NotListed(None) => {
                f.write_str("the kit's operator does not allow it (--allow-forward)")
            }
            Denied::NotListed(Some(ip)) => {
                write!(
                    f,
                    "the kit's operator does not allow {ip} (--allow-forward)"
                )
            }
            Denied::Special(ip) => write!(
                f,
                "{ip} is link-local or a cloud's own service, which --allow-forward has to list by \
                 itself"
            ),
        }
    }
}

impl Policy {
    /// Nothing may be connected to.
    pub fn off() -> Policy {
        Policy::default()
    }

    /// Whatever listens on this machine's loopback.
    pub fn loopback() -> Policy {
        Policy {
            loopback: true,
            rules: Vec::new(),
        }
    }

    /// Reads what `--allow-forward` was given, each of them a list. The error is a sentence.
    pub fn parse(lists: &[String]) -> Result<Policy, String> {
        let words: Vec<&str> = lists.iter().flat_map(|list| list.split(',')).collect();
        if words == ["off"] {
            return Ok(Policy::off());
        }
        let mut policy = Policy::off();
        for word in words {
            match word {
                "off" => return Err("off contradicts the others".into()),
                "loopback" => policy.loopback = true,
                word => policy.rules.push(Rule::parse(word)?),
            }
        }
        Ok(policy)
    }

    /// Whether nothing is allowed.
    pub fn is_off(&self) -> bool {
        !self.loopback && self.rules.is_empty()
    }

    /// Whether a Unix socket is allowed: by the very path that was listed, for no other text leads
    /// there.
    pub fn allows_unix(&self, path: &str) -> Result<(), Denied> {
        let listed = |rule: &Rule| matches!(rule, Rule::Unix(listed) if listed == path);
        match self.rules.iter().any(listed) {
            true => Ok(()),
            false => Err(self.denied(None)),
        }
    }

    /// Whether it is worth looking a host up: that nothing is allowed can often be told before.
    pub fn may_look_up(&self, host: &str, port: u16) -> Result<(), Denied> {
        if let Some(ip) = literal(host) {
            return self.judge(host, SocketAddr::new(ip, port)).map(|_| ());
        }
        let fits = |rule: &Rule| match rule {
            Rule::Name { name, port: listed } => same_name(name, host) && is_port(*listed, port),
            Rule::Range { port: listed, .. } => is_port(*listed, port),
            Rule::Unix(_) => false,
        };
        match self.loopback || self.rules.iter().any(fits) {
            true => Ok(()),
            false => Err(self.denied(None)),
        }
    }

    /// Where to connect for one of the addresses that `host` has.
    pub fn judge(&self, host: &str, addr: SocketAddr) -> Result<SocketAddr, Denied> {
        let Seen { dials, is, away } = see(addr.ip());
        let port = addr.port();
        if is_special(is) || is_special(dials) {
            let alone = |range: &Range| range.alone && (range.has(is) || range.has(dials));
            return match self.lists(port, alone) {
                true => Ok(redirected(addr, dials)),
                false => Err(Denied::Special(dials)),
            };
        }
        let named = |rule: &Rule| match rule {
            Rule::Name { name, port: listed } => same_name(name, host) && is_port(*listed, port),
            _ => false,
        };
        // A translator's loopback is not ours.
        let foreign = is.is_loopback() && away;
        let listed = |range: &Range| range.has(dials) || (range.has(is) && !foreign);
        let allowed = (self.loopback && is.is_loopback() && !foreign)
            || self.rules.iter().any(named)
            || self.lists(port, listed);
        match allowed {
            true => Ok(redirected(addr, dials)),
            false => Err(self.denied(literal(host).is_none().then_some(dials))),
        }
    }

    fn lists(&self, port: u16, fits: impl Fn(&Range) -> bool) -> bool {
        self.rules.iter().any(|rule| match rule {
            Rule::Range {
                range,
                port: listed,
            } => is_port(*listed, port) && fits(range),
            _ => false,
        })
    }

    fn denied(&self, ip: Option<IpAddr>) -> Denied {
        match self.is_off() {
            true => Denied::Off,
            false => Denied::NotListed(ip),
        }
    }
}

impl fmt::Display for Policy {
    /// As `--allow-forward` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.loopback, self.rules.len()) {
            (false, 0) => f.write_str("off"),
            (true, 0) => f.write_str("loopback"),
            (true, count) => write!(f, "loopback and {count} listed"),
            (false, count) => write!(f, "{count} listed"),
        }
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Rule, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Rule::Unix(path.to_owned())),
                false => Err(format!(
                    "`{text}` needs a whole path, as unix:/run/app.sock"
                )),
            };
        }
        let wrong = |why: &str| {
            format!("`{text}` {why}: host:port, host:*, 10.0.0.0/8:port or unix:/path are meant")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let port = match port {
            "*" => None,
            port => match port.parse::<u16>() {
                Ok(number) if number > 0 && port.bytes().all(|it| it.is_ascii_digit()) => {
                    Some(number)
                }
                _ => return Err(wrong("has no port from 1 to 65535")),
            },
        };
        let bare = host.replacen('[', "", 1).replacen(']', "", 1);
        if (bare.len() != host.len()) != bare.contains(':') {
            return Err(wrong("is unclear: an IPv6 address stands in [brackets]"));
        }
        if let Ok(network) = bare.parse::<Network>() {
            let address = bare.split('/').next().and_then(|it| it.parse().ok());
            let is_v4 = address.is_some_and(|it: IpAddr| it.to_canonical().is_ipv4());
            let alone = !bare.contains('/') || bare.ends_with(if is_v4 { "/32" } else { "/128" });
            let range = Range {
                network,
                is_v4,
                alone,
            };
            return Ok(Rule::Range { range, port });
        }
        if !is_name(&bare) {
            return Err(wrong("is neither a name nor an address"));
        }
        let name = bare.strip_suffix('.').unwrap_or(&bare).to_ascii_lowercase();
        Ok(Rule::Name { name, port })
    }
}

/// An address as it is asked for, where that is no name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// Whether a text can be the name of a host. What looks like a number would be read as an address.
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.starts_with(|c: char| c.is_ascii_digit());
    !name.is_empty() && !numeric && text.chars().all(is_part)
}

fn same_name(listed: &str, asked: &str) -> bool {
    let asked = asked.strip_suffix('.').unwrap_or(asked);
    listed.eq_ignore_ascii_case(asked)
}

fn is_port(listed: Option<u16>, port: u16) -> bool {
    listed.is_none_or(|listed| listed == port)
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// What to connect to.
    dials: IpAddr,
    /// Whom that reaches.
    is: IpAddr,
    /// By way of a translator: `is` is an address as that one sees it.
    away: bool,
}

fn see(ip: IpAddr) -> Seen {
    let itself = |ip: IpAddr| Seen {
        dials: ip,
        is: ip,
        away: false,
    };
    let v6 = match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => return itself(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V4(_) => return itself(ip),
        IpAddr::V6(v6) => v6,
    };
    let [.., high, low] = v6.segments();
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    let inner = Ipv4Addr::new(a, b, c, d);
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => itself(Ipv6Addr::LOCALHOST.into()),
        // IPv4, mapped.
        [0, 0, 0, 0, 0, 0xFFFF, ..] => see(inner.into()),
        // NAT64: only as it stands does it reach the translator.
        [0x64, 0xFF9B, 0, 0, 0, 0, ..] => Seen {
            dials: ip,
            is: see(inner.into()).is,
            away: true,
        },
        _ => itself(ip),
    }
}

/// Whether an address answers for the machine, its link or its cloud, or hides what it reaches.
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            v4.is_link_local() || CLOUD_SERVICES.iter().any(|octets| v4.octets() == *octets)
        }
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => false,
            [0xFE80..=0xFEBF, ..] => true,
            // AWS, and Google.
            [0xFD00, 0x0EC2, ..] | [0xFD20, 0x00CE, 0, 0, 0, 0, 0, 0x0254] => true,
            // IPv4-compatible, NAT64 of a site, Teredo, 6to4: an IPv4 address in a form of its own.
            [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xFF9B, 1, ..] | [0x2001, 0, ..] | [0x2002, ..] => true,
            _ => false,
        },
    }
}

/// Alibaba's, Azure's and Oracle's, outside the link-local range.
const CLOUD_SERVICES: [[u8; 4]; 3] = [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]];

fn redirected(mut addr: SocketAddr, ip: IpAddr) -> SocketAddr {
    if addr.ip() != ip {
        addr.set_ip(ip);
    }
    addr
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
