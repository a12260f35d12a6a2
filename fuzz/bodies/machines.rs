//! Hostile bytes into the whole machines, from the very first one: HTTP front, WebSocket, frames,
//! visitors, callers, and time. The first octet picks who is under attack: a kit by whoever connects,
//! a kit by a client that has proven itself, or a client by its kit.
//!
//! The rest is a script: an operation, a connection, a length, and that many octets. Whatever it
//! says, the machine does not panic, keeps its invariants and the laws of the seam, and has nothing
//! left once everybody is gone and time has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use hoody_tunnel::client::Spec;
use hoody_tunnel::client::{BindOptions, Client, Order, Proxy, TunnelOptions};
use hoody_tunnel::clock::Instant;
use hoody_tunnel::entropy::Entropy;
use hoody_tunnel::kit::Kit;
use hoody_tunnel::kit::config::Config;
use hoody_tunnel::lawful::Lawful;
use hoody_tunnel::machine::{
    Command, ConnKey, Ended, Event, Found, IoFailure, ListenerKey, Machine, SocketAt, SocketKey,
};
use hoody_tunnel::ws::{OpCode, Role, accept_key, push_frame};

fn found(conn: ConnKey, addr: SocketAddr) -> Event {
    let found = vec![Found {
        addr,
        is_local: addr.ip().is_loopback(),
    }];
    Event::Resolved { conn, found }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((pick, script)) = data.split_first() else {
        return;
    };
    match pick % 3 {
        0 => attack_kit(script, false),
        1 => attack_kit(script, true),
        _ => attack_client(script),
    }
}

/// A host of the simplest kind: what is sent to it is kept only as long as it is looked at.
struct Mini<M: Machine> {
    machine: Lawful<M>,
    conns: Vec<ConnKey>,
    /// What reading would bring, while the machine has no room.
    inbox: BTreeMap<ConnKey, Vec<u8>>,
    listeners: Vec<(ListenerKey, SocketAddr)>,
    asked: Vec<(ListenerKey, SocketAddr)>,
    dialled: Vec<ConnKey>,
    sought: Vec<(ConnKey, String, u16)>,
    /// Sockets of datagrams, and those that are to be told how they were opened.
    sockets: Vec<SocketKey>,
    opening: Vec<(SocketKey, SocketAddr)>,
    woken: Vec<ConnKey>,
    /// These may be read once nobody waits to be flushed (law 7).
    readable: Vec<ConnKey>,
    /// The machine was told of a FIN, or that one lies behind what it does not read.
    ended: BTreeSet<ConnKey>,
    /// The last octets that were transmitted.
    last: Vec<u8>,
    /// Bytes that sockets take until more are allowed.
    room: usize,
    now: Instant,
    stopped: bool,
}

impl<M: Machine> Mini<M> {
    fn new(machine: M) -> Mini<M> {
        let mut mini = Mini {
            machine: Lawful::new(machine, Instant::ZERO),
            conns: Vec::new(),
            inbox: BTreeMap::new(),
            listeners: Vec::new(),
            asked: Vec::new(),
            dialled: Vec::new(),
            sought: Vec::new(),
            sockets: Vec::new(),
            opening: Vec::new(),
            woken: Vec::new(),
            readable: Vec::new(),
            ended: BTreeSet::new(),
            last: Vec::new(),
            room: usize::MAX,
            now: Instant::from_nanos(1),
            stopped: false,
        };
        mini.settle();
        mini
    }

    /// Obeys until silent, then flushes, again and again.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            while let Some(command) = self.machine.poll_command() {
                self.obey(command);
            }
            if let Some((listener, addr)) = self.asked.pop() {
                let outcome = match addr.port() % 7 {
                    3 => Err(IoFailure {
                        kind: std::io::ErrorKind::AddrInUse,
                        text: "in use".into(),
                    }),
                    _ => {
                        let port = if addr.port() == 0 {
                            40_000
                        } else {
                            addr.port()
                        };
                        let addr = SocketAddr::new(addr.ip(), port);
                        self.listeners.push((listener, addr));
                        Ok(addr)
                    }
                };
                let event = Event::Listening { listener, outcome };
                self.machine.handle(event, self.now);
                continue;
            }
            if let Some((conn, host, port)) = self.sought.pop() {
                // Names of an odd length are those of nobody.
                let event = match host.parse() {
                    Ok(ip) => found(conn, SocketAddr::new(ip, port)),
                    Err(_) if host.len() % 2 == 0 => found(conn, ([127, 0, 0, 1], port).into()),
                    Err(_) => {
                        self.forget(conn);
                        let how = Ended::Failed(IoFailure {
                            kind: std::io::ErrorKind::NotFound,
                            text: "no such name".into(),
                        });
                        Event::Ended { conn, how }
                    }
                };
                self.machine.handle(event, self.now);
                continue;
            }
            if let Some((socket, addr)) = self.opening.pop() {
                self.socket_opened(socket, addr);
                continue;
            }
            match (self.woken.pop(), self.readable.pop()) {
                (Some(conn), reads) => {
                    self.readable.extend(reads);
                    self.flush(conn);
                }
                (None, Some(conn)) => self.read(conn),
                (None, None) => return,
            }
        }
        panic!("it never settles");
    }

    /// One in five cannot be had.
    fn socket_opened(&mut self, socket: SocketKey, addr: SocketAddr) {
        let outcome = match self.sockets.len() % 5 {
            4 => Err(IoFailure {
                kind: std::io::ErrorKind::AddrInUse,
                text: "in use".into(),
            }),
            _ => {
                self.sockets.push(socket);
                Ok(addr)
            }
        };
        let event = Event::Socket { socket, outcome };
        self.machine.handle(event, self.now);
    }

    /// A datagram comes from one of many, or the system did not take one.
    fn datagram(&mut self, which: u8, bytes: &[u8]) {
        let at = usize::from(which) % self.sockets.len().max(1);
        if let Some(socket) = self.sockets.get(at).copied() {
            let peer = SocketAddr::from(([10, 0, 0, which % 16], 9));
            match which {
                255 => self.machine.handle(Event::Unsent { socket }, self.now),
                _ => self.machine.datagram(socket, peer, bytes, self.now),
            }
            self.settle();
        }
    }

    fn obey(&mut self, command: Command<M::Notice>) {
        match command {
            Command::Listen { listener, addr } => self.asked.push((listener, addr)),
            Command::Unlisten { listener } => {
                self.listeners.retain(|(key, _)| *key != listener);
                self.asked.retain(|(key, _)| *key != listener);
            }
            Command::Resolve { conn, host, port } => self.sought.push((conn, host, port)),
            Command::Dial { conn, .. } => self.dialled.push(conn),
            Command::OpenSocket { socket, at } => {
                let addr = match at {
                    SocketAt::Bound(addr) if addr.port() != 0 => addr,
                    _ => SocketAddr::from(([10, 0, 0, 1], 40_000)),
                };
                self.opening.push((socket, addr));
            }
            Command::Send { .. } => {}
            Command::CloseSocket { socket } => {
                self.sockets.retain(|key| *key != socket);
                self.opening.retain(|(key, _)| *key != socket);
            }
            Command::Introduce { .. } => {}
            Command::ResetIfKilled { .. } => {}
            Command::Probe { conn } => self.woken.push(conn),
            Command::Wake { conn } | Command::WakeLast { conn } => self.woken.push(conn),
            Command::Close { conn, .. } => self.forget(conn),
            Command::Stop => self.stopped = true,
            Command::Accept { .. }
            | Command::StartTls { .. }
            | Command::Finish { .. }
            | Command::Notify(_) => {}
        }
    }

    fn forget(&mut self, conn: ConnKey) {
        self.conns.retain(|key| *key != conn);
        self.dialled.retain(|key| *key != conn);
        self.sought.retain(|(key, ..)| *key != conn);
        self.inbox.remove(&conn);
        self.ended.remove(&conn);
    }

    fn flush(&mut self, conn: ConnKey) {
        if self.conns.contains(&conn) {
            let bytes = self.machine.transmit(conn, self.now);
            let count = bytes.len().min(self.room);
            if count > 0 {
                self.last.clear();
                self.last.extend_from_slice(&bytes[..count.min(2048)]);
                self.room -= count;
                self.machine.transmitted(conn, count, self.now);
                self.woken.push(conn);
                return;
            }
        }
        self.readable.push(conn);
    }

    /// Gives the machine what waits for it, as far as it has room.
    fn read(&mut self, conn: ConnKey) {
        let Some(inbox) = self.inbox.get_mut(&conn).filter(|inbox| !inbox.is_empty()) else {
            return;
        };
        let space = self.machine.read_space(conn);
        let count = space.len().min(inbox.len());
        if count == 0 {
            return;
        }
        space[..count].copy_from_slice(&inbox[..count]);
        inbox.drain(..count);
        self.machine.received(conn, count, self.now);
        self.readable.push(conn);
    }

    fn feed(&mut self, conn: ConnKey, bytes: &[u8]) {
        if self.conns.contains(&conn) && !self.ended.contains(&conn) {
            let inbox = self.inbox.entry(conn).or_default();
            if inbox.len() < 1 << 20 {
                inbox.extend_from_slice(bytes);
            }
            self.readable.push(conn);
            self.settle();
        }
    }

    fn fin(&mut self, conn: ConnKey) {
        let waits = self.inbox.get(&conn).is_some_and(|inbox| !inbox.is_empty());
        let may_end = self.conns.contains(&conn) && !self.ended.contains(&conn) && !waits;
        if may_end && !self.machine.read_space(conn).is_empty() {
            self.ended.insert(conn);
            self.machine.received(conn, 0, self.now);
        }
        self.settle();
    }

    fn end(&mut self, conn: ConnKey) {
        self.forget(conn);
        let how = Ended::Reset;
        self.machine.handle(Event::Ended { conn, how }, self.now);
        self.settle();
    }

    fn accept(&mut self, pick: usize) -> Option<ConnKey> {
        let (listener, _) = *self.listeners.get(pick % self.listeners.len().max(1))?;
        let peer = SocketAddr::from(([10, 0, 0, 9], 999));
        let conn = self.machine.accepted(listener, peer, self.now);
        self.conns.extend(conn);
        self.settle();
        conn
    }

    fn connect(&mut self, conn: ConnKey) {
        self.dialled.retain(|key| *key != conn);
        self.conns.push(conn);
        let peer = SocketAddr::from(([10, 0, 0, 1], 50));
        self.machine
            .handle(Event::Connected { conn, peer }, self.now);
        self.settle();
    }

    fn pass_time(&mut self, span: Duration) {
        self.now = self.now + span;
        for _ in 0..10_000 {
            if self.machine.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            self.machine.handle(Event::Timeout, self.now);
            self.settle();
        }
        panic!("a deadline that never passes");
    }

    fn pick(&self, number: u8) -> Option<ConnKey> {
        self.conns
            .get(usize::from(number) % self.conns.len().max(1))
            .copied()
    }

    /// What any script may do to any machine. False when the operation is not one of these.
    fn common(&mut self, operation: u8, which: u8, bytes: &[u8]) -> bool {
        let conn = self.pick(which);
        match (operation, conn) {
            (0, Some(conn)) => self.feed(conn, bytes),
            (1, Some(conn)) => self.fin(conn),
            (2, Some(conn)) => self.end(conn),
            (3, _) if which <= 200 => self.pass_time(Duration::from_millis(u64::from(which) * 100)),
            (4, _) => {
                self.room = usize::from(which) * 512;
                self.woken.extend(&self.conns);
                self.settle();
            }
            (5, _) => {
                self.room = usize::MAX;
                self.woken.extend(&self.conns);
                self.settle();
            }
            (1 | 2, None) => self.datagram(which, bytes),
            (3, _) if which > 200 => self.datagram(which, bytes),
            (6, _) if which == 7 => self.machine.handle(Event::Shutdown, self.now),
            (6, Some(conn)) if which > 127 => {
                let reads = !self.ended.insert(conn) || !self.machine.read_space(conn).is_empty();
                if !reads {
                    self.machine.handle(Event::PeerFinished { conn }, self.now);
                }
            }
            (6, _) => self.machine.handle(Event::Disturbed, self.now),
            _ => return false,
        }
        self.settle();
        true
    }

    /// Everybody leaves, and time passes.
    fn drain(&mut self) {
        self.room = usize::MAX;
        for conn in self.conns.clone() {
            self.end(conn);
        }
        for conn in self.dialled.clone() {
            self.end(conn);
        }
    }
}

/// Operation, connection, payload.
fn operations(script: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    let mut rest = script;
    let mut left = 400;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<3>()?;
        left = i32::checked_sub(left, 1).filter(|left| *left > 0)?;
        let (payload, tail) = tail.split_at(usize::from(head[2]).min(tail.len()));
        rest = tail;
        Some((head[0], head[1], payload))
    })
}

/// A WebSocket message of one frame, whose length is right; its type and stream are the script's.
fn framed(role: Role, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mask = (role == Role::Client).then_some([1, 2, 3, 4]);
    let Some(([kind, id], payload)) = bytes.split_first_chunk::<2>() else {
        push_frame(&mut out, role, OpCode::Ping, bytes, mask);
        return out;
    };
    // A payload may stand for a long one.
    let payload = match payload {
        [0xFF, octet, ..] => vec![*octet; 65_536],
        payload => payload.to_vec(),
    };
    let mut frame = vec![*kind, 0, 0, 0, *id];
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(&payload);
    push_frame(&mut out, role, OpCode::Binary, &frame, mask);
    out
}

/// Any frame as the client would send it, JSON for JSON where the script wants it.
const GREETING: &[u8] = b"GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: 10.0.0.1:50\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: hoody-tunnel.v2\r\n\r\n";
const HELLO: &[u8] = b"{\"version\":\"hoody-tunnel.v2\",\"maxConnections\":3,\
    \"capabilities\":[\"multi-ws\",\"grow-windows\",\"udp\"]}";
const BINDS: [&[u8]; 3] = [
    b"{\"clientBindRef\":1,\"kind\":\"http\",\"mode\":\"expose\",\"containerPort\":3000}",
    b"{\"clientBindRef\":2,\"kind\":\"tcp\",\"mode\":\"pull\",\"containerPort\":5001}",
    b"{\"clientBindRef\":3,\"kind\":\"udp\",\"mode\":\"expose\",\"containerPort\":5001}",
];

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    framed(Role::Client, &[&[kind, 0], payload].concat())
}

fn attack_kit(script: &[u8], greets: bool) {
    let config = Config {
        listen: ([10, 0, 0, 1], 50).into(),
        no_auth: true,
        stream_initial_window: 256 * 1024,
        session_initial_window: 512 * 1024,
        max_streams_per_session: 8,
        allow_udp_expose: true,
        takeover_grace: Duration::from_secs(20),
        idle_timeout: Duration::from_secs(60),
        ..Config::default()
    };
    let entropy = Entropy::from_seed(1);
    let mut mini = Mini::new(Kit::new(config, entropy, Instant::ZERO));
    if greets && let Some(conn) = mini.accept(0) {
        mini.feed(conn, GREETING);
        mini.feed(conn, &message(0x01, HELLO));
        for bind in BINDS {
            mini.feed(conn, &message(0x03, bind));
        }
    }
    for (operation, which, bytes) in operations(script) {
        if mini.stopped {
            break;
        }
        if mini.common(operation % 10, which, bytes) {
            continue;
        }
        match operation % 10 {
            7 => drop(mini.accept(usize::from(which))),
            8 => {
                if let Some(conn) = mini.pick(which) {
                    mini.feed(conn, &framed(Role::Client, bytes));
                }
            }
            _ => {
                if let Some(conn) = mini.accept(usize::from(which)) {
                    let early = match which % 2 {
                        0 => b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
                        _ => GREETING,
                    };
                    mini.feed(conn, early);
                }
            }
        }
    }
    mini.drain();
    for _ in 0..60 {
        mini.pass_time(Duration::from_secs(10));
    }
    let [sessions, streams, conns, _] = mini.machine.leftovers();
    assert_eq!(
        [sessions, streams, conns],
        [0; 3],
        "something outlives everybody"
    );
}

fn attack_client(script: &[u8]) {
    let options = TunnelOptions::new("ws://10.0.0.1:50")
        .token("t")
        .connections(2)
        .proxy(Proxy::None);
    let entropy = Entropy::from_seed(2);
    let Ok(client) = Client::new(&options, entropy, Instant::ZERO) else {
        return;
    };
    let mut mini = Mini::new(client);
    let binds = [
        BindOptions::expose(3000),
        BindOptions::pull(5001),
        BindOptions::expose_udp(5001),
    ];
    for (reference, bind) in (1..).zip(binds) {
        if let Ok(spec) = Spec::new(bind) {
            let spec = Box::new(spec);
            mini.machine
                .order(Order::Bind { reference, spec }, mini.now);
            mini.settle();
        }
    }
    mini.pass_time(Duration::from_millis(1));
    for (operation, which, bytes) in operations(script) {
        if mini.stopped {
            break;
        }
        if mini.common(operation % 11, which, bytes) {
            continue;
        }
        match operation % 11 {
            7 => {
                if let Some(conn) = mini.dialled.first().copied() {
                    mini.connect(conn);
                }
            }
            8 => {
                if let Some(conn) = mini.pick(which) {
                    mini.feed(conn, &framed(Role::Server, bytes));
                }
            }
            // The answer to the upgrade that was transmitted last.
            9 => {
                if let (Some(conn), Some(answer)) = (mini.pick(which), upgrade(&mini.last)) {
                    mini.feed(conn, answer.as_bytes());
                }
            }
            _ => {
                let at_once = which == 3;
                mini.machine.order(Order::Close { at_once }, mini.now);
                mini.settle();
            }
        }
    }
    mini.machine.order(Order::Close { at_once: true }, mini.now);
    mini.settle();
    mini.drain();
    mini.pass_time(Duration::from_secs(60));
    assert!(mini.stopped, "a client that was closed did not stop");
}

fn upgrade(request: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(request).ok()?;
    let (_, rest) = text
        .split_once("ebSocket-Key: ")
        .or_else(|| text.split_once("ebsocket-key: "))?;
    let (key, _) = rest.split_once("\r\n")?;
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: hoody-tunnel.v2\r\n\r\n",
        accept_key(key)
    ))
}
