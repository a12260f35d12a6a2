//! A visitor of an EXPOSE port: requests one after the other, or ahead of each other.

use std::collections::VecDeque;

use crate::actor::{Actor, Outgoing, Tally, read};
use crate::dice::check_octets;
use crate::net::{End, MILLI, Net};
use crate::plan::{Body, Plan, Style, framed, trailer};
use crate::text::{Framing, Head, Item, Reader};

pub struct Visitor {
    plans: VecDeque<Plan>,
    /// Requests are sent without waiting for responses.
    ahead: bool,
    out: Outgoing,
    reader: Reader,
    /// The response that is being read: whose, and how much of its body came.
    response: Option<(Answer, usize)>,
    raw: bool,
    /// Bytes of the response so far, heads and all, for leaving in the middle.
    taken: usize,
    stalled: bool,
    next_read: u64,
    done: bool,
    pub started: u64,
    /// The connection may be refused by the kit without a word.
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Upstream { closes: bool, until_close: bool },
    Tunnel { status: u16, closes: bool },
}

impl Visitor {
    pub fn new(plans: Vec<Plan>, now: u64) -> Visitor {
        let ahead = plans.len() > 1
            && plans
                .iter()
                .all(|plan| plan.up == Body::None && plan.visitor_leaves.is_none());
        let name = format!("visitor {:?}", plans.first().map(|plan| plan.number));
        let mut visitor = Visitor {
            plans: plans.into(),
            ahead,
            out: Outgoing::default(),
            reader: Reader::default(),
            response: None,
            raw: false,
            taken: 0,
            stalled: false,
            next_read: 0,
            done: false,
            started: now,
            name,
        };
        let count = if ahead { visitor.plans.len() } else { 1 };
        for at in 0..count {
            visitor.send_request(at);
        }
        // Some have nothing more to ask, and say so before they read; who asks for much at once is
        // taken for gone by that, where the line is slow.
        let long = |plan: &Plan| plan.long_request().is_some();
        let keeps = matches!(visitor.plans[0].up, Body::Raw(_)) || visitor.plans.iter().any(long);
        visitor.out.fin =
            count == visitor.plans.len() && !keeps && visitor.plans[0].number.is_multiple_of(3);
        visitor
    }

    fn send_request(&mut self, at: usize) {
        if let Some(plan) = self.plans.get(at) {
            self.out.push(&plan.request_head());
            if !matches!(plan.up, Body::Raw(_)) {
                self.out.push(&framed(plan.up, plan.request_name()));
            }
        }
    }

    fn finish(&mut self, net: &mut Net, end: End) {
        self.done = true;
        net.close(end);
    }

    /// The connection ended before the visitor was done.
    fn cut(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        let ours = self
            .plans
            .front()
            .is_some_and(|plan| plan.upstream_fails.is_some());
        match ours {
            true => tally.broken += 1,
            false => {
                tally.cut += 1;
                tally.lost += 1;
            }
        }
        tally.notes.push(format!("{}: cut", self.describe()));
        self.done = true;
        net.close(end);
    }

    fn head(&mut self, head: &Head) {
        let plan = self.plans.front().expect("a response to no request");
        let status = head.status();
        if (100..200).contains(&status) && status != 101 {
            assert!(plan.interim > 0, "an interim head from nowhere");
            return self.reader.body(None);
        }
        let from_upstream = head.field("x-plan").is_some();
        if !from_upstream {
            assert!(
                matches!(status, 502..=504 | 408 | 431),
                "{}: the tunnel says {}",
                self.name,
                head.first
            );
            let closes = head.closes();
            self.response = Some((Answer::Tunnel { status, closes }, 0));
            let framing = head.framing();
            let bodiless = plan.method == "HEAD";
            return self.reader.body(if bodiless {
                Some(Framing::Length(0))
            } else {
                framing
            });
        }
        let number = head.field("x-plan").expect("just seen");
        assert_eq!(
            number,
            plan.number.to_string(),
            "another request's response"
        );
        assert_eq!(status, plan.status);
        let long = head.field("x-long").map(str::len);
        assert_eq!(long, plan.long_response(), "its long field");
        let closes = head.closes();
        if status == 101 {
            self.raw = true;
            let body = framed(plan.up, plan.request_name());
            self.out.push(&body);
            self.out.fin = true;
        }
        let framing = match (plan.method, status) {
            ("HEAD", _) | (_, 204) => Framing::Length(0),
            (_, 101) => Framing::UntilClose,
            _ => head.framing().unwrap_or(Framing::UntilClose),
        };
        let until_close = framing == Framing::UntilClose;
        self.response = Some((
            Answer::Upstream {
                closes,
                until_close,
            },
            0,
        ));
        self.reader.body(Some(framing));
    }

    fn body(&mut self, bytes: &[u8]) {
        let plan = self.plans.front().expect("a body of no response");
        let Some((answer, at)) = &mut self.response else {
            panic!("a body without a head");
        };
        if matches!(answer, Answer::Upstream { .. }) {
            check_octets(&self.name, plan.response_name(), *at, bytes);
            *at += bytes.len();
            assert!(*at <= plan.down.len(), "{}: too many octets", self.name);
        }
    }

    /// The response is whole.
    fn ended(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        let plan = self.plans.pop_front().expect("an end of no response");
        let Some((answer, at)) = self.response.take() else {
            panic!("an end without a head");
        };
        if plan.style == Style::Small {
            let waited = net.now - self.started;
            match answer {
                Answer::Tunnel { .. } => tally.slowest_no = tally.slowest_no.max(waited),
                Answer::Upstream { .. } => {
                    let slowest = tally.slowest_small.entry(net.port(end)).or_default();
                    *slowest = waited.max(*slowest);
                }
            }
        }
        let closes = match answer {
            Answer::Tunnel { status, closes } => {
                match plan.upstream_fails {
                    Some(_) => tally.broken += 1,
                    // Where there is little memory they are not agreed on.
                    None if plan.long_response().is_some() && status == 502 => tally.unfit += 1,
                    None if plan.long_request().is_some() && status == 431 => tally.unfit += 1,
                    None => {
                        tally.refused += 1;
                        // Who comes at the wrong time is told to come later, and that is all. Who has
                        // sent FIN may be gone, and is not waited for as long.
                        let patient = self.out.fin && status == 504;
                        tally.lost += usize::from(status != 503 && !patient);
                        tally
                            .notes
                            .push(format!("{}: refused, {status}", self.name));
                    }
                }
                closes
            }
            Answer::Upstream { closes, .. } => {
                if plan.method != "HEAD" && plan.status != 204 {
                    assert_eq!(at, plan.down.len(), "{}: it looks whole", self.name);
                    self.check_trailers(&plan);
                }
                tally.whole += 1;
                closes
            }
        };
        self.stalled = false;
        if self.plans.is_empty() {
            return self.finish(net, end);
        }
        if closes {
            // What was asked behind it is not answered.
            return self.finish(net, end);
        }
        if !self.ahead {
            self.send_request(0);
        }
    }

    /// Trailers come to whoever takes them, and those alone that may.
    fn check_trailers(&self, plan: &Plan) {
        if matches!(plan.down, Body::Chunked(_)) {
            let sent = plan.takes_trailers().then(|| trailer(plan.response_name()));
            let wanted: Vec<String> = sent.into_iter().collect();
            assert_eq!(self.reader.trailers, wanted, "{}: its trailers", self.name);
        }
    }

    fn read_some(&mut self, net: &mut Net, end: End, tally: &mut Tally) -> bool {
        let Some(plan) = self.plans.front() else {
            return false;
        };
        if net.now < self.next_read {
            if net.readable(end) > 0 {
                net.alarm(end, self.next_read);
            }
            return false;
        }
        if net.readable(end) == 0 {
            return false;
        }
        if self.response.is_some() && plan.visitor_stalls > 0 && !self.stalled {
            self.stalled = true;
            self.next_read = net.now + plan.visitor_stalls;
            net.alarm(end, self.next_read);
            return false;
        }
        let most = match plan.visitor_pace {
            Some((most, pause)) => {
                self.next_read = net.now + pause + MILLI;
                most
            }
            None => usize::MAX,
        };
        let leaves = plan.visitor_leaves;
        let bytes = read(net, end, most);
        self.taken += bytes.len();
        if bytes.is_empty() {
            return false;
        }
        if leaves.is_some_and(|at| self.taken > at) {
            tally.broken += 1;
            self.done = true;
            net.reset(end);
            return false;
        }
        self.reader.buf.extend_from_slice(&bytes);
        while !self.done {
            match self.reader.next() {
                Item::More => break,
                Item::Head(head) => self.head(&head),
                Item::Body(bytes) => self.body(&bytes),
                Item::End => self.ended(net, end, tally),
            }
        }
        true
    }
}

impl Actor for Visitor {
    fn step(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        if self.done {
            return;
        }
        if net.gone(end).is_some() && net.readable(end) == 0 {
            return self.cut(net, end, tally);
        }
        if !net.is_established(end) {
            return;
        }
        self.out.flush(net, end);
        while !self.done && self.read_some(net, end, tally) {}
        if self.done {
            return;
        }
        self.out.flush(net, end);
        if net.gone(end).is_some() && net.readable(end) == 0 {
            return self.cut(net, end, tally);
        }
        if net.at_fin(end) {
            let whole = matches!(
                self.response,
                Some((
                    Answer::Upstream {
                        until_close: true,
                        ..
                    },
                    _
                ))
            );
            let plan = self.plans.front();
            if whole && self.raw {
                let (plan, at) = (plan.expect("a plan"), self.response.map_or(0, |it| it.1));
                assert_eq!(at, plan.down.len(), "{}: FIN too early", self.name);
                if !self.out.is_empty() {
                    return;
                }
                tally.whole += 1;
                return self.finish(net, end);
            }
            if whole {
                return self.ended(net, end, tally);
            }
            self.cut(net, end, tally);
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!(
            "{} since {} {:?} response {:?} out {} ahead {} raw {}",
            self.name,
            self.started / 1_000_000,
            self.plans.front(),
            self.response,
            self.out.is_empty(),
            self.ahead,
            self.raw
        )
    }
}
