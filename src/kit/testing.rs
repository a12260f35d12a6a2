//! For tests of the kit: the whole machine under a host without sockets, and a laptop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::{Handover, Kit, KitNotice};
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::kit::config::Config;
use crate::kit::config::Usage;
use crate::lawful::Lawful;
use crate::machine::{
    Command, ConnKey, DialTarget, Event, ListenerKey, Machine, SocketAt, SocketKey,
};
use crate::mux::{Incoming, Retention, Session, Side, StreamKey, Terms, Transport};
use crate::wire::code::Code;
use crate::wire::control::Secret;
use crate::wire::frame::FrameType;

/// A kit with its own listener open.
pub(super) struct Host {
    pub kit: Lawful<Kit>,
    pub front: ListenerKey,
    pub now: Instant,
    pub closed: Vec<ConnKey>,
    /// Connections that were sent a FIN.
    pub finished: Vec<ConnKey>,
    pub unlistened: Vec<ListenerKey>,
    pub stopped: bool,
    /// What a successor was to be told.
    pub handed: Option<Handover>,
    /// Listeners on which nobody is accepted.
    pub paused: BTreeSet<ListenerKey>,
    /// The listeners of bindings, oldest first.
    pub bound: Vec<ListenerKey>,
    /// Whether they accept.
    pub accepts: bool,
    /// Names that are to be looked up, oldest first.
    pub sought: Vec<(ConnKey, String, u16)>,
    /// Whom the kit dials, oldest first.
    pub dialled: Vec<(ConnKey, DialTarget)>,
    /// UDP ports, oldest first, and what was sent there.
    pub sockets: Vec<SocketKey>,
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
    /// What sockets hold that can tell.
    pub held: BTreeMap<ConnKey, usize>,
}

impl Host {
    pub(super) fn new(config: Config) -> Host {
        Host::around(Kit::new(config, Entropy::from_seed(1), Instant::ZERO))
    }

    /// The host of a kit that was just made.
    pub(super) fn around(kit: Kit) -> Host {
        let mut kit = Lawful::new(kit, Instant::ZERO);
        let Some(Command::Listen { listener, addr }) = kit.poll_command() else {
            panic!("the kit opens its own listener first");
        };
        let mut host = Host {
            kit,
            front: listener,
            now: Instant::ZERO,
            closed: Vec::new(),
            finished: Vec::new(),
            unlistened: Vec::new(),
            stopped: false,
            handed: None,
            paused: BTreeSet::new(),
            bound: Vec::new(),
            accepts: true,
            sought: Vec::new(),
            dialled: Vec::new(),
            sockets: Vec::new(),
            sent: Vec::new(),
            held: BTreeMap::new(),
        };
        host.settle();
        let outcome = Ok(addr);
        let event = Event::Listening { listener, outcome };
        host.kit.handle(event, Instant::ZERO);
        host.settle();
        host
    }

    pub(super) fn settle(&mut self) {
        let (mut probed, mut listening, mut woken) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(command) = self.kit.poll_command() {
            match command {
                Command::Close { conn, .. } => self.closed.push(conn),
                Command::Finish { conn } => self.finished.push(conn),
                Command::Resolve { conn, host, port } => self.sought.push((conn, host, port)),
                Command::Dial { conn, target } => self.dialled.push((conn, target)),
                Command::Accept { listener, on } => {
                    self.accepts = on;
                    match on {
                        true => self.paused.remove(&listener),
                        false => self.paused.insert(listener),
                    };
                }
                Command::Listen { listener, addr } => {
                    self.bound.push(listener);
                    let outcome = Ok(addr);
                    listening.push(Event::Listening { listener, outcome });
                }
                Command::Unlisten { listener } => self.unlistened.push(listener),
                Command::OpenSocket { socket, at } => {
                    self.sockets.push(socket);
                    let outcome = Ok(udp_addr(&at));
                    listening.push(Event::Socket { socket, outcome });
                }
                Command::CloseSocket { socket } => self.sockets.retain(|it| *it != socket),
                Command::Send { peer, datagram, .. } => {
                    self.sent.push((peer.expect("somebody"), datagram));
                }
                Command::Stop => self.stopped = true,
                Command::Notify(KitNotice::CannotListen(why)) => panic!("{why}"),
                Command::Notify(KitNotice::HandOver(handed)) => self.handed = Some(handed),
                Command::ResetIfKilled { .. } => {}
                Command::Probe { conn } => probed.push(conn),
                Command::Wake { conn } => woken.push(conn),
                _ => {}
            }
        }
        // Sockets take nothing until a test has them take it.
        for conn in woken {
            self.kit.transmit(conn, self.now);
        }
        for event in listening {
            self.kit.handle(event, self.now);
            self.settle();
        }
        for conn in probed {
            if let Some(bytes) = self.held.get(&conn).copied() {
                self.kit.handle(Event::Holds { conn, bytes }, self.now);
                self.settle();
            }
        }
    }

    pub(super) fn visit(&mut self, peer: &str) -> Option<ConnKey> {
        self.visit_at(self.front, peer)
    }

    /// Somebody comes to a listener.
    pub(super) fn visit_at(&mut self, listener: ListenerKey, peer: &str) -> Option<ConnKey> {
        let peer: SocketAddr = peer.parse().unwrap();
        let conn = self.kit.accepted(listener, peer, self.now);
        self.settle();
        conn
    }

    /// Somebody sends a datagram to the last UDP port.
    pub(super) fn datagram(&mut self, peer: &str, datagram: &[u8]) {
        let socket = *self.sockets.last().expect("a UDP port");
        let peer = peer.parse().unwrap();
        self.kit.datagram(socket, peer, datagram, self.now);
        self.settle();
    }

    pub(super) fn send(&mut self, conn: ConnKey, bytes: &[u8]) {
        let sent = self.send_some(conn, bytes);
        assert_eq!(sent, bytes.len(), "the kit does not read on");
    }

    /// Sends as much as the kit reads now.
    pub(super) fn send_some(&mut self, conn: ConnKey, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = self.kit.read_space(conn);
            let count = rest.len().min(space.len());
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            self.kit.received(conn, count, self.now);
            self.settle();
        }
        bytes.len() - rest.len()
    }

    /// All sessions end, as by an operator.
    pub(super) fn end_all_sessions(&mut self) {
        let Kit {
            cx,
            conns,
            sessions,
            ..
        } = &mut *self.kit;
        for key in sessions.keys() {
            sessions.kill(key, Duration::ZERO, conns, cx);
        }
        self.kit.settle_sessions();
    }

    pub(super) fn receive(&mut self, conn: ConnKey) -> String {
        String::from_utf8_lossy(&self.take(conn, usize::MAX)).into_owned()
    }

    /// What the kit has for a connection whose socket takes `most` bytes.
    pub(super) fn take(&mut self, conn: ConnKey, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < most {
            let mut bytes = self.kit.transmit(conn, self.now).to_vec();
            bytes.truncate(most - all.len());
            if bytes.is_empty() {
                break;
            }
            self.kit.transmitted(conn, bytes.len(), self.now);
            self.settle();
            all.extend(bytes);
        }
        all
    }

    /// The peer of a connection sends FIN.
    pub(super) fn finish(&mut self, conn: ConnKey) {
        let reads = !self.kit.read_space(conn).is_empty();
        assert!(reads, "the kit does not read up to the FIN");
        self.kit.received(conn, 0, self.now);
        self.settle();
    }

    /// The peer of a connection sends FIN behind bytes that the kit does not read.
    pub(super) fn finish_unread(&mut self, conn: ConnKey) {
        assert!(self.kit.read_space(conn).is_empty(), "the kit reads on");
        let event = Event::PeerFinished { conn };
        self.kit.handle(event, self.now);
        self.settle();
    }

    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.kit.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.kit.handle(Event::Timeout, self.now);
            self.settle();
        }
        self.now = until;
    }

    /// One request on a connection of its own.
    pub(super) fn ask(&mut self, request: &str, fields: &str) -> String {
        let conn = self.visit("192.0.2.1:1000").expect("accepted");
        let close = "Connection: close\r\n";
        self.send(
            conn,
            format!("{request} HTTP/1.1\r\nHost: [::1]\r\n{close}{fields}\r\n").as_bytes(),
        );
        let answer = self.receive(conn);
        self.finish(conn);
        answer
    }

    pub(super) fn get(&mut self, path: &str) -> String {
        self.ask(
            &format!("GET /api/v1/tunnel/{path}"),
            "Authorization: Bearer hush\r\n",
        )
    }
}

/// A kit with a token.
pub(super) fn guarded() -> Config {
    let mut config = Config {
        token: Some(Secret::new("hush")),
        ..Config::default()
    };
    config.about.usage = || Usage {
        rss: 12_345,
        fds: 6,
        log_lines_dropped: 0,
    };
    config
}

/// A client of few words: it takes every stream, and does what its test has it do.
pub(super) struct Laptop {
    pub conn: ConnKey,
    pub mux: Session<u32>,
    /// The streams that were opened, oldest first.
    pub streams: Vec<StreamKey>,
    /// What the kit said of each when it opened it.
    pub opens: Vec<String>,
    /// What it was told that the kit has connected to.
    pub connected: Vec<String>,
    /// RESETs, by what its test hung on the stream.
    pub resets: Vec<(u32, Code, String)>,
    /// DATA of all streams, which it takes at once.
    pub got: Vec<u8>,
    /// Datagrams that came, by the number of their stream.
    pub datagrams: Vec<(usize, Vec<u8>)>,
    /// What else the kit told, in JSON.
    pub told: Vec<(FrameType, String)>,
    /// Whether its streams keep to their shares of the session's credit, as older ones do not.
    pub shares: bool,
}

impl Host {
    /// A laptop with a session and one EXPOSE binding, which is the last of `bound`.
    pub(super) fn laptop(&mut self, peer: &str) -> Laptop {
        let mut laptop = self.greet(peer, r#"{"version":"hoody-tunnel.v1"}"#);
        let bind = br#"{"clientBindRef":1,"kind":"http","mode":"expose","containerPort":0}"#;
        laptop.mux.lanes_mut().push_control(FrameType::Bind, bind);
        self.exchange(&mut laptop);
        laptop
    }

    /// A WebSocket that has said nothing yet.
    pub(super) fn upgraded(&mut self, peer: &str) -> ConnKey {
        let conn = self.visit(peer).expect("accepted");
        self.send(conn, UPGRADE);
        assert!(self.receive(conn).starts_with("HTTP/1.1 101 "));
        conn
    }

    /// A laptop that says so much in its HELLO, and nothing more.
    pub(super) fn greet(&mut self, peer: &str, hello: &str) -> Laptop {
        let conn = self.upgraded(peer);
        let terms = Terms {
            side: Side::Client,
            stream_window: self.kit.cx.plan.stream_window,
            session_window: self.kit.cx.plan.session_window,
            max_streams: 4096,
            grow_windows: false,
            header_case: false,
            udp: hello.contains("udp"),
            trailers: false,
            forward: hello.contains("forward"),
            head_parts: 0,
            queue_opens: crate::limits::LANE_QUEUE_OPENS,
            replay: hello.contains("replay").then_some(Retention {
                keeps: 1 << 20,
                most: 1 << 20,
                peer_keeps: 1 << 20,
                lanes: 1,
            }),
        };
        let mut mux = Session::new(terms, self.now);
        mux.attach(0, Transport::client(conn, Entropy::from_seed(2), self.now));
        mux.lanes_mut()
            .push_control(FrameType::Hello, hello.as_bytes());
        let mut laptop = Laptop {
            conn,
            mux,
            streams: Vec::new(),
            opens: Vec::new(),
            connected: Vec::new(),
            resets: Vec::new(),
            got: Vec::new(),
            datagrams: Vec::new(),
            told: Vec::new(),
            shares: true,
        };
        self.exchange(&mut laptop);
        laptop
    }

    /// Carries bytes between a laptop and the kit until both are silent.
    pub(super) fn exchange(&mut self, laptop: &mut Laptop) {
        loop {
            let bytes = laptop.mux.transmit(0).to_vec();
            laptop.mux.transmitted(0, bytes.len());
            self.send(laptop.conn, &bytes);
            let answer = self.take(laptop.conn, usize::MAX);
            if bytes.is_empty() && answer.is_empty() {
                return;
            }
            laptop.read(&answer, self.now);
        }
    }

    /// Lets time pass for a laptop that answers its kit.
    pub(super) fn pass_with(&mut self, laptop: &mut Laptop, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            let step = until.since(self.now).min(Duration::from_secs(5));
            self.pass(step);
            self.exchange(laptop);
        }
    }

    /// Has the laptop answer its stream number `at` with a body of `length` bytes.
    pub(super) fn answer(&mut self, laptop: &mut Laptop, at: usize, length: usize) {
        let stream = laptop.streams[at];
        laptop.head(at, length, self.now);
        let mut left = length;
        while left > 0 {
            let bytes = vec![b'x'; left];
            let sent = match laptop.shares {
                true => laptop.mux.send(stream, &bytes, self.now),
                false => laptop.mux.send_greedily(stream, &bytes, self.now),
            };
            assert!(sent > 0, "there is no credit");
            left -= sent;
            self.exchange(laptop);
        }
        laptop.mux.send_eof(stream, self.now);
        self.exchange(laptop);
    }
}

impl Laptop {
    /// Streams that the kit has ended, with the code.
    pub(super) fn ended(&self) -> Vec<(u32, Code)> {
        let resets = self.resets.iter();
        resets.map(|(tag, code, _)| (*tag, *code)).collect()
    }

    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) {
        // Some may have come behind the answer to its HELLO.
        self.look(now);
        while !bytes.is_empty() {
            let lane = self.mux.lanes_mut().get_mut(0).expect("its lane");
            let space = lane.read_space();
            let count = bytes.len().min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            lane.received(count, now);
            bytes = &bytes[count..];
            self.look(now);
        }
    }

    fn look(&mut self, now: Instant) {
        while let Some(incoming) = self.mux.poll(0, now).expect("a kit that keeps the rules") {
            let json = |span: &_| {
                let payload = self.mux.payload(0, span).to_vec();
                String::from_utf8(payload).expect("JSON")
            };
            match incoming {
                Incoming::Opened { id, payload, .. } => {
                    self.opens.push(json(&payload));
                    self.streams.extend(self.mux.accept(0, id, id, now));
                }
                Incoming::Datagram { tag, payload } => {
                    let datagram = self.mux.payload(0, &payload).to_vec();
                    self.datagrams.push((tag as usize / 2 - 1, datagram));
                }
                Incoming::Control { kind, payload } => {
                    self.told.push((kind, json(&payload)));
                }
                Incoming::Connected { payload, .. } => self.connected.push(json(&payload)),
                Incoming::Reset {
                    tag, code, reason, ..
                } => self.resets.push((tag, code, reason)),
                Incoming::Data { payload, .. } => {
                    self.got.extend_from_slice(self.mux.payload(0, &payload));
                }
                _ => {}
            }
        }
    }

    /// Begins the answer to stream number `at`: a `200` with so many bytes.
    pub(super) fn head(&mut self, at: usize, length: usize, now: Instant) {
        let fields = format!(r#"[["content-length","{length}"]]"#);
        let head = format!(r#"{{"status":200,"headers":{fields},"final":true}}"#);
        self.mux.send_head(self.streams[at], head.as_bytes(), now);
    }
}

fn udp_addr(at: &SocketAt) -> SocketAddr {
    let SocketAt::Bound(addr) = at else {
        panic!("a kit's sockets are for whoever comes");
    };
    *addr
}

/// An upgrade with the token.
pub(super) const UPGRADE: &[u8] = b"GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: a\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: hoody-tunnel.v1\r\n\
    Authorization: Bearer hush\r\n\r\n";
