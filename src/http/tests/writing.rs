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
fn a_small_response_is_whole() {
    let mut out = Vec::new();
    Reply::text(503, "away")
        .with(&[("Retry-After", "5"), ("X", "a\r\nb")])
        .write(&mut out, GET);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: 4\r\nRetry-After: 5\r\n\r\naway"
    );
    let (head, length) = parse_response(&out).expect("fine").expect("whole");
    assert_eq!(
        head.body(GET),
        ResponseBody::Length((out.len() - length) as u64)
    );
}

#[test]
fn a_small_response_to_head_has_no_body_and_can_announce_the_close() {
    let mut out = Vec::new();
    Reply::json(200, b"{}").write_and_close(&mut out, true);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
         connection: close\r\n\r\n"
    );
    out.clear();
    Reply::text(204, "dropped").write(&mut out, GET);
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
