//! Several lanes in one session.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{CloseHow, Ended};

const TICKETS: &str = r#"{"sessionId":"S-1","connectionsGranted":3,"joinTickets":[
    {"index":1,"nonce":"one","expiresMs":10000},{"index":2,"nonce":"two","expiresMs":10000}]}"#;

fn joined() -> (World, FakeKit) {
    let mut world = World::new(&options().connections(4));
    let mut kit = FakeKit::new();
    world.pass(MS);
    let hello = come_online(&mut world, &mut kit, TICKETS);
    assert!(hello.contains(r#""maxConnections":4"#) && hello.contains("multi-ws"));
    assert!(hello.contains("hoody-tunnel.v2"));
    assert_eq!(world.dials.len(), 2);
    for (index, nonce) in [(1, "one"), (2, "two")] {
        join(&mut world, &mut kit, index, nonce);
    }
    (world, kit)
}

fn join(world: &mut World, kit: &mut FakeKit, index: usize, nonce: &str) {
    let conn = world.accept();
    let (kind, json) = kit.upgrade(world, conn);
    assert_eq!(kind, FrameType::Join);
    assert_eq!(
        json,
        format!(r#"{{"sessionId":"S-1","index":{index},"nonce":"{nonce}","dataReceived":0}}"#)
    );
    kit.greet(
        world,
        index,
        FrameType::JoinOk,
        &format!(r#"{{"index":{index}}}"#),
    );
}

#[test]
fn a_lost_secondary_costs_its_streams_only_and_is_joined_again() {
    let (mut world, mut kit) = joined();
    assert_eq!(
        world.events().last(),
        Some(&SessionEvent::Lanes {
            standing: 3,
            granted: 3
        })
    );
    bind(&mut world, &mut kit, 1, Service::TcpPull, 5432);
    // Idle lanes are equal, so streams lie on the first; a busy first has them go elsewhere.
    let on_first = kit.open(&mut world, r#"{"kind":"tcp","bindId":1}"#);
    let local_first = world.accept();
    let number = kit.streams.len();
    kit.session
        .lanes_mut()
        .push_control(FrameType::ShardMap, br#"{"connections":[]}"#);
    let open = br#"{"kind":"tcp","bindId":1}"#;
    let key = kit.session.open(number, open, world.now).unwrap();
    kit.streams.push((Some(key), Default::default()));
    kit.run(&mut world);
    let local_second = world.accept();

    let lost = kit.conns[1].take().unwrap();
    kit.session.detach(1);
    world.end(lost, Ended::Reset);
    kit.run(&mut world);
    assert_eq!(world.is_closed(local_second), Some(CloseHow::Reset));
    assert_eq!(world.is_closed(local_first), None);
    kit.data(&mut world, on_first, b"still here");
    assert_eq!(world.take(local_first), b"still here");

    world.pass(SECOND);
    kit.run(&mut world);
    let asked = kit.came(FrameType::ReissueJoinTickets);
    assert_eq!(asked, [r#"{"missing":[{"index":1,"nonce":"one"}]}"#]);
    let ticket = r#"{"joinTickets":[{"index":1,"nonce":"again","expiresMs":10000}]}"#;
    kit.control(&mut world, FrameType::ReissueJoinTickets, ticket);
    join(&mut world, &mut kit, 1, "again");
    assert_eq!(
        world.events().last(),
        Some(&SessionEvent::Lanes {
            standing: 3,
            granted: 3
        })
    );
}

#[test]
fn a_join_that_is_refused_is_asked_for_again() {
    let mut world = World::new(&options().connections(2));
    let mut kit = FakeKit::new();
    world.pass(MS);
    let ok = r#"{"sessionId":"S-1","connectionsGranted":2,
        "joinTickets":[{"index":1,"nonce":"n"},{"index":7,"nonce":"beyond"}]}"#;
    come_online(&mut world, &mut kit, ok);
    assert_eq!(world.dials.len(), 1, "only what was granted is joined");
    let conn = world.accept();
    let mut other = FakeKit::new();
    other.upgrade(&mut world, conn);
    let refused = r#"{"code":"EXPIRED","message":"too late"}"#;
    other.greet(&mut world, 0, FrameType::JoinErr, refused);
    assert!(world.is_closed(conn).is_some());
    assert!(!world.stopped);
    world.pass(3 * SECOND);
    kit.run(&mut world);
    assert!(!kit.came(FrameType::ReissueJoinTickets).is_empty());
}

#[test]
fn data_that_is_lent_survives_the_loss_of_the_lane_that_it_lay_in() {
    let (mut world, mut kit) = joined();
    bind(&mut world, &mut kit, 1, Service::TcpPull, 5432);
    let stream = kit.open(&mut world, r#"{"kind":"tcp","bindId":1}"#);
    let local = world.accept();
    world.wires.get_mut(&local).unwrap().full = true;
    kit.data(&mut world, stream, &[9; 50_000]);
    let lost = kit.conns[1].take().unwrap();
    kit.session.detach(1);
    world.end(lost, Ended::Reset);
    world.unblock(local);
    assert_eq!(world.take(local), [9; 50_000]);
}

#[test]
fn the_primarys_loss_takes_all_lanes() {
    let (mut world, kit) = joined();
    let secondary = kit.conns[1].unwrap();
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    assert!(world.is_closed(secondary).is_some());
    world.pass(SECOND);
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn a_lane_that_keeps_failing_is_asked_for_ever_less_often_and_another_at_once() {
    let (mut world, mut kit) = joined();
    for _ in 0..10 {
        world.pass(SECOND);
        kit.run(&mut world);
    }
    let lose = |world: &mut World, kit: &mut FakeKit, index: usize| {
        kit.session.detach(index);
        world.end(kit.conns[index].take().unwrap(), Ended::Reset);
    };
    lose(&mut world, &mut kit, 1);
    let mut asked = 0;
    for _ in 0..60 {
        world.pass(SECOND);
        kit.run(&mut world);
        if !kit.came(FrameType::ReissueJoinTickets).is_empty() {
            asked += 1;
            let ticket = r#"{"joinTickets":[{"index":1,"nonce":"again"}]}"#;
            kit.control(&mut world, FrameType::ReissueJoinTickets, ticket);
            world.refuse();
        }
        // Tickets that it did not ask for are not used.
        let other = r#"{"joinTickets":[{"index":1,"nonce":"other"},{"index":2,"nonce":"other"}]}"#;
        kit.control(&mut world, FrameType::ReissueJoinTickets, other);
        assert!(world.dials.is_empty());
    }
    assert_eq!(asked, 5, "at once, then after 4, 8, 16 and 30 s");
    lose(&mut world, &mut kit, 2);
    world.pass(SECOND);
    kit.run(&mut world);
    let asked = kit.came(FrameType::ReissueJoinTickets);
    let both = r#"{"missing":[{"index":1,"nonce":"again"},{"index":2,"nonce":"two"}]}"#;
    assert_eq!(asked, [both]);
    let both = r#"{"joinTickets":[{"index":1,"nonce":"x"},{"index":2,"nonce":"again"}]}"#;
    kit.control(&mut world, FrameType::ReissueJoinTickets, both);
    assert_eq!(world.dials.len(), 1);
    join(&mut world, &mut kit, 2, "again");
}
