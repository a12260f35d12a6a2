//! A hostile visitor and a hostile client around one visitor's HTTP, in any order: a script of
//! pairs of octets, what happens and how much of it, and behind the script what the visitor sends.
//!
//! However its bytes come and whenever credit does, the stream gets the body that one reading of
//! them finds, and not a byte behind it.

use std::time::Duration;

use hoody_tunnel::clock::Instant;
use hoody_tunnel::http::{Added, BodyDecoder, BodyError, HeadLimits, RequestHead};
use hoody_tunnel::kit::stream::visitor::exchange::{
    AtEof, AtFin, Broken, Data, Fin, Headed, HttpExchange, Left, Look, NoHead, Outgoing, Owed,
    Room, Seen, Turn, Upload,
};

use hoody_tunnel::wire::parts::HeadParts;

use super::http_cuts as cuts;

/// Runs one input.
pub fn run(data: &[u8]) {
    let (&steps, rest) = data.split_first().unwrap_or((&0, &[]));
    let (script, bytes) = rest.split_at(rest.len().min(2 * usize::from(steps)));
    let mut play = Play::new(bytes);
    for step in script.chunks_exact(2) {
        play.step(step[0], usize::from(step[1]));
        if play.is_closed {
            return;
        }
    }
}

/// Heads that a client may send.
const HEADS: [&str; 7] = [
    r#"{"status":200,"headers":[["content-length","40"]]}"#,
    r#"{"status":200,"headers":[]}"#,
    r#"{"status":204,"headers":[]}"#,
    r#"{"status":100,"headers":[],"final":false}"#,
    r#"{"status":101,"headers":[["upgrade","websocket"],["connection","upgrade"]]}"#,
    r#"{"status":200,"headers":[],"final":false}"#,
    "{",
];

/// Trailers that a client may send.
const TRAILERS: [&str; 4] = [
    r#"{"headers":[["x-sum","1"],["host","a"]]}"#,
    r#"{"headers":[["host","a"]]}"#,
    r#"{"headers":[["a\r\nb","c"]]}"#,
    "{",
];

/// Both sides of an exchange, as the kit keeps them.
struct Play<'a> {
    http: HttpExchange,
    now: Instant,
    /// All that the visitor sends, and how much of it was read.
    all: &'a [u8],
    read: usize,
    fin: Fin,
    /// Bytes that wait for the visitor.
    waiting: usize,
    /// Bytes that the stream takes.
    credit: usize,
    /// Where the next head begins.
    head_at: usize,
    /// Where the body that is read now begins, and how.
    body: Option<(usize, BodyDecoder)>,
    /// What the stream got of it.
    got: Vec<u8>,
    is_raw: bool,
    is_closed: bool,
}

impl<'a> Play<'a> {
    fn new(all: &'a [u8]) -> Play<'a> {
        Play {
            http: HttpExchange::new(HeadLimits::REQUEST, Instant::ZERO),
            now: Instant::ZERO,
            all,
            read: 0,
            fin: Fin::NotYet,
            waiting: 0,
            credit: 0,
            head_at: 0,
            body: None,
            got: Vec::new(),
            is_raw: false,
            is_closed: false,
        }
    }

    fn step(&mut self, what: u8, much: usize) {
        match what % 10 {
            0 | 1 => self.visitor_sends(much),
            2 => {
                self.credit += 16 * much;
                self.goes_on();
            }
            3 => self.client_heads(HEADS[much % HEADS.len()]),
            4 => self.client_sends(much),
            5 => self.client_ends(),
            6 => self.flushes(),
            7 => self.visitor_ends(much),
            8 => self.client_trails(TRAILERS[much % TRAILERS.len()]),
            _ => self.time_passes(much),
        }
        self.check();
    }

    fn visitor_sends(&mut self, much: usize) {
        let unread = &self.all[self.read..];
        let bytes = &unread[..much.min(unread.len())];
        if self.fin == Fin::Read || bytes.is_empty() {
            return;
        }
        match self.http.room() {
            Room::Nowhere => return,
            Room::Here { .. } => {
                self.http.feed(bytes, self.now);
                self.read += bytes.len();
            }
            Room::Stream(most) => {
                assert!(self.http.is_open() && most > 0);
                let count = bytes.len().min(most).min(self.credit);
                self.credit -= count;
                self.http.read_straight(count, self.now);
                self.got.extend(&bytes[..count]);
                self.read += count;
            }
        }
        self.goes_on();
    }

    fn goes_on(&mut self) {
        match self.http.turn(self.waiting == 0, self.now) {
            Turn::Rest => {}
            Turn::Head => self.next_head(),
            Turn::Body => self.upload(),
        }
    }

    fn next_head(&mut self) {
        let Ok(Some(head)) = self.http.next_head() else {
            return;
        };
        let length = head.len();
        let body_at = self.head_at + length;
        assert_eq!(
            head,
            &self.all[self.head_at..body_at],
            "a head where one is"
        );
        let Ok(parsed) = RequestHead::parse(head) else {
            self.is_closed = true;
            return;
        };
        let (asked, body, expects) = (parsed.asked(), parsed.body, parsed.expects_continue);
        let takes_trailers = parsed.takes_trailers();
        self.http.head_read(length);
        self.http.begin(asked, body, expects, self.now);
        self.http.trailers_travel(takes_trailers);
        let mut decoder = BodyDecoder::for_request(body);
        decoder.keep_trailers();
        self.body = Some((body_at, decoder));
        self.got.clear();
        self.upload();
    }

    fn upload(&mut self) {
        loop {
            match self.http.outgoing(self.now) {
                Ok(Outgoing::Nothing) => break,
                Ok(Outgoing::Eof) => {
                    let (data, end) = self.expected();
                    assert_eq!(self.got, data, "EOF behind the whole body");
                    assert!(matches!(end, Ok((_, true))));
                    let _ = self.http.take_trailers();
                    break;
                }
                Ok(Outgoing::Data(bytes)) => {
                    assert!(!bytes.is_empty());
                    let count = bytes.len().min(self.credit);
                    self.credit -= count;
                    self.got.extend(&bytes[..count]);
                    if !self.http.sent(count, self.now) {
                        break;
                    }
                }
                Err(_) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
        self.is_closed = self.http.upload(self.fin) == Upload::CutOff;
    }

    /// What one reading of the visitor's bytes finds.
    fn expected(&self) -> (Vec<u8>, Result<(usize, bool), BodyError>) {
        match &self.body {
            Some((at, decoder)) => cuts::read(decoder, &self.all[*at..]),
            None => (Vec::new(), Ok((0, true))),
        }
    }

    fn check(&self) {
        let (mut data, end) = self.expected();
        if self.is_raw
            && let (Some((at, _)), Ok((taken, true))) = (&self.body, end)
        {
            data.extend(&self.all[at + taken..]);
        }
        assert!(data.starts_with(&self.got), "the body, and nothing else");
    }

    fn client_heads(&mut self, head: &str) {
        if !self.http.is_open() {
            return;
        }
        let mut text = Vec::new();
        let head = (head.as_bytes(), &HeadParts::default());
        match self
            .http
            .stream_head(head, self.waiting, &mut text, self.now, Added::default())
        {
            Ok(headed) => {
                let whole = text.starts_with(b"HTTP/1.1 ") && text.ends_with(b"\r\n\r\n");
                // HTTP/1.0 knows no interim heads, so its visitors get none.
                assert!(whole || (text.is_empty() && headed == Headed::Interim));
                self.waiting += text.len();
                self.is_raw |= headed == Headed::Switch;
                self.goes_on();
                if matches!(headed, Headed::Final { upload: true, .. }) {
                    self.upload();
                }
            }
            Err(NoHead::Fault(_) | NoHead::Waits) => self.breaks(false),
        }
    }

    fn client_sends(&mut self, much: usize) {
        if !self.http.is_open() {
            return;
        }
        match self.http.stream_data(much, self.waiting == 0, self.now) {
            Ok(Data::Whole | Data::Chunk) => self.waiting += much,
            Ok(Data::Dropped | Data::Ignored) => {}
            Err(_) => self.breaks(false),
        }
    }

    fn client_trails(&mut self, trailers: &str) {
        if !self.http.is_open() {
            return;
        }
        let mut text = Vec::new();
        match self.http.stream_trailers(trailers.as_bytes(), &mut text) {
            Ok(true) => {
                assert_eq!(text, b"0\r\nx-sum: 1\r\n");
                let again = self.http.stream_trailers(trailers.as_bytes(), &mut text);
                assert_eq!(again, Ok(false), "only the first");
                let more = self.http.stream_data(1, false, self.now);
                assert!(more.is_err(), "a body ends before its trailers");
                self.waiting += text.len();
            }
            Ok(false) => assert!(text.is_empty()),
            Err(_) => self.breaks(false),
        }
    }

    fn client_ends(&mut self) {
        if !self.http.is_open() {
            return;
        }
        match self.http.stream_ended(self.waiting == 0, self.now) {
            Ok(AtEof::Ignored) => panic!("a stream of no exchange"),
            Ok(AtEof::Raw(_)) => self.is_closed = self.http.is_over(),
            Ok(AtEof::Whole { last, .. }) => {
                self.waiting += last.len();
                if self.waiting == 0 {
                    self.flushes();
                }
            }
            Err(_) => self.breaks(false),
        }
    }

    fn flushes(&mut self) {
        self.waiting = 0;
        match self.http.flushed(self.now) {
            Left::More => {}
            Left::GoOn => self.goes_on(),
            Left::Raw(_) => self.is_closed = self.http.is_over(),
            Left::Over { uploaded, stays } => {
                assert!(
                    uploaded || !stays,
                    "bytes of a body are never read as a head"
                );
                self.is_closed = !stays;
                if stays {
                    self.next_request();
                    self.goes_on();
                }
            }
        }
    }

    /// The next head begins behind the body.
    fn next_request(&mut self) {
        if let (Some((at, _)), (_, Ok((taken, true)))) = (&self.body, self.expected()) {
            self.head_at = at + taken;
        }
        self.body = None;
        self.got.clear();
    }

    fn breaks(&mut self, cut: bool) {
        match self.http.stream_broken(cut) {
            Broken::Fine => {}
            Broken::Drains | Broken::Cut { .. } => self.is_closed = true,
            Broken::Unanswered(owed) => self.answers(owed),
        }
    }

    fn answers(&mut self, owed: Owed) {
        self.is_closed = !(owed.whole && owed.asked.keep_alive);
        self.waiting += 1;
        self.http.answered(self.now);
        self.next_request();
    }

    fn visitor_ends(&mut self, much: usize) {
        if self.fin == Fin::Read {
            return;
        }
        if self.read < self.all.len() || self.http.room() == Room::Nowhere {
            self.fin = Fin::Ahead;
            self.http.visitor_ends_ahead(self.now);
            return;
        }
        self.fin = Fin::Read;
        match self.http.visitor_ended(self.now) {
            AtFin::GoOn => self.goes_on(),
            AtFin::Upload => self.upload(),
            AtFin::Watch => self.time_passes(much),
            AtFin::Raw { first } => {
                assert!(first, "said once");
                self.is_closed = self.http.is_over();
            }
        }
    }

    fn time_passes(&mut self, much: usize) {
        self.now = self.now + Duration::from_millis(100 * much as u64);
        let seen = Seen {
            fin: self.fin,
            flushed: self.waiting == 0,
            movement: None,
        };
        let (patience, often) = (Duration::from_secs(5), Duration::from_secs(1));
        match self.http.look(&seen, patience, often, self.now) {
            Look::Never => {}
            Look::Until(at) => assert!(at > self.now, "a clock that stands still"),
            Look::Unanswered { owed, .. } => self.answers(owed),
            Look::Idle | Look::SlowHead | Look::Stuck => self.is_closed = true,
        }
    }
}
