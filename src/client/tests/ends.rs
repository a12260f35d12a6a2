//! Losing sessions, coming back, and ending.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{CloseHow, Ended};

fn lose(world: &mut World, kit: &FakeKit) -> FakeKit {
    world.pass(6 * SECOND - Duration::from_nanos(1));
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    world.pass(Duration::ZERO);
    FakeKit::new()
}

/// A client with two bindings, kept alive for a while.
fn bound() -> (World, FakeKit) {
    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    bind(&mut world, &mut kit, 2, Service::TcpPull, 5432);
    world.events();
    for _ in 0..10 {
        world.pass(SECOND);
        kit.run(&mut world);
    }
    (world, kit)
}

#[test]
fn a_resumed_session_keeps_its_bindings_and_resets_its_streams() {
    let (mut world, mut kit) = bound();
    kit.open(&mut world, r#"{"kind":"tcp","bindId":2}"#);
    let local = world.accept();
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    assert_eq!(world.is_closed(local), Some(CloseHow::Reset));
    world.pass(Duration::ZERO);
    let mut kit = FakeKit::new();
    let ok = r#"{"sessionId":"S-1","resumed":true,"resumedBinds":[
        {"bindId":1,"kind":"http","mode":"expose","containerPort":3000},
        {"bindId":2,"kind":"tcp","mode":"pull","containerPort":5432},
        {"bindId":3,"kind":"tcp","mode":"pull","containerPort":1111}]}"#;
    let hello = come_online(&mut world, &mut kit, ok);
    assert!(hello.contains(r#""resume":{"sessionId":"S-1"}"#));
    assert!(world.events().contains(&SessionEvent::Resumed {
        session: "S-1…".into()
    }));
    assert!(kit.came(FrameType::Bind).is_empty());
    assert_eq!(
        kit.came(FrameType::Unbind),
        [r#"{"bindId":3}"#],
        "what nobody knows is given up"
    );
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let conn = world.accept();
    world.write(conn, b"HTTP/1.1 204 No\r\n\r\n");
    kit.run(&mut world);
    assert!(kit.seen(stream).eof);
}

#[test]
fn a_session_that_another_process_has_is_left_to_it() {
    let (mut world, kit) = bound();
    let mut kit = lose(&mut world, &kit);
    let conn = world.accept();
    let (_, hello) = kit.upgrade(&mut world, conn);
    assert!(hello.contains(r#""resume":{"sessionId":"S-1"}"#));
    world.events();
    kit.greet(&mut world, 0, FrameType::ShardMap, "{}");
    kit.session.lanes_mut().push_close(1008, "later");
    kit.run(&mut world);
    let told = world.events().into_iter().any(|event| match event {
        SessionEvent::Lost { why, .. } => why.contains("another process has this session"),
        _ => false,
    });
    assert!(told && !world.stopped);
    world.until_dialled();
    let mut kit = FakeKit::new();
    let ok = r#"{"sessionId":"S-2","resumed":false}"#;
    let hello = come_online(&mut world, &mut kit, ok);
    assert!(!hello.contains("resume\""), "{hello}");
    assert_eq!(kit.came(FrameType::Bind).len(), 2);
}

#[test]
fn a_fresh_session_gets_everything_bound_again_on_the_same_ports() {
    let (mut world, kit) = bound();
    let mut kit = lose(&mut world, &kit);
    come_online(
        &mut world,
        &mut kit,
        r#"{"sessionId":"S-2","resumed":false}"#,
    );
    let binds = kit.came(FrameType::Bind);
    assert!(binds[0].contains(r#""containerPort":3000"#));
    assert!(binds[1].contains(r#""containerPort":5432"#));
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 7, 3000));
    let again = world.events().into_iter().any(|event| match event {
        SessionEvent::Bound { binding, again } => again && binding.bind_id == 7,
        _ => false,
    });
    assert!(again);
    // Somebody else has the other one for a while.
    for seconds in [2, 4, 8, 16, 30, 30] {
        kit.control(
            &mut world,
            FrameType::BindErr,
            &bind_err(2, "ALREADY_BOUND"),
        );
        pass_with(&mut world, &mut kit, seconds * SECOND - MS);
        assert!(kit.came(FrameType::Bind).is_empty(), "not yet");
        pass_with(&mut world, &mut kit, MS);
        assert_eq!(kit.came(FrameType::Bind).len(), 1);
    }
    kit.control(&mut world, FrameType::BindOk, &bind_ok(2, 8, 5432));
    assert!(matches!(
        world.events().last(),
        Some(SessionEvent::Bound { again: true, .. })
    ));
}

#[test]
fn a_session_that_did_not_come_back_is_named_to_whoever_has_its_ports() {
    let (mut world, kit) = bound();
    let mut kit = lose(&mut world, &kit);
    let fresh = r#"{"sessionId":"S-2","resumed":false}"#;
    let hello = come_online(&mut world, &mut kit, fresh);
    assert!(hello.contains(r#""resume":{"sessionId":"S-1"}"#), "{hello}");
    for bind in kit.came(FrameType::Bind) {
        assert!(bind.contains(r#""replaces":"S-1""#), "{bind}");
    }
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, 3000));
    // Each time it is the one before, and after a resume there is none.
    let mut kit = lose(&mut world, &kit);
    let resumed = r#"{"sessionId":"S-2","resumed":true,"resumedBinds":[
        {"bindId":1,"kind":"http","mode":"expose","containerPort":3000}]}"#;
    come_online(&mut world, &mut kit, resumed);
    let binds = kit.came(FrameType::Bind);
    assert!(
        binds.len() == 1 && !binds[0].contains("replaces"),
        "{binds:?}"
    );
    let mut kit = lose(&mut world, &kit);
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-3"}"#);
    for bind in kit.came(FrameType::Bind) {
        assert!(bind.contains(r#""replaces":"S-2""#), "{bind}");
    }
    let (mut world, mut kit) = online(&options());
    order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 3000));
    let binds = kit.came(FrameType::Bind);
    assert!(!binds[0].contains("replaces"), "{binds:?}");
}

#[test]
fn an_id_of_the_session_before_names_nothing_in_a_fresh_one() {
    let (mut world, kit) = bound();
    let mut kit = lose(&mut world, &kit);
    let fresh = r#"{"sessionId":"S-2","resumed":false}"#;
    come_online(&mut world, &mut kit, fresh);
    // The first port has another owner now; the second gets the id that the first one had.
    let refused = bind_err(1, "ALREADY_BOUND");
    kit.control(&mut world, FrameType::BindErr, &refused);
    kit.control(&mut world, FrameType::BindOk, &bind_ok(2, 1, 5432));
    let mut kit = lose(&mut world, &kit);
    let resumed = r#"{"sessionId":"S-2","resumed":true,"resumedBinds":[
        {"bindId":1,"kind":"tcp","mode":"pull","containerPort":5432}]}"#;
    come_online(&mut world, &mut kit, resumed);
    let binds = kit.came(FrameType::Bind);
    assert_eq!(binds.len(), 1, "{binds:?}");
    assert!(binds[0].contains(r#""containerPort":3000"#), "{binds:?}");
    kit.open(&mut world, r#"{"kind":"tcp","bindId":1}"#);
    let local = world.accept();
    assert_eq!(world.is_closed(local), None, "the stream found its binding");
}

#[test]
fn a_binding_that_stays_refused_after_a_loss_is_told_once_and_costs_nothing_else() {
    let (mut world, kit) = bound();
    let mut kit = lose(&mut world, &kit);
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-2"}"#);
    kit.control(&mut world, FrameType::BindOk, &bind_ok(2, 1, 5432));
    let refused = bind_err(1, "RESERVED_PORT");
    world.events();
    for _ in 0..60 {
        kit.came(FrameType::Bind);
        kit.control(&mut world, FrameType::BindErr, &refused);
        while kit.came(FrameType::Bind).is_empty() {
            world.pass(SECOND);
            kit.run(&mut world);
        }
    }
    let events = world.events();
    let told = events.iter().filter(|event| match event {
        SessionEvent::NotBound { binding, .. } => binding.container_port == 3000,
        SessionEvent::Closed { .. } | SessionEvent::Lost { .. } => panic!("{event:?}"),
        _ => false,
    });
    assert_eq!(told.count(), 1);
    kit.open(&mut world, r#"{"kind":"tcp","bindId":1}"#);
    let local = world.accept();
    assert_eq!(world.is_closed(local), None, "the other one is served");
    // Whether it is given up or all is: nobody waits for an answer that does not come.
    kit.control(&mut world, FrameType::BindErr, &refused);
    world.answers();
    world.order(Order::Unbind { reference: 1 });
    let answers = world.answers();
    let is_ok = |answer: &Notice| {
        matches!(
            answer,
            Notice::Unbound {
                outcome: Ok(()),
                ..
            }
        )
    };
    assert!(answers.iter().any(is_ok), "{answers:?}");
    kit.run(&mut world);
    assert!(kit.came(FrameType::Unbind).is_empty());
}

#[test]
fn closing_does_not_wait_for_a_binding_that_is_refused() {
    let (mut world, kit) = bound();
    let mut kit = lose(&mut world, &kit);
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-2"}"#);
    for reference in [1, 2] {
        let refused = bind_err(reference, "ALREADY_BOUND");
        kit.control(&mut world, FrameType::BindErr, &refused);
    }
    world.order(Order::Close { at_once: false });
    kit.run(&mut world);
    assert_eq!(kit.came(FrameType::GoAway).len(), 1, "goodbye at once");
}

#[test]
fn a_port_that_the_kit_had_picked_is_replaced_when_it_is_gone() {
    let (mut world, mut kit) = online(&options());
    order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 0));
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, 23_456));
    let before = outcome(&mut world, 1).unwrap();
    let mut kit = lose(&mut world, &kit);
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-2"}"#);
    let bind = kit.came(FrameType::Bind);
    assert!(bind[0].contains(r#""containerPort":23456"#), "{bind:?}");
    let refused = bind_err(1, "ALREADY_BOUND");
    kit.control(&mut world, FrameType::BindErr, &refused);
    let bind = kit.came(FrameType::Bind);
    assert!(bind[0].contains(r#""containerPort":0"#), "{bind:?}");
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, 34_567));
    let Some(SessionEvent::Bound { binding, again }) = world.events().pop() else {
        panic!("it is not told");
    };
    assert!(again && before.is_same(&binding) && binding.container_port == 34_567);
}

#[test]
fn a_refused_first_bind_is_told_at_once() {
    let (mut world, mut kit) = online(&options());
    order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 3000));
    kit.control(&mut world, FrameType::BindErr, &bind_err(1, "PORT_IN_USE"));
    let error = outcome(&mut world, 1).unwrap_err();
    assert_eq!(error.kind(), "bind");
    assert!(error.to_string().contains("PORT_IN_USE"), "{error}");
    assert!(!world.stopped, "the session goes on");
}

#[test]
fn a_bind_before_the_session_stands_is_made_when_it_does() {
    let mut world = World::new(&options());
    let mut kit = FakeKit::new();
    world.pass(MS);
    order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 0));
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-1"}"#);
    assert_eq!(kit.came(FrameType::Bind).len(), 1);
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, 23_456));
    assert_eq!(outcome(&mut world, 1).unwrap().container_port, 23_456);
}

#[test]
fn an_earlier_processes_session_is_claimed_by_port() {
    let mut world = World::new(&options().resume_session_id("S-0"));
    let mut kit = FakeKit::new();
    world.pass(MS);
    let ok = r#"{"sessionId":"S-0","resumed":true,"resumedBinds":[
        {"bindId":4,"kind":"http","mode":"expose","containerPort":3000},
        {"bindId":5,"kind":"tcp","mode":"pull","containerPort":5432}]}"#;
    let hello = come_online(&mut world, &mut kit, ok);
    assert!(hello.contains("S-0"));
    order_bind(&mut world, &mut kit, 1, spec(Service::TcpPull, 5432));
    assert_eq!(outcome(&mut world, 1).unwrap().bind_id, 5);
    assert!(kit.came(FrameType::Bind).is_empty(), "it is ours already");
    order_bind(&mut world, &mut kit, 2, spec(Service::HttpExpose, 3000));
    assert!(kit.came(FrameType::Bind)[0].contains(r#""takeover":true"#));
}

#[test]
fn what_an_earlier_process_left_and_nobody_claims_is_given_back() {
    let mut world = World::new(&options().resume_session_id("S-0"));
    let mut kit = FakeKit::new();
    world.pass(MS);
    let ok = r#"{"sessionId":"S-0","resumed":true,"resumedBinds":[
        {"bindId":4,"kind":"tcp","mode":"pull","containerPort":3000},
        {"bindId":5,"kind":"tcp","mode":"pull","containerPort":5432}]}"#;
    come_online(&mut world, &mut kit, ok);
    pass_with(&mut world, &mut kit, 29 * SECOND);
    order_bind(&mut world, &mut kit, 1, spec(Service::TcpPull, 5432));
    assert_eq!(outcome(&mut world, 1).unwrap().bind_id, 5);
    assert!(kit.came(FrameType::Unbind).is_empty());
    pass_with(&mut world, &mut kit, SECOND);
    assert_eq!(kit.came(FrameType::Unbind), [r#"{"bindId":4}"#]);
    kit.control(&mut world, FrameType::UnbindOk, r#"{"bindId":4}"#);
    // Whoever comes for it now has it bound anew.
    order_bind(&mut world, &mut kit, 2, spec(Service::TcpPull, 3000));
    assert_eq!(kit.came(FrameType::Bind).len(), 1);
    // What came later is no less its user's own.
    pass_with(&mut world, &mut kit, 60 * SECOND);
    assert!(kit.came(FrameType::Unbind).is_empty());
}

#[test]
fn a_claimed_port_whose_address_the_kit_tells_is_not_bound_again_and_cuts_nobody() {
    for (said, expected) in [
        ("null", None),
        (r#""https://a""#, Some("https://a".to_owned())),
    ] {
        let mut world = World::new(&options().resume_session_id("S-0"));
        let mut kit = FakeKit::new();
        world.pass(MS);
        let ok = format!(
            r#"{{"sessionId":"S-0","resumed":true,"resumedBinds":[{{"bindId":4,"kind":"http",
            "mode":"expose","containerPort":3000,"publicUrl":{said}}}]}}"#
        );
        come_online(&mut world, &mut kit, &ok);
        order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 3000));
        let binding = outcome(&mut world, 1).unwrap();
        assert_eq!((binding.bind_id, binding.public_url), (4, expected));
        assert!(kit.came(FrameType::Bind).is_empty(), "it is ours already");
    }
}

#[test]
fn a_taken_over_binding_is_not_bound_again() {
    let (mut world, mut kit) = bound();
    let revoked = r#"{"bindId":1,"reason":"taken over"}"#;
    kit.control(&mut world, FrameType::BindRevoked, revoked);
    assert!(matches!(
        world.events().last(),
        Some(SessionEvent::TakenOver { .. })
    ));
    let mut kit = lose(&mut world, &kit);
    come_online(&mut world, &mut kit, r#"{"sessionId":"S-2"}"#);
    assert_eq!(kit.came(FrameType::Bind).len(), 1);
}

#[test]
fn closing_unbinds_waits_for_streams_and_says_goodbye() {
    let (mut world, mut kit) = bound();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let local = world.accept();
    world.order(Order::Close { at_once: false });
    kit.run(&mut world);
    assert_eq!(
        kit.came(FrameType::Unbind),
        [r#"{"bindId":1}"#, r#"{"bindId":2}"#]
    );
    kit.control(&mut world, FrameType::UnbindOk, r#"{"bindId":1}"#);
    kit.control(&mut world, FrameType::UnbindOk, r#"{"bindId":2}"#);
    assert!(kit.came(FrameType::GoAway).is_empty(), "a stream runs");
    world.write(local, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    kit.run(&mut world);
    let goaway = kit.came(FrameType::GoAway);
    assert!(goaway[0].contains(r#""code":0"#), "{goaway:?}");
    assert_eq!(kit.closed, Some(Some(1000)));
    assert!(kit.seen(stream).eof);
    assert!(!world.stopped, "the last words may still be on their way");
    world.fin(kit.conns[0].unwrap());
    assert!(world.stopped);
    assert_eq!(
        world.events().last(),
        Some(&SessionEvent::Closed { error: None })
    );
}

#[test]
fn a_stream_that_does_not_end_is_waited_for_five_seconds_or_until_asked_again() {
    for impatient in [false, true] {
        let (mut world, mut kit) = bound();
        let stream = kit.open(&mut world, &get("/"));
        kit.eof(&mut world, stream);
        let local = world.accept();
        world.order(Order::Close { at_once: false });
        match impatient {
            true => world.order(Order::Close { at_once: false }),
            false => {
                for _ in 0..5 {
                    kit.run(&mut world);
                    assert!(kit.came(FrameType::GoAway).is_empty());
                    world.pass(SECOND);
                }
            }
        }
        kit.run(&mut world);
        assert_eq!(kit.came(FrameType::GoAway).len(), 1);
        assert!(world.is_closed(local).is_some());
        world.pass(SECOND);
        assert!(world.stopped, "a kit that never closes is not waited for");
    }
}

#[test]
fn closing_while_offline_ends_at_once() {
    let mut world = World::new(&options());
    world.pass(MS);
    let mut kit = FakeKit::new();
    order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 3000));
    world.order(Order::Close { at_once: false });
    assert!(world.stopped);
    assert_eq!(outcome(&mut world, 1).unwrap_err().kind(), "closed");
}

#[test]
fn a_kit_that_goes_away_is_come_back_to() {
    let (mut world, mut kit) = bound();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let local = world.accept();
    let goaway = r#"{"code":0,"message":"shutting down"}"#;
    kit.control(&mut world, FrameType::GoAway, goaway);
    world.write(local, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    kit.run(&mut world);
    assert!(kit.seen(stream).eof, "what runs may finish");
    kit.session.lanes_mut().push_close(1000, "");
    kit.run(&mut world);
    let told = format!("{:?}", world.events());
    assert!(told.contains("shutting down"), "{told}");
    world.pass(SECOND);
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn a_kit_that_does_not_want_the_client_back_has_its_way() {
    for busy in [false, true] {
        let (mut world, mut kit) = bound();
        let local = busy.then(|| {
            let stream = kit.open(&mut world, &get("/"));
            kit.eof(&mut world, stream);
            world.accept()
        });
        let goaway = r#"{"code":7,"message":"closed by the operator","final":true,"graceMs":5000}"#;
        kit.control(&mut world, FrameType::GoAway, goaway);
        if let Some(local) = local {
            assert!(!world.stopped, "what runs may finish");
            world.write(local, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            kit.run(&mut world);
            assert!(kit.seen(0).eof);
            kit.session.lanes_mut().push_close(1000, "");
            kit.run(&mut world);
        }
        let Some(SessionEvent::Closed { error: Some(error) }) = world.events().pop() else {
            panic!("it goes on");
        };
        assert_eq!(error.kind(), "closed");
        assert!(
            error.to_string().contains("closed by the operator"),
            "{error}"
        );
        world.pass(60 * SECOND);
        assert!(world.stopped && world.dials.is_empty());
    }
}

#[test]
fn a_kit_that_restarts_is_dialled_at_once_and_only_once_so() {
    let restart = r#"{"code":0,"message":"restarting","final":false,"graceMs":5000}"#;
    let (mut world, mut kit) = bound();
    world.events();
    for round in 0..4 {
        kit.control(&mut world, FrameType::GoAway, restart);
        let lost = world.events().into_iter().find_map(|event| match event {
            SessionEvent::Lost { why, retry_in } => Some((why, retry_in)),
            _ => None,
        });
        let (why, retry_in) = lost.expect("it is told");
        assert!(why.contains("restarting"), "{why}");
        assert_eq!(retry_in.is_zero(), round == 0, "{retry_in:?}");
        assert!(retry_in <= SECOND, "{retry_in:?}");
        world.until_dialled();
        kit = FakeKit::new();
        come_online(&mut world, &mut kit, r#"{"sessionId":"S-9"}"#);
    }
}

#[test]
fn a_kit_that_breaks_the_protocol_is_told_so_and_left() {
    let (mut world, kit) = bound();
    let conn = kit.conns[0].unwrap();
    // A text message.
    world.write(conn, &[0x81, 1, b'x']);
    let mut kit = kit;
    kit.run(&mut world);
    let goaway = kit.came(FrameType::GoAway);
    assert!(goaway[0].contains(r#""code":1"#), "{goaway:?}");
    assert_eq!(kit.closed, Some(Some(1003)));
    assert!(!world.stopped);
    world.pass(SECOND);
    assert!(world.is_closed(conn).is_some());
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn an_unbind_is_answered_and_its_idle_connections_go() {
    let (mut world, mut kit) = bound();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let local = world.accept();
    world.write(local, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    kit.run(&mut world);
    world.order(Order::Unbind { reference: 1 });
    kit.run(&mut world);
    kit.control(&mut world, FrameType::UnbindOk, r#"{"bindId":1}"#);
    let answers = world.answers();
    assert!(matches!(
        answers.last(),
        Some(Notice::Unbound {
            outcome: Ok(()),
            ..
        })
    ));
    world.pass(MS);
    assert_eq!(world.is_closed(local), Some(CloseHow::Clean));
    world.order(Order::Unbind { reference: 99 });
    assert!(matches!(
        world.answers().last(),
        Some(Notice::Unbound {
            outcome: Err(_),
            ..
        })
    ));
}

#[test]
fn visitors_of_what_an_earlier_process_left_wait_until_it_is_claimed() {
    for claimed in [true, false] {
        let options = options().resume_session_id("S-1");
        let mut world = World::new(&options);
        let mut kit = FakeKit::new();
        world.pass(MS);
        let listed = r#"{"bindId":1,"kind":"http","mode":"expose","containerPort":3000,
            "publicUrl":null}"#;
        let ok = format!(r#"{{"sessionId":"S-1","resumed":true,"resumedBinds":[{listed}]}}"#);
        come_online(&mut world, &mut kit, &ok);
        let stream = kit.open(&mut world, &get("/"));
        kit.eof(&mut world, stream);
        world.pass(SECOND);
        kit.run(&mut world);
        assert!(kit.seen(stream).reset.is_none(), "it waits");
        if claimed {
            order_bind(&mut world, &mut kit, 1, spec(Service::HttpExpose, 3000));
            assert!(outcome(&mut world, 1).is_ok());
            let local = world.accept();
            assert!(world.text(local).starts_with("GET / "));
        } else {
            // Nobody claims it: others are not kept waiting for that.
            pass_with(&mut world, &mut kit, 2 * SECOND);
            assert!(kit.seen(stream).reset.is_some());
        }
    }
}
