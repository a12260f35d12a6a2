//! A kit that sends whatever it likes: frames of every type, in any order, with payloads that are
//! right, wrong or noise. The client may leave it, and must not fall over.

use super::*;
use crate::client::reach::retry;
use crate::entropy::Entropy;
use crate::wire::frame::{HEADER_LEN, encode_header};
use crate::ws::{OpCode, Role, push_frame};

const PAYLOADS: &[&str] = &[
    "",
    "{}",
    r#"{"clientBindRef":1,"bindId":1,"containerPort":3000}"#,
    r#"{"clientBindRef":2,"bindId":2,"containerPort":5432}"#,
    r#"{"clientBindRef":1,"code":"PORT_IN_USE","message":"\u001b[31mred"}"#,
    r#"{"bindId":1}"#,
    r#"{"bindId":2,"code":"NOT_FOUND","reason":"x"}"#,
    r#"{"sessionId":"S-9","resumed":true,"connectionsGranted":16}"#,
    r#"{"joinTickets":[{"index":1,"nonce":"n"},{"index":4000000000,"nonce":"n"}]}"#,
    r#"{"kind":"tcp","bindId":2}"#,
    r#"{"kind":"http","bindId":1,"method":"GET","target":"/","headers":[["host","a"]],
        "body":"none"}"#,
    r#"{"kind":"http","method":"PUT","target":"/","headers":[["content-length","5"]]}"#,
    r#"{"kind":"http","bindId":1,"method":"POST","target":"/x","body":"chunked"}"#,
    r#"{"kind":"http","bindId":1,"method":"GET","target":"/ws","isUpgrade":true}"#,
    r#"{"status":200,"headers":[],"final":true}"#,
    r#"{"code":0,"message":"bye","graceMs":4000000000}"#,
    r#"{"code":10}"#,
    "\u{0}\u{1}\u{0}\u{0}",
    "\u{7f}\u{7f}\u{7f}\u{7f}",
    "8 octets",
];

fn frame(dice: &mut Entropy, next: &mut u32) -> Vec<u8> {
    let kind = match dice.below(40) {
        // Mostly what has to do with streams.
        0 => FrameType::ALL[dice.below(FrameType::ALL.len() as u32) as usize],
        1..10 => FrameType::Data,
        10..20 => [FrameType::Eof, FrameType::Reset][dice.below(2) as usize],
        _ => FrameType::StreamOpen,
    };
    // Mostly ids that make sense: one that does not ends the session.
    let id = match (kind, dice.below(40)) {
        (_, 0) => dice.below(8),
        (FrameType::StreamOpen, _) => {
            *next += 2;
            *next
        }
        (FrameType::Data | FrameType::Eof | FrameType::Reset, _) | (FrameType::Window, 1..=9) => {
            2 + 2 * dice.below(*next / 2 + 1)
        }
        (FrameType::StreamResponseHead, _) => 2,
        _ => 0,
    };
    let payload = match kind {
        FrameType::Data => vec![b'd'; dice.below(9000) as usize],
        FrameType::Eof => Vec::new(),
        _ => {
            let mut text = PAYLOADS[dice.below(PAYLOADS.len() as u32) as usize]
                .as_bytes()
                .to_vec();
            if dice.below(8) == 0 && !text.is_empty() {
                let at = dice.below(text.len() as u32) as usize;
                text[at] ^= 1 << dice.below(8);
            }
            text
        }
    };
    let mut header = [0; HEADER_LEN];
    encode_header(&mut header, kind, id, payload.len());
    [&header[..], &payload].concat()
}

#[test]
fn no_frames_of_a_kit_make_the_client_fall_over() {
    let mut lived = 0;
    for seed in 0..300 {
        println!("seed {seed}");
        let (mut dice, mut next) = (Entropy::from_seed(seed), 0);
        let (mut world, mut kit) = online(&options().connections(2));
        order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 3000));
        order_bind(&mut world, &mut kit, 2, spec(Service::TcpPull, 5432));
        let conn = kit.conns[0].unwrap();
        for _ in 0..40 {
            let frames: Vec<u8> = (0..1 + dice.below(4))
                .flat_map(|_| frame(&mut dice, &mut next))
                .collect();
            let mut bytes = Vec::new();
            push_frame(&mut bytes, Role::Server, OpCode::Binary, &frames, None);
            if dice.below(60) == 0 {
                let at = dice.below(bytes.len() as u32) as usize;
                bytes[at] ^= 1 << dice.below(8);
            }
            world.chunk = [7, 500, usize::MAX][dice.below(3) as usize];
            world.write(conn, &bytes);
            match dice.below(4) {
                0 if !world.dials.is_empty() => drop(world.accept()),
                1 if !world.dials.is_empty() => world.refuse(),
                2 => world.pass(Duration::from_millis(dice.below(700).into())),
                _ => {}
            }
        }
        lived += u32::from(world.is_closed(conn).is_none());
        world.order(Order::Close { at_once: true });
        world.pass(SECOND);
        assert!(world.stopped && world.client.reach.retry.stage == retry::Stage::Over);
        assert!(world.client.reach.conns.is_empty() && world.client.local.conns.is_empty());
    }
    assert!(lived > 30, "too few sessions lasted: {lived}");
}
