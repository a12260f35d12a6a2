//! Hostile bytes as a binary message: decoded whole or refused whole, and what was decoded can be
//! written again.

use hoody_tunnel::wire::frame::{Frame, FrameType, HEADER_LEN, encode_header};
use hoody_tunnel::wire::message::FrameDecoder;

/// Runs one input.
pub fn run(data: &[u8]) {
    let decoder = match FrameDecoder::new(data) {
        Ok(decoder) => decoder,
        Err(error) => {
            assert!(
                error.to_string().len() < 200,
                "an error is a short sentence"
            );
            return;
        }
    };
    let frames: Vec<Frame<'_>> = decoder.collect();
    assert!(frames.len() <= 64, "a message has at most 64 frames");
    let mut body = Vec::new();
    for frame in &frames {
        judge(frame);
        let mut header = [0; HEADER_LEN];
        encode_header(
            &mut header,
            frame.kind,
            frame.stream_id,
            frame.payload.len(),
        );
        body.extend_from_slice(&header);
        body.extend_from_slice(frame.payload);
    }
    if frames.is_empty() {
        return;
    }
    assert!(body.len() <= data.len(), "only extension frames are lost");
    assert!(
        body.len() < data.len() || body == data,
        "a message is written as it was read"
    );
    let again = FrameDecoder::new(&body).expect("what was written may be decoded");
    assert!(again.eq(frames), "the same frames come back");
}

/// Reads a frame's payload as its owner would.
fn judge(frame: &Frame<'_>) {
    match frame.kind {
        FrameType::Eof => assert_eq!(frame.eof().is_ok(), frame.payload.is_empty()),
        FrameType::Reset => {
            if let Ok(reset) = frame.reset() {
                let _ = (reset.code(), reset.reason_text());
            }
        }
        FrameType::Window => match frame.window_increment() {
            Ok(increment) => assert_ne!(increment, 0),
            Err(_) => assert_ne!(frame.stream_id, 0, "the session's WINDOW was judged before"),
        },
        FrameType::Ping | FrameType::Pong | FrameType::Ack => {
            assert!(
                frame.eight_bytes().is_some(),
                "fixed payloads were judged before"
            );
        }
        _ => {}
    }
}
