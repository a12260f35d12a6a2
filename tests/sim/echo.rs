//! One who asks through a PULL port again and again, and waits for each answer: a Redis, a shell.

use crate::actor::{Actor, Outgoing, Tally, read};
use crate::net::{End, MILLI, Net};
use crate::raw::ECHOES;

pub struct Echo {
    /// Questions that are still to be asked.
    left: usize,
    out: Outgoing,
    asked_at: Option<u64>,
    next_at: u64,
    got: usize,
    done: bool,
}

/// Octets of a question.
const QUESTION: usize = 64;
/// Between an answer and the next question.
const PAUSE: u64 = 100 * MILLI;

impl Echo {
    pub fn new(count: usize) -> Echo {
        let mut out = Outgoing::default();
        out.push(&ECHOES.to_be_bytes());
        Echo {
            left: count,
            out,
            asked_at: None,
            next_at: 0,
            got: 0,
            done: false,
        }
    }

    fn answered(&mut self, net: &mut Net, end: End, tally: &mut Tally, asked_at: u64) {
        let slowest = tally.slowest_echo.entry(net.port(end)).or_default();
        *slowest = (net.now - asked_at).max(*slowest);
        (self.got, self.asked_at) = (0, None);
        self.next_at = net.now + PAUSE;
        net.alarm(end, self.next_at);
        self.out.fin = self.left == 0;
    }
}

impl Actor for Echo {
    fn step(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        if self.done || !net.is_established(end) && net.gone(end).is_none() {
            return;
        }
        if net.gone(end).is_some() {
            self.done = true;
            tally.cut += 1;
            tally.notes.push(format!("{}: cut", self.describe()));
            return net.close(end);
        }
        self.got += read(net, end, usize::MAX).len();
        assert!(self.got <= QUESTION, "more came back than was said");
        match self.asked_at {
            Some(asked_at) if self.got == QUESTION => self.answered(net, end, tally, asked_at),
            None if self.left > 0 && net.now >= self.next_at => {
                self.left -= 1;
                self.asked_at = Some(net.now);
                self.out.push(&[b'?'; QUESTION]);
            }
            _ => {}
        }
        self.out.flush(net, end);
        if net.at_fin(end) {
            self.done = true;
            assert!(self.out.fin, "FIN in the middle of a talk");
            tally.whole += 1;
            net.close(end);
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!("echo {} left, asked at {:?}", self.left, self.asked_at)
    }
}
