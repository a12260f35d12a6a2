//! Bindings: every rule and every error code of PROTOCOL §3.

use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::tunnel::*;
use crate::support::{PATIENCE, eventually, free_port, free_privileged_port};
use serde_json::{Value, json};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

#[track_caller]
fn refused(tunnel: &mut Tunnel, bind: Value, code: &str) {
    let answer = tunnel.bind(bind.clone());
    let json = answer.json();
    assert_eq!(
        (answer.kind, json["code"].as_str()),
        (BIND_ERR, Some(code)),
        "{bind}: {json}"
    );
    assert!(
        json["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{json}"
    );
}

fn expose(port: u16) -> Value {
    json!({ "kind": "http", "mode": "expose", "containerPort": port })
}

fn pull(port: u16) -> Value {
    json!({ "kind": "tcp", "mode": "pull", "containerPort": port })
}

#[test]
fn only_http_expose_and_tcp_pull_exist() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::open(&kit);
    for (kind, mode) in [
        ("http", "pull"),
        ("tcp", "expose"),
        ("udp", "pull"),
        ("http", ""),
        ("", ""),
    ] {
        let bind = json!({ "kind": kind, "mode": mode, "containerPort": 0 });
        refused(&mut tunnel, bind, "INVALID_KIND");
    }
    let mut bind = pull(0);
    bind["takeover"] = json!(true);
    refused(&mut tunnel, bind, "INVALID_KIND");
    assert!(tunnel.alive());
}

#[test]
fn reserved_and_privileged_ports_are_refused() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::open(&kit);
    for port in [1, 22, 79, kit.port] {
        refused(&mut tunnel, expose(port), "RESERVED_PORT");
        refused(&mut tunnel, pull(port), "RESERVED_PORT");
    }
    for port in [80, 443, 1023] {
        refused(&mut tunnel, expose(port), "PRIVILEGED_PORT");
        refused(&mut tunnel, pull(port), "PRIVILEGED_PORT");
    }
    let allowing = Kit::with(&["--allow-privileged-expose"]);
    let mut tunnel = Tunnel::open(&allowing);
    tunnel.expose(free_privileged_port());
    refused(&mut tunnel, pull(free_privileged_port()), "PRIVILEGED_PORT");
    refused(&mut tunnel, expose(79), "RESERVED_PORT");
    let allowing = Kit::with(&["--allow-privileged-pull"]);
    let mut tunnel = Tunnel::open(&allowing);
    tunnel.pull(free_privileged_port());
    refused(
        &mut tunnel,
        expose(free_privileged_port()),
        "PRIVILEGED_PORT",
    );
}

#[test]
fn pull_listens_on_loopback_only() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::open(&kit);
    for host in ["0.0.0.0", "::", "192.0.2.1", "example.com", "127.0.0.1 "] {
        let mut bind = pull(0);
        bind["host"] = json!(host);
        refused(&mut tunnel, bind, "INVALID_HOST");
    }
    for host in ["127.0.0.1", "localhost"] {
        let mut bind = pull(0);
        bind["host"] = json!(host);
        let (_, port) = tunnel.bound(bind);
        TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    let mut bind = pull(0);
    bind["host"] = json!("::1");
    let (_, port) = tunnel.bound(bind);
    TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("IPv6 loopback");
    let mut bind = expose(0);
    bind["host"] = json!("192.0.2.1");
    tunnel.bound(bind);
}

#[test]
fn a_port_has_one_owner() {
    let kit = Kit::start();
    let (mut one, mut two) = (Tunnel::open(&kit), Tunnel::open(&kit));
    let (_, web) = one.expose(0);
    let (_, db) = one.pull(0);
    for tunnel in [&mut one, &mut two] {
        refused(tunnel, expose(web), "ALREADY_BOUND");
        refused(tunnel, pull(db), "ALREADY_BOUND");
    }
    let taken = TcpListener::bind(("127.0.0.1", free_port())).expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    refused(&mut two, expose(port), "PORT_IN_USE");
    refused(&mut two, pull(port), "PORT_IN_USE");
    drop(taken);
    two.expose(port);
}

#[test]
fn a_session_has_a_bound_number_of_bindings() {
    let kit = Kit::with(&["--max-bindings-per-session", "2"]);
    let mut tunnel = Tunnel::open(&kit);
    let (first, _) = tunnel.expose(0);
    tunnel.pull(0);
    refused(&mut tunnel, expose(0), "BIND_CAP_EXCEEDED");
    tunnel.json(UNBIND, json!({ "bindId": first }));
    tunnel.expect(UNBIND_OK);
    tunnel.expose(0);
}

#[test]
fn automatic_ports_lie_where_they_should_and_urls_follow_the_pattern() {
    let pattern = "https://myapp-{port}.example";
    let kit = Kit::with(&["--public-url-pattern", pattern]);
    let mut tunnel = Tunnel::open(&kit);
    for port in [json!(0), json!(null)] {
        let bind = json!({ "kind": "http", "mode": "expose", "containerPort": port });
        let answer = tunnel.bind(bind).json();
        let got = answer["containerPort"].as_u64().expect("a port");
        assert!((20_000..=65_534).contains(&got), "{got}");
        assert_eq!(answer["publicUrl"], format!("https://myapp-{got}.example"));
    }
    let answer = tunnel
        .bind(json!({ "kind": "http", "mode": "expose" }))
        .json();
    assert!(
        answer["containerPort"]
            .as_u64()
            .is_some_and(|port| port >= 20_000),
        "{answer}"
    );
    let plain = Kit::start();
    let answer = Tunnel::open(&plain).bind(expose(0)).json();
    assert_eq!(answer["publicUrl"], Value::Null);
}

#[test]
fn unbind_releases_the_port_and_ids_are_never_used_again() {
    let kit = Kit::start();
    let mut tunnel = Tunnel::open(&kit);
    let (first, port) = tunnel.expose(0);
    let (_talk, stream) = tunnel.visited(port);
    tunnel.json(UNBIND, json!({ "bindId": first }));
    assert_eq!(
        tunnel.expect(UNBIND_OK).json()["bindId"].as_u64(),
        Some(first)
    );
    eventually("the port is closed", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    });
    tunnel.respond(stream, 200, b"");
    tunnel.json(UNBIND, json!({ "bindId": first }));
    let error = tunnel.expect(UNBIND_ERR).json();
    assert_eq!(
        (error["bindId"].as_u64(), error["code"].as_str()),
        (Some(first), Some("NOT_FOUND"))
    );
    let (second, _) = tunnel.expose(port);
    assert_ne!(first, second);
}

#[test]
fn takeover_moves_the_port_and_tells_the_old_owner() {
    let kit = Kit::start();
    let (mut old, mut new) = (Tunnel::open(&kit), Tunnel::open(&kit));
    let (old_id, port) = old.expose(0);
    let mut waiting = Talk::port(port);
    waiting.say("GET /old HTTP/1.1\r\nHost: a\r\n\r\n");
    let stream = old.expect(STREAM_OPEN).stream;
    let mut begun = Talk::port(port);
    begun.say("GET /begun HTTP/1.1\r\nHost: a\r\n\r\n");
    let begun_stream = old.expect(STREAM_OPEN).stream;
    let head = json!({ "status": 200, "headers": [["content-length", "100"]], "final": true });
    old.frame(RESPONSE_HEAD, begun_stream, head.to_string().as_bytes());
    old.frame(DATA, begun_stream, b"part");
    assert!(begun.head().is_some());
    let mut bind = expose(port);
    bind["takeover"] = json!(true);
    let (new_id, same) = new.bound(bind.clone());
    assert_eq!(same, port);
    assert_eq!(old.expect_on(RESET, stream).code(), BIND_TAKEOVER);
    assert_eq!(
        old.expect(BIND_REVOKED).json()["bindId"].as_u64(),
        Some(old_id)
    );
    assert_eq!(waiting.reply(false).status, 502, "before its head");
    begun.take(4);
    assert!(begun.at_end(), "after its head the connection breaks");
    let mut talk = Talk::port(port);
    talk.say("GET /new HTTP/1.1\r\nHost: a\r\n\r\n");
    let open = new.expect(STREAM_OPEN);
    assert_eq!(open.json()["target"], "/new");
    new.respond(open.stream, 200, b"new");
    assert_eq!(talk.reply(false).text(), "new");
    old.json(UNBIND, json!({ "bindId": old_id }));
    assert_eq!(old.expect(UNBIND_ERR).json()["code"], "NOT_FOUND");
    let (own_id, _) = new.bound(bind);
    assert_ne!(own_id, new_id, "taking over its own binding gives a new id");
    assert!(old.alive());
}
