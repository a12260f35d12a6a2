//! How connections end: FIN either way, RST either way, and what was sent before.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use hoody_tunnel::machine::{CloseHow, Command, DialTarget, Ended};
use hoody_tunnel::reactor::Options;

use crate::relay::Running;
use crate::remote::{Notice, Order, Rig};
use crate::shared::{PATIENCE, eventually};

/// Has dropping `stream` send RST.
fn reset_on_drop(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer and the length describe `linger`, which lives through the call.
    let outcome = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(outcome, 0);
}

/// A visitor and an upstream with a relay between them, or with nothing.
fn pair(through_relay: bool) -> (TcpStream, TcpStream, Option<Running>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let relay = through_relay.then(|| Running::new(DialTarget::Addr(addr), Options::default()));
    let addr = relay.as_ref().map_or(addr, |relay| relay.addr);
    let visitor = TcpStream::connect(addr).unwrap();
    let (upstream, _) = listener.accept().unwrap();
    for stream in [&visitor, &upstream] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (visitor, upstream, relay)
}

/// Runs `scenario` from both sides, directly and through a relay; all four must look the same.
fn same_as_direct(scenario: impl Fn(TcpStream, TcpStream) -> String) {
    for swapped in [false, true] {
        let outcome = [false, true].map(|through_relay| {
            let (a, b, relay) = pair(through_relay);
            let outcome = match swapped {
                false => scenario(a, b),
                true => scenario(b, a),
            };
            if let Some(relay) = relay {
                relay.wait_until_empty();
            }
            outcome
        });
        assert_eq!(outcome[0], outcome[1], "swapped: {swapped}");
    }
}

/// What is read up to the end, and which end it was.
fn read_out(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 65_536];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return format!("{} bytes, then FIN", bytes.len()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => return format!("{} bytes, then {:?}", bytes.len(), error.kind()),
        }
    }
}

#[test]
fn fin_then_data_back_then_fin() {
    same_as_direct(|mut a, mut b| {
        a.write_all(b"question").unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        let asked = read_out(&mut b);
        thread::sleep(Duration::from_millis(20));
        b.write_all(&[1; 300_000]).unwrap();
        b.shutdown(Shutdown::Write).unwrap();
        asked + " / " + &read_out(&mut a)
    });
}

#[test]
fn fin_without_a_byte_reaches_the_other_side() {
    same_as_direct(|mut a, mut b| {
        a.shutdown(Shutdown::Write).unwrap();
        let first = read_out(&mut b);
        drop(b);
        first + " / " + &read_out(&mut a)
    });
}

#[test]
fn data_and_close_at_once_arrive_whole() {
    same_as_direct(|mut a, mut b| {
        let reader = thread::spawn(move || read_out(&mut b));
        a.write_all(&[1; 2_000_000]).unwrap();
        drop(a);
        reader.join().unwrap()
    });
}

#[test]
fn a_reset_reaches_the_other_side_as_a_reset() {
    same_as_direct(|a, mut b| {
        reset_on_drop(&a);
        drop(a);
        read_out(&mut b)
    });
}

#[test]
fn a_dial_that_is_reset_before_it_is_seen_to_stand_is_a_reset() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let conn = hoody_tunnel::table::Key::unpack(1 << 32 | 9);
    let target = DialTarget::Addr(listener.local_addr().unwrap());
    let how = CloseHow::Reset;
    rig.order(Order::Raw(vec![
        Command::Dial { conn, target },
        Command::Close { conn, how },
    ]));
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(read_out(&mut peer), "0 bytes, then ConnectionReset");
}

#[test]
fn a_reset_after_fin_reaches_the_other_side_as_a_reset() {
    same_as_direct(|a, mut b| {
        a.shutdown(Shutdown::Write).unwrap();
        let first = read_out(&mut b);
        reset_on_drop(&a);
        drop(a);
        // After its FIN nothing is read any more: the reset shows when something is written.
        let error = eventually("a write fails", PATIENCE, || b.write_all(b"more").err());
        let kind = error.kind();
        let broken = matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        format!("{first} / {broken}")
    });
}

#[test]
fn both_sides_at_once_talk_and_finish() {
    same_as_direct(|mut a, mut b| {
        let mut writers = Vec::new();
        for stream in [&a, &b] {
            let mut stream = stream.try_clone().unwrap();
            writers.push(thread::spawn(move || {
                stream.write_all(&[1; 3_000_000]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            }));
        }
        let reader = thread::spawn(move || read_out(&mut b));
        let first = read_out(&mut a);
        first + " / " + &reader.join().unwrap()
    });
}

#[test]
fn a_reset_is_told_even_while_nobody_reads() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Pause(key, true));
    peer.write_all(&[1; 1000]).unwrap();
    assert!(rig.is_quiet());
    reset_on_drop(&peer);
    drop(peer);
    assert_eq!(rig.ended(key), Ended::Reset);
}

#[test]
fn a_reset_is_told_although_the_machine_lends_no_space() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (peer, key) = rig.accept_from(addr);
    rig.order(Order::Pause(key, true));
    assert!(rig.is_quiet());
    reset_on_drop(&peer);
    drop(peer);
    assert_eq!(rig.ended(key), Ended::Reset);
}

#[test]
fn what_a_peer_said_before_its_reset_is_heard_though_writing_fails_first() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    // More than the buffers take, so that a write waits.
    rig.order(Order::Send(key, vec![1; 20_000_000]));
    peer.read_exact(&mut [0; 100]).unwrap();
    assert!(rig.is_quiet());
    rig.order(Order::Nap(Duration::from_millis(300)));
    thread::sleep(Duration::from_millis(100));
    peer.write_all(b"413 too large").unwrap();
    // With bytes unread, close sends RST.
    drop(peer);
    assert_eq!(rig.data(key, 13), b"413 too large");
    assert_eq!(rig.ended(key), Ended::Reset);
}

#[test]
fn a_clean_close_is_a_fin_even_with_bytes_unread() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Pause(key, true));
    peer.write_all(&[1; 50_000]).unwrap();
    assert!(rig.is_quiet());
    rig.order(Order::Send(key, vec![2; 1000]));
    assert!(rig.is_quiet());
    rig.order(Order::Close(key, CloseHow::Clean));
    assert_eq!(read_out(&mut peer), "1000 bytes, then FIN");
}

#[test]
fn a_reset_close_is_a_reset() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Close(key, CloseHow::Reset));
    assert_eq!(read_out(&mut peer), "0 bytes, then ConnectionReset");
}

#[test]
fn finish_comes_after_what_was_to_be_sent() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Send(key, vec![3; 5_000_000]));
    rig.order(Order::Finish(key));
    assert_eq!(read_out(&mut peer), "5000000 bytes, then FIN");
    peer.write_all(b"and back").unwrap();
    assert_eq!(rig.data(key, 8), b"and back");
}

#[test]
fn urgent_data_does_not_strand_what_follows_it() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Pause(key, true));
    peer.write_all(b"before").unwrap();
    let oob = *b"!";
    // SAFETY: the pointer and the length describe `oob`, which lives through the call.
    let sent = unsafe { libc::send(peer.as_raw_fd(), oob.as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    peer.write_all(b"after").unwrap();
    assert!(rig.is_quiet());
    rig.order(Order::Pause(key, false));
    assert_eq!(rig.data(key, 11), b"beforeafter");
}

#[test]
fn a_fin_behind_data_in_one_edge_is_not_missed() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    for _ in 0..200 {
        let mut peer = TcpStream::connect(addr).unwrap();
        peer.write_all(b"bye").unwrap();
        drop(peer);
        let Notice::Accepted(key, _) = rig.next() else {
            panic!("not accepted");
        };
        assert_eq!(rig.data_to_fin(key), b"bye");
        rig.order(Order::Close(key, CloseHow::Clean));
    }
}
