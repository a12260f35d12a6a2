//! Visitors that read slowly, however many, on one thread.

use super::Flags;
use super::stream::{ask, connect};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How often each reads its part.
const TICK: Duration = Duration::from_millis(50);

/// `--count` visitors that ask for bulk and read it at `--rate` KiB a second, for `--seconds`. Says
/// `ready` when all have their heads, and at the end how many were cut.
pub fn run(flags: &Flags) {
    let rate = flags.number("rate", 50) * 1024;
    let piece = (rate * TICK.as_millis() as u64 / 1000).max(1) as usize;
    let mut conns: Vec<TcpStream> = Vec::new();
    let mut refused = 0;
    for _ in 0..flags.number("count", 1) {
        let mut conn = connect(flags);
        match ask(&mut conn) {
            Ok(()) => {
                conn.set_nonblocking(true).expect("a socket");
                conns.push(conn);
            }
            Err(_) => refused += 1,
        }
    }
    println!("ready");
    let asked = conns.len();
    let end = Instant::now() + Duration::from_secs_f64(flags.fraction("seconds", 10.0));
    let (start, mut bytes) = (Instant::now(), 0u64);
    let mut next = start;
    while next < end {
        conns.retain(|conn| match discard(conn, piece) {
            Ok(count) => {
                bytes += count as u64;
                count > 0
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        next += TICK;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let each = bytes as f64 / start.elapsed().as_secs_f64() / asked.max(1) as f64 / 1024.0;
    println!(
        "{{\"refused\": {refused}, \"cut\": {}, \"kib_s_each\": {each:.1}}}",
        asked - conns.len()
    );
}

/// Drops up to `count` received bytes inside the kernel.
fn discard(conn: &TcpStream, count: usize) -> std::io::Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC nothing is written to the buffer, which may then be null.
    let read = unsafe { libc::recv(conn.as_raw_fd(), std::ptr::null_mut(), count, flags) };
    match read {
        0.. => Ok(read as usize),
        _ => Err(std::io::Error::last_os_error()),
    }
}
