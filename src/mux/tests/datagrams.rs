//! Datagrams overtake, are lost where there is no room, and never come before their stream.

use super::*;
use crate::limits::{DATAGRAM_QUEUE, DATAGRAM_TURNS, LANE_QUEUE_SOFT, MAX_DATAGRAM};
use crate::mux::Wanted;
use crate::wire::frame::HEADER_LEN;

/// An end with a lane.
struct Alone {
    mux: Session<u32>,
}

impl Alone {
    fn new(terms: Terms) -> Alone {
        let mut mux = Session::new(terms, Instant::ZERO);
        mux.attach(0, Transport::server(conn(0), Instant::ZERO));
        Alone { mux }
    }

    fn open(&mut self, tag: u32) -> StreamKey {
        let opened = self
            .mux
            .open_for(Wanted::default(), tag, (&[], b"{}"), Instant::ZERO);
        opened.expect("room for a stream")
    }

    /// Takes what one look at the lane has to send, and gives the frames of it.
    fn step(&mut self) -> Vec<(FrameType, u32, usize)> {
        let bytes = self.mux.transmit(0).to_vec();
        self.mux.transmitted(0, bytes.len());
        self.mux.check_invariants();
        let mut rest = bytes;
        let mut decoder = WsDecoder::new(Role::Client);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let WsStep::Item { consumed, event } = decoder.next(&mut rest).expect("a message")
            else {
                panic!("a message cut short");
            };
            if let WsEvent::Message(range) = event {
                let message = FrameDecoder::new(&rest[range]).expect("a legal message");
                frames.extend(message.map(|it| (it.kind, it.stream_id, it.payload.len())));
            }
            rest.drain(..consumed);
        }
        frames
    }

    fn all(&mut self) -> Vec<(FrameType, u32, usize)> {
        let mut all = Vec::new();
        loop {
            let step = self.step();
            if step.is_empty() {
                return all;
            }
            all.extend(step);
        }
    }

    fn send(&mut self, key: StreamKey, len: usize) {
        self.mux.send_datagram(key, &vec![7; len], Instant::ZERO);
    }
}

fn kit() -> Alone {
    Alone::new(terms(Side::Kit))
}

#[test]
fn a_datagram_goes_ahead_of_bulk_that_waits_but_not_of_its_own_stream() {
    let mut end = kit();
    let (bulk, known) = (end.open(1), end.open(2));
    end.all();
    assert!(end.mux.send(bulk, &vec![0; LANE_QUEUE_SOFT], Instant::ZERO) > 100_000);
    let fresh = end.open(3);
    end.send(fresh, 10);
    end.send(known, 20);
    let order = end.all();
    let at = |kind, id| order.iter().position(|(k, i, _)| (*k, *i) == (kind, id));
    assert_eq!(at(FrameType::Datagram, 4), Some(0), "{order:?}");
    let (open, first) = (at(FrameType::StreamOpen, 6), at(FrameType::Datagram, 6));
    assert!(open.is_some() && open < first, "{order:?}");
}

#[test]
fn every_size_leaves_as_one_frame_in_a_legal_message() {
    let mut end = kit();
    let key = end.open(1);
    end.all();
    let sizes = [
        0,
        1,
        1200,
        1472,
        MAX_DATAGRAM,
        MAX_DATAGRAM,
        MAX_DATAGRAM,
        0,
    ];
    sizes.iter().for_each(|size| end.send(key, *size));
    let lens: Vec<usize> = end.all().into_iter().map(|(_, _, len)| len).collect();
    assert_eq!(lens, sizes);
    end.send(key, MAX_DATAGRAM + 1);
    assert!(end.all().is_empty(), "it is no datagram");
    (0..200).for_each(|_| end.send(key, 1));
    let first = end.step();
    assert_eq!(first.len(), crate::limits::MAX_FRAMES);
    assert_eq!(first.len() + end.all().len(), 200);
}

#[test]
fn where_the_queue_is_full_the_oldest_go_and_are_counted() {
    let mut end = kit();
    let key = end.open(1);
    end.all();
    let fits = DATAGRAM_QUEUE / (HEADER_LEN + 1000);
    for size in 0..fits + 50 {
        end.send(key, 1000 - usize::from(size < 50));
    }
    let lost = end.mux.lanes_mut().take_datagrams_lost();
    assert!((50..=51).contains(&lost), "{lost}");
    assert_eq!(end.mux.lanes_mut().take_datagrams_lost(), 0);
    let left = end.all();
    assert_eq!(left.len() as u64 + lost, fits as u64 + 50);
    assert!(
        left.iter().all(|(_, _, len)| *len == 1000),
        "the newest stay"
    );
}

#[test]
fn those_whose_stream_is_not_open_yet_are_bounded_too_and_displace_no_others() {
    let mut end = kit();
    let (bulk, known) = (end.open(1), end.open(2));
    end.all();
    end.mux.send(bulk, &vec![0; LANE_QUEUE_SOFT], Instant::ZERO);
    let fresh = end.open(3);
    end.send(known, 1000);
    (0..1000).for_each(|_| end.send(fresh, 1000));
    assert!(end.mux.lanes_mut().take_datagrams_lost() >= 700);
    let all = end.all();
    let of = |id| {
        let frames = all.iter();
        frames.filter(move |(kind, it, _)| (*kind, *it) == (FrameType::Datagram, id))
    };
    assert_eq!(of(4).count(), 1, "it was there first, and holds less");
    assert!(of(6).count() <= DATAGRAM_QUEUE / 1009);
}

#[test]
fn a_flood_of_datagrams_stops_nothing_else() {
    let mut end = kit();
    let (bulk, flood) = (end.open(1), end.open(2));
    end.all();
    end.mux.send(bulk, &[0; 1000], Instant::ZERO);
    let mut steps = 0;
    let data = |(kind, ..): &(FrameType, u32, usize)| *kind == FrameType::Data;
    loop {
        (0..64).for_each(|_| end.send(flood, 1200));
        steps += 1;
        if end.step().iter().any(data) {
            break;
        }
        assert!(steps <= DATAGRAM_TURNS + 1, "it starves");
    }
    assert_eq!(steps, DATAGRAM_TURNS + 1);
}

#[test]
fn nothing_is_kept_or_counted_for_replay_and_a_lane_that_is_down_takes_none() {
    let mut replay = terms(Side::Kit);
    replay.replay = crate::mux::Retention::agreed(1 << 20, 1 << 20, Some(1 << 20), 1);
    let mut end = Alone::new(replay);
    let key = end.open(1);
    end.send(key, 100);
    let kinds: Vec<FrameType> = end.all().into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [FrameType::StreamOpen, FrameType::Datagram]);
    end.send(key, 1);
    end.send(key, 2);
    end.mux.suspend(0, Instant::ZERO).expect("it stands");
    assert_eq!(end.mux.lanes_mut().take_datagrams_lost(), 2);
    end.send(key, 3);
    assert_eq!(end.mux.lanes_mut().take_datagrams_lost(), 1);
    // The peer has nothing of it: the STREAM_OPEN leaves again, and the datagrams do not.
    let transport = Transport::server(conn(1), Instant::ZERO);
    end.mux.resume(0, transport, 0, Instant::ZERO);
    end.send(key, 4);
    let again = end.all();
    let kinds: Vec<(FrameType, usize)> = again.iter().map(|it| (it.0, it.2)).collect();
    assert_eq!(
        kinds,
        [(FrameType::StreamOpen, 2), (FrameType::Datagram, 4)]
    );
    end.mux.check_invariants();
}

#[test]
fn one_on_an_unknown_or_finished_stream_is_dropped_without_a_word() {
    let mut pair = Pair::new(Cut::Whole);
    pair.kit.open(Vec::new(), false, pair.now);
    let key = pair.kit.keys[&2];
    pair.run();
    let before = pair.client.seen.len();
    pair.client
        .mux
        .send_datagram(pair.client.keys[&2], b"answer", pair.now);
    pair.run();
    assert_eq!(pair.kit.datagrams, [(2, b"answer".to_vec())]);
    pair.kit.mux.send_datagram(key, b"", pair.now);
    pair.run();
    assert_eq!(pair.client.datagrams, [(2, Vec::new())]);
    pair.kit.mux.lanes_mut().push_datagram(0, 4, b"stray", 0);
    pair.kit.mux.lanes_mut().push_datagram(0, 7, b"stray", 0);
    pair.run();
    pair.client
        .mux
        .reset(pair.client.keys[&2], Code::Cancel, "done");
    pair.kit.mux.send_datagram(key, b"late", pair.now);
    pair.run();
    assert_eq!(pair.client.datagrams.len(), 1);
    assert_eq!(pair.client.seen.len(), before);
    assert_eq!((&pair.kit.fault, &pair.client.fault), (&None, &None));
}
