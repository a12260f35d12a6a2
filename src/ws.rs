//! WebSocket without sockets (RFC 6455): frames decoded and encoded in the host's own buffers, and
//! the two halves of the handshake.
//!
//! This room knows neither tunnel frames nor sessions. It never allocates for a message, never
//! answers by itself (the owner sends the PONG), draws no masks and reads no clock.
//!
//! # The decoder's contract
//!
//! The owner keeps one contiguous buffer with all bytes that were received and not yet consumed, and
//! calls [`WsDecoder::next`] with it until it says [`WsStep::Need`]. After each [`WsStep::Item`] it
//! uses the event's ranges (they lie in the buffer it passed), drops `consumed` bytes from the front,
//! and calls again. Bytes at the front that were not consumed belong to the decoder: it has unmasked
//! and moved them.
//!
//! A fragmented message is joined in place. Its payload so far lies at the buffer's front, then comes
//! a *gap* of spent headers, then the bytes not yet looked at; each new fragment is moved down over
//! the gap, so a byte is moved once however many fragments there are. A control frame between
//! fragments becomes part of the gap, and its item consumes 0 bytes. Only when the gap has grown to
//! [`WS_GAP`] is it closed, by moving the joined bytes up, and such an item consumes the gap.
//! A buffer of [`MAX_WS_BUFFERED`] bytes holds any legal message with its gap.

mod handshake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

pub use handshake::{
    ClientOffer, HandshakeError, Subprotocol, accept_key, check_request, check_response,
};

use crate::limits::{MAX_MESSAGE, MAX_WS_CONTROL, MAX_WS_FRAGMENTS, WS_GAP};

/// Which side of the WebSocket this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes masked frames and sends them unmasked.
    Server,
    /// Takes unmasked frames and sends them masked.
    Client,
}

impl Role {
    /// Bytes of the largest header that this side sends: room to reserve in front of a message.
    pub const fn max_header(self) -> usize {
        header_len(self, MAX_MESSAGE)
    }
}

/// A frame's type (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// Goes on with the message before it.
    Continuation = 0,
    /// Starts a message of text.
    Text = 1,
    /// Starts a message of bytes.
    Binary = 2,
    /// The last frame of a side.
    Close = 8,
    /// Wants a PONG.
    Ping = 9,
    /// Answers a PING.
    Pong = 10,
}

impl OpCode {
    fn from_bits(bits: u8) -> Option<OpCode> {
        Some(match bits {
            0 => OpCode::Continuation,
            1 => OpCode::Text,
            2 => OpCode::Binary,
            8 => OpCode::Close,
            9 => OpCode::Ping,
            10 => OpCode::Pong,
            _ => return None,
        })
    }
}

/// What [`WsDecoder::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsStep {
    /// Nothing whole yet. At least this many more bytes are needed: exactly so many once a frame's
    /// header is there.
    Need(usize),
    /// Something whole.
    Item {
        /// Bytes to drop from the front, once the event was dealt with. May be 0.
        consumed: usize,
        /// What it is.
        event: WsEvent,
    },
}

/// Something whole. Ranges lie in the buffer that was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsEvent {
    /// A binary message, joined and unmasked. It may be empty.
    Message(Range<usize>),
    /// A text message begins. The tunnel has none: nothing is decoded behind it.
    Text,
    /// The peer wants a PONG with this payload.
    Ping(Range<usize>),
    /// The peer answers a PING.
    Pong(Range<usize>),
    /// The peer closes. Nothing is decoded behind it.
    Close {
        /// Why, if it said so.
        code: Option<u16>,
        /// UTF-8, checked.
        reason: Range<usize>,
    },
}

/// The peer broke RFC 6455: close with this code and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WsError {
    /// 1002 (protocol), 1007 (text that is not UTF-8), 1008 (policy) or 1009 (too big).
    pub close_code: u16,
    /// What was wrong.
    pub reason: &'static str,
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.close_code)
    }
}

impl std::error::Error for WsError {}

const fn broken(reason: &'static str) -> WsError {
    WsError {
        close_code: 1002,
        reason,
    }
}

/// The message that is being joined.
#[derive(Clone, Copy, Debug, Default)]
struct Joining {
    /// Bytes of it at the buffer's front.
    len: usize,
    /// Spent bytes behind them.
    gap: usize,
    /// Fragments so far.
    fragments: usize,
}

/// What the decoder goes on with.
#[derive(Clone, Copy, Debug)]
enum State {
    /// A new message, or a control frame.
    Between,
    /// More of a message.
    Joining(Joining),
    /// A text message or a close frame was seen: nothing more is decoded.
    Over,
}

/// Decodes one direction of a WebSocket in place; see the module's contract.
#[derive(Clone, Debug)]
pub struct WsDecoder {
    role: Role,
    state: State,
}

/// A frame whose bytes are all there.
struct Whole {
    is_final: bool,
    opcode: OpCode,
    payload: Range<usize>,
}

impl WsDecoder {
    /// A decoder for what the peer of `role` sends.
    pub fn new(role: Role) -> Self {
        WsDecoder {
            role,
            state: State::Between,
        }
    }

    /// The next thing in `buf`, which holds all bytes not yet consumed.
    ///
    /// After an error nothing may be decoded any more.
    pub fn next(&mut self, buf: &mut [u8]) -> Result<WsStep, WsError> {
        loop {
            let joining = match self.state {
                State::Between => None,
                State::Joining(joining) => Some(joining),
                State::Over => return Ok(WsStep::Need(1)),
            };
            let held = joining.unwrap_or_default();
            let start = held.len + held.gap;
            let unread = buf.get(start..).unwrap_or_default();
            let header = match parse_header(self.role, unread, joining.map(|held| held.len))? {
                Parsed::Need(more) => return Ok(WsStep::Need(more)),
                Parsed::Header(header) => header,
            };
            if header.opcode == OpCode::Text {
                self.state = State::Over;
                return Ok(WsStep::Item {
                    consumed: 0,
                    event: WsEvent::Text,
                });
            }
            let payload = start + header.header_len..start + header.header_len + header.len;
            let have = buf.len();
            let Some(bytes) = buf.get_mut(payload.clone()) else {
                return Ok(WsStep::Need(payload.end - have));
            };
            if let Some(key) = header.mask {
                apply_mask(bytes, key, 0);
            }
            let whole = Whole {
                is_final: header.is_final,
                opcode: header.opcode,
                payload,
            };
            let item = match whole.opcode {
                OpCode::Close | OpCode::Ping | OpCode::Pong => self.control(buf, held, whole)?,
                _ => match self.data(buf, held, whole)? {
                    Some(item) => item,
                    None => continue,
                },
            };
            return Ok(item);
        }
    }

    /// A frame of a message: the message if it is the last.
    fn data(
        &mut self,
        buf: &mut [u8],
        held: Joining,
        frame: Whole,
    ) -> Result<Option<WsStep>, WsError> {
        let consumed = frame.payload.end;
        let message = match held.fragments {
            0 => frame.payload.clone(),
            _ => {
                // Down over the gap, to the end of what was joined.
                buf.copy_within(frame.payload.clone(), held.len);
                0..held.len + frame.payload.len()
            }
        };
        if frame.is_final {
            self.state = State::Between;
            return Ok(Some(WsStep::Item {
                consumed,
                event: WsEvent::Message(message),
            }));
        }
        if held.fragments == MAX_WS_FRAGMENTS {
            return Err(WsError {
                close_code: 1008,
                reason: "too many fragments in a message",
            });
        }
        if held.fragments == 0 {
            buf.copy_within(message.clone(), 0);
        }
        let len = held.len + frame.payload.len();
        let fragments = held.fragments + 1;
        self.state = State::Joining(Joining {
            len,
            gap: consumed - len,
            fragments,
        });
        Ok(None)
    }

    /// A control frame, perhaps between fragments.
    fn control(&mut self, buf: &mut [u8], held: Joining, frame: Whole) -> Result<WsStep, WsError> {
        let Whole {
            mut payload,
            opcode,
            ..
        } = frame;
        let gap = payload.end - held.len;
        let mut consumed = payload.end;
        if held.fragments > 0 {
            consumed = if gap >= WS_GAP {
                close_gap(buf, held.len, &mut payload)
            } else {
                0
            };
            let gap = if consumed == 0 { gap } else { 0 };
            self.state = State::Joining(Joining { gap, ..held });
        }
        let event = match opcode {
            OpCode::Ping => WsEvent::Ping(payload),
            OpCode::Pong => WsEvent::Pong(payload),
            _ => {
                self.state = State::Over;
                read_close(buf, payload)?
            }
        };
        Ok(WsStep::Item { consumed, event })
    }
}

/// Moves the joined bytes up so that the gap behind them lies in front, and the control frame's
/// payload, which lies at the gap's end, to the very front. Gives the bytes to consume.
fn close_gap(buf: &mut [u8], joined: usize, payload: &mut Range<usize>) -> usize {
    let mut control = [0u8; MAX_WS_CONTROL];
    let gap = payload.end - joined;
    let len = payload.len();
    let (Some(control), Some(bytes)) = (control.get_mut(..len), buf.get(payload.clone())) else {
        return 0;
    };
    control.copy_from_slice(bytes);
    buf.copy_within(..joined, gap);
    if let Some(front) = buf.get_mut(..len) {
        front.copy_from_slice(control);
    }
    *payload = 0..len;
    gap
}

/// Reads a close frame's payload (RFC 6455 §5.5.1).
fn read_close(buf: &[u8], payload: Range<usize>) -> Result<WsEvent, WsError> {
    let code = match buf.get(payload.clone()) {
        Some([]) | None => {
            return Ok(WsEvent::Close {
                code: None,
                reason: payload,
            });
        }
        Some([_]) => return Err(broken("close frame with half a code")),
        Some([high, low, reason @ ..]) => {
            if std::str::from_utf8(reason).is_err() {
                return Err(WsError {
                    close_code: 1007,
                    reason: "close reason is not UTF-8",
                });
            }
            u16::from_be_bytes([*high, *low])
        }
    };
    if !is_sendable_close_code(code) {
        return Err(broken("close code that may not be sent"));
    }
    Ok(WsEvent::Close {
        code: Some(code),
        reason: payload.start + 2..payload.end,
    })
}

/// Whether a close frame may carry this code (RFC 6455 §7.4, and what IANA registered since).
pub fn is_sendable_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A frame's header, judged.
struct Header {
    is_final: bool,
    opcode: OpCode,
    mask: Option<[u8; 4]>,
    header_len: usize,
    len: usize,
}

enum Parsed {
    Need(usize),
    Header(Header),
}

/// Reads and judges a header. `joined` is how much of a fragmented message is there already.
fn parse_header(role: Role, bytes: &[u8], joined: Option<usize>) -> Result<Parsed, WsError> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(Parsed::Need(2 - bytes.len()));
    };
    if first & 0x70 != 0 {
        return Err(broken("reserved bits are set"));
    }
    let is_final = first & 0x80 != 0;
    let opcode = OpCode::from_bits(first & 0x0F).ok_or(broken("unknown opcode"))?;
    let is_masked = second & 0x80 != 0;
    match (role, is_masked) {
        (Role::Server, false) => return Err(broken("a client's frame is not masked")),
        (Role::Client, true) => return Err(broken("a server's frame is masked")),
        _ => {}
    }
    match opcode {
        OpCode::Continuation if joined.is_none() => {
            return Err(broken("continuation of nothing"));
        }
        OpCode::Text | OpCode::Binary if joined.is_some() => {
            return Err(broken("new message inside a fragmented one"));
        }
        OpCode::Close | OpCode::Ping | OpCode::Pong => {
            if !is_final {
                return Err(broken("fragmented control frame"));
            }
            if usize::from(second & 0x7F) > MAX_WS_CONTROL {
                return Err(broken("control frame over 125 bytes"));
            }
        }
        _ => {}
    }
    let length_bytes = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((length, rest)) = rest.split_at_checked(length_bytes) else {
        return Ok(Parsed::Need(length_bytes - rest.len()));
    };
    let len = match length_bytes {
        0 => u64::from(second & 0x7F),
        _ => length
            .iter()
            .fold(0u64, |len, octet| len << 8 | u64::from(*octet)),
    };
    let minimal = match length_bytes {
        0 => 0,
        2 => 126,
        _ => 0x1_0000,
    };
    if len < minimal {
        return Err(broken("length is not in its shortest form"));
    }
    // From the header alone: nobody waits for bytes that will be refused.
    let room = MAX_MESSAGE - joined.unwrap_or(0).min(MAX_MESSAGE);
    if len > room as u64 && !matches!(opcode, OpCode::Text) {
        return Err(WsError {
            close_code: 1009,
            reason: "message is too big",
        });
    }
    let mask = match (is_masked, rest.first_chunk::<4>()) {
        (false, _) => None,
        (true, Some(key)) => Some(*key),
        (true, None) => return Ok(Parsed::Need(4 - rest.len())),
    };
    let header_len = 2 + length_bytes + if is_masked { 4 } else { 0 };
    Ok(Parsed::Header(Header {
        is_final,
        opcode,
        mask,
        header_len,
        len: len as usize,
    }))
}

/// Masks or unmasks in place. `offset` is where in the frame's payload `bytes` begins.
#[inline]
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let [a, b, c, d] = key;
    let key = match offset % 4 {
        0 => [a, b, c, d],
        1 => [b, c, d, a],
        2 => [c, d, a, b],
        _ => [d, a, b, c],
    };
    let wide = [key; WIDE / 4];
    let wide = wide.as_flattened();
    // Whole blocks of a fixed size become vector instructions.
    let (blocks, rest) = bytes.as_chunks_mut::<WIDE>();
    for block in blocks {
        for (octet, key) in block.iter_mut().zip(wide) {
            *octet ^= key;
        }
    }
    for (octet, key) in rest.iter_mut().zip(wide) {
        *octet ^= key;
    }
}

/// Bytes that are masked at once.
const WIDE: usize = 32;

/// Bytes of the header in front of a payload.
pub const fn header_len(role: Role, payload_len: usize) -> usize {
    let length = match payload_len {
        0..=125 => 0,
        126..=0xFFFF => 2,
        _ => 8,
    };
    let mask = match role {
        Role::Server => 0,
        Role::Client => 4,
    };
    2 + length + mask
}

/// Writes the header of an unfragmented frame to the front of `out` and gives its length.
///
/// # Panics
///
/// If `out` is shorter than [`header_len`], or a client gives no mask, or a server one: our own
/// faults.
pub fn write_header(
    out: &mut [u8],
    role: Role,
    opcode: OpCode,
    payload_len: usize,
    mask: Option<[u8; 4]>,
) -> usize {
    let masks = role == Role::Client;
    assert!(
        mask.is_some() == masks,
        "a client masks every frame and a server none"
    );
    let mask_bit = if masks { 0x80 } else { 0 };
    let mut header = [0u8; 14];
    header[0] = 0x80 | opcode as u8;
    let length_end = match payload_len {
        0..=125 => {
            header[1] = mask_bit | payload_len as u8;
            2
        }
        126..=0xFFFF => {
            header[1] = mask_bit | 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = mask_bit | 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    let len = match mask {
        Some(key) => {
            header[length_end..length_end + 4].copy_from_slice(&key);
            length_end + 4
        }
        None => length_end,
    };
    out[..len].copy_from_slice(&header[..len]);
    len
}

/// Appends a whole frame, masked as the role wants it: for control frames and tests.
pub fn push_frame(
    out: &mut Vec<u8>,
    role: Role,
    opcode: OpCode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) {
    let mut header = [0u8; 14];
    let len = write_header(&mut header, role, opcode, payload.len(), mask);
    out.extend_from_slice(&header[..len]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let (Some(key), Some(bytes)) = (mask, out.get_mut(start..)) {
        apply_mask(bytes, key, 0);
    }
}

/// Appends a PING. Longer payloads than 125 bytes are cut.
pub fn push_ping(out: &mut Vec<u8>, role: Role, payload: &[u8], mask: Option<[u8; 4]>) {
    push_frame(
        out,
        role,
        OpCode::Ping,
        &payload[..payload.len().min(MAX_WS_CONTROL)],
        mask,
    );
}

/// Appends a PONG with a PING's payload.
pub fn push_pong(out: &mut Vec<u8>, role: Role, payload: &[u8], mask: Option<[u8; 4]>) {
    push_frame(
        out,
        role,
        OpCode::Pong,
        &payload[..payload.len().min(MAX_WS_CONTROL)],
        mask,
    );
}

/// Appends a close frame. A reason that is too long is cut between characters.
pub fn push_close(
    out: &mut Vec<u8>,
    role: Role,
    code: Option<u16>,
    reason: &str,
    mask: Option<[u8; 4]>,
) {
    let Some(code) = code else {
        return push_frame(out, role, OpCode::Close, &[], mask);
    };
    debug_assert!(
        is_sendable_close_code(code),
        "a close code that may be sent"
    );
    let reason = &reason[..reason.floor_char_boundary(MAX_WS_CONTROL - 2)];
    let mut payload = [0u8; MAX_WS_CONTROL];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    push_frame(out, role, OpCode::Close, &payload[..2 + reason.len()], mask);
}
