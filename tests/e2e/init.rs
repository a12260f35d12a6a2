//! The kit under whoever starts it: as the first process of a container, and under systemd.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::http::Talk;
use crate::support::proc::{Proc, bash, kit_program};
use crate::support::tunnel::*;
use crate::support::{PATIENCE, TempDir, eventually, free_port};

/// A kit that is the first process of a namespace of its own.
struct First {
    /// The program that made the namespace, and ends with the kit.
    unshare: Proc,
    /// The kit's number outside.
    pid: i32,
    port: u16,
}

impl First {
    #[track_caller]
    fn start() -> First {
        let port = free_port();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args([kit_program(), "--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--expose-host", "127.0.0.1", "--allow-host", "*"]);
        command.env_remove("HOODY_TUNNEL_TOKEN");
        let mut unshare = Proc::spawn("unshare", &mut command);
        let pid = eventually("the kit listens", PATIENCE, || {
            assert!(unshare.running(), "run these as root\n{}", unshare.said());
            let listens = unshare.said().contains("listening on");
            children(unshare.pid() as i32)
                .first()
                .copied()
                .filter(|_| listens)
        });
        First { unshare, pid, port }
    }

    fn tunnel(&self) -> Tunnel {
        let upgrade = Upgrade {
            protocols: Some("hoody-tunnel.v1"),
            fields: &[],
        };
        let local = std::net::Ipv4Addr::LOCALHOST;
        Tunnel::upgrade_at(local, self.port, &upgrade).expect("a tunnel")
    }

    /// Its number inside, as it says itself.
    fn says_pid(&self) -> u64 {
        let reply = Talk::port(self.port).get("/api/v1/tunnel/health");
        let json: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        json["pid"].as_u64().expect("a pid")
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes two numbers; the kit is this test's own.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// Leaves processes behind whose parents have gone, and waits until nothing is left of them.
    #[track_caller]
    fn reaps(&self) {
        let before = children(self.pid);
        let pid = self.pid;
        let orphans = "for n in 1 2 3 4 5; do (sleep 1 &) ; done > /dev/null 2>&1";
        bash(20, &format!("nsenter -t {pid} -p -m bash -c '{orphans}'"));
        let left = || children(pid).into_iter().filter(|it| !before.contains(it));
        eventually("they are this kit's", PATIENCE, || {
            (left().count() == 5).then_some(())
        });
        eventually("nothing is left of them", PATIENCE, || {
            (left().count() == 0).then_some(())
        });
    }
}

/// The children of a process, those that ended and that nobody asked about among them.
fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all = text.split_whitespace().map(str::parse);
    all.map(|pid| pid.expect("a number")).collect()
}

#[test]
fn the_first_process_of_a_container_reaps_hands_over_and_ends_with_its_successor() {
    let mut kit = First::start();
    assert_eq!(kit.says_pid(), 1);
    kit.reaps();
    let mut laptop = kit.tunnel();
    laptop.greet(serde_json::json!({}));
    let (id, (_, port)) = (laptop.id(), laptop.expose(0));
    let (mut visitor, stream) = laptop.visited(port);
    kit.signal(libc::SIGUSR2);
    assert_eq!(laptop.expect(GOAWAY).json()["final"], false);
    let next = kit.says_pid();
    assert!(next > 1, "the successor answers, and is {next}");
    laptop.respond(stream, 200, b"old");
    assert_eq!(visitor.reply(false).text(), "old");
    let mut back = kit.tunnel();
    back.greet(serde_json::json!({ "resume": { "sessionId": id } }));
    assert_eq!(back.hello["resumed"], true);
    let (mut visitor, stream) = back.visited(port);
    back.respond(stream, 200, b"new");
    assert_eq!(visitor.reply(false).text(), "new");
    // The one before stays for the others, and does nothing else.
    kit.reaps();
    assert!(kit.unshare.running());
    kit.signal(libc::SIGTERM);
    assert_eq!(back.expect(GOAWAY).json()["final"], false);
    back.vanish(false);
    assert_eq!(kit.unshare.wait(PATIENCE).code(), Some(0));
}

#[test]
fn the_first_process_of_a_container_drains_and_ends_when_it_is_told_to() {
    let mut kit = First::start();
    let mut laptop = kit.tunnel();
    laptop.greet(serde_json::json!({}));
    let (_, port) = laptop.expose(0);
    let (mut visitor, stream) = laptop.visited(port);
    kit.signal(libc::SIGTERM);
    laptop.expect(GOAWAY);
    assert_eq!(Talk::port(port).get("/").status, 503);
    laptop.respond(stream, 200, b"to its end");
    assert_eq!(visitor.reply(false).text(), "to its end");
    assert_eq!(kit.unshare.wait(PATIENCE).code(), Some(0));
}

/// What a manager of services hears next.
#[track_caller]
fn heard(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut space = [0; 512];
    let count = manager.recv(&mut space).expect("it is told something");
    String::from_utf8_lossy(&space[..count]).into_owned()
}

#[test]
fn systemd_hears_that_the_kit_is_ready_and_who_it_is_after_an_upgrade() {
    let dir = TempDir::new();
    let path = dir.join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    told_to(&manager, &path);
    // A name that is in no directory.
    let name = format!("hoody-{}", std::process::id());
    use std::os::linux::net::SocketAddrExt;
    let addr = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&addr).expect("a socket");
    told_to(&manager, Path::new(&format!("@{name}")));
}

fn told_to(manager: &UnixDatagram, at: &Path) {
    let port = free_port();
    let mut command = Command::new(kit_program());
    command.args([
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--allow-host",
        "*",
    ]);
    command
        .env_remove("HOODY_TUNNEL_TOKEN")
        .env("NOTIFY_SOCKET", at);
    let mut kit = Proc::spawn("kit", &mut command);
    assert_eq!(heard(manager), "READY=1");
    let before = kit.pid();
    kit.signal(libc::SIGUSR2);
    let words = [heard(manager), heard(manager)].join("\n");
    let main = words.lines().find_map(|line| line.strip_prefix("MAINPID="));
    let main: u32 = main.expect("it is told").parse().expect("a number");
    assert_ne!(main, before);
    assert_eq!(words.matches("READY=1").count(), 2, "{words}");
    eventually("the kit before has gone", PATIENCE, || {
        (!kit.running()).then_some(())
    });
    let reply = Talk::port(port).get("/api/v1/tunnel/health");
    assert!(
        reply.text().contains(&format!("\"pid\":{main},")),
        "{}",
        reply.text()
    );
    // SAFETY: kill(2) takes two numbers; the successor is this test's own.
    unsafe { libc::kill(main as i32, libc::SIGTERM) };
    eventually("it has gone", Duration::from_secs(20), || {
        (!Path::new(&format!("/proc/{main}")).exists()).then_some(())
    });
}
