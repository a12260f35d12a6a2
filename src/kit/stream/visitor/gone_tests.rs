//! Visitors and callers who left behind bytes that the kit does not read, and short timeouts.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::{
    BREAK_LOOKS, CUT_STALLED_AFTER, LEAVING_FOR, LEAVING_PAUSE, PROGRESS_UNSAID, SWEEP_EVERY,
    VISITOR_GONE_AFTER,
};
use crate::machine::{ConnKey, Ended, Event, Machine};
use crate::wire::code::Code;
use crate::wire::frame::FrameType;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PUT: &[u8] = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n";
const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const INSTANT: Duration = Duration::from_millis(1);

/// A visitor who has sent this, and whatever more the kit reads, before its FIN.
fn left_behind(head: &[u8], more: &[u8]) -> (Host, Laptop, ConnKey) {
    let mut host = Host::new(guarded());
    let mut laptop = host.laptop("192.0.2.1:1000");
    let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
    host.send(conn, head);
    fill(&mut host, &mut laptop, conn, more);
    host.finish_unread(conn);
    (host, laptop, conn)
}

/// Sends until the kit does not read on.
fn fill(host: &mut Host, laptop: &mut Laptop, conn: ConnKey, more: &[u8]) {
    loop {
        host.exchange(laptop);
        let space = host.kit.read_space(conn).len();
        if space == 0 {
            return;
        }
        let some: Vec<u8> = more.iter().copied().cycle().take(space).collect();
        host.send(conn, &some);
    }
}

#[test]
fn who_left_behind_further_requests_keeps_no_stream() {
    let (mut host, mut laptop, conn) = left_behind(GET, GET);
    host.pass_with(&mut laptop, VISITOR_GONE_AFTER - INSTANT);
    assert_eq!(host.receive(conn), "");
    host.pass_with(&mut laptop, INSTANT);
    let answer = host.receive(conn);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    host.exchange(&mut laptop);
    let streams = host.kit.sessions.stream_count();
    assert_eq!((streams, laptop.streams.len()), (0, 1));
    let told = "hoody_tunnel_streams_total{outcome=\"reset_by_peer\"} 1";
    assert!(host.get("metrics").contains(told));
}

#[test]
fn who_half_closed_behind_further_requests_gets_answers_that_come_in_time() {
    let (mut host, mut laptop, conn) = left_behind(GET, GET);
    for at in 0..20 {
        host.pass_with(&mut laptop, VISITOR_GONE_AFTER - INSTANT);
        host.answer(&mut laptop, at, 3);
        assert!(host.receive(conn).ends_with("\r\n\r\nxxx"), "{at}");
        host.exchange(&mut laptop);
    }
    host.pass_with(&mut laptop, VISITOR_GONE_AFTER);
    assert!(host.receive(conn).starts_with("HTTP/1.1 504 "));
}

#[test]
fn an_upload_whose_visitor_left_goes_on_while_it_moves() {
    let (mut host, mut laptop, conn) = left_behind(PUT, b"x");
    let stream = laptop.streams[0];
    for _ in 0..10 {
        host.pass_with(&mut laptop, VISITOR_GONE_AFTER - PROGRESS_UNSAID);
        laptop.mux.passed_on(stream, 500_000, host.now);
        fill(&mut host, &mut laptop, conn, b"x");
        assert_eq!(host.receive(conn), "");
    }
    host.pass_with(&mut laptop, VISITOR_GONE_AFTER);
    assert!(host.receive(conn).starts_with("HTTP/1.1 504 "));
    assert_eq!(host.kit.sessions.stream_count(), 0);
}

#[test]
fn an_answer_that_stands_still_is_not_waited_for_by_who_left() {
    for (head, more) in [(GET, GET), (PUT, b"x")] {
        let (mut host, mut laptop, conn) = left_behind(head, more);
        laptop.head(0, 1000, host.now);
        host.exchange(&mut laptop);
        assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
        host.pass_with(&mut laptop, VISITOR_GONE_AFTER - INSTANT);
        assert_eq!(host.closed, []);
        host.pass_with(&mut laptop, INSTANT * 2);
        assert_eq!(host.closed, [conn]);
    }
}

#[test]
fn an_upgraded_visitor_who_left_counts_as_half_closed() {
    for early in [true, false] {
        let mut host = Host::new(Config {
            half_close_timeout: Duration::from_secs(20),
            ..guarded()
        });
        let mut laptop = host.laptop("192.0.2.1:1000");
        let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
        host.send(conn, UPGRADE);
        if early {
            fill(&mut host, &mut laptop, conn, b"x");
            host.finish_unread(conn);
        }
        host.exchange(&mut laptop);
        let fields = r#"[["connection","upgrade"],["upgrade","websocket"]]"#;
        let head = format!(r#"{{"status":101,"headers":{fields},"final":true}}"#);
        let stream = laptop.streams[0];
        laptop.mux.send_head(stream, head.as_bytes(), host.now);
        host.exchange(&mut laptop);
        assert!(host.receive(conn).starts_with("HTTP/1.1 101 "));
        fill(&mut host, &mut laptop, conn, b"x");
        if !early {
            host.finish_unread(conn);
        }
        host.pass_with(&mut laptop, Duration::from_secs(20) - INSTANT);
        assert_eq!(host.closed, []);
        host.pass_with(&mut laptop, SWEEP_EVERY * 2);
        assert_eq!(host.closed, [], "what came before goes first");
        host.held.insert(conn, 0);
        host.pass_with(&mut laptop, BREAK_LOOKS);
        assert_eq!(host.closed, [conn]);
    }
}

/// A visitor who sends a body of this length to a laptop that is gone, whatever he is told: the
/// bytes that the kit takes, and how long it goes on.
fn uploads_in_vain(length: usize) -> (Host, ConnKey, usize, Duration) {
    let mut host = Host::new(guarded());
    let laptop = host.laptop("192.0.2.1:1000");
    let how = Ended::Reset;
    let conn = laptop.conn;
    host.kit.handle(Event::Ended { conn, how }, host.now);
    host.settle();
    let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
    host.send(conn, PUT);
    let (start, piece) = (host.now, vec![b'x'; 4 << 20]);
    let mut sent = 0;
    while sent < length && !host.closed.contains(&conn) {
        let most = piece.len().min(length - sent);
        sent += host.send_some(conn, &piece[..most]);
        host.pass(LEAVING_PAUSE);
    }
    let took = host.now.since(start);
    (host, conn, sent, took)
}

#[test]
fn who_sends_on_although_he_has_his_answer_is_slowed_down_and_not_reset() {
    let length = 20 << 20;
    let (mut host, conn, sent, took) = uploads_in_vain(length);
    assert_eq!((sent, &host.closed[..]), (length, &[][..]));
    assert!(took >= Duration::from_secs(19), "a MiB a second: {took:?}");
    assert!(host.receive(conn).starts_with("HTTP/1.1 503 "));
    host.finish(conn);
    assert_eq!(host.closed, [conn]);
    // But not for ever, and not if he is silent.
    let (host, conn, sent, took) = uploads_in_vain(90_000_000);
    assert!(
        host.closed.contains(&conn) && sent < 32 << 20,
        "{sent} in {took:?}"
    );
    assert!(took >= Duration::from_secs(29), "{took:?}");
    let (mut host, conn, _, _) = uploads_in_vain(5000);
    host.pass(LEAVING_FOR - LEAVING_PAUSE - INSTANT);
    assert_eq!(host.closed, []);
    host.pass(2 * INSTANT);
    assert_eq!(host.closed, [conn]);
}

/// A visitor whose answer broke in the middle of its body, and who has taken nothing of it yet.
fn broken(fields: &str, piece: usize) -> (Host, Laptop, ConnKey) {
    let mut host = Host::new(guarded());
    let mut laptop = host.laptop("192.0.2.1:1000");
    let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
    host.send(conn, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    host.exchange(&mut laptop);
    let stream = laptop.streams[0];
    let head = format!(r#"{{"status":200,"headers":[{fields}],"final":true}}"#);
    laptop.mux.send_head(stream, head.as_bytes(), host.now);
    assert_eq!(laptop.mux.send(stream, &vec![b'x'; piece], host.now), piece);
    host.exchange(&mut laptop);
    laptop.mux.reset(stream, Code::Cancel, "broken");
    host.exchange(&mut laptop);
    (host, laptop, conn)
}

#[test]
fn what_came_before_a_break_reaches_who_takes_it_slowly_or_pauses() {
    for fields in [r#"["content-length","90000000"]"#, ""] {
        let (mut host, mut laptop, conn) = broken(fields, 40_000);
        let mut got = 0;
        while got <= 40_000 {
            host.pass_with(&mut laptop, CUT_STALLED_AFTER - INSTANT);
            let some = host.take(conn, 2000).len();
            assert!(some > 0, "{got} came of {fields:?}");
            got += some;
        }
        assert_eq!(host.take(conn, 1), b"");
        // What the system holds is the visitor's, too, where a reset would destroy it.
        for held in [9000, 100, 1] {
            host.held.insert(conn, held);
            host.pass_with(&mut laptop, CUT_STALLED_AFTER - LEAVING_FOR);
            assert_eq!(host.closed.contains(&conn), !fields.is_empty(), "{held}");
        }
        host.pass_with(&mut laptop, CUT_STALLED_AFTER);
        assert_eq!(host.closed, [conn]);
        // But who takes nothing is not waited for any longer.
        let (mut host, mut laptop, conn) = broken(fields, 40_000);
        host.pass_with(&mut laptop, CUT_STALLED_AFTER - INSTANT);
        assert_eq!(host.closed, []);
        host.pass_with(&mut laptop, 2 * INSTANT);
        assert_eq!(host.closed, [conn]);
    }
}

#[test]
fn a_refused_head_gets_no_content_and_another_does() {
    for (method, has_content) in [("HEAD", false), ("GET", true)] {
        let mut host = Host::new(guarded());
        let _laptop = host.laptop("192.0.2.1:1000");
        let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
        let request = format!("{method} / HTTP/1.1\r\nHost: [::1\r\n\r\n");
        host.send(conn, request.as_bytes());
        let answer = host.receive(conn);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(!answer.ends_with("\r\n\r\n"), has_content, "{answer}");
    }
}

#[test]
fn timeouts_are_kept_however_short_they_are() {
    for millis in [100, 1000, 3000, 6000, 12_000] {
        let span = Duration::from_millis(millis);
        let slack = (span / 100).max(INSTANT);
        for (head, begun, status) in [(GET, 0, "504"), (PUT, 1, "408")] {
            let mut host = Host::new(Config {
                response_timeout: span,
                body_timeout: span,
                ..guarded()
            });
            let mut laptop = host.laptop("192.0.2.1:1000");
            let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
            // Its connection is older than its request.
            host.pass_with(&mut laptop, Duration::from_secs(7));
            host.send(conn, head);
            host.exchange(&mut laptop);
            host.pass_with(&mut laptop, span / 2);
            let last = match begun {
                0 => span / 2,
                _ => span,
            };
            host.send(conn, &b"x"[..begun]);
            host.exchange(&mut laptop);
            host.pass_with(&mut laptop, last - slack);
            assert_eq!(host.receive(conn), "", "{span:?} {status}");
            host.pass_with(&mut laptop, slack);
            let answer = host.receive(conn);
            let told = answer.starts_with(&format!("HTTP/1.1 {status} "));
            assert!(told, "{span:?} {status}: {answer}");
        }
    }
}

#[test]
fn a_session_is_idle_from_when_its_last_binding_went() {
    let span = Duration::from_secs(10);
    let mut host = Host::new(Config {
        idle_timeout: span,
        ..guarded()
    });
    let mut laptop = host.laptop("192.0.2.1:1000");
    host.pass_with(&mut laptop, span * 2 - INSTANT);
    let unbind = br#"{"bindId":1}"#;
    laptop
        .mux
        .lanes_mut()
        .push_control(FrameType::Unbind, unbind);
    host.exchange(&mut laptop);
    host.pass_with(&mut laptop, span - INSTANT);
    assert_eq!(host.kit.sessions.len(), 1);
    host.pass_with(&mut laptop, INSTANT);
    assert_eq!(host.kit.sessions.len(), 0);
}

#[test]
fn a_request_that_was_sent_whole_is_half_closed_and_told_so_as_one_that_is_late() {
    let mut host = Host::new(Config {
        half_close_timeout: Duration::from_secs(1),
        ..guarded()
    });
    let mut laptop = host.laptop("192.0.2.1:1000");
    let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
    host.send(conn, GET);
    host.exchange(&mut laptop);
    host.pass_with(&mut laptop, Duration::from_secs(1) + SWEEP_EVERY);
    assert!(host.receive(conn).starts_with("HTTP/1.1 504 "));
}

#[test]
fn nobody_is_judged_while_the_signs_of_life_that_were_promised_do_not_come() {
    for promise in [r#","pingEveryMs":2000"#, ""] {
        let mut host = Host::new(guarded());
        let hello = format!(r#"{{"version":"hoody-tunnel.v1"{promise}}}"#);
        let mut laptop = host.greet("192.0.2.1:1000", &hello);
        let bind = br#"{"clientBindRef":1,"kind":"http","mode":"expose","containerPort":0}"#;
        laptop.mux.lanes_mut().push_control(FrameType::Bind, bind);
        host.exchange(&mut laptop);
        let conn = host.visit_at(host.bound[0], "192.0.2.2:1").unwrap();
        host.send(conn, GET);
        fill(&mut host, &mut laptop, conn, GET);
        host.finish_unread(conn);
        host.pass(VISITOR_GONE_AFTER);
        let judged = host.receive(conn).starts_with("HTTP/1.1 504 ");
        assert_eq!(judged, promise.is_empty(), "{promise}");
        if judged {
            continue;
        }
        // Its lane brings something again: the visitor has as long as ever.
        laptop.mux.lanes_mut().keep_heard(0, [7; 8]);
        host.exchange(&mut laptop);
        for (passes, judged) in [(VISITOR_GONE_AFTER - INSTANT, false), (INSTANT, true)] {
            let half = passes / 2;
            for _ in 0..2 {
                host.pass(half);
                laptop.mux.lanes_mut().keep_heard(0, [7; 8]);
                host.exchange(&mut laptop);
            }
            host.pass(passes - half * 2);
            let answer = host.receive(conn);
            assert_eq!(answer.starts_with("HTTP/1.1 504 "), judged, "{answer}");
        }
    }
}
