//! A client of the tunnel protocol by hand: it says whatever frames and bytes it is told to.

use super::PATIENCE;
use super::http::Talk;
use super::kit::{Kit, TOKEN};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

pub const HELLO: u8 = 0x01;
pub const HELLO_OK: u8 = 0x02;
pub const BIND: u8 = 0x03;
pub const BIND_OK: u8 = 0x04;
pub const BIND_ERR: u8 = 0x05;
pub const UNBIND: u8 = 0x06;
pub const UNBIND_OK: u8 = 0x07;
pub const UNBIND_ERR: u8 = 0x08;
pub const JOIN: u8 = 0x09;
pub const JOIN_OK: u8 = 0x0A;
pub const JOIN_ERR: u8 = 0x0B;
pub const REISSUE_JOIN_TICKETS: u8 = 0x0D;
pub const STREAM_OPEN: u8 = 0x10;
pub const DATA: u8 = 0x12;
pub const EOF: u8 = 0x13;
pub const RESET: u8 = 0x14;
pub const WINDOW: u8 = 0x15;
pub const RESPONSE_HEAD: u8 = 0x16;
pub const PING: u8 = 0x20;
pub const PONG: u8 = 0x21;
pub const GOAWAY: u8 = 0x30;
pub const BIND_REVOKED: u8 = 0x40;

pub const PROTOCOL_ERROR: u16 = 1;
pub const FLOW_CONTROL_ERROR: u16 = 3;
pub const ENHANCE_YOUR_CALM: u16 = 8;
pub const IDLE_TIMEOUT: u16 = 10;
pub const AUTH_ERROR: u16 = 11;
pub const VERSION_MISMATCH: u16 = 12;
pub const BIND_TAKEOVER: u16 = 13;
pub const RESOURCE_EXHAUSTED: u16 = 14;

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The code of a RESET.
    pub fn code(&self) -> u16 {
        assert_eq!(self.kind, RESET, "only a RESET has a code: {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// What can come from the kit.
#[derive(Debug)]
pub enum Heard {
    /// A frame.
    Frame(Frame),
    /// A close frame: code and reason.
    Close(u16, String),
    /// The connection ended without one.
    Gone,
    /// Nothing in time.
    Silence,
}

/// The bytes of a frame.
pub fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// One lane to a kit.
pub struct Tunnel {
    ws: WebSocket<TcpStream>,
    waiting: VecDeque<Frame>,
    closed: bool,
    /// What HELLO_OK said.
    pub hello: Value,
}

/// How an upgrade is asked for.
pub struct Upgrade<'a> {
    /// `Sec-WebSocket-Protocol`, if any.
    pub protocols: Option<&'a str>,
    /// More fields.
    pub fields: &'a [(&'static str, &'a str)],
}

impl Tunnel {
    /// Upgrades, or tells status and body of the refusal. An end without any answer is status 0.
    pub fn upgrade(kit: &Kit, how: &Upgrade<'_>) -> Result<Tunnel, (u16, String)> {
        Tunnel::upgrade_at(kit.address, kit.port, how)
    }

    /// The same at an address.
    pub fn upgrade_at(ip: Ipv4Addr, port: u16, how: &Upgrade<'_>) -> Result<Tunnel, (u16, String)> {
        let stream = TcpStream::connect((ip, port)).map_err(|error| (0, error.to_string()))?;
        stream.set_nodelay(true).expect("a TCP socket");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a TCP socket");
        let url = format!("ws://{ip}:{port}/api/v1/tunnel/connect");
        let mut request = url.into_client_request().expect("a request");
        if let Some(protocols) = how.protocols {
            let value = HeaderValue::from_str(protocols).expect("plain text");
            request
                .headers_mut()
                .insert("sec-websocket-protocol", value);
        }
        for (name, value) in how.fields {
            request
                .headers_mut()
                .insert(*name, HeaderValue::from_str(value).expect("plain text"));
        }
        match tungstenite::client::client(request, stream) {
            Ok((ws, reply)) => {
                let picked = reply.headers().get("sec-websocket-protocol");
                let picked = picked.map(|value| value.to_str().unwrap_or_default().to_owned());
                let hello = json!({ "picked": picked });
                Ok(Tunnel {
                    ws,
                    waiting: VecDeque::new(),
                    closed: false,
                    hello,
                })
            }
            Err(HandshakeError::Failure(Error::Http(reply))) => {
                let body = reply.body().clone().unwrap_or_default();
                Err((
                    reply.status().as_u16(),
                    String::from_utf8_lossy(&body).into_owned(),
                ))
            }
            Err(error) => Err((0, error.to_string())),
        }
    }

    /// Upgrades on v1 and says nothing yet.
    #[track_caller]
    pub fn dial(kit: &Kit) -> Tunnel {
        let how = Upgrade {
            protocols: Some("hoody-tunnel.v1"),
            fields: &[],
        };
        Tunnel::upgrade(kit, &how).expect("the kit upgrades")
    }

    /// A session on v1, with the token.
    #[track_caller]
    pub fn open(kit: &Kit) -> Tunnel {
        Tunnel::open_with(kit, json!({}))
    }

    /// A session whose HELLO has more keys.
    #[track_caller]
    pub fn open_with(kit: &Kit, more: Value) -> Tunnel {
        let version = more
            .get("version")
            .and_then(Value::as_str)
            .unwrap_or("hoody-tunnel.v1");
        let how = Upgrade {
            protocols: Some(version),
            fields: &[],
        };
        let mut tunnel = Tunnel::upgrade(kit, &how).expect("the kit upgrades");
        tunnel.greet(more);
        tunnel
    }

    /// Says HELLO and reads HELLO_OK.
    #[track_caller]
    pub fn greet(&mut self, more: Value) {
        self.say_hello(more);
        self.hello = self.expect(HELLO_OK).json();
    }

    /// Says HELLO and reads nothing.
    #[track_caller]
    pub fn say_hello(&mut self, more: Value) {
        let auth = json!({ "kind": "bearer", "token": TOKEN });
        let mut hello = json!({ "version": "hoody-tunnel.v1", "auth": auth });
        for (key, value) in more.as_object().expect("an object") {
            hello[key] = value.clone();
        }
        self.json(HELLO, hello);
    }

    /// Resumes a session on a new socket.
    #[track_caller]
    pub fn resume(kit: &Kit, id: &str) -> Tunnel {
        Tunnel::open_with(kit, json!({ "resume": { "sessionId": id } }))
    }

    /// The session's id.
    pub fn id(&self) -> String {
        self.hello["sessionId"]
            .as_str()
            .expect("HELLO_OK names the session")
            .to_owned()
    }

    /// Sends one message of these bytes.
    pub fn message(&mut self, bytes: Vec<u8>) {
        let _ = self.ws.send(Message::Binary(bytes.into()));
    }

    /// Sends a text message.
    pub fn text(&mut self, text: &str) {
        let _ = self.ws.send(Message::Text(text.into()));
    }

    /// Sends one frame.
    pub fn frame(&mut self, kind: u8, stream: u32, payload: &[u8]) {
        self.message(frame(kind, stream, payload));
    }

    /// Sends a session frame with JSON.
    pub fn json(&mut self, kind: u8, value: Value) {
        self.frame(kind, 0, value.to_string().as_bytes());
    }

    /// Says a close frame and goes.
    pub fn close(mut self, code: u16) {
        let frame = tungstenite::protocol::CloseFrame {
            code: CloseCode::from(code),
            reason: "bye".into(),
        };
        let _ = self.ws.close(Some(frame));
        let _ = self.ws.flush();
        while self.ws.read().is_ok() {}
    }

    /// Says a close frame without a code and goes.
    pub fn close_silently(mut self) {
        let _ = self.ws.close(None);
        let _ = self.ws.flush();
        while self.ws.read().is_ok() {}
    }

    /// Drops the socket without a word, with a FIN or a RST.
    pub fn vanish(self, with_reset: bool) {
        if with_reset {
            super::tcp::reset_on_close(self.ws.get_ref());
        }
        drop(self);
    }

    /// The next thing from the kit that is not a PING, which is answered here.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                if frame.kind == PING {
                    self.frame(PONG, 0, &frame.payload);
                    continue;
                }
                return Heard::Frame(frame);
            }
            if self.closed {
                return Heard::Gone;
            }
            self.ws
                .get_ref()
                .set_read_timeout(Some(patience))
                .expect("a TCP socket");
            match self.ws.read() {
                Ok(Message::Binary(bytes)) => self.split(&bytes),
                Ok(Message::Close(close)) => {
                    self.closed = true;
                    let close = close.map(|close| (close.code.into(), close.reason.to_string()));
                    let (code, reason) = close.unwrap_or((1005, String::new()));
                    return Heard::Close(code, reason);
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Heard::Silence;
                }
                Err(error) => {
                    // Shown where the test that heard it fails.
                    println!("the tunnel's connection ended: {error}");
                    self.closed = true;
                }
            }
        }
    }

    fn split(&mut self, message: &[u8]) {
        let (mut rest, mut count) = (message, 0);
        assert!(
            !rest.is_empty() && rest.len() <= 262_144,
            "a legal message: {}",
            rest.len()
        );
        while !rest.is_empty() {
            assert!(rest.len() >= 9, "the kit cut a frame header");
            let stream = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]);
            let length = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]) as usize;
            assert!(
                length <= 65_536 && rest.len() >= 9 + length,
                "a legal length: {length}"
            );
            let payload = rest[9..9 + length].to_vec();
            self.waiting.push_back(Frame {
                kind: rest[0],
                stream,
                payload,
            });
            rest = &rest[9 + length..];
            count += 1;
        }
        assert!(count <= 64, "the kit batched {count} frames");
    }

    /// The next frame of a kind; others are passed over.
    #[track_caller]
    pub fn expect(&mut self, kind: u8) -> Frame {
        loop {
            match self.hear(PATIENCE) {
                Heard::Frame(frame) if frame.kind == kind => return frame,
                Heard::Frame(_) => {}
                other => panic!("wanted frame {kind:#04x}, got {other:?}"),
            }
        }
    }

    /// The next frame of a kind on a stream; others are passed over.
    #[track_caller]
    pub fn expect_on(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.expect(kind);
            if frame.stream == stream {
                return frame;
            }
        }
    }

    /// Wants GOAWAY with this code and then a close with that one; tells GOAWAY's message.
    #[track_caller]
    pub fn expect_goaway(&mut self, code: u16, close: u16) -> String {
        let goaway = self.expect(GOAWAY).json();
        assert_eq!(goaway["code"].as_u64(), Some(u64::from(code)), "{goaway}");
        let (got, reason) = self.expect_close();
        assert_eq!(got, close, "close reason {reason:?} after {goaway}");
        goaway["message"].as_str().unwrap_or_default().to_owned()
    }

    /// A visitor of its EXPOSE port asks for `/`: the visitor, and the stream it became.
    #[track_caller]
    pub fn visited(&mut self, port: u16) -> (Talk, u32) {
        let mut talk = Talk::port(port);
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        (talk, self.expect(STREAM_OPEN).stream)
    }

    /// Somebody comes to its PULL port: the caller, and the stream it became.
    #[track_caller]
    pub fn called(&mut self, port: u16) -> (Talk, u32) {
        let talk = Talk::port(port);
        (talk, self.expect(STREAM_OPEN).stream)
    }

    /// Wants a close frame, whatever comes before it.
    #[track_caller]
    pub fn expect_close(&mut self) -> (u16, String) {
        loop {
            match self.hear(PATIENCE) {
                Heard::Close(code, reason) => return (code, reason),
                Heard::Frame(_) => {}
                other => panic!("wanted a close frame, got {other:?}"),
            }
        }
    }

    /// Whether the session still answers: a PING comes back.
    #[track_caller]
    pub fn alive(&mut self) -> bool {
        self.frame(PING, 0, b"arewefin");
        loop {
            match self.hear(PATIENCE) {
                Heard::Frame(frame) if frame.kind == PONG => return frame.payload == b"arewefin",
                Heard::Frame(_) => {}
                _ => return false,
            }
        }
    }

    /// Binds and tells the answer, BIND_OK or BIND_ERR.
    #[track_caller]
    pub fn bind(&mut self, bind: Value) -> Frame {
        let mut whole = json!({ "clientBindRef": 7 });
        for (key, value) in bind.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        self.json(BIND, whole);
        loop {
            match self.hear(PATIENCE) {
                Heard::Frame(frame) if frame.kind == BIND_OK || frame.kind == BIND_ERR => {
                    assert_eq!(frame.json()["clientBindRef"].as_u64(), Some(7), "{frame:?}");
                    return frame;
                }
                Heard::Frame(_) => {}
                other => panic!("wanted an answer to BIND, got {other:?}"),
            }
        }
    }

    /// Binds an EXPOSE port; 0 lets the kit pick. Tells bindId and port.
    #[track_caller]
    pub fn expose(&mut self, port: u16) -> (u64, u16) {
        self.bound(json!({ "kind": "http", "mode": "expose", "containerPort": port }))
    }

    /// Binds a PULL port; 0 lets the kit pick. Tells bindId and port.
    #[track_caller]
    pub fn pull(&mut self, port: u16) -> (u64, u16) {
        self.bound(json!({ "kind": "tcp", "mode": "pull", "containerPort": port }))
    }

    /// Binds what must work. Tells bindId and port.
    #[track_caller]
    pub fn bound(&mut self, bind: Value) -> (u64, u16) {
        let frame = self.bind(bind);
        let answer = frame.json();
        assert_eq!(frame.kind, BIND_OK, "{answer}");
        let id = answer["bindId"].as_u64().expect("a bindId");
        (id, answer["containerPort"].as_u64().expect("a port") as u16)
    }

    /// Answers a stream with a whole response.
    pub fn respond(&mut self, stream: u32, status: u16, body: &[u8]) {
        let fields = json!([["content-length", body.len().to_string()]]);
        let head = json!({ "status": status, "headers": fields, "final": true });
        let mut message = frame(RESPONSE_HEAD, stream, head.to_string().as_bytes());
        if !body.is_empty() {
            message.extend(frame(DATA, stream, body));
        }
        message.extend(frame(EOF, stream, b""));
        self.message(message);
    }
}
