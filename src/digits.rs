//! Numbers and addresses as text, without the machinery of `fmt`: each request has some of them.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Appends a number in decimal.
pub fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an address: `192.0.2.1`, `2001:db8::1`.
pub fn push_ip(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // A Vec takes everything.
        let _ = write!(out, "{address}");
        return;
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        push_number(out, octet.into());
    }
}

/// Appends an address and port: `192.0.2.1:80`, `[2001:db8::1]:80`.
pub fn push_addr(out: &mut Vec<u8>, address: SocketAddr) {
    if address.is_ipv6() {
        let _ = write!(out, "{address}");
        return;
    }
    push_ip(out, address.ip());
    out.push(b':');
    push_number(out, address.port().into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 1, 9, 10, 65535, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn addresses_are_written_as_std_writes_them() {
        for text in [
            "0.0.0.0:0",
            "127.0.0.1:65535",
            "10.200.30.4:80",
            "[::1]:9",
            "[2001:db8::a]:1",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            let (mut whole, mut ip) = (Vec::new(), Vec::new());
            push_addr(&mut whole, address);
            push_ip(&mut ip, address.ip());
            assert_eq!(whole, text.as_bytes());
            assert_eq!(ip, address.ip().to_string().as_bytes());
        }
    }
}
