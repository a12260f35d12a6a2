//! Tests of one visitor's HTTP, alone: `fuzz/bodies/visitor_exchange.rs` plays it in any order.

use std::time::Duration;

use super::*;
use crate::http::RequestHead;

const FINAL: &[u8] = br#"{"status":200,"headers":[["content-length","4"]]}"#;
const SWITCH: &[u8] =
    br#"{"status":101,"headers":[["upgrade","websocket"],["connection","upgrade"]]}"#;

/// A visitor that has sent all of `bytes`, and whose first request was begun.
fn asked(bytes: &[u8]) -> HttpExchange {
    let mut http = HttpExchange::new(HeadLimits::REQUEST, Instant::ZERO);
    http.feed(bytes, Instant::ZERO);
    begin(&mut http);
    http
}

/// Begins the request at hand.
fn begin(http: &mut HttpExchange) {
    assert_eq!(http.turn(true, Instant::ZERO), Turn::Head);
    let head = http.next_head().expect("well-formed").expect("whole");
    let parsed = RequestHead::parse(head).expect("a request");
    let (length, asked, body) = (head.len(), parsed.asked(), parsed.body);
    http.head_read(length);
    http.begin(asked, body, false, Instant::ZERO);
}

/// All that goes to the stream where `credit` bytes do, and whether EOF does too.
fn sends(http: &mut HttpExchange, mut credit: usize) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    loop {
        match http.outgoing(Instant::ZERO).expect("a body") {
            Outgoing::Nothing => return (all, false),
            Outgoing::Eof => return (all, true),
            Outgoing::Data(bytes) => {
                let count = bytes.len().min(credit);
                credit -= count;
                all.extend_from_slice(&bytes[..count]);
                if !http.sent(count, Instant::ZERO) {
                    return (all, false);
                }
            }
        }
    }
}

fn heads(http: &mut HttpExchange, payload: &[u8]) -> Result<Headed, NoHead> {
    let head = (payload, &HeadParts::default());
    http.stream_head(head, 0, &mut Vec::new(), Instant::ZERO, Added::default())
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn the_next_head_is_read_only_when_the_response_before_it_has_left_whole() {
    let mut http = asked(&[GET, GET].concat());
    assert_eq!(sends(&mut http, 0), (vec![], true));
    assert!(heads(&mut http, FINAL).is_ok());
    assert_eq!(http.stream_data(4, false, Instant::ZERO), Ok(Data::Whole));
    assert!(http.stream_ended(false, Instant::ZERO).is_ok());
    assert_eq!(http.turn(false, Instant::ZERO), Turn::Rest);
    let (uploaded, stays) = (true, true);
    assert_eq!(http.flushed(Instant::ZERO), Left::Over { uploaded, stays });
    begin(&mut http);
    assert!(http.is_open());
}

#[test]
fn a_body_of_known_length_is_read_straight_to_the_stream_and_no_further() {
    let mut http = asked(POST);
    assert_eq!(sends(&mut http, 9), (vec![], false));
    assert_eq!(http.room(), Room::Stream(5));
    http.read_straight(3, Instant::ZERO);
    assert_eq!(http.room(), Room::Stream(2));
    http.read_straight(2, Instant::ZERO);
    assert_eq!(sends(&mut http, 9), (vec![], true));
    assert_eq!(http.room(), Room::Here { ahead: 0 });
}

#[test]
fn what_finds_no_credit_waits_and_nothing_more_is_read() {
    let mut http = asked(&[CHUNKED, b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"].concat());
    assert_eq!(sends(&mut http, 2), (b"he".to_vec(), false));
    assert_eq!(http.room(), Room::Nowhere);
    assert_eq!(sends(&mut http, 4), (b"lloy".to_vec(), false));
    assert_eq!(sends(&mut http, 9), (b"ou".to_vec(), true));
}

#[test]
fn until_the_101_nothing_is_raw_and_from_then_on_everything_is() {
    let mut http = asked(&[UPGRADE, b"early"].concat());
    assert_eq!(sends(&mut http, 9), (vec![], false), "no EOF, no bytes");
    assert_eq!(heads(&mut http, SWITCH), Ok(Headed::Switch));
    assert_eq!(sends(&mut http, 9), (b"early".to_vec(), false));
    assert!(matches!(http.room(), Room::Stream(_)));
    assert_eq!(
        http.visitor_ended(Instant::ZERO),
        AtFin::Raw { first: true }
    );
    let ended = http.stream_ended(true, Instant::ZERO);
    assert_eq!(ended, Ok(AtEof::Raw(Flow::Over)));
    assert!(http.is_over());
}

#[test]
fn a_client_that_breaks_the_exchange_is_told_apart_from_one_that_is_done() {
    let mut http = asked(GET);
    assert!(http.stream_data(1, true, Instant::ZERO).is_err());
    assert!(http.stream_ended(true, Instant::ZERO).is_err());
    assert!(matches!(heads(&mut http, b"{"), Err(NoHead::Fault(_))));
    assert!(heads(&mut http, FINAL).is_ok());
    assert!(matches!(heads(&mut http, FINAL), Err(NoHead::Fault(_))));
    assert!(http.stream_data(5, true, Instant::ZERO).is_err());
    assert!(
        http.stream_ended(true, Instant::ZERO).is_err(),
        "4 bytes lack"
    );
    assert_eq!(http.stream_broken(false), Broken::Cut { shown: true });
    assert_eq!(http.stream_data(4, true, Instant::ZERO), Ok(Data::Whole));
    assert!(http.stream_ended(true, Instant::ZERO).is_ok());
    assert!(http.stream_data(1, true, Instant::ZERO).is_err());
    assert_eq!(http.stream_broken(false), Broken::Fine, "all of it came");
}

#[test]
fn whoever_left_behind_its_request_is_waited_for_less_long() {
    let mut http = asked(GET);
    assert_eq!(sends(&mut http, 0), (vec![], true));
    let (flushed, movement) = (true, None);
    let (patience, often) = (Duration::from_secs(600), Duration::from_secs(3600));
    let looks = |fin| {
        let seen = Seen {
            fin,
            flushed,
            movement,
        };
        match http.look(&seen, patience, often, Instant::ZERO) {
            Look::Until(at) => at,
            other => panic!("{other:?}"),
        }
    };
    let (there, gone) = (looks(Fin::NotYet), looks(Fin::Read));
    assert_eq!(there, Instant::ZERO + patience);
    assert!(gone < there);
    let seen = Seen {
        fin: Fin::Read,
        flushed,
        movement,
    };
    let look = http.look(&seen, patience, often, gone);
    assert!(
        matches!(look, Look::Unanswered { gone: true, .. }),
        "{look:?}"
    );
    assert_eq!(http.visitor_ended(gone), AtFin::Watch);
}

const TRAILERS: &[u8] = br#"{"headers":[["x-sum","1"],["content-length","9"]]}"#;

/// What is written for a visitor who does or does not take trailers, whose response has this head
/// and these trailers, up to its end.
fn trails(request: &[u8], takes: bool, head: &[u8], trailers: &[u8]) -> Vec<u8> {
    let mut http = asked(request);
    http.trailers_travel(takes);
    assert!(sends(&mut http, 0).1);
    let (mut text, now) = (Vec::new(), Instant::ZERO);
    assert_eq!(
        http.stream_trailers(trailers, &mut text),
        Ok(false),
        "none are due"
    );
    let head = (head, &HeadParts::default());
    assert!(
        http.stream_head(head, 0, &mut text, now, Added::default())
            .is_ok()
    );
    text.clear();
    let written = http.stream_trailers(trailers, &mut text);
    assert_eq!(written, Ok(!text.is_empty()));
    if !text.is_empty() {
        assert_eq!(
            http.stream_trailers(trailers, &mut text),
            Ok(false),
            "only the first"
        );
        assert!(http.stream_data(1, true, now).is_err(), "the body is whole");
        let cut = http.stream_broken(false);
        assert_eq!(
            cut,
            Broken::Cut { shown: true },
            "it does not look whole yet"
        );
    }
    match http.stream_ended(true, now) {
        Ok(AtEof::Whole { last, .. }) => text.extend_from_slice(last),
        other => panic!("{other:?}"),
    }
    text
}

#[test]
fn trailers_come_to_whoever_takes_them_behind_a_chunked_body() {
    let chunked = br#"{"status":200,"headers":[]}"#;
    let whole = b"0\r\nx-sum: 1\r\n\r\n";
    assert_eq!(trails(GET, true, chunked, TRAILERS), whole);
    assert_eq!(trails(GET, false, chunked, TRAILERS), b"0\r\n\r\n");
    let none = br#"{"headers":[["host","a"]]}"#;
    assert_eq!(trails(GET, true, chunked, none), b"0\r\n\r\n");
    let of_length = br#"{"status":200,"headers":[["content-length","0"]]}"#;
    assert_eq!(trails(GET, true, of_length, TRAILERS), b"");
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(trails(head, true, chunked, TRAILERS), b"");
    let old = b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n";
    assert_eq!(trails(old, true, chunked, TRAILERS), b"");
}

#[test]
fn malformed_trailers_are_a_fault_and_write_nothing() {
    for bad in [
        &b"{"[..],
        b"[]",
        br#"{"headers":[["a b","1"]]}"#,
        br#"{"headers":[["a","\n"]]}"#,
    ] {
        let mut http = asked(GET);
        http.trailers_travel(true);
        assert!(sends(&mut http, 0).1);
        let mut text = Vec::new();
        let head = br#"{"status":200,"headers":[]}"#;
        assert!(
            http.stream_head(
                (head, &HeadParts::default()),
                0,
                &mut text,
                Instant::ZERO,
                Added::default()
            )
            .is_ok()
        );
        text.clear();
        assert!(http.stream_trailers(bad, &mut text).is_err() && text.is_empty());
    }
}

#[test]
fn trailers_of_a_request_are_kept_until_its_end_and_weighed() {
    let rest = b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n";
    for cut in 0..rest.len() {
        let mut http = asked(CHUNKED);
        http.trailers_travel(false);
        let empty = http.capacity();
        http.feed(&rest[..cut], Instant::ZERO);
        let (mut data, _) = sends(&mut http, 9);
        http.feed(&rest[cut..], Instant::ZERO);
        let (more, ended) = sends(&mut http, 9);
        data.extend(more);
        assert_eq!((&data[..], ended), (&b"hello"[..], true), "cut at {cut}");
        assert!(http.capacity() > empty);
        assert_eq!(http.take_trailers(), b"X-Sum: 1\nHost: b\n", "cut at {cut}");
        assert_eq!(http.take_trailers(), b"");
    }
}
