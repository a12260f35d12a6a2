//! Answers of local servers, as the vectors in `tests/vectors/http/answers.json` tell it: the
//! TypeScript SDK reads them too.

use serde_json::Value;

use super::*;

/// What became of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Refused(&'static str),
    Read {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
        again: bool,
    },
}

fn text(octets: &[u8]) -> String {
    octets.iter().map(|&octet| char::from(octet)).collect()
}

/// Reads an answer of which `piece` octets come at a time.
fn read(answer: &[u8], asked: Asked, piece: usize) -> Got {
    let mut scanner = HeadScanner::for_answer();
    let mut whole = None;
    for end in (0..answer.len()).step_by(piece).chain([answer.len()]) {
        match scanner.scan(&answer[..end]) {
            Ok(None) => {}
            Ok(Some(length)) => {
                whole = Some(length);
                break;
            }
            Err(_) => return Got::Refused("head"),
        }
    }
    let length = whole.expect("the head is whole");
    let Ok(head) = ResponseHead::parse(&answer[..length]) else {
        return Got::Refused("head");
    };
    let fields = forward::response_fields(&head, false);
    let mut headers: Vec<(String, String)> = fields
        .map(|(name, value)| (text(name).to_lowercase(), text(value)))
        .collect();
    headers.sort();
    let mut decoder = BodyDecoder::for_response(head.body(asked));
    let (mut body, mut at) = (Vec::new(), length);
    while !decoder.is_complete() {
        let end = answer.len().min(at + piece);
        assert!(at < end, "the body is whole");
        let Ok(step) = decoder.decode(&answer[at..end]) else {
            return Got::Refused("body");
        };
        body.extend_from_slice(&answer[at..end][step.data]);
        at += step.consumed;
    }
    assert_eq!(at, answer.len(), "nothing follows");
    Got::Read {
        status: head.status,
        headers,
        body: text(&body),
        again: head.reusable(asked),
    }
}

fn wanted(case: &Value) -> Got {
    match case["error"].as_str() {
        Some("head") => return Got::Refused("head"),
        Some(_) => return Got::Refused("body"),
        None => {}
    }
    let pair = |field: &Value| Some((field[0].as_str()?.into(), field[1].as_str()?.into()));
    let headers = case["headers"].as_array().expect("a list");
    let mut headers: Vec<(String, String)> = headers.iter().filter_map(pair).collect();
    headers.sort();
    Got::Read {
        status: case["status"].as_u64().expect("a number") as u16,
        headers,
        body: case["body"].as_str().expect("text").to_owned(),
        again: case["again"] == true,
    }
}

#[test]
fn answers_are_read_as_the_vectors_say_however_they_come() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/http/answers.json"
    );
    let file = std::fs::read_to_string(path).expect("the vectors are there");
    let cases: Vec<Value> = serde_json::from_str(&file).expect("a file of vectors is JSON");
    assert!(cases.len() > 20);
    for case in &cases {
        let answer = case["answer"].as_str().expect("text");
        let answer: Vec<u8> = answer.chars().map(|it| it as u8).collect();
        let asked = Asked {
            head: case["method"] == "HEAD",
            version: Version::Http11,
            keep_alive: true,
            upgrade: false,
        };
        if let Some(switches) = case["switches"].as_bool() {
            let head = ResponseHead::parse(&answer).expect("a head");
            for upgrade in [true, false] {
                let accepts = head.accepts_upgrade(Asked { upgrade, ..asked });
                assert_eq!(accepts, switches && upgrade, "{}", case["name"]);
            }
            continue;
        }
        for piece in [1, 2, 3, 7, answer.len()] {
            let got = read(&answer, asked, piece);
            assert_eq!(got, wanted(case), "{}, by {piece}", case["name"]);
        }
    }
}
