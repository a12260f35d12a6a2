//! Streams that go on and on, while something happens to what lies between.

use super::becomes;
use super::http::Talk;
use super::upstream::Exchange;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Between two lines of what goes on and on.
const BEAT: Duration = Duration::from_millis(10);

/// Tells a number a line, for as long as it is read.
fn numbers(exchange: &mut Exchange) -> bool {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    exchange.talk.say(head);
    let mut lines = (0..).map(|number| format!("{number}\n"));
    lines.all(|line| {
        std::thread::sleep(BEAT);
        exchange.chunk(line.as_bytes())
    });
    false
}

/// Reads numbers, a line each, and says whether each one came once, and how many.
fn count(exchange: &mut Exchange) -> bool {
    let body = exchange.body();
    let lines = body.split_inclusive(|octet| *octet == b'\n');
    let same = lines
        .clone()
        .zip(0..)
        .all(|(line, number)| line == format!("{number}\n").as_bytes());
    exchange.answer(200, "", format!("{same} {}", lines.count()).as_bytes());
    true
}

/// Answers what [`go_on_over`] asks for.
pub fn goes_on(exchange: &mut Exchange) -> Option<bool> {
    match exchange.request.target.as_str() {
        "/numbers" => Some(numbers(exchange)),
        "/count" => Some(count(exchange)),
        _ => None,
    }
}

/// Has a download and an upload open, on these connections, while `work` is done, and until it is
/// over: neither notices anything. The work is told how many lines have come.
pub fn go_on_over([down, up]: [TcpStream; 2], work: impl FnOnce(&AtomicUsize)) {
    let talk = |stream: TcpStream, head: &str| {
        let mut talk = Talk::over(stream);
        talk.stream
            .set_read_timeout(Some(LONG))
            .expect("a TCP socket");
        talk.say(head);
        talk
    };
    // To HTTP/1.0 there are no chunks, only the lines.
    let down = talk(down, "GET /numbers HTTP/1.0\r\n\r\n").stream;
    let post = "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut up = talk(up, post);
    let (came, ended) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (heard, enough) = (came.clone(), ended.clone());
    let downloads = std::thread::spawn(move || {
        let mut lines = BufReader::new(down)
            .lines()
            .map(|line| line.expect("it goes on"));
        let head = lines.by_ref().take_while(|line| !line.is_empty());
        assert!(head.count() > 1, "an answer");
        let mut numbers = lines.zip(0..);
        while !enough.load(Ordering::Relaxed) {
            let (line, number) = numbers.next().expect("it goes on");
            assert_eq!(line, number.to_string());
            heard.fetch_add(1, Ordering::Relaxed);
        }
    });
    let enough = ended.clone();
    let uploads = std::thread::spawn(move || {
        let mut said = 0;
        while !enough.load(Ordering::Relaxed) {
            let line = format!("{said}\n");
            up.say(format!("{:x}\r\n{line}\r\n", line.len()));
            said += 1;
            std::thread::sleep(BEAT);
        }
        up.say("0\r\n\r\n");
        let reply = up.reply(false);
        assert_eq!(reply.text(), format!("true {said}"));
    });
    becomes("the streams run", true, || {
        came.load(Ordering::Relaxed) > 20
    });
    work(&came);
    ended.store(true, Ordering::Relaxed);
    for stream in [downloads, uploads] {
        stream.join().expect("it saw nothing of it");
    }
}

/// For as long as anything here is broken, and then some.
const LONG: Duration = Duration::from_secs(120);
