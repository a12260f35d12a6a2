//! Floods of silent connections, and who gets in all the same.

use crate::machine::{Ended, Event, Machine};
use std::time::Duration;

use crate::entropy::Entropy;
use crate::kit::budget::Class;
use crate::kit::config::Config;
use crate::kit::conns::After;
use crate::kit::front::greeter::drain_lane;
use crate::kit::testing::{Host, UPGRADE, guarded};
use crate::limits::{
    ACCEPTS_A_TURN, HALL_PART, LOOPBACK_RESERVE, MAX_HALL, PRE_AUTH_MAY_STAY, TICKETS_A_LANE,
};
use crate::machine::ConnKey;
use crate::mux::Transport;
use crate::wire::frame::FrameType;

const HEALTH: &[u8] = b"GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";

/// An upgrade whose token will come with HELLO.
fn bare_upgrade() -> Vec<u8> {
    let text = String::from_utf8_lossy(UPGRADE);
    text.replace("Authorization: Bearer hush\r\n", "").into()
}

/// Somebody upgrades without a token and says no more.
fn greet_silently(host: &mut Host, peer: &str) -> Option<ConnKey> {
    let conn = host.visit(peer).expect("whoever comes is read");
    host.send(conn, &bare_upgrade());
    let answer = host.receive(conn);
    let refused = answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n");
    assert!(refused || answer.starts_with("HTTP/1.1 101 "), "{answer}");
    (!refused).then_some(conn)
}

/// A kit whose admission is full of one address' silence: in the hall, and after upgrades.
fn flooded() -> Host {
    let mut host = Host::new(guarded());
    for port in 0..Config::default().max_pre_auth_connections {
        let peer = format!("192.0.2.66:{}", 1000 + port);
        greet_silently(&mut host, &peer).expect("a place");
    }
    for port in 0..MAX_HALL {
        let peer = format!("192.0.2.66:{}", 2000 + port);
        host.visit(&peer).expect("whoever comes is read");
    }
    host.closed.clear();
    host
}

#[test]
fn silent_connections_of_one_address_lock_nobody_else_out() {
    let mut host = flooded();
    let operator = host.visit("192.0.2.1:1").expect("room was made");
    assert_eq!(host.closed.len(), 1, "one of the flood went for it");
    // The flood goes on, and displaces itself.
    for port in 0..1000 {
        host.visit(&format!("192.0.2.66:{}", 3000 + port));
    }
    host.send(operator, HEALTH);
    assert!(host.receive(operator).starts_with("HTTP/1.1 200 "));
    let laptop = host.laptop("192.0.2.2:1");
    let other = greet_silently(&mut host, "192.0.2.3:1").expect("the flood makes room");
    for port in 0..100 {
        let peer = format!("192.0.2.66:{}", 3000 + port);
        assert_eq!(greet_silently(&mut host, &peer), None, "it has its share");
    }
    assert!(
        [operator, laptop.conn, other]
            .iter()
            .all(|conn| !host.closed.contains(conn))
    );
    let page = host.get("metrics");
    assert!(page.contains("reason=\"pre_auth_limit\"} 100\n"), "{page}");
}

#[test]
fn health_is_answered_at_once_whatever_waits_before_the_same_address() {
    let mut host = flooded();
    for port in 0..200 {
        // One after the other, in the midst of a flood that is faster.
        let probe = host.visit("192.0.2.66:1").expect("whoever comes is read");
        for more in 0..2 * ACCEPTS_A_TURN {
            host.visit(&format!("192.0.2.66:{}", 3000 + more));
        }
        host.send(probe, &HEALTH[..20]);
        host.send(probe, &HEALTH[20..]);
        let answer = host.receive(probe);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{port}: {answer}");
    }
}

#[test]
fn where_descriptors_are_few_greeters_leave_some_to_those_who_ask() {
    let mut host = Host::new(Config {
        fd_budget: 48,
        ..guarded()
    });
    for n in 0..100 {
        greet_silently(&mut host, &format!("192.0.2.{n}:1"));
    }
    for port in 0..100 {
        let probe = host.visit("198.51.100.1:1").expect("whoever comes is read");
        for n in 0..4 {
            host.visit(&format!("203.0.113.{n}:1"));
        }
        host.send(probe, HEALTH);
        let answer = host.receive(probe);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{port}: {answer}");
    }
}

#[test]
fn who_shows_the_token_needs_no_place_before_hello() {
    let mut host = flooded();
    for port in 0..20 {
        let laptop = host.laptop(&format!("192.0.2.66:{port}"));
        assert!(!host.closed.contains(&laptop.conn));
        let (conn, how) = (laptop.conn, Ended::Reset);
        host.kit.handle(Event::Ended { conn, how }, host.now);
        host.settle();
        host.pass(Duration::from_millis(100));
        host.kit
            .sessions
            .iter()
            .for_each(|(_, it)| assert!(it.is_parked()));
        host.end_all_sessions();
        host.settle();
    }
}

#[test]
fn loopback_has_places_that_no_proxys_visitor_gets() {
    let mut host = flooded();
    for port in 0..LOOPBACK_RESERVE {
        greet_silently(&mut host, &format!("127.0.0.1:{port}")).expect("a reserved place");
    }
    let mut host = Host::new(guarded());
    let cap = Config::default().max_pre_auth_connections;
    // What comes through a proxy of this machine, whose visitor is one of its programs.
    let proxied = String::from_utf8(bare_upgrade()).unwrap();
    let proxied = proxied.replace("Host: a\r\n", "Host: a\r\nX-Forwarded-For: 127.0.0.1\r\n");
    for port in 0..cap + LOOPBACK_RESERVE {
        let conn = host.visit(&format!("127.0.0.1:{port}")).unwrap();
        host.send(conn, proxied.as_bytes());
        let status = if port < cap { "101" } else { "503" };
        let answer = host.receive(conn);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{port}: {answer}"
        );
    }
    for port in 0..LOOPBACK_RESERVE {
        greet_silently(&mut host, &format!("127.0.0.1:{}", 1000 + port)).expect("a place");
    }
    assert_eq!(greet_silently(&mut host, "127.0.0.1:9"), None);
}

#[test]
fn a_customers_whole_network_of_ipv6_is_one_address() {
    let mut host = Host::new(guarded());
    let cap = Config::default().max_pre_auth_connections;
    for n in 0..cap {
        let peer = format!("[2001:db8:1:2:{n:x}::{n:x}]:1000");
        greet_silently(&mut host, &peer).expect("a place");
    }
    // None of its addresses holds more than one, and all the same they hold the most.
    assert_eq!(greet_silently(&mut host, "[2001:db8:1:2:ffff::1]:1"), None);
    greet_silently(&mut host, "[2001:db8:1:3::1]:1").expect("the network makes room");
    for n in 0..2 * MAX_HALL {
        host.visit(&format!("[2001:db8:1:2:{n:x}::{n:x}]:1000"))
            .unwrap();
    }
    let quiet = host.visit("[2001:db8:1:4::1]:1").unwrap();
    for n in 0..2 * MAX_HALL {
        host.visit(&format!("[2001:db8:1:2:{n:x}::{n:x}]:1000"))
            .unwrap();
    }
    assert!(
        !host.closed.contains(&quiet),
        "the network displaces itself"
    );
}

#[test]
fn behind_one_address_only_those_go_that_had_time_to_speak() {
    let mut host = flooded();
    assert_eq!(
        greet_silently(&mut host, "192.0.2.66:1"),
        None,
        "all are fresh"
    );
    host.pass(PRE_AUTH_MAY_STAY);
    let newcomer = greet_silently(&mut host, "192.0.2.66:1").expect("room was made");
    for port in 2..100 {
        greet_silently(&mut host, &format!("192.0.2.66:{port}"));
    }
    assert!(!host.closed.contains(&newcomer), "it is fresh");
}

#[test]
fn whoever_came_or_asked_longest_ago_goes_first() {
    let mut host = Host::new(guarded());
    let operator = host.visit("192.0.2.66:1").unwrap();
    let full = host.kit.cx.config.fd_budget / HALL_PART;
    let silent: Vec<ConnKey> = (2..=full)
        .map(|port| {
            host.pass(Duration::from_millis(1));
            host.visit(&format!("192.0.2.66:{port}")).unwrap()
        })
        .collect();
    assert_eq!(host.closed, []);
    host.pass(Duration::from_millis(1));
    host.send(operator, HEALTH);
    host.receive(operator);
    for conn in silent.into_iter().chain([operator]) {
        host.visit("192.0.2.66:9").expect("room was made");
        assert_eq!(host.closed.last(), Some(&conn));
    }
}

/// What the kit answers to the first frame of a new WebSocket.
fn greet(host: &mut Host, offer: &str, kind: FrameType, json: &str) -> String {
    greeting(host, offer, kind, json).1
}

/// The same, and the WebSocket.
fn greeting(host: &mut Host, offer: &str, kind: FrameType, json: &str) -> (Transport, String) {
    let conn = host.visit("192.0.2.7:1").expect("accepted");
    let upgrade = String::from_utf8_lossy(UPGRADE).replace("hoody-tunnel.v1", offer);
    host.send(conn, upgrade.as_bytes());
    host.receive(conn);
    let mut lane = Transport::client(conn, Entropy::from_seed(3), host.now);
    lane.push_control(kind, json.as_bytes());
    host.send(conn, &drain_lane(&mut lane));
    let answer = host.receive(conn);
    if host
        .kit
        .conns
        .get(conn)
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
        .flat_map(|class| {
            std::iter::from_fn(|| host.kit.conns.budget.take(class)).collect::<Vec<_>>()
        })
        .collect();
    assert!(permits.len() > 200, "visitors hold what they may");
    let front = host.front;
    let peer = "192.0.2.1:1".parse().unwrap();
    let operator = host.kit.accept(front, peer);
    for permit in permits {
        host.kit.conns.budget.give_back(permit);
    }
    assert!(operator.is_some());
}

#[test]
fn whoever_showed_the_token_and_says_no_hello_keeps_nobody_else_waiting() {
    for (budget, addresses) in [(64, 1), (64, 200), (256, 3)] {
        let mut host = Host::new(Config {
            fd_budget: budget,
            ..guarded()
        });
        let mut laptop = host.laptop("192.0.2.1:1000");
        let silent: Vec<ConnKey> = (0..2 * budget)
            .map(|n| {
                let peer = format!("198.51.100.{}:{}", n % addresses, 1000 + n);
                let conn = host.visit(&peer).expect("a place");
                host.send(conn, UPGRADE);
                conn
            })
            .collect();
        for _ in 0..3 {
            // An operator, another laptop, and a visitor of one that is here.
            assert!(host.get("health").starts_with("HTTP/1.1 200 "));
            let more = host.greet("203.0.113.1:1", r#"{"version":"hoody-tunnel.v1"}"#);
            assert_eq!(more.told[0].0, FrameType::HelloOk);
            host.kit.handle(
                Event::Ended {
                    conn: more.conn,
                    how: Ended::Reset,
                },
                host.now,
            );
            host.settle();
            let port = host.bound[0];
            let visitor = host.visit_at(port, "203.0.113.2:1").expect("a place");
            host.send(visitor, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            host.exchange(&mut laptop);
        }
        assert_eq!(laptop.streams.len(), 3);
        // Those that have been silent for longest went, and the last ones may still speak.
        let gone = |conn: &&ConnKey| host.closed.contains(conn);
        let (early, late) = silent.split_at(silent.len() / 2);
        assert!(early.iter().all(|conn| gone(&conn)) || addresses > 1);
        assert!(late.iter().filter(gone).count() < late.len() / 2 + 4);
    }
}
