//! Outgoing bytes are framed twice: as frames of the tunnel, and these as WebSocket messages.

use crate::buffer::Buffer;
use crate::entropy::Entropy;
use crate::limits::{MAX_MESSAGE, MAX_WS_CONTROL};
use crate::wire::frame::{Frame, FrameType, HEADER_LEN, encode_header};
use crate::wire::message::next_frame;
use crate::ws::{self, OpCode, Role};

/// How one end frames WebSocket messages.
#[derive(Debug)]
pub(super) struct Framing {
    pub(super) role: Role,
    /// Where masks come from; a server sends unmasked and needs none.
    masks: Option<Box<Entropy>>,
}

impl Framing {
    /// A client gives a source of masks.
    pub(super) fn new(role: Role, masks: Option<Entropy>) -> Framing {
        assert_eq!(
            masks.is_some(),
            role == Role::Client,
            "exactly the client masks (RFC 6455 §5.3)"
        );
        Framing {
            role,
            masks: masks.map(Box::new),
        }
    }

    /// The same, with masks of its own.
    pub(super) fn fork(&mut self) -> Framing {
        let masks = self.masks.as_mut().map(|masks| masks.fork());
        Framing::new(self.role, masks)
    }

    pub(super) fn mask(&mut self) -> Option<[u8; 4]> {
        self.masks.as_mut().map(|masks| masks.octets())
    }

    /// Adds a WebSocket frame of all `parts`, and says how long it is.
    pub(super) fn put(&mut self, queue: &mut Buffer, opcode: OpCode, parts: &[&[u8]]) -> usize {
        let body = parts.iter().map(|part| part.len()).sum();
        let mask = self.mask();
        let header = ws::header_len(self.role, body);
        let space = queue.space(header + body);
        ws::write_header(space, self.role, opcode, body, mask);
        let mut at = header;
        for part in parts {
            space[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        if let Some(key) = mask {
            ws::apply_mask(&mut space[header..], key, 0);
        }
        queue.commit(header + body);
        header + body
    }

    /// Adds a close frame, with as much of the reason as it takes.
    pub(super) fn put_close(&mut self, queue: &mut Buffer, code: u16, reason: &str) -> usize {
        let mut cut = reason.len().min(MAX_WS_CONTROL - 2);
        while !reason.is_char_boundary(cut) {
            cut -= 1;
        }
        let parts = [&code.to_be_bytes()[..], &reason.as_bytes()[..cut]];
        self.put(queue, OpCode::Close, &parts)
    }
}

impl Default for Framing {
    /// Before there is a connection to frame anything for.
    fn default() -> Framing {
        Framing::new(Role::Server, None)
    }
}

/// Adds a frame.
pub(super) fn push_frame(queue: &mut Buffer, kind: FrameType, stream_id: u32, payload: &[u8]) {
    let space = queue.space(HEADER_LEN + payload.len());
    put_header(space, kind, stream_id, payload.len());
    space[HEADER_LEN..].copy_from_slice(payload);
    queue.commit(HEADER_LEN + payload.len());
}

/// Writes a frame's header to the front of `out`.
pub(super) fn put_header(out: &mut [u8], kind: FrameType, stream_id: u32, len: usize) {
    if let Some(header) = out.first_chunk_mut::<HEADER_LEN>() {
        encode_header(header, kind, stream_id, len);
    }
}

/// The first frames, at most `most` and as many as a message holds, and how many these are; our own
/// frames, so they parse.
pub(super) fn whole_frames(frames: &[u8], most: usize) -> (&[u8], usize) {
    let (mut at, mut count) = (0, 0);
    while count < most
        && let Some(length) = frame_len(&frames[at..])
        && at + length <= MAX_MESSAGE
    {
        at += length;
        count += 1;
    }
    (&frames[..at], count)
}

/// How long the first frame of ours is, with its header.
pub(super) fn frame_len(frames: &[u8]) -> Option<usize> {
    let length = frames.get(5..HEADER_LEN)?.iter();
    let payload = length.fold(0, |sum, octet| sum << 8 | usize::from(*octet));
    Some(HEADER_LEN + payload)
}

/// The frames in a message of ours, which lies as it was framed; its mask is taken off.
pub(super) fn unframed(message: &mut [u8]) -> &[u8] {
    let Some([first, second]) = message.first_chunk() else {
        return &[];
    };
    let length = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let (is_binary, is_masked) = (first & 0x0F == OpCode::Binary as u8, second & 0x80 != 0);
    let at = 2 + length;
    if !is_binary {
        return &[];
    }
    match message[at..].first_chunk::<4>().copied() {
        Some(key) if is_masked => {
            ws::apply_mask(&mut message[at + 4..], key, 0);
            &message[at + 4..]
        }
        _ => &message[at..],
    }
}

/// The frames of ours that lie there.
pub(super) fn frames_of(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (frame, after) = next_frame(rest)?;
        rest = after;
        Some(frame)
    })
}
