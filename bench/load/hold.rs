//! Sessions, lanes, streams and parked sessions that do nothing, so that their cost can be read.

use super::Flags;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

const HELLO: u8 = 0x01;
const BIND: u8 = 0x03;
const BIND_OK: u8 = 0x04;
const JOIN: u8 = 0x09;
const JOIN_OK: u8 = 0x0A;
const HELLO_OK: u8 = 0x02;

type Lane = WebSocket<TcpStream>;

/// Makes what the flags ask for, says `ready`, and holds it until standard input ends.
pub fn run(flags: &Flags) {
    let kit = flags.text("kit");
    let lanes = flags.number("lanes", 1);
    let mut held: Vec<Lane> = Vec::new();
    for _ in 0..flags.number("sessions", 0) {
        let (lane, hello) = open(kit, lanes);
        held.push(lane);
        for ticket in hello["joinTickets"].as_array().into_iter().flatten() {
            held.push(join(kit, &hello["sessionId"], ticket));
        }
    }
    let mut visitors = Vec::new();
    let streams = flags.number("streams", 0);
    if streams > 0 {
        let (mut lane, _) = open(kit, 1);
        let port = bind(&mut lane);
        for _ in 0..streams {
            let mut visitor = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
            visitor
                .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .expect("sent");
            visitors.push(visitor);
        }
        held.push(lane);
    }
    for _ in 0..flags.number("parked", 0) {
        let (mut lane, _) = open(kit, 1);
        bind(&mut lane);
        drop_with_reset(lane);
    }
    println!("{{\"ready\": true}}");
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

fn dial(kit: &str, version: &str) -> Lane {
    let stream = TcpStream::connect(kit).expect("the kit listens");
    let url = format!("ws://{kit}/api/v1/tunnel/connect");
    let mut request = url.into_client_request().expect("a request");
    let version = HeaderValue::from_str(version).expect("plain text");
    request
        .headers_mut()
        .insert("sec-websocket-protocol", version);
    tungstenite::client(request, stream)
        .expect("the kit upgrades")
        .0
}

fn open(kit: &str, lanes: u64) -> (Lane, Value) {
    let version = if lanes > 1 {
        "hoody-tunnel.v2"
    } else {
        "hoody-tunnel.v1"
    };
    let mut lane = dial(kit, version);
    let mut hello = json!({ "version": version });
    if lanes > 1 {
        hello["maxConnections"] = json!(lanes);
        hello["capabilities"] = json!(["multi-ws"]);
    }
    let answer = ask(&mut lane, HELLO, &hello, HELLO_OK);
    (lane, answer)
}

fn join(kit: &str, session: &Value, ticket: &Value) -> Lane {
    let mut lane = dial(kit, "hoody-tunnel.v2");
    let join = json!({ "sessionId": session, "index": ticket["index"], "nonce": ticket["nonce"] });
    ask(&mut lane, JOIN, &join, JOIN_OK);
    lane
}

fn bind(lane: &mut Lane) -> u16 {
    let bind = json!({ "clientBindRef": 1, "kind": "http", "mode": "expose", "containerPort": 0 });
    let answer = ask(lane, BIND, &bind, BIND_OK);
    answer["containerPort"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .expect("a port")
}

/// Sends a session frame and waits for the frame that answers it.
fn ask(lane: &mut Lane, kind: u8, payload: &Value, want: u8) -> Value {
    let payload = payload.to_string().into_bytes();
    let mut frame = vec![kind, 0, 0, 0, 0];
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(&payload);
    lane.send(Message::Binary(frame.into())).expect("sent");
    loop {
        let Ok(Message::Binary(message)) = lane.read() else {
            panic!("no answer to {kind:#x}")
        };
        let mut rest = &message[..];
        while rest.len() >= 9 {
            let length = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]) as usize;
            if rest[0] == want {
                return serde_json::from_slice(&rest[9..9 + length]).expect("JSON");
            }
            rest = &rest[9 + length..];
        }
    }
}

fn drop_with_reset(lane: Lane) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer and the size are those of a live `linger` on our stack.
    unsafe {
        libc::setsockopt(
            lane.get_ref().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
    drop(lane);
}
