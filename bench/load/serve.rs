//! Upstream servers: small HTTP replies on one thread, raw streams and bulk HTTP on a thread each.

use super::Flags;
use super::stream::{BLOCK, discard};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

const LISTENER: Token = Token(usize::MAX);
const REPLY: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";
const LAST_REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: close\r\n\r\nHello, world!";

/// Serves until killed.
pub fn run(flags: &Flags) {
    let stream = listen_blocking(flags.number("stream", 0));
    std::thread::spawn(move || accept(&stream, serve_stream));
    let bulk = listen_blocking(flags.number("bulk", 0));
    std::thread::spawn(move || accept(&bulk, serve_bulk));
    serve_http(flags.number("http", 0)).expect("the HTTP server runs");
}

fn address(port: u64) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, u16::try_from(port).expect("a port")).into()
}

fn listen_blocking(port: u64) -> std::net::TcpListener {
    std::net::TcpListener::bind(address(port)).expect("a free port")
}

fn accept(listener: &std::net::TcpListener, serve: fn(std::net::TcpStream) -> std::io::Result<()>) {
    for conn in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let _ = conn.set_nodelay(true);
            let _ = serve(conn);
        });
    }
}

/// A command of one letter and a count, then that many bytes one way or the other.
fn serve_stream(mut conn: std::net::TcpStream) -> std::io::Result<()> {
    loop {
        let mut command = [0; 9];
        conn.read_exact(&mut command)?;
        let count = u64::from_be_bytes(command[1..].try_into().expect("eight bytes"));
        if command[0] == b'd' {
            send(&mut conn, count)?;
        } else {
            discard(&mut conn, count)?;
            conn.write_all(b"k")?;
        }
    }
}

/// Any request gets a body that never ends.
fn serve_bulk(mut conn: std::net::TcpStream) -> std::io::Result<()> {
    let mut head = [0; 4096];
    if conn.read(&mut head)? > 0 {
        let length = u64::MAX / 4;
        write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
        send(&mut conn, u64::MAX / 4)?;
    }
    Ok(())
}

fn send(conn: &mut std::net::TcpStream, mut left: u64) -> std::io::Result<()> {
    while left > 0 {
        let now = left.min(BLOCK.len() as u64) as usize;
        conn.write_all(&BLOCK[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// One connection of a visitor, or of the tunnel's pool.
struct Conn {
    stream: TcpStream,
    /// How many bytes of an unfinished head were seen at the end of the last read, as text.
    tail: Vec<u8>,
}

fn serve_http(port: u64) -> std::io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address(port))?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut conns: Slab<Conn> = Slab::new();
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let entry = conns.vacant_entry();
                    poll.registry().register(
                        &mut stream,
                        Token(entry.key()),
                        Interest::READABLE,
                    )?;
                    entry.insert(Conn {
                        stream,
                        tail: Vec::new(),
                    });
                }
                continue;
            }
            let key = event.token().0;
            if !conns.get_mut(key).is_some_and(turn) {
                conns.try_remove(key);
            }
        }
    }
}

/// Answers every head that has come whole; tells whether the connection goes on.
fn turn(conn: &mut Conn) -> bool {
    let mut block = [0; 16_384];
    loop {
        let count = match conn.stream.read(&mut block) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        conn.tail.extend_from_slice(&block[..count]);
        let mut answer = Vec::new();
        let mut last = false;
        while let Some(end) = find(&conn.tail, b"\r\n\r\n") {
            last = find(&conn.tail[..end], b"onnection: close").is_some();
            answer.extend_from_slice(if last { LAST_REPLY } else { REPLY });
            conn.tail.drain(..end + 4);
        }
        // Replies this small always fit into the socket's buffer.
        if !answer.is_empty() && conn.stream.write_all(&answer).is_err() {
            return false;
        }
        if last {
            return false;
        }
    }
}

/// Where `needle` begins.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len())
        .position(|window| window == needle)
}
