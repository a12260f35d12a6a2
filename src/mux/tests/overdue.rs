//! One sending end alone: who may send, who stands in which line, and whose turn is overdue.

use super::*;
use crate::limits::{CREDIT_LOST_AFTER, LANE_QUEUE_SOFT, MIN_WINDOW, SHARE_WORTH};
use crate::mux::stream::Waits;

const WINDOW: u32 = 1 << 20;

/// A kit's session whose peer takes whatever leaves, and gives nothing back.
struct Alone {
    mux: Session<u32>,
    opened: u32,
}

impl Alone {
    fn new() -> Alone {
        let terms = Terms {
            stream_window: WINDOW,
            session_window: WINDOW,
            max_streams: 1000,
            ..terms(Side::Kit)
        };
        let mut mux = Session::new(terms, Instant::ZERO);
        mux.attach(0, Transport::server(conn(0), Instant::ZERO));
        Alone { mux, opened: 0 }
    }

    /// Opens a stream whose tag is the number of those before it.
    fn open(&mut self) -> StreamKey {
        let key = self.mux.open(self.opened, b"{}", Instant::ZERO);
        self.opened += 1;
        key.expect("a stream")
    }

    /// Has a stream send up to `count` bytes, and says how many it could.
    fn send(&mut self, key: StreamKey, count: u32) -> u32 {
        let mut sent = 0;
        loop {
            let bytes = vec![0; (count - sent) as usize];
            sent += self.mux.send(key, &bytes, Instant::ZERO) as u32;
            let may_wait = self.mux.streams.get(key).unwrap().waits;
            if sent == count || may_wait != Waits::Room {
                return sent;
            }
            self.flush();
        }
    }

    /// Has a stream of an older peer's kind take what it wants of the session's credit.
    fn take(&mut self, key: StreamKey, count: u32) {
        let mut sent = 0;
        while sent < count {
            let bytes = vec![0; (count - sent) as usize];
            sent += self.mux.send_greedily(key, &bytes, Instant::ZERO) as u32;
            self.flush();
        }
        assert_eq!(sent, count);
    }

    fn flush(&mut self) {
        while !self.mux.transmit(0).is_empty() {
            let count = self.mux.transmit(0).len();
            self.mux.transmitted(0, count);
        }
    }

    /// Leaves `left` bytes of the session's credit, by a stream that stands in no line.
    fn leave(&mut self, left: u32) {
        let hog = self.open();
        let count = self.mux.sending.credit.available() - left;
        self.take(hog, count);
        self.called();
    }

    fn called(&mut self) -> Vec<u32> {
        let wakes = std::iter::from_fn(|| self.mux.poll_wake());
        let senders = wakes.filter_map(|wake| match wake {
            Wake::Sender(tag) => Some(tag),
            _ => None,
        });
        senders.collect()
    }

    fn waits(&self, key: StreamKey) -> Waits {
        self.mux.streams.get(key).unwrap().waits
    }

    fn in_line(&self) -> usize {
        self.mux.lanes.channels[0].line.len()
    }

    /// Fills the lane's queue, by a stream that has credit to spare.
    fn fill(&mut self, key: StreamKey) {
        let bytes = vec![0; 2 * LANE_QUEUE_SOFT];
        assert!(self.mux.send(key, &bytes, Instant::ZERO) >= LANE_QUEUE_SOFT - 100);
        assert_eq!(self.waits(key), Waits::Room);
    }
}

#[test]
fn whose_credit_an_older_receiver_withholds_is_called_when_overdue_and_nobody_who_holds_more() {
    let withheld = WINDOW / 4 + MIN_WINDOW / 4;
    for (holds, is_called) in [
        (100, true),
        (withheld - 1, true),
        (withheld, false),
        (withheld + 1, false),
    ] {
        let mut alone = Alone::new();
        let key = alone.open();
        assert_eq!(alone.send(key, holds), holds);
        alone.leave(WINDOW / 16);
        let more = alone.send(key, WINDOW);
        if holds > 100 {
            assert_eq!(more, 0);
        }
        assert_eq!(alone.waits(key), Waits::SessionCredit);
        assert!(alone.called().is_empty());
        alone.mux.call_overdue();
        assert_eq!(alone.called(), if is_called { vec![0] } else { vec![] });
        let outstanding = holds + more
            - if is_called {
                SHARE_WORTH.min(holds + more)
            } else {
                0
            };
        let stream = alone.mux.streams.get(key).unwrap();
        assert_eq!(stream.send.outstanding(), outstanding);
        alone.mux.check_invariants();
    }
}

#[test]
fn as_many_are_called_when_overdue_as_credit_suffices_for_and_the_last_part_is_kept() {
    let kept = WINDOW / 32;
    for (left, called) in [
        (kept - 1, 0),
        (kept, 0),
        (kept + 1, 1),
        (kept + SHARE_WORTH, 1),
        (kept + SHARE_WORTH + 1, 2),
        (kept + 2 * SHARE_WORTH + 1, 3),
    ] {
        let mut alone = Alone::new();
        let keys: Vec<StreamKey> = (0..5).map(|_| alone.open()).collect();
        for key in &keys {
            assert_eq!(alone.send(*key, 100_000), 100_000);
        }
        alone.leave(left);
        for key in &keys {
            assert_eq!(alone.send(*key, 1), 0);
        }
        alone.mux.call_overdue();
        assert_eq!(alone.called().len(), called, "{left} are left");
    }
}

#[test]
fn streams_that_end_in_a_lanes_line_leave_it() {
    let mut alone = Alone::new();
    let bulk = alone.open();
    alone.fill(bulk);
    let alive: Vec<StreamKey> = (0..4).map(|_| alone.open()).collect();
    for key in &alive {
        assert_eq!(alone.mux.send(*key, b"x", Instant::ZERO), 0);
    }
    for round in 0..50 {
        let key = alone.open();
        assert_eq!(alone.mux.send(key, b"x", Instant::ZERO), 0);
        assert_eq!(alone.in_line(), 6);
        match round % 2 {
            0 => alone.mux.reset(key, Code::Cancel, "gone"),
            _ => alone.mux.send_eof(key, Instant::ZERO),
        }
        assert_eq!(alone.in_line(), 5);
    }
    let mut called = Vec::new();
    while called.len() < 5 {
        alone.flush();
        let now = alone.called();
        assert!(!now.is_empty(), "only {called:?} were called");
        for tag in &now {
            let key = if *tag == 0 {
                bulk
            } else {
                alive[*tag as usize - 1]
            };
            assert_eq!(alone.mux.send(key, b"x", Instant::ZERO), 1);
        }
        called.extend(now);
    }
    assert_eq!(called, [1, 2, 3, 4, 0], "bulk goes last");
}

#[test]
fn who_was_called_goes_ahead_of_those_who_came_to_stand_in_line_since() {
    let mut alone = Alone::new();
    let [bulk, other, small] = [(); 3].map(|()| alone.open());
    alone.fill(bulk);
    alone.flush();
    assert_eq!(alone.called(), [0]);
    alone.fill(other);
    assert_eq!(alone.mux.send(small, b"x", Instant::ZERO), 0);
    // Room again, but not so much that the line is called.
    let count = alone.mux.transmit(0).len().min(1000);
    alone.mux.transmitted(0, count);
    assert_eq!(alone.in_line(), 2);
    assert_eq!(alone.mux.send(bulk, &[0; 100], Instant::ZERO), 100);
    assert_eq!(
        alone.mux.send(bulk, &[0; 100_000], Instant::ZERO),
        0,
        "once"
    );
}

#[test]
fn who_has_nothing_to_send_or_sent_its_end_stands_in_no_line() {
    let mut alone = Alone::new();
    let [bulk, idle, done] = [(); 3].map(|()| alone.open());
    alone.mux.send_eof(done, Instant::ZERO);
    assert!(alone.mux.data_space(done, 10).is_empty());
    alone.fill(bulk);
    let before = alone.in_line();
    for key in [idle, done] {
        assert!(alone.mux.data_space(key, 0).is_empty());
        assert_eq!(alone.waits(key), Waits::No);
    }
    assert!(alone.mux.data_space(done, 10).is_empty());
    assert_eq!(alone.in_line(), before);
}

#[test]
fn what_was_sent_is_counted_by_stream_and_by_session() {
    let mut alone = Alone::new();
    let keys = [(); 2].map(|()| alone.open());
    let before = alone.mux.traffic();
    for (key, count) in [(keys[0], 10), (keys[1], 200), (keys[0], 3000)] {
        assert_eq!(alone.send(key, count), count);
    }
    let traffic = alone.mux.traffic();
    assert_eq!(traffic.data_out, 3210);
    assert_eq!(traffic.frames_out, before.frames_out + 3);
    let sent = keys.map(|key| alone.mux.streams.resolve_mut(key).bytes_out);
    assert_eq!(sent, [3010, 200]);
}

#[test]
fn a_lost_lane_ends_no_session_in_which_nobody_waits_for_credit() {
    let mut alone = Alone::new();
    let key = alone.open();
    assert_eq!(alone.send(key, 1000), 1000);
    alone.mux.detach(0);
    let late = Instant::ZERO + CREDIT_LOST_AFTER * 10;
    assert!(!alone.mux.has_run_dry(late));
}
