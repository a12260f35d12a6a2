//! A kit as far as a client sees it: answers the upgrade, then a session whose frames the test
//! sends and looks at.

use crate::clock::Instant;
use crate::http::parse_request;
use crate::machine::ConnKey;
use crate::mux::{Incoming, Item, Session, Side, StreamKey, Terms, Transport};
use crate::wire::frame::FrameType;
use crate::ws::check_request;

use super::world::World;

/// What a stream brought.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Response heads, as JSON.
    pub heads: Vec<String>,
    pub data: Vec<u8>,
    pub datagrams: Vec<Vec<u8>>,
    pub eof: bool,
    /// Code and reason.
    pub reset: Option<String>,
}

pub(super) struct FakeKit {
    /// Lanes that said HELLO or JOIN and have no session yet.
    greeting: Option<Transport>,
    pub session: Session<usize>,
    pub conns: Vec<Option<ConnKey>>,
    pub control: Vec<(FrameType, String)>,
    pub streams: Vec<(Option<StreamKey>, Seen)>,
    /// Give credit back for what came.
    pub reads: bool,
    pub upgrade: String,
    /// Close code of the client's WebSocket close.
    pub closed: Option<Option<u16>>,
}

pub(super) fn terms() -> Terms {
    Terms {
        side: Side::Kit,
        stream_window: 1 << 20,
        session_window: 16 << 20,
        max_streams: 1024,
        grow_windows: false,
        header_case: false,
        udp: true,
        trailers: false,
        forward: false,
        head_parts: 0,
        queue_opens: crate::limits::LANE_QUEUE_OPENS,
        replay: None,
    }
}

impl FakeKit {
    pub(super) fn new() -> FakeKit {
        FakeKit::with(terms())
    }

    pub(super) fn with(terms: Terms) -> FakeKit {
        FakeKit {
            greeting: None,
            session: Session::new(terms, Instant::ZERO),
            conns: Vec::new(),
            control: Vec::new(),
            streams: Vec::new(),
            reads: true,
            upgrade: String::new(),
            closed: None,
        }
    }

    /// Answers the upgrade on `conn` and gives what the client greets with.
    pub(super) fn upgrade(&mut self, world: &mut World, conn: ConnKey) -> (FrameType, String) {
        self.upgrade = world.text(conn);
        let (head, _) = parse_request(self.upgrade.as_bytes()).unwrap().unwrap();
        let offer = check_request(head.method, 1, head.fields.iter()).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
            offer.accept,
            offer.subprotocol.name()
        );
        world.write(conn, answer.as_bytes());
        let mut lane = Transport::server(conn, world.now);
        lane.feed(&world.take(conn), world.now);
        let Some(Item::Frame { kind, payload, .. }) = lane.poll().unwrap() else {
            panic!("no greeting came");
        };
        let json = String::from_utf8(lane.payload(&payload).to_vec()).unwrap();
        self.greeting = Some(lane);
        (kind, json)
    }

    /// Answers the greeting, and has the lane under `index`.
    pub(super) fn greet(&mut self, world: &mut World, index: usize, kind: FrameType, json: &str) {
        let mut lane = self.greeting.take().unwrap();
        lane.push_control(kind, json.as_bytes());
        if self.conns.len() <= index {
            self.conns.resize(index + 1, None);
        }
        self.conns[index] = Some(lane.conn());
        self.session.attach(index, lane);
        self.run(world);
    }

    /// Answers the greeting, and has the lane under `index` go on where the client has taken so
    /// many frames.
    pub(super) fn come_back(
        &mut self,
        world: &mut World,
        index: usize,
        kind: FrameType,
        json: &str,
        received: u64,
    ) {
        let mut lane = self.greeting.take().unwrap();
        lane.push_control(kind, json.as_bytes());
        self.conns[index] = Some(lane.conn());
        self.session.resume(index, lane, received, world.now);
        self.run(world);
    }

    /// Somebody else answers the greeting.
    pub(super) fn hand_over_greeting(&mut self, other: &mut FakeKit) {
        other.greeting = self.greeting.take();
    }

    pub(super) fn control(&mut self, world: &mut World, kind: FrameType, json: &str) {
        self.session.lanes_mut().push_control(kind, json.as_bytes());
        self.run(world);
    }

    /// Opens a stream with this STREAM_OPEN; gives its number here.
    pub(super) fn open(&mut self, world: &mut World, json: &str) -> usize {
        let number = self.streams.len();
        let key = self
            .session
            .open(number, json.as_bytes(), world.now)
            .unwrap();
        self.streams.push((Some(key), Seen::default()));
        self.run(world);
        number
    }

    pub(super) fn data(&mut self, world: &mut World, stream: usize, bytes: &[u8]) {
        let key = self.streams[stream].0.unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            let more = self.session.send(key, &bytes[sent..], world.now);
            sent += more;
            self.run(world);
            assert!(more > 0, "no credit came back");
        }
    }

    pub(super) fn eof(&mut self, world: &mut World, stream: usize) {
        let key = self.streams[stream].0.unwrap();
        self.session.send_eof(key, world.now);
        self.run(world);
    }

    pub(super) fn reset(&mut self, world: &mut World, stream: usize) {
        let key = self.streams[stream].0.unwrap();
        self.session
            .reset(key, crate::wire::code::Code::Cancel, "gone");
        self.run(world);
    }

    pub(super) fn seen(&self, stream: usize) -> &Seen {
        &self.streams[stream].1
    }

    /// The frames of `kind` that came, taken out.
    pub(super) fn came(&mut self, kind: FrameType) -> Vec<String> {
        let mut came = Vec::new();
        self.control.retain(|(other, json)| {
            if *other == kind {
                came.push(json.clone());
            }
            *other != kind
        });
        came
    }

    /// Its last bytes on the primary come; it reads nothing any more.
    pub(super) fn says_only(&mut self, world: &mut World, kind: FrameType, json: &str) {
        self.session.lanes_mut().push_control(kind, json.as_bytes());
        while self.session.poll_wake().is_some() {}
        let bytes = self.session.transmit(0).to_vec();
        self.session.transmitted(0, bytes.len());
        world.write(self.conns[0].unwrap(), &bytes);
    }

    /// Carries bytes between both until nothing moves.
    pub(super) fn run(&mut self, world: &mut World) {
        loop {
            let mut moved = false;
            while self.session.poll_wake().is_some() {}
            for index in 0..self.conns.len() {
                let Some(conn) = self.conns[index] else {
                    continue;
                };
                let count = self.session.transmit(index).len();
                if count > 0 {
                    let bytes = self.session.transmit(index).to_vec();
                    self.session.transmitted(index, count);
                    world.write(conn, &bytes);
                    moved = true;
                }
                let bytes = world.take(conn);
                for piece in bytes.chunks(10_000) {
                    let lane = self.session.lanes_mut().get_mut(index).unwrap();
                    lane.read_space()[..piece.len()].copy_from_slice(piece);
                    lane.received(piece.len(), world.now);
                    self.poll(index, world.now);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn poll(&mut self, index: usize, now: Instant) {
        while let Some(incoming) = self
            .session
            .poll(index, now)
            .expect("the client misbehaved")
        {
            match incoming {
                Incoming::Control { kind, payload } => {
                    let json = self.session.payload(index, &payload).to_vec();
                    self.control.push((kind, String::from_utf8(json).unwrap()));
                }
                Incoming::Head { tag, payload, .. } => {
                    let json = self.session.payload(index, &payload).to_vec();
                    self.streams[tag]
                        .1
                        .heads
                        .push(String::from_utf8(json).unwrap());
                }
                Incoming::Data {
                    stream,
                    tag,
                    payload,
                } => {
                    let bytes = self.session.payload(index, &payload).to_vec();
                    if self.reads {
                        self.session.passed_on(stream, bytes.len(), now);
                    }
                    self.streams[tag].1.data.extend(bytes);
                }
                Incoming::Datagram { tag, payload } => {
                    let datagram = self.session.payload(index, &payload).to_vec();
                    self.streams[tag].1.datagrams.push(datagram);
                }
                Incoming::Eof { tag, .. } => self.streams[tag].1.eof = true,
                Incoming::Reset {
                    tag, code, reason, ..
                } => self.streams[tag].1.reset = Some(format!("{code}: {reason}")),
                Incoming::Closed { code } => self.closed = Some(code),
                Incoming::Opened { id, payload, .. } => {
                    let json = self.session.payload(index, &payload).to_vec();
                    let number = self.streams.len();
                    let key = self.session.accept(index, id, number, now);
                    let seen = Seen {
                        heads: vec![String::from_utf8(json).unwrap()],
                        ..Seen::default()
                    };
                    self.streams.push((key, seen));
                }
                Incoming::Connected { .. } => panic!("no client says it"),
                Incoming::Trailers { .. } => panic!("they were not agreed on"),
            }
        }
        self.session.check_invariants();
    }
}
