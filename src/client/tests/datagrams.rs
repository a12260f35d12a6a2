//! Streams of datagrams: each has a socket of its own toward the local service.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{DialTarget, Event, IoFailure, Machine, SocketAt, SocketKey};
use crate::wire::code::Code;

const OPEN: &str = r#"{"kind":"udp","bindId":1,"containerPort":5353,"remoteAddr":"127.0.0.1:9"}"#;
const HELLO_OK: &str = r#"{"sessionId":"S-1","capabilities":["udp"]}"#;

fn bound() -> (World, FakeKit) {
    let (mut world, mut kit) = online_with(&options(), HELLO_OK);
    order_bind(&mut world, &mut kit, 1, spec(Service::UdpPull, 5353));
    let asked = kit.came(FrameType::Bind);
    assert!(
        asked[0].contains(r#""kind":"udp","mode":"pull""#),
        "{asked:?}"
    );
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, 5353));
    world.events();
    (world, kit)
}

fn socket(world: &World, at: usize) -> SocketKey {
    *world.sockets.keys().nth(at).expect("a socket")
}

fn send(world: &mut World, kit: &mut FakeKit, stream: usize, datagram: &[u8]) {
    let key = kit.streams[stream].0.expect("it is open");
    kit.session.send_datagram(key, datagram, world.now);
    kit.run(world);
}

fn answer(world: &mut World, kit: &mut FakeKit, socket: SocketKey, datagram: &[u8]) {
    let peer = "127.0.0.1:3000".parse().unwrap();
    world.client.datagram(socket, peer, datagram, world.now);
    world.run();
    kit.run(world);
}

#[test]
fn each_stream_has_a_socket_and_answers_find_back() {
    let (mut world, mut kit) = bound();
    let (one, two) = (kit.open(&mut world, OPEN), kit.open(&mut world, OPEN));
    let sockets = [socket(&world, 0), socket(&world, 1)];
    let target = SocketAt::For(DialTarget::Addr("127.0.0.1:3000".parse().unwrap()));
    assert!(world.sockets.values().all(|(at, _)| *at == target));
    send(&mut world, &mut kit, one, b"question");
    send(&mut world, &mut kit, two, b"");
    assert_eq!(world.sockets[&sockets[0]].1, [b"question".to_vec()]);
    assert_eq!(world.sockets[&sockets[1]].1, [Vec::<u8>::new()]);
    answer(&mut world, &mut kit, sockets[1], b"");
    answer(&mut world, &mut kit, sockets[0], &[7; 65_507]);
    assert_eq!(kit.streams[one].1.datagrams, [vec![7; 65_507]]);
    assert_eq!(kit.streams[two].1.datagrams, [Vec::<u8>::new()]);
}

#[test]
fn the_kits_end_closes_the_socket_and_an_idle_one_is_no_failure() {
    for how in ["eof", "reset"] {
        let (mut world, mut kit) = bound();
        let stream = kit.open(&mut world, OPEN);
        send(&mut world, &mut kit, stream, b"question");
        let key = kit.streams[stream].0.expect("it is open");
        match how {
            "eof" => kit.session.send_eof(key, world.now),
            _ => kit.session.reset(key, Code::NoError, "idle"),
        }
        kit.run(&mut world);
        assert!(world.sockets.is_empty(), "{how}");
        assert_eq!(kit.session.streams().len(), 0, "{how}");
        let closed = world.events().into_iter().find_map(|event| match event {
            SessionEvent::StreamClosed(record) => Some(record),
            _ => None,
        });
        let record = closed.expect("its end is told");
        assert_eq!((record.bytes_in, record.cut), (8, None), "{how}");
    }
}

#[test]
fn a_socket_that_cannot_be_had_ends_its_stream_and_no_other() {
    let (mut world, mut kit) = bound();
    let (one, two) = (kit.open(&mut world, OPEN), kit.open(&mut world, OPEN));
    let failed = socket(&world, 0);
    for (kind, code) in [
        (std::io::ErrorKind::QuotaExceeded, "REFUSED_STREAM"),
        (std::io::ErrorKind::NotFound, "CANCEL"),
    ] {
        let stream = if code == "CANCEL" { two } else { one };
        let socket = if code == "CANCEL" {
            socket(&world, 0)
        } else {
            failed
        };
        world.sockets.remove(&socket);
        let text = "no such host".to_owned();
        let outcome = Err(IoFailure { kind, text });
        world.tell(Event::Socket { socket, outcome });
        kit.run(&mut world);
        let reset = kit.streams[stream].1.reset.clone().expect("it is over");
        assert!(
            reset.contains(code) && reset.contains("no such host"),
            "{reset}"
        );
    }
}

#[test]
fn data_on_a_stream_of_datagrams_costs_the_stream() {
    let (mut world, mut kit) = bound();
    let stream = kit.open(&mut world, OPEN);
    kit.data(&mut world, stream, b"bytes");
    let reset = kit.streams[stream].1.reset.clone();
    assert!(reset.is_some_and(|why| why.starts_with("PROTOCOL_ERROR")));
    assert!(world.sockets.is_empty());
}

#[test]
fn a_kit_that_carries_no_datagrams_is_not_asked_and_its_user_is_told() {
    let (mut world, mut kit) = online(&options());
    order_bind(&mut world, &mut kit, 1, spec(Service::UdpPull, 5353));
    assert!(kit.came(FrameType::Bind).is_empty());
    let refused = outcome(&mut world, 1).expect_err("it cannot be");
    assert!(refused.to_string().contains("upgraded"), "{refused}");
}
