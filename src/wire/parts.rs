//! HEAD_PART: fields that do not fit the STREAM_OPEN or STREAM_RESPONSE_HEAD behind it (PROTOCOL
//! §4).
//!
//! A field that does not fit a frame either goes on in the next element of the list, under an empty
//! name, which no field has.

use super::heads::Header;
use super::json::{self, ControlError, push_octets};
use super::open::{NameCase, PartFields, TooLong, push_name};
use crate::limits::{HEAD_PARTS, MAX_FRAME_PAYLOAD, MAX_HEAD_PARTS, MOST_PASSED_FIELDS};

const HEAD_PART: &str = "HEAD_PART";
const BEGIN: &[u8] = br#"{"headers":["#;
const END: &[u8] = b"]}";
/// Octets of a value in one element, at most: with the longest name and every octet escaped a frame
/// still has room for it.
const PIECE: usize = 16 * 1024;

/// The fields of one head that came ahead of it, as they came.
#[derive(Debug, Default)]
pub struct HeadParts {
    payloads: Vec<Vec<u8>>,
    bytes: usize,
}

#[derive(serde::Deserialize)]
struct RawPart<'a> {
    #[serde(borrow)]
    headers: Option<PartFields<'a>>,
}

impl HeadParts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps the payload of one more; false where those of one head would be too many.
    pub fn add(&mut self, payload: &[u8]) -> bool {
        let fits = self.payloads.len() < HEAD_PARTS && self.bytes + payload.len() <= MAX_HEAD_PARTS;
        if fits {
            self.bytes += payload.len();
            self.payloads.push(payload.to_vec());
        }
        fits
    }

    /// All fields of the head whose own are `rest`.
    pub fn before<'a>(&'a self, rest: Vec<Header<'a>>) -> Result<Vec<Header<'a>>, ControlError> {
        if self.is_empty() {
            return Ok(rest);
        }
        let mut all: Vec<Header<'a>> = Vec::new();
        for payload in &self.payloads {
            let raw: RawPart<'a> = json::read_object(HEAD_PART, payload)?;
            for field in raw.headers.unwrap_or_default().0 {
                join(&mut all, field)?;
            }
        }
        rest.into_iter()
            .try_for_each(|field| join(&mut all, field))?;
        Ok(all)
    }
}

fn join<'a>(all: &mut Vec<Header<'a>>, field: Header<'a>) -> Result<(), ControlError> {
    if !field.name.is_empty() {
        if all.len() == MOST_PASSED_FIELDS {
            return Err(ControlError::new(HEAD_PART, "too many header fields"));
        }
        all.push(field);
        return Ok(());
    }
    let last = all.last_mut();
    let last = last.ok_or_else(|| ControlError::new(HEAD_PART, "it goes on with nothing"))?;
    last.value.to_mut().extend_from_slice(&field.value);
    Ok(())
}

/// The payloads of HEAD_PARTs with all of these fields.
pub fn write_parts<'h>(
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    names: NameCase,
) -> Result<Vec<Vec<u8>>, TooLong> {
    let (mut parts, mut part, mut element) = (Vec::new(), BEGIN.to_vec(), Vec::new());
    for (name, value) in headers {
        if name.len() > PIECE {
            return Err(TooLong);
        }
        let (first, more) = value.split_at(value.len().min(PIECE));
        let pieces =
            std::iter::once((name, first)).chain(more.chunks(PIECE).map(|it| (&[][..], it)));
        for (name, piece) in pieces {
            element.clear();
            element.push(b'[');
            push_name(&mut element, name, names);
            element.push(b',');
            push_octets(&mut element, piece);
            element.push(b']');
            if part.len() + 1 + element.len() + END.len() > MAX_FRAME_PAYLOAD {
                part.extend_from_slice(END);
                parts.push(std::mem::replace(&mut part, BEGIN.to_vec()));
            }
            if part.len() > BEGIN.len() {
                part.push(b',');
            }
            part.extend_from_slice(&element);
        }
    }
    part.extend_from_slice(END);
    parts.push(part);
    let bytes: usize = parts.iter().map(Vec::len).sum();
    let fits = bytes <= MAX_HEAD_PARTS && parts.iter().all(|part| part.len() <= MAX_FRAME_PAYLOAD);
    fits.then_some(parts).ok_or(TooLong)
}

const _: () = assert!(3 * PIECE + 64 < MAX_FRAME_PAYLOAD);

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn written(fields: &Fields) -> Result<Vec<Vec<u8>>, TooLong> {
        let fields = fields.iter().map(|(name, value)| (&name[..], &value[..]));
        write_parts(fields, NameCase::AsWritten)
    }

    fn read<'p>(payloads: impl IntoIterator<Item = &'p [u8]>) -> Result<Fields, ControlError> {
        let mut parts = HeadParts::default();
        for payload in payloads {
            assert!(parts.add(payload), "so many may come");
        }
        let all = parts.before(Vec::new())?;
        let owned = |field: Header<'_>| (field.name.into_owned(), field.value.into_owned());
        Ok(all.into_iter().map(owned).collect())
    }

    fn comes_back(fields: &Fields) -> usize {
        let parts = written(fields).expect("it fits");
        assert!(parts.iter().all(|part| part.len() <= MAX_FRAME_PAYLOAD));
        let again = read(parts.iter().map(Vec::as_slice)).expect("our own");
        assert!(again == *fields, "something was lost");
        parts.len()
    }

    #[test]
    fn what_is_written_in_parts_is_read_again_however_large_or_odd() {
        let field = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        assert_eq!(comes_back(&vec![field(b"a", b"b"); MOST_PASSED_FIELDS]), 1);
        assert_eq!(comes_back(&vec![field(b"a", &[b'v'; 200]); 1000]), 4);
        assert_eq!(comes_back(&vec![field(b"big", &[b'v'; 200 * 1024])]), 4);
        let odd = field(b"!#$%&'*+-.^_`|~0", b"\"\\\t\x80\xff");
        comes_back(&vec![
            odd.clone(),
            field(b"x", &b"\xff\"\t".repeat(30_000)),
            odd,
        ]);
        for length in (PIECE - 2..PIECE + 3).chain(2 * PIECE - 1..2 * PIECE + 2) {
            comes_back(&vec![field(b"a", &vec![b'v'; length]), field(b"b", b"")]);
        }
        assert_eq!(written(&vec![field(&[b'n'; PIECE + 1], b"")]), Err(TooLong));
        assert_eq!(written(&vec![field(b"a", &[b'"'; 150_000])]), Err(TooLong));
    }

    #[test]
    fn a_value_may_be_parted_at_every_octet_and_a_list_at_every_field() {
        let value = b"some value";
        let wanted: Fields = vec![
            (b"a".to_vec(), value.to_vec()),
            (b"b".to_vec(), b"2".to_vec()),
        ];
        for at in 0..=value.len() {
            let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
            let (one, two) = (text(&value[..at]), text(&value[at..]));
            let first = format!(r#"{{"headers":[["a","{one}"]]}}"#);
            let second = format!(r#"{{"headers":[["","{two}"],["b","2"]]}}"#);
            let nothing = br#"{"headers":[]}"#;
            let parts = [first.as_bytes(), nothing, second.as_bytes(), b"{}"];
            assert_eq!(read(parts), Ok(wanted.clone()), "{at}");
        }
    }

    #[test]
    fn the_rest_of_a_field_may_stand_in_its_head() {
        let mut parts = HeadParts::default();
        assert!(parts.add(br#"{"headers":[["a","1"]]}"#));
        let header = |name: &'static [u8], value: &'static [u8]| Header {
            name: name.into(),
            value: value.into(),
        };
        let all = parts.before(vec![header(b"", b"2"), header(b"b", b"3")]);
        assert_eq!(all, Ok(vec![header(b"a", b"12"), header(b"b", b"3")]));
    }

    #[test]
    fn parts_of_one_head_are_bounded_in_number_and_bytes_and_fields() {
        let mut parts = HeadParts::default();
        for _ in 0..HEAD_PARTS {
            assert!(parts.add(b"{}"));
        }
        assert!(!parts.add(b"{}"));
        let (mut parts, payload) = (HeadParts::default(), vec![b' '; MAX_FRAME_PAYLOAD]);
        while parts.add(&payload) {}
        assert!(parts.bytes() <= MAX_HEAD_PARTS);
        assert!(parts.add(&payload[..MAX_HEAD_PARTS - parts.bytes()]));
        assert!(!parts.add(b"1"));
        let list = vec![r#"["a","b"]"#; MOST_PASSED_FIELDS].join(",");
        let full = format!(r#"{{"headers":[{list}]}}"#);
        assert!(read([full.as_bytes()]).is_ok());
        assert!(read([full.as_bytes(), br#"{"headers":[["a","b"]]}"#]).is_err());
        for bad in [
            &br#"{"headers":[["","b"]]}"#[..],
            b"[]",
            b"{",
            br#"{"headers":[["a"]]}"#,
        ] {
            assert!(read([bad]).is_err());
        }
    }
}
