//! Trailers, as the vectors in `tests/vectors/http/trailers.json` tell it: the TypeScript SDK reads
//! them too.

use serde_json::Value;

use super::*;

fn octets(text: &Value) -> Vec<u8> {
    let text = text.as_str().expect("text");
    text.chars().map(|it| it as u8).collect()
}

fn text(octets: &[u8]) -> String {
    octets.iter().map(|&octet| char::from(octet)).collect()
}

type Named = Vec<(String, String)>;

fn wanted(list: &Value) -> Named {
    let pair = |field: &Value| (text(&octets(&field[0])), text(&octets(&field[1])));
    list.as_array().expect("a list").iter().map(pair).collect()
}

/// Those of these names, which are in lower case.
fn those<'a>(fields: impl Iterator<Item = Field<'a>>, names: &[&str]) -> Named {
    fields
        .map(|(name, value)| (text(name).to_lowercase(), text(value)))
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect()
}

fn sent_lines(case: &Value) -> String {
    wanted(&case["sent"])
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect()
}

/// The trailers behind a body that comes in pieces, and whether it is well-formed.
fn read(mut decoder: BodyDecoder, sent: &[u8], piece: usize) -> Option<Named> {
    let body = [b"2\r\nab\r\n0\r\n", sent, b"\r\n"].concat();
    decoder.keep_trailers();
    for mut input in body.chunks(piece) {
        while !input.is_empty() {
            let step = decoder.decode(input).ok()?;
            input = &input[step.consumed..];
        }
    }
    assert!(decoder.is_complete(), "the body is whole");
    let lines = decoder.take_trailers();
    assert_eq!(decoder.kept(), 0);
    let fields = trailers::fields(&lines);
    Some(
        fields
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
    )
}

fn ask(case: &Value) {
    let (name, chunked) = (&case["name"], case["chunked"] == true);
    let framing = if chunked {
        "Transfer-Encoding: chunked\r\n"
    } else {
        ""
    };
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{framing}{}\r\n",
        sent_lines(case)
    );
    let mut head = request(head.as_bytes());
    assert_eq!(head.takes_trailers(), case["taken"] == true, "{name}");
    head.pass_trailers();
    let forwarded = forward::Forwarded::new(&head, [127, 0, 0, 1].into(), false, "http");
    let fields = forward::request_fields(&head, &forwarded);
    let opens = those(fields.clone(), &["te", "trailer"]);
    assert_eq!(opens, wanted(&case["opens"]), "{name}");
    let hint = BodyHint::from(head.body);
    let mut plan = RequestPlan::new(head.method, &head.target, fields, hint, false).expect("good");
    plan.pass_trailers();
    let mut out = Vec::new();
    plan.write(&mut out, b"localhost", None).expect("writable");
    let local = request(&out);
    let local = those(local.fields.iter(), &["te", "trailer", "connection"]);
    assert_eq!(local, wanted(&case["local"]), "{name}");
}

fn answer(case: &Value) {
    let (name, chunked) = (&case["name"], case["chunked"] == true);
    let framing = match chunked {
        true => "Transfer-Encoding: chunked\r\n",
        false => "Content-Length: 2\r\n",
    };
    let head = format!("HTTP/1.1 200 OK\r\n{framing}{}\r\n", sent_lines(case));
    let mut head = response(head.as_bytes());
    head.pass_trailers();
    let fields = forward::response_fields(&head, false);
    assert_eq!(
        those(fields.clone(), &["trailer"]),
        wanted(&case["head"]),
        "{name}"
    );
    for (taken, key) in [(true, "taken"), (false, "untaken")] {
        let mut plan = ResponsePlan::new(200, fields.clone(), GET).expect("good");
        if taken {
            plan.pass_trailers();
        }
        let mut out = Vec::new();
        plan.write(&mut out);
        let got = those(response(&out).fields.iter(), &["trailer"]);
        assert_eq!(got, wanted(&case[key]), "{name}");
    }
}

#[test]
fn trailers_pass_as_the_vectors_say_however_they_come() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/http/trailers.json"
    );
    let file = std::fs::read_to_string(path).expect("the vectors are there");
    let cases: Vec<Value> = serde_json::from_str(&file).expect("a file of vectors is JSON");
    assert!(cases.len() > 30);
    for case in &cases {
        match case["rule"].as_str() {
            Some("read") => {
                let sent = octets(&case["sent"]);
                let good = (case["error"] != true).then(|| wanted(&case["fields"]));
                let of_request = good.clone().filter(|_| case["requestError"] != true);
                for piece in [1, 2, 3, 7, 1000] {
                    let asked = BodyDecoder::for_request(RequestBody::Chunked);
                    let answered = BodyDecoder::for_response(ResponseBody::Chunked);
                    for (decoder, wanted) in [(asked, &of_request), (answered, &good)] {
                        let got = read(decoder, &sent, piece);
                        assert_eq!(&got, wanted, "{}, by {piece}", case["name"]);
                    }
                }
            }
            // What is of JSON, too, is read in `tests/vectors.rs`.
            Some("write") => {}
            Some("request") => ask(case),
            Some("answer") => answer(case),
            rule => panic!("a rule of which nothing is known: {rule:?}"),
        }
    }
}

#[test]
fn trailers_are_bounded_in_octets_and_in_number_and_kept_only_where_they_are_wanted() {
    use crate::limits::{MAX_HEADER_FIELDS, MAX_TRAILERS};
    let chunked = || BodyDecoder::for_request(RequestBody::Chunked);
    let many = |count: usize| "a:\r\n".repeat(count).into_bytes();
    let named = read(chunked(), &many(MAX_HEADER_FIELDS), 5).expect("so many");
    assert_eq!(named.len(), MAX_HEADER_FIELDS);
    assert_eq!(read(chunked(), &many(MAX_HEADER_FIELDS + 1), 5), None);
    let long = |octets: usize| [b"a:", &vec![b'x'; octets - 2][..], b"\r\n"].concat();
    let named = read(chunked(), &long(MAX_TRAILERS), 999).expect("so long");
    assert_eq!(named[0].1.len(), MAX_TRAILERS - 2);
    assert_eq!(read(chunked(), &long(MAX_TRAILERS + 1), 999), None);
    let mut decoder = chunked();
    let step = decoder.decode(b"0\r\na: 1\r\n\r\n").expect("well-formed");
    assert!(step.end && decoder.kept() == 0);
    assert_eq!(decoder.take_trailers(), b"");
}

#[test]
fn an_upgrade_asks_for_no_trailers() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, upgrade\r\n\
        Upgrade: websocket\r\n\r\n";
    let mut head = request(text);
    head.pass_trailers();
    let forwarded = forward::Forwarded::new(&head, [127, 0, 0, 1].into(), false, "http");
    let fields = forward::request_fields(&head, &forwarded);
    assert!(those(fields, &["te"]).is_empty());
    let fields: [Field<'_>; 1] = [(b"te", b"trailers")];
    let fields = fields.into_iter();
    let plan = RequestPlan::new("GET", b"/", fields, BodyHint::None, true);
    let mut plan = plan.expect("good");
    plan.pass_trailers();
    let mut out = Vec::new();
    plan.write(&mut out, b"localhost", None).expect("writable");
    assert!(!text_of(&out).contains("te:"), "{}", text_of(&out));
}

fn text_of(octets: &[u8]) -> String {
    text(octets).to_lowercase()
}

#[test]
fn a_visitor_of_http_1_0_takes_no_trailers_whatever_it_says() {
    for (version, taken) in [("1.0", false), ("1.1", true)] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\nTE: trailers\r\n\r\n");
        let mut head = request(head.as_bytes());
        head.pass_trailers();
        assert_eq!(head.takes_trailers(), taken);
        let forwarded = forward::Forwarded::new(&head, [127, 0, 0, 1].into(), false, "http");
        let mut fields = forward::request_fields(&head, &forwarded);
        assert_eq!(fields.any(|(name, _)| name == b"te"), taken);
    }
}
