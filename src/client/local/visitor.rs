//! Who asks, as the kit tells it, and logins that hold for a connection and not for a request.
//!
//! NTLM and Negotiate prove who somebody is once, and from then on the *connection* is that
//! person's: whoever sends the next request on it is served as them. So a local connection that
//! ever carried such a login, or was asked for one, belongs to the visitor's connection that it
//! was used for, and nobody else may have it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::client::keys::Origin;
use crate::wire::open::OpenHttp;

/// A visitor's connection. The number tells it from the next one of the same address and port,
/// which on one host may be here within a second; an older kit does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::client) struct Visitor {
    addr: SocketAddr,
    number: Option<u64>,
}

impl Visitor {
    pub(in crate::client) fn named(remote_addr: &str, number: Option<u64>) -> Option<Visitor> {
        let addr: SocketAddr = remote_addr.parse().ok()?;
        (addr.port() != 0).then_some(Visitor { addr, number })
    }
}

/// The visitor's connection that a request came on, if it is named: port 0 is nobody's, for behind
/// a proxy several visitors may share a connection.
pub(in crate::client) fn visitor(open: &OpenHttp<'_>) -> Option<Visitor> {
    Visitor::named(open.remote_addr.as_deref()?, open.connection_id)
}

/// The address that shares are counted for.
pub(in crate::client) fn origin(remote_addr: Option<&str>) -> Origin {
    let text = remote_addr?;
    let addr = text.parse::<SocketAddr>().map(|addr| addr.ip());
    let ip = addr
        .or_else(|_| text.parse::<IpAddr>())
        .ok()?
        .to_canonical();
    Some(match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    })
}

/// Whether a field of a request logs its connection in.
pub(in crate::client) fn logs_in(name: &[u8], value: &[u8]) -> bool {
    let named = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
    (named(b"authorization") || named(b"proxy-authorization")) && names_a_scheme(value)
}

/// Whether a field of a response asks for such a login, or goes on with one.
pub(in crate::client) fn asks_to_log_in(name: &[u8], value: &[u8]) -> bool {
    let named = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
    (named(b"www-authenticate") || named(b"proxy-authenticate")) && names_a_scheme(value)
}

/// Whether one of the challenges or credentials in `value` is of a scheme that authenticates the
/// connection. A comma in a quoted string may make it say yes too often, which costs only the reuse
/// of a connection.
fn names_a_scheme(value: &[u8]) -> bool {
    value.split(|octet| *octet == b',').any(|piece| {
        let piece = piece.trim_ascii();
        let word = piece.split(|octet| octet.is_ascii_whitespace()).next();
        let word = word.unwrap_or_default();
        SCHEMES.iter().any(|one| word.eq_ignore_ascii_case(one))
    })
}

const SCHEMES: [&[u8]; 4] = [b"ntlm", b"negotiate", b"kerberos", b"nego2"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_of_the_connection_is_known_by_its_scheme_in_any_case() {
        for value in [
            "NTLM",
            "ntlm TlRMTVNTUAAB",
            " Negotiate YII=",
            "NEGOTIATE",
            "Kerberos YII=",
            "nego2 YII=",
        ] {
            assert!(logs_in(b"Authorization", value.as_bytes()), "{value}");
            assert!(logs_in(b"proxy-authorization", value.as_bytes()), "{value}");
            assert!(asks_to_log_in(b"WWW-Authenticate", value.as_bytes()));
            assert!(asks_to_log_in(b"proxy-authenticate", value.as_bytes()));
            assert!(!logs_in(b"x-authorization", value.as_bytes()), "{value}");
        }
        let several = b"Basic realm=\"a, b\", NTLM";
        assert!(asks_to_log_in(b"www-authenticate", several));
        for value in ["", "Basic TlRM", "Bearer ntlm", "NTLMv2x", "Digest a=ntlm"] {
            assert!(!logs_in(b"authorization", value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn a_visitor_is_address_and_port_and_shares_go_by_the_address() {
        for somebody in ["203.0.113.9:51234", "[2001:db8::1]:443"] {
            let first = Visitor::named(somebody, Some(1)).unwrap();
            assert_ne!(Visitor::named(somebody, Some(2)), Some(first));
            assert_ne!(Visitor::named(somebody, None), Some(first));
        }
        for nobody in ["203.0.113.9", "203.0.113.9:0", "unknown", "", "a:1"] {
            assert_eq!(Visitor::named(nobody, Some(1)), None, "{nobody}");
        }
        let of = |text| origin(Some(text)).unwrap().to_string();
        assert_eq!(of("203.0.113.9:51234"), "203.0.113.9");
        assert_eq!(of("203.0.113.9"), "203.0.113.9");
        assert_eq!(of("[::ffff:203.0.113.9]:1"), "203.0.113.9");
        assert_eq!(of("[2001:db8::1:2:3:4]:1"), of("[2001:db8::9]:2"));
        assert_eq!((origin(Some("unknown")), origin(None)), (None, None));
    }
}
