//! Several WebSockets in one session: PROTOCOL §7.

use crate::support::client::Hoody;
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::tunnel::*;
use crate::support::upstream::Upstream;
use crate::support::{Noise, PATIENCE, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const V2: &str = "hoody-tunnel.v2";

fn open_v2(kit: &Kit, connections: u32) -> Tunnel {
    let more = json!({
        "version": V2, "capabilities": ["multi-ws"], "maxConnections": connections,
    });
    Tunnel::open_with(kit, more)
}

fn tickets(hello: &Value) -> Vec<(u64, String)> {
    let all = hello["joinTickets"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|ticket| {
            let nonce = ticket["nonce"].as_str().expect("a nonce").to_owned();
            (ticket["index"].as_u64().expect("an index"), nonce)
        })
        .collect()
}

/// Asks for tickets until there is one: the kit may not have seen yet that a lane is gone.
fn reissued(primary: &mut Tunnel) -> Vec<(u64, String)> {
    eventually("a lost lane is noticed", PATIENCE, || {
        primary.json(REISSUE_JOIN_TICKETS, json!({}));
        let fresh = tickets(&primary.expect(REISSUE_JOIN_TICKETS).json());
        (!fresh.is_empty()).then_some(fresh)
    })
}

/// Dials, says JOIN, and gives the lane with what was answered.
fn join(kit: &Kit, session: &str, index: u64, nonce: &str) -> (Tunnel, Frame) {
    join_saying(
        kit,
        json!({ "sessionId": session, "index": index, "nonce": nonce }),
    )
}

fn join_saying(kit: &Kit, join: Value) -> (Tunnel, Frame) {
    let how = Upgrade {
        protocols: Some(V2),
        fields: &[],
    };
    let mut lane = Tunnel::upgrade(kit, &how).expect("an upgrade");
    lane.json(JOIN, join);
    loop {
        match lane.hear(PATIENCE) {
            Heard::Frame(frame) if frame.kind == JOIN_OK || frame.kind == JOIN_ERR => {
                return (lane, frame);
            }
            Heard::Frame(_) => {}
            other => panic!("wanted an answer to JOIN, got {other:?}"),
        }
    }
}

#[test]
fn tickets_are_good_once_and_only_for_their_index() {
    let kit = Kit::start();
    let primary = open_v2(&kit, 4);
    assert_eq!(primary.hello["connectionsGranted"], 4);
    let tickets = tickets(&primary.hello);
    assert_eq!(
        tickets.iter().map(|ticket| ticket.0).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let id = primary.id();
    let code = |frame: &Frame| frame.json()["code"].as_str().unwrap_or_default().to_owned();
    let refused =
        |session: &str, index: u64, nonce: &str| code(&join(&kit, session, index, nonce).1);
    assert_eq!(refused(&id, 1, "wrong"), "BAD_TICKET");
    assert_eq!(refused(&id, 2, &tickets[0].1), "BAD_TICKET");
    assert_eq!(refused(&id, 9, &tickets[0].1), "BAD_TICKET");
    assert_eq!(
        refused("S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9", 1, &tickets[0].1),
        "UNKNOWN_SESSION"
    );
    let (_one, joined) = join(&kit, &id, 1, &tickets[0].1);
    assert_eq!(
        (joined.kind, joined.json()["index"].as_u64()),
        (JOIN_OK, Some(1))
    );
    let again = refused(&id, 1, &tickets[0].1);
    assert!(again == "INDEX_IN_USE" || again == "BAD_TICKET", "{again}");
    assert_eq!(kit.json("sessions")["sessions"][0]["isV2"], true);
}

#[test]
fn a_ticket_goes_stale() {
    let kit = Kit::start();
    let primary = open_v2(&kit, 2);
    let ticket = tickets(&primary.hello).remove(0);
    std::thread::sleep(Duration::from_millis(10_600));
    let (_lane, answer) = join(&kit, &primary.id(), ticket.0, &ticket.1);
    assert_eq!(
        (answer.kind, answer.json()["code"].as_str()),
        (JOIN_ERR, Some("EXPIRED"))
    );
}

#[test]
fn the_kit_grants_what_it_may() {
    let kit = Kit::with(&["--max-connections-per-session", "3"]);
    assert_eq!(open_v2(&kit, 16).hello["connectionsGranted"], 3);
    let v1 = Tunnel::open_with(&kit, json!({ "maxConnections": 8 }));
    assert!(
        v1.hello["connectionsGranted"].as_u64().unwrap_or(1) == 1,
        "{}",
        v1.hello
    );
}

#[test]
fn a_lost_secondary_costs_only_its_streams_and_is_replaced() {
    let kit = Kit::start();
    let mut primary = open_v2(&kit, 2);
    let (_, port) = primary.expose(0);
    let ticket = tickets(&primary.hello).remove(0);
    let (mut second, _) = join(&kit, &primary.id(), ticket.0, &ticket.1);
    // Requests are opened until both lanes carry one.
    let (mut on_first, mut on_second) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let mut talk = Talk::port(port);
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        loop {
            match primary.hear(Duration::from_millis(30)) {
                Heard::Frame(frame) if frame.kind == STREAM_OPEN => {
                    on_first.push((talk, frame.stream));
                    break;
                }
                Heard::Frame(_) => continue,
                _ => {}
            }
            match second.hear(Duration::from_millis(30)) {
                Heard::Frame(frame) if frame.kind == STREAM_OPEN => {
                    on_second.push((talk, frame.stream));
                    break;
                }
                _ => {}
            }
        }
        if !on_first.is_empty() && !on_second.is_empty() {
            break;
        }
        // Bytes that wait on a lane make the kit prefer the other one; so does a stream.
    }
    assert!(
        !on_first.is_empty() && !on_second.is_empty(),
        "both lanes are used"
    );
    // An answer is taken on any lane of the session.
    let (mut crossed, stream) = on_second.pop().expect("one");
    primary.respond(stream, 200, b"crossed");
    assert_eq!(crossed.reply(false).text(), "crossed");
    second.vanish(true);
    for (mut talk, _) in on_second {
        assert_eq!(talk.reply(false).status, 502);
    }
    for (mut talk, stream) in on_first {
        primary.respond(stream, 200, b"kept");
        assert_eq!(talk.reply(false).text(), "kept");
    }
    let fresh = reissued(&mut primary);
    assert_eq!(fresh.iter().map(|ticket| ticket.0).collect::<Vec<_>>(), [1]);
    let (_lane, joined) = join(&kit, &primary.id(), 1, &fresh[0].1);
    assert_eq!(joined.kind, JOIN_OK);
}

#[test]
fn a_lane_that_its_client_has_given_up_is_let_go_although_it_never_ended() {
    let kit = Kit::start();
    let mut primary = open_v2(&kit, 2);
    let (index, first) = tickets(&primary.hello).remove(0);
    let (_silent, _) = join(&kit, &primary.id(), index, &first);
    let mut reissue = |request: Value| {
        primary.json(REISSUE_JOIN_TICKETS, request);
        tickets(&primary.expect(REISSUE_JOIN_TICKETS).json())
    };
    let missing =
        |index: u64, nonce: &str| json!({ "missing": [{ "index": index, "nonce": nonce }] });
    assert_eq!(reissue(json!({})), [], "nobody says that it is missing");
    assert_eq!(reissue(missing(1, "another")), [], "that was another one");
    for index in [0, 7, 99] {
        assert_eq!(reissue(missing(index, &first)), []);
    }
    let (index, second) = reissue(missing(1, &first))
        .first()
        .expect("a ticket")
        .clone();
    let id = kit.json("sessions")["sessions"][0]["sessionId"].clone();
    let (mut lane, joined) = join(&kit, id.as_str().expect("an id"), index, &second);
    assert_eq!(joined.kind, JOIN_OK);
    // The same once more, as one that was long on its way: the lane that came since stands.
    assert_eq!(reissue(missing(1, &first)), []);
    assert!(lane.alive());
}

#[test]
fn credit_of_data_that_went_down_with_a_lane_is_taken_back_at_the_next_join() {
    let windows = [
        "--stream-initial-window",
        "256KiB",
        "--session-initial-window",
        "256KiB",
    ];
    let kit = Kit::with(&windows);
    let mut primary = open_v2(&kit, 2);
    let (_, port) = primary.expose(0);
    let mut ticket = tickets(&primary.hello).remove(0);
    // One request stays on the primary, so that the next ones go to the other lane.
    let (_kept, _) = primary.visited(port);
    let body = Noise::bytes(1, 200_000);
    for round in 0..3 {
        let join = json!({
            "sessionId": primary.id(), "index": 1, "nonce": ticket.1, "dataReceived": 0,
        });
        let (mut lane, joined) = join_saying(&kit, join);
        assert_eq!(joined.kind, JOIN_OK, "{:?}", joined.json());
        assert_eq!(joined.json()["dataReceived"], 0);
        let mut talk = Talk::port(port);
        talk.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n");
        talk.say(&body);
        let (mut stream, mut got) = (0, Vec::new());
        while got.len() < body.len() {
            match lane.hear(PATIENCE) {
                Heard::Frame(frame) if frame.kind == STREAM_OPEN => stream = frame.stream,
                Heard::Frame(frame) if frame.kind == DATA => got.extend(frame.payload),
                Heard::Frame(_) => {}
                other => panic!("round {round}, {} bytes: {other:?}", got.len()),
            }
        }
        assert!(got == body && stream > 0);
        // Whatever came is forgotten: to this client nothing arrived.
        lane.vanish(true);
        assert_eq!(talk.reply(false).status, 502);
        ticket = reissued(&mut primary).remove(0);
    }
}

#[test]
fn a_v2_session_resumes_with_new_tickets() {
    let kit = Kit::start();
    let mut primary = open_v2(&kit, 3);
    let (_, port) = primary.expose(0);
    let id = primary.id();
    let ticket = tickets(&primary.hello).remove(0);
    let (second, _) = join(&kit, &id, ticket.0, &ticket.1);
    primary.vanish(true);
    drop(second);
    let more = json!({
        "version": V2, "capabilities": ["multi-ws"], "maxConnections": 3,
        "resume": { "sessionId": id },
    });
    let mut back = Tunnel::open_with(&kit, more);
    assert_eq!(back.hello["resumed"], true);
    let fresh = tickets(&back.hello);
    assert_eq!(fresh.len(), 2);
    let (mut lane, joined) = join(&kit, &id, fresh[0].0, &fresh[0].1);
    assert_eq!(joined.kind, JOIN_OK);
    let mut talk = Talk::port(port);
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let stream = eventually("the request on either lane", PATIENCE, || {
        [&mut back, &mut lane].into_iter().find_map(|lane| {
            match lane.hear(Duration::from_millis(30)) {
                Heard::Frame(frame) if frame.kind == STREAM_OPEN => Some(frame.stream),
                _ => None,
            }
        })
    });
    back.respond(stream, 200, b"back");
    assert_eq!(talk.reply(false).text(), "back");
}

#[test]
fn hoody_uses_several_connections_and_brings_a_lost_one_back() {
    let upstream = Upstream::start(|exchange| {
        let body = exchange.body();
        exchange.answer(200, "", &body);
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose_with(&kit, upstream.port(), &["--connections", "4"]);
    let row = kit.json("sessions")["sessions"][0].clone();
    assert_eq!(
        (&row["isV2"], &row["connectionsGranted"]),
        (&json!(true), &json!(4))
    );
    let port = hoody.port();
    let visitors: Vec<_> = (0..64u64)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut talk = Talk::port(port);
                for round in 0..8 {
                    let body = Noise::bytes(seed * 100 + round + 1, 20_000);
                    let length = body.len();
                    talk.say(format!(
                        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
                    ));
                    talk.say(&body);
                    assert!(
                        talk.reply(false).body == body,
                        "visitor {seed}, round {round}"
                    );
                }
            })
        })
        .collect();
    for visitor in visitors {
        visitor.join().expect("each visitor gets its own bytes");
    }
    kit.settles("hoody_tunnel_streams_active", 0);
}
