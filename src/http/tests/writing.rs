//! Chunk headers and small responses.

use super::write::{LAST_CHUNK, Reply, chunk_header, put_field, reason};
use super::*;

#[test]
fn chunk_headers_are_read_back() {
    for length in [
        1usize,
        9,
        10,
        15,
        16,
        255,
        256,
        65_536,
        0xFFFF_FFFF,
        usize::MAX,
    ] {
        let header = chunk_header(length);
        assert_eq!(header.as_ref(), format!("{length:x}\r\n").as_bytes());
        let mut decoder = ChunkedDecoder::new();
        decoder.decode(header.as_ref()).expect("fine");
        assert_eq!(decoder.remaining_in_chunk(), length as u64);
    }
    assert!(ChunkedDecoder::new().decode(LAST_CHUNK).expect("fine").end);
}

#[test]
fn a_refusal_is_a_whole_response() {
    let mut out = Vec::new();
    Refusal::text(503, "away")
        .with(&[("Retry-After", "5"), ("X", "a\r\nb")])
        .write(&mut out, GET, None);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: 5\r\nRetry-After: 5\r\n\r\naway\n"
    );
    let (head, length) = parse_response(&out).expect("fine").expect("whole");
    assert_eq!(
        head.body(GET),
        ResponseBody::Length((out.len() - length) as u64)
    );
}

#[test]
fn a_refusal_for_programs_is_json_whatever_it_says() {
    let mut out = Vec::new();
    Refusal::json(404, "no \"such\"\nthing").write_and_close(&mut out, false, None);
    let text = String::from_utf8_lossy(&out);
    assert!(
        text.ends_with("\r\n\r\n{\"error\":\"no \\\"such\\\"\\nthing\"}"),
        "{text}"
    );
    assert!(text.contains("content-type: application/json\r\n"));
    assert!(text.contains("connection: close\r\n"));
}

#[test]
fn what_could_not_be_read_is_refused_with_what_would_be_allowed() {
    let mut out = Vec::new();
    let connect = Reject {
        status: 405,
        why: "no",
    };
    Refusal::from(connect).write_and_close(&mut out, false, None);
    assert!(String::from_utf8_lossy(&out).contains("\r\nallow: GET, HEAD, "));
}

#[test]
fn a_small_response_to_head_has_no_body() {
    let reply = |status, body| Reply {
        status,
        content_type: "application/json",
        fields: &[],
        date: None,
        body,
    };
    let (mut out, head) = (Vec::new(), Asked { head: true, ..GET });
    reply(200, b"{}").write(&mut out, head);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
    );
    out.clear();
    reply(204, b"dropped").write(&mut out, GET);
    assert_eq!(out, b"HTTP/1.1 204 No Content\r\n\r\n");
}

#[test]
fn a_field_that_could_end_its_line_is_not_written() {
    let mut out = Vec::new();
    assert!(put_field(&mut out, b"a", b"b\r\nc: d").is_err());
    assert!(put_field(&mut out, b"a:", b"b").is_err());
    assert!(out.is_empty());
    put_field(&mut out, b"a", b"b").expect("writable");
    assert_eq!(out, b"a: b\r\n");
}

#[test]
fn every_registered_status_has_words_of_its_own_and_no_other_has_any() {
    let registered = [
        100..=103,
        200..=208,
        226..=226,
        300..=305,
        307..=308,
        400..=418,
        421..=426,
        428..=429,
        431..=431,
        451..=451,
        500..=508,
        511..=511,
    ];
    let mut words = std::collections::BTreeSet::new();
    for status in 0..1000 {
        let is_registered = registered.iter().any(|range| range.contains(&status));
        assert_eq!(!reason(status).is_empty(), is_registered, "{status}");
        assert!(!is_registered || words.insert(reason(status)), "{status}");
    }
}

#[test]
fn behind_a_refused_head_there_is_no_content() {
    for (request, has_content) in [
        (&b"HEAD / HTTP/1.1\r\nHost: [::1\r\n\r\n"[..], false),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", true),
        (b"\r\nHEAD / HTTP/1.1\r\nHost: [::1\r\n\r\n", false),
        (b"HEADER / HTTP/1.1\r\n\r\n", true),
        (b"HEA", true),
    ] {
        let mut out = Vec::new();
        Refusal::text(400, "no").write_and_close(&mut out, begins_head(request), None);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("content-length: 3\r\n"), "{text}");
        assert_eq!(text.ends_with("\r\n\r\nno\n"), has_content, "{text}");
    }
}
