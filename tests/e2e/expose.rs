//! EXPOSE between a visitor and a local server that are both written by hand: what arrives, in
//! which order, and when.

use crate::support::client::Hoody;
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::tcp::{TcpServer, reset};
use crate::support::upstream::Upstream;
use crate::support::{Noise, PATIENCE, at_rest, eventually};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

#[test]
fn a_thousand_server_sent_events_arrive_one_by_one() {
    let (sender, permission) = channel::<()>();
    let permission = Mutex::new(permission);
    let upstream = Upstream::start(move |exchange| {
        exchange
            .talk
            .say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
        exchange.talk.say("Transfer-Encoding: chunked\r\n\r\n");
        let permission = permission.lock().expect("one visitor only");
        for number in 0..1000 {
            exchange.chunk(format!("data: {number}\n\n").as_bytes());
            // The next event exists only after the visitor has read this one: nothing can be
            // gathered on the way.
            permission
                .recv_timeout(PATIENCE)
                .expect("the visitor got the event");
        }
        exchange.chunk(b"")
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    let head = String::from_utf8(talk.head().expect("a head")).expect("ASCII");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for number in 0..1000 {
        let want = format!("data: {number}\n\n");
        while !String::from_utf8_lossy(&talk.rest).contains(&want) {
            assert!(talk.more() > 0, "the stream ended before event {number}");
        }
        talk.rest.clear();
        sender.send(()).expect("the upstream waits");
    }
}

#[test]
fn chunked_bodies_stream_in_both_directions_at_once() {
    // The upstream echoes each chunk as it comes; the visitor sends the next one only after it has
    // the echo of the last.
    let upstream = Upstream::start(|exchange| {
        exchange
            .talk
            .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        loop {
            let Some(line) = read_line(&mut exchange.talk) else {
                return false;
            };
            let size = usize::from_str_radix(line.trim(), 16).expect("a chunk size");
            let data = exchange.talk.take(size);
            exchange.talk.take(2);
            exchange.chunk(&data);
            if size == 0 {
                return true;
            }
        }
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (number, size) in [1usize, 10, 1000, 65_536, 65_537, 300_000, 3]
        .into_iter()
        .enumerate()
    {
        let data = Noise::bytes(number as u64 + 1, size);
        talk.say(format!("{size:x}\r\n"));
        talk.say(&data);
        talk.say("\r\n");
        if number == 0 {
            let head = String::from_utf8(talk.head().expect("a head")).expect("ASCII");
            assert!(
                head.to_lowercase().contains("transfer-encoding: chunked"),
                "{head}"
            );
        }
        let mut back = Vec::new();
        while back.len() < size {
            let line = read_line(&mut talk).expect("a chunk comes back");
            let part = usize::from_str_radix(line.trim(), 16).expect("a chunk size");
            back.extend(talk.take(part));
            talk.take(2);
        }
        assert!(
            back == data,
            "chunk {number} of {size} bytes came back changed"
        );
    }
    talk.say("0\r\n\r\n");
    let mut tail = Vec::new();
    assert!(
        talk.chunks(&mut tail) && tail.is_empty(),
        "the last chunk comes too"
    );
}

fn read_line(talk: &mut Talk) -> Option<String> {
    loop {
        if let Some(at) = talk.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = talk.rest.drain(..=at).collect();
            return Some(String::from_utf8_lossy(&line).into_owned());
        }
        if talk.more() == 0 {
            return None;
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|exchange| {
        // The first one takes longest, so an order of arrival would be wrong.
        if exchange.request.target == "/0" {
            std::thread::sleep(Duration::from_millis(200));
        }
        let target = exchange.request.target.clone();
        exchange.answer(200, "", target.as_bytes());
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    let many: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    talk.say(many);
    for number in 0..20 {
        assert_eq!(talk.reply(false).text(), format!("/{number}"));
    }
}

#[test]
fn heads_without_bodies_keep_the_connection_in_step() {
    let upstream = Upstream::start(|exchange| {
        let out = match exchange.request.target.as_str() {
            "/204" => "HTTP/1.1 204 None\r\n\r\n".to_owned(),
            "/304" => "HTTP/1.1 304 Same\r\nContent-Length: 77\r\n\r\n".to_owned(),
            "/hints" => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                .to_owned(),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_owned(),
        };
        let head = exchange.request.method == "HEAD";
        let body = if head || !out.ends_with("Length: 5\r\n\r\n") {
            ""
        } else {
            "hello"
        };
        exchange.talk.say(out + body);
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = talk.reply(true);
    assert_eq!(
        (head.status, head.field("content-length").as_deref()),
        (200, Some("5"))
    );
    assert_eq!(talk.get("/204").status, 204);
    assert_eq!(talk.get("/304").status, 304);
    talk.say("GET /hints HTTP/1.1\r\nHost: a\r\n\r\n");
    let hints = talk.reply(false);
    assert_eq!(
        (hints.status, hints.field("link").as_deref()),
        (103, Some("</a>"))
    );
    assert_eq!(talk.reply(false).text(), "ok");
    assert_eq!(talk.get("/").text(), "hello");
}

#[test]
fn expect_100_continue_is_the_upstreams_to_answer() {
    let (allow, permission) = channel();
    let permission = Mutex::new(permission);
    let upstream = Upstream::start(move |exchange| {
        let expects = exchange.request.field("expect");
        assert_eq!(
            expects.map(|value| value.to_lowercase()).as_deref(),
            Some("100-continue")
        );
        if exchange.request.target == "/no" {
            exchange
                .talk
                .say("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return false;
        }
        let permission = permission.lock().expect("one such visitor");
        permission.recv_timeout(PATIENCE).expect("the test says so");
        exchange.talk.say("HTTP/1.1 100 Continue\r\n\r\n");
        let body = exchange.body();
        exchange.answer(200, "", &body);
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let ask = |path: &str| {
        let mut talk = Talk::port(hoody.port());
        talk.say(format!(
            "PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        ));
        talk.say("Content-Length: 4\r\n\r\n");
        talk
    };
    let mut talk = ask("/yes");
    assert!(
        talk.silent_for(Duration::from_millis(120)),
        "nobody but the upstream says 100"
    );
    allow.send(()).expect("the upstream waits");
    assert_eq!(talk.reply(false).status, 100);
    talk.say("body");
    assert_eq!(talk.reply(false).text(), "body");
    assert_eq!(ask("/no").reply(false).status, 417);
}

#[test]
fn websocket_messages_and_close_codes_pass_unchanged() {
    let server = TcpServer::start(|stream| {
        let mut ws = tungstenite::accept(stream).expect("an upgrade");
        loop {
            match ws.read() {
                Ok(Message::Text(text)) if text == "leave" => {
                    let code = CloseCode::from(4002);
                    let _ = ws.close(Some(CloseFrame {
                        code,
                        reason: "as you wish".into(),
                    }));
                }
                Ok(Message::Close(close)) => {
                    // The code the visitor closed with can be asked for on the next connection.
                    *LAST_CLOSE.lock().expect("no panic") =
                        close.map(|close| (close.code.into(), close.reason.to_string()));
                }
                Ok(message) if message.is_text() || message.is_binary() => {
                    ws.send(message).expect("the visitor reads");
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, server.port);
    let mut ws = visit_ws(hoody.port());
    for size in [0usize, 1, 125, 126, 65_535, 65_536, 1 << 20, 4 << 20] {
        let data = Noise::bytes(size as u64 + 3, size);
        ws.send(Message::Binary(data.clone().into())).expect("sent");
        let back = ws.read().expect("an echo").into_data();
        assert!(back[..] == data[..], "{size} bytes came back changed");
    }
    ws.send(Message::Text("héllo".into())).expect("sent");
    assert_eq!(
        ws.read().expect("an echo").into_text().expect("text"),
        "héllo"
    );
    ws.send(Message::Ping(b"hb"[..].into())).expect("sent");
    assert!(matches!(ws.read(), Ok(Message::Pong(data)) if &data[..] == b"hb"));
    ws.send(Message::Text("leave".into())).expect("sent");
    match ws.read() {
        Ok(Message::Close(Some(close))) => {
            assert_eq!(
                (u16::from(close.code), close.reason.as_str()),
                (4002, "as you wish")
            );
        }
        other => panic!("wanted the server's close code, got {other:?}"),
    }
    let mut ws = visit_ws(hoody.port());
    ws.close(Some(CloseFrame {
        code: CloseCode::from(4001),
        reason: "bye".into(),
    }))
    .expect("sent");
    while ws.read().is_ok() {}
    eventually("the server sees the visitor's close code", PATIENCE, || {
        let seen = LAST_CLOSE.lock().expect("no panic").take();
        seen.filter(|seen| *seen == (4001, "bye".to_owned()))
    });
}

static LAST_CLOSE: Mutex<Option<(u16, String)>> = Mutex::new(None);

fn visit_ws(port: u16) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the port is there");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a TCP socket");
    let url = format!("ws://127.0.0.1:{port}/socket");
    tungstenite::client(url, stream)
        .expect("the upgrade passes")
        .0
}

#[test]
fn a_refused_upgrade_is_an_ordinary_response() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(426, "", b"not here");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
    talk.say("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let reply = talk.reply(false);
    assert_eq!((reply.status, reply.text().as_str()), (426, "not here"));
}

#[test]
fn header_octets_repeats_and_order_survive_both_ways() {
    let upstream = Upstream::start(|exchange| {
        exchange
            .talk
            .say(b"HTTP/1.1 200 OK\r\nX-Odd: \xE9\xFF\x80\r\nSet-Cookie: a=1\r\n");
        exchange
            .talk
            .say("Set-Cookie: b=2\r\nX-Odd: again\r\nContent-Length: 0\r\n\r\n");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say(b"GET /caf\xC3\xA9?x=%20 HTTP/1.1\r\nHost: a\r\nX-Odd: \xE9\xFF\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n");
    let reply = talk.reply(false);
    let seen = upstream.next();
    let odd: Vec<_> = seen
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"x-odd"))
        .collect();
    assert_eq!(odd[0].1, b"\xE9\xFF", "octets of a request field");
    assert_eq!(seen.all("x-two"), ["1", "2"]);
    let odd: Vec<&[u8]> = reply
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"x-odd"))
        .map(|(_, value)| value.as_slice())
        .collect();
    assert_eq!(odd, [&b"\xE9\xFF\x80"[..], b"again"]);
    let cookies = reply
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"set-cookie"));
    assert_eq!(cookies.count(), 2);
}

#[test]
fn a_body_cut_by_the_upstream_never_looks_whole() {
    let (tell, seen) = channel();
    let seen = Arc::new(Mutex::new(seen));
    let cut = |head: &'static str| {
        let seen = seen.clone();
        Upstream::start(move |exchange| {
            exchange.talk.say(head);
            exchange.talk.say("5\r\nhello\r\n");
            // A reset overtakes what is on its way: the visitor has it all before.
            let seen = seen.lock().expect("one visitor at a time");
            seen.recv_timeout(PATIENCE).expect("the visitor read it");
            if let Ok(stream) = exchange.talk.stream.try_clone() {
                reset(stream);
            }
            false
        })
    };
    let kit = Kit::start();
    for head in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    ] {
        let upstream = cut(head);
        let hoody = Hoody::expose(&kit, upstream.port());
        let mut talk = Talk::port(hoody.port());
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        while !String::from_utf8_lossy(&talk.rest).contains("hello") {
            assert!(talk.more() > 0, "it ended before it was cut");
        }
        tell.send(()).expect("the upstream waits");
        let reply = talk.reply(false);
        assert_eq!(reply.status, 200);
        assert!(!reply.whole, "a cut body looked whole after {head:?}");
    }
    let silent = TcpServer::start(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        reset(stream);
    });
    let hoody = Hoody::expose(&kit, silent.port);
    assert_eq!(
        Talk::port(hoody.port()).get("/").status,
        502,
        "a reset before any head"
    );
}

#[test]
fn an_unwanted_body_is_never_read_as_the_next_request() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(413, "Connection: close\r\n", b"too much");
        false
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    talk.say(format!(
        "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        smuggled.len()
    ));
    assert_eq!(talk.reply(false).status, 413);
    talk.say_into_the_void(smuggled);
    talk.say_into_the_void("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(upstream.next().target, "/up");
    if talk.try_reply(false).is_some() {
        assert_eq!(upstream.next().target, "/next");
    }
    assert_eq!(upstream.unexpected(), 0);
}

#[test]
fn a_visitor_that_stops_reading_stops_only_itself_and_memory_stays_bounded() {
    let poured = Arc::new(AtomicUsize::new(0));
    let count = poured.clone();
    let upstream = Upstream::start(move |exchange| {
        if exchange.request.target == "/small" {
            exchange.answer(200, "", b"small");
            return true;
        }
        exchange
            .talk
            .say("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let block = vec![7; 1 << 16];
        while exchange.talk.say_into_the_void(&block) {
            count.fetch_add(block.len(), Ordering::Relaxed);
        }
        false
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let before = (kit.proc.rss_kib(), hoody.proc.rss_kib());
    let stalled: Vec<Talk> = (0..20)
        .map(|_| {
            let mut talk = Talk::port(hoody.port());
            talk.say("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
            talk.head().expect("the head comes");
            talk
        })
        .collect();
    let still = Duration::from_secs(1);
    at_rest("what is poured", still, || poured.load(Ordering::Relaxed));
    for _ in 0..20 {
        assert_eq!(Talk::port(hoody.port()).get("/small").text(), "small");
    }
    let grown = kit.proc.rss_kib().saturating_sub(before.0);
    assert!(
        grown < 56 * 1024,
        "twenty stalled visitors cost the kit {grown} KiB"
    );
    assert!(
        hoody.proc.rss_kib().saturating_sub(before.1) < 56 * 1024,
        "the client: {}",
        hoody.proc.rss_kib()
    );
    drop(stalled);
}

#[test]
fn a_visitor_that_half_closes_after_its_request_gets_its_answer() {
    let upstream = Upstream::start(|exchange| {
        std::thread::sleep(Duration::from_millis(200));
        exchange.answer(200, "", b"late");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    talk.finish();
    assert_eq!(talk.reply(false).text(), "late");
    assert!(talk.at_end());
}

#[test]
fn a_visitor_that_leaves_ends_the_work_upstream() {
    let (sender, gone) = channel();
    let sender = Mutex::new(sender);
    let server = TcpServer::start(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"4\r\ntick\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = sender.lock().map(|sender| sender.send(()));
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, server.port);
    let mut talk = Talk::port(hoody.port());
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.head().expect("a head");
    drop(talk);
    gone.recv_timeout(PATIENCE)
        .expect("the upstream's connection ends with its visitor");
}

#[test]
fn a_visitor_that_leaves_before_the_head_ends_the_work_upstream_soon() {
    let (sender, gone) = channel();
    let sender = Mutex::new(sender);
    let server = TcpServer::start(move |mut stream| {
        while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        let _ = sender.lock().map(|sender| sender.send(()));
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, server.port);
    let mut talk = Talk::port(hoody.port());
    talk.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nprompt");
    drop(talk);
    gone.recv_timeout(PATIENCE)
        .expect("the upstream's connection ends with its visitor");
}
