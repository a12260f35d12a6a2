//! A peer that only asks, and never reads, costs a bounded amount of memory.

use super::*;
use crate::limits::{
    FLOOD_EMPTY_DATA, FLOOD_OPEN_RESET, FLOOD_PING, FLOOD_WINDOW, LANE_QUEUE_MAX, LANE_QUEUE_OPENS,
    LANE_URGENT_MAX,
};
use crate::ws::{OpCode, push_frame};

type Frame<'a> = (FrameType, u32, &'a [u8]);

fn flood(pair: &mut Pair, count: usize, frame: Frame<'_>) {
    for _ in 0..count {
        pair.inject(&[frame]);
    }
    pair.run();
}

fn calmed(pair: &Pair) -> bool {
    pair.kit
        .fault
        .as_ref()
        .is_some_and(|fault| fault.code == Code::EnhanceYourCalm)
}

#[test]
fn every_flood_ends_the_session_and_nothing_below_its_burst_does() {
    let cases: [(u32, Frame<'_>); 3] = [
        (FLOOD_PING.burst, (FrameType::Ping, 0, &[7; 8])),
        (FLOOD_EMPTY_DATA.burst, (FrameType::Data, 2, b"")),
        (FLOOD_OPEN_RESET.burst, (FrameType::Reset, 2, &[0, 7])),
    ];
    for (burst, frame) in cases {
        let mut pair = Pair::new(Cut::Whole);
        pair.kit.open(Vec::new(), false, pair.now);
        pair.run();
        flood(&mut pair, burst as usize, frame);
        assert!(!calmed(&pair), "{:?}", frame.0);
        flood(&mut pair, 2, frame);
        assert!(calmed(&pair), "{:?}", frame.0);
    }
}

#[test]
fn windows_that_no_data_explains_are_a_flood() {
    let mut pair = Pair::new(Cut::Whole);
    let id = pair.kit.open(pattern(1, 60_000), false, pair.now);
    pair.client.takes = false;
    pair.run();
    for _ in 0..FLOOD_WINDOW.burst + 4 {
        pair.inject(&[(FrameType::Window, id, &1u32.to_be_bytes())]);
    }
    pair.run();
    assert!(!calmed(&pair), "{:?}", pair.kit.fault);
    flood(&mut pair, 1, (FrameType::Window, id, &1u32.to_be_bytes()));
    assert!(calmed(&pair));
}

#[test]
fn two_windows_for_every_data_are_welcome() {
    let mut pair = Pair::new(Cut::Whole);
    pair.client.takes = false;
    let id = pair.kit.open(Vec::new(), false, pair.now);
    for _ in 0..20_000u32 {
        pair.kit.source(id, vec![5], false);
        pair.run();
        let one = 1u32.to_be_bytes();
        pair.inject(&[(FrameType::Window, id, &one), (FrameType::Window, 0, &one)]);
        pair.run();
    }
    assert_eq!(pair.kit.fault, None);
}

#[test]
fn frames_on_streams_that_never_were_are_a_flood_in_the_end() {
    let cases: [(FrameType, &[u8]); 3] = [
        (FrameType::Eof, b""),
        (FrameType::Data, b"x"),
        (FrameType::StreamResponseHead, b"{}"),
    ];
    for (kind, payload) in cases {
        let mut pair = Pair::new(Cut::Whole);
        // The peer asks and does not read: what answers it must not pile up without end.
        pair.wire_holds = 0;
        flood(&mut pair, 3000, (kind, 1001, payload));
        assert!(calmed(&pair), "{kind}");
        assert!(pair.kit.mux.lanes().get(0).unwrap().waiting() < 256 * 1024);
    }
}

#[test]
fn session_frames_that_want_an_answer_are_a_flood_in_the_end() {
    let mut pair = Pair::new(Cut::Whole);
    flood(&mut pair, 1024, (FrameType::Unbind, 0, b"{\"bindId\":9}"));
    assert_eq!(pair.kit.fault, None, "as many as there may be bindings");
    flood(&mut pair, 4000, (FrameType::Unbind, 0, b"{\"bindId\":9}"));
    assert!(calmed(&pair));
}

#[test]
fn a_peer_that_pings_and_does_not_read_is_not_read_either() {
    let mut pair = Pair::new(Cut::Whole);
    pair.wire_holds = 0;
    let waiting = |pair: &Pair| pair.kit.mux.lanes().get(0).unwrap().waiting();
    let ping = |pair: &mut Pair| {
        let mut ping = Vec::new();
        push_frame(
            &mut ping,
            Role::Client,
            OpCode::Ping,
            &[1; 125],
            Some([1; 4]),
        );
        pair.client.wire[0].extend(ping);
        pair.step();
        pair.pass_time(Duration::from_secs(1));
    };
    while waiting(&pair) <= LANE_URGENT_MAX {
        ping(&mut pair);
    }
    let before = waiting(&pair);
    for _ in 0..20 {
        ping(&mut pair);
    }
    assert_eq!(waiting(&pair), before, "it was read on");
    // It reads again: reading goes on by a wake.
    pair.wire_holds = 64 * 1024;
    let read_again = (0..10_000).any(|_| {
        pair.client.wire[0].is_empty() || {
            pair.step();
            pair.kit.wire[0].clear();
            false
        }
    });
    assert!(read_again, "reading did not go on");
    pair.run();
    assert_eq!(pair.kit.fault, None);
}

#[test]
fn a_peer_that_asks_and_does_not_read_its_answers_is_not_read_either() {
    let mut lane = kit_channel();
    let mut answers = 0;
    while !lane.read_space().is_empty() {
        lane.push(FrameType::ReissueJoinTickets, 0, &[b'x'; 1400]);
        answers += 1400;
        assert!(answers <= LANE_QUEUE_MAX, "it is read on and on");
    }
    assert!(answers > LANE_QUEUE_OPENS, "what we began chokes nothing");
    let mut goes_on = false;
    while !goes_on {
        let count = lane.transmit().len().min(100_000);
        assert!(count > 0, "nobody says that reading goes on");
        goes_on = lane.transmitted(count);
    }
    assert!(!lane.read_space().is_empty());
}

#[test]
fn streams_above_the_cap_are_refused_on_both_sides() {
    let mut pair = Pair::new(Cut::Whole);
    let cap = pair.kit.mux.terms().max_streams;
    for _ in 0..cap {
        pair.kit.open(Vec::new(), false, Instant::ZERO);
    }
    assert!(pair.kit.mux.open(0, b"{}", pair.now).is_err());
    pair.run();
    for n in 0..2u32 {
        pair.inject(&[(FrameType::StreamOpen, 1 + 2 * n, b"{}")]);
    }
    pair.run();
    assert_eq!(pair.kit.count_left(FrameType::Reset), 2);
    assert_eq!(pair.kit.fault, None);
    assert_eq!(pair.kit.mux.streams().len(), cap);
}

#[test]
fn a_starved_session_does_not_remember_streams_that_are_gone() {
    let mut pair = Pair::new(Cut::Whole);
    pair.client.takes = false;
    for n in 0..4 {
        pair.kit.open(pattern(n, 256 * 1024), false, pair.now);
    }
    pair.run();
    for _ in 0..5000 {
        let id = pair.kit.open(vec![1; 10], false, pair.now);
        pair.kit.reset(id, Code::Cancel);
    }
    assert!(pair.kit.mux.sending.line.waiting().count() <= pair.kit.mux.streams().len());
}
