//! Lanes as paths: one that falls silent is given up for another connection, and nobody notices.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{CloseHow, ConnKey, DialTarget, Ended};
use crate::mux::Retention;

const REPLAY: &str = r#""capabilities":["replay"],"replayBuffer":4194304,"epoch":1"#;

/// A client with so many lanes whose streams are kept, and a pull.
fn with_lanes(lanes: u32) -> (World, FakeKit) {
    with_lanes_by(&options().connections(lanes), lanes)
}

/// The same by ways that the options name.
pub(super) fn with_lanes_by(options: &TunnelOptions, lanes: u32) -> (World, FakeKit) {
    let mut world = World::new(options);
    let mut kit = keeper(lanes);
    world.pass(MS);
    let tickets: Vec<String> = (1..lanes)
        .map(|index| ticket(index as usize, "first"))
        .collect();
    let ok = format!(
        r#"{{"sessionId":"S-1","connectionsGranted":{lanes},{REPLAY},"joinTickets":[{}]}}"#,
        tickets.join(",")
    );
    come_online(&mut world, &mut kit, &ok);
    for index in 1..lanes as usize {
        let conn = world.accept();
        let (kind, json) = kit.upgrade(&mut world, conn);
        assert_eq!(kind, FrameType::Join);
        assert!(json.contains(r#""received":0"#), "{json}");
        let ok = format!(r#"{{"index":{index},"received":0}}"#);
        kit.greet(&mut world, index, FrameType::JoinOk, &ok);
    }
    bind(&mut world, &mut kit, 1, Service::TcpPull, 5432);
    (world, kit)
}

fn keeper(lanes: u32) -> FakeKit {
    FakeKit::with(crate::mux::Terms {
        replay: Some(Retention {
            keeps: 4 << 20,
            most: 4 << 20,
            peer_keeps: 4 << 20,
            lanes,
        }),
        ..fake_kit::terms()
    })
}

fn ticket(index: usize, nonce: &str) -> String {
    format!(r#"{{"index":{index},"nonce":"{nonce}"}}"#)
}

/// A stream on every lane, and the local connections that serve them, by lane.
pub(super) fn streams(world: &mut World, kit: &mut FakeKit) -> Vec<(usize, ConnKey)> {
    let mut streams = Vec::new();
    for _ in 0..kit.conns.len() {
        let stream = kit.open(world, r#"{"kind":"tcp","bindId":1}"#);
        streams.push((stream, world.accept()));
    }
    streams
}

/// Lets time pass in which the kit answers, on the lanes that carry anything.
pub(super) fn wait(world: &mut World, kit: &mut FakeKit, span: Duration) {
    let until = world.now + span;
    while world.now < until {
        world.pass((20 * MS).min(until.since(world.now)));
        kit.run(world);
    }
}

/// How long it takes until the client has closed this connection.
fn given_up(world: &mut World, kit: &mut FakeKit, conn: ConnKey) -> Duration {
    let start = world.now;
    while world.is_closed(conn).is_none() {
        wait(world, kit, 20 * MS);
        assert!(world.now < start + 60 * SECOND, "it is never given up");
    }
    assert_eq!(world.is_closed(conn), Some(CloseHow::Reset));
    world.now.since(start)
}

/// The lane carries nothing from now on, in either direction. Gives its connection.
fn silence(kit: &mut FakeKit, index: usize) -> ConnKey {
    kit.conns[index].take().expect("it stands")
}

/// The kit lets the lane go that the client asks a ticket for, and the client joins it again.
pub(super) fn rejoin(world: &mut World, kit: &mut FakeKit, index: usize, nonce: &str) {
    let asked = kit.came(FrameType::ReissueJoinTickets);
    assert!(
        asked.concat().contains(&format!(r#"{{"index":{index},"#)),
        "{asked:?}"
    );
    kit.session.suspend(index, world.now);
    let tickets = format!(r#"{{"joinTickets":[{}]}}"#, ticket(index, nonce));
    kit.control(world, FrameType::ReissueJoinTickets, &tickets);
    let conn = world.accept();
    let (kind, json) = kit.upgrade(world, conn);
    assert_eq!(kind, FrameType::Join);
    assert!(json.contains(&format!(r#""nonce":"{nonce}""#)), "{json}");
    let ok = format!(
        r#"{{"index":{index},"received":{}}}"#,
        kit.session.lanes().received(index)
    );
    kit.come_back(world, index, FrameType::JoinOk, &ok, counted(&json));
}

/// The count that a greeting tells.
fn counted(json: &str) -> u64 {
    let (_, rest) = json.split_once(r#""received":"#).expect("a count");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
fn a_silent_lane_is_given_up_while_another_is_heard_and_its_streams_go_on() {
    let (mut world, mut kit) = with_lanes(2);
    let streams = streams(&mut world, &mut kit);
    let (stream, local) = streams[1];
    kit.data(&mut world, stream, b"before ");
    let lost = silence(&mut kit, 1);
    let key = kit.streams[stream].0.unwrap();
    kit.session.send(key, b"meanwhile ", world.now);
    world.write(local, b"asked ");
    let took = given_up(&mut world, &mut kit, lost);
    assert!(took <= 2200 * MS, "{took:?}");
    wait(&mut world, &mut kit, 20 * MS);
    rejoin(&mut world, &mut kit, 1, "second");
    kit.data(&mut world, stream, b"after");
    assert_eq!(world.take(local), b"before meanwhile after");
    assert_eq!(kit.seen(stream).data, b"asked ");
    for (_, local) in streams {
        assert_eq!(world.is_closed(local), None);
    }
}

#[test]
fn lanes_that_are_all_silent_are_waited_for_as_long_as_a_single_one() {
    let (mut world, mut kit) = with_lanes(3);
    streams(&mut world, &mut kit);
    let conns = [0, 1, 2].map(|index| silence(&mut kit, index));
    wait(&mut world, &mut kit, 3400 * MS);
    for conn in conns {
        assert_eq!(world.is_closed(conn), None, "nobody else is heard");
    }
    wait(&mut world, &mut kit, 2 * SECOND);
    assert!(conns.iter().any(|conn| world.is_closed(*conn).is_some()));
}

#[test]
fn a_lane_that_keeps_falling_silent_is_waited_for_longer_until_something_gets_through() {
    let (mut world, mut kit) = with_lanes(2);
    let (stream, local) = streams(&mut world, &mut kit)[1];
    let mut took = Vec::new();
    for round in 0..6 {
        if round == 5 {
            world.write(local, b"heard");
            kit.run(&mut world);
            wait(&mut world, &mut kit, 200 * MS);
            kit.session.lanes_mut().acknowledge_all(world.now);
            kit.run(&mut world);
            assert_eq!(kit.seen(stream).data, b"heard");
        }
        let lost = silence(&mut kit, 1);
        took.push(given_up(&mut world, &mut kit, lost).as_millis());
        wait(&mut world, &mut kit, 1100 * MS);
        rejoin(&mut world, &mut kit, 1, &format!("n{round}"));
    }
    for (round, (took, wanted)) in took.iter().zip([2, 3, 6, 10, 10, 2]).enumerate() {
        let about = wanted * 1000 - 1100..=wanted * 1000 + 700;
        assert!(about.contains(took), "round {round}: {took} ms");
    }
}

#[test]
fn a_long_way_is_given_its_round_trips() {
    let (mut world, mut kit) = with_lanes(2);
    let (_, _) = streams(&mut world, &mut kit)[1];
    let lanes = kit.conns.clone();
    // The kit hears and answers once a second, so answers come late.
    for _ in 0..20 {
        world.pass(SECOND);
        kit.run(&mut world);
    }
    let far = silence(&mut kit, 1);
    let start = world.now;
    while world.is_closed(far).is_none() {
        world.pass(SECOND / 2);
        kit.run(&mut world);
    }
    let took = world.now.since(start);
    assert!(took >= 2 * SECOND && took <= 6 * SECOND, "{took:?}");
    assert_eq!(world.is_closed(lanes[0].unwrap()), None);
}

#[test]
fn a_ticket_that_another_one_voided_is_followed_by_that_at_once() {
    let (mut world, mut kit) = with_lanes(3);
    let lost = silence(&mut kit, 1);
    kit.session.suspend(1, world.now);
    world.end(lost, Ended::Reset);
    wait(&mut world, &mut kit, 300 * MS);
    let first = format!(r#"{{"joinTickets":[{}]}}"#, ticket(1, "old"));
    kit.control(&mut world, FrameType::ReissueJoinTickets, &first);
    // One is dialled with the first ticket, and before it has said so a second one comes.
    let conn = world.accept();
    let second = format!(r#"{{"joinTickets":[{}]}}"#, ticket(1, "newer"));
    kit.control(&mut world, FrameType::ReissueJoinTickets, &second);
    let (_, json) = kit.upgrade(&mut world, conn);
    assert!(json.contains(r#""nonce":"newer""#), "{json}");
    // JOIN is out when a third one comes: it is used when that is refused.
    let third = format!(r#"{{"joinTickets":[{}]}}"#, ticket(1, "newest"));
    kit.control(&mut world, FrameType::ReissueJoinTickets, &third);
    let mut other = FakeKit::new();
    kit.hand_over_greeting(&mut other);
    let refused = r#"{"code":"BAD_TICKET","message":"void"}"#;
    other.greet(&mut world, 0, FrameType::JoinErr, refused);
    let conn = world.accept();
    let (_, json) = kit.upgrade(&mut world, conn);
    assert!(json.contains(r#""nonce":"newest""#), "{json}");
    kit.come_back(
        &mut world,
        1,
        FrameType::JoinOk,
        r#"{"index":1,"received":0}"#,
        counted(&json),
    );
    let all = SessionEvent::Lanes {
        standing: 3,
        granted: 3,
    };
    assert_eq!(world.events().last(), Some(&all));
}

/// Two lanes, of which the primary is lost and the other one carries a stream.
fn without_primary() -> (World, FakeKit, (usize, ConnKey)) {
    let (mut world, mut kit) = with_lanes(2);
    let stream = streams(&mut world, &mut kit)[1];
    wait(&mut world, &mut kit, 2 * SECOND);
    world.events();
    let primary = silence(&mut kit, 0);
    kit.session.suspend(0, world.now);
    world.end(primary, Ended::Reset);
    (world, kit, stream)
}

#[test]
fn without_its_primary_a_session_goes_on_and_resumes_it() {
    let (mut world, mut kit, (stream, local)) = without_primary();
    kit.data(&mut world, stream, b"meanwhile");
    assert_eq!(world.take(local), b"meanwhile");
    let newcomer = kit.open(&mut world, r#"{"kind":"tcp","bindId":1}"#);
    wait(&mut world, &mut kit, 20 * MS);
    let conn = world.dials.iter().find(|conn| is_local(&world, **conn));
    world.connect(*conn.expect("it is served"));
    world.until_dialled();
    world.dials.retain(|dial| !world.wires[dial].stands);
    let conn = world.accept();
    let (kind, json) = kit.upgrade(&mut world, conn);
    assert_eq!(kind, FrameType::Hello);
    assert!(
        json.contains(r#""lanes":[{"index":1,"nonce":"first"}]"#),
        "{json}"
    );
    let received = kit.session.lanes().received(0);
    let ok = format!(
        r#"{{"sessionId":"S-1","resumed":true,"connectionsGranted":2,{REPLAY},"lanes":[1],
           "received":{received}}}"#
    );
    kit.come_back(&mut world, 0, FrameType::HelloOk, &ok, counted(&json));
    kit.data(&mut world, stream, b" and after");
    assert_eq!(world.take(local), b" and after");
    assert_eq!(kit.seen(newcomer).reset, None);
    let lanes = |standing| SessionEvent::Lanes {
        standing,
        granted: 2,
    };
    assert_eq!(
        world.events(),
        [lanes(1), lanes(2)],
        "nobody is told of a loss"
    );
}

fn is_local(world: &World, conn: ConnKey) -> bool {
    world.wires[&conn].target == DialTarget::Addr("127.0.0.1:3000".parse().unwrap())
}

#[test]
fn what_the_kit_says_of_the_session_it_may_say_on_any_lane() {
    for (goaway, ends) in [
        (
            r#"{"code":7,"message":"closed by the operator","final":true}"#,
            true,
        ),
        (r#"{"code":10,"message":"session idle timeout"}"#, false),
    ] {
        let (mut world, mut kit, (_, local)) = without_primary();
        kit.control(&mut world, FrameType::GoAway, goaway);
        // Streams may finish, where that is for good.
        wait(&mut world, &mut kit, 10 * SECOND);
        assert_eq!(world.is_closed(local), Some(CloseHow::Reset), "{goaway}");
        assert!(world.is_closed(kit.conns[1].unwrap()).is_some());
        assert_eq!(world.stopped, ends, "{goaway}");
    }
}

#[test]
fn a_client_that_closes_without_its_primary_says_so_on_another_lane() {
    for at_once in [true, false] {
        let (mut world, mut kit, (stream, local)) = without_primary();
        world.order(Order::Close { at_once });
        kit.run(&mut world);
        if !at_once {
            assert!(
                kit.came(FrameType::GoAway).is_empty(),
                "the stream may finish"
            );
            kit.data(&mut world, stream, b"rest");
            kit.eof(&mut world, stream);
            assert_eq!(world.take(local), b"rest");
            world.fin(local);
            let other = streams_of(&world);
            other
                .into_iter()
                .for_each(|conn| world.end(conn, Ended::Reset));
            wait(&mut world, &mut kit, 20 * MS);
        }
        assert_eq!(kit.came(FrameType::GoAway).len(), 1, "at once: {at_once}");
        wait(&mut world, &mut kit, SECOND);
        assert!(world.stopped);
    }
}

/// Local connections that stand.
fn streams_of(world: &World) -> Vec<ConnKey> {
    let stand = |(conn, wire): (&ConnKey, &world::Wire)| {
        (is_local(world, *conn) && wire.stands && wire.closed.is_none()).then_some(*conn)
    };
    world.wires.iter().filter_map(stand).collect()
}

#[test]
fn a_client_says_what_it_keeps_and_offers_nothing_where_that_is_nothing() {
    let offers = |options: TunnelOptions| {
        let mut world = World::new(&options);
        let mut kit = FakeKit::new();
        world.pass(MS);
        come_online(&mut world, &mut kit, r#"{"sessionId":"S-1"}"#)
    };
    let usual = offers(options());
    assert!(usual.contains(r#""replayBuffer":4194304"#) && usual.contains(r#""replay""#));
    let many = offers(options().connections(16).replay_buffer(8 << 20));
    assert!(many.contains(r#""replayBuffer":2097152"#), "{many}");
    let none = offers(options().replay_buffer(0));
    assert!(!none.contains("replay"), "{none}");
}

#[test]
fn a_close_frame_of_whatever_code_is_no_goodbye_where_streams_are_kept() {
    // A proxy that is restarted says 1000 or 1001, and some say nothing.
    for close in [
        &[0x88, 2, 0x03, 0xE8][..],
        &[0x88, 2, 0x03, 0xE9],
        &[0x88, 0],
    ] {
        let (mut world, mut kit) = with_lanes(1);
        let (stream, local) = streams(&mut world, &mut kit)[0];
        kit.data(&mut world, stream, b"before ");
        let lost = silence(&mut kit, 0);
        world.write(lost, close);
        kit.session.suspend(0, world.now);
        assert_eq!(world.is_closed(local), None, "{close:?}");
        world.until_dialled();
        let conn = world.accept();
        let (kind, json) = kit.upgrade(&mut world, conn);
        assert_eq!(kind, FrameType::Hello);
        let received = kit.session.lanes().received(0);
        let ok = format!(
            r#"{{"sessionId":"S-1","resumed":true,"connectionsGranted":1,{REPLAY},"lanes":[],
               "received":{received}}}"#
        );
        kit.come_back(&mut world, 0, FrameType::HelloOk, &ok, counted(&json));
        kit.data(&mut world, stream, b"and after");
        assert_eq!(world.take(local), b"before and after", "{close:?}");
    }
}
