//! The payloads of `open`, read in the very form in which `open` writes them: our keys in our
//! order, no spaces, no escapes, ASCII.
//!
//! Nearly every payload has that form, for both ends are usually ours, and then a few comparisons
//! do what a general reader needs a state machine for. Anything else gives `None` here and is left
//! to that reader: this one never judges, and takes nothing that the other would not take alike.

use std::borrow::Cow;

use super::heads::{BodyKind, Header, OpenHttp, ResponseHead, TYPICAL_FIELDS};
use super::json::plain_run;
use crate::limits::MAX_PASSED_FIELDS;

/// Reads what `write_open_http` wrote.
pub(super) fn open_http(payload: &[u8]) -> Option<OpenHttp<'_>> {
    let mut at = Cursor(payload);
    at.literal(br#"{"kind":"http","bindId":"#)?;
    let bind_id = at.number()?;
    at.literal(br#","containerPort":"#)?;
    let container_port = at.number()?.try_into().ok()?;
    at.literal(br#","method":"#)?;
    let method = at.text()?;
    at.literal(br#","target":"#)?;
    let target = at.string()?;
    at.literal(br#","headers":"#)?;
    let headers = at.headers()?;
    at.literal(br#","isUpgrade":"#)?;
    let is_upgrade = at.boolean()?;
    at.literal(br#","body":"#)?;
    let body = BodyKind::from_name(at.text()?)?;
    at.literal(br#","remoteAddr":"#)?;
    let remote_addr = at.text()?;
    let connection_id = match at.literal(br#","connectionId":"#) {
        Some(()) => Some(at.number()?),
        None => None,
    };
    at.end()?;
    Some(OpenHttp {
        bind_id: Some(bind_id),
        container_port: Some(container_port),
        method: Cow::Borrowed(method),
        target: Cow::Borrowed(target),
        headers,
        is_upgrade,
        declared_body: Some(body),
        remote_addr: Some(Cow::Borrowed(remote_addr)),
        connection_id,
    })
}

/// Reads what `write_response_head` wrote.
pub(super) fn response_head(payload: &[u8]) -> Option<ResponseHead<'_>> {
    let mut at = Cursor(payload);
    at.literal(br#"{"status":"#)?;
    let status = at.number()?.try_into().ok()?;
    at.literal(br#","headers":"#)?;
    let headers = at.headers()?;
    at.literal(br#","final":"#)?;
    let is_final = at.boolean()?;
    at.end()?;
    (100..=999).contains(&status).then_some(ResponseHead {
        status,
        headers,
        is_final,
    })
}

/// What was not read yet.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn literal(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// The brace that closes the object, with nothing behind it.
    fn end(&self) -> Option<()> {
        (self.0 == b"}").then_some(())
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.literal(b"true") {
            Some(()) => Some(true),
            None => self.literal(b"false").map(|()| false),
        }
    }

    /// A whole number as JSON writes it: no sign, no leading zero.
    fn number(&mut self) -> Option<u64> {
        let rest = self.0;
        let len = rest
            .iter()
            .take_while(|octet| octet.is_ascii_digit())
            .count();
        let (digits, rest) = rest.split_at(len);
        if len == 0 || (digits[0] == b'0' && len > 1) {
            return None;
        }
        self.0 = rest;
        digits.iter().try_fold(0u64, |number, digit| {
            number.checked_mul(10)?.checked_add((digit - b'0').into())
        })
    }

    /// A string of octets that stand for themselves, which are ASCII.
    fn string(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(b"\"")?;
        let (octets, rest) = rest.split_at(plain_run(rest));
        self.0 = rest.strip_prefix(b"\"")?;
        Some(octets)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    fn headers(&mut self) -> Option<Vec<Header<'a>>> {
        let mut fields = Vec::with_capacity(TYPICAL_FIELDS);
        self.literal(b"[")?;
        if self.literal(b"]").is_some() {
            return Some(fields);
        }
        loop {
            self.literal(b"[")?;
            let name = Cow::Borrowed(self.string()?);
            self.literal(b",")?;
            let value = Cow::Borrowed(self.string()?);
            self.literal(b"]")?;
            if fields.len() == MAX_PASSED_FIELDS {
                return None;
            }
            fields.push(Header { name, value });
            if self.literal(b",").is_none() {
                break;
            }
        }
        self.literal(b"]")?;
        Some(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::{
        NameCase, OpenHttpParts, StreamOpen, write_open_http, write_response_head,
    };
    use super::*;

    const FIELDS: [(&[u8], &[u8]); 3] =
        [(b"host", b"a.example"), (b"cookie", b""), (b"x", b"1, 2")];

    #[test]
    fn what_we_write_is_read_here_and_the_same_as_by_the_general_reader() {
        for count in 0..=FIELDS.len() {
            let fields = || FIELDS.into_iter().take(count);
            let parts = OpenHttpParts {
                names: NameCase::Lower,
                bind_id: [0, 1, 10, u64::MAX][count],
                container_port: 3000,
                method: "GET",
                target: b"/a?b=c",
                is_upgrade: count == 2,
                body: BodyKind::Chunked,
                remote_addr: ([192, 0, 2, 1], 49152).into(),
                connection_id: [None, Some(0), Some(7), Some(u32::MAX)][count],
            };
            let (mut open, mut head) = (Vec::new(), Vec::new());
            write_open_http(&mut open, &parts, fields()).expect("it fits");
            write_response_head(&mut head, 404, fields(), count != 1, NameCase::Lower)
                .expect("it fits");
            let read = open_http(&open).expect("our own form");
            assert_eq!(read.headers.len(), count);
            assert_eq!(StreamOpen::parse_any(&open), Ok(StreamOpen::Http(read)));
            let read = response_head(&head).expect("our own form");
            assert_eq!(ResponseHead::parse_any(&head), Ok(read));
        }
    }

    #[test]
    fn any_other_form_is_left_to_the_general_reader() {
        let head = |text: &str| response_head(text.as_bytes()).is_some();
        assert!(head(r#"{"status":200,"headers":[],"final":true}"#));
        for other in [
            r#"{"status":0200,"headers":[],"final":true}"#,
            r#"{"status":99,"headers":[],"final":true}"#,
            r#"{"status":65736,"headers":[],"final":true}"#,
            r#"{"status":99999999999999999999,"headers":[],"final":true}"#,
            r#"{"status": 200,"headers":[],"final":true}"#,
            r#"{"status":200,"headers":[["a","\n"]],"final":true}"#,
            r#"{"status":200,"headers":[["a","é"]],"final":true}"#,
            r#"{"status":200,"headers":[["a","b","c"]],"final":true}"#,
            r#"{"status":200,"headers":[["a","b"],],"final":true}"#,
            r#"{"status":200,"headers":[],"final":1}"#,
            r#"{"status":200,"headers":[],"final":true,"more":1}"#,
            r#"{"status":200,"headers":[],"final":true} "#,
            r#"{"status":200,"headers":[["#,
        ] {
            assert!(!head(other), "{other}");
        }
        let fields = vec![r#"["a","b"]"#; MAX_PASSED_FIELDS + 1].join(",");
        assert!(!head(&format!(
            r#"{{"status":200,"headers":[{fields}],"final":true}}"#
        )));
    }
}
