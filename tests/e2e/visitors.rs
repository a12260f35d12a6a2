//! What visitors get when something is wrong: each row of PROTOCOL §11, said by hand.

use crate::support::client::Hoody;
use crate::support::http::{Reply, Talk};
use crate::support::kit::Kit;
use crate::support::tunnel::{DATA, Heard, PING, RESET, STREAM_OPEN, Tunnel};
use crate::support::upstream::Upstream;
use std::time::Duration;

/// Says bytes to an EXPOSE port and tells the answer and whether the connection ended after it.
fn say(port: u16, bytes: impl AsRef<[u8]>) -> (Option<Reply>, bool) {
    let mut talk = Talk::port(port);
    talk.say_into_the_void(bytes);
    let reply = talk.try_reply(false);
    let closed = reply.is_none() || (reply.as_ref().is_some_and(Reply::closes) && talk.at_end());
    (reply, closed)
}

#[track_caller]
fn refused(port: u16, upstream: &Upstream, what: &str, bytes: impl AsRef<[u8]>, status: u16) {
    // A second request behind the bad one must not be served from its remains.
    let mut all = bytes.as_ref().to_vec();
    all.extend_from_slice(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    let (reply, closed) = say(port, all);
    assert_eq!(reply.map(|reply| reply.status), Some(status), "{what}");
    assert!(closed, "{what}: the connection goes on");
    assert_eq!(upstream.unexpected(), 0, "{what}: something was forwarded");
}

#[test]
fn malformed_and_ambiguous_requests_are_refused_and_never_forwarded() {
    let upstream = Upstream::mirror();
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let port = hoody.port();
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    for (what, request) in [
        (
            "both framings",
            post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "both, the other order",
            post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
        ),
        (
            "lengths that differ",
            post("Content-Length: 3\r\nContent-Length: 4\r\n"),
        ),
        (
            "lengths in a list that differ",
            post("Content-Length: 3, 4\r\n"),
        ),
        ("a signed length", post("Content-Length: +3\r\n")),
        ("a negative length", post("Content-Length: -3\r\n")),
        ("a length in hex", post("Content-Length: 0x3\r\n")),
        ("a length of words", post("Content-Length: three\r\n")),
        ("an empty length", post("Content-Length: \r\n")),
        (
            "a length past 64 bits",
            post("Content-Length: 99999999999999999999999\r\n"),
        ),
        ("another coding", post("Transfer-Encoding: gzip\r\n")),
        (
            "coding then chunked",
            post("Transfer-Encoding: gzip, chunked\r\n"),
        ),
        (
            "chunked twice",
            post("Transfer-Encoding: chunked, chunked\r\n"),
        ),
        (
            "two coding lines",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ),
        (
            "chunked with a tail",
            post("Transfer-Encoding: chunked;q=1\r\n"),
        ),
        ("folded line", post("X-A: one\r\n two\r\n")),
        ("space before the colon", post("Content-Length : 3\r\n")),
        ("a bare CR", post("X-A: one\rX-B: two\r\n")),
        ("a NUL", post("X-A: o\0e\r\n")),
        ("an empty name", post(": value\r\n")),
        ("no colon", post("nonsense\r\n")),
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        ),
        ("no method", " / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("no version", "GET /\r\nHost: a\r\n\r\n".to_owned()),
        (
            "a control in the target",
            "GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned()),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
    ] {
        refused(port, &upstream, what, request, 400);
    }
    refused(
        port,
        &upstream,
        "CONNECT",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        405,
    );
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n",
        "a".repeat(33_000)
    );
    refused(port, &upstream, "a head over 32 KiB", long, 431);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    refused(port, &upstream, "HTTP/2", preface, 505);
    let cookies = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n",
        "c".repeat(30_000)
    );
    let mut talk = Talk::port(port);
    talk.say(cookies);
    assert_eq!(
        talk.reply(false).status,
        200,
        "a large head that is allowed"
    );
    upstream.next();
    let many: String = (0..130).map(|n| format!("X-{n}: 1\r\n")).collect();
    refused(
        port,
        &upstream,
        "over 128 fields",
        format!("GET / HTTP/1.1\r\n{many}\r\n"),
        431,
    );
    assert_eq!(Talk::port(port).get("/").status, 200, "the port serves on");
}

#[test]
fn bad_chunks_never_become_another_request() {
    let upstream = Upstream::start(|exchange| {
        let chunked = exchange.request.field("transfer-encoding").is_some();
        // The body is read as far as it came: it was cut where the visitor broke its framing.
        let whole = !chunked || exchange.talk.chunks(&mut Vec::new());
        if whole {
            exchange.answer(200, "", b"whole");
        }
        whole
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    for (what, body) in [
        ("a size of nonsense", "xyz\r\nabc\r\n0\r\n\r\n"),
        ("a signed size", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a prefixed size", "0x3\r\nabc\r\n0\r\n\r\n"),
        (
            "a size past 64 bits",
            "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "data that is longer than its size",
            "3\r\nabcd\r\n0\r\n\r\n",
        ),
        ("an empty size", "\r\nabc\r\n0\r\n\r\n"),
    ] {
        let head = "POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let (reply, closed) = say(hoody.port(), format!("{head}{body}{smuggled}"));
        assert!(
            reply.is_none_or(|reply| matches!(reply.status, 400 | 502)),
            "{what}: looked whole"
        );
        assert!(closed, "{what}: the connection goes on");
    }
    let mut talk = Talk::port(hoody.port());
    assert_eq!(talk.get("/good").text(), "whole");
    loop {
        let seen = upstream.next().target;
        assert_ne!(seen, "/smuggled");
        if seen == "/good" {
            break;
        }
    }
    assert_eq!(upstream.unexpected(), 0, "not later, either");
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let upstream = Upstream::start(|exchange| {
        exchange
            .talk
            .say("HTTP/1.1 200 OK\r\nConnection: X-Private, keep-alive\r\nX-Private: 1\r\n");
        exchange
            .talk
            .say("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTrailer: X\r\n");
        exchange
            .talk
            .say("Upgrade: h2c\r\nX-Public: 1\r\nContent-Length: 2\r\n\r\nok");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("GET http://other.test:99/path?q=1 HTTP/1.1\r\nHost: app.test\r\n");
    talk.say("Connection: X-Mine, close-not, Upgrade, HTTP2-Settings\r\nX-Mine: secret\r\n");
    talk.say(
        "Keep-Alive: 5\r\nTE: gzip, trailers\r\nTrailer: X-T\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
    );
    talk.say("Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nX-Public: 1\r\n");
    talk.say("X-Forwarded-For: 203.0.113.7\r\n\r\n");
    let reply = talk.reply(false);
    assert_eq!(reply.text(), "ok");
    let seen = upstream.next();
    assert_eq!(
        seen.target, "/path?q=1",
        "an absolute target becomes origin-form"
    );
    for gone in [
        "x-mine",
        "keep-alive",
        "trailer",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "proxy-connection",
        "transfer-encoding",
    ] {
        assert!(seen.field(gone).is_none(), "{gone} reached the upstream");
    }
    assert_eq!(seen.field("x-public").as_deref(), Some("1"));
    assert_eq!(seen.all("te"), ["trailers"], "said anew for the next hop");
    assert_eq!(seen.all("connection"), ["TE"]);
    let forwarded = seen.all("x-forwarded-for").join(", ");
    assert_eq!(forwarded, "203.0.113.7, 127.0.0.1");
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
    assert!(seen.field("x-forwarded-host").is_some());
    for gone in ["x-private", "proxy-connection", "trailer", "upgrade"] {
        assert!(reply.field(gone).is_none(), "{gone} reached the visitor");
    }
    assert_eq!(reply.field("x-public").as_deref(), Some("1"));
    assert_eq!(talk.get("/").text(), "ok", "the connection is kept");
}

#[test]
fn a_head_that_never_ends_gets_408() {
    let upstream = Upstream::mirror();
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    talk.say("GET / HTTP/1.1\r\nHost: a\r\n");
    let reply = talk.reply(false);
    assert_eq!(reply.status, 408);
    assert!(talk.at_end());
    assert_eq!(upstream.unexpected(), 0);
}

#[test]
fn bytes_behind_an_upgrade_are_not_passed_before_the_101() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let mut talk = Talk::port(port);
    talk.say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
    talk.say("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    talk.say("GET /early HTTP/1.1\r\nHost: a\r\n\r\n");
    let open = owner.expect(STREAM_OPEN);
    assert_eq!(open.json()["isUpgrade"], true);
    // Not one DATA frame may come for the early bytes, though the session is alive.
    owner.frame(PING, 0, b"12345678");
    while let Heard::Frame(frame) = owner.hear(Duration::from_millis(400)) {
        assert_ne!(frame.kind, DATA, "early bytes were passed");
    }
    owner.respond(open.stream, 403, b"no");
    let reply = talk.reply(false);
    assert_eq!((reply.status, reply.text().as_str()), (403, "no"));
}

#[test]
fn a_session_at_its_stream_cap_gives_503() {
    let kit = Kit::with(&["--max-streams-per-session", "2"]);
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let mut talks: Vec<Talk> = (0..2)
        .map(|_| {
            let mut talk = Talk::port(port);
            talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            owner.expect(STREAM_OPEN);
            talk
        })
        .collect();
    let mut third = Talk::port(port);
    let reply = third.get("/");
    assert_eq!(
        (reply.status, reply.field("retry-after").as_deref()),
        (503, Some("1"))
    );
    assert!(
        reply.text().contains("max streams exceeded"),
        "{}",
        reply.text()
    );
    owner.respond(2, 200, b"one");
    assert_eq!(talks[0].reply(false).text(), "one");
    let mut fourth = Talk::port(port);
    fourth.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let open = owner.expect(STREAM_OPEN);
    owner.respond(open.stream, 200, b"again");
    assert_eq!(fourth.reply(false).text(), "again");
}

#[test]
fn no_head_within_the_response_timeout_gives_504() {
    let kit = Kit::with(&["--response-timeout", "1s"]);
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let (mut talk, stream) = owner.visited(port);
    assert_eq!(talk.reply(false).status, 504);
    owner.expect_on(RESET, stream);
    assert!(owner.alive());
}
