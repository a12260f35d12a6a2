//! Visitors that ask for small replies, many at once on one thread.

use super::bytes::find;
use super::{Flags, percentile};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const KEEP: &[u8] = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CLOSE: &[u8] = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The end of every reply: its body.
const BODY: &[u8] = b"Hello, world!";

/// One visitor: at most one request is under way.
struct Visitor {
    stream: TcpStream,
    got: Vec<u8>,
    asked: Option<Instant>,
}

/// `--conns` visitors for `--seconds`, with `--close 1` a connection for each request.
pub fn run(flags: &Flags) {
    let to: SocketAddr = flags.text("to").parse().expect("--to is an address");
    let close = flags.number("close", 0) == 1;
    let seconds = flags.fraction("seconds", 3.0);
    let mut load = Load {
        poll: Poll::new().expect("epoll"),
        visitors: Vec::new(),
        to,
        close,
        times: Vec::with_capacity(1 << 20),
        failed: 0,
    };
    for index in 0..flags.number("conns", 64) as usize {
        let visitor = load.dial(index);
        load.visitors.push(visitor);
    }
    let start = Instant::now();
    let warm = start + Duration::from_secs_f64(seconds / 5.0);
    let end = start + Duration::from_secs_f64(seconds);
    load.until(warm);
    load.times.clear();
    let start = Instant::now();
    load.until(end);
    let rate = load.times.len() as f64 / start.elapsed().as_secs_f64();
    load.times.sort_unstable();
    println!(
        "{{\"rps\": {rate:.0}, \"p50_us\": {}, \"p99_us\": {}, \"failed\": {}}}",
        percentile(&load.times, 0.5),
        percentile(&load.times, 0.99),
        load.failed
    );
}

struct Load {
    poll: Poll,
    visitors: Vec<Visitor>,
    to: SocketAddr,
    close: bool,
    /// How long each request took, in microseconds.
    times: Vec<u64>,
    failed: u64,
}

impl Load {
    fn dial(&mut self, index: usize) -> Visitor {
        let mut stream = TcpStream::connect(self.to).expect("a socket");
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(index), interest)
            .expect("epoll");
        let _ = stream.set_nodelay(true);
        Visitor {
            stream,
            got: Vec::new(),
            asked: None,
        }
    }

    fn until(&mut self, end: Instant) {
        let mut events = Events::with_capacity(1024);
        while Instant::now() < end {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(50)))
                .expect("epoll");
            for event in &events {
                self.turn(event.token().0);
            }
        }
    }

    fn turn(&mut self, index: usize) {
        let mut block = [0; 4096];
        loop {
            let visitor = &mut self.visitors[index];
            if visitor.asked.is_none() {
                // Before the write: on a busy machine the reply can be there when it returns.
                let now = Instant::now();
                match visitor.stream.write(if self.close { CLOSE } else { KEEP }) {
                    Ok(_) => visitor.asked = Some(now),
                    // Not connected yet: the next event tells.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(error) if error.kind() == ErrorKind::NotConnected => return,
                    Err(_) => return self.again(index, true),
                }
            }
            match visitor.stream.read(&mut block) {
                Ok(0) => {
                    let done = visitor.got.ends_with(BODY);
                    return self.again(index, !done);
                }
                Ok(count) => {
                    visitor.got.extend_from_slice(&block[..count]);
                    if visitor.got.ends_with(BODY) && find(&visitor.got, b"\r\n\r\n").is_some() {
                        let asked = visitor.asked.take().expect("a reply answers a request");
                        self.times.push(asked.elapsed().as_micros() as u64);
                        if !visitor.got.starts_with(b"HTTP/1.1 200") {
                            self.failed += 1;
                        }
                        if self.close {
                            return self.again(index, false);
                        }
                        visitor.got.clear();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.again(index, true),
            }
        }
    }

    fn again(&mut self, index: usize, failed: bool) {
        self.failed += u64::from(failed);
        self.visitors[index] = self.dial(index);
    }
}

/// One small request every `--every` milliseconds on one kept connection.
pub fn paced(flags: &Flags) {
    let every = Duration::from_secs_f64(flags.fraction("every", 100.0) / 1e3);
    let end = Instant::now() + Duration::from_secs_f64(flags.fraction("seconds", 10.0));
    let mut stream = std::net::TcpStream::connect(flags.text("to")).expect("--to answers");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a TCP socket");
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        stream.write_all(KEEP).expect("sent");
        let (mut got, mut block) = (Vec::new(), [0; 4096]);
        while !got.ends_with(BODY) {
            let count = stream.read(&mut block).expect("a reply");
            assert!(
                count > 0,
                "the connection ended: {:?}",
                String::from_utf8_lossy(&got)
            );
            got.extend_from_slice(&block[..count]);
        }
        times.push(start.elapsed().as_micros() as u64);
        std::thread::sleep(every);
    }
    times.sort_unstable();
    println!(
        "{{\"requests\": {}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}}}",
        times.len(),
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        times.last().copied().unwrap_or(0)
    );
}
