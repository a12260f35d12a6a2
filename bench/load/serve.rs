//! Upstream servers: small HTTP replies on one thread, bulk HTTP on another, raw streams on a thread
//! each.
//!
//! A thread for each download would measure the scheduler: a thousand that wake at once keep the
//! small replies' thread waiting.

use super::Flags;
use super::bytes::{BLOCK, discard, find};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

const LISTENER: Token = Token(usize::MAX);
const REPLY: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";
const LAST_REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: close\r\n\r\nHello, world!";

/// Serves until killed.
pub fn run(flags: &Flags) {
    let stream = listen_blocking(flags.number("stream", 0));
    std::thread::spawn(move || accept(&stream, serve_stream));
    let bulk = flags.number("bulk", 0);
    let both = Interest::READABLE | Interest::WRITABLE;
    std::thread::spawn(move || serve(bulk, both, send_bulk).expect("the bulk server runs"));
    serve(flags.number("http", 0), Interest::READABLE, reply).expect("the HTTP server runs");
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
    /// Its body has begun.
    begun: bool,
}

/// What a connection wants after its turn.
#[derive(PartialEq)]
enum After {
    /// The next readiness.
    Wait,
    /// Another turn, when the others had theirs.
    Again,
    /// To be closed.
    Close,
}

/// Keeps what the kernel holds for each connection small. Left to itself it grows to megabytes, and a
/// thousand downloads that are read slowly then bring TCP's memory of the whole machine to its
/// bound: what is measured from there on are lost packets.
fn bound_send_buffers(listener: &TcpListener) {
    let bytes: libc::c_int = 128 * 1024;
    // SAFETY: `bytes` lives through the call and has the size that is told.
    let outcome = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(outcome, 0, "SO_SNDBUF can be set");
}

type Turn = fn(&mut Conn) -> std::io::Result<After>;

fn serve(port: u64, interest: Interest, turn: Turn) -> std::io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address(port))?;
    bound_send_buffers(&listener);
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
                    let token = Token(entry.key());
                    poll.registry().register(&mut stream, token, interest)?;
                    let (tail, begun) = (Vec::new(), false);
                    entry.insert(Conn {
                        stream,
                        tail,
                        begun,
                    });
                }
                continue;
            }
            let Some(conn) = conns.get_mut(event.token().0) else {
                continue;
            };
            match turn(conn).unwrap_or(After::Close) {
                After::Wait => {}
                // Asked for anew, readiness is told anew.
                After::Again => {
                    poll.registry()
                        .reregister(&mut conn.stream, event.token(), interest)?
                }
                After::Close => drop(conns.try_remove(event.token().0)),
            }
        }
    }
}

/// Answers every head that has come whole.
fn reply(conn: &mut Conn) -> std::io::Result<After> {
    let mut block = [0; 16_384];
    loop {
        let count = match conn.stream.read(&mut block) {
            Ok(0) => return Ok(After::Close),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(After::Wait),
            Err(error) => return Err(error),
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
        conn.stream.write_all(&answer)?;
        if last {
            return Ok(After::Close);
        }
    }
}

/// Any request gets a body that never ends.
fn send_bulk(conn: &mut Conn) -> std::io::Result<After> {
    let mut head = [0; 4096];
    loop {
        match conn.stream.read(&mut head) {
            Ok(0) => return Ok(After::Close),
            Ok(_) if conn.begun => {}
            Ok(_) => {
                let length = u64::MAX / 4;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                conn.stream.write_all(head.as_bytes())?;
                conn.begun = true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    if !conn.begun {
        return Ok(After::Wait);
    }
    for _ in 0..4 {
        match conn.stream.write(&BLOCK) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(After::Wait),
            Err(error) => return Err(error),
        }
    }
    Ok(After::Again)
}
