//! Tests of one visitor's HTTP, alone: `fuzz/bodies/visitor_exchange.rs` plays it in any order.

use std::time::Duration;

use super::*;
use crate::http::RequestHead;

const FINAL: &[u8] = br#"{"status":200,"headers":[["content-length","4"]]}"#;
const SWITCH: &[u8] =
    br#"{"status":101,"headers":[["upgrade","websocket"],["connection","upgrade"]]}"#;

/// A visitor that has sent all of `bytes`, and whose first request was begun.
fn asked(bytes: &[u8]) -> HttpExchange {
    let mut http = HttpExchange::new(Instant::ZERO);
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
    http.stream_head(payload, 0, &mut Vec::new(), Instant::ZERO, None)
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
