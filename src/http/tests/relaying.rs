//! Heads that came as JSON: what is written, and what is refused.

use super::*;
use crate::http::rewrite::{AskedAs, Names};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn fields<'a>(pairs: Pairs<'a>) -> impl Iterator<Item = Field<'a>> + Clone {
    pairs
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

fn request_text(
    method: &str,
    target: &str,
    pairs: Pairs<'_>,
    hint: BodyHint,
    upgrade: bool,
) -> String {
    let plan = RequestPlan::new(method, target.as_bytes(), fields(pairs), hint, upgrade);
    let mut out = Vec::new();
    plan.expect("acceptable")
        .write(&mut out, b"local:1", None)
        .expect("writable");
    request(&out);
    String::from_utf8(out).expect("text")
}

fn response_text(status: u16, pairs: Pairs<'_>, asked: Asked) -> String {
    let mut out = Vec::new();
    ResponsePlan::new(status, fields(pairs), asked)
        .expect("acceptable")
        .write(&mut out);
    response(&out);
    String::from_utf8(out).expect("text")
}

#[test]
fn fields_of_ones_own_take_the_place_of_the_visitors_and_no_other() {
    let pairs: Pairs<'_> = &[
        ("x-KEY", "forged"),
        ("a", "1"),
        ("X-Key", "too"),
        ("x-keys", "2"),
    ];
    let own = [("X-Key", "ours"), ("b", "\u{e9}")];
    let own = own.map(|(name, value)| OwnField::new(name, value).unwrap());
    let plan = RequestPlan::new("GET", b"/", fields(pairs), BodyHint::None, false);
    let mut plan = plan.unwrap();
    plan.own = &own;
    let mut out = Vec::new();
    plan.write(&mut out, b"h", None).expect("writable");
    request(&out);
    assert_eq!(
        String::from_utf8(out).expect("text"),
        "GET / HTTP/1.1\r\nhost: h\r\na: 1\r\nx-keys: 2\r\nX-Key: ours\r\nb: \u{e9}\r\n\r\n"
    );
}

#[test]
fn a_trace_which_is_echoed_has_neither_fields_of_ones_own_nor_forged_ones() {
    let own = [OwnField::new("Authorization", "hush").unwrap()];
    for method in ["TRACE", "trace"] {
        let pairs: Pairs<'_> = &[("authorization", "forged"), ("a", "1")];
        let plan = RequestPlan::new(method, b"/", fields(pairs), BodyHint::None, false);
        let mut plan = plan.unwrap();
        plan.own = &own;
        let mut out = Vec::new();
        plan.write(&mut out, b"h", None).expect("writable");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            format!("{method} / HTTP/1.1\r\nhost: h\r\na: 1\r\n\r\n")
        );
    }
}

#[test]
fn a_request_is_written_with_what_was_decided() {
    let pairs: Pairs<'_> = &[
        ("host", "app.test"),
        ("content-length", "5"),
        ("Connection", "x-hop"),
        ("x-hop", "1"),
        ("Transfer-Encoding", "gzip"),
        ("a", "\u{e9}\t"),
    ];
    assert_eq!(
        request_text("POST", "/x?y", pairs, BodyHint::Length, false),
        "POST /x?y HTTP/1.1\r\nhost: local:1\r\na: \u{e9}\t\r\ncontent-length: 5\r\n\r\n"
    );
    assert_eq!(
        request_text("OPTIONS", "*", &[("te", "x")], BodyHint::Chunked, false),
        "OPTIONS * HTTP/1.1\r\nhost: local:1\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        request_text("GET", "/", &[("Upgrade", "h2c")], BodyHint::None, true),
        "GET / HTTP/1.1\r\nhost: local:1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn a_body_that_an_older_kit_does_not_describe_is_inferred() {
    fn body(method: &str, pairs: Pairs<'_>) -> RequestBody {
        let plan = RequestPlan::new(method, b"/", fields(pairs), BodyHint::Unknown, false);
        plan.expect("acceptable").body
    }
    assert_eq!(body("GET", &[]), RequestBody::None);
    assert_eq!(body("HEAD", &[]), RequestBody::None);
    assert_eq!(body("POST", &[]), RequestBody::Chunked);
    assert_eq!(
        body("POST", &[("Content-Length", "0")]),
        RequestBody::Length(0)
    );
    assert_eq!(
        body("GET", &[("Content-Length", "3")]),
        RequestBody::Length(3)
    );
}

#[test]
fn the_host_is_replaced_as_configured_and_what_names_it_follows() {
    let pairs: Pairs<'_> = &[
        ("host", "app.test"),
        ("Origin", "http://app.test"),
        ("b", "http://app.test"),
    ];
    let plan = RequestPlan::new("GET", b"/", fields(pairs), BodyHint::None, false);
    let plan = plan.expect("acceptable");
    assert_eq!(plan.host, Some(b"app.test".as_slice()));
    let asked_as = AskedAs {
        host: plan.host,
        ..AskedAs::default()
    };
    let mut out = Vec::new();
    plan.write(&mut out, b"h", Some(&Names::new(local(b"h"), asked_as)))
        .expect("writable");
    assert_eq!(
        out,
        b"GET / HTTP/1.1\r\nhost: h\r\nOrigin: http://h\r\nb: http://app.test\r\n\r\n"
    );
    assert!(plan.write(&mut out, b"h\r\nX: 1", None).is_err());
}

fn refuses_request(
    method: &str,
    target: &str,
    pairs: Pairs<'_>,
    hint: BodyHint,
    upgrade: bool,
) -> bool {
    RequestPlan::new(method, target.as_bytes(), fields(pairs), hint, upgrade).is_err()
}

#[test]
fn requests_that_cannot_be_written_safely_are_refused() {
    let refused = refuses_request;
    for method in ["", "G T", "GET\r\n", "G\u{e9}T", "CONNECT", "connect"] {
        assert!(
            refused(method, "/", &[], BodyHint::None, false),
            "{method:?}"
        );
    }
    for target in [
        "",
        "x",
        "*",
        "http://a/",
        "/a b",
        "/a\r\nX: 1",
        "/\0",
        "/\u{7f}",
        "/\t",
    ] {
        assert!(
            refused("GET", target, &[], BodyHint::None, false),
            "{target:?}"
        );
    }
    let hostile: [Pairs<'_>; 9] = [
        &[("a", "1\r\nb: 2")],
        &[("a", "1\n")],
        &[("a", "\0")],
        &[("a\r\nb", "1")],
        &[("a:", "1")],
        &[("", "1")],
        &[("a ", "1")],
        &[("host", "a"), ("Host", "a")],
        &[("host", "a/b")],
    ];
    for pairs in hostile {
        assert!(
            refused("GET", "/", pairs, BodyHint::None, false),
            "{pairs:?}"
        );
    }
    let lengths: [(Pairs<'_>, BodyHint); 7] = [
        (
            &[("content-length", "1"), ("content-length", "1")],
            BodyHint::Length,
        ),
        (&[("content-length", "+1")], BodyHint::Length),
        (&[("content-length", "1, 1")], BodyHint::Length),
        (&[], BodyHint::Length),
        (&[("content-length", "1")], BodyHint::None),
        (&[("content-length", "1")], BodyHint::Chunked),
        (&[("content-length", "x")], BodyHint::Unknown),
    ];
    for (pairs, hint) in lengths {
        assert!(
            refused("POST", "/", pairs, hint, false),
            "{pairs:?} {hint:?}"
        );
    }
    assert!(refused("POST", "/", &[], BodyHint::None, true));
    assert!(refused("GET", "/", &[], BodyHint::Chunked, true));
}

#[test]
fn a_response_is_framed_for_its_visitor() {
    let old = Asked {
        version: Version::Http10,
        keep_alive: false,
        ..GET
    };
    let old_stays = Asked {
        keep_alive: true,
        ..old
    };
    let head = Asked { head: true, ..GET };
    let leaves = Asked {
        keep_alive: false,
        ..GET
    };
    let sized: Pairs<'_> = &[
        ("Content-Length", "5"),
        ("connection", "x"),
        ("x", "1"),
        ("a", "b"),
    ];
    for (status, pairs, asked, expected) in [
        (200, sized, GET, "200 OK\r\na: b\r\ncontent-length: 5\r\n"),
        (
            200,
            sized,
            leaves,
            "200 OK\r\na: b\r\ncontent-length: 5\r\nconnection: close\r\n",
        ),
        (
            200,
            sized,
            old,
            "200 OK\r\na: b\r\ncontent-length: 5\r\nconnection: close\r\n",
        ),
        (
            200,
            sized,
            old_stays,
            "200 OK\r\na: b\r\ncontent-length: 5\r\nconnection: keep-alive\r\n",
        ),
        (200, sized, head, "200 OK\r\na: b\r\ncontent-length: 5\r\n"),
        (
            200,
            &[("Content-Type", "Text/Event-Stream ; charset=utf-8")],
            GET,
            "200 OK\r\nContent-Type: Text/Event-Stream ; charset=utf-8\r\n\
             x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            200,
            &[
                ("x-Accel-Buffering", "yes"),
                ("content-type", "text/event-stream"),
            ],
            GET,
            "200 OK\r\nx-Accel-Buffering: yes\r\ncontent-type: text/event-stream\r\n\
             transfer-encoding: chunked\r\n",
        ),
        (
            200,
            &[("content-type", "text/event-streams")],
            GET,
            "200 OK\r\ncontent-type: text/event-streams\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            304,
            sized,
            GET,
            "304 Not Modified\r\na: b\r\ncontent-length: 5\r\n",
        ),
        (204, sized, GET, "204 No Content\r\na: b\r\n"),
        (103, sized, GET, "103 Early Hints\r\na: b\r\n"),
        (103, sized, leaves, "103 Early Hints\r\na: b\r\n"),
        (299, &[], GET, "299 \r\ntransfer-encoding: chunked\r\n"),
        (200, &[], old_stays, "200 OK\r\nconnection: close\r\n"),
        (200, &[], head, "200 OK\r\n"),
        (
            200,
            &[("transfer-encoding", "x")],
            GET,
            "200 OK\r\ntransfer-encoding: chunked\r\n",
        ),
    ] {
        assert_eq!(
            response_text(status, pairs, asked),
            format!("HTTP/1.1 {expected}\r\n")
        );
    }
}

#[test]
fn the_plan_says_how_the_body_goes() {
    let old = Asked {
        version: Version::Http10,
        ..GET
    };
    let plan = |pairs, asked| ResponsePlan::new(200, fields(pairs), asked).expect("acceptable");
    assert_eq!(
        plan(&[("content-length", "5")], GET).body,
        ResponseBody::Length(5)
    );
    assert_eq!(plan(&[], GET).body, ResponseBody::Chunked);
    assert_eq!(plan(&[], old).body, ResponseBody::UntilClose);
    assert!(!plan(&[], old).keep_alive);
    assert_eq!(
        plan(&[], Asked { head: true, ..GET }).body,
        ResponseBody::None
    );
}

#[test]
fn an_http_1_0_visitor_gets_no_interim_head() {
    let old = Asked {
        version: Version::Http10,
        ..GET
    };
    let plan = ResponsePlan::new(100, fields(&[]), old).expect("acceptable");
    let mut out = Vec::new();
    plan.write(&mut out);
    assert!(plan.is_interim() && out.is_empty());
}

#[test]
fn a_101_is_written_only_to_whoever_asked() {
    let pairs: Pairs<'_> = &[
        ("Connection", "Upgrade"),
        ("Upgrade", "foo"),
        ("Sec-X", "1"),
    ];
    let asked = Asked {
        upgrade: true,
        keep_alive: false,
        ..GET
    };
    assert_eq!(
        response_text(101, pairs, asked),
        "HTTP/1.1 101 Switching Protocols\r\nSec-X: 1\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\n\r\n"
    );
    assert!(ResponsePlan::new(101, fields(pairs), GET).is_err());
}

#[test]
fn an_answer_without_a_date_gets_one_from_whoever_has_a_clock() {
    let date = HttpDate::from_unix(784_111_777);
    let ours = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let text = |status, pairs: Pairs<'_>, date| {
        let asked = Asked {
            upgrade: true,
            ..GET
        };
        let mut plan = ResponsePlan::new(status, fields(pairs), asked).expect("acceptable");
        plan.added = Added { date, via: false };
        let mut out = Vec::new();
        plan.write(&mut out);
        String::from_utf8(out).expect("text")
    };
    for status in [200, 204, 304, 404, 500] {
        assert_eq!(text(status, &[], Some(date)).matches(ours).count(), 1);
        assert!(!text(status, &[], None).contains("date"));
    }
    // Those of before the answer may go without (RFC 9110 §6.6.1).
    for status in [100, 101, 103] {
        assert!(!text(status, &[], Some(date)).contains("date"));
    }
    let said = text(200, &[("DATE", "yesterday")], Some(date));
    assert!(said.contains("\r\nDATE: yesterday\r\n") && !said.contains(ours));
    // Connection may not erase it and leave none.
    let erased = text(200, &[("connection", "date"), ("date", "x")], Some(date));
    assert!(erased.contains(ours), "{erased}");
}

#[test]
fn via_is_on_every_answer_of_whoever_says_it() {
    let asked = Asked {
        upgrade: true,
        ..GET
    };
    for status in [101, 103, 200, 304] {
        for via in [false, true] {
            let pairs: Pairs<'_> = &[("Via", "1.1 other")];
            let mut plan = ResponsePlan::new(status, fields(pairs), asked).expect("acceptable");
            plan.added = Added { date: None, via };
            let mut out = Vec::new();
            plan.write(&mut out);
            let text = String::from_utf8(out).expect("text");
            assert!(text.contains("Via: 1.1 other\r\n"), "{text}");
            assert_eq!(text.contains("via: 1.1 hoody-tunnel\r\n"), via, "{text}");
        }
    }
}

#[test]
fn a_full_head_of_a_visitor_is_not_too_full_for_the_client() {
    let more: String = (1..128).map(|n| format!("a{n}: {n}\r\n")).collect();
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let head = request(text.as_bytes());
    let forwarded = forward::Forwarded::new(&head, [127, 0, 0, 1].into(), true, "http");
    let fields = forward::request_fields(&head, &forwarded);
    assert_eq!(fields.clone().count(), 128 + 3);
    assert!(RequestPlan::new("GET", b"/", fields, BodyHint::None, false).is_ok());
}

#[test]
fn responses_that_cannot_be_written_safely_are_refused() {
    let many: Vec<Field<'_>> = vec![(b"a", b"b"); 2000];
    assert!(ResponsePlan::new(200, many.into_iter(), GET).is_err());
    for (status, pairs) in [
        (0, [].as_slice()),
        (99, &[]),
        (1000, &[]),
        (200, &[("a", "b\r\n\r\n<script>")]),
        (200, &[("a\r\n", "b")]),
        (200, &[("a", "\0")]),
        (200, &[("content-length", "1"), ("Content-Length", "2")]),
        (200, &[("content-length", "")]),
        (200, &[("content-length", "-1")]),
    ] {
        assert!(
            ResponsePlan::new(status, fields(pairs), GET).is_err(),
            "{status} {pairs:?}"
        );
    }
}
