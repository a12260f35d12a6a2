//! The local side of EXPOSE: how the client finds, names and reuses the server it exposes.

use crate::support::client::{Hoody, hoody_at};
use crate::support::free_port;
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::tcp::TcpServer;
use crate::support::upstream::Upstream;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

#[test]
fn the_upstream_sees_a_host_of_its_own_unless_told_otherwise() {
    let upstream = Upstream::mirror();
    let own = format!("127.0.0.1:{}", upstream.port());
    let ask = |flags: &[&str]| {
        let kit = Kit::start();
        let hoody = Hoody::expose_with(&kit, upstream.port(), flags);
        let mut talk = Talk::port(hoody.port());
        talk.say("GET / HTTP/1.1\r\nHost: app.example\r\nOrigin: https://app.example\r\n");
        talk.say("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        talk.say("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        talk.reply(false);
        let seen = upstream.next();
        (
            seen.field("host").unwrap_or_default(),
            seen.field("origin").unwrap_or_default(),
        )
    };
    assert_eq!(ask(&[]), (own.clone(), format!("http://{own}")));
    assert_eq!(ask(&["--host-header", "rewrite"]).0, own);
    assert_eq!(
        ask(&["--host-header", "keep"]),
        ("app.example".to_owned(), "https://app.example".to_owned())
    );
    assert_eq!(ask(&["--host-header", "dev.local"]).0, "dev.local");
}

#[test]
fn fields_of_ones_own_reach_the_local_server_in_the_place_of_the_visitors() {
    let upstream = Upstream::mirror();
    let kit = Kit::start();
    let flags = [
        "--header",
        "X-Api-Key: hush:1 ",
        "--header",
        "Accept:text/plain",
    ];
    let hoody = Hoody::expose_with(&kit, upstream.port(), &flags);
    let mut talk = Talk::port(hoody.port());
    for method in ["GET", "POST"] {
        talk.say(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nx-api-key: forged\r\n"
        ));
        talk.say("ACCEPT: */*\r\nX-More: 1\r\nX-API-KEY: forged\r\nContent-Length: 0\r\n\r\n");
        talk.reply(false);
        let seen = upstream.next();
        assert_eq!(seen.field("x-api-key").as_deref(), Some("hush:1"));
        assert_eq!(seen.field("accept").as_deref(), Some("text/plain"));
        assert_eq!(seen.field("x-more").as_deref(), Some("1"));
    }
}

#[test]
fn every_answer_has_a_date_and_the_local_servers_own_stays() {
    let upstream = Upstream::start(|exchange| {
        let own = exchange.request.target == "/own";
        let line = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        exchange.answer(200, if own { line } else { "" }, b"");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    let own = talk.get("/own").field("date").unwrap();
    assert_eq!(own, "Sun, 06 Nov 1994 08:49:37 GMT");
    let ours = talk.get("/").field("date").expect("a date");
    assert!(ours.len() == own.len() && ours.ends_with(" GMT"), "{ours}");
    let year = ours[12..16].parse::<u32>().unwrap();
    assert!(year >= 2024, "{ours}");
    talk.say("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n");
    let refused = talk.reply(false);
    assert_eq!(refused.status, 400);
    assert!(refused.field("date").is_some());
}

#[test]
fn a_request_that_may_go_no_further_is_answered_by_the_kit() {
    let upstream = Upstream::mirror();
    let kit = Kit::with(&["--via"]);
    let hoody = Hoody::expose(&kit, upstream.port());
    let mut talk = Talk::port(hoody.port());
    let mut ask = |method: &str, hops: &str| {
        let field = format!("Max-Forwards: {hops}\r\n");
        talk.say(format!(
            "{method} / HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"
        ));
        talk.reply(false)
    };
    let options = ask("OPTIONS", "0");
    assert_eq!(options.status, 200);
    assert!(options.field("allow").unwrap().contains("OPTIONS"));
    assert_eq!(ask("TRACE", "0").status, 405);
    assert!(options.field("via").is_none(), "it is the kit's own");
    // The connection goes on, and the rest reaches the local server.
    let passed = ask("OPTIONS", "5");
    assert_eq!(passed.field("via").unwrap(), "1.1 hoody-tunnel");
    let seen = upstream.next();
    assert_eq!(seen.field("max-forwards").unwrap(), "4");
    assert_eq!(seen.field("via").unwrap(), "1.1 hoody-tunnel");
    assert_eq!(upstream.unexpected(), 0);
    assert_eq!(ask("OPTIONS", "many").status, 400);
}

#[test]
fn a_local_server_that_is_down_gives_502_and_the_next_request_tries_again() {
    let port = free_port();
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, port);
    let mut talk = Talk::port(hoody.port());
    let reply = talk.get("/");
    assert_eq!(reply.status, 502);
    assert!(
        reply.text().contains(&port.to_string()),
        "says what was tried: {}",
        reply.text()
    );
    let upstream = Upstream::on((Ipv4Addr::LOCALHOST, port).into(), |exchange| {
        exchange.answer(200, "", b"up");
        true
    });
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "up");
    drop(upstream);
}

#[test]
fn localhost_is_tried_on_both_families() {
    let kit = Kit::start();
    let port = free_port();
    let serve_six = Upstream::on((Ipv6Addr::LOCALHOST, port).into(), |exchange| {
        exchange.answer(200, "", b"six");
        true
    });
    let target = format!("localhost:{port}");
    let hoody = Hoody::start(&kit, &["expose", &target, "--container-port", "0"], 1);
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "six");
    drop(serve_six);
    let four = Upstream::on((Ipv4Addr::LOCALHOST, free_port()).into(), |exchange| {
        exchange.answer(200, "", b"four");
        true
    });
    let target = format!("localhost:{}", four.port());
    let hoody = Hoody::start(&kit, &["expose", &target, "--container-port", "0"], 1);
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "four");
}

#[test]
fn several_bindings_of_one_session_go_to_several_targets() {
    let one = Upstream::start(|exchange| {
        exchange.answer(200, "", b"one");
        true
    });
    let two = TcpServer::start(|mut stream| {
        let _ = stream.write_all(b"two");
    });
    let kit = Kit::start();
    let expose = format!("127.0.0.1:{}=0", one.port());
    let pull = format!("127.0.0.1:{}=0", two.port);
    let mut command = hoody_at(
        &kit,
        &["up", "--expose", &expose, "--pull", &pull, "--json"],
    );
    let hoody = Hoody::from_command(&mut command, 2);
    let port_of = |mode: &str| {
        let found = hoody.ready.iter().find(|ready| ready["mode"] == mode);
        found.expect("both modes are there")["containerPort"]
            .as_u64()
            .expect("a port") as u16
    };
    assert_eq!(Talk::port(port_of("expose")).get("/").text(), "one");
    let mut text = String::new();
    let mut caller = TcpStream::connect((Ipv4Addr::LOCALHOST, port_of("pull"))).expect("open");
    caller.read_to_string(&mut text).expect("read");
    assert_eq!(text, "two");
    assert_eq!(kit.json("sessions")["total"], 1);
}

#[test]
fn requests_share_a_bounded_pool_of_local_connections() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"pooled");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    for _ in 0..100 {
        assert_eq!(Talk::port(hoody.port()).get("/").text(), "pooled");
    }
    let dialled = upstream.server.accepted();
    assert!(
        dialled <= 5,
        "a hundred requests in a row dialled {dialled} times"
    );
}

/// What a raw client reads of a raw server, and what that one was sent, octet by octet.
#[test]
fn names_of_fields_arrive_as_they_were_written_both_ways() {
    let (tell, seen) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let server = TcpServer::start(move |mut stream| {
        let mut head = Vec::new();
        let mut octet = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|it| it == 1) {
            head.push(octet[0]);
        }
        let answer = "HTTP/1.1 200 OK\r\nX-Odd-CASE: Yes\r\nETag: \"a\"\r\n\
                      set-Cookie: a=1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let _ = stream.write_all(answer.as_bytes());
        let _ = tell.lock().expect("a channel").send(head);
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, server.port);
    let mut visitor = TcpStream::connect((Ipv4Addr::LOCALHOST, hoody.port())).expect("it listens");
    let request = "POST / HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=1\r\nx-lower: 1\r\n\
                   SHOUTED: 2\r\nX-Hub-Signature-256: sha256=2\r\nContent-Length: 2\r\n\
                   Connection: close\r\n\r\nhi";
    visitor.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).expect("it answers");
    let head = seen.recv_timeout(crate::support::PATIENCE).expect("a head");
    let head = String::from_utf8(head).expect("text");
    for line in [
        "X-Hub-Signature-256: sha256=1",
        "x-lower: 1",
        "SHOUTED: 2",
        "X-Hub-Signature-256: sha256=2",
    ] {
        assert_eq!(
            head.lines().filter(|it| *it == line).count(),
            1,
            "{line} in {head}"
        );
    }
    for line in ["X-Odd-CASE: Yes", "ETag: \"a\"", "set-Cookie: a=1"] {
        assert_eq!(
            answer.lines().filter(|it| *it == line).count(),
            1,
            "{line} in {answer}"
        );
    }
}

/// A local server that answers in chunks with trailers, as gRPC-Web's do, and what visitors of it
/// see, octet by octet; and what it sees of a visitor's.
#[test]
fn trailers_arrive_both_ways_where_they_are_taken() {
    let (tell, seen) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let server = TcpServer::start(move |mut stream| {
        let (mut request, mut octet) = (Vec::new(), [0]);
        let ends = [&b"\r\n\r\n"[..], b"X-Mine: 1\r\n\r\n"];
        let chunked = |request: &[u8]| request.windows(7).any(|it| it == b"chunked");
        while !request.ends_with(ends[usize::from(chunked(&request))])
            && stream.read(&mut octet).is_ok_and(|it| it == 1)
        {
            request.push(octet[0]);
        }
        let answer = "HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n\
                      2\r\nok\r\n0\r\ngrpc-status: 0\r\nContent-Length: 7\r\nGrpc-Message: a b\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes());
        let _ = tell.lock().expect("a channel").send(request);
        let _ = stream.read(&mut octet);
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, server.port);
    let ask = |request: &str| {
        let to = (Ipv4Addr::LOCALHOST, hoody.port());
        let mut visitor = TcpStream::connect(to).expect("it listens");
        visitor.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).expect("it answers");
        let request = seen.recv_timeout(crate::support::PATIENCE).expect("a head");
        (answer, String::from_utf8(request).expect("text"))
    };
    let (answer, request) = ask(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: TE, close\r\nTE: trailers\r\n\
         Trailer: X-Mine\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nHost: evil\r\nX-Mine: 1\r\n\r\n",
    );
    let whole = "2\r\nok\r\n0\r\ngrpc-status: 0\r\nGrpc-Message: a b\r\n\r\n";
    assert!(answer.ends_with(whole), "{answer}");
    assert!(answer.contains("\r\nTrailer: grpc-status\r\n"), "{answer}");
    assert!(
        request.ends_with("3\r\nabc\r\n0\r\nX-Mine: 1\r\n\r\n"),
        "{request}"
    );
    for line in ["te: trailers", "connection: TE", "Trailer: X-Mine"] {
        assert!(request.lines().any(|it| it == line), "{line} in {request}");
    }
    let (answer, request) = ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("2\r\nok\r\n0\r\n\r\n"), "{answer}");
    assert!(!answer.contains("Trailer"), "{answer}");
    assert!(!request.contains("te: "), "{request}");
    let (answer, _) = ask("GET / HTTP/1.0\r\nHost: a\r\nTE: trailers\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n";
    assert!(ask(head).0.ends_with("\r\n\r\n"));
}

/// A local server whose answer has this head, and what a visitor reads of it.
fn answered_with(lines: &str, flags: &[&str]) -> String {
    let head = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\nConnection: close\r\n\r\n");
    let server = TcpServer::start(move |mut stream| {
        let (mut request, mut octet) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|it| it == 1) {
            request.push(octet[0]);
        }
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(b"ok");
    });
    let kit = Kit::start();
    let hoody = Hoody::expose_with(&kit, server.port, flags);
    let mut visitor = TcpStream::connect((Ipv4Addr::LOCALHOST, hoody.port())).expect("it listens");
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    visitor.write_all(request).expect("it reads");
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn answers_may_have_heads_of_256_kib_and_a_thousand_fields() {
    let many: String = (0..996).map(|at| format!("X-{at}: {at}\r\n")).collect();
    let large = format!("X-Large: {}\r\n", "x".repeat(200 * 1024));
    let wide: String = (0..80)
        .map(|at| format!("X-{at}: {}\r\n", "y".repeat(3000)))
        .collect();
    for lines in [
        &many,
        &large,
        &wide,
        &format!("X-First: 1\r\n{large}X-Last: 1\r\n"),
    ] {
        let answer = answered_with(lines, &[]);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{}",
            &answer[..200]
        );
        assert!(answer.contains(lines.as_str()), "it is whole and in order");
        assert!(answer.ends_with("\r\n\r\nok"));
    }
    let two = "A: 1\r\n".repeat(1000);
    for (lines, flags) in [
        (&two, &[][..]),
        (&format!("X: {}\r\n", "x".repeat(256 * 1024)), &[]),
        (&large, &["--max-head", "100KiB"]),
        (&many, &["--max-fields", "900"]),
    ] {
        let answer = answered_with(lines, flags);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{}", &answer[..200]);
        assert!(answer.contains("--max-head"), "it says why");
    }
}

#[test]
fn requests_may_have_heads_as_long_as_the_operator_says() {
    let upstream = Upstream::mirror();
    let long = format!("X-Long: {}\r\n", "x".repeat(150_000));
    let many: String = (0..300).map(|at| format!("X-{at}: {at}\r\n")).collect();
    let ask = |flags: &[&str], lines: &str| {
        let kit = Kit::with(flags);
        let hoody = Hoody::expose(&kit, upstream.port());
        let mut talk = Talk::port(hoody.port());
        talk.say_into_the_void(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        talk.reply(false)
    };
    for lines in [&long, &many] {
        assert_eq!(ask(&[], lines).status, 431);
        let reply = ask(&["--max-head", "256KiB", "--max-fields", "1000"], lines);
        assert_eq!(reply.status, 200);
        assert!(
            reply.text().contains(lines.as_str()),
            "the server saw all of it"
        );
        upstream.next();
    }
    assert_eq!(ask(&["--max-fields", "20"], &many).status, 431);
}
