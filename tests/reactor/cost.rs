//! What traffic costs: no system call that a request does not need, and enough bytes a second.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use hoody_tunnel::machine::DialTarget;
use hoody_tunnel::reactor::Options;

use crate::child;
use crate::relay::Running;

/// Echoes what comes on each connection, one thread each.
fn echo() -> DialTarget {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = DialTarget::Addr(listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 65_536];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    });
    target
}

const ROUNDS: usize = 500;

#[test]
#[cfg(target_os = "linux")]
fn a_relayed_round_trip_costs_a_wait_a_read_and_a_write_each_way() {
    let name = "cost::a_relayed_round_trip_costs_a_wait_a_read_and_a_write_each_way";
    let Some(calls) = child::system_calls_of_reactor(name) else {
        let relay = Running::new(echo(), Options::default());
        let mut visitor = TcpStream::connect(relay.addr).unwrap();
        visitor.set_nodelay(true).unwrap();
        for _ in 0..ROUNDS {
            visitor.write_all(b"ping").unwrap();
            visitor.read_exact(&mut [0; 4]).unwrap();
        }
        drop(visitor);
        return relay.wait_until_empty();
    };
    // Two hops, and three calls each. What else there is belongs to the start and the end.
    let needed = ROUNDS * 2;
    for call in ["epoll_wait", "recvfrom", "sendto"] {
        let count = calls.iter().filter(|seen| *seen == call).count();
        let range = needed..needed + 40;
        assert!(range.contains(&count), "{count} of {call}");
    }
    let total = calls.len();
    assert!(total < needed * 3 + 200, "{total} calls: {calls:?}");
}

/// Bytes a second through two relays in a row. Run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for a quiet machine"]
fn bulk_through_two_relays() {
    const PIECES: usize = 4 * 16_384;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = DialTarget::Addr(listener.local_addr().unwrap());
    let second = Running::new(sink, Options::default());
    let first = Running::new(DialTarget::Addr(second.addr), Options::default());
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 65_536];
        let mut total = 0;
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            total += count;
        }
        total
    });
    let start = Instant::now();
    let mut visitor = TcpStream::connect(first.addr).unwrap();
    let piece = vec![1; 65_536];
    for _ in 0..PIECES {
        visitor.write_all(&piece).unwrap();
    }
    drop(visitor);
    let total = reader.join().unwrap();
    assert_eq!(total, PIECES * 65_536);
    let rate = total as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("{rate:.2} GB/s through two relays");
}
