//! Those who are not ours: visitors, callers, local servers. Each has one connection.

use crate::net::{End, Net};

/// What the oracle counts.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Exchanges that were whole at both ends' wish.
    pub whole: usize,
    /// Answers of the tunnel itself: 502, 503, 504.
    pub refused: usize,
    /// Exchanges that were visibly cut.
    pub cut: usize,
    /// Exchanges that were cut, or given up by the tunnel, after they had begun: what never happens
    /// where streams survive.
    pub lost: usize,
    /// Exchanges that broke because one of their ends wanted it.
    pub broken: usize,
    /// Exchanges whose heads do not fit a frame, where there was no memory to take them in parts.
    pub unfit: usize,
    /// Numbers of requests that may not be sent twice, as servers saw them.
    pub seen: std::collections::BTreeMap<u64, usize>,
    /// The longest that a small exchange of a crowd took at each port, and the longest that it took
    /// to say no.
    pub slowest_small: std::collections::BTreeMap<u16, u64>,
    pub slowest_no: u64,
    /// The longest that an answer to a caller took which talks on and on, at each port.
    pub slowest_echo: std::collections::BTreeMap<u16, u64>,
    pub notes: Vec<String>,
}

pub trait Actor {
    /// Something changed at its connection, or its alarm rang.
    fn step(&mut self, net: &mut Net, end: End, tally: &mut Tally);

    /// It has given its connection back.
    fn is_done(&self) -> bool;

    fn describe(&self) -> String;
}

/// Bytes on their way out, and whether FIN follows.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    at: usize,
    pub fin: bool,
    fin_sent: bool,
}

impl Outgoing {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub fn flush(&mut self, net: &mut Net, end: End) {
        if !self.is_empty() {
            self.at += net.write(end, &self.bytes[self.at..], false);
        }
        if self.fin && self.is_empty() && !self.fin_sent {
            self.fin_sent = true;
            net.finish(end);
        }
    }
}

/// Reads at most `most` bytes.
pub fn read(net: &mut Net, end: End, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; net.readable(end).min(most)];
    let count = net.read(end, &mut bytes);
    bytes.truncate(count);
    bytes
}
