//! Ports of this machine that lead to services of the container (PROTOCOL §8).

use super::*;
use crate::client::forwards::Forwarding;
use crate::client::messages::Port;
use crate::client::{ForwardOptions, SessionEvent, Target};
use crate::machine::{CloseHow, Ended};
use crate::wire::code::Code;

const GRANTED: &str = r#"{"sessionId":"S-1","capabilities":["forward"]}"#;
const HERE: &str = "127.0.0.1:40000";

fn kit() -> FakeKit {
    let mut terms = fake_kit::terms();
    terms.forward = true;
    FakeKit::with(terms)
}

/// A client whose session stands, and which forwards port 5432.
fn forwarded() -> (World, FakeKit) {
    let (mut world, mut kit) = (World::new(&options()), kit());
    world.pass(MS);
    come_online(&mut world, &mut kit, GRANTED);
    forward(&mut world, ForwardOptions::to(Target::from(5432)));
    assert!(answered(&mut world).is_ok());
    world.events();
    (world, kit)
}

fn forward(world: &mut World, options: ForwardOptions) {
    let spec = Box::new(Port::new(options).unwrap());
    world.order(Order::Forward { reference: 9, spec });
}

fn answered(world: &mut World) -> Result<Forwarding, Error> {
    let answer = world.answers().into_iter().find_map(|notice| match notice {
        Notice::Forwarding { outcome, .. } => Some(outcome),
        _ => None,
    });
    answer.expect("no answer")
}

fn why_cut(world: &mut World) -> Vec<String> {
    let cut = |event| match event {
        SessionEvent::StreamClosed(record) => Some(record.cut.unwrap_or_default()),
        _ => None,
    };
    world.events().into_iter().filter_map(cut).collect()
}

#[test]
fn bytes_pass_both_ways_and_each_fin_alone() {
    for chunk in [1, 1000, usize::MAX] {
        for kit_first in [true, false] {
            let (mut world, mut kit) = forwarded();
            world.chunk = chunk;
            let conn = world.call(5432, HERE).unwrap();
            // What a caller says does not wait for the kit's connection.
            world.write(conn, &[b'l'; 9000]);
            kit.run(&mut world);
            let open = r#"{"kind":"tcp","mode":"forward","host":"localhost","port":5432}"#;
            assert_eq!(kit.seen(0).heads, [open]);
            assert_eq!(kit.seen(0).data.len(), 9000);
            let key = kit.streams[0].0.unwrap();
            kit.session
                .send_connected(key, br#"{"peer":"127.0.0.1:5432"}"#, world.now);
            kit.data(&mut world, 0, &[b'k'; 9000]);
            if kit_first {
                kit.eof(&mut world, 0);
                assert!(world.wires[&conn].finished);
                world.write(conn, b" and more");
                world.fin(conn);
            } else {
                world.fin(conn);
                kit.run(&mut world);
                assert!(kit.seen(0).eof && world.is_closed(conn).is_none());
                kit.data(&mut world, 0, b" and more");
                kit.eof(&mut world, 0);
            }
            kit.run(&mut world);
            let more = |it: bool| if it { 9 } else { 0 };
            assert_eq!(world.take(conn).len(), 9000 + more(!kit_first));
            assert_eq!(kit.seen(0).data.len(), 9000 + more(kit_first));
            assert!(kit.seen(0).eof && kit.seen(0).reset.is_none());
            assert_eq!(world.is_closed(conn), Some(CloseHow::Clean));
            assert_eq!(why_cut(&mut world), [""]);
            world.client.check_invariants();
        }
    }
}

#[test]
fn what_the_kit_cannot_reach_breaks_the_caller_and_is_said() {
    for (code, reason) in [
        (Code::Cancel, "refused: nobody listens at port 5432"),
        (Code::Cancel, "dns: no such host"),
        (Code::RefusedStream, "this kit does not forward there"),
    ] {
        let (mut world, mut kit) = forwarded();
        let conn = world.call(5432, HERE).unwrap();
        kit.run(&mut world);
        let key = kit.streams[0].0.unwrap();
        kit.session.reset(key, code, reason);
        kit.run(&mut world);
        assert_eq!(world.is_closed(conn), Some(CloseHow::Reset));
        assert_eq!(why_cut(&mut world), [reason]);
        // The next caller has his own try.
        assert!(world.call(5432, HERE).is_some());
    }
}

#[test]
fn a_caller_who_is_gone_resets_his_stream() {
    let (mut world, mut kit) = forwarded();
    let conn = world.call(5432, HERE).unwrap();
    kit.run(&mut world);
    world.end(conn, Ended::Reset);
    kit.run(&mut world);
    assert_eq!(
        kit.seen(0).reset.as_deref(),
        Some("CANCEL: connection reset")
    );
}

#[test]
fn a_kit_that_does_not_forward_is_said_and_the_port_closed() {
    let (mut world, _kit) = online(&options());
    forward(&mut world, ForwardOptions::to(Target::from(5432)));
    let Err(Error::NotGranted(why)) = answered(&mut world) else {
        panic!("the kit grants nothing");
    };
    assert!(why.contains("--allow-forward"), "{why}");
    assert!(world.listeners.is_empty());
}

#[test]
fn the_next_free_port_is_taken_unless_one_was_asked_for() {
    let (mut world, mut kit) = (World::new(&options()), kit());
    world.taken = vec![5432, 5433];
    world.pass(MS);
    // Said before the session stands, and answered when it does.
    forward(&mut world, ForwardOptions::to(Target::from(5432)));
    assert!(world.answers().is_empty());
    come_online(&mut world, &mut kit, GRANTED);
    let forwarding = answered(&mut world).unwrap();
    assert_eq!(forwarding.local_addr.to_string(), "127.0.0.1:5434");
    assert_eq!(forwarding.target, "localhost:5432");

    let wish = ForwardOptions::to(Target::from(5432)).local_port(5433);
    forward(&mut world, wish);
    let Err(Error::Io(why)) = answered(&mut world) else {
        panic!("the port is taken");
    };
    assert!(why.contains("127.0.0.1:5433"), "{why}");
}

#[test]
fn callers_wait_for_a_kit_that_is_coming_and_not_for_one_that_is_gone() {
    let (mut world, mut kit) = (World::new(&options()), kit());
    world.pass(MS);
    forward(&mut world, ForwardOptions::to(Target::from(5432)));
    let accepts = |world: &World| {
        world
            .listeners
            .values()
            .map(|(_, on)| *on)
            .collect::<Vec<_>>()
    };
    assert_eq!(accepts(&world), [false]);
    come_online(&mut world, &mut kit, GRANTED);
    assert_eq!(accepts(&world), [true]);
    // Without replay the streams are lost with the connection, and nobody knows for how long.
    let lane = kit.conns[0].unwrap();
    world.end(lane, Ended::Reset);
    assert_eq!(accepts(&world), [true]);
    assert!(world.call(5432, HERE).is_none());
}

#[test]
fn only_those_may_call_who_are_meant() {
    let (mut world, mut kit) = forwarded();
    assert!(world.call(5432, "192.168.1.7:1").is_none());
    let far = ForwardOptions::to(Target::from(6379)).local_host([0, 0, 0, 0].into());
    assert!(far.check().is_err());
    forward(&mut world, far.allow_from("192.168.1.0/24"));
    assert!(answered(&mut world).is_ok());
    assert!(world.call(6379, "192.168.1.7:1").is_some());
    assert!(world.call(6379, "192.168.2.7:1").is_none());
    kit.run(&mut world);
    assert_eq!(kit.streams.len(), 1);
}

#[test]
fn a_port_is_given_up_alone_and_all_are_closed_at_the_end() {
    let (mut world, mut kit) = forwarded();
    let conn = world.call(5432, HERE).unwrap();
    world.order(Order::Unforward { reference: 9 });
    assert!(world.listeners.is_empty() && world.is_closed(conn).is_none());
    world.write(conn, b"still here");
    kit.run(&mut world);
    assert_eq!(kit.seen(0).data, b"still here");
    forward(&mut world, ForwardOptions::to(Target::from(5432)));
    assert!(answered(&mut world).is_ok());
    world.order(Order::Close { at_once: true });
    assert!(world.listeners.is_empty());
}

#[test]
fn what_is_no_plain_bytes_is_refused() {
    for target in ["https://h:1", "http://h:1/path"] {
        let options = ForwardOptions::to(target.parse().unwrap());
        assert!(options.check().is_err(), "{target}");
    }
    let unix = ForwardOptions::to("unix:/run/x.sock".parse().unwrap());
    assert!(unix.check().is_ok());
}
