//! The field `Date` (RFC 9110 §5.6.7, §6.6.1).

use crate::digits::{civil, push_two};

/// A second as `Date` says it: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// From seconds since 1970. Years have four digits: what lies behind the last of them is that.
    pub fn from_unix(seconds: u64) -> HttpDate {
        let seconds = seconds.min(LAST_SECOND);
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = Vec::with_capacity(29);
        text.extend_from_slice(WEEKDAYS[(days % 7) as usize]);
        text.extend_from_slice(b", ");
        push_two(&mut text, day);
        text.push(b' ');
        text.extend_from_slice(MONTHS[(month - 1) as usize]);
        text.push(b' ');
        push_two(&mut text, year / 100);
        push_two(&mut text, year % 100);
        text.push(b' ');
        push_two(&mut text, of_day / 3600);
        text.push(b':');
        push_two(&mut text, of_day / 60 % 60);
        text.push(b':');
        push_two(&mut text, of_day % 60);
        text.extend_from_slice(b" GMT");
        HttpDate(text.try_into().expect("each of its parts has its width"))
    }

    /// As it is written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// 1970 began on a Thursday.
const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];
/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_seconds_come_out_as_known_dates() {
        for (seconds, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let text = HttpDate::from_unix(seconds);
            assert_eq!(std::str::from_utf8(text.as_bytes()), Ok(date));
        }
    }
}
