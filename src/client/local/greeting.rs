//! Who is calling, said to a local server before a connection's first byte: HAProxy's PROXY
//! protocol, version 1 (a line of text) and 2 (binary).
//!
//! A server that was told to expect it takes the visitor's or the caller's address from it instead
//! of this machine's. It is said once for a connection, so whoever uses one connection must be one
//! visitor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::client::options::ProxyProtocol;
use crate::wire::control::BindMode;

/// What is said of a stream that came from `remote` to the kit's port `port`. An address that is
/// not known is said to be so: then the server takes what it sees.
pub(in crate::client) fn greeting(
    version: ProxyProtocol,
    remote: Option<&str>,
    mode: BindMode,
    port: u16,
) -> Vec<u8> {
    let from = remote.and_then(|text| text.parse::<SocketAddr>().ok());
    let ends = from.map(|from| Ends {
        from: from.ip().to_canonical(),
        from_port: from.port(),
        to: destination(from.ip().to_canonical(), mode),
        to_port: port,
    });
    match version {
        ProxyProtocol::V1 => as_text(ends.as_ref()),
        ProxyProtocol::V2 => as_bytes(ends.as_ref()),
    }
}

/// Both ends of a connection to the kit, of one family.
struct Ends {
    from: IpAddr,
    from_port: u16,
    to: IpAddr,
    to_port: u16,
}

/// Where a connection arrived: a pull listens on loopback alone, and of what is exposed nobody says
/// at which of the kit's addresses a visitor came.
fn destination(from: IpAddr, mode: BindMode) -> IpAddr {
    match (from, mode == BindMode::Pull) {
        (IpAddr::V4(_), true) => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V4(_), false) => Ipv4Addr::UNSPECIFIED.into(),
        (IpAddr::V6(_), true) => Ipv6Addr::LOCALHOST.into(),
        (IpAddr::V6(_), false) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn as_text(ends: Option<&Ends>) -> Vec<u8> {
    let Some(ends) = ends else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = match ends.from {
        IpAddr::V4(_) => "TCP4",
        IpAddr::V6(_) => "TCP6",
    };
    let (from, to) = (ends.from, ends.to);
    let (from_port, to_port) = (ends.from_port, ends.to_port);
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

fn as_bytes(ends: Option<&Ends>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let Some(ends) = ends else {
        // LOCAL: of no family, without addresses.
        out.extend([0x20, 0, 0, 0]);
        return out;
    };
    out.push(0x21);
    let mut addresses = Vec::with_capacity(36);
    for ip in [ends.from, ends.to] {
        match ip {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    out.push(match ends.from {
        IpAddr::V4(_) => 0x11,
        IpAddr::V6(_) => 0x21,
    });
    addresses.extend(ends.from_port.to_be_bytes());
    addresses.extend(ends.to_port.to_be_bytes());
    out.extend((addresses.len() as u16).to_be_bytes());
    out.extend(addresses);
    out
}

/// No line of any protocol begins so.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn every_address_is_said_as_the_vectors_say() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/proxy_protocol.json"
        );
        let text = std::fs::read_to_string(path).expect("the vectors are there");
        let cases: Vec<Value> = serde_json::from_str(&text).expect("a file of vectors is JSON");
        assert!(cases.len() > 25);
        for case in &cases {
            let mode = match case["mode"].as_str() {
                Some("pull") => BindMode::Pull,
                _ => BindMode::Expose,
            };
            let port = case["containerPort"].as_u64().expect("a port") as u16;
            let said = |version| hex(&greeting(version, case["remoteAddr"].as_str(), mode, port));
            assert_eq!(said(ProxyProtocol::V1), case["v1Hex"], "{case}");
            assert_eq!(said(ProxyProtocol::V2), case["v2Hex"], "{case}");
        }
    }
}
