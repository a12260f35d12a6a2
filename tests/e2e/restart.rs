//! A kit that is told to go: what runs may finish, and nobody new is refused while it does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Hoody;
use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan};
use crate::support::proc::{Proc, kit_program, ok, run};
use crate::support::tunnel::*;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually, free_port};

#[test]
fn a_drain_serves_what_runs_and_says_503_to_newcomers_until_it_is_over() {
    let mut kit = KitPlan::new().flags(&["--drain", "30s"]).start();
    let mut laptop = Tunnel::open(&kit);
    let (_, port) = laptop.expose(0);
    let (_, pull) = laptop.pull(0);
    let (mut served, open) = laptop.visited(port);
    let half = json!({ "status": 200, "headers": [["content-length", "10"]], "final": true });
    laptop.frame(RESPONSE_HEAD, open, half.to_string().as_bytes());
    laptop.frame(DATA, open, b"01234");
    served.head().expect("a head");
    let refused = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(stream) => drop(stream),
                    Err(_) => refused.store(true, Ordering::Relaxed),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        kit.proc.signal(libc::SIGTERM);
        let goaway = laptop.expect(GOAWAY).json();
        assert_eq!(
            (&goaway["final"], &goaway["graceMs"]),
            (&json!(false), &json!(30_000))
        );
        eventually("the PULL port is closed", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", pull)).err()
        });
        for _ in 0..20 {
            let late = Talk::port(port).get("/");
            assert_eq!(
                (late.status, late.field("retry-after").as_deref()),
                (503, Some("1"))
            );
            assert!(late.closes(), "it does not stay for more");
        }
        assert_eq!(
            kit.json("tunnels")["totalStreams"],
            1,
            "operators still see it"
        );
        done.store(true, Ordering::Relaxed);
    });
    assert!(!refused.load(Ordering::Relaxed), "a visitor was refused");
    laptop.frame(DATA, open, b"56789");
    laptop.frame(EOF, open, b"");
    assert_eq!(served.take(10), b"0123456789");
    assert_eq!(kit.proc.wait(PATIENCE).code(), Some(0));
    let said = kit.proc.said();
    assert!(
        said.contains("draining for at most 30s: streams open: 1;"),
        "{said}"
    );
    assert!(said.contains("drained in"), "{said}");
}

#[test]
fn a_drain_ends_when_its_time_is_over_and_at_once_without_one() {
    for drain in ["300ms", "0"] {
        let mut kit = KitPlan::new().flags(&["--drain", drain]).start();
        let mut laptop = Tunnel::open(&kit);
        let (_, port) = laptop.expose(0);
        let (mut waits, _) = laptop.visited(port);
        kit.proc.signal(libc::SIGTERM);
        assert_eq!(kit.proc.wait(PATIENCE).code(), Some(0), "{drain}");
        assert!(kit.proc.said().contains("streams cut: 1"), "{drain}");
        assert_eq!(waits.reply(false).status, 502, "{drain}");
        assert_eq!(laptop.expect(GOAWAY).json()["final"], false, "{drain}");
        assert_eq!(laptop.expect_close().0, 1001, "{drain}");
    }
}

#[test]
fn a_killed_session_is_told_that_it_is_final() {
    let kit = Kit::start();
    let mut laptop = Tunnel::open(&kit);
    let id = laptop.id();
    assert_eq!(kit.admin("DELETE", &format!("sessions/{id}")).status, 202);
    let goaway = laptop.expect(GOAWAY).json();
    assert_eq!(
        (&goaway["final"], &goaway["code"]),
        (&json!(true), &json!(7))
    );
}

fn pid(kit: &Kit) -> u64 {
    kit.json("health")["pid"].as_u64().expect("a pid")
}

/// Has a kit start its successor, and tells the process of that one.
#[track_caller]
fn upgraded(kit: &mut Kit) -> u64 {
    let before = pid(kit);
    assert_eq!(before, u64::from(kit.proc.pid()));
    kit.proc.signal(libc::SIGUSR2);
    let after = eventually("a successor answers", PATIENCE, || {
        Some(pid(kit)).filter(|pid| *pid != before)
    });
    eventually("the kit before has gone", PATIENCE, || {
        (!kit.proc.running()).then_some(())
    });
    after
}

#[test]
fn an_upgrade_refuses_nobody_and_breaks_nothing_that_is_quick() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"here");
        true
    });
    let mut kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let (port, done) = (hoody.port(), AtomicBool::new(false));
    let (served, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let ask = |keep: bool| {
        while !done.load(Ordering::Relaxed) {
            let fault = |what: String| faults.lock().expect("no panic").push(what);
            let stream = match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => stream,
                Err(why) => return fault(format!("{why}")),
            };
            let mut talk = Talk::over(stream);
            loop {
                talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                let Some(reply) = talk.try_reply(false) else {
                    fault("no answer".into());
                    break;
                };
                match reply.status {
                    200 => served.fetch_add(1, Ordering::Relaxed),
                    other => return fault(format!("{other}: {}", reply.text())),
                };
                if !keep || reply.closes() || done.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for keep in [true, true, true, false, false] {
            let ask = &ask;
            scope.spawn(move || ask(keep));
        }
        let more = |count: usize| {
            let from = served.load(Ordering::Relaxed);
            eventually("visitors are served", PATIENCE, || {
                (served.load(Ordering::Relaxed) > from + count).then_some(())
            });
        };
        more(100);
        upgraded(&mut kit);
        more(100);
        done.store(true, Ordering::Relaxed);
    });
    let faults = faults.into_inner().expect("no panic");
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(kit.json("sessions")["total"], 1);
    kit.counts("hoody_tunnel_session_resumes_total", "", 1);
}

#[test]
fn a_download_goes_on_in_the_kit_before_while_its_successor_serves() {
    let mut kit = KitPlan::new().flags(&["--drain", "30s"]).start();
    let mut laptop = Tunnel::open(&kit);
    let (bind, port) = laptop.expose(0);
    let id = laptop.id();
    let (mut served, open) = laptop.visited(port);
    let half = json!({ "status": 200, "headers": [["content-length", "10"]], "final": true });
    laptop.frame(RESPONSE_HEAD, open, half.to_string().as_bytes());
    laptop.frame(DATA, open, b"01234");
    served.head().expect("a head");
    let before = pid(&kit);
    kit.proc.signal(libc::SIGUSR2);
    assert_eq!(laptop.expect(GOAWAY).json()["final"], false);
    assert_ne!(pid(&kit), before);
    // Who comes now waits for the laptop, which comes back beside its old connection.
    let mut waits = Talk::port(port);
    waits.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut back = Tunnel::resume(&kit, &id);
    assert_eq!(back.hello["resumed"], true);
    assert_eq!(back.hello["resumedBinds"][0]["bindId"], bind);
    let second = back.expect(STREAM_OPEN).stream;
    back.respond(second, 200, b"new");
    assert_eq!(waits.reply(false).text(), "new");
    assert!(kit.proc.running(), "it has something to finish");
    laptop.frame(DATA, open, b"56789");
    laptop.frame(EOF, open, b"");
    assert_eq!(served.take(10), b"0123456789");
    eventually("the kit before has gone", PATIENCE, || {
        (!kit.proc.running()).then_some(())
    });
    assert!(back.alive());
}

/// Drips numbers where `/slow` is asked for, as long as it is to.
fn dripping(go_on: Arc<AtomicBool>) -> Upstream {
    Upstream::start(move |exchange| {
        if exchange.request.target != "/slow" {
            exchange.answer(200, "", b"quick");
            return true;
        }
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        exchange.talk.say_into_the_void(head);
        let mut count = 0u64;
        while go_on.load(Ordering::Relaxed) {
            if !exchange.chunk(format!("{count:08}").as_bytes()) {
                return false;
            }
            count += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        exchange.chunk(b"")
    })
}

#[test]
fn a_busy_client_is_at_the_next_kit_at_once_and_its_streams_finish_beside() {
    let go_on = Arc::new(AtomicBool::new(true));
    let upstream = dripping(Arc::clone(&go_on));
    let mut kit = KitPlan::new().flags(&["--drain", "60s"]).start();
    let target = upstream.port().to_string();
    let args = ["up", "--expose", &target, "--connections", "2"];
    let hoody = Hoody::start(&kit, &args, 1);
    let port = hoody.port();
    let mut slow: Vec<Talk> = Vec::new();
    for _ in 0..3 {
        let mut talk = Talk::port(port);
        talk.say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        talk.head().expect("a head");
        slow.push(talk);
    }
    // Twice: what is left behind by the first is still there at the second.
    for _ in 0..2 {
        replaced(&kit);
        let asked = Instant::now();
        for _ in 0..20 {
            assert_eq!(Talk::port(port).get("/").text(), "quick");
        }
        // It waits in the backlog until the client is back, which is at once.
        assert!(
            asked.elapsed() < Duration::from_secs(4),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(kit.json("sessions")["total"], 1);
    }
    go_on.store(false, Ordering::Relaxed);
    for mut talk in slow {
        let mut body = Vec::new();
        assert!(talk.chunks(&mut body), "it ends whole");
        let counts = body
            .chunks(8)
            .map(|piece| String::from_utf8_lossy(piece).parse());
        let counts: Vec<u64> = counts.map(|count| count.expect("a count")).collect();
        let want: Vec<u64> = (0..counts.len() as u64).collect();
        assert_eq!(counts, want);
    }
    eventually("the first kit has gone", PATIENCE, || {
        (!kit.proc.running()).then_some(())
    });
    assert_eq!(Talk::port(port).get("/").text(), "quick");
}

/// Who answers is replaced, and the one before may go on for a while.
#[track_caller]
fn replaced(kit: &Kit) {
    let before = pid(kit);
    // SAFETY: kill(2) takes two numbers; the kit is this test's own, or its successor.
    unsafe { libc::kill(before as i32, libc::SIGUSR2) };
    eventually("a successor answers", PATIENCE, || {
        (pid(kit) != before).then_some(())
    });
}

#[test]
fn wrk_sees_nobody_refused_and_nothing_but_answers_over_upgrades_in_a_row() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"here");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let url = format!("http://127.0.0.1:{}/", hoody.port());
    let mut command = std::process::Command::new("wrk");
    command.args(["-t1", "-c16", "-d8s", "--timeout", "20s", &url]);
    let mut load = Proc::spawn("wrk", &mut command);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        replaced(&kit);
        assert_eq!(Talk::port(hoody.port()).get("/").status, 200);
    }
    assert!(load.wait(PATIENCE).success());
    let said = load.said();
    assert!(said.contains("requests in"), "{said}");
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
}

#[test]
fn where_a_successor_cannot_start_the_kit_stays() {
    let mut kit = Kit::start();
    let mut laptop = Tunnel::open(&kit);
    let (_, port) = laptop.expose(0);
    let token = kit.token_file().expect("it has one");
    let text = std::fs::read(&token).expect("readable");
    std::fs::remove_file(&token).expect("removable");
    for round in 1..=2 {
        kit.proc.signal(libc::SIGUSR2);
        let told = eventually("it is told", PATIENCE, || {
            let said = kit.proc.said();
            (said.matches("no successor could be started").count() == round).then_some(said)
        });
        assert!(told.contains("token"), "the successor's own words: {told}");
    }
    assert!(kit.proc.running() && laptop.alive());
    std::fs::write(&token, text).expect("writable");
    let (mut visitor, stream) = laptop.visited(port);
    laptop.respond(stream, 200, b"still here");
    assert_eq!(visitor.reply(false).text(), "still here");
    upgraded(&mut kit);
}

#[test]
fn the_command_upgrades_and_says_who_took_over() {
    let mut kit = Kit::start();
    let at = format!("127.0.0.1:{}", kit.port);
    let mut command = std::process::Command::new(kit_program());
    let said = ok(command.args(["upgrade", "--listen", &at]));
    let before = kit.proc.pid();
    assert!(
        said.contains(&format!("has taken over from {before}")),
        "{said}"
    );
    eventually("the kit before has gone", PATIENCE, || {
        (!kit.proc.running()).then_some(())
    });
    let mut command = std::process::Command::new(kit_program());
    let nowhere = format!("127.0.0.1:{}", free_port());
    let output = run(command.args(["upgrade", "--listen", &nowhere]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer from"));
}

#[test]
fn the_command_signals_nobody_but_the_kit_that_listens_there() {
    let mut stranger = std::process::Command::new("sleep");
    let mut stranger = stranger.arg("300").spawn().expect("coreutils");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let body = format!(
        r#"{{"status":"ok","service":"hoody-tunnel","pid":{}}}"#,
        stranger.id()
    );
    let answers = std::thread::spawn(move || {
        let (mut conn, _) = listener.accept().expect("it asks");
        let mut asked = [0; 1024];
        let _ = conn.read(&mut asked).expect("a request");
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        conn.write_all((head + &body).as_bytes()).expect("it reads");
    });
    let mut command = std::process::Command::new(kit_program());
    let output = run(command.args(["upgrade", "--timeout", "2s", "--listen", &at.to_string()]));
    answers.join().expect("it answered");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("does not listen there"), "{said}");
    assert!(
        stranger.try_wait().expect("ours").is_none(),
        "it was signalled"
    );
    stranger.kill().expect("ours");
    stranger.wait().expect("ours");
}

#[test]
fn sockets_that_systemd_has_opened_are_listened_on() {
    let control = TcpListener::bind("127.0.0.1:0").expect("a port");
    let exposed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let (at, expose) = (port(&control), port(&exposed));
    let mut command = std::process::Command::new("bash");
    let script = "exec 3<&$CONTROL 4<&$EXPOSED; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\"";
    command.args(["-c", script, kit_program(), "--expose-host", "127.0.0.1"]);
    command.args(["--allow-host", "*"]);
    command
        .env("CONTROL", inherited(&control))
        .env("EXPOSED", inherited(&exposed));
    command
        .env_remove("HOODY_TUNNEL_LISTEN")
        .env_remove("HOODY_TUNNEL_TOKEN");
    let mut proc = Proc::spawn("kit", &mut command);
    let said = eventually("it listens there", PATIENCE, || {
        assert!(proc.running(), "{}", proc.said());
        Some(proc.said()).filter(|said| said.contains(&format!("listening on 127.0.0.1:{at}")))
    });
    assert!(said.contains(&format!("127.0.0.1:{expose} is open for whoever binds it")));
    for _ in 0..2 {
        let upgrade = Upgrade {
            protocols: Some("hoody-tunnel.v1"),
            fields: &[],
        };
        let mut laptop = Tunnel::upgrade_at(Ipv4Addr::LOCALHOST, at, &upgrade).expect("a tunnel");
        laptop.greet(json!({}));
        assert_eq!(laptop.expose(expose).1, expose);
        let (mut visitor, stream) = laptop.visited(expose);
        laptop.respond(stream, 200, b"x");
        assert_eq!(visitor.reply(false).status, 200);
        laptop.close(1000);
        // While nobody has the port whoever comes waits in the backlog.
        drop(TcpStream::connect(("127.0.0.1", expose)).expect("not refused"));
    }
}

/// The number of a listener's descriptor, which children get too.
fn inherited(listener: &TcpListener) -> String {
    let fd = listener.as_raw_fd();
    // SAFETY: fcntl(2) with numbers on an open descriptor.
    assert!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } >= 0);
    fd.to_string()
}
