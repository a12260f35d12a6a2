//! Sessions that outlive their sockets: parking, resume, takeover, liveness and ends.

use crate::support::client::Hoody;
use crate::support::cutter::{Cut, Cutter};
use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan};
use crate::support::tunnel::*;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually, free_port};
use serde_json::json;
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[track_caller]
fn park(kit: &Kit, tunnel: Tunnel, with_reset: bool) {
    tunnel.vanish(with_reset);
    kit.has_parked(1);
}

#[test]
fn a_parked_session_keeps_its_ports_and_comes_back_whole() {
    let kit = Kit::start();
    for with_reset in [false, true] {
        let mut owner = Tunnel::open(&kit);
        let (web, port) = owner.expose(0);
        let (db, pull_port) = owner.pull(0);
        let id = owner.id();
        park(&kit, owner, with_reset);
        let away = Talk::port(port).get("/");
        assert_eq!(
            (away.status, away.field("retry-after").as_deref()),
            (503, Some("5"))
        );
        let mut caller = TcpStream::connect(("127.0.0.1", pull_port)).expect("it still listens");
        caller
            .set_read_timeout(Some(PATIENCE))
            .expect("a TCP socket");
        assert!(
            !caller.read(&mut [0; 1]).is_ok_and(|count| count > 0),
            "closed at once"
        );
        let mut other = Tunnel::open(&kit);
        let bind = json!({ "kind": "http", "mode": "expose", "containerPort": port });
        assert_eq!(other.bind(bind).json()["code"], "ALREADY_BOUND");
        other.close(1000);
        let mut back = Tunnel::resume(&kit, &id);
        assert_eq!(
            (back.hello["resumed"].as_bool(), back.id()),
            (Some(true), id)
        );
        assert_eq!(
            back.hello["resumedBinds"],
            json!([
                { "bindId": web, "kind": "http", "mode": "expose", "containerPort": port,
                  "publicUrl": null },
                { "bindId": db, "kind": "tcp", "mode": "pull", "containerPort": pull_port,
                  "publicUrl": null },
            ])
        );
        let mut talk = Talk::port(port);
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let open = back.expect(STREAM_OPEN);
        assert_eq!(open.json()["bindId"].as_u64(), Some(web));
        back.respond(open.stream, 200, b"back");
        assert_eq!(talk.reply(false).text(), "back");
        let (next, _) = back.expose(0);
        assert!(next > db, "ids go on");
        back.close(1000);
        eventually("the port is free", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).err()
        });
        kit.has_parked(0);
    }
}

#[test]
fn a_client_that_names_its_parked_session_gets_the_ports_and_nobody_else_does() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, web) = owner.expose(0);
    let (_, db) = owner.pull(0);
    let id = owner.id();
    let mut other = Tunnel::open(&kit);
    let expose = |replaces: &str| json!({ "kind": "http", "mode": "expose", "containerPort": web, "replaces": replaces });
    let pull = |replaces: &str, host: &str| {
        json!({ "kind": "tcp", "mode": "pull", "containerPort": db, "host": host,
                "replaces": replaces })
    };
    let code = |other: &mut Tunnel, bind| other.bind(bind).json()["code"].clone();
    // A live session keeps what it has.
    assert_eq!(code(&mut other, expose(&id)), "ALREADY_BOUND");
    assert_eq!(code(&mut other, pull(&id, "127.0.0.1")), "ALREADY_BOUND");
    assert!(owner.alive());
    park(&kit, owner, true);
    let mut longer = id.clone();
    longer.push('0');
    let own = other.id();
    for wrong in [
        "",
        "S-",
        &id[..id.len() - 1],
        &longer,
        &id.to_uppercase(),
        &own,
    ] {
        assert_eq!(code(&mut other, expose(wrong)), "ALREADY_BOUND", "{wrong}");
        assert_eq!(code(&mut other, pull(wrong, "127.0.0.1")), "ALREADY_BOUND");
    }
    // The socket moves as it is.
    assert_eq!(code(&mut other, pull(&id, "::1")), "ALREADY_BOUND");
    kit.has_parked(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for port in [web, db] {
                    TcpStream::connect(("127.0.0.1", port)).expect("never refused");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        assert_eq!(other.bound(expose(&id)).1, web);
        kit.has_parked(1);
        assert_eq!(other.bound(pull(&id, "127.0.0.1")).1, db);
        done.store(true, Ordering::Relaxed);
    });
    // It has nothing left to come back for.
    kit.has_parked(0);
    assert_eq!(Tunnel::resume(&kit, &id).hello["resumed"], false);
    let mut late = Tunnel::open(&kit);
    assert_eq!(code(&mut late, expose(&id)), "ALREADY_BOUND");
    assert_eq!(code(&mut late, expose(&own)), "ALREADY_BOUND", "it is live");
    let mut caller = TcpStream::connect(("127.0.0.1", db)).expect("it listens");
    let from = caller.local_addr().expect("a socket").to_string();
    let open = loop {
        let open = other.expect(STREAM_OPEN);
        if open.json()["remoteAddr"] == from {
            break open;
        }
    };
    other.frame(DATA, open.stream, b"hello");
    let mut hello = [0; 5];
    caller.set_read_timeout(Some(PATIENCE)).expect("a socket");
    caller.read_exact(&mut hello).expect("it is carried");
    assert_eq!(&hello, b"hello");
    kit.settles("hoody_tunnel_takeovers_total", 2);
}

#[test]
fn requests_in_flight_end_when_their_socket_drops() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let mut talk = Talk::port(port);
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    owner.expect(STREAM_OPEN);
    owner.vanish(true);
    let reply = talk.reply(false);
    assert!(matches!(reply.status, 502 | 503), "{}", reply.status);
}

#[test]
fn a_session_the_kit_believes_alive_is_moved_at_once() {
    // No silence is noticed while this test has patience: nothing that waits for one passes.
    let kit = Kit::with(&["--ping-after", "1h", "--pong-timeout", "1h"]);
    let mut old = Tunnel::open(&kit);
    let (_, port) = old.expose(0);
    let mut new = Tunnel::resume(&kit, &old.id());
    assert_eq!(new.hello["resumed"], true);
    assert!(!old.alive(), "its old socket is closed");
    let mut talk = Talk::port(port);
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let open = new.expect(STREAM_OPEN);
    new.respond(open.stream, 200, b"moved");
    assert_eq!(talk.reply(false).text(), "moved");
    kit.has_sessions(1);
}

#[test]
fn ends_that_were_meant_do_not_park() {
    let kit = Kit::start();
    let mut ids = Vec::new();
    for end in ["close 1000", "close without a code", "GOAWAY"] {
        let mut owner = Tunnel::open(&kit);
        let (_, port) = owner.expose(0);
        ids.push(owner.id());
        match end {
            "close 1000" => owner.close(1000),
            "close without a code" => owner.close_silently(),
            _ => {
                owner.json(
                    GOAWAY,
                    json!({ "code": 0, "message": "bye", "lastStreamId": 0, "graceMs": 0 }),
                );
                while !matches!(owner.hear(PATIENCE), Heard::Close(..) | Heard::Gone) {}
            }
        }
        eventually(end, PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).err()
        });
    }
    for id in ids {
        assert_eq!(Tunnel::resume(&kit, &id).hello["resumed"], false);
    }
    let mut owner = Tunnel::open(&kit);
    owner.expose(0);
    let id = owner.id();
    owner.close(1001);
    assert_eq!(
        Tunnel::resume(&kit, &id).hello["resumed"],
        true,
        "1001 is a page that went away"
    );
}

#[test]
fn the_grace_ends_and_grace_zero_means_no_parking() {
    let kit = Kit::with(&["--takeover-grace", "5s"]);
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let id = owner.id();
    park(&kit, owner, true);
    eventually("the grace ends", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    });
    let late = Tunnel::resume(&kit, &id);
    assert_eq!(late.hello["resumed"], false);
    assert_ne!(late.id(), id, "a fresh session has a fresh id");
    let strict = Kit::with(&["--takeover-grace", "0"]);
    let mut owner = Tunnel::open(&strict);
    let (_, port) = owner.expose(0);
    owner.vanish(true);
    eventually("no parking", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    });
    strict.has_sessions(0);
}

#[test]
fn an_id_that_never_was_gives_a_fresh_session() {
    let kit = Kit::start();
    for id in ["S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9", "", "nonsense"] {
        let tunnel = Tunnel::resume(&kit, id);
        assert_eq!(tunnel.hello["resumed"], false, "{id:?}");
        assert!(
            tunnel.id().len() == 38 && tunnel.id().starts_with("S-"),
            "{}",
            tunnel.id()
        );
    }
}

#[test]
fn silence_is_asked_about_and_then_parks() {
    let kit = Kit::with(&["--ping-after", "1s", "--pong-timeout", "4s"]);
    let mut owner = Tunnel::open(&kit);
    assert!(owner.alive(), "PING is answered with its own payload");
    owner.expose(0);
    let id = owner.id();
    // A peer that answers PING lives on for longer than both times together, though it has nothing
    // to say.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        owner.hear(Duration::from_millis(100));
    }
    assert_eq!(kit.parked(), Some(0));
    // From here nothing is read or written, so the next PING stays unanswered.
    kit.has_parked(1);
    assert_eq!(Tunnel::resume(&kit, &id).hello["resumed"], true);
}

#[test]
fn a_laptop_that_falls_asleep_is_missed_in_seconds_and_one_that_is_busy_is_not() {
    let upstream = Upstream::start(|exchange| {
        exchange.body();
        exchange.answer(200, "", b"awake");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose_with(&kit, upstream.port(), &["--connections", "3"]);
    // Whoever promised more than is meant is asked in the kit's own time.
    let mut odd = Vec::new();
    for promise in [
        json!(0),
        json!(499),
        json!(30_001),
        json!(u64::MAX),
        json!(null),
    ] {
        let mut owner = Tunnel::open_with(&kit, json!({ "pingEveryMs": promise }));
        owner.expose(0);
        odd.push(owner);
    }
    // A visitor whose upload trickles: the laptop hears much, and has nothing to say.
    let mut talk = Talk::port(hoody.port());
    talk.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n");
    for _ in 0..12 {
        std::thread::sleep(Duration::from_secs(1));
        talk.say("x");
    }
    assert_eq!(talk.reply(false).text(), "awake");
    assert_eq!(kit.parked(), Some(0), "it was heard all the time");
    kit.settles("hoody_tunnel_pong_timeouts_total", 0);
    for owner in &mut odd {
        assert!(owner.alive());
    }
    hoody.proc.signal(libc::SIGSTOP);
    let start = Instant::now();
    while kit.parked() == Some(0) {
        assert!(start.elapsed() < Duration::from_secs(10), "it is missed");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() > Duration::from_secs(5), "not too soon");
    assert_eq!(kit.parked(), Some(1));
    let away = Talk::port(hoody.port()).get("/");
    assert_eq!(away.status, 503);
    hoody.proc.signal(libc::SIGCONT);
    kit.has_parked(0);
}

#[test]
fn a_session_without_anything_to_do_is_ended() {
    let kit = Kit::with(&["--idle-timeout", "1s"]);
    let mut idle = Tunnel::open(&kit);
    let mut busy = Tunnel::open(&kit);
    busy.expose(0);
    let goaway = idle.expect(GOAWAY).json();
    assert_eq!(goaway["code"].as_u64(), Some(u64::from(IDLE_TIMEOUT)));
    assert!(
        goaway["message"]
            .as_str()
            .is_some_and(|text| text.contains("idle")),
        "{goaway}"
    );
    assert!(busy.alive(), "a binding is a reason to stay");
}

#[test]
fn takeover_under_load_refuses_nobody() {
    let kit = Kit::start();
    let web = |name: &'static str| {
        Upstream::start(move |exchange| {
            exchange.answer(200, "", name.as_bytes());
            true
        })
    };
    let (one, two) = (web("one"), web("two"));
    let port = free_port();
    let flags = ["--container-port", &port.to_string(), "--takeover"];
    let first = Hoody::start(
        &kit,
        &[&["expose", &one.port().to_string()], &flags[..]].concat(),
        1,
    );
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let visitors: Vec<_> = (0..50)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut bad = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match TcpStream::connect(("127.0.0.1", port)) {
                        Ok(stream) => {
                            let mut talk = Talk::over(stream);
                            if !talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\n\r\n") {
                                continue;
                            }
                            match talk.try_reply(false).map(|reply| reply.status) {
                                Some(200) => served.fetch_add(1, Ordering::Relaxed),
                                // A request that was in flight on the old owner.
                                Some(502) | None => 0,
                                Some(other) => {
                                    bad.push(format!("status {other}"));
                                    0
                                }
                            };
                        }
                        Err(error) => bad.push(error.to_string()),
                    }
                }
                bad
            })
        })
        .collect();
    let enough = |count: usize| {
        let from = served.load(Ordering::Relaxed);
        eventually("visitors are served", PATIENCE, || {
            (served.load(Ordering::Relaxed) > from + count).then_some(())
        });
    };
    enough(100);
    let second = Hoody::start(
        &kit,
        &[&["expose", &two.port().to_string()], &flags[..]].concat(),
        1,
    );
    enough(100);
    assert_eq!(Talk::port(port).get("/").text(), "two");
    stop.store(true, Ordering::Relaxed);
    let bad: Vec<String> = visitors
        .into_iter()
        .flat_map(|one| one.join().expect("no visitor hangs"))
        .collect();
    assert!(bad.is_empty(), "refused or worse: {bad:?}");
    drop((first, second));
}

#[test]
fn two_owners_that_take_over_from_each_other_leak_nothing() {
    let kit = Kit::start();
    let (mut one, mut two) = (Tunnel::open(&kit), Tunnel::open(&kit));
    let (_, port) = one.expose(0);
    let bind = json!({ "kind": "http", "mode": "expose", "containerPort": port, "takeover": true });
    let (permits, fds, rss) = (kit.permits(), kit.proc.fds(), kit.proc.rss_kib());
    for round in 0..200 {
        let (new, old) = if round % 2 == 0 {
            (&mut two, &mut one)
        } else {
            (&mut one, &mut two)
        };
        let mut talk = Talk::port(port);
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        old.expect(STREAM_OPEN);
        new.bound(bind.clone());
        old.expect(BIND_REVOKED);
        assert_eq!(talk.reply(false).status, 502);
    }
    assert_eq!(kit.json("bindings")["total"], 1);
    kit.all_permits_are_home(permits);
    eventually("descriptors are closed", PATIENCE, || {
        (kit.proc.fds() <= fds).then_some(())
    });
    let grown = kit.proc.rss_kib().saturating_sub(rss);
    assert!(grown < 1024, "200 takeovers cost {grown} KiB");
}

#[test]
fn a_killed_client_comes_back_to_its_ports() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"here");
        true
    });
    let kit = Kit::start();
    let port = free_port();
    let args = [
        "expose",
        &upstream.port().to_string(),
        "--container-port",
        &port.to_string(),
    ];
    let first = Hoody::start(&kit, &args, 1);
    assert_eq!(Talk::port(port).get("/").text(), "here");
    first.proc.signal(libc::SIGKILL);
    kit.has_parked(1);
    let takeover = [&args[..], &["--takeover"]].concat();
    let second = Hoody::start(&kit, &takeover, 1);
    assert_eq!(Talk::port(port).get("/").text(), "here");
    drop((first, second));
}

#[test]
fn a_killed_kit_that_comes_back_gets_its_bindings_again() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"here");
        true
    });
    let at = free_port();
    let kit = KitPlan::new().port(at).start();
    let port = free_port();
    let args = [
        "expose",
        &upstream.port().to_string(),
        "--container-port",
        &port.to_string(),
    ];
    let hoody = Hoody::start(&kit, &args, 1);
    let mark = hoody.mark();
    drop(kit);
    hoody.wait_state(mark, "lost", PATIENCE);
    let start = Instant::now();
    let kit = KitPlan::new().port(at).start();
    eventually(
        "the same port answers again",
        Duration::from_secs(30),
        || {
            let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            let mut talk = Talk::over(stream);
            talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            talk.try_reply(false).filter(|reply| reply.text() == "here")
        },
    );
    println!(
        "after kill -9 of the kit: answers {:?} after its return",
        start.elapsed()
    );
    drop(kit);
}

#[test]
fn a_stopped_client_takes_its_session_back_when_it_wakes() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"awake");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    hoody.proc.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(if crate::support::long() {
        20
    } else {
        7
    }));
    hoody.proc.signal(libc::SIGCONT);
    let start = Instant::now();
    eventually("it answers again", PATIENCE, || {
        let mut talk = Talk::port(hoody.port());
        talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        talk.try_reply(false)
            .filter(|reply| reply.text() == "awake")
    });
    println!("after SIGSTOP: answers {:?} after SIGCONT", start.elapsed());
    kit.has_sessions(1);
}

#[test]
fn clients_tell_their_states_and_unbind_when_they_stop() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"x");
        true
    });
    let kit = Kit::start();
    let port = free_port().to_string();
    let target = upstream.port().to_string();
    let args = ["expose", &target, "--container-port", &port];
    let mut first = Hoody::start(&kit, &args, 1);
    first.wait_state(0, "connecting", PATIENCE);
    first.wait_state(0, "online", PATIENCE);
    let mark = first.mark();
    let way = Cutter::before(&kit);
    let mut second = way.hoody(&kit, &[&args[..], &["--takeover"]].concat(), 1);
    first.wait_state(mark, "taken over", PATIENCE);
    // The socket of the second is cut under it: it resumes what it had.
    let mark = second.mark();
    assert_eq!(way.cut(Cut::Reset, None), 1);
    second.wait_state(mark, "lost", PATIENCE);
    second.wait_state(mark, "resumed", PATIENCE);
    second.proc.signal(libc::SIGTERM);
    assert_eq!(second.proc.wait(PATIENCE).code(), Some(0));
    eventually("the port is free", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port.parse().unwrap_or(0))).err()
    });
    first.proc.signal(libc::SIGTERM);
    first.proc.wait(PATIENCE);
    // Who says goodbye is not waited for: a parked one would stay for longer than this waits.
    kit.has_sessions(0);
    kit.counts("hoody_tunnel_session_resumes_total", "", 1);
    kit.settles("hoody_tunnel_takeovers_total", 1);
}
