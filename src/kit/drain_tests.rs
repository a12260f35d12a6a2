//! SIGTERM: what runs may finish, and whoever is new is told to come again (PROTOCOL §6).

use std::time::Duration;

use super::*;
use crate::kit::KitOrder;
use crate::kit::config::Config;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::machine::{Ended, Event, ListenerKey, Machine};
use crate::wire::frame::FrameType;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A kit with a visitor whose answer is awaited, and its laptop.
fn serving() -> (Host, Laptop, ConnKey) {
    let mut host = Host::new(guarded());
    let mut laptop = host.laptop("192.0.2.1:1000");
    let visitor = host
        .visit_at(host.bound[0], "192.0.2.2:1")
        .expect("a place");
    host.send(visitor, GET);
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 1);
    (host, laptop, visitor)
}

fn shut_down(host: &mut Host) {
    host.kit.handle(Event::Shutdown, host.now);
    host.settle();
}

fn is_told_to_come_again(host: &mut Host, listener: ListenerKey) {
    let late = host
        .visit_at(listener, "192.0.2.3:1")
        .expect("the port is open");
    host.send(
        late,
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nxx",
    );
    let answer = host.receive(late);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    host.finish(late);
}

#[test]
fn a_drain_lets_streams_finish_and_ports_say_so_until_the_last_has() {
    let (mut host, mut laptop, visitor) = serving();
    let (port, front) = (host.bound[0], host.front);
    shut_down(&mut host);
    host.exchange(&mut laptop);
    let (kind, goaway) = laptop.told.last().expect("told");
    assert_eq!(*kind, FrameType::GoAway);
    for part in [
        r#""final":false"#,
        r#""code":0"#,
        r#""graceMs":5000"#,
        "restarting",
    ] {
        assert!(goaway.contains(part), "{part} in {goaway}");
    }
    is_told_to_come_again(&mut host, port);
    // Operators still see what is going on, and laptops that they may come back at once.
    assert!(host.get("sessions").contains(r#""total":1"#));
    let mut early = host.greet("192.0.2.9:1", r#"{"version":"hoody-tunnel.v1"}"#);
    host.exchange(&mut early);
    let (kind, goaway) = early.told.pop().expect("told");
    assert!(
        kind == FrameType::GoAway && goaway.contains(r#""final":false"#),
        "{goaway}"
    );
    assert!(!host.stopped && host.unlistened.is_empty());

    host.answer(&mut laptop, 0, 10);
    assert!(host.receive(visitor).ends_with("xxxxxxxxxx"));
    host.exchange(&mut laptop);
    host.settle();
    assert!(host.stopped, "nothing is left to wait for");
    for listener in [port, front] {
        assert!(host.unlistened.contains(&listener), "{listener:?}");
    }
    assert_eq!(host.kit.leftovers(), [0; 4]);
}

#[test]
fn a_port_whose_laptop_left_during_the_drain_says_so_too() {
    let (mut host, _waiting, _visitor) = serving();
    let mut other = host.laptop("192.0.2.4:1000");
    let port = host.bound[1];
    shut_down(&mut host);
    other
        .mux
        .lanes_mut()
        .push_control(FrameType::GoAway, br#"{"code":0}"#);
    host.exchange(&mut other);
    assert!(host.get("sessions").contains(r#""total":1"#), "it has left");
    is_told_to_come_again(&mut host, port);
    // Another laptop does not get it from a kit that goes.
    assert!(!host.unlistened.contains(&port));
    host.pass(Duration::from_secs(7));
    assert!(host.stopped && host.unlistened.contains(&port));
    assert_eq!(host.kit.leftovers(), [0; 4]);
}

#[test]
fn a_parked_sessions_port_says_503_through_the_drain_and_a_callers_port_closes() {
    let (mut host, mut laptop, _visitor) = serving();
    let mut pulling = host.greet("192.0.2.5:1000", r#"{"version":"hoody-tunnel.v1"}"#);
    let wanted = r#"{"clientBindRef":1,"kind":"tcp","mode":"pull","containerPort":5432}"#;
    bind(&mut host, &mut pulling, wanted);
    let parked = host.laptop("192.0.2.6:1000");
    let (conn, how) = (parked.conn, Ended::Reset);
    host.kit.handle(Event::Ended { conn, how }, host.now);
    host.settle();
    let (pull, expose) = (host.bound[1], host.bound[2]);
    shut_down(&mut host);
    host.exchange(&mut laptop);
    assert_eq!(host.unlistened, [pull]);
    is_told_to_come_again(&mut host, expose);
    assert!(!host.stopped);
}

#[test]
fn a_drain_is_over_when_its_time_is_and_at_once_when_told_again() {
    for again in [false, true] {
        let (mut host, mut laptop, visitor) = serving();
        shut_down(&mut host);
        host.pass(Duration::from_secs(4));
        assert!(!host.stopped, "{again}");
        match again {
            true => shut_down(&mut host),
            false => host.pass(Duration::from_secs(1)),
        }
        let told = host.receive(visitor);
        assert!(told.starts_with("HTTP/1.1 502 "), "{again}: {told}");
        host.exchange(&mut laptop);
        host.settle();
        assert!(host.stopped && host.closed.contains(&visitor), "{again}");
    }
    let config = Config {
        drain: Duration::ZERO,
        ..guarded()
    };
    let mut host = Host::new(config);
    let mut laptop = host.laptop("192.0.2.1:1000");
    let visitor = host
        .visit_at(host.bound[0], "192.0.2.2:1")
        .expect("a place");
    host.send(visitor, GET);
    host.exchange(&mut laptop);
    shut_down(&mut host);
    host.pass(Duration::ZERO);
    host.exchange(&mut laptop);
    let (kind, goaway) = laptop.told.last().expect("told");
    assert!(*kind == FrameType::GoAway && goaway.contains(r#""final":false"#));
    // Who takes nothing is not waited for.
    assert!(!host.stopped);
    host.pass(LAST_WORDS);
    assert!(host.stopped && host.closed.contains(&visitor));
}

#[test]
fn who_is_killed_is_told_for_good_and_nothing_else_before_and_in_a_drain() {
    for kill_first in [true, false] {
        let (mut host, mut laptop, _visitor) = serving();
        let key = host.kit.sessions.keys()[0];
        let kill = |host: &mut Host| {
            let Kit {
                cx,
                conns,
                sessions,
                ..
            } = &mut *host.kit;
            sessions.kill(key, Duration::from_secs(3), conns, cx);
            host.settle();
        };
        if kill_first {
            kill(&mut host);
        }
        shut_down(&mut host);
        if !kill_first {
            kill(&mut host);
        }
        host.exchange(&mut laptop);
        let last = laptop
            .told
            .iter()
            .rfind(|(kind, _)| *kind == FrameType::GoAway);
        let (_, goaway) = last.expect("told");
        assert!(goaway.contains(r#""final":true"#), "{kill_first}: {goaway}");
    }
}

#[test]
fn a_kept_connection_is_told_too_and_malformed_requests_stay_malformed() {
    let (mut host, mut laptop, visitor) = serving();
    host.answer(&mut laptop, 0, 3);
    host.receive(visitor);
    let busy = host
        .visit_at(host.bound[0], "192.0.2.7:1")
        .expect("a place");
    host.send(busy, GET);
    host.exchange(&mut laptop);
    shut_down(&mut host);
    host.send(visitor, GET);
    assert!(host.receive(visitor).starts_with("HTTP/1.1 503 "));
    let odd = host
        .visit_at(host.bound[0], "192.0.2.8:1")
        .expect("a place");
    host.send(odd, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    assert!(host.receive(odd).starts_with("HTTP/1.1 400 "));
}

/// What a kit tells its successor, as that one reads it.
fn handed_by(host: &mut Host) -> Handover {
    host.kit.handle(Event::Upgrade, host.now);
    host.settle();
    let handed = host.handed.take().expect("it is told");
    let text = serde_json::to_string(&handed).expect("JSON");
    assert!(!format!("{handed:?}").contains(handed.sessions[0].session_id.as_str()));
    serde_json::from_str(&text).expect("the same JSON")
}

fn successor(handed: Handover) -> Kit {
    let entropy = crate::entropy::Entropy::from_seed(7);
    Kit::successor(guarded(), entropy, Instant::ZERO, handed)
}

/// The laptop asks for one more port.
fn bind(host: &mut Host, laptop: &mut Laptop, bind: &str) {
    laptop
        .mux
        .lanes_mut()
        .push_control(FrameType::Bind, bind.as_bytes());
    host.exchange(laptop);
}

fn resume(id: &str) -> String {
    format!(r#"{{"version":"hoody-tunnel.v1","resume":{{"sessionId":"{id}"}}}}"#)
}

#[test]
fn a_successor_has_the_sessions_and_their_ports_and_lets_visitors_wait_for_them() {
    let (mut before, mut laptop, _visitor) = serving();
    let wanted = r#"{"clientBindRef":2,"kind":"tcp","mode":"pull","containerPort":5432}"#;
    bind(&mut before, &mut laptop, wanted);
    let handed = handed_by(&mut before);
    assert_eq!(handed.sessions.len(), 1);
    let id = handed.sessions[0].session_id.as_str().to_owned();

    let mut host = Host::around(successor(handed));
    let [expose, pull] = host.bound[..] else {
        panic!("{:?}", host.bound);
    };
    assert!(
        host.paused.contains(&expose) && host.paused.contains(&pull),
        "they wait"
    );
    let mut back = host.greet("192.0.2.1:2000", &resume(&id));
    host.exchange(&mut back);
    let (_, answer) = &back.told[0];
    assert!(answer.contains(r#""resumed":true"#), "{answer}");
    assert!(
        answer.contains(r#""bindId":1"#) && answer.contains(r#""bindId":2"#),
        "{answer}"
    );
    assert!(host.paused.is_empty(), "they come in");
    let visitor = host.visit_at(expose, "192.0.2.2:1").expect("a place");
    host.send(visitor, GET);
    host.exchange(&mut back);
    host.answer(&mut back, 0, 4);
    assert!(host.receive(visitor).ends_with("xxxx"));
    // Ids of bindings go on where they were.
    let wanted = r#"{"clientBindRef":3,"kind":"http","mode":"expose","containerPort":0}"#;
    bind(&mut host, &mut back, wanted);
    let (_, bound) = back.told.last().expect("bound");
    assert!(bound.contains(r#""bindId":3"#), "{bound}");
}

#[test]
fn a_successor_keeps_away_whom_the_operator_has_sent_away() {
    let (mut before, mut laptop, _visitor) = serving();
    let (banned, id) = (before.laptop("192.0.2.7:1000"), id_of(&laptop));
    let kill = |host: &mut Host, id: &str, ban: &str| {
        let path = format!("DELETE /api/v1/tunnel/sessions/{id}?grace_ms=0{ban}");
        let answer = host.ask(&path, "Authorization: Bearer hush\r\n");
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    };
    kill(&mut before, &id, "");
    kill(&mut before, &id_of(&banned), "&ban=10m");
    before.exchange(&mut laptop);
    before.laptop("192.0.2.9:1000");
    let mut host = Host::around(successor(handed_by(&mut before)));
    let refused = |host: &mut Host, peer: &str, hello: &str| {
        let mut again = host.greet(peer, hello);
        host.exchange(&mut again);
        let (kind, goaway) = again.told.pop().expect("told");
        assert!(kind == FrameType::GoAway && goaway.contains(r#""final":true"#));
        goaway
    };
    let goaway = refused(&mut host, "192.0.2.1:2000", &resume(&id));
    assert!(goaway.contains("closed by the operator"), "{goaway}");
    let hello = r#"{"version":"hoody-tunnel.v1"}"#;
    let goaway = refused(&mut host, "192.0.2.7:2000", hello);
    assert!(goaway.contains("keeps this address away"), "{goaway}");
    host.pass(Duration::from_secs(600));
    host.laptop("192.0.2.7:3000");
}

fn id_of(laptop: &Laptop) -> String {
    let (_, id) = laptop.told[0].1.split_once(r#""sessionId":""#).expect("id");
    id.split('"').next().unwrap_or_default().to_owned()
}

#[test]
fn visitors_wait_for_a_laptop_that_does_not_come_back_only_so_long() {
    let (mut before, ..) = serving();
    let mut host = Host::around(successor(handed_by(&mut before)));
    let port = host.bound[0];
    host.pass(HANDED_WAITS);
    assert!(host.paused.is_empty());
    let visitor = host.visit_at(port, "192.0.2.2:1").expect("a place");
    host.send(visitor, GET);
    assert!(host.receive(visitor).contains("retry-after: 5"));
    host.pass(Duration::from_secs(60));
    assert_eq!(host.kit.leftovers()[0], 0, "the grace is over");
    assert!(host.unlistened.contains(&port));
}

#[test]
fn the_kit_before_lets_go_of_its_ports_and_finishes_what_it_serves() {
    let (mut host, mut laptop, visitor) = serving();
    let idle = host
        .visit_at(host.bound[0], "192.0.2.5:1")
        .expect("a place");
    host.send(idle, GET);
    host.exchange(&mut laptop);
    host.answer(&mut laptop, 1, 1);
    host.receive(idle);
    host.kit.order(KitOrder::Succeeded, host.now);
    host.settle();
    for listener in [host.front, host.bound[0]] {
        assert!(host.unlistened.contains(&listener), "{listener:?}");
    }
    assert!(
        laptop
            .told
            .iter()
            .all(|(kind, _)| *kind != FrameType::GoAway)
    );
    // Who is here is served once more, and told to come elsewhere next.
    host.send(idle, GET);
    host.exchange(&mut laptop);
    host.answer(&mut laptop, 2, 2);
    let last = host.receive(idle);
    assert!(
        last.ends_with("xx") && last.contains("connection: close"),
        "{last}"
    );
    host.pass(YIELDS_FOR);
    host.exchange(&mut laptop);
    let (kind, goaway) = laptop.told.last().expect("told");
    assert!(
        *kind == FrameType::GoAway && goaway.contains(r#""final":false"#),
        "{goaway}"
    );
    host.answer(&mut laptop, 0, 3);
    let answer = host.receive(visitor);
    assert!(
        answer.ends_with("xxx") && answer.contains("connection: close"),
        "{answer}"
    );
    host.exchange(&mut laptop);
    host.settle();
    assert!(host.stopped);
    assert_eq!(host.kit.leftovers(), [0; 4]);
}

#[test]
fn a_port_whose_socket_was_not_handed_over_is_lost_and_nothing_else() {
    let (mut before, mut laptop, _visitor) = serving();
    let wanted = r#"{"clientBindRef":2,"kind":"http","mode":"expose","containerPort":0}"#;
    bind(&mut before, &mut laptop, wanted);
    let handed = handed_by(&mut before);
    let id = handed.sessions[0].session_id.as_str().to_owned();
    let mut kit = successor(handed);
    let mut opened = Vec::new();
    while let Some(command) = kit.poll_command() {
        if let Command::Listen { listener, addr } = command {
            opened.push((listener, addr));
        }
    }
    for (at, (listener, addr)) in opened.iter().enumerate() {
        let failure = crate::machine::IoFailure {
            kind: std::io::ErrorKind::AddrInUse,
            text: "in use".into(),
        };
        let outcome = if at == 1 { Err(failure) } else { Ok(*addr) };
        let listener = *listener;
        kit.handle(Event::Listening { listener, outcome }, Instant::ZERO);
        while kit.poll_command().is_some() {}
    }
    let key = kit.sessions.with_id(&id).expect("the session");
    assert_eq!(kit.sessions.get(key).map(|it| it.bindings.len()), Some(1));
}
