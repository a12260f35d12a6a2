//! Streams that a client has the kit connect (PROTOCOL §8), spoken by hand: what is allowed, what
//! is said of what is not, and that nobody pays for another's stream.

use crate::support::kit::Kit;
use crate::support::tcp::{TcpServer, reset};
use crate::support::tunnel::{
    BIND, BIND_OK, DATA, EOF, Heard, RESET, STREAM_OPEN, Tunnel, WINDOW, frame,
};
use crate::support::{PATIENCE, TempDir, eventually, free_port};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::UnixListener;

const CONNECTED: u8 = 0x44;
const REFUSED_STREAM: u16 = 6;
const CANCEL: u16 = 7;

/// A client that may forward, and its next stream.
struct Laptop {
    tunnel: Tunnel,
    next: u32,
}

impl Laptop {
    fn of(kit: &Kit) -> Laptop {
        let tunnel = Tunnel::open_with(kit, json!({ "capabilities": ["forward"] }));
        let granted = tunnel.hello["capabilities"].to_string();
        assert!(granted.contains("forward"), "{granted}");
        Laptop { tunnel, next: 1 }
    }

    fn opens(&mut self, target: Value) -> u32 {
        let mut open = json!({ "kind": "tcp", "mode": "forward" });
        for (key, value) in target.as_object().expect("an object") {
            open[key] = value.clone();
        }
        let id = self.next;
        self.next += 2;
        self.tunnel
            .frame(STREAM_OPEN, id, open.to_string().as_bytes());
        id
    }

    fn port(&mut self, host: &str, port: u16) -> u32 {
        self.opens(json!({ "host": host, "port": port }))
    }

    /// Takes so many bytes of a stream, and not one more.
    fn takes(&mut self, id: u32, bytes: u32) {
        let mut left = bytes as usize;
        while left > 0 {
            let came = self.tunnel.expect_on(DATA, id).payload.len();
            left = left.checked_sub(came).expect("no more than its credit");
        }
    }

    /// What the kit says of it: whom it reached, or code and reason of the RESET.
    fn answer(&mut self, id: u32) -> Result<String, (u16, String)> {
        let said = loop {
            match self.tunnel.hear(PATIENCE) {
                Heard::Frame(it) if it.stream == id && matches!(it.kind, CONNECTED | RESET) => {
                    break it;
                }
                Heard::Frame(_) => {}
                other => panic!("wanted an answer on stream {id}, got {other:?}"),
            }
        };
        match said.kind {
            CONNECTED => Ok(said.json()["peer"].as_str().expect("a peer").to_owned()),
            _ => Err((
                said.code(),
                String::from_utf8_lossy(&said.payload[2..]).into_owned(),
            )),
        }
    }
}

/// A server that sends back what it gets, up to the end.
fn echo() -> TcpServer {
    TcpServer::start(|mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() {
            let _ = stream.write_all(&all);
            let _ = stream.shutdown(Shutdown::Write);
        }
    })
}

#[test]
fn bytes_and_ends_pass_both_ways_and_the_operator_sees_it() {
    let (server, kit) = (echo(), Kit::start());
    let mut laptop = Laptop::of(&kit);
    let id = laptop.port("127.0.0.1", server.port);
    // DATA may follow at once.
    laptop.tunnel.frame(DATA, id, b"early words");
    let peer = laptop.answer(id).expect("it stands");
    assert_eq!(peer, format!("127.0.0.1:{}", server.port));
    let row = &kit.json("tunnels")["sessions"][0];
    let target = format!("127.0.0.1:{}", server.port);
    assert_eq!(
        row["forwards"],
        json!([{ "target": target, "connected": true }])
    );
    assert_eq!(row["activeStreams"], 1);
    laptop.tunnel.frame(DATA, id, b", late words");
    laptop.tunnel.frame(EOF, id, b"");
    let data = laptop.tunnel.expect_on(DATA, id);
    assert_eq!(data.payload, b"early words, late words");
    laptop.tunnel.expect_on(EOF, id);
    kit.settles("hoody_tunnel_streams_active", 0);
    let connected = "outcome=\"connected\"";
    assert_eq!(
        kit.metric("hoody_tunnel_forward_dials_total", connected),
        1.0
    );
    for direction in ["\"to\"", "\"from\""] {
        let bytes = kit.metric("hoody_tunnel_forward_bytes_total", direction);
        assert_eq!(bytes, 23.0, "{direction}");
    }
}

#[test]
fn a_reset_passes_both_ways() {
    let server = TcpServer::start(|mut stream| {
        let mut first = [0; 1];
        if stream.read_exact(&mut first).is_ok() && first == *b"r" {
            reset(stream);
        } else {
            assert!(stream.read(&mut first).is_err(), "a FIN for a RESET");
        }
    });
    let kit = Kit::start();
    let mut laptop = Laptop::of(&kit);
    let id = laptop.port("127.0.0.1", server.port);
    laptop.answer(id).expect("it stands");
    laptop.tunnel.frame(DATA, id, b"r");
    let (code, _) = laptop.answer(id).expect_err("a RESET");
    assert_eq!(code, CANCEL);
    let id = laptop.port("127.0.0.1", server.port);
    laptop.tunnel.frame(DATA, id, b"x");
    laptop.answer(id).expect("it stands");
    laptop.tunnel.frame(RESET, id, &[0, 7]);
    kit.settles("hoody_tunnel_streams_active", 0);
}

#[test]
fn what_is_not_there_and_what_is_not_allowed_is_told_apart() {
    let kit = Kit::start();
    let mut laptop = Laptop::of(&kit);
    let nobody = free_port();
    for (host, port, code, begins) in [
        ("127.0.0.1", nobody, CANCEL, "refused: "),
        ("0x7f.1", nobody, CANCEL, "refused: "),
        ("no-such-host.invalid", 80, CANCEL, "dns: "),
        ("10.255.255.1", 80, REFUSED_STREAM, "10.255.255.1:80: "),
        (
            "169.254.169.254",
            80,
            REFUSED_STREAM,
            "169.254.169.254:80: ",
        ),
        ("127.0.0.1", kit.port, REFUSED_STREAM, "127.0.0.1:"),
        ("::", kit.port, REFUSED_STREAM, "[::]:"),
        ("::ffff:127.0.0.1", kit.port, REFUSED_STREAM, "[::ffff:"),
        ("localhost", kit.port, REFUSED_STREAM, "localhost:"),
        ("2130706433", kit.port, REFUSED_STREAM, "2130706433:"),
    ] {
        let id = laptop.port(host, port);
        let (said, why) = laptop.answer(id).expect_err(host);
        assert!(said == code && why.starts_with(begins), "{host}: {why}");
    }
    let id = laptop.opens(json!({ "unix": "/run/docker.sock" }));
    assert_eq!(laptop.answer(id).expect_err("not listed").0, REFUSED_STREAM);
    assert!(
        kit.proc
            .said()
            .contains("clients may reach from here: loopback")
    );
}

#[test]
fn ports_of_the_tunnel_are_nobodys_target_whenever_they_are_bound() {
    let kit = Kit::start();
    let (mut laptop, mut other) = (Laptop::of(&kit), Tunnel::open(&kit));
    for (mode, kind) in [("expose", "http"), ("pull", "tcp")] {
        let bind = json!({ "clientBindRef": 1, "kind": kind, "mode": mode, "containerPort": 0 });
        other.json(BIND, bind);
        let port = other.expect(BIND_OK).json()["containerPort"]
            .as_u64()
            .expect("a port");
        for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
            let id = laptop.port(host, port as u16);
            let (_, why) = laptop.answer(id).expect_err(host);
            assert!(why.contains("the tunnel's own"), "{mode} {host}: {why}");
        }
    }
    let own_port = "outcome=\"own_port\"";
    assert_eq!(
        kit.metric("hoody_tunnel_forward_dials_total", own_port),
        6.0
    );
}

#[test]
fn a_unix_socket_is_reached_by_its_listed_path_alone() {
    let dir = TempDir::new();
    let path = dir.join("app.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let text = path.to_str().expect("plain text").to_owned();
    let kit = Kit::with(&["--allow-forward", &format!("unix:{text}")]);
    let mut laptop = Laptop::of(&kit);
    let id = laptop.opens(json!({ "unix": text }));
    assert_eq!(laptop.answer(id), Ok(format!("unix:{text}")));
    let (mut stream, _) = listener.accept().expect("the kit");
    stream.write_all(b"hi").expect("it stands");
    drop(stream);
    let data = laptop.tunnel.expect_on(DATA, id);
    assert_eq!(data.payload, b"hi");
    let around = text.replacen("/app.sock", "/./app.sock", 1);
    let id = laptop.opens(json!({ "unix": around }));
    assert_eq!(
        laptop.answer(id).expect_err("another path").0,
        REFUSED_STREAM
    );
    drop(listener);
    let id = laptop.opens(json!({ "unix": text }));
    let (code, why) = laptop.answer(id).expect_err("nobody");
    assert!(code == CANCEL && why.starts_with("refused: "), "{why}");
    std::fs::remove_file(&path).expect("it was there");
    let id = laptop.opens(json!({ "unix": text }));
    let (code, why) = laptop.answer(id).expect_err("nothing");
    assert!(code == CANCEL && why.starts_with("unreachable: "), "{why}");
}

#[test]
fn who_has_no_token_forwards_nothing_unless_the_operator_says_so() {
    let kit = Kit::open(&["--no-auth"]);
    let mut tunnel = Tunnel::open_with(&kit, json!({ "capabilities": ["forward"] }));
    assert!(!tunnel.hello.to_string().contains("\"forward\""));
    let open = json!({ "kind": "tcp", "mode": "forward", "host": "127.0.0.1", "port": 1 });
    tunnel.frame(STREAM_OPEN, 1, open.to_string().as_bytes());
    let refused = tunnel.expect_on(RESET, 1);
    assert_eq!(refused.code(), REFUSED_STREAM);
    let kit = Kit::open(&["--no-auth", "--allow-forward", "loopback"]);
    let server = echo();
    let mut laptop = Laptop::of(&kit);
    let id = laptop.port("127.0.0.1", server.port);
    laptop.answer(id).expect("it stands");
    assert!(kit.proc.said().contains("may connect from here"));
}

#[test]
fn back_pressure_reaches_the_server_and_a_slow_stream_stops_no_other() {
    let flood = TcpServer::start(|mut stream| while stream.write_all(&[b'x'; 65_536]).is_ok() {});
    let (server, kit) = (echo(), Kit::start());
    let mut laptop = Laptop::of(&kit);
    let slow = laptop.port("127.0.0.1", flood.port);
    laptop.answer(slow).expect("it stands");
    // Its credit is never given back: what comes of it is one window.
    let window = 1_048_576;
    laptop.takes(slow, window);
    let id = laptop.port("127.0.0.1", server.port);
    laptop.answer(id).expect("it stands beside it");
    laptop.tunnel.frame(DATA, id, b"quick");
    laptop.tunnel.frame(EOF, id, b"");
    let data = laptop.tunnel.expect_on(DATA, id);
    assert_eq!(data.payload, b"quick");
    let from = kit.metric("hoody_tunnel_forward_bytes_total", "\"from\"");
    assert_eq!(from, f64::from(window + 5), "no more than its window");
    // Given back, it goes on.
    let more = 1_000_000u32;
    laptop.tunnel.frame(WINDOW, slow, &more.to_be_bytes());
    laptop.tunnel.frame(WINDOW, 0, &more.to_be_bytes());
    laptop.takes(slow, more);
}

#[test]
fn a_thousand_streams_at_once_cost_at_most_themselves() {
    let server = TcpServer::start(|stream| {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = (&stream).read(&mut [0; 16]);
    });
    let kit = Kit::start();
    let mut laptop = Laptop::of(&kit);
    let mut message = Vec::new();
    let mut last = 0;
    for count in 1..=3000u32 {
        let open = json!({ "kind": "tcp", "mode": "forward", "host": "127.0.0.1",
                           "port": server.port });
        last = laptop.next;
        laptop.next += 2;
        message.extend(frame(STREAM_OPEN, last, open.to_string().as_bytes()));
        message.extend(frame(EOF, last, b""));
        if count % 30 == 0 {
            laptop.tunnel.message(std::mem::take(&mut message));
        }
    }
    let _ = laptop.answer(last);
    kit.settles("hoody_tunnel_streams_active", 0);
    let dials = |outcome: &str| kit.metric("hoody_tunnel_forward_dials_total", outcome);
    assert_eq!(dials(""), 3000.0);
    assert!(dials("too_fast") > 0.0 && dials("\"connected\"") > 500.0);
    // The session is as it was.
    eventually("a stream of its own again", PATIENCE, || {
        let id = laptop.port("127.0.0.1", server.port);
        laptop.answer(id).ok()
    });
}

#[test]
fn a_client_that_is_gone_takes_its_connections_with_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("it listens").port();
    let kit = Kit::start();
    let home = kit.permits();
    let mut laptop = Laptop::of(&kit);
    let id = laptop.port("127.0.0.1", port);
    laptop.answer(id).expect("it stands");
    let (mut upstream, _) = listener.accept().expect("the kit");
    upstream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    laptop.tunnel.frame(DATA, id, b"half of");
    let mut got = [0; 7];
    upstream.read_exact(&mut got).expect("what was said");
    drop(laptop);
    let end = upstream.read(&mut got);
    assert!(end.is_err(), "it must not look whole: {end:?}");
    kit.all_permits_are_home(home);
}
