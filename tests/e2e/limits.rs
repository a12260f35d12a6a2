//! Limits that nobody outside can exceed: sockets before HELLO, sessions, descriptors, floods.

use crate::support::client::{Hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan};
use crate::support::tunnel::*;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually};
use serde_json::json;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_socket_that_does_not_say_hello_is_closed() {
    let kit = Kit::with(&["--hello-timeout", "1s"]);
    let mut quiet = Tunnel::dial(&kit);
    loop {
        match quiet.hear(PATIENCE) {
            Heard::Close(..) | Heard::Gone => break,
            Heard::Silence => panic!("a silent socket was kept"),
            Heard::Frame(_) => {}
        }
    }
    let mut slow = Talk::port(kit.port);
    slow.say("GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: a\r\n");
    while slow.more() > 0 {}
    let mut mute = Talk::port(kit.port);
    while mute.more() > 0 {}
}

#[test]
fn sockets_that_have_not_said_hello_are_capped() {
    let kit = Kit::with(&["--max-pre-auth-connections", "4", "--hello-timeout", "60s"]);
    // Not this machine's own: those have a reserve.
    let how = Upgrade {
        protocols: Some("hoody-tunnel.v1"),
        fields: &[("x-forwarded-for", "192.0.2.1")],
    };
    let dial = || Tunnel::upgrade(&kit, &how).expect("a place");
    let waiting: Vec<Tunnel> = (0..4).map(|_| dial()).collect();
    assert_eq!(
        Tunnel::upgrade(&kit, &how).err().map(|refusal| refusal.0),
        Some(503)
    );
    drop(waiting);
    eventually("there is room again", PATIENCE, || {
        Tunnel::upgrade(&kit, &how).ok()
    });
    assert!(Tunnel::open(&kit).alive());
}

#[test]
fn at_the_cap_silent_connections_make_room_for_newcomers_who_speak() {
    let kit = Kit::with(&["--max-pre-auth-connections", "4", "--hello-timeout", "60s"]);
    let mut tunnel = Tunnel::open(&kit);
    let mut silent: Vec<Tunnel> = (0..12).map(|_| Tunnel::dial(&kit)).collect();
    // Eight more than may be, for they come from this machine. Behind one address only those go
    // that had a second to speak.
    std::thread::sleep(Duration::from_millis(1200));
    for _ in 0..3 {
        assert_eq!(kit.json("sessions")["total"], 1);
    }
    let second = Tunnel::open(&kit);
    assert!(second.id().starts_with("S-") && tunnel.alive());
    let end = silent[0].hear(PATIENCE);
    assert!(
        matches!(end, Heard::Gone | Heard::Close(..)),
        "the oldest: {end:?}"
    );
}

#[test]
fn sessions_are_capped_and_one_that_ends_makes_room() {
    let kit = Kit::with(&["--max-sessions", "2"]);
    let one = Tunnel::open(&kit);
    let mut two = Tunnel::open(&kit);
    let mut three = Tunnel::dial(&kit);
    three.say_hello(json!({}));
    let message = three.expect_goaway(RESOURCE_EXHAUSTED, 1013);
    assert!(message.contains("session limit"), "{message}");
    assert!(two.alive());
    one.close(1000);
    kit.has_sessions(1);
    assert!(Tunnel::open(&kit).alive());
}

#[test]
fn a_parked_session_keeps_its_place_for_the_grace_and_the_refusal_says_so() {
    let kit = Kit::with(&["--max-sessions", "1", "--takeover-grace", "8s"]);
    let mut gone = Tunnel::open(&kit);
    gone.expose(0);
    gone.vanish(true);
    kit.has_parked(1);
    let mut newcomer = Tunnel::dial(&kit);
    newcomer.say_hello(json!({}));
    let message = newcomer.expect_goaway(RESOURCE_EXHAUSTED, 1013);
    assert_eq!(message, "session limit of 1 reached, 1 of them parked");
    kit.has_sessions(0);
    assert!(Tunnel::open(&kit).alive());
}

#[test]
fn one_address_gets_its_share_of_a_sessions_streams_and_others_find_some() {
    let kit = Kit::with(&["--max-streams-per-session", "16"]);
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let greedy: Vec<_> = (0..14).map(|_| owner.visited(port)).collect();
    let reply = Talk::port(port).get("/");
    let retry = reply.field("retry-after");
    assert_eq!((reply.status, retry.as_deref()), (503, Some("1")));
    for visitor in ["192.0.2.1", "192.0.2.2"] {
        let mut other = Talk::port(port);
        let from = format!("X-Forwarded-For: {visitor}\r\n");
        other.say(format!("GET / HTTP/1.1\r\nHost: a\r\n{from}\r\n"));
        let open = owner.expect(STREAM_OPEN);
        owner.respond(open.stream, 200, b"served");
        assert_eq!(other.reply(false).text(), "served");
    }
    drop(greedy);
}

#[test]
fn floods_end_the_session_and_never_the_kit() {
    let kit = Kit::start();
    let mut witness = Tunnel::open(&kit);
    for (what, message) in [
        ("PING", frame(PING, 0, b"12345678").repeat(64)),
        (
            "WINDOW for a stream that is over",
            frame(WINDOW, 2, &[0, 0, 0, 1]).repeat(64),
        ),
        ("empty DATA", frame(DATA, 2, b"").repeat(64)),
        ("RESET", frame(RESET, 2, &[0, 7]).repeat(64)),
    ] {
        let mut flood = Tunnel::open(&kit);
        let (_, port) = flood.expose(0);
        let (_talk, stream) = flood.visited(port);
        assert_eq!(stream, 2);
        for _ in 0..4000 {
            flood.message(message.clone());
        }
        let mut code = None;
        loop {
            match flood.hear(PATIENCE) {
                Heard::Frame(frame) if frame.kind == GOAWAY => code = frame.json()["code"].as_u64(),
                Heard::Frame(_) => {}
                Heard::Silence => panic!("a flood of {what} was not ended"),
                // The kit may close while our own flood is still under way, and then the reset
                // that answers it can overtake the GOAWAY.
                Heard::Close(..) | Heard::Gone => break,
            }
        }
        assert!(
            code.is_none_or(|code| code == u64::from(ENHANCE_YOUR_CALM)),
            "{what}: {code:?}"
        );
        assert!(witness.alive(), "{what}");
    }
    let floods = "hoody_tunnel_protocol_violations_total";
    kit.counts(floods, "ENHANCE_YOUR_CALM", 4);
}

#[test]
fn two_windows_for_each_data_frame_are_no_flood() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.pull(0);
    let (mut caller, stream) = owner.called(port);
    let writer = caller.stream.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        let mut writer = writer;
        // Small pieces make the most frames.
        for _ in 0..60_000 {
            writer.write_all(&[1; 100]).expect("the kit reads");
        }
    });
    let mut got = 0;
    while got < 6_000_000 {
        let data = owner.expect(DATA);
        let size = data.payload.len() as u32;
        got += size;
        owner.frame(WINDOW, stream, &size.to_be_bytes());
        owner.frame(WINDOW, 0, &size.to_be_bytes());
    }
    sending.join().expect("all was sent");
    assert!(owner.alive());
    caller.finish();
}

#[test]
fn sixty_four_descriptors_and_five_hundred_visitors() {
    let upstream = Upstream::start(|exchange| {
        std::thread::sleep(Duration::from_millis(20));
        exchange.answer(200, "", b"served");
        true
    });
    let kit = KitPlan::new().open_files(64).start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let port = hoody.port();
    let home = kit.permits();
    let visitors: Vec<_> = (0..500)
        .map(|_| {
            std::thread::spawn(move || {
                let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
                let mut talk = Talk::over(stream);
                talk.stream
                    .set_read_timeout(Some(Duration::from_secs(60)))
                    .ok()?;
                talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                let reply = talk.try_reply(false)?;
                // The connection is held for a while, so that descriptors do run out.
                std::thread::sleep(Duration::from_millis(50));
                Some((reply.status, reply.field("retry-after")))
            })
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(
            kit.admin("GET", "health").status,
            200,
            "admin answers meanwhile"
        );
        assert_eq!(kit.admin("GET", "sessions").status, 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    let answers: Vec<_> = visitors
        .into_iter()
        .map(|one| one.join().expect("none hangs"))
        .collect();
    let served = answers
        .iter()
        .filter(|one| matches!(one, Some((200, _))))
        .count();
    let busy = answers
        .iter()
        .flatten()
        .filter(|(status, _)| *status == 503)
        .count();
    println!(
        "500 visitors, 64 descriptors: {served} served, {busy} told 503, {} closed",
        500 - served - busy
    );
    assert!(served > 0, "some are served");
    for (status, retry) in answers.iter().flatten() {
        assert!(
            *status == 200 || (*status == 503 && retry.as_deref() == Some("1")),
            "{status}"
        );
    }
    kit.all_permits_are_home(home);
    eventually("visitors are served again", PATIENCE, || {
        let reply = Talk::port(port).get("/");
        (reply.text() == "served").then_some(())
    });
}

#[test]
fn a_half_closed_stream_on_which_nothing_moves_does_not_live_for_ever() {
    let kit = Kit::with(&["--half-close-timeout", "3s"]);
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.pull(0);
    let (mut caller, stream) = owner.called(port);
    caller.finish();
    owner.expect_on(EOF, stream);
    // For longer than the time, and never for as long as it, also if each nap takes twice as long.
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(600));
        owner.frame(DATA, stream, b"tick");
    }
    assert_eq!(caller.take(32), b"tick".repeat(8), "what moves lives on");
    assert_eq!(owner.expect_on(RESET, stream).code(), IDLE_TIMEOUT);
    assert!(caller.at_end());
    kit.settles("hoody_tunnel_streams_active", 0);
}

#[test]
fn a_laptop_of_sixty_four_descriptors_serves_all_who_come_back_when_it_says_so() {
    let upstream = Upstream::start(|exchange| {
        std::thread::sleep(Duration::from_millis(300));
        exchange.answer(200, "", b"served");
        true
    });
    let kit = Kit::start();
    let target = upstream.port().to_string();
    let flags = ["--container-port", "0", "--connections", "8", "--json"];
    let plain = hoody_at(&kit, &[&["expose", &target], &flags[..]].concat());
    let mut command = Command::new("prlimit");
    command.arg("--nofile=64").arg(plain.get_program());
    command.args(plain.get_args());
    for (name, _) in plain.get_envs() {
        command.env_remove(name);
    }
    let hoody = Hoody::from_command(&mut command, 1);
    let port = hoody.port();
    let visitors: Vec<_> = (0..100)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let reply = Talk::port(port).get("/");
                    if reply.status == 200 {
                        return true;
                    }
                    assert_eq!(reply.status, 503);
                    assert_eq!(reply.field("retry-after").as_deref(), Some("1"));
                    std::thread::sleep(Duration::from_secs(1));
                }
                false
            })
        })
        .collect();
    for visitor in visitors {
        assert!(visitor.join().expect("a reply"), "it is served in the end");
    }
}
