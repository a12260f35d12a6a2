//! Header fields: where they are in a head, and which octets they may have.

use crate::limits::MAX_HEADER_FIELDS;

/// A field's name and value, the value without surrounding whitespace.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// Where a field lies in its head, by numbers of this size.
#[derive(Clone, Copy, Default)]
struct Span<N> {
    name_start: N,
    name_len: N,
    value_start: N,
    value_len: N,
}

/// Where the fields lie. Nearly every head fits in 64 KiB, so 16 bits are enough, and a whole list
/// is one KiB that is cheap to move.
#[derive(Clone)]
// The large one is the usual one, and has no allocation for that.
#[allow(clippy::large_enum_variant)]
enum Spans {
    Few([Span<u16>; MAX_HEADER_FIELDS], u8),
    Many(Vec<Span<u32>>),
}

impl<N: TryInto<usize>> Span<N> {
    /// Of a field that borrows from `head`.
    fn of(head: &[u8], field: &httparse::Header<'_>, number: impl Fn(usize) -> N) -> Span<N> {
        let base = head.as_ptr() as usize;
        let offset = |part: &[u8]| number((part.as_ptr() as usize).wrapping_sub(base));
        Span {
            name_start: offset(field.name.as_bytes()),
            name_len: number(field.name.len()),
            // The parser gives an empty value as a literal that lies outside the head.
            value_start: match field.value {
                [] => number(0),
                value => offset(value),
            },
            value_len: number(field.value.len()),
        }
    }

    #[inline]
    fn cut(self, head: &[u8]) -> Field<'_> {
        let part = |start: N, len: N| {
            let (start, len) = (start.try_into().ok()?, len.try_into().ok()?);
            head.get(start..)?.get(..len)
        };
        let name = part(self.name_start, self.name_len).unwrap_or_default();
        let value = part(self.value_start, self.value_len).unwrap_or_default();
        (name, value)
    }
}

/// The fields of a head in the order they came, repeats included.
#[derive(Clone)]
pub struct Fields<'a> {
    head: &'a [u8],
    spans: Spans,
}

impl<'a> Fields<'a> {
    /// Notes where `parsed`, which borrows from `head`, lies in it.
    pub(super) fn locate(head: &'a [u8], parsed: &[httparse::Header<'a>]) -> Self {
        let is_small = head.len() <= usize::from(u16::MAX) && parsed.len() <= MAX_HEADER_FIELDS;
        let spans = match is_small {
            true => {
                let mut spans = [Span::default(); MAX_HEADER_FIELDS];
                for (span, field) in spans.iter_mut().zip(parsed) {
                    *span = Span::of(head, field, |place| place as u16);
                }
                Spans::Few(spans, parsed.len() as u8)
            }
            false => {
                let span = |field| Span::of(head, field, |place| place as u32);
                Spans::Many(parsed.iter().map(span).collect())
            }
        };
        Self { head, spans }
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        match &self.spans {
            Spans::Few(_, count) => usize::from(*count),
            Spans::Many(spans) => spans.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + Clone + use<'a, '_> {
        (0..self.len()).map(|index| self.at(index))
    }

    #[inline]
    fn at(&self, index: usize) -> Field<'a> {
        match &self.spans {
            Spans::Few(spans, _) => spans.get(index).copied().unwrap_or_default().cut(self.head),
            Spans::Many(spans) => spans.get(index).copied().unwrap_or_default().cut(self.head),
        }
    }

    /// The values of every field called `name`, in any case.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n, '_> {
        let matches = move |field: &Field<'a>| field.0.eq_ignore_ascii_case(name.as_bytes());
        self.iter().filter(matches).map(|field| field.1)
    }

    /// The value of the first field called `name`, in any case.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }
}

impl std::fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |part| String::from_utf8_lossy(part).into_owned();
        f.debug_list()
            .entries(self.iter().map(|(name, value)| (text(name), text(value))))
            .finish()
    }
}

/// The elements of a comma-separated list, without whitespace around them; empty ones are skipped.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&octet| octet == b',')
        .map(trim_whitespace)
        .filter(|token| !token.is_empty())
}

/// A `Content-Type` without its parameters (RFC 9110 §8.3.1).
pub(super) fn media_type(content_type: &[u8]) -> &[u8] {
    let essence = content_type.split(|&octet| octet == b';').next();
    trim_whitespace(essence.unwrap_or_default())
}

/// `value` without the spaces and tabs around it.
pub fn trim_whitespace(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A `Content-Length`: digits only (no sign, no space, no list) and within 64 bits, or nothing.
pub fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |length, octet| {
        let digit = octet.is_ascii_digit().then(|| octet - b'0')?;
        length.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Whether `text` is a token (RFC 9110 §5.6.2): what methods and field names are made of.
pub fn is_token(text: &[u8]) -> bool {
    let is_token_octet = |octet: &u8| {
        octet.is_ascii_alphanumeric()
            || matches!(
                octet,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
    };
    !text.is_empty() && text.iter().all(is_token_octet)
}

/// Whether `name` may be written as a field's name.
pub fn is_name(name: &[u8]) -> bool {
    is_token(name)
}

/// Whether `value` may be written as a field's value: nothing that ends a line or that some parser
/// takes for its end (CR, LF, NUL and every other control character but the tab).
pub fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&octet| octet == b'\t' || (octet >= b' ' && octet != 0x7F))
}

/// Whether `authority` may stand in a `Host` field: a name or an address, and perhaps a port (RFC
/// 3986 §3.2.2, RFC 9112 §3.2).
///
/// User information, a path or a list are refused, since parsers disagree about where the host is
/// in them. An empty value is legal.
pub fn is_host(authority: &[u8]) -> bool {
    let literal = authority.strip_prefix(b"[").map(|after| {
        let end = after.iter().position(|&octet| octet == b']');
        after.split_at(end.unwrap_or(0))
    });
    let (is_valid, port) = match literal {
        Some((address, rest)) => (is_address(address), rest.get(1..).unwrap_or_default()),
        None => {
            let colon = authority.iter().position(|&octet| octet == b':');
            let (name, port) = authority.split_at(colon.unwrap_or(authority.len()));
            (is_registered_name(name), port)
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_valid && is_port
}

/// What may stand in brackets: an IPv6 address, or one of a kind that is to come. A zone names an
/// interface of whoever asks, and means nothing here.
fn is_address(literal: &[u8]) -> bool {
    if let [b'v' | b'V', future @ ..] = literal {
        let dot = future.iter().position(|&octet| octet == b'.');
        let (version, address) = future.split_at(dot.unwrap_or(0));
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && address.len() > 1
            && address
                .iter()
                .all(|&octet| octet == b':' || is_name_octet(octet));
    }
    let text = std::str::from_utf8(literal);
    text.is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_registered_name(name: &[u8]) -> bool {
    let is_escape = |at: usize| {
        let digits = name.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let fits = |(at, &octet): (usize, &u8)| is_name_octet(octet) || octet == b'%' && is_escape(at);
    name.iter().enumerate().all(fits)
}

/// Of a name, but for escapes; no comma, which makes a list.
fn is_name_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&octet)
}
