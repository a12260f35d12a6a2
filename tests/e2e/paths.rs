//! Several connections are several ways: when one of them is lost, whichever it is, nobody who is
//! being served sees more than a pause, and newcomers see nothing.

use crate::support::cutter::{Cut, Cutter};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::tcp::TcpServer;
use crate::support::tunnel::*;
use crate::support::upstream::{Exchange, Upstream};
use crate::support::{Noise, PATIENCE, becomes, eventually};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const V2: &str = "hoody-tunnel.v2";
const ACK: u8 = 0x41;
const LANES: usize = 4;
/// Events of a stream, and what lies between two of them.
const EVENTS: usize = 300;
const BEAT: Duration = Duration::from_millis(20);
const SIZE: usize = 6 << 20;
/// Longer than a pause may be (2 s and the way) on a machine that has much to do, and shorter than
/// it takes to give up a connection that is the only one, and to come back.
const PAUSE: Duration = Duration::from_millis(4600);

/// A server with events, downloads and uploads, and an echo behind an upgrade.
fn server() -> Upstream {
    Upstream::start(|exchange| match exchange.request.target.as_str() {
        "/events" => events(exchange),
        "/echo" => echo(exchange),
        "/up" => {
            let body = exchange.body();
            let whole = body == Noise::bytes(9, SIZE);
            exchange.answer(200, "", whole.to_string().as_bytes());
            true
        }
        "/down" => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
            exchange.talk.say(head);
            let bytes = Noise::bytes(3, SIZE);
            slowly(&bytes, |piece| exchange.talk.say_into_the_void(piece))
        }
        _ => {
            exchange.answer(200, "", b"here");
            true
        }
    })
}

fn slowly(bytes: &[u8], mut say: impl FnMut(&[u8]) -> bool) -> bool {
    bytes.chunks(SIZE / EVENTS + 1).all(|piece| {
        std::thread::sleep(BEAT);
        say(piece)
    })
}

fn events(exchange: &mut Exchange) -> bool {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    exchange.talk.say(head);
    let mut all = 0..EVENTS;
    let went = all.all(|number| {
        std::thread::sleep(BEAT);
        exchange.chunk(format!("data: {number}\n\n").as_bytes())
    });
    went && exchange.talk.say_into_the_void("0\r\n\r\n")
}

fn echo(exchange: &mut Exchange) -> bool {
    exchange.talk.say(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    loop {
        let bytes = exchange.talk.take(4);
        if bytes.len() < 4 || !exchange.talk.say_into_the_void(bytes) {
            return false;
        }
    }
}

/// Notes the longest time between two signs.
struct Pauses {
    last: Instant,
    longest: Duration,
}

impl Pauses {
    fn new() -> Pauses {
        Pauses {
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn sign(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }
}

/// Sees all events, in order.
fn sees_events(port: u16) -> Duration {
    let mut talk = Talk::port(port);
    talk.say("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.head().expect("a head");
    let mut pauses = Pauses::new();
    for number in 0..EVENTS {
        let wanted = format!("data: {number}\n\n");
        let chunk = format!("{:x}\r\n{wanted}\r\n", wanted.len());
        let got = talk.take(chunk.len());
        assert_eq!(String::from_utf8_lossy(&got), chunk, "event {number}");
        pauses.sign();
    }
    assert_eq!(talk.take(5), b"0\r\n\r\n");
    pauses.longest
}

/// Says numbers, and hears each again.
fn hears_echoes(mut stream: TcpStream) -> Duration {
    stream.set_nodelay(true).expect("a TCP socket");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a TCP socket");
    let mut pauses = Pauses::new();
    for number in 0..EVENTS as u32 {
        stream.write_all(&number.to_be_bytes()).expect("it is open");
        let mut got = [0; 4];
        stream.read_exact(&mut got).expect("the echo");
        assert_eq!(u32::from_be_bytes(got), number);
        pauses.sign();
        std::thread::sleep(BEAT);
    }
    pauses.longest
}

fn upgraded(port: u16) -> TcpStream {
    let mut talk = Talk::port(port);
    talk.say(
        "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = talk.head().expect("a head");
    assert!(head.starts_with(b"HTTP/1.1 101"));
    talk.stream
}

fn downloads(port: u16) -> Duration {
    let mut talk = Talk::port(port);
    talk.say("GET /down HTTP/1.1\r\nHost: a\r\n\r\n");
    let reply = talk.reply(false);
    assert!(reply.body == Noise::bytes(3, SIZE), "other bytes");
    Duration::ZERO
}

fn uploads(port: u16) -> Duration {
    let mut talk = Talk::port(port);
    talk.say(format!(
        "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
    ));
    slowly(&Noise::bytes(9, SIZE), |piece| {
        talk.say(piece);
        true
    });
    assert_eq!(talk.reply(false).text(), "true");
    Duration::ZERO
}

/// Comes again and again. Nobody may be refused.
fn visits(port: u16, done: &AtomicBool) -> usize {
    let mut visits = 0;
    while !done.load(Ordering::SeqCst) {
        let mut talk = Talk::port(port);
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(talk.reply(false).status, 200, "visit {visits}");
        visits += 1;
        std::thread::sleep(BEAT);
    }
    visits
}

/// What happens to one of four connections.
#[derive(Clone, Copy, PartialEq)]
enum Loss {
    Cut,
    Silence,
}

fn one_of_four(at: usize, loss: Loss) {
    let (kit, server) = (Kit::start(), server());
    let (ways, pulled_ways) = (Cutter::before(&kit), Cutter::before(&kit));
    let echo = TcpServer::start(|mut stream| {
        let mut twin = stream.try_clone().expect("descriptors are left");
        let _ = std::io::copy(&mut stream, &mut twin);
    });
    let lanes = LANES.to_string();
    let client = |ways: &Cutter, what: &str, port: u16| {
        let target = format!("127.0.0.1:{port}");
        let flags = ["--container-port", "0", "--connections", &lanes];
        let client = ways.hoody(&kit, &[&[what, &target], &flags[..]].concat(), 1);
        becomes("connections", LANES, || ways.carried());
        client
    };
    let exposed = client(&ways, "expose", server.port());
    let pulled = client(&pulled_ways, "pull", echo.port);
    let (port, pull) = (exposed.port(), pulled.port());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| visits(port, &done));
        let mut served = Vec::new();
        for _ in 0..LANES {
            served.push(scope.spawn(move || sees_events(port)));
            served.push(scope.spawn(move || hears_echoes(upgraded(port))));
            served.push(scope.spawn(move || {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, pull));
                hears_echoes(stream.expect("it listens"))
            }));
        }
        let bulk = [
            scope.spawn(move || downloads(port)),
            scope.spawn(move || uploads(port)),
        ];
        std::thread::sleep(Duration::from_secs(1));
        for ways in [&ways, &pulled_ways] {
            match loss {
                Loss::Cut => assert_eq!(ways.cut(Cut::Reset, Some(at)), 1),
                Loss::Silence => ways.silence(at, true),
            }
        }
        let pauses = served.into_iter().map(|it| it.join().expect("it saw all"));
        let longest = pauses.max().unwrap_or_default();
        println!("lane {at}: a pause of {longest:?}");
        assert!(longest < PAUSE, "a pause of {longest:?}");
        for it in bulk {
            it.join().expect("it is whole");
        }
        done.store(true, Ordering::SeqCst);
        assert!(visitor.join().expect("nobody is refused") > EVENTS / 10);
    });
    if loss == Loss::Silence {
        // What was held back comes when nobody takes it any more.
        ways.silence(at, false);
        let mut talk = Talk::port(port);
        assert_eq!(talk.get("/").text(), "here");
    }
    becomes("streams", 0, || {
        kit.metric("hoody_streams_active", "") as u64
    });
}

#[test]
fn the_first_of_four_connections_is_cut_and_nobody_sees_it() {
    one_of_four(0, Loss::Cut);
}

#[test]
fn the_third_of_four_connections_is_cut_and_nobody_sees_it() {
    one_of_four(2, Loss::Cut);
}

#[test]
fn the_first_of_four_connections_falls_silent_and_nobody_sees_more_than_a_pause() {
    one_of_four(0, Loss::Silence);
}

#[test]
fn the_third_of_four_connections_falls_silent_and_nobody_sees_more_than_a_pause() {
    one_of_four(2, Loss::Silence);
}

/// A session of two lanes whose streams are kept, with a port, of which the kit knows that it is
/// known.
fn kept(kit: &Kit) -> (Tunnel, Tunnel, u16) {
    let more = json!({
        "version": V2, "capabilities": ["multi-ws", "replay"], "replayBuffer": 1 << 20,
        "maxConnections": 2,
    });
    let mut primary = Tunnel::open_with(kit, more);
    let how = Upgrade {
        protocols: Some(V2),
        fields: &[],
    };
    let mut other = Tunnel::upgrade(kit, &how).expect("an upgrade");
    let nonce = primary.hello["joinTickets"][0]["nonce"].clone();
    let join = json!({ "sessionId": primary.id(), "index": 1, "nonce": nonce, "received": 0 });
    other.json(JOIN, join);
    assert_eq!(other.expect(JOIN_OK).json()["received"], 0);
    let (_, port) = primary.expose(0);
    (primary, other, port)
}

/// The kit's BIND_OK is the first frame of the primary that counts.
fn acknowledge_bind_ok(primary: &mut Tunnel) {
    primary.frame(ACK, 0, &1u64.to_be_bytes());
    assert!(primary.alive(), "it was taken in");
}

#[test]
fn without_its_primary_a_session_serves_newcomers_and_ends_with_the_grace() {
    let kit = Kit::with(&["--takeover-grace", "3s"]);
    let (mut primary, mut other, port) = kept(&kit);
    acknowledge_bind_ok(&mut primary);
    primary.vanish(true);
    let mut talk = Talk::port(port);
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let stream = other.expect(STREAM_OPEN).stream;
    other.respond(stream, 200, b"by the other one");
    assert_eq!(talk.reply(false).text(), "by the other one");
    talk.say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    other.expect(STREAM_OPEN);
    kit.has_sessions(1);
    // Nobody comes for the primary.
    kit.has_sessions(0);
    assert!(talk.reply(false).status == 502, "it is told in the end");
}

#[test]
fn a_binding_that_its_client_may_not_know_of_is_served_by_the_primary_alone() {
    let kit = Kit::start();
    let (mut primary, mut other, port) = kept(&kit);
    let mut talks = Vec::new();
    for _ in 0..4 {
        talks.push(primary.visited(port));
    }
    acknowledge_bind_ok(&mut primary);
    let (_talk, _) = other.visited(port);
    // Another one is bound, and the primary is lost before that is acknowledged.
    let (_, second) = primary.expose(0);
    primary.vanish(true);
    // Whoever comes before the kit sees that goes behind what the primary carries, and waits.
    let refused = eventually("nobody is asked of it", PATIENCE, || {
        let mut talk = Talk::port(second);
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        (!talk.silent_for(Duration::from_millis(300))).then(|| talk.reply(false).status)
    });
    assert_eq!(refused, 503);
    let mut talk = Talk::port(port);
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let stream = other.expect(STREAM_OPEN).stream;
    other.respond(stream, 200, b"known");
    assert_eq!(talk.reply(false).text(), "known");
}

#[test]
fn streams_of_a_lost_secondary_wait_for_the_grace_and_no_longer() {
    let kit = Kit::with(&["--takeover-grace", "3s"]);
    let (mut primary, mut other, port) = kept(&kit);
    let (_first, _) = primary.visited(port);
    acknowledge_bind_ok(&mut primary);
    let (mut talk, _) = other.visited(port);
    other.vanish(true);
    assert!(talk.silent_for(Duration::from_secs(1)), "it waits");
    let reply = talk.reply(false);
    assert_eq!(reply.status, 502);
    assert!(primary.alive());
    kit.has_sessions(1);
}
