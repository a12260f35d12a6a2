//! Request bodies that stop, that are slow, and that the kit itself does not read.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::{PROGRESS_UNSAID, VISITOR_GONE_AFTER};
use crate::machine::{ConnKey, Machine};

/// A visitor who has sent the head of an upload.
fn uploading(fields: &str) -> (Host, Laptop, ConnKey) {
    let mut host = Host::new(guarded());
    let mut laptop = host.laptop("192.0.2.1:1000");
    let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
    let head = format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    host.send(conn, head.as_bytes());
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 1);
    (host, laptop, conn)
}

const LENGTH: &str = "Content-Length: 5000000\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn timeout() -> Duration {
    Config::default().body_timeout
}

/// What the visitor is told within `span`.
fn next_words(host: &mut Host, laptop: &mut Laptop, conn: ConnKey, span: Duration) -> String {
    let until = host.now + span;
    let mut words = String::new();
    while words.is_empty() && host.now < until {
        host.pass_with(laptop, MOMENT);
        words = host.receive(conn);
    }
    words
}

const MOMENT: Duration = Duration::from_secs(1);

#[test]
fn a_body_that_stops_is_told_408_whatever_its_framing() {
    for (fields, begun) in [
        (LENGTH, &b""[..]),
        (LENGTH, b"abc"),
        (CHUNKED, b""),
        (CHUNKED, b"5"),
        (CHUNKED, b"5\r\nab"),
        (CHUNKED, b"2\r\nab\r\n0\r\nTrailer: "),
    ] {
        let (mut host, mut laptop, conn) = uploading(fields);
        host.send(conn, begun);
        host.pass_with(&mut laptop, timeout() - MOMENT);
        assert_eq!(host.receive(conn), "", "{begun:?}");
        host.pass_with(&mut laptop, MOMENT);
        let answer = host.receive(conn);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{begun:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(host.kit.sessions.stream_count(), 0, "the upstream is told");
        host.finish(conn);
        assert!(host.closed.contains(&conn));
    }
}

#[test]
fn behind_a_head_whose_body_stops_or_is_malformed_there_is_no_content() {
    for (begun, status) in [(&b"5\r\nab"[..], 408), (b"no number\r\n", 400)] {
        let mut host = Host::new(guarded());
        let mut laptop = host.laptop("192.0.2.1:1000");
        let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
        host.send(
            conn,
            format!("HEAD / HTTP/1.1\r\nHost: a\r\n{CHUNKED}\r\n").as_bytes(),
        );
        host.exchange(&mut laptop);
        host.send(conn, begun);
        let answer = next_words(&mut host, &mut laptop, conn, timeout() + MOMENT);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

#[test]
fn a_slow_body_is_not_a_stalled_one() {
    for fields in [LENGTH, CHUNKED] {
        let (mut host, mut laptop, conn) = uploading(fields);
        if fields == CHUNKED {
            host.send(conn, b"ffff\r\n");
        }
        for _ in 0..10 {
            host.pass_with(&mut laptop, timeout() - MOMENT);
            host.send(conn, b"x");
            host.exchange(&mut laptop);
        }
        assert_eq!(host.receive(conn), "");
        host.answer(&mut laptop, 0, 3);
        assert!(host.receive(conn).ends_with("\r\n\r\nxxx"));
    }
}

#[test]
fn time_in_which_the_kit_itself_does_not_read_does_not_count() {
    let (mut host, mut laptop, conn) = uploading(LENGTH);
    while !host.kit.read_space(conn).is_empty() {
        host.send(conn, b"x");
        // The laptop takes it and gives no credit: its server does not read.
        let count = host.kit.read_space(conn).len();
        host.send(conn, &vec![b'x'; count]);
        host.exchange(&mut laptop);
    }
    host.pass_with(&mut laptop, timeout() * 3);
    assert_eq!(host.receive(conn), "");
    let (stream, now) = (laptop.streams[0], host.now);
    laptop.mux.passed_on(stream, 500_000, now);
    host.exchange(&mut laptop);
    host.pass_with(&mut laptop, timeout() - MOMENT);
    assert_eq!(
        host.receive(conn),
        "",
        "it could be read again from here on"
    );
    let answer = next_words(&mut host, &mut laptop, conn, MOMENT * 11);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn who_waits_for_a_100_owes_nothing_yet() {
    let fields = format!("{LENGTH}Expect: 100-continue\r\n");
    let (mut host, mut laptop, conn) = uploading(&fields);
    host.pass_with(&mut laptop, timeout() * 2);
    assert_eq!(host.receive(conn), "");
    let go_on = br#"{"status":100,"headers":[],"final":false}"#;
    laptop.mux.send_head(laptop.streams[0], go_on, host.now);
    host.exchange(&mut laptop);
    assert!(host.receive(conn).starts_with("HTTP/1.1 100 "));
    let answer = next_words(&mut host, &mut laptop, conn, timeout() + MOMENT * 10);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_body_that_stops_under_an_answer_that_moves_is_left_alone() {
    let (mut host, mut laptop, conn) = uploading(LENGTH);
    laptop.head(0, 1000, host.now);
    for _ in 0..5 {
        let (stream, now) = (laptop.streams[0], host.now);
        assert_eq!(laptop.mux.send(stream, b"x", now), 1);
        host.exchange(&mut laptop);
        assert!(host.receive(conn).ends_with('x'));
        host.pass_with(&mut laptop, timeout() - MOMENT);
    }
    assert_eq!(host.closed, []);
    host.pass_with(&mut laptop, MOMENT * 11);
    assert_eq!(host.closed, [conn], "both directions stand still");
}

/// The laptop's server takes `count` bytes of the request, and the laptop tells so in time.
fn takes(host: &mut Host, laptop: &mut Laptop, count: usize) {
    let stream = laptop.streams[0];
    laptop.mux.passed_on(stream, count, host.now);
    for _ in 0..2 {
        laptop.mux.sweep_idle(host.now, timeout() * 1000);
        host.exchange(laptop);
        host.pass_with(laptop, PROGRESS_UNSAID);
    }
}

/// A visitor whose whole body of 200,000 bytes has left, and has not been taken.
fn uploaded(fin: bool) -> (Host, Laptop, ConnKey) {
    let (mut host, mut laptop, conn) = uploading("Content-Length: 200000\r\n");
    for _ in 0..10 {
        host.send(conn, &[b'x'; 20_000]);
        host.exchange(&mut laptop);
    }
    if fin {
        host.finish(conn);
    }
    (host, laptop, conn)
}

#[test]
fn an_answer_is_not_late_while_a_slow_upstream_takes_the_body() {
    let response = Config::default().response_timeout;
    for fin in [false, true] {
        let (mut host, mut laptop, conn) = uploaded(fin);
        for _ in 0..5 {
            host.pass_with(&mut laptop, response * 9 / 10);
            takes(&mut host, &mut laptop, 10_000);
            assert_eq!(host.receive(conn), "", "FIN: {fin}");
        }
        host.answer(&mut laptop, 0, 3);
        assert!(host.receive(conn).ends_with("\r\n\r\nxxx"), "FIN: {fin}");
    }
}

#[test]
fn an_answer_is_late_once_the_upstream_takes_nothing_more_of_the_body() {
    let response = Config::default().response_timeout;
    for (fin, taken, wait) in [
        (false, 10_000, response),
        (true, 10_000, response),
        (false, 200_000, response),
        (true, 200_000, VISITOR_GONE_AFTER),
    ] {
        let (mut host, mut laptop, conn) = uploaded(fin);
        host.pass_with(&mut laptop, response / 2);
        takes(&mut host, &mut laptop, taken);
        host.pass_with(&mut laptop, wait - PROGRESS_UNSAID * 2);
        assert_eq!(host.receive(conn), "", "FIN: {fin}, taken: {taken}");
        let answer = next_words(&mut host, &mut laptop, conn, PROGRESS_UNSAID * 4);
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    }
}

#[test]
fn an_answer_that_stands_still_is_waited_for_while_the_rest_of_the_body_is_taken() {
    let (mut host, mut laptop, conn) = uploaded(true);
    laptop.head(0, 1000, host.now);
    host.exchange(&mut laptop);
    assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
    for _ in 0..5 {
        host.pass_with(&mut laptop, VISITOR_GONE_AFTER * 3);
        takes(&mut host, &mut laptop, 40_000);
        assert_eq!(host.closed, []);
    }
    host.pass_with(&mut laptop, VISITOR_GONE_AFTER);
    assert_eq!(host.closed, [conn], "nothing moves any more");
}
