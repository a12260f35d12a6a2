//! Bodies: where they end, and what is refused.

use super::*;
use crate::limits::{MAX_CHUNK_EXTENSION, MAX_TRAILERS};

/// All data of a chunked body, and how much of the input belongs to it.
fn read(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, BodyError> {
    let mut decoder = ChunkedDecoder::new();
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let step = decoder.decode(&input[at..])?;
        data.extend_from_slice(&input[at..][step.data]);
        at += step.consumed;
        if step.end {
            return Ok(Some((data, at)));
        }
        if at == input.len() {
            return Ok(None);
        }
        assert!(
            step.consumed > 0,
            "a step that consumes nothing would never end"
        );
    }
}

#[test]
fn chunks_are_joined_and_the_rest_is_left() {
    let input = b"5\r\nhello\r\n00A;ext=\"v\"\r\n, there is\r\n0\r\nX-T: 1\r\nY:2\r\n\r\nGET /";
    let (data, length) = read(input).expect("fine").expect("whole");
    assert_eq!(data, b"hello, there is");
    assert_eq!(length, input.len() - 5);
}

#[test]
fn malformed_chunks_are_refused() {
    for input in [
        "\r\n",
        "g\r\n",
        " 5\r\n",
        "5 \r\n",
        "5\t a\r\n",
        "5 0\r\n",
        "0x5\r\n",
        "+5\r\n",
        "-1\r\n",
        ";a\r\n",
        "5\nhello",
        "5\rhello",
        "5;a\nhello",
        "5;a\rb",
        "5;a\0\r\n",
        "5\r\nhello5\r\n",
        "5\r\nhello\n0\r\n",
        "5\r\nhello\r0\r\n",
        "5\r\nhello!\r\n",
        "0\r\n\n",
        "0\r\n\rX",
        "0\r\nA: 1\n",
        "0\r\nA: 1\rB",
        "0\r\nA: 1\r\n folded\r\n",
        "0\r\n A: 1\r\n",
        "0\r\nA: \0\r\n",
        "00000000000000000\r\n",
        "fffffffffffffffff\r\n",
    ] {
        assert!(
            matches!(read(input.as_bytes()), Err(BodyError::Malformed(_))),
            "{input:?}"
        );
    }
}

#[test]
fn a_size_of_sixteen_digits_is_read_without_overflow() {
    let mut decoder = ChunkedDecoder::new();
    let step = decoder.decode(b"FFFFFFFFffffffff\r\nx").expect("fine");
    assert_eq!(
        step,
        Decoded {
            data: 18..19,
            consumed: 19,
            end: false
        }
    );
    assert_eq!(decoder.remaining_in_chunk(), u64::MAX - 1);
    assert_eq!(
        read(b"000000000000000a\r\n0123456789\r\n0\r\n\r\n")
            .expect("fine")
            .expect("whole")
            .0
            .len(),
        10
    );
}

#[test]
fn extensions_and_trailers_have_bounds() {
    let extension = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length));
    assert!(read(extension(MAX_CHUNK_EXTENSION).as_bytes()).is_ok());
    assert!(read(extension(MAX_CHUNK_EXTENSION + 1).as_bytes()).is_err());
    let line = format!("{}:\r\n", "x".repeat(127));
    let trailers = |count: usize| format!("0\r\n{}\r\n", line.repeat(count));
    assert!(read(trailers(MAX_TRAILERS / 128).as_bytes()).is_ok());
    assert!(read(trailers(MAX_TRAILERS / 128 + 1).as_bytes()).is_err());
}

#[test]
fn a_length_takes_exactly_its_octets() {
    let mut body = LengthBody::new(5);
    assert_eq!(
        body.decode(b"abc"),
        Decoded {
            data: 0..3,
            consumed: 3,
            end: false
        }
    );
    assert_eq!(
        body.decode(b"deGET"),
        Decoded {
            data: 0..2,
            consumed: 2,
            end: true
        }
    );
    assert_eq!(
        body.decode(b"GET"),
        Decoded {
            data: 0..0,
            consumed: 0,
            end: true
        }
    );
}

#[test]
fn an_empty_body_is_complete_without_input() {
    for body in [RequestBody::None, RequestBody::Length(0)] {
        let mut decoder = BodyDecoder::for_request(body);
        assert!(decoder.is_complete());
        assert!(decoder.decode(b"").expect("fine").end);
        assert_eq!(decoder.decode(b"GET").expect("fine").consumed, 0);
    }
    assert!(!BodyDecoder::for_request(RequestBody::Chunked).is_complete());
}

#[test]
fn a_body_cut_short_is_told_from_one_that_ends_by_close() {
    let closed = |body| BodyDecoder::for_response(body).closed();
    assert_eq!(closed(ResponseBody::None), Ok(()));
    assert_eq!(closed(ResponseBody::UntilClose), Ok(()));
    assert_eq!(closed(ResponseBody::Length(0)), Ok(()));
    assert_eq!(closed(ResponseBody::Length(1)), Err(BodyError::Truncated));
    assert_eq!(closed(ResponseBody::Chunked), Err(BodyError::Truncated));
    let mut chunked = BodyDecoder::for_response(ResponseBody::Chunked);
    chunked.decode(b"0\r\n").expect("fine");
    assert_eq!(chunked.closed(), Err(BodyError::Truncated));
    chunked.decode(b"\r\n").expect("fine");
    assert_eq!(chunked.closed(), Ok(()));
}

#[test]
fn certain_data_may_be_skipped() {
    let mut decoder = BodyDecoder::for_request(RequestBody::Chunked);
    assert_eq!(decoder.certain_data(), 0);
    decoder.decode(b"a\r\n01").expect("fine");
    assert_eq!(decoder.certain_data(), 8);
    decoder.skip_data(8);
    assert_eq!(decoder.certain_data(), 0);
    assert!(decoder.decode(b"\r\n0\r\n\r\n").expect("fine").end);

    let mut decoder = BodyDecoder::for_request(RequestBody::Length(10));
    decoder.skip_data(10);
    assert!(decoder.is_complete());
}
