//! JSON as this protocol needs it: strings written by hand, strings read as octets, and errors that
//! never repeat what the peer sent.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};

/// Why a JSON payload was refused. It names the payload and the place, never the value: the value
/// may be a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlError {
    what: &'static str,
    why: String,
}

impl ControlError {
    /// An error of ours about a payload called `what`. `why` must not repeat the peer's bytes.
    pub fn new(what: &'static str, why: impl Into<String>) -> Self {
        ControlError {
            what,
            why: why.into(),
        }
    }

    fn from_serde(what: &'static str, error: &serde_json::Error) -> Self {
        // Of serde's own texts only these two are made of our field names alone.
        let text = error.to_string();
        let ours = ["missing field", "duplicate field"]
            .iter()
            .any(|start| text.starts_with(start));
        let (line, column) = (error.line(), error.column());
        let why = match error.classify() {
            _ if ours => text
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_string(),
            serde_json::error::Category::Data => {
                format!("a value of the wrong type or out of range before {line}:{column}")
            }
            _ => format!("not one JSON object, see {line}:{column}"),
        };
        ControlError { what, why }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}: {}", self.what, self.why)
    }
}

impl std::error::Error for ControlError {}

/// Reads one object that fills the payload. What is read nests as deep as its type does; what is
/// ignored is skipped without recursion.
pub(super) fn read_object<'a, T: Deserialize<'a>>(
    what: &'static str,
    payload: &'a [u8],
) -> Result<T, ControlError> {
    // serde would also take an array for a struct.
    match payload.iter().find(|octet| !octet.is_ascii_whitespace()) {
        Some(b'{') => {}
        _ => return Err(ControlError::new(what, "not a JSON object")),
    }
    // Once for all strings of the payload, which is quicker than one by one.
    let text = std::str::from_utf8(payload).map_err(|_| ControlError::new(what, "not UTF-8"))?;
    serde_json::from_str(text).map_err(|error| ControlError::from_serde(what, &error))
}

/// `null` reads like an absent key.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Tells a key that says `null` from one that is absent.
pub(super) fn null_is_said<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// A string of text, borrowed from the payload where it has no escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_string())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A string of octets: code points up to U+00FF stand for themselves (PROTOCOL §4). Borrowed from
/// the payload where it is ASCII without escapes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Octets<'a>(pub(super) Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Octets<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OctetsVisitor;
        impl<'de> Visitor<'de> for OctetsVisitor {
            type Value = Octets<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of code points up to U+00FF")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Octets<'de>, E> {
                match text.is_ascii() {
                    true => Ok(Octets(Cow::Borrowed(text.as_bytes()))),
                    false => self.visit_str(text),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Octets<'de>, E> {
                let octets = text
                    .chars()
                    .map(u8::try_from)
                    .collect::<Result<Vec<u8>, _>>();
                match octets {
                    Ok(octets) => Ok(Octets(Cow::Owned(octets))),
                    Err(_) => Err(E::custom("a code point above U+00FF")),
                }
            }
        }
        deserializer.deserialize_str(OctetsVisitor)
    }
}

/// Appends a quoted JSON string in which each octet is one code point (ISO-8859-1).
pub(super) fn push_octets(out: &mut Vec<u8>, octets: &[u8]) {
    out.push(b'"');
    let mut rest = octets;
    loop {
        let (plain, after) = rest.split_at(plain_run(rest));
        out.extend_from_slice(plain);
        let Some((octet, after)) = after.split_first() else {
            break;
        };
        push_special(out, *octet);
        rest = after;
    }
    out.push(b'"');
}

/// Appends a quoted JSON string of text.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for octet in text.bytes() {
        match octet {
            // Bytes of UTF-8 stay as they are: this is text already.
            0x80.. => out.push(octet),
            _ if is_plain(octet) => out.push(octet),
            _ => push_special(out, octet),
        }
    }
    out.push(b'"');
}

/// How many octets at the front stand for themselves.
#[inline]
pub(super) fn plain_run(octets: &[u8]) -> usize {
    let (words, tail) = octets.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let special = specials(u64::from_le_bytes(*word));
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let plain = tail.iter().take_while(|octet| is_plain(**octet)).count();
    words.len() * 8 + plain
}

/// Judges eight octets in one register: the lowest bit that is set is the top bit of the first
/// octet that does not stand for itself. (What is set above it may come of a borrow, and means
/// nothing.)
#[inline]
fn specials(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let below = |limit: u64, word: u64| word.wrapping_sub(EACH * limit) & !word;
    let is = |octet: u8| below(1, word ^ (EACH * u64::from(octet)));
    (word | below(0x20, word) | is(b'"') | is(b'\\')) & (EACH * 0x80)
}

/// Whether an octet stands for itself in a JSON string.
#[inline]
fn is_plain(octet: u8) -> bool {
    matches!(octet, 0x20..=0x7F) & (octet != b'"') & (octet != b'\\')
}

/// Appends one octet that does not.
fn push_special(out: &mut Vec<u8>, octet: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match octet {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', octet]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        // The two bytes of UTF-8 for U+0080 to U+00FF.
        0x80.. => out.extend_from_slice(&[0xC0 | (octet >> 6), 0x80 | (octet & 0x3F)]),
        _ => {
            let (high, low) = (HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_is_written_as_serde_would_write_its_code_point() {
        let octets: Vec<u8> = (0..=255).collect();
        let text: String = octets.iter().copied().map(char::from).collect();
        let mut out = Vec::new();
        push_octets(&mut out, &octets);
        assert_eq!(
            serde_json::from_slice::<String>(&out).ok(),
            Some(text.clone())
        );
        out.clear();
        push_text(&mut out, &text);
        assert_eq!(serde_json::from_slice::<String>(&out).ok(), Some(text));
    }

    #[test]
    fn line_ends_and_tabs_have_short_forms_and_other_controls_the_long_one() {
        for push in [
            |out: &mut Vec<u8>| push_octets(out, b"\n\r\t\x1f"),
            |out: &mut Vec<u8>| push_text(out, "\n\r\t\x1f"),
        ] {
            let mut out = Vec::new();
            push(&mut out);
            assert_eq!(out, br#""\n\r\t\u001f""#);
        }
    }

    #[test]
    fn what_is_no_string_is_told_that_a_string_was_wanted() {
        let error = serde_json::from_str::<Text<'_>>("1").expect_err("a number");
        assert!(error.to_string().contains("expected a string"), "{error}");
        let error = serde_json::from_str::<Octets<'_>>("1").expect_err("a number");
        let wanted = "expected a string of code points up to U+00FF";
        assert!(error.to_string().contains(wanted), "{error}");
    }

    #[test]
    fn a_run_ends_at_the_first_octet_that_is_special_wherever_it_stands() {
        for special in 0..=255u8 {
            for at in 0..20 {
                let mut octets = [b'a'; 20];
                octets[at] = special;
                // What follows the first one must not matter.
                octets[19] = b'"';
                let expected = if at < 19 && is_plain(special) { 19 } else { at };
                assert_eq!(plain_run(&octets), expected, "{special} at {at}");
            }
        }
        assert_eq!(plain_run(b""), 0);
    }

    #[test]
    fn octets_are_borrowed_where_nothing_was_escaped() {
        let plain: Octets<'_> = serde_json::from_str(r#""text/plain""#).expect("octets");
        assert!(matches!(plain.0, Cow::Borrowed(b"text/plain")));
        let escaped: Octets<'_> = serde_json::from_str(r#""a\"b\u00ff""#).expect("octets");
        assert!(matches!(&escaped.0, Cow::Owned(octets) if octets == b"a\"b\xff"));
    }
}
