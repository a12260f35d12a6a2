//! A local HTTP server by hand, so that tests see what exactly arrived and decide when what leaves.

use super::http::Talk;
use super::tcp::TcpServer;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target.
    pub target: String,
    /// The fields in order, names as sent.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole head as bytes.
    pub head: Vec<u8>,
}

impl Request {
    fn parse(head: Vec<u8>) -> Request {
        let mut lines = head
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii_end);
        let line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let fields = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                let colon = line.iter().position(|byte| *byte == b':')?;
                Some((
                    line[..colon].to_vec(),
                    line[colon + 1..].trim_ascii().to_vec(),
                ))
            })
            .collect();
        Request {
            method,
            target,
            fields,
            head,
        }
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.fields
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }
}

/// One connection with the request that was read from it.
pub struct Exchange {
    /// The request's head.
    pub request: Request,
    /// The connection: the body is still to be read from it.
    pub talk: Talk,
}

impl Exchange {
    /// Reads the whole request body by its framing.
    pub fn body(&mut self) -> Vec<u8> {
        if self
            .request
            .field("transfer-encoding")
            .is_some_and(|value| value == "chunked")
        {
            let mut body = Vec::new();
            assert!(
                self.talk.chunks(&mut body),
                "the visitor's chunked body came whole"
            );
            return body;
        }
        let length = self
            .request
            .field("content-length")
            .and_then(|value| value.parse().ok());
        self.talk.take(length.unwrap_or(0))
    }

    /// Answers with a status, field lines and a body by Content-Length.
    pub fn answer(&mut self, status: u16, lines: &str, body: &[u8]) {
        let length = body.len();
        let mut out = format!("HTTP/1.1 {status} Said\r\n{lines}Content-Length: {length}\r\n\r\n")
            .into_bytes();
        if self.request.method != "HEAD" {
            out.extend_from_slice(body);
        }
        self.talk.say_into_the_void(out);
    }

    /// Sends bytes as one chunk.
    pub fn chunk(&mut self, data: &[u8]) -> bool {
        let mut out = format!("{:x}\r\n", data.len()).into_bytes();
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
        self.talk.say_into_the_void(out)
    }
}

/// An HTTP server that hands every request to a closure; the closure says whether to go on.
pub struct Upstream {
    /// The listener.
    pub server: TcpServer,
    seen: Mutex<Receiver<Request>>,
}

impl Upstream {
    /// Starts it on a free port. The closure tells whether the connection is kept.
    pub fn start(serve: impl Fn(&mut Exchange) -> bool + Send + Sync + 'static) -> Upstream {
        Upstream::on((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    /// Starts it at an address.
    #[track_caller]
    pub fn on(
        at: SocketAddr,
        serve: impl Fn(&mut Exchange) -> bool + Send + Sync + 'static,
    ) -> Upstream {
        let (sender, seen) = channel::<Request>();
        let sender = Arc::new(Mutex::new(sender));
        let server = TcpServer::on(at, move |stream| one_conn(stream, &serve, &sender));
        Upstream {
            server,
            seen: Mutex::new(seen),
        }
    }

    /// One that answers everything with what it was asked: the head as a field-free body.
    pub fn mirror() -> Upstream {
        Upstream::start(|exchange| {
            let body = exchange.body();
            let mut said = exchange.request.head.clone();
            said.extend_from_slice(&body);
            exchange.answer(200, "Content-Type: application/octet-stream\r\n", &said);
            true
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The next request that arrived.
    #[track_caller]
    pub fn next(&self) -> Request {
        let seen = self.seen.lock().expect("no holder panics");
        seen.recv_timeout(super::PATIENCE)
            .expect("a request arrives at the upstream")
    }

    /// How many requests arrived that nobody has taken yet, waiting a moment for late ones.
    pub fn unexpected(&self) -> usize {
        let seen = self.seen.lock().expect("no holder panics");
        let mut count = 0;
        while seen.recv_timeout(Duration::from_millis(150)).is_ok() {
            count += 1;
        }
        count
    }
}

fn one_conn(
    stream: TcpStream,
    serve: &(impl Fn(&mut Exchange) -> bool + Send + Sync),
    seen: &Mutex<Sender<Request>>,
) {
    let mut talk = Talk::over(stream);
    // An idle pooled connection may rest for longer than anything here waits for.
    let _ = talk.stream.set_read_timeout(Some(Duration::from_secs(600)));
    while let Some(head) = talk.head() {
        let request = Request::parse(head);
        let _ = seen.lock().map(|seen| seen.send(request.clone()));
        let mut exchange = Exchange { request, talk };
        if !serve(&mut exchange) {
            return;
        }
        talk = exchange.talk;
    }
}
