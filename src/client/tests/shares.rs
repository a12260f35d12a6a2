//! More visitors than local connections: who gets one, who is told no, and how soon.

use super::*;
use crate::client::{SessionEvent, Shortage};
use crate::limits::{CLIENT_HEADS, SLOT_WAIT};
use crate::machine::{ConnKey, Ended, IoFailure};
use crate::mux::{Side, Terms};

/// A kit that lets a session have as many streams as it likes.
fn exposed_with(descriptors: usize) -> (World, FakeKit) {
    let mut world = World::new(&options());
    let mut kit = FakeKit::with(Terms {
        max_streams: 16 * 1024,
        ..fake_kit::terms()
    });
    assert_eq!(kit.session.terms().side, Side::Kit);
    world.fit(descriptors);
    world.pass(MS);
    come_online(
        &mut world,
        &mut kit,
        r#"{"sessionId":"S-1","maxStreams":16384}"#,
    );
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    bind(&mut world, &mut kit, 2, Service::TcpPull, 5432);
    world.events();
    (world, kit)
}

/// As many local connections as `slots`.
fn with_slots(slots: usize) -> (World, FakeKit) {
    exposed_with(slots + crate::limits::HOST_DESCRIPTORS + 2)
}

fn from(address: &str, target: &str) -> String {
    let open = get(target);
    let (open, _) = open.rsplit_once('}').unwrap();
    format!(r#"{open},"remoteAddr":"{address}"}}"#)
}

fn ask(world: &mut World, kit: &mut FakeKit, address: &str) -> usize {
    let stream = kit.open(world, &from(address, "/"));
    kit.eof(world, stream);
    stream
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn answer(world: &mut World, kit: &mut FakeKit, conn: ConnKey) {
    world.write(conn, OK);
    kit.run(world);
}

fn is_503(kit: &FakeKit, stream: usize) -> bool {
    let seen = kit.seen(stream);
    let Some(head) = seen.heads.first() else {
        return false;
    };
    assert!(head.contains(r#""status":503"#), "{head}");
    assert!(head.contains(r#"["retry-after","1"]"#), "{head}");
    seen.eof
}

fn turned_away(world: &mut World) -> Vec<(u64, u64, Shortage)> {
    let told = world.events().into_iter().filter_map(|event| match event {
        SessionEvent::TurnedAway { count, total, why } => Some((count, total, why)),
        _ => None,
    });
    told.collect()
}

fn no_descriptor() -> Ended {
    Ended::Failed(IoFailure {
        kind: std::io::ErrorKind::QuotaExceeded,
        text: "127.0.0.1:3000: Too many open files".into(),
    })
}

#[test]
fn as_many_streams_as_a_kit_has_are_served_at_once() {
    let (mut world, mut kit) = exposed_with(100_000);
    for _ in 0..1100 {
        ask(&mut world, &mut kit, "10.0.0.1:1000");
    }
    assert_eq!(world.dials.len(), 1100);
}

#[test]
fn past_the_connections_a_visitor_hears_so_within_a_second() {
    let (mut world, mut kit) = with_slots(16);
    let streams: Vec<usize> = (0..20)
        .map(|number| ask(&mut world, &mut kit, &format!("10.0.0.{number}:1")))
        .collect();
    let raw = kit.open(
        &mut world,
        r#"{"kind":"tcp","bindId":2,"remoteAddr":"10.0.1.1:1"}"#,
    );
    assert_eq!(world.dials.len(), 16);
    world.pass(SLOT_WAIT - MS);
    assert!(streams.iter().all(|stream| !is_503(&kit, *stream)));
    world.pass(MS);
    kit.run(&mut world);
    assert_eq!(streams.iter().filter(|one| is_503(&kit, **one)).count(), 4);
    let reset = kit.seen(raw).reset.clone().unwrap();
    assert!(reset.starts_with("REFUSED_STREAM"), "{reset}");
    assert!(SLOT_WAIT < SECOND);
    world.pass(SECOND);
    assert_eq!(turned_away(&mut world), [(5, 5, Shortage::Connections)]);
    // The others are served, and so is whoever comes when one of them is done.
    let conn = world.accept();
    answer(&mut world, &mut kit, conn);
    let next = ask(&mut world, &mut kit, "10.0.2.1:1");
    assert!(world.text(conn).contains("GET / "));
    answer(&mut world, &mut kit, conn);
    assert!(kit.seen(next).eof && !kit.seen(next).heads[0].contains("503"));
    world.pass(20 * SECOND);
    assert_eq!(turned_away(&mut world), [], "nobody else");
}

#[test]
fn whoever_waits_gets_the_place_of_one_that_leaves() {
    let (mut world, mut kit) = with_slots(16);
    for number in 0..16 {
        ask(&mut world, &mut kit, &format!("10.0.0.{number}:1"));
    }
    let waits = ask(&mut world, &mut kit, "10.0.1.1:1");
    let leaves = ask(&mut world, &mut kit, "10.0.1.2:1");
    kit.reset(&mut world, leaves);
    let conn = world.accept();
    world.take(conn);
    answer(&mut world, &mut kit, conn);
    assert!(world.text(conn).contains("GET / "), "the one that waits");
    answer(&mut world, &mut kit, conn);
    assert!(kit.seen(waits).eof);
    world.pass(SECOND);
    assert_eq!(turned_away(&mut world), []);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let (mut world, mut kit) = with_slots(64);
    let greedy: Vec<usize> = (0..200)
        .map(|_| ask(&mut world, &mut kit, "[2001:db8::1]:7"))
        .collect();
    let taken = world.dials.len();
    assert!((32..64).contains(&taken), "{taken}");
    for number in 0..4 {
        // Another address of the same network is the same holder.
        ask(&mut world, &mut kit, &format!("[2001:db8::{number}]:9"));
    }
    assert_eq!(world.dials.len(), taken);
    ask(&mut world, &mut kit, "10.0.0.2:1");
    assert_eq!(
        world.dials.len(),
        taken + 1,
        "somebody else finds a place at once"
    );
    world.pass(SECOND);
    kit.run(&mut world);
    let refused = greedy.iter().filter(|one| is_503(&kit, **one)).count();
    assert_eq!(refused, 200 - taken);
}

#[test]
fn without_descriptors_a_visitor_gets_503_and_the_user_is_told() {
    let (mut world, mut kit) = exposed_with(1000);
    let held: Vec<ConnKey> = (0..10)
        .map(|number| {
            ask(&mut world, &mut kit, &format!("10.0.0.{number}:1"));
            world.accept()
        })
        .collect();
    let late = ask(&mut world, &mut kit, "10.0.1.1:1");
    for _ in 0..8 {
        // However often it tries again.
        while !world.dials.is_empty() {
            let (conn, _) = world.dialled();
            world.end(conn, no_descriptor());
        }
        world.pass(100 * MS);
    }
    kit.run(&mut world);
    assert!(is_503(&kit, late));
    let text = String::from_utf8_lossy(&kit.seen(late).data).into_owned();
    assert!(text.contains("no more file descriptors") && !text.contains("Is it running"));
    world.pass(SECOND);
    assert_eq!(turned_away(&mut world), [(1, 1, Shortage::Descriptors)]);
    // As soon as there are some again the next visitor is served.
    for stream in 0..held.len() {
        kit.reset(&mut world, stream);
    }
    world.pass(3 * SECOND);
    let next = ask(&mut world, &mut kit, "10.0.1.1:1");
    let conn = world.accept();
    answer(&mut world, &mut kit, conn);
    assert!(kit.seen(next).eof);
}

#[test]
fn idle_connections_give_their_descriptors_to_whoever_needs_one() {
    let (mut world, mut kit) = exposed_with(1000);
    ask(&mut world, &mut kit, "10.0.0.1:1");
    let idle = world.accept();
    answer(&mut world, &mut kit, idle);
    let raw = r#"{"kind":"tcp","bindId":2,"remoteAddr":"10.0.1.1:1"}"#;
    let raw = kit.open(&mut world, raw);
    let (conn, _) = world.dialled();
    world.end(conn, no_descriptor());
    assert!(world.is_closed(idle).is_some());
    world.pass(500 * MS);
    let conn = world.accept();
    kit.data(&mut world, raw, b"hello");
    assert_eq!(world.take(conn), b"hello");
}

#[test]
fn heads_that_wait_are_bounded_and_given_back() {
    let (mut world, mut kit) = exposed_with(100_000);
    let long = "x".repeat(30_000);
    let mut refused = 0;
    let mut streams = Vec::new();
    for number in 0..(CLIENT_HEADS / 30_000 + 200) {
        let address = format!("10.0.{}.{}:1", number / 200, number % 200);
        let open = from(&address, "/").replace("app.example", &long);
        let stream = kit.open(&mut world, &open);
        match &kit.seen(stream).reset {
            Some(reset) => {
                assert!(reset.starts_with("REFUSED_STREAM"), "{reset}");
                refused += 1;
            }
            None => streams.push(stream),
        }
    }
    assert!(refused >= 200, "{refused}");
    assert!(world.client.local.heads.total() <= CLIENT_HEADS);
    world.pass(SECOND);
    assert_eq!(
        turned_away(&mut world),
        [(refused, refused, Shortage::Heads)]
    );
    for stream in streams {
        kit.reset(&mut world, stream);
    }
    assert_eq!(world.client.local.heads.total(), 0);
    assert_eq!(world.client.local.exchanges.len(), 0);
    let next = ask(&mut world, &mut kit, "10.0.0.1:1");
    let conn = world.accept();
    let before = world.client.local.heads.total();
    world.write(conn, b"HTTP/1.1 200 OK\r\n\r\nand so on");
    kit.run(&mut world);
    assert!(!kit.seen(next).eof);
    assert!(
        world.client.local.heads.total() < before,
        "an answer frees its head"
    );
}

#[test]
fn windows_that_no_kit_needs_are_not_believed() {
    let mut world = World::new(&options());
    let mut kit = FakeKit::with(Terms {
        stream_window: u32::MAX,
        session_window: u32::MAX,
        ..fake_kit::terms()
    });
    world.pass(MS);
    let ok = r#"{"sessionId":"S-1","streamWindow":4294967295,"sessionWindow":4294967295,
        "maxStreams":4294967295}"#;
    come_online(&mut world, &mut kit, ok);
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    let terms = *world.client.reach.session.attached().unwrap().terms();
    assert_eq!(terms.stream_window, crate::limits::MAX_STREAM_WINDOW);
    assert_eq!(terms.session_window, crate::limits::MAX_SESSION_WINDOW);
    // An upload that nobody takes costs as much as the largest window, and then its stream.
    let open = get("/").replace("\"none\"", "\"chunked\"");
    let stream = kit.open(&mut world, &open);
    let key = kit.streams[stream].0.unwrap();
    for _ in 0..400 {
        kit.session.send(key, &[0; 60_000], world.now);
        kit.run(&mut world);
        if kit.seen(stream).reset.is_some() {
            break;
        }
    }
    let reset = kit.seen(stream).reset.clone().unwrap_or_default();
    assert!(reset.starts_with("FLOW_CONTROL_ERROR"), "{reset}");
}
