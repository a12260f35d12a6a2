//! Streams of bytes: raw over TCP, and as downloads over HTTP.

use super::Flags;
use super::bytes::{BLOCK, discard, discard_some, find};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub fn connect(flags: &Flags) -> TcpStream {
    let conn = TcpStream::connect(flags.text("to")).expect("somebody listens at --to");
    conn.set_nodelay(true).expect("a TCP socket");
    conn
}

/// `--streams` raw streams of `--bytes` together, one way.
pub fn run(flags: &Flags) {
    let streams = flags.number("streams", 1);
    let each = flags.number("bytes", 1 << 30) / streams;
    let down = flags.text("dir") == "down";
    let mut conns: Vec<TcpStream> = (0..streams).map(|_| connect(flags)).collect();
    // One byte through each first: the way is open, and dialling is not measured.
    for conn in &mut conns {
        command(conn, b'd', 1);
        discard(conn, 1).expect("the way is open");
    }
    let start = Instant::now();
    let threads: Vec<_> = conns
        .into_iter()
        .map(|mut conn| {
            std::thread::spawn(move || {
                if down {
                    command(&mut conn, b'd', each);
                    discard(&mut conn, each).expect("all bytes arrive");
                } else {
                    command(&mut conn, b'u', each);
                    let mut left = each;
                    while left > 0 {
                        let now = left.min(BLOCK.len() as u64) as usize;
                        conn.write_all(&BLOCK[..now]).expect("all bytes leave");
                        left -= now as u64;
                    }
                    discard(&mut conn, 1).expect("all bytes arrived");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a stream ends well");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"mb_s\": {:.1}}}",
        (each * streams) as f64 / seconds / 1e6
    );
}

fn command(conn: &mut TcpStream, letter: u8, count: u64) {
    let mut bytes = vec![letter];
    bytes.extend_from_slice(&count.to_be_bytes());
    conn.write_all(&bytes).expect("the way is open");
}

/// `--streams` downloads over HTTP for `--seconds`; what arrived after the first fifth counts.
pub fn fetch(flags: &Flags) {
    let total = Arc::new(AtomicU64::new(0));
    let seconds = flags.fraction("seconds", 5.0);
    for _ in 0..flags.number("streams", 1) {
        let (mut conn, total) = (connect(flags), total.clone());
        std::thread::spawn(move || {
            ask(&mut conn).expect("a 200");
            while let Ok(count) = discard_some(&mut conn, 1 << 20) {
                total.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
    }
    std::thread::sleep(Duration::from_secs_f64(seconds / 5.0));
    let (start, before) = (Instant::now(), total.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs_f64(seconds * 0.8));
    let bytes = total.load(Ordering::Relaxed) - before;
    println!(
        "{{\"mb_s\": {:.2}}}",
        bytes as f64 / start.elapsed().as_secs_f64() / 1e6
    );
}

/// Visitors that ask, read the head, and then nothing, until killed.
pub fn stall(flags: &Flags) {
    let conns: Vec<TcpStream> = (0..flags.number("count", 1))
        .map(|_| {
            let mut conn = connect(flags);
            ask(&mut conn).expect("a 200");
            conn
        })
        .collect();
    println!("{{\"stalled\": {}}}", conns.len());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Asks for the bulk and reads up to the end of the head; anything but a 200 is an error.
pub fn ask(conn: &mut TcpStream) -> std::io::Result<()> {
    conn.write_all(b"GET /bulk HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while find(&head, b"\r\n\r\n").is_none() {
        conn.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    match head.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(std::io::Error::other(
            String::from_utf8_lossy(&head).into_owned(),
        )),
    }
}
