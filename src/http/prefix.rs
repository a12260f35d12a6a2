//! A path of the server that visitors do not see: it stands in front of what they ask, and is taken
//! off what the server says of itself.
//!
//! Nothing leads out of it. Servers differ in how they read `..` (encoded, behind a backslash, with
//! parameters), and browsers resolve it before they ask; so what has it in any reading is refused
//! rather than resolved.

use std::borrow::Cow;

/// Whether `path` may be a prefix: it begins with a slash, ends with none, and reads the same for
/// everybody.
pub fn is_good(path: &[u8]) -> bool {
    let Some(parts) = path.strip_prefix(b"/") else {
        return false;
    };
    let is_plain =
        |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(octet);
    let escapes = parts.split(|&octet| octet == b'%').skip(1);
    let mut escapes = escapes.map(|it| it.len() >= 2 && it[..2].iter().all(u8::is_ascii_hexdigit));
    parts.iter().all(is_plain)
        && escapes.all(|good| good)
        && !climbs(path)
        && parts
            .split(|&octet| octet == b'/')
            .all(|part| !matches!(without_parameters(&decoded(part)), b"" | b"."))
}

/// Whether a part of the path of `target` means the one above it, in any reading.
pub fn climbs(target: &[u8]) -> bool {
    let path = target.split(|octet| matches!(octet, b'?' | b'#')).next();
    let path = decoded(path.unwrap_or_default());
    path.split(|octet| matches!(octet, b'/' | b'\\'))
        .any(|part| without_parameters(part) == b"..")
}

/// `target` (in origin-form) behind `prefix`.
pub fn put_on(prefix: &[u8], target: &[u8]) -> Vec<u8> {
    [prefix, target].concat()
}

/// `rest` of a URL, from its path on, without `prefix`; nothing where it does not lie in there.
pub fn take_off<'a>(prefix: &[u8], rest: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    if prefix.is_empty() {
        return Some(Cow::Borrowed(rest));
    }
    let inside = rest.strip_prefix(prefix)?;
    match inside.first() {
        Some(b'/') => Some(Cow::Borrowed(inside)),
        None | Some(b'?' | b'#') => Some(Cow::Owned([b"/", inside].concat())),
        Some(_) => None,
    }
}

/// Whether a reference that begins so stays on its host: `//` and what browsers take for it name
/// another.
pub fn stays(path: &[u8]) -> bool {
    let second = path.get(1).copied().unwrap_or(b'.');
    path.first() == Some(&b'/') && second > b' ' && !matches!(second, b'/' | b'\\')
}

/// `%xx` undone, once.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&octet, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let value = match (octet, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        out.push(value.unwrap_or(octet));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    out
}

/// `..;a=b` is `..` for some servers (RFC 3986 §3.3 leaves parameters to them).
fn without_parameters(part: &[u8]) -> &[u8] {
    let end = part.iter().position(|&octet| octet == b';');
    &part[..end.unwrap_or(part.len())]
}
