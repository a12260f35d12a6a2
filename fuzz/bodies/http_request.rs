//! Hostile bytes as a visitor's connection: refused or read with one meaning, however they come, and
//! what was read reaches the local server with that meaning. Then the same bytes as the fields of a
//! hostile peer.

use hoody_tunnel::http::{
    BodyDecoder, BodyHint, HeadScanner, RequestBody, RequestHead, RequestPlan, forward,
    parse_request,
};

use super::http_cuts as cuts;

/// Runs one input.
pub fn run(data: &[u8]) {
    visit(data);
    be_written(data);
}

/// Up to three pipelined requests.
fn visit(data: &[u8]) {
    let mut rest = data;
    for _ in 0..3 {
        let Ok(Some(length)) = cuts::scan(&HeadScanner::new(), rest) else {
            return;
        };
        let (head, after) = rest.split_at(length);
        let parsed = RequestHead::parse(head);
        match parse_request(rest) {
            Ok(Some((at_once, at))) => {
                assert_eq!(at, length);
                assert_eq!(
                    format!("{at_once:?}"),
                    format!("{:?}", parsed.as_ref().expect("same"))
                );
            }
            Ok(None) => panic!("a scanned head is whole"),
            Err(reject) => {
                assert_eq!(Some(reject), parsed.err());
                assert!(matches!(reject.status, 400 | 405 | 431 | 505));
                return;
            }
        }
        let Ok(head) = parsed else { return };
        pass_on(&head);
        let (_, end) = cuts::read(&BodyDecoder::for_request(head.body), after);
        let Ok((taken, true)) = end else { return };
        rest = after.get(taken..).unwrap_or_default();
    }
}

/// The head goes to the local server and means there what it meant here.
fn pass_on(head: &RequestHead<'_>) {
    let forwarded = forward::Forwarded::new(head, [203, 0, 113, 9].into(), true, "https");
    let fields = forward::request_fields(head, &forwarded);
    let hint = BodyHint::from(head.body);
    let plan = RequestPlan::new(head.method, &head.target, fields, hint, head.upgrade);
    let plan = plan.expect("what was accepted can be passed on");
    assert_eq!(plan.body, head.body);
    assert_eq!(plan.host, head.host);
    let mut out = Vec::new();
    plan.write(&mut out, b"localhost:3000", None)
        .expect("writable");
    let (again, length) = match parse_request(&out) {
        Ok(parsed) => parsed.expect("a whole head"),
        // What we add may be what is too much.
        Err(reject) => return assert_eq!(reject.status, 431),
    };
    assert_eq!(length, out.len(), "one head, nothing behind it");
    assert_eq!((again.method, &again.target), (head.method, &head.target));
    assert_eq!((again.body, again.upgrade), (head.body, head.upgrade));
    assert_eq!(again.host, Some(b"localhost:3000".as_slice()));
    let values = |fields: &hoody_tunnel::http::Fields<'_>, name| {
        fields.all(name).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(values(&again.fields, "x-forwarded-for").len(), 1);
    if !matches!(head.fields.get("connection"), Some(value) if !value.is_empty()) {
        assert_eq!(
            values(&again.fields, "cookie"),
            values(&head.fields, "cookie")
        );
    }
}

/// The input as target and fields that came as JSON: written as exactly one head, or not at all.
fn be_written(data: &[u8]) {
    let (&choice, rest) = data.split_first().unwrap_or((&0, &[]));
    let (target, rest) = rest.split_at(rest.iter().position(|&o| o == 0xFE).unwrap_or(0));
    let hints = [
        BodyHint::None,
        BodyHint::Length,
        BodyHint::Chunked,
        BodyHint::Unknown,
    ];
    let hint = hints[usize::from(choice & 3)];
    let method = ["GET", "POST", "HEAD", "OPTIONS"][usize::from(choice >> 2 & 3)];
    let upgrade = choice & 16 != 0;
    let target = if target.is_empty() {
        b"/".as_slice()
    } else {
        target
    };
    let fields = cuts::hostile_fields(rest);
    let Ok(plan) = RequestPlan::new(method, target, fields, hint, upgrade) else {
        return;
    };
    let mut out = Vec::new();
    plan.write(&mut out, b"localhost", None).expect("writable");
    match parse_request(&out) {
        Ok(parsed) => {
            let (head, length) = parsed.expect("a whole head");
            assert_eq!(length, out.len(), "one head, nothing behind it");
            assert_eq!((head.method, head.body), (method, plan.body));
            assert_eq!(head.target.as_ref(), target);
            assert_eq!(head.upgrade, upgrade);
            assert!(!upgrade || matches!(head.body, RequestBody::None | RequestBody::Length(0)));
        }
        // The peer's targets may be any octets; only UTF-8 is read back.
        Err(reject) => assert!(reject.status == 431 || std::str::from_utf8(target).is_err()),
    }
}
