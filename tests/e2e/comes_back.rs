//! A client that died comes back to its session and its ports, and what it keeps for that.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{Hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan, TOKEN};
use crate::support::tcp::TcpServer;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, eventually, free_port};

fn web() -> Upstream {
    Upstream::start(|exchange| {
        exchange.answer(200, "", b"here");
        true
    })
}

fn echo() -> TcpServer {
    TcpServer::start(|mut stream| {
        let mut space = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut space) {
            if stream.write_all(&space[..count]).is_err() {
                return;
            }
        }
    })
}

/// A client that keeps its state in a directory of its own.
struct Scene {
    dir: TempDir,
    args: Vec<String>,
}

impl Scene {
    fn new(args: &[&str]) -> Scene {
        Scene {
            dir: TempDir::new(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        }
    }

    fn command(&self, kit: &Kit, more: &[&str]) -> Command {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut command = hoody_at(kit, &[&args[..], more, &["--json"]].concat());
        command.env("XDG_STATE_HOME", self.dir.path());
        command
    }

    #[track_caller]
    fn start(&self, kit: &Kit, bindings: usize) -> Hoody {
        Hoody::from_command(&mut self.command(kit, &[]), bindings)
    }

    /// The files that are kept.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join("hoody-tunnel"));
        let entries = entries.into_iter().flatten();
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    /// What is kept, once it names a session and all its ports.
    #[track_caller]
    fn kept(&self) -> Value {
        eventually("the session is kept", PATIENCE, || {
            let text = std::fs::read(self.files().first()?).ok()?;
            let kept: Value = serde_json::from_slice(&text).ok()?;
            let mut tunnels = kept["tunnels"].as_array()?.iter();
            let is_whole = kept["session"].is_string() && tunnels.all(|one| one["port"] != 0);
            is_whole.then_some(kept)
        })
    }

    #[track_caller]
    fn kill(&self, kit: &Kit, hoody: Hoody) {
        self.kept();
        hoody.proc.signal(libc::SIGKILL);
        kit.has_parked(1);
    }
}

/// Ports of the kit for a web server and an echo, and how `up` is told of both.
struct Ports {
    expose: u16,
    pull: u16,
    expose_at: String,
    pull_at: String,
}

impl Ports {
    fn of(web: &Upstream, echo: &TcpServer) -> Ports {
        let (expose, pull) = (free_port(), free_port());
        Ports {
            expose,
            pull,
            expose_at: format!("{}={expose}", web.port()),
            pull_at: format!("{}={pull}", echo.port),
        }
    }
}

/// What `ready` tells of a binding.
fn bound(hoody: &Hoody, index: usize) -> (u64, u16) {
    let id = hoody.ready[index]["bindId"].as_u64().expect("an id");
    (id, hoody.port_of(index))
}

fn session_of(kit: &Kit) -> String {
    let list = kit.json("sessions");
    assert_eq!(list["total"], 1, "{list}");
    let id = list["sessions"][0]["sessionId"].as_str();
    id.expect("an id").to_owned()
}

#[track_caller]
fn echoes(port: u16) {
    let mut caller = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    caller.write_all(b"hello").expect("it is read");
    let mut back = [0; 5];
    caller.set_read_timeout(Some(PATIENCE)).expect("a socket");
    caller.read_exact(&mut back).expect("it comes back");
    assert_eq!(&back, b"hello");
}

#[test]
fn after_kill_9_session_bindings_and_ports_are_the_same_and_pull_too() {
    let (web, echo) = (web(), echo());
    let kit = Kit::start();
    let (to_web, to_echo) = (web.port().to_string(), echo.port.to_string());
    let (expose, pull) = (free_port(), free_port());
    let at = |target: &str, port: u16| format!("{target}={port}");
    let named = [
        "up",
        "--expose",
        &at(&to_web, expose),
        "--pull",
        &at(&to_echo, pull),
    ];
    let unnamed = ["up", "--expose", &to_web, "--pull", &to_echo];
    for args in [&named[..], &unnamed[..]] {
        let scene = Scene::new(args);
        let mut hoody = scene.start(&kit, 2);
        let (session, first) = (session_of(&kit), [bound(&hoody, 0), bound(&hoody, 1)]);
        for _ in 0..3 {
            scene.kill(&kit, hoody);
            let away = Talk::port(first[0].1).get("/");
            assert_eq!(away.status, 503, "the port stays");
            let start = Instant::now();
            hoody = scene.start(&kit, 2);
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "it waits for nothing"
            );
            assert_eq!([bound(&hoody, 0), bound(&hoody, 1)], first);
            assert_eq!(session_of(&kit), session);
            hoody.wait_state(0, "resumed", PATIENCE);
            assert_eq!(Talk::port(first[0].1).get("/").text(), "here");
            echoes(first[1].1);
        }
        hoody.proc.signal(libc::SIGTERM);
        assert_eq!(hoody.proc.wait(PATIENCE).code(), Some(0));
        kit.has_sessions(0);
        assert!(scene.files().is_empty(), "nothing is kept after a goodbye");
        let other = scene.start(&kit, 2);
        assert_ne!(session_of(&kit), session);
        scene.kill(&kit, other);
        let last = scene.start(&kit, 2);
        drop(last);
        kit.has_parked(1);
        let sessions = kit.json("sessions");
        let id = sessions["sessions"][0]["sessionId"].as_str();
        let path = format!("sessions/{}", id.expect("an id"));
        assert_eq!(kit.admin("DELETE", &path).status, 202);
    }
}

#[test]
fn with_one_more_tunnel_or_one_less_it_comes_back_all_the_same() {
    let (web, echo) = (web(), echo());
    let kit = Kit::start();
    let at = Ports::of(&web, &echo);
    let more_at = format!("{}={}", echo.port, free_port());
    let mut scene = Scene::new(&[]);
    let sets: [&[&str]; 4] = [
        &["up", "--expose", &at.expose_at, "--pull", &at.pull_at],
        &[
            "up",
            "--expose",
            &at.expose_at,
            "--pull",
            &at.pull_at,
            "--pull",
            &more_at,
            "--takeover",
        ],
        &["up", "--pull", &at.pull_at, "--pull", &more_at],
        &["up", "--pull", &at.pull_at, "--expose", &at.expose_at],
    ];
    let mut session = None;
    for (count, set) in [2, 3, 2, 2].into_iter().zip(sets) {
        scene.args = set.iter().map(|arg| (*arg).to_owned()).collect();
        let hoody = scene.start(&kit, count);
        let stands = session_of(&kit);
        assert_eq!(*session.get_or_insert(stands.clone()), stands);
        let ports: Vec<u16> = (0..count).map(|index| hoody.port_of(index)).collect();
        assert!(ports.contains(&at.pull), "{ports:?}");
        echoes(at.pull);
        if set.contains(&"--expose") {
            assert_eq!(Talk::port(at.expose).get("/").text(), "here");
        }
        scene.kill(&kit, hoody);
        assert_eq!(scene.files().len(), 1);
    }
}

#[test]
fn two_that_were_killed_come_back_as_one() {
    let (web, echo) = (web(), echo());
    let kit = Kit::start();
    let at = Ports::of(&web, &echo);
    let mut scene = Scene::new(&["up", "--expose", &at.expose_at]);
    let one = scene.start(&kit, 1);
    scene.args = ["up", "--pull", &at.pull_at].map(str::to_owned).to_vec();
    let two = scene.start(&kit, 1);
    for hoody in [one, two] {
        hoody.proc.signal(libc::SIGKILL);
    }
    kit.has_parked(2);
    scene.args = ["up", "--pull", &at.pull_at, "--expose", &at.expose_at]
        .map(str::to_owned)
        .to_vec();
    let hoody = scene.start(&kit, 2);
    assert_eq!(Talk::port(at.expose).get("/").text(), "here");
    echoes(at.pull);
    kit.has_sessions(1);
    assert_eq!(scene.files().len(), 1);
    drop(hoody);
}

#[test]
fn nobody_loses_a_port_to_one_who_gives_up() {
    let (web, echo) = (web(), echo());
    let kit = Kit::start();
    let at = Ports::of(&web, &echo);
    let args = ["up", "--expose", &at.expose_at, "--pull", &at.pull_at];
    let holder = Scene::new(&args);
    let hoody = holder.start(&kit, 2);
    let other = Scene::new(&[&args[..], &["--takeover"]].concat());
    let mut other = Hoody::from_command(&mut other.command(&kit, &[]), 0);
    assert_eq!(other.proc.wait(PATIENCE).code(), Some(1));
    kit.has_sessions(1);
    assert_eq!(Talk::port(at.expose).get("/").text(), "here");
    echoes(at.pull);
    drop(hoody);
}

#[test]
fn whenever_it_is_killed_the_next_start_has_the_ports() {
    let web = web();
    let kit = Kit::start();
    let (one, two) = (free_port(), free_port());
    let target = web.port().to_string();
    let (first, second) = (format!("{target}={one}"), format!("{target}={two}"));
    let scene = Scene::new(&["up", "--expose", &first, "--pull", &second]);
    for millis in 0..40 {
        let hoody = Hoody::from_command(&mut scene.command(&kit, &[]), 0);
        std::thread::sleep(Duration::from_millis(millis));
        hoody.proc.signal(libc::SIGKILL);
        drop(hoody);
    }
    let hoody = scene.start(&kit, 2);
    assert_eq!((hoody.port_of(0), hoody.port_of(1)), (one, two));
    assert_eq!(Talk::port(one).get("/").text(), "here");
    kit.has_sessions(1);
}

#[test]
fn after_the_grace_the_ports_are_the_old_ones_if_they_are_free() {
    let web = web();
    let kit = Kit::with(&["--takeover-grace", "1s"]);
    let scene = Scene::new(&["expose", &web.port().to_string()]);
    let hoody = scene.start(&kit, 1);
    let (session, port) = (session_of(&kit), hoody.port());
    scene.kill(&kit, hoody);
    kit.has_sessions(0);
    let hoody = scene.start(&kit, 1);
    assert_eq!(hoody.port(), port);
    assert_ne!(session_of(&kit), session);
    scene.kill(&kit, hoody);
    kit.has_sessions(0);
    let squatter = TcpListener::bind(("127.0.0.1", port)).expect("it is free");
    let hoody = scene.start(&kit, 1);
    assert_ne!(hoody.port(), port);
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "here");
    drop(squatter);
}

#[test]
fn what_is_kept_is_ours_alone_and_holds_no_token() {
    let web = web();
    let kit = Kit::start();
    let scene = Scene::new(&["expose", &web.port().to_string()]);
    let hoody = scene.start(&kit, 1);
    let kept = scene.kept();
    assert_eq!(kept["session"], session_of(&kit));
    assert_eq!(kept["tunnels"][0]["port"], hoody.port());
    assert!(!kept.to_string().contains(TOKEN));
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode();
    assert_eq!(mode(&scene.files()[0]) & 0o777, 0o600);
    assert_eq!(mode(&scene.dir.join("hoody-tunnel")) & 0o777, 0o700);
    // A second process with the same tunnels has a session of its own, and leaves this one alone.
    let mut second = scene.start(&kit, 1);
    kit.has_sessions(2);
    assert_ne!(second.port(), hoody.port());
    for port in [hoody.port(), second.port()] {
        assert_eq!(Talk::port(port).get("/").text(), "here");
    }
    second.proc.signal(libc::SIGTERM);
    second.proc.wait(PATIENCE);
    assert_eq!(scene.kept(), kept);
}

#[test]
fn nothing_is_kept_or_used_where_it_is_not_wanted_or_cannot_be() {
    let web = web();
    let kit = Kit::start();
    let scene = Scene::new(&["expose", &web.port().to_string()]);
    let hoody = Hoody::from_command(&mut scene.command(&kit, &["--no-state"]), 1);
    let session = session_of(&kit);
    hoody.proc.signal(libc::SIGKILL);
    kit.has_parked(1);
    assert!(!scene.dir.join("hoody-tunnel").exists());
    // What a link leads to is not ours to write: it goes on without.
    let target = scene.dir.join("target");
    std::fs::create_dir(&target).expect("a folder");
    std::os::unix::fs::symlink(&target, scene.dir.join("hoody-tunnel")).expect("a link");
    let hoody = scene.start(&kit, 1);
    let notice = hoody.wait_event(0, "notice", PATIENCE);
    let text = notice["message"].as_str().expect("a sentence");
    assert!(text.contains("state cannot be kept"), "{text}");
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "here");
    let left = std::fs::read_dir(&target).expect("a folder").count();
    assert_eq!(left, 0);
    let list = kit.json("sessions");
    let is_it = |one: &Value| one["sessionId"] == session;
    let parked = list["sessions"].as_array().expect("a list").iter();
    assert_eq!(parked.filter(|one| is_it(one)).count(), 1, "{list}");
}

#[test]
fn a_served_directory_does_not_show_what_is_kept_in_it() {
    let kit = Kit::start();
    let served = TempDir::new();
    served.write("page", "a page");
    let dir = served.path().to_str().expect("UTF-8").to_owned();
    let mut scene = Scene::new(&["serve", &dir]);
    scene.dir = served;
    let hoody = scene.start(&kit, 1);
    scene.kept();
    let files = scene.files();
    std::fs::hard_link(&files[0], scene.dir.join("second")).expect("another name");
    std::os::unix::fs::symlink(&files[0], scene.dir.join("third")).expect("a link");
    let name = files[0].file_name().and_then(|name| name.to_str());
    let inside = format!("/hoody-tunnel/{}", name.expect("UTF-8"));
    for path in [&inside, "/hoody-tunnel/", "/second", "/third"] {
        assert_eq!(Talk::port(hoody.port()).get(path).status, 404, "{path}");
    }
    assert_eq!(Talk::port(hoody.port()).get("/page").text(), "a page");
}

#[test]
fn with_a_new_kit_the_ports_are_the_old_ones_and_a_taken_one_costs_only_itself() {
    let web = web();
    let at = free_port();
    let kit = KitPlan::new().port(at).start();
    let target = web.port().to_string();
    let (one, two) = (free_port(), free_port());
    let first = format!("{target}={one}");
    let second = format!("{target}={two}");
    let scene = Scene::new(&[
        "up", "--expose", &first, "--expose", &second, "--pull", &target,
    ]);
    let hoody = scene.start(&kit, 3);
    let (session, pull) = (session_of(&kit), hoody.port_of(2));
    scene.kept();
    let mark = hoody.mark();
    drop(kit);
    hoody.wait_state(mark, "lost", PATIENCE);
    // While the kit is away others take a port that was named, and one that it had picked.
    let squatter = TcpListener::bind(("127.0.0.1", one)).expect("it is free");
    let other = TcpListener::bind(("127.0.0.1", pull)).expect("it is free");
    let kit = KitPlan::new().port(at).start();
    let notice = hoody.wait_event(mark, "notice", PATIENCE);
    let text = notice["message"].as_str().expect("a sentence");
    assert!(
        text.contains(&one.to_string()) && text.contains("tried again"),
        "{text}"
    );
    eventually("the others are bound", PATIENCE, || {
        let total = kit.json("bindings")["total"].as_u64();
        (total == Some(2)).then_some(())
    });
    assert_ne!(session_of(&kit), session);
    assert_eq!(Talk::port(two).get("/").text(), "here");
    drop((squatter, other));
    eventually("it is served again", PATIENCE, || {
        let mut talk = Talk::over(TcpStream::connect(("127.0.0.1", one)).ok()?);
        talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        talk.try_reply(false).filter(|reply| reply.text() == "here")
    });
    // A client that dies now finds the port that it has at last, and not the first one.
    let kept = scene.kept();
    let last = kept["tunnels"][2]["port"].as_u64().expect("a port");
    assert_ne!(last, u64::from(pull));
    scene.kill(&kit, hoody);
    let back = scene.start(&kit, 3);
    assert_eq!(u64::from(back.port_of(2)), last);
}
