//! Handlers in this process: HTTP over a connection without a socket, and whom it holds up.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::client::handler::Crew;
use crate::client::handler::Handler;
use crate::client::handler::HandlerConn;
use crate::client::{Request, Response};
use crate::limits::{HANDLER_AHEAD, HANDLER_THREADS};
use crate::machine::Inside;

/// A host for one connection.
struct Side {
    talk: HandlerConn,
    news: Receiver<()>,
}

impl Side {
    fn new(crew: &Arc<Crew>, handler: &Handler) -> Side {
        let (tell, news) = channel();
        let stir = Arc::new(move || {
            let _ = tell.send(());
        });
        let talk = HandlerConn::new(Some(Arc::clone(handler)), crew, stir);
        Side { talk, news }
    }

    fn wait(&self) {
        let patience = Duration::from_secs(20);
        self.news.recv_timeout(patience).expect("nothing stirs");
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.talk.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads until `enough` says so, or the end.
    fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let (mut all, mut space) = (Vec::new(), [0; 1000]);
        while !enough(&all) {
            match self.talk.read(&mut space) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&space[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                Err(error) => panic!("{error}"),
            }
        }
        all
    }

    fn head(&mut self) -> String {
        let ends = |bytes: &[u8]| bytes.windows(4).any(|four| four == b"\r\n\r\n");
        String::from_utf8(self.read_until(ends)).unwrap()
    }
}

/// Everything a handler's side answers to `input`, however it is cut, which ends with a FIN.
fn exchange(input: &[u8], handler: impl Fn(Request) -> Response + Send + Sync + 'static) -> String {
    let handler: Handler = Arc::new(handler);
    let crew = Crew::new();
    let answers = [1, input.len()].map(|step| {
        let mut side = Side::new(&crew, &handler);
        for piece in input.chunks(step) {
            side.write(piece);
        }
        side.talk.finish();
        String::from_utf8(side.read_until(|_| false)).unwrap()
    });
    crew.dismiss();
    let [one, other] = answers;
    assert_eq!(one, other, "the answer depends on how the request was cut");
    one
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
    let handler: Handler = Arc::new(|mut request: Request| {
        let mut text = String::new();
        request.body.read_to_string(&mut text).unwrap();
        Response::text(200, text)
    });
    let mut side = Side::new(&Crew::new(), &handler);
    side.write(input);
    assert_eq!(side.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    side.write(b"ok");
    side.talk.finish();
    let answer = String::from_utf8(side.read_until(|_| false)).unwrap();
    assert!(answer.ends_with("\r\n\r\nok"));
}

/// Handlers that hang until they are let go.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    news: Condvar,
    inside: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.news.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.news.notify_all();
    }
}

/// Waits until `counter` says `count`.
fn reaches(counter: &AtomicUsize, count: usize) {
    for _ in 0..2000 {
        if counter.load(Ordering::SeqCst) == count {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not {count} but {}", counter.load(Ordering::SeqCst));
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
const HANG: &[u8] = b"GET /hang HTTP/1.1\r\nhost: h\r\n\r\n";
const FILE: &[u8] = b"GET /file HTTP/1.1\r\nhost: h\r\n\r\n";
const SIZE: usize = 5 * HANDLER_AHEAD;

fn hanging(gate: &Arc<Gate>) -> Handler {
    let gate = Arc::clone(gate);
    Arc::new(move |request: Request| match request.path() {
        "/hang" => {
            gate.pass();
            Response::text(200, "at last")
        }
        "/file" => Response::new(200).reader(io::repeat(b'x').take(SIZE as u64), SIZE as u64),
        "/memory" => Response::new(200).bytes(vec![b'y'; SIZE]),
        _ => Response::text(200, "ok"),
    })
}

#[test]
fn neither_idle_connections_nor_slow_readers_nor_half_sent_requests_hold_a_thread() {
    let (crew, gate) = (Crew::new(), Arc::new(Gate::default()));
    let handler = hanging(&gate);
    let memory = b"GET /memory HTTP/1.1\r\nhost: h\r\n\r\n";
    let upload = b"PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\nnot all";
    let mut held = Vec::new();
    for request in [&b""[..], &memory[..], FILE, &upload[..]] {
        for _ in 0..HANDLER_THREADS + 16 {
            let mut side = Side::new(&crew, &handler);
            side.write(request);
            if request.starts_with(b"GET") {
                side.head();
            }
            held.push(side);
        }
    }
    // All of its threads are still to be had.
    let mut hanging: Vec<Side> = (0..HANDLER_THREADS)
        .map(|_| {
            let mut side = Side::new(&crew, &handler);
            side.write(HANG);
            side
        })
        .collect();
    reaches(&gate.inside, HANDLER_THREADS);
    // Past them a visitor hears so, and what was begun goes on.
    let mut late = Side::new(&crew, &handler);
    late.write(GET);
    let answer = late.read_until(|bytes| bytes.ends_with(b"again.\n"));
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    let slow = &mut held[2 * (HANDLER_THREADS + 16)];
    // The reply's head was read, and perhaps some of the body with it.
    let rest = slow.read_until(|bytes| bytes.len() >= SIZE - 1000);
    assert!(rest.iter().all(|octet| *octet == b'x'));
    gate.open();
    for side in &mut hanging {
        assert!(side.head().starts_with("HTTP/1.1 200 "));
    }
    // The connection of the one that was refused is as good as before.
    late.write(GET);
    assert!(late.head().contains("HTTP/1.1 200 "));
}

#[test]
fn one_visitor_whose_handlers_hang_leaves_threads_to_the_others() {
    let (crew, gate) = (Crew::new(), Arc::new(Gate::default()));
    let handler = hanging(&gate);
    let side = |visitor: &str| {
        let mut side = Side::new(&crew, &handler);
        side.talk.introduce(visitor.parse().ok());
        side
    };
    let mut greedy: Vec<Side> = (0..2 * HANDLER_THREADS)
        .map(|_| {
            let mut side = side("192.0.2.66");
            side.write(HANG);
            side
        })
        .collect();
    let share = HANDLER_THREADS - HANDLER_THREADS / 8;
    reaches(&gate.inside, share);
    // What it asks past its share is refused, and nobody waits for that.
    for refused in &mut greedy[share..] {
        let head = refused.head();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    for visitor in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        let mut side = side(visitor);
        side.write(GET);
        let head = side.head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{visitor}: {head}");
    }
    gate.open();
    for side in &mut greedy[..share] {
        assert!(side.head().starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn each_piece_of_a_stream_leaves_as_it_is_read() {
    let (send, pieces) = channel::<&'static str>();
    let pieces = Arc::new(Mutex::new(pieces));
    struct Pieces(Arc<Mutex<Receiver<&'static str>>>);
    impl Read for Pieces {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let Ok(piece) = self.0.lock().unwrap().recv() else {
                return Ok(0);
            };
            space[..piece.len()].copy_from_slice(piece.as_bytes());
            Ok(piece.len())
        }
    }
    let handler: Handler = Arc::new(move |_| Response::new(200).stream(Pieces(pieces.clone())));
    let mut side = Side::new(&Crew::new(), &handler);
    side.write(GET);
    assert!(side.head().ends_with("\r\n\r\n"));
    for piece in ["one", "two"] {
        send.send(piece).unwrap();
        let chunk = format!("3\r\n{piece}\r\n");
        let got = side.read_until(|bytes| bytes.ends_with(b"\r\n") && bytes.len() > 4);
        assert_eq!(String::from_utf8(got).unwrap(), chunk);
    }
    drop(send);
    assert_eq!(side.read_until(|bytes| bytes.len() == 5), b"0\r\n\r\n");
}

#[test]
fn what_a_closed_connection_leaves_is_dropped_and_its_threads_come_back() {
    struct Told(Arc<AtomicUsize>);
    impl Read for Told {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            Ok(space.len())
        }
    }
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dropped);
    let begun = Arc::new(AtomicUsize::new(0));
    let entered = Arc::clone(&begun);
    let handler: Handler = Arc::new(move |mut request: Request| {
        if request.method == "PUT" {
            entered.fetch_add(1, Ordering::SeqCst);
            // Its sender never says the rest.
            let _ = io::copy(&mut request.body, &mut io::sink());
            counter.fetch_add(1, Ordering::SeqCst);
        }
        Response::new(200).stream(Told(Arc::clone(&counter)))
    });
    let crew = Crew::new();
    let upload = b"PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx";
    for round in 0..3 {
        let mut side = Side::new(&crew, &handler);
        side.write(GET);
        side.head();
        drop(side);
        let mut side = Side::new(&crew, &handler);
        side.write(upload);
        reaches(&begun, round + 1);
        drop(side);
        reaches(&dropped, 3 * (round + 1));
    }
}
