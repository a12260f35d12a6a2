//! Several URLs of one kit: each leads through a relay that can be cut or fall silent.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Hoody, hoody};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::proc::ok;
use crate::support::tcp::{TcpServer, reset_on_close};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually};

/// What a relay does with bytes.
#[derive(Default)]
struct Mood {
    cut: AtomicBool,
    silent: AtomicBool,
}

/// A relay to a kit.
struct Relay {
    server: TcpServer,
    mood: Arc<Mood>,
}

impl Relay {
    fn to(kit: &Kit) -> Relay {
        let mood = Arc::new(Mood::default());
        let (at, shared) = (kit.url(), Arc::clone(&mood));
        let at = at.trim_start_matches("ws://").split('/').next();
        let at = at.expect("an authority").to_owned();
        let server = TcpServer::start(move |near| {
            let Ok(far) = TcpStream::connect(&at) else {
                return;
            };
            if shared.cut.load(Ordering::SeqCst) {
                return reset_on_close(&near);
            }
            std::thread::scope(|scope| {
                scope.spawn(|| carry(&near, &far, &shared));
                carry(&far, &near, &shared);
            });
        });
        Relay { server, mood }
    }

    fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/", self.server.port)
    }

    fn cut(&self, cut: bool) {
        self.mood.cut.store(cut, Ordering::SeqCst);
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, mood: &Mood) {
    let mut space = [0; 16 * 1024];
    let glance = Some(Duration::from_millis(10));
    from.set_read_timeout(glance).expect("a TCP socket");
    while !mood.cut.load(Ordering::SeqCst) {
        if mood.silent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        match from.read(&mut space) {
            Ok(0) => break,
            Ok(count) if to.write_all(&space[..count]).is_ok() => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A client of `kit` by these URLs.
fn tunnel(kit: &Kit, urls: &[&str], args: &[&str]) -> Command {
    let mut command = hoody();
    command.arg("tunnel").args(args);
    for url in urls {
        command.args(["--url", url]);
    }
    command.arg("--token-file");
    command.arg(kit.token_file().expect("the kit has a token"));
    command
}

fn web() -> Upstream {
    Upstream::start(|exchange| {
        exchange.answer(200, "", b"here");
        true
    })
}

/// How long it takes until a visitor is served.
#[track_caller]
fn served_after(port: u16) -> Duration {
    let start = Instant::now();
    eventually("it is served", PATIENCE, || {
        let mut talk = Talk::over(TcpStream::connect(("127.0.0.1", port)).ok()?);
        talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        talk.try_reply(false).filter(|reply| reply.text() == "here")
    });
    start.elapsed()
}

#[test]
fn a_way_that_is_cut_or_falls_silent_is_left_for_another_and_the_session_stays() {
    let (kit, web) = (Kit::start(), web());
    let (one, two) = (Relay::to(&kit), Relay::to(&kit));
    let args = ["expose", &web.port().to_string(), "--json"];
    let mut command = tunnel(&kit, &[&one.url(), &two.url()], &args);
    let hoody = Hoody::from_command(&mut command, 1);
    assert_eq!((one.server.accepted(), two.server.accepted()), (1, 0));
    let mut ways = [&one, &two];
    for _ in 0..4 {
        let mark = hoody.mark();
        ways[0].cut(true);
        hoody.wait_state(mark, "resumed", PATIENCE);
        let took = served_after(hoody.port());
        assert!(took < Duration::from_secs(1), "{took:?}");
        ways[0].cut(false);
        ways.reverse();
        std::thread::sleep(Duration::from_millis(1100));
    }
    let mark = hoody.mark();
    let start = Instant::now();
    ways[0].mood.silent.store(true, Ordering::SeqCst);
    hoody.wait_state(mark, "resumed", PATIENCE);
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    served_after(hoody.port());
    kit.has_sessions(1);
}

#[test]
fn a_way_that_is_cut_over_and_over_is_taken_again_at_once_each_time() {
    let (kit, web) = (Kit::start(), web());
    let relay = Relay::to(&kit);
    let args = ["expose", &web.port().to_string(), "--json"];
    let hoody = Hoody::from_command(&mut tunnel(&kit, &[&relay.url()], &args), 1);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_secs(2));
        let mark = hoody.mark();
        relay.cut(true);
        hoody.wait_state(mark, "lost", PATIENCE);
        relay.cut(false);
        let took = served_after(hoody.port());
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}

#[test]
fn who_is_stopped_while_the_kit_is_out_of_reach_finds_the_session_again() {
    let (kit, web) = (Kit::start(), web());
    let relay = Relay::to(&kit);
    let args = ["expose", &web.port().to_string(), "--json"];
    let mut hoody = Hoody::from_command(&mut tunnel(&kit, &[&relay.url()], &args), 1);
    let mark = hoody.mark();
    relay.cut(true);
    hoody.wait_state(mark, "lost", PATIENCE);
    hoody.proc.signal(libc::SIGTERM);
    assert_eq!(hoody.proc.wait(PATIENCE).code(), Some(0));
    kit.has_parked(1);
    relay.cut(false);
    let back = Hoody::from_command(&mut tunnel(&kit, &[&relay.url()], &args), 1);
    back.wait_state(0, "resumed", PATIENCE);
    assert_eq!(back.port(), hoody.port());
    served_after(back.port());
    kit.has_sessions(1);
}

#[test]
fn a_way_that_leads_nowhere_costs_nothing_where_another_is_open() {
    let (kit, web) = (Kit::start(), web());
    let relay = Relay::to(&kit);
    // Nothing answers here, somebody who is no kit answers there.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let closed = format!("ws://{}/", closed.expect("a port"));
    let other = format!("ws://127.0.0.1:{}/", web.port());
    let urls = [&closed[..], &other, &relay.url()];
    let start = Instant::now();
    let args = ["expose", &web.port().to_string(), "--json"];
    let hoody = Hoody::from_command(&mut tunnel(&kit, &urls, &args), 1);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    served_after(hoody.port());
    let health = ok(&mut tunnel(
        &kit,
        &[&closed, &relay.url()],
        &["health", "--json"],
    ));
    assert!(health.contains("\"ok\""), "{health}");
    // The variable names several too.
    let mut command = tunnel(&kit, &[], &args);
    command.env("HOODY_TUNNEL_URL", format!("{closed}, {}", relay.url()));
    let second = Hoody::from_command(&mut command, 1);
    served_after(second.port());
    let mut refused = tunnel(&kit, &[&relay.url(), "ftp://x"], &args);
    let refused = refused.output().expect("it runs");
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn several_connections_are_spread_over_all_ways() {
    let (kit, web) = (Kit::start(), web());
    let relays = [Relay::to(&kit), Relay::to(&kit), Relay::to(&kit)];
    let urls = relays.each_ref().map(Relay::url);
    let urls = urls.each_ref().map(String::as_str);
    let args = [
        "expose",
        &web.port().to_string(),
        "--connections",
        "3",
        "--json",
    ];
    let hoody = Hoody::from_command(&mut tunnel(&kit, &urls, &args), 1);
    for relay in &relays {
        relay.server.accepts(1);
    }
    // One of those that are not the primary is lost: it is joined by another way.
    relays[2].cut(true);
    eventually("the lane is joined again", PATIENCE, || {
        let all = relays[0].server.accepted() + relays[1].server.accepted();
        (all == 3).then_some(())
    });
    served_after(hoody.port());
    kit.settles("hoody_tunnel_session_resumes_total", 0);
}

#[test]
fn a_url_of_another_kit_is_told_and_left_alone() {
    let (kit, other, web) = (Kit::start(), Kit::start(), web());
    let relay = Relay::to(&kit);
    let urls = [&relay.url()[..], &other.url()];
    let args = [
        "expose",
        &web.port().to_string(),
        "--connections",
        "4",
        "--json",
    ];
    let hoody = Hoody::from_command(&mut tunnel(&kit, &urls, &args), 1);
    let told = hoody.wait_event(0, "notice", PATIENCE);
    let told = told["message"].as_str().unwrap_or_default();
    assert!(
        told.starts_with(&format!("127.0.0.1:{} leads to another kit", other.port)),
        "{told}"
    );
    relay.server.accepts(4);
    // All connections are lost at once: the session is looked for where it is.
    relay.cut(true);
    std::thread::sleep(Duration::from_secs(1));
    relay.cut(false);
    served_after(hoody.port());
    assert_eq!(other.json("sessions")["total"], 0);
    assert_eq!(kit.json("sessions")["total"], 1);
}
