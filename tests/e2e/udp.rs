//! UDP ports: datagrams pass whole, in both directions, and of nobody but who is meant.

use crate::support::client::{Hoody, hoody_at};
use crate::support::kit::Kit;
use crate::support::proc::run;
use crate::support::tunnel::{DATA, EOF, Heard, PROTOCOL_ERROR, RESET, STREAM_OPEN, Tunnel, frame};
use crate::support::{PATIENCE, at_rest, becomes, eventually};
use serde_json::json;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

const DATAGRAM: u8 = 0x43;
/// What IPv4 has room for.
const LARGEST: usize = 65_507;

/// A socket that waits for answers.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A server that sends back whatever comes.
fn echo() -> u16 {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = server.local_addr().expect("bound").port();
    thread::spawn(move || {
        let mut space = vec![0; 65_536];
        while let Ok((count, peer)) = server.recv_from(&mut space) {
            let _ = server.send_to(&space[..count], peer);
        }
    });
    port
}

/// Sends to a port of loopback and waits for what comes back.
#[track_caller]
fn ask(socket: &UdpSocket, port: u16, datagram: &[u8]) -> Vec<u8> {
    let mut space = vec![0; 65_536];
    socket
        .send_to(datagram, (Ipv4Addr::LOCALHOST, port))
        .expect("sent");
    let count = socket.recv(&mut space).expect("an answer");
    space.truncate(count);
    space
}

/// A session by hand that carries datagrams.
fn by_hand(kit: &Kit) -> Tunnel {
    Tunnel::open_with(kit, json!({ "capabilities": ["udp"] }))
}

#[test]
fn datagrams_of_every_size_come_back_whole_through_expose_and_pull() {
    let kit = Kit::with(&["--allow-udp-expose"]);
    let target = format!("127.0.0.1:{}=0", echo());
    let args = ["up", "--expose-udp", &target, "--pull-udp", &target];
    let hoody = Hoody::start(&kit, &args, 2);
    let peers: Vec<UdpSocket> = (0..3).map(|_| socket()).collect();
    for (index, ready) in hoody.ready.iter().enumerate() {
        assert_eq!(ready["kind"], "udp");
        for size in [0, 1, 1200, 1472, LARGEST, 0] {
            for (number, peer) in peers.iter().enumerate() {
                let sent = vec![(size + number) as u8; size];
                assert_eq!(ask(peer, hoody.port_of(index), &sent), sent, "{size} bytes");
            }
        }
    }
    kit.counts("hoody_tunnel_udp_streams_active", "", 6);
    assert_eq!(kit.metric("hoody_tunnel_datagrams_dropped_total", ""), 0.0);
    let kinds = kit.json("bindings")["bindings"].to_string();
    assert_eq!(kinds.matches(r#""kind":"udp""#).count(), 2, "{kinds}");
}

#[test]
fn datagrams_pass_a_download_that_fills_the_lane() {
    let kit = Kit::with(&["--allow-udp-expose", "--replay-buffer", "0"]);
    let mut tunnel = by_hand(&kit);
    let (_, port) = tunnel.bound(json!({ "kind": "udp", "mode": "expose", "containerPort": 0 }));
    let (_, pull) = tunnel.pull(0);
    let peer = socket();
    peer.send_to(b"first", (Ipv4Addr::LOCALHOST, port))
        .expect("sent");
    let open = tunnel.expect(STREAM_OPEN);
    assert_eq!(open.json()["kind"], "udp");
    let home = peer.local_addr().expect("bound").to_string();
    assert_eq!(open.json()["remoteAddr"], home);
    assert_eq!(tunnel.expect(DATAGRAM).payload, b"first");
    // A caller sends as much as the session takes; nobody reads here meanwhile.
    let mut caller = crate::support::http::Talk::port(pull);
    caller.say(vec![0; 1 << 20]);
    let still = Duration::from_millis(100);
    at_rest("what has left", still, || {
        kit.metric("hoody_tunnel_data_bytes_total", "out") as u64
    });
    for number in 0..10u8 {
        peer.send_to(&[number], (Ipv4Addr::LOCALHOST, port))
            .expect("sent");
    }
    kit.counts("hoody_tunnel_datagrams_total", "out", 11);
    let (mut datagrams, mut data) = (Vec::new(), 0);
    while datagrams.len() < 10 {
        match tunnel.hear(PATIENCE) {
            Heard::Frame(it) if it.kind == DATAGRAM => datagrams.push(it.payload[0]),
            Heard::Frame(it) if it.kind == DATA => data += it.payload.len(),
            Heard::Frame(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(datagrams, (0..10).collect::<Vec<u8>>());
    assert!(data < 1 << 20, "they came behind all of {data} bytes");
}

#[test]
fn a_stream_of_datagrams_keeps_to_its_rules() {
    let kit = Kit::with(&["--allow-udp-expose", "--udp-idle", "1s"]);
    let mut tunnel = by_hand(&kit);
    let bind = json!({ "kind": "udp", "mode": "expose", "containerPort": 0 });
    let (bind_id, port) = tunnel.bound(bind);
    // On ids that are not there it means nothing.
    let mut stray = frame(DATAGRAM, 2, b"stray");
    stray.extend(frame(DATAGRAM, 77, b"stray"));
    tunnel.message(stray);
    assert!(tunnel.alive());
    let peer = socket();
    let ask = |datagram: &[u8]| {
        let sent = peer.send_to(datagram, (Ipv4Addr::LOCALHOST, port));
        sent.expect("sent");
    };
    ask(b"one");
    let first = tunnel.expect(STREAM_OPEN).stream;
    tunnel.frame(DATA, first, b"bytes");
    let reset = tunnel.expect_on(RESET, first);
    assert_eq!(reset.code(), PROTOCOL_ERROR);
    ask(b"two");
    let second = tunnel.expect(STREAM_OPEN).stream;
    tunnel.frame(DATAGRAM, second, b"answer");
    let mut space = [0; 64];
    let count = peer.recv(&mut space).expect("an answer");
    assert_eq!(&space[..count], b"answer");
    tunnel.frame(EOF, second, b"");
    tunnel.expect_on(EOF, second);
    ask(b"three");
    let third = tunnel.expect(STREAM_OPEN).stream;
    // Nobody says anything for long enough.
    tunnel.expect_on(RESET, third);
    assert!(tunnel.alive());
    becomes("the streams", 0, || {
        kit.metric("hoody_tunnel_udp_streams_active", "") as u64
    });
    tunnel.json(6, json!({ "bindId": bind_id }));
    eventually("the port is free", PATIENCE, || {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()
    });
}

#[test]
fn what_cannot_be_is_refused_in_a_sentence() {
    let kit = Kit::start();
    let refused = |args: &[&str]| {
        let output = run(&mut hoody_at(&kit, args));
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (args, word) in [
        (&["expose", "--udp", "5353"][..], "--allow-udp-expose"),
        (&["expose", "--udp", "unix:/run/x.sock"], "Unix socket"),
        (
            &["expose", "--udp", "http://localhost:80/x"],
            "without a scheme",
        ),
        (&["expose", "--udp", "53", "--header", "A: b"], "--header"),
        (
            &["pull", "--udp", "53", "--proxy-protocol", "2"],
            "--proxy-protocol",
        ),
        (
            &["pull", "--udp", "53", "--container-port", "53"],
            "--allow-privileged-pull",
        ),
    ] {
        let text = refused(args);
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

#[test]
fn a_service_that_is_not_there_costs_nobody_anything() {
    let kit = Kit::start();
    let hole = socket();
    let port = hole.local_addr().expect("bound").port();
    drop(hole);
    let target = format!("127.0.0.1:{port}");
    let args = ["pull", "--udp", &target, "--container-port", "0"];
    let hoody = Hoody::start(&kit, &args, 1);
    let peer = socket();
    for _ in 0..5 {
        let sent = peer.send_to(b"hello?", (Ipv4Addr::LOCALHOST, hoody.port()));
        sent.expect("sent");
        thread::sleep(Duration::from_millis(5));
    }
    // It comes up, and the same peer is served.
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    peer.send_to(b"now?", (Ipv4Addr::LOCALHOST, hoody.port()))
        .expect("sent");
    let mut space = [0; 64];
    let (count, from) = server.recv_from(&mut space).expect("it comes");
    assert_eq!(&space[..count], b"now?");
    server.send_to(b"yes", from).expect("sent");
    let count = peer.recv(&mut space).expect("an answer");
    assert_eq!(&space[..count], b"yes");
}
