//! A peer that breaks the protocol: each kind of PROTOCOL §1, §2 and §5 gets the answer of §1.4.

use crate::support::http::Talk;
use crate::support::kit::{Kit, TOKEN};
use crate::support::tunnel::*;
use crate::support::{PATIENCE, eventually};
use serde_json::json;

/// Messages that no peer may send, each with what is wrong with it.
fn bad_messages() -> Vec<(&'static str, Vec<u8>)> {
    let ping = frame(PING, 0, b"12345678");
    let mut cut_payload = ping.clone();
    cut_payload.truncate(ping.len() - 1);
    let mut long = frame(DATA, 2, &[0; 4]);
    long[5..9].copy_from_slice(&65_537u32.to_be_bytes());
    long.resize(9 + 65_537, 0);
    let mut huge = frame(DATA, 2, &[0; 4]);
    huge[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
    vec![
        ("empty", Vec::new()),
        ("over 262,144 bytes", frame(0x7F, 0, &[0; 65_527]).repeat(5)),
        ("65 frames", frame(0x7F, 0, b"").repeat(65)),
        ("a header cut short", ping[..5].to_vec()),
        (
            "a second header cut short",
            [ping.clone(), ping[..8].to_vec()].concat(),
        ),
        ("a payload cut short", cut_payload),
        ("a payload over 65,536", long),
        ("a length of 4 GiB", huge),
        ("a mandatory unknown type", frame(0x80, 0, b"")),
        ("the last mandatory unknown type", frame(0xFF, 0, b"")),
        ("an unknown type", frame(0x19, 0, b"")),
        ("type zero", frame(0x00, 0, b"")),
    ]
}

/// Frames that no client may send once it has a session.
fn bad_session_frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "HELLO again",
            frame(HELLO, 0, br#"{"version":"hoody-tunnel.v1"}"#),
        ),
        ("HELLO_OK from a client", frame(HELLO_OK, 0, b"{}")),
        ("BIND_OK from a client", frame(BIND_OK, 0, b"{}")),
        ("BIND that is no JSON", frame(BIND, 0, b"{")),
        ("BIND without its keys", frame(BIND, 0, b"{}")),
        ("UNBIND that is no JSON", frame(UNBIND, 0, b"bindId")),
        ("BIND on a stream", frame(BIND, 2, b"{}")),
        ("PING on a stream", frame(PING, 2, b"12345678")),
        ("PING of seven bytes", frame(PING, 0, b"1234567")),
        ("PING of nine bytes", frame(PING, 0, b"123456789")),
        ("DATA on no stream", frame(DATA, 0, b"x")),
        ("EOF on no stream", frame(EOF, 0, b"")),
        ("RESET on no stream", frame(RESET, 0, &[0, 0])),
        ("WINDOW of three bytes", frame(WINDOW, 0, &[0, 0, 1])),
        ("WINDOW of nothing", frame(WINDOW, 0, &[0, 0, 0, 0])),
        ("JOIN on a session's socket", frame(JOIN, 0, b"{}")),
        ("GOAWAY that is no JSON", frame(GOAWAY, 0, b"x")),
    ]
}

#[test]
fn bad_messages_before_hello_close_with_1002_and_a_reason() {
    let kit = Kit::start();
    for (what, message) in bad_messages() {
        let mut tunnel = Tunnel::dial(&kit);
        tunnel.message(message);
        let (code, reason) = tunnel.expect_close();
        assert_eq!(code, 1002, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}: a reason");
    }
    for (what, message) in [
        ("PING first", frame(PING, 0, b"12345678")),
        ("BIND first", frame(BIND, 0, b"{}")),
        ("HELLO on a stream", frame(HELLO, 2, b"{}")),
        ("HELLO that is no JSON", frame(HELLO, 0, b"{")),
        ("HELLO that is a list", frame(HELLO, 0, b"[]")),
        ("HELLO without a version", frame(HELLO, 0, b"{}")),
    ] {
        let mut tunnel = Tunnel::dial(&kit);
        tunnel.message(message);
        assert_eq!(tunnel.expect_close().0, 1002, "{what}");
    }
    assert_eq!(kit.json("sessions")["total"], 0);
}

#[test]
fn bad_messages_in_a_session_end_it_without_parking() {
    let kit = Kit::with(&["--max-sessions", "64"]);
    for (what, message) in bad_messages().into_iter().chain(bad_session_frames()) {
        let mut tunnel = Tunnel::open(&kit);
        let (_, port) = tunnel.expose(0);
        tunnel.message(message);
        println!("{what}");
        let goaway = tunnel.expect(GOAWAY).json();
        assert_ne!(goaway["code"], 0, "{what}: {goaway}");
        assert!(
            goaway["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{what}"
        );
        let message = goaway["message"].as_str().unwrap_or_default();
        assert!(
            message.matches("malformed").count() <= 1,
            "said once: {message}"
        );
        assert_eq!(tunnel.expect_close().0, 1002, "{what}");
        eventually("the port is released", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).err()
        });
        let again = Tunnel::resume(&kit, &tunnel.id());
        assert_eq!(again.hello["resumed"], false, "{what}: it was parked");
        again.close(1000);
    }
}

#[test]
fn extension_frames_are_skipped_and_counted() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::open(&kit);
    let mut message = frame(0x7F, 9, b"whatever").repeat(62);
    message.extend(frame(0x46, 0, b""));
    message.extend(frame(PING, 0, b"abcdefgh"));
    tunnel.message(message);
    assert_eq!(tunnel.expect(PONG).payload, b"abcdefgh");
}

#[test]
fn a_text_message_closes_with_1003() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::dial(&kit);
    tunnel.text("hello");
    assert_eq!(tunnel.expect_close().0, 1003);
    let mut tunnel = Tunnel::open(&kit);
    tunnel.text("hello");
    assert_eq!(tunnel.expect_close().0, 1003);
}

#[test]
fn broken_websocket_framing_is_closed_and_costs_nothing_else() {
    let kit = Kit::start();
    for (what, bytes) in [
        ("an unmasked frame", vec![0x82u8, 0x01, 0x00]),
        ("reserved bits", vec![0xF2, 0x81, 0, 0, 0, 0, 0]),
        ("a reserved opcode", vec![0x83, 0x81, 0, 0, 0, 0, 0]),
        ("a ping of 126 bytes", vec![0x89, 0xFE, 0, 126, 0, 0, 0, 0]),
        ("a ping in fragments", vec![0x09, 0x81, 0, 0, 0, 0, 0]),
        (
            "a length of 2^63",
            vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        ),
        ("a continuation of nothing", vec![0x80, 0x81, 0, 0, 0, 0, 0]),
    ] {
        let mut talk = asking(kit.port, V1);
        let head = talk.head().expect("an answer");
        assert!(head.starts_with(b"HTTP/1.1 101"), "{what}");
        talk.say_into_the_void(&bytes);
        while talk.more() > 0 {}
        if let Some(close) = talk.rest.first() {
            assert_eq!(*close, 0x88, "{what}: something other than a close came");
        }
    }
    assert!(Tunnel::open(&kit).alive());
}

const V1: &str = "Sec-WebSocket-Protocol: hoody-tunnel.v1\r\n";

/// A connection that has asked for an upgrade, with more fields.
fn asking(port: u16, more: &str) -> Talk {
    let mut talk = Talk::port(port);
    talk.say(format!(
        "GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    ));
    talk
}

#[test]
fn upgrades_are_picked_or_refused_as_written() {
    let kit = Kit::start();
    let picks = [
        ("hoody-tunnel.v1", "hoody-tunnel.v1"),
        ("hoody-tunnel.v2", "hoody-tunnel.v2"),
        ("hoody-tunnel.v1, hoody-tunnel.v2", "hoody-tunnel.v2"),
    ];
    for (offer, want) in picks {
        let how = Upgrade {
            protocols: Some(offer),
            fields: &[],
        };
        let tunnel = Tunnel::upgrade(&kit, &how).expect("an upgrade");
        assert_eq!(tunnel.hello["picked"], want, "offered {offer}");
    }
    let ask = |more: &str| asking(kit.port, more).reply(false);
    assert_eq!(ask("").status, 400, "no subprotocol offered");
    let reply = ask("Sec-WebSocket-Protocol: chat, hoody-tunnel.v9\r\n");
    assert_eq!(reply.status, 400);
    assert!(!reply.body.is_empty(), "a plain-text reason");
    assert_eq!(
        ask(&format!("{V1}Origin: https://evil.example\r\n")).status,
        403
    );
    assert_eq!(ask(&format!("{V1}Origin: null\r\n")).status, 403);
    let own = format!("{V1}Origin: http://127.0.0.1:{}\r\n", kit.port);
    assert!(
        asking(kit.port, &own)
            .head()
            .expect("an answer")
            .starts_with(b"HTTP/1.1 101"),
        "its own origin"
    );
    let extension = format!("{V1}Sec-WebSocket-Extensions: permessage-deflate\r\n");
    let head = String::from_utf8(asking(kit.port, &extension).head().expect("an answer"))
        .expect("ASCII")
        .to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && !head.contains("extensions"),
        "{head}"
    );
    let allowing = Kit::with(&["--allow-origin", "https://ok.example"]);
    let allowed = format!("{V1}Origin: https://ok.example\r\n");
    assert!(
        asking(allowing.port, &allowed)
            .head()
            .expect("an answer")
            .starts_with(b"HTTP/1.1 101"),
        "an allowed origin"
    );
    let mut talk = Talk::port(kit.port);
    talk.say("GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let plain = talk.reply(false);
    assert!(
        matches!(plain.status, 400 | 426),
        "no upgrade asked: {}",
        plain.status
    );
}

#[test]
fn a_wrong_or_missing_token_is_refused_in_either_place() {
    let kit = Kit::start();
    let hello = |auth: serde_json::Value| json!({ "auth": auth });
    for (what, auth) in [
        ("wrong", json!({ "kind": "bearer", "token": "wrong" })),
        (
            "a prefix of it",
            json!({ "kind": "bearer", "token": TOKEN[..10] }),
        ),
        ("empty", json!({ "kind": "bearer", "token": "" })),
        ("missing", json!(null)),
    ] {
        let mut tunnel = Tunnel::dial(&kit);
        tunnel.say_hello(hello(auth));
        println!("{what}");
        tunnel.expect_goaway(AUTH_ERROR, 1008);
    }
    let bearer = format!("Bearer {TOKEN}");
    let fields = [("authorization", bearer.as_str())];
    let how = Upgrade {
        protocols: Some("hoody-tunnel.v1"),
        fields: &fields,
    };
    let mut tunnel = Tunnel::upgrade(&kit, &how).expect("an upgrade");
    tunnel.greet(json!({ "auth": null }));
    assert!(tunnel.alive(), "the header alone is enough");
    kit.counts("hoody_tunnel_handshake_refusals_total", "auth", 4);
    assert_eq!(kit.json("sessions")["total"], 1);
}

#[test]
fn a_version_that_is_not_the_negotiated_one_is_refused() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::dial(&kit);
    tunnel.say_hello(json!({ "version": "hoody-tunnel.v2" }));
    let goaway = tunnel.expect(GOAWAY).json();
    assert_eq!(
        goaway["code"].as_u64(),
        Some(u64::from(VERSION_MISMATCH)),
        "{goaway}"
    );
    tunnel.expect_close();
}

#[test]
fn one_bad_stream_frame_costs_only_its_stream() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let head = json!({ "status": 200, "headers": [], "final": true }).to_string();
    let (mut talk, stream) = owner.visited(port);
    owner.frame(RESPONSE_HEAD, stream, b"{");
    assert_eq!(owner.expect_on(RESET, stream).code(), PROTOCOL_ERROR);
    assert_eq!(talk.reply(false).status, 502, "a head that is no JSON");
    let (mut talk, stream) = owner.visited(port);
    owner.frame(DATA, stream, b"body before any head");
    assert_eq!(owner.expect_on(RESET, stream).code(), PROTOCOL_ERROR);
    assert_eq!(talk.reply(false).status, 502);
    let (mut talk, stream) = owner.visited(port);
    owner.frame(RESPONSE_HEAD, stream, head.as_bytes());
    owner.frame(RESPONSE_HEAD, stream, head.as_bytes());
    assert_eq!(owner.expect_on(RESET, stream).code(), PROTOCOL_ERROR);
    let cut = talk.try_reply(false);
    assert!(cut.is_none_or(|reply| !reply.whole), "a second final head");
    let (_talk, stream) = owner.visited(port);
    owner.frame(WINDOW, stream, &1u32.to_be_bytes());
    assert_eq!(
        owner.expect_on(RESET, stream).code(),
        FLOW_CONTROL_ERROR,
        "raised above its size"
    );
    owner.frame(DATA, 40_000, b"never opened");
    owner.expect_on(RESET, 40_000);
    let (mut talk, stream) = owner.visited(port);
    owner.respond(stream, 200, b"fine");
    assert_eq!(talk.reply(false).text(), "fine");
    assert!(owner.alive());
}

#[test]
fn bad_heads_from_the_owner_are_never_passed_to_the_visitor() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    for (what, head) in [
        (
            "a line break in a value",
            json!({ "status": 200, "headers": [["a", "b\r\nX-In: 1"]], "final": true }),
        ),
        (
            "a line break in a name",
            json!({ "status": 200, "headers": [["a\r\nX-In", "1"]], "final": true }),
        ),
        (
            "a NUL in a value",
            json!({ "status": 200, "headers": [["a", "b\u{0}"]], "final": true }),
        ),
        (
            "a space in a name",
            json!({ "status": 200, "headers": [["a b", "c"]], "final": true }),
        ),
        (
            "an octet beyond",
            json!({ "status": 200, "headers": [["a", "\u{20ac}"]], "final": true }),
        ),
        (
            "a status of 99",
            json!({ "status": 99, "headers": [], "final": true }),
        ),
        (
            "a status of 1000",
            json!({ "status": 1000, "headers": [], "final": true }),
        ),
        (
            "a 101 nobody asked for",
            json!({ "status": 101, "headers": [], "final": true }),
        ),
    ] {
        let (mut talk, stream) = owner.visited(port);
        owner.frame(RESPONSE_HEAD, stream, head.to_string().as_bytes());
        owner.expect_on(RESET, stream);
        let reply = talk.reply(false);
        assert_eq!(reply.status, 502, "{what}");
        assert!(reply.field("x-in").is_none(), "{what}: injected");
    }
    assert!(owner.alive());
}

#[test]
fn data_past_a_window_is_a_flow_control_error() {
    let kit = Kit::with(&[
        "--stream-initial-window",
        "262144",
        "--session-initial-window",
        "524288",
    ]);
    let mut owner = Tunnel::open(&kit);
    assert_eq!(owner.hello["streamWindow"], 262_144);
    assert_eq!(owner.hello["sessionWindow"], 524_288);
    let (_, port) = owner.pull(0);
    // Callers that never read: what is sent to them stays in the kit once the kernel is full.
    let (_callers, streams): (Vec<_>, Vec<_>) = (0..3).map(|_| owner.called(port)).unzip();
    let block = vec![0; 65_536];
    let first = streams[0];
    for _ in 0..200 {
        owner.frame(DATA, first, &block);
    }
    assert_eq!(owner.expect_on(RESET, first).code(), FLOW_CONTROL_ERROR);
    assert!(owner.alive(), "only the stream paid");
}

#[test]
fn a_session_window_that_is_overrun_or_overfilled_ends_the_session() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    owner.frame(WINDOW, 0, &1u32.to_be_bytes());
    owner.expect_goaway(FLOW_CONTROL_ERROR, 1002);
    // A window of a mebibyte, and hardly any memory beyond it: so many streams go past it long
    // before one goes past its own.
    let small = Kit::with(&[
        "--session-initial-window",
        "1048576",
        "--memory",
        "4MiB",
        "--max-sessions",
        "1",
    ]);
    let mut owner = Tunnel::open(&small);
    let (_, port) = owner.pull(0);
    let (_callers, streams): (Vec<_>, Vec<_>) = (0..12).map(|_| owner.called(port)).unzip();
    let block = vec![0; 65_536];
    for round in 0..1200 {
        owner.frame(DATA, streams[round % 12], &block);
    }
    let goaway = owner.expect(GOAWAY).json();
    assert_eq!(
        goaway["code"].as_u64(),
        Some(u64::from(FLOW_CONTROL_ERROR)),
        "{goaway}"
    );
}

#[test]
fn frames_for_a_stream_that_is_over_are_ignored() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let (mut talk, stream) = owner.visited(port);
    owner.respond(stream, 200, b"done");
    assert_eq!(talk.reply(false).text(), "done");
    for _ in 0..40 {
        owner.frame(DATA, stream, &[0; 65_536]);
        owner.frame(EOF, stream, b"");
    }
    owner.frame(RESET, stream, &[0, 7]);
    // Ten times the session's window: only if the credit of late bytes comes back is that legal,
    // so this client counts what it may send.
    let mut credit: i64 = 16_777_216 - 40 * 65_536;
    for _ in 0..2560 {
        while credit < 65_536 {
            let window = owner.expect_on(WINDOW, 0);
            let bytes = window.payload.try_into().expect("four bytes");
            credit += i64::from(u32::from_be_bytes(bytes));
        }
        owner.frame(DATA, stream, &[0; 65_536]);
        credit -= 65_536;
    }
    assert!(owner.alive());
}
