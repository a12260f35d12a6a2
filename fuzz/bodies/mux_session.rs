//! A whole kit with a session, two bindings, visitors and callers, and hostile bytes on every one of
//! its connections, in virtual time. The kit checks its invariants after every entry; in the end it is
//! shut down, and nothing may be left.
//!
//! An input is a list of steps: an octet that says what is done, two for a length, and as many octets.
//! One that begins with an octet above 239 is a session with replay (PROTOCOL §9), whose client lies
//! about what it has taken, its epoch and its attempts, in resumes, JOINs and ACKs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hoody_tunnel::clock::Instant;
use hoody_tunnel::entropy::Entropy;
use hoody_tunnel::kit::Kit;
use hoody_tunnel::kit::config::Config;
use hoody_tunnel::machine::{Command, ConnKey, Ended, Event, ListenerKey, Machine};
use hoody_tunnel::ws::{OpCode, Role, push_frame};

const HELLO: &[u8] = br#"{"version":"hoody-tunnel.v2","capabilities":["multi-ws","grow-windows",
    "trailers","long-heads"],"maxConnections":3}"#;
const HELLO_REPLAY: &[u8] = br#"{"version":"hoody-tunnel.v2","capabilities":["multi-ws",
    "grow-windows","replay","trailers","long-heads"],"maxConnections":3,"replayBuffer":1048576,"pingEveryMs":2000}"#;
/// Octets from here on are steps of a client that lies.
const LIES: u8 = 240;
const BIND_EXPOSE: &[u8] =
    br#"{"clientBindRef":1,"kind":"http","mode":"expose","containerPort":3000}"#;
const BIND_PULL: &[u8] = br#"{"clientBindRef":2,"kind":"tcp","mode":"pull","containerPort":5432}"#;
const UPGRADE: &[u8] = b"GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: localhost\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: hoody-tunnel.v2\r\n\r\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    let replays = data.first().is_some_and(|first| *first >= LIES);
    let mut world = World::new(replays);
    let mut lane = match replays {
        true => world.session_that_says(HELLO_REPLAY),
        false => world.session(),
    };
    let mut guest = None;
    let mut rest = data;
    for _ in 0..MAX_STEPS {
        let [what, high, low, after @ ..] = rest else {
            break;
        };
        let wanted = usize::from(u16::from_be_bytes([*high, *low]));
        let (bytes, after) = after.split_at(wanted.min(after.len()));
        rest = after;
        if *what >= LIES {
            if let Some(again) = world.lie(lane, *what, bytes) {
                lane = again;
            }
            continue;
        }
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
    /// The id of the session that the kit told of last.
    session_id: Option<String>,
}

impl World {
    fn new(replays: bool) -> World {
        let config = Config {
            listen: ([127, 0, 0, 1], 50).into(),
            no_auth: true,
            max_sessions: 3,
            fd_budget: 64,
            // So little that streams have to share it, or enough to keep something.
            memory: match replays {
                true => hoody_tunnel::limits::DEFAULT_MEMORY,
                false => hoody_tunnel::limits::MIN_MEMORY,
            },
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
            session_id: None,
        };
        world.settle();
        world
    }

    /// A client that says what a client says first.
    fn session(&mut self) -> ConnKey {
        self.session_that_says(HELLO)
    }

    fn session_that_says(&mut self, hello: &[u8]) -> ConnKey {
        let Some(lane) = self.arrive(50, UPGRADE) else {
            return ConnKey::unpack(0);
        };
        self.message(lane, &frame(0x01, hello));
        self.message(
            lane,
            &[frame(0x03, BIND_EXPOSE), frame(0x03, BIND_PULL)].concat(),
        );
        lane
    }

    /// Some count, epoch or attempt that may be true or not. Gives the connection of a resume.
    fn lie(&mut self, lane: ConnKey, what: u8, bytes: &[u8]) -> Option<ConnKey> {
        let number = |at: usize| u64::from(bytes.get(at).copied().unwrap_or(0));
        let count = match bytes.first_chunk::<8>() {
            Some(octets) => u64::from_be_bytes(*octets),
            None => number(0),
        };
        let id = self.session_id.clone().unwrap_or_default();
        let resume = |words: String| {
            let hello = String::from_utf8_lossy(HELLO_REPLAY);
            let hello = hello.trim_end_matches('}');
            format!(r#"{hello},"resume":{{"sessionId":"{id}"{words}}}}}"#)
        };
        match what % 4 {
            0 => self.message(lane, &frame(0x41, &count.to_be_bytes())),
            1 => {
                let (epoch, attempt) = (number(1), number(2));
                let words = format!(r#","epoch":{epoch},"attempt":{attempt},"received":{count}"#);
                return Some(self.session_that_says(resume(words).as_bytes()));
            }
            2 => {
                let words = format!(r#","epoch":{count},"attempt":{count}"#);
                return Some(self.session_that_says(resume(words).as_bytes()));
            }
            _ => {
                let nonce = String::from_utf8_lossy(bytes.get(3..).unwrap_or_default());
                let nonce: String = nonce.chars().filter(char::is_ascii_alphanumeric).collect();
                let join = format!(
                    r#"{{"sessionId":"{id}","index":{},"nonce":"{nonce}","received":{count}}}"#,
                    number(1) % 4
                );
                let other = self.arrive(50, UPGRADE)?;
                self.message(other, &frame(0x09, join.as_bytes()));
            }
        }
        None
    }

    /// Looks for the id of a session in what the kit sends.
    fn look(&mut self, conn: ConnKey) {
        const KEY: &[u8] = b"\"sessionId\":\"";
        let bytes = self.kit.transmit(conn, self.now);
        if let Some(at) = bytes.windows(KEY.len()).position(|some| some == KEY) {
            let id = bytes[at + KEY.len()..].split(|octet| *octet == b'"').next();
            let id = id.map(|id| String::from_utf8_lossy(id).into_owned());
            self.session_id = id.or(self.session_id.take());
        }
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
            self.look(conn);
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
