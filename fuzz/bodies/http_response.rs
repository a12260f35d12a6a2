//! Hostile bytes as a local server's answer: refused or read with one meaning, however they come, and
//! what was read reaches the visitor with that meaning. Then the same bytes as the fields of a
//! hostile peer. The first octet chooses who asked.

use hoody_tunnel::http::{
    Asked, BodyDecoder, HeadScanner, ResponseBody, ResponseHead, ResponsePlan, Version, forward,
    parse_response,
};

use super::http_cuts as cuts;

/// Runs one input.
pub fn run(data: &[u8]) {
    let (&choice, rest) = data.split_first().unwrap_or((&0, &[]));
    let asked = Asked {
        head: choice & 1 != 0,
        version: if choice & 2 != 0 {
            Version::Http10
        } else {
            Version::Http11
        },
        keep_alive: choice & 4 != 0,
        upgrade: choice & 8 != 0 && choice & 3 == 0,
    };
    answer(rest, asked);
    be_written(rest, asked);
}

/// Heads until the final one, then its body.
fn answer(data: &[u8], asked: Asked) {
    let mut rest = data;
    for _ in 0..4 {
        let Ok(Some(length)) = cuts::scan(&HeadScanner::for_answer(), rest) else {
            return;
        };
        let (head, after) = rest.split_at(length);
        let head = match ResponseHead::parse(head) {
            Ok(head) => head,
            Err(reject) => return assert_eq!(reject.status, 502),
        };
        pass_on(&head, asked);
        if !head.is_interim() {
            let decoder = BodyDecoder::for_response(head.body(asked));
            let (read, _) = cuts::read(&decoder, after);
            assert!(head.body(asked) != ResponseBody::None || read.is_empty());
            return;
        }
        rest = after;
    }
}

/// The head goes to the visitor and means there what it meant here.
fn pass_on(head: &ResponseHead<'_>, asked: Asked) {
    let switches = head.accepts_upgrade(asked);
    let fields = forward::response_fields(head, switches);
    let plan = ResponsePlan::new(head.status, fields, asked);
    if head.status == 101 && !asked.upgrade {
        return assert!(plan.is_err(), "nobody asked to switch");
    }
    let plan = plan.expect("what was accepted can be passed on");
    assert_eq!(
        plan.body == ResponseBody::None,
        head.body(asked) == ResponseBody::None
    );
    if let ResponseBody::Length(_) = head.body(asked) {
        assert_eq!(plan.body, head.body(asked));
    }
    assert!(!plan.keep_alive || asked.keep_alive);
    let mut out = Vec::new();
    plan.write(&mut out);
    read_back(&out, head.status, plan.body, asked);
}

/// The input as a status and fields that came as JSON: written as exactly one head, or not at all.
fn be_written(data: &[u8], asked: Asked) {
    let (low, high) = (data.first(), data.get(1));
    let status = u16::from(*low.unwrap_or(&200)) + 4 * u16::from(*high.unwrap_or(&0));
    let fields = cuts::hostile_fields(data.get(2..).unwrap_or_default());
    let Ok(plan) = ResponsePlan::new(status, fields, asked) else {
        return;
    };
    let mut out = Vec::new();
    plan.write(&mut out);
    read_back(&out, status, plan.body, asked);
}

fn read_back(out: &[u8], status: u16, body: ResponseBody, asked: Asked) {
    if out.is_empty() {
        return assert!(asked.version == Version::Http10 && (100..200).contains(&status));
    }
    let (again, length) = match parse_response(out) {
        Ok(parsed) => parsed.expect("a whole head"),
        Err(reject) => {
            return assert!(reject.why.contains("too large") || reject.why.contains("too many"));
        }
    };
    assert_eq!(length, out.len(), "one head, nothing behind it");
    assert_eq!(again.status, status);
    assert_eq!(again.body(asked), body);
    assert_eq!(again.accepts_upgrade(asked), status == 101);
}
