//! Bodies, piece by piece and without copying: a decoder says which part of the input is data.
//!
//! Calls: `decode` with what has arrived and was not consumed yet, again with the rest while there
//! is some and `end` has not come. A step consumes something whenever there is input, so that loop
//! ends. Octets after `end` belong to the next message and are not consumed.

use std::ops::Range;

use super::fields::{is_token, is_value};
use super::head::{RequestBody, ResponseBody};
use crate::limits::{MAX_CHUNK_EXTENSION, MAX_HEADER_FIELDS, MAX_TRAILERS};

/// What one step of a decoder found in its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Where the data lies in the input; empty when only framing was found.
    pub data: Range<usize>,
    /// How many octets of the input are done with, data and framing.
    pub consumed: usize,
    /// The body is complete.
    pub end: bool,
}

/// Why a body cannot be followed any further; the connection is closed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The framing is malformed, in a sentence.
    Malformed(&'static str),
    /// The connection ended before the body did.
    Truncated,
}

/// A body delimited by `Content-Length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthBody {
    left: u64,
}

impl LengthBody {
    /// A body of `length` octets.
    pub fn new(length: u64) -> Self {
        Self { left: length }
    }

    /// The next piece.
    pub fn decode(&mut self, input: &[u8]) -> Decoded {
        let count = clamp(self.left, input.len());
        self.left -= count as u64;
        Decoded {
            data: 0..count,
            consumed: count,
            end: self.left == 0,
        }
    }
}

/// Where in the framing of a chunked body we are: named by what is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A digit of the chunk's size, or what ends it; so many digits were seen.
    Size { digits: u8 },
    /// A blank behind the size, or what follows them; so many were seen.
    Blank { seen: usize },
    /// More of an extension, or its CR; so many octets were seen.
    Extension { seen: usize },
    /// The LF after size and extension.
    SizeLf,
    /// Data, then CR LF.
    Data,
    /// The LF after the data's CR.
    DataLf,
    /// The first octet of a trailer field, or the CR of the empty line.
    Trailer,
    /// More of a trailer field's name, or the colon behind it.
    TrailerName,
    /// More of a trailer field, or its CR.
    TrailerRest,
    /// The LF after a trailer field.
    TrailerLf,
    /// The last LF.
    LastLf,
    /// Nothing: the body is complete.
    Nothing,
}

impl Expect {
    /// Whether a line may end here.
    fn takes_cr(self) -> bool {
        match self {
            Expect::Size { digits } => digits > 0,
            Expect::Blank { .. } | Expect::Extension { .. } | Expect::Data => true,
            Expect::Trailer | Expect::TrailerRest => true,
            Expect::SizeLf | Expect::DataLf | Expect::TrailerLf | Expect::LastLf => false,
            Expect::TrailerName | Expect::Nothing => false,
        }
    }
}

/// A body in chunks. Extensions and trailers are checked for octets that end lines, and dropped;
/// trailers are kept where they are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkedDecoder {
    expect: Expect,
    /// The size of the chunk while it is being read, then how much of the chunk is to come.
    size: u64,
    /// Octets of trailers so far, and fields.
    trailers: usize,
    trailer_fields: usize,
    /// Their lines, each with LF behind it, where they are wanted.
    kept: Option<Vec<u8>>,
    /// It is an answer's: blanks may stand behind the size without an extension, lines that are no
    /// fields between the trailers, and a LF may end a line alone.
    lenient: bool,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self {
            expect: Expect::Size { digits: 0 },
            size: 0,
            trailers: 0,
            trailer_fields: 0,
            kept: None,
            lenient: false,
        }
    }

    /// The same for the answer of a server, which is chunked anew before anybody else reads it:
    /// blanks behind the size mean nothing, as to all who read answers, nor does a missing CR, and
    /// what is no field is left out.
    pub fn for_answer() -> Self {
        Self {
            lenient: true,
            ..Self::new()
        }
    }

    /// How many of the next octets are data for certain: a host may read that much without looking.
    pub fn remaining_in_chunk(&self) -> u64 {
        if self.expect == Expect::Data {
            self.size
        } else {
            0
        }
    }

    /// The next piece: framing up to the next data, and as much of that data as is there.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut at = 0;
        while self.expect != Expect::Nothing {
            if self.expect == Expect::Data && self.size > 0 {
                let count = clamp(self.size, input.len() - at);
                self.size -= count as u64;
                return Ok(Decoded {
                    data: at..at + count,
                    consumed: at + count,
                    end: false,
                });
            }
            let Some(&octet) = input.get(at) else { break };
            self.expect = self.step(octet)?;
            at += 1;
        }
        Ok(Decoded {
            data: at..at,
            consumed: at,
            end: self.expect == Expect::Nothing,
        })
    }

    /// Takes one octet of framing and says what comes after it.
    fn step(&mut self, octet: u8) -> Result<Expect, BodyError> {
        let malformed = |why| Err(BodyError::Malformed(why));
        if octet == b'\n' && self.lenient && self.expect.takes_cr() {
            self.expect = self.step(b'\r')?;
        }
        match (self.expect, octet) {
            (Expect::Size { digits }, _) => self.step_size(digits, octet),
            // Before an extension blanks are grammar (RFC 9112 §7.1.1).
            (Expect::Blank { .. }, b';') => Ok(Expect::Extension { seen: 0 }),
            (Expect::Blank { .. }, b'\r') if self.lenient => Ok(Expect::SizeLf),
            (Expect::Blank { seen }, b' ' | b'\t') if seen < MAX_CHUNK_EXTENSION => {
                Ok(Expect::Blank { seen: seen + 1 })
            }
            (Expect::Blank { .. }, _) => malformed("A chunk size is malformed."),
            (Expect::Extension { .. }, b'\r') => Ok(Expect::SizeLf),
            (Expect::Extension { seen }, _) => {
                if !is_value(&[octet]) {
                    malformed("A chunk extension contains a control character.")
                } else if seen >= MAX_CHUNK_EXTENSION {
                    malformed("A chunk extension is too long.")
                } else {
                    Ok(Expect::Extension { seen: seen + 1 })
                }
            }
            (Expect::SizeLf, b'\n') if self.size == 0 => Ok(Expect::Trailer),
            (Expect::SizeLf, b'\n') => Ok(Expect::Data),
            (Expect::Data, b'\r') => Ok(Expect::DataLf),
            (Expect::DataLf, b'\n') => Ok(Expect::Size { digits: 0 }),
            (Expect::Data | Expect::DataLf, _) => malformed("A chunk is longer than its size."),
            (Expect::Trailer, b'\r') => Ok(Expect::LastLf),
            (Expect::Trailer, b' ' | b'\t') => malformed("A trailer is folded."),
            (Expect::TrailerRest, b'\r') => Ok(Expect::TrailerLf),
            (Expect::Trailer | Expect::TrailerName | Expect::TrailerRest, _) => {
                self.step_trailer(octet)
            }
            (Expect::TrailerLf, b'\n') => self.end_trailer(),
            (Expect::LastLf, b'\n') => Ok(Expect::Nothing),
            (Expect::SizeLf | Expect::TrailerLf | Expect::LastLf, _) => {
                malformed("A CR in the chunk framing is not followed by LF.")
            }
            (Expect::Nothing, _) => Ok(Expect::Nothing),
        }
    }

    fn step_size(&mut self, digits: u8, octet: u8) -> Result<Expect, BodyError> {
        let value = match octet {
            b'0'..=b'9' => octet - b'0',
            b'a'..=b'f' => octet - b'a' + 10,
            b'A'..=b'F' => octet - b'A' + 10,
            b'\r' if digits > 0 => return Ok(Expect::SizeLf),
            b';' if digits > 0 => return Ok(Expect::Extension { seen: 0 }),
            b' ' | b'\t' if digits > 0 => return Ok(Expect::Blank { seen: 1 }),
            _ => return Err(BodyError::Malformed("A chunk size is malformed.")),
        };
        // Sixteen digits are 64 bits: the shift below never loses any.
        if digits >= 16 {
            return Err(BodyError::Malformed(
                "A chunk size has more than 16 digits.",
            ));
        }
        let so_far = if digits == 0 { 0 } else { self.size };
        self.size = so_far << 4 | u64::from(value);
        Ok(Expect::Size { digits: digits + 1 })
    }

    fn step_trailer(&mut self, octet: u8) -> Result<Expect, BodyError> {
        self.trailers += 1;
        if !is_value(&[octet]) {
            return Err(BodyError::Malformed(
                "A trailer contains a control character.",
            ));
        }
        if self.trailers > MAX_TRAILERS {
            return Err(BodyError::Malformed("The trailers are too long."));
        }
        if let Some(kept) = &mut self.kept {
            kept.push(octet);
        }
        match (self.expect, octet) {
            _ if self.lenient => Ok(Expect::TrailerRest),
            (Expect::TrailerRest, _) | (Expect::TrailerName, b':') => Ok(Expect::TrailerRest),
            _ if is_token(&[octet]) => Ok(Expect::TrailerName),
            _ => Err(BodyError::Malformed("The name of a trailer is malformed.")),
        }
    }

    fn end_trailer(&mut self) -> Result<Expect, BodyError> {
        self.trailer_fields += 1;
        if self.trailer_fields > MAX_HEADER_FIELDS {
            return Err(BodyError::Malformed("There are too many trailers."));
        }
        if let Some(kept) = &mut self.kept {
            kept.push(b'\n');
        }
        Ok(Expect::Trailer)
    }
}

/// The decoder for any body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyDecoder {
    /// No body: complete at once.
    None,
    /// `Content-Length`.
    Length(LengthBody),
    /// Chunks.
    Chunked(ChunkedDecoder),
    /// Everything until the sender closes.
    UntilClose,
}

impl BodyDecoder {
    /// The decoder for a request.
    pub fn for_request(body: RequestBody) -> Self {
        match body {
            RequestBody::None => Self::None,
            RequestBody::Length(length) => Self::Length(LengthBody::new(length)),
            RequestBody::Chunked => Self::Chunked(ChunkedDecoder::new()),
        }
    }

    /// The decoder for a response.
    pub fn for_response(body: ResponseBody) -> Self {
        match body {
            ResponseBody::None => Self::None,
            ResponseBody::Length(length) => Self::Length(LengthBody::new(length)),
            ResponseBody::Chunked => Self::Chunked(ChunkedDecoder::for_answer()),
            ResponseBody::UntilClose => Self::UntilClose,
        }
    }

    /// The next piece. With empty input it still says whether the body is complete.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        Ok(match self {
            Self::None => Decoded {
                data: 0..0,
                consumed: 0,
                end: true,
            },
            Self::Length(body) => body.decode(input),
            Self::Chunked(body) => body.decode(input)?,
            Self::UntilClose => Decoded {
                data: 0..input.len(),
                consumed: input.len(),
                end: false,
            },
        })
    }

    /// Whether the body is complete.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::None => true,
            Self::Length(body) => body.left == 0,
            Self::Chunked(body) => body.expect == Expect::Nothing,
            Self::UntilClose => false,
        }
    }

    /// Has trailers kept, if there can be any.
    pub fn keep_trailers(&mut self) {
        if let Self::Chunked(body) = self {
            body.kept = Some(Vec::new());
        }
    }

    /// Memory of trailers that are kept.
    pub fn kept(&self) -> usize {
        match self {
            Self::Chunked(body) => body.kept.as_ref().map_or(0, Vec::capacity),
            Self::None | Self::Length(_) | Self::UntilClose => 0,
        }
    }

    /// The lines of the trailers that came and were kept; [`super::trailers`] reads them.
    pub fn take_trailers(&mut self) -> Vec<u8> {
        match self {
            Self::Chunked(body) => body.kept.take().unwrap_or_default(),
            Self::None | Self::Length(_) | Self::UntilClose => Vec::new(),
        }
    }

    /// How many of the next octets are data for certain, so that they may be read directly to where
    /// they go. Tell [`BodyDecoder::skip_data`] how many were.
    pub fn certain_data(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Length(body) => body.left,
            Self::Chunked(body) => body.remaining_in_chunk(),
            Self::UntilClose => u64::MAX,
        }
    }

    /// Counts `count` octets of data that did not pass through `decode`.
    ///
    /// More than [`BodyDecoder::certain_data`] is our own fault, never a peer's.
    pub fn skip_data(&mut self, count: u64) {
        assert!(
            count <= self.certain_data(),
            "only data that was certain can be skipped"
        );
        match self {
            Self::None | Self::UntilClose => {}
            Self::Length(body) => body.left -= count,
            Self::Chunked(body) => body.size -= count,
        }
    }

    /// The sender closed: fine if the body is complete or ends that way, else it was cut short.
    pub fn closed(&self) -> Result<(), BodyError> {
        if self.is_complete() || *self == Self::UntilClose {
            return Ok(());
        }
        Err(BodyError::Truncated)
    }
}

/// The smaller of both, as a length of a slice.
fn clamp(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}
