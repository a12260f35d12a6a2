//! Reaching a kit: what is retried, what is final, what is watched.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{Ended, Event};

fn closed(world: &mut World) -> Option<Error> {
    world.events().into_iter().find_map(|event| match event {
        SessionEvent::Closed { error } => error,
        _ => None,
    })
}

#[test]
fn a_kit_that_is_not_there_yet_is_waited_for() {
    let mut world = World::new(&options());
    for attempt in 1..=9 {
        world.until_dialled();
        assert_eq!(
            world.events().last(),
            Some(&SessionEvent::Connecting { attempt })
        );
        world.refuse();
        let Some(SessionEvent::Lost { why, retry_in }) = world.events().pop() else {
            panic!("nothing was lost");
        };
        assert!(why.contains("Connection refused") && retry_in <= 10 * SECOND);
    }
    assert!(!world.stopped);
}

#[test]
fn a_dial_or_a_step_that_takes_too_long_is_given_up() {
    let mut world = World::new(&options());
    world.pass(MS);
    let (conn, _) = world.dialled();
    world.pass(6 * SECOND);
    assert!(world.is_closed(conn).is_some());
    world.pass(SECOND);
    let conn = world.accept();
    world.pass(11 * SECOND);
    assert!(world.is_closed(conn).is_some());
    let told = format!("{:?}", world.events());
    assert!(told.contains("while connecting") && told.contains("waiting for the kit's answer"));
}

#[test]
fn a_way_that_falls_silent_under_a_session_to_come_back_to_is_left_sooner_at_first() {
    let (mut world, kit) = online(&options());
    world.pass(2 * SECOND);
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    for (round, seconds) in [5, 5, 10, 10].into_iter().enumerate() {
        world.until_dialled();
        let conn = world.accept();
        if round % 2 == 1 {
            FakeKit::new().upgrade(&mut world, conn);
        }
        world.pass(seconds * SECOND - MS);
        assert_eq!(world.is_closed(conn), None, "{round}");
        world.pass(MS);
        assert!(world.is_closed(conn).is_some(), "{round}");
    }
}

#[test]
fn a_wrong_token_ends_it_however_the_kit_says_so() {
    for way in ["401", "goaway", "1008"] {
        let mut world = World::new(&options().token("wrong"));
        let mut kit = FakeKit::new();
        world.pass(MS);
        let conn = world.accept();
        if way == "401" {
            assert!(world.text(conn).contains("Authorization: Bearer wrong\r\n"));
            world.write(conn, b"HTTP/1.1 401 No\r\ncontent-length: 6\r\n\r\nnot u\n");
        } else {
            let (_, hello) = kit.upgrade(&mut world, conn);
            assert!(hello.contains(r#""auth":{"kind":"bearer","token":"wrong"}"#));
            match way {
                "goaway" => {
                    let json = r#"{"code":11,"message":"wrong token"}"#;
                    kit.greet(&mut world, 0, FrameType::GoAway, json);
                }
                _ => {
                    kit.greet(&mut world, 0, FrameType::ShardMap, "{}");
                    kit.session.lanes_mut().push_close(1008, "no");
                    kit.run(&mut world);
                }
            }
        }
        let error = closed(&mut world).expect("it went on");
        assert_eq!(error.kind(), "auth", "{way}");
        assert!(!error.to_string().contains("wrong\""), "{way}: {error}");
        assert!(world.stopped);
    }
}

#[test]
fn a_refusal_is_final_at_first_and_waited_out_later() {
    let refused = b"HTTP/1.1 404 No\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nnope";
    let mut world = World::new(&options());
    world.pass(MS);
    let conn = world.accept();
    world.write(conn, refused);
    let error = closed(&mut world).expect("it went on");
    assert!(error.to_string().contains("nope") && error.to_string().contains("404"));

    let (mut world, kit) = online(&options());
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    world.pass(SECOND);
    let conn = world.accept();
    world.write(conn, refused);
    assert!(closed(&mut world).is_none() && !world.stopped);
}

#[test]
fn the_session_limit_is_final_at_first_only() {
    let full = r#"{"code":14,"message":"session limit reached"}"#;
    let mut world = World::new(&options());
    let mut kit = FakeKit::new();
    world.pass(MS);
    let conn = world.accept();
    kit.upgrade(&mut world, conn);
    kit.greet(&mut world, 0, FrameType::GoAway, full);
    assert_eq!(
        closed(&mut world).map(|error| error.kind()),
        Some("session-limit")
    );

    let (mut world, kit) = online(&options());
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    world.pass(SECOND);
    let conn = world.accept();
    let mut kit = FakeKit::new();
    kit.upgrade(&mut world, conn);
    kit.greet(&mut world, 0, FrameType::GoAway, full);
    assert!(!world.stopped);
    world.until_dialled();
}

#[test]
fn a_silent_kit_is_asked_and_given_up_within_five_seconds() {
    let (mut world, mut kit) = online(&options());
    let first = kit.conns[0].unwrap();
    for _ in 0..20 {
        world.pass(SECOND);
        kit.run(&mut world);
    }
    assert_eq!(world.is_closed(first), None, "a kit that answers stays");
    world.take(first);
    world.pass(5 * SECOND + 10 * MS);
    assert!(world.is_closed(first).is_some(), "silence was not noticed");
    let events = format!("{:?}", world.events());
    assert!(events.contains("went silent"), "{events}");
    assert_eq!(
        world.dials.len(),
        1,
        "a stable session is dialled again at once"
    );
}

#[test]
fn a_kit_that_is_always_heard_hears_of_the_client_as_promised() {
    for (keepalive, promised) in [(100, 500), (2000, 2000), (7000, 7000)] {
        let mut world = World::new(&options().keepalive(keepalive * MS));
        let mut kit = FakeKit::new();
        world.pass(MS);
        let hello = come_online(&mut world, &mut kit, r#"{"sessionId":"S-1"}"#);
        let promise = format!(r#""pingEveryMs":{promised}"#);
        assert!(hello.contains(&promise), "{hello}");
        let lane = kit.conns[0].unwrap();
        let (mut quiet, mut said) = (0, 0);
        for _ in 0..300 {
            world.pass(100 * MS);
            quiet += 100;
            if !world.take(lane).is_empty() {
                (quiet, said) = (0, said + 1);
            }
            assert!(quiet <= promised, "silent for {quiet} ms");
            kit.control(&mut world, FrameType::ShardMap, "{}");
        }
        assert!(said <= 30_000 / keepalive + 1, "it says too much: {said}");
        assert_eq!(world.is_closed(lane), None);
    }
    let mut world = World::new(&options().keepalive(31 * SECOND));
    let mut kit = FakeKit::new();
    world.pass(MS);
    let hello = come_online(&mut world, &mut kit, r#"{"sessionId":"S-1"}"#);
    assert!(
        !hello.contains("pingEveryMs"),
        "nothing is promised: {hello}"
    );
}

#[test]
fn an_old_kit_that_sends_no_optional_key_is_understood() {
    let (mut world, mut kit) = online(&options().connections(4));
    assert!(matches!(
        world.events().last(),
        Some(SessionEvent::Online { connections: 1, .. })
    ));
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
}

#[test]
fn a_changed_network_is_probed_at_once() {
    let (mut world, mut kit) = online(&options());
    let conn = kit.conns[0].unwrap();
    world.pass(10 * MS);
    world.tell(Event::Disturbed);
    world.pass(10 * MS);
    kit.run(&mut world);
    world.pass(3 * SECOND);
    assert_eq!(world.is_closed(conn), None, "it answered");
    kit.run(&mut world);
    world.pass(10 * MS);
    world.tell(Event::Disturbed);
    world.pass(1300 * MS);
    assert!(world.is_closed(conn).is_some(), "it did not answer");
    // While it waits, a change has it dial at once.
    world.refuse();
    assert!(world.dials.is_empty());
    world.tell(Event::Disturbed);
    world.pass(Duration::ZERO);
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn what_had_come_before_the_network_changed_is_no_sign_of_life() {
    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::TcpPull, 5432);
    let conn = kit.conns[0].unwrap();
    world.pass(10 * MS);
    world.tell(Event::Disturbed);
    kit.says_only(&mut world, FrameType::ShardMap, "{}");
    world.pass(1300 * MS);
    assert!(world.is_closed(conn).is_some(), "it did not answer");
}

#[test]
fn a_full_socket_that_moves_again_is_alive() {
    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::TcpPull, 5432);
    let open = r#"{"kind":"tcp","bindId":1}"#;
    kit.open(&mut world, open);
    let local = world.accept();
    let lane = kit.conns[0].unwrap();
    for _ in 0..20 {
        world.wires.get_mut(&lane).unwrap().full = true;
        world.write(local, &[7; 20_000]);
        world.pass(1900 * MS);
        world.unblock(lane);
    }
    assert_eq!(
        world.is_closed(lane),
        None,
        "a slow way out was taken for a dead one"
    );
}

#[test]
fn tls_is_asked_for_with_the_kits_name_and_distrust_is_final() {
    let mut world = World::new(&TunnelOptions::new("wss://kit.example"));
    world.pass(MS);
    let conn = world.accept();
    assert_eq!(world.wires[&conn].secured.as_deref(), Some("kit.example"));
    assert!(
        world.take(conn).is_empty(),
        "nothing is said before TLS stands"
    );
    let mut why = world::failure("TLS: invalid peer certificate: UnknownIssuer");
    why.kind = std::io::ErrorKind::InvalidData;
    world.end(conn, Ended::Failed(why));
    assert_eq!(closed(&mut world).map(|error| error.kind()), Some("tls"));
}

/// A plain URL whose connections end without a byte, `tls` being what becomes of TLS there: how
/// often it was asked for, and why it ended, if it did.
fn mute(url: &str, reset: bool, tls: Option<&str>) -> (usize, Option<Error>) {
    let options = TunnelOptions::new(url).proxy(crate::client::Proxy::None);
    let mut world = World::new(&options.token("s3cret"));
    let mut asked = 0;
    for _ in 0..20 {
        world.run();
        if world.stopped {
            break;
        }
        world.until_dialled();
        let conn = world.accept();
        let said = world.text(conn);
        match (&world.wires[&conn].secured, tls) {
            (None, _) => assert!(said.starts_with("GET ")),
            (Some(name), _) => {
                assert_eq!((name.as_str(), said.as_str()), ("kit.example", ""));
                asked += 1;
                match tls {
                    None => world.tell(Event::Secured { conn }),
                    Some(why) => world.end(conn, Ended::Failed(world::failure(why))),
                }
                assert_eq!(world.text(conn), "", "no secret before TLS was wanted");
                continue;
            }
        }
        match reset {
            true => world.end(conn, Ended::Reset),
            false => world.fin(conn),
        }
    }
    (asked, closed(&mut world))
}

#[test]
fn a_plain_url_that_leads_to_tls_ends_at_once_also_where_not_a_byte_is_said() {
    for reset in [true, false] {
        for tls in [
            None,
            Some("TLS: invalid peer certificate: UnknownIssuer"),
            Some("TLS: received fatal alert: UnrecognisedName"),
        ] {
            let (asked, error) = mute("ws://kit.example", reset, tls);
            assert_eq!(asked, 1);
            let error = error.expect("it ended").to_string();
            assert!(error.contains("begins with wss://"), "{error}");
        }
        // A forwarder before the kit is there closes, too, and is waited for.
        for tls in [
            "TLS: the answer is no TLS, as of a plain server",
            "unexpected end of file",
        ] {
            let (asked, error) = mute("ws://kit.example", reset, Some(tls));
            assert_eq!(error, None);
            assert!((2..=4).contains(&asked), "it is asked now and then");
        }
    }
}

#[test]
fn retry_for_ends_it() {
    let mut world = World::new(&options().retry_for(Some(3 * SECOND)));
    for _ in 0..20 {
        world.pass(500 * MS);
        if !world.dials.is_empty() {
            world.refuse();
        }
    }
    assert!(world.stopped);
    assert_eq!(closed(&mut world).map(|error| error.kind()), Some("io"));
}
