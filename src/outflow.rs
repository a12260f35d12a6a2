//! Bytes on their way to a connection, copied only when its socket did not take them at once.
//!
//! DATA that came on a lane lies in the lane's receive buffer. An outflow may hold one such span as
//! a loan, so that the host writes it from there (law 7 in `machine.rs`); before the lane reads
//! again, its owner has every borrower [`Outflow::spill`], which copies what is left. Order is
//! kept: bytes of its own, then the loan, then bytes of its own that came later.
//!
//! It also knows how many bytes of DATA payload it holds, for their credit goes back when the
//! socket has taken them (PROTOCOL §5), and chunk headers and HTTP heads in between are not
//! payload.

use std::ops::Range;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::http::write::{CRLF, chunk_header};

/// Knows whether anything that was lent from a buffer is still out, so that the buffer is not
/// touched before.
#[derive(Debug, Default)]
pub struct Lender(Arc<()>);

/// A span of a lender's buffer; given back by being dropped.
#[derive(Debug)]
pub struct Loan {
    span: Range<usize>,
    _of: Arc<()>,
}

impl Lender {
    /// Lends a span.
    pub fn lend(&self, span: Range<usize>) -> Loan {
        let _of = Arc::clone(&self.0);
        Loan { span, _of }
    }

    /// Whether a loan is out.
    pub fn is_owed(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// A queue of bytes for one connection. `L` names a lane.
#[derive(Debug)]
pub struct Outflow<L> {
    first: Buffer,
    loan: Option<(L, Loan)>,
    later: Buffer,
    payload: usize,
    /// Bytes in the chunk that was added last; 0 where it was something else.
    chunk: usize,
}

/// The bytes that leave next.
#[derive(Debug)]
pub enum Piece<'a, L> {
    /// Nothing waits.
    Nothing,
    /// Bytes held here.
    Own(&'a [u8]),
    /// Bytes in a lane's receive buffer.
    Loan(&'a L, &'a Range<usize>),
}

impl<L> Outflow<L> {
    /// An empty one, without memory.
    pub const fn new() -> Outflow<L> {
        Outflow {
            first: Buffer::new(),
            loan: None,
            later: Buffer::new(),
            payload: 0,
            chunk: 0,
        }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        let lent = self.loan.as_ref().map_or(0, |(_, loan)| loan.span.len());
        self.first.len() + lent + self.later.len()
    }

    /// Memory held, in bytes.
    pub fn capacity(&self) -> usize {
        self.first.capacity() + self.later.capacity()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes that are not payload: a head, the end of a chunked body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.chunk = 0;
        self.tail().extend(bytes);
    }

    /// Adds payload by copying it.
    pub fn push_payload(&mut self, bytes: &[u8]) {
        self.push(bytes);
        self.payload += bytes.len();
    }

    /// Adds payload as a chunk. No credit counts framing, so it must stay small against the payload
    /// also where a peer sends one byte at a time: a chunk that waits whole grows, as long as its
    /// header keeps its length.
    pub fn push_chunk(&mut self, bytes: &[u8]) {
        let last = std::mem::take(&mut self.chunk);
        self.payload += bytes.len();
        let tail = self.tail();
        if last > 0 && !tail.is_empty() {
            let (old, new) = (chunk_header(last), chunk_header(last + bytes.len()));
            let (old, new) = (old.as_ref(), new.as_ref());
            let start = tail.len().checked_sub(old.len() + last + CRLF.len());
            if let Some(start) = start.filter(|_| old.len() == new.len()) {
                tail.bytes_mut()[start..start + new.len()].copy_from_slice(new);
                tail.truncate(tail.len() - CRLF.len());
                tail.extend(bytes);
                tail.extend(CRLF);
                self.chunk = last + bytes.len();
                return;
            }
        }
        tail.extend(chunk_header(bytes.len()).as_ref());
        tail.extend(bytes);
        tail.extend(CRLF);
        self.chunk = bytes.len();
    }

    fn tail(&mut self) -> &mut Buffer {
        match self.loan {
            None => &mut self.first,
            Some(_) => &mut self.later,
        }
    }

    /// Whether it holds a loan.
    pub fn is_lent(&self) -> bool {
        self.loan.is_some()
    }

    /// Whether a loan may be taken: small pieces are better copied, and only one is held.
    pub fn may_borrow(&self, count: usize) -> bool {
        self.loan.is_none() && count >= WORTH_BORROWING
    }

    /// Adds payload that lies in a lane's receive buffer, where [`Outflow::may_borrow`] said yes.
    pub fn borrow(&mut self, lane: L, loan: Loan) {
        assert!(self.loan.is_none(), "one loan at a time");
        self.payload += loan.span.len();
        self.chunk = 0;
        self.loan = Some((lane, loan));
    }

    /// Ends the loan by copying what is left of it; `lent` gives the bytes of a span.
    pub fn spill<'b>(&mut self, lent: impl FnOnce(&L, &Range<usize>) -> &'b [u8]) {
        let Some((lane, loan)) = self.loan.take() else {
            return;
        };
        self.first.extend(lent(&lane, &loan.span));
        self.first.extend(self.later.bytes());
        self.later.release();
    }

    /// Drops everything, because nobody wants it any more; gives back how many bytes of it were
    /// payload.
    pub fn discard(&mut self) -> usize {
        std::mem::take(self).payload
    }

    /// What leaves next.
    pub fn next(&self) -> Piece<'_, L> {
        if !self.first.is_empty() {
            return Piece::Own(self.first.bytes());
        }
        match &self.loan {
            Some((lane, loan)) => Piece::Loan(lane, &loan.span),
            None => Piece::Nothing,
        }
    }

    /// The socket took the first `count` bytes of [`Outflow::next`]. Gives back how many bytes of
    /// payload are known to have left with them.
    ///
    /// What is left may all be payload, so a chunk header among it is counted as if it were: credit
    /// comes a few bytes late, never too early, and whole when the outflow is empty.
    pub fn taken(&mut self, count: usize) -> usize {
        if !self.first.is_empty() {
            self.first.consume(count);
        } else if let Some((_, Loan { span, .. })) = &mut self.loan {
            span.start += count;
            assert!(span.start <= span.end, "more was taken than lent");
            if span.start == span.end {
                self.loan = None;
                std::mem::swap(&mut self.first, &mut self.later);
            }
        }
        match self.is_empty() {
            true => {
                self.first.release_if_idle(KEEP_IDLE);
                self.later.release_if_idle(0);
            }
            false => self.first.trim(KEEP_READ),
        }
        let left = self.payload.min(self.len());
        std::mem::replace(&mut self.payload, left) - left
    }
}

impl<L> Default for Outflow<L> {
    fn default() -> Self {
        Outflow::new()
    }
}

/// Below this many bytes a copy is cheaper than the care that a loan needs.
const WORTH_BORROWING: usize = 2048;
/// Memory of bytes that have left and that is held while others wait, in bytes.
const KEEP_READ: usize = 256 * 1024;
/// Memory that an empty outflow keeps, in bytes: a small reply, so that a busy keep-alive
/// connection does not allocate for each.
const KEEP_IDLE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::write::LAST_CHUNK;
    use crate::http::{BodyDecoder, RequestBody};

    fn drain(out: &mut Outflow<()>, lane: &[u8], step: usize) -> (Vec<u8>, usize) {
        let (mut bytes, mut payload) = (Vec::new(), 0);
        loop {
            let piece = match out.next() {
                Piece::Nothing => return (bytes, payload),
                Piece::Own(own) => own,
                Piece::Loan((), span) => &lane[span.clone()],
            };
            let count = piece.len().min(step);
            bytes.extend_from_slice(&piece[..count]);
            payload += out.taken(count);
        }
    }

    #[test]
    fn a_loan_is_out_until_its_bytes_left_or_were_copied_or_dropped() {
        let lane = vec![7; 5000];
        for how in 0..4 {
            let lender = Lender::default();
            let mut out = Outflow::new();
            out.borrow((), lender.lend(0..5000));
            assert!(lender.is_owed() && out.is_lent());
            match how {
                0 => assert_eq!(drain(&mut out, &lane, 999).1, 5000),
                1 => out.spill(|(), span| &lane[span.clone()]),
                2 => assert_eq!(out.discard(), 5000),
                _ => out = Outflow::new(),
            }
            assert!(!lender.is_owed() && !out.is_lent());
        }
    }

    #[test]
    fn order_and_payload_are_kept_with_and_without_a_spill() {
        let lane: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        for spill in [false, true] {
            for step in [1, 7, 100_000] {
                let mut out = Outflow::new();
                out.push(b"head");
                assert!(out.may_borrow(4000));
                out.borrow((), Lender::default().lend(500..4500));
                out.push_payload(b"payload");
                out.push(b"end");
                assert!(!out.may_borrow(4000));
                if spill {
                    assert_eq!(out.taken(4), 0);
                    out.spill(|(), span| &lane[span.clone()]);
                    out.push_payload(b"!");
                    let (bytes, payload) = drain(&mut out, &lane, step);
                    assert_eq!(bytes, [&lane[500..4500], b"payloadend!"].concat());
                    assert_eq!(payload, 4008);
                } else {
                    let (bytes, payload) = drain(&mut out, &lane, step);
                    assert_eq!(bytes, [b"head", &lane[500..4500], b"payloadend"].concat());
                    assert_eq!(payload, 4007);
                }
                assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn framing_stays_small_against_payload_that_comes_in_crumbs() {
        for (crumb, most) in [(1, 14), (5, 17), (8, 17), (300, 11)] {
            let mut out = Outflow::<()>::new();
            out.push(b"head");
            for _ in 0..100 {
                out.push_chunk(&vec![b'x'; crumb]);
            }
            let (waiting, payload) = (out.len() - 4, 100 * crumb);
            assert!(waiting * 10 <= payload * most, "{waiting} for {payload}");
        }
    }

    #[test]
    fn chunks_are_read_back_however_they_grew_and_left() {
        for step in [1, 2, 3, 7, 20, 1000] {
            let mut out = Outflow::<()>::new();
            let (mut bytes, mut sent, mut credit) = (Vec::new(), Vec::new(), 0);
            for count in 1..200usize {
                let piece = vec![count as u8; count % 23 + 1];
                out.push_chunk(&piece);
                sent.extend(piece);
                if count % 50 == 0 {
                    // Something else in between is no chunk, and ends one.
                    out.push(b"1\r\n!\r\n");
                    sent.push(b'!');
                }
                if let Piece::Own(own) = out.next() {
                    let count = own.len().min(step);
                    bytes.extend_from_slice(&own[..count]);
                    credit += out.taken(count);
                }
            }
            out.push(LAST_CHUNK);
            let (rest, left) = drain(&mut out, &[], step);
            bytes.extend(rest);
            let mut decoder = BodyDecoder::for_request(RequestBody::Chunked);
            let mut read = Vec::new();
            while !decoder.is_complete() {
                let step = decoder.decode(&bytes).expect("chunks");
                read.extend_from_slice(&bytes[step.data.clone()]);
                bytes.drain(..step.consumed);
            }
            assert!(read == sent && bytes.is_empty());
            assert_eq!(credit + left, sent.len() - 3);
        }
    }
}
