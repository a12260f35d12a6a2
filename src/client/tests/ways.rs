//! Several URLs of one kit.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{DialTarget, Ended};

fn three() -> TunnelOptions {
    options()
        .also_at("ws://127.0.0.1:51/b")
        .also_at("ws://127.0.0.1:52/c?d=e")
}

/// The port that is dialled now.
fn port(world: &World) -> u16 {
    let conn = world.dials.front().expect("something is dialled");
    match &world.wires[conn].target {
        DialTarget::Addr(addr) => addr.port(),
        other => panic!("{other:?}"),
    }
}

const OK: &str = r#"{"sessionId":"S-1","resumed":true}"#;

#[test]
fn the_first_way_that_works_is_taken_and_only_a_whole_round_is_followed_by_a_pause() {
    let mut world = World::new(&three());
    world.pass(MS);
    let start = world.now;
    for _ in 0..2 {
        for wanted in [50, 51, 52] {
            world.until_dialled();
            assert_eq!(port(&world), wanted);
            world.refuse();
            world.pass(Duration::ZERO);
            assert_eq!(world.dials.is_empty(), wanted == 52, "a pause after all");
        }
    }
    assert!(world.now > start + 100 * MS);
    world.until_dialled();
    world.refuse();
    world.pass(Duration::ZERO);
    let mut kit = FakeKit::new();
    assert_eq!(port(&world), 51);
    come_online(&mut world, &mut kit, OK);
    let upgrade = &kit.upgrade;
    assert!(
        upgrade.starts_with("GET /b HTTP/1.1\r\nHost: 127.0.0.1:51\r\n"),
        "{upgrade}"
    );
}

#[test]
fn a_lost_connection_is_dialled_by_another_way_at_once() {
    let (mut world, kit) = online(&three());
    world.pass(2 * SECOND);
    let mut lane = kit.conns[0].unwrap();
    // From the second on all are known; the one that was lost last comes last.
    for wanted in [51, 52, 50, 51, 52, 50] {
        world.end(lane, Ended::Reset);
        world.pass(Duration::ZERO);
        assert_eq!(port(&world), wanted);
        let mut kit = FakeKit::new();
        come_online(&mut world, &mut kit, OK);
        lane = kit.conns[0].unwrap();
        pass_with(&mut world, &mut kit, 2 * SECOND);
    }
    // One that hangs costs its own time and not that of the others.
    world.end(lane, Ended::Reset);
    world.pass(Duration::ZERO);
    let (hanging, _) = world.dialled();
    world.pass(crate::limits::REACH_WITHIN);
    assert!(world.is_closed(hanging).is_some());
    assert_eq!(port(&world), 52);
}

#[test]
fn a_way_that_is_closed_for_good_is_the_end_only_where_all_are() {
    let refusal = b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n";
    for open in [false, true] {
        let mut world = World::new(&three());
        world.pass(MS);
        for wanted in [50, 51, 52] {
            world.pass(Duration::ZERO);
            assert_eq!(port(&world), wanted);
            if open && wanted == 51 {
                world.refuse();
                continue;
            }
            let conn = world.accept();
            world.write(conn, refusal);
        }
        world.pass(60 * SECOND);
        assert_eq!(world.stopped, !open);
    }
    // What the kit says it says by every way.
    let mut world = World::new(&three());
    world.pass(MS);
    let conn = world.accept();
    let mut kit = FakeKit::new();
    kit.upgrade(&mut world, conn);
    let goaway = r#"{"code":11,"message":"wrong token"}"#;
    kit.greet(&mut world, 0, FrameType::GoAway, goaway);
    assert!(world.stopped && world.dials.is_empty());
}

#[test]
fn lanes_are_spread_over_all_ways_and_a_lost_one_goes_where_it_is_well() {
    let (mut world, mut kit) = {
        let mut world = World::new(&three().connections(4));
        world.pass(MS);
        let mut kit = FakeKit::new();
        let ok = r#"{"sessionId":"S-1","connectionsGranted":4,"joinTickets":[
            {"index":1,"nonce":"a"},{"index":2,"nonce":"b"},{"index":3,"nonce":"c"}]}"#;
        come_online(&mut world, &mut kit, ok);
        (world, kit)
    };
    let mut ports = Vec::new();
    for index in 1..=3 {
        ports.push(port(&world));
        let conn = world.accept();
        let (kind, _) = kit.upgrade(&mut world, conn);
        assert_eq!(kind, FrameType::Join);
        let ok = format!(r#"{{"index":{index}}}"#);
        kit.greet(&mut world, index, FrameType::JoinOk, &ok);
    }
    ports.sort_unstable();
    assert_eq!(
        ports,
        [50, 51, 52],
        "with the primary, two are on the first"
    );
    // The one on the last way is lost, and that way fails.
    let lost = (1..=3).find(|index| {
        let wire = &world.wires[&kit.conns[*index].unwrap()];
        matches!(&wire.target, DialTarget::Addr(addr) if addr.port() == 52)
    });
    let lost = lost.unwrap();
    let conn = kit.conns[lost].take().unwrap();
    kit.session.detach(lost);
    world.end(conn, Ended::Reset);
    pass_with(&mut world, &mut kit, SECOND);
    assert_eq!(kit.came(FrameType::ReissueJoinTickets).len(), 1);
    let tickets = format!(r#"{{"joinTickets":[{{"index":{lost},"nonce":"d"}}]}}"#);
    kit.control(&mut world, FrameType::ReissueJoinTickets, &tickets);
    assert_eq!(port(&world), 51);
}

#[test]
fn a_url_of_another_kit_is_said_to_be_one_and_used_by_no_lane() {
    let options = options().also_at("ws://127.0.0.1:51").connections(3);
    let mut world = World::new(&options);
    world.pass(MS);
    let mut kit = FakeKit::new();
    let ok = r#"{"sessionId":"S-1","connectionsGranted":3,"instance":"ours","joinTickets":[
        {"index":1,"nonce":"a"},{"index":2,"nonce":"b"}]}"#;
    come_online(&mut world, &mut kit, ok);
    let told = SessionEvent::AnotherKit {
        authority: "127.0.0.1:51".to_owned(),
    };
    let mut events = Vec::new();
    let mut join = |world: &mut World, index: usize, nonce: &str| {
        let at = port(world);
        let conn = world.accept();
        let mut other = FakeKit::new();
        let answers = if at == 51 { &mut other } else { &mut kit };
        let (_, json) = answers.upgrade(world, conn);
        assert!(json.contains(&format!(r#""nonce":"{nonce}""#)), "{json}");
        match at {
            51 => {
                let no = r#"{"code":"UNKNOWN_SESSION","message":"no","instance":"theirs"}"#;
                other.greet(world, 0, FrameType::JoinErr, no);
            }
            _ => {
                let ok = format!(r#"{{"index":{index},"instance":"ours"}}"#);
                kit.greet(world, index, FrameType::JoinOk, &ok);
            }
        }
        events.extend(world.events());
        at
    };
    // The first of them is spread to the other URL, and comes back with the same ticket at once.
    assert_eq!(join(&mut world, 1, "a"), 51);
    assert_eq!(join(&mut world, 2, "b"), 50);
    assert_eq!(join(&mut world, 1, "a"), 50);
    assert!(
        !events.contains(&told),
        "the session's kit was not heard since"
    );
    assert_eq!(
        events.last(),
        Some(&SessionEvent::Lanes {
            standing: 3,
            granted: 3
        })
    );
    for _ in 0..100 {
        pass_with(&mut world, &mut kit, SECOND / 10);
    }
    assert_eq!(world.events(), [told]);
}

#[test]
fn a_way_that_is_well_again_gets_its_share_of_the_lanes_back_when_they_are_idle() {
    let options = options().also_at("ws://127.0.0.1:51").connections(4);
    let (mut world, mut kit) = failover::with_lanes_by(&options, 4);
    let ways = |world: &World, kit: &FakeKit| {
        let ports = kit
            .conns
            .iter()
            .flatten()
            .map(|conn| &world.wires[conn].target);
        let second = ports.filter(|it| matches!(it, DialTarget::Addr(at) if at.port() == 51));
        second.count()
    };
    assert_eq!(ways(&world, &kit), 2);
    // The second way fails: its lanes join again by the first.
    let by_the_second: Vec<usize> = (1..4)
        .filter(|index| {
            let conn = kit.conns[*index].expect("it stands");
            matches!(&world.wires[&conn].target, DialTarget::Addr(at) if at.port() == 51)
        })
        .collect();
    for index in by_the_second {
        let conn = kit.conns[index].take().expect("it stands");
        world.end(conn, Ended::Reset);
        failover::wait(&mut world, &mut kit, SECOND);
        failover::rejoin(&mut world, &mut kit, index, "again");
    }
    assert_eq!(ways(&world, &kit), 0);
    // A stream on each: none of them moves for as long as it runs.
    let streams = failover::streams(&mut world, &mut kit);
    failover::wait(&mut world, &mut kit, 60 * SECOND);
    assert_eq!((ways(&world, &kit), world.dials.len()), (0, 0));
    for (_, conn) in &streams {
        world.end(*conn, Ended::Reset);
    }
    // Two of four go, one after the other, and no more.
    for _ in 0..2 {
        let before = kit.conns.clone();
        let moved = loop {
            failover::wait(&mut world, &mut kit, SECOND);
            let gone =
                |index: &usize| before[*index].is_some_and(|conn| world.is_closed(conn).is_some());
            if let Some(index) = (1..4).find(gone) {
                break index;
            }
        };
        kit.conns[moved] = None;
        failover::wait(&mut world, &mut kit, SECOND);
        failover::rejoin(&mut world, &mut kit, moved, "moved");
    }
    failover::wait(&mut world, &mut kit, 60 * SECOND);
    assert_eq!((ways(&world, &kit), world.dials.len()), (2, 0));
}
