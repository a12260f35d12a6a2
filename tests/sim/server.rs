//! A local HTTP server on the laptop.

use crate::actor::{Actor, Outgoing, Tally, read};
use crate::dice::check_octets;
use crate::net::{End, MILLI, Net};
use crate::plan::{Body, Fail, Plan, Style, framed, long_field, trailer};
use crate::text::{Framing, Head, Item, Reader};

#[derive(Default)]
pub struct Server {
    reader: Reader,
    out: Outgoing,
    /// The request that is being read, and how much of its body came.
    request: Option<(Plan, usize)>,
    /// It came whole.
    complete: bool,
    /// When the response is to be sent.
    answer_at: Option<u64>,
    answered: bool,
    raw: bool,
    closing: bool,
    done: bool,
    fin_seen: bool,
    next_read: u64,
}

impl Server {
    fn read_on(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        loop {
            // One request at a time.
            if self.request.is_some() && !self.reader.in_body() {
                return;
            }
            match self.reader.next() {
                Item::More => return,
                Item::Head(head) => self.head(&head, net, end, tally),
                Item::Body(bytes) => self.body(&bytes),
                Item::End => self.ended(net, end),
            }
        }
    }

    fn head(&mut self, head: &Head, net: &mut Net, end: End, tally: &mut Tally) {
        let target = head.first.split(' ').nth(1).expect("a target");
        let (number, query) = target[1..].split_once('?').expect("a query");
        let plan = Plan::new(number.parse().expect("a number"), Style::of(query));
        assert!(head.first.starts_with(plan.method), "{}", head.first);
        assert!(head.field("x-forwarded-for").is_some());
        let te = plan.takes_trailers().then_some("trailers");
        let long = head.field("x-long").map(str::len);
        assert_eq!(long, plan.long_request(), "its long field");
        assert_eq!(head.field("te"), te, "whether trailers are taken");
        let framing = match plan.up {
            Body::Raw(_) => {
                assert_eq!(head.field("upgrade"), Some("websocket"));
                Some(Framing::UntilClose)
            }
            _ => head.framing(),
        };
        *tally.seen.entry(plan.number).or_default() += 1;
        if plan.method == "POST" {
            assert_eq!(tally.seen[&plan.number], 1, "a POST was sent twice");
        }
        let at = net.now + plan.upstream_waits;
        (self.complete, self.answered) = (framing.is_none(), false);
        self.raw = matches!(plan.up, Body::Raw(_));
        if plan.early || self.complete || self.raw {
            self.answer_at = Some(at);
            net.alarm(end, at);
        }
        self.request = Some((plan, 0));
        self.reader.body(framing);
    }

    fn body(&mut self, bytes: &[u8]) {
        let (plan, at) = self.request.as_mut().expect("a body of no request");
        let what = format!("request {} {:?}", plan.number, plan.up);
        check_octets(&what, plan.request_name(), *at, bytes);
        *at += bytes.len();
        assert!(*at <= plan.up.len(), "{what}: too many octets");
    }

    fn ended(&mut self, net: &mut Net, end: End) {
        let (plan, at) = self.request.as_ref().expect("an end of no request");
        assert_eq!(*at, plan.up.len(), "a request that looks whole");
        if matches!(plan.up, Body::Chunked(_)) {
            let wanted = [trailer(plan.request_name())];
            assert_eq!(self.reader.trailers, wanted, "its trailers");
        }
        self.complete = true;
        if self.answer_at.is_none() && !self.answered {
            let at = net.now + plan.upstream_waits;
            self.answer_at = Some(at);
            net.alarm(end, at);
        }
        if self.answered && !self.closing {
            self.request = None;
        }
    }

    fn answer(&mut self) {
        self.answer_at = None;
        self.answered = true;
        let Some((plan, _)) = &self.request else {
            return;
        };
        for _ in 0..plan.interim {
            self.out
                .push(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        }
        if plan.upstream_fails == Some(Fail::BeforeHead) {
            self.closing = true;
            return;
        }
        if plan.upstream_fails == Some(Fail::Nonsense) {
            self.out.push(b"HTTP/9 banana\r\n\r\n");
            self.closing = true;
            return;
        }
        let mut head = format!(
            "HTTP/1.1 {} Fine\r\nX-Plan: {}\r\n",
            plan.status, plan.number
        );
        head += &long_field(plan.long_response());
        match plan.down {
            Body::Length(len) => head += &format!("Content-Length: {len}\r\n"),
            Body::Chunked(_) => head += "Transfer-Encoding: chunked\r\n",
            Body::Raw(_) => {
                head += "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
            }
            Body::None | Body::UntilClose(_) => {}
        }
        let until_close = matches!(plan.down, Body::UntilClose(_));
        // An answer before the request is read: whoever reads on anyway is polite.
        let closes = plan.closes || until_close || !self.complete;
        if closes && !self.raw {
            head += "Connection: close\r\n";
        }
        self.out.push((head + "\r\n").as_bytes());
        let mut body = framed(plan.down, plan.response_name());
        if plan.method == "HEAD" {
            body.clear();
        }
        match plan.upstream_fails {
            Some(Fail::Reset(at) | Fail::Fin(at)) => {
                body.truncate(at);
                self.closing = true;
            }
            _ if self.raw => self.out.fin = true,
            _ => self.closing |= closes,
        }
        self.out.push(&body);
        if self.complete && !self.closing && !self.raw {
            self.request = None;
        }
    }

    /// Everything was said, and it is not to go on.
    fn leave(&mut self, net: &mut Net, end: End) {
        let resets = match &self.request {
            Some((plan, _)) => {
                matches!(plan.upstream_fails, Some(Fail::Reset(_) | Fail::BeforeHead))
            }
            None => false,
        };
        match resets {
            true => {
                self.done = true;
                net.reset(end);
            }
            // It reads until the other side closes, as careful servers do, so that nothing is lost.
            false if self.fin_seen || net.gone(end).is_some() => {
                self.done = true;
                net.close(end);
            }
            false => {
                self.out.fin = true;
                self.out.flush(net, end);
            }
        }
    }
}

impl Server {
    /// As much as it wants to take now.
    fn take(&mut self, net: &mut Net, end: End) -> Vec<u8> {
        let pace = self.request.as_ref().and_then(|it| it.0.upstream_pace);
        let Some((most, pause)) = pace else {
            // A head first: what is behind it may be taken slowly.
            return read(net, end, 4096);
        };
        if net.now < self.next_read {
            return Vec::new();
        }
        self.next_read = net.now + pause + MILLI;
        read(net, end, most)
    }
}

impl Actor for Server {
    fn step(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        if self.done {
            return;
        }
        if net.gone(end).is_some() && net.readable(end) == 0 {
            self.done = true;
            return net.close(end);
        }
        let bytes = self.take(net, end);
        self.reader.buf.extend_from_slice(&bytes);
        if net.readable(end) > 0 {
            net.alarm(end, self.next_read.max(net.now));
        }
        if net.gone(end).is_some() && net.readable(end) == 0 && self.next_read > 0 {
            self.done = true;
            return net.close(end);
        }
        self.fin_seen |= net.at_fin(end);
        loop {
            self.read_on(net, end, tally);
            if self.answer_at.is_none_or(|at| at > net.now) {
                break;
            }
            self.answer();
        }
        self.out.flush(net, end);
        if self.closing && self.out.is_empty() {
            return self.leave(net, end);
        }
        if self.fin_seen && !self.raw && self.out.is_empty() && self.answer_at.is_none() {
            self.done = true;
            return net.close(end);
        }
        if self.fin_seen && self.raw && self.answered && self.out.is_empty() {
            let (plan, at) = self.request.as_ref().expect("a raw exchange");
            assert_eq!(
                *at,
                plan.up.len(),
                "FIN too early on an upgraded connection"
            );
            self.done = true;
            net.close(end);
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!(
            "server {:?} complete {} answered {} closing {} out {}",
            self.request,
            self.complete,
            self.answered,
            self.closing,
            self.out.is_empty()
        )
    }
}
