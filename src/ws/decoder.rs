//! Decoding in place: see the contract in the room's head.

use std::ops::Range;

use super::{OpCode, Role, WsError, WsEvent, WsStep, apply_mask, broken, is_sendable_close_code};
use crate::limits::{MAX_MESSAGE, MAX_WS_CONTROL, MAX_WS_FRAGMENTS, WS_GAP};

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
        if frame.is_final && held.fragments == 0 {
            let event = WsEvent::Message(frame.payload);
            return Ok(Some(WsStep::Item { consumed, event }));
        }
        if held.fragments == MAX_WS_FRAGMENTS {
            let reason = "too many fragments in a message";
            return Err(WsError {
                close_code: 1008,
                reason,
            });
        }
        // Down over the gap, to the end of what was joined.
        let len = held.len + frame.payload.len();
        buf.copy_within(frame.payload, held.len);
        if frame.is_final {
            self.state = State::Between;
            let event = WsEvent::Message(0..len);
            return Ok(Some(WsStep::Item { consumed, event }));
        }
        let (gap, fragments) = (consumed - len, held.fragments + 1);
        self.state = State::Joining(Joining {
            len,
            gap,
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
    judge_opcode(opcode, is_final, second & 0x7F, joined.is_some())?;
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
    // From the header alone: nobody waits for bytes that will be refused. A control frame is short
    // and does not count to the message around it; a text message is refused whatever its length.
    let room = MAX_MESSAGE.saturating_sub(joined.unwrap_or(0));
    let counts = matches!(opcode, OpCode::Binary | OpCode::Continuation);
    if counts && len > room as u64 {
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

/// Whether a frame of this type may stand here (RFC 6455 §5.4, §5.5). `short` is the header's
/// length field of seven bits.
fn judge_opcode(opcode: OpCode, is_final: bool, short: u8, joining: bool) -> Result<(), WsError> {
    match opcode {
        OpCode::Continuation if !joining => Err(broken("continuation of nothing")),
        OpCode::Text | OpCode::Binary if joining => {
            Err(broken("new message inside a fragmented one"))
        }
        OpCode::Close | OpCode::Ping | OpCode::Pong if !is_final => {
            Err(broken("fragmented control frame"))
        }
        OpCode::Close | OpCode::Ping | OpCode::Pong if usize::from(short) > MAX_WS_CONTROL => {
            Err(broken("control frame over 125 bytes"))
        }
        _ => Ok(()),
    }
}
