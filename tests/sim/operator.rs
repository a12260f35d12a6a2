//! An operator, who asks the kit for its sessions and ends the first of them.

use crate::actor::{Actor, Outgoing, Tally, read};
use crate::net::{End, Net};
use crate::text::{Framing, Item, Reader};

pub struct Operator {
    token: &'static str,
    out: Outgoing,
    reader: Reader,
    answer: Vec<u8>,
    /// The status of the answer that is being read.
    status: u16,
    /// It has named a session to be ended.
    has_chosen: bool,
    started: u64,
    done: bool,
}

impl Operator {
    pub fn new(token: &'static str, now: u64) -> Operator {
        let mut operator = Operator {
            token,
            out: Outgoing::default(),
            reader: Reader::default(),
            answer: Vec::new(),
            status: 0,
            has_chosen: false,
            started: now,
            done: false,
        };
        operator.ask("GET", "");
        operator
    }

    fn ask(&mut self, method: &str, session: &str) {
        let head = format!(
            "{method} /api/v1/tunnel/sessions{session} HTTP/1.1\r\nHost: kit\r\n\
             Authorization: Bearer {}\r\n\r\n",
            self.token
        );
        self.out.push(head.as_bytes());
    }

    /// An answer is whole: the next question, or none.
    fn answered(&mut self) {
        let text = String::from_utf8_lossy(&self.answer).into_owned();
        self.answer.clear();
        if self.has_chosen {
            // Somebody else may have ended it in between.
            assert!(matches!(self.status, 202 | 404 | 503), "{text}");
            self.done = true;
            return;
        }
        assert!(matches!(self.status, 200 | 503), "{} {text}", self.status);
        let id = text.split("\"sessionId\":\"").nth(1);
        match id.and_then(|rest| rest.split('"').next()) {
            Some(id) => {
                self.has_chosen = true;
                self.ask("DELETE", &format!("/{id}"));
            }
            None => self.done = true,
        }
    }
}

impl Actor for Operator {
    fn step(&mut self, net: &mut Net, end: End, _: &mut Tally) {
        if self.done {
            return;
        }
        let bytes = read(net, end, usize::MAX);
        self.reader.buf.extend_from_slice(&bytes);
        while !self.done {
            match self.reader.next() {
                Item::More => break,
                Item::Head(head) => {
                    self.status = head.status();
                    let framing = head.framing().unwrap_or(Framing::Length(0));
                    self.reader.body(Some(framing));
                }
                Item::Body(bytes) => self.answer.extend_from_slice(&bytes),
                Item::End => self.answered(),
            }
        }
        // A kit that ends, or has no descriptor, owes it nothing.
        self.done |= net.at_fin(end) || (net.gone(end).is_some() && net.readable(end) == 0);
        match self.done {
            true => net.close(end),
            false if net.is_established(end) => self.out.flush(net, end),
            false => {}
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!(
            "operator since {} chosen {}",
            self.started / 1_000_000,
            self.has_chosen
        )
    }
}
