//! A kit that restarts while streams run: they finish where they are, and an heir goes on.

use super::*;
use crate::client::SessionEvent;
use crate::client::config::Config;
use crate::client::heir::Heir;
use crate::client::machine::Client;
use crate::entropy::Entropy;
use crate::lawful::Lawful;

const RESTART: &str = r#"{"code":0,"message":"restarting","final":false,"graceMs":30000}"#;

fn world_of(client: Client) -> World {
    let mut world = World::new(&options());
    world.client = Lawful::new(client, world.now);
    world.pass(MS);
    world
}

/// A client whose host runs heirs, with a binding and a stream that is being answered, and its
/// upstream.
fn serving() -> (World, FakeKit, usize, crate::machine::ConnKey) {
    let config = Config::with_env(&options(), |_| None).unwrap();
    let now = crate::clock::Instant::from_nanos(1);
    let client = Client::with_config(config, Entropy::from_seed(7), now).with_heirs();
    let mut world = world_of(client);
    let mut kit = FakeKit::new();
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-1"}"#);
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let local = world.accept();
    world.write(local, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234");
    kit.run(&mut world);
    (world, kit, stream, local)
}

fn told_heir(world: &mut World) -> Option<Heir> {
    world.answers().into_iter().find_map(|notice| match notice {
        Notice::Heir(heir) => Some(*heir),
        _ => None,
    })
}

#[test]
fn streams_finish_beside_an_heir_that_has_the_session_at_once() {
    let (mut world, mut kit, stream, local) = serving();
    world.events();
    kit.control(&mut world, FrameType::GoAway, RESTART);
    let heir = told_heir(&mut world).expect("an heir is asked for");
    assert!(matches!(
        world.events()[..],
        [SessionEvent::Lost { retry_in, .. }] if retry_in.is_zero()
    ));

    let now = crate::clock::Instant::from_nanos(1);
    let mut next = world_of(Client::heir(heir, Entropy::from_seed(8), now));
    let mut new_kit = FakeKit::new();
    let listed = r#"{"bindId":1,"kind":"http","mode":"expose","containerPort":3000}"#;
    let ok = format!(r#"{{"sessionId":"S-1","resumed":true,"resumedBinds":[{listed}]}}"#);
    let hello = come_online(&mut next, &mut new_kit, &ok);
    assert!(hello.contains(r#""resume":{"sessionId":"S-1""#), "{hello}");
    let resumed = |event: &SessionEvent| matches!(event, SessionEvent::Resumed { .. });
    assert!(next.events().iter().any(resumed));
    assert!(new_kit.came(FrameType::Bind).is_empty(), "it stands");
    let other = new_kit.open(&mut next, &get("/new"));
    new_kit.eof(&mut next, other);
    let beside = next.accept();
    assert!(next.text(beside).starts_with("GET /new "));

    // What is asked of the one before is the heir's business.
    let spec = Box::new(Spec(spec(Service::HttpExpose, 0)));
    world.order(Order::Bind { reference: 2, spec });
    world.order(Order::Unbind { reference: 1 });
    let passed = |notice: &Notice| matches!(notice, Notice::Passed(_));
    assert_eq!(world.answers().iter().filter(|it| passed(it)).count(), 2);

    // Far longer than a client would wait that has nobody to go on for it.
    pass_with(&mut world, &mut kit, 29 * SECOND);
    assert!(!world.stopped && world.dials.is_empty());
    world.write(local, b"56789");
    kit.run(&mut world);
    assert_eq!(kit.seen(stream).data, b"0123456789");
    pass_with(&mut world, &mut kit, SECOND);
    assert!(world.stopped && world.dials.is_empty());
    let closed = |event: &SessionEvent| matches!(event, SessionEvent::Closed { .. });
    assert!(!world.events().iter().any(closed), "the session goes on");
}

#[test]
fn a_kit_that_does_not_end_is_not_waited_for_longer_than_it_said() {
    let (mut world, mut kit, ..) = serving();
    kit.control(&mut world, FrameType::GoAway, RESTART);
    pass_with(&mut world, &mut kit, 40 * SECOND);
    assert!(world.stopped);
}

#[test]
fn where_no_heir_can_begin_the_client_comes_back_itself() {
    let (mut world, mut kit, stream, local) = serving();
    kit.control(&mut world, FrameType::GoAway, RESTART);
    let heir = told_heir(&mut world).expect("an heir is asked for");
    world.order(Order::Stay(Box::new(heir)));
    world.write(local, b"56789");
    kit.run(&mut world);
    assert_eq!(kit.seen(stream).data, b"0123456789");
    let conn = kit.conns[0].unwrap();
    world.fin(conn);
    world.pass(SECOND);
    let mut kit = FakeKit::new();
    let hello = come_online(&mut world, &mut kit, r#"{"sessionId":"S-2"}"#);
    assert!(hello.contains("S-1"), "{hello}");
    assert_eq!(kit.came(FrameType::Bind).len(), 1, "it is bound again");
}

#[test]
fn who_closes_ends_what_is_left_behind_too() {
    for at_once in [false, true] {
        let (mut world, mut kit, ..) = serving();
        kit.control(&mut world, FrameType::GoAway, RESTART);
        world.order(Order::Close { at_once });
        pass_with(&mut world, &mut kit, SECOND);
        assert_eq!(world.stopped, at_once, "streams have a moment");
        world.order(Order::Close { at_once: false });
        pass_with(&mut world, &mut kit, SECOND);
        assert!(world.stopped, "asked again it goes at once");
    }
}

#[test]
fn a_client_that_is_idle_or_alone_or_is_killed_has_no_heir() {
    let (mut world, mut kit, ..) = serving();
    let kill = r#"{"code":7,"message":"closed","final":true,"graceMs":5000}"#;
    kit.control(&mut world, FrameType::GoAway, kill);
    assert!(told_heir(&mut world).is_none());

    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    kit.control(&mut world, FrameType::GoAway, RESTART);
    assert!(told_heir(&mut world).is_none(), "its host runs none");
    assert!(world.dials.len() == 1, "only the upstream is dialled");
}
