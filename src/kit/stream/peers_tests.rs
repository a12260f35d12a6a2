//! UDP ports: who gets a stream, how much goes back, and who yields.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::DATAGRAMS_IDLE;
use crate::machine::{Ended, Event, Machine};
use crate::mux::StreamKey;
use crate::wire::code::Code;
use crate::wire::frame::FrameType;

const HELLO: &str = r#"{"version":"hoody-tunnel.v1","capabilities":["udp"]}"#;

/// A kit that allows UDP on EXPOSE ports, and a laptop with one.
fn exposed(config: Config) -> (Host, Laptop) {
    let mut host = Host::new(Config {
        allow_udp_expose: true,
        ..config
    });
    let mut laptop = host.greet("192.0.2.1:1000", HELLO);
    ask(&mut host, &mut laptop, "udp", "expose", 20_053);
    assert_eq!(last(&laptop).0, FrameType::BindOk);
    (host, laptop)
}

fn ask(host: &mut Host, laptop: &mut Laptop, kind: &str, mode: &str, port: u16) {
    let bind =
        format!(r#"{{"clientBindRef":7,"kind":"{kind}","mode":"{mode}","containerPort":{port}}}"#);
    let lanes = laptop.mux.lanes_mut();
    lanes.push_control(FrameType::Bind, bind.as_bytes());
    host.exchange(laptop);
}

fn last(laptop: &Laptop) -> &(FrameType, String) {
    laptop.told.last().expect("an answer")
}

/// Has the laptop answer on its stream number `at`; gives how many datagrams got out so far.
fn answer(host: &mut Host, laptop: &mut Laptop, at: usize, len: usize) -> usize {
    let stream: StreamKey = laptop.streams[at];
    laptop.mux.send_datagram(stream, &vec![7; len], host.now);
    host.exchange(laptop);
    host.sent.len()
}

fn peer(number: usize) -> String {
    format!("198.51.100.{}:{}", number / 1000 + 1, number % 1000 + 1)
}

fn metric(host: &mut Host, line: &str) {
    let page = host.get("metrics");
    assert!(
        page.contains(&format!("hoody_tunnel_{line}\n")),
        "{line}\n{page}"
    );
}

#[test]
fn each_peer_has_a_stream_and_its_datagrams_stay_whole() {
    let (mut host, mut laptop) = exposed(guarded());
    for (who, datagram) in [("203.0.113.9:5", &b"one"[..]), ("203.0.113.9:6", b"")] {
        host.datagram(who, datagram);
    }
    host.datagram("203.0.113.9:5", b"two");
    host.exchange(&mut laptop);
    assert_eq!(
        laptop.opens,
        [
            r#"{"kind":"udp","bindId":1,"containerPort":20053,"remoteAddr":"203.0.113.9:5"}"#,
            r#"{"kind":"udp","bindId":1,"containerPort":20053,"remoteAddr":"203.0.113.9:6"}"#,
        ]
    );
    let came = [(0, b"one".to_vec()), (1, Vec::new()), (0, b"two".to_vec())];
    assert_eq!(laptop.datagrams, came);
    answer(&mut host, &mut laptop, 0, 3);
    answer(&mut host, &mut laptop, 1, 0);
    let to = |who: &str, len| (who.parse().unwrap(), vec![7; len]);
    assert_eq!(host.sent, [to("203.0.113.9:5", 3), to("203.0.113.9:6", 0)]);
    metric(&mut host, "datagrams_total{direction=\"out\"} 3");
    metric(&mut host, "datagram_bytes_total{direction=\"out\"} 6");
    metric(&mut host, "datagrams_total{direction=\"in\"} 2");
    metric(&mut host, "udp_streams_active 2");
    metric(&mut host, "bindings_active{kind=\"udp\",mode=\"expose\"} 1");
    let listed = host.get("bindings");
    assert!(
        listed.contains(r#""kind":"udp","mode":"expose""#),
        "{listed}"
    );
}

#[test]
fn nobody_gets_more_than_three_times_its_bytes_before_it_has_sent_again() {
    let (mut host, mut laptop) = exposed(guarded());
    host.datagram("203.0.113.9:5", &[0; 100]);
    host.exchange(&mut laptop);
    assert_eq!(answer(&mut host, &mut laptop, 0, 301), 0);
    assert_eq!(answer(&mut host, &mut laptop, 0, 200), 1);
    assert_eq!(answer(&mut host, &mut laptop, 0, 101), 1);
    assert_eq!(answer(&mut host, &mut laptop, 0, 100), 2);
    assert_eq!(answer(&mut host, &mut laptop, 0, 1), 2);
    metric(&mut host, "datagrams_dropped_total{reason=\"unproven\"} 3");
    // Whoever sends again has got an answer.
    host.datagram("203.0.113.9:5", b"!");
    host.exchange(&mut laptop);
    assert_eq!(answer(&mut host, &mut laptop, 0, 60_000), 3);
    // Who sends and sends without having been answered has shown nothing.
    (0..3).for_each(|_| host.datagram("203.0.113.9:6", &[0; 10]));
    host.exchange(&mut laptop);
    assert_eq!(answer(&mut host, &mut laptop, 1, 91), 3);
    assert_eq!(answer(&mut host, &mut laptop, 1, 90), 4);
}

#[test]
fn the_bound_is_lifted_by_the_operator_and_for_peers_of_this_machine() {
    let (mut host, mut laptop) = exposed(guarded());
    host.datagram("127.0.0.1:5", b"?");
    host.exchange(&mut laptop);
    assert_eq!(answer(&mut host, &mut laptop, 0, 60_000), 1);
    let (mut host, mut laptop) = exposed(Config {
        udp_unlimited_answers: true,
        ..guarded()
    });
    host.datagram("203.0.113.9:5", b"?");
    host.exchange(&mut laptop);
    assert_eq!(answer(&mut host, &mut laptop, 0, 60_000), 1);
}

#[test]
fn at_the_cap_the_unproven_make_room_and_the_proven_stay() {
    let (mut host, mut laptop) = exposed(Config {
        max_streams_per_session: 16,
        ..guarded()
    });
    for number in 0..4 {
        host.datagram(&peer(number), b"hello");
        host.pass(Duration::from_millis(10));
    }
    host.exchange(&mut laptop);
    for number in [0, 1] {
        answer(&mut host, &mut laptop, number, 1);
        host.datagram(&peer(number), b"again");
    }
    // A flood of strangers: each goes for the next, and the two who are known stay.
    (100..200).for_each(|number| host.datagram(&peer(number), b"flood"));
    host.exchange(&mut laptop);
    assert_eq!(host.kit.streams.peers.len(), 4);
    assert!(
        laptop
            .ended()
            .iter()
            .all(|(id, code)| *id > 4 && *code == Code::NoError)
    );
    for number in [0, 1] {
        host.datagram(&peer(number), b"still here");
    }
    host.exchange(&mut laptop);
    let known = laptop
        .datagrams
        .iter()
        .filter(|(_, it)| it == b"still here");
    assert_eq!(known.map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn where_all_have_proven_themselves_a_newcomer_waits_for_one_who_is_silent() {
    let (mut host, mut laptop) = exposed(Config {
        max_streams_per_session: 4,
        udp_idle: Duration::from_secs(600),
        ..guarded()
    });
    host.datagram(&peer(0), b"hello");
    host.exchange(&mut laptop);
    answer(&mut host, &mut laptop, 0, 1);
    host.datagram(&peer(0), b"again");
    host.datagram(&peer(1), b"me too");
    metric(&mut host, "datagrams_dropped_total{reason=\"peers\"} 1");
    host.pass_with(&mut laptop, DATAGRAMS_IDLE);
    host.datagram(&peer(1), b"now?");
    host.exchange(&mut laptop);
    assert_eq!(laptop.datagrams.last(), Some(&(1, b"now?".to_vec())));
}

#[test]
fn a_silent_peer_is_forgotten_and_nothing_is_left_of_it() {
    let (mut host, mut laptop) = exposed(guarded());
    host.datagram(&peer(0), b"hello");
    host.datagram(&peer(1), b"hello");
    host.exchange(&mut laptop);
    for _ in 0..3 {
        host.pass_with(&mut laptop, DATAGRAMS_IDLE / 2);
        host.datagram(&peer(1), b"hello");
    }
    host.exchange(&mut laptop);
    assert_eq!(laptop.ended(), [(2, Code::NoError)]);
    host.pass_with(&mut laptop, 2 * DATAGRAMS_IDLE);
    assert_eq!(host.kit.streams.peers.len(), 0);
    assert_eq!(host.kit.sessions.stream_count(), 0);
    // It may come again.
    host.datagram(&peer(0), b"hello");
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 3);
}

#[test]
fn a_port_that_is_given_back_or_taken_over_ends_its_streams() {
    let (mut host, mut laptop) = exposed(guarded());
    host.datagram(&peer(0), b"hello");
    host.exchange(&mut laptop);
    let mut other = host.greet("192.0.2.2:1000", HELLO);
    ask(&mut host, &mut other, "udp", "expose", 20_053);
    assert!(
        last(&other).1.contains("ALREADY_BOUND"),
        "{other:?}",
        other = last(&other)
    );
    let bind = br#"{"clientBindRef":7,"kind":"udp","mode":"expose","containerPort":20053,
        "takeover":true}"#;
    other.mux.lanes_mut().push_control(FrameType::Bind, bind);
    host.exchange(&mut other);
    host.exchange(&mut laptop);
    assert_eq!(laptop.ended(), [(2, Code::BindTakeover)]);
    host.datagram(&peer(0), b"hello");
    host.exchange(&mut other);
    assert_eq!(other.datagrams, [(0, b"hello".to_vec())]);
    let unbind = br#"{"bindId":1}"#;
    other
        .mux
        .lanes_mut()
        .push_control(FrameType::Unbind, unbind);
    host.exchange(&mut other);
    assert_eq!(other.ended(), [(2, Code::NoError)]);
    assert!(host.sockets.is_empty(), "the socket is closed");
    assert_eq!(host.kit.streams.peers.len(), 0);
}

#[test]
fn datagrams_for_a_laptop_that_is_away_are_dropped_and_counted() {
    let (mut host, mut laptop) = exposed(guarded());
    host.datagram(&peer(0), b"hello");
    host.exchange(&mut laptop);
    let how = Ended::Reset;
    host.kit.handle(
        Event::Ended {
            conn: laptop.conn,
            how,
        },
        host.now,
    );
    host.settle();
    host.datagram(&peer(0), b"hello?");
    host.datagram(&peer(1), b"hello?");
    metric(&mut host, "datagrams_dropped_total{reason=\"away\"} 2");
    assert_eq!(host.kit.streams.peers.len(), 0);
}

#[test]
fn ports_of_udp_and_tcp_have_nothing_to_do_with_each_other() {
    let (mut host, mut laptop) = exposed(guarded());
    ask(&mut host, &mut laptop, "http", "expose", 20_053);
    assert_eq!(last(&laptop).0, FrameType::BindOk);
    ask(&mut host, &mut laptop, "udp", "pull", 20_053);
    assert_eq!(last(&laptop).0, FrameType::BindOk);
    // The kit's own port is one of TCP.
    let own = host.kit.cx.config.listen.port();
    ask(&mut host, &mut laptop, "udp", "pull", own);
    assert!(
        last(&laptop).1.contains("PRIVILEGED_PORT"),
        "{}",
        last(&laptop).1
    );
    ask(&mut host, &mut laptop, "udp", "pull", 1);
    assert!(
        last(&laptop).1.contains("--allow-privileged-pull"),
        "{}",
        last(&laptop).1
    );
}

#[test]
fn who_did_not_ask_for_udp_or_may_not_have_it_is_told_why() {
    let mut host = Host::new(guarded());
    let mut laptop = host.greet("192.0.2.1:1000", HELLO);
    ask(&mut host, &mut laptop, "udp", "expose", 20_053);
    assert!(
        last(&laptop).1.contains("--allow-udp-expose"),
        "{}",
        last(&laptop).1
    );
    let mut older = host.greet("192.0.2.2:1000", r#"{"version":"hoody-tunnel.v1"}"#);
    ask(&mut host, &mut older, "udp", "pull", 20_053);
    assert!(
        last(&older).1.contains("INVALID_KIND"),
        "{}",
        last(&older).1
    );
    assert!(host.sockets.is_empty());
}

#[test]
fn data_on_a_stream_of_datagrams_costs_the_stream() {
    let (mut host, mut laptop) = exposed(guarded());
    host.datagram(&peer(0), b"hello");
    host.exchange(&mut laptop);
    let stream = laptop.streams[0];
    laptop.mux.send(stream, b"bytes", host.now);
    host.exchange(&mut laptop);
    assert_eq!(laptop.ended(), [(2, Code::ProtocolError)]);
    // The credit is whole again.
    assert_eq!(
        host.kit
            .sessions
            .muxes()
            .map(|mux| mux.buffered())
            .sum::<usize>(),
        0
    );
}
