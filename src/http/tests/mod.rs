//! Tests of the room: tables of what is refused, and the promise that it never matters how the
//! input is cut into pieces.

mod answers;
mod bodies;
mod forwarding;
mod heads;
mod relaying;
mod rewriting;
mod splits;
mod trailing;
mod writing;

use super::*;

/// A small generator of numbers, the same in every run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// A plain server that is called so.
pub(super) fn local(authority: &[u8]) -> rewrite::Local<'_> {
    rewrite::Local {
        scheme: "http",
        authority,
        prefix: b"",
        kept: false,
    }
}

/// Fields as text, one a line, as they came.
pub(super) fn lines<'a>(fields: impl Iterator<Item = Field<'a>>) -> String {
    let text = |part| String::from_utf8_lossy(part).into_owned();
    fields
        .map(|field| format!("{}: {}\n", text(field.0), text(field.1)))
        .collect()
}

/// A whole head that must be acceptable.
pub(super) fn request(head: &[u8]) -> RequestHead<'_> {
    let (parsed, length) = parse_request(head).expect("acceptable").expect("whole");
    assert_eq!(length, head.len());
    parsed
}

/// A whole head that must be acceptable.
pub(super) fn response(head: &[u8]) -> ResponseHead<'_> {
    let (parsed, length) = parse_response(head).expect("acceptable").expect("whole");
    assert_eq!(length, head.len());
    parsed
}

/// A GET by a visitor who speaks HTTP/1.1 and stays.
pub(super) const GET: Asked = Asked {
    head: false,
    version: Version::Http11,
    keep_alive: true,
    upgrade: false,
};
