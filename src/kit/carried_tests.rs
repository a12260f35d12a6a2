//! The largest of everything that the wire can say, and that a kit can be told to keep.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::public_url::PublicUrl;
use crate::kit::testing::{Host, Laptop, UPGRADE, guarded};
use crate::limits::MAX_FRAME_PAYLOAD;
use crate::machine::ConnKey;
use crate::wire::frame::{FrameType, HEADER_LEN, encode_header};
use crate::ws::{OpCode, Role, push_frame};

fn with_url(config: Config, url: &str) -> Config {
    Config {
        public_url: Some(PublicUrl::parse(url).unwrap()),
        ..config
    }
}

#[test]
fn more_bindings_than_one_frame_can_list_are_refused_at_the_start() {
    let config = Config {
        max_bindings_per_session: 1024,
        ..guarded()
    };
    let carried = config.bindings_carried();
    assert!((400..1000).contains(&carried), "{carried}");
    let text = config.validate().unwrap_err().to_string();
    let range = format!("--max-bindings-per-session must be between 1 and {carried}, not 1024");
    assert!(text.starts_with(&range), "{text}");
    let fits = Config {
        max_bindings_per_session: carried,
        ..config
    };
    assert_eq!(fits.validate(), Ok(()));
    let long = format!("https://{{port}}.{}.example", "a".repeat(200));
    let text = with_url(fits, &long).validate().unwrap_err().to_string();
    assert!(text.contains("with its --public-url-pattern"), "{text}");
    let endless = format!("https://{{port}}.example/{}", "a".repeat(70_000));
    let text = with_url(guarded(), &endless).validate().unwrap_err();
    assert!(text.to_string().contains("pattern is too long"), "{text}");
}

#[test]
fn a_session_with_all_the_bindings_that_fit_comes_back_in_one_frame() {
    let mut config = with_url(
        Config {
            fd_budget: 10_000,
            ..guarded()
        },
        "https://app-{port}.example/a",
    );
    config.max_bindings_per_session = config.bindings_carried();
    let bindings = config.max_bindings_per_session;
    assert_eq!(config.validate(), Ok(()));
    let mut host = Host::new(config);
    let mut laptop = host.laptop("192.0.2.2:1");
    for at in 1..bindings {
        let port = 20_000 + at;
        let bind = format!(
            r#"{{"clientBindRef":{at},"kind":"http","mode":"expose","containerPort":{port}}}"#
        );
        laptop
            .mux
            .lanes_mut()
            .push_control(FrameType::Bind, bind.as_bytes());
        host.pass(Duration::from_millis(10));
        host.exchange(&mut laptop);
    }
    assert_eq!(host.bound.len(), bindings, "all of them stand");
    let id = host
        .kit
        .sessions
        .iter()
        .next()
        .expect("a session")
        .1
        .id()
        .to_owned();
    let conn = host.visit("192.0.2.3:1").expect("accepted");
    host.send(conn, UPGRADE);
    host.receive(conn);
    let hello = format!(r#"{{"version":"hoody-tunnel.v1","resume":{{"sessionId":"{id}"}}}}"#);
    host.send(conn, &message(FrameType::Hello, 0, hello.as_bytes()));
    let answer = host.receive(conn);
    assert!(answer.contains("\"resumed\":true"), "{answer}");
    assert_eq!(answer.matches("\"bindId\"").count(), bindings);
}

/// A WebSocket message of one frame, as a client sends it.
fn message(kind: FrameType, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = [0; HEADER_LEN];
    encode_header(&mut frame, kind, id, payload.len());
    let mut out = Vec::new();
    let frame = [&frame[..], payload].concat();
    push_frame(
        &mut out,
        Role::Client,
        OpCode::Binary,
        &frame,
        Some([1, 2, 3, 4]),
    );
    out
}

/// `text` with its `@` so often repeated that all of it fills a frame.
fn filled(text: &str, with: &str) -> Vec<u8> {
    let times = (MAX_FRAME_PAYLOAD - text.len() + 1) / with.len();
    text.replace('@', &with.repeat(times)).into_bytes()
}

fn stranger(host: &mut Host) -> ConnKey {
    let conn = host.visit("192.0.2.9:1").expect("accepted");
    host.send(conn, UPGRADE);
    host.receive(conn);
    conn
}

#[test]
fn the_largest_first_frames_end_no_kit() {
    for (kind, text) in [
        (FrameType::Hello, r#"{"version":"@"}"#),
        (
            FrameType::Hello,
            r#"{"version":"hoody-tunnel.v1","auth":{"kind":"@","token":"x"}}"#,
        ),
        (
            FrameType::Hello,
            r#"{"version":"hoody-tunnel.v1","auth":{"kind":"bearer","token":"@"}}"#,
        ),
        (
            FrameType::Hello,
            r#"{"version":"hoody-tunnel.v1","capabilities":["@"]}"#,
        ),
        (
            FrameType::Hello,
            r#"{"version":"hoody-tunnel.v1","resume":{"sessionId":"@"}}"#,
        ),
        (FrameType::Hello, r#"{"@":1}"#),
        (
            FrameType::Join,
            r#"{"sessionId":"@","index":4294967295,"nonce":"x"}"#,
        ),
        (
            FrameType::Join,
            r#"{"sessionId":"S-1","index":1,"nonce":"@"}"#,
        ),
        (FrameType::Bind, r#"{"clientBindRef":1,"kind":"@"}"#),
        (FrameType::GoAway, r#"{"message":"@"}"#),
    ] {
        for with in ["x", "\u{202E}", "\\u0000", "\\\""] {
            let mut host = Host::new(guarded());
            let conn = stranger(&mut host);
            host.send(conn, &message(kind, 0, &filled(text, with)));
            host.receive(conn);
            let health = host.ask("GET /api/v1/tunnel/health", "");
            assert!(health.starts_with("HTTP/1.1 200 "), "{kind} {text}");
        }
    }
}

/// A laptop with one visitor whose request waits for its answer.
fn with_a_visitor(host: &mut Host) -> (Laptop, ConnKey) {
    let mut laptop = host.laptop("192.0.2.2:1");
    let listener = *host.bound.last().expect("a port");
    let visitor = host.visit_at(listener, "198.51.100.1:1").expect("accepted");
    host.send(visitor, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 1);
    (laptop, visitor)
}

#[test]
fn the_largest_frames_of_a_session_end_no_kit() {
    let field = r#"{"status":200,"headers":[["x","@"]],"final":true}"#;
    for (kind, id, text) in [
        (
            FrameType::Bind,
            0,
            r#"{"clientBindRef":18446744073709551615,"kind":"http","mode":"@"}"#,
        ),
        (
            FrameType::Bind,
            0,
            r#"{"clientBindRef":2,"kind":"http","mode":"expose","containerPort":3000,"label":"@"}"#,
        ),
        (
            FrameType::Bind,
            0,
            r#"{"clientBindRef":2,"kind":"tcp","mode":"pull","containerPort":3000,"host":"@"}"#,
        ),
        (
            FrameType::Unbind,
            0,
            r#"{"bindId":18446744073709551615,"x":"@"}"#,
        ),
        (
            FrameType::ReissueJoinTickets,
            0,
            r#"{"missing":[{"index":4294967295,"nonce":"@"}]}"#,
        ),
        (FrameType::GoAway, 0, r#"{"code":65535,"message":"@"}"#),
        (
            FrameType::ShardMap,
            0,
            r#"{"connections":[{"index":1,"state":"@"}]}"#,
        ),
        (FrameType::HelloOk, 0, r#"{"sessionId":"@"}"#),
        (FrameType::StreamOpen, 1, r#"{"kind":"@"}"#),
        (
            FrameType::StreamOpen,
            4_294_967_295,
            r#"{"kind":"tcp","mode":"forward","host":"@"}"#,
        ),
        (FrameType::StreamResponseHead, 2, field),
        (
            FrameType::StreamResponseHead,
            2,
            r#"{"status":200,"headers":[["@","x"]],"final":true}"#,
        ),
        (
            FrameType::StreamResponseHead,
            2,
            r#"{"status":100,"headers":[["x","@"]],"final":false}"#,
        ),
        (
            FrameType::StreamResponseHead,
            2,
            r#"{"status":65535,"headers":[],"x":"@"}"#,
        ),
        (FrameType::Reset, 2, "\u{0}\u{7}@"),
        (FrameType::Data, 2, "@"),
        (FrameType::Ping, 0, "12345678"),
        (FrameType::Window, 2, "\u{7f}\u{7f}\u{7f}\u{7f}"),
        (FrameType::Window, 0, "\u{7f}\u{7f}\u{7f}\u{7f}"),
        (FrameType::Eof, 2, ""),
    ] {
        for with in ["x", "\u{202E}", "\\u0000", "\\\""] {
            let mut host = Host::new(guarded());
            let (laptop, visitor) = with_a_visitor(&mut host);
            let payload = match text.contains('@') {
                true => filled(text, with),
                false => text.into(),
            };
            host.send(laptop.conn, &message(kind, id, &payload));
            host.receive(laptop.conn);
            host.receive(visitor);
            let health = host.ask("GET /api/v1/tunnel/health", "");
            assert!(health.starts_with("HTTP/1.1 200 "), "{kind} {text}");
        }
    }
}

#[test]
fn a_chunk_of_nothing_does_not_end_a_body() {
    let mut host = Host::new(guarded());
    let (laptop, visitor) = with_a_visitor(&mut host);
    let head = br#"{"status":200,"headers":[],"final":true}"#;
    host.send(
        laptop.conn,
        &message(FrameType::StreamResponseHead, 2, head),
    );
    host.send(laptop.conn, &message(FrameType::Data, 2, b""));
    host.send(laptop.conn, &message(FrameType::Data, 2, b"hello"));
    let text = host.receive(visitor);
    assert!(text.ends_with("\r\n\r\n5\r\nhello\r\n"), "{text}");
}
