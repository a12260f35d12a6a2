//! Bytes that are sent, thrown away, and looked for.

use std::io::{Error, ErrorKind};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// What is sent.
pub static BLOCK: [u8; 262_144] = [b'x'; 262_144];

/// Reads `count` bytes and throws them away inside the kernel, so that the sink costs little.
pub fn discard(conn: &mut TcpStream, count: u64) -> std::io::Result<()> {
    let mut left = count;
    while left > 0 {
        left -= discard_some(conn, left.min(1 << 20) as usize)? as u64;
    }
    Ok(())
}

/// The same, at most `most` of them, as soon as there are any.
pub fn discard_some(conn: &mut TcpStream, most: usize) -> std::io::Result<usize> {
    // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing to the (null) buffer.
    let got = unsafe {
        libc::recv(
            conn.as_raw_fd(),
            std::ptr::null_mut(),
            most,
            libc::MSG_TRUNC,
        )
    };
    match got {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        got => usize::try_from(got).map_err(|_| Error::last_os_error()),
    }
}

/// Where `needle` begins.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len())
        .position(|window| window == needle)
}
