//! Tests of the whole room: what passes from a visitor to a local server and back.

use super::*;

const PEER: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

/// The fields that STREAM_OPEN would carry, as text, one a line.
fn forwarded(request: &[u8]) -> String {
    let (head, _) = parse_request(request).unwrap().unwrap();
    let forwarded = forward::Forwarded::new(&head, PEER, "http");
    lines(forward::request_fields(&head, &forwarded))
}

fn lines<'a>(fields: impl Iterator<Item = Field<'a>>) -> String {
    let text = |part| String::from_utf8_lossy(part).into_owned();
    fields
        .map(|(name, value)| format!("{}: {}\n", text(name), text(value)))
        .collect()
}

#[test]
fn a_request_passes_with_its_trail() {
    let request =
        b"POST /a?b=c HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nTE: trailers\r\n\
        Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: x\r\nCookie: a\r\n\
        Cookie: b\r\n\r\nhello";
    assert_eq!(
        forwarded(request),
        "host: app.test\nContent-Length: 5\nCookie: a\nCookie: b\n\
         x-forwarded-for: 203.0.113.9\nx-forwarded-proto: http\nx-forwarded-host: app.test\n"
    );
}

#[test]
fn a_request_round_trips_through_plan_and_parser() {
    let fields: [Field<'_>; 2] = [(b"host", b"app.test"), (b"accept", b"*/*")];
    let plan =
        RequestPlan::new("PUT", b"/x", fields.into_iter(), BodyHint::Chunked, false).unwrap();
    let mut out = Vec::new();
    plan.write(&mut out, b"127.0.0.1:3000", None).unwrap();
    let (head, length) = parse_request(&out).unwrap().unwrap();
    assert_eq!(length, out.len());
    assert_eq!(head.host, Some(b"127.0.0.1:3000".as_slice()));
    assert_eq!(head.body, RequestBody::Chunked);
}
