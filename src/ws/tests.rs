//! Tests of the WebSocket room's frames. `fuzz/bodies/ws_stream.rs` feeds the decoder in pieces.

use super::*;
use crate::limits::{MAX_MESSAGE, MAX_WS_BUFFERED, MAX_WS_CONTROL, MAX_WS_FRAGMENTS, WS_GAP};

const KEY: [u8; 4] = [0xA1, 0x02, 0xF3, 0x44];

/// A frame as the peer of `role` sends it.
fn frame(role: Role, opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match role {
        Role::Server => push_frame(&mut out, Role::Client, opcode, payload, Some(KEY)),
        Role::Client => push_frame(&mut out, Role::Server, opcode, payload, None),
    }
    if !is_final {
        out[0] &= 0x7F;
    }
    out
}

/// What came out, with the octets.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(Vec<u8>),
    Text,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
}

/// Decodes bytes that arrive in pieces, as an owner does, and gives the largest buffer it needed.
fn decode(role: Role, stream: &[u8], piece: usize) -> Result<(Vec<Seen>, usize), WsError> {
    let mut decoder = WsDecoder::new(role);
    let (mut buf, mut seen, mut peak) = (Vec::new(), Vec::new(), 0);
    for arrived in stream.chunks(piece) {
        buf.extend_from_slice(arrived);
        peak = peak.max(buf.len());
        while let WsStep::Item { consumed, event } = decoder.next(&mut buf)? {
            let octets = |range: Range<usize>| buf[range].to_vec();
            seen.push(match event {
                WsEvent::Message(range) => Seen::Message(octets(range)),
                WsEvent::Text => Seen::Text,
                WsEvent::Ping(range) => Seen::Ping(octets(range)),
                WsEvent::Pong(range) => Seen::Pong(octets(range)),
                WsEvent::Close { code, reason } => Seen::Close(code, octets(reason)),
            });
            buf.drain(..consumed);
        }
    }
    Ok((seen, peak))
}

fn all(role: Role, stream: &[u8]) -> Result<Vec<Seen>, WsError> {
    decode(role, stream, stream.len().max(1)).map(|(seen, _)| seen)
}

fn refused(stream: &[u8]) -> (u16, &'static str) {
    let error = all(Role::Server, stream).expect_err("this is refused");
    (error.close_code, error.reason)
}

#[test]
fn what_one_role_writes_the_other_reads() {
    for len in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, MAX_MESSAGE] {
        let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
        for role in [Role::Server, Role::Client] {
            let stream = frame(role, OpCode::Binary, true, &payload);
            let header = match role {
                Role::Server => header_len(Role::Client, len),
                Role::Client => header_len(Role::Server, len),
            };
            assert_eq!(
                stream.len(),
                header + len,
                "a header is as long as it was said to be"
            );
            assert_eq!(all(role, &stream), Ok(vec![Seen::Message(payload.clone())]));
        }
    }
}

#[test]
fn need_says_exactly_what_is_missing_once_the_header_is_there() {
    let mut stream = frame(Role::Server, OpCode::Binary, true, &[7; 1000]);
    let mut decoder = WsDecoder::new(Role::Server);
    assert_eq!(decoder.next(&mut []), Ok(WsStep::Need(2)));
    assert_eq!(decoder.next(&mut stream[..1]), Ok(WsStep::Need(1)));
    assert_eq!(decoder.next(&mut stream[..2]), Ok(WsStep::Need(2)));
    assert_eq!(decoder.next(&mut stream[..3]), Ok(WsStep::Need(1)));
    assert_eq!(decoder.next(&mut stream[..5]), Ok(WsStep::Need(3)));
    assert_eq!(decoder.next(&mut stream[..8]), Ok(WsStep::Need(1000)));
    assert_eq!(decoder.next(&mut stream[..1007]), Ok(WsStep::Need(1)));
    let item = WsStep::Item {
        consumed: 1008,
        event: WsEvent::Message(8..1008),
    };
    assert_eq!(decoder.next(&mut stream), Ok(item));
    assert_eq!(
        stream[8..],
        [7; 1000],
        "a message is unmasked once, when it is whole"
    );
}

#[test]
fn fragments_are_joined_around_control_frames() {
    for role in [Role::Server, Role::Client] {
        let mut stream = frame(role, OpCode::Binary, false, b"one ");
        stream.extend(frame(role, OpCode::Ping, true, b"between"));
        stream.extend(frame(role, OpCode::Continuation, false, b""));
        stream.extend(frame(role, OpCode::Continuation, false, b"two "));
        stream.extend(frame(role, OpCode::Pong, true, b""));
        stream.extend(frame(role, OpCode::Continuation, true, b"three"));
        stream.extend(frame(role, OpCode::Binary, true, b"next"));
        let expected = [
            Seen::Ping(b"between".to_vec()),
            Seen::Pong(Vec::new()),
            Seen::Message(b"one two three".to_vec()),
            Seen::Message(b"next".to_vec()),
        ];
        for piece in 1..stream.len() {
            let (seen, _) = decode(role, &stream, piece).expect("a legal stream");
            assert_eq!(seen, expected, "in pieces of {piece}");
        }
    }
}

#[test]
fn a_control_frame_between_messages_is_dropped_at_once_and_one_inside_becomes_part_of_the_gap() {
    for (is_final, expected) in [(true, 8), (false, 0)] {
        let mut buf = frame(Role::Client, OpCode::Binary, is_final, b"1");
        let mut decoder = WsDecoder::new(Role::Client);
        if is_final {
            let step = decoder.next(&mut buf).expect("a legal stream");
            assert!(matches!(step, WsStep::Item { consumed: 3, .. }));
            buf.clear();
        }
        buf.extend(frame(Role::Client, OpCode::Ping, true, b"ping!!"));
        let step = decoder.next(&mut buf).expect("a legal stream");
        let WsStep::Item { consumed, event } = step else {
            panic!("a ping is there")
        };
        assert_eq!(consumed, expected);
        let WsEvent::Ping(payload) = event else {
            panic!("{event:?}")
        };
        assert_eq!(buf[payload], *b"ping!!");
        buf.drain(..consumed);
        let rest = if is_final {
            OpCode::Binary
        } else {
            OpCode::Continuation
        };
        buf.extend(frame(Role::Client, rest, true, b"2"));
        let step = decoder.next(&mut buf).expect("a legal stream");
        assert!(matches!(
            step,
            WsStep::Item {
                event: WsEvent::Message(_),
                ..
            }
        ));
    }
}

#[test]
fn pings_inside_a_message_cannot_fill_the_buffer() {
    let joined: Vec<u8> = (0..MAX_MESSAGE - 3)
        .map(|index| (index / 3) as u8)
        .collect();
    let mut stream = frame(Role::Server, OpCode::Binary, false, &joined);
    let ping = frame(Role::Server, OpCode::Ping, true, &[b'p'; MAX_WS_CONTROL]);
    let pings = 3 * WS_GAP / ping.len();
    stream.extend(ping.repeat(pings));
    stream.extend(frame(Role::Server, OpCode::Continuation, true, b"end"));
    let (seen, peak) = decode(Role::Server, &stream, 61).expect("a legal stream");
    assert!(peak <= MAX_WS_BUFFERED, "{peak} bytes were held");
    assert_eq!(seen.len(), pings + 1);
    assert!(
        seen[..pings]
            .iter()
            .all(|s| *s == Seen::Ping(vec![b'p'; MAX_WS_CONTROL]))
    );
    assert_eq!(seen[pings], Seen::Message([&joined[..], b"end"].concat()));
}

#[test]
fn the_largest_message_in_the_smallest_fragments_fits_the_buffer() {
    let piece = MAX_MESSAGE / MAX_WS_FRAGMENTS;
    let mut stream = Vec::new();
    for index in 0..MAX_WS_FRAGMENTS {
        let opcode = if index == 0 {
            OpCode::Binary
        } else {
            OpCode::Continuation
        };
        stream.extend(frame(
            Role::Server,
            opcode,
            false,
            &vec![index as u8; piece],
        ));
        if index % 16 == 0 {
            stream.extend(frame(
                Role::Server,
                OpCode::Ping,
                true,
                &[0; MAX_WS_CONTROL],
            ));
        }
    }
    let last = stream.len() - frame(Role::Server, OpCode::Binary, true, &vec![0; piece]).len();
    stream[last] |= 0x80;
    let (seen, peak) = decode(Role::Server, &stream, 1000).expect("a legal stream");
    assert!(peak <= MAX_WS_BUFFERED, "{peak} bytes were held");
    let Some(Seen::Message(message)) = seen.last() else {
        panic!("the message comes out")
    };
    assert_eq!(message.len(), MAX_MESSAGE);
    assert!(
        message
            .chunks(piece)
            .enumerate()
            .all(|(index, part)| part[0] == index as u8)
    );
}

#[test]
fn a_message_in_too_many_fragments_is_refused() {
    let mut stream = frame(Role::Server, OpCode::Binary, false, b"");
    stream.extend(frame(Role::Server, OpCode::Continuation, false, b"").repeat(MAX_WS_FRAGMENTS));
    assert_eq!(refused(&stream), (1008, "too many fragments in a message"));
}

#[test]
fn a_message_that_is_too_big_is_refused_by_its_header() {
    let stream = frame(
        Role::Server,
        OpCode::Binary,
        true,
        &vec![0; MAX_MESSAGE + 1],
    );
    assert_eq!(refused(&stream[..10]), (1009, "message is too big"));
    let longest = [&[0x82, 0xFF][..], &[0xFF; 8]].concat();
    assert_eq!(refused(&longest), (1009, "message is too big"));
    let error = all(Role::Server, &longest).expect_err("this is refused");
    assert_eq!(error.to_string(), "message is too big (1009)");
    let mut stream = frame(Role::Server, OpCode::Binary, false, &vec![0; MAX_MESSAGE]);
    stream.extend(&frame(Role::Server, OpCode::Continuation, true, b"x")[..2]);
    assert_eq!(refused(&stream), (1009, "message is too big"));
}

#[test]
fn frames_that_break_the_rfc_are_refused() {
    let client = |opcode, is_final, payload: &[u8]| frame(Role::Server, opcode, is_final, payload);
    for bit in [0x10, 0x20, 0x40] {
        let mut stream = client(OpCode::Binary, true, b"");
        stream[0] |= bit;
        assert_eq!(refused(&stream), (1002, "reserved bits are set"));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(refused(&[0x80 | opcode, 0x80]), (1002, "unknown opcode"));
    }
    assert_eq!(
        refused(&[0x82, 0]),
        (1002, "a client's frame is not masked")
    );
    let masked = all(Role::Client, &client(OpCode::Binary, true, b""));
    assert_eq!(
        masked.map_err(|e| e.reason),
        Err("a server's frame is masked")
    );
    assert_eq!(
        refused(&client(OpCode::Ping, false, b"")),
        (1002, "fragmented control frame")
    );
    assert_eq!(
        refused(&[0x89, 0xFE]),
        (1002, "control frame over 125 bytes")
    );
    let continuation = client(OpCode::Continuation, true, b"");
    assert_eq!(refused(&continuation), (1002, "continuation of nothing"));
    let twice = client(OpCode::Binary, false, b"").repeat(2);
    assert_eq!(
        refused(&twice),
        (1002, "new message inside a fragmented one")
    );
    let long = [0x82, 0xFE, 0, 125];
    assert_eq!(refused(&long), (1002, "length is not in its shortest form"));
    let longer = [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF];
    assert_eq!(
        refused(&longer),
        (1002, "length is not in its shortest form")
    );
}

#[test]
fn text_is_seen_by_its_header_and_ends_decoding() {
    let mut stream = frame(Role::Server, OpCode::Text, true, &[b'x'; 500]);
    stream.extend(frame(Role::Server, OpCode::Binary, true, b"behind"));
    assert_eq!(all(Role::Server, &stream[..8]), Ok(vec![Seen::Text]));
    assert_eq!(all(Role::Server, &stream), Ok(vec![Seen::Text]));
}

#[test]
fn close_frames_are_read_and_end_decoding() {
    let close = |payload: &[u8]| {
        let mut stream = frame(Role::Server, OpCode::Close, true, payload);
        stream.extend(frame(Role::Server, OpCode::Binary, true, b"behind"));
        all(Role::Server, &stream)
    };
    assert_eq!(close(b""), Ok(vec![Seen::Close(None, Vec::new())]));
    assert_eq!(
        close(b"\x03\xE8"),
        Ok(vec![Seen::Close(Some(1000), Vec::new())])
    );
    assert_eq!(
        close(b"\x0F\xA0bye"),
        Ok(vec![Seen::Close(Some(4000), b"bye".to_vec())])
    );
    assert_eq!(close(b"\x03").unwrap_err().close_code, 1002);
    assert_eq!(close(b"\x03\xE8\xFF").unwrap_err().close_code, 1007);
    for code in [
        0u16,
        999,
        1004,
        1005,
        1006,
        1015,
        1016,
        2999,
        5000,
        u16::MAX,
    ] {
        assert_eq!(
            close(&code.to_be_bytes()).unwrap_err().close_code,
            1002,
            "{code}"
        );
    }
}

#[test]
fn a_close_inside_a_fragmented_message_is_read() {
    let mut stream = frame(Role::Server, OpCode::Binary, false, b"half");
    stream.extend(frame(Role::Server, OpCode::Close, true, b"\x03\xE9"));
    assert_eq!(
        all(Role::Server, &stream),
        Ok(vec![Seen::Close(Some(1001), Vec::new())])
    );
}

#[test]
fn a_mask_is_the_same_in_any_pieces() {
    let plain: Vec<u8> = (0..1000).map(|index| (index * 7) as u8).collect();
    let expected: Vec<u8> = plain
        .iter()
        .zip(KEY.iter().cycle())
        .map(|(octet, key)| octet ^ key)
        .collect();
    for cut in [0, 1, 2, 3, 4, 31, 32, 33, 63, 64, 65, 997, 1000] {
        let mut masked = plain.clone();
        let (front, back) = masked.split_at_mut(cut);
        apply_mask(front, KEY, 0);
        apply_mask(back, KEY, cut);
        assert_eq!(masked, expected, "cut at {cut}");
    }
}

#[test]
#[should_panic(expected = "a client masks every frame")]
fn a_client_cannot_forget_its_mask() {
    write_header(&mut [0; 14], Role::Client, OpCode::Binary, 1, None);
}
