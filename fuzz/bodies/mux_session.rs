//! A whole kit with a session, two bindings, visitors and callers, and hostile bytes on every one of
//! its connections, in virtual time. The kit checks its invariants after every entry; in the end it is
//! shut down, and nothing may be left.
//!
//! An input is a list of steps: an octet that says what is done, two for a length, and as many octets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hoody_tunnel::clock::Instant;
use hoody_tunnel::entropy::Entropy;
use hoody_tunnel::kit::Kit;
use hoody_tunnel::kit::config::Config;
use hoody_tunnel::machine::{Command, ConnKey, Ended, Event, ListenerKey, Machine};
use hoody_tunnel::ws::{OpCode, Role, push_frame};

const HELLO: &[u8] = br#"{"version":"hoody-tunnel.v2","capabilities":["multi-ws","grow-windows"],
    "maxConnections":3}"#;
const BIND_EXPOSE: &[u8] =
    br#"{"clientBindRef":1,"kind":"http","mode":"expose","containerPort":3000}"#;
const BIND_PULL: &[u8] = br#"{"clientBindRef":2,"kind":"tcp","mode":"pull","containerPort":5432}"#;
const UPGRADE: &[u8] = b"GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: localhost\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: hoody-tunnel.v2\r\n\r\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut world = World::new();
    let mut lane = world.session();
    let mut guest = None;
    let mut rest = data;
    for _ in 0..MAX_STEPS {
        let [what, high, low, after @ ..] = rest else {
            break;
        };
        let wanted = usize::from(u16::from_be_bytes([*high, *low]));
        let (bytes, after) = after.split_at(wanted.min(after.len()));
        rest = after;
        match what % 12 {
            0 => world.send(lane, bytes),
            1 => world.message(lane, bytes),
            2 => guest = world.arrive(3000, bytes),
            3 => guest = world.arrive(5432, bytes),
            4 => guest = world.arrive(50, bytes),
            5 => world.send_if(guest, bytes),
            6 => world.fin(guest),
            7 => world.reset(guest.take()),
            8 => world.pass(Duration::from_millis(wanted as u64 * 8)),
            9 => world.reset(Some(lane)),
            10 => lane = world.session(),
            _ => world.full = !world.full,
        }
    }
    world.end();
}

/// The host: it carries bytes to the kit and throws away what the kit sends.
struct World {
    kit: Kit,
    now: Instant,
    listeners: Vec<(ListenerKey, SocketAddr)>,
    alive: Vec<ConnKey>,
    /// No socket takes anything.
    full: bool,
    stopped: bool,
}

impl World {
    fn new() -> World {
        let config = Config {
            listen: ([127, 0, 0, 1], 50).into(),
            no_auth: true,
            max_sessions: 3,
            fd_budget: 64,
            // So little that streams have to share it.
            memory: hoody_tunnel::limits::MIN_MEMORY,
            ..Config::default()
        };
        let kit = Kit::new(config, Entropy::from_seed(1), Instant::ZERO);
        let mut world = World {
            kit,
            now: Instant::ZERO,
            listeners: Vec::new(),
            alive: Vec::new(),
            full: false,
            stopped: false,
        };
        world.settle();
        world
    }

    /// A client that says what a client says first.
    fn session(&mut self) -> ConnKey {
        let Some(lane) = self.arrive(50, UPGRADE) else {
            return ConnKey::unpack(0);
        };
        self.message(lane, &frame(0x01, HELLO));
        self.message(
            lane,
            &[frame(0x03, BIND_EXPOSE), frame(0x03, BIND_PULL)].concat(),
        );
        lane
    }

    fn arrive(&mut self, port: u16, bytes: &[u8]) -> Option<ConnKey> {
        let (listener, _) = *self
            .listeners
            .iter()
            .find(|(_, addr)| addr.port() == port)?;
        let peer = ([127, 0, 0, 1], 40_000).into();
        let conn = self.kit.accepted(listener, peer, self.now);
        self.alive.extend(conn);
        self.settle();
        self.send_if(conn, bytes);
        conn
    }

    fn message(&mut self, lane: ConnKey, bytes: &[u8]) {
        let mut wire = Vec::new();
        push_frame(
            &mut wire,
            Role::Client,
            OpCode::Binary,
            bytes,
            Some([7, 0, 9, 1]),
        );
        self.send(lane, &wire);
    }

    fn send_if(&mut self, conn: Option<ConnKey>, bytes: &[u8]) {
        if let Some(conn) = conn {
            self.send(conn, bytes);
        }
    }

    /// Bytes that come while the kit has no space for them are never read.
    fn send(&mut self, conn: ConnKey, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.alive.contains(&conn) {
            let space = self.kit.read_space(conn);
            let count = space.len().min(bytes.len());
            if count == 0 {
                return;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            self.kit.received(conn, count, self.now);
            self.settle();
            bytes = &bytes[count..];
        }
    }

    fn fin(&mut self, conn: Option<ConnKey>) {
        if let Some(conn) = conn.filter(|conn| self.alive.contains(conn))
            && !self.kit.read_space(conn).is_empty()
        {
            self.kit.received(conn, 0, self.now);
            self.settle();
        }
    }

    fn reset(&mut self, conn: Option<ConnKey>) {
        if let Some(at) = self.alive.iter().position(|alive| Some(*alive) == conn) {
            let conn = self.alive.remove(at);
            self.kit.handle(
                Event::Ended {
                    conn,
                    how: Ended::Reset,
                },
                self.now,
            );
            self.settle();
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        for _ in 0..MAX_STEPS {
            match self.kit.poll_timeout() {
                Some(at) if at <= self.now => self.kit.handle(Event::Timeout, self.now),
                _ => return,
            }
            self.settle();
        }
        panic!("timeouts never end");
    }

    /// Obeys until the kit is silent; whoever was woken is flushed.
    fn settle(&mut self) {
        let mut woken = VecDeque::new();
        loop {
            while let Some(command) = self.kit.poll_command() {
                match command {
                    Command::Listen { listener, addr } => {
                        self.listeners.push((listener, addr));
                        let outcome = Ok(addr);
                        self.kit
                            .handle(Event::Listening { listener, outcome }, self.now);
                    }
                    Command::Unlisten { listener } => {
                        self.listeners.retain(|(known, _)| *known != listener);
                    }
                    Command::Wake { conn } | Command::WakeLast { conn } => woken.push_back(conn),
                    Command::Close { conn, .. } => self.alive.retain(|alive| *alive != conn),
                    Command::Stop => self.stopped = true,
                    _ => {}
                }
            }
            let Some(conn) = woken.pop_front() else {
                return;
            };
            if self.full || !self.alive.contains(&conn) {
                continue;
            }
            let count = self.kit.transmit(conn, self.now).len();
            if count > 0 {
                self.kit.transmitted(conn, count, self.now);
                woken.push_back(conn);
            }
        }
    }

    fn end(mut self) {
        // The first drains, the second ends all sessions, the third does not wait for last words.
        for _ in 0..3 {
            if !self.stopped {
                self.kit.handle(Event::Shutdown, self.now);
                self.settle();
            }
        }
        assert!(self.stopped, "three shutdowns end the kit");
        let [sessions, streams, conns, _] = self.kit.leftovers();
        assert_eq!((sessions, streams, conns), (0, 0, 0), "something is left");
        assert!(self.alive.is_empty(), "a connection was forgotten");
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 0, 0, 0];
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Steps of one input, and timeouts at one moment, at most.
const MAX_STEPS: usize = 4096;
