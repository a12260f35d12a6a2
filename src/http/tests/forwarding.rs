//! What passes to the other side.

use super::*;
use std::net::{IpAddr, Ipv4Addr};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

/// The fields that STREAM_OPEN would carry.
fn forwarded(head: &str) -> String {
    passed(head, true)
}

fn passed(head: &str, by_proxy: bool) -> String {
    let head = request(head.as_bytes());
    let forwarded = forward::Forwarded::new(&head, PEER, by_proxy, "http");
    lines(forward::request_fields(&head, &forwarded))
}

const TRAIL: &str = "x-forwarded-for: 203.0.113.9\nx-forwarded-proto: http\nx-forwarded-host: a\n";

#[test]
fn order_and_repeats_are_kept_and_the_trail_is_added() {
    let head = "POST /a HTTP/1.1\r\nAccept: x\r\nHost: a\r\nCookie: 1\r\nB: \u{e9}\r\nCookie: 2\r\n\
        Content-Length: 5\r\n\r\n";
    let expected = "host: a\nAccept: x\nCookie: 1\nB: \u{e9}\nCookie: 2\nContent-Length: 5\n";
    assert_eq!(forwarded(head), format!("{expected}{TRAIL}"));
}

#[test]
fn fields_that_end_at_this_hop_are_removed() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop\r\nCONNECTION: close, x-other\r\n\
        X-HOP: 1\r\nX-Other: 2\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nTE: trailers\r\n\
        Trailer: X\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\
        Proxy-Authorization: y\r\nProxy-: y\r\nProxy: z\r\nProxies: kept\r\n\r\n";
    let expected = format!("host: a\nHTTP2-Settings: x\nProxies: kept\n{TRAIL}");
    assert_eq!(forwarded(head), expected);
}

#[test]
fn connection_cannot_remove_host_or_length_or_the_trail() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-For: 1.2.3.4\r\n\
        Connection: host, content-length, x-forwarded-for, x-forwarded-proto\r\n\r\n";
    assert_eq!(
        forwarded(head),
        "host: a\nContent-Length: 5\nX-Forwarded-Proto: https\n\
         x-forwarded-for: 1.2.3.4, 203.0.113.9\nx-forwarded-host: a\n"
    );
}

#[test]
fn the_trail_of_a_proxy_in_front_is_continued() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: pub\r\n\
        x-forwarded-for: 5.6.7.8, 9.9.9.9\r\nX-Forwarded-For:\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert_eq!(
        forwarded(head),
        "host: a\nX-Forwarded-Host: pub\nX-Forwarded-Proto: https\n\
         x-forwarded-for: 1.2.3.4, 5.6.7.8, 9.9.9.9, 203.0.113.9\n"
    );
}

#[test]
fn a_visitor_who_is_no_trusted_proxy_invents_no_trail() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: pub\r\n\
        X-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-Port: 443\r\nAccept: x\r\n\
        X-Forwarded-Proto: https\r\nConnection: x-forwarded-proto, x-forwarded-for\r\n\r\n";
    assert_eq!(passed(head, false), format!("host: a\nAccept: x\n{TRAIL}"));
    let trusted = passed(head, true);
    for kept in [
        "X-Real-IP",
        "Forwarded: ",
        "X-Forwarded-Port",
        "X-Forwarded-Proto: https",
    ] {
        assert!(trusted.contains(kept), "{kept}: {trusted}");
    }
}

#[test]
fn names_with_underscores_stay_behind() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.2.3.4\r\nX_Real_IP: 1.2.3.4\r\n\
        X-Kept: a_b\r\nCONTENT_LENGTH: 7\r\n\r\n";
    for by_proxy in [false, true] {
        assert_eq!(
            passed(head, by_proxy),
            format!("host: a\nX-Kept: a_b\n{TRAIL}")
        );
    }
}

#[test]
fn the_host_of_an_absolute_target_replaces_the_field() {
    let text = forwarded("GET http://b:1/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(text.starts_with("host: b:1\nx-forwarded-for"), "{text}");
    assert!(text.ends_with("x-forwarded-host: b:1\n"), "{text}");
}

#[test]
fn every_address_fits_the_trail() {
    let head = request(b"GET / HTTP/1.0\r\n\r\n");
    for (peer, text) in [
        (
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("255.255.255.255", "255.255.255.255"),
    ] {
        let forwarded =
            forward::Forwarded::new(&head, peer.parse().expect("address"), true, "https");
        let fields = lines(forward::request_fields(&head, &forwarded));
        assert_eq!(
            fields,
            format!("x-forwarded-for: {text}\nx-forwarded-proto: https\n")
        );
    }
}

#[test]
fn an_upgrade_keeps_upgrade_and_nothing_else_that_connection_named() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade, X-Hop\r\nX-Hop: 1\r\n\
        Upgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    assert_eq!(
        forwarded(head),
        format!("host: a\nSec-WebSocket-Key: k\n{TRAIL}connection: Upgrade\nupgrade: websocket\n")
    );
}

#[test]
fn an_http_1_0_visitor_does_not_pass_its_expectation() {
    let text = forwarded("PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(text, format!("host: a\n{TRAIL}"));
    let text = forwarded("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(text, format!("host: a\nExpect: 100-continue\n{TRAIL}"));
}

#[test]
fn a_response_passes_without_its_hop() {
    let head = response(
        b"HTTP/1.1 200 OK\r\nDate: d\r\nSet-Cookie: 1\r\nConnection: keep-alive, x\r\nX: 1\r\n\
        Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nSet-Cookie: 2\r\nUpgrade: h2\r\n\r\n",
    );
    let fields = lines(forward::response_fields(&head, false));
    assert_eq!(fields, "Date: d\nSet-Cookie: 1\nSet-Cookie: 2\n");
    let fields = lines(forward::response_fields(&head, true));
    assert!(fields.ends_with("connection: Upgrade\nupgrade: websocket\n"));
}

#[test]
fn hops_are_counted_where_they_are_and_only_there() {
    let passed = |method: &str, fields: &str| {
        forwarded(&format!("{method} /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    };
    for (said, next) in [("1", "0"), ("10", "9"), ("007", "6")] {
        for method in ["OPTIONS", "TRACE"] {
            let fields = passed(method, &format!("Max-Forwards: {said}\r\n"));
            assert!(
                fields.ends_with(&format!("max-forwards: {next}\n")),
                "{fields}"
            );
            assert_eq!(fields.to_lowercase().matches("max-forwards").count(), 1);
        }
        let fields = passed("GET", &format!("Max-Forwards: {said}\r\n"));
        assert!(
            fields.contains(&format!("Max-Forwards: {said}\n")),
            "{fields}"
        );
    }
    // Connection cannot make the chain endless.
    let fields = passed("OPTIONS", "Connection: max-forwards\r\nMax-Forwards: 2\r\n");
    assert!(fields.ends_with("max-forwards: 1\n"), "{fields}");
    assert!(!passed("OPTIONS", "").contains("max-forwards"));
    for (said, read) in [
        ("Max-Forwards: 0", Ok(Some(0))),
        ("Max-Forwards:", Err(400)),
        ("Max-Forwards: -1", Err(400)),
        ("Max-Forwards: 1, 2", Err(400)),
        ("Max-Forwards: 99999999999999999999999", Err(400)),
        ("Max-Forwards: 1\r\nMax-Forwards: 1", Err(400)),
    ] {
        for method in ["OPTIONS", "TRACE", "GET"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n{said}\r\n\r\n");
            let hops = request(text.as_bytes()).max_forwards();
            let expected = if method == "GET" { Ok(None) } else { read };
            assert_eq!(hops.map_err(|reject| reject.status), expected, "{text}");
        }
    }
}

#[test]
fn via_is_added_behind_that_of_others() {
    for (version, ours) in [
        ("1.0", "via: 1.0 hoody-tunnel"),
        ("1.1", "via: 1.1 hoody-tunnel"),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\nVia: 1.1 other\r\n\r\n");
        let head = request(text.as_bytes());
        let trail = || forward::Forwarded::new(&head, PEER, true, "http");
        let plain = lines(forward::request_fields(&head, &trail()));
        assert!(
            plain.contains("Via: 1.1 other\n") && !plain.contains("hoody"),
            "{plain}"
        );
        let trail = trail().with_via(head.version);
        let fields = lines(forward::request_fields(&head, &trail));
        assert_eq!(fields, format!("{plain}{ours}\n"));
    }
}
