//! Numbers, addresses and dates as text, without the machinery of `fmt`: each request has some of
//! them.

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

/// Appends a number of two digits; what is above them is left out.
pub fn push_two(out: &mut Vec<u8>, number: u64) {
    out.push(b'0' + (number / 10 % 10) as u8);
    out.push(b'0' + (number % 10) as u8);
}

/// Year, month and day of the `days`-th day since 1970-01-01. Years are counted from March, so that
/// the leap day is a year's last day; eras of 400 years all have the same number of days.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let since_year_0 = days + 719_468;
    let (era, day_of_era) = (since_year_0 / 146_097, since_year_0 % 146_097);
    let leaps = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
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
