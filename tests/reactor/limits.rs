//! Back-pressure, crowds, and running out of descriptors.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hoody_tunnel::machine::{DialTarget, Ended, Inside, Stir};
use hoody_tunnel::reactor::{Options, process};

use crate::child;
use crate::relay::Running;
use crate::remote::{Notice, Order, Remote, Rig};
use crate::shared::becomes;

#[test]
fn a_paused_conn_is_not_read_until_it_is_woken() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Pause(key, true));
    peer.write_all(&[5; 10_000]).unwrap();
    assert!(rig.is_quiet());
    // More edges while paused must not change that.
    peer.write_all(&[6; 10_000]).unwrap();
    assert!(rig.is_quiet());
    rig.order(Order::Pause(key, false));
    assert_eq!(rig.data(key, 20_000)[9_999..10_001], [5, 6]);
    peer.write_all(b"again").unwrap();
    assert_eq!(rig.data(key, 5), b"again");
}

#[test]
fn a_fin_that_came_during_a_pause_is_told_after_the_bytes() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    rig.order(Order::Pause(key, true));
    peer.write_all(&[5; 100]).unwrap();
    assert!(rig.is_quiet());
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(rig.next(), Notice::FinAhead(other) if other == key));
    // It is told once, and a reset behind it all the same.
    rig.order(Order::Pause(key, true));
    assert!(rig.is_quiet());
    rig.order(Order::Pause(key, false));
    assert_eq!(rig.data_to_fin(key), [5; 100]);
}

#[test]
fn a_peer_that_does_not_read_holds_up_nobody_else() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut slow, slow_key) = rig.accept_from(addr);
    let (mut quick, quick_key) = rig.accept_from(addr);
    rig.order(Order::Send(slow_key, vec![1; 30_000_000]));
    for _ in 0..100 {
        quick.write_all(b"ping").unwrap();
        assert_eq!(rig.data(quick_key, 4), b"ping");
        rig.order(Order::Send(quick_key, b"pong".to_vec()));
        quick.read_exact(&mut [0; 4]).unwrap();
    }
    let mut all = vec![0; 30_000_000];
    slow.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 1));
}

#[test]
fn space_of_one_byte_loses_nothing() {
    let mut machine = Remote::new();
    machine.space = 1;
    let rig = Rig::with(machine, Options::default());
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    let sent: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    peer.write_all(&sent).unwrap();
    drop(peer);
    assert_eq!(rig.data_to_fin(key), sent);
}

#[test]
fn a_thousand_conns_at_once_are_all_served() {
    assert!(process::raise_descriptor_limit(8192).unwrap() >= 4500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = DialTarget::Addr(listener.local_addr().unwrap());
    thread::spawn(move || {
        // Echoes one message of four bytes on each connection, then waits for its end.
        for stream in listener.incoming().take(1000) {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    let relay = Running::new(target, Options::default());
    let mut visitors: Vec<TcpStream> = (0..1000)
        .map(|_| TcpStream::connect(relay.addr).unwrap())
        .collect();
    for (n, visitor) in visitors.iter_mut().enumerate() {
        visitor.write_all(&(n as u32).to_be_bytes()).unwrap();
    }
    for (n, visitor) in visitors.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        visitor.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, (n as u32).to_be_bytes());
    }
    drop(visitors);
    relay.wait_until_empty();
}

#[test]
fn no_descriptor_is_left_behind_however_connections_end() {
    if !child::is_child("limits::no_descriptor_is_left_behind_however_connections_end") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = DialTarget::Addr(listener.local_addr().unwrap());
    let relay = Running::new(target, Options::default());
    let before = process::open_descriptors().unwrap();
    for round in 0..600 {
        let mut visitor = TcpStream::connect(relay.addr).unwrap();
        let (mut upstream, _) = listener.accept().unwrap();
        visitor.write_all(b"question").unwrap();
        match round % 4 {
            // The upstream leaves the question unread: a reset.
            0 => drop(upstream),
            1 => drop(visitor),
            2 => {
                upstream.read_exact(&mut [0; 8]).unwrap();
                upstream.write_all(&[1; 100_000]).unwrap();
                // The visitor leaves the answer unread.
                drop(visitor);
            }
            _ => {
                upstream.read_exact(&mut [0; 8]).unwrap();
                drop(upstream);
                assert_eq!(visitor.read(&mut [0; 8]).unwrap(), 0);
            }
        }
    }
    relay.wait_until_empty();
    let open = || process::open_descriptors().unwrap();
    // What was closed in the last turn goes before the loop waits again.
    becomes("the open descriptors", before, open);
    drop(listener);
    // From here on every dial is refused.
    for _ in 0..100 {
        // The reset may come before connect(2) has returned.
        let refused = match TcpStream::connect(relay.addr) {
            Ok(mut visitor) => visitor.read(&mut [0; 8]).map(|_| ()),
            Err(error) => Err(error),
        };
        let kind = refused.map_err(|error| error.kind());
        assert_eq!(
            kind,
            Err(ErrorKind::ConnectionReset),
            "a refusal is a reset"
        );
    }
    relay.wait_until_empty();
    becomes("the open descriptors", before - 1, open);
}

#[test]
fn without_descriptors_accepting_pauses_and_goes_on_when_asked() {
    if !child::is_child("limits::without_descriptors_accepting_pauses_and_goes_on_when_asked") {
        return;
    }
    let rig = Rig::new();
    let (listener, addr) = rig.listen("127.0.0.1:0");
    let visitors: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for _ in 0..20 {
        assert!(matches!(rig.next(), Notice::Accepted(..)));
    }
    rig.order(Order::Accept(listener, false));
    let more: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(addr).unwrap()).collect();
    // From here on every new descriptor is refused.
    let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    child::lower_descriptor_limit(lowest_free as u64);
    rig.order(Order::Accept(listener, true));
    match rig.next() {
        Notice::AcceptFailed(at, why) => {
            assert_eq!(at, listener);
            assert_eq!(why.text, "Too many open files");
        }
        other => panic!("{other:?}"),
    }
    // Paused means silent: no spinning.
    assert!(rig.is_quiet());
    rig.order(Order::Accept(listener, true));
    assert!(matches!(rig.next(), Notice::AcceptFailed(..)));
    // A dial says it too.
    let key = rig.dial(DialTarget::Addr(addr));
    assert!(
        matches!(rig.ended(key), Ended::Failed(why) if why.text.ends_with("Too many open files"))
    );
    drop(visitors);
    let mut ended = 0;
    while ended < 20 {
        if let Notice::Fin(key) = rig.next() {
            rig.order(Order::Close(key, hoody_tunnel::machine::CloseHow::Clean));
            ended += 1;
        }
    }
    rig.order(Order::Accept(listener, true));
    for _ in 0..4 {
        assert!(matches!(rig.next(), Notice::Accepted(..)));
    }
    drop(more);
}

/// Says everything that it heard backwards, once it has heard the end.
#[derive(Debug, Default)]
struct Backwards(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    ended: bool,
}

impl Inside for Backwards {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut heard = self.0.lock().unwrap();
        if !heard.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        // In small pieces: a short read means nothing here.
        let count = heard.bytes.len().min(space.len()).min(5000);
        let rest = heard.bytes.len() - count;
        for (octet, heard) in space.iter_mut().zip(heard.bytes.drain(rest..).rev()) {
            *octet = heard;
        }
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut heard = self.0.lock().unwrap();
        let count = bytes.len().min(7000);
        heard.bytes.extend(&bytes[..count]);
        Ok(count)
    }

    fn finish(&mut self) {}

    fn introduce(&mut self, _visitor: Option<std::net::IpAddr>) {}
}

#[test]
fn connections_inside_the_process_are_stirred_by_other_threads() {
    let backwards = |stir: Stir| -> Box<dyn Inside> {
        let side = Backwards::default();
        let heard = Arc::clone(&side.0);
        thread::spawn(move || {
            // It takes its time: nothing but a stir says that there are bytes, and room.
            let mut before = 0;
            loop {
                thread::sleep(Duration::from_millis(10));
                let mut heard = heard.lock().unwrap();
                if heard.bytes.len() > 390_000 && heard.bytes.len() == before {
                    heard.ended = true;
                    return stir();
                }
                before = heard.bytes.len();
                drop(heard);
                stir();
            }
        });
        Box::new(side)
    };
    let options = Options {
        handlers: vec![Arc::new(backwards)],
        ..Options::default()
    };
    let rig = Rig::with(Remote::new(), options);
    for round in 0..3 {
        let key = rig.connect(DialTarget::Handler(0));
        let sent: Vec<u8> = (0..400_000 + round).map(|n| n as u8).collect();
        rig.order(Order::Send(key, sent.clone()));
        let reversed: Vec<u8> = sent.into_iter().rev().collect();
        assert_eq!(rig.data_to_fin(key), reversed);
    }
    let key = rig.dial(DialTarget::Handler(2));
    assert!(matches!(rig.ended(key), Ended::Failed(why) if why.text == "there is no handler 2"));
}
