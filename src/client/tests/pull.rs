//! PULL: raw connections to a local service.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{CloseHow, Ended};

const OPEN: &str = r#"{"kind":"tcp","bindId":1,"containerPort":5432,"remoteAddr":"127.0.0.1:9"}"#;

fn pulled() -> (World, FakeKit, usize) {
    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::TcpPull, 5432);
    world.events();
    let stream = kit.open(&mut world, OPEN);
    (world, kit, stream)
}

#[test]
fn bytes_pass_both_ways_and_each_fin_alone() {
    for chunk in [1, 1000, usize::MAX] {
        for kit_first in [true, false] {
            let (mut world, mut kit, stream) = pulled();
            world.chunk = chunk;
            // Bytes that come before the dial is through wait.
            kit.data(&mut world, stream, b"early ");
            let conn = world.accept();
            kit.data(&mut world, stream, &[b'k'; 9000]);
            world.write(conn, &[b'l'; 9000]);
            kit.run(&mut world);
            if kit_first {
                kit.eof(&mut world, stream);
                assert!(world.wires[&conn].finished);
                world.write(conn, b" and more");
                world.fin(conn);
            } else {
                world.fin(conn);
                kit.run(&mut world);
                assert!(kit.seen(stream).eof);
                assert_eq!(world.is_closed(conn), None);
                kit.data(&mut world, stream, b" and more");
                kit.eof(&mut world, stream);
            }
            kit.run(&mut world);
            let local = world.take(conn);
            assert!(local.starts_with(b"early kkk"));
            assert_eq!(local.len(), 9006 + if kit_first { 0 } else { 9 });
            assert_eq!(
                kit.seen(stream).data.len(),
                9000 + if kit_first { 9 } else { 0 }
            );
            assert!(kit.seen(stream).eof && kit.seen(stream).reset.is_none());
            assert_eq!(world.is_closed(conn), Some(CloseHow::Clean));
            assert_eq!(world.client.local.exchanges.len(), 0);
            assert!(world.events().iter().any(|event| match event {
                SessionEvent::StreamClosed(record) => record.cut.is_none(),
                _ => false,
            }));
        }
    }
}

#[test]
fn an_early_fin_of_the_kit_waits_for_the_dial() {
    let (mut world, mut kit, stream) = pulled();
    kit.data(&mut world, stream, b"all");
    kit.eof(&mut world, stream);
    let conn = world.accept();
    assert_eq!(world.take(conn), b"all");
    assert!(world.wires[&conn].finished);
}

#[test]
fn resets_pass_in_each_direction() {
    let (mut world, mut kit, stream) = pulled();
    let conn = world.accept();
    kit.reset(&mut world, stream);
    assert_eq!(world.is_closed(conn), Some(CloseHow::Reset));

    let (mut world, mut kit, stream) = pulled();
    let conn = world.accept();
    world.end(conn, Ended::Reset);
    kit.run(&mut world);
    assert_eq!(
        kit.seen(stream).reset.as_deref(),
        Some("CANCEL: connection reset")
    );
    assert_eq!(world.client.local.exchanges.len(), 0);
}

#[test]
fn a_service_that_is_down_resets_the_stream_with_the_reason() {
    let (mut world, mut kit, stream) = pulled();
    world.refuse();
    kit.run(&mut world);
    let reset = kit.seen(stream).reset.clone().unwrap();
    assert!(reset.starts_with("CANCEL: ") && reset.contains("Connection refused"));
}

#[test]
fn megabytes_pass_in_order_under_small_windows() {
    let (mut world, mut kit, stream) = pulled();
    let conn = world.accept();
    let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7) as u8).collect();
    world.write(conn, &bytes);
    kit.run(&mut world);
    assert!(kit.seen(stream).data == bytes);
    kit.data(&mut world, stream, &bytes);
    assert!(world.take(conn) == bytes);
}

#[test]
fn a_service_that_reads_nothing_for_long_holds_only_its_own_stream() {
    let (mut world, mut kit, stream) = pulled();
    let conn = world.accept();
    world.wires.get_mut(&conn).unwrap().full = true;
    let key = kit.streams[stream].0.unwrap();
    while kit.session.send(key, &[1; 50_000], world.now) > 0 {
        kit.run(&mut world);
    }
    for _ in 0..10 {
        world.pass(SECOND);
        kit.run(&mut world);
    }
    let other = kit.open(&mut world, OPEN);
    let second = world.accept();
    kit.data(&mut world, other, &[2; 900_000]);
    assert_eq!(world.take(second).len(), 900_000);
}
