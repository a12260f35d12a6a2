//! Visitors who may wait for a laptop that is away (`--hold-visitors`).

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::proc::Proc;
use crate::support::tunnel::*;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, eventually};

const WAITING: &str = "hoody_tunnel_held_visitors";
const ENDS: &str = "hoody_tunnel_held_visitors_total";

fn curl(port: u16, args: &[&str]) -> Proc {
    let url = format!("http://127.0.0.1:{port}/");
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "50", "-w", "\n%{http_code}\n", &url]);
    Proc::spawn("curl", command.args(args))
}

#[track_caller]
fn served(mut curl: Proc) -> String {
    let status = curl.wait(PATIENCE);
    assert!(status.success(), "{}", curl.said());
    curl.out.all().join("\n")
}

#[test]
fn curl_waits_for_a_client_that_was_killed_and_is_served_when_it_is_back() {
    let web = Upstream::start(|exchange| {
        let length = exchange.body().len();
        exchange.answer(200, "", format!("{length} bytes").as_bytes());
        true
    });
    let kit = Kit::with(&["--hold-visitors", "50s"]);
    let state = TempDir::new();
    let target = web.port().to_string();
    let start = || {
        let mut command = hoody_at(&kit, &["expose", &target, "--json"]);
        Hoody::from_command(command.env("XDG_STATE_HOME", state.path()), 1)
    };
    let hoody = start();
    let port = hoody.port();
    // Its state names the port once it was served there.
    assert!(served(curl(port, &[])).ends_with("\n200"));
    hoody.proc.signal(libc::SIGKILL);
    kit.has_parked(1);
    let big = state.write("body", vec![b'x'; 3_000_000]);
    let upload = format!("@{}", big.display());
    let waiting = [
        curl(port, &[]),
        curl(port, &["--data-binary", &upload]),
        curl(port, &["-H", "Expect: 100-continue", "-d", "12345"]),
    ];
    kit.settles(WAITING, 3);
    let hoody = start();
    assert_eq!(hoody.port(), port, "the same port");
    let said = waiting.map(served);
    for (said, length) in said.iter().zip([0, 3_000_000, 5]) {
        assert_eq!(*said, format!("{length} bytes\n200"));
    }
    kit.settles(WAITING, 0);
    assert_eq!(kit.metric(ENDS, "served") as u64, 3);
}

#[test]
fn an_upgrade_waits_too_and_who_hangs_up_or_has_waited_long_enough_is_let_go() {
    let kit = Kit::with(&["--hold-visitors", "20s"]);
    let mut laptop = Tunnel::open(&kit);
    let (id, (_, port)) = (laptop.id(), laptop.expose(0));
    laptop.vanish(true);
    kit.has_parked(1);
    let home = kit.permits();
    let mut gone = curl(port, &[]);
    kit.settles(WAITING, 1);
    gone.signal(libc::SIGKILL);
    gone.wait(PATIENCE);
    kit.settles(WAITING, 0);
    kit.all_permits_are_home(home);
    assert_eq!(kit.metric(ENDS, "gone") as u64, 1);
    let mut visitor = Talk::port(port);
    visitor.say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
    visitor.say("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n");
    kit.settles(WAITING, 1);
    let mut laptop = Tunnel::resume(&kit, &id);
    let open = laptop.expect(STREAM_OPEN);
    assert_eq!(open.json()["isUpgrade"], true);
    let fields = json!([["connection", "Upgrade"], ["upgrade", "websocket"]]);
    let head = json!({ "status": 101, "headers": fields, "final": true });
    laptop.frame(RESPONSE_HEAD, open.stream, head.to_string().as_bytes());
    let head = visitor.head().expect("a head");
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    visitor.say("raw");
    assert_eq!(laptop.expect_on(DATA, open.stream).payload, b"raw");
    laptop.frame(DATA, open.stream, b"back");
    assert_eq!(visitor.take(4), b"back");
}

#[test]
fn who_waits_when_the_kit_is_told_to_go_or_the_time_is_over_is_told_to_come_again() {
    let mut kit = Kit::with(&["--hold-visitors", "2s"]);
    let mut laptop = Tunnel::open(&kit);
    let (_, port) = laptop.expose(0);
    laptop.vanish(true);
    kit.has_parked(1);
    let mut visitor = Talk::port(port);
    let reply = visitor.get("/");
    assert_eq!(
        (reply.status, reply.field("retry-after").as_deref()),
        (503, Some("5"))
    );
    assert_eq!(kit.metric(ENDS, "expired") as u64, 1);
    visitor.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    kit.settles(WAITING, 1);
    kit.proc.signal(libc::SIGTERM);
    let reply = visitor.reply(false);
    assert_eq!(
        (reply.status, reply.field("retry-after").as_deref()),
        (503, Some("1"))
    );
    assert!(visitor.at_end());
    let status = eventually("the kit ends", Duration::from_secs(30), || {
        (!kit.proc.running()).then(|| kit.proc.wait(PATIENCE))
    });
    assert_eq!(status.code(), Some(0));
}
