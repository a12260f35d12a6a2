//! SIGTERM: what runs may finish, and whoever is new is told to come again (PROTOCOL §6).

use std::time::Duration;

use super::*;
use crate::kit::testing::{Host, Laptop, guarded};
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
    other.mux.push_control(FrameType::GoAway, br#"{"code":0}"#);
    host.exchange(&mut other);
    assert!(host.get("sessions").contains(r#""total":1"#), "it has left");
    is_told_to_come_again(&mut host, port);
    // Another laptop does not get it from a kit that goes.
    assert!(!host.unlistened.contains(&port));
    host.pass(Duration::from_secs(6));
    assert!(host.stopped && host.unlistened.contains(&port));
    assert_eq!(host.kit.leftovers(), [0; 4]);
}

#[test]
fn a_parked_sessions_port_says_503_through_the_drain_and_a_callers_port_closes() {
    let (mut host, mut laptop, _visitor) = serving();
    let mut pulling = host.greet("192.0.2.5:1000", r#"{"version":"hoody-tunnel.v1"}"#);
    let bind = br#"{"clientBindRef":1,"kind":"tcp","mode":"pull","containerPort":5432}"#;
    pulling.mux.push_control(FrameType::Bind, bind);
    host.exchange(&mut pulling);
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
        let (mut host, _laptop, visitor) = serving();
        shut_down(&mut host);
        host.pass(Duration::from_secs(4));
        assert!(!host.stopped, "{again}");
        match again {
            true => shut_down(&mut host),
            false => host.pass(Duration::from_secs(1)),
        }
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
    assert!(host.stopped);
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
