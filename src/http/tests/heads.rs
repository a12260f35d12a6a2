//! Heads: what is accepted, what is refused and with which status, and what was decided.

use super::*;
use crate::limits::{MAX_HEADER_FIELDS, MAX_HTTP_HEAD};

/// The status a head with these fields is refused with, or 0.
fn status_of(fields: &str) -> u16 {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    parse_request(head.as_bytes()).map_or_else(|reject| reject.status, |_| 0)
}

fn status_of_raw(head: &[u8]) -> u16 {
    match parse_request(head) {
        Err(reject) => reject.status,
        Ok(Some(_)) => 0,
        Ok(None) => panic!("{} is not whole", head.escape_ascii()),
    }
}

#[test]
fn a_plain_get_is_read() {
    let head =
        request(b"GET /a?b=%20c HTTP/1.1\r\nHost: app.test:80\r\nX: \t1 \t\r\nEmpty:\r\n\r\n");
    assert_eq!(head.method, "GET");
    assert_eq!(head.target.as_ref(), b"/a?b=%20c");
    assert_eq!(head.host, Some(b"app.test:80".as_slice()));
    assert_eq!(
        lines(head.fields.iter()),
        "Host: app.test:80\nX: 1\nEmpty: \n"
    );
    assert_eq!(head.body, RequestBody::None);
    assert!(head.keep_alive && !head.expects_continue && !head.upgrade);
    assert_eq!(head.asked(), GET);
}

#[test]
fn ambiguous_or_malformed_framing_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length:\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: 1e3\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: \u{0665}\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 99999999999999999999999999999999\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
    ] {
        assert_eq!(status_of(fields), 400, "{fields:?}");
    }
}

#[test]
fn unambiguous_framing_is_read() {
    let body = |fields: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        request(head.as_bytes()).body
    };
    assert_eq!(body(""), RequestBody::None);
    assert_eq!(body("Content-Length: 0\r\n"), RequestBody::Length(0));
    assert_eq!(body("content-LENGTH:  7 \r\n"), RequestBody::Length(7));
    assert_eq!(
        body("Content-Length: 0000000000000000000000007\r\n"),
        RequestBody::Length(7)
    );
    assert_eq!(
        body("Content-Length: 18446744073709551615\r\n"),
        RequestBody::Length(u64::MAX)
    );
    assert_eq!(body("TRANSFER-encoding: Chunked\r\n"), RequestBody::Chunked);
}

#[test]
fn field_lines_with_two_readings_are_refused() {
    for fields in [
        "A: 1\r\n folded\r\n",
        "A: 1\r\n\tfolded\r\n",
        "A: 1\r\n \r\n",
        "A : 1\r\n",
        "A\t: 1\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        ": 1\r\n",
        "A\r\n",
        "A B: 1\r\n",
        "A(: 1\r\n",
        "A\u{e9}: 1\r\n",
        "A: 1\nB: 2\r\n",
        "A: 1\rB: 2\r\n",
        "A: 1\r\r\n",
        "A: a\0b\r\n",
        "A\0: b\r\n",
        "A: a\u{1}b\r\n",
        "A: a\u{7f}b\r\n",
        "A: a\u{b}\r\n",
        "A: a\u{c}\r\n",
        "A: \u{8}\r\n",
    ] {
        assert_eq!(status_of(fields), 400, "{fields:?}");
    }
}

#[test]
fn first_lines_with_two_readings_are_refused() {
    for (line, status) in [
        ("", 400),
        ("GET", 400),
        ("GET /", 400),
        ("GET / ", 400),
        (" GET / HTTP/1.1", 400),
        ("\tGET / HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET /\tHTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET / HTTP/1.1 HTTP/2.0", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1.", 400),
        ("GET / HTTP/11", 400),
        ("GET / HTTP/1.10", 400),
        ("GET / HTTP/1.1x", 400),
        ("GET / HTTPS/1.1", 400),
        ("GET / HTTP/+1.1", 400),
        ("GET / HTTP/x.1", 400),
        ("GET / HTTP/1.x", 400),
        ("G(T / HTTP/1.1", 400),
        ("G\u{e9}T / HTTP/1.1", 400),
        ("GET /\0 HTTP/1.1", 400),
        ("GET /\u{7f} HTTP/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("GET / HTTP/1.2", 505),
        ("CONNECT a:443 HTTP/1.1", 405),
        ("CONNECT / HTTP/1.1", 405),
        ("connect a:443 HTTP/1.1", 405),
        ("GET a HTTP/1.1", 400),
        ("GET a:80 HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("OPTIONS ** HTTP/1.1", 400),
        ("GET ftp://a/ HTTP/1.1", 400),
        ("GET file:///etc/passwd HTTP/1.1", 400),
        ("GET http:/a HTTP/1.1", 400),
        ("GET http:// HTTP/1.1", 400),
        ("GET http:///a HTTP/1.1", 400),
        ("GET http://:80/a HTTP/1.1", 400),
        ("GET http://: HTTP/1.1", 400),
        ("GET http://u@a/ HTTP/1.1", 400),
        ("GET http://a\\b/ HTTP/1.1", 400),
        ("GET ?a HTTP/1.1", 400),
    ] {
        let head = format!("{line}\r\nHost: a\r\n\r\n");
        // An empty first line is skipped, and then the Host is no first line.
        assert_eq!(status_of_raw(head.as_bytes()), status, "{line:?}");
    }
}

#[test]
fn line_ends_other_than_cr_lf_are_refused_as_soon_as_they_come() {
    for head in [
        b"GET / HTTP/1.1\n".as_slice(),
        b"GET / HTTP/1.1\r\nHost: a\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\r",
        b"GET / HTTP/1.1\r\nHost: a\r\n\rX",
        b"\n",
        b"\r\r",
        b"\x16\x03\x01\x02\x00",
    ] {
        let reject = HeadScanner::new().scan(head).expect_err("refused");
        assert_eq!(reject.status, 400, "{}", head.escape_ascii());
    }
}

#[test]
fn the_host_is_there_once_and_is_a_host() {
    for (fields, status) in [
        ("", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a\r\nhOST: b\r\n", 400),
        ("Host: a, b\r\n", 400),
        ("Host: a,b\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host: a?b\r\n", 400),
        ("Host: a#b\r\n", 400),
        ("Host: u@a\r\n", 400),
        ("Host: a\\b\r\n", 400),
        ("Host: \"a\"\r\n", 400),
        ("Host: \u{e9}\r\n", 400),
        ("Host:\r\n", 0),
        ("Host: a.test:3000\r\n", 0),
        ("Host: [::1]:80\r\n", 0),
        ("Host: my_app--x.test\r\n", 0),
    ] {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(status_of_raw(head.as_bytes()), status, "{fields:?}");
    }
    assert_eq!(request(b"GET / HTTP/1.0\r\n\r\n").host, None);
    assert_eq!(
        request(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").host,
        Some(b"a".as_slice())
    );
    assert_eq!(
        status_of_raw(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        400
    );
}

#[test]
fn an_absolute_target_becomes_origin_form_and_names_the_host() {
    for (line, target, host) in [
        ("GET http://b.test/x?y HTTP/1.1", "/x?y", "b.test"),
        ("GET HTTPS://b.test:8443 HTTP/1.1", "/", "b.test:8443"),
        ("GET http://b?x=/ HTTP/1.1", "/?x=/", "b"),
        ("GET http://[::1]:80/ HTTP/1.1", "/", "[::1]:80"),
        ("OPTIONS http://b HTTP/1.1", "*", "b"),
        ("OPTIONS * HTTP/1.1", "*", "a"),
        ("OPTIONS / HTTP/1.1", "/", "a"),
        ("GET //b/x HTTP/1.1", "//b/x", "a"),
    ] {
        let text = format!("{line}\r\nHost: a\r\n\r\n");
        let head = request(text.as_bytes());
        assert_eq!(head.target.as_ref(), target.as_bytes(), "{line}");
        assert_eq!(head.host, Some(host.as_bytes()), "{line}");
    }
    assert_eq!(
        status_of_raw(b"GET http://b/ HTTP/1.1\r\n\r\n"),
        400,
        "Host is still required"
    );
}

#[test]
fn transfer_encoding_does_not_exist_in_http_1_0() {
    let head = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status_of_raw(head), 400);
    let head = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse_response(head).expect_err("refused").status, 502);
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, fields, stays) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        (
            "1.1",
            "Connection: keep-alive\r\nConnection: close\r\n",
            false,
        ),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(request(text.as_bytes()).keep_alive, stays, "{text}");
        let text = format!("HTTP/{version} 200 OK\r\n{fields}\r\n");
        assert_eq!(response(text.as_bytes()).keep_alive, stays, "{text}");
    }
}

#[test]
fn only_websocket_is_an_upgrade() {
    let upgrades = |line: &str, fields: &str| {
        request(format!("{line}\r\nHost: a\r\n{fields}\r\n").as_bytes()).upgrade
    };
    let get = "GET / HTTP/1.1";
    assert!(upgrades(
        get,
        "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    ));
    assert!(upgrades(
        get,
        "Upgrade: WebSocket\r\nConnection: upgrade\r\nContent-Length: 0\r\n"
    ));
    for (line, fields) in [
        (get, "Upgrade: websocket\r\n"),
        (get, "Connection: Upgrade\r\n"),
        (get, "Upgrade: h2c\r\nConnection: Upgrade\r\n"),
        (get, "Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n"),
        (
            get,
            "Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
        ),
        (get, "Upgrade: websocket/13\r\nConnection: Upgrade\r\n"),
        (
            get,
            "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n",
        ),
        (
            get,
            "Upgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "POST / HTTP/1.1",
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        ),
        (
            "GET / HTTP/1.0",
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        ),
    ] {
        assert!(!upgrades(line, fields), "{line} {fields:?}");
    }
}

#[test]
fn expect_is_seen_in_http_1_1_only() {
    assert!(request(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n").expects_continue);
    assert!(!request(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue);
    assert!(!request(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n").expects_continue);
}

#[test]
fn exactly_128_fields_and_32_kib_pass_and_one_more_does_not() {
    let with = |count: usize| {
        let fields: String = (1..count).map(|n| format!("a{n}: {n}\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let full = with(MAX_HEADER_FIELDS);
    assert_eq!(request(full.as_bytes()).fields.len(), MAX_HEADER_FIELDS);
    assert_eq!(status_of_raw(with(MAX_HEADER_FIELDS + 1).as_bytes()), 431);

    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let sized = |size: usize| format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4));
    assert_eq!(request(sized(MAX_HTTP_HEAD).as_bytes()).fields.len(), 2);
    assert_eq!(status_of_raw(sized(MAX_HTTP_HEAD + 1).as_bytes()), 431);
    let unending = "x".repeat(MAX_HTTP_HEAD);
    assert_eq!(
        HeadScanner::new()
            .scan(unending.as_bytes())
            .expect_err("too long")
            .status,
        431
    );
}

#[test]
fn connection_cannot_name_fields_without_end() {
    let names: String = (0..17).map(|n| format!("a{n},")).collect();
    assert_eq!(status_of(&format!("Connection: {names}\r\n")), 400);
    let names: String = (0..16).map(|n| format!("a{n}, ,")).collect();
    assert_eq!(status_of(&format!("Connection: {names} close\r\n")), 0);
}

#[test]
fn empty_lines_before_a_request_are_skipped_but_not_before_a_response() {
    let head = b"\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\nrest";
    let (parsed, length) = parse_request(head).expect("acceptable").expect("whole");
    assert_eq!(
        (parsed.target.as_ref(), length),
        (b"/x".as_slice(), head.len() - 4)
    );
    let reject = parse_response(b"\r\nHTTP/1.1 200 OK\r\n\r\n").expect_err("refused");
    assert_eq!(reject.status, 502);
}

#[test]
fn a_scanner_tells_an_idle_connection_from_a_started_head() {
    let mut scanner = HeadScanner::new();
    for (buffer, untouched) in [
        ("", true),
        ("\r", true),
        ("\r\n", true),
        ("\r\nG", false),
        ("\r\nGET / HTTP/1.1\r\n", false),
    ] {
        assert_eq!(scanner.scan(buffer.as_bytes()), Ok(None));
        assert_eq!(
            scanner.is_untouched(buffer.as_bytes()),
            untouched,
            "{buffer:?}"
        );
    }
}

#[test]
fn method_and_status_decide_whether_a_response_has_a_body() {
    let body = |head: &str, asked: Asked| response(head.as_bytes()).body(asked);
    let asked_head = Asked { head: true, ..GET };
    let sized = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(body(&sized(200), GET), ResponseBody::Length(5));
    for (status, asked) in [
        (200, asked_head),
        (100, GET),
        (101, GET),
        (204, GET),
        (304, GET),
    ] {
        assert_eq!(body(&sized(status), asked), ResponseBody::None, "{status}");
    }
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(body(chunked, GET), ResponseBody::Chunked);
    assert_eq!(body("HTTP/1.1 200\r\n\r\n", GET), ResponseBody::UntilClose);
    assert_eq!(body("HTTP/1.0 200 \r\n\r\n", GET), ResponseBody::UntilClose);
}

#[test]
fn a_response_with_two_readings_is_refused_as_502() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: 1\r\n fold\r\n\r\n",
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 20 X\r\n\r\n",
        "HTTP/1.1 2000 X\r\n\r\n",
        "HTTP/1.1 -20 X\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
    ] {
        let reject = parse_response(head.as_bytes()).expect_err(head);
        assert_eq!(reject.status, 502, "{head:?}");
    }
}

#[test]
fn a_connection_is_reused_only_when_the_next_response_starts_where_we_look() {
    let reusable = |head: &str| response(head.as_bytes()).reusable(GET);
    assert!(reusable("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"));
    assert!(reusable("HTTP/1.1 204 X\r\n\r\n"));
    assert!(reusable("HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n"));
    assert!(reusable("HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n"));
    assert!(!reusable("HTTP/1.1 200 OK\r\n\r\n"));
    assert!(!reusable(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    ));
    assert!(!reusable("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"));
    assert!(!reusable("HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n"));
    assert!(!reusable(
        "HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    assert!(!reusable("HTTP/1.1 101 X\r\n\r\n"));
}

#[test]
fn a_101_counts_only_as_the_answer_to_an_upgrade() {
    let asked = Asked {
        upgrade: true,
        ..GET
    };
    let good = "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(response(good.as_bytes()).accepts_upgrade(asked));
    assert!(!response(good.as_bytes()).accepts_upgrade(GET));
    for head in [
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 200 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert!(
            !response(head.as_bytes()).accepts_upgrade(asked),
            "{head:?}"
        );
    }
}

#[test]
fn who_wrote_a_head_that_is_refused_is_told_what_is_wrong() {
    for (head, why) in [
        (
            "GET / HTTP/1.1\rX",
            "A CR in the head is not followed by LF.",
        ),
        ("GET / HTTP/1.1\n", "A line of the head ends in a bare LF."),
        ("GET / HTTP/1.1\0", "The head contains a control character."),
        (
            "GET / HTTP/1.1\r\nA B: 1\r\n\r\n",
            "A field name is malformed.",
        ),
        (
            "GET / http/1.1\r\nA: 1\r\n\r\n",
            "The HTTP version is malformed.",
        ),
        ("GET\r\n\r\n", "The first line is malformed."),
    ] {
        let reject = parse_request(head.as_bytes()).expect_err(head);
        assert_eq!((reject.status, reject.why), (400, why), "{head:?}");
    }
    let reject = parse_response(b"HTTP/1.1 2x0 OK\r\n\r\n").expect_err("no status");
    assert_eq!(reject.why, "The status code is malformed.");
}

#[test]
fn fields_are_shown_as_text_in_a_log() {
    let head = response(b"HTTP/1.1 200 OK\r\nA: 1\r\nB: \xE9\r\n\r\n");
    assert!(!head.fields.is_empty());
    assert_eq!(
        format!("{:?}", head.fields),
        "[(\"A\", \"1\"), (\"B\", \"\u{FFFD}\")]"
    );
    assert!(response(b"HTTP/1.1 200 OK\r\n\r\n").fields.is_empty());
}

#[test]
fn lines_that_start_with_whitespace_are_refused_as_soon_as_they_come() {
    for (head, why) in [
        (" GET", "The first line starts with whitespace."),
        ("\r\n\tG", "The first line starts with whitespace."),
        (
            "GET / HTTP/1.1\r\n A",
            "A field is folded over several lines.",
        ),
        (
            "GET / HTTP/1.1\r\nA: 1\r\n\t",
            "A field is folded over several lines.",
        ),
    ] {
        let reject = HeadScanner::new().scan(head.as_bytes()).expect_err(head);
        assert_eq!((reject.status, reject.why), (400, why), "{head:?}");
    }
}

#[test]
fn a_status_below_200_announces_another_head_unless_it_switches() {
    for (status, interim) in [
        (100, true),
        (102, true),
        (103, true),
        (199, true),
        (101, false),
        (200, false),
    ] {
        let head = format!("HTTP/1.1 {status} X\r\n\r\n");
        assert_eq!(response(head.as_bytes()).is_interim(), interim, "{status}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
    let good = "a,A.b-c_d~e,a:,a:80,a:065535,127.0.0.1:1,[::1],[::1]:,[2001:db8::a:1]:443,\
                [::ffff:1.2.3.4],[v1.a:b],[vF.x]:1,%41b,a%c3%A4:1,*.a,a!$&'()*+;=";
    let bad = "[::1,::1,[::1]80,[::1]:x,[::1]:8:0,[],[]:80,[a],[1.2.3.4],[fe80::1%25eth0],[v.a],\
               [v1.],[v1],[vg.a],a:b,a:80:80,a:-1,a: 1,%zz,%4,a%,a@b,u:p@h,a/b,a?b,a#b,a b,a\\b,\
               a\"b,<a>,a^b,{a},a|b,]:80,[::1]],[[::1]]";
    for (list, status) in [(good, 0), (bad, 400)] {
        for host in list.split(',') {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(status_of_raw(head.as_bytes()), status, "{host}");
            let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n");
            let path_follows = host.contains(['/', '?']);
            let status = if path_follows { 0 } else { status };
            assert_eq!(
                status_of_raw(head.as_bytes()),
                status,
                "{host} in the target"
            );
        }
    }
    assert_eq!(status_of_raw(b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n"), 400);
    assert_eq!(status_of_raw(b"GET / HTTP/1.1\r\nHost:\r\n\r\n"), 0);
}

#[test]
fn a_fragment_is_nothing_to_ask_a_server_for() {
    for target in ["/a#b", "/#", "#a", "http://a/#b", "http://a#b", "/a?b#c"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(status_of_raw(head.as_bytes()), 400, "{target}");
    }
    assert_eq!(status_of_raw(b"GET /a%23b HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
}
