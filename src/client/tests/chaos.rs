//! Everything at once, from a seed: streams of every kind, local servers that break, lanes that are
//! lost, time that passes. What arrives must be what was sent, in order, from the beginning.
//!
//! `HOODY_SEED=n` replays one seed, `HOODY_ROUNDS=n` runs that many.

use std::collections::BTreeMap;

use super::*;
use crate::client::SessionEvent;
use crate::client::reach::retry;
use crate::entropy::Entropy;
use crate::machine::{ConnKey, Ended};

struct Chaos {
    world: World,
    kit: FakeKit,
    dice: Entropy,
    /// Local connections that stand, with what was taken from them and what was written to them.
    locals: BTreeMap<ConnKey, Local>,
    /// Streams that may still be used, with how much was sent on them.
    open: BTreeMap<usize, usize>,
    next_mark: u32,
    session: u32,
    /// Bytes of each stream that were checked.
    known: Vec<usize>,
}

#[derive(Default)]
struct Local {
    taken: Vec<u8>,
    mark: u32,
    written: usize,
    raw: bool,
    done: bool,
}

/// Byte `at` of the endless text that belongs to `mark`; the first four say which one it is.
fn octet(mark: u32, at: usize) -> u8 {
    match mark.to_be_bytes().get(at) {
        Some(octet) => *octet,
        None => (at as u32)
            .wrapping_mul(mark | 1)
            .wrapping_mul(2_654_435_761)
            .to_be_bytes()[0],
    }
}

fn text(mark: u32, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| octet(mark, at)).collect()
}

/// Panics unless `bytes` begin some mark's text; the first `known` of them were checked before.
fn check_text(bytes: &[u8], known: usize, what: &str) {
    let Some(head) = bytes.first_chunk::<4>() else {
        return;
    };
    let mark = u32::from_be_bytes(*head);
    for (at, byte) in bytes.iter().enumerate().skip(known) {
        assert_eq!(*byte, octet(mark, at), "{what}: byte {at} of {mark}");
    }
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut world = World::new(&options().connections(3));
        let mut kit = FakeKit::new();
        world.pass(MS);
        come_online(&mut world, &mut kit, OK);
        let mut chaos = Chaos {
            world,
            kit,
            dice: Entropy::from_seed(seed),
            locals: BTreeMap::new(),
            open: BTreeMap::new(),
            next_mark: 1,
            session: 1,
            known: Vec::new(),
        };
        let (world, kit) = (&mut chaos.world, &mut chaos.kit);
        order_bind(world, kit, 1, spec(Service::HttpExpose, 3000));
        order_bind(world, kit, 2, spec(Service::TcpPull, 5432));
        chaos.answer_binds();
        chaos
    }

    fn answer_binds(&mut self) {
        for json in self.kit.came(FrameType::Bind) {
            let (reference, port) = match json.contains("expose") {
                true => (1, 3000),
                false => (2, 5432),
            };
            let ok = bind_ok(reference, reference, port);
            self.kit.control(&mut self.world, FrameType::BindOk, &ok);
        }
    }

    fn pick(&mut self, bound: usize) -> usize {
        self.dice.below(bound.max(1) as u32) as usize
    }

    fn step(&mut self) {
        self.world.chunk = [101, 1500, 9000, usize::MAX][self.pick(4)];
        match self.pick(20) {
            0..=3 => self.open_stream(),
            4..=7 => self.send(),
            8 => self.end_stream(),
            9..=11 => self.answer_dial(),
            12..=16 => self.local_acts(),
            17 => {
                let span = Duration::from_millis(self.pick(1500) as u64);
                self.world.pass(span);
            }
            18 if self.pick(6) == 0 => self.lose_lane(),
            _ => self.world.pass(MS),
        }
        self.kit.run(&mut self.world);
        self.look();
    }

    fn online(&self) -> bool {
        matches!(self.world.client.reach.retry.stage, retry::Stage::Online(_))
    }

    fn open_stream(&mut self) {
        if !self.online() || self.open.len() > 40 {
            return;
        }
        let chunked = get("/").replace("none", "chunked").replace("GET", "POST");
        let json = match self.pick(4) {
            0 => get("/"),
            1 => chunked,
            2 => get("/ws").replace("\"isUpgrade\":false", "\"isUpgrade\":true"),
            _ => r#"{"kind":"tcp","bindId":2}"#.to_owned(),
        };
        let takes_data = json.contains("chunked") || json.contains("tcp");
        let stream = self.kit.open(&mut self.world, &json);
        match takes_data {
            true => self.open.insert(stream, 0),
            false if json.contains("/ws") => None,
            false => {
                self.kit.eof(&mut self.world, stream);
                None
            }
        };
    }

    fn a_stream(&mut self) -> Option<usize> {
        let at = self.pick(self.open.len());
        self.open.keys().nth(at).copied()
    }

    fn send(&mut self) {
        let Some(stream) = self.a_stream() else {
            return;
        };
        let len = [1, 50, 3000, 60_000][self.pick(4)];
        let from = self.open[&stream];
        let bytes = text(stream as u32 + 1, from, len);
        let key = self.kit.streams[stream].0.unwrap();
        let sent = self.kit.session.send(key, &bytes, self.world.now);
        self.open.insert(stream, from + sent);
    }

    fn end_stream(&mut self) {
        let Some(stream) = self.a_stream() else {
            return;
        };
        self.open.remove(&stream);
        match self.pick(3) {
            0 => self.kit.reset(&mut self.world, stream),
            _ => self.kit.eof(&mut self.world, stream),
        }
    }

    fn answer_dial(&mut self) {
        if self.world.dials.is_empty() {
            return;
        }
        let conn = self.world.dials[0];
        let lane = self
            .world
            .client
            .reach
            .lanes
            .conns
            .iter()
            .position(|lane| *lane == Some(conn));
        if let Some(index) = lane {
            if self.pick(5) == 0 {
                return self.world.refuse();
            }
            return self.greet_lane(index);
        }
        match self.pick(6) {
            0 => self.world.refuse(),
            _ => {
                let conn = self.world.accept();
                let mark = self.next_mark;
                self.next_mark += 1;
                self.locals.insert(
                    conn,
                    Local {
                        mark,
                        ..Local::default()
                    },
                );
            }
        }
    }

    fn greet_lane(&mut self, index: usize) {
        let conn = self.world.accept();
        if index > 0 {
            let (kind, _) = self.kit.upgrade(&mut self.world, conn);
            assert_eq!(kind, FrameType::Join);
            let ok = format!(r#"{{"index":{index}}}"#);
            return self
                .kit
                .greet(&mut self.world, index, FrameType::JoinOk, &ok);
        }
        self.kit = FakeKit::new();
        self.known.clear();
        self.kit.upgrade(&mut self.world, conn);
        let fresh = self.pick(2) == 0;
        self.session += u32::from(fresh);
        let ok = OK.replace("S-1", &format!("S-{}", self.session));
        let ok = match fresh {
            true => ok,
            false => ok.replace("\"joinTickets\"", RESUMED),
        };
        self.kit.greet(&mut self.world, 0, FrameType::HelloOk, &ok);
        self.answer_binds();
    }

    fn local_acts(&mut self) {
        let at = self.pick(self.locals.len());
        let Some(conn) = self.locals.keys().nth(at).copied() else {
            return;
        };
        let taken = self.world.take(conn);
        let dice = self.pick(12);
        let size = [10, 2000, 40_000][self.pick(3)];
        let local = self.locals.get_mut(&conn).unwrap();
        let before = if local.raw { local.taken.len() } else { 0 };
        local.taken.extend(taken);
        local.raw |= !local.taken.is_empty() && !is_http(&local.taken);
        if local.raw {
            check_text(&local.taken, before, "to a local service");
        }
        let ended = local.done || self.world.is_closed(conn).is_some();
        match dice {
            _ if ended => {
                self.locals.remove(&conn);
            }
            0 => {
                self.locals.remove(&conn);
                self.world.end(conn, Ended::Reset);
            }
            1 => {
                local.done = true;
                self.world.fin(conn);
            }
            2 => self.world.wires.get_mut(&conn).unwrap().full ^= true,
            3 => self.world.unblock(conn),
            _ if local.raw => {
                let bytes = text(local.mark, local.written, size);
                local.written += bytes.len();
                self.world.write(conn, &bytes);
            }
            _ if is_whole_request(&local.taken) => {
                let upgrade = local.taken.starts_with(b"GET /ws");
                local.taken.clear();
                let body = text(local.mark, 0, size);
                let answer = match (upgrade, dice % 4) {
                    (true, 0..=2) => {
                        local.raw = true;
                        SWITCH.to_vec()
                    }
                    (_, 1) => [CHUNKED, &chunks(&body), b"0\r\n\r\n"].concat(),
                    (_, 2) => {
                        local.done = true;
                        [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &body].concat()
                    }
                    (_, 3) if dice == 11 => b"HTTP/2 what\r\n\r\n".to_vec(),
                    _ => {
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
                        [head.as_bytes(), &body].concat()
                    }
                };
                let fin = local.done;
                self.world.write(conn, &answer);
                if fin {
                    self.world.fin(conn);
                }
            }
            _ => {}
        }
    }

    fn lose_lane(&mut self) {
        let index = self.pick(3);
        let Some(conn) = self.kit.conns.get_mut(index).and_then(Option::take) else {
            return;
        };
        let (_, lost) = self.kit.session.detach(index);
        for stream in lost {
            self.open.remove(&stream);
        }
        if index == 0 {
            self.open.clear();
            self.kit.conns.clear();
        }
        self.world.end(conn, Ended::Reset);
    }

    /// What arrived at the kit is the beginning of something that was sent.
    fn look(&mut self) {
        self.known.resize(self.kit.streams.len(), 0);
        for ((_, seen), known) in self.kit.streams.iter().zip(&mut self.known) {
            let refused = seen
                .heads
                .iter()
                .any(|head| head.contains(r#""status":502"#));
            if !refused {
                check_text(&seen.data, *known, "to the kit");
                *known = seen.data.len();
            }
        }
        let kit = &self.kit;
        self.open
            .retain(|stream, _| kit.seen(*stream).reset.is_none());
        self.answer_binds();
    }

    /// Everything is allowed to come to its end.
    fn finish(mut self) {
        self.world.order(Order::Close { at_once: false });
        for _ in 0..100 {
            self.kit.run(&mut self.world);
            for json in self.kit.came(FrameType::Unbind) {
                self.kit
                    .control(&mut self.world, FrameType::UnbindOk, &json);
            }
            self.world.pass(100 * MS);
        }
        assert!(self.world.stopped, "it did not end");
        let closed = |event: &SessionEvent| matches!(event, SessionEvent::Closed { .. });
        let events = self.world.events();
        assert_eq!(events.iter().filter(|event| closed(event)).count(), 1);
        assert!(
            events.last().is_some_and(closed),
            "something came after the end"
        );
        let client = &self.world.client;
        assert!(client.reach.conns.is_empty() && client.local.conns.is_empty());
        assert!(client.local.exchanges.is_empty());
        assert_eq!(
            (client.local.pool.open(), client.cx.effects.timers.len()),
            (0, 0)
        );
    }
}

const OK: &str = r#"{"sessionId":"S-1","connectionsGranted":3,"joinTickets":[
    {"index":1,"nonce":"one"},{"index":2,"nonce":"two"}]}"#;
const RESUMED: &str = r#""resumed":true,"resumedBinds":[
    {"bindId":1,"kind":"http","mode":"expose","containerPort":3000},
    {"bindId":2,"kind":"tcp","mode":"pull","containerPort":5432}],"joinTickets""#;
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
const CHUNKED: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\
    transfer-encoding: chunked\r\n\r\n";

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(7000) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn is_http(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GE") || bytes.starts_with(b"PO") || bytes == b"G" || bytes == b"P"
}

fn is_whole_request(bytes: &[u8]) -> bool {
    match bytes.starts_with(b"POST") {
        true => bytes.ends_with(b"0\r\n\r\n"),
        false => bytes.ends_with(b"\r\n\r\n"),
    }
}

#[test]
fn what_arrives_is_what_was_sent_whatever_breaks() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("HOODY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOODY_ROUNDS").unwrap_or(60),
    };
    for seed in seeds {
        // A test that fails shows what was printed.
        println!("HOODY_SEED={seed}");
        let mut chaos = Chaos::new(seed);
        for _ in 0..400 {
            chaos.step();
        }
        chaos.finish();
    }
}
