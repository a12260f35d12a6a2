//! A raw HTTP/1.1 client: it says exactly the bytes it is given, and reads answers strictly.

use super::PATIENCE;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

/// One answer, as it was on the wire.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header fields in order, names as sent.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// Whether the body came to the end that its framing promised.
    pub whole: bool,
}

impl Reply {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the answer is one after which the connection ends.
    pub fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection on which HTTP is spoken by hand.
pub struct Talk {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes that were read and not used.
    pub rest: Vec<u8>,
}

impl Talk {
    /// Connects to a port of loopback.
    #[track_caller]
    pub fn port(port: u16) -> Talk {
        Talk::to(Ipv4Addr::LOCALHOST, port)
    }

    /// Connects.
    #[track_caller]
    pub fn to(address: Ipv4Addr, port: u16) -> Talk {
        Talk::over(TcpStream::connect((address, port)).expect("somebody listens there"))
    }

    /// Talks over a connection that exists.
    pub fn over(stream: TcpStream) -> Talk {
        stream.set_nodelay(true).expect("a TCP socket");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a TCP socket");
        Talk {
            stream,
            rest: Vec::new(),
        }
    }

    /// Sends bytes.
    #[track_caller]
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the other end reads");
    }

    /// Sends bytes, whether anyone wants them or not.
    pub fn say_into_the_void(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Half-closes.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a GET and reads the answer.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Reply {
        self.say(format!("GET {path} HTTP/1.1\r\nHost: visitor.test\r\n\r\n"));
        self.reply(false)
    }

    /// Reads more bytes; 0 at the end, also when it was a reset.
    #[track_caller]
    pub fn more(&mut self) -> usize {
        let mut block = [0; 65536];
        match retried(|| self.stream.read(&mut block)) {
            Ok(count) => {
                self.rest.extend_from_slice(&block[..count]);
                count
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("no answer: {error}; so far {:?}", Short(&self.rest)),
        }
    }

    /// Takes `count` bytes, or what there was before the end.
    #[track_caller]
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.rest.len() < count && self.more() > 0 {}
        let count = count.min(self.rest.len());
        self.rest.drain(..count).collect()
    }

    /// Whether the other end has closed with nothing left to read.
    #[track_caller]
    pub fn at_end(&mut self) -> bool {
        self.rest.is_empty() && self.more() == 0
    }

    /// Whether nothing at all arrives within `time`.
    pub fn silent_for(&mut self, time: Duration) -> bool {
        self.stream
            .set_read_timeout(Some(time))
            .expect("a TCP socket");
        let mut block = [0; 4096];
        let got = retried(|| self.stream.read(&mut block));
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a TCP socket");
        match got {
            Ok(count) => {
                self.rest.extend_from_slice(&block[..count]);
                false
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Reads up to and with the empty line, or `None` when the connection ends before it.
    #[track_caller]
    pub fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                return Some(self.rest.drain(..at + 4).collect());
            }
            if self.more() == 0 {
                return None;
            }
        }
    }

    /// Reads one answer; there must be one. `head_only` for the answer to a HEAD.
    #[track_caller]
    pub fn reply(&mut self, head_only: bool) -> Reply {
        self.try_reply(head_only)
            .expect("an answer before the connection ends")
    }

    /// Reads one answer, or `None` when the connection ends before its head is whole.
    #[track_caller]
    pub fn try_reply(&mut self, head_only: bool) -> Option<Reply> {
        let head = self.head()?;
        let mut reply = parse_head(&head);
        let status = reply.status;
        if head_only || status == 204 || status == 304 || status / 100 == 1 {
            return Some(reply);
        }
        let chunked = reply
            .field("transfer-encoding")
            .is_some_and(|value| value == "chunked");
        let length = reply
            .field("content-length")
            .map(|value| value.parse::<usize>());
        if chunked {
            assert!(length.is_none(), "both framings in one answer");
            reply.whole = self.chunks(&mut reply.body);
        } else if let Some(length) = length {
            let length = length.expect("a length in digits");
            reply.body = self.take(length);
            reply.whole = reply.body.len() == length;
        } else {
            while self.more() > 0 {}
            reply.body = std::mem::take(&mut self.rest);
        }
        Some(reply)
    }

    /// Reads a chunked body; tells whether its last chunk came.
    #[track_caller]
    pub fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.line() else {
                return false;
            };
            let size = String::from_utf8_lossy(&line).trim().to_owned();
            let size = size.split(';').next().unwrap_or_default().to_owned();
            let size = usize::from_str_radix(&size, 16).expect("a chunk size in hex");
            if size == 0 {
                while self.line().is_some_and(|line| line != b"\r\n") {}
                return true;
            }
            let data = self.take(size);
            let short = data.len() < size;
            body.extend_from_slice(&data);
            if short || self.take(2) != b"\r\n" {
                return false;
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                return Some(self.rest.drain(..=at).collect());
            }
            if self.more() == 0 {
                return None;
            }
        }
    }
}

fn parse_head(head: &[u8]) -> Reply {
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii_end());
    let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let fields = lines
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let colon = line
                .iter()
                .position(|byte| *byte == b':')
                .expect("a field has a colon");
            (
                line[..colon].to_vec(),
                line[colon + 1..].trim_ascii().to_vec(),
            )
        })
        .collect();
    Reply {
        status,
        fields,
        body: Vec::new(),
        whole: true,
    }
}

/// Shows the beginning of long bytes.
pub struct Short<'a>(pub &'a [u8]);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.0[..self.0.len().min(200)];
        write!(
            out,
            "{} bytes: {:?}",
            self.0.len(),
            String::from_utf8_lossy(shown)
        )
    }
}

/// Reads again where a stop of the whole process cut a read short: with a timeout on it, it is not
/// begun again by itself (signal(7)).
fn retried(mut read: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
