//! Who is calling, told to local servers ahead of everything else.

use super::*;
use crate::client::options::ProxyProtocol;
use crate::client::target::Target;
use crate::machine::{CloseHow, ConnKey, Ended, Event};

const CALLER: &str = r#"{"kind":"tcp","bindId":1,"containerPort":5432,"remoteAddr":"127.0.0.1:9"}"#;
const LINE: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 9 5432\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A binding whose server is told who calls.
fn greeted(service: Service, port: u16, target: &str) -> (World, FakeKit) {
    greeted_within(1000, service, port, target)
}

/// The same of a client that has so many descriptors.
fn greeted_within(
    descriptors: usize,
    service: Service,
    port: u16,
    target: &str,
) -> (World, FakeKit) {
    let mut world = World::new(&options());
    world.fit(descriptors);
    let mut kit = FakeKit::new();
    world.pass(MS);
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-1"}"#);
    let mut spec = spec(service, port);
    spec.proxy_protocol = Some(ProxyProtocol::V1);
    spec.local = Answerer::Target(target.parse::<Target>().unwrap());
    order_bind(&mut world, &mut kit, 1, spec);
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, port));
    assert!(outcome(&mut world, 1).is_ok());
    (world, kit)
}

fn pulled() -> (World, FakeKit, usize) {
    let (mut world, mut kit) = greeted(Service::TcpPull, 5432, "127.0.0.1:5432");
    let stream = kit.open(&mut world, CALLER);
    (world, kit, stream)
}

#[test]
fn the_greeting_is_first_however_little_is_taken_at_once() {
    for chunk in [1, 7, LINE.len(), LINE.len() + 3, usize::MAX] {
        for early in [true, false] {
            let (mut world, mut kit, stream) = pulled();
            world.chunk = chunk;
            if early {
                kit.data(&mut world, stream, b"early ");
            }
            let conn = world.accept();
            kit.data(&mut world, stream, &[b'k'; 9000]);
            world.write(conn, b"an answer");
            kit.eof(&mut world, stream);
            kit.run(&mut world);
            let took = world.take(conn);
            assert!(took.starts_with(LINE), "{took:?}");
            let rest = &took[LINE.len()..];
            assert_eq!(rest.starts_with(b"early k"), early);
            assert_eq!(rest.len(), 9000 + if early { 6 } else { 0 });
            assert!(world.wires[&conn].finished, "the caller's FIN follows");
            assert_eq!(kit.seen(stream).data, b"an answer");
        }
    }
}

#[test]
fn a_server_that_speaks_first_is_greeted_first_and_heard() {
    let (mut world, mut kit, stream) = pulled();
    let (conn, _) = world.dialled();
    world.wires.get_mut(&conn).unwrap().full = true;
    world.connect(conn);
    world.write(conn, b"SSH-2.0-x\r\n");
    kit.run(&mut world);
    assert!(
        kit.seen(stream).data.is_empty(),
        "it does not know yet whom it speaks to"
    );
    world.unblock(conn);
    kit.run(&mut world);
    assert_eq!(world.take(conn), LINE);
    assert_eq!(kit.seen(stream).data, b"SSH-2.0-x\r\n");
}

#[test]
fn a_server_that_closes_or_resets_ahead_of_the_greeting_is_told_as_it_is() {
    let (mut world, mut kit, stream) = pulled();
    let conn = world.accept();
    world.fin(conn);
    kit.run(&mut world);
    assert!(kit.seen(stream).eof && kit.seen(stream).reset.is_none());
    kit.eof(&mut world, stream);
    assert_eq!(world.is_closed(conn), Some(CloseHow::Clean));
    for takes in [true, false] {
        let (mut world, mut kit, stream) = pulled();
        let (conn, _) = world.dialled();
        world.wires.get_mut(&conn).unwrap().full = !takes;
        world.connect(conn);
        kit.data(&mut world, stream, b"a question");
        world.end(conn, Ended::Reset);
        kit.run(&mut world);
        let reset = kit.seen(stream).reset.as_deref();
        assert_eq!(reset, Some("CANCEL: connection reset"));
        assert_eq!(world.client.local.exchanges.len(), 0);
    }
    // The caller gives up before it left.
    let (mut world, mut kit, stream) = pulled();
    let (conn, _) = world.dialled();
    world.wires.get_mut(&conn).unwrap().full = true;
    world.connect(conn);
    kit.reset(&mut world, stream);
    assert_eq!(world.is_closed(conn), Some(CloseHow::Reset));
}

/// A GET of the visitor at `remote`.
fn ask(world: &mut World, kit: &mut FakeKit, remote: &str) -> usize {
    let open = get("/");
    let (open, _) = open.rsplit_once('}').unwrap();
    let stream = kit.open(world, &format!(r#"{open},"remoteAddr":"{remote}"}}"#));
    kit.eof(world, stream);
    stream
}

#[test]
fn tls_begins_behind_the_greeting() {
    for chunk in [1, usize::MAX] {
        let (mut world, mut kit) = greeted(Service::HttpExpose, 3000, "https://localhost:3000");
        world.chunk = chunk;
        let stream = ask(&mut world, &mut kit, "203.0.113.9:50001");
        let (conn, _) = world.dialled();
        world.wires.get_mut(&conn).unwrap().full = true;
        world.connect(conn);
        assert_eq!(world.wires[&conn].secured, None);
        world.unblock(conn);
        assert_eq!(world.wires[&conn].secured.as_deref(), Some("localhost"));
        let line = "PROXY TCP4 203.0.113.9 0.0.0.0 50001 3000\r\n";
        assert_eq!(world.text(conn), line, "and nothing of the request");
        world.tell(Event::Secured { conn });
        assert!(world.text(conn).starts_with("GET / HTTP/1.1\r\n"));
        world.write(conn, OK);
        kit.run(&mut world);
        assert!(kit.seen(stream).eof);
    }
}

/// What a new connection gets, which then answers.
fn served(world: &mut World, kit: &mut FakeKit) -> (ConnKey, String) {
    let conn = world.accept();
    let text = world.text(conn);
    world.write(conn, OK);
    kit.run(world);
    (conn, text)
}

#[test]
fn a_connection_is_one_visitors_and_is_greeted_once() {
    let (mut world, mut kit) = greeted(Service::HttpExpose, 3000, "127.0.0.1:3000");
    ask(&mut world, &mut kit, "203.0.113.9:50001");
    let (first, text) = served(&mut world, &mut kit);
    let line = "PROXY TCP4 203.0.113.9 0.0.0.0 50001 3000\r\nGET / ";
    assert!(text.starts_with(line), "{text}");
    for (other, from) in [
        ("203.0.113.9:50002", "203.0.113.9 0.0.0.0 50002"),
        ("[2001:db8::1]:50001", "2001:db8::1 :: 50001"),
        ("203.0.113.9:0", "203.0.113.9 0.0.0.0 0"),
        ("unknown", ""),
    ] {
        ask(&mut world, &mut kit, other);
        let (conn, text) = served(&mut world, &mut kit);
        assert!(text.starts_with("PROXY ") && text.contains(from), "{text}");
        assert_ne!(conn, first);
    }
    // Who has no port is nobody in particular: each of its requests says again who it is.
    ask(&mut world, &mut kit, "203.0.113.9:0");
    let (_, text) = served(&mut world, &mut kit);
    assert!(text.starts_with("PROXY TCP4 203.0.113.9 "), "{text}");
    ask(&mut world, &mut kit, "203.0.113.9:50001");
    assert!(world.dials.is_empty(), "it goes on with its own");
    assert!(world.text(first).starts_with("GET / "), "without a second");
    // It closes just then: the next one is greeted as the first was.
    world.fin(first);
    kit.run(&mut world);
    let (_, text) = served(&mut world, &mut kit);
    assert!(text.starts_with(line), "{text}");
}

#[test]
fn whoever_waits_for_a_connection_gets_none_that_was_anothers() {
    let (mut world, mut kit) = greeted_within(1, Service::HttpExpose, 3000, "127.0.0.1:3000");
    for visitor in ["203.0.113.9:1", "203.0.113.9:2", "203.0.113.10:7"] {
        ask(&mut world, &mut kit, visitor);
    }
    assert_eq!(world.dials.len(), 1, "the others wait");
    let mut greetings = Vec::new();
    for _ in 0..3 {
        let (conn, text) = served(&mut world, &mut kit);
        greetings.push(text.lines().next().unwrap().to_owned());
        let left = world.dials.is_empty();
        assert_eq!(world.is_closed(conn).is_none(), left, "it makes room");
    }
    greetings.sort();
    let line = |visitor| format!("PROXY TCP4 203.0.113.{visitor} 3000");
    let wanted = ["10 0.0.0.0 7", "9 0.0.0.0 1", "9 0.0.0.0 2"].map(line);
    assert_eq!(greetings, wanted);
}

#[test]
fn a_handler_is_not_greeted() {
    use crate::client::{BindOptions, Request, Response};
    let hello = |_: Request| Response::text(200, "Hello");
    let options = BindOptions::expose(0).handler(hello);
    assert!(options.check().is_ok());
    let options = options.proxy_protocol(ProxyProtocol::V2);
    let refused = options.check().unwrap_err().to_string();
    assert!(refused.contains("X-Forwarded-For"), "{refused}");
}
