//! Raw TCP through a PULL port: a caller in the container, a service on the laptop.
//!
//! The caller names the exchange in its first eight octets, and both sides know the rest from it.

use crate::actor::{Actor, Outgoing, Tally, read};
use crate::dice::{Dice, check_octets, octets};
use crate::net::{End, MILLI, Net};

/// Named so by its caller, a service says again whatever it hears.
pub const ECHOES: u64 = u64::MAX;

/// One side of a raw exchange.
pub struct Raw {
    is_caller: bool,
    echoes: bool,
    number: Option<u64>,
    rough: bool,
    deed: Deed,
    out: Outgoing,
    inbox: Vec<u8>,
    got: usize,
    next_read: u64,
    fin_seen: bool,
    done: bool,
}

/// What a side does.
#[derive(Debug, Clone, Default)]
struct Deed {
    sends: usize,
    expects: usize,
    /// It resets after so many bytes from the other.
    resets_at: Option<usize>,
    /// The other side does that too, or instead.
    other_resets: bool,
    pace: Option<(usize, u64)>,
    /// It says nothing before the other's FIN.
    waits_for_fin: bool,
}

fn deed(number: u64, is_caller: bool, rough: bool) -> Deed {
    let mut dice = Dice::new(number);
    let (up, down) = (dice.size(200_000), dice.size(200_000));
    let mut resets =
        |len: usize| (rough && dice.once_in(5)).then(|| dice.below(len as u64 + 1) as usize);
    let (caller_resets, service_resets) = (resets(down), resets(up));
    let mut pace = || {
        dice.once_in(3)
            .then(|| (500 + dice.size(30_000), dice.below(20_000_000)))
    };
    let (caller_pace, service_pace) = (pace(), pace());
    let waits = dice.once_in(3);
    match is_caller {
        true => Deed {
            sends: up,
            expects: down,
            resets_at: caller_resets,
            other_resets: service_resets.is_some(),
            pace: caller_pace,
            waits_for_fin: false,
        },
        false => Deed {
            sends: down,
            expects: up,
            resets_at: service_resets,
            other_resets: caller_resets.is_some(),
            pace: service_pace,
            waits_for_fin: waits,
        },
    }
}

impl Raw {
    pub fn caller(number: u64, rough: bool) -> Raw {
        let mut raw = Raw::service();
        raw.is_caller = true;
        raw.out
            .push(&(number << 1 | u64::from(rough)).to_be_bytes());
        raw.learn(number, rough);
        raw
    }

    pub fn service() -> Raw {
        Raw {
            is_caller: false,
            echoes: false,
            number: None,
            rough: false,
            deed: Deed::default(),
            out: Outgoing::default(),
            inbox: Vec::new(),
            got: 0,
            next_read: 0,
            fin_seen: false,
            done: false,
        }
    }

    fn learn(&mut self, number: u64, rough: bool) {
        self.number = Some(number);
        self.rough = rough;
        self.deed = deed(number, self.is_caller, rough);
        if !self.deed.waits_for_fin {
            self.speak();
        }
    }

    fn speak(&mut self) {
        let Some(number) = self.number else { return };
        let name = number ^ u64::from(self.is_caller);
        self.out.push(&octets(name, 0, self.deed.sends));
        self.out.fin = true;
    }

    fn take(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        if self.number.is_none() {
            let Some(name) = self.inbox.first_chunk::<8>() else {
                return;
            };
            let name = u64::from_be_bytes(*name);
            self.inbox.drain(..8);
            if name == ECHOES {
                (self.echoes, self.number) = (true, Some(ECHOES));
            } else {
                self.learn(name >> 1, name & 1 == 1);
            }
        }
        if self.echoes {
            return self.out.push(&std::mem::take(&mut self.inbox));
        }
        let name = self.number.unwrap_or(0) ^ u64::from(!self.is_caller);
        check_octets("raw", name, self.got, &self.inbox);
        self.got += self.inbox.len();
        self.inbox.clear();
        assert!(self.got <= self.deed.expects, "raw: too many octets");
    }

    fn ended(&mut self, cut: bool, at_door: bool, tally: &mut Tally) {
        self.done = true;
        let meant = self.deed.resets_at.is_some() || self.deed.other_resets;
        if !self.is_caller {
            return;
        }
        match (cut, meant) {
            (_, true) => tally.broken += 1,
            (true, false) => {
                tally.cut += 1;
                tally.lost += usize::from(!at_door);
                tally.notes.push(format!("{}: cut", self.describe()));
            }
            (false, false) => tally.whole += 1,
        }
    }
}

impl Actor for Raw {
    fn step(&mut self, net: &mut Net, end: End, tally: &mut Tally) {
        if self.done {
            return;
        }
        if net.gone(end).is_some() && net.readable(end) == 0 {
            self.ended(true, net.was_sent_away(end), tally);
            return net.close(end);
        }
        if !net.is_established(end) {
            return;
        }
        if net.now >= self.next_read {
            let most = match self.deed.pace {
                Some((most, pause)) => {
                    self.next_read = net.now + pause + MILLI;
                    most
                }
                None => usize::MAX,
            };
            let bytes = read(net, end, most);
            self.take(&bytes);
        }
        if net.readable(end) > 0 {
            net.alarm(end, self.next_read.max(net.now + 1));
        }
        if net.gone(end).is_some() && net.readable(end) == 0 {
            self.ended(true, net.was_sent_away(end), tally);
            return net.close(end);
        }
        if self.deed.resets_at.is_some_and(|at| self.got >= at) && self.number.is_some() {
            self.ended(true, net.was_sent_away(end), tally);
            return net.reset(end);
        }
        if net.at_fin(end) && !self.fin_seen {
            self.fin_seen = true;
            assert!(self.number.is_some(), "FIN before a name came");
            if self.is_caller && net.refused.contains(&end.0) {
                // Sent away at the door: a TCP service has no way to say "later".
                self.ended(true, net.was_sent_away(end), tally);
                return net.close(end);
            }
            self.out.fin |= self.echoes;
            assert_eq!(
                self.got,
                self.deed.expects,
                "FIN too early: {}",
                self.describe()
            );
            if self.deed.waits_for_fin {
                self.speak();
            }
        }
        self.out.flush(net, end);
        if self.fin_seen && self.out.fin && self.out.is_empty() {
            self.ended(false, false, tally);
            net.close(end);
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!(
            "{} {:?} {:?} got {} fin {} out {}",
            if self.is_caller { "caller" } else { "service" },
            self.number,
            self.deed,
            self.got,
            self.fin_seen,
            self.out.is_empty()
        )
    }
}
