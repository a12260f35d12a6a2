//! Whether the peer takes anything, of which a socket that is full tells little by itself.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use hoody_tunnel::machine::{CloseHow, Command, ConnKey};

use crate::remote::{Notice, Order, Rig};
use crate::shared::PATIENCE;

/// A connection whose peer reads nothing, and whose socket is full.
fn full() -> (Rig, TcpStream, ConnKey) {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (peer, key) = rig.accept_from(addr);
    rig.order(Order::Send(key, vec![7; 64 << 20]));
    (rig, peer, key)
}

/// What the system holds once that stays the same.
fn settled(rig: &Rig, key: ConnKey) -> usize {
    let until = Instant::now() + PATIENCE;
    let mut before = 0;
    loop {
        let held = held(rig, key);
        if held != 0 && held == before {
            return held;
        }
        assert!(Instant::now() < until, "it never fills");
        before = held;
        thread::sleep(Duration::from_millis(200));
    }
}

fn held(rig: &Rig, key: ConnKey) -> usize {
    rig.order(Order::Raw(vec![Command::Probe { conn: key }]));
    match rig.next() {
        Notice::Holds(conn, bytes) if conn == key => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn what_the_peer_has_not_taken_is_told() {
    let (rig, mut peer, key) = full();
    let most = settled(&rig, key);
    // Nothing is left to write once all was sent.
    let mut rest = vec![0; 64 << 20];
    peer.read_exact(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == 7));
    let until = Instant::now() + PATIENCE;
    while held(&rig, key) > 0 {
        assert!(Instant::now() < until, "what was read is held, of {most}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn of_a_connection_that_is_gone_or_does_not_stand_nothing_is_told() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (_peer, key) = rig.accept_from(addr);
    rig.order(Order::Close(key, CloseHow::Clean));
    rig.order(Order::Raw(vec![Command::Probe { conn: key }]));
    assert!(rig.is_quiet());
}

#[test]
fn a_probe_and_a_close_in_one_drain_leave_nothing_to_tell() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (_peer, key) = rig.accept_from(addr);
    let how = CloseHow::Clean;
    rig.order(Order::Raw(vec![
        Command::Probe { conn: key },
        Command::Close { conn: key, how },
    ]));
    assert!(rig.is_quiet());
}
