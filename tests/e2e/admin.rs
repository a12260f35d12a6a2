//! The kit's own endpoints: PROTOCOL §10, the metrics, and the `hoody` commands that use them.

use crate::support::client::{Hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::{Kit, TOKEN};
use crate::support::proc::{kit_program, ok, run};
use crate::support::tunnel::*;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, eventually};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_endpoints_say_exactly_what_is_written() {
    let kit = Kit::start();
    let mut one = Tunnel::open(&kit);
    let (web, port) = one.expose(0);
    let (db, pull) = one.pull(0);
    let mut talk = Talk::port(port);
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    one.expect(STREAM_OPEN);
    let health = kit.admin_with("GET", "health", "");
    let health: Value = serde_json::from_slice(&health.body).expect("JSON without a token");
    assert_eq!(
        keys(&health),
        [
            "built",
            "fds",
            "ip",
            "memory",
            "pid",
            "service",
            "started",
            "status",
            "userAgent"
        ]
    );
    assert_eq!(
        (&health["status"], &health["service"]),
        (&json!("ok"), &json!("hoody-tunnel"))
    );
    assert_eq!(health["pid"].as_u64(), Some(u64::from(kit.proc.pid())));
    assert!(
        health["memory"]["rss"]
            .as_u64()
            .is_some_and(|rss| rss > 100_000),
        "bytes: {health}"
    );
    let session = json!({
        "sessionId": one.id(), "isV2": false, "connectionsGranted": 1, "activeStreams": 1,
        "bindings": [
            { "bindId": web, "containerPort": port, "kind": "http", "mode": "expose" },
            { "bindId": db, "containerPort": pull, "kind": "tcp", "mode": "pull" },
        ],
    });
    let sessions = kit.json("sessions");
    assert_eq!(sessions["total"], 1);
    let row = &sessions["sessions"][0];
    assert_eq!(
        keys(row),
        [
            "activeStreams",
            "bindings",
            "connectionsGranted",
            "isV2",
            "maxStreams",
            "peerAddr",
            "sessionId"
        ]
    );
    for (key, value) in session.as_object().expect("an object") {
        assert_eq!(&row[key], value, "{key}");
    }
    let bindings = kit.json("bindings");
    assert_eq!(bindings["total"], 2);
    let rows = bindings["bindings"].as_array().expect("rows");
    let expose = rows
        .iter()
        .find(|row| row["mode"] == "expose")
        .expect("the expose row");
    assert_eq!(expose["port"], port);
    assert!(
        expose.get("bindAddr").is_none_or(Value::is_null),
        "only on PULL rows: {expose}"
    );
    let row = rows
        .iter()
        .find(|row| row["mode"] == "pull")
        .expect("the pull row");
    assert_eq!(
        row["bindAddr"]
            .as_str()
            .map(|at| at.starts_with("127.0.0.1")),
        Some(true)
    );
    let tunnels = kit.json("tunnels");
    assert_eq!(
        keys(&tunnels),
        [
            "fdPermitsAvailable",
            "orphanedSessions",
            "sessions",
            "totalBindings",
            "totalStreams"
        ]
    );
    assert_eq!(
        (&tunnels["totalStreams"], &tunnels["totalBindings"]),
        (&json!(1), &json!(2))
    );
    let row = &tunnels["sessions"][0];
    assert_eq!(row["protocol"], "v1");
    assert_eq!(
        row["exposeBindings"],
        json!([{ "bindId": web, "containerPort": port }])
    );
    assert_eq!(
        row["pullBindings"],
        json!([{ "bindId": db, "containerPort": pull }])
    );
    let openapi = kit.json("openapi.json");
    assert!(
        openapi["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    for path in [
        "health",
        "metrics",
        "sessions",
        "bindings",
        "tunnels",
        "sessions/{id}",
    ] {
        let path = format!("/api/v1/tunnel/{path}");
        assert!(openapi["paths"].get(&path).is_some(), "{path} is described");
    }
}

#[test]
fn wrong_requests_get_their_status() {
    let kit = Kit::start();
    for path in [
        "metrics",
        "sessions",
        "bindings",
        "tunnels",
        "openapi.json",
        "sessions/S-x",
    ] {
        let method = if path == "sessions/S-x" {
            "DELETE"
        } else {
            "GET"
        };
        for fields in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Basic eA==\r\n",
        ] {
            let reply = kit.admin_with(method, path, fields);
            assert_eq!(reply.status, 401, "{path} with {fields:?}");
            assert_eq!(
                reply.field("www-authenticate").as_deref(),
                Some("Bearer"),
                "{path}"
            );
        }
    }
    assert_eq!(kit.admin("GET", "nothing").status, 404);
    let reply = kit.admin("POST", "sessions");
    assert_eq!(reply.status, 405);
    assert!(
        reply
            .field("allow")
            .is_some_and(|allow| allow.contains("GET"))
    );
    assert!(
        serde_json::from_slice::<Value>(&reply.body).is_ok_and(|body| body["error"].is_string())
    );
    let id = Tunnel::open(&kit).id();
    for bad in ["-1", "5001", "x", "", "99999999999999999999"] {
        let path = format!("sessions/{id}?grace_ms={bad}");
        assert_eq!(kit.admin("DELETE", &path).status, 400, "grace_ms={bad}");
    }
    let path = "sessions/S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9?grace_ms=0";
    assert_eq!(kit.admin("DELETE", path).status, 404);
    assert_eq!(kit.admin("GET", &format!("sessions/{id}")).status, 405);
    let big = format!("X: {}\r\n", "a".repeat(40_000));
    assert!(matches!(
        kit.admin_with("GET", "health", &big).status,
        400 | 431
    ));
}

#[test]
fn names_that_are_not_ours_are_refused_without_a_token() {
    let kit = Kit::open(&[]);
    let ask = |host: &str| {
        kit.admin_with("GET", "sessions", &format!("Host: {host}\r\n"))
            .status
    };
    assert_eq!(ask("evil.example"), 403);
    assert_eq!(ask("evil.example:80"), 403);
    assert_eq!(ask("localhost.evil.example"), 403);
    for fine in [
        "127.0.0.1",
        "localhost",
        "localhost:50",
        "[::1]:50",
        "10.1.2.3:50",
    ] {
        assert_eq!(ask(fine), 200, "{fine}");
    }
    let named = Kit::open(&["--allow-host", "tunnel.example"]);
    let ask = |host: &str| {
        named
            .admin_with("GET", "sessions", &format!("Host: {host}\r\n"))
            .status
    };
    assert_eq!((ask("tunnel.example"), ask("evil.example")), (200, 403));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    for status in [200, 404, 500] {
        let (mut talk, stream) = owner.visited(port);
        owner.respond(stream, status, b"x");
        assert_eq!(talk.reply(false).status, status);
    }
    let dir = TempDir::new();
    let text = kit.admin("GET", "metrics").text();
    let path = dir.write("metrics", &text);
    let check = format!("promtool check metrics < {}", path.display());
    ok(Command::new("bash").args(["-c", &check]));
    for name in [
        "hoody_tunnel_sessions_active",
        "hoody_tunnel_bindings_active",
        "hoody_tunnel_fd_permits_available",
    ] {
        assert!(text.contains(&format!("# TYPE {name} gauge")), "{name}");
    }
    assert_eq!(kit.metric("hoody_tunnel_sessions_active", "") as u64, 1);
    assert_eq!(
        kit.metric("hoody_tunnel_bindings_active", "mode=\"expose\"") as u64,
        1
    );
    assert!(!text.contains(&owner.id()), "a session id is a secret");
}

#[test]
fn a_client_whose_session_is_killed_ends_with_the_reason_and_stays_away() {
    let upstream = Upstream::start(|exchange| {
        std::thread::sleep(Duration::from_secs(1));
        exchange.answer(200, "", b"finished");
        true
    });
    let kit = Kit::start();
    for grace in ["0", "5000"] {
        let mut hoody = Hoody::expose(&kit, upstream.port());
        let list = kit.json("bindings");
        let id = list["bindings"][0]["sessionId"].as_str().expect("an id");
        let mut talk = Talk::port(hoody.port());
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.next();
        let path = format!("sessions/{id}?grace_ms={grace}");
        assert_eq!(kit.admin("DELETE", &path).status, 202);
        if grace == "5000" {
            assert_eq!(talk.reply(false).text(), "finished");
        }
        assert_eq!(hoody.proc.wait(PATIENCE).code(), Some(1));
        let closed = hoody.wait_event(0, "closed", PATIENCE);
        assert_eq!(closed["kind"], "closed", "{closed}");
        let why = closed["error"].as_str().expect("a sentence");
        assert!(why.contains("closed by the operator"), "{why}");
        kit.has_sessions(0);
    }
}

#[test]
fn a_killed_session_drains_and_closes() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let (mut talk, stream) = owner.visited(port);
    let reply = kit.admin("DELETE", &format!("sessions/{}?grace_ms=3000", owner.id()));
    assert_eq!(reply.status, 202);
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(
        body,
        json!({ "sessionId": owner.id(), "status": "closing" })
    );
    assert_eq!(owner.expect(GOAWAY).json()["graceMs"], 3000);
    owner.respond(stream, 200, b"drained");
    assert_eq!(talk.reply(false).text(), "drained");
    assert_eq!(owner.expect_close().0, 1000);
    eventually("the port is free", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    });
    let mut parked = Tunnel::open(&kit);
    let (_, port) = parked.expose(0);
    let id = parked.id();
    parked.vanish(true);
    kit.has_parked(1);
    assert_eq!(
        kit.admin("DELETE", &format!("sessions/{id}?grace_ms=5000"))
            .status,
        202
    );
    // No grace is waited for: whoever asks next does not find it any more.
    assert_eq!(kit.json("sessions")["total"], 0);
    eventually("the port is free", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    });
}

#[test]
fn hoody_asks_and_steers() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let json_of = |args: &[&str]| -> Value {
        let text = ok(hoody_at(&kit, args).args(["-o", "json"]));
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: not JSON: {text}"))
    };
    assert_eq!(json_of(&["health"])["status"], "ok");
    assert_eq!(json_of(&["list"])["totalBindings"], 1);
    assert_eq!(
        json_of(&["sessions", "list"])["sessions"][0]["sessionId"],
        owner.id()
    );
    assert_eq!(json_of(&["bindings", "list"])["bindings"][0]["port"], port);
    assert!(ok(&mut hoody_at(&kit, &["metrics"])).contains("hoody_tunnel_sessions_active 1"));
    for table in [&["list"][..], &["sessions", "list"], &["bindings", "list"]] {
        let text = ok(&mut hoody_at(&kit, table));
        assert!(
            text.contains(&port.to_string()) || table[0] == "sessions",
            "{table:?}: {text}"
        );
    }
    let refused = run(&mut hoody_at(&kit, &["sessions", "kill", "S-nothing"]));
    assert_eq!(refused.status.code(), Some(1));
    // As of an unset variable: not "whichever there is".
    let refused = run(&mut hoody_at(&kit, &["sessions", "kill", ""]));
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(kit.json("sessions")["total"], 1);
    ok(&mut hoody_at(
        &kit,
        &["sessions", "kill", &owner.id(), "--grace-ms", "0"],
    ));
    owner.expect(GOAWAY);
    let mut wrong = hoody_at(&kit, &["list"]);
    wrong
        .args(["--token-file"])
        .arg(TempDir::new().write("t", "wrong"));
    assert_ne!(run(&mut wrong).status.code(), Some(0));
}

#[test]
fn the_kit_can_ask_itself_for_its_health() {
    let kit = Kit::start();
    let at = format!("127.0.0.1:{}", kit.port);
    let healthy = run(Command::new(kit_program()).args(["health", "--listen", &at]));
    assert_eq!(healthy.status.code(), Some(0), "{healthy:?}");
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let dead = run(Command::new(kit_program()).args(["health", "--listen", &nobody]));
    assert_eq!(dead.status.code(), Some(1), "{dead:?}");
}

#[test]
fn logs_tell_ends_with_reasons_and_never_secrets() {
    for format in ["text", "json"] {
        let kit = Kit::with(&["--log-format", format]);
        let mut owner = Tunnel::open(&kit);
        let (_, port) = owner.expose(0);
        let mut talk = Talk::port(port);
        talk.say("GET /private?key=hidden HTTP/1.1\r\nHost: a\r\nCookie: c=hidden\r\n\r\n");
        let stream = owner.expect(STREAM_OPEN).stream;
        owner.respond(stream, 200, b"x");
        talk.reply(false);
        let id = owner.id();
        owner.close(1000);
        let lines = eventually("the end is logged", PATIENCE, || {
            let lines = [kit.proc.out.all(), kit.proc.err.all()].concat();
            lines
                .iter()
                .any(|line| line.contains("session") && line.contains("end"))
                .then_some(lines)
        });
        let all = lines.join("\n");
        assert!(
            !all.contains(&id) && !all.contains(TOKEN) && !all.contains("hidden"),
            "{all}"
        );
        if format == "json" {
            for line in lines.iter().filter(|line| !line.is_empty()) {
                serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            }
        }
    }
}

#[test]
fn an_idle_visitor_is_no_byte_that_waits_in_the_kit() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let mut talk = Talk::port(port);
    // Longer than bytes wait in any kit that runs, also on a machine that is very busy.
    let idle = Duration::from_secs(4);
    for _ in 0..2 {
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let stream = owner.expect(STREAM_OPEN).stream;
        std::thread::sleep(idle);
        owner.respond(stream, 200, b"late");
        assert_eq!(talk.reply(false).text(), "late");
    }
    assert_eq!(
        kit.metric("hoody_tunnel_relay_wait_seconds_count", "") as u64,
        2
    );
    let waited = kit.metric("hoody_tunnel_relay_wait_seconds_sum", "");
    assert!(waited < idle.as_secs_f64(), "{waited} s in the kit");
}
