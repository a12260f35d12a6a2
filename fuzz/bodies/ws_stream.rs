//! Hostile bytes as a WebSocket's stream: the first octet picks the role and how the bytes arrive.
//! Arriving at once, octet by octet, or in pieces makes no difference to what is decoded.

use hoody_tunnel::limits::{MAX_MESSAGE, MAX_WS_BUFFERED};
use hoody_tunnel::ws::{Role, WsDecoder, WsEvent, WsStep};

/// What came out, with the payload's octets.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(Vec<u8>),
    Text,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
    Error(u16),
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((pick, stream)) = data.split_first() else {
        return;
    };
    let role = if pick & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let at_once = decode(role, stream, stream.len().max(1));
    let piece = usize::from(pick >> 1) + 1;
    assert_eq!(
        decode(role, stream, piece),
        at_once,
        "pieces of {piece} make no difference"
    );
    if stream.len() <= 4096 {
        assert_eq!(
            decode(role, stream, 1),
            at_once,
            "single octets make no difference"
        );
    }
}

fn decode(role: Role, stream: &[u8], piece: usize) -> Vec<Seen> {
    let mut decoder = WsDecoder::new(role);
    let mut buf: Vec<u8> = Vec::new();
    let mut seen = Vec::new();
    for arrived in stream.chunks(piece) {
        buf.extend_from_slice(arrived);
        loop {
            let (consumed, event) = match decoder.next(&mut buf) {
                Ok(WsStep::Need(more)) => {
                    assert!(more >= 1, "a decoder that waits needs something");
                    assert!(buf.len() + more <= MAX_WS_BUFFERED || at_rest(&seen));
                    break;
                }
                Ok(WsStep::Item { consumed, event }) => (consumed, event),
                Err(error) => {
                    seen.push(Seen::Error(error.close_code));
                    return seen;
                }
            };
            let octets = |range: std::ops::Range<usize>| buf[range].to_vec();
            seen.push(match event {
                WsEvent::Message(range) => Seen::Message(octets(range)),
                WsEvent::Text => Seen::Text,
                WsEvent::Ping(range) => Seen::Ping(octets(range)),
                WsEvent::Pong(range) => Seen::Pong(octets(range)),
                WsEvent::Close { code, reason } => Seen::Close(code, octets(reason)),
            });
            if let Some(Seen::Message(message)) = seen.last() {
                assert!(message.len() <= MAX_MESSAGE, "no message is too big");
            }
            buf.drain(..consumed);
        }
    }
    seen
}

/// Whether the decoder is past its end, where the owner stops keeping bytes.
fn at_rest(seen: &[Seen]) -> bool {
    matches!(seen.last(), Some(Seen::Text | Seen::Close(..)))
}
