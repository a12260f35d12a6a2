//! The endpoints over the whole machine, without a socket: requests in, answers out.

use std::time::Duration;

use super::*;
use crate::kit::config::Config;
use crate::kit::testing::{Host, guarded};
use crate::limits::{AUTH_DELAY_MAX, AUTH_FREE_FAILURES, FRONT_HEAD_TIMEOUT, MIN_HALL};
use crate::machine::{Ended, Event, Machine};
use crate::wire::frame::FrameType;

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn every_endpoint_answers_over_the_machine() {
    let mut host = Host::new(guarded());
    let health = host.ask("GET /api/v1/tunnel/health", "");
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"),
        "{health}"
    );
    assert!(
        body(&health).contains(r#""memory":{"rss":12345,"heap":null},"fds":6"#),
        "{health}"
    );
    let empty = host.get("sessions");
    assert_eq!(body(&empty), r#"{"sessions":[],"total":0}"#);
    assert_eq!(body(&host.get("bindings")), r#"{"bindings":[],"total":0}"#);
    let tunnels = host.get("tunnels");
    assert!(
        body(&tunnels).contains(r#""orphanedSessions":0,"totalStreams":0"#),
        "{tunnels}"
    );
    assert_eq!(body(&host.get("openapi.json")), admin::OPENAPI);
    let page = host.get("metrics");
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    assert!(page.contains("\nhoody_tunnel_sessions_active 0\n"));
    // The listener and this very connection.
    let permits = format!("\nhoody_tunnel_fd_permits_available {}\n", 4096 - 2);
    assert!(page.contains(&permits), "{page}");
    assert!(
        page.contains("\nhoody_tunnel_admin_requests_total{status=\"2xx\"} 6\n"),
        "{page}"
    );
}

#[test]
fn head_is_get_without_its_body() {
    let mut host = Host::new(guarded());
    let answer = host.ask("HEAD /api/v1/tunnel/health", "");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && body(&answer).is_empty(),
        "{answer}"
    );
    assert!(!answer.contains("content-length: 0"));
}

#[test]
fn pipelined_requests_of_an_operator_are_answered_in_order() {
    let mut host = Host::new(guarded());
    let conn = host.visit("192.0.2.1:1000").unwrap();
    let one = "GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";
    let two = "GET /api/v1/tunnel/sessions HTTP/1.1\r\nHost: a\r\n\r\n";
    let three = "DELETE /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";
    host.send(conn, [one, two, three, one].concat().as_bytes());
    let answers = host.receive(conn);
    let statuses: Vec<_> = answers
        .split("HTTP/1.1 ")
        .filter_map(|answer| answer.get(..3))
        .collect();
    assert_eq!(statuses, ["200", "401", "405", "200"]);
    assert!(host.closed.is_empty(), "the connection stays");
}

#[test]
fn an_operator_that_asks_and_does_not_read_costs_one_answer() {
    let mut host = Host::new(guarded());
    let conn = host.visit("192.0.2.1:1000").unwrap();
    let ask = "GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";
    host.send(conn, ask.repeat(100).as_bytes());
    assert!(host.kit.read_space(conn).is_empty(), "it is read on");
    let waiting = host.kit.transmit(conn, host.now);
    assert_eq!(
        String::from_utf8_lossy(waiting).matches(" 200 OK").count(),
        1
    );
    // It reads, and so it gets all of them, and may ask on.
    assert_eq!(host.receive(conn).matches(" 200 OK").count(), 100);
    host.send(conn, ask.repeat(3).as_bytes());
    host.finish_unread(conn);
    assert_eq!(host.receive(conn).matches(" 200 OK").count(), 3);
    host.finish(conn);
    assert_eq!(
        host.closed,
        [conn],
        "all that it asked before its FIN was answered"
    );
}

#[test]
fn an_unknown_session_cannot_be_killed() {
    let mut host = Host::new(guarded());
    let fields = "Authorization: Bearer hush\r\n";
    let answer = host.ask("DELETE /api/v1/tunnel/sessions/S-1?grace_ms=0", fields);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(body(&answer), r#"{"error":"no such session"}"#);
}

#[test]
fn whoever_guesses_tokens_waits_and_nobody_else_does() {
    let mut host = Host::new(guarded());
    for _ in 0..=AUTH_FREE_FAILURES {
        let answer = host.ask(
            "GET /api/v1/tunnel/sessions",
            "Authorization: Bearer no\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    let conn = host.visit("192.0.2.1:1001").unwrap();
    let request = "GET /api/v1/tunnel/sessions HTTP/1.1\r\nHost: a\r\n\
                   Authorization: Bearer hush\r\n\r\n";
    host.send(conn, request.as_bytes());
    assert_eq!(
        host.receive(conn),
        "",
        "the right token waits too, or guessers would not"
    );
    let other = host.visit("192.0.2.2:1001").unwrap();
    host.send(other, request.as_bytes());
    assert!(host.receive(other).starts_with("HTTP/1.1 200 "));
    host.pass(AUTH_DELAY_MAX);
    assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
    let page = host.get("metrics");
    assert!(
        page.contains("hoody_tunnel_handshake_refusals_total{reason=\"auth\"} 4\n"),
        "{page}"
    );
}

#[test]
fn connections_before_authentication_are_capped_and_their_permits_come_home() {
    let mut host = Host::new(Config {
        fd_budget: 256,
        ..guarded()
    });
    for port in 0..MIN_HALL {
        host.visit(&format!("192.0.2.1:{}", 1000 + port)).unwrap();
    }
    assert_eq!(host.closed.len(), 0);
    host.visit("192.0.2.1:2000").unwrap();
    assert_eq!(host.closed.len(), 1, "one goes for another");
    host.pass(Duration::from_secs(60));
    assert_eq!(host.closed.len(), MIN_HALL + 1, "silent ones are closed");
    let page = host.get("metrics");
    assert!(
        page.contains("refusals_total{reason=\"pre_auth_displaced\"} 1\n"),
        "{page}"
    );
    assert!(
        page.contains(&format!("permits_available {}\n", 256 - 2)),
        "{page}"
    );
}

#[test]
fn a_request_cut_anywhere_gets_the_same_answer() {
    let request = b"GET /api/v1/tunnel/tunnels HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut answers = Vec::new();
    for cut in 1..request.len() {
        let mut host = Host::new(guarded());
        let conn = host.visit("192.0.2.1:1000").unwrap();
        host.send(conn, &request[..cut]);
        assert_eq!(host.receive(conn), "");
        host.send(conn, &request[cut..]);
        answers.push(host.receive(conn));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].starts_with("HTTP/1.1 401 "));
}

#[test]
fn who_was_away_when_its_session_was_killed_is_told_when_it_comes_back() {
    for parked in [true, false] {
        let mut host = Host::new(guarded());
        let laptop = host.laptop("192.0.2.7:1000");
        let id = host.get("sessions");
        let id = body(&id).split('"').nth(5).expect("an id").to_owned();
        if parked {
            let (conn, how) = (laptop.conn, Ended::Reset);
            host.kit.handle(Event::Ended { conn, how }, host.now);
            host.settle();
            let tunnels = host.get("tunnels");
            assert!(tunnels.contains(r#""orphanedSessions":1"#), "{tunnels}");
        }
        let path = format!("DELETE /api/v1/tunnel/sessions/{id}");
        let answer = host.ask(&path, "Authorization: Bearer hush\r\n");
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        // However late, and as often as it likes.
        for (at, after) in [0, 1, 3600].into_iter().enumerate() {
            host.pass(Duration::from_secs(after));
            let hello = format!(
                r#"{{"version":"hoody-tunnel.v1","resume":{{"sessionId":"{id}","attempt":{at}}}}}"#
            );
            let mut again = host.greet("192.0.2.7:2000", &hello);
            host.exchange(&mut again);
            let (kind, goaway) = again.told.pop().expect("told");
            assert!(kind == FrameType::GoAway && again.told.is_empty());
            assert!(goaway.contains(r#""code":7"#), "{goaway}");
            assert!(goaway.contains(r#""final":true"#), "{goaway}");
            assert!(goaway.contains("closed by the operator"), "{goaway}");
        }
        assert_eq!(host.kit.sessions.len(), 0);
        let metrics = host.get("metrics");
        assert!(metrics.contains("refusals_total{reason=\"killed\"} 3\n"));
        // A session of its own is nobody's business.
        host.laptop("192.0.2.7:3000");
    }
}

#[test]
fn a_client_in_another_session_that_wants_the_ports_of_a_killed_one_is_told_too() {
    let mut host = Host::new(guarded());
    host.laptop("192.0.2.7:1000");
    let id = host.get("sessions");
    let id = body(&id).split('"').nth(5).expect("an id").to_owned();
    host.end_all_sessions();
    let mut again = host.greet("192.0.2.7:2000", r#"{"version":"hoody-tunnel.v1"}"#);
    host.exchange(&mut again);
    for replaces in ["S-another", &id] {
        assert_eq!(host.kit.sessions.len(), 1, "it is there until then");
        let bind = format!(
            r#"{{"clientBindRef":1,"kind":"http","mode":"expose","containerPort":0,
                "replaces":"{replaces}"}}"#
        );
        let lanes = again.mux.lanes_mut();
        lanes.push_control(FrameType::Bind, bind.as_bytes());
        host.exchange(&mut again);
    }
    let (kind, goaway) = again.told.last().expect("told");
    assert!(*kind == FrameType::GoAway, "{goaway}");
    assert!(goaway.contains(r#""code":7"#) && goaway.contains(r#""final":true"#));
    assert_eq!(host.kit.sessions.len(), 0);
}

#[test]
fn a_ban_keeps_who_was_killed_away_from_its_address_for_its_time() {
    let mut host = Host::new(guarded());
    let mut laptop = host.laptop("192.0.2.7:1000");
    let id = host.get("sessions");
    let id = body(&id).split('"').nth(5).expect("an id").to_owned();
    let path = format!("DELETE /api/v1/tunnel/sessions/{id}?grace_ms=0&ban=10m");
    let answer = host.ask(&path, "Authorization: Bearer hush\r\n");
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    host.exchange(&mut laptop);
    let (_, goaway) = laptop.told.last().expect("told");
    assert!(
        goaway.contains(r#""code":7"#) && goaway.contains(r#""final":true"#),
        "{goaway}"
    );

    let hello = r#"{"version":"hoody-tunnel.v1"}"#;
    let mut again = host.greet("192.0.2.7:2000", hello);
    host.exchange(&mut again);
    let (_, goaway) = again.told.pop().expect("told");
    assert!(goaway.contains("keeps this address away"), "{goaway}");
    assert!(goaway.contains(r#""final":true"#), "{goaway}");
    assert!(
        host.get("metrics")
            .contains("refusals_total{reason=\"banned\"} 1\n")
    );
    // Whoever else has the token comes in, and operators at that address still ask.
    host.laptop("192.0.2.8:1000");
    let health = "GET /api/v1/tunnel/health HTTP/1.1\r\nHost: [::1]\r\n\r\n";
    let near = host.visit("192.0.2.7:3000").expect("accepted");
    host.send(near, health.as_bytes());
    assert!(host.receive(near).starts_with("HTTP/1.1 200 "));
    host.pass(Duration::from_secs(600));
    host.laptop("192.0.2.7:4000");
}

#[test]
fn whatever_the_kit_says_itself_carries_the_date_once_it_is_known() {
    let mut host = Host::new(guarded());
    let dated = "\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let asks = [
        ("GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (
            "GET /api/v1/tunnel/metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            401,
        ),
        ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        ("HEAD / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ];
    for (clock, seconds) in [(false, None), (true, Some(784_111_777))] {
        if let Some(seconds) = seconds {
            host.kit.dated(seconds);
        }
        for (ask, status) in asks {
            let conn = host.visit("192.0.2.1:1").expect("accepted");
            host.send(conn, ask.as_bytes());
            let said = host.receive(conn);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            assert_eq!(said.contains(dated), clock, "{said}");
            let has_content = !said.ends_with("\r\n\r\n");
            assert_eq!(has_content, !ask.starts_with("HEAD"), "{said}");
        }
    }
}

#[test]
fn behind_a_head_that_comes_too_slowly_there_is_no_content() {
    let mut host = Host::new(guarded());
    for (ask, has_content) in [("HEAD / HTTP/1.1\r\n", false), ("GET / HTTP/1.1\r\n", true)] {
        let conn = host.visit("192.0.2.1:1").expect("accepted");
        host.send(conn, ask.as_bytes());
        host.pass(FRONT_HEAD_TIMEOUT);
        let said = host.receive(conn);
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        assert_eq!(!said.ends_with("\r\n\r\n"), has_content, "{said}");
    }
}
