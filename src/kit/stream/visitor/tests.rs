//! Visitors that do not read, or ask ahead and send FIN.

use crate::wire::code::Code;
use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::public_url::PublicUrl;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::{
    CUT_STALLED_AFTER, VISITOR_GONE_AFTER, VISITOR_HEAD_TIMEOUT, VISITOR_STALLED_FOR,
};
use crate::machine::{ConnKey, Ended, Event, Machine};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A laptop with one binding, and visitors who asked it for something.
fn asked(config: Config, visitors: u16) -> (Host, Laptop, Vec<ConnKey>) {
    let mut host = Host::new(config);
    let mut laptop = host.laptop("192.0.2.1:1000");
    let conns = (0..visitors)
        .map(|port| {
            let peer = format!("192.0.2.2:{}", 1000 + port);
            let conn = host.visit_at(host.bound[0], &peer).expect("accepted");
            host.send(conn, GET.as_bytes());
            host.exchange(&mut laptop);
            conn
        })
        .collect();
    assert_eq!(laptop.streams.len(), usize::from(visitors));
    (host, laptop, conns)
}

/// A kit that has room for two of `answer`'s megabytes in a session, and a little more.
fn with_little_memory() -> Config {
    Config {
        memory: 12 << 20,
        max_sessions: 1,
        session_initial_window: 2 << 20,
        replay_buffer: 0,
        ..guarded()
    }
}

/// The streams that ended with this outcome.
fn ended(host: &mut Host, outcome: &str) -> u32 {
    let page = host.get("metrics");
    let name = format!("hoody_tunnel_streams_total{{outcome=\"{outcome}\"}} ");
    let (_, rest) = page.split_once(&name).expect("an outcome");
    rest.lines().next().unwrap_or_default().parse().unwrap()
}

#[test]
fn where_memory_does_not_suffice_whole_responses_are_cut_too_and_counted_as_what_they_are() {
    let (mut host, mut laptop, conns) = asked(with_little_memory(), 7);
    laptop.shares = false;
    for at in 0..5 {
        host.answer(&mut laptop, at, 1 << 19);
        host.pass_with(&mut laptop, Duration::from_millis(1));
    }
    // What is left is taken by one that has not got all, and the last one gets nothing.
    host.answer(&mut laptop, 5, 1 << 17);
    host.pass_with(&mut laptop, CUT_STALLED_AFTER / 2);
    assert_eq!(host.closed, [], "nobody has stalled for long enough");
    host.pass_with(&mut laptop, CUT_STALLED_AFTER * 2 / 3);
    assert_eq!(host.closed, conns[..1], "the one that has stalled longest");
    assert_eq!(ended(&mut host, "stalled"), 1);
    assert_eq!(ended(&mut host, "violated"), 0);
}

#[test]
fn where_heads_take_too_much_memory_whoever_sent_most_of_one_is_refused() {
    let config = with_little_memory();
    let limit = config.memory_plan().heads;
    let mut host = Host::new(config);
    let mut laptop = host.laptop("192.0.2.1:1000");
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(30_000));
    let hoggers: Vec<ConnKey> = (0..3 * limit / 30_000)
        .map(|n| {
            let conn = host.visit_at(host.bound[0], &format!("192.0.2.3:{}", 1 + n));
            host.send(conn.expect("accepted"), long.as_bytes());
            conn.expect("accepted")
        })
        .collect();
    assert!(
        host.kit.conns.heads().total() <= limit,
        "{} of {limit}",
        host.kit.conns.heads().total()
    );
    let refused = hoggers
        .iter()
        .filter(|conn| host.receive(**conn).starts_with("HTTP/1.1 503"));
    let refused = refused.count();
    assert!(refused >= hoggers.len() / 2);
    let told = format!("hoody_tunnel_stream_refusals_total{{reason=\"heads\"}} {refused}\n");
    assert!(host.get("metrics").contains(&told), "{told}");
    // A head of an ordinary size is heard all the same.
    let conn = host
        .visit_at(host.bound[0], "192.0.2.2:1000")
        .expect("accepted");
    host.send(conn, GET.as_bytes());
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 1);
}

#[test]
fn a_visitor_that_takes_nothing_of_a_response_does_not_hold_its_place_for_ever() {
    let (mut host, mut laptop, conns) = asked(guarded(), 1);
    host.answer(&mut laptop, 0, 100_000);
    // A slow reader moves, however slowly.
    for _ in 0..5 {
        host.pass_with(&mut laptop, VISITOR_STALLED_FOR * 9 / 10);
        assert_eq!(host.take(conns[0], 100).len(), 100);
    }
    host.pass_with(&mut laptop, VISITOR_STALLED_FOR - VISITOR_HEAD_TIMEOUT);
    assert_eq!(host.closed, []);
    host.pass_with(&mut laptop, VISITOR_HEAD_TIMEOUT * 2);
    assert_eq!(host.closed, conns);
    assert_eq!(ended(&mut host, "stalled"), 1);
}

#[test]
fn a_response_that_the_laptop_pauses_is_waited_for() {
    let config = Config {
        half_close_timeout: VISITOR_STALLED_FOR * 10,
        ..guarded()
    };
    let (mut host, mut laptop, conns) = asked(config, 1);
    laptop.head(0, 1000, host.now);
    host.exchange(&mut laptop);
    assert!(host.receive(conns[0]).starts_with("HTTP/1.1 200 "));
    host.pass_with(&mut laptop, VISITOR_STALLED_FOR * 3);
    laptop.mux.send(laptop.streams[0], &[b'x'; 1000], host.now);
    laptop.mux.send_eof(laptop.streams[0], host.now);
    host.exchange(&mut laptop);
    // Until now nothing waited for the visitor, so it has not let anything wait.
    host.pass_with(&mut laptop, VISITOR_HEAD_TIMEOUT * 2);
    assert_eq!(host.receive(conns[0]).len(), 1000);
    assert_eq!((host.closed.len(), ended(&mut host, "finished")), (0, 1));
}

#[test]
fn a_visitor_that_half_closes_gets_an_answer_to_all_that_it_asked() {
    for cut in ["", "GET / HTTP/1.1\r\nHost:"] {
        let (mut host, mut laptop, conns) = asked(guarded(), 1);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        host.send(conns[0], [post, GET, cut].concat().as_bytes());
        host.finish(conns[0]);
        for at in 0..3 {
            assert_eq!(host.closed, [], "before answer {at}");
            host.answer(&mut laptop, at, 10);
            assert!(host.receive(conns[0]).ends_with("\r\n\r\nxxxxxxxxxx"));
            host.exchange(&mut laptop);
        }
        assert_eq!((host.closed, laptop.streams.len()), (conns, 3));
    }
}

#[test]
fn a_visitor_that_has_sent_fin_and_sees_no_head_is_gone_soon() {
    let (mut host, mut laptop, conns) = asked(guarded(), 2);
    host.pass_with(&mut laptop, VISITOR_HEAD_TIMEOUT * 2);
    host.send(conns[1], GET.as_bytes());
    host.finish(conns[0]);
    host.finish(conns[1]);
    let nearly = VISITOR_GONE_AFTER - Duration::from_millis(1);
    host.pass_with(&mut laptop, nearly);
    assert_eq!(host.closed, []);
    // One is answered just in time, and so its next request begins to be waited for.
    host.answer(&mut laptop, 1, 10);
    assert!(host.receive(conns[1]).contains(" 200 "));
    host.exchange(&mut laptop);
    host.pass_with(&mut laptop, nearly);
    // To one who is still there it is an answer, to one who is gone nothing.
    for conn in &conns {
        assert!(host.receive(*conn).starts_with("HTTP/1.1 504 "));
        assert_eq!(host.closed.last(), Some(conn));
        host.pass_with(&mut laptop, Duration::from_millis(1));
    }
    assert_eq!(ended(&mut host, "reset_by_peer"), 2);
}

#[test]
fn a_request_that_a_fin_cuts_off_is_given_up_also_behind_another_one() {
    for cut in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let (mut host, mut laptop, conns) = asked(guarded(), 1);
        host.send(conns[0], cut.as_bytes());
        host.finish(conns[0]);
        host.answer(&mut laptop, 0, 10);
        assert!(host.receive(conns[0]).contains(" 200 "));
        assert_eq!(host.closed, conns);
        assert_eq!(ended(&mut host, "reset_by_peer"), 1);
    }
}

#[test]
fn a_response_that_is_whole_arrives_although_the_request_was_cut_off() {
    let (mut host, mut laptop, conns) = asked(guarded(), 1);
    host.send(
        conns[0],
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    );
    host.answer(&mut laptop, 0, 10);
    host.receive(conns[0]);
    host.exchange(&mut laptop);
    host.answer(&mut laptop, 1, 10);
    host.finish(conns[0]);
    assert!(host.receive(conns[0]).ends_with("\r\n\r\nxxxxxxxxxx"));
    assert_eq!(host.closed, conns);
}

#[test]
fn what_the_kit_answers_by_itself_is_followed_by_the_rest_too() {
    let (mut host, laptop, conns) = asked(guarded(), 1);
    host.kit.handle(
        Event::Ended {
            conn: laptop.conn,
            how: Ended::Reset,
        },
        host.now,
    );
    host.settle();
    host.send(conns[0], GET.repeat(2).as_bytes());
    host.finish(conns[0]);
    let answers = host.receive(conns[0]);
    let away = answers.matches("HTTP/1.1 503 ").count();
    assert_eq!(
        (answers.contains("HTTP/1.1 502 "), away),
        (true, 2),
        "{answers}"
    );
    assert!(host.closed.contains(&conns[0]));
}

#[test]
fn requests_that_wait_for_a_lane_are_bounded_in_bytes() {
    let (mut host, mut laptop, _) = asked(guarded(), 1);
    // From here on the laptop does not read.
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(30_000)
    );
    let conns: Vec<ConnKey> = (0..50)
        .map(|port| {
            let peer = format!("192.0.2.3:{}", 1000 + port);
            let conn = host.visit_at(host.bound[0], &peer).expect("accepted");
            host.send(conn, large.as_bytes());
            conn
        })
        .collect();
    let answers = conns.iter().map(|conn| host.receive(*conn));
    let busy = answers.filter(|answer| answer.contains("503 ") && answer.contains("after: 1"));
    let busy = busy.count();
    assert!((10..=20).contains(&busy), "{busy} were told to come again");
    // It reads again, and so they may.
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 1 + 50 - busy);
    host.send(conns[49], large.as_bytes());
    host.exchange(&mut laptop);
    assert_eq!(laptop.streams.len(), 2 + 50 - busy);
}

#[test]
fn a_response_that_does_not_come_is_counted_as_timed_out() {
    let (mut host, mut laptop, conns) = asked(guarded(), 1);
    host.pass_with(&mut laptop, Config::default().response_timeout);
    assert!(host.receive(conns[0]).starts_with("HTTP/1.1 504 "));
    assert_eq!(ended(&mut host, "timed_out"), 1);
}

#[test]
fn a_client_that_takes_no_more_has_its_visitor_try_again_and_one_that_broke_does_not() {
    for (code, status, again) in [
        (Code::RefusedStream, "503", true),
        (Code::InternalError, "502", false),
    ] {
        let (mut host, mut laptop, conns) = asked(guarded(), 1);
        laptop.mux.reset(laptop.streams[0], code, "no");
        host.exchange(&mut laptop);
        let answer = host.receive(conns[0]);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let told = answer.to_ascii_lowercase().contains("retry-after: 1");
        assert_eq!(told, again, "{answer}");
    }
}

#[test]
fn interim_heads_that_a_visitor_does_not_read_end_its_exchange() {
    let (mut host, mut laptop, conns) = asked(guarded(), 1);
    let link = "x".repeat(6000);
    let hint = format!(
        r#"{{"status":103,"headers":[["link","{link}"],["link","{link}"]],"final":false}}"#
    );
    let stream = laptop.streams[0];
    // One that is read may be followed by many.
    for _ in 0..20 {
        laptop.mux.send_head(stream, hint.as_bytes(), host.now);
        host.exchange(&mut laptop);
        assert!(host.receive(conns[0]).starts_with("HTTP/1.1 103 "));
    }
    for _ in 0..20 {
        laptop.mux.send_head(stream, hint.as_bytes(), host.now);
        host.exchange(&mut laptop);
    }
    let waited = host.receive(conns[0]);
    assert_eq!(waited.matches("HTTP/1.1 103 ").count(), 2);
    assert!(waited.contains("HTTP/1.1 502 "));
    assert_eq!(ended(&mut host, "stalled"), 1);
}

#[test]
fn an_expose_port_on_loopback_answers_to_its_own_names_only() {
    let mut config = Config {
        expose_host: [127, 0, 0, 1].into(),
        public_url: Some(PublicUrl::parse("https://app-{port}.example").unwrap()),
        allow_host: vec!["*.corp.test".into()],
        ..guarded()
    };
    let ask = |config: &Config, field: &str| {
        let mut host = Host::new(config.clone());
        let mut laptop = host.laptop("192.0.2.1:1000");
        let conn = host.visit_at(host.bound[0], "127.0.0.1:1").unwrap();
        host.send(
            conn,
            format!("GET / HTTP/1.1\r\n{field}\r\n\r\n").as_bytes(),
        );
        host.exchange(&mut laptop);
        (laptop.streams.len(), host.receive(conn))
    };
    for host in [
        "localhost:3000",
        "127.0.0.1",
        "[::1]:3000",
        "app-3000.example",
        "a.corp.test",
    ] {
        assert_eq!(ask(&config, &format!("Host: {host}")).0, 1, "{host}");
    }
    for host in [
        "evil.test",
        "evil.test:3000",
        "localhost.evil.test",
        "corp.test",
        "a",
    ] {
        let (streams, answer) = ask(&config, &format!("Host: {host}"));
        assert_eq!(streams, 0, "{host}: nothing is forwarded");
        assert!(
            answer.starts_with("HTTP/1.1 421 ") && answer.contains("--allow-host"),
            "{answer}"
        );
    }
    // Elsewhere any name may lead here, and a proxy in front decides which.
    config.expose_host = [0, 0, 0, 0].into();
    assert_eq!(ask(&config, "Host: evil.test").0, 1);
}

#[test]
fn each_connection_of_a_visitor_has_its_number_also_where_another_had_its_port() {
    let mut host = Host::new(guarded());
    let mut laptop = host.laptop("192.0.2.1:1000");
    for _ in 0..2 {
        let conn = host
            .visit_at(host.bound[0], "192.0.2.2:1000")
            .expect("accepted");
        for _ in 0..2 {
            host.send(conn, GET.as_bytes());
            host.exchange(&mut laptop);
            let last = laptop.streams.len() - 1;
            host.answer(&mut laptop, last, 0);
            assert!(host.receive(conn).starts_with("HTTP/1.1 200 "));
        }
        host.finish(conn);
    }
    let numbers: Vec<&str> = laptop
        .opens
        .iter()
        .map(|open| {
            assert!(open.contains(r#""remoteAddr":"192.0.2.2:1000""#), "{open}");
            open.split_once(r#""connectionId":"#).expect("a number").1
        })
        .collect();
    let [first, again, next, last] = numbers[..] else {
        panic!("four requests: {numbers:?}");
    };
    assert_eq!((first, next), (again, last));
    assert_ne!(first, next);
}

/// Lets time pass, in which a visitor's system takes some now and then, and nothing is written.
fn trickle(host: &mut Host, laptop: &mut Laptop, conn: ConnKey, span: Duration) {
    let until = host.now + span;
    while host.now < until {
        *host.held.get_mut(&conn).expect("it tells") -= 100;
        host.pass_with(laptop, Duration::from_secs(20));
    }
}

#[test]
fn where_memory_does_not_suffice_whoever_took_nothing_is_cut_and_not_who_reads_slowly() {
    let (mut host, mut laptop, conns) = asked(with_little_memory(), 7);
    laptop.shares = false;
    for (at, conn) in conns[..5].iter().enumerate() {
        host.answer(&mut laptop, at, 1 << 19);
        assert_eq!(host.take(*conn, 1000).len(), 1000);
        host.held.insert(*conn, 1000);
        host.pass_with(&mut laptop, Duration::from_millis(1));
    }
    host.answer(&mut laptop, 5, 1 << 17);
    trickle(&mut host, &mut laptop, conns[0], CUT_STALLED_AFTER * 3);
    assert_eq!(host.closed, conns[1..2], "the one that has stalled longest");
    assert_eq!(ended(&mut host, "stalled"), 1);
}

#[test]
fn a_visitor_whose_system_takes_a_response_keeps_its_place_although_nothing_is_written() {
    let (mut host, mut laptop, conns) = asked(guarded(), 1);
    host.answer(&mut laptop, 0, 200_000);
    assert_eq!(host.take(conns[0], 100_000).len(), 100_000);
    host.held.insert(conns[0], 90_000);
    trickle(&mut host, &mut laptop, conns[0], VISITOR_STALLED_FOR * 3);
    assert_eq!(host.closed, []);
    let late = VISITOR_STALLED_FOR + VISITOR_HEAD_TIMEOUT * 2;
    host.pass_with(&mut laptop, late);
    assert_eq!(host.closed, conns);
    assert_eq!(ended(&mut host, "stalled"), 1);
}
