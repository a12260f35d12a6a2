//! Finding the end of a head, each octet once.
//!
//! The scanner is also the strict half of the parser. It sees every octet, so it refuses here what
//! the general parser would let pass or would notice only at the end: bare LF, bare CR, NUL and
//! other control characters, folded lines, too many lines, too many octets.

use super::Reject;
use crate::limits::{LONGEST_HEAD, MAX_HEADER_FIELDS, MAX_HTTP_HEAD, MOST_FIELDS};

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// In octets.
    pub octets: usize,
    /// In fields.
    pub fields: usize,
}

impl HeadLimits {
    /// Of a request, unless the operator says otherwise.
    pub const REQUEST: HeadLimits = HeadLimits {
        octets: MAX_HTTP_HEAD,
        fields: MAX_HEADER_FIELDS,
    };
    /// Of an answer, unless the user says otherwise, and of any head.
    pub const LARGEST: HeadLimits = HeadLimits {
        octets: LONGEST_HEAD,
        fields: MOST_FIELDS,
    };
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Looks for the empty line that ends a head in a buffer that grows at its end.
///
/// The buffer must start where the head starts and keep what it had. One scanner serves one head.
#[derive(Debug, Clone)]
pub struct HeadScanner {
    /// Octets that need not be looked at again.
    scanned: usize,
    /// Where the line under the cursor starts.
    line_start: usize,
    /// Lines seen in full: the first line and the fields.
    lines: usize,
    /// A bare LF ends a line too.
    bare_lf: bool,
    limits: HeadLimits,
}

impl HeadScanner {
    /// A scanner at the start of a request's head of the usual size.
    pub fn new() -> Self {
        Self::within(HeadLimits::REQUEST)
    }

    /// A scanner at the start of a request's head.
    pub fn within(limits: HeadLimits) -> Self {
        Self {
            scanned: 0,
            line_start: 0,
            lines: 0,
            bare_lf: false,
            limits,
        }
    }

    /// The same for the answer of a server, which is written anew before anybody else reads it: a
    /// bare LF ends a line there, as it does for all who read answers (RFC 9112 §2.2).
    pub fn for_answer() -> Self {
        Self::for_answer_within(HeadLimits::REQUEST)
    }

    /// The same for an answer of any size.
    pub fn for_answer_within(limits: HeadLimits) -> Self {
        Self {
            bare_lf: true,
            ..Self::within(limits)
        }
    }

    /// How large the head may be.
    pub fn limits(&self) -> HeadLimits {
        self.limits
    }

    /// The length of the head in `buffer`, its empty line included, once it is all there.
    ///
    /// Empty lines before the first line are skipped and counted in the length: RFC 9112 §2.2 asks
    /// that of servers. A response's head may not have them ([`super::ResponseHead`] refuses).
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, Reject> {
        let end = buffer.len().min(self.limits.octets);
        let window = buffer.get(..end).unwrap_or_default();
        loop {
            self.refuse_folding(window)?;
            self.scanned = skip_plain(window, self.scanned);
            match window.get(self.scanned..).unwrap_or_default() {
                [] => break,
                [b'\t', ..] => self.scanned += 1,
                [b'\r', b'\n', ..] => {
                    if self.end_line(2)? {
                        return Ok(Some(self.scanned));
                    }
                }
                [b'\n', ..] if self.bare_lf => {
                    if self.end_line(1)? {
                        return Ok(Some(self.scanned));
                    }
                }
                // The LF may still come.
                [b'\r'] => break,
                [b'\r', ..] => return Err(Reject::bad("A CR in the head is not followed by LF.")),
                [b'\n', ..] => return Err(Reject::bad("A line of the head ends in a bare LF.")),
                _ => return Err(Reject::bad("The head contains a control character.")),
            }
        }
        if end == self.limits.octets {
            return Err(Reject {
                status: 431,
                why: "The head is too large.",
            });
        }
        Ok(None)
    }

    /// Whether nothing but empty lines has come: the connection is idle between two requests.
    pub fn is_untouched(&self, buffer: &[u8]) -> bool {
        self.lines == 0 && buffer.iter().all(|octet| matches!(octet, b'\r' | b'\n'))
    }

    /// Takes the octets under the cursor that end a line; true when they end the head.
    fn end_line(&mut self, octets: usize) -> Result<bool, Reject> {
        let is_empty = self.line_start == self.scanned;
        self.scanned += octets;
        self.line_start = self.scanned;
        if is_empty {
            return Ok(self.lines > 0);
        }
        self.lines += 1;
        if self.lines > 1 + self.limits.fields {
            return Err(Reject {
                status: 431,
                why: "The head has too many fields.",
            });
        }
        Ok(false)
    }

    /// A line that starts with whitespace continues the one before it in old parsers, and is a
    /// field of its own or the end of the head in others.
    fn refuse_folding(&self, window: &[u8]) -> Result<(), Reject> {
        let at_line_start = self.scanned == self.line_start;
        match window.get(self.scanned) {
            Some(b' ' | b'\t') if at_line_start && self.lines == 0 => {
                Err(Reject::bad("The first line starts with whitespace."))
            }
            Some(b' ' | b'\t') if at_line_start => {
                Err(Reject::bad("A field is folded over several lines."))
            }
            _ => Ok(()),
        }
    }
}

/// The first place at or after `from` whose octet is a control character.
///
/// Heads are almost all plain text, so eight octets are judged at once where that is possible.
fn skip_plain(window: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = window.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        if !is_plain_word(u64::from_ne_bytes(*word)) {
            break;
        }
        at += 8;
    }
    while window
        .get(at)
        .is_some_and(|&octet| octet >= b' ' && octet != 0x7F)
    {
        at += 1;
    }
    at
}

/// Whether none of the eight octets in `word` is below the space or is DEL.
fn is_plain_word(word: u64) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    let below_space = word.wrapping_sub(0x20 * EACH) & !word & HIGH;
    let delta = word ^ (0x7F * EACH);
    let is_del = delta.wrapping_sub(EACH) & !delta & HIGH;
    below_space | is_del == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_octets_at_once_are_judged_as_one_by_one() {
        for octet in 0..=u8::MAX {
            let plain = octet >= b' ' && octet != 0x7F;
            for beside in [b' ', b'~', b'a', 0x80, 0xFF] {
                for place in 0..8 {
                    let mut word = [beside; 8];
                    word[place] = octet;
                    let judged = is_plain_word(u64::from_ne_bytes(word));
                    assert_eq!(judged, plain, "{octet} between {beside}");
                }
            }
        }
    }
}
