//! What a peer that breaks the protocol gets (PROTOCOL §1.4, §5).

use super::*;
use crate::mux::violation::Scope;
use crate::ws::{OpCode, push_frame};

fn window(increment: u32) -> [u8; 4] {
    increment.to_be_bytes()
}

/// A pair with one stream that the kit opened, and its id.
fn opened() -> (Pair, u32) {
    let mut pair = Pair::new(Cut::Whole);
    let id = pair.kit.open(Vec::new(), false, pair.now);
    pair.run();
    (pair, id)
}

fn session_fault(pair: &Pair) -> Code {
    let fault = pair.kit.fault.clone().expect("a violation");
    assert_eq!(fault.scope, Scope::Session);
    fault.code
}

#[test]
fn a_session_window_above_its_size_costs_the_session() {
    for increment in [1, u32::MAX] {
        let (mut pair, _) = opened();
        pair.inject(&[(FrameType::Window, 0, &window(increment))]);
        pair.run();
        assert_eq!(session_fault(&pair), Code::FlowControlError);
    }
}

#[test]
fn a_stream_window_above_its_size_costs_the_stream() {
    for increment in [1, u32::MAX] {
        let (mut pair, id) = opened();
        pair.inject(&[(FrameType::Window, id, &window(increment))]);
        pair.run();
        assert_eq!(pair.kit.was_reset(id), Some(Code::FlowControlError));
        assert_eq!(pair.client.was_reset(id), Some(Code::FlowControlError));
        pair.assert_quiet();
    }
}

#[test]
fn an_increment_of_nothing_is_a_protocol_error() {
    let (mut pair, id) = opened();
    pair.inject(&[(FrameType::Window, id, &window(0))]);
    pair.run();
    assert_eq!(pair.kit.was_reset(id), Some(Code::ProtocolError));
    pair.inject(&[(FrameType::Window, 0, &window(0))]);
    pair.run();
    assert_eq!(session_fault(&pair), Code::ProtocolError);
}

#[test]
fn data_past_the_streams_window_costs_the_stream() {
    let (mut pair, id) = opened();
    pair.kit.takes = false;
    let piece = vec![1; 65_536];
    for _ in 0..5 {
        pair.inject(&[(FrameType::Data, id, &piece)]);
        pair.run();
    }
    assert_eq!(pair.kit.was_reset(id), Some(Code::FlowControlError));
    assert_eq!(pair.kit.count_left(FrameType::Reset), 1);
    assert_eq!(pair.kit.mux.buffered(), 0);
    assert_eq!(pair.kit.fault, None);
}

#[test]
fn data_past_the_sessions_window_costs_the_session() {
    let mut pair = Pair::new(Cut::Whole);
    pair.kit.takes = false;
    let ids: Vec<u32> = (0..5)
        .map(|_| pair.kit.open(Vec::new(), false, Instant::ZERO))
        .collect();
    pair.run();
    let piece = vec![1; 65_536];
    for _ in 0..4 {
        for id in &ids {
            pair.inject(&[(FrameType::Data, *id, &piece)]);
        }
    }
    pair.run();
    assert_eq!(session_fault(&pair), Code::FlowControlError);
}

#[test]
fn frames_on_a_stream_that_was_never_opened_are_answered_with_reset() {
    for id in [7, 8] {
        for (kind, payload) in [
            (FrameType::Data, &b"x"[..]),
            (FrameType::Eof, b""),
            (FrameType::StreamResponseHead, b"{}"),
            (FrameType::Window, &[0, 0, 0, 1]),
        ] {
            let (mut pair, _) = opened();
            pair.inject(&[(kind, id, payload)]);
            pair.run();
            assert_eq!(pair.kit.count_left(FrameType::Reset), 1, "{kind} on {id}");
            assert_eq!(pair.kit.fault, None);
        }
        let (mut pair, _) = opened();
        pair.inject(&[(FrameType::Reset, id, &[0, 7])]);
        pair.run();
        assert_eq!(
            pair.kit.count_left(FrameType::Reset),
            0,
            "RESET is never answered"
        );
    }
}

#[test]
fn frames_on_a_stream_that_is_over_are_ignored() {
    let (mut pair, id) = opened();
    pair.kit.reset(id, Code::Cancel);
    pair.run();
    let before = pair.kit.left.len();
    pair.inject(&[
        (FrameType::Data, id, &[1; 1000]),
        (FrameType::Window, id, &window(5)),
        (FrameType::StreamResponseHead, id, b"{}"),
        (FrameType::Eof, id, b""),
        (FrameType::Reset, id, &[0, 1]),
    ]);
    pair.run();
    assert_eq!(pair.kit.fault, None);
    assert_eq!(pair.kit.left.len(), before, "nothing was answered");
    assert!(pair.kit.got.is_empty());
    pair.assert_quiet();
}

#[test]
fn frames_on_a_stream_that_is_over_but_not_taken_do_not_cut_it() {
    let (mut pair, id) = opened();
    pair.kit.takes = false;
    pair.client.source(id, pattern(1, 3000), true);
    pair.kit.source(id, Vec::new(), true);
    pair.run();
    assert_eq!(pair.kit.mux.streams().len(), 1);
    pair.inject(&[
        (FrameType::Reset, id, &[0, 7]),
        (FrameType::Data, id, &[1; 10]),
        (FrameType::Eof, id, b""),
        (FrameType::Window, id, &window(u32::MAX)),
        (FrameType::StreamResponseHead, id, b"{}"),
    ]);
    pair.run();
    assert_eq!(pair.kit.was_reset(id), None, "it was whole already");
    assert_eq!(pair.kit.fault, None);
    assert_eq!(pair.kit.got[&id], pattern(1, 3000));
    pair.kit.take(id, 3000, pair.now);
    pair.run();
    pair.assert_quiet();
}

#[test]
fn what_comes_behind_eof_costs_the_stream() {
    for (kind, payload) in [
        (FrameType::Data, &b"x"[..]),
        (FrameType::Eof, b""),
        (FrameType::StreamResponseHead, b"{}"),
    ] {
        let (mut pair, id) = opened();
        pair.client.source(id, Vec::new(), true);
        pair.run();
        pair.inject(&[(kind, id, payload)]);
        pair.run();
        assert_eq!(pair.kit.was_reset(id), Some(Code::StreamClosed), "{kind}");
        pair.assert_quiet();
    }
}

#[test]
fn an_eof_that_carries_something_costs_the_stream() {
    let (mut pair, id) = opened();
    pair.inject(&[(FrameType::Eof, id, b"?")]);
    pair.run();
    assert_eq!(pair.kit.was_reset(id), Some(Code::FrameSizeError));
}

#[test]
fn a_reset_that_is_cut_short_ends_its_stream_and_is_not_answered() {
    let (mut pair, id) = opened();
    let before = pair.kit.count_left(FrameType::Reset);
    pair.inject(&[(FrameType::Reset, id, &[7])]);
    pair.run();
    assert!(pair.kit.was_reset(id).is_some());
    assert_eq!(pair.kit.count_left(FrameType::Reset), before);
    assert_eq!(pair.kit.mux.streams().len(), 0);
}

#[test]
fn an_id_that_is_not_the_peers_to_give_costs_the_session() {
    for ids in [&[2][..], &[0x10][..], &[1, 1], &[9, 9], &[9, 5, 5]] {
        let mut pair = Pair::new(Cut::Whole);
        for id in ids {
            pair.inject(&[(FrameType::StreamOpen, *id, b"{}")]);
        }
        pair.run();
        assert_eq!(session_fault(&pair), Code::ProtocolError, "{ids:?}");
    }
}

#[test]
fn a_message_that_is_malformed_costs_the_session() {
    for body in [
        &b""[..],
        b"\x12",
        b"\x99\0\0\0\0\0\0\0\0",
        b"\x12\0\0\0\x02\0\0\0\x09x",
    ] {
        let (mut pair, _) = opened();
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Role::Client, OpCode::Binary, body, Some([1; 4]));
        pair.client.wire[0].extend(bytes);
        pair.run();
        let _ = session_fault(&pair);
    }
}

#[test]
fn a_text_message_costs_the_socket_with_1003() {
    let (mut pair, _) = opened();
    let mut bytes = Vec::new();
    push_frame(
        &mut bytes,
        Role::Client,
        OpCode::Text,
        b"hello",
        Some([1; 4]),
    );
    pair.client.wire[0].extend(bytes);
    pair.run();
    let fault = pair.kit.fault.expect("a violation");
    assert_eq!(
        (fault.scope, fault.close_code()),
        (Scope::WebSocket(1003), 1003)
    );
}

#[test]
fn extension_frames_are_skipped() {
    let (mut pair, id) = opened();
    let mut bytes = Vec::new();
    let body = [
        &b"\x7F\0\0\0\0\0\0\0\x03abc"[..],
        &[0x12, 0, 0, 0, id as u8, 0, 0, 0, 2],
        b"hi",
        b"\x55\0\0\0\x09\0\0\0\0",
    ]
    .concat();
    push_frame(
        &mut bytes,
        Role::Client,
        OpCode::Binary,
        &body,
        Some([9; 4]),
    );
    pair.client.wire[0].extend(bytes);
    pair.run();
    assert_eq!(pair.kit.fault, None);
    assert_eq!(pair.kit.got[&id], b"hi");
}

#[test]
fn the_peers_close_frame_ends_what_it_sends() {
    let (mut pair, id) = opened();
    let mut bytes = Vec::new();
    let close = 1000u16.to_be_bytes();
    push_frame(
        &mut bytes,
        Role::Client,
        OpCode::Close,
        &close,
        Some([3; 4]),
    );
    pair.client.wire[0].extend(bytes);
    pair.inject(&[(FrameType::Data, id, b"late")]);
    pair.run();
    assert_eq!(pair.kit.seen, [Seen::Closed(Some(1000))]);
    assert!(pair.kit.got.is_empty());
}
