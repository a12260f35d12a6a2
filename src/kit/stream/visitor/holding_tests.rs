//! Visitors who wait for a laptop that is away.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::{HELD_PART, VISITOR_GONE_AFTER};
use crate::machine::{ConnKey, Ended, Event, Machine};
use crate::wire::frame::FrameType;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HOLD: Duration = Duration::from_secs(20);

fn holding() -> Config {
    Config {
        hold_visitors: HOLD,
        ..guarded()
    }
}

/// A kit whose laptop is away, and the id of its session.
fn parked(config: Config) -> (Host, String) {
    let mut host = Host::new(config);
    let laptop = host.laptop("192.0.2.1:1000");
    let id = session_id(&laptop);
    leaves(&mut host, &laptop);
    (host, id)
}

fn session_id(laptop: &Laptop) -> String {
    let (_, hello_ok) = &laptop.told[0];
    let json: serde_json::Value = serde_json::from_str(hello_ok).expect("HELLO_OK");
    json["sessionId"].as_str().expect("an id").to_owned()
}

fn leaves(host: &mut Host, laptop: &Laptop) {
    let how = Ended::Reset;
    let conn = laptop.conn;
    host.kit.handle(Event::Ended { conn, how }, host.now);
    host.settle();
}

fn comes_back(host: &mut Host, id: &str) -> Laptop {
    let resume = format!(r#""resume":{{"sessionId":"{id}"}}"#);
    let hello = format!(r#"{{"version":"hoody-tunnel.v1",{resume}}}"#);
    host.greet("192.0.2.1:1001", &hello)
}

fn asks(host: &mut Host, peer: &str, request: &str) -> ConnKey {
    let conn = host.visit_at(host.bound[0], peer).expect("accepted");
    host.send(conn, request.as_bytes());
    conn
}

/// How many visitors had this outcome, or wait.
fn counted(host: &mut Host, what: &str) -> usize {
    let page = host.get("metrics");
    let name = match what {
        "waiting" => "\nhoody_tunnel_held_visitors ".to_owned(),
        outcome => format!("hoody_tunnel_held_visitors_total{{outcome=\"{outcome}\"}} "),
    };
    let (_, rest) = page.split_once(&name).expect("counted");
    rest.lines().next().unwrap_or_default().parse().unwrap()
}

#[test]
fn who_comes_while_the_laptop_is_away_is_served_when_it_is_back_the_oldest_first() {
    let (mut host, id) = parked(holding());
    let upgrade = "GET /4 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let conns: Vec<ConnKey> = (0..4)
        .map(|n| {
            let request = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
            let conn = asks(&mut host, &format!("192.0.2.{}:7", 9 - n), &request);
            host.pass(Duration::from_secs(1));
            conn
        })
        .collect();
    let upgraded = asks(&mut host, "192.0.2.9:8", upgrade);
    assert_eq!(counted(&mut host, "waiting"), 5);
    for conn in &conns {
        assert_eq!(host.receive(*conn), "");
        assert_eq!(
            host.send_some(*conn, b"more"),
            0,
            "the rest waits in its socket"
        );
    }
    let mut laptop = comes_back(&mut host, &id);
    for (n, open) in laptop.opens.iter().enumerate() {
        assert!(open.contains(&format!(r#""target":"/{n}""#)), "{n}: {open}");
    }
    assert_eq!(laptop.opens.len(), 5);
    assert!(laptop.opens[4].contains(r#""isUpgrade":true"#));
    for (at, conn) in conns.iter().enumerate() {
        host.answer(&mut laptop, at, 3);
        assert!(host.receive(*conn).ends_with("xxx"));
        // And the connection goes on as any other.
        host.send(*conn, GET.as_bytes());
    }
    host.exchange(&mut laptop);
    assert_eq!(laptop.opens.len(), 9);
    assert!(!host.closed.contains(&upgraded));
    let ends = ["waiting", "served", "expired", "gone"].map(|what| counted(&mut host, what));
    assert_eq!(ends, [0, 5, 0, 0]);
}

#[test]
fn a_body_waits_in_its_socket_and_goes_on_whole() {
    let (mut host, id) = parked(holding());
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234";
    let conn = asks(&mut host, "192.0.2.2:7", head);
    host.pass(HOLD * 9 / 10);
    assert_eq!(host.send_some(conn, b"56789"), 0);
    let mut laptop = comes_back(&mut host, &id);
    host.send(conn, b"56789");
    host.exchange(&mut laptop);
    assert_eq!(laptop.mux.traffic().data_in, 10);
    host.answer(&mut laptop, 0, 1);
    assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
}

#[test]
fn whose_time_is_over_is_told_to_come_again_and_may_on_the_same_connection() {
    let (mut host, id) = parked(holding());
    let conn = asks(&mut host, "192.0.2.2:7", &format!("{GET}{GET}"));
    host.pass(HOLD - Duration::from_millis(1));
    assert_eq!(host.receive(conn), "");
    host.pass(Duration::from_millis(1));
    let answer = host.receive(conn);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: 5\r\n"), "{answer}");
    // The request behind it waits for its own time.
    assert_eq!(counted(&mut host, "waiting"), 1);
    let mut laptop = comes_back(&mut host, &id);
    host.exchange(&mut laptop);
    host.answer(&mut laptop, 0, 1);
    assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
    assert_eq!(counted(&mut host, "expired"), 1);
}

#[test]
fn who_hangs_up_is_let_go_and_who_half_closes_hears_soon() {
    let (mut host, _) = parked(holding());
    let broken = asks(&mut host, "192.0.2.2:7", GET);
    let closed = asks(&mut host, "192.0.2.3:7", GET);
    let how = Ended::Reset;
    host.kit
        .handle(Event::Ended { conn: broken, how }, host.now);
    host.settle();
    host.finish_unread(closed);
    assert_eq!(counted(&mut host, "waiting"), 1);
    host.pass(VISITOR_GONE_AFTER);
    assert!(host.receive(closed).starts_with("HTTP/1.1 503 "));
    assert_eq!(
        [counted(&mut host, "waiting"), counted(&mut host, "gone")],
        [0, 2]
    );
}

#[test]
fn one_address_does_not_have_all_the_places_and_all_of_them_are_few() {
    let config = Config {
        fd_budget: 256,
        ..holding()
    };
    let (mut host, id) = parked(config);
    let places = host.kit.conns.budget.for_visits() / HELD_PART;
    let mut told = 0;
    for n in 0..places + 20 {
        let conn = asks(&mut host, &format!("192.0.2.66:{}", 1000 + n), GET);
        told += usize::from(host.receive(conn).starts_with("HTTP/1.1 503 "));
    }
    let greedy = counted(&mut host, "waiting");
    assert!(
        greedy < places && greedy > places / 2,
        "{greedy} of {places}"
    );
    assert_eq!(
        [told, counted(&mut host, "full")],
        [places + 20 - greedy; 2]
    );
    let other = asks(&mut host, "192.0.2.7:1", GET);
    assert_eq!(host.receive(other), "");
    // Others keep their places as long as they like; nobody who asks goes for them.
    assert_eq!(counted(&mut host, "waiting"), greedy + 1);
    let laptop = comes_back(&mut host, &id);
    assert_eq!(laptop.opens.len(), greedy + 1);
}

#[test]
fn one_port_does_not_have_all_the_places() {
    let config = Config {
        fd_budget: 512,
        ..holding()
    };
    let mut host = Host::new(config);
    for n in 1..=2 {
        let laptop = host.laptop(&format!("192.0.2.1:{n}"));
        leaves(&mut host, &laptop);
    }
    let places = host.kit.conns.budget.for_visits() / HELD_PART;
    for n in 0..places {
        asks(&mut host, &format!("198.51.{}.{}:7", n / 250, n % 250), GET);
    }
    let crowd = counted(&mut host, "waiting");
    let conn = host
        .visit_at(host.bound[1], "203.0.113.1:7")
        .expect("accepted");
    host.send(conn, GET.as_bytes());
    assert_eq!(host.receive(conn), "");
    assert_eq!(counted(&mut host, "waiting"), crowd + 1);
}

#[test]
fn where_the_session_has_no_room_those_who_waited_get_it_as_it_comes() {
    let config = Config {
        max_streams_per_session: 2,
        ..holding()
    };
    let (mut host, id) = parked(config);
    let conns: Vec<ConnKey> = (0..6)
        .map(|n| asks(&mut host, &format!("192.0.2.{}:7", 2 + n), GET))
        .collect();
    let mut laptop = comes_back(&mut host, &id);
    for (at, conn) in conns.iter().enumerate() {
        assert!(laptop.opens.len() > at, "{at} is served");
        assert!(laptop.opens.len() <= at + 2);
        host.answer(&mut laptop, at, 1);
        assert!(host.receive(*conn).starts_with("HTTP/1.1 200 "), "{at}");
        host.exchange(&mut laptop);
    }
    assert_eq!(counted(&mut host, "served"), 6);
}

#[test]
fn who_waits_for_nobody_is_told_at_once() {
    type Happens = fn(&mut Host);
    let ends: [(Happens, &str); 4] = [
        (Host::end_all_sessions, "retry-after: 5\r\n"),
        (
            |host| host.kit.handle(Event::Shutdown, host.now),
            "retry-after: 1\r\n",
        ),
        (
            |host| host.kit.order(crate::kit::KitOrder::Succeeded, host.now),
            "retry-after: 1\r\n",
        ),
        (
            |host| host.pass(Duration::from_secs(10)),
            "retry-after: 5\r\n",
        ),
    ];
    for (happens, retry) in ends {
        let (mut host, _) = parked(Config {
            takeover_grace: Duration::from_secs(10),
            ..holding()
        });
        let conn = asks(&mut host, "192.0.2.2:7", GET);
        assert_eq!(host.receive(conn), "");
        happens(&mut host);
        host.settle();
        host.kit.handle(Event::Disturbed, host.now);
        host.settle();
        let answer = host.receive(conn);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(retry), "{answer}");
        // Where it goes, nobody is kept for another request.
        assert_eq!(
            answer.contains("connection: close\r\n"),
            retry.contains('1')
        );
    }
}

#[test]
fn whoever_takes_the_port_over_serves_those_who_wait() {
    let (mut host, _) = parked(holding());
    let conn = asks(&mut host, "192.0.2.2:7", GET);
    let mut other = host.greet("192.0.2.5:1", r#"{"version":"hoody-tunnel.v1"}"#);
    let port = host.kit.ports.bound(host.bound[0]).expect("bound").port();
    let wish = format!(r#""containerPort":{port},"takeover":true"#);
    let bind = format!(r#"{{"clientBindRef":1,"kind":"http","mode":"expose",{wish}}}"#);
    other
        .mux
        .lanes_mut()
        .push_control(FrameType::Bind, bind.as_bytes());
    host.exchange(&mut other);
    host.answer(&mut other, 0, 1);
    assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
}

#[test]
fn without_the_flag_nobody_waits() {
    let (mut host, _) = parked(guarded());
    let conn = asks(&mut host, "192.0.2.2:7", GET);
    assert!(host.receive(conn).starts_with("HTTP/1.1 503 "));
    let all = ["served", "expired", "gone", "turned_away", "full"];
    assert_eq!(all.map(|end| counted(&mut host, end)), [0; 5]);
}
