//! A kit that is told to go: what runs may finish, and nobody new is refused while it does.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan};
use crate::support::tunnel::*;
use crate::support::{PATIENCE, eventually};

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
        let _served = laptop.visited(port);
        kit.proc.signal(libc::SIGTERM);
        assert_eq!(kit.proc.wait(PATIENCE).code(), Some(0), "{drain}");
        assert!(kit.proc.said().contains("streams cut: 1"), "{drain}");
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
