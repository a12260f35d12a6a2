//! Floods of silent connections, and who gets in all the same.

use std::time::Duration;

use crate::entropy::Entropy;
use crate::kit::budget::Class;
use crate::kit::config::Config;
use crate::kit::conns::After;
use crate::kit::greeter::drain_lane;
use crate::kit::testing::{Host, UPGRADE, guarded};
use crate::limits::{PRE_AUTH_MAY_STAY, TICKETS_A_LANE};
use crate::mux::Lane;
use crate::wire::frame::FrameType;

const HEALTH: &[u8] = b"GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";

/// A kit whose doorstep is full of one address' silence, half of it after an upgrade.
fn flooded() -> Host {
    let mut host = Host::new(guarded());
    for port in 0..Config::default().max_pre_auth_connections {
        let conn = host.visit(&format!("192.0.2.66:{}", 1000 + port)).unwrap();
        if port % 2 == 0 {
            host.send(conn, UPGRADE);
            host.receive(conn);
        }
    }
    host
}

#[test]
fn silent_connections_of_one_address_lock_nobody_else_out() {
    let mut host = flooded();
    let operator = host.visit("192.0.2.1:1").expect("room was made");
    assert_eq!(host.closed.len(), 1, "one of the flood went for it");
    // The flood goes on, and displaces itself.
    for port in 0..100 {
        host.visit(&format!("192.0.2.66:{}", 3000 + port));
    }
    host.send(operator, HEALTH);
    assert!(host.receive(operator).starts_with("HTTP/1.1 200 "));
    let laptop = host.laptop("192.0.2.2:1");
    assert!(!host.closed.contains(&operator) && !host.closed.contains(&laptop.conn));
    let page = host.get("metrics");
    assert!(
        page.contains("reason=\"pre_auth_displaced\"} 2\n"),
        "{page}"
    );
    assert!(page.contains("reason=\"pre_auth_limit\"} 100\n"), "{page}");
}

#[test]
fn behind_one_address_only_those_go_that_had_time_to_speak() {
    let mut host = flooded();
    assert_eq!(host.visit("192.0.2.66:1"), None, "all of them are fresh");
    host.pass(PRE_AUTH_MAY_STAY);
    let newcomer = host.visit("192.0.2.66:1").expect("room was made");
    for port in 2..100 {
        host.visit(&format!("192.0.2.66:{port}"));
    }
    assert!(!host.closed.contains(&newcomer), "it is fresh");
    host.send(newcomer, HEALTH);
    assert!(host.receive(newcomer).starts_with("HTTP/1.1 200 "));
}

#[test]
fn who_was_answered_stays_longer_than_who_said_nothing() {
    let mut host = Host::new(Config {
        max_pre_auth_connections: 3,
        ..guarded()
    });
    let operator = host.visit("192.0.2.66:1").unwrap();
    host.send(operator, HEALTH);
    host.receive(operator);
    let silent = [2, 3].map(|port| {
        host.pass(Duration::from_millis(1));
        host.visit(&format!("192.0.2.66:{port}")).unwrap()
    });
    host.pass(PRE_AUTH_MAY_STAY);
    for conn in [silent[0], silent[1], operator] {
        host.visit("192.0.2.66:9").expect("room was made");
        assert_eq!(host.closed.last(), Some(&conn));
    }
}

/// What the kit answers to the first frame of a new WebSocket.
fn greet(host: &mut Host, offer: &str, kind: FrameType, json: &str) -> String {
    greeting(host, offer, kind, json).1
}

/// The same, and the WebSocket.
fn greeting(host: &mut Host, offer: &str, kind: FrameType, json: &str) -> (Lane, String) {
    let conn = host.visit("192.0.2.7:1").expect("accepted");
    let upgrade = String::from_utf8_lossy(UPGRADE).replace("hoody-tunnel.v1", offer);
    host.send(conn, upgrade.as_bytes());
    host.receive(conn);
    let mut lane = Lane::client(conn, Entropy::from_seed(3), host.now);
    lane.push_control(kind, json.as_bytes());
    host.send(conn, &drain_lane(&mut lane));
    let answer = host.receive(conn);
    if host
        .kit
        .conns
        .get(conn.retype())
        .is_some_and(|entry| entry.after != After::Stay)
    {
        host.finish(conn);
    }
    (lane, answer)
}

/// A kit of few descriptors, whose sessions have all that lanes may have. With it, a lane's ticket.
fn crowded() -> (Host, String) {
    let mut host = Host::new(Config {
        fd_budget: 40,
        max_sessions: 64,
        ..guarded()
    });
    let first = greet(&mut host, "hoody-tunnel.v2", FrameType::Hello, FOUR);
    let mut port = 1000;
    while greet(&mut host, "hoody-tunnel.v2", FrameType::Hello, FOUR).contains("streamWindow") {
        port += 1;
        assert!(port < 1040, "every one of them gets a session");
    }
    (host, join_with(&first, &first))
}

const FOUR: &str =
    r#"{"version":"hoody-tunnel.v2","maxConnections":4,"capabilities":["multi-ws"]}"#;

/// A JOIN for lane 1 of the session that `hello_ok` began, by the first ticket in `tickets`.
fn join_with(hello_ok: &str, tickets: &str) -> String {
    let text = |answer: &str, name: &str| {
        let (_, rest) = answer
            .split_once(&format!("\"{name}\":\""))
            .expect("a text");
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let (id, nonce) = (text(hello_ok, "sessionId"), text(tickets, "nonce"));
    format!(r#"{{"sessionId":"{id}","index":1,"nonce":"{nonce}"}}"#)
}

#[test]
fn sessions_cannot_use_up_what_operators_and_newcomers_need() {
    let (mut host, join) = crowded();
    let hello = r#"{"version":"hoody-tunnel.v1"}"#;
    let answer = greet(&mut host, "hoody-tunnel.v1", FrameType::Hello, hello);
    assert!(answer.contains("no file descriptors left") && answer.contains("\"code\":14"));
    let answer = greet(&mut host, "hoody-tunnel.v2", FrameType::Join, &join);
    assert!(answer.contains("no file descriptors left"), "{answer}");
    assert!(
        host.ask("GET /api/v1/tunnel/health", "")
            .starts_with("HTTP/1.1 200 ")
    );
    let page = host.get("metrics");
    assert!(
        page.contains("refusals_total{reason=\"descriptors\"} 3\n"),
        "{page}"
    );
}

#[test]
fn a_laptop_that_comes_back_takes_its_own_place_where_there_is_no_other() {
    let (mut host, join) = crowded();
    let id = join.split('"').nth(3).unwrap_or_default();
    let hello = format!(r#"{{"version":"hoody-tunnel.v1","resume":{{"sessionId":"{id}"}}}}"#);
    let answer = greet(&mut host, "hoody-tunnel.v1", FrameType::Hello, &hello);
    assert!(answer.contains("\"resumed\":true"), "{answer}");
}

#[test]
fn a_lane_is_joined_on_the_second_version_only() {
    let mut host = Host::new(guarded());
    let join = r#"{"sessionId":"S-1","index":1,"nonce":"2"}"#;
    let answer = greet(&mut host, "hoody-tunnel.v2", FrameType::Join, join);
    assert!(answer.contains("UNKNOWN_SESSION"), "{answer}");
    let answer = greet(&mut host, "hoody-tunnel.v1", FrameType::Join, join);
    assert!(
        answer.contains("\u{3}\u{fffd}JOIN is not spoken"),
        "close 1002: {answer}"
    );
}

#[test]
fn a_ticket_stays_good_while_others_are_given_for_its_lane() {
    let (good, bad) = ("\"index\":1", "BAD_TICKET");
    for (more, old, new) in [
        // The lane of the first that joins stands.
        (TICKETS_A_LANE - 1, good, "INDEX_IN_USE"),
        (TICKETS_A_LANE, bad, good),
    ] {
        let mut host = Host::new(guarded());
        let (mut lane, first) = greeting(&mut host, "hoody-tunnel.v2", FrameType::Hello, FOUR);
        let mut last = String::new();
        for _ in 0..more {
            lane.push_control(FrameType::ReissueJoinTickets, b"{}");
            host.send(lane.conn(), &drain_lane(&mut lane));
            last = host.receive(lane.conn());
        }
        for (tickets, word) in [(&first, old), (&last, new)] {
            let join = join_with(&first, tickets);
            let answer = greet(&mut host, "hoody-tunnel.v2", FrameType::Join, &join);
            assert!(answer.contains(word), "{answer}");
        }
        // The lane stands and gets no other.
        lane.push_control(FrameType::ReissueJoinTickets, b"{}");
        host.send(lane.conn(), &drain_lane(&mut lane));
        let rest = host.receive(lane.conn());
        let (_, rest) = rest.split_once("joinTickets").expect("an answer");
        assert!(
            rest.contains("\"index\":2") && !rest.contains("\"index\":1"),
            "{rest}"
        );
    }
}

#[test]
fn an_operator_gets_in_where_silence_and_visitors_hold_all_descriptors() {
    let mut host = Host::new(Config {
        fd_budget: 400,
        ..guarded()
    });
    for port in 0..Config::default().max_pre_auth_connections {
        let conn = host.visit(&format!("192.0.2.66:{}", 1000 + port));
        assert!(conn.is_some(), "there is room for {port}");
    }
    host.pass(PRE_AUTH_MAY_STAY);
    let permits: Vec<_> = [Class::Visitor, Class::Refusal]
        .into_iter()
        .flat_map(|class| std::iter::from_fn(|| host.kit.budget.take(class)).collect::<Vec<_>>())
        .collect();
    assert!(permits.len() > 200, "visitors hold what they may");
    let front = host.kit.front.expect("the front listens");
    let peer = "192.0.2.1:1".parse().unwrap();
    let operator = host.kit.accept(front, peer, host.now);
    for permit in permits {
        host.kit.budget.give_back(permit);
    }
    assert!(operator.is_some());
}
