//! A kit on a thread of this process, a relay that can be cut, and a few clients of HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::shared::PATIENCE;
use hoody_tunnel::client::{Events, SessionEvent, TunnelOptions};
use hoody_tunnel::kit::config::Config;
use hoody_tunnel::kit::{Kit, KitNotice, KitOrder};
use hoody_tunnel::reactor::{self, Handle, Options, Reactor, os_entropy};
use hoody_tunnel::wire::control::Secret;

/// A kit that ends when it is dropped.
pub struct RunningKit {
    pub addr: SocketAddr,
    handle: Handle<KitOrder>,
    thread: Option<JoinHandle<()>>,
}

impl RunningKit {
    pub fn start(change: impl FnOnce(&mut Config)) -> RunningKit {
        let mut config = Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            expose_host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            token: Some(Secret::new("t0ken")),
            ..Config::default()
        };
        change(&mut config);
        config.validate().unwrap();
        let kit = Kit::new(config, os_entropy(), reactor::now());
        let mut reactor = Reactor::new(kit, Options::default()).unwrap();
        let handle = reactor.handle();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            reactor
                .run(|notice| {
                    let _ = tell.send(notice);
                })
                .unwrap();
        });
        match told.recv().unwrap() {
            KitNotice::Listening(addr) => RunningKit {
                addr,
                handle,
                thread: Some(thread),
            },
            other => panic!("{other:?}"),
        }
    }

    pub fn options(&self) -> TunnelOptions {
        TunnelOptions::new(format!("ws://{}", self.addr)).token("t0ken")
    }
}

impl Drop for RunningKit {
    fn drop(&mut self) {
        let _ = self.handle.shutdown();
        let _ = self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Forwards TCP connections, until it is told not to.
pub struct Relay {
    pub addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    to: SocketAddr,
    pairs: Mutex<Vec<Pair>>,
}

/// Two connections that are carried into each other.
struct Pair {
    ends: [TcpStream; 2],
    /// Carries nothing, and says nothing about it.
    frozen: Arc<AtomicBool>,
}

impl Relay {
    pub fn start(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            to,
            pairs: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(onward) = TcpStream::connect(shared.to) else {
                    continue;
                };
                let (back, forth) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
                let frozen = Arc::new(AtomicBool::new(false));
                shared.pairs.lock().unwrap().push(Pair {
                    ends: [stream.try_clone().unwrap(), onward.try_clone().unwrap()],
                    frozen: Arc::clone(&frozen),
                });
                let other = Arc::clone(&frozen);
                thread::spawn(move || carry(stream, onward, &frozen));
                thread::spawn(move || carry(forth, back, &other));
            }
        });
        Relay { addr, state }
    }

    /// Breaks every connection that stands.
    pub fn cut(&self) {
        for pair in self.state.pairs.lock().unwrap().drain(..) {
            for stream in pair.ends {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// The connections that stand go silent; new ones work.
    pub fn freeze(&self) {
        for pair in self.state.pairs.lock().unwrap().drain(..) {
            pair.frozen.store(true, Ordering::SeqCst);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, frozen: &AtomicBool) {
    let mut piece = vec![0; 65_536];
    loop {
        let got = from.read(&mut piece);
        if frozen.load(Ordering::SeqCst) {
            // Holds both ends open for longer than any test.
            thread::sleep(Duration::from_secs(600));
            return;
        }
        match got {
            Ok(count @ 1..) if to.write_all(&piece[..count]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Status and body of one request on a connection of its own.
pub fn request(port: u16, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut writer = stream.try_clone().unwrap();
    let body = body.to_vec();
    let sender = thread::spawn(move || {
        let _ = writer.write_all(head.as_bytes());
        let _ = writer.write_all(&body);
    });
    let answer = read_answer(stream);
    sender.join().unwrap();
    answer
}

fn read_answer(stream: TcpStream) -> (u16, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return (0, Vec::new());
    }
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let (mut chunked, mut length) = (false, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        chunked |= line == "transfer-encoding: chunked";
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = Some(value.parse::<usize>().unwrap());
        }
    }
    let mut body = Vec::new();
    if let Some(length) = length {
        body.resize(length, 0);
        reader.read_exact(&mut body).unwrap();
    } else if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..]).unwrap();
            reader.read_line(&mut String::new()).unwrap();
            if size == 0 {
                break;
            }
        }
    } else {
        let _ = reader.read_to_end(&mut body);
    }
    (status, body)
}

pub fn get(port: u16, target: &str) -> (u16, Vec<u8>) {
    request(port, "GET", target, b"")
}

/// Waits for an event, and gives how long that took.
pub fn wait_for(events: &Events, wanted: impl Fn(&SessionEvent) -> bool) -> Duration {
    let since = Instant::now();
    let mut seen = Vec::new();
    while since.elapsed() < PATIENCE {
        let Some(event) = events.recv_timeout(Duration::from_millis(100)) else {
            continue;
        };
        if wanted(&event) {
            return since.elapsed();
        }
        seen.push(event);
    }
    panic!("it did not happen; these did: {seen:#?}");
}

/// A TCP service that handles each connection on a thread.
pub fn service(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle(stream));
        }
    });
    addr
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}
