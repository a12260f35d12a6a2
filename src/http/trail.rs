//! The way a request came: which proxies are believed, and who is at the far end of them.
//!
//! `X-Forwarded-For` is a list that every proxy appends its peer to. Whoever sends a request may
//! begin it with anything, so it is read from the right, and only as far as each hop was named by a
//! proxy that is trusted: the first address that is not a trusted proxy's is the real peer.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::fields::trim_whitespace;
use super::head::RequestHead;

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u128,
    mask: u128,
}

/// A text that is no [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNetwork;

impl fmt::Display for NoNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address or a range such as 10.0.0.0/8")
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Network, NoNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let (width, before) = match address {
            IpAddr::V4(_) => (32, 96),
            IpAddr::V6(_) => (128, 0),
        };
        let bits = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|octet| octet.is_ascii_digit()) => {
                bits.parse().map_err(|_| NoNetwork)?
            }
            Some(_) => return Err(NoNetwork),
        };
        if bits > width {
            return Err(NoNetwork);
        }
        let mask = u128::MAX.checked_shl(width - bits).unwrap_or(0);
        // The part in front of a mapped IPv4 address belongs to it.
        let mask = match before {
            0 => mask,
            _ => mask | u128::MAX << 32,
        };
        let base = as_bits(address) & mask;
        Ok(Network { base, mask })
    }
}

impl Network {
    /// Whether `address` is in it. An IPv4 address is the same in either notation.
    pub fn contains(&self, address: IpAddr) -> bool {
        as_bits(address) & self.mask == self.base
    }
}

fn as_bits(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The proxies that are believed what they say about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies(Vec<Network>);

impl Default for Proxies {
    /// Those of this machine. Not private networks: behind a container's address translation every
    /// stranger comes from one.
    fn default() -> Proxies {
        let v4 = Network {
            base: as_bits(IpAddr::V4([127, 0, 0, 0].into())),
            mask: u128::MAX << 24,
        };
        let v6 = Network {
            base: Ipv6Addr::LOCALHOST.to_bits(),
            mask: u128::MAX,
        };
        Proxies(vec![v4, v6])
    }
}

impl Proxies {
    /// These and no others.
    pub fn new(networks: Vec<Network>) -> Proxies {
        Proxies(networks)
    }

    /// Whether a peer at this address is one.
    pub fn trust(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(peer))
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The real peer. Its port is 0 when no proxy told it.
    pub peer: SocketAddr,
    /// The connection's peer is a trusted proxy.
    pub by_proxy: bool,
    /// It carries fields that proxies set.
    pub forwarded: bool,
}

impl Origin {
    /// Of a request on a connection from `peer`.
    pub fn of(head: &RequestHead<'_>, peer: SocketAddr, proxies: &Proxies) -> Origin {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let by_proxy = proxies.trust(peer.ip());
        let forwarded = head.fields.iter().any(|(name, _)| is_forwarding(name));
        let mut origin = Origin {
            peer,
            by_proxy,
            forwarded,
        };
        if by_proxy && forwarded {
            origin.peer = real_peer(head, peer, proxies);
        }
        origin
    }
}

fn real_peer(head: &RequestHead<'_>, peer: SocketAddr, proxies: &Proxies) -> SocketAddr {
    let lists: Vec<&[u8]> = head.fields.all("x-forwarded-for").collect();
    let hops = lists
        .iter()
        .rev()
        .flat_map(|list| list.rsplit(|octet| *octet == b','))
        .map(trim_whitespace)
        .filter(|hop| !hop.is_empty());
    let mut last = peer;
    for hop in hops {
        // What is no address was not written by a proxy that is to be believed.
        let Some(hop) = parse_hop(hop) else { break };
        last = hop;
        if !proxies.trust(hop.ip()) {
            break;
        }
    }
    last
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn parse_hop(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>();
    let hop = match address {
        Ok(address) => SocketAddr::new(address, 0),
        Err(_) => text.parse().ok()?,
    };
    Some(SocketAddr::new(hop.ip().to_canonical(), hop.port()))
}

/// Whether a field is one that proxies set to tell where a request came from.
pub(super) fn is_forwarding(name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let start = name.get(..PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        || is("forwarded")
        || is("x-real-ip")
}

const PREFIX: &[u8] = b"x-forwarded-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_request;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_holds_what_its_bits_say() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/8", "10.0.0.1", "9.255.255.255"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.1", "::ffff:192.0.2.1", "::192.0.2.1"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("::/0", "2001:db8::1", "not"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("198.51.100.0/25", "198.51.100.127", "198.51.100.128"),
        ] {
            assert!(network(range).contains(ip(inside)), "{range} {inside}");
            if let Ok(outside) = outside.parse() {
                assert!(!network(range).contains(outside), "{range} {outside}");
            }
        }
        for text in [
            "",
            "a",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::/129",
            "10.0.0/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
        assert!(NoNetwork.to_string().contains("10.0.0.0/8"));
    }

    #[test]
    fn by_default_only_this_machine_is_trusted() {
        let proxies = Proxies::default();
        for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(proxies.trust(ip(peer)), "{peer}");
        }
        for peer in [
            "10.0.0.1",
            "172.17.0.1",
            "192.168.0.1",
            "fe80::1",
            "::2",
            "126.0.0.1",
        ] {
            assert!(!proxies.trust(ip(peer)), "{peer}");
        }
        assert!(!Proxies::new(Vec::new()).trust(ip("127.0.0.1")));
    }

    /// The real peer of a request from `peer` with these fields, behind loopback and 10/8.
    fn origin(peer: &str, fields: &str) -> Origin {
        let mut trusted = Proxies::default();
        trusted.0.push(network("10.0.0.0/8"));
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (head, _) = parse_request(text.as_bytes()).unwrap().unwrap();
        Origin::of(&head, peer.parse().unwrap(), &trusted)
    }

    #[test]
    fn the_list_is_read_from_the_right_as_far_as_proxies_are_trusted() {
        let real = |list: &str| {
            let fields = format!("X-Forwarded-For: {list}\r\n");
            origin("127.0.0.1:9", &fields).peer.to_string()
        };
        assert_eq!(real("203.0.113.9"), "203.0.113.9:0");
        assert_eq!(real("203.0.113.9:51234"), "203.0.113.9:51234");
        assert_eq!(real("[2001:db8::1]:80"), "[2001:db8::1]:80");
        assert_eq!(real("[2001:db8::1]"), "[2001:db8::1]:0");
        assert_eq!(real("2001:db8::1"), "[2001:db8::1]:0");
        // What the visitor wrote itself stands further left.
        assert_eq!(real("1.1.1.1, 203.0.113.9"), "203.0.113.9:0");
        assert_eq!(
            real("1.1.1.1, 203.0.113.9, 10.0.0.7,, 127.0.0.1"),
            "203.0.113.9:0"
        );
        assert_eq!(real("10.0.0.8, 10.0.0.7"), "10.0.0.8:0");
        assert_eq!(real("1.1.1.1, unknown, 10.0.0.7"), "10.0.0.7:0");
        assert_eq!(real("unknown"), "127.0.0.1:9");
        assert_eq!(real(""), "127.0.0.1:9");
        let twice = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2, 10.0.0.7\r\n";
        assert_eq!(origin("10.0.0.9:1", twice).peer.to_string(), "2.2.2.2:0");
    }

    #[test]
    fn who_is_no_trusted_proxy_is_not_believed() {
        let fields = "X-Forwarded-For: 1.1.1.1\r\n";
        let by = origin("203.0.113.9:51234", fields);
        assert_eq!(by.peer.to_string(), "203.0.113.9:51234");
        assert!(by.forwarded && !by.by_proxy);
        let mapped = origin("[::ffff:203.0.113.9]:51234", fields);
        assert_eq!(mapped.peer, by.peer);
    }

    #[test]
    fn a_request_without_the_fields_of_proxies_came_directly() {
        assert!(!origin("127.0.0.1:1", "Accept: x\r\n").forwarded);
        for field in [
            "X-Forwarded-Proto: https",
            "FORWARDED: for=1.1.1.1",
            "x-real-ip: 1.1.1.1",
        ] {
            assert!(
                origin("127.0.0.1:1", &format!("{field}\r\n")).forwarded,
                "{field}"
            );
        }
    }
}
