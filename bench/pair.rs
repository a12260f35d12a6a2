//! What a session costs without sockets: a kit's and a client's session joined in memory.
//!
//! `cargo bench --bench pair` measures; `-- --fixed N` does N rounds without looking at a clock, so that
//! callgrind counts the same instructions every time. A round is 64 requests with small replies and
//! one MiB of bulk each way, every byte framed, masked, decoded and its credit returned. With
//! `--replay` all of it is kept until it is acknowledged (PROTOCOL §9).

use std::time::Instant as Watch;

use hoody_tunnel::clock::Instant;
use hoody_tunnel::entropy::Entropy;
use hoody_tunnel::machine::ConnKey;
use hoody_tunnel::mux::{Incoming, Retention, Session, Side, StreamKey, Terms, Transport};

const REQUESTS: u32 = 64;
const BULK: usize = 1 << 20;
const NOW: Instant = Instant::ZERO;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let fixed = args.iter().position(|arg| arg == "--fixed");
    let rounds = match fixed.and_then(|at| args.get(at + 1)) {
        Some(count) => count.parse().expect("--fixed N"),
        None if args.iter().any(|arg| arg == "--bench") => 500,
        None => 1,
    };
    let keeps = args.iter().any(|arg| arg == "--replay");
    let mut pair = Pair::new(keeps);
    let watch = Watch::now();
    for _ in 0..rounds {
        pair.round();
    }
    if fixed.is_none() {
        let each = watch.elapsed() / rounds;
        println!("pair: {each:?} a round of {REQUESTS} requests and 2 MiB of bulk");
    }
}

struct Pair {
    kit: Session<u32>,
    client: Session<u32>,
}

impl Pair {
    fn new(keeps: bool) -> Pair {
        let terms = |side| Terms {
            side,
            stream_window: 1 << 20,
            session_window: 16 << 20,
            max_streams: 1024,
            grow_windows: false,
            header_case: true,
            udp: false,
            trailers: true,
            forward: false,
            head_parts: 1 << 20,
            queue_opens: hoody_tunnel::limits::LANE_QUEUE_OPENS,
            replay: keeps.then_some(Retention {
                keeps: 4 << 20,
                most: 4 << 20,
                peer_keeps: 4 << 20,
                lanes: 1,
            }),
        };
        let mut kit = Session::new(terms(Side::Kit), NOW);
        let mut client = Session::new(terms(Side::Client), NOW);
        kit.attach(0, Transport::server(ConnKey::unpack(1 << 32), NOW));
        client.attach(
            0,
            Transport::client(ConnKey::unpack(2 << 32), Entropy::from_seed(1), NOW),
        );
        Pair { kit, client }
    }

    fn round(&mut self) {
        for tag in 0..REQUESTS {
            let open = br#"{"kind":"http","method":"GET","target":"/","headers":[["host","a"]]}"#;
            let stream = self.kit.open(tag, open, NOW).expect("room for a stream");
            self.kit.send_eof(stream, NOW);
        }
        self.carry();
        for (key, _) in opened() {
            let head = br#"{"status":200,"headers":[["content-length","5"]],"final":true}"#;
            self.client.send_head(key, head, NOW);
            self.client.send(key, b"hello", NOW);
            self.client.send_eof(key, NOW);
        }
        self.carry();
        let stream = self
            .kit
            .open(BULK_TAG, b"{\"kind\":\"tcp\"}", NOW)
            .expect("room for a stream");
        self.carry();
        let [(other, _)] = opened()[..] else {
            panic!("one stream was opened")
        };
        bulk(&mut self.kit, &mut self.client, stream);
        bulk(&mut self.client, &mut self.kit, other);
        self.kit.send_eof(stream, NOW);
        self.client.send_eof(other, NOW);
        self.carry();
        assert_eq!(
            self.kit.streams().len() + self.client.streams().len(),
            0,
            "a stream is left"
        );
    }

    fn carry(&mut self) {
        while carry(&mut self.kit, &mut self.client) | carry(&mut self.client, &mut self.kit) {}
    }
}

/// The tag of a stream that carries bulk.
const BULK_TAG: u32 = 1 << 30;

fn bulk(from: &mut Session<u32>, to: &mut Session<u32>, stream: StreamKey) {
    let mut left = BULK;
    while left > 0 {
        let space = from.data_space(stream, left);
        let count = space.len();
        space.fill(7);
        from.data_commit(stream, count, NOW);
        left -= count;
        while carry(from, to) | carry(to, from) {}
    }
}

/// The streams that the peer opened since the last time, taken.
fn opened() -> Vec<(StreamKey, u32)> {
    TAKEN.with_borrow_mut(std::mem::take)
}

thread_local! {
    /// Streams that `carry` accepted; a bench has one thread and one pair.
    static TAKEN: std::cell::RefCell<Vec<(StreamKey, u32)>> = const {
        std::cell::RefCell::new(Vec::new())
    };
}

/// Moves all bytes that wait from one session to the other; whether there were any.
fn carry(from: &mut Session<u32>, to: &mut Session<u32>) -> bool {
    let mut moved = false;
    loop {
        let bytes = from.transmit(0);
        if bytes.is_empty() {
            break;
        }
        let lane = to.lanes_mut().get_mut(0).expect("a lane");
        let space = lane.read_space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        lane.received(count, NOW);
        from.transmitted(0, count);
        moved = true;
        take_in(to);
    }
    while from.poll_wake().is_some() {}
    moved
}

fn take_in(session: &mut Session<u32>) {
    while let Some(incoming) = session.poll(0, NOW).expect("no violation") {
        match incoming {
            Incoming::Opened { id, .. } => {
                let key = session.accept(0, id, id, NOW).expect("room for a stream");
                TAKEN.with_borrow_mut(|taken| taken.push((key, id)));
            }
            Incoming::Data {
                stream, payload, ..
            } => {
                session.passed_on(stream, payload.len(), NOW);
            }
            Incoming::Reset { reason, .. } => panic!("reset: {reason}"),
            _ => {}
        }
    }
}
