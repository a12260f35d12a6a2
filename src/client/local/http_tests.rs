//! Requests and answers of which only bytes are known.

use crate::buffer::Buffer;
use crate::client::local::http::*;
use crate::client::local::naming::Naming;
use crate::client::local::pool::Reuse;
use crate::client::options::HostHeader;
use crate::http::HeadLimits;
use crate::http::write::LAST_CHUNK;
use crate::limits::BULK_PAYLOAD;
use crate::wire::open::{NameCase, StreamOpen};

fn opened(json: &str) -> (HttpExchange, Option<&'static str>) {
    let Ok(StreamOpen::Http(open)) = StreamOpen::parse(json.as_bytes()) else {
        panic!("no request: {json}");
    };
    let naming = Naming {
        authority: "localhost:1",
        scheme: "http",
        prefix: "",
        host_header: &HostHeader::Rewrite,
        own: &[],
        public_url: None,
    };
    let agreed = Agreed {
        names: NameCase::Lower,
        trailers: true,
        long_heads: true,
        answers: HeadLimits::LARGEST,
    };
    HttpExchange::open(&open, Buffer::new(), naming, agreed)
}

fn request(method: &str, rest: &str) -> HttpExchange {
    let json = format!(r#"{{"kind":"http","method":"{method}","target":"/x"{rest}}}"#);
    let (http, unfit) = opened(&json);
    assert_eq!(unfit, None);
    http
}

fn answers(http: &mut HttpExchange, mut bytes: &[u8]) -> bool {
    let mut complete = false;
    while !bytes.is_empty() {
        let taken = match http.space() {
            Space::Own(space) => {
                let taken = space.len().min(bytes.len());
                space[..taken].copy_from_slice(&bytes[..taken]);
                taken
            }
            Space::Direct(most) => most.min(bytes.len()),
            Space::None => return complete,
        };
        complete = http.came(taken);
        bytes = &bytes[taken..];
    }
    complete
}

const LAST: Passed = Passed {
    interim: false,
    personal: false,
    switches: false,
};

#[test]
fn a_body_is_framed_as_announced_and_no_more_or_less_of_it_comes() {
    let length = r#","headers":[["content-length","5"]],"body":"length""#;
    let mut http = request("PUT", length);
    assert!(http.head().starts_with(b"PUT /x HTTP/1.1\r\n"));
    assert_eq!(http.data(3), Ok(Pass::Plain));
    assert!(http.eof().is_err() && http.data(3).is_err());
    assert_eq!((http.data(2), http.eof()), (Ok(Pass::Plain), Ok(&b""[..])));
    assert!(http.data(1).is_err(), "it is complete");
    let mut http = request("POST", r#","body":"chunked""#);
    assert_eq!(http.data(1000), Ok(Pass::Chunk));
    assert_eq!(http.eof(), Ok(LAST_CHUNK));
    assert!(!http.is_repeatable());
    assert!(request("GET", "").data(1).is_err(), "none was announced");
}

#[test]
fn what_must_not_be_passed_on_is_said_and_its_body_unwanted() {
    let (mut http, unfit) = opened(r#"{"kind":"http","method":"A B","target":"/"}"#);
    assert!(unfit.is_some());
    assert_eq!(http.data(7), Ok(Pass::Unwanted));
}

#[test]
fn heads_come_from_its_buffer_and_a_body_of_known_length_goes_around_it() {
    let mut http = request("GET", "");
    let mut json = Vec::new();
    let heads = b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nab";
    answers(&mut http, &heads[..30]);
    let interim = Passed {
        interim: true,
        ..LAST
    };
    assert_eq!(http.next(&mut json), Step::Head(interim));
    assert_eq!(http.next(&mut json), Step::Wait);
    answers(&mut http, &heads[30..]);
    assert_eq!(http.next(&mut json), Step::Head(LAST));
    assert_eq!(http.next(&mut json), Step::Data(2));
    http.sent(1);
    assert_eq!(http.space(), Space::None, "one waits for credit");
    assert_eq!(
        (http.next(&mut json), http.waiting()),
        (Step::Data(1), &b"b"[..])
    );
    http.sent(1);
    assert_eq!(http.space(), Space::Direct(4));
    assert!(!http.came(3) && http.reads_direct());
    assert!(!http.fin(), "one is missing");
    assert_eq!(http.space(), Space::Direct(1));
    assert!(http.came(1), "complete");
    let (buffer, reuse) = http.finish(true);
    assert!(buffer.is_empty() && reuse == Reuse::ByAnybody);
    assert_eq!(http.take_record(), ("GET".into(), "/x".into(), Some(200)));
}

#[test]
fn chunks_are_taken_apart_and_malformed_ones_break_it() {
    let mut json = Vec::new();
    let mut http = request("GET", "");
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    answers(&mut http, &[&head[..], b"2\r\nab\r\n0\r\n\r\n"].concat());
    assert_eq!(http.next(&mut json), Step::Head(LAST));
    assert_eq!(http.next(&mut json), Step::Data(2));
    http.sent(2);
    assert_eq!(http.next(&mut json), Step::End);
    let mut http = request("GET", "");
    answers(&mut http, &[&head[..], b"zz\r\n"].concat());
    assert_eq!(http.next(&mut json), Step::Head(LAST));
    assert!(matches!(http.next(&mut json), Step::Broken(_)));
    assert_eq!(http.broke(false), Broken::Cut);
}

#[test]
fn a_request_is_sent_again_once_and_only_if_it_does_nothing_twice() {
    let mut http = request("GET", "");
    let Broken::Again(head) = http.broke(true) else {
        panic!("it was not sent again");
    };
    assert!(head.starts_with(b"GET /x"));
    assert_eq!(http.broke(true), Broken::Unanswered, "once");
    assert_eq!(request("GET", "").broke(false), Broken::Unanswered);
    assert_eq!(request("POST", "").broke(true), Broken::Unanswered);
    let mut http = request("GET", "");
    answers(&mut http, b"H");
    assert_eq!(http.broke(true), Broken::Unanswered, "it had begun");
}

#[test]
fn after_a_101_that_was_asked_for_both_directions_are_raw() {
    let switch = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let fields = r#","headers":[["connection","Upgrade"],["upgrade","websocket"]]"#;
    let mut http = request("GET", &format!("{fields},\"isUpgrade\":true"));
    let mut json = Vec::new();
    answers(&mut http, &[&switch[..], b"x"].concat());
    let switches = Passed {
        switches: true,
        ..LAST
    };
    assert_eq!(http.next(&mut json), Step::Head(switches));
    assert!(http.is_raw() && http.is_cut_short());
    assert_eq!(http.next(&mut json), Step::Data(1));
    http.sent(1);
    assert_eq!(http.space(), Space::Direct(BULK_PAYLOAD));
    assert_eq!(http.data(9), Ok(Pass::Plain));
    let mut http = request("GET", "");
    answers(&mut http, switch);
    assert!(matches!(http.next(&mut json), Step::Broken(_)), "unasked");
}

#[test]
fn an_answer_of_our_own_goes_the_way_of_all_and_frees_no_connection() {
    for (method, text) in [("GET", &b"busy"[..]), ("HEAD", b"")] {
        let mut http = request(method, "");
        let mut json = Vec::new();
        assert!(http.answer(503, "busy", &mut json));
        assert!(String::from_utf8_lossy(&json).contains("retry-after"));
        if !text.is_empty() {
            assert_eq!(
                (http.next(&mut json), http.waiting()),
                (Step::Data(4), text)
            );
            http.sent(4);
        }
        assert_eq!(http.next(&mut json), Step::End);
        assert_eq!(http.finish(true).1, Reuse::Never);
    }
}

#[test]
fn a_body_until_the_end_is_whole_with_it_and_its_connection_gone() {
    let mut http = request("GET", "");
    let mut json = Vec::new();
    answers(
        &mut http,
        b"HTTP/1.1 200 OK\r\nWWW-Authenticate: NTLM\r\n\r\n",
    );
    let personal = Passed {
        personal: true,
        ..LAST
    };
    assert_eq!(http.next(&mut json), Step::Head(personal));
    assert_eq!(http.next(&mut json), Step::Wait);
    assert!(http.fin());
    assert_eq!(http.finish(true).1, Reuse::Never);
}

#[test]
fn trailers_from_the_kit_go_behind_a_chunked_body_and_nowhere_else() {
    let sum = br#"{"headers":[["x-sum","1"],["host","b"]]}"#;
    let (mut http, mut text) = (request("POST", r#","body":"chunked""#), Vec::new());
    assert_eq!(http.data(3), Ok(Pass::Chunk));
    assert_eq!(http.trailers(sum, &mut text), Ok(true));
    assert_eq!(text, b"0\r\nx-sum: 1\r\n");
    assert!(
        http.is_cut_short() && !http.is_repeatable(),
        "their end is missing"
    );
    assert_eq!(http.trailers(sum, &mut text), Ok(false), "only the first");
    assert!(http.data(1).is_err(), "the body is whole");
    assert_eq!(http.eof(), Ok(&b"\r\n"[..]));
    assert!(!http.is_cut_short());
    text.clear();
    assert_eq!(http.trailers(sum, &mut text), Ok(false));
    let length = r#","headers":[["content-length","5"]],"body":"length""#;
    for (method, rest) in [("PUT", length), ("GET", "")] {
        assert_eq!(request(method, rest).trailers(sum, &mut text), Ok(false));
    }
    let mut http = request("POST", r#","body":"chunked""#);
    let none = br#"{"headers":[["host","b"]]}"#;
    assert_eq!(http.trailers(none, &mut text), Ok(false));
    assert!(http.trailers(b"{", &mut text).is_err() && text.is_empty());
    assert_eq!(http.eof(), Ok(LAST_CHUNK));
}

#[test]
fn the_local_server_is_told_that_trailers_are_taken_and_its_own_travel() {
    let mut http = request("GET", r#","headers":[["te","trailers"]]"#);
    let head = String::from_utf8_lossy(http.head()).into_owned();
    assert!(
        head.ends_with("te: trailers\r\nconnection: TE\r\n\r\n"),
        "{head}"
    );
    let answer = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\nab\r\n0\r\nX-Sum: 1\r\nContent-Type: a\r\n\r\n";
    let mut json = Vec::new();
    answers(&mut http, answer);
    assert_eq!(http.next(&mut json), Step::Head(LAST));
    let said = String::from_utf8_lossy(&json).into_owned();
    assert!(said.contains(r#"["trailer","X-Sum"]"#), "{said}");
    assert_eq!(http.next(&mut json), Step::Data(2));
    http.sent(2);
    assert_eq!(http.next(&mut json), Step::End);
    assert!(http.say_trailers(&mut json));
    assert_eq!(json, br#"{"headers":[["x-sum","1"]]}"#);
    assert!(!http.say_trailers(&mut json), "once");
    assert_eq!(http.finish(true).1, Reuse::ByAnybody);
}

#[test]
fn a_server_that_may_yet_send_the_body_of_a_head_answers_nobody_else() {
    let rows = [
        ("HEAD", "200 OK\r\nContent-Length: 5", Reuse::ByTheVisitor),
        (
            "HEAD",
            "200 OK\r\nTransfer-Encoding: chunked",
            Reuse::ByTheVisitor,
        ),
        ("HEAD", "404 No\r\nContent-Length: 5", Reuse::ByTheVisitor),
        ("HEAD", "200 OK\r\nContent-Length: 0", Reuse::ByAnybody),
        ("HEAD", "200 OK", Reuse::ByAnybody),
        (
            "HEAD",
            "200 OK\r\nContent-Length: 5\r\nConnection: close",
            Reuse::Never,
        ),
        ("GET", "200 OK\r\nContent-Length: 0", Reuse::ByAnybody),
        ("GET", "304 No\r\nContent-Length: 5", Reuse::ByAnybody),
    ];
    for (method, head, reuse) in rows {
        let mut http = request(method, "");
        answers(&mut http, format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
        let mut json = Vec::new();
        assert_eq!(http.next(&mut json), Step::Head(LAST), "{method} {head}");
        assert_eq!(http.next(&mut json), Step::End, "{method} {head}");
        assert_eq!(http.finish(true).1, reuse, "{method} {head}");
    }
}
