//! HTTP/1.1 for a handler: blocking, over one end of a socket pair, one request after the other.
//!
//! The other end is our own machine, which has checked every request before. All the same nothing
//! here trusts it more than a stranger: the same parser and the same rules.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::Buffer;
use crate::client::serve::{Request, RequestBody, Response, ResponseBody};
use crate::http::write::{
    self, CRLF, LAST_CHUNK, Reply, chunk_header, put_content_length, put_field, put_status_line,
};
use crate::http::{Asked, BodyDecoder, HeadScanner, RequestHead};
use crate::limits::HANDLER_SKIP;

/// Serves requests from `stream` until it ends.
pub(super) fn talk(stream: UnixStream, handler: &(dyn Fn(Request) -> Response + Send + Sync)) {
    let Ok(writer) = stream.try_clone() else {
        return;
    };
    let wire = Arc::new(Mutex::new(Wire {
        stream,
        received: Buffer::new(),
        body: BodyDecoder::None,
        announced: None,
    }));
    // An error is the end of the connection, which drops with the last clone of it.
    while let Ok(true) = serve_one(&wire, &writer, handler) {}
}

/// The reading half.
struct Wire {
    stream: UnixStream,
    received: Buffer,
    /// What is left of the current request's body.
    body: BodyDecoder,
    /// The writing half, while the sender waits for `100 Continue`.
    announced: Option<UnixStream>,
}

fn lock(wire: &Mutex<Wire>) -> std::sync::MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one request; true when another may follow.
fn serve_one(
    wire: &Arc<Mutex<Wire>>,
    mut writer: &UnixStream,
    handler: &(dyn Fn(Request) -> Response + Send + Sync),
) -> io::Result<bool> {
    let Some((request, asked, upgrade)) = read_request(wire, writer)? else {
        return Ok(false);
    };
    let mut out = Vec::new();
    if upgrade {
        Reply::text(501, "This server does not switch protocols.\n").write(&mut out, asked);
        writer.write_all(&out)?;
        return Ok(asked.keep_alive);
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| handler(request)));
    let keep_alive = match outcome {
        Ok(response) => respond(writer, response, asked)?,
        Err(_) => {
            Reply::text(500, "The handler failed.\n").write(&mut out, asked);
            writer.write_all(&out)?;
            asked.keep_alive
        }
    };
    Ok(keep_alive && lock(wire).skip_rest()?)
}

type Arrived = (Request, Asked, bool);

/// Reads a head; `None` at the end of the connection or after a request that was refused.
fn read_request(wire: &Arc<Mutex<Wire>>, mut writer: &UnixStream) -> io::Result<Option<Arrived>> {
    let mut guard = lock(wire);
    let this = &mut *guard;
    let mut scanner = HeadScanner::new();
    let judged = loop {
        match scanner.scan(this.received.bytes()) {
            Ok(Some(length)) => {
                let head = this.received.bytes().get(..length).unwrap_or_default();
                break RequestHead::parse(head).map(|head| (head, length));
            }
            Ok(None) => {}
            Err(reject) => break Err(reject),
        }
        if this.fill()? == 0 {
            return Ok(None);
        }
    };
    let (head, length) = match judged {
        Ok(judged) => judged,
        Err(reject) => {
            let mut out = Vec::new();
            Reply::text(reject.status, reject.why).write_and_close(&mut out, false);
            writer.write_all(&out)?;
            return Ok(None);
        }
    };
    let (asked, upgrade) = (head.asked(), head.upgrade);
    let expects = head.expects_continue;
    let text = |octets: &[u8]| octets.iter().map(|octet| char::from(*octet)).collect();
    let request = Request {
        method: head.method.to_owned(),
        target: text(&head.target),
        headers: head
            .fields
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        body: RequestBody {
            inner: Box::new(Incoming(Arc::clone(wire))),
        },
    };
    let body = BodyDecoder::for_request(head.body);
    this.received.consume(length);
    this.body = body;
    this.announced = match expects {
        true => Some(writer.try_clone()?),
        false => None,
    };
    Ok(Some((request, asked, upgrade)))
}

/// The body of the current request. A handler may keep it beyond its response; then it is empty.
struct Incoming(Arc<Mutex<Wire>>);

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read_body(buf)
    }
}

impl Wire {
    /// Reads once from the connection.
    fn fill(&mut self) -> io::Result<usize> {
        let space = self.received.space(READ_SPACE);
        loop {
            match self.stream.read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.received.commit(count);
                    return Ok(count);
                }
            }
        }
    }

    fn read_body(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let broken = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        loop {
            if self.body.is_complete() || buf.is_empty() {
                return Ok(0);
            }
            if self.received.is_empty() {
                if let Some(mut writer) = self.announced.take() {
                    writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                if self.fill()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            // Framing goes one octet at a time, so that no more data is taken than there is room
            // for.
            let certain = usize::try_from(self.body.certain_data()).unwrap_or(usize::MAX);
            let room = if certain > 0 {
                certain.min(buf.len())
            } else {
                1
            };
            let bytes = self.received.bytes();
            let step = self
                .body
                .decode(&bytes[..bytes.len().min(room)])
                .map_err(|_| broken("the request's body is malformed"))?;
            let count = step.data.len();
            buf[..count].copy_from_slice(&bytes[step.data]);
            self.received.consume(step.consumed);
            if count > 0 {
                return Ok(count);
            }
        }
    }

    /// Skips what the handler did not read; false when that is too much of it.
    fn skip_rest(&mut self) -> io::Result<bool> {
        if self.announced.take().is_some() {
            // Whether the sender sends it after all cannot be known.
            return Ok(self.body.is_complete());
        }
        let mut skipped = 0;
        let mut piece = [0; 4096];
        while !self.body.is_complete() && skipped < HANDLER_SKIP {
            skipped += self.read_body(&mut piece)? as u64;
        }
        Ok(self.body.is_complete())
    }
}

/// Writes a response; true when the connection stays.
fn respond(mut writer: &UnixStream, response: Response, asked: Asked) -> io::Result<bool> {
    let mut out = Vec::new();
    if !(200..=599).contains(&response.status) {
        Reply::text(500, "The handler gave an impossible status.\n").write(&mut out, asked);
        writer.write_all(&out)?;
        return Ok(asked.keep_alive);
    }
    put_status_line(&mut out, response.status);
    for (name, value) in &response.headers {
        let ours = [
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "upgrade",
        ];
        if ours.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            continue;
        }
        // A field that could end the head is left out; what else is in it has no such power.
        let octets: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
        let octets = octets.unwrap_or_else(|| value.as_bytes().to_vec());
        let _ = put_field(&mut out, name.as_bytes(), &octets);
    }
    let bodiless = matches!(response.status, 204 | 304);
    match &response.body {
        _ if response.status == 204 => {}
        ResponseBody::Bytes(bytes) => put_content_length(&mut out, bytes.len() as u64),
        ResponseBody::Reader(_, Some(length)) => put_content_length(&mut out, *length),
        ResponseBody::Reader(_, None) if bodiless => {}
        ResponseBody::Reader(_, None) => put_field(&mut out, b"transfer-encoding", b"chunked")
            .map_err(|refused| io::Error::other(refused.0))?,
    }
    if !asked.keep_alive {
        put_field(&mut out, b"connection", b"close")
            .map_err(|refused| io::Error::other(refused.0))?;
    }
    out.extend_from_slice(write::CRLF);
    if asked.head || bodiless {
        writer.write_all(&out)?;
        return Ok(asked.keep_alive);
    }
    match response.body {
        ResponseBody::Bytes(bytes) => {
            out.extend_from_slice(&bytes);
            writer.write_all(&out)?;
        }
        ResponseBody::Reader(reader, length) => {
            writer.write_all(&out)?;
            copy(writer, reader, length)?;
        }
    }
    Ok(asked.keep_alive)
}

/// Sends a reader: exactly `length` bytes, or in chunks until it ends. One that fails or ends early
/// breaks the connection, so that a cut body never looks whole.
fn copy(
    mut writer: &UnixStream,
    mut reader: Box<dyn Read + Send>,
    length: Option<u64>,
) -> io::Result<()> {
    let mut piece = vec![0; READ_SPACE];
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let wanted = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        let count = match reader.read(&mut piece[..wanted]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &piece[..count];
        match length {
            None if count == 0 => return writer.write_all(LAST_CHUNK),
            None => {
                let header = chunk_header(count);
                writer.write_all(&[header.as_ref(), bytes, CRLF].concat())?;
            }
            Some(_) if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => writer.write_all(bytes)?,
        }
        left -= count as u64;
    }
    Ok(())
}

/// Room for one read, in bytes.
const READ_SPACE: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything the handler's side answers to `input`, which ends with a FIN.
    fn exchange(
        input: &[u8],
        handler: impl Fn(Request) -> Response + Send + Sync + 'static,
    ) -> String {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || talk(theirs, &handler));
        let mut writer = ours.try_clone().unwrap();
        let input = input.to_vec();
        let sender = std::thread::spawn(move || {
            let _ = writer.write_all(&input);
            let _ = writer.shutdown(std::net::Shutdown::Write);
        });
        let mut answer = Vec::new();
        let _ = (&ours).read_to_end(&mut answer);
        sender.join().unwrap();
        server.join().unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn requests_are_served_one_after_the_other() {
        let input = b"GET /a?b HTTP/1.1\r\nhost: h\r\n\r\nHEAD / HTTP/1.1\r\nhost: h\r\n\r\n";
        let answer = exchange(input, |request| {
            assert_eq!(request.header("HOST"), Some("h"));
            Response::text(200, format!("{} {:?}", request.path(), request.query()))
        });
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: 12\r\n\r\n/a Some(\"b\")\
             HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: 6\r\n\r\n"
        );
    }

    #[test]
    fn a_body_can_be_streamed_back_while_it_comes() {
        let input = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n\
                      3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = exchange(input, |request| Response::new(200).stream(request.body));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked");
        assert_eq!(body, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    }

    #[test]
    fn a_body_that_nobody_read_does_not_become_the_next_request() {
        let input = b"POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 23\r\n\r\n\
                      GET /evil HTTP/1.1\r\n\r\n!GET /2 HTTP/1.1\r\nhost: h\r\n\r\n";
        let answer = exchange(input, |request| {
            Response::new(204).header("x", request.target)
        });
        assert_eq!(
            answer,
            "HTTP/1.1 204 No Content\r\nx: /1\r\n\r\nHTTP/1.1 204 No Content\r\nx: /2\r\n\r\n"
        );
    }

    #[test]
    fn a_panic_is_a_500_and_an_upgrade_a_501() {
        let input = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nGET /ws HTTP/1.1\r\nhost: h\r\n\
                      connection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let answer = exchange(input, |_| panic!("told to"));
        std::panic::set_hook(hook);
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert!(answer.contains("HTTP/1.1 501 "), "{answer}");
    }

    #[test]
    fn a_handlers_fields_cannot_break_the_head_or_the_framing() {
        let input = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        let answer = exchange(input, |_| {
            let response = Response::new(200).header("x", "a\r\nset-cookie: b");
            response
                .header("Content-Length", "99")
                .header("y", "z")
                .bytes("ok")
        });
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\ny: z\r\ncontent-length: 2\r\n\r\nok"
        );
    }

    #[test]
    fn a_reader_that_ends_early_breaks_the_connection() {
        let input = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n";
        let answer = exchange(input, |_| Response::new(200).reader(&b"abc"[..], 5));
        assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    }

    #[test]
    fn a_sender_that_waits_is_told_to_go_on_when_the_body_is_wanted() {
        let input = b"PUT / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n\
                      content-length: 2\r\n\r\n";
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            talk(theirs, &|mut request: Request| {
                let mut text = String::new();
                request.body.read_to_string(&mut text).unwrap();
                Response::text(200, text)
            });
        });
        (&ours).write_all(input).unwrap();
        let mut line = [0; 25];
        (&ours).read_exact(&mut line).unwrap();
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        (&ours).write_all(b"ok").unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        (&ours).read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nok"));
        server.join().unwrap();
    }
}
