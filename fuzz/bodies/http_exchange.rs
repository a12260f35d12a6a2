//! A hostile STREAM_OPEN, and behind a zero octet hostile bytes as the local server's answer to it:
//! what is passed on is the same however the bytes come and however much credit there is, and no
//! more of a request's body goes out than was announced.

use hoody_tunnel::buffer::Buffer;
use hoody_tunnel::client::HostHeader;
use hoody_tunnel::client::exchange::{Agreed, HttpExchange, Pass, Space, Step};
use hoody_tunnel::client::naming::Naming;
use hoody_tunnel::http::HeadLimits;
use hoody_tunnel::wire::open::{NameCase, OpenHttp, StreamOpen, parse_trailers};

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |octet| *octet == 0);
    let open = parts.next().unwrap_or_default();
    let answer = parts.next().unwrap_or_default();
    let Ok(StreamOpen::Http(open)) = StreamOpen::parse(open) else {
        return;
    };
    ask(&open, answer);
    let whole = hear(&open, answer, usize::MAX, usize::MAX);
    for (bite, credit) in [(1, usize::MAX), (7, 3)] {
        let cut = hear(&open, answer, bite, credit);
        assert!(cut == whole, "it depends on how the bytes come");
    }
}

fn exchange(open: &OpenHttp<'_>) -> (HttpExchange, Option<&'static str>) {
    let naming = Naming {
        authority: "localhost:3000",
        scheme: "http",
        prefix: "",
        host_header: &HostHeader::Rewrite,
        own: &[],
        public_url: None,
    };
    let agreed = Agreed {
        names: NameCase::AsWritten,
        trailers: true,
        long_heads: true,
        answers: HeadLimits::LARGEST,
    };
    HttpExchange::open(open, Buffer::new(), naming, agreed)
}

/// The request's body, in pieces whose sizes are the answer's octets.
fn ask(open: &OpenHttp<'_>, sizes: &[u8]) {
    let (mut http, unfit) = exchange(open);
    let mut plain = 0;
    for size in sizes.iter().map(|size| usize::from(*size)) {
        match http.data(size) {
            Ok(Pass::Plain) => plain += size,
            Ok(Pass::Unwanted) => assert!(unfit.is_some(), "it is wanted until it is answered"),
            Ok(Pass::Chunk) => assert_eq!(plain, 0, "one framing"),
            Err(_) => return,
        }
    }
    let mut text = Vec::new();
    match http.trailers(sizes, &mut text) {
        Ok(true) => {
            assert!(text.starts_with(b"0\r\n") && text.ends_with(b"\r\n"));
            assert!(!text.ends_with(b"\r\n\r\n"), "their end is not said yet");
            assert_eq!(http.trailers(sizes, &mut text), Ok(false), "only the first");
            assert_eq!(http.eof(), Ok(&b"\r\n"[..]));
        }
        Ok(false) => assert!(text.is_empty() && (plain > 0 || http.eof() != Ok(b"\r\n"))),
        Err(_) => assert!(text.is_empty()),
    }
}

/// What was passed on, and how it ended.
#[derive(PartialEq)]
struct Heard {
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    end: Option<Result<(), &'static str>>,
    trailers: Vec<u8>,
}

fn hear(open: &OpenHttp<'_>, answer: &[u8], bite: usize, credit: usize) -> Heard {
    let (mut http, _) = exchange(open);
    let mut heard = Heard {
        heads: Vec::new(),
        body: Vec::new(),
        end: None,
        trailers: Vec::new(),
    };
    let mut rest = answer;
    while !rest.is_empty() && heard.end.is_none() {
        let most = rest.len().min(bite);
        let count = match http.space() {
            Space::Own(space) => {
                let count = space.len().min(most);
                space[..count].copy_from_slice(&rest[..count]);
                count
            }
            Space::Direct(space) => {
                let count = space.min(most);
                heard.body.extend_from_slice(&rest[..count]);
                count
            }
            Space::None => panic!("everything was passed on"),
        };
        assert!(count > 0, "there is room while nothing waits");
        rest = &rest[count..];
        if http.came(count) {
            heard.end = Some(Ok(()));
        } else {
            pass_on(&mut http, &mut heard, credit);
        }
    }
    if heard.end.is_none() && http.fin() {
        heard.end = Some(Ok(()));
    }
    if heard.end == Some(Ok(())) && http.say_trailers(&mut heard.trailers) {
        let trailers = parse_trailers(&heard.trailers).expect("our own");
        assert!(!trailers.is_empty());
    }
    heard
}

fn pass_on(http: &mut HttpExchange, heard: &mut Heard, credit: usize) {
    let mut json = Vec::new();
    loop {
        match http.next(&mut json) {
            Step::Wait => return,
            Step::Head(_) => heard.heads.push(json.clone()),
            Step::Data(count) => {
                let sent = count.min(credit);
                heard.body.extend_from_slice(&http.waiting()[..sent]);
                http.sent(sent);
            }
            Step::End => return heard.end = Some(Ok(())),
            Step::Broken(why) => return heard.end = Some(Err(why)),
        }
    }
}
