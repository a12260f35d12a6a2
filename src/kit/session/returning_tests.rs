//! Sessions that come back with their streams, and those that do not (PROTOCOL §9).

use std::time::Duration;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::kit::config::Config;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::machine::{ConnKey, Ended, Event, Machine};
use crate::mux::{Item, Transport};
use crate::wire::frame::FrameType;

const HELLO: &str = r#"{"version":"hoody-tunnel.v1","capabilities":["replay"],
    "replayBuffer":1048576"#;
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the kit answered to a HELLO.
struct Answer {
    conn: ConnKey,
    lane: Transport,
    frames: Vec<(FrameType, String)>,
    closed: Option<u16>,
}

impl Answer {
    fn said(&self, kind: FrameType) -> &str {
        let found = self.frames.iter().find(|(told, _)| *told == kind);
        found.map_or("", |(_, json)| json)
    }
}

impl Host {
    /// A laptop with an EXPOSE port whose streams are kept.
    fn keeper(&mut self) -> Laptop {
        let mut laptop = self.greet("192.0.2.1:1000", &format!("{HELLO}}}"));
        assert!(
            laptop.told[0].1.contains(r#""epoch":1"#),
            "{:?}",
            laptop.told
        );
        let bind = br#"{"clientBindRef":7,"kind":"http","mode":"expose","containerPort":0}"#;
        laptop.mux.lanes_mut().push_control(FrameType::Bind, bind);
        self.exchange(&mut laptop);
        laptop
    }

    fn ask_for(&mut self, laptop: &mut Laptop) -> ConnKey {
        let port = *self.bound.last().expect("a port");
        let conn = self.visit_at(port, "192.0.2.2:2000").expect("accepted");
        self.send(conn, GET.as_bytes());
        self.exchange(laptop);
        conn
    }

    /// The laptop's connection is lost, to the kit as well.
    fn lose(&mut self, laptop: &mut Laptop) {
        let event = Event::Ended {
            conn: laptop.conn,
            how: Ended::Reset,
        };
        self.kit.handle(event, self.now);
        self.settle();
        laptop.mux.suspend(0, self.now);
    }

    /// Says HELLO for a session, with these words in `resume`.
    fn hello(&mut self, laptop: &Laptop, resume: &str) -> Answer {
        let told = &laptop.told[0].1;
        let (_, id) = told.split_once(r#""sessionId":""#).expect("an id");
        let id = id.split('"').next().unwrap_or_default();
        let hello = format!(r#"{HELLO},"resume":{{"sessionId":"{id}"{resume}}}}}"#);
        let conn = self.upgraded("192.0.2.1:1001");
        let mut lane = Transport::client(conn, Entropy::from_seed(9), self.now);
        lane.push_control(FrameType::Hello, hello.as_bytes());
        let bytes = lane.transmit().to_vec();
        lane.transmitted(bytes.len());
        self.send(conn, &bytes);
        let answer = self.take(conn, usize::MAX);
        lane.feed(&answer, self.now);
        let (mut frames, mut closed) = (Vec::new(), None);
        while let Some(item) = lane.poll().expect("a kit that keeps the rules") {
            match item {
                Item::Frame { kind, payload, .. } => {
                    let json = String::from_utf8_lossy(lane.payload(&payload)).into_owned();
                    frames.push((kind, json));
                    if kind == FrameType::HelloOk {
                        break;
                    }
                }
                Item::Closed { code } => closed = code,
                Item::Pinged => {}
            }
        }
        Answer {
            conn,
            lane,
            frames,
            closed,
        }
    }

    /// The laptop comes back with its streams.
    fn come_back(&mut self, laptop: &mut Laptop, attempt: u32) {
        let received = laptop.mux.lanes().received(0);
        let words = format!(r#","epoch":1,"attempt":{attempt},"received":{received}"#);
        let answer = self.hello(laptop, &words);
        let ok = answer.said(FrameType::HelloOk);
        let (_, taken) = ok.split_once(r#""received":"#).expect("with its streams");
        let digits: String = taken.chars().take_while(char::is_ascii_digit).collect();
        let taken = digits.parse().expect("a count");
        assert!(ok.contains(r#""epoch":1"#) && ok.contains(r#""clientBindRef":"#));
        laptop.conn = answer.conn;
        laptop.mux.resume(0, answer.lane, taken, self.now);
        laptop.read(&[], self.now);
        self.exchange(laptop);
    }

    /// The old connection is told that its session is on another one, for good.
    fn heard_that_it_is_elsewhere(&mut self, old: ConnKey) {
        let mut lane = Transport::client(old, Entropy::from_seed(8), self.now);
        lane.feed(&self.take(old, usize::MAX), self.now);
        let goaway = match lane.poll() {
            Ok(Some(Item::Frame { payload, .. })) => lane.payload(&payload).to_vec(),
            other => panic!("{other:?}"),
        };
        let goaway = String::from_utf8_lossy(&goaway).into_owned();
        for words in ["resumed elsewhere", r#""code":7"#, r#""final":true"#] {
            assert!(goaway.contains(words), "{goaway}");
        }
    }

    fn whole_answer(&mut self, laptop: &mut Laptop, visitor: ConnKey) {
        let at = laptop.streams.len() - 1;
        self.answer(laptop, at, 100_000);
        let answer = self.receive(visitor);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(&"x".repeat(100_000)));
    }
}

#[test]
fn a_visitor_that_is_served_waits_for_its_laptop_and_newcomers_are_told_to_come_again() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    host.lose(&mut laptop);
    // Longer than any timer that would judge it, but for the grace.
    host.pass(Duration::from_secs(50));
    assert!(!host.closed.contains(&visitor), "it waits");
    let port = *host.bound.last().expect("a port");
    let newcomer = host.visit_at(port, "192.0.2.3:3000").expect("accepted");
    host.send(newcomer, GET.as_bytes());
    assert!(host.receive(newcomer).starts_with("HTTP/1.1 503"));
    host.come_back(&mut laptop, 1);
    host.whole_answer(&mut laptop, visitor);
    assert_eq!(laptop.streams.len(), 1, "it was opened once");
}

#[test]
fn a_laptop_that_comes_back_although_it_was_thought_to_be_there_evicts_its_old_socket() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    let old = laptop.conn;
    laptop.mux.suspend(0, host.now);
    host.come_back(&mut laptop, 1);
    host.heard_that_it_is_elsewhere(old);
    host.whole_answer(&mut laptop, visitor);
}

#[test]
fn a_grace_that_is_over_ends_what_waited_and_nothing_looks_whole() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    laptop.head(0, 1000, host.now);
    laptop.mux.send(laptop.streams[0], b"some", host.now);
    host.exchange(&mut laptop);
    assert!(host.receive(visitor).ends_with("some"));
    host.lose(&mut laptop);
    host.pass(Duration::from_secs(61));
    assert_eq!(host.finished, [visitor], "behind 4 bytes of 1000");
    let fresh = host.hello(&laptop, r#","epoch":1,"attempt":1,"received":0"#);
    let ok = fresh.said(FrameType::HelloOk);
    assert!(ok.contains(r#""resumed":false"#) && !ok.contains(r#""received""#));
}

#[test]
fn counts_that_cannot_be_met_bring_the_session_back_without_its_streams() {
    for words in [
        r#","epoch":1,"attempt":1"#,
        r#","epoch":2,"attempt":1,"received":3"#,
        r#","attempt":1,"received":3"#,
        r#","epoch":1,"attempt":1,"received":99"#,
    ] {
        let mut host = Host::new(guarded());
        let mut laptop = host.keeper();
        let visitor = host.ask_for(&mut laptop);
        host.lose(&mut laptop);
        let answer = host.hello(&laptop, words);
        let ok = answer.said(FrameType::HelloOk).to_owned();
        assert!(ok.contains(r#""resumed":true"#), "{words}: {ok}");
        assert!(ok.contains(r#""epoch":2"#), "{words}: {ok}");
        assert!(!ok.contains(r#""received""#), "{words}: {ok}");
        let told = host.receive(visitor);
        assert!(told.starts_with("HTTP/1.1 502"), "{words}: {told}");
    }
}

#[test]
fn an_older_hello_changes_nothing() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    host.lose(&mut laptop);
    host.come_back(&mut laptop, 5);
    for attempt in [4, 5] {
        let words = format!(r#","epoch":1,"attempt":{attempt},"received":2"#);
        let answer = host.hello(&laptop, &words);
        assert_eq!((answer.frames.len(), answer.closed), (0, Some(1008)));
    }
    host.whole_answer(&mut laptop, visitor);
}

#[test]
fn a_client_that_wants_its_session_and_no_other_is_told_that_it_is_over() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    host.lose(&mut laptop);
    host.pass(Duration::from_secs(60));
    assert_eq!(host.kit.sessions.len(), 0);
    let answer = host.hello(
        &laptop,
        r#","epoch":1,"attempt":1,"received":0,"only":true"#,
    );
    assert!(answer.said(FrameType::GoAway).contains(r#""code":7"#));
    assert_eq!(answer.closed, Some(1008));
}

#[test]
fn a_close_frame_of_whatever_code_is_no_goodbye_where_streams_are_kept() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    // A proxy in the middle is restarted, and closes what it carries.
    let mut proxy = Transport::client(laptop.conn, Entropy::from_seed(3), host.now);
    proxy.push_close(1000, "bye");
    let bytes = proxy.transmit().to_vec();
    host.send(laptop.conn, &bytes);
    laptop.mux.suspend(0, host.now);
    assert!(!host.closed.contains(&visitor));
    host.come_back(&mut laptop, 1);
    host.whole_answer(&mut laptop, visitor);
}

#[test]
fn little_is_not_kept_at_all() {
    for (hello, buffer) in [
        (r#""replayBuffer":524287"#, 4 << 20),
        (r#""replayBuffer":1048576"#, 0),
        (r#""x":1"#, 4 << 20),
    ] {
        let mut host = Host::new(Config {
            replay_buffer: buffer,
            ..guarded()
        });
        let hello = format!(r#"{{"version":"hoody-tunnel.v1","capabilities":["replay"],{hello}}}"#);
        let laptop = host.greet("192.0.2.1:1000", &hello);
        let ok = &laptop.told[0].1;
        assert!(!ok.contains("replay") && !ok.contains("epoch"), "{ok}");
    }
}

#[test]
fn a_kit_that_took_over_judges_who_comes_back_by_what_the_one_before_gave_out() {
    let mut before = Host::new(guarded());
    let mut laptop = before.keeper();
    let _visitor = before.ask_for(&mut laptop);
    before.kit.handle(Event::Upgrade, before.now);
    before.settle();
    let handed = before.handed.take().expect("it is told");
    let text = serde_json::to_string(&handed).expect("JSON");
    // Then its client comes back to it once more, with counts that the next kit knows nothing of.
    before.lose(&mut laptop);
    let again = before.hello(&laptop, r#","epoch":9,"attempt":5"#);
    assert!(again.said(FrameType::HelloOk).contains(r#""epoch":2"#));

    let handed = serde_json::from_str(&text).expect("the same JSON");
    let entropy = Entropy::from_seed(7);
    let next = crate::kit::Kit::successor(guarded(), entropy, Instant::ZERO, handed);
    let mut host = Host::around(next);
    // Whatever the client has taken elsewhere, no stream goes on here, and the answer may be lost
    // without one going on that is not ours.
    for attempt in 6..9 {
        for epoch in [1, 2, 3] {
            let words = format!(r#","epoch":{epoch},"attempt":{attempt}{epoch},"received":0"#);
            let ok = host.hello(&laptop, &words);
            let ok = ok.said(FrameType::HelloOk);
            assert!(ok.contains(r#""resumed":true"#), "{ok}");
            assert!(!ok.contains(r#""received""#), "{ok}");
            assert!(ok.contains(r#""clientBindRef":7"#), "{ok}");
        }
    }
    let late = host.hello(&laptop, r#","epoch":1,"attempt":6,"received":0"#);
    assert_eq!(
        (late.said(FrameType::HelloOk), late.closed),
        ("", Some(1008))
    );
}

#[test]
fn a_hello_that_the_kit_before_has_outlived_is_old_for_the_next_one_too() {
    let mut before = Host::new(guarded());
    let mut laptop = before.keeper();
    before.lose(&mut laptop);
    before.hello(&laptop, r#","epoch":9,"attempt":5"#);
    before.kit.handle(Event::Upgrade, before.now);
    before.settle();
    let handed = before.handed.take().expect("it is told");
    let entropy = Entropy::from_seed(7);
    let next = crate::kit::Kit::successor(guarded(), entropy, Instant::ZERO, handed);
    let mut host = Host::around(next);
    let late = host.hello(&laptop, r#","epoch":1,"attempt":5"#);
    assert_eq!(
        (late.said(FrameType::HelloOk), late.closed),
        ("", Some(1008))
    );
    let next = host.hello(&laptop, r#","epoch":2,"attempt":6"#);
    assert!(next.said(FrameType::HelloOk).contains(r#""resumed":true"#));
}

#[test]
fn whoever_resumes_without_streams_evicts_the_old_socket_for_good() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    let old = laptop.conn;
    let answer = host.hello(&laptop, "");
    let ok = answer.said(FrameType::HelloOk);
    assert!(ok.contains(r#""resumed":true"#) && ok.contains(r#""epoch":2"#));
    laptop.mux.suspend(0, host.now);
    host.heard_that_it_is_elsewhere(old);
    assert!(host.receive(visitor).starts_with("HTTP/1.1 502"));
}

#[test]
fn an_answer_without_memory_that_is_lost_leaves_nothing_to_go_on_from() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    host.lose(&mut laptop);
    // The kit answers so, and nobody hears it.
    let lost = host.hello(&laptop, r#","epoch":9,"attempt":1,"received":2"#);
    assert!(lost.said(FrameType::HelloOk).contains(r#""epoch":2"#));
    assert!(host.receive(visitor).starts_with("HTTP/1.1 502"));
    // So its client still believes in what was before.
    let again = host.hello(&laptop, r#","epoch":1,"attempt":2,"received":2"#);
    let ok = again.said(FrameType::HelloOk);
    assert!(
        ok.contains(r#""resumed":true"#) && ok.contains(r#""epoch":3"#),
        "{ok}"
    );
    assert!(!ok.contains(r#""received""#), "{ok}");
    assert_eq!(host.kit.sessions.stream_count(), 0);
}

#[test]
fn what_an_old_socket_brings_after_the_count_was_said_is_not_taken() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    let old = laptop.conn;
    laptop.head(0, 100_000, host.now);
    // These bytes are on their way while the laptop gives the socket up.
    let late = laptop.mux.transmit(0).to_vec();
    laptop.mux.transmitted(0, late.len());
    laptop.mux.suspend(0, host.now);
    let (before, rest) = late.split_at(late.len() / 2);
    host.send(old, before);
    host.come_back(&mut laptop, 1);
    host.send(old, rest);
    let stream = laptop.streams[0];
    let mut sent = 0;
    while sent < 100_000 {
        sent += laptop.mux.send(stream, &[b'x'; 1000], host.now);
        host.exchange(&mut laptop);
    }
    laptop.mux.send_eof(stream, host.now);
    host.exchange(&mut laptop);
    let answer = host.receive(visitor);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "one head");
    assert!(answer.ends_with(&"x".repeat(100_000)));
}

#[test]
fn a_session_that_only_pulls_keeps_its_caller() {
    let mut host = Host::new(guarded());
    let mut laptop = host.greet("192.0.2.1:1000", &format!("{HELLO}}}"));
    let bind = br#"{"clientBindRef":7,"kind":"tcp","mode":"pull","containerPort":0}"#;
    laptop.mux.lanes_mut().push_control(FrameType::Bind, bind);
    host.exchange(&mut laptop);
    let port = *host.bound.last().expect("a port");
    let caller = host.visit_at(port, "127.0.0.1:2000").expect("accepted");
    host.send(caller, b"begin ");
    host.exchange(&mut laptop);
    host.lose(&mut laptop);
    host.pass(Duration::from_secs(50));
    assert!(!host.closed.contains(&caller), "it waits");
    host.come_back(&mut laptop, 1);
    host.send(caller, b"commit");
    host.exchange(&mut laptop);
    laptop.mux.send(laptop.streams[0], b"done", host.now);
    host.exchange(&mut laptop);
    assert_eq!(host.receive(caller), "done");
    assert_eq!(laptop.streams.len(), 1, "it was opened once");
}

#[test]
fn a_port_that_is_taken_over_meanwhile_breaks_its_streams_and_what_is_kept_comes_first() {
    let mut host = Host::new(guarded());
    let mut laptop = host.keeper();
    let visitor = host.ask_for(&mut laptop);
    let port = *host.bound.last().expect("a port");
    // The head of an answer is on its way.
    laptop.head(0, 1000, host.now);
    let ok = &laptop.told.last().expect("BIND_OK").1;
    let (_, number) = ok.split_once(r#""containerPort":"#).expect("a port");
    let number: String = number.chars().take_while(char::is_ascii_digit).collect();
    let more = br#"{"clientBindRef":8,"kind":"tcp","mode":"pull","containerPort":0}"#;
    laptop.mux.lanes_mut().push_control(FrameType::Bind, more);
    host.exchange(&mut laptop);
    host.lose(&mut laptop);
    let mut other = host.greet("192.0.2.9:1000", &format!("{HELLO}}}"));
    let bind = format!(
        r#"{{"clientBindRef":1,"kind":"http","mode":"expose","takeover":true,
            "containerPort":{number}}}"#
    );
    other
        .mux
        .lanes_mut()
        .push_control(FrameType::Bind, bind.as_bytes());
    host.exchange(&mut other);
    assert!(host.receive(visitor).starts_with("HTTP/1.1 200"));
    assert_eq!(
        host.finished,
        [visitor],
        "it has what came, which is not all"
    );
    host.come_back(&mut laptop, 1);
    let told: Vec<FrameType> = laptop.told.iter().map(|(kind, _)| *kind).collect();
    assert!(told.contains(&FrameType::BindRevoked), "{told:?}");
    assert_eq!(laptop.mux.streams().len(), 0, "its stream was reset");
    let newcomer = host.visit_at(port, "192.0.2.3:3000").expect("accepted");
    host.send(newcomer, GET.as_bytes());
    host.exchange(&mut other);
    assert_eq!(other.streams.len(), 1, "the port is the other's now");
}
